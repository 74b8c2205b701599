"""A T5-style encoder-decoder that computes real tokens only, and decodes beams with shared cross-attention.

Relative position bias, RMS norms, no biases (Raffel et al., JMLR 2020, arXiv 1910.10683). Knows tokens and levels of
codes; nothing of items or of the trie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets import cpu_kernels as fused
from genrec.nets.attention import (
    Past,
    Ragged,
    recency_bias,
)
from genrec.nets.t5_blocks import (
    Activation,
    CrossAttention,
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    Memory,
    RelativeBias,
    RMSNorm,
    SelfAttention,
)
from genrec.search.vocabulary import BOS, CodeVocabulary
from recbase.arguments import CountOrOff, Depth, Dropout, Heads, Width, check_arguments

__all__ = ["T5", "DecoderState", "T5Decoder", "T5Encoder"]


class T5Encoder(nn.Module):
    """A stack of bidirectional T5 blocks over packed tokens.

    Parameters
    ----------
    dim, layers, heads, head_dim, ffn : int
    dropout : float, default 0.1
    activation : {"relu", "gated-gelu"}, default "relu"
    buckets, max_distance : int, default 32, 128
        Of the position bias, which all layers share.
    eps : float, default 1e-6
    mixers : sequence of module, optional
        One a layer: replaces "weights @ values" of its attention, see :data:`genrec.nets.attention.Mixer`.
    causal : bool, default False
        Whether a token sees only itself and those before it.

    Raises
    ------
    ValueError
        If there is not one mixer for every layer.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        head_dim: int,
        ffn: int,
        dropout: float = 0.1,
        activation: Activation = "relu",
        buckets: int = 32,
        max_distance: int = 128,
        eps: float = 1e-6,
        mixers: Sequence[nn.Module] | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if mixers is not None and len(mixers) != layers:
            raise ValueError(f"there are {len(mixers)} mixers for {layers} layers; expected one each")
        self.dropout, self.causal = dropout, causal
        self.bias = RelativeBias(heads, buckets, max_distance, bidirectional=not causal)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                SelfAttention(dim, heads, head_dim, dropout, eps, None if mixers is None else mixers[layer]),
                FeedForward(dim, ffn, dropout, activation, eps),
            )
            for layer in range(layers)
        )
        self.final_norm = RMSNorm(dim, eps)

    def forward(self, x: Tensor, ragged: Ragged, context: Tensor | None = None) -> Memory:
        """Embedded tokens, packed [S, D], to encoded ones.

        Parameters
        ----------
        context : Tensor [B, ...], optional
            Handed to the mixers, the rows that they work on.
        """
        bias = self.bias(ragged.longest, ragged.longest)
        if self.causal:
            bias = bias.masked_fill(_later(ragged.longest, bias.device), -torch.inf)
        x = fused.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, ragged, bias, context)
        return Memory(fused.dropout(self.final_norm(x), self.dropout, self.training), ragged)


@dataclass(frozen=True)
class DecoderState:
    """Memory that a decoder has of the prefixes of a batch.

    Attributes
    ----------
    keys, values : list of Tensor [B, H, T, d], one a layer
        Of the memory, once a request and never copied.
    hidden : Tensor [B, 1 or H, 1, T] or None
        Added to the scores: -inf where the memory is padded, and any bias by distance from the end.
    past : Past
        Keys and values of the codes so far.
    steps : int
        Codes so far, t.
    """

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor | None
    past: Past = field(default_factory=Past)
    steps: int = 0


