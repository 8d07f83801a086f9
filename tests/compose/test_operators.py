"""``>> + * |``: channels flow, copies are independent, and what does not fit is an error where it is written."""

import copy

import pytest
import torch
from torch import nn

from torchvision_customizer import (
    Compose,
    Head,
    PatchStem,
    Sequential,
    SimpleStem,
    Stage,
    Stem,
    TransitionLayer,
    VisionModel,
    blocks,
    registry,
)
from torchvision_customizer.compose import (
    BranchedModule,
    ComposableModule,
    ComposedModule,
    ResidualWrapper,
    branch,
    compose,
    repeat,
    residual,
)


def names(module):
    return [type(child).__name__ for child in module]


def shared(*modules):
    """Whether any two of the modules have a parameter in common."""
    found = [id(p) for module in modules for p in module.parameters()]
    return len(found) != len(set(found))


class TestChains:
    def test_channels_flow_from_left_to_right(self):
        """Defect 21: a stage took its own output channels for its input's, and its forward raised."""
        chain = Stem(4) >> Stage(8) >> Stage(16, 1, "mbconv") >> TransitionLayer() >> Stage(6, 1, "dense", growth_rate=4)
        assert [(piece.in_channels, piece.out_channels) for piece in chain] == [(3, 4), (4, 8), (8, 16), (16, 8), (8, 6)]
        assert chain(torch.randn(1, 3, 32, 32)).shape == (1, 6, 4, 4)
        assert (chain.in_channels, chain.out_channels) == (3, 6)

    def test_a_sum_is_a_chain(self):
        chain = Stem(4) + Stage(8) + Stage(16)
        assert isinstance(chain, Sequential) and names(chain) == ["Stem", "Stage", "Stage"]
        assert isinstance(Stem(4) + Stage(8) + Head(2), VisionModel)

    def test_operands_stay_as_they_are(self):
        stem, stage, head = Stem(4), Stage(8), Head(2)
        before = copy.deepcopy(stem.state_dict())
        model = stem >> stage >> head
        assert stage.is_open() and head.is_open() and not model.is_open()
        assert not shared(stem, model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert all(torch.equal(value, before[key]) for key, value in stem.state_dict().items())

    def test_what_is_used_twice_is_two(self):
        stem, stage = Stem(4), Stage(4, in_channels=4)
        assert not shared(*(stem >> stage >> stage))
        assert not shared(stem >> stage, stem >> Head(2))
        assert not shared(*Sequential(stem, stage, stage))
        model = VisionModel(stem, [stage, stage], Head(2))
        assert model.stem is stem and model.stages[0] is stage and not shared(*model.stages)

    def test_weights_go_with_a_built_piece(self):
        stem = Stem(4)
        model = stem >> Head(2)
        assert torch.equal(model.stem.conv.weight, stem.conv.weight)

    def test_open_chains_are_built_later(self):
        tail = Stage(8) >> Stage(16) >> Head(2)
        assert tail.is_open() and tail.in_channels is None and not isinstance(tail, VisionModel)
        model = Stem(4) >> tail
        assert isinstance(model, VisionModel) and [stage.in_channels for stage in model.stages] == [4, 8]
        assert tail.is_open()

    @pytest.mark.parametrize(
        "piece", [Stage(8), Head(2), TransitionLayer(), Stage(8) >> Head(2), Stage(8) * 2, Stage(8) | Stage(4)]
    )
    def test_running_an_open_piece_says_what_to_do(self, piece):
        assert piece.is_open()
        with pytest.raises(RuntimeError, match=r"no parameters yet.*to the right of a piece.*Stem\(64\) >> .*give in_"):
            piece(torch.randn(1, 8, 4, 4))
        with pytest.raises(RuntimeError, match="no parameters yet"):
            copy.deepcopy(piece)(torch.randn(1, 8, 4, 4))

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (
                lambda: Stem(64) >> Stage(8, in_channels=32),
                r"Stem\(64\) gives 64 channels, and Stage\(8, in_channels=32\) takes 32",
            ),
            (lambda: Stem(64) >> Head(2, 32), r"Stem\(64\) gives 64 channels, and Head\(2, in_features=32\) takes 32"),
            (lambda: Stage(4) >> Stem(8, in_channels=3), r"Stage\(4\) gives 4 channels, and Stem\(8, in_channels=3\) takes 3"),
            (lambda: Stem(4) >> nn.Conv2d(3, 8, 3), r"Stem\(4\) gives 4 channels, and Conv2d\(3, 8.*does not take them: "),
            (lambda: nn.Conv2d(3, 5, 3) >> Stage(8, in_channels=4), r"Conv2d\(3, 5.*gives 5 channels, and Stage.*takes 4"),
            (lambda: VisionModel(Stem(4), [Stage(8, in_channels=5)], Head(2)), r"Stem\(4\) gives 4 .*takes 5"),
            (lambda: Compose((1, 8, 8), [SimpleStem(4, 3)]), r"image of shape \(1, 8, 8\) gives 1 .*takes 3"),
        ],
    )
    def test_a_mismatch_names_both_sides(self, write, message):
        with pytest.raises(ValueError, match=message):
            write()

    def test_a_stem_follows_what_gives_its_channels(self):
        assert (nn.Conv2d(3, 8, 3) >> Stem(4))[1].in_channels == 8
        assert (nn.Conv2d(3, 8, 3) >> PatchStem(4))[1].in_channels == 8

    @pytest.mark.parametrize("wrong", [3, "stem", None, Head])
    def test_only_modules_stand_in_a_chain(self, wrong):
        for write in (lambda: Stem(4) >> wrong, lambda: wrong >> Stem(4), lambda: Stem(4) | wrong, lambda: Stem(4) + wrong):
            with pytest.raises(TypeError):
                write()
        with pytest.raises(ValueError, match="a chain is of modules"):
            Sequential(Stem(4), wrong)

    def test_names_of_2_1(self):
        assert isinstance(compose(Stem(4), Stage(8)), ComposedModule)
        assert isinstance(ComposedModule([Stem(4), Stage(8)]), ComposableModule)
        assert isinstance(Sequential(Stem(4), Head(2)), Sequential)
        with pytest.raises(ValueError, match="at least one"):
            Sequential()

    def test_layers_are_not_changed_in_place(self):
        chain = Stem(4) >> Stage(8)
        for piece in (chain, chain[0]):
            for change in (lambda p: p.append(nn.ReLU()), lambda p: p.insert(0, nn.ReLU()), lambda p: p.__delitem__(0)):
                with pytest.raises(TypeError, match="not changed in place"):
                    change(piece)
        assert names(chain[:1]) == ["Stem"] and len(chain) == 2


