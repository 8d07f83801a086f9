"""``tvc completion``: the script by which a shell completes commands, options and names."""

from __future__ import annotations

import click

from ._complete import BACKBONES, BLOCKS
from ._output import json_option, print_json

_COMPLETES_BY = "_TVC_COMPLETE"  # click's own name for it


@click.command(
    help="Print the script by which SHELL completes commands, options, and names of backbones and blocks.",
    epilog="Put it where the shell looks for completions:\n\n"
    "\b\n"
    "tvc completion bash > ~/.local/share/bash-completion/completions/tvc\n"
    "tvc completion zsh > ~/.zfunc/_tvc    (and fpath+=~/.zfunc before compinit in ~/.zshrc)\n"
    "tvc completion fish > ~/.config/fish/completions/tvc.fish",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.option(
    "--names/--no-names",
    default=True,
    help="With the names, for which torch is imported; without, for eval at a shell's start.",
)
@json_option
def completion(shell: str, names: bool, as_json: bool) -> None:
    from click.shell_completion import get_completion_class

    from . import main

    kind = get_completion_class(shell)
    assert kind is not None  # click has had the three since 8.0
    script = kind(main, {}, "tvc", _COMPLETES_BY).source()
    lines = script.splitlines(keepends=True)
    # Zsh reads what a file completes in its first line.
    start = 1 if lines[0].startswith("#compdef") else 0
    script = "".join([*lines[:start], *(_settings(shell) if names else ()), *lines[start:]])
    if as_json:
        print_json({"shell": shell, "script": script})
        return
    click.echo(script, nl=False)


def _settings(shell: str) -> list[str]:
    from .. import registry
    from ..hybrid.backbones import list_backbones

    found = {BACKBONES: list_backbones(), BLOCKS: registry.list()}
    setting = "set -gx {} '{}'\n" if shell == "fish" else "export {}='{}'\n"
    return [setting.format(variable, " ".join(names)) for variable, names in found.items()]
