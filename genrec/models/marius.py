"""MARIUS: a timeline with one position an item, and a small decoder that writes the codes of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.dense import DenseHead, last_states
from genrec.generator import Generator, samples
from genrec.nets.attention import Ragged
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Preparation as ItemCodePreparation
from genrec.search.decoding import Logits
from genrec.search.vocabulary import CodeVocabulary
from recbase.arguments import Depth, Dropout, Heads, Large, Length, Temperature, Weight, Width
from recbase.data.sequences import SequenceBatch
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput

if TYPE_CHECKING:
    pass

__all__ = ["MARIUS", "RECIPES", "DepthDecoder", "Preparation"]

RECIPES = {
    "default": {"epochs": 40, "batch_size": 128, "lr": 1e-3, "warmup_steps": 200, "patience": 5, "precision": "auto"},
    "small": {
        "normalize": "children",
        "dim": 64,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.4,
        "dense_weight": 1.0,
        "epochs": 20,
        "batch_size": 128,
        "lr": 3e-3,
        "schedule": "cosine",
        "warmup_steps": 100,
        "patience": 0,
        "precision": "auto",
    },
}


@dataclass(frozen=True)
class Preparation(ItemCodePreparation):
    """Codes that know what occurs together, told apart by a matching."""

    method: ClassVar[str] = "letter"


class MARIUS(Generator):
    """Timeline and depth decoder (Lepage, Mary and Picard 2025, arXiv 2508.14910).

    A causal Transformer reads one position an item, the sum of the embeddings of its codes; a second, much smaller one
    writes the codes of the next item from the state of the last position, one after the other. So a history costs as
    many positions as it has items, not as it has codes, and what is repeated in a search is the small decoder alone.
    Departs from the paper, whose sizes are of GPUs: widths, layers, dropout and schedule are ours (there is no recipe
    ``paper``); input and output embeddings of codes are apart; only codes that exist are searched, and metrics are of
    items. Recipe ``small`` (ours): width 64, probabilities among codes that exist, and a dense head beside the codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [L]
        Codes of each level.
    dim : int, default 128
        Width of positions and codes, D.
    layers : int, default 2
        Blocks of the timeline.
    depth_layers : int, default 2
        Blocks of the decoder of codes.
    heads : int, default 4
        Attention heads of both.
    ffn : int, default 512
        Width of the feed-forward layers of both.
    dropout : float, default 0.2
        On embeddings, on the output of every sub-layer, and on attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    temperature : float, default 1.0
        Divides the logits in the loss, not in a search.
    causal_encoder : bool, default False
        Whether positions of the timeline see only what came before them, as in the paper. Sample form ``all``, the
        usual one, needs it and turns it on.
    normalize : {"vocabulary", "children"}, default "vocabulary"
        What the probability of a code is relative to, in training and search: all codes of its level, as in the paper,
        or those that follow the codes before it in some item (ours: what does not exist need not be learned).
    dense_weight : float, default 0.0
        Weight of the loss of a dense head, which ranks lists together with the codes (:mod:`genrec.dense`; ours). 0
        leaves the head out. With it the timeline also reads a row of every item.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    """

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        dim: Width = 128,
        layers: Depth = 2,
        depth_layers: Depth = 2,
        heads: Heads = 4,
        ffn: Width = 512,
        dropout: Dropout = 0.2,
        max_len: Length = 50,
        temperature: Temperature = 1.0,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
        dense_weight: Weight = 0.0,
        dense_temperature: Temperature = 0.12,
    ) -> None:
        super().__init__(locals())
        self.vocabulary = CodeVocabulary(sizes)
        self.scale, self.dropout = 1 / temperature, dropout
        self.group = 1  # a position an item, whatever the number of its codes
        self.embedding = nn.Embedding(self.vocabulary.size, dim, padding_idx=0)
        self.position = nn.Embedding(max_len, dim)
        self.timeline = Encoder(layers, dim, heads, ffn, dropout, dropout, "pre", eps=1e-6, causal=causal_encoder)
        self.depth = DepthDecoder(self.vocabulary, dim, depth_layers, heads, ffn, dropout)
        self.dense_weight = dense_weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        if dense_weight:
            self.dense = DenseHead(items, dim, dense_temperature)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step; of a target, the mean over its levels."""
        found = samples(batch, self.timeline.causal)
        memory = self.encode_histories(batch.items, batch.lengths)
        states = memory.states if found.one_pass else last_states(memory.states, memory.ragged)[found.rows]
        codes = self.code_table[found.items].long()
        written = self.depth(states, self.vocabulary.tokens(codes)[:, :-1])
        logits = [self.depth.logits(written[:, level], level) for level in range(len(self.sizes))]
        loss = self.code_loss(logits, codes, self.vocabulary.targets(codes), self.scale) / batch.target_count
        parts = {"ce": loss.detach()}
        return self.with_dense(loss, parts, memory, found, batch)

    def dense_content(self) -> Tensor:
        """Sums of the embeddings of the items' codes, [N + 1, D]."""
        return self.embedding(self.vocabulary.tokens(self.code_table)).sum(1)

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """States of the timeline, one an item: items [B, T], right padded, and lengths [B]."""
        ragged = Ragged.of(lengths, items.shape[1])
        packed = ragged.pack(items)
        content = self.dense_content()[packed]
        known = content if self.dense is None else self.dense.item_inputs(content, packed)
        # The rows of a Ragged are sorted from the longest to the shortest, which is the order that makes runs of
        # similar length for the attention of recbase.nn.
        packing = Packing.of(ragged.lengths, ragged.longest)
        x = known + self.position(packing.steps)
        return Memory(self.timeline(F.dropout(x, self.dropout, self.training), packing), ragged)

    def start(self, memory: Memory) -> _Written:
        """State before the first code."""
        states = last_states(memory.states, memory.ragged)
        return _Written(states, torch.zeros(len(states), 1, 0, dtype=torch.int64, device=states.device))

    def step(self, state: _Written, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, _Written]:
        """Logits of the next code; the codes so far are read again, which for so few costs less than a cache."""
        written = state.tokens
        level = written.shape[2]
        if parents is not None:
            assert tokens is not None
            chosen = written.gather(1, parents[:, :, None].expand(-1, -1, level))
            added = self.vocabulary.level_codes_to_tokens(level, tokens)
            written, level = torch.cat([chosen, added[:, :, None]], 2), level + 1
        beams = written.shape[1]
        states = self.depth(state.states.repeat_interleave(beams, 0), written.flatten(0, 1))[:, -1]
        return self.depth.logits(states, level).unflatten(0, (-1, beams)), _Written(state.states, written)


