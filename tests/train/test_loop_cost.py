"""What the loop costs over one that is written by hand."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("accelerate")

from torchvision_customizer import Trainer
from torchvision_customizer._torchvision import models

BATCHES, BATCH, BLOCKS = 12, 16, 7


@pytest.mark.alone
def test_the_loop_costs_under_three_percent():
    """An epoch of ``fit`` against the loop that one writes by hand, with loss and accuracy, in blocks that take turns."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(BATCHES * BATCH, 3, 32, 32), torch.randint(0, 10, (BATCHES * BATCH,)))
    loader = DataLoader(data, BATCH, shuffle=True)
    trained, by_hand = models.resnet18(num_classes=10), models.resnet18(num_classes=10)
    trainer = Trainer(trained, "cpu", fused=False)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=1e-4, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def hand() -> float:
        by_hand.train()
        start = time.perf_counter()
        total, right = 0.0, 0
        for images, labels in loader:
            optimizer.zero_grad()
            output = by_hand(images)
            loss = criterion(output, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            right += int((output.argmax(1) == labels).sum())
        assert total > 0 and right >= 0
        return time.perf_counter() - start

    def fit() -> float:
        metrics = trainer.fit(loader, epochs=1, lr=1e-4, optimizer="sgd", scheduler=None, weight_decay=0.0, verbose=False)
        return metrics.epoch_times[0]

    hand(), fit()  # what is done once
    pairs = []
    for block in range(BLOCKS):
        one, other = (hand, fit) if block % 2 else (fit, hand)
        times = {one: one(), other: other()}
        pairs.append(times[fit] / times[hand])
    ratio = statistics.median(pairs)
    assert ratio < 1.03, [f"{pair:.3f}" for pair in sorted(pairs)]
