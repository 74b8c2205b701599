"""VQ-Rec: an item is the mean of the embeddings of its text's codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Depth, Dropout, Heads, Large, Length, Temperature, Width, check_arguments
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.layers import ItemFeatures
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "MeanCodes", "VQRec"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "code_method": "opq", "code_levels": 8},
    "paper": {
        "dim": 300,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "temperature": 0.07,
        "max_len": 50,
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
        "optimizer": "adam",
        "patience": 10,
        "code_method": "opq",
        "code_levels": 32,
        "codebook_size": 256,
    },
}


class MeanCodes(nn.Module):
    """The mean of one embedding a code, [S] -> [S, D].

    Parameters
    ----------
    items, dim : int
    sizes : list of int [L]
        Codes of each level.
    """

    def __init__(self, items: int, dim: int, sizes: list[int]) -> None:
        super().__init__()
        self.codes = ItemFeatures(items, dim, "codes", sizes=sizes)
        self.share = 1 / len(sizes)

    def forward(self, items: Tensor) -> Tensor:
        """int64 [S] -> [S, D]."""
        vectors: Tensor = self.codes(items) * self.share
        return vectors

    def table(self) -> Tensor:
        """Vectors of items 1..N: [N, D]."""
        return self.codes.table() * self.share


class VQRec(SASRec):
    """Vector-quantized item representation (Hou et al., WWW 2023, arXiv 2210.12316), its downstream form.

    Text vectors are quantized by OPQ; an item is the mean of an embedding a code, on both sides; the history goes
    through a post-LN Transformer and the score is a cosine over a temperature with a softmax over all items. Items that
    share all codes share their score. Departures: codes are made view by view, 8 a view by default, where the paper
    quantizes one BERT vector into 32 codes (recipe ``paper`` with ``--views`` of one column); all positions are targets
    by default, where the released code trains on prefixes; trained from the start, without the pretraining on other
    domains (with semi-synthetic negatives) and the permutation that aligns codes to a new domain.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int
        Codes of each level.
    dim : int, default 128
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
    temperature : float, default 0.07
        Divides the cosines.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    """

    item_embedding: Any  # a layer of this file in place of the table of ids

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        dim: Width = 128,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        temperature: Temperature = 0.07,
        max_len: Length = 50,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(
            items, dim, layers, heads, ffn, dropout, attention_dropout, max_len=max_len, temperature=temperature
        )
        self._config = arguments
        check_arguments(type(self), arguments)
        self.item_embedding = MeanCodes(items, dim, sizes)
        initialise(self)

    def with_content(self, codes: np.ndarray, **_: Any) -> VQRec:
        """Set the codes, int [N, L], and return the model.

        Raises
        ------
        ValueError
            If the shape is another one, or a code is not below its level's size.
        """
        self.item_embedding.codes.set({"codes": codes})
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """Unit-length states of all real tokens: items [B, T] -> [S, D]."""
        return F.normalize(super().states(items, packing).float(), dim=1)

    def candidates(self) -> Tensor:
        """Unit-length item vectors: [N, D]."""
        return F.normalize(self.item_embedding.table().float(), dim=1)
