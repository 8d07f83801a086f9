"""The activations of five networks at images of 224×224, where the ops of the suite sit in them, or would.

A test runs the networks and compares.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Channels × height × width of maps, or channels × length of tokens.
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """Distinct shapes, in the order of the forward.

    Attributes:
        gates: where squeeze-and-excitation sits, or, where a network has none, what its blocks give, where it would.
        tails: the branches that are added to a residual.
        pools: what the last pooling reads.
    """

    gates: tuple[Shape, ...]
    tails: tuple[Shape, ...]
    pools: tuple[Shape, ...]


_RESNET50 = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
_CONVNEXT_T = ((96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7))
_SWIN_T = ((96, 3136), (192, 784), (384, 196), (768, 49))

NETWORKS: dict[str, Network] = {
    # All stages as pools: bounds speak of these four shapes for every op.
    "resnet50": Network(_RESNET50, _RESNET50, _RESNET50),
    "efficientnet_b0": Network(
        gates=(
            (32, 112, 112),
            (96, 56, 56),
            (144, 56, 56),
            (144, 28, 28),
            (240, 28, 28),
            (240, 14, 14),
            (480, 14, 14),
            (672, 14, 14),
            (672, 7, 7),
            (1152, 7, 7),
        ),
        tails=((24, 56, 56), (40, 28, 28), (80, 14, 14), (112, 14, 14), (192, 7, 7)),
        pools=((1280, 7, 7),),
    ),
    "mobilenet_v3_large": Network(
        gates=((72, 28, 28), (120, 28, 28), (480, 14, 14), (672, 14, 14), (672, 7, 7), (960, 7, 7)),
        tails=((16, 112, 112), (24, 56, 56), (40, 28, 28), (80, 14, 14), (112, 14, 14), (160, 7, 7)),
        pools=((960, 7, 7),),
    ),
    "convnext_tiny": Network(_CONVNEXT_T, _CONVNEXT_T, _CONVNEXT_T[-1:]),
    "swin_t": Network(_SWIN_T, _SWIN_T, _SWIN_T[-1:]),
}
