"""A piece as a table."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from .measure import DoesNotRun, output_shape
from .piece import Piece, title_of


def explain(piece: Piece, input_shape: tuple[int, int, int] | None) -> str:
    """The text of :meth:`Piece.explain`."""
    rows = piece._rows()
    shape = tuple(input_shape or getattr(piece, "input_shape", None) or (piece.in_channels or 3, 224, 224))
    outputs = {} if piece.is_open() else _outputs(piece, rows, shape)
    table = [("part", "", "channels", "stride", "parameters")]
    for name, module in rows:
        output = outputs.get(name)
        channels = output[1] if output else getattr(module, "out_channels", None)
        stride = f"{max(1, round(shape[1] / output[2]))}" if output and len(output) == 4 else "-"
        count = sum(parameter.numel() for parameter in module.parameters())
        is_open = isinstance(module, Piece) and module.is_open()
        parameters = "not known yet" if is_open else f"{count:,}"
        table.append((name, title_of(module), "-" if channels is None else str(channels), stride, parameters))
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = [
        f"{type(piece).__name__}: {piece.count_parameters():,} parameters, {piece.count_parameters(True):,} of them trained"
    ]
    for name, title, *numbers in table:
        cells = [name.ljust(widths[0]), title.ljust(widths[1])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _outputs(piece: Piece, rows: list[tuple[str, nn.Module]], shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = tuple(output.shape)

    try:
        output_shape(piece, shape, {name: partial(note, name) for name, _ in rows})
    except DoesNotRun as error:
        raise ValueError(f"explain: the model does not take images of shape {shape}, give input_shape: {error}") from error
    return found
