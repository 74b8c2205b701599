"""The arrays of a trie built from a table of codes, and rebuilt where items come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semtok.codes import ItemCodes

if TYPE_CHECKING:
    from genrec.search.trie import CodeTrie

__all__ = ["build_trie", "closed_table", "delete_items", "insert_items", "mixed_radix"]


def build_trie(
    kind: type[CodeTrie],
    codes: ItemCodes | np.ndarray | Tensor,
    sizes: Sequence[int] | None,
    items: np.ndarray | Tensor | None,
    widths: int | Sequence[int],
    priority: np.ndarray | Tensor | None,
    end: int | Sequence[int] | None,
    device: torch.device | str | None,
) -> CodeTrie:
    """Trie of a table of codes, by one sort; see :meth:`genrec.search.trie.CodeTrie.from_codes`."""
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
    return kind(sizes, wide, ends, tuple(children), tuple(tokens), tuple(ranges), numbers, sorted_ranks)


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
        keys.append(mixed_radix(table[:, start:stop], sizes[start:stop]))
        stop = start
    for key in keys:
        step = (key if order is None else key[order]).argsort(stable=True)
        order = step if order is None else order[step]
    assert order is not None
    return order


def delete_items(trie: CodeTrie, items: np.ndarray | Tensor | Sequence[int]) -> CodeTrie:
    """Trie without some items, in one pass over its arrays."""
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
    """Count the flags that are set before each place: bool [n] to int32 [n + 1]."""
    counts = torch.zeros(len(flags) + 1, dtype=torch.int32, device=flags.device)
    torch.cumsum(flags, 0, dtype=torch.int32, out=counts[1:])
    return counts


def insert_items(
    trie: CodeTrie, codes: np.ndarray | Tensor, items: np.ndarray | Tensor, priority: np.ndarray | Tensor | None
) -> CodeTrie:
    """Trie with more items, woven in depth by depth; no node is visited twice."""
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
    table = closed_table(table, ends)
    added = type(trie).from_codes(table, trie.sizes, items, trie.widths, priority, trie.ends if trie.ragged else None)
    known = added.items[added.items <= trie.largest_item].long()
    if bool((trie.positions[known] >= 0).any()):
        raise ValueError(f"item {int(known[trie.positions[known] >= 0][0])} is in the trie already")
    return added


def _owners(offsets: Tensor) -> Tensor:
    """Slice of an offset array that each place lies in: [n + 1] to int64 [offsets[n]]."""
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


def mixed_radix(codes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Codes [..., C] as one int64 number [...] in lexicographic order (their sizes multiply to less than 2**63)."""
    key = codes[..., 0].long()
    for column, size in enumerate(sizes[1:], 1):
        key = key * size + codes[..., column]
    return key


def closed_table(codes: Tensor, ends: Tensor) -> Tensor:
    """Everything after a row's first END or -1 becomes END."""
    over = (((codes == ends) & (ends >= 0)) | (codes < 0)).cummax(-1)[0]
    return torch.where(over, ends.to(codes.dtype), codes)
