"""Hierarchical k-means: a tree of centroids, the path to an item being its codes, no two items having the same.

Grows the tree from the root, large nodes streamed from wherever the vectors lie, small ones many at a time. How rows
are split is in the segments file, how the finished tree is walked in the portable one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import CodebookSize, Count, Device, Large, Levels, Seed, check_arguments
from semtok.codecs.additive import squared_distances
from semtok.codecs.checks import centred
from semtok.codecs.drawn import row_keys
from semtok.codecs.tree import Branches
from semtok.codes import ItemCodes
from semtok.content.rows import (
    Rows,
    check_finite,
    check_peaks,
    checked_views,
    note_peaks,
    warn_of_domination,
)
from semtok.kernels.growth import Growth, Moments, Splitting, View
from semtok.kernels.lloyd import PRECISIONS
from semtok.kernels.origins import grid_of, on_grid
from semtok.per_view import PerViewTokenizer

__all__ = ["FORMS", "RECIPES", "HierarchicalKMeans"]

RECIPES = {
    "paper": {"codebook_size": 256, "iterations": 100},  # PRORec
}
FORMS = ("capacity", "variable")
_MEAN_SHARE = 1 / 64  # of the spread of a column: the powers of two below it are what its mean is rounded to
_COST_VALUES = 1 << 24  # vector entries looked at together when codes are priced


class HierarchicalKMeans(PerViewTokenizer):
    """Codes that are unique by construction: k-means of k-means, items of a last cluster being counted.

    All items are split into K clusters, each of them into K again, and so on; the clusters that an item falls into are
    its codes, and the last code counts the items of its last cluster from 0, the one nearest to the centroid first (of
    equal vectors the first row).

    With ``form="capacity"`` a cluster takes no more items than the codes after it can tell apart, so all items have
    L = ceil(log_K N) codes. With ``form="variable"`` clusters are as they come; those of at most K items are counted,
    larger ones split again, and the codes of an item whose cluster holds it alone, or that has been counted, are filled
    up with the reserved code K.

    Parameters
    ----------
    codebook_size : int, default 256
        Clusters that one is split into, K; at least 2.
    form : {"capacity", "variable"}, default "capacity"
        Whether depth is fixed by limiting clusters, or as the data want it.
    levels : int or None, default None
        Codes of an item, L, in the form "capacity"; None takes as few as will do. More leave room for more items later.
    balanced : bool, default False
        Split every cluster into parts whose sizes differ by one at most (exact balance); form "capacity" alone.
    iterations : int, default 25
        Lloyd iterations of each k-means at most; it ends sooner when one lowers the error by less than 0.01 %.
    normalize : bool, default False
        Give every vector (of every view) length 1 first.
    max_points_per_centroid : int or None, default 256
        Fit the centroids of a cluster on at most this many items each, drawn by their content; None fits on all.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Precision of the distances while fitting; "auto" takes bfloat16 where the CPU multiplies it in hardware.
    seed : int, default 0
        Same seed, same codes on the CPU.
    device : str or None, default None
        Where to compute, such as "cuda"; by default where the vectors are.

    Attributes
    ----------
    codes_ : int32 array [N, L]
        Codes of the items of the fit, row by row.
    capacity_ : list of int
        How many items the codes after each level can tell apart, the reserved code apart.
    sizes_ : list of int
        Codes of each column: K, and K + 1 from the second on in the form "variable".
    trees_ : dict of str to Branches
        The tree of each view.
    blocks_ : dict of str to slice
        Code columns of each view.

    Notes
    -----
    PRORec, Progressive collaborative and semantic knowledge fusion for generative recommendation (2025), whose unicodes
    these are. It splits with plain k-means until single items are left and does not say what becomes of a cluster of
    more than K items at the last level: here its limit prevents that, or the reserved code fills up. EAGER (Wang et
    al., KDD 2024) and RecForest (Feng et al., NeurIPS 2022) balance exactly, fill the tree up with copies of items, and
    let an item have several leaves; here every item has one.

    Limits are kept by prices on crowded clusters, raised until nobody would gain by a move, and what is left is settled
    item by item (see the segments file); Lloyd's iterations go on under the limits.

    Rows are recognized by their content: ``encode`` gives a vector of the fit exactly the codes that it was given
    there. Of equal vectors it gives those of the first; ``item_codes`` gives the first row with that content the first
    item's, the second row the second's and so on, so that the codes of the catalogue are unique. Any other vector goes
    to the nearest cluster on every level (a price added where the limit was binding) and there gets the code of the
    item whose distance to the centroid is most like its own; to give it a code of its own, resolve it against the
    codes that are taken: the last level's codes all cost the same, so that any that is free in the cluster will do.

    ``decode`` gives the centroid of the last cluster, the mean of its items. Fitting does not depend on the order of
    the rows, but for which of two equal items is counted first: permuted rows get permuted codes (exactly as long as
    all is held in memory, up to rounding of near ties beyond).

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> codes = HierarchicalKMeans(codebook_size=32).fit(vectors).encode(vectors)
    >>> codes.shape, len(np.unique(codes, axis=0))
    ((500, 2), 500)
    """

    method = "hierarchical"
    program = "tree"

    def __init__(
        self,
        *,
        codebook_size: CodebookSize = 256,
        form: str = "capacity",
        levels: Levels | None = None,
        balanced: bool = False,
        iterations: Count = 25,
        normalize: bool = False,
        max_points_per_centroid: Large | None = 256,
        precision: str = "auto",
        seed: Seed = 0,
        device: Device | None = None,
    ) -> None:
        self.codebook_size = codebook_size
        self.form = form
        self.levels = levels
        self.balanced = balanced
        self.iterations = iterations
        self.normalize = normalize
        self.max_points_per_centroid = max_points_per_centroid
        self.precision = precision
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> HierarchicalKMeans:
        """Grow the tree.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; those that lie in files are streamed, so that a catalogue need not fit into memory.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view; each has its own tree. One view of all columns by default.

        Raises
        ------
        ValueError
            If a hyper-parameter or the vectors are unusable (not two-dimensional, NaN or infinite), or ``levels`` codes
            cannot tell N items apart.
        """
        self._check_arguments()
        rows = Rows(self, X, reset=True)
        self.views_ = checked_views(views, rows.width)
        depth = self._depth(len(rows))
        keys, moments = self._read(rows)
        self.trees_: dict[str, Branches] = {}
        for name, part in self.views_.items():
            warn_of_domination(moments[name].spread(len(rows)), name, part.start)

        def fit_view(name: str, part: slice, seed: int) -> list[int]:
            spread = moments[name].spread(len(rows))
            # A round number near the mean: rows less it are exact, and the same wherever all rows are moved to.
            exact = moments[name].mean(len(rows))
            mean = on_grid(exact, grid_of(spread, _MEAN_SHARE)).float()
            view = View(rows, part, mean.to(rows.device), self.normalize)
            order = np.lexsort((keys[name], view.keys(exact, float(spread.square().mean().sqrt()))))
            how = Splitting(
                self.codebook_size, self.balanced, self.max_points_per_centroid, self.iterations, self.precision
            )
            growth = Growth(how, view, order, depth, seed)
            arrays = growth.grow() | {"mean": mean.numpy(), "keys": keys[name]}
            levels = arrays["codes"].shape[1]
            more = self.form == "variable"
            sizes = [self.codebook_size + (more and level > 0) for level in range(levels)]
            self.trees_[name] = Branches(arrays, sizes)
            return sizes

        self._fit_views(fit_view)
        self._set_fitted()
        return self

    def _read(self, rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, Moments]]:
        """Look at all rows once: what they are recognized by, and sums over each view; ValueError if unusable."""
        keys = {name: np.empty(len(rows), dtype=np.int64) for name in self.views_}
        moments = {name: Moments(part.stop - part.start) for name, part in self.views_.items()}
        peaks = dict.fromkeys(self.views_, 0.0)
        for lo, chunk in rows.chunks():
            check_finite(chunk, lo, self.views_)
            note_peaks(peaks, chunk, self.views_)
            for name, part in self.views_.items():
                keys[name][lo : lo + len(chunk)] = row_keys(chunk[:, part].cpu().numpy())
                moments[name].add(centred(chunk[:, part], 0, self.normalize))
        check_peaks(peaks)
        return keys, moments

    def _view_encoder(self, name: str, device: torch.device) -> _Walk:
        return _Walk(self.trees_[name], self.normalize, device)

    def item_codes(self, X: Any, item_ids: Any) -> ItemCodes:
        """Codes of a catalogue, row i being the item ``item_ids[i]``; equal vectors of the fit are told apart."""
        self._check_fitted()
        rows = Rows(self, X, reset=False)
        walks = {name: self._view_encoder(name, rows.device) for name in self.views_}
        codes = self._encoded(rows, walks)
        for name, columns in self.blocks_.items():  # equal rows may lie in different chunks
            walks[name].tell_apart(codes[:, columns])
        return ItemCodes(codes, tuple(self.sizes_), item_ids, dict(self.blocks_))

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Centroids of the last cluster on the path of each tuple; of length 1 vectors if ``normalize``."""
        tree = self.trees_[name]
        found: np.ndarray = tree.mean + tree.offsets[tree.nodes_of(codes)]
        return found

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distance to the cluster that each code of ``level`` leads to.

        Codes after ``level`` are not read, since they mean other clusters under another one. The codes that count items
        all cost the distance to the cluster, taken or free; a code without a cluster costs infinity. Where nothing can
        follow only the reserved code is finite.
        """
        tree, size = self.trees_[name], self.sizes_[self.blocks_[name]][level]
        found = np.full((len(codes), size), np.inf, dtype=np.float32)
        step = max(1, _COST_VALUES // (self.codebook_size * points.shape[1]))
        for lo in range(0, len(codes), step):
            part = centred(points[lo : lo + step], tree.mean, self.normalize)
            found[lo : lo + step] = _costs(tree, part, codes[lo : lo + step, :level], size)
        return found

    def _depth(self, count: int) -> int | None:
        """Levels of the tree, None where they are as they come."""
        if self.form == "variable":
            return None
        least = 1
        while self.codebook_size**least < count:
            least += 1
        if self.levels is not None and self.levels < least:
            raise ValueError(
                f"levels={self.levels} with codebook_size={self.codebook_size} tell at most "
                f"{self.codebook_size**self.levels} items apart, but X has {count}: expected levels of at least {least}"
            )
        return self.levels or least

    def _check_arguments(self) -> None:
        check_arguments(type(self), vars(self))
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size={self.codebook_size} splits nothing; expected at least 2")
        for name, allowed in (("form", FORMS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("levels", "balanced"):
            if self.form == "variable" and getattr(self, name):
                raise ValueError(
                    f'{name}={getattr(self, name)} needs form="capacity": in form="variable" depth is free'
                )

    def _set_fitted(self) -> None:
        self.codes_ = np.concatenate([self.trees_[name].codes for name in self.views_], axis=1)
        levels = [columns.stop - columns.start for columns in self.blocks_.values()]
        self.capacity_ = [self.codebook_size ** (count - level - 1) for count in levels for level in range(count)]

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        for name, tree in self.trees_.items():
            arrays |= {f"{field}.{name}": getattr(tree, field) for field in _FIELDS}
            for field in ("code", "children", "items"):
                arrays[f"{field}.{name}"] = arrays[f"{field}.{name}"].astype(np.int32)
        return {}, arrays

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        trees = {}
        for name, columns in self.blocks_.items():
            missing = [field for field in _FIELDS if f"{field}.{name}" not in arrays]
            if missing:
                raise ValueError(f"{missing[0]}.{name} is missing; a tree has {', '.join(_FIELDS)}")
            found = {field: arrays[f"{field}.{name}"] for field in _FIELDS}
            nodes = len(found["code"])
            for field in ("offsets", "price", "children", "items"):
                if len(found[field]) != nodes:
                    raise ValueError(f"{field}.{name} has {len(found[field])} rows; the tree has {nodes} nodes")
            trees[name] = Branches(found, self.sizes_[columns])
        self.trees_ = trees
        self._set_fitted()


_FIELDS = ("mean", "offsets", "code", "price", "children", "items", "reach", "keys", "codes")


class _Walk:
    """Encoder of one view: rows of the fit have their codes, other rows are led down the tree.

    It remembers the keys of the rows that it was given, in their order, so that `tell_apart` can go over them.
    """

    def __init__(self, tree: Branches, normalize: bool, device: torch.device) -> None:
        self.tree, self.normalize = tree, normalize
        here = device.type == "cpu"  # there the walk is NumPy's, elsewhere torch's
        self.mean, self.offsets = (
            array if here else torch.from_numpy(array).to(device) for array in (tree.mean, tree.offsets)
        )
        self.keys: list[np.ndarray] = []

    def __call__(self, points: Tensor) -> np.ndarray:
        self.keys.append(row_keys(points.cpu().numpy()))
        row = self.tree.recognize(self.keys[-1])
        codes: np.ndarray = self.tree.codes[row]
        strange = np.flatnonzero(row < 0)
        if len(strange):
            here = points.numpy() if points.device.type == "cpu" else points
            codes[strange] = self.tree.route(centred(here[strange], self.mean, self.normalize), self.offsets)
        return codes

    def tell_apart(self, codes: np.ndarray) -> None:
        """Give the second row with the content of an item of the fit the codes of the second such item, and so on."""
        row = self.tree.recognize(np.concatenate(self.keys), apart=True)
        codes[row >= 0] = self.tree.codes[row[row >= 0]]


def _costs(tree: Branches, points: np.ndarray, before: np.ndarray, size: int) -> np.ndarray:
    """Squared distances of centred rows to what follows the codes ``before`` [n, l]: float32 [n, size]."""
    found = np.full((len(points), size), np.inf, dtype=np.float32)
    node = tree.nodes_of(before)
    own = np.square(points - tree.offsets[node]).sum(1)
    split = tree.children[node] > 0
    last = ~split & (tree.depth[node] == before.shape[1])
    found[last, : tree.size] = own[last, None]
    if size > tree.size:
        ended = ~split & (tree.depth[node] < before.shape[1])
        alone = last & (tree.items[node] == 1) & (tree.depth[node] > 0)
        found[ended | alone, tree.size] = own[ended | alone]
    on = split & (tree.depth[node] == before.shape[1])
    for parent in np.unique(node[on]):
        rows = np.flatnonzero(on & (node == parent))
        children = slice(tree.first[parent], tree.first[parent] + tree.children[parent])
        book = tree.offsets[children]
        found[rows[:, None], tree.code[children]] = squared_distances(points[rows], book)
    return found