@dataclass(frozen=True)
class _Written:
    """States of the timeline [B, D], and the tokens of the codes that each prefix has so far, int64 [B, W, l]."""

    states: Tensor
    tokens: Tensor


class DepthDecoder(nn.Module):
    """Causal Transformer over the codes of one item; its first position is the state of the timeline.

    Parameters
    ----------
    vocabulary : CodeVocabulary
    dim, layers, heads, ffn : int
    dropout : float
    """

    def __init__(self, vocabulary: CodeVocabulary, dim: int, layers: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.vocabulary, self.dropout = vocabulary, dropout
        self.state = nn.Linear(dim, dim)
        self.embedding = nn.Embedding(vocabulary.size, dim, padding_idx=0)
        self.position = nn.Embedding(vocabulary.levels, dim)
        self.blocks = Encoder(layers, dim, heads, ffn, dropout, dropout, norm="pre", eps=1e-6)
        self.outputs = nn.Embedding(vocabulary.size, dim)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States after the first l codes: states [S, D] and tokens int64 [S, l] to [S, l + 1, D]."""
        rows, width = tokens.shape[0], tokens.shape[1] + 1
        x = torch.cat([self.state(states)[:, None], self.embedding(tokens)], 1) + self.position.weight[:width]
        x = F.dropout(x, self.dropout, self.training)
        packing = Packing.of(torch.full((rows,), width, device=states.device), width)
        return packing.unpack(self.blocks(packing.pack(x), packing))

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Logits of one level: states [..., D] to [..., V_l]."""
        return F.linear(states, self.outputs.weight[self.vocabulary.level_tokens(level).to(states.device)])
