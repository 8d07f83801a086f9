"""Loading the native libraries, switching to the references, and what a process with only torch can do."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from samples import SAMPLES

from torchvision_customizer import ops
from torchvision_customizer.ops import _library

PUBLIC = [name for name in ops.OPS if not name.startswith("_")]
STATUS = ops.native_status()
needs_native = pytest.mark.skipif(not STATUS.cpu_loaded, reason=f"no native library: {STATUS.cpu_reason}")


def answers() -> set[str]:
    return {answer.answer for answer in ops.who_answers() if answer.device == "cpu"}


def run_python(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh process prints, in which this package is not on the path."""
    full = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, env=full, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- Loading ----


def test_the_native_library_is_loaded_unless_something_says_why_not() -> None:
    built = importlib.util.find_spec("torchvision_customizer._native") is not None
    disabled = os.environ.get("TVC_DISABLE_NATIVE", "0") not in ("", "0")
    too_old = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10)
    assert STATUS.cpu_loaded == (built and not disabled and not too_old)
    assert bool(STATUS.cpu_reason) != STATUS.cpu_loaded
    assert bool(STATUS.cuda_reason) != STATUS.cuda_loaded


@needs_native
def test_the_status_says_what_was_loaded() -> None:
    assert STATUS.library_path is not None and STATUS.library_path.exists()
    assert STATUS.instruction_set in STATUS.build["instruction_sets"].split()
    assert STATUS.build["torch_target"] == "2.10"
    with pytest.raises(dataclasses.FrozenInstanceError):
        STATUS.cpu_loaded = False


