"""Trees of centroids grown level by level, each node split into clusters of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semtok.codecs.checks import centred
from semtok.codecs.drawn import row_keys
from semtok.content.rows import (
    Rows,
)
from semtok.kernels.balanced import Filling, fit_rows, split_segments
from semtok.kernels.origins import around, middle

__all__ = ["Growth", "Moments", "Splitting", "View"]


_CELLS = 16.0  # of a spread, by which rows are put in order


_EDGE = 0.381966


class Moments:
    """Sums over the rows of a view in float64, seen from the first row, so that far columns lose nothing."""

    def __init__(self, width: int) -> None:
        self.first: Tensor | None = None
        self.total, self.squares = torch.zeros(2, width, dtype=torch.float64)

    def add(self, points: Tensor) -> None:
        """Count rows [n, D] in."""
        exact = points.cpu().double()
        if self.first is None:
            self.first = exact[0].clone()
        exact -= self.first
        self.total += exact.sum(0)
        self.squares += exact.square_().sum(0)

    def mean(self, count: int) -> Tensor:
        """Mean of each column: float64 [D]."""
        assert self.first is not None
        return self.first + self.total / count

    def spread(self, count: int) -> Tensor:
        """Standard deviation of each column: float64 [D]."""
        return (self.squares / count - (self.total / count).square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class View:
    """Centred vectors of one view, read where they lie."""

    rows: Rows
    part: slice
    mean: Tensor
    normalize: bool

    @property
    def width(self) -> int:
        return self.part.stop - self.part.start

    def keys(self, mean: Tensor, spread: float) -> np.ndarray:
        """A key of each row by which rows are put in order: int64 [N].

        Of the cells that its entries fall into, in sixteenths of ``spread`` from the exact ``mean``: moving or scaling
        all rows changes none, but for what rounding takes over an edge. Edges lie where no round number does.
        """
        keys = np.empty(len(self.rows), dtype=np.int64)
        cells = _CELLS / spread if spread > 0 else 1.0
        edges = (_EDGE + (self.mean.cpu().double() - mean) * cells).float().to(self.mean.device)
        for lo, chunk in self.rows.chunks():
            points = centred(chunk[:, self.part], self.mean, self.normalize)
            keys[lo : lo + len(chunk)] = row_keys((points * cells).add_(edges).floor_().cpu().numpy())
        return keys

    def take(self, which: np.ndarray) -> Tensor:
        """Vectors of rows, in that order: [n, D]. Read in the order in which they lie."""
        X = self.rows.X
        order = np.argsort(which, kind="stable")
        sorted_rows = which[order].astype(np.int64)
        if len(which) and sorted_rows[-1] - sorted_rows[0] + 1 == len(which):
            found = X[int(sorted_rows[0]) : int(sorted_rows[-1]) + 1]
        else:
            found = X[torch.from_numpy(sorted_rows).to(X.device) if isinstance(X, Tensor) else sorted_rows]
        points = centred(self.rows._floats(found[:, self.part]), self.mean, self.normalize)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return points[torch.from_numpy(back).to(points.device)]


_HELD = 1 << 25  # vector entries of the nodes that are split in memory together: 128 MiB


_HELD_OF_FILES = 1 << 27  # the same where rows are read from shards: all of them are passed over for each such group


_CHUNK = 8192  # rows looked at together


_STREAM_ROUNDS = 4  # times that prices are raised over rows that are read again each time


@dataclass(frozen=True)
class Splitting:
    """Settings by which a node is split into clusters: arguments of `semtok.HierarchicalKMeans` of the same names."""

    codebook_size: int
    balanced: bool
    max_points_per_centroid: int | None
    iterations: int
    precision: str


class Growth:
    """A tree that grows from the root; nodes are noted level by level as they are met, left to right."""

    def __init__(self, how: Splitting, view: View, order: np.ndarray, depth: int | None, seed: int) -> None:
        self.how, self.view, self.depth, self.seed = how, view, depth, seed
        self.count = how.codebook_size
        held = _HELD_OF_FILES if getattr(view.rows.X, "streams", False) else _HELD
        self.held = max(1, held // view.width)
        self.order = order.astype(np.int32 if len(order) < 2**31 else np.int64)
        self.columns: list[np.ndarray] = []
        self.levels: list[dict[str, list[np.ndarray]]] = []

    def grow(self) -> dict[str, np.ndarray]:
        """Arrays of the tree, and codes int32 [N, L]."""
        if len(self.order) <= self.held:
            self._grow_many(self.order, np.array([len(self.order)]), np.zeros(1), np.zeros(1), 0)
        else:
            self._grow_large(self.order, 0, 0.0, 0)
        found: dict[str, np.ndarray] = {}
        for field in ("offsets", "code", "price", "children", "items", "reach"):
            parts = [part for level in self.levels for part in level[field]]
            found[field] = np.concatenate(parts)
        levels = self.depth or len(self.columns)
        codes = np.full((len(self.order), levels), self.count, dtype=np.int32)
        for level, column in enumerate(self.columns):
            codes[:, level] = np.where(column < 0, self.count, column)
        return found | {"codes": codes}

    def _grow_many(
        self, rows: np.ndarray, sizes: np.ndarray, codes: np.ndarray, prices: np.ndarray, level: int
    ) -> None:
        """Grow what is below neighbouring nodes of a level, all of their rows being held in memory.

        ``rows`` [n] of the nodes one after the other, each node's in the order of its content; ``sizes``, ``codes`` and
        ``prices`` [S] of the nodes.
        """
        # Level by level with one gather a level: nodes are small and many, so all of a level are split together.
        points = self.view.take(rows)
        while True:
            owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(points.device)
            offsets = _means(points, owner, len(sizes))
            last = self._last(sizes, level)
            children, reach = np.zeros(len(sizes), dtype=np.int64), np.empty(0, dtype=np.float32)
            told = np.repeat(last, sizes)
            if last.any():
                reach = self._tell_apart(points, rows, owner, offsets, told, sizes, level)
            items = np.where(last, sizes, 0)
            node = {"offsets": offsets.cpu().numpy(), "code": codes, "price": prices, "items": items, "reach": reach}
            if last.all():
                return self._note(level, node | {"children": children})
            if last.any():
                points, rows, sizes = points[torch.from_numpy(~told).to(points.device)], rows[~told], sizes[~last]
            found, paid = self._split(points, sizes, level)
            self._column(level)[rows] = found
            place = np.repeat(np.arange(len(sizes)), sizes) * self.count + found
            order = np.argsort(place, kind="stable")
            place, first, sizes = np.unique(place[order], return_index=True, return_counts=True)
            children[~last] = np.bincount(place // self.count)
            self._note(level, node | {"children": children})
            rows, points = rows[order], points[torch.from_numpy(order).to(points.device)]
            codes, prices = place % self.count, paid[order[first]]
            level += 1

    def _split(self, points: Tensor, sizes: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Child of each row and the price of that child: [n] both."""
        limit = self._limit(level)
        found, paid = split_segments(
            points,
            torch.from_numpy(sizes),
            self.count,
            None if limit is None else torch.full((len(sizes),), limit),
            most=self._most(),
            seed=self.seed + level,
            **self._settings(),
        )
        codes = found.cpu().numpy()
        if self.depth is None:
            starts = sizes.cumsum() - sizes
            rank = np.arange(len(codes)) - np.repeat(starts, sizes)
            whole = np.maximum.reduceat(codes, starts) == np.minimum.reduceat(codes, starts)  # equal rows: cut anyhow
            codes = np.where(np.repeat(whole, sizes), rank * self.count // np.repeat(sizes, sizes), codes)
        return codes, paid.cpu().numpy()

    def _tell_apart(
        self,
        points: Tensor,
        rows: np.ndarray,
        owner: Tensor,
        offsets: Tensor,
        told: np.ndarray,
        sizes: np.ndarray,
        level: int,
    ) -> np.ndarray:
        """Count the items of the nodes that are not split; their distances, node by node and ascending."""
        which = torch.from_numpy(np.flatnonzero(told)).to(points.device)
        squared = torch.empty(len(which), device=points.device)
        equal = torch.zeros(len(which), dtype=torch.bool, device=points.device)
        for lo in range(0, len(which), _CHUNK):
            part = which[lo : lo + _CHUNK]
            squared[lo : lo + len(part)] = (points[part] - offsets[owner[part]]).square_().sum(1)
            before = (part - 1).clamp(min=0)
            equal[lo : lo + len(part)] = (points[part] == points[before]).all(1) & (owner[part] == owner[before])
        distances, nodes = squared.cpu().numpy(), owner[which].cpu().numpy()
        follows = equal.cpu().numpy()
        follows[0] = False
        place = np.arange(len(which))
        # Equal rows get the first one's distance, whatever a block's arithmetic made of it.
        distances = distances[np.maximum.accumulate(np.where(follows, 0, place))]  # exactly one for equal rows
        order = np.lexsort((distances, nodes))
        nodes = nodes[order]
        counted = place - np.searchsorted(nodes, nodes)
        shown = (sizes[nodes] > 1) | (level == 0) | (self.depth is not None)
        if shown.any():
            self._column(level)[rows[told][order[shown]]] = counted[shown]
        return distances[order]

    def _grow_large(self, rows: np.ndarray, code: int, price: float, level: int) -> None:
        """Grow what is below one node whose rows are too many to be held; ``rows`` in the order of their content."""
        sizes = np.array([len(rows)])
        if len(rows) <= self.held or self._last(sizes, level)[0]:
            return self._grow_many(rows, sizes, np.array([code]), np.array([price]), level)
        found, paid = self._split_streamed(rows, level)
        self._column(level)[rows] = found
        node = {"code": np.array([code]), "price": np.array([price]), "items": np.zeros(1, dtype=np.int64)}
        node |= {"offsets": self._streamed_mean(rows), "reach": np.empty(0, dtype=np.float32)}
        loads = np.bincount(found, minlength=self.count)
        self._note(level, node | {"children": np.array([(loads > 0).sum()])})
        rows = rows[np.argsort(found, kind="stable")]
        codes = np.flatnonzero(loads)
        sizes = loads[codes]
        ends = sizes.cumsum()
        child = 0
        while child < len(codes):
            lo = int(ends[child] - sizes[child])
            stop = max(child + 1, int(np.searchsorted(ends, lo + self.held, "right")))
            part, group = rows[lo : ends[stop - 1]], slice(child, stop)
            if stop == child + 1:
                self._grow_large(part, int(codes[child]), float(paid[codes[child]]), level + 1)
            else:
                self._grow_many(part, sizes[group], codes[group], paid[codes[group]], level + 1)
            child = stop
        return None

    def _split_streamed(self, rows: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Child of each row [n] and the price of each child [K]; centroids are fitted on the first rows."""
        most, limit, total = self._most(), self._limit(level), len(rows)
        sample = self.view.take(rows[:most])
        share = None if limit is None else max(-(-limit * len(sample) // total), -(-len(sample) // self.count))
        centers, price = fit_rows(sample, self.count, share, seed=self.seed + level, **self._settings())
        del sample
        origin = middle(centers)
        centers = around(centers, origin)
        norms = centers.square().sum(1)
        order = np.argsort(rows, kind="stable")
        lying = rows[order]

        def costs(which: Tensor) -> Tensor:
            return torch.addmm(norms, around(self.view.take(lying[which.cpu().numpy()]), origin), centers.T, alpha=-2)

        filling = Filling(costs, total, price)
        if limit is not None or self.how.balanced:
            limits = None if self.how.balanced or limit is None else torch.tensor([limit])
            filling.fill(torch.tensor([total]), limits, _STREAM_ROUNDS)
        codes = np.empty(total, dtype=np.int32)
        codes[order] = filling.codes.cpu().numpy()
        if self.depth is None and codes.min() == codes.max():
            codes = (np.arange(total) * self.count // total).astype(np.int32)
        return codes, filling.price[0].cpu().numpy()

    def _streamed_mean(self, rows: np.ndarray) -> np.ndarray:
        """Mean of centred rows: float32 [1, D]."""
        total = torch.zeros(self.view.width, dtype=torch.float64, device=self.view.mean.device)
        lying = np.sort(rows)
        for lo in range(0, len(lying), _CHUNK):
            total += self.view.take(lying[lo : lo + _CHUNK]).sum(0, dtype=torch.float64)
        return (total / len(rows)).float().cpu().numpy()[None]

    def _last(self, sizes: np.ndarray, level: int) -> np.ndarray:
        """Nodes whose items are counted instead of being split: bool [S]."""
        return sizes <= self.count if self.depth is None else np.full(len(sizes), level == self.depth - 1)

    def _limit(self, level: int) -> int | None:
        """Items that a child of a node of this level may have."""
        return None if self.depth is None else min(self.count ** (self.depth - level - 1), len(self.order))

    def _most(self) -> int | None:
        most = self.how.max_points_per_centroid
        return None if most is None else most * self.count

    def _settings(self) -> dict[str, Any]:
        return {
            "evenly": self.how.balanced,
            "iterations": self.how.iterations,
            "precision": self.how.precision,
        }

    def _column(self, level: int) -> np.ndarray:
        """Codes of a level, -1 where there is none yet: int32 [N]."""
        while len(self.columns) <= level:
            self.columns.append(np.full(len(self.order), -1, dtype=np.int32))
        return self.columns[level]

    def _note(self, level: int, node: Mapping[str, np.ndarray]) -> None:
        kinds = {"offsets": np.float32, "price": np.float32, "reach": np.float32}
        while len(self.levels) <= level:
            self.levels.append({field: [] for field in node})
        for field, values in node.items():
            self.levels[level][field].append(values.astype(kinds.get(field, np.int32)))


def _means(points: Tensor, owner: Tensor, count: int) -> Tensor:
    """Means of the rows of each node: float32 [S, D]."""
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64, device=points.device)
    for lo in range(0, len(points), _CHUNK):
        sums.index_add_(0, owner[lo : lo + _CHUNK], points[lo : lo + _CHUNK].double())
    return (sums / torch.bincount(owner, minlength=count)[:, None]).float()
