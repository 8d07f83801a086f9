"""What a model is and costs: a summary, FLOPs, memory, and whether it runs. Nothing is computed, and the model is not touched.

The names and results are those of version 2.1; the numbers are torch's own.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ._fake import hooks_set_aside
from .compose import CustomCNN
from .compose.measure import DoesNotRun, output_shape

_MB = 1024**2


def _split(input_shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The batch, 1 where there is none, and the shape of one sample."""
    shape = tuple(input_shape)
    if len(shape) not in (3, 4) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"input_shape must be (N, C, H, W) or (C, H, W), of positive integers, got {shape}")
    return (1, shape) if len(shape) == 3 else (shape[0], shape[1:])


def calculate_output_shape(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """The shape of a model's output.

    Args:
        model: any model that gives one tensor.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.

    Returns:
        ``output_shape``, ``output_size`` (how many elements), and ``success``, which is True.

    Raises:
        ValueError: the model does not take such an input.
    """
    batch, sample = _split(input_shape)
    try:
        shape = (batch, *output_shape(model, sample)[1:])
    except DoesNotRun as error:
        raise ValueError(f"{type(model).__name__} does not take an input of shape {(batch, *sample)}: {error}") from error
    return {"output_shape": shape, "output_size": torch.Size(shape).numel(), "success": True}


def get_layer_summary(model: nn.Module, input_shape: Sequence[int]) -> list[dict[str, Any]]:
    """Each module that runs, in the order in which they end: ``name type output_shape parameters trainable``.

    Args:
        model: any model that gives one tensor.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.

    Raises:
        ValueError: the model does not take such an input.
    """
    batch, sample = _split(input_shape)
    ran: list[tuple[str, tuple[int, ...] | None]] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        ran.append((name, (batch, *output.shape[1:]) if isinstance(output, Tensor) else None))

    hooks = {name: partial(note, name) for name, _ in model.named_modules() if name}
    try:
        output_shape(model, sample, hooks)
    except DoesNotRun as error:
        raise ValueError(f"{type(model).__name__} does not take an input of shape {(batch, *sample)}: {error}") from error
    found: list[dict[str, Any]] = []
    for name, shape in ran:
        module = model.get_submodule(name)
        parameters = list(module.parameters())
        found.append(
            {
                "name": name,
                "type": type(module).__name__,
                "output_shape": shape,
                "parameters": sum(p.numel() for p in parameters),
                "trainable": any(p.requires_grad for p in parameters),
            }
        )
    return found


def count_parameters_by_type(model: nn.Module) -> dict[str, dict[str, int]]:
    """For each class of modules: how many there are (``count``), and their own parameters (``total``, ``trainable``)."""
    counts: dict[str, Counter[str]] = {}
    for module in model.modules():
        of_type = counts.setdefault(type(module).__name__, Counter(total=0, trainable=0, count=0))
        parameters = list(module.parameters(recurse=False))
        of_type["count"] += 1
        of_type["total"] += sum(p.numel() for p in parameters)
        of_type["trainable"] += sum(p.numel() for p in parameters if p.requires_grad)
    return {name: dict(counter) for name, counter in counts.items()}


def get_model_flops(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """FLOPs of a forward, two for each multiply-add, as ``torch.utils.flop_counter`` counts them.

    Args:
        model: any model.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.

    Returns:
        ``total_flops``, ``total_flops_in_billions``, and ``success``, which is True.

    Raises:
        ValueError: the model does not take such an input.

    Examples:
        >>> from torch import nn
        >>> from torchvision_customizer import get_model_flops
        >>> get_model_flops(nn.Conv2d(3, 8, 3, padding=1), (3, 16, 16))["total_flops"]
        110592
    """
    from .hybrid.probe import count_flops  # it imports torchvision

    batch, sample = _split(input_shape)
    calculate_output_shape(model, input_shape)
    flops = count_flops(model, sample)[""] * batch
    return {"total_flops": flops, "total_flops_in_billions": round(flops / 1e9, 4), "success": True}


def get_memory_usage(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Memory that a training step keeps, in units of 1024² bytes.

    Args:
        model: any model that gives one tensor.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.

    Returns:
        ``parameter_memory_mb``, of parameters and buffers; ``activation_memory_mb``, of the tensors that autograd keeps from
        the forward of one batch for the backward; ``total_memory_mb``, both. Gradients, the optimizer's state and what
        operations need while they run are not among them.

    Raises:
        ValueError: the model does not take such an input.
    """
    batch, sample = _split(input_shape)
    calculate_output_shape(model, input_shape)
    own = [*model.parameters(), *model.buffers()]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in own)
    kept = _kept_for_backward(model, (batch, *sample))
    sizes = {"parameter": stored, "activation": kept, "total": stored + kept}
    return {f"{name}_memory_mb": round(size / _MB, 4) for name, size in sizes.items()}


def _kept_for_backward(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that autograd keeps from a forward in training mode, without those of parameters and buffers."""
    double = copy.deepcopy(model).to("meta").train()
    tensors = [*double.parameters(), *double.buffers()]
    own = {tensor.untyped_storage()._cdata for tensor in tensors}
    kept: dict[int, Tensor] = {}  # a tensor of each storage, so that no storage's place is given to another

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    with hooks_set_aside(double), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        double(torch.empty(shape, device="meta", dtype=dtype))
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def print_model_summary(model: nn.Module, input_shape: Sequence[int], verbose: bool = True) -> dict[str, Any]:
    """What a model gives and costs.

    Args:
        model: any model that gives one tensor.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.
        verbose: whether to print it, too.

    Returns:
        ``model_name input_shape output_shape output_size total_parameters trainable_parameters frozen_parameters
        parameters_by_type memory flops``; the last three as their own functions give them.

    Raises:
        ValueError: the model does not take such an input.
    """
    output = calculate_output_shape(model, input_shape)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory, flops = get_memory_usage(model, input_shape), get_model_flops(model, input_shape)
    if verbose:
        shape = tuple(input_shape)
        print(f"{type(model).__name__}: {shape} -> {output['output_shape']}")
        print(f"  parameters  {total:,}, {trainable:,} of them trained, {total - trainable:,} frozen")
        print(f"  FLOPs       {flops['total_flops_in_billions']:,} billion, two for each multiply-add")
        print(f"  memory      {memory['parameter_memory_mb']:,} MB, and {memory['activation_memory_mb']:,} MB for the backward")
    return {
        "model_name": type(model).__name__,
        "input_shape": tuple(input_shape),
        "output_shape": output["output_shape"],
        "output_size": output["output_size"],
        "total_parameters": total,
        "trainable_parameters": trainable,
        "frozen_parameters": total - trainable,
        "parameters_by_type": count_parameters_by_type(model),
        "memory": memory,
        "flops": flops,
    }


def validate_model(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Whether a model takes an input, as values: ``valid``, ``errors`` (messages), and ``output_shape`` where it does.

    Args:
        model: any model that gives one tensor.
        input_shape: (N, C, H, W), or (C, H, W) for a batch of one.
    """
    try:
        shape = calculate_output_shape(model, input_shape)["output_shape"]
    except ValueError as error:
        return {"valid": False, "errors": [str(error)]}
    return {"valid": True, "errors": [], "output_shape": shape}


def validate_architecture(
    input_shape: Sequence[int],
    num_classes: int,
    num_conv_blocks: int,
    channels: Sequence[int] | None = None,
    pooling_kernel_size: int = 2,
    pooling_stride: int = 2,
) -> dict[str, Any]:
    """Whether a ``CustomCNN`` of these arguments can be made and run; :func:`validate_model` asks that of any model.

    Returns:
        ``valid``; ``errors`` and ``warnings``, messages; and, where it is valid, ``checks``: ``spatial_dimensions`` with
        ``input_spatial`` and ``final_spatial``, the height and width of the images and of the last block's maps, and
        ``channels``, those of the blocks.
    """
    result: dict[str, Any] = {"valid": False, "errors": [], "warnings": [], "checks": {}}
    final: list[tuple[int, ...]] = []
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore", DeprecationWarning)
            model = CustomCNN(
                input_shape,
                num_classes,
                num_conv_blocks,
                "auto" if channels is None else channels,
                pooling_kernel_size=pooling_kernel_size,
                pooling_stride=pooling_stride,
            )
        last = f"stages.{num_conv_blocks - 2}" if num_conv_blocks > 1 else "stem"
        output_shape(model, tuple(input_shape), {last: lambda module, args, output: final.append(tuple(output.shape[2:]))})
    except ValueError as error:
        return {**result, "errors": [str(error)]}
    if min(final[0]) < 4:
        size = "×".join(map(str, final[0]))
        result["warnings"].append(f"the last block's maps are {size}, which leaves little to average over")
    spatial = {"input_spatial": tuple(input_shape[1:]), "final_spatial": final[0]}
    return {**result, "valid": True, "checks": {"spatial_dimensions": spatial, "channels": model.get_config()["channels"]}}
