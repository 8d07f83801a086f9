"""The command ``tvc``: one command a file, imported when it is asked for.

Every module of this package without a leading underscore is a command: ``list_blocks.py`` holds a click command of the same
name, which ``tvc`` offers as ``list-blocks``. Such a module imports nothing but click at its top, so that ``tvc --help``
answers at once; torch, pydantic and rich are imported by the commands that need them, when they run.

Exit codes: 0, 1 (it did not work), 2 (wrong usage), 130 (interrupted).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings
from typing import Any

import click

DISTRIBUTION = "torchvision-customizer"
_DEBUG = "torchvision_customizer.debug"


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        is_eager=True,
        help="Show the traceback of an error.",
    )


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(version(DISTRIBUTION))
        ctx.exit()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    click.echo(f"Warning: {message}", err=True)


class CommandGroup(click.Group):
    """The modules of this package as commands, and what all of them share: near names, errors, warnings, ``--debug``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        below = command.commands.values() if isinstance(command, click.Group) else ()
        for each in (command, *below):
            if not any(parameter.name == "debug" for parameter in each.params):
                each.params.append(_debug_option())
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}."
            raise click.UsageError(f"No such command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as stop:
                click.echo(str(stop) or "Interrupted.", err=True)
                ctx.exit(130)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click's own ways out
            except Exception as error:  # the program's edge: everything becomes one message
                if ctx.meta.get(_DEBUG):
                    raise
                raise click.ClickException(_message(error)) from error


def _message(error: Exception) -> str:
    """The sentence of an error that was written for the user; any other with its type, and the way to its place."""
    if isinstance(error, (ValueError, RuntimeError, OSError, ImportError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


@click.group(
    cls=CommandGroup,
    name="tvc",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Change pre-trained CNNs without touching their source, keep their weights, and ship them fast.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version.")
def main() -> None:
    pass


main.params.append(_debug_option())
