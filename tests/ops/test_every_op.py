"""What every op promises. Being in ``ops.OPS`` is being tested here, with the inputs of ``samples.py``."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch
import torch._dynamo.testing
from hypothesis import strategies
from samples import DTYPES, LAYOUTS, SAMPLES, TOLERANCE, Sample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchvision_customizer import ops

PUBLIC = [name for name in ops.OPS if not name.startswith("_")]
op_names = pytest.mark.parametrize("name", PUBLIC)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def sample_of(name: str, index: int = 0, dtype: torch.dtype = torch.float32) -> Sample:
    return list(SAMPLES[name].layouts(dtype))[index]


def call(name: str, arguments: dict[str, Any]) -> Tensor:
    return getattr(ops, name)(**arguments)


def assert_near(what: str, got: Tensor | None, want: Tensor | None, tolerance: float) -> None:
    assert (got is None) == (want is None), what
    if got is None or want is None:
        return
    assert got.shape == want.shape, what
    assert not got.isnan().any(), f"{what}: NaN"
    if got.numel():
        error = (got.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-3)
        assert error <= tolerance, f"{what}: {error:.2e} of the largest value, allowed are {tolerance:.0e}"


def grad_for(sample: Sample, out: Tensor) -> Tensor:
    return sample.grad_layout(torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype))


def compare_with_oracle(name: str, sample: Sample) -> None:
    """Output and gradients against the reference in float64, differentiated by torch."""
    arguments = sample.leaves()
    out = call(name, arguments)
    grad = grad_for(sample, out)
    out.backward(grad)

    exact = sample.leaves(torch.float64)
    reference = ops.OPS[name].reference
    assert reference is not None
    wanted = reference(**exact)
    if wanted.requires_grad:  # not where there is nothing to take a maximum of
        wanted.backward(grad.double())

    first = sample.arguments["x"]
    of_out, of_gradients = (max(tolerance, sample.tolerance) for tolerance in TOLERANCE[first.dtype])
    of_gradients = max(of_gradients, sample.gradient_tolerance)
    assert out.dtype == first.dtype
    assert_near(f"{sample.name}: out", out.detach(), wanted.detach(), of_out)
    for argument in sample.differentiable():
        got, want = arguments[argument].grad, exact[argument].grad
        assert got is not None, f"{sample.name}: no gradient for {argument}"
        assert got.dtype == arguments[argument].dtype
        if want is None or want.isnan().any():  # the mean over no positions; the op says 0
            assert not out.numel()
            want = torch.zeros_like(got)
        assert_near(f"{sample.name}: gradient of {argument}", got, want, of_gradients)


def test_every_op_has_samples() -> None:
    assert set(SAMPLES) == set(PUBLIC) != set()


@op_names
@dtypes
def test_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].samples(dtype, False):
        compare_with_oracle(name, sample)


@pytest.mark.full
@op_names
@dtypes
def test_agrees_with_float64_at_every_sample(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].samples(dtype, True):
        compare_with_oracle(name, sample)


def strided(order: tuple[int, ...], steps: tuple[int, ...], offset: int) -> Callable[[Tensor], Tensor]:
    """A layout: dimensions in ``order`` in memory, every ``steps``-th element of each, from the ``offset``-th on."""

    def layout(t: Tensor) -> Tensor:
        if t.dim() != len(order):  # the gradient of a pool's output
            return t
        sizes = [t.size(d) * step for d, step in zip(order, steps, strict=True)]
        memory = t.new_full((math.prod(sizes) + offset,), float("nan"))[offset:].view(sizes)
        view = memory[tuple(slice(None, None, step) for step in steps)]
        return view.permute([order.index(d) for d in range(t.dim())]).copy_(t)

    return layout


@op_names
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=strategies.data())
def test_any_shape_and_strides(name: str, data: strategies.DataObject) -> None:
    op = SAMPLES[name]
    shape = tuple(data.draw(strategies.lists(strategies.integers(1, 9), min_size=op.ranks[0], max_size=op.ranks[1]), "shape"))

    def layout() -> Callable[[Tensor], Tensor]:
        order = data.draw(strategies.permutations(range(len(shape))), "order")
        steps = data.draw(strategies.tuples(*[strategies.integers(1, 2)] * len(shape)), "steps")
        return strided(tuple(order), steps, data.draw(strategies.integers(0, 3), "offset"))

    options: dict[str, Any] = {"layout": layout()}
    if "residual" in inspect.signature(getattr(ops, name)).parameters:
        options["post"] = data.draw(strategies.sampled_from(("none", "relu", "silu")), "post")
        options["residual"] = layout() if data.draw(strategies.booleans(), "residual") else None
    torch.manual_seed(0)
    arguments = op.arguments(shape, torch.float32, **options)
    # What is looked for here are wrong places, not roundings.
    sample = Sample(str(shape), arguments, layout(), 1e-4, 1e-3, sample_of(name).constants)
    compare_with_oracle(name, sample)


@op_names
@dtypes
def test_the_reference_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    with ops.reference():
        for sample in SAMPLES[name].samples(dtype, False):
            compare_with_oracle(name, sample)


@op_names
@pytest.mark.parametrize("answer", ["native", "reference"])
def test_output_has_the_strides_of_a_dense_input(name: str, answer: str) -> None:
    """And no call changes an input, or gives one back."""
    for sample in SAMPLES[name].samples(torch.float32, True):
        arguments = sample.arguments
        before = sample.with_tensors(torch.clone)
        if answer == "reference":
            with ops.reference():
                out = call(name, arguments)
        else:
            out = call(name, arguments)
        x = arguments["x"]
        if out.shape == x.shape and x.numel():  # an empty tensor has no places for its strides to name
            dense = x.is_contiguous() or (x.dim() > 1 and x.movedim(1, -1).is_contiguous())
            suggested = torch.channels_last if x.dim() == 4 and x.stride(1) < x.stride(-1) else torch.contiguous_format
            assert out.stride() == torch.empty_like(x if dense else x.contiguous(memory_format=suggested)).stride(), sample.name
        for argument, value in sample.tensors().items():
            assert torch.equal(value.nan_to_num(), before[argument].nan_to_num()), f"{sample.name}: {argument} was changed"
            assert not out.numel() or out.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
        meta = call(name, sample.with_tensors(lambda t: t.to("meta")))
        assert meta.shape == out.shape and meta.dtype == out.dtype and meta.device.type == "meta"


IN_PLACE = [name for name in PUBLIC if f"_{name}_" in ops.OPS]


@pytest.mark.parametrize("name", IN_PLACE)
@dtypes
@pytest.mark.parametrize("answer", ["native", "reference"])
def test_in_place(name: str, dtype: torch.dtype, answer: str) -> None:
    """The same numbers, in ``x`` itself, in any layout."""
    with ops.reference() if answer == "reference" else contextlib.nullcontext():
        for sample in SAMPLES[name].samples(dtype, False):
            x = sample.arguments["x"]
            if 0 in x.stride():  # several elements in one place cannot be written
                continue
            want = call(name, sample.arguments)
            copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)
            got = call(name, {**sample.arguments, "x": copy, "inplace": True})
            assert got is copy and got.stride() == x.stride()
            assert torch.equal(got.nan_to_num(), want.nan_to_num()), sample.name


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_refuses_gradients(name: str) -> None:
    arguments = sample_of(name).leaves()
    with pytest.raises(NotImplementedError, match=f"tvc::{name}: inplace=True overwrites x, which the gradient needs"):
        call(name, {**arguments, "inplace": True})


def backward_arguments(name: str, sample: Sample) -> tuple[Any, ...]:
    """What the op's backward calls its private op with."""
    private = ops.OPS[f"_{name}_backward"].overload
    found: list[tuple[Any, ...]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is private:
                found.append(tuple(a.detach() if isinstance(a, Tensor) else a for a in args))
            return func(*args, **(kwargs or {}))

    out = call(name, sample.leaves())
    with Record():
        out.backward(grad_for(sample, out))
    assert len(found) == 1
    return found[0]


@op_names
@dtypes
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].layouts(dtype):
        torch.library.opcheck(ops.OPS[name].overload, (), sample.leaves())
        torch.library.opcheck(ops.OPS[f"_{name}_backward"].overload, backward_arguments(name, sample))


