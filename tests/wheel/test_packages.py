"""What is installed: extras that messages name exist, and all that the tests need is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.M))


def names(requirements: list[str]) -> set[str]:
    found = {match[0] for line in requirements if (match := re.match(r"[\w-]+(?!.*\[)", line))}
    return found - {"torchvision-customizer"}


def test_the_extras_that_messages_name_exist() -> None:
    paths = [*(ROOT / "python").rglob("*.py"), *(ROOT / "examples").rglob("*.py"), ROOT / "README.md", ROOT / "pyproject.toml"]
    written = [group for path in paths for group in re.findall(r"torchvision-customizer\[([\w,]+)\]", path.read_text())]
    named = {extra for group in written for extra in group.split(",")}
    assert {"plot", "timm"} <= named <= EXTRAS.keys()


def test_what_is_required_is_pinned_and_installed_by_make() -> None:
    required = names(PROJECT["dependencies"]) | {name for extra in EXTRAS.values() for name in names(extra)}
    assert {name.lower() for name in required} - {name.lower() for name in PINS} == set()
    # The two commands of the Makefile, without their options.
    installed = re.search(r"install -c constraints\.txt torch\n(.*?)\ttouch", (ROOT / "Makefile").read_text(), flags=re.S)
    assert installed is not None
    packages = {"torch", *installed[1].replace("\\\n", " ").partition("constraints.txt")[2].split()}
    assert {name.lower() for name in required} == {name.lower() for name in packages}
    assert packages <= PINS | {"pyyaml"}
