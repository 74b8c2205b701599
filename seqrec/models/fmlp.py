"""FMLP-Rec: learned filters in the frequency domain instead of attention."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Large, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.sequential import SequentialModel

__all__ = ["RECIPES", "FMLPRec", "FilterLayer"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 1024, "patience": 6, "lr": 2e-3},
    "paper": {"dim": 64, "layers": 2, "dropout": 0.5, "max_len": 50, "loss": "bce", "negatives": 1, "batch_size": 256,
              "lr": 1e-3, "optimizer": "adam", "epochs": 200},
    "recbole": {"dim": 64, "layers": 2, "dropout": 0.5, "max_len": 50, "loss": "ce", "batch_size": 2048},
}  # fmt: skip


class FilterLayer(nn.Module):
    """Multiply the spectrum of a history with learned complex weights: x + irfft(W * rfft(x)), then LN.

    Parameters
    ----------
    dim : int
    max_len : int
        Length that histories are padded to, so that frequencies mean the same in all of them.
    dropout : float
    """

    def __init__(self, dim: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.max_len, self.dropout = max_len, dropout
        self.weight = nn.Parameter(torch.randn(max_len // 2 + 1, dim, 2) * 0.02)  # real and imaginary part
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, index: Tensor, rows: int) -> Tensor:
        """Packed [S, D] -> [S, D]; ``index`` is the place of each token in the flattened [rows * max_len + 1].

        The last place is for what is no token.
        """
        with torch.autocast(x.device.type, enabled=False):
            if rows == 0:  # the transforms refuse an empty batch
                return self.norm(x + self.weight.sum() * 0)
            places = x.new_zeros(rows * self.max_len + 1, x.shape[1], dtype=torch.float32)
            padded = places.index_copy(0, index, x.float())[:-1].view(rows, self.max_len, x.shape[1])
            weight = torch.view_as_complex(self.weight.float())
            filtered = torch.fft.irfft(torch.fft.rfft(padded, dim=1) * weight, self.max_len, dim=1)
            filtered = F.pad(filtered.flatten(0, 1), (0, 0, 0, 1))[index]
        normed: Tensor = self.norm(x + F.dropout(filtered, self.dropout, self.training))
        return normed


class FMLPRec(SequentialModel):
    """Filter-enhanced MLP (Zhou et al., WWW 2022, arXiv 2202.13556).

    Blocks of a learned filter over the whole history (a circular convolution of length ``max_len``, so it looks both
    ways: PREFIX form only) and a feed-forward layer of four times the width. Histories end at the last place of the
    ``max_len`` places. Ours: places before the first item stay zero in every layer, where the released code lets them
    carry position embeddings and biases, so that only real items cost time; and the default loss is the full softmax
    (paper: binary cross-entropy with one negative).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Blocks.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    max_len : int, default 50
        Length of the filters; older items are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy (the paper); BPR.
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    """

    def __init__(
        self,
        items: Large,
        dim: Width = 64,
        layers: Depth = 2,
        dropout: Dropout = 0.5,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives = dropout, loss, negatives
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.filters = nn.ModuleList(FilterLayer(dim, max_len, dropout) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(dim, 4 * dim) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * dim, dim) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(layers))
        initialise(self)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens; only the last of a history may be trained on: items [B, T] -> [S, D]."""
        place = packing.positions(self.max_len, newest=True)
        index = packing.row * self.max_len + place
        if packing.dense:
            index = torch.where(packing.steps < packing.lengths[packing.row], index, packing.rows * self.max_len)
        x = self.embedding_norm(self.item_embedding(packing.pack(items)) + self.position_embedding(place))
        x = F.dropout(x, self.dropout, self.training)
        for mix, up, down, norm in zip(self.filters, self.up, self.down, self.norms, strict=True):
            x = mix(x, index, packing.rows)
            x = norm(x + F.dropout(down(F.gelu(up(x))), self.dropout, self.training))
        return x