class T5Decoder(nn.Module):
    """A stack of causal T5 blocks with cross-attention, for whole sequences and step by step.

    Parameters are those of :class:`T5Encoder`, and the following.

    Parameters
    ----------
    recency : int, default 0
        Tokens of the memory, counted from the end of what is seen, whose distance has a learned bias in
        cross-attention, one a head that all blocks share (T5 has none); 0 leaves it out.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        head_dim: int,
        ffn: int,
        dropout: float = 0.1,
        activation: Activation = "relu",
        buckets: int = 32,
        max_distance: int = 128,
        eps: float = 1e-6,
        recency: int = 0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.bias = RelativeBias(heads, buckets, max_distance, bidirectional=False)
        self.recency = nn.Parameter(torch.zeros(heads, recency)) if recency else None
        self.blocks = nn.ModuleList(
            DecoderBlock(
                SelfAttention(dim, heads, head_dim, dropout, eps),
                CrossAttention(dim, heads, head_dim, dropout, eps),
                FeedForward(dim, ffn, dropout, activation, eps),
            )
            for _ in range(layers)
        )
        self.final_norm = RMSNorm(dim, eps)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Embedded tokens [B, L, D], each seeing itself and those before it, to states [B, L, D].

        Rows as in the batch that was encoded.
        """
        width = x.shape[1]
        bias = self.bias(width, width).masked_fill(_later(width, x.device), -torch.inf)
        x = fused.dropout(x[memory.ragged.order], self.dropout, self.training)
        for block in self.blocks:
            x = block(x, memory, bias, self.recency)
        return fused.dropout(self.final_norm(x), self.dropout, self.training)[memory.ragged.inverse]

    def prefixes(self, x: Tensor, memory: Memory, queries: Ragged) -> Tensor:
        """Decode after every item of the histories at once, each seeing the memory up to itself.

        Parameters
        ----------
        x : Tensor [S, L, D]
            Embedded tokens, one row an item, packed as the items are.
        memory : Memory
            Of a causal encoder.
        queries : Ragged
            Of the rows of the batch, L tokens an item.

        Returns
        -------
        Tensor [S, L, D]
        """
        width = x.shape[1]
        bias = self.bias(width, width).masked_fill(_later(width, x.device), -torch.inf)
        x = fused.dropout(x, self.dropout, self.training)
        for block in self._stack:
            x = block.attention.causal(x, bias)
            x = block.feed_forward(block.cross.prefixes(x, memory, queries, self.recency))
        return fused.dropout(self.final_norm(x), self.dropout, self.training)

    def start(self, memory: Memory) -> DecoderState:
        """State before the first token, one prefix a row; rows as in the batch that was encoded."""
        ragged = memory.ragged
        states = ragged.unpack(memory.states)[:, : ragged.longest]  # [B, T, D]
        lengths = ragged.lengths[ragged.inverse]
        valid = torch.arange(ragged.longest, device=lengths.device) < lengths[:, None]
        hidden = None
        if not bool(valid.all()):
            hidden = torch.zeros(valid.shape, device=valid.device).masked_fill(~valid, -torch.inf)[:, None, None]
        if self.recency is not None:
            near = recency_bias(self.recency, lengths, ragged.longest)
            hidden = near if hidden is None else near + hidden
        pairs = [block.cross.remember(states) for block in self._stack]
        return DecoderState([keys for keys, _ in pairs], [values for _, values in pairs], hidden)

    def step(self, state: DecoderState, parents: Tensor | None, x: Tensor) -> tuple[Tensor, DecoderState]:
        """Add one embedded token to each prefix: x [B, W, D] to its states [B, W, D].

        Parameters
        ----------
        parents : int64 Tensor [B, W] or None
            Which of the prefixes of ``state`` each new one continues; None for the first token.
        """
        bias = self.bias(1, state.steps + 1, state.steps)  # [H, 1, t]
        past, kept = state.past.follow(parents), []
        for layer, block in enumerate(self._stack):
            x, fresh = block.attention.step(x, past, layer, bias)
            kept.append(fresh)
            x = block.feed_forward(block.cross.step(x, state.keys[layer], state.values[layer], state.hidden))
        return self.final_norm(x), replace(state, past=past.add(kept), steps=state.steps + 1)

    @property
    def _stack(self) -> Sequence[DecoderBlock]:
        return cast(Sequence[DecoderBlock], self.blocks)


def _later(width: int, device: torch.device) -> Tensor:
    """True where a key comes after the query, bool [width, width]."""
    return torch.ones(width, width, dtype=torch.bool, device=device).triu(1)


