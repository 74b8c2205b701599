"""Encode and decode with NumPy and safetensors alone, from a tokenizer folder.

A folder names its ``program``: how the arrays of its codebooks file turn vectors into codes. Each program is a class
here, given the manifest and the arrays; none of them needs torch or scikit-learn, and none can be fitted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from recbase.checkpoints import load_arrays, open_folder
from semtok.codes import KIND, MANIFEST

__all__ = ["PROGRAMS", "Additive", "Program", "load_portable", "nearest_rows"]

_CHUNK_ROWS = 4096


class Program(Protocol):
    """What a program answers."""

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        ...

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        ...


def nearest_rows(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index of the nearest row of ``book`` [K, d] to each of ``points`` [n, d]; of equally near ones the first."""
    scores = points @ book.T
    scores *= -2
    scores += np.square(book).sum(1)
    found: np.ndarray = scores.argmin(1)
    return found


class Additive:
    """Codebooks that are added up: PQ, OPQ, k-means and RQ, with the greedy search.

    Each view is turned by its rotation, if it has one; every code column is the nearest centroid, in the columns that
    its codebook covers, of what the codes before it left.
    """

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.used = [int(used) for used in manifest["used"]]
        self.columns = [(int(lo), int(hi)) for lo, hi in manifest["columns"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
        self.books = [arrays[f"codebook.{level}"] for level in range(len(self.sizes))]
        self.rotations = {name: arrays.get(f"rotation.{name}") for name in self.views}
        if manifest["arguments"].get("beam", 1) != 1:
            raise ValueError(
                "a tokenizer that encodes with a beam needs the torch backend: load it with backend='torch'"
            )

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for lo in range(0, len(vectors), _CHUNK_ROWS):
            for name, part in self.views.items():
                left = vectors[lo : lo + _CHUNK_ROWS, part].astype(np.float32)
                rotation = self.rotations[name]
                left = left if rotation is None else left @ rotation
                for level in range(self.blocks[name].start, self.blocks[name].stop):
                    first, last = self.columns[level]
                    found = nearest_rows(left[:, first:last], self.books[level][: self.used[level]])
                    codes[lo : lo + len(left), level] = found
                    left[:, first:last] -= self.books[level][found]
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        table = _checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for name, part in self.views.items():
            found = np.zeros((len(table), part.stop - part.start), dtype=np.float32)
            for level in range(self.blocks[name].start, self.blocks[name].stop):
                first, last = self.columns[level]
                found[:, first:last] += self.books[level][table[:, level]]
            rotation = self.rotations[name]
            vectors[:, part] = found if rotation is None else found @ rotation.T
        return vectors


PROGRAMS: dict[str, Any] = {
    "additive": Additive,
}


def load_portable(folder: str | os.PathLike[str]) -> Program:
    """Read the tokenizer of a folder for use with NumPy alone.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If its program is unknown to this version, or its files are damaged.
    """
    opened = open_folder(folder, MANIFEST, KIND)
    program = opened.manifest.get("program")
    if program not in PROGRAMS:
        raise ValueError(f"{folder} has the program {program!r}; this version knows {', '.join(PROGRAMS)}")
    made: Program = PROGRAMS[program](opened.manifest, load_arrays(opened.file("codebooks.safetensors")))
    return made


def _checked_vectors(X: Any, width: int) -> np.ndarray:
    vectors = np.asarray(X)
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(f"X has shape {vectors.shape}; expected [N, {width}]")
    if not np.isfinite(vectors).all():
        raise ValueError("X has a NaN or infinite (inf) entry: every entry must be finite")
    return vectors


def _checked_codes(codes: Any, sizes: list[int]) -> np.ndarray:
    table = np.asarray(codes)
    if table.ndim != 2 or table.shape[1] != len(sizes):
        raise ValueError(f"codes have shape {table.shape}; expected [N, {len(sizes)}]")
    for level, size in enumerate(sizes):
        if len(table) and not 0 <= int(table[:, level].min()) <= int(table[:, level].max()) < size:
            raise ValueError(f"codes of level {level} must lie in 0..{size - 1}")
    return table
