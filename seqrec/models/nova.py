"""NOVA-BERT: side information steers the attention of a BERT4Rec but never enters what is attended."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Chance,
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Share,
    Width,
    check_arguments,
)
from recbase.model import initialise
from recbase.nn.transformer import Attention, Packing
from seqrec.modalities import ModalityVectors
from seqrec.models.bert4rec import BERT4Rec

__all__ = ["NOVABERT", "RECIPES", "Fusion", "NonInvasiveBlock"]

RECIPES = {
    "default": {"epochs": 200, "batch_size": 256, "patience": 12, "lr": 2e-3, "validate_every": 2},
    "paper": {
        "dim": 512,
        "layers": 2,
        "heads": 8,
        "ffn": 2048,
        "dropout": 0.1,
        "fusion": "gate",
        "mask_prob": 0.2,
        "last_prob": 0.0,
        "batch_size": 256,
        "lr": 1e-4,
    },
}

_FUSIONS = ("add", "concat", "gate")


class Fusion(nn.Module):
    """Several vectors of a token in one: their sum, a linear layer of all, or a sum with a softmax weight for each.

    Parameters
    ----------
    dim : int
    sources : int
        Vectors a token, F.
    kind : {"add", "concat", "gate"}
    """

    def __init__(self, dim: int, sources: int, kind: Literal["add", "concat", "gate"]) -> None:
        super().__init__()
        self.kind = kind
        self.join = nn.Linear(sources * dim, dim) if kind == "concat" else nn.Identity()
        self.gate = nn.Linear(dim, 1) if kind == "gate" else nn.Identity()

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """F of [S, D] -> [S, D]."""
        if self.kind == "concat":
            joined: Tensor = self.join(torch.cat(vectors, 1))
            return joined
        stacked = torch.stack(vectors, 1)  # [S, F, D]
        if self.kind == "gate":
            stacked = stacked * self.gate(stacked).softmax(1)
        return stacked.sum(1)


class NonInvasiveAttention(Attention):
    """Queries and keys from one source, values from another."""

    def mixed(self, guide: Tensor, values: Tensor, packing: Packing) -> Tensor:
        """Bidirectional: packed guide [S, D] makes queries and keys, packed values [S, D] are what is mixed."""
        weights, biases = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
        query = self.query(guide)
        key_value = torch.cat([F.linear(guide, weights[0], biases[0]), F.linear(values, weights[1], biases[1])], 1)
        parts = []
        for tokens, group in packing.groups:
            unpacked = group.unpack(query[tokens]), group.unpack(key_value[tokens])
            parts.append(group.pack(self.attend(*unpacked, group.key_mask, False)))
        projected: Tensor = self.out(torch.cat(parts) if len(parts) > 1 else parts[0])
        return projected


class NonInvasiveBlock(nn.Module):
    """Post-LN block whose attention is guided by a fusion of ids, positions and side information.

    Parameters
    ----------
    dim, heads, ffn : int
    sources : int
        Vectors that are fused.
    fusion : {"add", "concat", "gate"}
    dropout, attention_dropout : float
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn: int,
        sources: int,
        fusion: Literal["add", "concat", "gate"],
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.fuse = Fusion(dim, sources, fusion)
        self.attention = NonInvasiveAttention(dim, heads, attention_dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(self, ids: Tensor, side: list[Tensor], packing: Packing) -> Tensor:
        """The id stream, packed [S, D], with positions and side information [S, D] each -> [S, D]."""
        mixed = self.attention.mixed(self.fuse([ids, *side]), ids, packing)
        x = self.norm1(ids + F.dropout(mixed, self.dropout, self.training))
        inner = self.down(F.gelu(self.up(x)))
        normed: Tensor = self.norm2(x + F.dropout(inner, self.dropout, self.training))
        return normed


class NOVABERT(BERT4Rec):
    """Non-invasive self-attention for side information fusion (Liu et al., AAAI 2021, arXiv 2103.03578).

    A BERT4Rec in whose layers queries and keys come from a fusion of the id stream, positions and side information,
    while values are the id stream alone, layer after layer; so the states stay in the space of the item table.
    A masked item's side information is masked with it. There is no official code and the paper's side information is
    categorical (year, category of a film, a seller, attributes of the user and the act); here it is a projection of
    the text vector and, where there are pictures, of the image vector, with a learned vector for what is missing or
    masked. Every source passes a layer norm of its own, so that none drowns in the ids, which every block
    normalises; the gate is a softmax over the sources of one score each. Cloze with a last-item share, output layer and
    item biases are those of our BERT4Rec, and positions enter through the fusion only, as in the paper.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int
        Width of the text vectors.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    fusion : {"gate", "add", "concat"}, default "gate"
        How ids, positions and side information make queries and keys.
    dropout : float, default 0.2
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest sequence with its [MASK]; one item less is read of a history.
    mask_prob : float, default 0.2
        Share of the items that are masked.
    last_prob : float, default 0.3
        Share of the samples in which only the last item is masked.
    loss : {"ce", "sampled"}, default "ce"
        Softmax over all items, or over shared uniform negatives.
    negatives : int, default 256
        Negatives a step of the sampled softmax.
    """

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff,
        image_dim: LargeOrOff = 0,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        fusion: Literal["gate", "add", "concat"] = "gate",
        dropout: Dropout = 0.2,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        mask_prob: Share = 0.2,
        last_prob: Chance = 0.3,
        loss: Literal["ce", "sampled"] = "ce",
        negatives: Count = 256,
    ) -> None:
        arguments: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        super().__init__(
            items, dim, layers, heads, ffn, dropout, attention_dropout, max_len, mask_prob, last_prob, loss, negatives
        )
        self._config = arguments
        check_arguments(type(self), arguments)
        del self.encoder
        self.features = ModalityVectors(items, text_dim, image_dim, extra=1)
        widths = self.features.widths
        self.project = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.absent = nn.Parameter(torch.randn(len(widths), dim) * 0.02)  # instead of what is missing or masked
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(1 + len(widths)))
        self.blocks = nn.ModuleList(
            NonInvasiveBlock(dim, heads, ffn, len(widths) + 2, fusion, dropout, attention_dropout)
            for _ in range(layers)
        )
        initialise(self)

    def with_content(
        self, text: np.ndarray, images: np.ndarray | None = None, missing_images: np.ndarray | None = None
    ) -> NOVABERT:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N]."""
        self.features.fill(text, images, missing_images)
        return self

    def side(self, items: Tensor) -> list[Tensor]:
        """Side information of packed items [S], one vector a modality: [S, D] each."""
        found = []
        tables, present = self.features.tables(), self.features.present()
        for project, table, there, absent in zip(self.project, tables, present, self.absent, strict=True):
            found.append(torch.where(there[items][:, None], project(table[items]), absent))
        return found

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens, masked ones included: items [B, T] -> [S, D]."""
        numbers = packing.pack(items)
        x = F.dropout(self.embedding_norm(self.item_embedding(numbers)), self.dropout, self.training)
        side = [self.position_embedding(packing.steps), *self.side(numbers)]
        side = [norm(vectors) for norm, vectors in zip(self.norms, side, strict=True)]
        for block in self.blocks:
            x = block(x, side, packing)
        return x
