"""Transformer encoder blocks that compute real tokens only.

Histories of a batch are handled packed: one row a real token, [S, D]. Everything that works token by token (linear
layers, normalisation, feed-forward) runs on the packed rows; only attention unfolds them to [B, T], where right
padding and a causal mask need no mask tensor at all. Knows nothing of items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["Attention", "Encoder", "EncoderBlock", "Packing", "attention_mask"]

NormPlacement = Literal["post", "pre", "pre-query"]

_TINY_ATTENTION = 2_500  # queries x keys below which plain products beat the fused kernel's backward pass on a CPU
_GROUP_ROWS = 16  # fewest rows worth an attention call of their own
_GROUP_RATIO = 1.5  # longest to shortest row of a run


@dataclass(frozen=True)
class Packing:
    """Places of the real tokens of a right-padded batch.

    Attributes
    ----------
    rows : int
        B.
    width : int
        T.
    index : int64 Tensor [S]
        Position of each real token in the flattened [B * T].
    steps : int64 Tensor [S]
        Position of each real token in its history, 0 = oldest.
    last : int64 Tensor [B]
        Packed row of each history's last token.
    lengths : int64 Tensor [B]
    dense : bool
        Whether padded positions are computed too, so that no shape depends on the lengths (see :meth:`of`).
    """

    rows: int
    width: int
    index: Tensor
    steps: Tensor
    last: Tensor
    lengths: Tensor
    dense: bool = False

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> Packing:
        """From the lengths [B] of histories padded to ``width``. Empty histories are not allowed (length >= 1).

        While a model is exported (``torch.export``, ONNX) the packing is dense: all B x T positions are tokens.
        """
        # An exported graph may not depend on values, and which places are real does.
        if torch.compiler.is_exporting():
            rows = lengths.shape[0]
            index = torch.arange(rows * width, device=lengths.device)
            steps = torch.arange(width, device=lengths.device).expand(rows, width).flatten()
            first = torch.arange(rows, device=lengths.device) * width
            return cls(rows, width, index, steps, first + lengths - 1, lengths, dense=True)
        valid = torch.arange(width, device=lengths.device) < lengths[:, None]
        index = valid.flatten().nonzero()[:, 0]
        return cls(len(lengths), width, index, index % width, lengths.cumsum(0) - 1, lengths)

    @cached_property
    def groups(self) -> list[tuple[slice, Packing]]:
        """Runs of rows of similar length, with the packed rows of each: attention pads each run to its own longest.

        Only where rows come sorted from the longest to the shortest on a CPU; otherwise one run with all rows.
        """
        lengths = self.lengths.tolist() if self.lengths.device.type == "cpu" and not self.dense else []
        if len(lengths) < 2 * _GROUP_ROWS or any(a < b for a, b in pairwise(lengths)):
            return [(slice(None), self)]
        groups, first, token = [], 0, 0
        for row in range(1, len(lengths) + 1):
            rest = len(lengths) - row
            # A run ends only where both it and what follows are worth a call of their own.
            if rest and (lengths[row] * _GROUP_RATIO > lengths[first] or min(row - first, rest) < _GROUP_ROWS):
                continue
            count = sum(lengths[first:row])
            groups.append((slice(token, token + count), Packing.of(self.lengths[first:row], lengths[first])))
            first, token = row, token + count
        return groups

    @cached_property
    def key_mask(self) -> Tensor | None:
        """Keys that a query of a bidirectional model may see, bool [B, 1, T, T]; None where nothing is padding."""
        if self.full and not self.dense:
            return None
        return attention_mask(torch.arange(self.width, device=self.lengths.device) < self.lengths[:, None], False)

    def positions(self, count: int, newest: bool = False) -> Tensor:
        """Row of each token in a table of ``count`` positions, int64 [S].

        Parameters
        ----------
        count : int
            Rows of the table, not fewer than the longest history.
        newest : bool, default False
            Whether every history's newest item has the last row, as where histories are padded on the left, or the
            oldest the first.
        """
        if not newest:
            return self.steps
        return (self.steps + (count - self.lengths)[self.row]).clamp(max=count - 1)  # padding of a dense packing too

    @cached_property
    def row(self) -> Tensor:
        """Row of the batch that each token belongs to, int64 [S]."""
        return self.index // max(1, self.width)

    @cached_property
    def going_on(self) -> Tensor:
        """Rows that are as long as each step or longer, int64 [T] on the CPU."""
        return self.steps.bincount().cpu()

    @cached_property
    def full(self) -> bool:
        """True where every position is a token."""
        return self.dense or len(self.index) == self.rows * self.width

    def pack(self, padded: Tensor) -> Tensor:
        """[B, T, ...] to [S, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """[S, ...] to [B, T, ...], zero where padded."""
        if not self.full:
            empty = packed.new_zeros(self.rows * self.width, *packed.shape[1:])
            packed = empty.index_copy(0, self.index, packed)
        return packed.unflatten(0, (self.rows, self.width))


def attention_mask(valid: Tensor, causal: bool) -> Tensor:
    """Keys that each query may see, bool [B, 1, T, T]; a query with no key left sees itself.

    Without that guard a row whose keys are all masked turns into NaN, or into a uniform average over all keys, the
    future ones included.

    Parameters
    ----------
    valid : bool Tensor [B, T]
    causal : bool
        Whether a query sees only keys at its own position and before.
    """
    width = valid.shape[1]
    allowed = valid[:, None, :].expand(-1, width, -1)
    if causal:
        allowed = allowed & torch.ones(width, width, dtype=torch.bool, device=valid.device).tril()
    lonely = ~allowed.any(-1, keepdim=True)
    itself = torch.eye(width, dtype=torch.bool, device=valid.device)
    return (allowed | (lonely & itself))[:, None]


class Attention(nn.Module):
    """Multi-head attention with biases, on ``scaled_dot_product_attention``.

    Small unmasked attention on a CPU (the codes of one item) is two batched matrix products: the backward pass of
    the fused kernel takes several times as long there.

    Parameters
    ----------
    dim : int
        Width D of queries and output.
    heads : int
        Must divide ``dim``.
    dropout : float, default 0.0
        On the attention weights.
    context_dim : int, optional
        Width of keys' and values' source; ``dim`` if not given.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, context_dim: int | None = None) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"--dim {dim} must be a multiple of --heads, got {heads}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(context_dim or dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Padded form: queries [B, Q, D], context [B, K, D] -> [B, Q, D]."""
        attended = self.attend(self.query(queries), self.key_value(context), mask, causal)
        projected: Tensor = self.out(attended)
        return projected

    def packed(self, queries: Tensor, context: Tensor, packing: Packing, causal: bool) -> Tensor:
        """Packed self-attention: [S, D] -> [S, D].

        With right padding a causal query never meets a padded key, so the causal form needs no mask tensor.
        """
        query, key_value = self.query(queries), self.key_value(context)
        parts = []
        for tokens, group in packing.groups:
            mask = None if causal else group.key_mask
            attended = self.attend(group.unpack(query[tokens]), group.unpack(key_value[tokens]), mask, causal)
            parts.append(group.pack(attended))
        projected: Tensor = self.out(torch.cat(parts) if len(parts) > 1 else parts[0])
        return projected

    def attend(self, query: Tensor, key_value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Projected query [B, Q, D] and key-value [B, K, 2 D] -> [B, Q, D], before the output layer."""
        q = rearrange(query, "b q (h d) -> b h q d", h=self.heads)
        k, v = rearrange(key_value, "b k (two h d) -> two b h k d", two=2, h=self.heads)
        dropout = self.dropout if self.training else 0.0
        if mask is None and not causal and q.device.type == "cpu" and q.shape[2] * k.shape[2] <= _TINY_ATTENTION:
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
            return rearrange(F.dropout(weights, dropout, self.training) @ v, "b h q d -> b q (h d)")
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return rearrange(attended, "b h q d -> b q (h d)")


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each with a residual.

    Parameters
    ----------
    dim, heads, ffn : int
        Width, heads, width of the feed-forward layer.
    dropout : float
        On the output of both sub-layers.
    attention_dropout : float
    norm : {"post", "pre", "pre-query"}
        ``post``: LN(x + f(x)), as in BERT and RecBole. ``pre``: x + f(LN(x)). ``pre-query``: as in the first SASRec,
        where only the queries are normalised and the residual starts from them: q = LN(x), y = q + attention(q, x, x),
        z = LN(y), z + feed-forward(z).
    activation : {"gelu", "relu"}
        GELU is the exact (erf) form.
    eps : float
        Of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn: int,
        dropout: float,
        attention_dropout: float = 0.0,
        norm: NormPlacement = "post",
        activation: Literal["gelu", "relu"] = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if norm not in ("post", "pre", "pre-query"):
            raise ValueError(f"--norm must be one of post, pre, pre-query, got {norm!r}")
        if activation not in ("gelu", "relu"):
            raise ValueError(f"--activation must be gelu or relu, got {activation!r}")
        self.norm, self.activation, self.dropout, self.inner_dropout = norm, activation, dropout, norm == "pre-query"
        self.attention = Attention(dim, heads, attention_dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(self, x: Tensor, packing: Packing, causal: bool) -> Tensor:
        """Packed [S, D] -> [S, D]."""
        if self.norm == "post":
            x = self.norm1(x + self._drop(self.attention.packed(x, x, packing, causal)))
            return self.norm2(x + self._feed_forward(x))
        normed = self.norm1(x)
        if self.norm == "pre":
            x = x + self._drop(self.attention.packed(normed, normed, packing, causal))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm2(normed + self.attention.packed(normed, x, packing, causal))
        return x + self._feed_forward(x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.up(x)) if self.activation == "gelu" else F.relu(self.up(x))
        return self._drop(self.down(self._drop(inner) if self.inner_dropout else inner))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """A stack of :class:`EncoderBlock` over packed tokens.

    Parameters
    ----------
    layers : int
        Blocks.
    causal : bool, default True
        Whether a token sees only itself and older ones.

    The others are those of :class:`EncoderBlock`. With ``norm`` other than ``post`` a final layer norm is applied.
    """

    def __init__(
        self,
        layers: int,
        dim: int,
        heads: int,
        ffn: int,
        dropout: float,
        attention_dropout: float = 0.0,
        norm: NormPlacement = "post",
        activation: Literal["gelu", "relu"] = "gelu",
        eps: float = 1e-12,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"--layers must be at least 1, got {layers}")
        self.causal = causal
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, heads, ffn, dropout, attention_dropout, norm, activation, eps) for _ in range(layers)
        )
        self.final_norm = nn.Identity() if norm == "post" else nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Packed tokens [S, D] -> [S, D]."""
        for block in self.blocks:
            x = block(x, packing, self.causal)
        normed: Tensor = self.final_norm(x)
        return normed
