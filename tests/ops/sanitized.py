"""Builds the CPU kernels with sanitizers into an environment, and runs op tests there. ``make sanitize``: sanitized.py VENV."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Every shape, layout, type, option and schedule of the normal tier; not what only goes through torch's compilers and exporters.
SELECT = "float64 or in_place or schedule or special or wide or without_native or errors or opcheck"


def main(environment: Path) -> int:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    # The packages of the environment this runs in, but for its editable installation: a .pth within it is not read.
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib"))
    settings = ("build-dir=build/sanitize", "cmake.define.TVC_CUDA=OFF", "cmake.define.TVC_SANITIZE=ON")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
        "--no-build-isolation",
        "--no-deps",
    ]
    install += [f"--config-settings={setting}" for setting in settings]
    subprocess.run([*install, "--target", packages, "."], cwd=ROOT, check=True)

    # Their runtime must be there before python is, and the C++ library with it, so that throwing is seen. What python and torch
    # never free is not ours to find.
    preload = " ".join(_library(name) for name in ("libasan.so", "libstdc++.so.6"))
    sanitized = {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    # Nothing is captured: who is ended by a sanitizer cannot print it afterwards.
    pytest = [environment / "bin" / "python", "-m", "pytest", "-q", "-s", "-n", "2", "-p", "no:cacheprovider"]
    return subprocess.run([*pytest, "-k", SELECT, "tests/ops"], cwd=ROOT, env=os.environ | sanitized).returncode


def _library(name: str) -> str:
    command = [os.environ.get("CXX", "c++"), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
