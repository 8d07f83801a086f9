"""What ``tvc inspect`` shows of an exported file."""

from __future__ import annotations

import click

from ._output import print_json, print_table


def show_exported(path: str, as_json: bool) -> None:
    """Print what a file says of itself; the model in it is not loaded."""
    from ..deploy import metadata_of

    metadata = metadata_of(path)
    if as_json:
        print_json(metadata)
        return
    shape = "×".join("any" if side is None else str(side) for side in metadata["input_shape"])
    layout = ", channels last" if metadata["channels_last"] else ""
    images, classes = metadata["preprocessing"], metadata["classes"]
    rows = [
        ("format", metadata["format"]),
        ("written by", f"torchvision-customizer {metadata['torchvision_customizer']}, torch {metadata['torch']}"),
        ("input", f"{shape}, {metadata['input_dtype']}{layout}"),
        ("images", "not said" if images is None else ", ".join(f"{key} {value}" for key, value in images.items())),
        ("classes", "not said" if classes is None else f"{len(classes)}: {', '.join(classes[:3])}, …"),
        ("ops", ", ".join(metadata["ops"]) or "none of tvc"),
    ]
    print_table(path, ("", ""), rows)
    if metadata["library"] is not None:
        from ..ops import native_status

        library = native_status().library_path or f".../{metadata['library']}.so"
        click.echo(f'A process that loads it needs its ops first: torch.ops.load_library("{library}")')
