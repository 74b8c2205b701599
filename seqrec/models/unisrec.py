"""UniSRec: text vectors through a mixture of whitening experts, so that a sequence model needs no item ids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Depth, Dropout, Heads, Large, LargeOrOff, Length, Temperature, Width, check_arguments
from recbase.data.sequences import SequenceBatch
from recbase.model import initialise
from recbase.nn.draws import draw_uniform
from recbase.nn.transformer import Packing
from recbase.train.loop import LossOutput
from seqrec.layers import check_table
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "MixtureAdaptor", "TextEmbedding", "UniSRec"]

_PAPER = {
    "dim": 300,
    "experts": 8,
    "layers": 2,
    "heads": 2,
    "ffn": 256,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "adaptor_dropout": 0.2,
    "temperature": 0.07,
    "max_len": 50,
    "form": "prefix",
    "batch_size": 2048,
    "lr": 1e-3,
    "optimizer": "adam",
    "patience": 10,
}

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": _PAPER,
    "transductive": {**_PAPER, "item_ids": True},
}


class MixtureAdaptor(nn.Module):
    """Experts that each shift and project a vector, x -> W (dropout(x) - b), mixed by a noisy softmax gate.

    The noise of the gate depends on ``seed`` and the item alone, so that one item has one gate a step wherever it is
    computed. Departure: one dropout mask is shared by the experts.

    Parameters
    ----------
    text_dim, dim : int
        Widths of the input and of the result, D.
    experts : int
        E.
    dropout : float
    """

    def __init__(self, text_dim: int, dim: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.seed = dropout, 0
        self.shift = nn.Parameter(torch.zeros(experts, text_dim))
        self.weight = nn.Parameter(torch.empty(experts, text_dim, dim).normal_(std=0.02))
        self.gate = nn.Parameter(torch.zeros(text_dim, experts))
        self.noise = nn.Parameter(torch.zeros(text_dim, experts))

    def forward(self, text: Tensor, items: Tensor) -> Tensor:
        """Text vectors [S, d] of items int64 [S] -> [S, D]."""
        experts, _, dim = self.weight.shape
        logits = text @ self.gate
        if self.training:
            logits = logits + self._normal(items) * (F.softplus(text @ self.noise) + 1e-2)
        dropped = F.dropout(text, self.dropout, self.training)
        made = dropped @ self.weight.transpose(0, 1).flatten(1)  # [S, E * D]
        made = made.unflatten(1, (experts, dim)) - torch.einsum("ed,edw->ew", self.shift, self.weight)
        return torch.einsum("se,sew->sw", logits.softmax(1), made)

    def _normal(self, items: Tensor) -> Tensor:
        """Standard normal noise, [S, E], by Box and Muller."""
        columns = torch.arange(self.gate.shape[1], device=items.device)[None, :]
        first = draw_uniform(self.seed, items[:, None], columns).clamp_min(1e-7)
        second = draw_uniform(self.seed + 1, items[:, None], columns)
        normal: Tensor = (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()
        return normal


class TextEmbedding(nn.Module):
    """Adapted text vectors of the items, with an embedding of the id added if asked for.

    Parameters
    ----------
    items, text_dim, dim, experts : int
    dropout : float
    item_ids : bool
    """

    def __init__(self, items: int, text_dim: int, dim: int, experts: int, dropout: float, item_ids: bool) -> None:
        super().__init__()
        self.text: Tensor
        self.register_buffer("text", torch.zeros(items + 1, text_dim))
        self.adaptor = MixtureAdaptor(text_dim, dim, experts, dropout)
        self.ids = nn.Embedding(items + 1, dim, padding_idx=0) if item_ids else None

    def forward(self, items: Tensor) -> Tensor:
        """int64 [S] -> [S, D]."""
        vectors: Tensor = self.adaptor(self.text[items], items)
        return vectors if self.ids is None else vectors + self.ids(items)

    def table(self) -> Tensor:
        """Vectors of items 1..N: [N, D]."""
        numbers = torch.arange(1, len(self.text), device=self.text.device)
        vectors: Tensor = self.adaptor(self.text[1:], numbers)
        return vectors if self.ids is None else vectors + self.ids.weight[1:]


class UniSRec(SASRec):
    """Universal sequence representation learning (Hou et al., KDD 2022, arXiv 2206.05941), its downstream form.

    A text vector goes through a mixture-of-experts adaptor, the history through a post-LN Transformer, and the score is
    a cosine over a temperature with a softmax over all items. By default from text alone (T, inductive); with
    ``item_ids`` an embedding of the id is added on both sides (ID+T, transductive). Departures: all positions are
    targets by default, where the released code trains on prefixes (recipes ``paper`` and ``transductive``); text
    vectors are whatever ``--encoder`` and ``--pca`` make, where the paper has BERT's 768; all is trained from the
    start, without the pretraining on other domains and therefore without freezing the Transformer.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int
        Width of the text vectors.
    dim : int, default 128
        Width of embeddings and blocks.
    experts : int, default 8
        Experts of the adaptor.
    item_ids : bool, default False
        Add an embedding of the item id (ID+T).
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
    adaptor_dropout : float, default 0.2
        On the text vectors.
    temperature : float, default 0.07
        Divides the cosines.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    """

    item_embedding: Any  # a layer of this file in place of the table of ids

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff,
        dim: Width = 128,
        experts: Heads = 8,
        item_ids: bool = False,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        adaptor_dropout: Dropout = 0.2,
        temperature: Temperature = 0.07,
        max_len: Length = 50,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(
            items, dim, layers, heads, ffn, dropout, attention_dropout, max_len=max_len, temperature=temperature
        )
        self._config = arguments
        check_arguments(type(self), arguments)
        self.item_embedding = TextEmbedding(items, text_dim, dim, experts, adaptor_dropout, item_ids)
        initialise(self)

    def with_content(self, text: np.ndarray, **_: Any) -> UniSRec:
        """Set the text vectors, float [N, text_dim], and return the model.

        Raises
        ------
        ValueError
            If the shape is another one.
        """
        found = torch.as_tensor(np.asarray(text))
        check_table(found, self.item_embedding.text, "text")
        self.item_embedding.text[1:] = found
        return self

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        self.item_embedding.adaptor.seed = batch.seed
        return super().forward(batch)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """Unit-length states of all real tokens: items [B, T] -> [S, D]."""
        return F.normalize(super().states(items, packing).float(), dim=1)

    def candidates(self) -> Tensor:
        """Unit-length item vectors: [N, D]."""
        return F.normalize(self.item_embedding.table().float(), dim=1)
