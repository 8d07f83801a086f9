"""What mkdocs asks while it builds the site: pages made from the library itself, and the drawings and tables within others.

A page that is written by hand has ``<!-- name: arguments -->`` where something is put in; ``_INSERTS`` has the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import _drawings
import _pages
import _results
from mkdocs.structure.files import File, Files

_INSERTS: dict[str, Callable[[str], str]] = {
    "structure": _drawings.structure,
    "steps": _drawings.steps,
    "families": _pages.families,
    "places": _pages.places,
    "shipped recipes": _pages.shipped_recipes,
    "verdicts": _results.verdicts,
    "plot": _results.plot,
    "machine": _results.machine,
    "ops": _results.ops,
}


def on_files(files: Files, config: Any) -> Files:
    for name, page in _pages.PAGES.items():
        files.append(File.generated(config, name, content=page()))
    files.append(File.generated(config, "results.md", content=_results.page()))
    for name, path in _results.plots().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, picture in _drawings.of_models().items():
        files.append(File.generated(config, name, content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return fill(markdown)


def fill(markdown: str) -> str:
    """The text of a page with everything put in.

    Raises:
        KeyError: there is no insert of a name.
    """
    return re.sub(r"^<!-- ([a-z ]+): (.*) -->$", _insert, markdown, flags=re.MULTILINE)


def _insert(found: re.Match[str]) -> str:
    name, argument = found.groups()
    return found[0] if name == "skip" else _INSERTS[name](argument)
