"""The items that a search may find, request by request: counted below every node of a trie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recbase.evaluate.recommender import NO_ITEM

if TYPE_CHECKING:
    from genrec.search.trie import CodeTrie

__all__ = ["AllowedItems"]


@dataclass(frozen=True, eq=False)
class AllowedItems:
    """Items that each request of a batch may get, with a node's allowed items counted in constant time.

    Made by :meth:`CodeTrie.allow`; one made of a mask serves many searches.

    Attributes
    ----------
    trie : CodeTrie
    before : int32 Tensor [1 or B, N + 1] or None
        Allowed items before each place of ``trie.items``.
    excluded : int64 Tensor [B, E] or None
        Places of excluded items that are allowed otherwise, ascending and distinct, filled with N.
    """

    trie: CodeTrie
    before: Tensor | None = None
    excluded: Tensor | None = None

    @classmethod
    def of(
        cls,
        trie: CodeTrie,
        mask: Tensor | np.ndarray | None = None,
        exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
    ) -> AllowedItems:
        """See :meth:`CodeTrie.allow`."""
        made = cls(trie, None if mask is None else _counted(trie, torch.as_tensor(mask, device=trie.device)))
        return made if exclude is None else made.excluding(exclude)

    def excluding(self, exclude: Tensor | np.ndarray | Sequence[Sequence[int]]) -> AllowedItems:
        """The same but for some items, request by request: int [B, E] or lists, as in :meth:`CodeTrie.allow`.

        Raises
        ------
        ValueError
            If the numbers of requests differ, or items are excluded already.
        """
        if self.excluded is not None:
            raise ValueError("items are excluded already; exclude them all at once")
        trie, before = self.trie, self.before
        places = _places(trie, exclude)
        if before is not None:
            if len(before) not in (1, len(places)):
                raise ValueError(f"mask has {len(before)} rows but exclude has {len(places)}; expected as many, or one")
            rows = torch.arange(len(places), device=trie.device)[:, None] if len(before) > 1 else 0
            inside = places < len(trie)
            allowed = before[rows, (places + 1).clamp(max=len(trie))] > before[rows, places]
            places = places.masked_fill(~(inside & allowed), len(trie)).sort(1)[0]
        return replace(self, excluded=places)

    @property
    def rows(self) -> int:
        """Requests, B; 1 where all requests share one mask."""
        return max((len(array) for array in (self.before, self.excluded) if array is not None), default=1)

    def select(self, rows: slice | Tensor) -> AllowedItems:
        """The same for some of the requests."""
        shared = self.before is None or len(self.before) == 1
        before = self.before if shared or self.before is None else self.before[rows]
        return replace(self, before=before, excluded=None if self.excluded is None else self.excluded[rows])

    def count(self, depth: int, nodes: Tensor) -> Tensor:
        """Allowed items below nodes of one depth: int64 [B, ...] to int64 [B, ...]."""
        return self._between(*self.trie.span(depth, nodes))

    def first(self, leaves: Tensor) -> Tensor:
        """Item that each leaf stands for: int64 [B, ...] to int64 [B, ...], -1 where none of its items is allowed.

        Of items with equal codes it is the allowed one of the highest priority.
        """
        first, stop = self.trie.span(self.trie.steps, leaves)
        alive = self._between(first, stop) > 0
        place = first
        if not self.trie.unique:
            low, high = first, stop - 1
            for _ in range(int(self.trie.ranges[-1].diff().max()).bit_length() if len(self.trie) else 0):
                middle = (low + high) >> 1
                found = self._between(first, middle + 1) > 0
                low, high = torch.where(found, low, middle + 1).minimum(high), torch.where(found, middle, high)
            place = low
        return torch.where(alive, self.trie.items[place.clamp(max=max(0, len(self.trie) - 1))].long(), NO_ITEM)

    def _between(self, first: Tensor, stop: Tensor) -> Tensor:
        """Allowed items in places first to stop."""
        count = stop - first
        if self.before is not None:
            if len(self.before) == 1:
                count = (self.before[0][stop] - self.before[0][first]).long()
            else:
                flat = first.flatten(1), stop.flatten(1)
                count = (self.before.gather(1, flat[1]) - self.before.gather(1, flat[0])).long().view_as(first)
        if self.excluded is not None and self.excluded.shape[1]:
            below = [torch.searchsorted(self.excluded, edge.flatten(1).contiguous()) for edge in (first, stop)]
            count = count - (below[1] - below[0]).view_as(count)
        return count


def _counted(trie: CodeTrie, mask: Tensor) -> Tensor:
    """Running counts int32 [1 or B, N + 1] of a mask bool [N'] or [B, N'] in the order of the leaves."""
    if mask.dtype != torch.bool or mask.dim() not in (1, 2):
        raise ValueError(f"mask has dtype {mask.dtype} and shape {list(mask.shape)}; expected bool [N] or [B, N]")
    rows = mask if mask.dim() == 2 else mask[None]
    if rows.shape[1] < trie.largest_item:
        raise ValueError(f"mask covers {rows.shape[1]} items but the trie holds item number {trie.largest_item}")
    before = torch.zeros(len(rows), len(trie) + 1, dtype=torch.int32, device=trie.device)
    torch.cumsum(rows[:, trie.items.long() - 1], 1, dtype=torch.int32, out=before[:, 1:])
    return before


def _places(trie: CodeTrie, exclude: Tensor | np.ndarray | Sequence[Sequence[int]]) -> Tensor:
    """Places of item numbers [B, E], ascending and distinct in every row, filled with N."""
    numbers = torch.as_tensor(_filled(exclude), device=trie.device)
    if numbers.dim() != 2 or numbers.is_floating_point():
        raise ValueError(f"exclude has dtype {numbers.dtype}, shape {list(numbers.shape)}; expected int [B, E]")
    known = (numbers > 0) & (numbers <= trie.largest_item)
    places = trie.positions[torch.where(known, numbers, 0).long()].long()
    places = places.masked_fill(~known | (places < 0), len(trie)).sort(1)[0]
    twice = places[:, 1:] == places[:, :-1]
    places[:, 1:] = places[:, 1:].masked_fill(twice, len(trie))
    return places.sort(1)[0]


def _filled(lists: Tensor | np.ndarray | Sequence[Sequence[int]]) -> Tensor | np.ndarray:
    """Lists of different lengths as one array [B, E], filled with 0."""
    if isinstance(lists, Tensor | np.ndarray):
        return lists
    filled = np.zeros((len(lists), max((len(row) for row in lists), default=0)), dtype=np.int64)
    for row, numbers in enumerate(lists):
        filled[row, : len(numbers)] = numbers
    return filled
