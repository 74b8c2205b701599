"""Codes drawn at random from the bits of a vector. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semtok.codecs.additive import CHUNK_ROWS
from semtok.codecs.checks import checked_codes, checked_vectors

__all__ = ["Random", "drawn_codes", "row_keys"]


class Random:
    """Codes that follow from the bits of a vector alone; all stand for the mean."""

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
        self.seed = int(manifest["arguments"]["seed"])
        self.mean = arrays["mean"]

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, columns in self.blocks.items():
            keys = row_keys(vectors[:, self.views[name]])
            codes[:, columns] = drawn_codes(keys, self.sizes[columns], self.seed)
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """The mean, whatever the codes: [N, L] to float32 [N, D], zero in columns of no view."""
        vectors = np.zeros((len(checked_codes(codes, self.sizes)), self.width), dtype=np.float32)
        for part in self.views.values():
            vectors[:, part] = self.mean[part]
        return vectors


def drawn_codes(keys: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Codes that follow from keys and a seed, each as likely as any other: int32 [n, L]."""
    codes = np.empty((len(keys), len(sizes)), dtype=np.int32)
    for level, size in enumerate(sizes):
        salt = (seed * len(sizes) + level + 1) * 0x9E3779B97F4A7C15 % 2**64
        high = _mixed(keys.view(np.uint64) + np.uint64(salt)) >> np.uint64(32)
        codes[:, level] = high * np.uint64(size) >> np.uint64(32)
    return codes


def row_keys(vectors: np.ndarray) -> np.ndarray:
    """A 64-bit key of the content of each row of float32 vectors, for recognizing rows: int64 [N]."""
    vectors = np.asarray(vectors, dtype=np.float32)
    columns = np.arange(1, vectors.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = np.empty(len(vectors), dtype=np.uint64)
    for lo in range(0, len(vectors), CHUNK_ROWS):
        part = np.ascontiguousarray(vectors[lo : lo + CHUNK_ROWS]) + np.float32(0)  # + 0 turns -0 into 0
        keys[lo : lo + CHUNK_ROWS] = _mixed(part.view(np.uint32).astype(np.uint64) + columns).sum(1, dtype=np.uint64)
    return keys.view(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of each uint64 spread over all (the finalizer of splitmix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
