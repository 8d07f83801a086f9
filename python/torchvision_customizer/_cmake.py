"""Where the CMake package for C++ programs is: ``find_package(TvcOps)``, and the source of ``tvc-run``."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def cmake_dir() -> Path:
    """The folder for ``-DTvcOps_DIR=…``; its subfolder ``runner`` is the CMake project of ``tvc-run``.

    It lies beside the native libraries: in an editable installation they are in site-packages, not beside the Python files.

    Raises:
        RuntimeError: there are no native libraries, or the installation is damaged.
    """
    native = importlib.util.find_spec("torchvision_customizer._native")
    if native is None or native.origin is None:
        raise RuntimeError(
            "there is no CMake package: this is a pure-Python installation (built with TVC_NATIVE=0), without the ops that a "
            "C++ program would link"
        )
    folder = Path(native.origin).parent / "cmake"
    if not (folder / "TvcOpsConfig.cmake").is_file():
        raise RuntimeError(f"there is no CMake package in {folder}: install torchvision-customizer again")
    return folder
