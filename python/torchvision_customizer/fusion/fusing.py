"""``fuse`` and ``unfuse``."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from . import attention as attention  # registers its kinds
from . import regularization as regularization
from .fresh import mark_overwriting
from .kinds import Fused, fuse_blocks, restore_blocks
from .norms import find_norms, fold_norms, unfold_norms
from .report import FoldedNorm, FuseReport, Untouched
from .tails import DoesNotRun, find_blocks, fuse_tails, probe_shapes, unfuse_tails

# Where a fused model keeps what unfuse needs: an entry of its __dict__, which copies and pickles like any other.
STATE = "_fused"


def fuse(model: nn.Module, inference: bool = False, example_input: Tensor | None = None) -> FuseReport:
    """Fuse what a model contains, in place: known blocks, the tails of residual blocks, and for inference its norms.

    - A block of a known kind (:func:`fusable_kinds`: torchvision's ``SqueezeExcitation``, timm's ``SEModule`` and others) runs
      as one op. It keeps its children and parameters, and gets another class.
    - The tail of a residual block, ``relu(se(x) + identity)``, becomes one call of the attention or drop path in it. A block
      of a library is opened for that as a patch opens it: it becomes a ``GraphModule`` with the same children.
    - With ``inference``, a batch norm right after a convolution is folded into the convolution's weights, and attention in a
      ``Sequential`` overwrites what the layer before it has made. A hook that keeps that layer's output sees it overwritten.

    The numbers, gradients, parameters and state-dict keys are those of the model before, up to rounding; training, scripting,
    exporting and compiling work as before. With ``inference`` the model is for inference alone: it cannot be set to training
    mode, folded convolutions have a bias and no gradients, and ``state_dict()`` has them in place of the norms; it loads into a
    model that was fused so, and into no other. To save the model that was, unfuse it first.

    :func:`unfuse` takes everything back. Fusing twice does no more than fusing once.

    Args:
        model: any model.
        inference: fold norms, too. The model must be in evaluation mode.
        example_input: an input the model takes. It is not computed with: it only tells shapes, because a residual that would be
            broadcast cannot be fused. By default the input the model was patched for, or (2, 3, 224, 224).

    Returns:
        The fused places, and for each other place the reason. A model with nothing to fuse is unchanged, with a warning.

    Raises:
        ValueError: the model does not take ``example_input``, or with ``inference`` is in training mode. It is unchanged.

    Examples:
        >>> import torchvision_customizer as tvc
        >>> model = tvc.Template.resnet(layers=18).add_attention("se").build(num_classes=2).eval()
        >>> report = tvc.fuse(model, inference=True)
        >>> print(report.summary())
        fused 8 tails, folded 20 norms
        >>> model = tvc.unfuse(model)
    """
    if inference and model.training:
        raise ValueError("fuse: inference=True needs a model in evaluation mode, where norms are fixed; call model.eval()")
    blocks, untouched = find_blocks(model)
    try:
        if blocks:
            probe_shapes(model, blocks, example_input)
    except DoesNotRun as error:
        if example_input is not None:
            raise
        untouched += [Untouched(found.path, f"the tail of this block stays: {error}") for found in blocks]
        blocks = []
    state: dict[str, Any] = vars(model).get(STATE, {"tails": {}, "opened": (), "folds": []})
    already = is_fused(model)

    norms: list[FoldedNorm] = []
    known = [path for path, module in model.named_modules() if isinstance(module, Fused)]
    if inference and not state["folds"]:
        restore_blocks(model)  # a fused block with a norm has another form without it
        state["folds"], not_folded = find_norms(model)
        norms = fold_norms(model, state["folds"])
        untouched += not_folded
    replaced, not_replaced = fuse_blocks(model)
    replaced = [block for block in replaced if block.module not in known]
    if inference:
        mark_overwriting(model)
    tails, not_fused, opened, written = fuse_tails(model, blocks, state["tails"])
    state["opened"] = (*state["opened"], *opened)
    if state["tails"] or state["folds"]:
        vars(model)[STATE] = state
    report = FuseReport(tuple(replaced), tuple(tails), tuple(norms), (*not_replaced, *not_fused, *untouched), tuple(written))
    if not (report.fused or report.norms or report.written or already):
        warnings.warn(f"fuse: {report.summary()}", stacklevel=2)
    return report


def is_fused(model: nn.Module) -> bool:
    """Whether :func:`fuse` has changed anything in ``model``."""
    return STATE in vars(model) or any(isinstance(module, Fused) for module in model.modules())


def unfuse(model: nn.Module) -> nn.Module:
    """Take back what :func:`fuse` did to ``model``: classes, graphs, convolutions and norms are as they were.

    Parameters keep their present values, but for what was folded, which is as it was before. A model that is not fused is
    left as it is.

    Args:
        model: the model given to :func:`fuse`, or a copy of it.

    Returns:
        The same model.
    """
    state = vars(model).pop(STATE, None)
    if state is not None:
        unfuse_tails(model, state["tails"], state["opened"])
    restore_blocks(model)
    if state is not None:
        unfold_norms(model, state["folds"])
    return model