class T5(nn.Module):
    """Encoder, decoder, one token embedding for both, and the output heads.

    Over a :class:`CodeVocabulary` every level has a head over its own codes alone; over a plain number of tokens there
    is one head over all of them. It is a :class:`genrec.search.decoding.CodeDecoder`.

    Parameters
    ----------
    vocabulary : CodeVocabulary or int
        Tokens of input and output.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers, decoder_layers : int, default 4
    heads : int, default 6
    head_dim : int, default 64
        Width of a head (not dim / heads).
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
    activation : {"relu", "gated-gelu"}, default "relu"
    tied : bool, default True
        Whether the heads are the token embeddings or weights of their own.
    scale_outputs : bool, optional
        Whether states are divided by sqrt(D) before the heads; where these are tied if not given.
    buckets : int, default 32
    max_distance : int, default 128
    eps : float, default 1e-6
        Of the norms.
    start_token : int, default 1
        Token that decoding starts from.
    mixers : sequence of module, optional
        See :class:`T5Encoder`.
    causal_encoder : bool, default False
        Whether source tokens see only what came before, as training at every item at once needs it.
    recency : int, default 0
        See :class:`T5Decoder`.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        vocabulary: CodeVocabulary | int,
        dim: Width = 128,
        encoder_layers: Depth = 4,
        decoder_layers: Depth = 4,
        heads: Heads = 6,
        head_dim: Width = 64,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        activation: Activation = "relu",
        tied: bool = True,
        scale_outputs: bool | None = None,
        buckets: int = 32,
        max_distance: int = 128,
        eps: float = 1e-6,
        start_token: int = BOS,
        mixers: Sequence[nn.Module] | None = None,
        causal_encoder: bool = False,
        recency: CountOrOff = 0,
    ) -> None:
        super().__init__()
        check_arguments(T5, locals())
        self.vocabulary = vocabulary if isinstance(vocabulary, CodeVocabulary) else None
        self.dim, self.tied, self.start_token = dim, tied, start_token
        self.search_scale = 1.0  # of the logits of a search, on top of what training has
        self.reads_items = False  # whether the caller adds more to source tokens than the embedding of a token
        self.head_dim, self.scale = head_dim, dim**-0.5 if (tied if scale_outputs is None else scale_outputs) else 1.0
        size = vocabulary.size if isinstance(vocabulary, CodeVocabulary) else vocabulary
        self.embedding = nn.Embedding(size, dim)
        shape = (heads, head_dim, ffn, dropout, activation, buckets, max_distance, eps)
        self.encoder = T5Encoder(dim, encoder_layers, *shape, mixers, causal_encoder)
        self.decoder = T5Decoder(dim, decoder_layers, *shape, recency)
        outputs = self.vocabulary.output_sizes if self.vocabulary else (size,)
        self.heads = None if tied else nn.ModuleList(nn.Linear(dim, count, bias=False) for count in outputs)
        self._initialise()

    def _initialise(self) -> None:
        """T5's own scheme, by fan-in; the query also divides by sqrt(head_dim), as scores are not scaled."""
        nn.init.normal_(self.embedding.weight)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if isinstance(module, RelativeBias):
                nn.init.normal_(module.weight, std=self.dim**-0.5)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, SelfAttention):
                    module.qkv.weight[: module.inner] *= self.head_dim**-0.5
                if isinstance(module, CrossAttention):
                    module.query.weight *= self.head_dim**-0.5

    def encode(self, tokens: Tensor, lengths: Tensor, context: Tensor | None = None) -> Memory:
        """Source tokens [B, T], right padded, of which ``lengths`` [B] (>= 1) are real."""
        ragged = Ragged.of(lengths, tokens.shape[1])
        return self.encode_embedded(self.embedding(ragged.pack(tokens)), ragged, context)

    def encode_embedded(self, x: Tensor, ragged: Ragged, context: Tensor | None = None) -> Memory:
        """Source tokens that were embedded elsewhere, packed [S, D]."""
        memory: Memory = self.encoder(x, ragged, context)
        return memory

    def forward(self, tokens: Tensor, lengths: Tensor, targets: Tensor) -> Tensor | list[Tensor]:
        """Logits of every target given those before it.

        Parameters
        ----------
        tokens : int64 Tensor [B, T]
            Source, right padded.
        lengths : int64 Tensor [B]
        targets : int64 Tensor [B, L]
            Target TOKENS (padding where a code has ended); the start token is put before them here.

        Returns
        -------
        Tensor [B, L, V], or a list with [B, V_l] for every level over a CodeVocabulary
        """
        return self.logits(self.decode(self.encode(tokens, lengths), targets[:, :-1]))

    def decode(self, memory: Memory, tokens: Tensor) -> Tensor:
        """States [B, L + 1, D] of the start token and the given tokens [B, L]."""
        start = tokens.new_full((len(tokens), 1), self.start_token)
        states: Tensor = self.decoder(self.embedding(torch.cat([start, tokens], 1)), memory)
        return states

    def decode_prefixes(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> Tensor:
        """States after every item of histories, whose decoder sees the items up to it.

        Parameters
        ----------
        memory : Memory
            From a causal encoder.
        tokens : int64 Tensor [S, L - 1]
            Target tokens but the last, one row an item: items of the longest row first, rows of equal length in their
            order (as ``Ragged.of(lengths, T)`` packs them).
        lengths : int64 Tensor [B]
            Items of each row; each has L source tokens.

        Returns
        -------
        Tensor [S, L, D]
        """
        start = tokens.new_full((len(tokens), 1), self.start_token)
        embedded = self.embedding(torch.cat([start, tokens], 1))
        states: Tensor = self.decoder.prefixes(embedded, memory, Ragged.of(embedded.shape[1] * lengths))
        return states

    def logits(self, states: Tensor) -> Tensor | list[Tensor]:
        """States [B, L, D] to logits [B, L, V], or to a list with [B, V_l] for every level."""
        if self.vocabulary is None:
            return self.level_logits(states, 0)
        return [self.level_logits(states[:, level], level) for level in range(states.shape[1])]

    def level_logits(self, states: Tensor, level: int) -> Tensor:
        """Logits of one level: states [..., D] to [..., V_l]."""
        states = states * self.scale
        if self.heads is not None:
            logits: Tensor = self.heads[level if self.vocabulary else 0](states)
            return logits
        weight = self.embedding.weight
        if self.vocabulary is not None:
            weight = weight[self.vocabulary.level_tokens(level).to(weight.device)]
        return F.linear(states, weight)

    def start(self, memory: Memory) -> DecoderState:
        """State before the first code; see :class:`genrec.search.decoding.CodeDecoder`."""
        return self.decoder.start(memory)

    def step(self, state: DecoderState, parents: Tensor | None, tokens: Tensor | None) -> tuple[Tensor, DecoderState]:
        """Logits of the next code; see :class:`genrec.search.decoding.CodeDecoder`."""
        level = state.steps
        if tokens is None:
            given = torch.full((len(state.keys[0]), 1), self.start_token, device=state.keys[0].device)
        elif self.vocabulary is not None:
            given = self.vocabulary.level_codes_to_tokens(level - 1, tokens)
        else:
            given = tokens
        states, state = self.decoder.step(state, parents, self.embedding(given))
        logits = self.level_logits(states, level)
        return logits if self.search_scale == 1.0 else logits * self.search_scale, state

    @classmethod
    def from_transformers(cls, source: Any, dropout: float | None = None) -> T5:
        """With the weights of a T5 model of transformers.

        Parameters
        ----------
        source : T5ForConditionalGeneration, or path
            A model, or the folder of one.
        dropout : float, optional
            Instead of the model's own.

        Raises
        ------
        ValueError
            If its activation is neither ReLU nor gated GELU.
        """
        from genrec.nets.t5_weights import from_transformers

        return from_transformers(cls, source, dropout)

    def to_transformers(self) -> Any:
        """A T5ForConditionalGeneration of transformers with these weights: one head over all tokens.

        Its logits of a level's tokens are those of :meth:`level_logits`. A softmax over all tokens differs from that
        over a level's: :class:`genrec.search.logits.TrieLogitsProcessor` takes the levels into account.

        Raises
        ------
        ValueError
            If transformers' T5 has no such form: a causal encoder, an encoder that mixes tokens by more than attention,
            heads that are not the token embeddings.
        """
        from genrec.nets.t5_weights import to_transformers

        return to_transformers(self)
