"""The prefix tree and the beam search in NumPy: the same lists as :mod:`genrec.search` finds, without torch.

Covers what an exported generator needs: codes of one length, one code a step. Codes may repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbase.evaluate.recommender import NO_ITEM, Recommendations

__all__ = ["Excluded", "PortableTrie", "Step", "search"]

Step = Callable[[int, "np.ndarray | None", "np.ndarray | None"], np.ndarray]
"""Logits of one step: step s, parents int64 [B, W] and codes int64 [B, W] (None at step 0) -> float32 [B, W, V_s]."""

_CELLS = 1 << 22  # comparisons with excluded items that are held at once


@dataclass(frozen=True, eq=False)
class PortableTrie:
    """The arrays of a :class:`genrec.search.trie.CodeTrie` of one code a step, which says what they mean.

    Attributes
    ----------
    sizes : tuple of int [S]
        Codes of each step.
    children, tokens, ranges : list of int32 array
        See :class:`genrec.search.trie.CodeTrie`; ``tokens`` are [n] here.
    items : int32 array [N]
        Item numbers, those of one leaf side by side.
    """

    sizes: tuple[int, ...]
    children: list[np.ndarray]
    tokens: list[np.ndarray]
    ranges: list[np.ndarray]
    items: np.ndarray
    places: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        places = np.full(int(self.items.max(initial=0)) + 2, len(self.items), dtype=np.int64)
        places[self.items] = np.arange(len(self.items))
        object.__setattr__(self, "places", places)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], sizes: Sequence[int]) -> PortableTrie:
        """Take a tree out of the arrays that :meth:`arrays` made.

        Raises
        ------
        ValueError
            If an array is missing, or they are of no tree.
        """
        steps = range(len(sizes))
        try:
            children = [arrays[f"children.{step}"] for step in steps]
            tokens = [arrays[f"tokens.{step}"] for step in steps]
            ranges = [arrays[f"ranges.{step}"] for step in range(len(sizes) + 1)]
            items = arrays["items"]
        except KeyError as error:
            raise ValueError(f"the array {error} is missing") from None
        nodes = [1, *(len(part) for part in tokens)]
        for step in steps:
            first = children[step]
            if (
                len(first) != nodes[step] + 1
                or first[0] != 0
                or first[-1] != nodes[step + 1]
                or (np.diff(first) < 0).any()
            ):
                raise ValueError(f"children.{step} does not divide the {nodes[step + 1]} nodes after step {step}")
            if len(tokens[step]) and not 0 <= tokens[step].min() <= tokens[step].max() < sizes[step]:
                raise ValueError(f"tokens.{step} holds codes out of 0..{sizes[step] - 1}")
        for depth, first in enumerate(ranges):
            if not _divides(first, nodes[depth], len(items)):
                raise ValueError(f"ranges.{depth} does not divide the {len(items)} items")
        if not len(items) or items.min() < 1:
            raise ValueError("items is empty or holds numbers below 1")
        return cls(tuple(int(size) for size in sizes), children, tokens, ranges, items)

    @staticmethod
    def arrays(trie: Any) -> dict[str, np.ndarray]:
        """Arrays of a :class:`genrec.search.trie.CodeTrie`, by name.

        Raises
        ------
        ValueError
            If a step has several codes, or codes differ in length.
        """
        if max(trie.widths) > 1 or trie.ragged:
            raise ValueError("the codes are tuples or of several lengths, which the portable search cannot walk")
        found = {f"children.{step}": part.cpu().numpy() for step, part in enumerate(trie.children)}
        found |= {f"tokens.{step}": part[:, 0].cpu().numpy() for step, part in enumerate(trie.tokens)}
        found |= {f"ranges.{depth}": part.cpu().numpy() for depth, part in enumerate(trie.ranges)}
        if trie.unique:  # a leaf is its item, and the tree keeps no range of it
            found[f"ranges.{trie.steps}"] = np.arange(len(trie) + 1, dtype=np.int32)
        return found | {"items": trie.items.cpu().numpy()}

    def expand(self, step: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Children of nodes [B, W] of depth ``step``: nodes [B, W, M] of the next, and where there is one."""
        offsets, safe = self.children[step], np.maximum(nodes, 0)
        first = offsets[safe].astype(np.int64)
        count = np.where(nodes >= 0, offsets[safe + 1] - first, 0)
        steps = np.arange(count.max(initial=0))
        return np.minimum(first[..., None] + steps, len(self.tokens[step]) - 1), steps < count[..., None]


