"""``tvc doctor``: who answers for each op, why, and what this installation is made of."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

import click

from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..ops import NativeStatus

_PACKAGES = ("torchvision-customizer", "torch", "torchvision", "timm", "pydantic", "click", "rich")


@click.command(
    short_help="Say who answers for each op, and why.",
    help="Say who answers for each op and why, and what this installation is made of.",
)
@json_option
@click.option(
    "--cmake-dir",
    "show_cmake_dir",
    is_flag=True,
    help="Print only the folder of the CMake package, for C++ programs: cmake -DTvcOps_DIR=$(tvc doctor --cmake-dir) …",
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, show_cmake_dir: bool) -> None:
    if show_cmake_dir:
        from .._cmake import cmake_dir

        folder = str(cmake_dir())
        if as_json:
            print_json({"cmake_dir": folder})
        else:
            click.echo(folder)
        return
    report = examine()
    if as_json:
        print_json(report)
    else:
        _print(report)
    ctx.exit(0 if report["problem"] is None else 1)


def examine() -> dict[str, Any]:
    """All that ``tvc doctor`` shows, as plain values; ``problem`` is None, or what keeps the ops from loading."""
    report: dict[str, Any] = {"problem": None, "versions": _versions(), "cuda": "", "native": {}, "ops": []}
    try:
        import torch

        from .. import ops
    except (ImportError, OSError, RuntimeError) as error:
        # Finding out why nothing works is this command's work, so it goes on where every other one stops.
        report["problem"] = str(error)
        return report
    report["cuda"] = _cuda(torch)
    report["native"] = _native(ops.native_status())
    report["ops"] = [
        {"op": answer.op, "device": answer.device, "answer": answer.answer, "reason": answer.reason}
        for answer in ops.who_answers()
    ]
    return report


def _versions() -> dict[str, str]:
    versions = {"python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _cuda(torch: Any) -> str:
    if not torch.version.cuda:
        return "this torch is a CPU build"
    if not torch.cuda.is_available():
        return f"torch is built for CUDA {torch.version.cuda}, and sees no device"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"CUDA {torch.version.cuda}: {names}"


def _native(status: NativeStatus) -> dict[str, str]:
    return {
        "CPU library": str(status.library_path) if status.cpu_loaded else f"not loaded: {status.cpu_reason}",
        "CUDA library": str(status.cuda_library_path) if status.cuda_loaded else f"not loaded: {status.cuda_reason}",
        "instruction set": status.instruction_set or "-",
        **{f"build: {name.replace('_', ' ')}": value or "-" for name, value in status.build.items()},
    }


def _print(report: dict[str, Any]) -> None:
    print_table("Versions", ("package", "version"), report["versions"].items())
    if report["problem"] is not None:
        click.echo(f"The ops do not load: {report['problem']}", err=True)
        return
    print_table("Native libraries", ("what", "found"), [("CUDA", report["cuda"]), *report["native"].items()])
    print_table("Who answers", ("op", "device", "answer", "why"), [tuple(op.values()) for op in report["ops"]])
