"""The table of the op suite is consistent with the ops, with plain PyTorch, and with what is asked."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch

from torchvision_customizer import ops
from torchvision_customizer.bench.networks import NETWORKS
from torchvision_customizer.bench.op_suite import WrongNumbersError, conditions, prepare, run_case
from torchvision_customizer.bench.plain import plain_model
from torchvision_customizer.bench.suite import (
    CACHES,
    DIRECTIONS,
    DTYPES,
    EAGER,
    FUSED,
    QUICK_SELECTION,
    SUITE,
    TIMM,
    TOKENS,
    USUAL_SELECTION,
    VARIANTS,
    Case,
    Entry,
    Selection,
)
from torchvision_customizer.bench.timing import Settings
from torchvision_customizer.blocks import CBAMBlock, DropPath, ECABlock, GeM, SEBlock

FAST = Settings(rounds=2, block_seconds=0.0005, max_seconds=0.5)
ENTRIES = pytest.mark.parametrize("entry", SUITE.values(), ids=SUITE.keys())


def test_every_public_op_is_in_the_suite() -> None:
    assert {entry.op for entry in SUITE.values()} == {name for name in ops.OPS if not name.startswith("_")}


@ENTRIES
def test_an_entry_names_arguments_of_its_op(entry: Entry) -> None:
    parameters = inspect.signature(getattr(ops, entry.op)).parameters
    weights = entry.weights((2, 32, 3, 3), torch.Generator().manual_seed(0))
    assert [*weights, *entry.options] == [name for name in parameters if name in weights or name in entry.options]
    assert "residual" in parameters or not entry.residual
    plain = entry.plain(**weights, **entry.options)
    assert dict(plain.named_parameters()).keys() == weights.keys()


@ENTRIES
def test_bounds_are_for_every_type_that_is_measured(entry: Entry) -> None:
    for bounds in (entry.bounds, entry.backward_bounds):
        assert bounds.eager.keys() in (set(Selection().dtypes), set())  # of a combination that no table has, nothing is asked
        assert (bounds.compiled is None) == (not bounds.eager)


def test_a_selection_is_the_product_of_what_it_selects() -> None:
    cases = list(Selection().cases())
    assert len(cases) == len(set(cases)) == sum(2 * 2 * 2 * len(e.shapes("resnet50")) * len(e.batches) for e in SUITE.values())
    chosen = Selection(entries=(next(iter(SUITE)),), directions=("forward",), shapes=((8, 2, 2),), batches=(3,), caches=CACHES)
    assert len(list(chosen.cases())) == 2 * 2 * 2
    assert len(list(QUICK_SELECTION.cases())) < len(cases) / 10
    assert len(list(USUAL_SELECTION.cases())) == len(cases) / 3


def test_networks_have_maps_in_every_layout_and_tokens_in_theirs() -> None:
    swin = list(Selection(networks=("swin_t",), directions=("forward",), batches=(1,), dtypes=("fp32",)).cases())
    assert {case.layout for case in swin if not SUITE[case.entry].maps_only} == {TOKENS}
    assert {(case.layout, case.shape) for case in swin if case.entry == "cbam"} >= {("channels_last", (96, 56, 56))}
    gates = {case.shape for case in Selection(("eca",), networks=("mobilenet_v3_large",)).cases()}
    assert gates == set(NETWORKS["mobilenet_v3_large"].gates)
    assert {case.shape for case in Selection(("gem_pool",), networks=("efficientnet_b0",)).cases()} == {(1280, 7, 7)}
    assert len({case.shape for case in Selection(("eca",), networks=()).cases()}) > 20


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_the_networks(name: str) -> None:
    """The networks run, and hooks see what the table says."""
    from torchvision.ops import SqueezeExcitation, StochasticDepth

    from torchvision_customizer._torchvision import models

    model = models.get_model(name).eval()
    seen: dict[str, list[tuple[int, ...]]] = {"gates": [], "tails": [], "pools": []}

    def see(place: str, x: torch.Tensor) -> None:
        shape = tuple(x.shape[1:])
        if name == "swin_t" and place != "pools":  # (N, H, W, C)
            shape = (shape[2], shape[0] * shape[1])
        elif name == "swin_t":
            shape = (shape[0], shape[1] * shape[2])
        if shape not in seen[place]:
            seen[place].append(shape)

    for path, module in model.named_modules():
        if isinstance(module, SqueezeExcitation):
            module.register_forward_hook(lambda module, inputs, output: see("gates", output))
        elif isinstance(module, StochasticDepth):
            module.register_forward_hook(lambda module, inputs, output: see("tails", output))
        elif path in ("avgpool", "features.avgpool"):
            module.register_forward_pre_hook(lambda module, inputs: see("pools", inputs[0]))
        elif type(module).__name__ == "Bottleneck" or (name.startswith("mobile") and getattr(module, "use_res_connect", False)):
            module.register_forward_hook(lambda module, inputs, output: see("tails", output))
    with torch.inference_mode():
        model(torch.randn(1, 3, 224, 224))
    table = NETWORKS[name]
    assert tuple(seen["tails"]) == table.tails
    assert tuple(seen["pools"]) == table.pools[-1:]
    assert tuple(seen["gates"]) == (table.gates if seen["gates"] else ())
    assert seen["gates"] or table.gates == table.tails


@ENTRIES
def test_training_saves_no_more_than_is_asked(entry: Entry) -> None:
    for dtype, layout in (("fp32", "nchw"), ("bf16", "channels_last")):
        case = Case(entry.name, "training", (32, 5, 3), 3, dtype, layout)
        with conditions(case):
            memory = prepare(case, (EAGER, FUSED)).memory
        assert memory[FUSED].saved > 0 and memory[FUSED].peak > 0
        if entry.training_bounds.saved is not None:
            assert memory[FUSED].saved <= entry.training_bounds.saved * memory[EAGER].saved


# Gradients of half types, and fp16, wait for the full tier: the tests of ops have them too.
@ENTRIES
@pytest.mark.parametrize(
    ("direction", "dtype"),
    [
        pytest.param(
            direction, dtype, marks=[] if dtype == "fp32" or (direction, dtype) == ("forward", "bf16") else pytest.mark.full
        )
        for direction in DIRECTIONS
        for dtype in DTYPES
    ],
)
@pytest.mark.parametrize("layout", [pytest.param("nchw", marks=pytest.mark.full), "channels_last", TOKENS])
def test_every_variant_gives_the_numbers_of_float64(entry: Entry, direction: str, dtype: str, layout: str) -> None:
    if layout == TOKENS and entry.maps_only:
        assert TOKENS not in {case.layout for case in Selection((entry.name,), networks=()).cases()}
        return
    case = Case(entry.name, direction, (32, 15) if layout == TOKENS else (32, 5, 3), 3, dtype, layout)
    variants = [variant for variant in VARIANTS if variant != "compile"]
    result = run_case(case, FAST, variants)
    assert set(result.seconds) == set(variants) - result.absent.keys()
    assert set(result.errors) == set(result.seconds) - {"floor", "limit"}
    assert {EAGER, FUSED} <= result.errors.keys()
    assert result.sets == 1
    if direction == "forward":
        assert {"floor", "torchscript"} <= result.seconds.keys()
    if importlib.util.find_spec("timm") is not None:
        assert (TIMM in result.seconds) == (entry.op == "drop_path" or (layout != TOKENS and entry.op != "gem_pool"))


def test_a_cold_cache_rotates_among_more_than_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision_customizer.bench.op_suite.last_level_cache", lambda device: 100_000)
    case = Case("squeeze_excite", "backward", (32, 5, 5), 2, "fp32", "nchw", cache="cold")
    result = run_case(case, FAST, ("floor", "eager", "fused"))
    assert result.sets * 2 * 32 * 5 * 5 * 4 > 2 * 100_000


def test_bytes_are_every_input_once_and_every_output_once() -> None:
    activation, weights = 2 * 32 * 5 * 5 * 4, (2 * 32 * 2 + 2 + 32) * 4
    for name, direction, activations, passes in (
        ("squeeze_excite", "forward", 2, 1),
        ("squeeze_excite+residual+relu", "forward", 3, 1),
        ("squeeze_excite", "backward", 3, 2),
        ("squeeze_excite+residual+relu", "backward", 5, 2),
        ("squeeze_excite", "training", 5, 3),
    ):
        result = run_case(Case(name, direction, (32, 5, 5), 2, "fp32", "nchw"), FAST, ("floor", "fused"))
        assert result.bytes == activations * activation + passes * weights, (name, direction)


def test_a_wrong_number_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.squeeze_excite
    monkeypatch.setattr(ops, "squeeze_excite", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    case = Case("squeeze_excite", "forward", (32, 5, 5), 2, "fp32", "nchw")
    with pytest.raises(WrongNumbersError, match=r"squeeze_excite forward 2x32x5x5 fp32 nchw warm: fused is 1\.00e-03"):
        run_case(case, FAST, (FUSED,))


def test_every_pass_of_an_op_is_counted() -> None:
    passes = {
        (name, direction): SUITE[name].passes(direction)
        for name in ("gem_pool", "drop_path+residual", "cbam", "eca+residual+relu")
        for direction in ("forward", "backward")
    }
    assert passes == {
        ("gem_pool", "forward"): (1, 0),
        ("gem_pool", "backward"): (1, 1),  # reads x, writes its gradient; that of the output is small
        ("drop_path+residual", "forward"): (2, 1),
        ("drop_path+residual", "backward"): (1, 1),  # the residual's gradient is the output's
        ("cbam", "forward"): (1, 1),
        ("cbam", "backward"): (2, 1),
        ("eca+residual+relu", "forward"): (2, 1),
        ("eca+residual+relu", "backward"): (3, 2),
    }


@pytest.mark.parametrize(
    "block",
    [ECABlock(32), CBAMBlock(32), CBAMBlock(32, spatial_norm=True), GeM(2.5), GeM(flatten=True), DropPath(0.5)],
    ids=lambda block: str(block).splitlines()[0],
)
@pytest.mark.parametrize("training", [False, True])
def test_every_plain_block_gives_the_numbers_of_its_block(block: torch.nn.Module, training: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), block).train(training)
    plain = plain_model(model)
    x = torch.randn(8, 3, 8, 8)
    assert type(plain[1]) is not type(block)
    expected, got = (_seeded(m, x) for m in (model, plain))
    torch.testing.assert_close(got, expected)


def _seeded(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return model(x)


def test_plain_blocks_give_the_numbers_of_the_blocks() -> None:
    block = SEBlock(32, activation="silu", gate="hard_sigmoid")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), block)
    plain = plain_model(model)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), model(x))
    assert not any(isinstance(module, SEBlock) for module in plain.modules())
    assert model[1] is block
