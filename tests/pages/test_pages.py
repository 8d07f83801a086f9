"""Pages of models: what is in them, against the models themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from page_models import NAMED, small, values_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import torchvision_customizer as tvc
from torchvision_customizer.cli import main
from torchvision_customizer.hybrid.places import graph_as_it_runs
from torchvision_customizer.pages.contents import model_contents
from torchvision_customizer.pages.flow import INPUT, OUTPUT, flow
from torchvision_customizer.pages.timing import module_seconds

MB = 1024**2


def check_sums(model: nn.Module, file: Path) -> None:
    """Every figure of a page is the model's own, and the parts of each module add up to it."""
    assert file.stat().st_size < 2 * MB
    (found,) = values_of(file)["models"]
    modules = found["modules"]
    assert [module["path"] for module in modules] == [path for path, _ in model.named_modules()]
    for module in modules:
        own = model.get_submodule(module["path"])
        assert module["parameters"] == sum(p.numel() for p in own.parameters())
        direct = sum(p.numel() for p in own.parameters(recurse=False))
        assert module["parameters"] == direct + sum(modules[child]["parameters"] for child in module["children"])
        assert module["flops"] >= sum(modules[child]["flops"] for child in module["children"])
    # For real, in place of fake tensors.
    x = torch.randn(1, *found["input_shape"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    counts = {name.removeprefix(type(model).__name__).removeprefix("."): counts for name, counts in counter.flop_counts.items()}
    for module in modules[1:]:
        expected = sum(counts.get(module["path"], {}).values())
        if isinstance(model.get_submodule(module["path"]), nn.ModuleList):  # never run itself, it has what is in it
            expected = sum(modules[child]["flops"] for child in module["children"])
        assert module["flops"] == expected, module["path"]
    assert modules[0]["flops"] == found["flops"] == counter.get_total_flops()
    assert found["parameters"] == modules[0]["parameters"] == sum(p.numel() for p in model.parameters())
    parts = found["parts"]
    assert sum(part["parameters"] for part in parts) == found["parameters"]
    assert sum(part["flops"] for part in parts) == found["flops"]


def test_sums_of_a_small_model(tmp_path: Path) -> None:
    model = small()
    check_sums(model, tvc.model_page(model, tmp_path / "page.html"))


@pytest.mark.full
@pytest.mark.parametrize("name", NAMED)
def test_sums(tmp_path: Path, name: str) -> None:
    model = NAMED[name]()
    check_sums(model, tvc.model_page(model, tmp_path / "page.html"))


def test_what_a_page_says_of_a_patched_model() -> None:
    model = small()
    found = model_contents(model)
    assert found["before"] == {"parameters": model.report.parameters_before, "flops": model.report.flops_before}
    assert yaml.safe_load(found["recipe"]) == model.recipe
    assert found["edits"] == model.modifications
    marked = {module["path"]: module["block"] for module in found["modules"] if module["mark"]}
    assert marked["layer3.0.se"] == "se" and marked["layer3.0.se.fc1"] is None and marked["fc"] == "fc"
    assert len(marked) == 4 * 3 + 1
    assert [part["title"] for part in found["parts"]] == ["stem", "stage 0", "stage 1", "stage 2", "stage 3", "head"]


def test_the_recipe_of_a_composed_model_makes_it_anew() -> None:
    model = NAMED["composed"]()
    found = model_contents(model)
    assert not isinstance(model, tvc.HybridModel)  # it is looked at, and not extended
    again = tvc.build_recipe(yaml.safe_load(found["recipe"]))
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in model.parameters()]


def test_any_module() -> None:
    """A model without stages that this package has not made."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    found = model_contents(model, (3, 4, 4))
    assert (found["name"], found["recipe"], found["before"], found["parts"]) == ("Sequential", None, None, [])
    assert [module["shape"] for module in found["modules"]] == [[5], [48], [5]]


class TestFlow:
    def edges(self, model: nn.Module, path: str) -> set[tuple[str, str]]:
        (found,) = [module["flow"] for module in model_contents(model)["modules"] if module["path"] == path]
        names = [node.get("module", node.get("op")) for node in found["nodes"]]
        names += ["out", "in"]  # at OUTPUT and INPUT, which count from the end
        return {(names[start], names[end]) for start, end in found["edges"]}

    def test_a_patched_block(self) -> None:
        assert self.edges(small(), "layer3.0") == {
            ("in", "conv1"),
            ("conv1", "bn1"),
            ("bn1", "relu"),
            ("relu", "conv2"),
            ("conv2", "bn2"),
            ("bn2", "se"),
            ("se", "+"),
            ("in", "downsample"),
            ("downsample", "+"),
            ("+", "relu"),
            ("relu", "out"),
        }

    def test_a_module_that_is_followed(self) -> None:
        model = tvc.HybridBuilder().from_torchvision("resnet18", weights=None, patches={"conv1": {"wrap": "eca"}})
        assert self.edges(model, "conv1") == {("in", "Conv2d"), ("Conv2d", "after"), ("after", "out")}

    def test_parameters_that_are_used_without_a_call(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)
                self.scale = nn.Parameter(torch.ones(4))
                self.register_buffer("table", torch.ones(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                batch, width = x.shape
                y = torch.nn.functional.linear(x, self.linear.weight).view(batch, width) + self.table
                return x + y * self.scale

        block = Block()
        found = flow(block, graph_as_it_runs(block))
        assert found is not None
        names = [node.get("module", node.get("op")) for node in found["nodes"]]
        assert names == ["linear", "linear", "view", "+", "scale", "×", "+"]
        edges = {(-9 if a == INPUT else a, -9 if b == OUTPUT else b) for a, b in found["edges"]}
        assert edges == {(-9, 1), (0, 1), (1, 2), (2, 3), (3, 5), (4, 5), (-9, 6), (5, 6), (6, -9)}

    def test_what_cannot_be_traced(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Identity(), nn.Identity()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.a(x) if x.sum() > 0 else self.b(x)

        assert graph_as_it_runs(Block()) is None and flow(Block(), None) is None


class TestTime:
    def test_of_each_module(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(32, 64, 3)), nn.BatchNorm2d(64))
        called: list[int] = []
        model[0].register_forward_hook(lambda *_: called.append(1))
        model[2].eval()
        statistics = model[2].running_mean.clone()
        found = module_seconds(model, (3, 40, 40), runs=3)
        assert set(found) == {path for path, _ in model.named_modules()}
        assert all(seconds > 0 for seconds in found.values())
        # In each run the whole takes longer than each part, and so it does in the median; their sum may be of different runs.
        assert found[""] > 0.5 * (found["0"] + found["1.1"]) and found["1"] > 0.5 * found["1.1"]
        assert [module.training for module in model] == [True, True, False] and not called
        assert torch.equal(model[2].running_mean, statistics) and len(model[0]._forward_hooks) == 1

    def test_in_a_page(self, tmp_path: Path) -> None:
        file = tvc.model_page(nn.Sequential(nn.Linear(4, 4)), tmp_path / "x.html", input_shape=(4,), time=True, runs=2)
        (found,) = values_of(file)["models"]
        assert found["timed"]["runs"] == 2 and found["modules"][1]["seconds"] > 0

    def test_refused(self) -> None:
        with pytest.raises(ValueError, match="runs must be at least 1, got 0"):
            module_seconds(nn.Linear(3, 3), (3,), runs=0)
        with pytest.raises(ValueError, match="this Linear is on meta"):
            module_seconds(nn.Linear(3, 3, device="meta"), (3,))


def test_names_cannot_end_the_data(tmp_path: Path) -> None:
    name = "</script><script>window[1]=1</script>&{{script}}\u2028"
    model = nn.Sequential()
    model.add_module(name, nn.Identity())
    model.__class__ = type("<img src=x onerror=hit()>", (nn.Sequential,), {})
    file = tvc.model_page(model, tmp_path / "x.html", input_shape=(4,))
    text = file.read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "<img" not in text
    assert "<title>&lt;img src=x onerror=hit()&gt;</title>" in text
    (found,) = values_of(file)["models"]
    assert found["modules"][1]["path"] == name and found["class"] == "<img src=x onerror=hit()>"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        tvc.model_page(nn.Identity(), tmp_path / "nowhere" / "x.html", input_shape=(4,))


def test_diff_page(tmp_path: Path) -> None:
    a = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    b = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 2))
    b[0].load_state_dict(a[0].state_dict())
    found = values_of(tvc.diff_page(a, b, tmp_path / "x.html", input_shape=(4,), names=("one", "other")))
    assert [model["name"] for model in found["models"]] == ["one", "other"]
    marks = [{module["path"]: module["mark"] for module in model["modules"]} for model in found["models"]]
    assert marks == [
        {"": "", "0": "", "1": "~", "2": "~"},
        {"": "", "0": "", "1": "~", "2": "~", "3": "+"},
    ]
    changes = tvc.diff(a, b).changes
    assert {change["path"]: change["text"] for change in found["changes"]} == {change.path: str(change) for change in changes}
    modules = [change["parameters"] for change in found["changes"] if change["kind"] == "module" and change["mark"] != "~"]
    assert sum(modules) == found["models"][1]["parameters"] - found["models"][0]["parameters"] == 10


class TestCommands:
    def run(self, *args: str) -> Result:
        return CliRunner().invoke(main, args)

    def test_inspect(self, tmp_path: Path) -> None:
        file = tmp_path / "x.html"
        result = self.run("inspect", "resnet18", "--patch", "layer4=inject:se", "--html", str(file))
        assert result.exit_code == 0, result.stderr
        assert result.stdout.endswith(f"Page: {file}\n")
        (found,) = values_of(file)["models"]
        assert found["name"] == "resnet18" and found["parameters"] == 11_756_136 and found["timed"] is None

    def test_diff(self, tmp_path: Path) -> None:
        file = tmp_path / "x.html"
        result = self.run("diff", "resnet18", "resnet18", "--patch", "layer4=inject:se", "--html", str(file), "--json")
        assert result.exit_code == 0, result.stderr
        printed = json.loads(result.stdout)
        assert len(printed["modules"]) + len(printed["tensors"]) == len(values_of(file)["changes"]) > 0
        assert [model["name"] for model in values_of(file)["models"]] == ["resnet18", "resnet18 with layer4=inject:se"]

    @pytest.mark.parametrize(
        "args, code, message",
        [
            (["inspect", "resnet18", "--time"], 2, "--time is for the page of --html, and there is none"),
            (["inspect", "se", "--html", "x.html"], 2, "--html is for a model, and se is a block"),
            (["inspect", "resnet18", "--html", "no/x.html"], 1, "Error: no/x.html cannot be written: there is no folder no"),
        ],
    )
    def test_errors(self, args: list[str], code: int, message: str) -> None:
        result = self.run(*args)
        assert result.exit_code == code and message in result.stderr
