"""The best items of a query, exactly, where item vectors are made of codes: no vector of an item is ever made.

An item's score is the sum of what its codes score, so a query needs one small table a level, and an item a few bytes.
Neighbouring levels are read as one (two of 256 codes are one of 65,536): half the reads. The items of the best codes of
the first levels are scored whole, so that it is known how high the list begins. Then all items are read, the levels
whose scores spread most first, and an item is read on only if the rest of its code could still bring it into the list
(Petrov, Macdonald and Tonellotto, arXiv 2505.00560, walk the lists of single codes alone). NumPy alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from recbase.evaluate.recommender import NO_ITEM, Recommendations

__all__ = ["CodeSearch", "code_tables"]

_MOST = 1 << 16  # codes of a group of levels: its index is two bytes, its table fits a core's second cache
_BLOCK = 1 << 17
_FIRST = 8_192  # items that are scored whole to learn how high the list begins
_SLACK = 1e-5  # float32 sums differ by this share of the largest score; what lies within is settled in float64


def code_tables(tokenizer: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Vectors of the codes of an additive tokenizer: ``decode(codes)`` is their sum and an offset.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Of a method whose codes add up: pq, opq, rq, kmeans.

    Returns
    -------
    tables : list of float32 array [K_l, D]
        One a level; row c is what code c adds to the vector of an item.
    offset : float32 array [D]

    Raises
    ------
    ValueError
        If the codes of the method do not add up.
    """
    sizes = [int(size) for size in tokenizer.sizes_]
    zero = np.zeros((1, len(sizes)), dtype=np.int32)
    offset = np.asarray(tokenizer.decode(zero), dtype=np.float32)[0]
    tables = []
    for level, size in enumerate(sizes):
        codes = np.repeat(zero, size, 0)
        codes[:, level] = np.arange(size)
        tables.append(np.asarray(tokenizer.decode(codes), dtype=np.float32) - offset)
    drawn = np.random.default_rng(0).integers(0, sizes, (64, len(sizes)))
    whole = np.asarray(tokenizer.decode(drawn.astype(np.int32)))
    parts = offset + sum(table[drawn[:, level]] for level, table in enumerate(tables))
    if not np.allclose(whole, parts, atol=1e-3 * float(np.abs(whole).max() or 1)):
        raise ValueError(f"codes of {getattr(tokenizer, 'method', 'this tokenizer')} do not add up to their vectors")
    return tables, offset


