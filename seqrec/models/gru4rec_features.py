"""GRU4Rec with item features: a recurrent network of its own over the content, or one over both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Large, LargeOrOff, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.layers import ItemFeatures
from seqrec.models.gru4rec import recurrent_states
from seqrec.sequential import SequentialModel

__all__ = ["RECIPES", "GRU4RecFeatures"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {
        "content": "images",
        "dim": 100,
        "hidden": 100,
        "dropout": 0.0,
        "loss": "top1",
        "negatives": 32,
        "batch_size": 50,
        "lr": 1e-3,
        "form": "all",
    },
    "recbole": {
        "dim": 64,
        "hidden": 128,
        "dropout": 0.3,
        "fusion": "parallel",
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
    },
}


class GRU4RecFeatures(SequentialModel):
    """Parallel recurrent networks for feature-rich sessions (Hidasi et al., RecSys 2016); GRU4Rec+feat of BBQRec.

    One GRU reads embeddings of the item ids, another the content; their states, side by side, go through a linear layer
    back to the item table (RecBole's GRU4RecF). ``fusion`` concat is the paper's simpler form: one GRU over both. The
    papers that list this baseline do not describe it. Departures: full softmax by default where the paper has TOP1; the
    networks are trained together, where the paper also alternates between them; states are joined before the output,
    where the paper adds the scores of two output layers.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim, image_dim : int, default 0
        Widths of text and image vectors; 0 where there are none.
    sizes : list of int, optional
        Codes of each level.
    content : {"text", "images", "codes"}, default "text"
        What the features are made from.
    fusion : {"parallel", "concat"}, default "parallel"
        Two networks, or one over both inputs.
    dim : int, default 64
        Width of the item and feature embeddings.
    hidden : int, default 128
        Width of each recurrent state.
    layers : int, default 1
        Recurrent layers.
    dropout : float, default 0.3
        On the embeddings.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr", "top1"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; the pairwise losses BPR and TOP1.
    negatives : int, default 128
        Uniform negatives a target (bce, bpr, top1) or a step (sampled).
    """

    onnx_length = "fixed"  # a recurrent network is unrolled

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        sizes: list[int] | None = None,
        content: Literal["text", "images", "codes"] = "text",
        fusion: Literal["parallel", "concat"] = "parallel",
        dim: Width = 64,
        hidden: Width = 128,
        layers: Depth = 1,
        dropout: Dropout = 0.3,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr", "top1"] = "ce",
        negatives: Count = 128,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives = dropout, loss, negatives
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.features = ItemFeatures(items, dim, content, text_dim, image_dim, sizes)
        widths = [dim, dim] if fusion == "parallel" else [2 * dim]
        self.recurrent: Any = nn.ModuleList(nn.GRU(width, hidden, layers, bias=False) for width in widths)
        self.out = nn.Linear(hidden * len(widths), dim)
        initialise(self)

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        return ("ids", arguments.get("content", "text"))

    def with_content(self, **given: Any) -> GRU4RecFeatures:
        """Set the items' content (see :meth:`seqrec.layers.ItemFeatures.set`) and return the model."""
        self.features.set(given)
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        numbers = packing.pack(items)
        parts = [F.dropout(part, self.dropout, self.training) for part in self._embedded(numbers)]
        if len(self.recurrent) == 1:
            parts = [torch.cat(parts, 1)]
        outputs = [
            recurrent_states(network, part, packing) for network, part in zip(self.recurrent, parts, strict=True)
        ]
        projected: Tensor = self.out(torch.cat(outputs, 1))
        if not packing.dense and len(numbers) == 0:  # no step ran: the features still take part, with a gradient of 0
            return projected + torch.stack([part.sum() for part in parts]).sum() * 0
        return projected

    def _embedded(self, numbers: Tensor) -> list[Tensor]:
        embedded = [self.item_embedding(numbers), self.features(numbers)]
        return [part.float() for part in embedded]
