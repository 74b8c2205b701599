"""Post-norm Transformer encoder and decoder, as BERT has them, over packed tokens; PRORec and EAGER use them.

Layer norm after every residual sum, biases, scaled products, GELU (Devlin et al., NAACL 2019, arXiv 1810.04805).
Positions are the caller's: tokens come with them added. Decoding keeps keys and values, those of the memory once a
request. Knows tokens; nothing of items or of the trie.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets.attention import (
    Past,
    Ragged,
    attend,
    attend_memory,
    attend_past,
    attend_prefixes,
    attend_self,
    attend_shared,
    recency_bias,
)
from genrec.nets.t5 import DecoderState
from genrec.nets.t5_blocks import Memory

__all__ = ["PostNormDecoder", "PostNormEncoder"]

_EPS = 1e-12


def later(width: int, device: torch.device) -> Tensor:
    """-inf where a key comes after the query, else 0: [width, width]."""
    return torch.full((width, width), -torch.inf, device=device).triu(1)


class _Sum(nn.Module):
    """norm(x + dropout(update))."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(dim, eps=_EPS), dropout

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        result: Tensor = self.norm(x + F.dropout(update, self.dropout, self.training))
        return result


class _SelfAttention(nn.Module):
    """Attention among the tokens of a row."""

    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads, self.dim, self.attention_dropout = heads, dim, attention_dropout
        self.scale = (dim // heads) ** -0.5
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.sum = _Sum(dim, dropout)

    def _projected(self, x: Tensor) -> Tensor:
        query, rest = self.qkv(x).tensor_split([self.dim], -1)
        return torch.cat([query * self.scale, rest], -1)

    def forward(self, x: Tensor, ragged: Ragged, bias: Tensor | None) -> Tensor:
        """Packed [S, D] -> [S, D]."""
        mixed = attend_self(self._projected(x), self.heads, ragged, bias, self.attention_dropout, self.training)
        result: Tensor = self.sum(x, self.out(mixed))
        return result

    def causal(self, x: Tensor, bias: Tensor) -> Tensor:
        """Rows of one length: [B, L, D] -> [B, L, D]."""
        query, key, value = self._projected(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = attend(query, key, value, bias, self.attention_dropout, self.training).flatten(2)
        result: Tensor = self.sum(x, self.out(mixed))
        return result

    def step(self, x: Tensor, past: Past, layer: int) -> tuple[Tensor, Tensor]:
        """One token after each prefix: x [B, W, D] to x and the keys and values [B, W, 2 D] of that token."""
        query, fresh = self._projected(x).tensor_split([self.dim], -1)
        return self.sum(x, self.out(attend_past(query, fresh, past, layer, self.heads))), fresh


class _CrossAttention(nn.Module):
    """Attention to the memory."""

    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout, self.scale = heads, attention_dropout, (dim // heads) ** -0.5
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.sum = _Sum(dim, dropout)

    def forward(self, x: Tensor, memory: Memory, recency: Tensor | None = None) -> Tensor:
        """Rows sorted as the memory's: [B, L, D] -> [B, L, D]."""
        query, key_value = self.query(x) * self.scale, self.key_value(memory.states)
        p, ragged = self.attention_dropout, memory.ragged
        mixed = attend_memory(query, key_value, self.heads, ragged, p, self.training, recency)
        result: Tensor = self.sum(x, self.out(mixed))
        return result

    def prefixes(self, x: Tensor, memory: Memory, queries: Ragged, group: int, recency: Tensor | None = None) -> Tensor:
        """One row an item of the histories, which sees the tokens up to it, ``group`` an item: [S, L, D]."""
        query, key_value = (self.query(x) * self.scale).flatten(0, 1), self.key_value(memory.states)
        mixed = attend_prefixes(
            query,
            key_value,
            self.heads,
            queries,
            memory.ragged,
            x.shape[1],
            self.attention_dropout,
            self.training,
            group,
            recency,
        )
        result: Tensor = self.sum(x, self.out(mixed.unflatten(0, (-1, x.shape[1]))))
        return result

    def remember(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of the memory [B, T, D]."""
        key, value = self.key_value(states).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()

    def step(self, x: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        """The prefixes of a row are queries side by side: [B, W, D] -> [B, W, D]."""
        query = self.query(x) * self.scale
        result: Tensor = self.sum(x, self.out(attend_shared(query, keys, values, hidden)))
        return result


class _FeedForward(nn.Module):
    """Up, GELU, down."""

    def __init__(self, dim: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down, self.sum = nn.Linear(dim, ffn), nn.Linear(ffn, dim), _Sum(dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.sum(x, self.down(F.gelu(self.up(x))))
        return result


class PostNormEncoder(nn.Module):
    """A stack of post-norm blocks over packed tokens.

    Parameters
    ----------
    dim, layers, heads, ffn : int
    dropout : float, default 0.1
        On the output of every sub-layer.
    attention_dropout : float, default 0.1
        On attention weights.
    causal : bool, default False
        Whether a token sees only itself and those before it.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"--heads {heads} does not divide --dim {dim}")
        self.causal = causal
        self.attentions = nn.ModuleList(_SelfAttention(dim, heads, dropout, attention_dropout) for _ in range(layers))
        self.feed_forwards = nn.ModuleList(_FeedForward(dim, ffn, dropout) for _ in range(layers))

    def forward(self, x: Tensor, ragged: Ragged) -> Memory:
        """Embedded tokens with their positions, packed [S, D], to encoded ones."""
        bias = later(ragged.longest, x.device)[None] if self.causal else None
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            x = feed_forward(attention(x, ragged, bias))
        return Memory(x, ragged)


class PostNormDecoder(nn.Module):
    """A stack of causal post-norm blocks with cross-attention, for whole sequences and step by step.

    Parameters are those of :class:`PostNormEncoder`, and the following.

    Parameters
    ----------
    recency : int, default 0
        Tokens of the memory, counted from the end of what is seen, whose distance has a learned bias in
        cross-attention, one a head that all blocks share; 0 leaves it out.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        recency: int = 0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"--heads {heads} does not divide --dim {dim}")
        self.attentions = nn.ModuleList(_SelfAttention(dim, heads, dropout, attention_dropout) for _ in range(layers))
        self.crosses = nn.ModuleList(_CrossAttention(dim, heads, dropout, attention_dropout) for _ in range(layers))
        self.feed_forwards = nn.ModuleList(_FeedForward(dim, ffn, dropout) for _ in range(layers))
        self.recency = nn.Parameter(torch.zeros(heads, recency)) if recency else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Tokens with their positions [B, L, D], each seeing itself and those before it, to states [B, L, D].

        Rows as in the batch that was encoded.
        """
        bias = later(x.shape[1], x.device)
        x = x[memory.ragged.order]
        for attention, cross, feed_forward in self._blocks():
            x = feed_forward(cross(attention.causal(x, bias), memory, self.recency))
        return x[memory.ragged.inverse]

    def prefixes(self, x: Tensor, memory: Memory, queries: Ragged, group: int) -> Tensor:
        """Decode after every item of the histories at once, each seeing the memory up to itself.

        Parameters
        ----------
        x : Tensor [S, L, D]
            One row an item, packed as the items are.
        memory : Memory
            Of a causal encoder.
        queries : Ragged
            Of the rows of the batch, L tokens an item.
        group : int
            Tokens an item has in the memory.
        """
        bias = later(x.shape[1], x.device)
        for attention, cross, feed_forward in self._blocks():
            x = feed_forward(cross.prefixes(attention.causal(x, bias), memory, queries, group, self.recency))
        return x

    def start(self, memory: Memory) -> DecoderState:
        """State before the first token, one prefix a row; rows as in the batch that was encoded."""
        ragged = memory.ragged
        states = ragged.unpack(memory.states)[:, : ragged.longest]
        lengths = ragged.lengths[ragged.inverse]
        valid = torch.arange(ragged.longest, device=lengths.device) < lengths[:, None]
        hidden = torch.zeros(valid.shape, device=valid.device).masked_fill(~valid, -torch.inf)[:, None, None]
        if self.recency is not None:
            hidden = hidden + recency_bias(self.recency, lengths, ragged.longest)
        pairs = [cross.remember(states) for _, cross, _ in self._blocks()]
        return DecoderState([keys for keys, _ in pairs], [values for _, values in pairs], hidden)

    def step(self, state: DecoderState, parents: Tensor | None, x: Tensor) -> tuple[Tensor, DecoderState]:
        """Add one token with its position to each prefix: x [B, W, D] to its states [B, W, D].

        Parameters
        ----------
        parents : int64 Tensor [B, W] or None
            Which of the prefixes of ``state`` each new one continues; None for the first token.
        """
        past, kept = state.past.follow(parents), []
        for layer, (attention, cross, feed_forward) in enumerate(self._blocks()):
            x, fresh = attention.step(x, past, layer)
            kept.append(fresh)
            x = feed_forward(cross.step(x, state.keys[layer], state.values[layer], state.hidden))
        return x, replace(state, past=past.add(kept), steps=state.steps + 1)

    def _blocks(self) -> list[tuple[_SelfAttention, _CrossAttention, _FeedForward]]:
        return list(zip(self.attentions, self.crosses, self.feed_forwards, strict=True))  # type: ignore[arg-type]
