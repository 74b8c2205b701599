"""Where items go whose codes are taken: nearest free codes, matching within a prefix, balanced transport."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from semtok.codes import ItemCodes

__all__ = ["Costs", "Work", "parts", "place_movers", "positions", "rematch", "transport_codes"]


_ENTRIES = 1 << 22  # costs looked at together: 16 MiB


Costs = Callable[..., np.ndarray]


def positions(group: np.ndarray) -> np.ndarray:
    """Place of each entry among the equal entries next to it: int64 [n]."""
    place = np.arange(len(group))
    first = np.ones(len(group), dtype=bool)
    first[1:] = group[1:] != group[:-1]
    return place - np.maximum.accumulate(np.where(first, place, 0))


def parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The rows in parts whose costs of ``size`` codes are looked at together."""
    step = max(1, _ENTRIES // size)
    for lo in range(0, len(rows), step):
        yield rows[lo : lo + step]


_AS_GOOD = 1 - 1e-6


class Work:
    """A table of codes in the making: who has a place of his own, and what places cost.

    Attributes
    ----------
    codes : int64 [N, L]
        Changed in place.
    rank : int64 [N]
        Place of each item in the order of choosing.
    held : bool [N]
        Items whose codes may not change.
    placed : bool [N]
        Items whose tuple is theirs alone.
    refused : bool [N]
        Movers that did not get the code they wanted most, or had to leave their prefix.
    closed : for each level, int64 arrays [m, level + 1]
        Prefixes without a code that could be used, though they are not full.
    """

    def __init__(self, codes: ItemCodes, rank: np.ndarray, held: np.ndarray, costs: Costs | None) -> None:
        self.codes = codes.codes.astype(np.int64)
        self.sizes = codes.sizes
        self.rank = rank
        self.held = held
        self.placed = np.zeros(len(codes), dtype=bool)
        self.refused = np.zeros(len(codes), dtype=bool)
        self.closed: list[list[np.ndarray]] = [[] for _ in codes.sizes]
        self.passes = 0
        self.given = costs
        self._moves = costs is not None and len(inspect.signature(costs).parameters) > 2

    def costs(self, rows: np.ndarray, level: int, codes: np.ndarray | None = None) -> np.ndarray:
        """Costs of the codes of a level for items with these codes, or those they have now: a new float32 [n, K]."""
        shape = (len(rows), self.sizes[level])
        if self.given is None:
            return np.zeros(shape, dtype=np.float32)
        table = self.codes[rows] if codes is None else codes
        found = self.given(rows, level, table) if self._moves else self.given(rows, level)
        found = np.array(found, dtype=np.float32)
        if found.shape != shape:
            raise ValueError(f"costs of {len(rows)} items at level {level} have shape {found.shape}; expected {shape}")
        if np.isnan(found.min(initial=np.inf)):
            raise ValueError(f"costs of level {level} hold NaN; expected squared distances, infinity where not usable")
        return found

    def movers(self) -> np.ndarray:
        """Mark one item of each tuple as placed; the others, in the order of choosing."""
        order = np.lexsort((self.rank, _numbers(self.codes, self.sizes)))
        first = np.ones(len(order), dtype=bool)
        first[1:] = (self.codes[order[1:]] != self.codes[order[:-1]]).any(1)
        self.placed[:] = False
        self.placed[order[first]] = True
        left = order[~first]
        return left[np.argsort(self.rank[left])]


class _Tree:
    """Prefixes of tuples that are taken: for every depth the nodes, by parent and code, and the items below them."""

    def __init__(self, codes: np.ndarray, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.total = len(codes)
        self.keys, self.counts = [], []
        parent = np.zeros(len(codes), dtype=np.int64)
        for level, size in enumerate(sizes):
            keys, parent, counts = np.unique(parent * size + codes[:, level], return_inverse=True, return_counts=True)
            self.keys.append(keys)
            self.counts.append(counts)

    def walk(self, prefixes: np.ndarray) -> np.ndarray:
        """Node of each prefix [n, depth]: int64 [n], -1 where nothing lies below it."""
        node = np.zeros(len(prefixes), dtype=np.int64)
        for level in range(prefixes.shape[1]):
            key = node * self.sizes[level] + prefixes[:, level]
            place = np.minimum(np.searchsorted(self.keys[level], key), len(self.keys[level]) - 1)
            node = np.where((node >= 0) & (self.keys[level][place] == key), place, -1)
        return node

    def below(self, nodes: np.ndarray, depth: int) -> np.ndarray:
        """Items below nodes of a depth: int64 [n]."""
        if depth == 0:
            return np.full(len(nodes), self.total)
        return np.where(nodes >= 0, self.counts[depth - 1][nodes], 0)

    def children(self, nodes: np.ndarray, depth: int) -> np.ndarray:
        """Items below each child of nodes of a depth: int64 [n, K]."""
        size = self.sizes[depth]
        found = np.zeros((len(nodes), size), dtype=np.int64)
        lo, hi = np.searchsorted(self.keys[depth], np.stack([nodes * size, (nodes + 1) * size]))
        hi = np.where(nodes >= 0, hi, lo)
        row = np.repeat(np.arange(len(nodes)), hi - lo)
        place = np.arange(len(row)) + np.repeat(lo - np.cumsum(hi - lo) + (hi - lo), hi - lo)
        found[row, self.keys[depth][place] - nodes[row] * size] = self.counts[depth][place]
        return found


def place_movers(work: Work, movers: np.ndarray, spill: bool) -> None:
    """Give movers, in the order of choosing, the nearest free code of the last level, else of the one before it ..."""
    waiting = movers
    for depth in range(len(work.sizes) - 1, -1, -1):
        without_room = []
        while len(waiting):
            stuck, waiting = _descend(work, waiting, depth)
            without_room.append(stuck)
            work.passes += 1
        waiting = np.concatenate([*without_room, waiting])
        waiting = waiting[np.argsort(work.rank[waiting])]
        if not len(waiting):
            return
        if not spill:
            prefix = tuple(work.codes[waiting[0], :-1].tolist())
            items = int((work.codes[:, :-1] == work.codes[waiting[0], :-1]).all(1).sum())
            raise ValueError(
                f"{len(waiting)} items find no free code at their last level: the first codes {prefix} have {items} "
                f"items but {work.sizes[-1]} codes at most"
            )
    raise ValueError(
        f"{len(waiting)} of {len(work.codes)} items find no free code: of the {prod(work.sizes)} tuples of sizes "
        f"{work.sizes} too few can be used"
    )


def _descend(work: Work, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Let rows choose the codes of level ``depth`` and those below it.

    Returns the rows that found no room, and those that ended in a prefix none of whose codes can be used, which is
    closed now: they have their old codes and can try again.
    """
    tree = _Tree(work.codes[work.placed], work.sizes)
    old = work.codes[rows]
    failed_at = np.full(len(rows), -1)
    for level in range(depth, len(work.sizes)):
        active = np.flatnonzero(failed_at < 0)
        chosen = _choose(work, tree, rows[active], level)
        lost = active[chosen < 0]
        failed_at[lost] = level
        if level and len(lost):
            work.closed[level - 1].append(np.unique(work.codes[rows[lost], :level], axis=0))
        kept = chosen >= 0
        work.codes[rows[active[kept]], level] = chosen[kept]
    work.codes[rows[failed_at >= 0]] = old[failed_at >= 0]
    work.placed[rows[failed_at < 0]] = True
    if depth < len(work.sizes) - 1:
        work.refused[rows] = True
    return rows[failed_at == depth], rows[failed_at > depth]


def _choose(work: Work, tree: _Tree, rows: np.ndarray, level: int) -> np.ndarray:
    """Code of one level for each row, by rank in each prefix, among those with room below them; -1 where none has."""
    span = _spans(work)
    group = _numbers(work.codes[rows, :level], work.sizes[:level])
    order = np.lexsort((work.rank[rows], group))
    ordered, group = rows[order], group[order]
    nodes = tree.walk(work.codes[ordered, :level])
    fits = np.flatnonzero(positions(group) < span[level] - tree.below(nodes, level))
    found = np.full(len(rows), -1, dtype=np.int64)
    last, room_of_last = -1, np.zeros(0, dtype=np.int64)
    for part in parts(fits, work.sizes[level]):
        first = np.flatnonzero(np.diff(group[part], prepend=-1))
        local = np.cumsum(np.diff(group[part], prepend=group[part[0]]) != 0)
        room = span[level + 1] - tree.children(nodes[part[first]], level)
        _close(room, work.codes[ordered[part[first]], :level], work.closed[level], work.sizes)
        costs = work.costs(ordered[part], level)
        going_on = np.flatnonzero(local == 0) if group[part[0]] == last else np.zeros(0, dtype=np.int64)
        wanted = np.where(room[0] > 0, costs[going_on], np.inf).argmin(1)
        if len(going_on):
            room[0] = room_of_last
        chosen, refused = _by_rank(costs, local, room)
        refused[going_on] |= chosen[going_on] != wanted
        last, room_of_last = group[part[-1]], room[-1]
        found[order[part]] = chosen
        work.refused[ordered[part[refused]]] = True
    return found


def _by_rank(costs: np.ndarray, group: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row takes the cheapest code of its group that has room, rows in their order; vectorised over all rows.

    All ask for what they want most; where more ask than there is room for, the last of them are refused and ask for
    their next. As every code prefers the same rows, nobody who is refused could have got it later, so this ends as if
    they had chosen one after the other.

    Parameters
    ----------
    costs : float32 [n, K]
        Overwritten.
    group : int64 [n]
        Ascending.
    room : int64 [G, K]
        Lowered by what is taken.

    Returns
    -------
    int64 [n]
        Codes, -1 where nothing is left.
    bool [n]
        Rows that were refused once.
    """
    size = costs.shape[1]
    costs[room[group] <= 0] = np.inf
    every = np.arange(len(costs))
    chosen = costs.argmin(1)
    chosen[np.isinf(costs[every, chosen])] = -1
    refused = np.zeros(len(costs), dtype=bool)
    while True:
        asking = np.flatnonzero(chosen >= 0)
        place = group[asking] * size + chosen[asking]
        order = np.argsort(place, kind="stable")
        over = positions(place[order]) >= room.reshape(-1)[place[order]]
        lost = asking[order[over]]
        if not len(lost):
            room -= np.bincount(place, minlength=room.size).reshape(room.shape)
            return chosen, refused
        refused[lost] = True
        costs[lost, chosen[lost]] = np.inf
        rest = costs[lost]
        chosen[lost] = rest.argmin(1)
        chosen[lost[np.isinf(rest.min(1))]] = -1


def _close(room: np.ndarray, prefixes: np.ndarray, closed: list[np.ndarray], sizes: tuple[int, ...]) -> None:
    """Take the room of closed prefixes away; row i of ``room`` is of the prefix ``prefixes[i]`` [G, depth]."""
    if not closed:
        return
    shut = np.concatenate(closed)
    depth = prefixes.shape[1]
    number = _numbers(np.concatenate([prefixes, shut[:, :depth]]), sizes[:depth])
    row_of = np.full(len(number), -1)
    row_of[number[: len(prefixes)]] = np.arange(len(prefixes))
    row = row_of[number[len(prefixes) :]]
    room[row[row >= 0], shut[row >= 0, depth]] = 0


def rematch(work: Work, movers: np.ndarray, everyone: bool) -> None:
    """Exchange the last codes of the movers of each prefix, or of all its items, for those of the least total cost."""
    from scipy.optimize import linear_sum_assignment

    group = _numbers(work.codes[:, :-1], work.sizes[:-1])
    wanted = np.zeros(int(group.max()) + 1, dtype=bool)
    wanted[group[movers if everyone else movers[work.refused[movers]]]] = True
    takes_part = wanted[group] & ~work.held
    if not everyone:
        takes_part &= np.bincount(movers, minlength=len(group)) > 0
    rows = np.flatnonzero(takes_part)
    rows = rows[np.lexsort((work.rank[rows], group[rows]))]
    stays = np.flatnonzero(wanted[group] & ~takes_part)
    stays = stays[np.argsort(group[stays], kind="stable")]
    starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
    ends = np.append(starts[1:], len(rows))
    lo, hi = np.searchsorted(group[stays], np.stack([group[rows[starts]], group[rows[starts]] + 1]))
    step = max(1, _ENTRIES // work.sizes[-1])
    number = 0
    while number < len(starts):
        until = max(number + 1, int(np.searchsorted(ends, starts[number] + step, side="right")))
        part = rows[starts[number] : ends[until - 1]]
        costs = work.costs(part, len(work.sizes) - 1)
        every, now = np.arange(len(part)), work.codes[part, -1]
        costs[every, now] = np.minimum(costs[every, now], np.finfo(np.float32).max)
        for place in range(number, until):
            free = np.ones(work.sizes[-1], dtype=bool)
            free[work.codes[stays[lo[place] : hi[place]], -1]] = False
            codes = np.flatnonzero(free)
            table = costs[starts[place] - starts[number] : ends[place] - starts[number], codes]
            work.codes[rows[starts[place] : ends[place]], -1] = codes[linear_sum_assignment(table)[1]]
        number = until


def transport_codes(work: Work, epsilon: float, iterations: int, rounds: int) -> dict[str, Any]:
    """New last codes for the items of colliding tuples by Sinkhorn-Knopp, round by round."""
    before = work.codes[:, -1].copy()
    level = len(work.sizes) - 1
    passes = 0
    while passes < rounds:
        group = _numbers(work.codes, work.sizes)
        rows = np.flatnonzero((np.bincount(group)[group] > 1) & ~work.held)
        if not len(rows):
            break
        rows = rows[np.lexsort((work.rank[rows], group[rows]))]
        part_of = positions(group[rows]) // work.sizes[level]  # groups of more items than codes in parts
        starts = np.flatnonzero(np.diff(group[rows] * (part_of.max() + 1) + part_of, prepend=-1))
        lengths = np.diff(np.append(starts, len(rows)))
        new = work.codes[rows, level]
        for length in np.unique(lengths).tolist():
            alike = starts[lengths == length]
            step = max(1, _ENTRIES // 8 // (length * work.sizes[level]))
            for lo in range(0, len(alike), step):
                places = (alike[lo : lo + step, None] + np.arange(length)).reshape(-1)
                costs = work.costs(rows[places], level).reshape(-1, length, work.sizes[level])
                new[places] = _sinkhorn(costs, epsilon, iterations).reshape(-1)
        passes += 1
        if (new == work.codes[rows, level]).all():
            break
        work.codes[rows, level] = new
    group = _numbers(work.codes, work.sizes)
    left = len(group) - len(np.unique(group))
    return {"rounds": passes, "sinkhorn": {"moved": int((work.codes[:, -1] != before).sum()), "left": left}}


def _sinkhorn(costs: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Codes of n items by entropic transport to K codes of equal weight, for G groups: [G, n, K] to int64 [G, n].

    Distances are centred to -1 .. 1 over each group. Of the codes that transport gives an item alone all have the same
    weight; the nearest is taken.
    """
    usable = np.isfinite(costs)
    low = np.where(usable, costs, np.inf).min((1, 2), keepdims=True).astype(np.float64)
    high = np.where(usable, costs, -np.inf).max((1, 2), keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore"):
        scaled = (costs - low) / ((high - low) / 2 + 1e-5)  # 0 .. 2
    scaled -= scaled.min(2, keepdims=True, initial=np.inf, where=usable)
    kernel = np.where(usable, np.exp(-np.where(usable, scaled, 0) / epsilon), 0)  # 1 for the nearest code of an item
    items = np.ones((len(costs), 1, costs.shape[1]))
    codes = np.ones((len(costs), costs.shape[2], 1))
    for _ in range(iterations):
        items = 1 / np.matmul(kernel, codes).transpose(0, 2, 1)
        items /= items.max(2, keepdims=True)
        weight = np.matmul(items, kernel).transpose(0, 2, 1)
        codes = np.divide(1, weight, out=np.zeros_like(weight), where=weight > 0)
    share = kernel * codes.transpose(0, 2, 1)
    candidate = share >= _AS_GOOD * share.max(2, keepdims=True)
    found: np.ndarray = np.where(candidate & usable, costs, np.inf).argmin(2)
    return found


def _numbers(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Dense numbers of rows of codes, in lexicographic order: int64 [n]."""
    number = np.zeros(len(codes), dtype=np.int64)
    for level, size in enumerate(sizes):
        number = np.unique(number * size + codes[:, level], return_inverse=True)[1].astype(np.int64)
    return number


def _spans(work: Work) -> list[int]:
    """Tuples below a node of each depth, as far as it matters."""
    return [min(prod(work.sizes[depth:]), 2 * len(work.codes)) for depth in range(len(work.sizes) + 1)]
