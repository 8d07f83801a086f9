"""What has to be known of a family of backbones beyond its modules: which of them are its stages and its head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .._torchvision import models
from ..errors import nearest


@dataclass(frozen=True)
class Family:
    """A family of torchvision classifiers.

    Attributes:
        class_name: its class, in a module of ``torchvision.models``.
        body: globs of what comes between the stem and the head. Where ``grouped``, what follows each other at one resolution
            is a stage; else each is a stage of its own.
        head: paths of what comes after the stages and has parameters.
        last_layers: paths of the layers whose outputs are the classes: first the model's, then those of its auxiliary heads.
        grouped: see ``body``.
        input_size: height and width of the images that it was made for.
    """

    class_name: str
    body: tuple[str, ...]
    head: tuple[str, ...]
    last_layers: tuple[str, ...]
    grouped: bool = True
    input_size: int = 224

    @property
    def last_layer(self) -> str:
        return self.last_layers[0]


# Only the order of execution and the names are written here; channels and strides are measured.
FAMILIES = (
    Family("AlexNet", ("features.*",), ("classifier",), ("classifier.6",)),
    Family("ConvNeXt", ("features.[1-7]",), ("classifier",), ("classifier.2",)),
    Family("DenseNet", ("features.denseblock*", "features.transition*", "features.norm5"), ("classifier",), ("classifier",)),
    Family("EfficientNet", ("features.[1-9]",), ("classifier",), ("classifier.1",)),
    Family("GoogLeNet", ("inception*",), ("fc", "aux1", "aux2"), ("fc", "aux1.fc2", "aux2.fc2")),
    Family("Inception3", ("Mixed_*",), ("fc", "AuxLogits"), ("fc", "AuxLogits.fc"), input_size=299),
    Family("MNASNet", ("layers.[89]", "layers.1?"), ("classifier",), ("classifier.1",)),
    Family("MaxVit", ("blocks.*",), ("classifier",), ("classifier.5",)),
    Family("MobileNetV2", ("features.[1-9]*",), ("classifier",), ("classifier.1",)),
    Family("MobileNetV3", ("features.[1-9]*",), ("classifier",), ("classifier.3",)),
    Family("RegNet", ("trunk_output.*",), ("fc",), ("fc",)),
    # With Wide ResNet and ResNeXt.
    Family("ResNet", ("layer*",), ("fc",), ("fc",)),
    Family("ShuffleNetV2", ("stage*", "conv5"), ("fc",), ("fc",)),
    Family("SqueezeNet", ("features.*",), ("classifier",), ("classifier.1",)),
    # With Swin v2.
    Family("SwinTransformer", ("features.[1-9]",), ("norm", "head"), ("head",)),
    Family("VGG", ("features.*",), ("classifier",), ("classifier.6",)),
    Family("VisionTransformer", ("encoder.layers.*",), ("encoder.ln", "heads"), ("heads.head",), grouped=False),
)
_BY_CLASS = {family.class_name: family for family in FAMILIES}


def list_backbones() -> list[str]:
    """The names that ``HybridBuilder.from_torchvision`` takes."""
    return list(models.list_models(module=models))


def check_backbone(name: str) -> str:
    """The name as torchvision spells it.

    Raises:
        ValueError: not a backbone; the message has the nearest name.
    """
    known = list_backbones()
    if name.lower() not in known:
        raise ValueError(f"unknown backbone '{name}'{nearest(name, known) or '; known: ' + ', '.join(known)}")
    return name.lower()


def find_family(model: nn.Module) -> Family | None:
    """The family of a model, patched or not, or None where it is of none."""
    own = (base for base in type(model).__mro__ if base.__module__.startswith("torchvision.models."))
    return next((_BY_CLASS[base.__name__] for base in own if base.__name__ in _BY_CLASS), None)
