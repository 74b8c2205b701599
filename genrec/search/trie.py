"""The catalogue as a trie of codes, in a few flat int32 arrays.

Knows which codes may follow which, and which item a finished code is. Knows nothing of models or scores. Built by one
sort, walked by gathers, on the CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from recbase.evaluate.recommender import NO_ITEM
from semtok.codes import ItemCodes

__all__ = ["NO_NODE", "AllowedItems", "CodeTrie"]

NO_NODE = -1
"""Number that stands for "there is no such node"."""


@dataclass(frozen=True, eq=False)
class CodeTrie:
    """Prefix tree over the codes of a catalogue.

    A *step* adds one code to a prefix, or a block of codes where a node is a tuple (``widths``). Nodes of one depth
    are numbered from 0 in lexicographic order, so the children of a node, and the items below it, are contiguous: a
    node is two numbers in each of two offset arrays. Codes of fewer steps are closed with an END code, and padded with
    it to full depth; what follows the first END is certain and costs nothing.

    Usually made by :meth:`from_codes`; the constructor takes finished arrays.

    Attributes
    ----------
    sizes : tuple of int [C]
        Codes of each column, END included.
    widths : tuple of int [S]
        Columns that each step adds; all 1 but for tuple nodes.
    ends : tuple of int [C]
        END code of each column, -1 where there is none.
    children : tuple of int32 Tensor [n_s + 1]
        Step s: the children of node i of depth s are the nodes ``children[s][i]`` up to ``children[s][i + 1]`` of
        depth s + 1. Depth 0 is the root alone.
    tokens : tuple of int32 Tensor [n_(s + 1), widths[s]]
        Step s: the codes that lead to each node of depth s + 1, ascending among siblings.
    ranges : tuple of int32 Tensor [n_d + 1]
        Depth d: the items below node i are ``items[ranges[d][i] : ranges[d][i + 1]]``.
    items : int32 Tensor [N]
        Item numbers in lexicographic order of their codes; items of equal codes by priority, then number.
    priority : int32 Tensor [N] or None
        Priority of each of ``items``.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    ends: tuple[int, ...]
    children: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    ranges: tuple[Tensor, ...]
    items: Tensor
    priority: Tensor | None = None

    @classmethod
    def from_codes(
        cls,
        codes: ItemCodes | np.ndarray | Tensor,
        sizes: Sequence[int] | None = None,
        items: np.ndarray | Tensor | None = None,
        widths: int | Sequence[int] = 1,
        priority: np.ndarray | Tensor | None = None,
        end: int | Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> CodeTrie:
        """Build from a table of codes, by one sort.

        Parameters
        ----------
        codes : ItemCodes, or int array [N, C]
            Codes of every item. -1 fills the end of codes that are shorter than others.
        sizes : sequence of int [C], optional
            Codes of each column. Those of the ItemCodes, or the largest code plus one.
        items : int array [N], optional
            Item number of each row; by default row i is item i + 1.
        widths : int or sequence of int, default 1
            Columns that make one step: 3 for triples, or one number a step.
        priority : int array [N], optional
            Of items with equal codes, the one of the highest priority stands for them (usually the popularity in
            training); ties and the default go to the smallest item number.
        end : int or sequence of int [C], optional
            The code that closes short codes, where the table itself holds one: everything after the first is ignored.
            Without it, -1 closes codes, and ``sizes[c]`` becomes the END code of the columns that need one.
        device : torch device, optional
            Where to build it and keep it; that of ``codes``.

        Raises
        ------
        ValueError
            If a code is out of range, the first code of an item is missing, item numbers repeat or lie below 1, or the
            widths do not fill the columns.
        """
        return _build(codes, sizes, items, widths, priority, end, device)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        nodes = "+".join(str(len(tokens)) for tokens in self.tokens)
        return f"CodeTrie({len(self)} items, {nodes} nodes, sizes={self.sizes}, {self.nbytes} bytes)"

    @property
    def steps(self) -> int:
        """Steps from the root to a leaf, S."""
        return len(self.widths)

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self.items.device

    @property
    def unique(self) -> bool:
        """Whether no two items share a leaf."""
        return len(self.tokens[-1]) == len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, shared ones once."""
        arrays = [*self.children, *self.tokens, *self.ranges, self.items]
        arrays += [] if self.priority is None else [self.priority]
        return sum({array.data_ptr(): array.nbytes for array in arrays}.values())

    @property
    def ragged(self) -> bool:
        """Whether a code may end before the last step."""
        return max(self.ends) >= 0

    def closed(self, depth: int, nodes: Tensor) -> Tensor:
        """Whether the code of each node of a depth has ended: int64 [...] to bool [...]."""
        column = self.columns[depth - 1].start
        return (self.tokens[depth - 1][nodes, 0] == self.ends[column]) & (self.ends[column] >= 0)

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Columns of each step."""
        stops = list(accumulate(self.widths))
        return tuple(slice(stop - width, stop) for stop, width in zip(stops, self.widths, strict=True))

    @cached_property
    def fan_outs(self) -> tuple[int, ...]:
        """Most children that a node has, at each step."""
        return tuple(int((first[1:] - first[:-1]).max()) if len(first) > 1 else 0 for first in self.children)

    @cached_property
    def largest_item(self) -> int:
        """Highest item number, 0 without items."""
        return int(self.items.max()) if len(self.items) else 0

    @cached_property
    def positions(self) -> Tensor:
        """Place of each item number in ``items``: int32 [largest_item + 1], -1 where there is no such item."""
        places = torch.full((self.largest_item + 1,), -1, dtype=torch.int32, device=self.device)
        places[self.items.long()] = torch.arange(len(self), dtype=torch.int32, device=self.device)
        return places

    def to(self, device: torch.device | str) -> CodeTrie:
        """The same trie on another device."""
        moved: dict[int, Tensor] = {}

        def move(array: Tensor) -> Tensor:
            return moved.setdefault(id(array), array.to(device))

        return replace(
            self,
            children=tuple(map(move, self.children)),
            tokens=tuple(map(move, self.tokens)),
            ranges=tuple(map(move, self.ranges)),
            items=move(self.items),
            priority=None if self.priority is None else move(self.priority),
        )

    def expand(self, step: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children of nodes of depth ``step``.

        Parameters
        ----------
        nodes : int64 Tensor [...]
            NO_NODE (-1) has no children.

        Returns
        -------
        children : int64 Tensor [..., M]
            Nodes of depth ``step + 1``; M is the largest number of children among ``nodes`` on a CPU, and of the whole
            depth elsewhere (which asks the device nothing). Where there is no child, some node that is in range.
        there : bool Tensor [..., M]
            Where there is a child.
        """
        offsets = self.children[step]
        safe = nodes.clamp(min=0)
        first = offsets[safe].long()
        stop = offsets[(safe + 1).clamp(max=len(offsets) - 1)].long()
        count = torch.where(nodes >= 0, stop - first, 0)
        most = self.fan_outs[step]
        if nodes.device.type == "cpu" and count.numel():
            most = int(count.max())
        steps = torch.arange(most, device=nodes.device)
        there = steps < count[..., None]
        return (first[..., None] + steps).clamp_(max=max(0, len(self.tokens[step]) - 1)), there

    def descend(self, step: int, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The child that a code leads to: nodes int64 [...] of depth ``step`` to int64 [...], or NO_NODE.

        Parameters
        ----------
        tokens : int Tensor [...], or [..., widths[step]] for tuple nodes
        """
        offsets = self.children[step]
        safe = nodes.clamp(min=0)
        first = offsets[safe].long()
        stop = torch.where(nodes >= 0, offsets[(safe + 1).clamp(max=len(offsets) - 1)].long(), 0)
        place, hit = self._place(step, first, stop, tokens if tokens.dim() > nodes.dim() else tokens[..., None])
        return torch.where(hit, place, NO_NODE)

    def walk(self, codes: Tensor) -> Tensor:
        """Node of depth s that a prefix of s steps leads to: int [..., columns of s steps] to int64 [...], or NO_NODE.

        Raises
        ------
        ValueError
            If the columns are not those of a whole number of steps.
        """
        return self._way(codes)[-1]

    def path(self, codes: Tensor) -> Tensor:
        """Node of every step on the way of whole codes: int [..., C] to int64 [..., S], NO_NODE where there is none.

        -1 closes codes that are shorter than others, as in :meth:`from_codes`.
        """
        return torch.stack(self._way(_closed(codes, torch.tensor(self.ends, device=codes.device)))[1:], -1)

    def _way(self, codes: Tensor) -> list[Tensor]:
        """The root and the node after each step of a prefix, int64 [...] each."""
        width, depth = codes.shape[-1], 0
        nodes = [torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)]
        for step, part in enumerate(self.columns):
            if part.stop > width:
                break
            nodes.append(self.descend(step, nodes[-1], codes[..., part]))
            depth = part.stop
        if depth != width:
            raise ValueError(f"codes has {width} columns, which no whole number of steps of widths {self.widths} has")
        return nodes

    def find(self, codes: Tensor) -> Tensor:
        """Item that whole codes stand for: int [..., C] to int64 [...], -1 where no item has the code.

        -1 closes codes that are shorter than others, as in :meth:`from_codes`.
        """
        leaves = self.walk(_closed(codes, torch.tensor(self.ends, device=codes.device)))
        first = self.span(self.steps, leaves.clamp(min=0))[0] if len(self) else leaves
        found = self.items[first] if len(self) else leaves
        return torch.where(leaves >= 0, found.long(), NO_ITEM)

    def span(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Places in ``items`` of what lies below nodes: int64 [...] to first and stop, int64 [...] each."""
        if depth == self.steps and self.unique:
            return nodes, nodes + 1
        return self.ranges[depth][nodes].long(), self.ranges[depth][nodes + 1].long()

    def codes(self) -> Tensor:
        """Codes of each of ``items``, int32 [N, C], short codes closed with END."""
        columns = []
        for depth, tokens in enumerate(self.tokens, 1):
            if depth == self.steps and self.unique:
                columns.append(tokens)
            else:
                columns.append(tokens.repeat_interleave(self.ranges[depth].diff(), 0))
        return torch.cat(columns, 1)

    def allow(
        self,
        mask: Tensor | np.ndarray | None = None,
        exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
    ) -> AllowedItems:
        """Which items a batch of requests may get.

        Parameters
        ----------
        mask : bool [N'] or [B, N'], optional
            Column j says whether item number j + 1 may be returned (a category, what is in stock), for all requests or
            for each. Costs 4 bytes an item and row: meant for one shared mask, or catalogues up to some 100 thousand.
        exclude : int [B, E], or a list of lists, optional
            Item numbers that must not be returned, request by request (what was seen), filled with 0 or -1; numbers
            that are not in the trie are ignored. Costs E a row, whatever the size of the catalogue.

        Raises
        ------
        ValueError
            If a mask does not cover all items, or the shapes do not fit.
        """
        return AllowedItems.of(self, mask, exclude)

    def insert(
        self,
        codes: np.ndarray | Tensor,
        items: np.ndarray | Tensor,
        priority: np.ndarray | Tensor | None = None,
    ) -> CodeTrie:
        """A trie with more items; this one stays as it is.

        Equal to a rebuild, but the items that are there are not sorted again: new nodes are found by binary search and
        spliced into the arrays.

        Parameters
        ----------
        codes : int array [M, C]
        items : int array [M]
            Numbers that are not in the trie yet.
        priority : int array [M], optional
            Needed exactly where the trie has priorities.

        Raises
        ------
        ValueError
            If a number is already there, a code is out of range, or priorities are missing or not wanted.
        """
        return _insert(self, codes, items, priority)

    def delete(self, items: np.ndarray | Tensor | Sequence[int]) -> CodeTrie:
        """A trie without some items, equal to a rebuild but with no sort; this one stays as it is.

        Raises
        ------
        ValueError
            If an item is not there.
        """
        return _delete(self, items)

    def _place(self, step: int, first: Tensor, stop: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The first sibling among ``first`` to ``stop`` that is not below each code, and whether it is that code."""
        keys, wanted = self._sibling_keys(step), self._keys_of(step, tokens)
        last = len(keys) - 1
        if last < 0:
            return first, torch.zeros_like(first, dtype=torch.bool)
        low, high = first, stop
        for _ in range(self.fan_outs[step].bit_length()):
            middle = (low + high) >> 1
            less = (keys[middle.clamp(max=last)] < wanted) & (low < high)
            low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
        return low, (low < stop) & (keys[low.clamp(max=last)] == wanted) & (wanted >= 0)

    def _sibling_keys(self, step: int) -> Tensor:
        """One number a node of depth ``step + 1`` that ascends among siblings."""
        return self._tuple_keys[step] if self.widths[step] > 1 else self.tokens[step][:, 0]

    @cached_property
    def _tuple_keys(self) -> dict[int, Tensor]:
        wide = (step for step, width in enumerate(self.widths) if width > 1)
        return {step: _mixed(self.tokens[step], self.sizes[self.columns[step]]) for step in wide}

    def _keys_of(self, step: int, tokens: Tensor) -> Tensor:
        """The same number for given codes [..., widths[step]]; below 0 where one is out of range."""
        if self.widths[step] == 1:
            return tokens[..., 0]
        sizes = self.sizes[self.columns[step]]
        wrong = ((tokens < 0) | (tokens >= torch.tensor(sizes, device=tokens.device))).any(-1)
        return _mixed(tokens, sizes).masked_fill(wrong, -1)


@dataclass(frozen=True, eq=False)
class AllowedItems:
    """Which items each request of a batch may get, so that a node's allowed items are counted in constant time.

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


def _mixed(codes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Codes [..., C] as one int64 number [...] in lexicographic order (their sizes multiply to less than 2**63)."""
    key = codes[..., 0].long()
    for column, size in enumerate(sizes[1:], 1):
        key = key * size + codes[..., column]
    return key


def _closed(codes: Tensor, ends: Tensor) -> Tensor:
    """Everything after a row's first END or -1 becomes END."""
    over = (((codes == ends) & (ends >= 0)) | (codes < 0)).cummax(-1)[0]
    return torch.where(over, ends.to(codes.dtype), codes)


def _build(
    codes: ItemCodes | np.ndarray | Tensor,
    sizes: Sequence[int] | None,
    items: np.ndarray | Tensor | None,
    widths: int | Sequence[int],
    priority: np.ndarray | Tensor | None,
    end: int | Sequence[int] | None,
    device: torch.device | str | None,
) -> CodeTrie:
    if isinstance(codes, ItemCodes):
        sizes, codes = sizes or codes.sizes, codes.codes
    table = torch.as_tensor(codes, device=device)
    if table.dim() != 2 or not table.shape[1] or table.is_floating_point():
        raise ValueError(f"codes has dtype {table.dtype} and shape {list(table.shape)}; expected integers [N, C]")
    count, columns = table.shape
    spans = _spans(widths, columns)
    table, sizes, ends = _checked(table.to(torch.int32), sizes, spans, end)
    numbers = _checked_items(items, count, table.device)
    ranks = None if priority is None else torch.as_tensor(priority, device=table.device).to(torch.int32)
    if ranks is not None and ranks.shape != (count,):
        raise ValueError(f"priority has shape {list(ranks.shape)}; expected one for each of {count} items")
    order = _sorted(table, sizes, numbers if items is not None else None, ranks)
    table, numbers = table[order], numbers[order]
    changed = torch.zeros(count, dtype=torch.bool, device=table.device)
    changed[:1] = True
    starts = torch.zeros(1, dtype=torch.int64, device=table.device)
    children, tokens, ranges = [], [], []
    for span in spans:
        ranges.append(_offsets(starts, count))
        for column in range(span.start, span.stop):
            changed[1:] |= table[1:, column] != table[:-1, column]
        following = changed.nonzero()[:, 0]
        inside = changed.cumsum(0, dtype=torch.int32)
        children.append(_offsets(inside[starts] - 1 if count else starts, len(following)))
        tokens.append(table[following, span])
        starts = following
    if len(starts) == count:  # every item its own leaf: the last two depths need nothing of their own
        ranges[-1] = children[-1]
        ranges.append(torch.zeros(0, dtype=torch.int32, device=table.device))
    else:
        ranges.append(_offsets(starts, count))
    wide = tuple(span.stop - span.start for span in spans)
    sorted_ranks = None if ranks is None else ranks[order]
    return CodeTrie(sizes, wide, ends, tuple(children), tuple(tokens), tuple(ranges), numbers, sorted_ranks)


def _offsets(starts: Tensor, stop: int) -> Tensor:
    return torch.cat([starts.to(torch.int32), torch.tensor([stop], dtype=torch.int32, device=starts.device)])


def _spans(widths: int | Sequence[int], columns: int) -> list[slice]:
    """Columns of every step."""
    wide = [widths] * (columns // widths) if isinstance(widths, int) and widths > 0 else widths
    if isinstance(wide, int) or sum(wide) != columns or min(wide) < 1:
        raise ValueError(f"codes has {columns} columns, which steps of widths {widths} do not fill")
    return [slice(stop - width, stop) for stop, width in zip(accumulate(wide), wide, strict=True)]


def _checked(
    table: Tensor, sizes: Sequence[int] | None, spans: list[slice], end: int | Sequence[int] | None
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Codes [N, C] in range, short ones closed with END; sizes and END codes of all columns."""
    count, columns = table.shape
    if sizes is None:
        sizes = (table.amax(0) + 1).clamp(min=1).tolist() if count else [1] * columns
    found = [int(size) for size in sizes]
    if len(found) != columns:
        raise ValueError(f"codes has {columns} columns but sizes names {len(found)}")
    wrong = (table < -1) | (table >= torch.tensor(found, device=table.device))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"codes[{row}, {column}] is {int(table[row, column])} but the codes of column {column} are 0 to "
            f"{found[column] - 1}"
        )
    ends = [-1] * columns
    if end is not None:
        ends = [int(end)] * columns if isinstance(end, int) else [int(code) for code in end]
        if len(ends) != columns:
            raise ValueError(f"end names {len(ends)} codes but codes has {columns} columns")
    last = torch.tensor(ends, device=table.device)
    over = (((table == last) & (last >= 0)) | (table < 0)) if end is not None else table < 0
    if not bool(over.any()):
        return table, tuple(found), tuple(ends)
    for span in spans:
        block = over[:, span]
        if bool((block.any(1) != block.all(1)).any()):
            row = int((block.any(1) != block.all(1)).nonzero()[0, 0])
            raise ValueError(f"codes[{row}] is {table[row].tolist()}: a code ends within a step, expected whole steps")
    over = over.cummax(1)[0]
    if bool(over[:, 0].any()):
        row = int(over[:, 0].nonzero()[0, 0])
        raise ValueError(f"codes[{row}] is {table[row].tolist()}: expected at least one code an item")
    if end is None:
        if bool((over & (table >= 0)).any()):
            row = int((over & (table >= 0)).any(1).nonzero()[0, 0])
            raise ValueError(f"codes[{row}] is {table[row].tolist()}: -1 may stand only at the end of a code")
        for column in over.any(0).nonzero()[:, 0].tolist():
            ends[column] = found[column]
            found[column] += 1
    closed = torch.where(over, torch.tensor(ends, dtype=torch.int32, device=table.device), table)
    return closed, tuple(found), tuple(ends)


def _checked_items(items: np.ndarray | Tensor | None, count: int, device: torch.device) -> Tensor:
    if items is None:
        return torch.arange(1, count + 1, dtype=torch.int32, device=device)
    numbers = torch.as_tensor(items, device=device)
    if numbers.shape != (count,):
        raise ValueError(
            f"items has shape {list(numbers.shape)}; expected one number for each of {count} rows of codes"
        )
    if count and int(numbers.min()) < 1:
        raise ValueError(f"items holds {int(numbers.min())}; expected item numbers of 1 and above")
    values, times = numbers.unique(return_counts=True)
    if len(values) < count:
        raise ValueError(f"items holds item {int(values[times > 1][0])} more than once; expected every number once")
    return numbers.to(torch.int32)


def _sorted(table: Tensor, sizes: Sequence[int], numbers: Tensor | None, ranks: Tensor | None) -> Tensor:
    """Order of the rows: by code, then priority from the highest, then item number."""
    order = None if numbers is None else numbers.argsort(stable=True)
    keys = [] if ranks is None else [-ranks.long()]
    stop = len(sizes)
    while stop:  # columns from the last to the first, as many in one key as fit
        start, span = stop - 1, sizes[stop - 1]
        while start and span * sizes[start - 1] < 2**62:
            start -= 1
            span *= sizes[start]
        keys.append(_mixed(table[:, start:stop], sizes[start:stop]))
        stop = start
    for key in keys:
        step = (key if order is None else key[order]).argsort(stable=True)
        order = step if order is None else order[step]
    assert order is not None
    return order


def _delete(trie: CodeTrie, items: np.ndarray | Tensor | Sequence[int]) -> CodeTrie:
    numbers = torch.as_tensor(items, device=trie.device).long().flatten()
    known = (numbers > 0) & (numbers <= trie.largest_item)
    places = trie.positions[torch.where(known, numbers, 0)].long()
    if bool((~known | (places < 0)).any()):
        raise ValueError(
            f"item {int(numbers[~known | (places < 0)][0])} is not among the {len(trie)} items of the trie"
        )
    keep = torch.ones(len(trie), dtype=torch.bool, device=trie.device)
    keep[places] = False
    before = _running(keep)
    count = int(before[-1]) if len(trie) else 0
    alive, starts = [], []
    for depth in range(trie.steps + 1):
        whole = depth == trie.steps and trie.unique
        edges = before if whole else before[trie.ranges[depth]]
        there = edges[1:] > edges[:-1]
        there[: depth == 0] = True  # the root stays, whatever is below
        alive.append(there)
        starts.append(edges[:-1][there])
    children = []
    for depth, offsets in enumerate(trie.children):
        moved = _running(alive[depth + 1])
        children.append(_offsets(moved[offsets[:-1][alive[depth]]], len(starts[depth + 1])))
    tokens = tuple(table[there] for table, there in zip(trie.tokens, alive[1:], strict=True))
    ranges = [_offsets(first, count) for first in starts]
    if len(starts[-1]) == count:
        ranges[-2:] = [children[-1], torch.zeros(0, dtype=torch.int32, device=trie.device)]
    priority = None if trie.priority is None else trie.priority[keep]
    return replace(
        trie, children=tuple(children), tokens=tokens, ranges=tuple(ranges), items=trie.items[keep], priority=priority
    )


def _running(flags: Tensor) -> Tensor:
    """How many flags are set before each place: bool [n] to int32 [n + 1]."""
    counts = torch.zeros(len(flags) + 1, dtype=torch.int32, device=flags.device)
    torch.cumsum(flags, 0, dtype=torch.int32, out=counts[1:])
    return counts


def _insert(
    trie: CodeTrie, codes: np.ndarray | Tensor, items: np.ndarray | Tensor, priority: np.ndarray | Tensor | None
) -> CodeTrie:
    added = _added(trie, codes, items, priority)
    if not len(added):
        return trie
    count = len(added)
    # where each node of `added` stands, or would stand, among the nodes of `trie`; depth by depth
    place = torch.zeros(1, dtype=torch.int64, device=trie.device)
    there = torch.ones(1, dtype=torch.bool, device=trie.device)
    number = place  # of the nodes of `added` in the new trie
    own = [number]  # numbers of the old nodes in the new trie, depth by depth
    children, tokens, ranges = [], [], []
    for step in range(trie.steps):
        parent = _owners(added.children[step])
        offsets = trie.children[step]
        first = offsets[place[parent]].long()
        stop = offsets[(place[parent] + 1).clamp(max=len(offsets) - 1)].long()
        low, hit = trie._place(step, first, torch.where(there[parent], stop, first), added.tokens[step])
        new = ~hit
        shift = _running(new)[:-1].long()
        total = len(trie.tokens[step]) + int(new.sum())
        mask = torch.zeros(total, dtype=torch.bool, device=trie.device)
        mask[(low + shift)[new]] = True
        table = torch.empty(total, trie.widths[step], dtype=torch.int32, device=trie.device)
        table[mask], table[~mask] = added.tokens[step][new], trie.tokens[step]
        counts = _spread(trie.children[step].diff(), own[step], there)
        counts.index_add_(0, number[parent[new]], torch.ones_like(parent[new]))
        spans = _spread(trie.ranges[step].diff(), own[step], there)
        spans.index_add_(0, number, added.ranges[step].diff().long())
        children.append(_from_counts(counts))
        ranges.append(_from_counts(spans))
        tokens.append(table)
        place, there, number = low, hit, low + shift
        own.append((~mask).nonzero()[:, 0])
    leaf = torch.arange(count, device=trie.device) if added.unique else _owners(added.ranges[-1])
    position = _item_places(trie, added, place[leaf], there[leaf]) + torch.arange(count, device=trie.device)
    mask = torch.zeros(len(trie) + count, dtype=torch.bool, device=trie.device)
    mask[position] = True
    numbers = _woven(mask, trie.items, added.items)
    ranks = None
    if trie.priority is not None and added.priority is not None:
        ranks = _woven(mask, trie.priority, added.priority)
    if len(tokens[-1]) == len(numbers):
        ranges[-1] = children[-1]
        ranges.append(torch.zeros(0, dtype=torch.int32, device=trie.device))
    else:
        old = torch.ones_like(own[-1]) if trie.unique else trie.ranges[-1].diff()
        spans = _spread(old, own[-1], there)
        spans.index_add_(0, number[leaf], torch.ones_like(leaf))
        ranges.append(_from_counts(spans))
    return replace(
        trie, children=tuple(children), tokens=tuple(tokens), ranges=tuple(ranges), items=numbers, priority=ranks
    )


def _added(
    trie: CodeTrie, codes: np.ndarray | Tensor, items: np.ndarray | Tensor, priority: np.ndarray | Tensor | None
) -> CodeTrie:
    """The new items as a small trie of the same shape."""
    if (priority is None) != (trie.priority is None):
        raise ValueError(f"priority is {'missing' if priority is None else 'given'}, unlike when the trie was built")
    table = torch.as_tensor(codes, device=trie.device)
    if table.dim() != 2 or table.shape[1] != len(trie.sizes):
        raise ValueError(f"codes has shape {list(table.shape)} but the trie was built for {len(trie.sizes)} columns")
    ends = torch.tensor(trie.ends, device=trie.device)
    short = (table < 0) & (ends < 0)
    if bool(short.any()):
        row, column = short.nonzero()[0].tolist()
        raise ValueError(f"codes[{row}] ends before column {column}, where no code of the trie ends")
    table = _closed(table, ends)
    added = CodeTrie.from_codes(table, trie.sizes, items, trie.widths, priority, trie.ends if trie.ragged else None)
    known = added.items[added.items <= trie.largest_item].long()
    if bool((trie.positions[known] >= 0).any()):
        raise ValueError(f"item {int(known[trie.positions[known] >= 0][0])} is in the trie already")
    return added


def _owners(offsets: Tensor) -> Tensor:
    """Which slice of an offset array each place lies in: [n + 1] to int64 [offsets[n]]."""
    counts = offsets.diff()
    return torch.arange(len(counts), device=offsets.device).repeat_interleave(counts)


def _spread(counts: Tensor, own: Tensor, there: Tensor) -> Tensor:
    """Counts of the old nodes at their new numbers ``own``, 0 at new nodes."""
    result = torch.zeros(len(own) + int((~there).sum()), dtype=torch.int64, device=counts.device)
    result[own] = counts.long()
    return result


def _from_counts(counts: Tensor) -> Tensor:
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int32, device=counts.device)
    torch.cumsum(counts, 0, dtype=torch.int32, out=offsets[1:])
    return offsets


def _item_places(trie: CodeTrie, added: CodeTrie, leaves: Tensor, there: Tensor) -> Tensor:
    """Place among the old items before which each new item comes."""
    last = len(trie.tokens[-1])
    edges = torch.arange(len(trie) + 1, device=trie.device) if trie.unique else trie.ranges[-1].long()
    low = edges[leaves]
    high = torch.where(there, edges[(leaves + 1).clamp(max=last)], low)
    if not len(trie):
        return low
    largest = 1 if trie.unique else int(trie.ranges[-1].diff().max())
    for _ in range(largest.bit_length()):
        middle = ((low + high) >> 1).clamp(max=len(trie) - 1)
        less = trie.items[middle] < added.items
        if trie.priority is not None and added.priority is not None:
            old = trie.priority[middle]
            less = (old > added.priority) | ((old == added.priority) & less)
        less = less & (low < high)
        low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
    return low


def _woven(mask: Tensor, old: Tensor, new: Tensor) -> Tensor:
    result = torch.empty(len(mask), dtype=old.dtype, device=old.device)
    result[mask], result[~mask] = new, old
    return result