def _divides(first: np.ndarray, parts: int, whole: int) -> bool:
    """True of offsets that cut ``whole`` places into ``parts`` runs."""
    ends = len(first) == parts + 1 and first[0] == 0 and first[-1] == whole
    return bool(ends and (np.diff(first) >= 0).all())


class Excluded:
    """Items that requests must not get, counted below any node.

    Parameters
    ----------
    trie : PortableTrie
    mask : bool array [N] or [B, N], optional
        Whether item number j + 1 may be returned.
    items : int array [B, E], optional
        Item numbers that must not be returned, request by request, filled with 0.
    """

    def __init__(self, trie: PortableTrie, mask: np.ndarray | None = None, items: np.ndarray | None = None) -> None:
        self.trie, self.before, self.places = trie, None, None
        rows = None if mask is None else np.atleast_2d(np.asarray(mask, dtype=bool))[:, trie.items - 1]
        if rows is not None:
            self.before = np.zeros((len(rows), len(trie.items) + 1), dtype=np.int64)
            np.cumsum(rows, axis=1, out=self.before[:, 1:])
        if items is not None:
            numbers = np.where((items > 0) & (items < len(trie.places) - 1), items, 0)
            places = np.sort(np.where(numbers > 0, trie.places[numbers], len(trie.items)), axis=1)
            places[:, 1:][places[:, 1:] == places[:, :-1]] = len(trie.items)  # an item twice is left out once
            if rows is not None:
                row = np.arange(len(places))[:, None] if len(rows) > 1 else 0
                inside = np.minimum(places, len(trie.items) - 1)
                places[~rows[row, inside]] = len(trie.items)  # those that the mask leaves out are not counted again
            self.places = places

    def count(self, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Items that may be returned in places ``first`` to ``stop``: int64 [B, ...] each."""
        count = (stop - first).astype(np.int64)
        if self.before is not None:
            if len(self.before) == 1:
                count = self.before[0][stop] - self.before[0][first]
            else:
                row = np.arange(len(first)).reshape(-1, *[1] * (first.ndim - 1))
                count = self.before[row, stop] - self.before[row, first]
        if self.places is None or not self.places.shape[1]:
            return count
        result = count.reshape(len(count), -1)
        low, high = first.reshape(result.shape), stop.reshape(result.shape)
        block = max(1, _CELLS // max(1, self.places.size))
        for begin in range(0, result.shape[1], block):
            part = slice(begin, begin + block)
            places = self.places[:, None]
            inside = (places >= low[:, part, None]) & (places < high[:, part, None])
            result[:, part] -= inside.sum(-1)
        return result.reshape(count.shape)

    def resolve(self, leaves: np.ndarray) -> np.ndarray:
        """Item that each leaf [B, M] stands for, NO_ITEM where none of its items may be returned."""
        ranges, items = self.trie.ranges[-1], self.trie.items
        first, stop = ranges[leaves].astype(np.int64), ranges[leaves + 1].astype(np.int64)
        place, found = first.copy(), np.full(leaves.shape, NO_ITEM, dtype=np.int64)
        waiting = np.ones(leaves.shape, dtype=bool)
        while waiting.any():  # as many rounds as the fullest leaf has items that are left out before the first allowed
            good = waiting & (self.count(np.minimum(place, stop - 1), np.minimum(place + 1, stop)) > 0) & (place < stop)
            found[good] = items[place[good]]
            place = place + 1
            waiting = waiting & ~good & (place < stop)
        return found


def search(
    step: Step,
    trie: PortableTrie,
    rows: int,
    beams: int,
    n_best: int,
    excluded: Excluded | None = None,
    normalize: str = "vocabulary",
) -> Recommendations:
    """The best items of every request by constrained beam search; see :func:`genrec.search.decoding.beam_search`.

    Parameters
    ----------
    step : callable
        Gives the logits, see `Step`.
    trie : PortableTrie
    rows : int
        Requests, B.
    beams, n_best : int
        Prefixes kept at every step, and length of the lists.
    excluded : Excluded, optional
    normalize : {"vocabulary", "children"}, default "vocabulary"

    Raises
    ------
    ValueError
        If ``n_best`` exceeds ``beams``, either is below 1, or logits are NaN or of another width than the codes.
    """
    if not 1 <= n_best <= beams:
        raise ValueError(f"n_best is {n_best} and beams is {beams}; expected 1 <= n_best <= beams")
    nodes = np.zeros((rows, 1), dtype=np.int64)
    scores = np.zeros((rows, 1), dtype=np.float32)
    parents = codes = None
    for depth, size in enumerate(trie.sizes):
        logits = step(depth, parents, codes)
        if logits.shape[-1] != size or np.isnan(logits).any():
            raise ValueError(
                f"step {depth} gave logits that are NaN, or {logits.shape[-1]} where there are {size} codes"
            )
        children, there = trie.expand(depth, nodes)
        if not children.shape[2]:  # nothing may be returned to anybody
            break
        gained = _gained(logits, trie.tokens[depth][children], there, normalize)
        if excluded is not None:
            ranges = trie.ranges[depth + 1]
            there = there & (excluded.count(ranges[children], ranges[children + 1]) > 0)
        total = np.where(there, scores[..., None] + gained, np.float32(-np.inf)).reshape(rows, -1)
        flat, width = children.reshape(rows, -1), children.shape[2]
        last = depth == len(trie.sizes) - 1
        if last:
            resolved = trie.items[trie.ranges[-1][flat]] if excluded is None else excluded.resolve(flat)
            scores, chosen = _best(total, resolved.astype(np.int64), n_best)
            items = np.take_along_axis(resolved, chosen, 1)
            return _lists(np.where(scores == -np.inf, NO_ITEM, items), scores, n_best)
        scores, chosen = _best(total, flat, beams)
        parents = chosen // max(width, 1)
        nodes = np.where(scores == -np.inf, -1, np.take_along_axis(flat, chosen, 1))
        codes = trie.tokens[depth][np.maximum(nodes, 0)].astype(np.int64)
    nothing = np.zeros((rows, 0))
    return _lists(nothing, nothing, n_best)


def _gained(logits: np.ndarray, codes: np.ndarray, there: np.ndarray, normalize: str) -> np.ndarray:
    """Log-probability of each child, float32 [B, W, M]."""
    gained = np.take_along_axis(logits, codes.astype(np.int64), 2)
    if normalize == "vocabulary":
        return gained - _log_sum(logits)
    return gained - _log_sum(np.where(there, gained, np.float32(-np.inf)))


def _log_sum(x: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials over the last axis, kept; 0 where all are -inf."""
    top = x.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, np.float32(0))
    total = np.exp(x - top).sum(-1, keepdims=True)
    return top + np.log(np.where(total > 0, total, np.float32(1)))


def _best(scores: np.ndarray, ties: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest scores of every row and their places, from the largest; equal scores by ascending ``ties``."""
    count = min(count, scores.shape[1])
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 turns -0.0 into 0.0
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys = ties - (order << 32)  # ascending: the best first
    chosen = np.argpartition(keys, count - 1, axis=1)[:, :count] if count < keys.shape[1] else np.argsort(keys, axis=1)
    chosen = np.take_along_axis(chosen, np.argsort(np.take_along_axis(keys, chosen, 1), axis=1), 1)
    return np.take_along_axis(scores, chosen, 1), chosen


def _lists(items: np.ndarray, scores: np.ndarray, count: int) -> Recommendations:
    """Lists filled up to their length."""
    missing = ((0, 0), (0, count - items.shape[1]))
    return Recommendations(
        np.pad(items, missing, constant_values=NO_ITEM), np.pad(scores, missing, constant_values=-np.inf)
    )
