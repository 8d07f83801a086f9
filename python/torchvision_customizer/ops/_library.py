"""Loading the native libraries, and registering what an op needs from Python.

The schemas stand in ``libtvc_ops`` (``csrc/schema.cpp``), so that a process without Python can load a scripted file. Each op
repeats its schema in its own file: it is defined from there where the library is missing, and compared where it is not, so
that a library of another version is found out at import.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._math import ACTS, GATES, POSTS, accumulate_type, fake_like

DISABLE_VARIABLE = "TVC_DISABLE_NATIVE"
OPTIONS = {"act": ACTS, "gate": GATES, "post": POSTS}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NATIVE_SINCE = (2, 10)


@dataclass(frozen=True)
class NativeStatus:
    """What was found when the package was imported; ``*_reason`` says why a library is not in use."""

    cpu_loaded: bool = False
    cuda_loaded: bool = False
    cpu_reason: str = ""
    cuda_reason: str = ""
    library_path: Path | None = None
    cuda_library_path: Path | None = None
    instruction_set: str = ""
    build: dict[str, str] = field(default_factory=dict)


def _no_cuda() -> str:
    """Why torch has no CUDA here; empty where it has."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _load() -> NativeStatus:
    """Load ``libtvc_ops`` and, where torch has CUDA, ``libtvc_ops_cuda``.

    A missing library has a reason and the references answer; a library that is there and does not load is an error in the
    installation, and raises.
    """
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        reason = f"{DISABLE_VARIABLE} is set"
        return NativeStatus(cpu_reason=reason, cuda_reason=reason)
    if importlib.util.find_spec("torchvision_customizer._native") is None:
        reason = "this is a pure-Python installation (built with TVC_NATIVE=0)"
        return NativeStatus(cpu_reason=reason, cuda_reason=reason)
    from .. import _native

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < NATIVE_SINCE:
        reason = f"torch {torch.__version__} is older than {'.'.join(map(str, NATIVE_SINCE))}, the first with the stable ABI"
        return NativeStatus(cpu_reason=reason, cuda_reason=reason)
    folder = Path(_native.__file__).parent
    build = _native.build_info()
    library = folder / "libtvc_ops.so"
    torch.ops.load_library(str(library))
    cuda_library: Path | None = folder / "libtvc_ops_cuda.so"
    cuda_reason = ""
    if not (folder / "libtvc_ops_cuda.so").exists():
        cuda_reason, cuda_library = "the library was built without CUDA (no nvcc, or -DTVC_CUDA=OFF)", None
    elif no_cuda := _no_cuda():
        cuda_reason = no_cuda
    else:
        torch.ops.load_library(str(cuda_library))
    return NativeStatus(
        cpu_loaded=True,
        cuda_loaded=not cuda_reason,
        cuda_reason=cuda_reason,
        library_path=library,
        cuda_library_path=cuda_library,
        instruction_set=_native.instruction_set(),
        build=build,
    )


_status = _load()
_definitions = torch.library.Library("tvc", "FRAGMENT")


def native_status() -> NativeStatus:
    """What of the native libraries is loaded, and why not the rest."""
    return _status


