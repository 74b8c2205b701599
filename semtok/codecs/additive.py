"""Additive codes (PQ, OPQ, RQ, k-means): a vector is the sum of one centroid a code. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semtok.codecs.checks import checked_codes, checked_vectors

__all__ = ["Additive", "CHUNK_ROWS", "FAR_BOOK", "SETTLED", "best_paths", "nearest_rows", "squared_distances", "turned"]


SETTLED = 1e-13  # share of the lengths below which two distances are equal even in float64


FAR_BOOK = 256.0  # squared distance of centroids from zero, over their squared spread, that is far


CHUNK_ROWS = 4096


def nearest_rows(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index of the nearest row of ``book`` [K, d] to each of ``points`` [n, d]; of equally near ones the first.

    Which is nearer is rounded away in float32 where they are almost equally near; these rows are decided in float64, so
    that any other arithmetic of float32 finds the same (see ``semtok.kernels.lloyd.nearest``).
    """
    scores = points @ book.T
    scores -= np.square(book).sum(1) / 2
    found: np.ndarray = scores.argmax(1)
    reach = float(np.linalg.norm(book, axis=1).max())
    doubt = 2 * (points.shape[1] + 8) * 2.0**-24 * reach * (np.linalg.norm(points, axis=1) + reach)
    rows = np.arange(len(points))
    least = scores[rows, found] - doubt
    scores[rows, found] = -np.inf
    close = np.flatnonzero(scores.max(1) >= least)
    if len(close):
        some, exact = points[close].astype(np.float64), book.astype(np.float64)
        sums = some @ exact.T - np.square(exact).sum(1) / 2
        slack = SETTLED * reach * (np.linalg.norm(some, axis=1) + reach)
        found[close] = (sums >= (sums.max(1) - slack)[:, None]).argmax(1)
    return found


def squared_distances(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Squared distance of each of ``points`` [n, d] to each row of ``book`` [K, d], in the precision given: [n, K]."""
    mean = book.mean(0)
    if np.square(mean).sum() > FAR_BOOK * np.square(book - mean).sum(1).mean():  # else the difference has no digits
        points, book = points - mean, book - mean
    found = np.square(points).sum(1)[:, None] - 2 * points @ book.T + np.square(book).sum(1)
    return np.maximum(found, 0)


def turned(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotated vectors [n, d], rounded to float32 from float64, which leaves nothing to the order of the sums."""
    return (points.astype(np.float64) @ rotation.astype(np.float64)).astype(np.float32)


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
    return _settled(points, books, paths)


def _settled(points: np.ndarray, books: Sequence[np.ndarray], paths: np.ndarray) -> np.ndarray:
    """The best of some paths [n, b, L] by its error in float64, of equally good ones the smallest: int64 [n, L]."""
    exact = points.astype(np.float64)
    left = np.repeat(exact[:, None, :], paths.shape[1], axis=1)  # [n, b, d]
    for level, book in enumerate(books):
        left -= book.astype(np.float64)[paths[:, :, level]]
    errors = np.square(left).sum(2)
    slack = SETTLED * (np.square(exact).sum(1) + errors.max(1))
    good = errors <= (errors.min(1) + slack)[:, None]
    for level in range(len(books)):
        codes = np.where(good, paths[:, :, level], np.iinfo(np.int64).max)
        good &= codes == codes.min(1, keepdims=True)
    found: np.ndarray = paths[np.arange(len(paths)), good.argmax(1)]
    return found


class Additive:
    """Codebooks that are added up: PQ, OPQ, k-means and RQ.

    Each view is moved by its shift and turned by its rotation, if it has them; every code column is the nearest
    centroid, in the columns that its codebook covers, of what the codes before it left. With a beam that many partial
    codes are kept (see ``best_paths``).
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
        self.shifts = {name: arrays.get(f"shift.{name}") for name in self.views}
        self.beam = int(manifest["arguments"].get("beam", 1))

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        vectors = checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        step = max(16, CHUNK_ROWS // self.beam)
        for lo in range(0, len(vectors), step):
            for name, part in self.views.items():
                points = vectors[lo : lo + step, part].astype(np.float32)
                rotation, shift = self.rotations[name], self.shifts[name]
                points = points if shift is None else points - shift
                points = points if rotation is None else turned(points, rotation)
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
        table = checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for name, part in self.views.items():
            found = np.zeros((len(table), part.stop - part.start), dtype=np.float32)
            for level in range(self.blocks[name].start, self.blocks[name].stop):
                first, last = self.columns[level]
                found[:, first:last] += self.books[level][table[:, level]]
            rotation, shift = self.rotations[name], self.shifts[name]
            found = found if rotation is None else found @ rotation.T
            vectors[:, part] = found if shift is None else found + shift
        return vectors
