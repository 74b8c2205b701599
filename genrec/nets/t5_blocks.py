"""The blocks of a T5: RMS norm, relative positions, attention over real tokens and over the history, feed-forward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets import cpu_kernels as fused
from genrec.nets.attention import (
    Past,
    Ragged,
    attend_causal,
    attend_memory,
    attend_past,
    attend_prefixes,
    attend_self,
    attend_shared,
)

__all__ = [
    "Activation",
    "CrossAttention",
    "DecoderBlock",
    "EncoderBlock",
    "FeedForward",
    "Memory",
    "RMSNorm",
    "RelativeBias",
    "SelfAttention",
    "dropped_sum",
    "normed_linear",
]


Activation = Literal["relu", "gated-gelu"]


@dataclass(frozen=True)
class Memory:
    """Output of an encoder, as a decoder reads it.

    Attributes
    ----------
    states : Tensor [S, D]
        Encoded tokens, packed.
    ragged : Ragged
        Which rows they are of.
    """

    states: Tensor
    ragged: Ragged

    def __len__(self) -> int:
        return len(self.ragged)


class RMSNorm(nn.Module):
    """Scale to a root mean square of 1, then by a weight; in float32 inside.

    Parameters
    ----------
    dim : int
    eps : float, default 1e-6
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class RelativeBias(nn.Module):
    """T5's position bias: one number a head and bucket of the distance between key and query.

    Half of the buckets are single distances, the other half grow logarithmically up to ``max_distance``.

    Parameters
    ----------
    heads : int
    buckets : int, default 32
    max_distance : int, default 128
        Distances from here on share the last bucket.
    bidirectional : bool, default True
        Whether keys after the query have buckets of their own (half of them).
    """

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        self._known: dict[tuple[int, int, int, str], Tensor] = {}

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance (position of the key minus that of the query), int64."""
        buckets, shift = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            shift, distance = (distance > 0).long() * buckets, distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return shift + torch.where(distance < exact, distance, far)

    def forward(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """Bias [H, queries, keys] of queries at positions ``first`` and on."""
        name = (queries, keys, first, str(self.weight.device))
        if name not in self._known:
            device = self.weight.device
            places = torch.arange(first, first + queries, device=device)
            self._known[name] = self.bucket(torch.arange(keys, device=device) - places[:, None])
        return self.weight[self._known[name]].permute(2, 0, 1)


def normed_linear(x: Tensor, norm: RMSNorm, linear: nn.Linear) -> Tensor:
    """``linear(norm(x))`` of a layer without bias: [..., D] -> [..., O]."""
    if fused.usable(x):
        return fused.norm_linear(x, norm.weight, linear.weight, norm.eps)
    result: Tensor = linear(norm(x))
    return result


def dropped_sum(x: Tensor, inner: Tensor, linear: nn.Linear, p: float) -> Tensor:
    """``x + dropout(linear(inner))`` of a layer without bias: [..., D] and [..., I] -> [..., D]."""
    if fused.usable(x):
        return fused.add_dropped_linear(x, inner, linear.weight, p)
    return x + F.dropout(linear(inner), p)


class FeedForward(nn.Module):
    """Norm, up, activation, down, with a residual.

    Parameters
    ----------
    dim, ffn : int
        Width of the tokens and of the layer between.
    dropout : float
        Between and at the end.
    activation : {"relu", "gated-gelu"}
        The second multiplies GELU (its tanh form) of one projection with another, as in T5 1.1.
    """

    def __init__(self, dim: int, ffn: int, dropout: float, activation: Activation, eps: float) -> None:
        super().__init__()
        self.dropout, self.gated = dropout, activation == "gated-gelu"
        self.norm = RMSNorm(dim, eps)
        self.up = nn.Linear(dim, (1 + self.gated) * ffn, bias=False)
        self.down = nn.Linear(ffn, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        p = self.dropout if self.training else 0.0
        if not self.gated and fused.usable(x):
            return fused.relu_feed_forward(x, self.norm.weight, self.up.weight, self.down.weight, self.norm.eps, p)
        inner = self.up(self.norm(x))
        if self.gated:
            gate, inner = inner.chunk(2, -1)
            inner = F.gelu(gate, approximate="tanh") * inner
        else:
            inner = F.relu(inner)
        inner = F.dropout(inner, self.dropout, self.training)
        return x + F.dropout(self.down(inner), self.dropout, self.training)


class SelfAttention(nn.Module):
    """Norm, attention among the tokens of a row, output, with a residual.

    Parameters
    ----------
    dim, heads, head_dim : int
    dropout : float
        On the weights and on the output.
    eps : float
        Of the norm.
    mixer : module, optional
        Replaces "weights @ values", see :data:`genrec.nets.attention.Mixer`.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, dropout: float, eps: float, mixer: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.heads, self.inner, self.dropout = heads, heads * head_dim, dropout
        self.norm = RMSNorm(dim, eps)
        self.qkv = nn.Linear(dim, 3 * self.inner, bias=False)
        self.out = nn.Linear(self.inner, dim, bias=False)
        self.mixer = mixer

    def forward(self, x: Tensor, ragged: Ragged, bias: Tensor, context: Tensor | None) -> Tensor:
        """Packed tokens of which each sees all of its row: [S, D] -> [S, D]."""
        qkv, mixer = normed_linear(x, self.norm, self.qkv), self.mixer
        return self._add(x, attend_self(qkv, self.heads, ragged, bias, self.dropout, self.training, mixer, context))

    def causal(self, x: Tensor, bias: Tensor) -> Tensor:
        """Rows of one length; ``bias`` hides what comes later: [B, L, D] -> [B, L, D]."""
        qkv = normed_linear(x, self.norm, self.qkv)
        return self._add(x, attend_causal(qkv, self.heads, bias, self.dropout, self.training))

    def step(self, x: Tensor, past: Past, layer: int, bias: Tensor) -> tuple[Tensor, Tensor]:
        """One token after each prefix: x [B, W, D] to x and the keys and values [B, W, 2 H d] of that token."""
        query, fresh = normed_linear(x, self.norm, self.qkv).tensor_split([self.inner], -1)
        return self._add(x, attend_past(query, fresh, past, layer, self.heads, bias)), fresh

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        return dropped_sum(x, mixed, self.out, self.dropout if self.training else 0.0)


