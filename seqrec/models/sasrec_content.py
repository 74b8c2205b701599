"""SASRec that reads item content: in place of item ids, or beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Heads, Large, LargeOrOff, Length, Width, check_arguments
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.layers import ItemFeatures
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "HybridEmbedding", "SASRecContent", "SASRecHybrid"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": {
        "dim": 128,
        "heads": 4,
        "ffn": 256,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "max_len": 10,
        "item_table": "untied",
        "batch_size": 256,
        "lr": 1e-4,
        "optimizer": "adam",
        "form": "all",
    },
}


class SASRecContent(SASRec):
    """SASRec over item content instead of item ids (baseline of TSSR, arXiv 2403.07623; after Kang and McAuley 2018).

    The item embedding is a linear layer of the text or image vector, or the sum of an embedding a semantic code; ids
    play no part, so an item that nobody has bought has a score that means something. The description (TSSR, table 1)
    is thin. Departures: content vectors are frozen, where TSSR fine-tunes the encoder that makes them; items are scored
    against the same content embedding, where TSSR's code has an output layer of its own (``--item-table untied``,
    recipe ``paper``).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim, image_dim : int, default 0
        Widths of text and image vectors; 0 where there are none.
    sizes : list of int, optional
        Codes of each level.
    content : {"text", "images", "codes"}, default "text"
        What the item embedding is made from.
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
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "gbce", "sampled"}, default "ce"
        Next-item loss, as SASRec's.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    item_table : {"tied", "untied"}, default "tied"
        What states are scored against: the item embeddings, or a table of ids with a bias.
    """

    item_embedding: Any  # a layer that reads content in place of the table of ids

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        sizes: list[int] | None = None,
        content: Literal["text", "images", "codes"] = "text",
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: Count = 256,
        item_table: Literal["tied", "untied"] = "tied",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(
            items,
            dim,
            layers,
            heads,
            ffn,
            dropout,
            attention_dropout,
            max_len=max_len,
            loss=loss,
            negatives=negatives,
            positions="oldest",
        )
        self._config = arguments
        check_arguments(type(self), arguments)
        self.item_table = item_table
        self.item_embedding = self._embedding(ItemFeatures(items, dim, content, text_dim, image_dim, sizes))
        if item_table == "untied":
            self.output = nn.Linear(dim, items)
        initialise(self)

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        return ("ids", arguments.get("content", "text"))

    def _embedding(self, features: ItemFeatures) -> Any:
        return features

    @property
    def features(self) -> ItemFeatures:
        """The layer that reads content."""
        found: ItemFeatures = self.item_embedding
        return found

    def with_content(self, **given: Any) -> SASRecContent:
        """Set the items' content (see :meth:`seqrec.layers.ItemFeatures.set`) and return the model."""
        self.features.set(given)
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D], with a constant 1 behind them for the bias if untied."""
        states = super().states(items, packing)
        return states if self.item_table == "tied" else torch.cat([states, torch.ones_like(states[:, :1])], 1)

    def candidates(self) -> Tensor:
        """Vectors that states are scored against: [N, D], with the bias behind them if untied."""
        if self.item_table == "untied":
            return torch.cat([self.output.weight, self.output.bias[:, None]], 1)
        table: Tensor = self.item_embedding.table()
        return table


class HybridEmbedding(nn.Module):
    """The embedding of an item's id and that of its content, side by side, through a linear layer.

    Parameters
    ----------
    features : ItemFeatures
        Width D.
    dim : int
        D.
    """

    def __init__(self, features: ItemFeatures, dim: int) -> None:
        super().__init__()
        self.features = features
        self.ids = nn.Embedding(features.items + 1, dim, padding_idx=0)
        self.join = nn.Linear(2 * dim, dim)

    def forward(self, items: Tensor) -> Tensor:
        """int64 [S] -> [S, D]."""
        joined: Tensor = self.join(torch.cat([self.ids(items), self.features(items)], 1))
        return joined

    def table(self) -> Tensor:
        """Vectors of items 1..N: [N, D]."""
        joined: Tensor = self.join(torch.cat([self.ids.weight[1:], self.features.table()], 1))
        return joined


class SASRecHybrid(SASRecContent):
    """SASRec over item ids and item content (baseline of TSSR, arXiv 2403.07623; after Kang and McAuley 2018).

    The embeddings of id and content are joined and brought back to the width of the model by a linear layer; all else,
    the departures included, is as in :class:`SASRecContent`, whose options it takes.
    """

    def _embedding(self, features: ItemFeatures) -> Any:
        return HybridEmbedding(features, int(self._config["dim"]))

    @property
    def features(self) -> ItemFeatures:
        """The layer that reads content."""
        found: ItemFeatures = self.item_embedding.features
        return found
