"""Importing torchvision where its library does not fit torch, and where it does."""

import subprocess
import sys

PRELUDE = """
import sys, types, warnings
import torch

# A torchvision of which the import fails as the real one does, until the op is there.
attempts = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" or name.startswith("torchvision."):
            import importlib.machinery
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return types.ModuleType(spec.name)
    def exec_module(self, module):
        if module.__name__ == "torchvision":
            attempts.append(1)
            BEHAVIOUR
sys.meta_path.insert(0, Finder())
warnings.simplefilter("error" if EXPECT_SILENCE else "always")
"""


def run(behaviour, code, silent=False):
    prelude = PRELUDE.replace("BEHAVIOUR", behaviour).replace("EXPECT_SILENCE", str(silent))
    return subprocess.run([sys.executable, "-c", prelude + code], check=False, capture_output=True, text=True)


def test_a_matching_pair_is_left_alone():
    done = run("pass", "import torchvision_customizer._torchvision as t; assert attempts == [1] and t._stand_ins is None", True)
    assert done.returncode == 0, done.stderr


def test_missing_ops_are_defined_and_said_once():
    behaviour = (
        "torch.library.register_fake('torchvision::nms')(print); torch.library.register_fake('torchvision::qnms')(print)"
    )
    done = run(behaviour, "import torchvision_customizer._torchvision; assert len(attempts) == 3, attempts")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: torchvision's library does not fit this torch") == 1


def test_other_failures_stay_failures():
    for message in ("operator torchvision::roi_align does not exist", "out of luck"):
        done = run(f"raise RuntimeError({message!r})", "import torchvision_customizer._torchvision")
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"RuntimeError: {message}")


def test_an_op_that_stays_missing_ends():
    done = run("raise RuntimeError('operator torchvision::nms does not exist')", "import torchvision_customizer._torchvision")
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr


def test_the_real_one_gives_models():
    code = "from torchvision_customizer._torchvision import models; models.resnet18; import torchvision.transforms.v2"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
