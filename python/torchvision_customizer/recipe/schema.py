"""What a recipe may say, as typed models, and the same as a JSON schema for editors. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

# Larger ones are slips of the finger, and would take all memory before anything says so.
Channels = Annotated[int, Field(ge=1, le=65_536)]
Side = Annotated[int, Field(ge=1, le=65_536)]
Kernel = Annotated[int, Field(ge=1, le=255)]
Count = Annotated[int, Field(ge=1, le=1_000)]
Classes = Annotated[int, Field(ge=0, le=10_000_000)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


def _one_or_more(kind: str) -> tuple[BeforeValidator, WithJsonSchema]:
    one = {"type": kind}
    return BeforeValidator(_as_list), WithJsonSchema({"anyOf": [one, {"type": "array", "items": one}]})


Integers = Annotated[list[int], *_one_or_more("integer")]
Widths = Annotated[list[Channels], *_one_or_more("integer")]


def _check_size(value: Any) -> Any:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side <= 255 for side in sides):
        raise ValueError("must be an integer from 0 to 255, or two of them")
    return value


_INTEGER = {"type": "integer", "minimum": 0, "maximum": 255}
_SIZE = {"anyOf": [_INTEGER, {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}]}
Size = Annotated[Any, AfterValidator(_check_size), WithJsonSchema(_SIZE)]
Padding = Annotated[
    Any,
    AfterValidator(lambda value: value if value in ("same", "valid") else _check_size(value)),
    WithJsonSchema({"anyOf": [*_SIZE["anyOf"], {"enum": ["same", "valid"]}]}),
]


class Section(BaseModel):
    """A mapping of a recipe: it has these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """What the recipe says, without defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class ConvStem(Section):
    """A convolution, a norm, an activation and a pool."""

    type: Literal["conv"] = "conv"
    channels: Channels = Field(description="Channels that come out.")
    in_channels: Channels | None = Field(None, description="Channels of the images; by default those of input_shape.")
    kernel: Kernel = Field(7, description="Kernel size of the convolution.")
    stride: Count = Field(2, description="Stride of the convolution.")
    padding: Annotated[int, Field(ge=0, le=255)] | None = Field(None, description="By default half the kernel.")
    activation: str | None = Field("relu", description="A name of `tvc list-blocks --category activation`, or none.")
    norm: str | None = Field("batch", description="batch, group, instance, layer, none, or a registered norm.")
    pool: str | None = Field("max", description="max, avg, none, or a registered pool.")
    pool_kernel: Kernel = 3
    pool_stride: Count = 2
    pool_padding: Annotated[int, Field(ge=0, le=127)] = 1


class SimpleStem(Section):
    """A 3×3 convolution at full resolution, a norm and an activation: for small images."""

    type: Literal["simple"]
    channels: Channels
    in_channels: Channels | None = None
    activation: str | None = "relu"
    norm: str | None = "batch"


class PatchStem(Section):
    """A convolution over patches that do not overlap."""

    type: Literal["patch"]
    embed_dim: Channels = Field(description="Channels that come out.")
    patch_size: Kernel = 16
    in_channels: Channels | None = None


class Stage(Section):
    """Blocks of one kind, one after the other. Which options there are besides the first few depends on the pattern."""

    # A pattern of the user's may have options of its own; which there are is checked with the pattern.
    model_config = ConfigDict(extra="allow")

    pattern: str = Field(
        "residual", description="The block, and what goes into it: residual, bottleneck+se, mbconv+eca+drop_path. Also `block`."
    )
    channels: Channels = Field(description="Channels that come out.")
    blocks: Count = Field(2, description="How many.")
    name: str | None = Field(None, description="By which a recipe that extends this one can change the stage.")
    attention: str | None = Field(None, description="In every block: se is the same as +se in the pattern.")
    in_channels: Channels | None = Field(None, description="By default what comes out of what is before the stage.")
    downsample: bool = Field(False, description="Whether the first block has a stride, of 2 unless stride says another.")
    stride: Count | None = Field(None, description="Stride of the first block.")
    activation: str | None = Field(None, description="A name of `tvc list-blocks --category activation`, or none.")
    norm: str | None = Field("batch", description="batch, group, instance, layer, none, or a registered norm.")
    expansion: Count | None = Field(None, description="How much narrower a bottleneck is inside, or how much wider an mbconv.")
    growth_rate: Channels | None = Field(None, description="Channels that each layer of dense adds.")
    se_reduction: Count | None = Field(None, description="Of squeeze-and-excitation. Also `reduction`.")
    groups: Channels | None = Field(None, description="Of conv and grouped_bottleneck.")
    width_multiplier: Annotated[float, Field(gt=0, le=64)] | None = Field(None, description="Of wide_bottleneck.")
    kernel_size: Size | None = None
    padding: Padding | None = None
    dilation: Size | None = None
    bias: bool | None = None
    drop_path: Probability | None = Field(None, description="Probability that a block is passed over.")
    dropout_rate: Probability | None = Field(None, description="Of conv and dense. Also `dropout`.")
    pooling_type: str | None = Field(None, description="Of conv: a pool after each block.")
    pooling_kernel_size: Size | None = None
    pooling_stride: Size | None = None
    bottleneck_ratio: Count | None = Field(None, description="Of dense.")
    add_residual: bool | None = Field(None, description="Of depthwise.")
    use_se: bool | None = None
    bottleneck: bool | None = Field(None, description="Of residual.")
    use_downsample: bool | None = Field(None, description="Of bottlenecks.")


class Transition(Section):
    """Fewer channels, and half the resolution: what stands between dense stages."""

    pattern: Literal["transition"]
    compression: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="Channels that come out, for each that comes in.")
    pool_size: Count = 2
    in_channels: Channels | None = None
    activation: str | None = "relu"
    norm: str | None = "batch"
    name: str | None = None


def _kind_of_stage(value: Any) -> str:
    return "transition" if isinstance(value, dict) and value.get("pattern") == "transition" else "stage"


AnyStage = Annotated[Annotated[Stage, Tag("stage")] | Annotated[Transition, Tag("transition")], Discriminator(_kind_of_stage)]


class LinearHead(Section):
    """A pool, hidden layers where there are any, and a linear layer."""

    type: Literal["linear"] = "linear"
    num_classes: Classes
    in_features: Channels | None = None
    hidden: Widths | None = Field(None, description="Widths of hidden layers.")
    dropout: Probability = 0.0
    pool: str | None = Field("adaptive_avg", description="adaptive_avg, adaptive_max, gem, none, or a registered pool.")
    activation: str = "relu"


class SegmentationHead(Section):
    """Classes for each pixel."""

    type: Literal["segmentation"]
    num_classes: Classes
    in_channels: Channels | None = None
    hidden_channels: Channels = 256
    upsample_factor: Count = 1
    norm: str | None = "batch"
    activation: str | None = "relu"
    dropout: Probability = 0.0


class DetectionHead(Section):
    """Classes and boxes for each anchor at each position."""

    type: Literal["detection"]
    num_classes: Classes
    num_anchors: Count = 9
    in_channels: Channels | None = None


class BackboneHead(Section):
    """What is changed about a backbone's own head."""

    type: Literal["linear"] = "linear"
    num_classes: Classes | None = Field(None, description="A new last layer for so many classes; 0 gives features.")
    dropout: Probability | None = Field(None, description="A dropout before the last layer.")
    hidden: Widths = Field([], description="Widths of hidden layers before the last one.")
    keep_classes: Integers = Field([], description="Classes that go on with their weights, as the first of the new ones.")
    last_layer: str | None = Field(None, description="Of a model that is neither torchvision's nor timm's: its last layer.")


