"""Audits a wheel, installs it into an empty environment, and uses it there. Run by ``make wheel``: try_wheel.py WHEEL."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

TRIAL = """
import warnings

import torch

warnings.filterwarnings("ignore", message="torchvision's library does not fit")
import torchvision_customizer as tvc

assert tvc.ops.native_status().cpu_loaded, tvc.ops.native_status()
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
tvc.export(model, "model.pt", example_input=x)
tvc.load(tvc.save(tvc.build_recipe("mnist_net"), "mnist"))
print("patched, fused, exported and verified")
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def main(wheel: Path) -> None:
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, {', '.join(libraries)}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        zipfile.ZipFile(wheel).extractall(place / "unpacked")
        for library in libraries:
            if "libtvc_ops" in library:
                run(ROOT / ".venv/bin/torch-abi-audit", "--check", "torch", place / "unpacked" / library)
        venv.create(place / "empty", with_pip=True)
        python = place / "empty/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", ROOT / "constraints.txt"]
        run(*pip, "torch")  # alone: a torch that is found locally is not given up for a newer one
        run(*pip, wheel)
        run(place / "empty/bin/tvc", "doctor", cwd=place)
        run(place / "empty/bin/tvc", "validate", "se_resnet50", cwd=place)
        run(python, "-c", TRIAL, cwd=place)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