class Op:
    """One op: its schema, and everything that Python registers for it.

    Args:
        name: the name within ``tvc::``.
        signature: the schema without the name.
    """

    def __init__(self, name: str, signature: str) -> None:
        self.name = name
        self.schema = name + signature
        tags = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
        if not _status.cpu_loaded:
            _definitions.define(self.schema, tags=tags)
        elif not hasattr(torch.ops.tvc, name):
            raise ImportError(f"{_status.library_path} does not define tvc::{name}; rebuild it: it is of another version")
        native = str(self.overload._schema)
        if native != str(torch._C.parse_schema(f"tvc::{self.schema}")):
            raise ImportError(f"{_status.library_path} defines {native}, but this package tvc::{self.schema}; rebuild it")
        self.arguments = torch._C.parse_schema(f"tvc::{self.schema}").arguments
        self.reference: Callable[..., Any] | None = None
        self.formula: Callable[..., Any] | None = None

    @property
    def overload(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.tvc, self.name).default

    def register(
        self,
        *,
        reference: Callable[..., Any],
        check: Callable[..., None] | None = None,
        fake: Callable[..., Any] | None = None,
        setup_context: Callable[..., None] | None = None,
        backward: Callable[..., Any] | None = None,
        no_gradient: str = "double backward is not implemented; build the block with plain PyTorch modules where second "
        "derivatives are needed",
        weights: tuple[str, ...] | None = None,
        flops: Callable[..., int] | None = None,
    ) -> None:
        """Register the reference as the fallback of every device, the fake, and the formulas of the transforms.

        All functions but ``setup_context`` and ``backward`` take every argument of the schema, in its order.

        Args:
            reference: the op in plain PyTorch, which TorchScript can compile for a forward; kept as ``formula``, and with
                defaults and checks as ``reference``.
            check: raises for bad arguments; runs before the reference and the fake.
            fake: an output's shape and strides; by default those of the first argument, made dense.
            setup_context: keeps what ``backward`` needs; as ``torch.library.register_autograd`` wants it.
            backward: the gradient.
            no_gradient: where there is no ``backward``, what is said to who asks for one.
            weights: the arguments that stay as they are under autocast, or become float32. None: no rule for autocast.
            flops: counts them from shapes.
        """

        def whole(function: Callable[..., Any]) -> Callable[..., Any]:
            def with_all_arguments(*args: Any, **kwargs: Any) -> Any:
                values = self.bind(args, kwargs)
                if check is not None:
                    check(*values)
                return function(*values)

            return with_all_arguments

        self.formula = reference
        self.reference = whole(reference)
        _definitions.impl(self.name, self.reference, "CompositeExplicitAutograd")
        qualified = f"tvc::{self.name}"
        torch.library.register_fake(qualified, whole(fake or _fake_like_first), lib=_definitions)
        if backward is not None:
            torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_definitions)
        else:
            _definitions.impl(self.name, _refuse_gradients(self, no_gradient), "Autograd")
        if weights is not None:
            for key in ("AutocastCPU", "AutocastCUDA"):
                _definitions.impl(self.name, _with_autocast(self, weights), key)
        if flops is not None:
            from torch.utils.flop_counter import register_flop_formula

            register_flop_formula(getattr(torch.ops.tvc, self.name))(flops)
        OPS[self.name] = self

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """All arguments in the order of the schema: the dispatcher leaves out those that have their default."""
        rest = self.arguments[len(args) :]
        return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest)]

    # Checks that raise what csrc/common/check.h raises, for the references and the fakes.

    def check(self, condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"tvc::{self.name}: {message}")

    def check_option(self, argument: str, value: str) -> None:
        allowed = OPTIONS[argument]
        if value not in allowed:
            self.check(False, f"{argument} must be one of {', '.join(allowed)}, got '{value}'")

    def check_activation(self, x: Tensor) -> None:
        self.check(x.dim() >= 2, f"x must be (N, C, *), got {list(x.shape)}")
        self.check_type(x)

    def check_type(self, x: Tensor) -> None:
        self.check(x.dtype in DTYPES, f"x must be float32, float64, float16 or bfloat16, got {_dtype(x.dtype)}")

    def check_tensor(
        self, argument: str, t: Tensor | None, x: Tensor, shape: tuple[int | str, ...], dtypes: tuple[torch.dtype, ...]
    ) -> None:
        """``t`` is on the device of ``x``, of one of ``dtypes``, and of ``shape``, in which a name stands for any size."""
        if t is None:
            return
        fits = t.dim() == len(shape) and all(
            isinstance(want, str) or got == want for got, want in zip(t.shape, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(size) for size in shape)
            self.check(False, f"{argument} must be [{expected}] for x with {describe(x)}, got {list(t.shape)}")
        self.check(t.device == x.device, f"{argument} must be on the device of x, {x.device}, got {t.device}")
        if t.dtype not in dtypes:
            allowed = " or ".join(dict.fromkeys(_dtype(dtype) for dtype in dtypes))
            self.check(False, f"{argument} must be {allowed} for x of {_dtype(x.dtype)}, got {_dtype(t.dtype)}")


OPS: dict[str, Op] = {}


def describe(x: Tensor) -> str:
    """What a sentence says of ``x``; drop_path takes one without channels."""
    return f"shape {list(x.shape)}" if x.dim() < 2 else f"{x.size(1)} channels"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fake_like_first(x: Tensor, *_: Any) -> Tensor:
    return fake_like(x)


def _refuse_gradients(op: Op, reason: str) -> Callable[..., Any]:
    public = op.name.strip("_").removesuffix("_backward")

    def autograd(*args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            raise NotImplementedError(f"tvc::{public}: {reason}")
        with torch._C._AutoDispatchBelowAutograd():
            return op.overload(*args)

    return autograd


_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)


def _with_autocast(op: Op, weights: tuple[str, ...]) -> Callable[..., Any]:
    """``x`` and a residual meet in the wider of their types, as in eager; weights stay as they are, where the op takes that."""

    def autocast(*args: Any, **kwargs: Any) -> Any:
        values = dict(zip((argument.name for argument in op.arguments), op.bind(args, kwargs), strict=True))
        x, residual = values["x"], values.get("residual")
        if residual is not None:
            x = values["x"] = x.to(torch.promote_types(x.dtype, residual.dtype))
            values["residual"] = residual.to(x.dtype)
        for name in weights:
            if values[name] is not None and values[name].dtype not in (x.dtype, accumulate_type(x)):
                values[name] = values[name].to(accumulate_type(x))
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return op.overload(*values.values())

    return autocast


_reference_lock = threading.RLock()
_reference_depth = 0
_reference_library: torch.library.Library | None = None


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Let the references answer instead of the native kernels, in the whole process, while the context is open.

    The references take the native kernels' places in the dispatcher, so scripted, exported and compiled code asks them too.
    """
    global _reference_depth, _reference_library
    with _reference_lock:
        _reference_depth += 1
        if _reference_depth == 1 and _status.cpu_loaded:
            _reference_library = torch.library.Library("tvc", "IMPL")
            with warnings.catch_warnings():
                # torch warns that a kernel is overridden, which is what is wanted here.
                warnings.filterwarnings("ignore", message="Warning only once for all operators", category=UserWarning)
                for op in OPS.values():
                    for key in ("CPU", "CUDA"):
                        if torch._C._dispatch_has_kernel_for_dispatch_key(f"tvc::{op.name}", key):
                            assert op.reference is not None
                            _reference_library.impl(op.name, op.reference, key, allow_override=True)
    try:
        yield
    finally:
        with _reference_lock:
            _reference_depth -= 1
            if _reference_depth == 0 and _reference_library is not None:
                _reference_library._destroy()
                _reference_library = None


@dataclass(frozen=True)
class OpAnswer:
    """Who answers for an op on a device: ``native``, ``reference``, or ``unavailable`` where torch has no such device."""

    op: str
    device: str
    answer: str
    reason: str


def who_answers() -> list[OpAnswer]:
    """For each public op and device, who answers and why; read off the dispatcher, which is what decides."""
    answers = []
    for name in (name for name in OPS if not name.startswith("_")):
        for device, key, reason in (("cpu", "CPU", _status.cpu_reason), ("cuda", "CUDA", _status.cuda_reason)):
            if device == "cuda" and (no_cuda := _no_cuda()):
                answers.append(OpAnswer(name, device, "unavailable", no_cuda))
            elif _reference_depth:
                answers.append(OpAnswer(name, device, "reference", "ops.reference() is open"))
            elif torch._C._dispatch_has_kernel_for_dispatch_key(f"tvc::{name}", key):
                library = _status.library_path if device == "cpu" else _status.cuda_library_path
                instructions = f", {_status.instruction_set}" if device == "cpu" else ""
                answers.append(OpAnswer(name, device, "native", f"{library}{instructions}"))
            else:
                answers.append(OpAnswer(name, device, "reference", reason))
    return answers
