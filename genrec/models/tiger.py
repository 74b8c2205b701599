"""TIGER: a T5-style encoder-decoder that generates the semantic id of the next item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.dense import DenseHead
from genrec.generator import Generator, samples
from genrec.nets.attention import Ragged
from genrec.nets.t5 import T5, DecoderState
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Preparation as ItemCodePreparation
from genrec.preparation import UniquePolicy
from genrec.search.decoding import Logits
from genrec.search.vocabulary import CodeVocabulary
from recbase.arguments import CountOrOff, Depth, Dropout, Heads, Large, Length, Temperature, Weight, Width
from recbase.data.sequences import SequenceBatch
from recbase.train.loop import LossOutput

__all__ = ["DENSE", "RECIPES", "SMALL", "TIGER", "Preparation"]

SMALL = {  # for machines without a GPU; shared with LETTER
    "form": "all",
    "normalize": "children",
    "dim": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "heads": 3,
    "head_dim": 32,
    "ffn": 384,
    "dropout": 0.1,
    "epochs": 70,
    "batch_size": 128,
    "lr": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 300,
    "patience": 0,
    "validate_every": 2,
    "precision": "auto",
}
DENSE = SMALL | {  # another model: a dense head beside the codes; shared with LETTER
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.3,
    "whiten": False,
    "recency_bias": True,
    "dense_weight": 1.0,
    "epochs": 12,
}
RECIPES = {
    "default": {
        "epochs": 40,
        "batch_size": 256,
        "lr": 1e-3,
        "warmup_steps": 300,
        "patience": 5,
        "precision": "auto",
        "dropout": 0.1,
    },
    "paper": {
        "epochs": 400,
        "batch_size": 256,
        "lr": 0.01,
        "schedule": "held_inverse_sqrt",
        "warmup_steps": 10_000,
        "patience": 0,
        "precision": "no",
        "user_buckets": 2000,
        "levels": 3,
        "codebook_size": 256,
        "tokenizer_recipe": "paper",
        "pca": None,
        "whiten": False,
        "encoder": "sentence-transformers/sentence-t5-base",
    },
    "small": SMALL,
    "dense": DENSE,
}


@dataclass(frozen=True)
class Preparation(ItemCodePreparation):
    """RQ-VAE codes of the item text, told apart by one more level."""

    method: ClassVar[str] = "rqvae"
    unique: UniquePolicy = "suffix"
    """How codes are made unique: suffix (TIGER's extra level), none, sinkhorn, nearest-free, matching, balanced."""


class TIGER(Generator):
    """Transformer index for generative recommenders (Rajput et al., NeurIPS 2023, arXiv 2305.05065).

    The history is the sequence of its items' codes, one token a code, optionally after a token of the hashed user; the
    decoder writes the codes of the next item. Departs from the paper where nothing is lost by it: every level has a
    softmax over its own codes instead of one over all tokens, heads are tied to the token embeddings, only codes that
    exist are searched, and metrics are of items. Default: 40 epochs at most with early stopping and a learning rate of
    1e-3, no user tokens; recipe ``paper``: 0.01 for 10,000 steps, then falling with the inverse square root, 2,000
    user tokens, text vectors of Sentence-T5; recipe ``small`` (ours, for machines without a GPU): width 96, 2 + 2
    layers, one pass a user among codes that exist, 70 passes under a cosine from 3e-3. Recipe ``dense`` (ours) is
    another model: 1 + 1 layers, 12 passes, a bias by recency and a dense head that ranks lists with the codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [L]
        Codes of each level.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 4
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of the decoder.
    heads : int, default 6
        Attention heads.
    head_dim : int, default 64
        Width of a head.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    activation : {"relu", "gated-gelu"}, default "relu"
        Of the feed-forward layers.
    tied : bool, default True
        Whether the heads are the token embeddings.
    user_buckets : int, default 0
        Tokens into which users are hashed; 0 leaves users out.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    temperature : float, default 1.0
        Divides the logits in the loss, not in a search.
    causal_encoder : bool, default False
        Whether tokens of the history see only what came before them. Sample form ``all`` needs it and turns it on: one
        pass a user, in which every item is a target whose decoder sees the items before it (ours, not the paper's).
    normalize : {"vocabulary", "children"}, default "vocabulary"
        What the probability of a code is relative to, in training and search: all codes of its level, as in the paper,
        or those that follow the codes before it in some item (ours: what does not exist need not be learned).
    recency_bias : bool, default False
        Whether cross-attention has a learned bias by distance from the end of what is seen: with sample form ``all`` a
        decoder could not else tell which item is the last (ours).
    dense_weight : float, default 0.0
        Weight of the loss of a dense head, which ranks lists together with the codes (:mod:`genrec.dense`; ours). 0
        leaves the head out. With it the encoder also reads a row of every item, added to its last code. Not with users.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    """

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        dim: Width = 128,
        encoder_layers: Depth = 4,
        decoder_layers: Depth = 4,
        heads: Heads = 6,
        head_dim: Width = 64,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        activation: Literal["relu", "gated-gelu"] = "relu",
        tied: bool = True,
        user_buckets: CountOrOff = 0,
        max_len: Length = 20,
        temperature: Temperature = 1.0,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
        recency_bias: bool = False,
        dense_weight: Weight = 0.0,
        dense_temperature: Temperature = 0.12,
    ) -> None:
        super().__init__(locals())
        self.vocabulary = CodeVocabulary(sizes, user_buckets)
        self.scale = 1 / temperature
        shape = (dim, encoder_layers, decoder_layers, heads, head_dim, ffn, dropout, activation, tied)
        recency = max_len * len(sizes) if recency_bias else 0
        self.t5 = T5(self.vocabulary, *shape, causal_encoder=causal_encoder, recency=recency)
        self.dense_weight = dense_weight
        if dense_weight and user_buckets:
            raise ValueError(
                f"--dense-weight is {dense_weight} and --user-buckets {user_buckets}; the dense head reads histories "
                "without a token of the user: give one of the two"
            )
        if dense_weight:
            self.dense, self.t5.reads_items = DenseHead(items, dim, dense_temperature), True

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step; of a target, the mean over its levels."""
        found = samples(batch, self.t5.encoder.causal)
        memory = self.encode_histories(batch.items, batch.lengths, batch.users)
        codes = self.code_table[found.items].long()
        given = self.vocabulary.tokens(codes)[:, :-1]
        if found.one_pass:
            states = self.t5.decode_prefixes(memory, given, batch.lengths)
        else:
            states = self.t5.decode(memory, given)
        logits = [self.t5.level_logits(states[:, level], level) for level in range(len(self.sizes))]
        loss = self.code_loss(logits, codes, self.vocabulary.targets(codes), self.scale) / batch.target_count
        parts = {"ce": loss.detach()}
        return self.with_dense(loss, parts, memory, found, batch)

    def dense_content(self) -> Tensor:
        """Sums of the embeddings of the items' codes, [N + 1, D]."""
        tokens = self.vocabulary.tokens(self.code_table)
        return (self.t5.embedding(tokens) * (tokens > 0)[..., None]).sum(1)

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """Encoded tokens of histories: items [B, T], right padded, and lengths [B]."""
        table = self.vocabulary.tokens(self.code_table)
        tokens, counts = self.vocabulary.history(items, lengths, table)
        if self.dense is not None:
            return self._encode_both(tokens, counts, Ragged.of(lengths, items.shape[1]).pack(items))
        lengths = counts
        if self.vocabulary.user_buckets:
            strangers = torch.full_like(lengths, -1) if users is None else users
            tokens = torch.cat([self.vocabulary.user_tokens(strangers)[:, None], tokens], 1)
            lengths = lengths + 1
        return self.t5.encode(tokens, lengths)

    def _encode_both(self, tokens: Tensor, counts: Tensor, items: Tensor) -> Memory:
        """Encode codes, with the dense head's vector of each item added to its last one; items packed [S]."""
        assert self.dense is not None
        ragged = Ragged.of(counts, tokens.shape[1])
        # token embeddings of a T5 have entries of size 1
        known = self.dense.item_inputs(self.dense_content()[items], items) * self.t5.dim**0.5
        placed = F.pad(known[:, None], (0, 0, self.group - 1, 0)).flatten(0, 1)
        return self.t5.encode_embedded(self.t5.embedding(ragged.pack(tokens)) + placed, ragged)

    def start(self, memory: Memory) -> DecoderState:
        """State before the first code."""
        return self.t5.start(memory)

    def step(self, state: DecoderState, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, Any]:
        """Logits of the next code."""
        return self.t5.step(state, parents, tokens)
