"""Models whose statistics and affine parameters are not all 0 and 1, and a check that nothing was touched."""

import pytest
import torch

from torchvision_customizer._torchvision import models


def randomize(model):
    """Give norms parameters and statistics that would show a mix-up."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
            if "mean" in name or "bias" in name:
                tensor.sub_(1.0)
    return model


@pytest.fixture
def build():
    def build(name="resnet18", **options):
        torch.manual_seed(0)
        return randomize(models.get_model(name, **options))

    return build


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache; ``hub(weights, tensors)`` puts a file where torchvision looks for those weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def put(weights, tensors):
        path = folder / weights.url.rpartition("/")[2]
        torch.save(tensors, path)
        return path

    return put


class Untouched:
    """Remembers a model, and says whether anything about it has changed."""

    def __init__(self, model):
        self.model = model
        self.before = self.describe()

    def describe(self):
        modules = [(name, id(module), type(module), module.training) for name, module in self.model.named_modules()]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]
        tensors = {name: (id(t), t._version, t.clone()) for name, t in self.model.state_dict(keep_vars=True).items()}
        return modules, hooks, tensors

    def check(self):
        modules, hooks, tensors = self.before
        now_modules, now_hooks, now_tensors = self.describe()
        assert now_modules == modules
        assert now_hooks == hooks
        assert list(now_tensors) == list(tensors)
        for name, (identity, version, value) in tensors.items():
            assert now_tensors[name][:2] == (identity, version), name
            assert torch.equal(now_tensors[name][2], value), name


@pytest.fixture
def untouched():
    return Untouched
