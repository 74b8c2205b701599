"""Attention of encoder-decoders over short sequences of different lengths, in training and step by step.

Rows of a batch are handled packed, one row of numbers a real token, sorted from the longest to the shortest; only the
products of queries and keys see them side by side, in runs of rows of (nearly) one length. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec.nets import cpu_kernels as fused

__all__ = [
    "Mixer",
    "Past",
    "Ragged",
    "Run",
    "attend",
    "attend_causal",
    "attend_memory",
    "attend_past",
    "attend_prefixes",
    "attend_self",
    "attend_shared",
    "recency_bias",
]

Mixer: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Replaces "weights @ values": weights [b, H, Q, K], values [b, H, K, d], context of these rows -> [b, H, Q, d]."""

_RUN_WASTE = 0.125  # share of a run's attention that may be padding
_RUN_ROWS = 8  # fewest rows worth a run of their own
_CELLS = 40_000  # products of queries and keys of one head that are computed at once
_TOKENS = 1_024  # tokens whose keys and values are turned at once


@dataclass(frozen=True)
class Run:
    """Rows of similar length, next to each other.

    Attributes
    ----------
    rows : slice
        Among the sorted rows.
    tokens : slice
        Among the packed tokens.
    width : int
        Longest row, which all are padded to.
    index : int64 Tensor or None
        Place of each token in the flattened [rows * width]; None where nothing is padded.
    keys : bool Tensor [rows, 1, 1, width] or None
        Which places are real; None where all are.
    padded : int64 Tensor [rows * width] or None
        Packed token of each place, the row's last where it is padding; None where nothing is padded.
    """

    rows: slice
    tokens: slice
    width: int
    index: Tensor | None = None
    keys: Tensor | None = None
    padded: Tensor | None = None

    @cached_property
    def side(self) -> fused.Side:
        """These rows as the queries or keys of an attention."""
        real = None if self.keys is None else self.keys.float().transpose(2, 3)
        return fused.Side(self.tokens, self.width, self.padded, self.index, real)

    def unpack(self, packed: Tensor) -> Tensor:
        """Tokens of this run [s, ...] to its rows [b, width, ...], zero where padded."""
        return _padded(packed, self.rows.stop - self.rows.start, self.width, self.index)

    def pack(self, padded: Tensor) -> Tensor:
        """Rows of this run [b, width, ...] to its tokens."""
        flat = padded.flatten(0, 1)
        return flat if self.index is None else flat[self.index]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Places of the real tokens of a batch, once its rows are sorted from the longest to the shortest.

    Attributes
    ----------
    order : int64 Tensor [B]
        Row of the batch that stands at each place.
    inverse : int64 Tensor [B]
        Place of each row of the batch.
    lengths : int64 Tensor [B]
        Of the sorted rows.
    index : int64 Tensor [S]
        Place of each packed token in the flattened [B * T] of the batch as it was given.
    steps : int64 Tensor [S]
        Position of each packed token in its row.
    width : int
        T of the batch as it was given.
    host : Ragged, optional
        The same on the CPU, if this is elsewhere.
    """

    order: Tensor
    inverse: Tensor
    lengths: Tensor
    index: Tensor
    steps: Tensor
    width: int
    host: Ragged | None = field(default=None, repr=False)
    _plans: dict[Any, list[fused.Part]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lengths: Tensor, width: int | None = None) -> Ragged:
        """From the lengths [B] of rows that are right padded to ``width``, that of the longest if not given.

        It is laid out on the CPU and copied where the lengths are, which are waited for once.

        Raises
        ------
        ValueError
            If a row is empty or longer than the width.
        """
        device, lengths = lengths.device, lengths.cpu()
        least, most = (int(lengths.min()), int(lengths.max())) if len(lengths) else (1, 1)
        width = most if width is None else width
        if least < 1 or most > width:
            raise ValueError(f"lengths lie in {least}..{most}; expected 1..{width}")
        # Laid out on the CPU, also for a GPU: each question for a length there would wait for all that runs.
        order = lengths.argsort(descending=True, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        ordered = lengths[order]
        place = (torch.arange(width) < ordered[:, None]).flatten().nonzero()[:, 0]
        row, steps = place // width, place % width
        found = (order, inverse, ordered, order[row] * width + steps, steps)
        here = cls(*found, width)
        if device.type == "cpu":
            return here
        order, inverse, ordered, index, steps = (tensor.to(device) for tensor in found)
        return cls(order, inverse, ordered, index, steps, width, here)

    @property
    def on_cpu(self) -> Ragged:
        """The same on the CPU, where reading a length waits for nothing."""
        return self if self.host is None else self.host

    def __len__(self) -> int:
        return len(self.lengths)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, T, ...] of the batch as it was given to [S, ...]."""
        return padded.flatten(0, 1)[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """[S, ...] to [B, T, ...] of the batch as it was given, zero where padded."""
        empty = packed.new_zeros(len(self) * self.width, *packed.shape[1:])
        return empty.index_copy(0, self.index, packed).unflatten(0, (len(self), self.width))

    @cached_property
    def longest(self) -> int:
        """Longest row."""
        return int(self.on_cpu.lengths[0]) if len(self) else 0

    @cached_property
    def runs(self) -> list[Run]:
        """Rows in runs of similar length on a CPU; all of them in one elsewhere."""
        return self._runs(len(self) * self.longest**2, len(self) * self.longest)

    def _runs(self, cells: int, tokens: int) -> list[Run]:
        """Runs of at most so many tokens and tokens times keys (but of one row at least)."""
        lengths = self.on_cpu.lengths.tolist()
        runs, first, token = [], 0, 0
        while first < len(lengths):
            most = max(1, min(cells // lengths[first] ** 2, tokens // lengths[first]))
            stop = min(first + most, self._stop(lengths, first))
            count = sum(lengths[first:stop])
            runs.append(self.run(slice(first, stop), slice(token, token + count), lengths[first], count))
            first, token = stop, token + count
        return runs

    def _stop(self, lengths: list[int], first: int) -> int:
        """End of the run that starts at a row: longer ones would be padded too much."""
        if self.lengths.device.type != "cpu":
            return len(lengths)
        width, used, stop = lengths[first], 0, first
        while stop < len(lengths):
            used += lengths[stop] ** 2
            # Scores grow with the square of the length, so it is their waste that ends a run, not that of tokens.
            wasted = 1 - used / (width**2 * (stop + 1 - first))
            if wasted > _RUN_WASTE and stop - first >= _RUN_ROWS:
                break
            stop += 1
        return stop

    def run(self, rows: slice, tokens: slice, width: int, count: int) -> Run:
        """Neighbouring rows, of which the longest has ``width`` and all together ``count`` tokens."""
        if count == width * (rows.stop - rows.start):
            return Run(rows, tokens, width)
        lengths, steps = self.on_cpu.lengths[rows], torch.arange(width)
        valid = steps < lengths[:, None]
        starts = tokens.start + lengths.cumsum(0) - lengths
        # Padded places show the row's last token: any finite one does, as its key is hidden.
        padded = starts[:, None] + steps.minimum(lengths[:, None] - 1)
        found = valid.flatten().nonzero()[:, 0], valid[:, None, None], padded.flatten()
        index, keys, places = (tensor.to(self.lengths.device) for tensor in found)
        return Run(rows, tokens, width, index, keys, places)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float,
    training: bool,
    mixer: Mixer | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """softmax(q k + bias) v with no scaling: [b, Q, H, d], [b, K, H, d], [b, K, H, d] -> [b, Q, H, d].

    Parameters
    ----------
    bias : Tensor, optional
        Broadcast to [b, H, Q, K]; -inf where a key must not be seen.
    dropout : float
        On the weights, where ``training``.
    mixer : callable, optional
        Replaces the product of weights and values.
    context : Tensor [b, ...], optional
        Handed to it.
    """
    if _has_kernel(query) and mixer is None:
        q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        added = None if bias is None else bias.to(query.dtype).expand(len(query), query.shape[2], -1, -1)
        p = dropout if training else 0.0
        return F.scaled_dot_product_attention(q, k, v, added, p, scale=1.0).transpose(1, 2)
    # T5 does not divide scores by sqrt(d); its first weights make up for it.
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # [b, H, Q, K]
    if bias is not None:
        scores = scores + bias
    weights = fused.dropout(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout, training)
    values = value.transpose(1, 2)
    mixed = weights @ values if mixer is None else mixer(weights, values, context)
    return mixed.transpose(1, 2)


def _has_kernel(x: Tensor) -> bool:
    """True where the fused kernel beats plain products; on a CPU its backward pass is several times slower."""
    return x.device.type == "cuda"


def attend_self(
    qkv: Tensor,
    heads: int,
    ragged: Ragged,
    bias: Tensor | None,
    dropout: float = 0.0,
    training: bool = False,
    mixer: Mixer | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """Self-attention of packed tokens among those of their row.

    Parameters
    ----------
    qkv : Tensor [S, 3 * H * d]
        Queries, keys and values of every token, one after the other.
    heads : int
        H.
    ragged : Ragged
        Which rows the tokens are of.
    bias : Tensor [H, T, T], optional
        T at least the longest row; added to the scores.
    dropout : float, default 0.0
        On the weights, where ``training``.
    mixer : callable, optional
        Replaces the product of weights and values; it is given the rows of ``context`` that are at hand.
    context : Tensor [B, ...], optional
        Rows as in the batch that was given, before sorting.

    Returns
    -------
    Tensor [S, H * d]
    """
    if mixer is None and fused.usable(qkv):
        if "self" not in ragged._plans:
            ragged._plans["self"] = [_part(run, run) for run in ragged._runs(_CELLS, _TOKENS)]
        added = None if bias is None else bias.expand(heads, -1, -1)
        return fused.attention(qkv, None, added, ragged._plans["self"], heads, dropout if training else 0.0)
    parts = []
    for run, mine in zip(ragged.runs, _pieces(qkv, ragged.runs), strict=True):
        query, key, value = run.unpack(mine).unflatten(-1, (3, heads, -1)).unbind(2)
        added = _run_bias(run, bias, run.width)
        rows = None if context is None else context[ragged.order[run.rows]]
        parts.append(run.pack(attend(query, key, value, added, dropout, training, mixer, rows).flatten(2)))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def attend_causal(qkv: Tensor, heads: int, bias: Tensor, dropout: float = 0.0, training: bool = False) -> Tensor:
    """Self-attention of rows of one length: [B, L, 3 * H * d] -> [B, L, H * d].

    Parameters
    ----------
    bias : Tensor [H or 1, L, L]
        Added to the scores: -inf where a key comes later than the query.
    """
    rows, width, _ = qkv.shape
    if fused.usable(qkv):
        side = fused.Side(slice(0, rows * width), width)
        parts = [fused.Part(rows, side, side)]
        p = dropout if training else 0.0
        return fused.attention(qkv.flatten(0, 1), None, bias.expand(heads, -1, -1), parts, heads, p).unflatten(
            0, (rows, width)
        )
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
    return attend(query, key, value, bias, dropout, training).flatten(2)


def attend_memory(
    query: Tensor,
    key_value: Tensor,
    heads: int,
    ragged: Ragged,
    dropout: float = 0.0,
    training: bool = False,
    recency: Tensor | None = None,
) -> Tensor:
    """Attention of a few queries a row to the packed tokens of that row.

    Parameters
    ----------
    query : Tensor [B, Q, H * d]
        Rows sorted as in ``ragged``.
    key_value : Tensor [S, 2 * H * d]
        Keys and values of every token, one after the other.
    recency : Tensor [H, T], optional
        Added to the scores by the distance of a token from the last of its row, the farthest also beyond.

    Returns
    -------
    Tensor [B, Q, H * d]
    """
    count = query.shape[1]
    if recency is None and fused.usable(query):
        name = ("memory", count)
        if name not in ragged._plans:
            runs = ragged._runs(_TOKENS * ragged.longest, _TOKENS)
            ragged._plans[name] = [_part(_dense(run.rows, count), run) for run in runs]
        p = dropout if training else 0.0
        mixed = fused.attention(query.flatten(0, 1), key_value, None, ragged._plans[name], heads, p)
        return mixed.unflatten(0, query.shape[:2])
    parts = []
    for run, mine in zip(ragged.runs, _pieces(key_value, ragged.runs), strict=True):
        key, value = run.unpack(mine).unflatten(-1, (2, heads, -1)).unbind(2)
        asked, added = query[run.rows].unflatten(-1, (heads, -1)), _run_bias(run, None, run.width)
        if recency is not None:
            near = recency_bias(recency, ragged.lengths[run.rows], run.width)
            added = near if added is None else near + added
        parts.append(attend(asked, key, value, added, dropout, training).flatten(2))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def attend_prefixes(
    query: Tensor,
    key_value: Tensor,
    heads: int,
    queries: Ragged,
    keys: Ragged,
    group: int,
    dropout: float = 0.0,
    training: bool = False,
    key_group: int | None = None,
    recency: Tensor | None = None,
) -> Tensor:
    """Attention of queries at every item of a row to the tokens of that row up to the item.

    Parameters
    ----------
    query : Tensor [Q, H * d]
        ``group`` queries an item, packed as ``queries`` says.
    key_value : Tensor [S, 2 * H * d]
        Keys and values of every token, packed as ``keys`` says.
    queries, keys : Ragged
        Rows of ``queries`` have ``group`` tokens an item; rows of ``keys`` ``key_group``, after some that all may see.
    group : int
        Queries an item.
    key_group : int, optional
        Tokens an item; as many as queries if not given.
    recency : Tensor [H, T], optional
        Added to the scores by the distance of a token from the last that the query sees, the farthest also beyond.

    Returns
    -------
    Tensor [Q, H * d]

    Raises
    ------
    ValueError
        If queries and keys are not of the same rows.
    """
    name = ("prefixes", id(keys), group, key_group)
    if name not in queries._plans:
        queries._plans[name] = _prefix_parts(queries, keys, group, group if key_group is None else key_group)
    parts = queries._plans[name]
    bias = None
    if recency is not None:
        seen = _seen(queries, keys, group, group if key_group is None else key_group)
        bias = recency_bias(recency, seen, keys.longest)[:, :, 0].transpose(0, 1)  # [H, Q, K]
    if fused.usable(query):
        return fused.attention(query, key_value, bias, parts, heads, dropout if training else 0.0)
    mixed = []
    for part in parts:
        asked = part.queries.unfold(query, part.rows, heads, 1)[0].unflatten(0, (part.rows, heads)).transpose(1, 2)
        known = part.keys.unfold(key_value, part.rows, heads, 2).unflatten(1, (part.rows, heads)).transpose(2, 3)
        added = part.hidden
        if bias is not None:
            near = bias[:, : part.queries.width, : part.keys.width]
            added = near if added is None else near + added
        flat = attend(asked, known[0], known[1], added, dropout, training).flatten(2).flatten(0, 1)
        mixed.append(flat if part.queries.places is None else flat[part.queries.places])
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


@dataclass(frozen=True)
class Past:
    """Keys and values of the codes of growing prefixes, none of which is ever copied.

    Prefixes of a step are children of those of the step before; what is kept of a step stays as it was computed, and
    each prefix remembers its ancestor there.

    Attributes
    ----------
    steps : tuple, one a step, of list, one a layer, of Tensor [B, W_j, 2 * H * d]
    ancestors : tuple, one a step, of int64 Tensor [B * W]
        Row of the flattened [B * W_j] that each of the current prefixes comes from.
    """

    steps: tuple[list[Tensor], ...] = ()
    ancestors: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def follow(self, parents: Tensor | None) -> Past:
        """Of new prefixes, whose parents int64 [B, W] are among the current ones (None before the first code)."""
        if parents is None or not self.steps:
            return self
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        last = self.steps[-1][0].shape[1]
        # Only ancestors are rewritten; keys and values stay where they were computed.
        flat = (parents + rows * last).flatten()
        return Past(self.steps, (*(known[flat] for known in self.ancestors), flat))

    def add(self, fresh: list[Tensor]) -> Past:
        """With the keys and values [B, W, 2 * H * d] of the newest code, one a layer."""
        return Past((*self.steps, fresh), self.ancestors)


def attend_past(query: Tensor, fresh: Tensor, past: Past, layer: int, heads: int, bias: Tensor | None = None) -> Tensor:
    """Attention of the newest code of every prefix to the codes of that prefix, itself the last.

    Parameters
    ----------
    query : Tensor [B, W, H * d]
    fresh : Tensor [B, W, 2 * H * d]
        Keys and values of the newest codes.
    past : Past
        Of the t - 1 codes before.
    layer : int
    heads : int
    bias : Tensor [H, 1, t], optional
        Added to the scores.

    Returns
    -------
    Tensor [B, W, H * d]
    """
    rows, width, inner = query.shape
    asked = query.reshape(rows * width, inner)
    pairs = []
    for step, ancestors in zip(past.steps, past.ancestors, strict=True):
        known = step[layer].flatten(0, 1)
        pairs.append(known[ancestors].tensor_split(2, -1))
    pairs.append(fresh.reshape(rows * width, 2 * inner).tensor_split(2, -1))
    # A prefix has one query, so that a matrix product would have nothing to share: plain sums of products.
    scores = torch.stack([(asked * key).unflatten(1, (heads, -1)).sum(-1) for key, _ in pairs], -1)  # [B * W, H, t]
    if bias is not None:
        scores = scores + bias[:, 0]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)[..., None]
    mixed = pairs[0][1].unflatten(1, (heads, -1)) * weights[:, :, 0]
    for number, (_, value) in enumerate(pairs[1:], 1):
        mixed = torch.addcmul(mixed, value.unflatten(1, (heads, -1)), weights[:, :, number])
    return mixed.view(rows, width, inner)


def attend_shared(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
    """Attention of the prefixes of a request, side by side, to what all of them see.

    Parameters
    ----------
    query : Tensor [B, W, H * d]
    keys, values : Tensor [B, H, T, d]
    hidden : Tensor [B, 1, 1, T], optional
        Added to the scores: -inf where a row is padded.

    Returns
    -------
    Tensor [B, W, H * d]
    """
    rows, heads = keys.shape[:2]
    asked = query.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)  # [B * H, W, d]
    scores = torch.bmm(asked, keys.flatten(0, 1).transpose(1, 2))
    if hidden is not None:
        scores = (scores.unflatten(0, (rows, heads)) + hidden).flatten(0, 1)
    mixed = torch.bmm(scores.softmax(-1, dtype=torch.float32).to(values.dtype), values.flatten(0, 1))
    return mixed.unflatten(0, (rows, heads)).transpose(1, 2).flatten(2)


def _prefix_parts(queries: Ragged, keys: Ragged, group: int, key_group: int) -> list[fused.Part]:
    """Runs of both, with what comes after each query's item hidden."""
    # Both sides were sorted by their own lengths; runs can be paired only where that gave one order.
    if not torch.equal(queries.on_cpu.order, keys.on_cpu.order):
        raise ValueError("queries and keys are not of the same rows")
    device, everything = keys.lengths.device, _seen(queries, keys, group, key_group)
    cells = _CELLS if device.type == "cpu" else len(keys) * keys.longest**2
    parts, first = [], 0
    for run in keys._runs(cells, len(keys) * keys.longest):
        lengths = queries.on_cpu.lengths[run.rows]
        count, width = int(lengths.sum()), int(lengths[0])
        mine = queries.run(run.rows, slice(first, first + count), width, count)
        first += count
        later = torch.arange(run.width, device=device) >= everything[:width, None]
        hidden = torch.zeros(later.shape, device=device).masked_fill(later, -torch.inf)
        parts.append(fused.Part(len(lengths), mine.side, run.side, hidden))
    return parts


def _seen(queries: Ragged, keys: Ragged, group: int, key_group: int) -> Tensor:
    """Tokens that each query of the longest row sees, int64 [Q]: those of items up to its own, and what is in front."""
    front = keys.longest - queries.longest // group * key_group
    return front + (torch.arange(queries.longest, device=keys.lengths.device) // group + 1) * key_group


def recency_bias(recency: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Bias by distance from the end: table [H, T] and lengths [B] to [B, H, 1, width]; some value beyond the end."""
    distance = lengths[:, None] - 1 - torch.arange(width, device=lengths.device)
    return recency[:, distance.clamp(0, recency.shape[1] - 1)].transpose(0, 1)[:, :, None]


def _part(queries: Run, keys: Run) -> fused.Part:
    return fused.Part(keys.rows.stop - keys.rows.start, queries.side, keys.side, _run_bias(keys, None, keys.width))


def _dense(rows: slice, width: int) -> Run:
    """Rows of one length, as packed tokens."""
    return Run(rows, slice(rows.start * width, rows.stop * width), width)


def _pieces(packed: Tensor, runs: list[Run]) -> tuple[Tensor, ...]:
    """Packed tokens run by run."""
    return packed.split([run.tokens.stop - run.tokens.start for run in runs])


def _padded(mine: Tensor, rows: int, width: int, index: Tensor | None) -> Tensor:
    """Tokens of some rows to [rows, width, ...], zero where padded."""
    if index is not None:
        mine = mine.new_zeros(rows * width, *mine.shape[1:]).index_copy(0, index, mine)
    return mine.unflatten(0, (rows, width))


def _run_bias(run: Run, bias: Tensor | None, width: int) -> Tensor | None:
    """Bias that is added to the scores of a run, broadcast to [b, H, Q, width]."""
    cut = None if bias is None else bias[:, :width, :width]
    if run.keys is None:
        return cut
    hidden = torch.zeros(run.keys.shape, device=run.keys.device).masked_fill(~run.keys, -torch.inf)
    return hidden if cut is None else cut + hidden