@op_names
def test_gradcheck(name: str) -> None:
    for sample in SAMPLES[name].layouts(torch.float64):
        names = sample.differentiable()

        def function(*tensors: Tensor, sample: Sample = sample, names: list[str] = names) -> Tensor:
            return call(name, {**sample.arguments, **dict(zip(names, tensors, strict=True))})

        leaves = tuple(sample.arguments[argument].detach().clone().requires_grad_() for argument in names)
        assert torch.autograd.gradcheck(function, leaves)


@op_names
def test_double_backward_says_that_it_is_not_there(name: str) -> None:
    sample = sample_of(name)
    arguments = sample.leaves()
    with pytest.raises(NotImplementedError, match=f"tvc::{name}: double backward is not implemented; "):
        torch.autograd.grad(call(name, arguments).sum(), arguments["x"], create_graph=True)


@op_names
def test_only_wanted_gradients_come(name: str) -> None:
    sample = sample_of(name)
    for wanted in sample.differentiable():
        arguments = dict(sample.arguments)
        arguments[wanted] = arguments[wanted].detach().requires_grad_()
        out = call(name, arguments)
        out.backward(torch.ones_like(out))
        assert arguments[wanted].grad.shape == arguments[wanted].shape
        assert all(t.grad is None for argument, t in arguments.items() if isinstance(t, Tensor) and argument != wanted)


