"""What can be said of the CUDA kernels without a CUDA device: rules of their sources, and of the library where it was built."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import torchvision_customizer
from torchvision_customizer.ops import native_status

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted([*(CSRC / "cuda").glob("*.cu"), *(CSRC / "cuda").glob("*.cuh")])
OPS = sorted((CSRC / "cuda").glob("*.cu"))
LIBRARY = native_status().cuda_library_path  # the installed one; not beside the sources of an editable installation

FORBIDDEN = {
    r"\bcuda(Malloc|Free|HostAlloc)\w*": "memory comes from torch's allocator, or the op cannot be captured in a graph",
    r"\bcuda\w*Synchronize": "an op does not wait for the device",
    r"\batomic(Add|Sub|Exch|Max|Min|CAS)\b": "additions in the order of arrival are not deterministic",
    r"\b__(expf|logf|powf|sinf|cosf|tanhf|fdividef)\b": "fast intrinsics are not exact where a gate has to be 1",
    r"#include\s*<(ATen|c10|torch/(extension|all|torch|library)\.h)": "only the stable ABI is used",
    r"\bTORCH_CHECK\b": "not part of the stable ABI",
}


def unchecked_launches(text: str) -> list[str]:
    """Launches whose next statement does not ask for the error of the launch."""
    statements = [" ".join(part.split()) for part in text.split(";")]
    return [
        statement
        for statement, following in zip(statements, [*statements[1:], ""], strict=True)
        if "<<<" in statement and "cudaGetLastError()" not in following
    ]


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def implementations(text: str) -> set[str]:
    return set(re.findall(r'm\.impl\("(\w+)"', text))


def test_the_rule_for_launches_finds_one_that_is_not_checked() -> None:
    assert unchecked_launches("kernel<<<1, 2>>>(x); check(name, cudaGetLastError());") == []
    assert unchecked_launches("kernel<<<1, 2>>>(x); return;") == ["kernel<<<1, 2>>>(x)"]


def test_there_are_launches() -> None:
    assert sum(without_comments(path.read_text()).count("<<<") for path in SOURCES) > 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_launch_is_checked(path: Path) -> None:
    assert unchecked_launches(without_comments(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_keep_the_rules(path: Path) -> None:
    text = without_comments(path.read_text())
    found = {match.group(): why for pattern, why in FORBIDDEN.items() for match in re.finditer(pattern, text)}
    assert not found


@pytest.mark.parametrize("path", OPS, ids=lambda path: path.stem)
def test_an_op_has_the_same_name_in_every_room(path: Path) -> None:
    twin = CSRC / "cpu" / f"{path.stem}.cpp"
    assert twin.exists()
    assert (Path(torchvision_customizer.__file__).parent / "ops" / f"{path.stem}.py").exists()
    assert implementations(path.read_text()) == implementations(twin.read_text()) != set()


def _run(tool: str, *arguments: str) -> str:
    if LIBRARY is None:
        pytest.skip("libtvc_ops_cuda.so was not built (no nvcc)")
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (binutils) is not installed")
    return subprocess.run([tool, *arguments, str(LIBRARY)], check=True, capture_output=True, text=True).stdout


def test_the_library_needs_torch_and_no_cuda_runtime() -> None:
    entries = _run("readelf", "--dynamic", "--wide")
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", entries))
    assert {"libtorch_cpu.so", "libtorch_cuda.so"} <= needed
    assert not {name for name in needed if name.startswith(("libcudart", "libcuda.", "libc10", "libtorch.", "libtorch_python"))}
    assert "RPATH" not in entries and "RUNPATH" not in entries


def test_the_library_asks_torch_only_for_the_stable_abi() -> None:
    undefined = {line.split()[-1] for line in _run("nm", "--dynamic", "--undefined-only").splitlines()}
    of_torch = {name for name in undefined if "torch" in name or "c10" in name or name.startswith(("_ZN2at", "_ZNK2at"))}
    assert of_torch
    assert not {name for name in of_torch if not name.startswith(("aoti_torch_", "torch_"))}
