"""How networks begin and end."""

import pytest
import torch
from torch import nn

from torchvision_customizer import Compose, DetectionHead, Head, PatchStem, SegmentationHead, SimpleStem, Stage, Stem, blocks


class TestStem:
    def test_is_that_of_resnet(self):
        made = Stem(8)
        assert [type(layer) for layer in made] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
        assert made(torch.randn(2, 3, 32, 48)).shape == (2, 8, 8, 12)
        assert made.conv.kernel_size == (7, 7) and made.conv.bias is None
        assert list(made.state_dict())[:2] == ["conv.weight", "norm.weight"]

    def test_arguments(self):
        made = Stem(8, 1, 5, 1, 0, "gelu", "group", "avg", 2, 4, 1)
        assert [type(layer) for layer in made] == [nn.Conv2d, blocks.GroupNorm, nn.GELU, nn.AvgPool2d]
        conv, pool = made.conv, made.pool
        assert (conv.in_channels, conv.kernel_size, conv.stride, conv.padding) == (1, (5, 5), (1, 1), (0, 0))
        assert (pool.kernel_size, pool.stride, pool.padding) == (2, 4, 1)
        bare = Stem(8, kernel_size=3, stride=1, norm=None, activation=None, pool=None)
        assert [type(layer) for layer in bare] == [nn.Conv2d, nn.Identity, nn.Identity]
        assert bare.conv.bias is not None and bare.conv.padding == (1, 1)

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ({"channels": 0}, "channels"),
            ({"in_channels": 0}, "in_channels"),
            ({"kernel": 0}, "kernel"),
            ({"kernel": 3, "kernel_size": 5}, "one argument"),
            ({"norm": "btach"}, "did you mean 'batch'?"),
            ({"activation": "rulu"}, "did you mean 'relu'?"),
            ({"pool": "mox"}, "did you mean 'max'?"),
            ({"pool": "gem"}, "'gem' has no parameter"),
            ({"pool": None, "pool_stride": 4}, "pool_stride"),
        ],
    )
    def test_errors(self, arguments, word):
        with pytest.raises(ValueError) as error:
            Stem(**{"channels": 8, **arguments})
        assert word in str(error.value)

    def test_small_and_patched(self):
        simple = SimpleStem(8, 1, "silu", "layer")
        assert [type(layer) for layer in simple] == [nn.Conv2d, blocks.LayerNorm2d, nn.SiLU]
        assert simple(torch.randn(1, 1, 9, 7)).shape == (1, 8, 9, 7)
        patch = PatchStem(8, 4)
        assert patch(torch.randn(1, 3, 16, 8)).shape == (1, 8, 4, 2) and list(patch.state_dict()) == [
            "proj.weight",
            "proj.bias",
        ]
        for wrong in ({"embed_dim": 0}, {"embed_dim": 8, "patch_size": 0}):
            with pytest.raises(ValueError, match="at least 1"):
                PatchStem(**wrong)


