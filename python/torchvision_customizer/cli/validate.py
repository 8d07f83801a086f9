"""``tvc validate``: whether a recipe describes a model."""

from __future__ import annotations

from typing import Any

import click

from ._model import changes_option, open_recipe, recipe_option
from ._output import json_option, print_json


@click.command(
    short_help="Check recipes.",
    help="Check recipes: every key, type and value, names of backbones, weights, targets, blocks and their parameters. All "
    "that is wrong is printed at once, with file, line and column. torch is not needed for it; --deep also builds the model, "
    "without memory for its parameters, and finds what depends on shapes.",
)
@click.argument("recipes", nargs=-1, metavar="[NAME|FILE]...")
@recipe_option
@changes_option
@click.option("--deep", is_flag=True, help="Also build the model.")
@click.option("--strict", is_flag=True, help="A warning is an error, too.")
@json_option
@click.pass_context
def validate(
    ctx: click.Context,
    recipes: tuple[str, ...],
    recipe: str | None,
    changes: tuple[str, ...],
    deep: bool,
    strict: bool,
    as_json: bool,
) -> None:
    names = [*recipes, *([recipe] if recipe is not None else [])]
    if not names:
        raise click.UsageError("expected the name or the file of a recipe")
    reports = [_report(name, changes, deep, strict) for name in names]
    if as_json:
        print_json(reports)
    for report in reports if not as_json else ():
        for warning in report["warnings"]:
            click.echo(f"Warning: {_line(warning)}", err=True)
        for problem in report["problems"]:
            click.echo(_line(problem), err=True)
        if report["valid"]:
            click.echo(f"{report['recipe']}: valid")
        else:
            count = len(report["problems"]) or len(report["warnings"])
            click.echo(f"{report['recipe']}: {count} problem{'s' if count > 1 else ''}", err=True)
    ctx.exit(0 if all(report["valid"] for report in reports) else 1)


def _report(name: str, changes: tuple[str, ...], deep: bool, strict: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from ..errors import Problem, RecipeError

    try:
        read = open_recipe(name, changes)
    except RecipeError as error:
        return {"recipe": name, "valid": False, "problems": [asdict(problem) for problem in error.problems], "warnings": []}
    problems = []
    if deep:
        from ..recipe.builder import try_recipe

        try:
            try_recipe(read)
        except (ValueError, TypeError, RuntimeError) as error:
            problems.append(asdict(Problem(None, "", str(error))))
    warnings = [asdict(warning) for warning in read.warnings]
    return {"recipe": name, "valid": not problems and not (strict and warnings), "problems": problems, "warnings": warnings}


def _line(problem: dict[str, str | None]) -> str:
    return ": ".join(part for part in (problem["place"], problem["path"], problem["message"]) if part)
