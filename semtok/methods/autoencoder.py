"""The autoencoder of RQ-VAE and LETTER, and batches of rows to train it with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbase.train.loop import LossOutput
from semtok.kernels.residual_vq import ResidualCodebooks

__all__ = ["Autoencoder", "RowBatch", "RowBatches"]


class Autoencoder(nn.Module):
    """Encoder, residual codebooks and decoder: what training moves.

    Parameters
    ----------
    dim : int
        Width of the vectors, D.
    hidden : tuple of int
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    latent_dim : int
        Width of the latent, d.
    codebooks : ResidualCodebooks or None
        None passes the latent on as it is: a plain autoencoder.
    shift, scale : Tensor [D]
        Vectors enter as ``(x - shift) / scale``.
    seed : int, default 0
        Of the first weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, ...],
        latent_dim: int,
        codebooks: ResidualCodebooks | None,
        shift: Tensor,
        scale: Tensor,
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = [dim, *hidden, latent_dim]
        self.encoder = _layers(widths)
        self.decoder = _layers(widths[::-1])
        self.codebooks = codebooks
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self._start(seed)

    def _start(self, seed: int) -> None:
        """Normal weights that keep the variance of what passes a ReLU; the last layers pass it on as it is."""
        generator = torch.Generator().manual_seed(seed)
        for part in (self.encoder, self.decoder):
            linear = [layer for layer in part if isinstance(layer, nn.Linear)]
            for layer in linear:
                gain = 1.0 if layer is linear[-1] else math.sqrt(2.0)
                nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features), generator=generator)
                nn.init.zeros_(layer.bias)

    def latents(self, rows: Tensor) -> Tensor:
        """Latents of vectors: [B, D] to float32 [B, d]."""
        found: Tensor = self.encoder((rows - self.shift) / self.scale)
        return found.float()

    def forward(self, batch: RowBatch) -> LossOutput:
        """This process's share of the step's loss."""
        scaled = (batch.rows - self.shift) / self.scale
        quantized = latents = self.encoder(scaled).float()
        parts: dict[str, Tensor] = {}
        if self.codebooks is not None:
            with torch.autocast(latents.device.type, enabled=False):
                quantized, codes, parts["quantization"] = self.codebooks(latents, batch.row_count)
                parts |= self.further_losses(quantized, codes, batch)
        restored = self.decoder(quantized).float()
        parts["reconstruction"] = (restored - scaled).square().sum() / (batch.row_count * scaled.shape[1])
        return LossOutput(
            torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}
        )

    def further_losses(self, quantized: Tensor, codes: Tensor, batch: RowBatch) -> dict[str, Tensor]:
        """Further terms of the loss, by name, already weighted; none here."""
        return {}


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@dataclass(frozen=True)
class RowBatch:
    """Rows of one training step that this process holds.

    Attributes
    ----------
    rows : float32 [B, D]
    numbers : int64 [B]
        Which rows of the data they are.
    step_numbers : int64 [row_count]
        Those of all processes, by their position in the step.
    positions : int64 [B]
        Where ``numbers`` stand in ``step_numbers``.
    step : int
        Number of the step, from 0.
    """

    rows: Tensor
    numbers: Tensor
    step_numbers: Tensor
    positions: Tensor
    step: int

    @property
    def row_count(self) -> int:
        """Rows of the whole step, over all processes."""
        return len(self.step_numbers)

    def to(self, device: torch.device | str) -> RowBatch:
        """The same batch on another device."""
        names = ("rows", "numbers", "step_numbers", "positions")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class RowBatches:
    """Steps over the rows of an array: shuffled passes laid end to end and cut into batches of equal size.

    The rows of a step follow from the seed and the number of the step alone. An epoch is a number of steps, not a pass.

    Parameters
    ----------
    rows : Tensor [N, D] or array [N, D]
        The data; a memory-mapped array is read batch by batch.
    batch_size : int
        Rows of a step over all processes; N where that is less.
    steps : int
        Steps in all.
    epoch_steps : int
        Steps of an epoch; the last one may be shorter.
    seed : int, default 0
    rank, world : int, default 0, 1
        This process and the number of processes.
    """

    def __init__(
        self, rows: Any, batch_size: int, steps: int, epoch_steps: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.rows, self.batch_size, self.steps = rows, min(batch_size, len(rows)), steps
        self.epoch_steps, self.seed, self.rank, self.world = min(epoch_steps, steps), seed, rank, world
        self.epoch = self.step = 0  # of the next step
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.epoch_steps

    @property
    def epochs(self) -> int:
        """Epochs that hold all steps."""
        return -(-self.steps // self.epoch_steps)

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch from its first step (a no-op for the epoch already under way)."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, epoch * self.epoch_steps

    def state_dict(self) -> dict[str, Any]:
        """Position of the reader."""
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was."""
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def numbers(self, step: int) -> np.ndarray:
        """Rows of a step over all processes: int64 [batch_size]."""
        count, first = len(self.rows), step * self.batch_size
        passes = range(first // count, (first + self.batch_size - 1) // count + 1)
        self._orders = {
            number: self._orders[number]
            if number in self._orders
            else np.random.default_rng([self.seed, number]).permutation(count)
            for number in passes
        }
        laid = (
            np.concatenate([self._orders[number] for number in passes]) if len(passes) > 1 else self._orders[passes[0]]
        )
        start = first - passes[0] * count
        return laid[start : start + self.batch_size]

    def __iter__(self) -> Iterator[list[RowBatch]]:
        last = min(self.steps, (self.epoch + 1) * self.epoch_steps)
        while self.step < last:
            step, self.step = self.step, self.step + 1
            yield [self._batch(step)]
        self.epoch += 1

    def _batch(self, step: int) -> RowBatch:
        whole = torch.from_numpy(self.numbers(step))
        positions = torch.arange(self.rank, len(whole), self.world)
        mine = whole[positions]
        if isinstance(self.rows, Tensor):
            rows = self.rows.index_select(0, mine.to(self.rows.device)).float()
        else:
            rows = torch.from_numpy(np.ascontiguousarray(self.rows[mine.numpy()], dtype=np.float32))
        return RowBatch(rows, mine, whole, positions, step)
