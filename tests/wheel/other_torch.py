"""One wheel beside other releases of torch: other_torch.py WHEEL [TORCH,TORCHVISION ...]

Each release is installed from the registry, with all that it asks for, into an empty environment that is deleted afterwards (6
GB; torch's builds on PyPI are for CUDA, and are used without a device here). Tests run against the installed wheel. From torch
2.10 on, the native ops must be in use and pass their tests; before, the package must work on its references and `tvc doctor`
must say why. Rows of ``tests/results/other-torch.md`` are replaced release by release. A quarter of an hour each, on one core
that is free.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

from try_wheel import TRIAL

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "tests/results/other-torch.md"
RELEASES = ("2.5.1,0.20.1", "2.10.0,0.25.0", "2.15.0,0.29.2")
NATIVE_SINCE = (2, 10)
NEEDED_GIB = 12  # an environment, and what pip unpacks on the way

OP_TESTS = ("tests/ops",)
# Where there are no native ops: every op, every block, patches on several models, saved folders, recipes, fusing.
REFERENCE_TESTS = (
    "tests/ops",
    "tests/blocks/test_every_block.py",
    "tests/fusion/test_fuse.py",
    "tests/hybrid/test_hybrid_builder.py",
    "tests/hybrid/test_hybrid_plan.py",
    "tests/hybrid/test_saving.py",
    "tests/recipe/test_recipes.py",
    "tests/recipe/test_shipped.py",
)

HEAD = """# One wheel on other releases of torch

`python tests/wheel/other_torch.py dist/*.whl`: on the CPU, in environments that hold only the wheel, the release, and pytest.
Native: `tests/ops`. References: these, and the tests of blocks, fusing, patches, saving and recipes that the script lists.

| torch | torchvision | ops | doctor: CPU library | trial | tests | date | commit | wheel, Python |
|---|---|---|---|---|---|---|---|---|
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    print("$", *command, flush=True)
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)


def must(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done.stdout


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1].strip("= ")


def try_release(wheel: Path, torch: str, torchvision: str) -> tuple[str, bool]:
    """Installs, tries and tests one release; its row, and whether everything passed."""
    native = tuple(int(part) for part in torch.split(".")[:2]) >= NATIVE_SINCE
    start = time.monotonic()
    commit = run("git", "rev-parse", "--short", "HEAD", cwd=ROOT).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="other-torch-") as folder:
        place = Path(folder)
        free = shutil.disk_usage(place).free / 2**30
        if free < NEEDED_GIB:
            sys.exit(f"torch {torch} needs {NEEDED_GIB} GiB in {place.parent} for a while, and {free:.0f} are free")
        venv.create(place / "venv", with_pip=True)
        python = place / "venv/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--quiet", "install"]
        pins = (ROOT / "constraints.txt").read_text()
        (place / "pins.txt").write_text(re.sub(r"^(torch|torchvision)==.*\n", "", pins, flags=re.M))
        must(run(*pip, "-c", place / "pins.txt", f"torch=={torch}", f"torchvision=={torchvision}", cwd=place))
        must(run(*pip, "-c", place / "pins.txt", wheel, "pytest", "pytest-benchmark", "hypothesis", cwd=place))
        # The tests and what they read, without the sources of the package: what is imported is the wheel.
        for name in ("tests", "csrc", "recipes"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", place)

        report = json.loads(must(run(place / "venv/bin/tvc", "doctor", "--json", cwd=place)))
        found = report["versions"]["torch"].partition("+")[0], report["versions"]["torchvision"].partition("+")[0]
        if found != (torch, torchvision):
            sys.exit(f"asked for torch {torch} with torchvision {torchvision}, and pip installed {found[0]} with {found[1]}")
        library = report["native"]["CPU library"]
        loaded = not library.startswith("not loaded")
        trial = run(python, "-c", TRIAL, "native" if native else "reference", cwd=place)
        tests = run(
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not full and not alone"),
            *(OP_TESTS if native else REFERENCE_TESTS),
            cwd=place,
        )
    for done in (trial, tests):
        if done.returncode != 0:
            print(done.stdout[-20000:], done.stderr[-4000:])
    cuda = "with" if any("libtvc_ops_cuda" in name for name in zipfile.ZipFile(wheel).namelist()) else "without"
    cells = [
        torch,
        torchvision,
        "native" if loaded else "references",
        "loaded" if loaded else library,
        last_line(trial),
        last_line(tests),
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        commit,
        f"{wheel.name.split('-')[-1].removesuffix('.whl')} {cuda} CUDA, {platform.python_version()}",
    ]
    print(f"torch {torch}: {cells[5]}; {(time.monotonic() - start) / 60:.0f} minutes", flush=True)
    return f"| {' | '.join(cells)} |", trial.returncode == tests.returncode == 0 and loaded == native


def record(row: str) -> None:
    """Puts a row into the results, in place of the one of the same release."""
    rows = {}
    if RESULT.exists():
        rows = {line.split(" | ")[0]: line for line in RESULT.read_text().splitlines() if re.match(r"\| \d", line)}
    rows[row.split(" | ")[0]] = row
    order = sorted(rows, key=lambda key: [int(part) for part in key.strip("| ").split(".")])
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(HEAD + "".join(rows[key] + "\n" for key in order))


def main() -> int:
    if len(sys.argv) < 2 or not sys.argv[1].endswith(".whl"):
        sys.exit(__doc__)
    passed = True
    for release in sys.argv[2:] or RELEASES:
        torch, comma, torchvision = release.partition(",")
        if not comma:
            sys.exit(f"'{release}' is no release; write torch and torchvision as 2.10.0,0.25.0")
        row, good = try_release(Path(sys.argv[1]).resolve(), torch, torchvision)
        record(row)
        passed = passed and good
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