class Gives(nn.Module):
    """A module that tells nothing of its channels."""

    def __init__(self, channels, *, shape=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 3, 1, 1))
        self.shape = shape

    def forward(self, x):
        y = nn.functional.conv2d(x, self.weight)
        return y if self.shape is None else y.flatten(2)


class TestOtherModules:
    def test_channels_are_found_by_running(self):
        lying = Gives(7)
        lying.out_channels = 99
        model = lying >> Stage(8) >> Head(2)
        assert model.stages[0].in_channels == 7
        assert model(torch.randn(1, 3, 9, 9)).shape == (1, 2)

    @pytest.mark.parametrize(
        ("module", "channels"),
        [
            (nn.Conv2d(1, 6, 3), 6),
            (nn.Conv2d(8, 6, 3, groups=2), 6),
            (nn.Conv2d(6, 6, 3, groups=6), 6),
            (nn.Sequential(nn.Conv2d(2, 4, 3), nn.PixelShuffle(2)), 1),
            (registry.get("coord_conv", in_channels=2, out_channels=5, kernel_size=3), 5),
            (nn.Sequential(nn.ZeroPad2d(1), blocks.ConvBlock(4, 12)), 12),
        ],
    )
    def test_what_begins_a_chain(self, module, channels):
        assert (module >> Stage(8, 1)).out_channels == 8
        assert (module >> Stage(8, 1))[1].in_channels == channels

    def test_what_takes_any_channels_waits_for_them(self):
        chain = nn.ReLU() >> Stage(8, 1)
        assert chain.is_open()
        assert (Stem(4) >> chain).out_channels == 8
        model = Stem(4) >> nn.MaxPool2d(2) >> nn.Dropout2d(0.1) >> Stage(8, 1) >> nn.BatchNorm2d(8) >> Head(2)
        assert [type(stage).__name__ for stage in model.stages] == ["MaxPool2d", "Dropout2d", "Stage", "BatchNorm2d"]
        assert model.stages[2].in_channels == 4

    def test_what_cannot_be_known_must_be_given(self):
        for module in (Gives(7, shape="tokens"), nn.Embedding(3, 4)):
            with pytest.raises(ValueError, match=rf"{type(module).__name__}.*cannot be known.*give in_channels to Stage\(8\)"):
                module >> Stage(8)
        chain = Gives(7, shape="tokens") >> Stage(8, in_channels=7)
        assert not chain.is_open()

    def test_a_module_that_takes_one_size_only(self):
        fixed = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
        assert (Stem(4) >> fixed >> nn.ReLU())(torch.randn(1, 3, 32, 32)).shape == (1, 5)

    def test_modules_are_run_without_a_trace(self):
        norm, calls = nn.BatchNorm2d(4), []
        norm.register_forward_hook(lambda *args: calls.append(args))
        before = copy.deepcopy(norm.state_dict())
        Stem(4) >> norm >> Stage(8)
        assert not calls and all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
        assert norm.training

    def test_every_block_of_the_registry_can_stand_in_a_chain(self):
        made = Stem(8) >> registry.get("se", channels=8) >> registry.get("mbconv", in_channels=8, out_channels=12) >> Stage(4)
        assert made[3].in_channels == 12