@op_names
def test_without_autograd(name: str) -> None:
    arguments = sample_of(name).leaves()
    want = call(name, arguments)
    with torch.no_grad():
        quiet = call(name, arguments)
    with torch.inference_mode():
        inference = call(name, arguments)
    assert want.requires_grad and not quiet.requires_grad and inference.is_inference()
    assert torch.equal(quiet, want) and torch.equal(inference, want)


def error_cases() -> Iterator[Any]:
    for name in PUBLIC:
        for case, (change, message) in SAMPLES[name].errors.items():
            yield pytest.param(name, change, f"tvc::{name}: {message}", id=f"{name}-{case}")


def error_of(function: Callable[[], Any]) -> str:
    with pytest.raises(RuntimeError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize(("name", "change", "message"), list(error_cases()))
def test_errors_are_the_same_whoever_answers(name: str, change: dict[str, Any], message: str) -> None:
    sample = sample_of(name)
    arguments = {**sample.arguments, **change}

    def first_line(text: str) -> str:
        # What C++ throws comes with the name of the kernel's wrapper before it.
        return text.strip().splitlines()[0].partition("tvc::")[2]

    expected = message.removeprefix("tvc::")
    assert first_line(error_of(lambda: call(name, arguments))) == expected
    with ops.reference():
        assert first_line(error_of(lambda: call(name, arguments))) == expected
    if not any(isinstance(t, Tensor) and t.is_meta for t in change.values()):
        meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()}
        assert first_line(error_of(lambda: call(name, meta))) == expected


@op_names
def test_there_is_an_error_for_every_argument(name: str) -> None:
    parameters = inspect.signature(getattr(ops, name)).parameters
    tried = {argument for change, _ in SAMPLES[name].errors.values() for argument in change}
    assert tried == set(parameters) - {"inplace"}


