"""``make test-all``: every test, and its summary with date and versions as ``tests/results/test-all.md``."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "test-all.md"
PACKAGES = ("torch", "torchvision", "numpy", "pytest")


def main() -> int:
    start = time.monotonic()
    # The marker expression of pyproject.toml leaves the long tests out; this one takes them in.
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "full or not full"], stdout=subprocess.PIPE, text=True, check=False
    )
    print(process.stdout)
    lines = process.stdout.rstrip().splitlines()
    skipped = [line for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR", "XFAIL"))]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False).stdout
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        "\n".join(
            [
                "# make test-all",
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
