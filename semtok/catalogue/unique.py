"""Codes that no two items share: the policies for items whose codes collide.

Takes a table of codes and a function that says what another code would cost an item; gives a table without collisions
and a report. Knows nothing of how codes are fitted. Of the items that share a tuple the most popular one keeps it; the
others, the movers, look for a free tuple among those with the same first codes, and only where none is left among those
that differ in the second last code, and so on up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import prod
from typing import Any

import numpy as np

from semtok.codes import Collisions, ItemCodes

__all__ = ["POLICIES", "SUFFIX", "Costs", "TokenizerCosts", "costs_of", "make_unique"]

POLICIES = ("none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced")
SUFFIX = "suffix"  # the block of the level that the policy of that name adds
_ENTRIES = 1 << 22  # costs looked at together: 16 MiB
_SAMPLE = 65_536  # items whose distortion is measured to know that of all
_LEAST_EPSILON = 0.003
_AS_GOOD = 1 - 1e-6

Costs = Callable[..., np.ndarray]


class TokenizerCosts:
    """What codes cost the items of a catalogue, as :func:`make_unique` asks for it.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Fitted; its ``costs`` is called.
    X : array of float [n, D]
        Vectors of the items; arrays that lie in files are read where they are indexed.
    codes : array of int [n, L] or ItemCodes
        Their codes. Levels that the tokenizer does not have (a suffix) are left out.
    first : int, default 0
        Row of the first of these items in the table that is made unique; those before it have no vectors here.

    Attributes
    ----------
    columns : tuple of int
        Levels whose costs together are the whole distance of an item: one of each view, or of each stream, that is
        quantized on its own.
    """

    def __init__(self, tokenizer: Any, X: Any, codes: Any, first: int = 0) -> None:
        self.tokenizer = tokenizer
        self.X = X
        self.codes = codes.codes if isinstance(codes, ItemCodes) else np.asarray(codes)
        self.first = first
        blocks = list(tokenizer.blocks_.values())
        if list(tokenizer.blocks_) == list(getattr(tokenizer, "views_", ())):
            self.columns = tuple(block.stop - 1 for block in blocks)
        else:
            self.columns = tuple(range(blocks[-1].start, blocks[-1].stop))

    def __call__(self, rows: np.ndarray, level: int, codes: np.ndarray | None = None) -> np.ndarray:
        """Costs of the codes of a level for the items ``rows``, whose other codes are ``codes``, else their own."""
        own = rows - self.first
        table = self.codes[own] if codes is None else codes
        found: np.ndarray = self.tokenizer.costs(self.X[own], table[:, : len(self.tokenizer.sizes_)], level)
        return found

    def errors(self) -> np.ndarray:
        """Squared distance of each item to what its codes stand for: float32 [n]."""
        found = np.zeros(len(self.codes), dtype=np.float32)
        for column in self.columns:
            for rows in _parts(np.arange(len(found)), self.tokenizer.sizes_[column]):
                costs = self(rows + self.first, column)
                found[rows] += costs[np.arange(len(rows)), self.codes[rows, column]]
        return found


def costs_of(tokenizer: Any, X: Any, codes: Any, first: int = 0) -> TokenizerCosts:
    """What codes cost the items of a catalogue, for :func:`make_unique`; see :class:`TokenizerCosts`."""
    return TokenizerCosts(tokenizer, X, codes, first)


def make_unique(
    codes: ItemCodes,
    policy: str = "matching",
    *,
    costs: Costs | None = None,
    popularity: Any = None,
    fixed: Any = None,
    spill: bool = True,
    suffix_size: int | None = None,
    epsilon: float = 0.003,
    iterations: int = 50,
    rounds: int = 20,
    seed: int = 0,
) -> tuple[ItemCodes, dict[str, Any]]:
    """Give every item a tuple of its own.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items, some of them shared.
    policy : {"none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced"}, default "matching"
        "none" changes nothing.
        "suffix" adds a level that counts the items of a tuple from 0 (TIGER), also where nothing collides.
        "nearest-free" lets the movers, the popular ones first, take the nearest free code (MQL4GRec).
        "matching" gives the movers of each prefix that place in its free codes which adds the least distortion in
        all; which prefix a mover goes to, where its own is full, is as in "nearest-free".
        "balanced" spreads all items of a prefix in which codes collide over its codes, at most one each, at the least
        cost in all: those that kept their code may have to move as well.
        "sinkhorn" gives the colliding items of each tuple, all of them, new last codes by optimal transport (LC-Rec),
        again while items collide; what still does is left to "nearest-free" and reported apart.
    costs : callable, optional
        ``costs(rows, level)`` gives float32 [n, K], the squared distance that each of the items ``rows`` would pay for
        each code of ``level``, its other codes staying as they are; infinity for codes that cannot be used. If it has a
        third parameter, that is given the codes [n, L] to take for the other levels; without it what it costs to leave
        a prefix is not known in full. :func:`costs_of` makes such a function of a tokenizer. Without costs every code
        costs the same, so the lowest free one is taken.
    popularity : array of numbers [N], optional
        Of items with equal codes the most popular one keeps them, and movers choose in this order. Ties, and all items
        if it is not given, go by row.
    fixed : array of bool [N], optional
        Items that keep their codes whatever their popularity, such as those of an earlier generation; no two of them
        may share codes.
    spill : bool, default True
        Whether a mover may leave its prefix if that has no free code, changing the second last code, then the third
        last. If not, this is refused. "suffix" and "none" never do.
    suffix_size : int, optional
        Codes of the level that "suffix" adds; as many as the largest group has items if not given.
    epsilon : float, default 0.003
        Entropy of the transport of "sinkhorn", for distances between -1 and 1.
    iterations : int, default 50
        Scalings of each transport.
    rounds : int, default 20
        Rounds of "sinkhorn" at most.
    seed : int, default 0
        Draws the 65,536 items by which the distortion of a larger catalogue is measured; codes do not depend on it.

    Returns
    -------
    ItemCodes
        Rows as in ``codes``. Items that share no code, and keepers (but for "balanced" and "sinkhorn"), are unchanged.
    dict
        ``policy``, ``items``, ``before`` and ``after`` (collisions), ``moved`` (items), ``moved_share`` (of those that
        are not fixed, as all that follows), ``moved_levels`` (items whose code of each level changed), ``distortion``
        (None without costs): ``before``, the sum over all items (estimated from a sample of large catalogues),
        ``added``, ``added_mean`` over all items, ``added_per_moved`` and ``relative`` to before; ``capacity``:
        ``tuples`` and those ``left``; ``rounds``: passes over items that waited for a place, of transport for
        "sinkhorn", whose ``sinkhorn`` says what it ``moved`` and ``left``.

    Raises
    ------
    ValueError
        If the policy is unknown, capacity is short (more items than tuples, a full prefix without ``spill``, a suffix
        too small), fixed items share codes, or arrays have the wrong shape or hold NaN.

    Notes
    -----
    Rajput et al., Recommender systems with generative retrieval (TIGER), NeurIPS 2023; Zheng et al., Adapting large
    language models by integrating collaborative semantics (LC-Rec), ICDE 2024; Zhai et al., Multimodal quantitative
    language for generative recommendation (MQL4GRec), ICLR 2025. Departures: popularity decides who keeps a code where
    MQL4GRec takes the item nearest to it, and costs are computed anew for a mover that leaves its prefix; where LC-Rec
    takes any of the codes that transport gives to one item alone, the nearest of them is taken, and items that it
    leaves colliding are resolved.

    Examples
    --------
    >>> shared = ItemCodes(np.array([[0, 1], [0, 1], [1, 1]]), sizes=(2, 3), item_ids=np.array([7, 8, 9]))
    >>> found, report = make_unique(shared, "matching", popularity=[5, 6, 1])
    >>> found.codes.tolist(), report["moved"]
    ([[0, 0], [0, 1], [1, 1]], 1)
    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is not one of {', '.join(POLICIES)}")
    if not epsilon >= _LEAST_EPSILON or iterations < 1 or rounds < 1:
        raise ValueError(
            f"epsilon={epsilon}, iterations={iterations} and rounds={rounds}; expected an epsilon of at least "
            f"{_LEAST_EPSILON} and at least one of the others"
        )
    held = _checked_fixed(codes, fixed)
    rank = _ranks(popularity, held)
    if policy == "suffix":
        if held.any():
            raise ValueError(f"{int(held.sum())} items are fixed, but the policy suffix adds a level to all of them")
        return _suffixed(codes, rank, suffix_size)
    work = _Work(codes, rank, held, costs)
    details: dict[str, Any] = {"rounds": 0}
    if policy != "none" and not codes.unique:
        tuples = prod(codes.sizes)
        if len(codes) > tuples:
            raise ValueError(f"{len(codes)} items cannot have unique codes: sizes {codes.sizes} make {tuples} tuples")
        if policy == "sinkhorn":
            details = _transport(work, epsilon, iterations, rounds)
        movers = work.movers()
        _place(work, movers, spill)
        if policy in ("matching", "balanced"):
            _rematch(work, movers, everyone=policy == "balanced")
        if policy != "sinkhorn":
            details["rounds"] = work.passes
    found = ItemCodes(work.codes, codes.sizes, codes.item_ids, dict(codes.blocks))
    return found, _report(policy, codes, found, work, seed) | details


