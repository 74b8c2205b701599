"""Encode and decode with NumPy and safetensors alone, from a tokenizer folder.

A folder names its ``program``: how the arrays of its codebooks file turn vectors into codes. Each program is a class
here, given the manifest and the arrays; none of them needs torch or scikit-learn, and none can be fitted.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from recbase.store.folder import consistent
from semtok.codecs.schemas import open_tokenizer, read_state
from semtok.plugins import PROGRAM_POINTS, third_party

__all__ = [
    "LARGEST",
    "PROGRAMS",
    "Additive",
    "Program",
    "best_paths",
    "load_portable",
    "nearest_rows",
    "squared_distances",
]

LARGEST = 1e15  # entries beyond are refused: squares of such distances would overflow float32
SETTLED = 1e-13  # share of the lengths below which two distances are equal even in float64
_FAR_BOOK = 256.0  # squared distance of centroids from zero, over their squared spread, that is far
_CHUNK_ROWS = 4096
_NEIGHBOR_SCORES = 1 << 22  # distances of new items to known ones held at a time


class Program(Protocol):
    """What a program answers."""

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        ...

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        ...


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
    if np.square(mean).sum() > _FAR_BOOK * np.square(book - mean).sum(1).mean():  # else the difference has no digits
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
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        step = max(16, _CHUNK_ROWS // self.beam)
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
        table = _checked_codes(codes, self.sizes)
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


class Behavior:
    """Behaviour-bound codes: text and image through their encoders, a row of its own for each item of the fit.

    Computed in float64, so that codes do not depend on how many items are encoded at a time, nor on the library that
    multiplies. ``streams`` names what is quantized, in the order of the code columns within a level.
    """

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.streams = [str(name) for name in manifest["streams"]]
        self.neighbors = int(manifest["neighbors"])
        self.normalized = bool(manifest.get("normalized", False))
        self.arrays = arrays
        self.books = arrays["codebooks"].astype(np.float64)  # [1 or S, L, K, D]
        self.order = np.argsort(arrays["keys"], kind="stable")  # items of the fit by the key of their row
        self.keys = arrays["keys"][self.order]

    def encode(self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L S], level by level.

        ``item_rows`` int [N] says which item of the fit each is, -1 where none; by default they are recognized by their
        content. ``missing`` has masks bool [N] of the items that lack a view; by default those of the fit.
        """
        streams = self.represent(X, item_rows, missing)
        count = len(next(iter(streams.values())))
        codes = np.empty((count, len(self.sizes)), dtype=np.int32)
        for lo in range(0, count, _CHUNK_ROWS):
            for stream, name in enumerate(self.streams):
                left = streams[name][lo : lo + _CHUNK_ROWS].copy()
                for level, book in enumerate(self._books_of(stream)):
                    found = nearest_rows(left, book)
                    codes[lo : lo + len(left), level * len(self.streams) + stream] = found
                    left -= book[found]
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Quantized vectors of the streams side by side: [N, L S] to float32 [N, S D]."""
        table = _checked_codes(codes, self.sizes)
        parts = []
        for stream in range(len(self.streams)):
            books = self._books_of(stream)
            found = np.zeros((len(table), books.shape[2]))
            for level, book in enumerate(books):
                found += book[table[:, level * len(self.streams) + stream]]
            parts.append(found.astype(np.float32))
        return np.concatenate(parts, axis=1)

    def represent(
        self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """What is quantized of each stream, before it is: float64 [N, D]. Arguments as in :meth:`encode`."""
        vectors = _checked_vectors(X, self.width)
        rows = self._rows(vectors, item_rows)
        masks = {name: self._missing(name, rows, missing) for name in self.views}
        streams = self.aligned(vectors, masks)
        if "id" in self.streams:
            ids = self.arrays["ids"].astype(np.float64)[rows]
            new = np.flatnonzero(rows < 0)
            ids[new] = self.from_neighbors(np.concatenate([part[new] for part in streams.values()], axis=1))
            streams = {"id": self._standardized(ids)} | streams
        return streams

    def aligned(self, vectors: np.ndarray, missing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Behaviour-aligned vectors of text and image: [N, D_in] to float64 [N, D] each."""
        arrays, found = self.arrays, {}
        for name, part in self.views.items():
            depth = sum(key.startswith(f"{name}.weight.") for key in arrays)
            weights = [arrays[f"{name}.weight.{layer}"].astype(np.float64).T for layer in range(depth)]
            found[name] = np.empty((len(vectors), weights[-1].shape[1]))
            for lo in range(0, len(vectors), _CHUNK_ROWS):
                x = (vectors[lo : lo + _CHUNK_ROWS, part] - arrays[f"{name}.mean"]) / arrays[f"{name}.scale"]
                x = np.where(missing[name][lo : lo + _CHUNK_ROWS, None], arrays[f"{name}.absent"], x).astype(np.float64)
                for layer, weight in enumerate(weights):
                    x = (x if layer == 0 else np.maximum(x, 0)) @ weight + arrays[f"{name}.bias.{layer}"]
                found[name][lo : lo + _CHUNK_ROWS] = self._standardized(x)
        return found

    def _standardized(self, rows: np.ndarray) -> np.ndarray:
        """Rows with mean 0 and variance 1, as torch's layer norm makes them, where they were quantized so."""
        if not self.normalized:
            return rows
        centred_rows = rows - rows.mean(1, keepdims=True)
        standard: np.ndarray = centred_rows / np.sqrt(np.square(centred_rows).mean(1, keepdims=True) + 1e-5)
        return standard

    def from_neighbors(self, places: np.ndarray) -> np.ndarray:
        """Mean id row of the trained items nearest to each place: [N, sum of D] to float64 [N, D].

        Of items at equal distance (to seven digits) the first are taken.
        """
        trained = self.arrays["trained"]
        known = self.arrays["places"][trained].astype(np.float64)
        ids = self.arrays["ids"][trained].astype(np.float64)
        count = min(self.neighbors, len(known))
        step = max(16, _NEIGHBOR_SCORES // len(known))
        found = np.empty((len(places), ids.shape[1]))
        squares = np.square(known).sum(1)
        for lo in range(0, len(places), step):
            part = places[lo : lo + step].astype(np.float64)
            distances = (np.square(part).sum(1)[:, None] - 2 * part @ known.T + squares).astype(np.float32)
            limit = np.partition(distances, count - 1, axis=1)[:, count - 1, None]
            nearer, level = distances < limit, distances == limit
            room = count - nearer.sum(1, keepdims=True)
            chosen = nearer | (level & (level.cumsum(1) <= room))
            found[lo : lo + step] = chosen.astype(np.float64) @ ids / count
        return found

    def costs(
        self, X: Any, codes: Any, level: int, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Squared distance between each item's stream and what it would be quantized to with each code of one column.

        Float32 [N, K]; the other codes of the stream stay as they are. Arguments as in :meth:`encode`.
        """
        table = np.asarray(codes)
        at, stream = divmod(range(len(self.sizes))[level], len(self.streams))
        left = self.represent(X, item_rows, missing)[self.streams[stream]].copy()
        books = self._books_of(stream)
        for other, book in enumerate(books):
            if other != at:
                left -= book[table[:, other * len(self.streams) + stream]]
        return squared_distances(left, books[at]).astype(np.float32)

    def _books_of(self, stream: int) -> np.ndarray:
        """Codebooks of a stream, [L, K, D]: its own, or those that all share."""
        found: np.ndarray = self.books[min(stream, len(self.books) - 1)]
        return found

    def _rows(self, vectors: np.ndarray, item_rows: Any) -> np.ndarray:
        """Which item of the fit each vector is, -1 where none: int64 [N]."""
        if item_rows is not None:
            rows = np.asarray(item_rows)
            fitted = len(self.keys)
            if rows.shape != (len(vectors),) or rows.dtype.kind not in "iu":
                raise ValueError(f"item_rows is {rows.dtype} of shape {rows.shape}; expected {len(vectors)} integers")
            if len(rows) and not -1 <= int(rows.min()) <= int(rows.max()) < fitted:
                strange = rows[(rows < -1) | (rows >= fitted)][0]
                raise ValueError(f"item_rows has {strange}; expected -1 (new) to {fitted - 1}, the items of the fit")
            return rows.astype(np.int64)
        keys = row_keys(vectors)
        if np.array_equal(keys, self.arrays["keys"]):
            return np.arange(len(keys))
        first, last = np.searchsorted(self.keys, keys, "left"), np.searchsorted(self.keys, keys, "right")
        return np.where(last - first == 1, self.order[np.minimum(first, len(self.order) - 1)], -1)

    def _missing(self, name: str, rows: np.ndarray, missing: Mapping[str, Any] | None) -> np.ndarray:
        """Which items lack a view: as given, else as in the fit. bool [N]."""
        if missing is None or name not in missing:
            return np.where(rows < 0, False, self.arrays[f"{name}.missing"][rows])
        mask = np.asarray(missing[name])
        if mask.shape != rows.shape or mask.dtype != bool:
            raise ValueError(f"missing[{name!r}] is {mask.dtype} of shape {mask.shape}; expected {len(rows)} bools")
        return mask


class Tree:
    """A tree of centroids over item vectors, one a view; items are told apart under its last nodes.

    ``views`` and ``blocks`` as in the manifest; arrays ``NAME.VIEW`` as :class:`Branches` takes them.
    """

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
        self.normalize = bool(manifest["arguments"]["normalize"])
        self.trees = {}
        for name, columns in self.blocks.items():
            found = {key.removesuffix(f".{name}"): array for key, array in arrays.items() if key.endswith(f".{name}")}
            self.trees[name] = Branches(found, self.sizes[columns])

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]; rows of the fit have the codes they were given there."""
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, part in self.views.items():
            for lo in range(0, len(vectors), _CHUNK_ROWS):
                points = np.ascontiguousarray(vectors[lo : lo + _CHUNK_ROWS, part], dtype=np.float32)
                codes[lo : lo + len(points), self.blocks[name]] = self.trees[name].encode(points, self.normalize)
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D], zero in columns of no view."""
        table = _checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for name, part in self.views.items():
            tree = self.trees[name]
            vectors[:, part] = tree.mean + tree.offsets[tree.nodes_of(table[:, self.blocks[name]])]
        return vectors


class Branches:
    """The tree of one view, its nodes numbered level by level: 0 is the root, children of a node follow each other.

    Parameters
    ----------
    arrays : mapping
        ``mean`` [D] of all items; of the M nodes ``offsets`` [M, D] (centroid less mean), ``code`` [M] under their
        parent, ``price`` [M] (added to the squared distance to them), ``children`` [M] and ``items`` [M] (items that
        are told apart under the node, 0 where it has children); ``reach`` [N]: distances of the items to their last
        node, node by node, ascending; ``keys`` [N] and ``codes`` [N, L] of the rows of the fit.
    sizes : sequence of int
        Codes of each level; if the later ones have one more than the first, that one says that nothing follows.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], sizes: Sequence[int]) -> None:
        self.mean, self.offsets = arrays["mean"], arrays["offsets"]
        self.code, self.price = arrays["code"].astype(np.int64), arrays["price"]
        self.children, self.items = arrays["children"].astype(np.int64), arrays["items"].astype(np.int64)
        self.reach, self.keys, self.codes = arrays["reach"], arrays["keys"], arrays["codes"]
        self.levels, self.size = len(sizes), int(sizes[0])
        self.end = self.size if sizes[-1] > self.size else -1
        self.first = 1 + self.children.cumsum() - self.children  # child of each node
        self.start = self.items.cumsum() - self.items  # place in ``reach`` of each node's items
        parents = np.repeat(np.arange(len(self.children)), self.children)
        self.edges = parents * self.size + self.code[1:]  # ascending
        self.depth = np.zeros(len(self.children), dtype=np.int64)
        lo, hi = 0, 1
        while lo < hi:
            lo, hi = hi, hi + int(self.children[lo:hi].sum())
            self.depth[lo:hi] = self.depth[lo - 1] + 1
        self.order = np.argsort(self.keys, kind="stable")
        self.sorted = self.keys[self.order]

    @cached_property
    def _far(self) -> np.ndarray:
        """Nodes whose children are close together but far from the mean of all items: bool [M]."""
        parents = np.repeat(np.arange(len(self.children)), self.children)
        apart = np.square(self.offsets[1:] - self.offsets[parents], dtype=np.float64).sum(1)
        spread = np.bincount(parents, apart, len(self.children)) / np.maximum(self.children, 1)
        far: np.ndarray = np.square(self.offsets, dtype=np.float64).sum(1) > _FAR_BOOK * spread
        return far

    def encode(self, points: np.ndarray, normalize: bool) -> np.ndarray:
        """Codes of float32 rows: int32 [n, L]."""
        rows = self.recognize(row_keys(points))
        codes = self.codes[np.maximum(rows, 0)]
        strange = np.flatnonzero(rows < 0)
        if len(strange):
            codes[strange] = self.route(centred(points[strange], self.mean, normalize))
        return codes

    def recognize(self, keys: np.ndarray, apart: bool = False) -> np.ndarray:
        """Row of the fit that has each key, -1 where none: int64 [n].

        Of rows with equal keys the first is taken; ``apart`` gives the first key the first of them, the next key the
        next one and so on, as long as there are any.
        """
        order = np.argsort(keys, kind="stable")
        asked = keys[order]  # ascending, which keeps the search in cache
        first = np.minimum(np.searchsorted(self.sorted, asked), len(self.sorted) - 1)
        known = self.sorted[first] == asked
        if apart:
            new = np.ones(len(asked), dtype=bool)
            new[1:] = asked[1:] != asked[:-1]
            rank = np.arange(len(asked)) - np.maximum.accumulate(np.where(new, np.arange(len(asked)), 0))
            more = np.searchsorted(self.sorted, asked, "right") - first
            first = first + np.where(known & (rank < more), rank, 0)
        rows = np.empty(len(keys), dtype=np.int64)
        rows[order] = np.where(known, self.order[first], -1)
        return rows

    def route(self, points: Any, offsets: Any = None) -> np.ndarray:
        """Codes of rows that are not of the fit, given centred: int32 [n, L].

        From the root on the nearest child; under the last node the place of the item whose distance to the node is
        most like the row's own. Tensors are walked where they are, with ``offsets`` there.
        """
        offsets = self.offsets if offsets is None else offsets
        codes = np.full((len(points), self.levels), self.end, dtype=np.int32)
        node = np.zeros(len(points), dtype=np.int64)
        for level in range(self.levels):
            going = np.flatnonzero(self.children[node])
            if not len(going):
                break
            node[going] = self._nearest_children(points, offsets, going, node[going])
            codes[going, level] = self.code[node[going]]
        reach = _numpy(((points - offsets[node]) ** 2).sum(1))
        place = self._place(node, reach)
        told = np.flatnonzero((self.items[node] > 1) | (self.depth[node] == 0) | (self.end < 0))
        codes[told, self.depth[node[told]]] = place[told]
        return codes

    def find(self, nodes: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Child of each node with a code, -1 where there is none."""
        key = np.where(codes < self.size, nodes * self.size + codes, -1)
        place = np.searchsorted(self.edges, key)
        hit = place < len(self.edges)
        hit[hit] = self.edges[place[hit]] == key[hit]
        return np.where(hit, place + 1, -1)

    def nodes_of(self, codes: np.ndarray) -> np.ndarray:
        """The last node on the path of each tuple: int64 [n]; codes may be of the first levels alone."""
        node = np.zeros(len(codes), dtype=np.int64)
        on = np.ones(len(codes), dtype=bool)
        for column in codes.T:
            child = self.find(node, column)
            on &= child >= 0
            node = np.where(on, child, node)
        return node

    def _nearest_children(self, points: Any, offsets: Any, rows: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        order = np.argsort(nodes, kind="stable")
        parents, starts = np.unique(nodes[order], return_index=True)
        found = np.empty(len(rows), dtype=np.int64)
        for parent, part in zip(parents, np.split(order, starts[1:]), strict=True):
            children = slice(self.first[parent], self.first[parent] + self.children[parent])
            book, here = offsets[children], points[rows[part]]
            if self._far[parent]:  # around their own centroid, or else nothing is left of the differences
                book, here = book - offsets[parent], here - offsets[parent]
            costs = (here @ book.T) * -2
            costs += (book**2).sum(1)
            price = self.price[children]
            if price.any():
                costs += price if isinstance(costs, np.ndarray) else costs.new_tensor(price)
            found[part] = self.first[parent] + _numpy(costs.argmin(1))
        return found

    def _place(self, nodes: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Place, among the items of each node, of the one whose distance is nearest to ``reach``: int64 [n]."""
        start, stop = self.start[nodes], self.start[nodes] + self.items[nodes]
        after = self._first_at_least(start, stop, reach)
        below = np.maximum(after - 1, start)
        above = np.minimum(after, stop - 1)
        nearer = np.where(reach - self.reach[below] <= self.reach[above] - reach, below, above)
        return self._first_at_least(start, stop, self.reach[nearer]) - start

    def _first_at_least(self, start: np.ndarray, stop: np.ndarray, value: np.ndarray) -> np.ndarray:
        """First place in each range of ``reach`` with at least that value, by halving."""
        lo, hi = start.copy(), stop.copy()
        for _ in range(int((stop - start).max(initial=0)).bit_length()):
            middle = np.minimum((lo + hi) // 2, len(self.reach) - 1)
            less = (lo < hi) & (self.reach[middle] < value)
            lo = np.where(less, middle + 1, lo)
            hi = np.where(less, hi, np.minimum(middle, hi))
        return lo


def centred(points: Any, mean: Any, normalize: bool) -> Any:
    """Rows of length 1 if ``normalize`` (rows of zeros stay so), less the mean; arrays or tensors [n, D]."""
    if normalize:
        norms = (points**2).sum(1) ** 0.5
        points = points / (norms + (norms == 0))[:, None]
    return points - mean


def _numpy(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


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
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, part in self.views.items():
            codes[:, self.blocks[name]] = self.grids[name].encode(vectors[:, part])
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D], zero in columns of no view."""
        table = _checked_codes(codes, self.sizes)
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
        for lo in range(0, len(points), _CHUNK_ROWS):
            centred_rows = points[lo : lo + _CHUNK_ROWS].astype(np.float32).astype(np.float64) - self.mean
            found = cells_of(centred_rows @ axes, self.cuts)
            codes[lo : lo + _CHUNK_ROWS] = found.reshape(len(found), -1, len(self.cells)) @ self.steps
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """What codes [n, L] stand for: float32 [n, D]."""
        digits = (codes[:, :, None] // self.steps % self.cells).reshape(len(codes), -1)  # [n, C]
        vectors = np.repeat(self.mean[None], len(codes), axis=0)
        for value, cell in zip(self.values, digits.T, strict=True):
            vectors += value[cell]
        return vectors

    def book(self, level: int) -> np.ndarray:
        """What each code of a level adds: float32 [K, D]."""
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
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, columns in self.blocks.items():
            keys = row_keys(vectors[:, self.views[name]])
            codes[:, columns] = drawn_codes(keys, self.sizes[columns], self.seed)
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """The mean, whatever the codes: [N, L] to float32 [N, D], zero in columns of no view."""
        vectors = np.zeros((len(_checked_codes(codes, self.sizes)), self.width), dtype=np.float32)
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
    for lo in range(0, len(vectors), _CHUNK_ROWS):
        part = np.ascontiguousarray(vectors[lo : lo + _CHUNK_ROWS]) + np.float32(0)  # + 0 turns -0 into 0
        keys[lo : lo + _CHUNK_ROWS] = _mixed(part.view(np.uint32).astype(np.uint64) + columns).sum(1, dtype=np.uint64)
    return keys.view(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of each uint64 spread over all (the finalizer of splitmix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


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
        vectors = _checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for lo in range(0, len(vectors), _CHUNK_ROWS):
            for name, part in self.views.items():
                rows = vectors[lo : lo + _CHUNK_ROWS, part].astype(np.float32)
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
        table = _checked_codes(codes, self.sizes)
        vectors = np.zeros((len(table), self.width), dtype=np.float32)
        for lo in range(0, len(table), _CHUNK_ROWS):
            for name, part in self.views.items():
                levels = range(self.blocks[name].start, self.blocks[name].stop)
                books = [self.arrays[f"codebook.{level}"].astype(np.float64) for level in levels]
                rows = table[lo : lo + _CHUNK_ROWS, self.blocks[name]]
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


PROGRAMS: dict[str, Any] = {
    "additive": Additive,
    "behavior": Behavior,
    "tree": Tree,
    "grid": Cells,
    "random": Random,
    "residual-network": ResidualNetwork,
}


@consistent
def load_portable(folder: str | os.PathLike[str]) -> Program:
    """Read the tokenizer of a folder for use with NumPy alone.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If its program is unknown to this version, or its files are damaged.
    """
    opened = open_tokenizer(folder)
    if opened.manifest["method"] is None:
        raise ValueError(f"{folder} holds item codes but no tokenizer; read them with semtok.load_codes")
    make = program_class(opened.manifest["program"], folder)
    arrays = read_state(opened)
    try:
        made: Program = make(opened.manifest, arrays)
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:  # of a third party's program, which is not checked above
        raise ValueError(f"{opened.path} holds no whole program {opened.manifest['program']}: {error}") from error
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
    peak = float(np.abs(vectors).max(initial=0))
    if not np.isfinite(peak):
        raise ValueError("X has a NaN or infinite (inf) entry: every entry must be finite")
    if peak > LARGEST:
        raise ValueError(
            f"X has an entry of {peak:.3g}: expected at most {LARGEST:g}; divide all vectors by one number"
        )
    return vectors


def _checked_codes(codes: Any, sizes: list[int]) -> np.ndarray:
    table = np.asarray(codes)
    if table.ndim != 2 or table.shape[1] != len(sizes):
        raise ValueError(f"codes have shape {table.shape}; expected [N, {len(sizes)}]")
    for level, size in enumerate(sizes):
        if len(table) and not 0 <= int(table[:, level].min()) <= int(table[:, level].max()) < size:
            raise ValueError(f"codes of level {level} must lie in 0..{size - 1}")
    return table
