"""What every codec asks of vectors and codes before it reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["LARGEST", "centred", "checked_codes", "checked_vectors", "as_numpy"]


LARGEST = 1e15  # entries beyond are refused: squares of such distances would overflow float32


def centred(points: Any, mean: Any, normalize: bool) -> Any:
    """Rows of length 1 if ``normalize`` (rows of zeros stay so), less the mean; arrays or tensors [n, D]."""
    if normalize:
        norms = (points**2).sum(1) ** 0.5
        points = points / (norms + (norms == 0))[:, None]
    return points - mean


def as_numpy(values: Any) -> np.ndarray:
    """Array of the values, copied from their device where they lie on one."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def checked_vectors(X: Any, width: int) -> np.ndarray:
    """Vectors as float32 [N, D]; ValueError where they are no finite matrix of that width."""
    vectors = np.asarray(X)
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(f"X has shape {vectors.shape}; expected [N, {width}]")
    peak = float(np.abs(vectors).max(initial=0))
    if not np.isfinite(peak):
        raise ValueError("X has a NaN or infinite (inf) entry: every entry must be finite")
    if peak > LARGEST:
        raise ValueError(
            f"X has an entry of {peak:.3g}: expected at most {LARGEST:g}; divide all vectors by one number"
        )
    return vectors


def checked_codes(codes: Any, sizes: list[int]) -> np.ndarray:
    """Codes as int64 [N, L]; ValueError where one is outside its level."""
    table = np.asarray(codes)
    if table.ndim != 2 or table.shape[1] != len(sizes):
        raise ValueError(f"codes have shape {table.shape}; expected [N, {len(sizes)}]")
    for level, size in enumerate(sizes):
        if len(table) and not 0 <= int(table[:, level].min()) <= int(table[:, level].max()) < size:
            raise ValueError(f"codes of level {level} must lie in 0..{size - 1}")
    return table