class _Work:
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


# --------------------------------------------------------------------------------------- the nearest free code


def _place(work: _Work, movers: np.ndarray, spill: bool) -> None:
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


def _descend(work: _Work, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
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


def _choose(work: _Work, tree: _Tree, rows: np.ndarray, level: int) -> np.ndarray:
    """Code of one level for each row, by rank in each prefix, among those with room below them; -1 where none has."""
    span = _spans(work)
    group = _numbers(work.codes[rows, :level], work.sizes[:level])
    order = np.lexsort((work.rank[rows], group))
    ordered, group = rows[order], group[order]
    nodes = tree.walk(work.codes[ordered, :level])
    fits = np.flatnonzero(_positions(group) < span[level] - tree.below(nodes, level))
    found = np.full(len(rows), -1, dtype=np.int64)
    last, room_of_last = -1, np.zeros(0, dtype=np.int64)
    for part in _parts(fits, work.sizes[level]):
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
        over = _positions(place[order]) >= room.reshape(-1)[place[order]]
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


# --------------------------------------------------------------------------------------- matching


def _rematch(work: _Work, movers: np.ndarray, everyone: bool) -> None:
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


# --------------------------------------------------------------------------------------- transport


def _transport(work: _Work, epsilon: float, iterations: int, rounds: int) -> dict[str, Any]:
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
        part_of = _positions(group[rows]) // work.sizes[level]  # groups of more items than codes in parts
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


# --------------------------------------------------------------------------------------- suffix


def _suffixed(codes: ItemCodes, rank: np.ndarray, size: int | None) -> tuple[ItemCodes, dict[str, Any]]:
    """One more level, which counts the items of a tuple in the order of choosing."""
    if SUFFIX in codes.blocks:
        raise ValueError(f"the codes already have a block called {SUFFIX}; give them without it")
    group = codes.groups()
    order = np.lexsort((rank, group))
    suffix = np.empty(len(codes), dtype=np.int32)
    suffix[order] = _positions(group[order])
    largest = int(suffix.max(initial=0)) + 1
    if size is not None and size < largest:
        raise ValueError(f"suffix_size={size} is too small: {largest} items share one tuple")
    size = largest if size is None else size
    blocks = dict(codes.blocks) | {SUFFIX: slice(codes.levels, codes.levels + 1)}
    table = np.concatenate([codes.codes, suffix[:, None]], axis=1)
    found = ItemCodes(table, (*codes.sizes, size), codes.item_ids, blocks)
    nothing = {"before": None, "added": 0.0, "added_mean": 0.0, "added_per_moved": 0.0, "relative": 0.0}
    counts = _counts("suffix", codes, found, np.append(np.zeros(codes.levels, dtype=np.int64), (suffix > 0).sum()))
    return found, counts | {"moved": 0, "moved_share": 0.0, "distortion": nothing, "rounds": 0, "suffix_size": size}


# --------------------------------------------------------------------------------------- report and order


def _report(policy: str, old: ItemCodes, new: ItemCodes, work: _Work, seed: int) -> dict[str, Any]:
    changed = old.codes != new.codes
    counts = _counts(policy, old, new, changed.sum(0))
    moved = np.flatnonzero(changed.any(1))
    counts |= {"moved": len(moved), "moved_share": len(moved) / max(1, int((~work.held).sum())), "distortion": None}
    if work.given is None or work.held.all():
        return counts
    rows = own = np.flatnonzero(~work.held)
    if len(rows) > _SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _SAMPLE, replace=False))
    columns = getattr(work.given, "columns", (old.levels - 1,))
    before = sum(_paid(work, rows, column, old.codes).sum(dtype=np.float64) for column in columns)
    before = float(before) * (len(own) / len(rows))
    far = np.flatnonzero(changed[:, :-1].any(1))
    near = np.setdiff1d(moved, far, assume_unique=True)
    added = float(_paid(work, near, old.levels - 1, old.codes, new.codes).sum(dtype=np.float64))
    for column in columns if len(far) else ():
        come, gone = (_paid(work, far, column, table) for table in (new.codes, old.codes))
        added += float((come.astype(np.float64) - gone).sum())
    counts["distortion"] = {
        "before": before,
        "added": added,
        "added_mean": added / len(own),
        "added_per_moved": added / max(1, len(moved)),
        "relative": added / before if before > 0 else 0.0,
    }
    return counts