class CodeSearch:
    """Exact search by inner product over a catalogue of codes.

    Parameters
    ----------
    codes : int array [N, L]
        Codes of item number 1..N.
    sizes : sequence of int [L]
        Codes of each level.
    threads : int, optional
        Threads of a search; the cores that this process may use, two at most, if not given.

    Attributes
    ----------
    nbytes : int
        Memory that the catalogue takes.

    Raises
    ------
    ValueError
        If the shapes do not fit, a code is out of range, or a level has more than 65,536 codes.
    """

    def __init__(self, codes: np.ndarray, sizes: Sequence[int], threads: int | None = None) -> None:
        codes, self.sizes = np.asarray(codes), tuple(int(size) for size in sizes)
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes) or not self.sizes:
            raise ValueError(f"codes have shape {codes.shape}; expected [N, {len(self.sizes)}] with a level or more")
        if max(self.sizes) > _MOST or min(self.sizes) < 1:
            raise ValueError(f"sizes are {self.sizes}; expected 1 to {_MOST:,} codes a level")
        if codes.size and not (codes.min() >= 0 and (codes.max(0) < self.sizes).all()):
            raise ValueError(f"codes lie in {codes.min()}..{codes.max()}; expected 0 up to the size of their level")
        self.items = len(codes)
        self.groups = _grouped(self.sizes)
        self.indices = [_index(codes, self.sizes, group) for group in self.groups]
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = min(2, usable) if threads is None else max(1, threads)
        counts = np.bincount(self.indices[0], minlength=int(np.prod(self.sizes[self.groups[0]])))
        self._starts = np.concatenate([[0], np.cumsum(counts)])  # rows that share a first joint code stand together
        self._rows = np.argsort(self.indices[0], kind="stable").astype(np.uint32 if self.items < 1 << 32 else np.int64)

    def __repr__(self) -> str:
        return f"CodeSearch({self.items:,} items, codes {' x '.join(map(str, self.sizes))}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of the lists by first code."""
        return sum(index.nbytes for index in self.indices) + self._rows.nbytes + self._starts.nbytes

    def search(
        self,
        scores: Sequence[np.ndarray],
        k: int = 10,
        exclude: Sequence[Sequence[int]] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> Recommendations:
        """The best items of every query: the list that scoring all items would give.

        Parameters
        ----------
        scores : sequence of float array [B, K_l]
            Score of every code, level by level; -inf forbids a code.
        k : int, default 10
        exclude : sequence of sequences of int, or int array [B, E], optional
            Item numbers that a query must not get; 0 is passed over.
        mask : bool array [N], optional
            Items that may be returned.

        Returns
        -------
        Recommendations
            Item numbers; equal scores by the smaller number. Lists are shorter where fewer items may be returned.

        Raises
        ------
        ValueError
            If scores do not fit the codes, hold NaN, or ``k`` is below 1.
        """
        tables = [np.atleast_2d(np.asarray(part, dtype=np.float64)) for part in scores]
        found = [part.shape for part in tables]
        if found != [(len(tables[0]), size) for size in self.sizes]:
            raise ValueError(f"scores have shapes {found}; expected [B, K] with K {self.sizes}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if any(np.isnan(part).any() for part in tables):
            raise ValueError("scores hold NaN")
        rows = found[0][0]
        items = np.full((rows, k), NO_ITEM, dtype=np.int64)
        values = np.full((rows, k), -np.inf, dtype=np.float32)
        with ThreadPoolExecutor(self.threads) as pool:
            for row in range(rows):
                gone = np.zeros(0, dtype=np.int64)
                if exclude is not None:
                    gone = np.unique(np.asarray(exclude[row], dtype=np.int64)) - 1
                    gone = gone[(gone >= 0) & (gone < self.items)]
                best, total = self._one([part[row] for part in tables], k, gone, mask, pool)
                items[row, : len(best)], values[row, : len(best)] = best + 1, total
        return Recommendations(items, values)

    def _one(
        self,
        scores: list[np.ndarray],
        k: int,
        gone: np.ndarray,
        mask: np.ndarray | None,
        pool: ThreadPoolExecutor,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the best items of one query and their scores."""
        exact = [_table(scores, self.sizes, group) for group in self.groups]
        highest, spread = np.array([part.max() for part in exact]), np.zeros(len(exact))
        if (highest == -np.inf).any():
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        largest = 0.0
        for place, levels in enumerate(self.groups):
            finite = [part[np.isfinite(part)] for part in scores[levels]]
            spread[place] = sum(np.ptp(part) for part in finite)
            largest += sum(np.abs(part).max() for part in finite)
        least = self._first_guess(exact, min(self.items, k + len(gone)), mask) - _SLACK * largest
        order = np.argsort(-spread, kind="stable")
        left = [float(highest[order[place + 1 :]].sum()) for place in range(len(order))]
        tables = [exact[place].astype(np.float32) for place in order]
        indices = [self.indices[place] for place in order]

        def part(start: int, stop: int) -> np.ndarray:
            return _kept(tables, indices, [least - rest for rest in left], mask, start, stop)

        rows = np.concatenate(self._shared(part, pool))
        if len(gone):
            rows = rows[~np.isin(rows, gone)]
        total = self._whole(exact, rows)
        rows, total = rows[total > -np.inf], total[total > -np.inf]
        best = np.lexsort((rows, -total))[:k]
        return rows[best], total[best]

    def _whole(self, exact: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Scores of some rows, float64."""
        total = np.zeros(len(rows))
        for table, index in zip(exact, self.indices, strict=True):
            total += table[index[rows]]
        return total

    def _first_guess(self, exact: list[np.ndarray], wanted: int, mask: np.ndarray | None) -> float:
        """Score that at least ``wanted`` items reach: of those whose first joint code scores best."""
        need, first = max(_FIRST, 4 * wanted), exact[0]
        most = min(len(first), max(64, 4 * need * len(first) // max(1, self.items)))
        best = np.argpartition(-first, most - 1)[:most]
        best = best[np.argsort(-first[best], kind="stable")]
        counts = self._starts[best + 1] - self._starts[best]
        best = best[: int(np.searchsorted(np.cumsum(counts), need)) + 1]
        rows = np.concatenate([self._rows[self._starts[code] : self._starts[code + 1]] for code in best])
        if mask is not None:
            rows = rows[mask[rows]]
        if len(rows) < wanted:
            return -np.inf
        total = self._whole(exact, rows)
        return float(np.partition(total, len(total) - wanted)[len(total) - wanted])

    def _shared(self, part: Callable[[int, int], Any], pool: ThreadPoolExecutor) -> list[Any]:
        """Results of a function of (start, stop) over the items, dealt out to the threads."""
        cuts = np.linspace(0, self.items, self.threads + 1).astype(int).tolist()
        if self.threads == 1:
            return [part(0, self.items)]
        return list(pool.map(part, cuts[:-1], cuts[1:]))


def _kept(
    tables: list[np.ndarray],
    indices: list[np.ndarray],
    least: list[float],
    mask: np.ndarray | None,
    start: int,
    stop: int,
) -> np.ndarray:
    """Rows of some items whose score may reach the list; after group g it must be at least ``least[g]``."""
    head = (len(tables) + 1) // 2  # read of all items; the others of those that are left
    first, spare = np.empty(min(_BLOCK, stop - start), dtype=np.float32), np.empty(_BLOCK, dtype=np.float32)
    found = [np.zeros(0, dtype=np.int64)]
    for low in range(start, stop, _BLOCK):
        high = min(low + _BLOCK, stop)
        score = np.take(tables[0], indices[0][low:high], mode="clip", out=first[: high - low])
        for table, index in zip(tables[1:head], indices[1:head], strict=True):
            score += np.take(table, index[low:high], mode="clip", out=spare[: high - low])
        rows = np.flatnonzero(score >= least[head - 1])
        if mask is not None:
            rows = rows[mask[low:high][rows]]
        score = score[rows]
        for place in range(head, len(tables)):
            score = score + tables[place][indices[place][low:high][rows]]
            stays = score >= least[place]
            rows, score = rows[stays], score[stays]
        found.append(rows + low)
    return np.concatenate(found)


def _grouped(sizes: Sequence[int]) -> list[slice]:
    """Runs of levels whose codes together are at most 65,536."""
    groups, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or int(np.prod(sizes[start : stop + 1], dtype=np.float64)) > _MOST:
            groups.append(slice(start, stop))
            start = stop
    return groups


def _index(codes: np.ndarray, sizes: Sequence[int], group: slice) -> np.ndarray:
    """Codes of a group as one number, uint16 [N]."""
    index = np.zeros(len(codes), dtype=np.uint32)
    for level in range(group.start, group.stop):
        index = index * np.uint32(sizes[level]) + codes[:, level].astype(np.uint32)
    return index.astype(np.uint16)


def _table(scores: list[np.ndarray], sizes: Sequence[int], group: slice) -> np.ndarray:
    """Score of every joint code of a group, float64."""
    table = np.zeros(1)
    for level in range(group.start, group.stop):
        table = (table[:, None] + scores[level]).reshape(-1)
    return table
