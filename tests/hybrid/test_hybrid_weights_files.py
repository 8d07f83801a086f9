"""Files that are no weights: whatever their bytes, one sentence and no traceback."""

import random
from pathlib import Path

import pytest

from torchvision_customizer import HybridBuilder, WeightsError

GENERATOR = random.Random(0)
CONTENTS = [b"root:x:0:0:root:/root:/bin/bash\n", b"", bytes(3000)] + [GENERATOR.randbytes(64) for _ in range(9)]


@pytest.mark.parametrize("number", range(len(CONTENTS)))
def test_any_bytes_are_one_sentence(number: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CONTENTS[number])
    with pytest.raises(WeightsError, match=r"weights\.pt cannot be read as weights: "):
        HybridBuilder().from_torchvision("resnet18", weights=str(path))
