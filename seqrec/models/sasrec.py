"""SASRec: a causal Transformer over item embeddings, scored against the same table.

One model with the losses it is trained with in the literature, because the loss decides most disputed comparisons.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Deviation, Dropout, Heads, Large, Length, ShareOrOff, Temperature, Width
from recbase.model import initialise
from recbase.nn.losses import gbce_exponent
from recbase.nn.transformer import Encoder, Packing
from seqrec.sequential import SequentialModel, TableScorer

__all__ = ["RECIPES", "SASRec", "TableScorer"]

_ORIGINAL = {
    "dim": 50,
    "layers": 2,
    "heads": 1,
    "ffn": 50,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "norm": "pre-query",
    "activation": "relu",
    "scale_embedding": True,
    "positions": "newest",
    "loss": "bce",
    "negatives": 1,
    "max_len": 50,
    "form": "all",
    "batch_size": 128,
    "lr": 1e-3,
    "beta2": 0.98,
}

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": _ORIGINAL,
    "original": _ORIGINAL,
    "recbole": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "norm": "post",
        "activation": "gelu",
        "embedding_norm": True,
        "positions": "oldest",
        "loss": "ce",
        "max_len": 50,
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
    },
}


class SASRec(SequentialModel):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

    The default departs from the paper where later work found it weak: full softmax over all items at every position
    instead of binary cross-entropy with one negative, post-LN blocks with GELU (as in RecBole), no attention dropout.
    Recipes: ``paper`` (= ``original``) is the paper's setting, ``recbole`` RecBole 1.2's.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    norm : {"post", "pre", "pre-query"}, default "post"
        Placement of layer norms; pre-query is the original's.
    activation : {"gelu", "relu"}, default "gelu"
        Of the feed-forward layers.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "gbce", "sampled"}, default "ce"
        Full softmax; binary cross-entropy; gBCE; softmax over shared uniform negatives.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    calibration : float, default 0.75
        t of gBCE, between 0 (BCE) and 1.
    temperature : float, default 1.0
        Divides the logits of ce and sampled.
    scale_embedding : bool, default False
        Multiply item embeddings by sqrt(dim) before positions are added.
    positions : {"oldest", "newest"}, default "newest"
        The item that position 0 (oldest) or the last position (newest) is given to, whatever the history's length. The
        original pads on the left, which is ``newest`` and ranked better on Beauty; RecBole pads on the right.
    item_table : {"tied", "untied"}, default "tied"
        What states are scored against: the item embeddings that histories are read with, or a table of their own. With
        one table an item is near itself, so that the last item stands first in many lists. Not in the paper.
    embedding_norm : bool, default True
        Layer norm on the sum of item and position embeddings.
    init_std : float, default 0.02
        Standard deviation of the initial weights.
    """

    def __init__(
        self,
        items: Large,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        norm: Literal["post", "pre", "pre-query"] = "post",
        activation: Literal["gelu", "relu"] = "gelu",
        max_len: Length = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: Count = 256,
        calibration: ShareOrOff = 0.75,
        temperature: Temperature = 1.0,
        scale_embedding: bool = False,
        positions: Literal["oldest", "newest"] = "newest",
        item_table: Literal["tied", "untied"] = "tied",
        embedding_norm: bool = True,
        init_std: Deviation = 0.02,
    ) -> None:
        super().__init__(locals())
        self.dim, self.loss = dim, loss
        self.negatives, self.scale, self.dropout = negatives, 1 / temperature, dropout
        self.embedding_scale = dim**0.5 if scale_embedding else 1.0
        self.exponent = gbce_exponent(negatives, items, calibration) if loss == "gbce" else 1.0
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.output_embedding = nn.Embedding(items + 1, dim, padding_idx=0) if item_table == "untied" else None
        self.position_embedding = nn.Embedding(max_len, dim)
        self.from_newest = positions == "newest"
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12) if embedding_norm else nn.Identity()
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout, norm, activation)
        initialise(self, init_std)

    def candidates(self) -> Tensor:
        """Vectors that states are scored against, with gradient: [N, D]."""
        return super().candidates() if self.output_embedding is None else self.output_embedding.weight[1:]

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items)) * self.embedding_scale
        positions = packing.positions(self.position_embedding.num_embeddings, self.from_newest)
        x = self.embedding_norm(tokens + self.position_embedding(positions))
        encoded: Tensor = self.encoder(F.dropout(x, self.dropout, self.training), packing)
        return encoded
