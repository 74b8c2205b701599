"""A tiny model and its batches, for tests of the training loop; as a script it trains them until it is told to stop."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbase.train.loop import LossOutput, TrainConfig, TrainResult, fit


class Rows:
    """Some rows of a table; ``row_count`` is that of the whole step."""

    def __init__(self, x: Tensor, y: Tensor, row_count: int) -> None:
        self.x, self.y, self.row_count = x, y, row_count

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.x.to(device), self.y.to(device), self.row_count)


class TableBatches:
    """A regression table in seeded batches, with the protocol of ``recbase.train.loop.Batches``."""

    def __init__(self, rows: int = 40, batch_size: int = 8, seed: int = 0, micro_batches: int = 1) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(rows, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 1, generator=generator)
        self.batch_size, self.seed, self.micro_batches = batch_size, seed, micro_batches
        self.epoch = self.step = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[list[Rows]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.x))
        while self.step < len(self):
            rows = order[self.step * self.batch_size : (self.step + 1) * self.batch_size]
            self.step += 1
            parts = np.array_split(rows, self.micro_batches)
            yield [Rows(self.x[part], self.y[part], len(rows)) for part in parts]
        self.epoch, self.step = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]


class Regression(nn.Module):
    """Two layers with dropout; draws from the generators of torch, NumPy and Python in every call.

    ``at(call)`` is asked in every training call, counted from 1, and may return a factor for the loss.
    """

    def __init__(
        self, dropout: float = 0.3, noise: float = 0.1, width: int = 8, at: Callable[[int], Any] | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))
        self.noise, self.at, self.calls = noise, at, 0

    def forward(self, batch: Rows) -> LossOutput:
        self.calls += 1
        found = self.at(self.calls) if self.at is not None else None
        factor = 1.0 if found is None else found
        jitter = self.noise * (random.gauss(0, 1) + float(np.random.standard_normal()))  # noqa: NPY002
        error = ((self.layers(batch.x) - batch.y - jitter) ** 2).sum() / batch.row_count
        penalty = 1e-3 * self.layers[0].weight.square().sum() * len(batch.x) / batch.row_count * factor
        return LossOutput(error + penalty, {"error": error.detach(), "penalty": penalty.detach()})


def error_of(batches: TableBatches) -> Callable[[nn.Module], dict[str, float]]:
    """Validation: the negative squared error over the table, without dropout."""

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        with torch.no_grad():
            device = next(model.parameters()).device
            error = ((model.layers(batches.x.to(device)) - batches.y.to(device)) ** 2).mean()
        return {"ndcg@10": -float(error), "rows": len(batches.x)}

    return validate


def train(
    folder: Path | None = None,
    resume: bool = False,
    at: Callable[[int], Any] | None = None,
    batches: TableBatches | None = None,
    model: Regression | None = None,
    **settings: Any,
) -> tuple[Regression, TrainResult]:
    """Train the tiny model from its seeded start."""
    if model is None:
        torch.manual_seed(3)
        model = Regression(at=at)
    batches = batches or TableBatches()
    config = TrainConfig(**({"epochs": 4, "lr": 0.02, "quiet": True, "patience": 0} | settings))
    return model, fit(model, batches, error_of(batches), config, folder, resume)


if __name__ == "__main__":

    def wait(call: int) -> None:
        print("step", call, flush=True)
        time.sleep(0.05)

    _, result = train(Path(sys.argv[1]), at=wait, epochs=1000)
    print(result.stopped, result.steps, flush=True)
