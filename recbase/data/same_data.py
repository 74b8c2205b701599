"""Are two data sets the same, sequence by sequence? Knows nothing of where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recbase.data.interactions import hash_ids, hash_sequences, number

if TYPE_CHECKING:
    from recbase.data.dataset import Dataset

__all__ = ["Verification", "verify"]

_SHOWN = 5


@dataclass(frozen=True)
class Verification:
    """Findings of :func:`verify`.

    Attributes
    ----------
    matched_by : str
        ``"ids"``, or ``"renaming"`` if users and items were paired through the sequences.
    users, reference_users : int
        Users of either side.
    users_only_here, users_only_there : int
        Users without a partner.
    items_only_here, items_only_there : int
        Items with events on one side only (after renaming).
    equal : int
        Users with equal sequences.
    reordered : int
        Users with the same items in another order.
    different : int
        Users with other items.
    hash, reference_hash : str
        Hash of all sequences of raw ids of either side; equal when matched by ids and all sequences are.
    examples : dict
        For ``reordered`` and ``different``, a few raw user ids.
    """

    matched_by: str
    users: int
    reference_users: int
    users_only_here: int
    users_only_there: int
    items_only_here: int
    items_only_there: int
    equal: int
    reordered: int
    different: int
    hash: str
    reference_hash: str
    examples: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Every user has a partner with an equal sequence."""
        return self.equal == self.users == self.reference_users

    def summary(self) -> str:
        """A few lines for a terminal."""
        names = "by their ids" if self.matched_by == "ids" else "up to a one-to-one renaming"
        lines = [
            f"{'same' if self.same else 'NOT the same'}: {self.equal} of {self.users} sequences are equal ({names})",
            f"users only here {self.users_only_here}, only there {self.users_only_there} of {self.reference_users}",
            f"same items in another order {self.reordered}; other items {self.different}",
            f"items only here {self.items_only_here}, only there {self.items_only_there}",
            f"hash {self.hash[:16]}, reference {self.reference_hash[:16]}",
        ]
        lines += [f"{what}: users {', '.join(map(str, users))}" for what, users in self.examples.items() if users]
        return "\n".join(lines)


@dataclass
class _Side:
    """One data set with items as rows of its item table."""

    items: np.ndarray  # [E]
    offsets: np.ndarray  # [U + 1]
    count: int

    @classmethod
    def of(cls, dataset: Dataset) -> _Side:
        return cls(dataset.histories.items.astype(np.int64) - 1, dataset.offsets, dataset.n_items)

    @property
    def users(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def sequences(self, names: np.ndarray) -> np.ndarray:
        """Hash of each user's sequence, given a hash for every item, uint64 [U]."""
        return hash_sequences(names[self.items], self.offsets)[:, 0]

    def ends(self, count: int) -> _Side:
        """Each user cut to the first ``count`` events, or to the last -``count``."""
        lengths = np.diff(self.offsets)
        place = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        keep = place < count if count > 0 else place >= np.repeat(lengths, lengths) + count
        cut = np.append(0, np.cumsum(np.minimum(lengths, abs(count))))
        return _Side(self.items[keep], cut, self.count)

    def bags(self, names: np.ndarray) -> np.ndarray:
        """Hash of each user's items whatever their order, uint64 [U]."""
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_scramble(names)[self.items], dtype=np.uint64)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]])


def verify(dataset: Dataset, reference: Dataset, renaming: bool | None = None) -> Verification:
    """Compare two data sets sequence by sequence.

    Parameters
    ----------
    dataset, reference : Dataset
    renaming : bool, optional
        Pair users and items through the sequences instead of their ids, which may be other names for the same things.
        By default only where fewer than half of the users or of the items have an id that is known to the reference.
    """
    here, there = _Side.of(dataset), _Side.of(reference)
    user_map = _partners(dataset.user_ids, reference.user_ids)
    names, other_names = hash_ids(dataset.item_ids), hash_ids(reference.item_ids)
    if renaming is None:
        by_id = (user_map >= 0).mean() >= 0.5 and np.isin(names, other_names).mean() >= 0.5
        renaming = not by_id
        if by_id and _equal(here, there, user_map, names, other_names) < 0.5 * len(user_map):
            renamed = _rename(here, there)
            renaming = _equal(here, there, *renamed) > _equal(here, there, user_map, names, other_names)
    if renaming:
        user_map, names, other_names = _rename(here, there)
    return _compare(dataset, reference, here, there, user_map, names, other_names, renaming)


def _compare(
    dataset: Dataset,
    reference: Dataset,
    here: _Side,
    there: _Side,
    user_map: np.ndarray,
    names: np.ndarray,
    other_names: np.ndarray,
    renaming: bool,
) -> Verification:
    rows = np.flatnonzero(user_map >= 0)
    partners = user_map[rows]
    equal = here.sequences(names)[rows] == there.sequences(other_names)[partners]
    same_items = here.bags(names)[rows] == there.bags(other_names)[partners]
    groups = {"reordered": rows[~equal & same_items], "different": rows[~same_items & ~equal]}
    used, other_used = names[np.unique(here.items)], other_names[np.unique(there.items)]
    return Verification(
        "renaming" if renaming else "ids",
        dataset.n_users,
        reference.n_users,
        dataset.n_users - len(rows),
        reference.n_users - len(rows),
        int((~np.isin(used, other_used)).sum()),
        int((~np.isin(other_used, used)).sum()),
        int(equal.sum()),
        len(groups["reordered"]),
        len(groups["different"]),
        dataset.sequences_hash,
        reference.sequences_hash,
        {name: dataset.user_ids.gather(found[:_SHOWN]).to_list() for name, found in groups.items()},
    )


