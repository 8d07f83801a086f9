"""``tvc completion``: the script by which a shell completes commands, options and names."""

from __future__ import annotations

import click

from ._output import json_option, print_json

_COMPLETES_BY = "_TVC_COMPLETE"  # click's own name for it


@click.command(
    help="Print the script by which SHELL completes commands, options, and names of backbones, blocks and recipes.",
    epilog="Put it where the shell looks for completions:\n\n"
    "\b\n"
    "tvc completion bash > ~/.local/share/bash-completion/completions/tvc\n"
    "tvc completion zsh > ~/.zfunc/_tvc    (and fpath+=~/.zfunc before compinit in ~/.zshrc)\n"
    "tvc completion fish > ~/.config/fish/completions/tvc.fish",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@json_option
def completion(shell: str, as_json: bool) -> None:
    from click.shell_completion import get_completion_class

    from . import main

    kind = get_completion_class(shell)
    assert kind is not None  # click has had the three since 8.0
    script = kind(main, {}, "tvc", _COMPLETES_BY).source()
    if as_json:
        print_json({"shell": shell, "script": script})
        return
    click.echo(script, nl=False)
