"""Codes of a grid (LSH, FSQ): every number of a vector falls into one of a few cells. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semtok.codecs.additive import CHUNK_ROWS
from semtok.codecs.checks import checked_codes, checked_vectors

__all__ = ["Cells", "Grid", "cells_of"]


class Cells:
    """Coordinates cut into cells, one :class:`Grid` a view: sides of hyperplanes, parts of principal axes."""

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
        self.grids = {}
        for name in self.views:
            found = {field: arrays[f"{field}.{name}"] for field in ("mean", "axes", "cuts", "values")}
            self.grids[name] = Grid(found, manifest["cells"])

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, part in self.views.items():
            codes[:, self.blocks[name]] = self.grids[name].encode(vectors[:, part])
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D], zero in columns of no view."""
        table = checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for name, part in self.views.items():
            vectors[:, part] = self.grids[name].decode(table[:, self.blocks[name]])
        return vectors


class Grid:
    """Cells of one view.

    Parameters
    ----------
    arrays : mapping
        ``mean`` [D]; of the C coordinates ``axes`` [D, C], ``cuts`` [C, c] (ascending, filled up with infinity) and
        ``values`` [C, c + 1, D]: what each cell adds to the mean when it is decoded.
    cells : sequence of int
        Cells of each coordinate of one level; a code counts them with the last one fastest.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], cells: Sequence[int]) -> None:
        self.mean, self.axes, self.cuts = arrays["mean"], arrays["axes"], arrays["cuts"]
        self.values = arrays["values"]
        self.cells = np.array(cells, dtype=np.int64)
        self.steps = np.append(np.cumprod(self.cells[:0:-1])[::-1], 1)  # of the code, for one cell further

    def encode(self, points: np.ndarray) -> np.ndarray:
        """Codes of rows [n, D]: int32 [n, L]. Computed in float64, so that they do not depend on the chunk."""
        codes = np.empty((len(points), self.axes.shape[1] // len(self.cells)), dtype=np.int32)
        axes = self.axes.astype(np.float64)
        for lo in range(0, len(points), CHUNK_ROWS):
            centred_rows = points[lo : lo + CHUNK_ROWS].astype(np.float32).astype(np.float64) - self.mean
            found = cells_of(centred_rows @ axes, self.cuts)
            codes[lo : lo + CHUNK_ROWS] = found.reshape(len(found), -1, len(self.cells)) @ self.steps
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes [n, L]: float32 [n, D]."""
        digits = (codes[:, :, None] // self.steps % self.cells).reshape(len(codes), -1)  # [n, C]
        vectors = np.repeat(self.mean[None], len(codes), axis=0)
        for value, cell in zip(self.values, digits.T, strict=True):
            vectors += value[cell]
        return vectors

    def book(self, level: int) -> np.ndarray:
        """Vectors that the codes of a level add: float32 [K, D]."""
        digits = np.arange(self.cells.prod())[:, None] // self.steps % self.cells
        values = self.values[level * len(self.cells) :]
        found: np.ndarray = sum(value[cell] for value, cell in zip(values, digits.T, strict=False))
        return found


def cells_of(values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Cell of each value [n, C] between the cuts [C, c] of its coordinate, those on a cut above it: int64 [n, C]."""
    found = np.zeros(values.shape, dtype=np.int64)
    for cut in cuts.T:
        found += values >= cut
    return found
