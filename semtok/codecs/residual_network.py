"""Codes of a network (RQ-VAE, LETTER): a residual quantizer behind an encoder. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from semtok.codecs.additive import CHUNK_ROWS
from semtok.codecs.checks import checked_codes, checked_vectors

__all__ = ["ResidualNetwork"]


class ResidualNetwork:
    """Residual codebooks behind an encoder, one a view: RQ-VAE and LETTER.

    Layers with ReLU between them bring a vector to its latent; every code is the nearest codeword to what the codes
    before it left. Computed in float64, so that codes do not depend on how many items are encoded at a time, nor on the
    library that multiplies.
    """

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.layers = int(manifest["layers"])
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
        self.arrays = arrays

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for lo in range(0, len(vectors), CHUNK_ROWS):
            for name, part in self.views.items():
                rows = vectors[lo : lo + CHUNK_ROWS, part].astype(np.float32)
                shift, scale = self.arrays[f"shift.{name}"], self.arrays[f"scale.{name}"]
                left = self._through(f"encoder.{name}", (rows.astype(np.float64) - shift) / scale)
                for place, level in enumerate(range(self.blocks[name].start, self.blocks[name].stop)):
                    book = self.arrays[f"codebook.{level}"].astype(np.float64)
                    scores = np.square(book).sum(1) - 2 * left @ book.T
                    scores[:, ~self.arrays[f"usable.{name}"][place]] = np.inf
                    codes[lo : lo + len(left), level] = scores.argmin(1)
                    left -= book[codes[lo : lo + len(left), level]]
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        table = checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for lo in range(0, len(table), CHUNK_ROWS):
            for name, part in self.views.items():
                levels = range(self.blocks[name].start, self.blocks[name].stop)
                books = [self.arrays[f"codebook.{level}"].astype(np.float64) for level in levels]
                rows = table[lo : lo + CHUNK_ROWS, self.blocks[name]]
                total = np.sum([book[column] for book, column in zip(books, rows.T, strict=True)], axis=0)
                restored = self._through(f"decoder.{name}", total)
                restored = restored * self.arrays[f"scale.{name}"] + self.arrays[f"shift.{name}"]
                vectors[lo : lo + len(rows), part] = restored
        return vectors

    def _through(self, name: str, values: np.ndarray) -> np.ndarray:
        """Layers with ReLU between them, in float64."""
        for place in range(self.layers):
            weight = self.arrays[f"{name}.{place}.weight"].astype(np.float64)
            values = values @ weight.T + self.arrays[f"{name}.{place}.bias"]
            values = values if place + 1 == self.layers else np.maximum(values, 0)
        return values
