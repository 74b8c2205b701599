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

from genrec.search.allowed import AllowedItems
from genrec.search.trie_building import build_trie, closed_table, delete_items, insert_items, mixed_radix
from recbase.evaluate.recommender import NO_ITEM
from semtok.codes import ItemCodes

__all__ = ["NO_NODE", "CodeTrie"]

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
        return build_trie(cls, codes, sizes, items, widths, priority, end, device)

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
        """Device of the arrays."""
        return self.items.device

    @property
    def unique(self) -> bool:
        """True where no two items share a leaf."""
        return len(self.tokens[-1]) == len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, shared ones once."""
        arrays = [*self.children, *self.tokens, *self.ranges, self.items]
        arrays += [] if self.priority is None else [self.priority]
        return sum({array.data_ptr(): array.nbytes for array in arrays}.values())

    @property
    def ragged(self) -> bool:
        """True where a code may end before the last step."""
        return max(self.ends) >= 0

    def closed(self, depth: int, nodes: Tensor) -> Tensor:
        """True where the code of each node of a depth has ended: int64 [...] to bool [...]."""
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
        # A missing node (-1) reads node 0 and is masked afterwards: shapes stay as they are.
        offsets = self.children[step]
        safe = nodes.clamp(min=0)
        first = offsets[safe].long()
        stop = offsets[(safe + 1).clamp(max=len(offsets) - 1)].long()
        count = torch.where(nodes >= 0, stop - first, 0)
        most = self.fan_outs[step]
        # On a GPU asking for the largest count would halt it; there the width is that of the whole depth.
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
        return torch.stack(self._way(closed_table(codes, torch.tensor(self.ends, device=codes.device)))[1:], -1)

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
        leaves = self.walk(closed_table(codes, torch.tensor(self.ends, device=codes.device)))
        first = self.span(self.steps, leaves.clamp(min=0))[0] if len(self) else leaves
        found = self.items[first] if len(self) else leaves
        return torch.where(leaves >= 0, found.long(), NO_ITEM)

    def span(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Places in ``items`` of what lies below nodes: int64 [...] to first and stop, int64 [...] each."""
        # Leaf i holds the item at place i, so that unique codes need no range of their own.
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
        """Allow a batch of requests some items only.

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
        return insert_items(self, codes, items, priority)

    def delete(self, items: np.ndarray | Tensor | Sequence[int]) -> CodeTrie:
        """A trie without some items, equal to a rebuild but with no sort; this one stays as it is.

        Raises
        ------
        ValueError
            If an item is not there.
        """
        return delete_items(self, items)

    def _place(self, step: int, first: Tensor, stop: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The first sibling among ``first`` to ``stop`` that is not below each code, and whether it is that code."""
        keys, wanted = self._sibling_keys(step), self._keys_of(step, tokens)
        last = len(keys) - 1
        if last < 0:
            return first, torch.zeros_like(first, dtype=torch.bool)
        low, high = first, stop
        # A binary search of all rows side by side: as many rounds as the widest node needs, none ends early.
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
        return {step: mixed_radix(self.tokens[step], self.sizes[self.columns[step]]) for step in wide}

    def _keys_of(self, step: int, tokens: Tensor) -> Tensor:
        """The same number for given codes [..., widths[step]]; below 0 where one is out of range."""
        if self.widths[step] == 1:
            return tokens[..., 0]
        sizes = self.sizes[self.columns[step]]
        wrong = ((tokens < 0) | (tokens >= torch.tensor(sizes, device=tokens.device))).any(-1)
        return mixed_radix(tokens, sizes).masked_fill(wrong, -1)
