"""Tables and plots of ``benchmarks/results``, for the pages: every number comes from a file there, and the page says which."""

from __future__ import annotations

import re
from pathlib import Path

import _pages

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def _text(name: str) -> str:
    return (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def _section(name: str, title: str) -> str:
    """A section of a result's page: its text without the heading."""
    found = re.search(rf"^### {title}\n(.*?)(?=^### |\Z)", _text(name), re.MULTILINE | re.DOTALL)
    assert found, f"{name}.md has no section '{title}'"
    return re.sub(r"^!\[.*\n", "", found[1], flags=re.MULTILINE).strip()


def verdicts(name: str) -> str:
    """What was asked in one result, and what was found, with the file."""
    return f"{_section(name, 'What is asked')}\n\n*From `benchmarks/results/{name}.md`, {date(name)}.*"


def plot(name: str) -> str:
    title = _text(name).partition("\n")[0].lstrip("# ")
    return f"![{title}](results/{name}.png)\n\n*{title}. From `benchmarks/results/{name}.json`, {date(name)}.*"


def machine(name: str) -> str:
    return _section(name, "Measured on").partition("\n\n")[0]


def ops(name: str) -> str:
    """The verdicts of the ops, in short: how many bounds of each op are held."""
    counts: dict[str, list[int]] = {}
    for line in _section(name, "What is asked").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[-1] in ("held", "MISSED"):
            op = re.split(r"[ ,]", cells[0])[0]
            counts.setdefault(op, [0, 0])[cells[-1] == "held"] += 1
    rows = [(f"`{op}`", str(held), str(held + missed)) for op, (missed, held) in sorted(counts.items())]
    return _pages.table(("op", "bounds held", "of"), rows) + f"\n\n*From `benchmarks/results/{name}.md`, {date(name)}.*"


def date(name: str) -> str:
    found = re.search(r"^\| date \| (.*?) \|$", _text(name), re.MULTILINE)
    assert found, f"{name}.md has no date"
    return found[1]


def summary(name: str) -> str:
    """How long each variant of a model takes, in times of the first one; what the README shows."""
    rows: dict[str, dict[str, str]] = {}
    for line in _section(name, "Models(?: of libraries)?").splitlines()[2:]:
        if not line.startswith("|"):
            continue
        model, variant, _, _, ratio, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        rows.setdefault(model, {})[variant] = ratio
    variants = [variant for variant, ratio in next(iter(rows.values())).items() if ratio and variant in _VARIANTS]
    head = ("", *(_VARIANTS[variant] for variant in variants))
    return _pages.table(head, [(model, *(ratios[variant] for variant in variants)) for model, ratios in rows.items()])


_VARIANTS = {
    "eager": "plain PyTorch",
    "fused": "`fuse`",
    "inference": "`fuse(inference=True)`",
    "torchscript": "exported",
}


def plots() -> dict[str, Path]:
    return {f"results/{path.relative_to(RESULTS)}": path for path in sorted(RESULTS.glob("*/*.png"))}


def page() -> str:
    """Every result: what was asked, the plot, the machine, all numbers."""
    parts = [
        "# Measurements",
        "Every file of `benchmarks/results`, as `tvc benchmark` wrote it. [What the ops do](ops.md) says how it is measured.",
    ]
    for path in sorted(RESULTS.glob("*/*.md")):
        folder = path.parent.name
        title, _, rest = path.read_text(encoding="utf-8").partition("\n")
        rest = re.sub(r"\]\(([\w.-]+\.png)\)", rf"](results/{folder}/\1)", rest).replace("\n### ", "\n#### ")
        verdicts, _, numbers = rest.partition("\n#### Measured on")
        body = "\n".join(f"    {line}" if line else "" for line in f"#### Measured on{numbers}".splitlines())
        name = title.lstrip("# ")
        parts.append(
            "\n\n".join((f"## {name[0].upper()}{name[1:]}", f"`benchmarks/results/{folder}/{path.name}`", verdicts.strip()))
        )
        parts.append(f'??? note "The machine, and every number"\n\n{body}')
    return "\n\n".join(parts) + "\n"
