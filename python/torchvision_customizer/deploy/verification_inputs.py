"""What is compared with a file: the model in the file's form, on noise and on photographs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .formats import ExportOptions
from .known import known_shape

BATCH_SIZES = (1, 2, 5)
# Three of 96×96, uint8: an astronaut (NASA, in the public domain), a cat (Stéfan van der Walt, CC0) and a cup of coffee (Rachel
# Michetti, CC0). They come with the package because a check of every export can neither download nor ask for some.
_PHOTOGRAPHS = Path(__file__).with_name("photographs.safetensors")


def like_example(model: nn.Module, example_input: Tensor | None) -> Tensor:
    """The example, or one of the shape the model was patched for, and of the type and on the device of its parameters."""
    if example_input is not None:
        return example_input
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *known_shape(model), dtype=parameter.dtype, device=parameter.device)


def is_channels_last(x: Tensor) -> bool:
    """Whether an image batch is in that layout and no other."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def in_form(model: nn.Module, dtype: torch.dtype | None, channels_last: bool) -> nn.Module:
    """A copy of a model in eval mode, of a type and in a layout."""
    copied = copy.deepcopy(model).eval()
    if dtype is not None:
        copied.to(dtype)
    if channels_last:
        copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def inputs_for(example: Tensor, options: ExportOptions) -> Iterator[tuple[str, Tensor]]:
    """Inputs like ``example`` in all that a file does not leave open, each with its kind; the same ones each time.

    Noise and photographs in batches of 1, 2 and 5, or of the example's where the batch is fixed; and, where the size is open,
    photographs of another size.
    """
    batches = BATCH_SIZES if options.dynamic_batch else (example.size(0),)
    generator = torch.Generator().manual_seed(0)
    for size in batches:
        yield "noise", _like(torch.randn(size, *example.shape[1:], generator=generator), example)
    if example.dim() != 4:
        return
    for size in batches:
        yield "photographs", _like(photographs((size, *example.shape[1:]), options), example)
    if options.dynamic_size:
        height, width = example.shape[2:]
        shape = (batches[-1], example.size(1), height + 32, width + 64)
        yield "photographs", _like(photographs(shape, options), example)


def photographs(shape: tuple[int, ...], options: ExportOptions) -> Tensor:
    """A batch of photographs, different up to six, normalised as the options say or else to about -2 to 2.

    Another number of channels than 3 is filled with the mean of theirs.
    """
    count, channels, height, width = shape
    three = load_file(_PHOTOGRAPHS)["photographs"]
    every = torch.cat((three, three.flip(-1)))
    x = interpolate(every.float() / 255, (height, width), mode="bilinear", antialias=True, align_corners=False)
    x = x if channels == 3 else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    said = options.preprocessing
    if said is not None and len(said.mean) == channels:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (said.mean, said.std))
        x = (x - mean) / std
    else:
        x = (x - 0.5) * 4
    return x[torch.arange(count) % len(x)]


def _like(x: Tensor, example: Tensor) -> Tensor:
    x = x.to(example.device, example.dtype)
    return x.contiguous(memory_format=torch.channels_last if is_channels_last(example) else torch.contiguous_format)