def _paid(
    work: _Work, rows: np.ndarray, level: int, codes: np.ndarray, instead: np.ndarray | None = None
) -> np.ndarray:
    """What rows pay for their codes of a level, or pay more for those they have instead: float32 [n].

    A code that cannot be used, though an item has it, costs as much as the worst of the others.
    """
    found = np.empty(len(rows), dtype=np.float32)
    for place in _parts(np.arange(len(rows)), work.sizes[level]):
        part = rows[place]
        costs = work.costs(part, level, codes[part].astype(np.int64))
        worst = np.where(np.isfinite(costs), costs, 0).max(1)
        paid = np.minimum(costs[np.arange(len(part)), codes[part, level]], worst)
        found[place] = paid if instead is None else costs[np.arange(len(part)), instead[part, level]] - paid
    return found


def _counts(policy: str, old: ItemCodes, new: ItemCodes, moved_levels: np.ndarray) -> dict[str, Any]:
    tuples = prod(new.sizes)
    return {
        "policy": policy,
        "items": len(old),
        "before": _collisions(old.collisions()),
        "after": _collisions(new.collisions()),
        "moved_levels": moved_levels.tolist(),
        "capacity": {"tuples": tuples, "left": tuples - len(new)},
    }


def _collisions(found: Collisions) -> dict[str, Any]:
    return asdict(found) | {"rate": found.rate}


