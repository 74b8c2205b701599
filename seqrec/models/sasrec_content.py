"""SASRec that reads item content: in place of item ids, or beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Heads, Large, LargeOrOff, Length, Width, check_arguments, taken
from recbase.nn.transformer import Packing
from seqrec.finetuned import EndToEndModel, FinetunedEncoder, Finetuning, FinetuningOptions
from seqrec.layers import ItemFeatures, biased_rows, with_one
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "HybridEmbedding", "SASRecContent", "SASRecHybrid"]

Features = ItemFeatures | FinetunedEncoder
"""A layer that makes item vectors of content."""

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


class SASRecContent(EndToEndModel, SASRec):
    """SASRec over item content instead of item ids (baseline of TSSR, arXiv 2403.07623; after Kang and McAuley 2018).

    The item embedding is a linear layer of the text or image vector, or the sum of an embedding a semantic code; ids
    play no part, so an item that nobody has bought has a score that means something. The description (TSSR, table 1)
    is thin. Departures: content vectors are frozen, where TSSR fine-tunes the encoder that makes them (``--content
    sentences`` or ``pictures`` does too); items are scored against the same content embedding, where TSSR's code has an
    output layer of its own (``--item-table untied``, recipe ``paper``).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim, image_dim : int, default 0
        Widths of text and image vectors; 0 where there are none.
    sizes : list of int, optional
        Codes of each level.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    content : {"text", "images", "codes", "sentences", "pictures"}, default "text"
        What the item embedding is made from: frozen vectors, codes, or raw text and image files through an encoder that
        is trained too.
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
        What states are scored against: the item embeddings, or a table of ids with a bias. With an encoder that is
        trained too, ``tied`` is for losses of few items (bce, gbce, sampled).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Finetuning,)
    item_embedding: Any  # a layer that reads content in place of the table of ids

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        sizes: list[int] | None = None,
        backbone_config: dict[str, Any] | None = None,
        content: Literal["text", "images", "codes", "sentences", "pictures"] = "text",
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
        **options: Unpack[FinetuningOptions],
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__", "options")}
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
        self._config = arguments | self._grouped(options)
        check_arguments(type(self), self._config)
        self.item_table = item_table
        if content == "sentences" or content == "pictures":
            features: Features = self.made_encoder(content, dim, backbone_config, taken(Finetuning, options))
        else:
            features = ItemFeatures(items, dim, content, text_dim, image_dim, sizes)
        self.item_embedding = self._embedding(features)
        self.check_table(item_table == "tied")
        if item_table == "untied":
            self.output = nn.Linear(dim, items)
        self.start_weights()

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        return ("ids", arguments.get("content", "text"))

    def _embedding(self, features: Features) -> Any:
        return features

    @property
    def features(self) -> Features:
        """The layer that reads content."""
        found: Features = self.item_embedding
        return found

    def with_content(self, **given: Any) -> SASRecContent:
        """Set the items' content and return the model.

        See :meth:`seqrec.layers.ItemFeatures.set`, and :meth:`seqrec.finetuned.FinetunedEncoder.set` for ``sentences``
        and ``pictures``.
        """
        features = self.features
        if isinstance(features, FinetunedEncoder):
            features.set(given.get("sentences"), given.get("pictures"))
        else:
            features.set(given)
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D], with a constant 1 behind them for the bias if untied."""
        states = super().states(items, packing)
        return states if self.item_table == "tied" else with_one(states)

    def candidates(self) -> Tensor:
        """Vectors that states are scored against: [N, D], with the bias behind them if untied."""
        if self.item_table == "untied":
            return biased_rows(self.output)
        if self.finetuned() is not None:
            return self.rows_of(self.item_embedding)
        table: Tensor = self.item_embedding.table()
        return table


class HybridEmbedding(nn.Module):
    """The embedding of an item's id and that of its content, side by side, through a linear layer.

    Parameters
    ----------
    features : ItemFeatures or FinetunedEncoder
        Width D.
    dim : int
        D.
    """

    def __init__(self, features: Features, dim: int) -> None:
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

    def _embedding(self, features: Features) -> Any:
        return HybridEmbedding(features, int(self._config["dim"]))

    @property
    def features(self) -> Features:
        """The layer that reads content."""
        found: Features = self.item_embedding.features
        return found
