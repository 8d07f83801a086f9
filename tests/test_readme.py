"""The README's numbers are those of the results, and the demo knows all that is measured. Its code runs in tests/docs."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from torchvision_customizer.bench.suite import COMPILED, MODEL_VARIANTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["amd-epyc-2-cores/model", "amd-epyc-2-cores/library-bf16"])
def test_the_numbers_are_those_of_the_results(name: str) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import _results

    assert _results.summary(name) in README
    assert _results.date(name) in README and f"benchmarks/results/{name}.md" in README


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "recipes" / "README.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_demo_names_every_variant() -> None:
    """`make demo` takes too long for a test; that it did not know a new variant was found by hand."""
    path = ROOT / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    assert {*MODEL_VARIANTS} - {COMPILED} == {*demo.NAMES}
