"""What goes wrong with files: each is one sentence, nothing half-written stays, and what was there before does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from torchvision_customizer import ops
from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.deploy import FORMATS, export, load_exported, metadata_of, verify

native = pytest.mark.skipif(
    not ops.native_status().cpu_loaded, reason=f"a file with tvc ops needs libtvc_ops: {ops.native_status().cpu_reason}"
)
EXAMPLE = torch.zeros(1, 3, 16, 16)
# AOTInductor compiles for half a minute, and writes by the same few lines.
FORMATS_HERE = [pytest.param(name, marks=[pytest.mark.full] if name == "aoti" else []) for name in FORMATS]


def with_se() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), SEBlock(8, reduction=2), nn.ReLU())


@pytest.fixture(scope="module", params=FORMATS_HERE)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portable file of each format."""
    path = tmp_path_factory.mktemp("files") / f"{request.param}.pt2"
    export(with_se(), path, request.param, EXAMPLE, verify=False, fused=False)
    return path


def test_truncated(written: Path, tmp_path: Path) -> None:
    path = tmp_path / written.name
    path.write_bytes(written.read_bytes()[: written.stat().st_size // 2])
    for read in (metadata_of, load_exported, lambda file: verify(file, with_se(), example_input=EXAMPLE)):
        with pytest.raises(ValueError, match=r"is no exported model, or a damaged one"):
            read(path)


def test_newer_version(written: Path, tmp_path: Path) -> None:
    if not zipfile.is_zipfile(written):
        pytest.skip("this format is no archive; its own tests change its metadata")
    path = tmp_path / written.name
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("torchvision_customizer.json"):
                content = json.dumps({**json.loads(content), "file_version": 2, "new": "key"}).encode()
            new.writestr(name, content)
    for read in (metadata_of, load_exported, lambda file: verify(file, with_se(), example_input=EXAMPLE)):
        with pytest.raises(ValueError, match=r"is of file version 2, .* reads versions up to 1; update it with: pip install"):
            read(path)


@pytest.mark.parametrize("format", FORMATS_HERE)
def test_a_folder_that_may_not_be_written(format: str) -> None:
    with pytest.raises(OSError, match=r"export: cannot write /proc/model.pt2: "):
        export(with_se(), "/proc/model.pt2", format, EXAMPLE, verify=False, fused=False)


_ON_A_FULL_DISK = """
import sys, torch
from torch import nn
from pathlib import Path
from torchvision_customizer.deploy import export
folder = Path(sys.argv[1])
for format in sys.argv[2:]:
    path = folder / f"{format}.pt2"
    path.write_text("what was there")
    try:
        export(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 256, 3)), path, format, torch.zeros(1, 3, 16, 16), verify=False)
    except OSError as error:
        print(type(error).__name__, error)
    assert path.read_text() == "what was there"
    assert sorted(folder.iterdir()) == [path], list(folder.iterdir())
    path.unlink()
"""


def test_full_disk(tmp_path: Path) -> None:
    """A tmpfs of 64 KB, which only the process below sees."""
    mounted = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.run([*mounted, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a tmpfs of its own")
    formats = [name for name in FORMATS if name != "aoti"]
    done = subprocess.run(
        [*mounted, str(tmp_path), sys.executable, "-W", "ignore", "-c", _ON_A_FULL_DISK, str(tmp_path), *formats],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"OSError export: cannot write {tmp_path / name}.pt2: No space left on device" for name in formats
    ]


_LOAD = {
    "torchscript": "torch.jit.load(file)",
    "pt2": "torch.export.load(file)",
    "aoti": "torch._inductor.aoti_load_package(file)",
}
_WITHOUT_THE_OPS = {
    "torchscript": r"Unknown builtin op: tvc::",
    "pt2": r'the ops of tvc are in libtvc_ops; load it first: torch.ops.load_library\("\.\.\./libtvc_ops\.so"\)',
    "aoti": r"Could not find schema for tvc::squeeze_excite",
}


@native
@pytest.mark.parametrize("format", [pytest.param(name, marks=FORMATS_HERE[i].marks) for i, name in enumerate(_LOAD)])
def test_a_process_without_the_ops(format: str, tmp_path: Path) -> None:
    """What torch says there names the op; and, for an exported program, the line to add. The metadata do for every format."""
    import re

    path = tmp_path / "model.pt2"
    export(with_se(), path, format, EXAMPLE, verify=False)
    assert metadata_of(path)["library"] == "libtvc_ops"
    assert "tvc::squeeze_excite" in metadata_of(path)["ops"]
    program = f"import sys, torch; file = sys.argv[1]; {_LOAD[format]}"
    done = subprocess.run([sys.executable, "-I", "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(_WITHOUT_THE_OPS[format], done.stderr), done.stderr[-3000:]


@native
def test_our_own_loader_says_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the native library is not in use, the file is refused before torch sees it."""
    from torchvision_customizer.deploy import verification

    path = tmp_path / "model.pt"
    export(with_se(), path, "torchscript", EXAMPLE, verify=False)
    status = ops.NativeStatus(cpu_reason="TVC_DISABLE_NATIVE is set")
    monkeypatch.setattr(verification, "native_status", lambda: status)
    for read in (load_exported, lambda file: verify(file, with_se(), example_input=EXAMPLE)):
        with pytest.raises(
            RuntimeError, match=r"only in libtvc_ops, by torch.ops.load_library.* not in use here: TVC_DISABLE_NATIVE is set"
        ):
            read(path)