def _equal(here: _Side, there: _Side, user_map: np.ndarray, names: np.ndarray, other_names: np.ndarray) -> int:
    rows = np.flatnonzero(user_map >= 0)
    return int((here.sequences(names)[rows] == there.sequences(other_names)[user_map[rows]]).sum())


def _partners(ids: pl.Series, others: pl.Series) -> np.ndarray:
    return number(ids.cast(pl.String), others.cast(pl.String)) - 1


def _rename(here: _Side, there: _Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User partners and item names that make the two sides agree as far as they do.

    Colours are refined in turn (a user by the colours of its items in order, an item by its users and places), users
    whose colour is unique on both sides are paired, and their items vote for the renaming.
    """
    colours = [_degrees(side) for side in (here, there)]
    best = np.full(len(here.offsets) - 1, -1)
    for _ in range(4):
        users = [side.sequences(colour) for side, colour in zip((here, there), colours, strict=True)]
        paired = _unique_pairs(*users)
        if (paired >= 0).sum() <= (best >= 0).sum():
            break
        best = paired
        colours = [_refine(side, user) for side, user in zip((here, there), users, strict=True)]
    pairs = best
    while True:
        left, right = _votes(here, there, pairs)
        names, other_names = _agreed(here, there, left, right, wildcard=True)
        more = _fill(best, here.sequences(names), there.sequences(other_names), unique=True)
        if (more >= 0).sum() <= (pairs >= 0).sum():
            break
        pairs = more
    names, other_names = _agreed(here, there, left, right)
    found = np.full(len(pairs), -1)
    sides = [(here, there), (here, there), (here.ends(3), there.ends(3)), (here.ends(-3), there.ends(-3))]
    for at, (one, other) in enumerate(sides):
        key = _Side.bags if at == 1 else _Side.sequences
        found = _fill(found, key(one, names), key(other, other_names), unique=at > 1)
    return found, names, other_names


def _agreed(
    here: _Side, there: _Side, left: np.ndarray, right: np.ndarray, wildcard: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Names of the items of both sides: those paired share one; the others have one each, or all the same one."""
    names = _scramble(np.arange(1, here.count + 1, dtype=np.uint64))
    other_names = _scramble(np.arange(here.count + 1, here.count + there.count + 1, dtype=np.uint64))
    if wildcard:
        shared = names[left]
        names[:] = other_names[:] = 0
        names[left] = shared
    other_names[right] = names[left]
    return names, other_names


def _degrees(side: _Side) -> np.ndarray:
    return _scramble(np.bincount(side.items, minlength=side.count).astype(np.uint64))


def _refine(side: _Side, users: np.ndarray) -> np.ndarray:
    """Colour of each item from the colours of its users and its places in their histories, uint64 [N]."""
    place = np.arange(len(side.items)) - np.repeat(side.offsets[:-1], np.diff(side.offsets))
    colours = np.zeros(side.count, dtype=np.uint64)
    np.add.at(colours, side.items, _scramble(users[side.users] ^ _scramble(place.astype(np.uint64))))
    return colours


def _unique_pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each entry of ``left`` the only equal entry of ``right``, -1 where either is not unique: int64."""
    once, at = np.unique(right, return_index=True)
    once, at = once[np.isin(once, _repeated(right), invert=True)], at[np.isin(once, _repeated(right), invert=True)]
    pairs = np.full(len(left), -1)
    if len(once):
        slot = np.minimum(np.searchsorted(once, left), len(once) - 1)
        found = (once[slot] == left) & np.isin(left, _repeated(left), invert=True)
        pairs[found] = at[slot[found]]
    return pairs


def _repeated(values: np.ndarray) -> np.ndarray:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]


def _votes(here: _Side, there: _Side, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items that paired users of equal length have at the same place, one to one by mutual first choice."""
    rows = np.flatnonzero(pairs >= 0)
    lengths = np.diff(here.offsets)[rows]
    rows = rows[lengths == np.diff(there.offsets)[pairs[rows]]]
    lengths = np.diff(here.offsets)[rows]
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    left = here.items[np.repeat(here.offsets[rows], lengths) + step]
    right = there.items[np.repeat(there.offsets[pairs[rows]], lengths) + step]
    both, counts = np.unique(left * there.count + right, return_counts=True)
    both = both[np.argsort(-counts, kind="stable")]
    left, right = both // there.count, both % there.count
    first_left, first_right = np.zeros(len(left), bool), np.zeros(len(left), bool)
    first_left[np.unique(left, return_index=True)[1]] = True
    first_right[np.unique(right, return_index=True)[1]] = True
    return left[first_left & first_right], right[first_left & first_right]


def _fill(pairs: np.ndarray, left: np.ndarray, right: np.ndarray, unique: bool = False) -> np.ndarray:
    """Give partners to users that have none, from the unpaired of the other side with an equal key.

    Of several with one key the first go together, or with ``unique`` none.
    """
    free = np.flatnonzero(pairs < 0)
    others = np.setdiff1d(np.arange(len(right)), pairs)
    pairs = pairs.copy()
    if unique:
        at = _unique_pairs(left[free], right[others])
        pairs[free[at >= 0]] = others[at[at >= 0]]
        return pairs
    a = pl.DataFrame({"key": left[free], "row": free}).with_columns(nth=pl.int_range(pl.len()).over("key"))
    b = pl.DataFrame({"key": right[others], "other": others}).with_columns(nth=pl.int_range(pl.len()).over("key"))
    joined = a.join(b, on=["key", "nth"])
    pairs[joined["row"].to_numpy()] = joined["other"].to_numpy()
    return pairs


def _scramble(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.asarray(values ^ (values >> np.uint64(33)))
