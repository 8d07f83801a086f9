"""``torch.compile`` keeps channels_last through a fused model: its code is read for copies around the ops."""

from __future__ import annotations

import re

import pytest
import torch

import torchvision_customizer as tvc


@pytest.mark.skipif(not tvc.ops.native_status().cpu_loaded, reason="without the native library references are compiled")
def test_no_layout_copies_around_the_ops() -> None:
    from torch._inductor.utils import run_and_get_code

    model = tvc.HybridBuilder().from_torchvision("resnet18", weights=None, patches={"layer1": {"inject": "se"}}, verbose=False)
    model.eval().to(memory_format=torch.channels_last)
    assert len(tvc.fuse(model).fused) == 2
    stage = model.get_submodule("layer1")
    x = torch.randn(2, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    torch.compiler.reset()
    with torch.no_grad():
        want = stage(x)
        got, code = run_and_get_code(torch.compile(stage, fullgraph=True), x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert got.is_contiguous(memory_format=torch.channels_last)

    text = "\n".join(code)
    calls = text[text.index("def call(") :]
    assert calls.count("torch.ops.tvc.squeeze_excite.default(") == 2
    # All that is made of activations between convolutions and ops are the norms, with their ReLU.
    assert set(re.findall(r"cpp_fused_(\w+?)_\d+\(", calls)) == {
        "_native_batch_norm_legit_no_training",
        "_native_batch_norm_legit_no_training_relu",
    }
    for copy in ("clone", "copy_", "contiguous", "empty_strided"):
        assert copy not in calls, copy
    activations = re.findall(r"assert_size_stride\(\w+, \(2, 64, 14, 14\), \(([\d, ]+)\)", calls)
    assert set(activations) == {"12544, 1, 896, 64"} and len(activations) >= 7