class TestRepeat:
    @pytest.mark.parametrize(
        "write",
        [lambda stage: stage * 3, lambda stage: 3 * stage, lambda stage: repeat(stage, 3)],
        ids=["right", "left", "call"],
    )
    def test_copies_are_independent(self, write):
        """Defect 22: all of them were one object."""
        once = Stage(4, in_channels=4)
        chain = write(once)
        assert len(chain) == 3 and not shared(once, *chain)
        assert chain.count_parameters() == 3 * once.count_parameters()
        assert not torch.equal(chain[0][0].conv1.weight, chain[1][0].conv1.weight)

    def test_the_first_takes_the_stride_and_the_change_of_channels(self):
        model = Stem(4) >> Stage(8, 1, downsample=True) * 3 >> Head(2)
        assert [(stage.in_channels, stage.out_channels) for stage in model.stages] == [(4, 8), (8, 8), (8, 8)]
        assert [x.shape[-1] for x in model.get_stage_outputs(torch.randn(1, 3, 32, 32))] == [4, 4, 4]
        assert [stage[0].conv1.stride for stage in model.stages] == [(2, 2), (1, 1), (1, 1)]

    def test_stems_transitions_and_chains(self):
        assert (Stem(4) * 2)(torch.randn(1, 3, 32, 32)).shape == (1, 4, 8, 8)
        assert (SimpleStem(4) * 2)[1].in_channels == 4
        assert (TransitionLayer(16) * 2)(torch.randn(1, 16, 8, 8)).shape == (1, 4, 4, 4)
        chain = Stem(4) >> (Stage(8, 1, stride=2) >> nn.ReLU() >> Stage(6, 1)) * 2
        assert names(chain) == ["Stem", "Stage", "ReLU", "Stage", "Stage", "ReLU", "Stage"]
        assert [chain[n].in_channels for n in (1, 3, 4, 6)] == [4, 8, 6, 8] and not shared(*chain)
        wide = Stem(4) >> (Stage(4, 1, stride=2) | Stage(6, 1, stride=2)) * 2 >> residual(Stage(10, 1)) * 2
        assert wide(torch.randn(1, 3, 32, 32)).shape == (1, 10, 4, 4)

    def test_other_modules_are_copied(self):
        conv = nn.Conv2d(4, 4, 1)
        chain = repeat(conv, 2)
        assert not shared(conv, *chain) and torch.equal(chain[0].weight, chain[1].weight)
        with pytest.raises(ValueError, match=r"Conv2d\(3, 8.*gives 8 channels, and Conv2d\(3, 8"):
            repeat(nn.Conv2d(3, 8, 1), 2)

    @pytest.mark.parametrize("times", [0, -1, True])
    def test_how_often(self, times):
        with pytest.raises(ValueError, match="at least 1"):
            Stage(8) * times
        with pytest.raises(TypeError):
            Stage(8) * 2.0

    @pytest.mark.parametrize("piece", [Head(2), PatchStem(8), Stem(4) >> Head(2)])
    def test_what_cannot_follow_itself(self, piece):
        with pytest.raises(ValueError, match="cannot be repeated"):
            piece * 2


