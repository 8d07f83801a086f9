"""Each ``tvc`` op in ONNX's own operators, for torch's ONNX exporter.

Pools over space are one operator (``GlobalAveragePool``, ``GlobalMaxPool``), the layers between are ``Gemm``, and an activation
is the operator of its name where the opset has one. What the op makes in float32 for half types is made in float32 here too.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

from .. import ops

#: The opset that torch's own translations are written in; below it, none can be had for certain.
LOWEST_OPSET = 18
#: What is written where none is asked for: the oldest with all activations of the ops, which runtimes since 2024 load.
DEFAULT_OPSET = 20


def onnx_translation_table(opset: int = LOWEST_OPSET) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The fused ops as ONNX operators: a ``custom_translation_table`` for ``torch.onnx.export``::

        torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=onnx_translation_table())

    An op stays whole until it is translated: squeeze-and-excitation is a ``GlobalAveragePool``, two ``Gemm`` with their
    activations, and a ``Mul``. Without the table, decompose the ops first; ``export(..., format="onnx")`` does either.

    Args:
        opset: the newest opset whose operators are used: that of the file, or an older one. From 20 on, GELU is one operator.

    Returns:
        A function for each of ``tvc::squeeze_excite``, ``eca``, ``cbam``, ``gem_pool``, ``drop_path``, and the two halves of
        ``cbam`` that training calls. The forms that overwrite their input, which an exported program never calls, and the
        backward have none.

    Raises:
        ImportError: onnxscript is not installed; the message says what to install.
        ValueError: ``opset`` is below 18, or newer than the ``onnx`` that is installed.
    """
    check_opset(opset, "onnx_translation_table")
    in_onnx = _InOnnx(opset)
    return {ops.OPS[name].overload: _function(getattr(in_onnx, name)) for name in translated_ops()}


def translated_ops() -> tuple[str, ...]:
    """The names of the ops that :func:`onnx_translation_table` translates."""
    return tuple(name for name in ops.OPS if name in vars(_InOnnx))


def check_opset(opset: int, place: str) -> None:
    """Refuse an opset that cannot be written.

    Raises:
        ImportError: onnx or onnxscript is not installed; the message says what to install.
        ValueError: the message says which opsets can be written.
    """
    onnx, _ = need("onnx", place), need("onnxscript", place)
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise ValueError(
            f"{place}: opset must be from {LOWEST_OPSET}, which torch's translations are written in, to {newest}, "
            f"the newest of onnx {onnx.__version__}, got {opset}"
        )