class TestHead:
    def test_has_its_parameters_when_it_is_written(self):
        """Defect 23: the classifier was made by the first forward, and no optimizer that was made before it trained it."""
        assert Head(10, 4).count_parameters() == 50
        model = Stem(4) >> Head(10)
        assert model.head.count_parameters() == 50
        assert any(name.startswith("head.") for name in model.state_dict())

    @pytest.mark.parametrize("hidden", [None, 6, [6, 5]])
    def test_dropout_is_honoured(self, hidden):
        """Defect 23: ``dropout`` without ``hidden`` was ignored."""
        made = Head(3, 4, hidden, 0.4)
        drops = [layer.p for layer in made if isinstance(layer, nn.Dropout)]
        assert drops == [0.4] * (len(hidden) if isinstance(hidden, list) else 1)
        x = torch.rand(64, 4, 2, 2)
        assert not torch.equal(made(x), made(x))
        assert made.eval()(x).shape == (64, 3)

    def test_hidden_layers(self):
        made = Head(3, 4, [6, 5], activation="gelu")
        kinds = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
        assert [type(layer) for layer in made] == kinds
        assert list(made.state_dict())[::2] == ["hidden0.weight", "hidden1.weight", "classifier.weight"]

    @pytest.mark.parametrize(
        ("pool", "expected"),
        [
            ("adaptive_avg", lambda x: x.mean((2, 3))),
            ("adaptive_max", lambda x: x.amax((2, 3))),
            ("gem", lambda x: blocks.GeM()(x).flatten(1)),
        ],
    )
    def test_without_classes_it_gives_features(self, pool, expected):
        x = torch.rand(2, 4, 5, 3)
        made = Head(0, 4, pool=pool)
        torch.testing.assert_close(made(x), expected(x))
        assert made.out_channels == 4
        assert Head(0, 4, 7, pool=pool)(x).shape == (2, 7)

    @pytest.mark.parametrize("pool", [None, "none", "flatten"])
    def test_without_a_pool(self, pool):
        assert Head(3, 4 * 5 * 3, pool=pool)(torch.rand(2, 4, 5, 3)).shape == (2, 3)
        model = Stem(4) >> nn.AdaptiveAvgPool2d((2, 3)) >> Head(3, 24, pool=pool)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
        vectors = Stem(4) >> nn.AdaptiveAvgPool2d(1) >> nn.Flatten() >> Head(3, pool=pool)
        assert vectors(torch.rand(2, 3, 32, 32)).shape == (2, 3)
        with pytest.raises(ValueError, match=r"Stem\(5\) gives 5 channels, and Head\(3, .*\) takes 24"):
            Stem(5) >> Head(3, 24, pool=pool)
        with pytest.raises(ValueError, match=r"takes 24"):
            Stem(4) >> nn.AdaptiveAvgPool2d((2, 2)) >> Head(3, 24, pool=pool)
        with pytest.raises(ValueError, match="needs in_features, or a pool"):
            Stem(4) >> Head(3, pool=pool)
        sized = Compose((3, 32, 48), [Stem(4), Head(3, pool=pool)])
        assert sized(torch.rand(2, 3, 32, 48)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ({"num_classes": -1}, "num_classes"),
            ({"in_features": 0}, "in_features"),
            ({"hidden": [4, 0]}, "hidden"),
            ({"dropout": 1.5}, "between 0 and 1"),
            ({"pool": "adaptive_avrg"}, "did you mean 'adaptive_avg'?"),
            ({"pool": "max"}, "maps of 1×1"),
            ({"activation": "rulu"}, "did you mean 'relu'?"),
        ],
    )
    @pytest.mark.parametrize("in_features", [{"in_features": 4}, {}])
    def test_errors(self, arguments, word, in_features):
        with pytest.raises(ValueError) as error:
            Head(**{"num_classes": 3, **in_features, **arguments})
        assert word in str(error.value)

    def test_vectors_end_what_takes_maps(self):
        with pytest.raises(ValueError, match=r"Head\(3\) gives vectors \(N, 3\), and Stage\(8\) takes maps"):
            Stem(4) >> Head(3) >> Stage(8)
        assert (Stem(4) >> Head(3) >> nn.Softmax(1))(torch.rand(2, 3, 32, 32)).sum(1).tolist() == pytest.approx([1, 1])


class TestDenseHeads:
    def test_segmentation(self):
        head = SegmentationHead(3, 4, 8, 4, norm="group", activation="gelu", dropout=0.5)
        kinds = [nn.Conv2d, blocks.GroupNorm, nn.GELU, nn.Dropout2d, nn.Conv2d, nn.Upsample]
        assert [type(layer) for layer in head] == kinds
        assert head(torch.randn(2, 4, 5, 3)).shape == (2, 3, 20, 12)
        model = Stem(4) >> Stage(8) >> SegmentationHead(3, hidden_channels=8, upsample_factor=4)
        assert model(torch.randn(1, 3, 32, 48)).shape == (1, 3, 32, 48)

    def test_detection(self):
        model = Stem(4) >> DetectionHead(3, 2)
        assert model(torch.randn(1, 3, 32, 48)).shape == (1, 2 * 7, 8, 12)
        assert model.head.count_parameters() == 4 * 14 * 9 + 14

    @pytest.mark.parametrize(
        ("head", "arguments", "word"),
        [
            (SegmentationHead, {"num_classes": 0}, "num_classes"),
            (SegmentationHead, {"num_classes": 2, "upsample_factor": 0}, "upsample_factor"),
            (SegmentationHead, {"num_classes": 2, "dropout": 2}, "dropout"),
            (SegmentationHead, {"num_classes": 2, "norm": "btach"}, "did you mean 'batch'?"),
            (DetectionHead, {"num_classes": 2, "num_anchors": 0}, "num_anchors"),
            (DetectionHead, {"num_classes": 0}, "num_classes"),
        ],
    )
    def test_errors(self, head, arguments, word):
        with pytest.raises(ValueError) as error:
            head(**arguments)
        assert word in str(error.value)
