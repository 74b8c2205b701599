"""The rows of one view as a network is trained on them: read where they lie, scaled, and a part to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semtok.content.rows import Rows

__all__ = ["column_rows", "shift_and_scale", "validation_rows"]


_VALIDATION_ROWS = 1 << 16


_STATISTICS_ROWS = 1 << 16


@dataclass(frozen=True)
class _Columns:
    """Columns of an array whose rows are read where they are indexed."""

    whole: Any
    part: slice

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.whole), self.part.stop - self.part.start

    def __getitem__(self, rows: Any) -> np.ndarray:
        found: np.ndarray = np.asarray(self.whole[rows], dtype=np.float32)[:, self.part]
        return found


def column_rows(rows: Rows, part: slice) -> Any:
    """The columns of one view: a float32 tensor, or of a memory-mapped or sharded array what reads them."""
    if isinstance(rows.X, np.memmap) or getattr(rows.X, "streams", False):
        return _Columns(rows.X, part)
    return torch.cat([chunk[:, part] for _, chunk in rows.chunks()])


def validation_rows(rows: Any, seed: int) -> Tensor:
    """All rows, or so many drawn by ``seed``, where the network starts: float32 [M, D] on the CPU."""
    if len(rows) > _VALIDATION_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), _VALIDATION_ROWS, replace=False))
        rows = rows[torch.from_numpy(chosen)] if isinstance(rows, Tensor) else rows[chosen]
    whole = rows[: len(rows)]
    return whole.cpu().float() if isinstance(whole, Tensor) else torch.from_numpy(np.array(whole, dtype=np.float32))


def shift_and_scale(rows: Any, scaling: str) -> tuple[Tensor, Tensor]:
    """Offset and scale of a vector's entries: two of [D]."""
    width = rows.shape[1]
    if scaling == "none":
        return torch.zeros(width), torch.ones(width)
    total, squares = np.zeros(width), np.zeros(width)
    first = rows[:1]  # seen from here, far columns keep their digits and constant ones have no variance at all
    first = (first.cpu().numpy() if isinstance(first, Tensor) else np.asarray(first))[0].astype(np.float64)
    for lo in range(0, len(rows), _STATISTICS_ROWS):
        part = rows[lo : lo + _STATISTICS_ROWS]
        part = part.cpu().numpy() if isinstance(part, Tensor) else part
        part = part - first
        total += part.sum(0)
        squares += np.einsum("nd,nd->d", part, part)
    mean = first + total / len(rows)
    variance = np.maximum(squares / len(rows) - np.square(total / len(rows)), 0)
    if scaling == "all":
        variance = np.full(width, variance.mean())
    scale = np.sqrt(variance)
    scale[(scale <= 1e-7 * np.abs(mean)) | (scale <= 1e-6 * scale.max(initial=0))] = 1.0  # nothing but rounding
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()