def need(name: str, place: str) -> Any:
    """Import a package of the extra ``onnx``.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{place}: ONNX needs {name}: pip install 'torchvision-customizer[onnx]'") from error


def _function(method: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a function: the exporter notes a signature on what it is given, which a method does not let it."""

    @functools.wraps(method)
    def translate(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return translate


class _InOnnx:
    """The ops for one opset. Methods have the names and arguments of the schemas; a tensor is a value of the ONNX graph."""

    def __init__(self, opset: int) -> None:
        import onnx_ir
        from onnxscript.values import Opset

        self._op = Opset("", opset)
        self._has_gelu = opset >= 20
        self._tensor, self._types = onnx_ir.tensor, onnx_ir.DataType

    # ---- The ops ----

    def squeeze_excite(
        self,
        x: Any,
        w1: Any,
        b1: Any = None,
        w2: Any = None,
        b2: Any = None,
        act: str = "relu",
        gate: str = "sigmoid",
        residual: Any = None,
        post: str = "none",
    ) -> Any:
        wide = self._wide_type(x)
        hidden = self._activate(self._linear(self._mean(x), w1, b1), act, wide)
        scale = self._gate(self._linear(hidden, w2, b2), gate, wide)
        return self._tail(self._op.Mul(x, self._per_channel(self._like(scale, x), x)), residual, post, x.dtype)

    def eca(self, x: Any, weight: Any, gate: str = "sigmoid", residual: Any = None, post: str = "none") -> Any:
        op, taps = self._op, weight.shape[0]
        mean = op.Unsqueeze(self._mean(x), self._axes(1))
        weight = op.Unsqueeze(self._wide(weight), self._axes(0, 1))
        z = op.Squeeze(op.Conv(mean, weight, kernel_shape=[taps], pads=[taps // 2] * 2), self._axes(1))
        scale = self._like(self._gate(z, gate, self._wide_type(x)), x)
        return self._tail(op.Mul(x, self._per_channel(scale, x)), residual, post, x.dtype)

    def cbam(
        self,
        x: Any,
        w1: Any,
        b1: Any = None,
        w2: Any = None,
        b2: Any = None,
        spatial_weight: Any = None,
        spatial_bias: Any = None,
        act: str = "relu",
        gate: str = "sigmoid",
        residual: Any = None,
        post: str = "none",
    ) -> Any:
        size = spatial_weight.shape[2]
        _, y, maps = self._channels(x, w1, b1, w2, b2, act, gate)
        weight, bias = self._wide(spatial_weight), self._wide(spatial_bias)
        logits = self._op.Conv(maps, weight, bias, kernel_shape=[size] * 2, pads=[size // 2] * 4)
        return self._positions(x, y, logits, gate, residual, post)

    def _cbam_channels(
        self, x: Any, w1: Any, b1: Any = None, w2: Any = None, b2: Any = None, act: str = "relu", gate: str = "sigmoid"
    ) -> tuple[Any, Any]:
        scale, _, maps = self._channels(x, w1, b1, w2, b2, act, gate)
        return scale, maps

    def _cbam_apply(self, x: Any, scale: Any, logits: Any, gate: str, residual: Any = None, post: str = "none") -> Any:
        y = self._op.Mul(self._wide(x), self._per_channel(scale, x))
        return self._positions(x, y, self._wide(logits), gate, residual, post)

    def gem_pool(self, x: Any, p: Any, eps: float = 1e-6) -> Any:
        op, wide = self._op, self._wide_type(x)
        p = op.Unsqueeze(self._wide(p), self._axes(0))
        powers = op.Pow(op.Max(self._wide(x), self._constant(eps, wide)), self._per_channel(p, x))
        mean = op.Flatten(op.GlobalAveragePool(powers)) if len(x.shape) > 2 else powers
        return self._like(op.Pow(mean, op.Reciprocal(p)), x)

    def drop_path(self, x: Any, mask: Any, residual: Any = None, post: str = "none") -> Any:
        op, nothing = self._op, self._constant(0.0, x.dtype)
        mask = self._like(mask, x)
        if len(x.shape) > 1:
            mask = op.Unsqueeze(mask, self._axes(*range(1, len(x.shape))))
        # Not the product alone: 0 times infinity is no 0.
        return self._tail(op.Where(op.Equal(mask, nothing), nothing, op.Mul(x, mask)), residual, post, x.dtype)

    # ---- What they share ----

    def _channels(self, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, act: str, gate: str) -> tuple[Any, Any, Any]:
        """The scale (N, C), ``x`` times it, and the maps (N, 2, H, W), in the type of sums."""
        op, wide = self._op, self._wide_type(x)
        values = self._wide(x)
        statistics = (op.Flatten(op.GlobalAveragePool(values)), op.Flatten(op.GlobalMaxPool(values)))
        hidden = [self._activate(self._linear(s, w1, b1), act, wide) for s in statistics]
        # The sum of both mlps: their second products are one, and b2 is there twice.
        scale = self._gate(self._linear(op.Add(*hidden), w2, b2, bias_times=2.0), gate, wide)
        y = op.Mul(values, self._per_channel(scale, x))
        maps = op.Concat(op.ReduceMean(y, self._axes(1)), op.ReduceMax(y, self._axes(1)), axis=1)
        return scale, y, maps

    def _positions(self, x: Any, y: Any, logits: Any, gate: str, residual: Any, post: str) -> Any:
        """The second half of ``cbam``, rounded to the type of ``x`` at the very end."""
        wide = self._wide_type(x)
        out = self._op.Mul(y, self._gate(logits, gate, wide))
        return self._like(self._tail(out, self._wide(residual), post, wide), x)

    def _mean(self, x: Any) -> Any:
        """Mean over space, (N, C), in the type of sums."""
        values = self._wide(x)
        return self._op.Flatten(self._op.GlobalAveragePool(values)) if len(x.shape) > 2 else values

    def _linear(self, x: Any, weight: Any, bias: Any, bias_times: float = 1.0) -> Any:
        return self._op.Gemm(x, self._wide(weight), self._wide(bias), transB=1, beta=bias_times)

    def _tail(self, out: Any, residual: Any, post: str, dtype: Any) -> Any:
        return self._activate(out if residual is None else self._op.Add(out, residual), post, dtype)

    def _activate(self, y: Any, name: str, dtype: Any) -> Any:
        """``act`` and ``post`` on ``y``, which is of ``dtype``."""
        op = self._op
        if name == "relu":
            return op.Relu(y)
        if name == "silu":
            return op.Mul(y, op.Sigmoid(y))
        if name not in ("gelu", "hardswish"):
            return y
        if dtype == self._types.BFLOAT16:  # which Gelu has not at all, and HardSwish from opset 22 on
            return op.Cast(self._activate(op.Cast(y, to=self._types.FLOAT), name, self._types.FLOAT), to=dtype)
        if name == "hardswish":
            return op.HardSwish(y)
        if self._has_gelu:
            return op.Gelu(y)
        erf = op.Erf(op.Mul(y, self._constant(math.sqrt(0.5), dtype)))
        return op.Mul(op.Mul(y, self._constant(0.5, dtype)), op.Add(erf, self._constant(1.0, dtype)))

    def _gate(self, z: Any, name: str, dtype: Any) -> Any:
        """``gate`` on ``z``, which is of ``dtype``."""
        op = self._op
        if name == "hard_sigmoid":
            return op.HardSigmoid(z, alpha=1 / 6, beta=0.5)
        if name == "two_sigmoid":
            return op.Mul(op.Sigmoid(z), self._constant(2.0, dtype))
        if name == "tanh1p":
            return op.Add(op.Tanh(z), self._constant(1.0, dtype))
        return op.Sigmoid(z)

    def _per_channel(self, s: Any, x: Any) -> Any:
        """(N, C) as (N, C, 1, …)."""
        return self._op.Unsqueeze(s, self._axes(*range(2, len(x.shape)))) if len(x.shape) > 2 else s

    def _axes(self, *axes: int) -> Any:
        return self._op.Constant(value_ints=list(axes))

    def _constant(self, value: float, dtype: Any) -> Any:
        return self._op.Constant(value=self._tensor(value, dtype=dtype))

    def _wide_type(self, x: Any) -> Any:
        """The type that sums of ``x`` are made in."""
        return self._types.DOUBLE if x.dtype == self._types.DOUBLE else self._types.FLOAT

    def _wide(self, y: Any) -> Any:
        """A tensor of the op's, in the type that sums are made in; None stays None."""
        return self._op.Cast(y, to=self._types.FLOAT) if y is not None and y.dtype in self._halves() else y

    def _halves(self) -> tuple[Any, ...]:
        return self._types.FLOAT16, self._types.BFLOAT16

    def _like(self, y: Any, x: Any) -> Any:
        """``y``, made in the type of sums, in the type of ``x``."""
        return self._op.Cast(y, to=x.dtype) if x.dtype in self._halves() else y
