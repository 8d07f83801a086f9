"""Audits a wheel, installs it into an empty environment, and uses it there. Run by ``make wheel``: try_wheel.py WHEEL."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

# What our libraries may ask the loader for: torch, and what every manylinux system has. An OpenMP runtime is not among it: a
# second one in a process slows torch down, or ends it.
ALLOWED = ("libtorch_cpu.so", "libtorch_cuda.so", "libstdc++.so.", "libgcc_s.so.", "libm.so.", "libc.so.", "ld-linux-")
ALLOWED += ("libpthread.so.", "libdl.so.", "librt.so.")  # parts of libc until glibc 2.34; the static CUDA runtime uses them

# Argument: "native" where the libraries must be loaded, "reference" where they must not be.
TRIAL = """
import sys
import warnings

import torch

warnings.filterwarnings("ignore", message="torchvision's library does not fit")
import torchvision_customizer as tvc

assert tvc.ops.native_status().cpu_loaded == (sys.argv[1] == "native"), tvc.ops.native_status()
from torchvision_customizer._torchvision import models

torch.manual_seed(0)
plain = models.resnet18().eval()
model = models.resnet18().eval()
model.load_state_dict(plain.state_dict())
tvc.apply(tvc.plan(model, {"layer*": {"inject": "se"}}))
assert len(tvc.fuse(model).fused) == 8
x = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    assert torch.equal(plain(x), model(x))
tvc.export(model, "model.pt", example_input=x, fused=sys.argv[1] == "native")
tvc.load(tvc.save(tvc.build_recipe("mnist_net"), "mnist"))
print("patched, fused, exported and verified")
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def problems(library: Path) -> list[str]:
    """What keeps a shared library from running on other machines: what it needs, and where it would look for it."""
    with library.open("rb") as file:
        tags = list(ELFFile(file).get_section_by_name(".dynamic").iter_tags())
    found = [f"needs {tag.needed}" for tag in tags if tag.entry.d_tag == "DT_NEEDED" and not tag.needed.startswith(ALLOWED)]
    found += [f"searches {tag.rpath}" for tag in tags if tag.entry.d_tag == "DT_RPATH"]
    found += [f"searches {tag.runpath}" for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
    return found


def audit(wheel: Path, unpacked: Path) -> None:
    """Says what is in a wheel, and stops where it would not run elsewhere; leaves its files in ``unpacked``."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    libraries = sorted(path for path in unpacked.rglob("*") if ".so" in path.suffixes)
    names = [str(path.relative_to(unpacked)) for path in libraries]
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, {', '.join(names)}")
    if "-manylinux_" not in wheel.name:
        sys.exit(f"{wheel.name} has no manylinux tag; `make wheel` gives it one")
    ours = ("torchvision_customizer/libtvc_ops", "torchvision_customizer/_native.")
    found = [f"{name} is bundled" for name in names if not name.startswith(ours)]
    found += [f"{name} {problem}" for name, path in zip(names, libraries, strict=True) for problem in problems(path)]
    if found:
        sys.exit(f"{wheel.name}: {'; '.join(found)}")
    for path in libraries:
        if path.name.startswith("libtvc_ops"):
            run(BIN / "torch-abi-audit", "--check", "torch", path)


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        audit(wheel, place / "unpacked")
        venv.create(place / "empty", with_pip=True)
        python = place / "empty/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", ROOT / "constraints.txt"]
        run(*pip, "torch")  # alone: a torch that is found locally is not given up for a newer one
        run(*pip, wheel)
        run(place / "empty/bin/tvc", "doctor", cwd=place)
        run(place / "empty/bin/tvc", "validate", "se_resnet50", cwd=place)
        run(python, "-c", TRIAL, "native", cwd=place)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
