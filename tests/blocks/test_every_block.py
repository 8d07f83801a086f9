"""What every block promises, by being registered."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from examples import batch, blocks_with, make, run
from torch import nn

from torchvision_customizer import blocks, registry

every_block = pytest.mark.parametrize("name", registry.list())


def take_a_tail():
    return [name for name in registry.list() if "post" in inspect.signature(registry.get(name).forward).parameters]


@every_block
def test_every_parameter_gets_a_gradient(name):
    block, x = make(name), batch(name, requires_grad=True)
    run(block, x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@every_block
def test_scripted_exported_and_copied_blocks_agree(name):
    block, x = make(name).eval(), batch(name)
    expected = run(block, x)
    assert torch.equal(run(torch.jit.script(block), x), expected)
    assert torch.equal(run(torch.export.export(block, (x,)).module(), x), expected)
    assert torch.equal(run(copy.deepcopy(block), x), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(block)), x), expected)


def same_compiled(name, backend):
    torch._dynamo.reset()
    block, x = make(name, dtype=torch.float64).eval(), batch(name, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    results = []
    for call in (block, compiled):
        out = run(call, x)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, mine)


def of_torch(name):
    return registry.get(name).__module__.startswith("torch.")


# Compiling takes long: torch's own classes, and blocks that are nothing but others in a row, wait for the full tier.
def compiled():
    slow = [pytest.mark.full]
    rows = [(name, of_torch(name) or registry.info(name)["category"] == "architecture") for name in registry.list()]
    return [pytest.param(name, marks=slow if waits else []) for name, waits in rows]


@pytest.mark.parametrize("name", compiled())
def test_compiled_blocks_agree(name):
    same_compiled(name, "aot_eager")


@pytest.mark.full
@every_block
def test_blocks_compiled_by_inductor_agree(name):
    same_compiled(name, "inductor")


@pytest.mark.full
@every_block
def test_training_compiles(name):
    torch._dynamo.reset()
    block, x = make(name).train(), batch(name)
    out = run(torch.compile(block, backend="eager", fullgraph=True), x)
    assert out.shape == run(block, x).shape and out.isfinite().all()


@every_block
def test_a_state_dict_goes_round(name):
    block, other, x = make(name).eval(), make(name).eval(), batch(name)
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(run(other, x), run(block, x))


@every_block
def test_device_and_type_are_honoured(name):
    block = make(name, dtype=torch.float64)
    tensors = [tensor for tensor in block.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in tensors} <= {torch.float64}
    assert run(block, batch(name, dtype=torch.float64)).dtype == torch.float64
    meta = make(name, device="meta")
    assert {tensor.device.type for tensor in meta.state_dict().values()} <= {"meta"}
    if "device" in registry.parameters_of(registry.get(name)):
        assert run(meta, batch(name, device="meta")).shape == run(block, batch(name, dtype=torch.float64)).shape


@every_block
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16(name, training):
    block, x = make(name).train(training), batch(name)
    half, y = copy.deepcopy(block).to(torch.bfloat16), x.to(torch.bfloat16).requires_grad_()
    out = run(half, y)
    out.square().sum().backward()
    assert out.dtype == y.grad.dtype == torch.bfloat16 and y.grad.isfinite().all()
    if not training:  # what is drawn differs
        expected = run(block, x)
        assert (out.float() - expected).norm() <= 0.03 * expected.norm()


@every_block
def test_autocast(name):
    block, x = make(name).eval(), batch(name)
    expected = run(block, x)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(block, x)
    assert (out.float() - expected).norm() <= 0.03 * expected.norm()


@every_block
def test_channels_last(name):
    block, x = make(name).eval(), batch(name)
    if x.dim() not in (4, 5):
        return
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    expected = run(block, x)
    torch.testing.assert_close(run(block.to(memory_format=layout), x.contiguous(memory_format=layout)), expected)
    run(block.train(), x.contiguous(memory_format=layout).requires_grad_()).sum().backward()


@every_block
def test_its_input_stays(name):
    for training in (True, False):
        block, x = make(name).train(training), batch(name)
        before = x.clone()
        with torch.no_grad():
            run(block, x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", blocks_with("init"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_identity_start_is_exact(name, dtype):
    block, x = make(name, init="identity", dtype=dtype), batch(name, dtype=dtype)
    assert torch.equal(block(x), x)
    assert torch.equal(block(x.to(memory_format=torch.channels_last)), x)


@pytest.mark.parametrize("name", blocks_with("init"))
def test_identity_start_learns(name):
    block, x = make(name, init="identity"), batch(name)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (block(x) - 0.5 * x).square().mean().backward()
        optimizer.step()
    assert not torch.equal(block(x), x)


@pytest.mark.parametrize("name", [name for name in registry.list() if hasattr(registry.get(name), "starts_as_identity")])
def test_what_starts_as_the_identity_does(name):
    block, x = make(name).eval(), batch(name)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", take_a_tail())
@pytest.mark.parametrize("training", [True, False])
def test_the_tail_is_that_of_a_residual_block(name, training):
    block = make(name).train(training)
    x, residual = batch(name), batch(name)

    def seeded(*args):
        torch.manual_seed(3)
        return block(*args)

    torch.testing.assert_close(seeded(x, residual, "silu"), torch.nn.functional.silu(seeded(x) + residual))
    torch.testing.assert_close(seeded(x, None, "relu"), torch.relu(seeded(x)))
    with torch.no_grad():
        expected = seeded(x, residual, "relu")
        torch.testing.assert_close(seeded(x.clone(), residual, "relu", True), expected)


@every_block
def test_what_is_said_of_it(name):
    info = registry.info(name)
    assert (info["description"] and info["paper"] is None) or info["paper"].startswith("https://")
    assert info["signature"].startswith(f"{registry.get(name).__name__}(") and "\n" not in info["signature"]
    assert all(key in info["signature"] for key in info["parameters"])
    assert registry.get(name).__name__ in info["aliases"]
    if registry.get(name).__module__.startswith("torchvision_customizer"):
        documented = inspect.getdoc(registry.get(name))
        own = "__init__" in vars(registry.get(name))
        assert not own or all(f"    {key}: " in documented for key in info["parameters"])


def test_there_are_enough_of_them():
    assert len(registry.list()) >= 60
    assert len(registry.categories()) >= 8


def test_every_class_of_the_package_is_registered():
    for name in blocks.__all__:
        assert registry.get(name) is getattr(blocks, name)


# Name, aliases and constructor parameters of version 2.1, as its registry printed them. Defects 19 and 20: not all of its names
# resolved, and a class had its name or had not.
OF_2_1 = """
mish | Mish |
residual_sequence | | in_channels num_stages blocks_per_stage channels_per_stage stride_schedule expansion use_bottleneck \
activation norm_type use_se
residual_stage | | in_channels out_channels num_blocks stride expansion use_bottleneck bottleneck_type activation norm_type \
use_se se_reduction downsample_first
attention_block | | channels use_channel use_spatial use_cross channel_reduction spatial_kernel
channel_spatial | | channels channel_reduction spatial_kernel
cbam_block | CBAMBlock cbam_attention cbam | channels reduction spatial_kernel
channel_attention | ca channel | channels reduction activation
eca | eca_block ECABlock efficient_channel | channels kernel_size gamma beta
multihead_attention | mha multihead | embed_dim num_heads dropout bias batch_first
se_enhanced | se_v2 | channels reduction activation gate_activation use_bn
spatial_attention | sa spatial | kernel_size
conv | conv2d convblock | in_channels out_channels kernel_size stride padding activation use_batchnorm dropout_rate \
pooling_type pooling_kernel_size pooling_stride dilation groups bias
conv3d | | in_channels out_channels kernel_size stride padding activation num_layers
conv_bn_act | ConvBNAct convbnact | in_channels out_channels kernel_size stride padding groups activation use_bn
coord_conv | CoordConv coordinate_conv | in_channels out_channels kernel_size with_r
dense | dense_block densenet | num_layers in_channels growth_rate kernel_size bottleneck_ratio activation use_batchnorm \
dropout_rate
depthwise | dw depthwise_separable | in_channels out_channels kernel_size stride padding activation norm_type add_residual
fused_mbconv | FusedMBConv fused_inverted_residual | in_channels out_channels expansion stride kernel_size use_se drop_path
inception | inception_module | in_channels out_1x1 out_3x3 out_5x5 out_pool activation norm_type
mbconv | MBConv inverted_residual | in_channels out_channels expansion stride kernel_size use_se se_reduction drop_path
residual | res resblock | in_channels out_channels stride downsample activation norm_type use_se se_reduction bottleneck
se | squeeze_excitation seblock squeeze_excite | channels reduction activation
super_conv | | in_channels out_channels kernel_size stride padding dilation groups activation norm_type use_activation \
use_normalization
super_linear | | in_features out_features activation dropout_rate use_activation use_dropout bias
bottleneck | standard_bottleneck | in_channels out_channels stride expansion activation norm_type use_downsample
grouped_bottleneck | | in_channels out_channels num_groups stride expansion activation norm_type use_downsample
wide_bottleneck | | in_channels out_channels width_multiplier stride expansion activation norm_type use_downsample
gem | generalized_mean GeM | p eps learnable
drop_path | stochastic_depth DropPath | drop_prob scale_by_keep
layer_scale | | dim init_value
"""


@pytest.mark.parametrize("line", [line for line in OF_2_1.replace("\\\n", "").splitlines() if line])
def test_names_and_arguments_of_2_1(line):
    """Defects 19 and 20."""
    name, aliases, parameters = (part.split() for part in line.split("|"))
    block = registry.get(name[0])
    assert all(registry.get(alias) is block for alias in aliases)
    accepted = inspect.signature(block).parameters
    assert [*accepted][: len(parameters)] == parameters
    assert all(accepted[key].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for key in parameters)


@pytest.mark.parametrize(
    "name",
    [
        "ConvBlock",
        "ResidualBlock",
        "SEBlock",
        "DepthwiseBlock",
        "InceptionModule",
        "DenseConnectionBlock",
        "StandardBottleneck",
        "WideBottleneck",
        "GroupedBottleneck",
        "MultiScaleBottleneck",
        "AsymmetricBottleneck",
        "Conv3DBlock",
        "SuperConv2d",
        "SuperLinear",
        "CBAMBlock",
        "ECABlock",
        "DropPath",
        "Mish",
        "GeM",
        "CoordConv",
        "SqueezeExcitation",
        "LayerScale",
        "ConvBNAct",
        "MBConv",
        "FusedMBConv",
        "ChannelAttention",
        "SpatialAttention",
        "ChannelSpatialAttention",
        "MultiHeadAttention",
        "AttentionBlock",
        "ResidualStage",
        "ResidualSequence",
    ],
)
def test_classes_of_2_1(name):
    """Defect 20: SEBlock, ConvBlock, ResidualBlock and others were no registered names."""
    import torchvision_customizer

    assert registry.get(name) is getattr(blocks, name) is getattr(torchvision_customizer, name)
