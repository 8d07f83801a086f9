"""The table of the op suite is consistent with the ops, with plain PyTorch, and with what is asked."""

from __future__ import annotations

import inspect

import pytest
import torch

from torchvision_customizer import ops
from torchvision_customizer.bench.op_suite import WrongNumbersError, run_case
from torchvision_customizer.bench.plain import plain_model
from torchvision_customizer.bench.suite import (
    CACHES,
    DIRECTIONS,
    DTYPES,
    FUSED,
    LAYOUTS,
    QUICK_SELECTION,
    SUITE,
    VARIANTS,
    Case,
    Entry,
    Selection,
)
from torchvision_customizer.bench.timing import Settings
from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.cli import benchmark as command

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
        assert bounds.eager.keys() == set(Selection().dtypes)
        assert bounds.compiled > 0


def test_a_selection_is_the_product_of_what_it_selects() -> None:
    cases = list(Selection().cases())
    assert len(cases) == len(set(cases)) == sum(2 * 2 * 2 * len(e.shapes) * len(e.batches) for e in SUITE.values())
    chosen = Selection(entries=(next(iter(SUITE)),), directions=("forward",), shapes=((8, 2, 2),), batches=(3,), caches=CACHES)
    assert len(list(chosen.cases())) == 2 * 2 * 2
    assert len(list(QUICK_SELECTION.cases())) < len(cases) / 10


def test_the_command_offers_the_choices_of_the_tables() -> None:
    assert tuple(DTYPES) == command.DTYPES
    assert command.CACHES == CACHES


@ENTRIES
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_variant_gives_the_numbers_of_float64(entry: Entry, direction: str, dtype: str, layout: str) -> None:
    case = Case(entry.name, direction, (32, 5, 3), 3, dtype, layout)
    variants = [variant for variant in VARIANTS if variant != "compile"]
    result = run_case(case, FAST, variants)
    assert set(result.seconds) == set(variants) - ({"torchscript"} if direction == "backward" else set())
    assert set(result.errors) == set(result.seconds) - {"floor"}
    assert result.sets == 1


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
    ):
        result = run_case(Case(name, direction, (32, 5, 5), 2, "fp32", "nchw"), FAST, ("floor", "fused"))
        assert result.bytes == activations * activation + passes * weights, (name, direction)


def test_a_wrong_number_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.squeeze_excite
    monkeypatch.setattr(ops, "squeeze_excite", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    case = Case("squeeze_excite", "forward", (32, 5, 5), 2, "fp32", "nchw")
    with pytest.raises(WrongNumbersError, match=r"squeeze_excite forward 2x32x5x5 fp32 nchw warm: fused is 1\.00e-03"):
        run_case(case, FAST, (FUSED,))


def test_plain_blocks_give_the_numbers_of_the_blocks() -> None:
    block = SEBlock(32, activation="silu", gate="hard_sigmoid")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), block)
    plain = plain_model(model)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), model(x))
    assert not any(isinstance(module, SEBlock) for module in plain.modules())
    assert model[1] is block
