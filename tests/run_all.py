"""``make test-all``: every test, and its summary with date and versions as ``tests/results/test-all.md``.

Arguments are handed on to pytest, and a part of the tests gets a summary of its own: ``python tests/run_all.py tests/hybrid``.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "numpy", "pytest")


def main() -> int:
    start = time.monotonic()
    parts = sys.argv[1:]
    result = RESULTS / ("-".join(["test-all", *(Path(part).stem for part in parts)]) + ".md")
    # The marker expression of pyproject.toml leaves the long tests out; this one takes them in, but not those of `make test`
    # that measure time, which want the machine for themselves.
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-m", "not alone", *parts]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(process.stdout)
    lines = process.stdout.rstrip().splitlines()
    skipped = [line for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR", "XFAIL"))]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False).stdout
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    RESULTS.mkdir(exist_ok=True)
    result.write_text(
        "\n".join(
            [
                "# make test-all" + (f", of it {' '.join(parts)}" if parts else ""),
                "",
                f"- date: {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, commit {commit.strip()}",
                f"- versions: Python {platform.python_version()}, {versions}",
                f"- time: {(time.monotonic() - start) / 60:.1f} minutes on {platform.machine()}",
                f"- result: {lines[-1].strip('= ')}",
                "",
                "```",
                *skipped,
                lines[-1],
                "```",
                "",
            ]
        )
    )
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
