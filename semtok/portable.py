"""Encode and decode with NumPy and safetensors alone, from a tokenizer folder.

A folder names its ``program``: how the arrays of its codebooks file turn vectors into codes. Each program is a class
here, given the manifest and the arrays; none of them needs torch or scikit-learn, and none can be fitted.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from recbase.checkpoints import load_arrays, open_folder
from semtok.codes import KIND, MANIFEST
from semtok.loading import PROGRAM_POINTS, third_party

__all__ = ["PROGRAMS", "Additive", "Program", "best_paths", "load_portable", "nearest_rows"]

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


def best_paths(points: np.ndarray, books: Sequence[np.ndarray], beam: int) -> np.ndarray:
    """Codes whose summed rows of ``books`` [K, d] are near ``points`` [n, d], found by keeping ``beam`` partial codes.

    |x - sum c|^2 grows by |c|^2 - 2 x.c + 2 sum_before c'.c with each level, so no residual is ever formed.

    Returns
    -------
    int64 array [n, L]
    """
    rows = np.arange(len(points))[:, None]
    paths = np.zeros((len(points), 1, 0), dtype=np.int64)
    costs = np.zeros((len(points), 1), dtype=np.float32)
    for level, book in enumerate(books):
        step = np.square(book).sum(1) - 2 * (points @ book.T)  # [n, K]
        total = costs[:, :, None] + step[:, None, :]  # [n, b, K]
        for before in range(level):
            total += (2 * (books[before] @ book.T))[paths[:, :, before]]
        flat = total.reshape(len(points), -1)
        kept = min(beam, flat.shape[1])
        chosen = np.argpartition(flat, kept - 1, axis=1)[:, :kept]
        chosen = chosen[rows, np.argsort(flat[rows, chosen], axis=1, kind="stable")]  # [n, kept]
        costs = flat[rows, chosen]
        parents = paths[rows, chosen // len(book)]
        paths = np.concatenate([parents, (chosen % len(book))[:, :, None]], axis=2)
    return paths[:, 0]


class Additive:
    """Codebooks that are added up: PQ, OPQ, k-means and RQ.

    Each view is turned by its rotation, if it has one; every code column is the nearest centroid, in the columns that
    its codebook covers, of what the codes before it left. With a beam that many partial codes are kept (see
    ``best_paths``).
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
        self.beam = int(manifest["arguments"].get("beam", 1))

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        step = max(16, _CHUNK_ROWS // self.beam)
        for lo in range(0, len(vectors), step):
            for name, part in self.views.items():
                points = vectors[lo : lo + step, part].astype(np.float32)
                rotation = self.rotations[name]
                points = points if rotation is None else points @ rotation
                levels = range(self.blocks[name].start, self.blocks[name].stop)
                if self.beam > 1:
                    books = [self.books[level][: self.used[level]] for level in levels]
                    codes[lo : lo + step, levels.start : levels.stop] = best_paths(points, books, self.beam)
                    continue
                for level in levels:
                    first, last = self.columns[level]
                    found = nearest_rows(points[:, first:last], self.books[level][: self.used[level]])
                    codes[lo : lo + step, level] = found
                    points[:, first:last] -= self.books[level][found]
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
    make = program_class(opened.manifest.get("program"), folder)
    made: Program = make(opened.manifest, load_arrays(opened.file("codebooks.safetensors")))
    return made


def program_class(program: Any, folder: str | os.PathLike[str]) -> Any:
    """The class of a program that ``folder`` names: one of ours, or of the entry points ``semtok.programs``.

    Raises
    ------
    ValueError
        If no program is called so.
    """
    if program in PROGRAMS:
        return PROGRAMS[program]
    installed = third_party(PROGRAM_POINTS, PROGRAMS)
    if program not in installed:
        raise ValueError(
            f"{folder} has the program {program!r}; this installation knows {', '.join([*PROGRAMS, *installed])}"
        )
    module, name = installed[program].split(":")
    return getattr(importlib.import_module(module), name)


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