class Backbone(Section):
    """A pre-trained model, and what is changed in it."""

    name: str = Field(description="A name of `tvc list-backbones`.")
    library: Literal["torchvision", "timm", "template"] | None = Field("torchvision", description="Where the model comes from.")
    weights: str | None = Field("DEFAULT", description="A name of torchvision's weights, DEFAULT, a file, or null.")
    arguments: dict[str, Any] = Field({}, description="Arguments of the model's constructor.")
    patches: dict[str, Any] | list[dict[str, Any]] = Field({}, description="Targets, and the operations there.")


class DataOptions(Section):
    """What is trained on."""

    dataset: str | None = Field(None, description="A classification set of torchvision, or a folder of images.")
    data_dir: str | None = Field(None, description="Where the data is.")
    val_fraction: Probability | None = Field(None, description="Share of the training images that is held out for validation.")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    augment: Annotated[
        Literal["none", "basic", "randaugment", "trivialaugment"],
        BeforeValidator(lambda value: ("none", "basic")[value] if isinstance(value, bool) else value),
        WithJsonSchema({"enum": ["none", "basic", "randaugment", "trivialaugment", True, False]}),
    ] = "basic"
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None


class FitOptions(Section):
    """What ``Trainer.fit`` does, and for how long."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    accumulate: Count = Field(1, description="Batches to one step of the optimizer.")
    lr: Positive = Field(1e-3, description="Learning rate. Also `learning_rate`.")
    optimizer: str = Field("adam", description="A class of torch.optim; case does not count.")
    momentum: Probability | None = None
    weight_decay: NonNegative | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Factor from one stage to the one before it."
    )
    scheduler: Literal["cosine", "step", "onecycle", "constant", "none"] | None = "cosine"
    step_size: Annotated[int, Field(ge=1, le=100_000)] | None = Field(None, description="Epochs between the steps of `step`.")
    gamma: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Factor of each step of `step`.")
    warmup_epochs: NonNegative = 0.0
    min_lr: NonNegative = 0.0
    label_smoothing: Probability = 0.0
    clip_grad_norm: Positive | None = None
    gradual_unfreezing: Count | None = Field(None, description="Epochs after which one more stage is trained, last one first.")
    ema: Probability | None = Field(None, description="Decay of a moving average of the weights.")
    early_stopping: Count | None = Field(None, description="Epochs without progress after which training stops.")


class TrainerOptions(Section):
    """How a ``Trainer`` runs a model."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    fused: bool = True
    sync_batch_norm: bool = Field(False, description="Batch norms over the images of all GPUs.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Training(TrainerOptions, FitOptions, DataOptions):
    """How the model is trained."""

    freeze_backbone: bool = Field(False, description="Train the head and the new modules only.")
    unfreeze_stages: Integers | None = Field(None, description="Stages of a frozen backbone that are trained, too.")


class Export(Section):
    """How the trained model is written to a file."""

    format: Literal["torchscript", "pt2", "aoti", "onnx"] = "torchscript"
    fused: bool = Field(True, description="Keep the fused ops, or use plain PyTorch in their place.")
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    dynamic_batch: bool = True
    dynamic_size: bool = False
    fold_norms: bool = Field(False, description="Fold norms into convolutions.")
    opset: Annotated[int, Field(ge=18, le=99)] | None = Field(None, description="Of ONNX.")
    verify: bool = True
    mean: list[float] | None = Field(None, min_length=1, description="Of the images, for the metadata of the file.")
    std: list[Positive] | None = Field(None, min_length=1)
    resize: Side | None = Field(None, description="What the short side of an image becomes; by default as crop.")
    crop: Side | None = Field(None, description="Height and width of what is cut out of it; by default those of input_shape.")
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    classes: list[str] | None = None


class Common(Section):
    """What every recipe may say."""

    extends: str | None = Field(None, description="A shipped recipe, or a file below this one's folder, that this one changes.")
    name: str = "CustomModel"
    version: str | None = None
    description: str | None = None
    input_shape: Annotated[list[Side], Field(min_length=3, max_length=3)] = Field(
        [3, 224, 224], description="Channels, height and width of an image."
    )
    num_classes: Classes | None = Field(None, description="The same as num_classes of the head.")
    macros: dict[str, Any] = Field({}, description="Values by name, used as ${name} or '@name'.")
    training: Training | None = None
    export: Export | None = None


class BackboneRecipe(Common):
    """A pre-trained model with patches."""

    backbone: Backbone
    head: BackboneHead | None = None


class ComposedRecipe(Common):
    """A stem, stages and a head."""

    stem: Annotated[ConvStem | SimpleStem | PatchStem, Field(discriminator="type")]
    stages: Annotated[list[AnyStage], Field(min_length=1, max_length=1_000)]
    head: Annotated[LinearHead | SegmentationHead | DetectionHead, Field(discriminator="type")]


class Unfinished(Common):
    """A recipe without a model: what is there is looked at all the same."""

    backbone: Any = None
    stem: Any = None
    stages: Any = None
    head: Any = None


AnyRecipe = BackboneRecipe | ComposedRecipe
SECTIONS: dict[str, tuple[type[Section], ...]] = {
    "": (BackboneRecipe, ComposedRecipe),
    "stem": (ConvStem, SimpleStem, PatchStem),
    "stages": (Stage, Transition),
    "head": (LinearHead, SegmentationHead, DetectionHead, BackboneHead),
    "backbone": (Backbone,),
    "training": (Training,),
    "export": (Export,),
}
STEMS: dict[str, type[Section]] = {"conv": ConvStem, "simple": SimpleStem, "patch": PatchStem}
HEADS: dict[str, type[Section]] = {"linear": LinearHead, "segmentation": SegmentationHead, "detection": DetectionHead}

_SHORT = {
    "stem": "conv(64, k=7, s=2)",
    "Stage": "residual+se(128) x 4 | downsample",
    "head": "linear(1000, dropout=0.2)",
    "backbone": "resnet50(weights=DEFAULT)",
}


def __getattr__(name: str) -> Any:
    """Where version 2.1 had them."""
    if name == "RECIPE_SCHEMA":
        return recipe_schema()
    if name in ("validate_recipe_config", "ValidationError"):
        from .. import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def recipe_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of recipes, for editors.

    It knows every key and type, short forms and macros. What depends on more than one key, on the backbone, or on the names of
    blocks is found by ``tvc validate`` only.
    """
    parts = [model.model_json_schema() for model in (BackboneRecipe, ComposedRecipe)]
    definitions: dict[str, Any] = {name: part for schema in parts for name, part in schema["$defs"].items()}
    properties: dict[str, Any] = {**parts[0]["properties"], **parts[1]["properties"]}
    properties["head"] = {"anyOf": [part["properties"]["head"] for part in parts]}
    definitions["Stage"]["additionalProperties"] = False
    _name_second_keys(definitions)
    schema = {"properties": properties, "$defs": definitions}
    for part in (properties, *(definition.get("properties", {}) for definition in definitions.values())):
        for key in part:
            part[key] = _or_macro(part[key])
    text = {"type": "string"}
    for key in ("stem", "head", "backbone"):
        properties[key]["anyOf"].append({**text, "examples": [_SHORT[key]]})
    stage = {"anyOf": [{"$ref": "#/$defs/Stage"}, {"$ref": "#/$defs/Transition"}, {**text, "examples": [_SHORT["Stage"]]}]}
    properties["stages"] = {
        "description": "The stages in order; or, in a recipe that extends another, changes to stages by index or name.",
        "anyOf": [
            {"type": "array", "items": stage, "minItems": 1},
            {
                "type": "object",
                "additionalProperties": {"anyOf": [*stage["anyOf"], {"$ref": "#/$defs/StageChange"}, {"type": "null"}]},
            },
            {"$ref": "#/$defs/Macro"},
        ],
    }
    definitions["StageChange"] = {**definitions["Stage"], "title": "StageChange", "required": []}
    definitions["Macro"] = {"type": "string", "pattern": r"\$\{|^@", "description": "A macro."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of torchvision-customizer",
        "type": "object",
        **schema,
        "additionalProperties": False,
        "anyOf": [{"required": ["backbone"]}, {"required": ["stem", "stages", "head"]}, {"required": ["extends"]}],
    }


def _or_macro(schema: dict[str, Any]) -> dict[str, Any]:
    """A property that may be a macro, too, or null, which takes away what the parent says."""
    about: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    choices = rest["anyOf"] if list(rest) == ["anyOf"] else [rest]
    more = [choice for choice in ({"type": "null"}, {"$ref": "#/$defs/Macro"}) if choice not in choices]
    return {**about, "anyOf": [*choices, *more]}


def _name_second_keys(definitions: dict[str, Any]) -> None:
    """Other names of keys, as the loader reads them."""
    from .parts import OTHER_NAMES

    for part, models in SECTIONS.items():
        for model in models:
            properties = definitions.get(model.__name__, {}).get("properties", {})
            for other, name in OTHER_NAMES.get(part, {}).items():
                if name in properties and other not in properties:
                    properties[other] = {**properties[name], "description": f"The same as {name}."}
            if "required" in definitions.get(model.__name__, {}):  # short names stand for them, and extends brings them
                definitions[model.__name__].pop("required")
