"""Hierarchical codes: a path from the root of a tree of centroids to a leaf. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from semtok.codecs.additive import CHUNK_ROWS, FAR_BOOK
from semtok.codecs.checks import as_numpy, centred, checked_codes, checked_vectors
from semtok.codecs.drawn import row_keys

__all__ = ["Branches", "Tree"]


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
        vectors = checked_vectors(X, self.width)
        codes = np.empty((len(vectors), len(self.sizes)), dtype=np.int32)
        for name, part in self.views.items():
            for lo in range(0, len(vectors), CHUNK_ROWS):
                points = np.ascontiguousarray(vectors[lo : lo + CHUNK_ROWS, part], dtype=np.float32)
                codes[lo : lo + len(points), self.blocks[name]] = self.trees[name].encode(points, self.normalize)
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D], zero in columns of no view."""
        table = checked_codes(codes, self.sizes)
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
        far: np.ndarray = np.square(self.offsets, dtype=np.float64).sum(1) > FAR_BOOK * spread
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
        reach = as_numpy(((points - offsets[node]) ** 2).sum(1))
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
            found[part] = self.first[parent] + as_numpy(costs.argmin(1))
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
