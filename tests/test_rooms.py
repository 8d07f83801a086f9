"""One name in every room: whoever knows an op's name knows every file of it."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest

from torchvision_customizer import ops
from torchvision_customizer.bench.suite import SUITE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "torchvision_customizer"
OPS = sorted(name for name in ops.OPS if not name.startswith("_"))
# What stands beside ops in each room, and is none.
ROOMS = {
    "csrc/cpu": ("*.cpp", {"instruction_set"}),
    "csrc/cuda": ("*.cu", set()),
    "python/torchvision_customizer/ops": ("[!_]*.py", set()),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_file_for_every_op_and_no_other(room: str) -> None:
    pattern, others = ROOMS[room]
    assert {path.stem for path in (ROOT / room).glob(pattern)} - others == set(OPS) != set()


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_tests(op: str) -> None:
    assert (ROOT / "tests" / "ops" / f"test_{op}.py").exists()


def test_every_op_is_in_the_benchmark() -> None:
    assert {entry.op for entry in SUITE.values()} == set(OPS)


def test_every_schema_has_its_kernels_and_its_registration() -> None:
    schemas = set(re.findall(r'"(\w+)\(Tensor(?:\(a!\))? ', (ROOT / "csrc" / "schema.cpp").read_text()))
    assert schemas == set(ops.OPS)
    for room, pattern in (("cpu", "*.cpp"), ("cuda", "*.cu")):
        text = "".join(path.read_text() for path in (ROOT / "csrc" / room).glob(pattern))
        assert set(re.findall(r'm\.impl\("(\w+)"', text)) == schemas


@pytest.mark.parametrize("op", OPS)
def test_files_of_an_op_have_the_same_order(op: str) -> None:
    text = (PACKAGE / "ops" / f"{op}.py").read_text()
    order = ["def _check(", "def reference(", "def backward_reference(", "def _setup_context(", "def _backward("]
    order += ["def _flops(", "op.register(", f"def {op}("]
    places = [text.find(line) for line in order]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize("op", OPS)
def test_the_function_takes_what_the_schema_does(op: str) -> None:
    parameters = list(inspect.signature(getattr(ops, op)).parameters.values())
    schema = ops.OPS[op].overload._schema.arguments
    if f"_{op}_" in ops.OPS:
        last = parameters.pop()
        assert (last.name, last.default) == ("inplace", False)
        names = [argument.name for argument in ops.OPS[f"_{op}_"].overload._schema.arguments]
        assert names == [argument.name for argument in schema]
    assert [p.name for p in parameters] == [a.name for a in schema]
    for parameter, argument in zip(parameters, schema, strict=True):
        required = parameter.default is inspect.Parameter.empty
        assert required != argument.has_default_value()
        assert required or parameter.default == argument.default_value


@pytest.mark.parametrize("op", OPS)
def test_the_function_says_what_it_takes(op: str) -> None:
    function = getattr(ops, op)
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Source: https://"):
        assert section in text
    described = re.findall(r"^    (\w+): ", text[text.index("Args:") : text.index("Returns:")], re.M)
    assert described == list(inspect.signature(function).parameters)


@pytest.mark.skipif(not ops.native_status().cpu_loaded, reason="no native library")
def test_the_instruction_sets_of_cmake_are_built() -> None:
    built = ops.native_status().build["instruction_sets"].split()
    named = re.findall(r"list\(APPEND instruction_sets ([\w ]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert built[0] == "baseline" and set(built) <= {"baseline", *" ".join(named).split()}


def test_every_public_name_of_ops_is_described() -> None:
    for name in ops.__all__:
        thing = getattr(ops, name)
        assert isinstance(thing, dict) or inspect.getdoc(thing)


@pytest.mark.xdist_group("of this test")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process, which has all groups")
def test_groups_of_tests_stay_together(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 and pytest-xdist 3.8 did not, and said nothing: models were made in both processes."""
    assert request.node.nodeid.endswith("@of this test")