class CrossAttention(nn.Module):
    """Norm, attention to the memory, output, with a residual.

    Parameters are those of :class:`SelfAttention`.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = RMSNorm(dim, eps)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, memory: Memory, recency: Tensor | None = None) -> Tensor:
        """Rows sorted as the memory's: [B, L, D] -> [B, L, D]."""
        query, key_value = normed_linear(x, self.norm, self.query), self.key_value(memory.states)
        mixed = attend_memory(query, key_value, self.heads, memory.ragged, self.dropout, self.training, recency)
        return dropped_sum(x, mixed, self.out, self.dropout if self.training else 0.0)

    def prefixes(self, x: Tensor, memory: Memory, queries: Ragged, recency: Tensor | None = None) -> Tensor:
        """One row an item of the histories, which sees the tokens up to it: [S, L, D] -> [S, L, D]."""
        group, key_value = x.shape[1], self.key_value(memory.states)
        query = normed_linear(x, self.norm, self.query).flatten(0, 1)
        mixed = attend_prefixes(
            query,
            key_value,
            self.heads,
            queries,
            memory.ragged,
            group,
            self.dropout,
            self.training,
            recency=recency,
        )
        return dropped_sum(x, mixed.unflatten(0, (-1, group)), self.out, self.dropout if self.training else 0.0)

    def remember(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of the memory [B, T, D]."""
        key, value = self.key_value(states).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()

    def step(self, x: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        """The prefixes of a row are queries side by side: [B, W, D] -> [B, W, D]."""
        query = normed_linear(x, self.norm, self.query)
        return dropped_sum(x, attend_shared(query, keys, values, hidden), self.out, 0.0)


class EncoderBlock(nn.Module):
    """Self-attention, feed-forward."""

    def __init__(self, attention: SelfAttention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, x: Tensor, ragged: Ragged, bias: Tensor, context: Tensor | None) -> Tensor:
        """Packed [S, D] -> [S, D]."""
        result: Tensor = self.feed_forward(self.attention(x, ragged, bias, context))
        return result


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the memory, feed-forward."""

    def __init__(self, attention: SelfAttention, cross: CrossAttention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention, self.cross, self.feed_forward = attention, cross, feed_forward

    def forward(self, x: Tensor, memory: Memory, bias: Tensor, recency: Tensor | None = None) -> Tensor:
        """Rows sorted as the memory's: [B, L, D] -> [B, L, D]."""
        result: Tensor = self.feed_forward(self.cross(self.attention.causal(x, bias), memory, recency))
        return result
