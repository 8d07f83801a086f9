"""ResNet-50 with squeeze-and-excitation in every residual block: unchanged, measured, and shipped.

Run it with ``make demo``, or ``python examples/demo.py``. What it makes lies in ``demo-output/`` afterwards.
"""

from __future__ import annotations

import copy
import socket
from collections import defaultdict
from pathlib import Path

import torch
from matplotlib import cbook
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from torchvision_customizer.bench import runs
from torchvision_customizer.bench.results import ModelCase
from torchvision_customizer.bench.suite import EAGER, FUSED, INFERENCE, SCRIPTED, UNPATCHED
from torchvision_customizer.deploy import export
from torchvision_customizer.errors import WeightsError
from torchvision_customizer.fusion import fuse
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, apply, plan

PATCHES = {"layer*": {"inject": "se"}}
WEIGHTS = "IMAGENET1K_V2"
OUTPUT = Path("demo-output")
DOWNLOAD_TIMEOUT = 10  # seconds without an answer
NAMES = {
    UNPATCHED: "unpatched",
    EAGER: "patched, plain PyTorch",
    FUSED: "patched, fused",
    INFERENCE: "fused, norms folded",
    SCRIPTED: "fused, frozen TorchScript",
}

console = Console(highlight=False)


def main() -> None:
    torch.manual_seed(0)
    OUTPUT.mkdir(exist_ok=True)

    step("A photograph, and ResNet-50 as torchvision gives it")
    original, pretrained = build_original()
    x, categories = photograph()
    logits = predict(original, x)
    show_predictions(logits, categories, pretrained)

    step("The same model with squeeze-and-excitation in every residual block")
    edits = plan(copy.deepcopy(original), PATCHES)  # checks everything, and changes nothing
    patched = apply(edits)  # cannot fail half-way
    show_changes(patched)
    patched_logits = predict(patched, x)
    assert torch.equal(logits, patched_logits), "a patch starts as the identity"
    console.print("Logits of the patched model: [bold green]equal to the bit[/] (torch.equal), until training moves them.")

    step("What the new blocks cost")
    compare(patched)

    step("A file that needs no Python")
    fuse(patched)
    report = export(patched, OUTPUT / "resnet50_se.pt", example_input=x, verify=True)
    console.print(report.summary())
    console.print(f"[bold green]Done.[/] Everything lies in {OUTPUT}/: {', '.join(sorted(p.name for p in OUTPUT.iterdir()))}")


def step(title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left")


def build_original() -> tuple[HybridModel, bool]:
    """ResNet-50 with pre-trained weights where they can be had, else with random ones."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        return HybridBuilder().from_torchvision("resnet50", weights=WEIGHTS), True
    except WeightsError as error:
        console.print(f"[yellow]This run is on random weights:[/] {error}")
        return HybridBuilder().from_torchvision("resnet50", weights=None), False
    finally:
        socket.setdefaulttimeout(timeout)


def photograph() -> tuple[Tensor, list[str]]:
    """Grace Hopper, whom matplotlib brings along, as the model wants to see her; and the names of ImageNet's classes."""
    # After torchvision_customizer, which makes torchvision importable next to a torch that it was not built for.
    from torchvision.models import get_weight

    weights = get_weight(f"ResNet50_Weights.{WEIGHTS}")
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        console.print(f"Photograph: Rear Admiral Grace Hopper, {image.width}×{image.height}")
        return weights.transforms()(image.convert("RGB")).unsqueeze(0), weights.meta["categories"]


def predict(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.eval()(x)
    return logits


def show_predictions(logits: Tensor, categories: list[str], pretrained: bool) -> None:
    top = logits.softmax(1).topk(3)
    found = ", ".join(
        f"{categories[index]} {share:.1%}" for share, index in zip(top.values[0], top.indices[0].tolist(), strict=True)
    )
    console.print(f"Predictions: {found}" + ("" if pretrained else "  [dim](by chance: the weights are random)[/]"))


def show_changes(model: HybridModel) -> None:
    """The report of the model, stage by stage; its full text goes into a file."""
    report = model.report
    (OUTPUT / "report.txt").write_text(f"{report}\n", encoding="utf-8")
    stages = defaultdict(list)
    for edit in report.edits:
        stages[edit.path.split(".")[0]].append(edit)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "new blocks", "where", "new parameters"):
        table.add_column(column, justify="right" if column.startswith("new") else "left", min_width=8)
    for stage, edits in stages.items():
        table.add_row(stage, str(len(edits)), f"{edits[0].block}, {edits[0].place}", f"{sum(e.parameters for e in edits):,}")
    console.print(table)
    console.print(*str(report).splitlines()[-3:], sep="\n")


def compare(model: HybridModel) -> None:
    """The patched model in plain PyTorch and fused, against the unpatched one; a quick look, with few rounds."""
    cases = [ModelCase("resnet50", ("layer*=inject:se",), batch, "fp32", "channels_last", False, 224) for batch in (1, 8)]
    with console.status("") as status:
        run = runs.run_models(model, cases, runs.Effort(quick=True, compiled=False), status.update)
    runs.save(run, OUTPUT, "benchmark", runs.title(run))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("batch", "variant", "ms", "images/s", "times unpatched"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for result in run.models:
        for variant in result.seconds:
            ratio = result.ratio(variant, UNPATCHED)
            table.add_row(
                str(result.case.batch),
                NAMES[variant],
                f"{result.median(variant) * 1e3:.1f}",
                f"{result.images_per_second(variant):.1f}",
                "" if variant == UNPATCHED else f"{ratio.median:.2f}  ({ratio.low:.2f} to {ratio.high:.2f})",
                style="bold" if variant == FUSED else None,
            )
    console.print(table)
    differences = [difference for result in run.models for difference in result.differences.values()]
    console.print(f"Gates are random here; logits differ from plain PyTorch by at most {max(differences):.0e} of the largest.")
    if run.is_disturbed:
        console.print(f"[yellow]Other work kept the processors {run.other_load:.0%} busy: these figures say little.[/]")
    console.print(f"Drawn in {OUTPUT}/benchmark.png; tvc benchmark measures for longer.")


if __name__ == "__main__":
    main()
