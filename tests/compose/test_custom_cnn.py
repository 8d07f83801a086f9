"""``CustomCNN`` of version 1."""

import itertools

import pytest
import torch
from torch import nn

from torchvision_customizer import CustomCNN

pytestmark = pytest.mark.filterwarnings("ignore:CustomCNN is deprecated:DeprecationWarning")


def test_is_deprecated():
    with pytest.warns(DeprecationWarning, match="Stem"):
        CustomCNN((3, 32, 32), 10, 1, [4])


def test_defaults():
    model = CustomCNN((3, 32, 32), 10)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    widths = [3, 64, 128, 256, 512]
    convolutions = sum(9 * a * b for a, b in itertools.pairwise(widths))
    assert model.count_parameters() == convolutions + 2 * sum(widths[1:]) + 513 * 10
    assert model.get_config() == {
        "input_shape": (3, 32, 32),
        "num_classes": 10,
        "num_conv_blocks": 4,
        "channels": [64, 128, 256, 512],
        "activation": "relu",
        "use_batchnorm": True,
        "dropout_rate": 0.0,
        "pooling_type": "max",
        "use_pooling": True,
        "pooling_kernel_size": 2,
        "pooling_stride": 2,
    }


def test_every_argument_is_honoured():
    made = CustomCNN((1, 27, 27), 3, 2, [4, 6], "gelu", False, 0.2, "avg", True, 3, 3)
    kinds = [type(module) for module in made.modules()]
    assert kinds.count(nn.GELU) == 2 and nn.BatchNorm2d not in kinds
    assert [m.kernel_size for m in made.modules() if isinstance(m, nn.AvgPool2d)] == [3, 3]
    assert made.get_stage_outputs(torch.randn(1, 1, 27, 27))[-1].shape == (1, 6, 3, 3)
    assert any("Dropout" in kind.__name__ for kind in kinds)
    plain = CustomCNN((1, 8, 8), 3, 2, [4, 6], use_pooling=False)
    assert plain.forward_features(torch.randn(1, 1, 8, 8)).shape == (1, 6, 8, 8)
    assert made.count_parameters(trainable_only=True) == made.count_parameters()


def test_scripts_and_is_made_anew():
    model = CustomCNN((3, 16, 16), 3, 2, [4, 6]).eval()
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(torch.jit.script(model)(x), model(x))
    anew = CustomCNN(**model.get_config()).eval()
    anew.load_state_dict(model.state_dict())
    assert torch.equal(anew(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"input_shape": (3, 32)}, "input_shape"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_conv_blocks": 0}, "num_conv_blocks"),
        ({"channels": "outo"}, "channels"),
        ({"channels": [4]}, "channels must be 4 numbers"),
        ({"activation": "rulu"}, "did you mean 'relu'?"),
        ({"pooling_type": "mox"}, "did you mean 'max'?"),
    ],
)
def test_errors(arguments, word):
    with pytest.raises(ValueError) as error:
        CustomCNN(**{"input_shape": (3, 32, 32), "num_classes": 10, **arguments})
    assert word in str(error.value)
