"""tvc inspect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import torchvision_customizer as tvc
from torchvision_customizer import registry
from torchvision_customizer.cli import main


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["inspect", *args])


def inspect(*args: str) -> Result:
    return run("--backbone", "resnet18", *args)


def test_patched() -> None:
    result = inspect("--patch", "layer4=inject:se")
    assert result.exit_code == 0, result.stderr
    assert "resnet18: 2 new modules" in result.stdout
    for line in ("0.se: se(channels=512", "1.se: se(channels=512", "Weights: random", "3×224×224"):
        assert line in result.stdout


def test_json_adds_up() -> None:
    result = inspect("--patch", "layer*=inject:se", "--num-classes", "10", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [edit["child_path"] for edit in report["edits"]] == [
        f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    *parts, total = report["parts"]
    assert total["part"] == "total"
    for counted in ("parameters", "flops"):
        for when in (0, 1):
            assert sum(part[counted][when] for part in parts) == total[counted][when]
    assert total["parameters"][0] == 11_689_512  # torchvision's own count, with 1000 classes
    assert report["head"]["classes"] == 10


def test_unpatched() -> None:
    result = inspect()
    assert result.exit_code == 0, result.stderr
    assert "nothing is changed" in result.stdout
    before, after = json.loads(inspect("--json").stdout)["parts"][-1]["parameters"]
    assert before == after == 11_689_512


def test_a_name_without_an_option() -> None:
    assert json.loads(run("resnet18", "--json").stdout) == json.loads(inspect("--json").stdout)


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "expected one of NAME, --recipe, --backbone and --block, got none"),
        (
            ["resnet18", "--backbone", "resnet34"],
            "expected one of NAME, --recipe, --backbone and --block, got 'resnet18' and 'resnet34'",
        ),
        (["resnte18"], "for NAME: 'resnte18' is no backbone, no block and no saved folder, did you mean 'resnet18'?"),
        (["cbamblock"], "for NAME: 'cbamblock' is no backbone, no block and no saved folder, did you mean 'CBAMBlock'?"),
        (["--backbone", "resnte18"], "Invalid value for --backbone: unknown backbone 'resnte18', did you mean 'resnet18'?"),
        (["--block", "sse"], "Invalid value for --block: unknown block 'sse', did you mean 'se'?"),
        (["se", "--tree"], "--tree is for a model, and se is a block"),
        (["se", "--patch", "x=wrap:se"], "--patch is for a model, and se is a block"),
        (
            ["./saved", "--num-classes", "3"],
            "--num-classes is for a backbone or recipe; the folder ./saved has weights and a head of its own",
        ),
    ],
)
def test_wrong_names(args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_saved(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    model = tvc.HybridBuilder().from_torchvision("resnet18", weights=None, patches={"layer4": {"inject": "se"}}, num_classes=10)
    tvc.save(model, folder)
    result = run(str(folder), "--patch", "layer3=wrap:se")
    assert result.exit_code == 0, result.stderr
    assert "resnet18: 3 new modules" in result.stdout
    assert f"Weights: those of {folder}" in result.stdout
    result = run(str(folder), "--patch", "layer3=wrap:see")
    assert result.exit_code == 2
    assert "Invalid value for --patch 1: wrap: unknown block 'see', did you mean 'se'" in result.stderr


def test_no_saved_model(tmp_path: Path) -> None:
    result = run(str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path} is not a saved model: it has no recipe.yaml\n"


def test_tree() -> None:
    result = inspect("--tree", "--patch", "layer4=inject:se", "--patch", "conv1=wrap:eca", "--num-classes", "10")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "├─ conv1 Conv2d 64×112×112 9,411 236.028",
        "│ └─ + after Sequential 64×112×112 3 0.000",
        "│ └─ + eca ECABlock 64×112×112 3 0.000",
        "│ ├─ 0 BasicBlock 512×7×7 3,706,400 359.727",
        "│ │ └─ + se SEBlock 512×7×7 33,312 0.066",
        "└─ + fc Linear 10 5,130 0.010",
        "BasicBlock layer2.0 layer3.0 residual, input, output, before|after: conv1 bn1 relu[0] relu[1] conv2 bn2 downsample",
    ):
        assert line in lines
    assert "fc1" not in result.stdout  # below the depth


def test_depth() -> None:
    result = inspect("--tree", "--depth", "1")
    assert "layer1" in result.stdout and "BasicBlock" not in result.stdout


def test_places_can_be_patched() -> None:
    """Every place that the tree names is one that a patch takes."""
    from torchvision_customizer.hybrid import plan
    from torchvision_customizer.hybrid.outline import outline

    model = tvc.HybridBuilder().from_torchvision("resnet18", weights=None)
    block = outline(model).children[5].children[0]
    assert block.path == "layer2.0"
    for at in block.places:
        (edit,) = plan(model, {"layer2.0": {"inject": {"type": "se", "at": at}}}).edits
        assert edit.child_path == "layer2.0.se"


def test_json_of_stages_and_tree() -> None:
    result = run("vgg11", "--json", "--tree")
    values = json.loads(result.stdout)
    assert [(stage["channels"], stage["stride"]) for stage in values["stages"]] == [
        (64, 1),
        (128, 2),
        (256, 4),
        (512, 8),
        (512, 16),
    ]
    assert values["stages"][0]["paths"] == ["features.0", "features.1"]
    tree = values["tree"]
    assert (tree["path"], tree["class"], tree["shape"], tree["parameters"]) == ("", "VGG", [1000], 132_863_336)
    assert tree["children"][0]["places"] == ["auto"] and tree["children"][2]["places"] == []
    assert "tree" not in json.loads(inspect("--json").stdout)


@pytest.mark.parametrize("name", ["picture.png", "picture.svg"])
def test_plot(tmp_path: Path, name: str) -> None:
    result = inspect("--patch", "layer4=inject:se", "--plot", str(tmp_path / name))
    assert result.exit_code == 0, result.stderr
    assert f"Picture: {tmp_path / name}" in result.stdout
    assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize("backbone, patches", [("resnet18", {"layer*": {"inject": "se"}}), ("mobilenet_v3_small", {})])
def test_what_a_plot_says_is_within_its_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, patches: dict[str, object]
) -> None:
    from matplotlib.figure import Figure

    from torchvision_customizer.hybrid.picture import draw

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw(tvc.HybridBuilder().from_torchvision(backbone, weights=None, patches=patches), tmp_path / "x.png")
    (figure,) = drawn
    figure.set_dpi(150)
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches]
    texts = [(text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text()]
    assert [text for text, _ in texts].count("se") == 8 * bool(patches)
    for text, place in texts[2:]:  # title and legend are in no box
        own = min((box for box in boxes if box.contains(place.x0, (place.y0 + place.y1) / 2)), key=lambda box: box.width)
        assert place.x1 < own.x1, text
    for (one, a), (other, b) in ((x, y) for i, x in enumerate(texts) for y in texts[:i]):
        assert not a.overlaps(b), f"{one} and {other}"


def test_plot_into_no_folder(tmp_path: Path) -> None:
    result = inspect("--plot", str(tmp_path / "nowhere" / "x.png"))
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, f"Error: draw: there is no folder {tmp_path / 'nowhere'}")


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = inspect("--plot", str(tmp_path / "x.png"))
    assert result.exit_code == 1
    assert "plots need matplotlib: pip install 'torchvision-customizer[plot]'" in result.stderr


def test_block() -> None:
    result = run("CBAMBlock")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "cbam: Attention over channels and then over positions (CBAM).",
        "category attention",
        "aliases cbam_block, cbam_attention, CBAMBlock",
        "paper https://arxiv.org/abs/1807.06521",
        "channels int required",
        "reduction int 16",
        "activation str 'relu'",
        "gives 2×32×5×7 for 2×32×5×7, and has 260 parameters",
    ):
        assert line in lines
    assert run("--block", "cbam").stdout == result.stdout


@pytest.mark.parametrize("name", registry.list())
def test_every_block_has_an_example_that_runs(name: str) -> None:
    """The line that is shown makes and runs the block, and gives what is said."""
    result = run(name, "--json")
    assert result.exit_code == 0, result.stderr
    info = json.loads(result.stdout)
    assert {"name", "category", "description", "aliases", "signature", "parameters", "paper", "tried"} <= info.keys()
    assert info["description"] and "`" not in info["description"]
    out = eval(info["tried"]["code"], {"torch": torch, "torchvision_customizer": tvc})
    outputs = out if isinstance(out, tuple) else (out,)
    assert [list(tensor.shape) for tensor in outputs] == info["tried"]["output_shapes"]


def test_a_name_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    names = registry.names
    monkeypatch.setattr(registry, "names", lambda category=None: {**names(category), "resnet18": "se"})
    result = run("resnet18")
    assert result.exit_code == 0
    assert "resnet18: nothing is changed" in result.stdout
    assert result.stderr == "resnet18 is a backbone and a block; this is the backbone, and --block resnet18 shows the block.\n"
