"""Change a pre-trained CNN without touching its source, keep its weights, train it, and ship it fast.

    import torchvision_customizer as tvc

    model = tvc.HybridBuilder().from_torchvision("resnet50", patches={"layer*": {"inject": "se"}})
    tvc.fuse(model)
    tvc.export(model, "resnet50_se.pt")

The public names are imported when they are first used, so that ``import torchvision_customizer`` itself costs nothing.
"""

from importlib import import_module
from typing import Any

# Each public name, and the module it comes from.
_PUBLIC = {
    "registry": "registry",
    "ops": "ops",
    **dict.fromkeys(
        (
            "GRN",
            "AsymmetricBottleneck",
            "AttentionBlock",
            "BlurPool2d",
            "CBAMBlock",
            "ChannelAttention",
            "ChannelSpatialAttention",
            "Conv3DBlock",
            "ConvBNAct",
            "ConvBlock",
            "CoordConv",
            "CoordinateAttention",
            "DenseConnectionBlock",
            "DepthwiseBlock",
            "DepthwiseSeparableConv2d",
            "DropBlock2d",
            "DropPath",
            "Dropout",
            "Dropout2d",
            "ECABlock",
            "EffectiveSE",
            "FrozenBatchNorm",
            "FusedMBConv",
            "GatherExcite",
            "GeM",
            "GlobalContext",
            "GroupNorm",
            "GroupedBottleneck",
            "InceptionModule",
            "LayerNorm2d",
            "LayerScale",
            "MBConv",
            "Mish",
            "MultiHeadAttention",
            "MultiScaleBottleneck",
            "PReLU",
            "RMSNorm2d",
            "ResidualBlock",
            "ResidualSequence",
            "ResidualStage",
            "SEBlock",
            "SpatialAttention",
            "SqueezeExcitation",
            "StandardBottleneck",
            "StochasticPool2d",
            "SuperConv2d",
            "SuperLinear",
            "Threshold",
            "WideBottleneck",
        ),
        "blocks",
    ),
    "BuildReport": "hybrid",
    "HybridBuilder": "hybrid",
    "HybridModel": "hybrid",
    "Plan": "hybrid",
    "create_hybrid": "hybrid",
    "plan": "hybrid",
    "apply": "hybrid",
    "unpatch": "hybrid",
    "ModelDiff": "hybrid",
    "diff": "hybrid",
    "save": "hybrid",
    "load": "hybrid",
    "calibrate": "hybrid",
    "partial_load": "hybrid",
    "transfer_weights": "hybrid",
    "match_state_dict": "hybrid",
    "parameter_groups": "hybrid",
    "BackboneInfo": "hybrid",
    "extract_tiers": "hybrid",
    "get_backbone_info": "hybrid",
    **dict.fromkeys(
        (
            "BranchedModule",
            "ComposableModule",
            "Compose",
            "ComposedModule",
            "CustomCNN",
            "DetectionHead",
            "Head",
            "PatchStem",
            "ResidualWrapper",
            "SegmentationHead",
            "Sequential",
            "SimpleStem",
            "Stage",
            "Stem",
            "TransitionLayer",
            "VisionModel",
            "build_vision_model",
            "register_pattern",
        ),
        "compose",
    ),
    **dict.fromkeys(("get_model_flops", "print_model_summary", "validate_architecture"), "utils"),
    **dict.fromkeys(
        (
            "Recipe",
            "SearchSpace",
            "build_recipe",
            "load_yaml_recipe",
            "recipe_schema",
            "search_space",
        ),
        "recipe",
    ),
    "FuseReport": "fusion",
    "fuse": "fusion",
    "unfuse": "fusion",
    "ExportReport": "deploy",
    "Preprocessing": "deploy",
    "VerificationError": "deploy",
    "VerifyReport": "deploy",
    "export": "deploy",
    "load_exported": "deploy",
    "verify": "deploy",
    **dict.fromkeys(("Template", "densenet", "efficientnet", "mobilenet", "resnet", "vgg"), "templates"),
    **dict.fromkeys(("diff_page", "model_page"), "pages"),
    **dict.fromkeys(("Data", "Evaluation", "Trainer", "TrainingMetrics", "evaluate", "open_data", "quick_train"), "train"),
    "PatchError": "errors",
    "RecipeError": "errors",
    "WeightsError": "errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("torchvision-customizer")
    elif name in _PUBLIC:
        module = import_module(f".{_PUBLIC[name]}", __name__)
        value = module if _PUBLIC[name] == name else getattr(module, name)
    else:
        from .errors import nearest

        raise AttributeError(f"torchvision_customizer has no '{name}'{nearest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