@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_variable_disables(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TVC_DISABLE_NATIVE", value)
    status = _library._load()
    assert not status.cpu_loaded and status.cpu_reason == status.cuda_reason == "TVC_DISABLE_NATIVE is set"


@needs_native
@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_variable_does_not(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TVC_DISABLE_NATIVE", value)
    assert _library._load().cpu_loaded


def test_a_pure_installation_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVC_DISABLE_NATIVE", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status = _library._load()
    assert not status.cpu_loaded
    assert status.cpu_reason == "this is a pure-Python installation (built with TVC_NATIVE=0)"


@needs_native
def test_a_module_that_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no reason to answer with the references in silence."""
    import torchvision_customizer

    monkeypatch.delattr(torchvision_customizer, "_native")
    monkeypatch.setitem(sys.modules, "torchvision_customizer._native", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ImportError):
        _library._load()


@needs_native
def test_an_older_torch_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    status = _library._load()
    assert not status.cpu_loaded
    assert status.cpu_reason == "torch 2.9.1+cpu is older than 2.10, the first with the stable ABI"


@needs_native
def test_a_library_of_another_version_is_found_out() -> None:
    name = PUBLIC[0]
    with pytest.raises(
        ImportError, match=f"defines tvc::{name}\\(.*but this package tvc::{name}\\(Tensor x\\) -> Tensor; rebuild"
    ):
        _library.Op(name, "(Tensor x) -> Tensor")
    with pytest.raises(ImportError, match="does not define tvc::not_there; rebuild it"):
        _library.Op("not_there", "(Tensor x) -> Tensor")


# ---- Who answers ----


def test_an_answer_for_every_op_and_device() -> None:
    assert {(answer.op, answer.device) for answer in ops.who_answers()} == {(op, d) for op in PUBLIC for d in ("cpu", "cuda")}
    assert all(answer.reason for answer in ops.who_answers())
    assert answers() == {"native" if STATUS.cpu_loaded else "reference"}


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built with CUDA")
def test_a_torch_without_cuda_is_the_reason_whatever_else_is() -> None:
    reasons = {(answer.answer, answer.reason) for answer in ops.who_answers() if answer.device == "cuda"}
    assert reasons == {("unavailable", "this torch is built without CUDA")}


# ---- reference() ----


def kernel() -> str:
    """Which kernel the dispatcher has for the first op on the CPU."""
    table = torch._C._dispatch_dump_table(f"tvc::{PUBLIC[0]}")
    return next(line for line in table.splitlines() if line.startswith("CPU:"))


def test_reference_switches_and_restores() -> None:
    before, count = kernel(), len(ops.OPS)
    native = answers()
    with ops.reference():
        assert answers() == {"reference"}
        with ops.reference():
            assert answers() == {"reference"}
        assert answers() == {"reference"}
        assert (kernel() != before) == STATUS.cpu_loaded
    assert kernel() == before and answers() == native and len(ops.OPS) == count
    with pytest.raises(ZeroDivisionError), ops.reference():
        _ = 1 / 0
    assert kernel() == before


@needs_native
def test_reference_is_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PUBLIC:
        op, called = ops.OPS[name], []
        plain = op.reference
        assert plain is not None

        def recorded(*args: object, plain: object = plain, called: list[int] = called, **kwargs: object) -> object:
            called.append(1)
            return plain(*args, **kwargs)

        monkeypatch.setattr(op, "reference", recorded)
        arguments = next(iter(SAMPLES[name].layouts(torch.float32))).arguments
        scripted = torch.jit.script(getattr(ops, name))
        getattr(ops, name)(**arguments)
        assert called == []
        with ops.reference():
            getattr(ops, name)(**arguments)
            scripted(**arguments)
        assert called == [1, 1]
        scripted(**arguments)
        assert called == [1, 1]


def test_threads_share_the_switch() -> None:
    """Contexts that overlap: the references answer until the last is closed."""
    inside, leave, failed = threading.Event(), threading.Event(), []
    before = kernel()

    def hold() -> None:
        with ops.reference():
            inside.set()
            failed.extend([] if leave.wait(20) else ["nobody let the thread go"])

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    with ops.reference():
        leave.set()
        thread.join(20)
        assert answers() == {"reference"}
    assert kernel() == before and not failed


def test_threads_may_switch_at_once() -> None:
    before, errors = kernel(), []
    name = PUBLIC[0]
    arguments = next(iter(SAMPLES[name].layouts(torch.float32))).arguments
    want = getattr(ops, name)(**arguments)

    def work() -> None:
        try:
            for _ in range(30):
                with ops.reference():
                    torch.testing.assert_close(getattr(ops, name)(**arguments), want)
        except (AssertionError, RuntimeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and kernel() == before


# ---- A process with only torch ----


@needs_native
@pytest.mark.parametrize("name", PUBLIC)
def test_a_process_with_only_the_library_calls_the_op_and_loads_a_script(name: str, tmp_path: Path) -> None:
    arguments = next(iter(SAMPLES[name].layouts(torch.float32))).arguments
    want = getattr(ops, name)(**arguments)
    torch.jit.script(getattr(ops, name)).save(str(tmp_path / "script.pt"))
    rest = {"inplace": False} if f"_{name}_" in ops.OPS else {}  # a function loaded from a file has no defaults
    torch.save({"arguments": arguments, "rest": rest, "want": want}, tmp_path / "tensors.pt")
    code = """
        import sys, torch
        torch.ops.load_library(sys.argv[1])
        saved = torch.load(sys.argv[2] + "/tensors.pt")
        direct = getattr(torch.ops.tvc, sys.argv[3])(**saved["arguments"])
        scripted = torch.jit.load(sys.argv[2] + "/script.pt")(**saved["arguments"], **saved["rest"])
        assert not [name for name in sys.modules if name.startswith("torchvision_customizer")]
        print(torch.equal(direct, saved["want"]), torch.equal(scripted, saved["want"]))
    """
    assert run_python(code, str(STATUS.library_path), str(tmp_path), name) == "True True"


@needs_native
def test_threads_that_start_together_find_the_op(tmp_path: Path) -> None:
    """The kernels choose their instruction set at the first call, whichever thread makes it."""
    code = """
        import sys, torch
        from concurrent.futures import ThreadPoolExecutor
        torch.ops.load_library(sys.argv[1])
        x, w1, w2 = torch.randn(4, 32, 14, 14), torch.randn(4, 32), torch.randn(32, 4)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: torch.ops.tvc.squeeze_excite(x, w1, None, w2, None), range(16)))
        print(all(torch.equal(result, results[0]) for result in results))
    """
    assert run_python(code, str(STATUS.library_path)) == "True"