class TestBranches:
    def test_outputs_are_concatenated(self):
        model = Stem(4) >> (Stage(8, 1) | Stage(6, 1, "conv") | nn.Identity()) >> Head(2)
        branches = model.stages[0]
        assert isinstance(branches, BranchedModule) and len(branches.branches) == 3
        assert branches.out_channels == model.head.in_channels == 18
        x = torch.randn(2, 4, 5, 5)
        assert torch.equal(branches.eval()(x), torch.cat([each(x) for each in branches.branches], 1))
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 2)

    def test_any_module_may_be_left(self):
        assert len((nn.Conv2d(4, 2, 1) | Stage(8, 1)).branches) == 2
        assert (nn.Conv2d(4, 2, 1) | Stage(8, 1)).branches[1].in_channels == 4

    def test_another_dimension(self):
        made = branch(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 3, padding=1), concat_dim=2)
        assert made.out_channels == 2 and made(torch.randn(1, 4, 5, 5)).shape == (1, 2, 10, 5)

    def test_operands_stay_as_they_are(self):
        stage = Stage(4, in_channels=4)
        made = stage | stage
        assert not shared(stage, *made.branches)
        assert not shared(*BranchedModule([stage, stage]).branches)

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda: Stage(4, in_channels=4) | Stage(4, in_channels=5), "takes 4.*takes 5"),
            (
                lambda: Stem(4) >> (Stage(4, stride=2) | Stage(8)),
                r"Stage\(4, stride=2\) gives \(N, 4, 112, 112\).*\(N, 8, 224, 224\)",
            ),
            (lambda: Stem(8) >> (Stage(4, in_channels=4) | Stage(8)), "gives 8 channels.*takes 4"),
            (lambda: branch(), "there are none"),
        ],
    )
    def test_errors(self, write, message):
        with pytest.raises(ValueError, match=message):
            write()


class TestResidual:
    def test_adds(self):
        made = residual(Stage(4, 1, in_channels=4)).eval()
        x = torch.randn(1, 4, 5, 5)
        assert isinstance(made, ResidualWrapper) and torch.equal(made(x), made.module(x) + x)
        projected = residual(Stage(8, 1, in_channels=4, stride=2), nn.Conv2d(4, 8, 1, stride=2)).eval()
        assert torch.equal(projected(x), projected.module(x) + projected.projection(x))

    def test_is_built_by_what_is_left_of_it(self):
        model = Stem(4) >> residual(Stage(4)) >> residual(Stage(6), Stage(6, 1, "conv")) >> Head(2)
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)
        assert model.stages[1].projection.in_channels == 4

    def test_what_cannot_be_added(self):
        with pytest.raises(ValueError, match=r"gives \(N, 8, .*the shortcut \(N, 4, .*give a projection"):
            Stem(4) >> residual(Stage(8))
        with pytest.raises(ValueError, match=r"cannot be added"):
            residual(Stage(8, in_channels=4, stride=2), nn.Conv2d(4, 8, 1))