def counted(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@op_names
def test_flops_are_those_of_the_reference(name: str) -> None:
    for sample in SAMPLES[name].layouts(torch.float32):
        private = ops.OPS[f"_{name}_backward"]
        for op, arguments in ((ops.OPS[name], tuple(sample.arguments.values())), (private, backward_arguments(name, sample))):
            assert counted(lambda op=op, a=arguments: op.overload(*a)) == counted(lambda op=op, a=arguments: op.reference(*a))


# ---- Compilers, exporters, wrappers ----


class Calls(nn.Module):
    """The op as a module: all tensors but x and residual are parameters; of a mask, the first value serves every sample."""

    def __init__(self, name: str, sample: Sample) -> None:
        super().__init__()
        self.op, self.options = name, {k: v for k, v in sample.arguments.items() if not isinstance(v, Tensor)}
        for argument, value in sample.tensors().items():
            if argument in sample.constants:
                self.register_buffer(argument, value[:1].clone())
            elif argument not in ("x", "residual"):
                self.register_parameter(argument, nn.Parameter(value.detach().clone()))
        self.has_residual = "residual" in sample.tensors()

    def forward(self, x: Tensor) -> Tensor:
        extra = {"residual": x.flip(0)} if self.has_residual else {}
        masks = {argument: value.expand(x.size(0)) for argument, value in self.named_buffers()}
        return call(self.op, {"x": x, **dict(self.named_parameters()), **self.options, **extra, **masks})


def outputs(function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    out = function(leaf)
    grads = torch.autograd.grad(out, [leaf, *module.parameters()], torch.ones_like(out))
    return [out.detach(), *grads]


@op_names
@pytest.mark.parametrize("index", range(4), ids=["contiguous", "channels_last", "sliced", "tokens"])
def test_compile(name: str, index: int) -> None:
    sample = sample_of(name, index)
    module, x = Calls(name, sample), sample.arguments["x"]
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    # Torch 2.5 makes a gradient contiguous on its way into a compiled backward, and the references then sum in another order.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if torch.__version__.startswith("2.5.") else {"rtol": 0, "atol": 0}
    for got, want in zip(outputs(compiled, module, x), outputs(module, module, x), strict=True):
        torch.testing.assert_close(got, want, **tolerance, check_stride=True)


@op_names
def test_compile_with_dynamic_shapes(name: str) -> None:
    sample = sample_of(name)
    module, x = Calls(name, sample), sample.arguments["x"]
    torch.compiler.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=graphs, dynamic=True)
    compiled_at: list[int] = []  # torch starts a graph over where it finds that a float, like eps, is fixed
    for batch, height, width in ((2, 3, 5), (4, 6, 7), (3, 9, 11)):
        other = torch.rand(batch, x.size(1), height, width) + 0.1
        for got, want in zip(outputs(compiled, module, other), outputs(module, module, other), strict=True):
            assert torch.equal(got, want)
        compiled_at.append(graphs.frame_count)
    assert compiled_at == [compiled_at[0]] * 3


@op_names
def test_inductor_puts_no_copies_round_the_op(name: str) -> None:
    from torch._inductor.utils import run_and_get_code

    sample = sample_of(name, 1)
    module, x = Calls(name, sample), sample.arguments["x"]
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True)
    got, code = run_and_get_code(lambda: outputs(compiled, module, x))
    for a, b in zip(got, outputs(module, module, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    text = "\n".join(code)
    assert re.search(rf"torch\.ops\.tvc\.{name}\.default\(", text)
    assert got[0].dim() != 4 or got[0].is_contiguous(memory_format=torch.channels_last)
    assert "clone" not in text and "copy_" not in text


@op_names
def test_export(name: str) -> None:
    sample = sample_of(name)
    module, x = Calls(name, sample), sample.arguments["x"]
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
    assert ops.OPS[name].overload in {node.target for node in program.graph.nodes}
    other = torch.rand(5, *x.shape[1:])
    assert torch.equal(program.module()(other), module(other))


def scripted_arguments(name: str, sample: Sample) -> dict[str, Any]:
    """A function loaded from a file has no defaults."""
    return {**sample.arguments, "inplace": False} if name in IN_PLACE else sample.arguments


@op_names
def test_script(name: str, tmp_path: Any) -> None:
    sample = sample_of(name)
    function = torch.jit.script(getattr(ops, name))
    function.save(str(tmp_path / "function.pt"))
    loaded = torch.jit.load(str(tmp_path / "function.pt"))
    want = call(name, sample.arguments)
    arguments = scripted_arguments(name, sample)
    assert torch.equal(function(**arguments), want) and torch.equal(loaded(**arguments), want)
    with ops.reference():
        torch.testing.assert_close(loaded(**arguments), want)


@op_names
def test_functional_call_and_checkpoint(name: str) -> None:
    sample = sample_of(name)
    module, x = Calls(name, sample), sample.arguments["x"]
    want = outputs(module, module, x)
    doubled = {key: 2 * value for key, value in module.state_dict().items()}
    with torch.no_grad():
        changed = torch.func.functional_call(module, doubled, (x,))
        assert not torch.equal(changed, want[0]) and torch.equal(module(x), want[0])

    def checkpointed(leaf: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(module, leaf, use_reentrant=False)

    for got, plain in zip(outputs(checkpointed, module, x), want, strict=True):
        assert torch.equal(got, plain)


# In the full tier: after three thousand others in one process it once did not end, in torch's own freeing of the group.
@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in PUBLIC if set(sample_of(name).differentiable()) - {"x", "residual"}])
def test_distributed_data_parallel(name: str, tmp_path: Any) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    sample = sample_of(name)
    module, x = Calls(name, sample), sample.arguments["x"]
    want = outputs(module, module, x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(module)
        out = parallel(x)
        out.backward(torch.ones_like(out))
    finally:
        torch.distributed.destroy_process_group()
    for parameter, gradient in zip(module.parameters(), want[2:], strict=True):
        assert torch.equal(parameter.grad, gradient)


@op_names
def test_layouts_of_the_samples_differ(name: str) -> None:
    strides = [sample.arguments["x"].stride() for sample in SAMPLES[name].layouts(torch.float32)]
    assert len(set(strides)) == len(strides) == len(LAYOUTS)
