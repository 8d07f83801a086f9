"""Every format, fused and portable, of ten models: the file runs in a fresh process, and its numbers are eager's.

``python tests/deploy/test_matrix.py [FORMAT…]`` writes the whole of it as a table into ``tests/results/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torchvision_customizer import ops
from torchvision_customizer.deploy import FORMATS, export
from torchvision_customizer.deploy.limits import why_not

sys.path.insert(0, str(Path(__file__).parent))
from models import MODELS, make

LIMIT = 1e-4
CELLS = [(model, format, fused) for model in MODELS for format in FORMATS for fused in (True, False)]
# Each model once, each format and mode at least once; AOTInductor's compiler takes longest, so it has the two smallest.
DIAGONAL = {
    ("resnet50_se", "torchscript", True),
    ("efficientnet_b0_fused", "pt2", False),
    ("mobilenet_v3_large", "onnx", False),
    ("convnext_tiny_drop_path", "torchscript", True),
    ("swin_t_eca", "pt2", True),
    ("vgg16_bn_cbam", "torchscript", False),
    ("regnet_y_400mf", "onnx", True),
    ("densenet121_se", "torchscript", True),
    ("recipe", "aoti", False),
    ("composer_gem", "aoti", True),
}


def _marks(cell: tuple[str, str, bool]) -> list[pytest.MarkDecorator]:
    marks = [] if cell in DIAGONAL else [pytest.mark.full]
    if cell[2] and not ops.native_status().cpu_loaded:
        marks.append(pytest.mark.skip(reason=f"a fused file needs libtvc_ops: {ops.native_status().cpu_reason}"))
    return marks


def _id(cell: tuple[str, str, bool]) -> str:
    return f"{cell[0]}-{cell[1]}-{'fused' if cell[2] else 'portable'}"


@pytest.mark.parametrize("name, format, fused", [pytest.param(*cell, marks=_marks(cell), id=_id(cell)) for cell in CELLS])
def test_cell(name: str, format: str, fused: bool, tmp_path: Path) -> None:
    model, example = make(name)
    path = tmp_path / "model.pt2"
    reason = why_not(model, format, fused)
    if reason is not None:
        with pytest.raises(RuntimeError, match="export: "):
            export(model, path, format, example, fused=fused)
        return
    report = export(model, path, format, example, fused=fused)
    assert report.verification is not None
    assert len({c.input_shape[0] for c in report.verification.comparisons}) == 3
    assert report.verification.largest_difference <= LIMIT
    if not fused:
        assert report.ops == ()
    elif format != "onnx":
        assert report.ops, "the model has ops, and the fused file does not call them"


def test_diagonal_has_every_model_format_and_mode() -> None:
    assert {model for model, _, _ in DIAGONAL} == set(MODELS)
    assert {(format, fused) for _, format, fused in DIAGONAL} >= {
        (format, fused) for format in FORMATS for fused in (True, False)
    }


def main() -> None:
    """Write the table of the formats named on the command line, or of all."""
    import datetime
    import platform
    import tempfile

    import torch

    formats = sys.argv[1:] or list(FORMATS)
    rows = []
    for name in MODELS:
        model, example = make(name)
        row = [name]
        for format in formats:
            for fused in (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.pt2"
                    row.append(why_not(model, format, fused) or _difference(model, path, format, example, fused))
                print(name, format, "fused" if fused else "portable", row[-1], flush=True)
        rows.append(row)
    columns = ["model", *(f"{format}, {mode}" for format in formats for mode in ("fused", "portable"))]
    lines = [
        "# Every format, fused and portable",
        "",
        "Largest absolute difference from eager in a fresh process, on noise and photographs in batches of 1, 2 and 5;",
        f"{LIMIT:g} is allowed. Models have random weights and small inputs (tests/deploy/models.py).",
        "",
        f"- date: {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        f"- versions: Python {platform.python_version()}, torch {torch.__version__}, on {platform.machine()}",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    result = Path(__file__).parents[1] / "results" / "export-matrix.md"
    result.write_text("\n".join(lines), encoding="utf-8")


def _difference(model: object, path: Path, format: str, example: object, fused: bool) -> str:
    report = export(model, path, format, example, fused=fused)  # type: ignore[arg-type]
    assert report.verification is not None
    found = report.verification.largest_difference
    assert found <= LIMIT, f"{path}: {found}"
    return f"{found:.1e}"


if __name__ == "__main__":
    main()
