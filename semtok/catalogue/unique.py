"""Codes that no two items share: the policies for items whose codes collide.

Takes a table of codes and a function that says what another code would cost an item; gives a table without collisions
and a report. Knows nothing of how codes are fitted. Of the items that share a tuple the most popular one keeps it; the
others, the movers, look for a free tuple among those with the same first codes, and only where none is left among those
that differ in the second last code, and so on up.
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import Any

import numpy as np

from semtok.catalogue.placement import Costs, Work, parts, place_movers, positions, rematch, transport_codes
from semtok.codes import Collisions, ItemCodes

__all__ = ["POLICIES", "SUFFIX", "TokenizerCosts", "costs_of", "make_unique"]

POLICIES = ("none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced")
SUFFIX = "suffix"  # the block of the level that the policy of that name adds
_SAMPLE = 65_536  # items whose distortion is measured to know that of all
_LEAST_EPSILON = 0.003


class TokenizerCosts:
    """Costs of codes for the items of a catalogue, as :func:`make_unique` asks for them.

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
            for rows in parts(np.arange(len(found)), self.tokenizer.sizes_[column]):
                costs = self(rows + self.first, column)
                found[rows] += costs[np.arange(len(rows)), self.codes[rows, column]]
        return found


def costs_of(tokenizer: Any, X: Any, codes: Any, first: int = 0) -> TokenizerCosts:
    """Costs of codes for the items of a catalogue, for :func:`make_unique`; see :class:`TokenizerCosts`."""
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
    work = Work(codes, rank, held, costs)
    details: dict[str, Any] = {"rounds": 0}
    if policy != "none" and not codes.unique:
        tuples = prod(codes.sizes)
        if len(codes) > tuples:
            raise ValueError(f"{len(codes)} items cannot have unique codes: sizes {codes.sizes} make {tuples} tuples")
        if policy == "sinkhorn":
            details = transport_codes(work, epsilon, iterations, rounds)
        movers = work.movers()
        place_movers(work, movers, spill)
        if policy in ("matching", "balanced"):
            rematch(work, movers, everyone=policy == "balanced")
        if policy != "sinkhorn":
            details["rounds"] = work.passes
    found = ItemCodes(work.codes, codes.sizes, codes.item_ids, dict(codes.blocks))
    return found, _report(policy, codes, found, work, seed) | details


# --------------------------------------------------------------------------------------- the nearest free code


# --------------------------------------------------------------------------------------- matching


# --------------------------------------------------------------------------------------- transport


# --------------------------------------------------------------------------------------- suffix


def _suffixed(codes: ItemCodes, rank: np.ndarray, size: int | None) -> tuple[ItemCodes, dict[str, Any]]:
    """One more level, which counts the items of a tuple in the order of choosing."""
    if SUFFIX in codes.blocks:
        raise ValueError(f"the codes already have a block called {SUFFIX}; give them without it")
    group = codes.groups()
    order = np.lexsort((rank, group))
    suffix = np.empty(len(codes), dtype=np.int32)
    suffix[order] = positions(group[order])
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


def _report(policy: str, old: ItemCodes, new: ItemCodes, work: Work, seed: int) -> dict[str, Any]:
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


def _paid(work: Work, rows: np.ndarray, level: int, codes: np.ndarray, instead: np.ndarray | None = None) -> np.ndarray:
    """Cost of the codes that rows have at a level, or what those they have instead cost more: float32 [n].

    A code that cannot be used, though an item has it, costs as much as the worst of the others.
    """
    found = np.empty(len(rows), dtype=np.float32)
    for place in parts(np.arange(len(rows)), work.sizes[level]):
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