def _checked_fixed(codes: ItemCodes, fixed: Any) -> np.ndarray:
    held = np.zeros(len(codes), dtype=bool) if fixed is None else np.asarray(fixed)
    if held.shape != (len(codes),) or held.dtype != bool:
        raise ValueError(f"fixed has shape {held.shape} and dtype {held.dtype}; expected bool [{len(codes)}]")
    groups = codes.groups()[held]
    shared = len(groups) - len(np.unique(groups))
    if shared:
        raise ValueError(f"{shared} of {len(groups)} fixed items share the codes of another one: they must be unique")
    return held


def _ranks(popularity: Any, held: np.ndarray) -> np.ndarray:
    """Place of each item in the order of choosing: fixed ones first, then the popular ones, then by row."""
    values = np.zeros(len(held)) if popularity is None else np.asarray(popularity)
    if values.shape != held.shape or values.dtype.kind not in "iufb" or np.isnan(values).any():
        raise ValueError(
            f"popularity has shape {values.shape} and dtype {values.dtype}; expected [{len(held)}] numbers, none NaN"
        )
    values = values.astype(np.int64) if values.dtype.kind == "b" else values
    order = np.lexsort((np.arange(len(held)), _descending(values), ~held))
    rank = np.empty(len(held), dtype=np.int64)
    rank[order] = np.arange(len(held))
    return rank


def _descending(values: np.ndarray) -> np.ndarray:
    """Numbers that ascend as the values descend; exact for unsigned and 64-bit integers too."""
    return -np.unique(values, return_inverse=True)[1]


def _numbers(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Dense numbers of rows of codes, in lexicographic order: int64 [n]."""
    number = np.zeros(len(codes), dtype=np.int64)
    for level, size in enumerate(sizes):
        number = np.unique(number * size + codes[:, level], return_inverse=True)[1].astype(np.int64)
    return number


def _positions(group: np.ndarray) -> np.ndarray:
    """Place of each entry among the equal entries next to it: int64 [n]."""
    place = np.arange(len(group))
    first = np.ones(len(group), dtype=bool)
    first[1:] = group[1:] != group[:-1]
    return place - np.maximum.accumulate(np.where(first, place, 0))


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The rows in parts whose costs of ``size`` codes are looked at together."""
    step = max(1, _ENTRIES // size)
    for lo in range(0, len(rows), step):
        yield rows[lo : lo + step]


def _spans(work: _Work) -> list[int]:
    """Tuples below a node of each depth, as far as it matters."""
    return [min(prod(work.sizes[depth:]), 2 * len(work.codes)) for depth in range(len(work.sizes) + 1)]
