"""TedRec: text and item numbers are joined over the whole history, in the frequency domain."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    NonNegative,
    Temperature,
    Width,
)
from recbase.model import initialise
from recbase.nn.transformer import Encoder, Packing
from seqrec.modalities import ModalityVectors
from seqrec.sequential import SequentialModel

__all__ = ["RECIPES", "PositionalExperts", "SpectralFusion", "TedRec"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 1024, "patience": 6, "lr": 1e-3},
    "paper": {"dim": 300, "layers": 2, "heads": 2, "ffn": 256, "experts": 8, "dropout": 0.5, "attention_dropout": 0.5,
              "temperature": 0.07, "max_len": 50, "batch_size": 2048, "lr": 1e-3, "form": "prefix"},
}  # fmt: skip


class PositionalExperts(nn.Module):
    """A mixture of linear experts, each of which takes a bias of the position off its input.

    Parameters
    ----------
    width, dim : int
        Of input and output.
    experts : int
        E.
    max_len : int
    dropout : float
        On the input.
    noise : float
        Factor of the gate's learned noise in training.
    """

    def __init__(self, width: int, dim: int, experts: int, max_len: int, dropout: float, noise: float) -> None:
        super().__init__()
        self.dropout, self.noise = dropout, noise
        self.weight = nn.Parameter(torch.randn(experts, width, dim) * math.sqrt(1 / width))
        self.bias = nn.Parameter(torch.zeros(experts, max_len, width))
        self.gate = nn.Linear(width, experts, bias=False)
        self.spread = nn.Linear(width, experts, bias=False) if noise else None

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        """Vectors [S, width] at places [S] of their histories -> [S, dim]."""
        logits = self.gate(x)
        if self.spread is not None:
            deviation = F.softplus(self.spread(x)) + 0.01
            draws = torch.randn_like(logits) if self.training else torch.zeros_like(logits)
            logits = logits + self.noise * deviation * draws
        gates = logits.softmax(1)  # [S, E]
        shifts = torch.bmm(self.bias, self.weight).transpose(0, 1)  # [T, E, dim]
        found = torch.einsum("sw,ewd->sed", F.dropout(x, self.dropout, self.training), self.weight) - shifts[steps]
        mixed: Tensor = (found * gates[:, :, None]).sum(1)
        return mixed


class SpectralFusion(nn.Module):
    """Twice the gated sum of the filtered id sequence and of its products with other sequences, as spectra.

    Parameters
    ----------
    dim : int
    max_len : int
        Length that all histories are padded to, the oldest item at place 0.
    sides : int
        Other sequences: text, images.
    """

    def __init__(self, dim: int, max_len: int, sides: int) -> None:
        super().__init__()
        self.max_len = max_len
        weight = torch.randn(max_len // 2 + 1, dim, 2) * 0.02  # real and imaginary part
        weight[..., 0] += 1
        self.weight = nn.Parameter(weight)
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in range(1 + sides))

    def forward(self, ids: Tensor, sides: list[Tensor], packing: Packing) -> Tensor:
        """Packed ids [S, D] and sides [S, D] each -> [S, D]."""
        with torch.autocast(ids.device.type, enabled=False):
            if packing.rows == 0:  # the transforms refuse an empty batch
                touched = self.weight.sum() + sum(p.sum() for p in self.gates.parameters())
                return ids.float() + sum(side.float() for side in sides) + touched * 0
            spectrum = self._spectrum(ids, packing)
            filtered = spectrum * torch.view_as_complex(self.weight.float())
            products = [filtered, *(self._spectrum(side, packing) * spectrum for side in sides)]
            total = torch.zeros_like(ids, dtype=torch.float32)
            for gate, product in zip(self.gates, products, strict=True):
                whole = torch.fft.irfft(product, self.max_len, dim=1, norm="ortho")
                part = packing.pack(whole[:, : packing.width])
                total = total + part * gate(part).sigmoid()
            return 2 * total

    def _spectrum(self, packed: Tensor, packing: Packing) -> Tensor:
        """[S, D] -> complex [B, F, D]; places behind a history are zeros."""
        padded = packing.unpack(packed.float())
        if packing.dense:
            padded = padded * (packing.steps < packing.lengths[packing.row]).unflatten(0, padded.shape[:2])[..., None]
        return torch.fft.rfft(F.pad(padded, (0, 0, 0, self.max_len - packing.width)), dim=1, norm="ortho")


class TedRec(SequentialModel):
    """Sequence-level semantic representation fusion (Xu et al., CIKM 2024, arXiv 2402.18166).

    The text vectors of a history pass a mixture of experts with a bias for each position; the sequence of item
    embeddings is filtered by learned complex weights and, as a product of spectra (a circular convolution over the
    whole history), joined with the text; the gated sum goes to a SASRec encoder, which is scored by cosine against the
    item table alone. A position sees later ones: PREFIX form only. Departs from the paper: the filter starts near one,
    not near zero, so that item embeddings are of the size of the positions' from the start; an expert's dropout is
    shared with the others; and where the data set has pictures, their sequence is joined like the text's (turn it
    off by ``--no-images``).

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
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    experts : int, default 8
        Linear experts of the text.
    gate_noise : float, default 1.0
        Factor of the learned noise on the experts' gate in training; 0 turns it off.
    images : bool, default True
        Use the images, where there are some.
    dropout : float, default 0.5
        On text, embeddings and the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    temperature : float, default 0.07
        Divides the cosines.
    max_len : int, default 50
        Length of the spectra; older items are cut.
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
        experts: Heads = 8,
        gate_noise: NonNegative = 1.0,
        images: bool = True,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        temperature: Temperature = 0.07,
        max_len: Length = 50,
        loss: Literal["ce", "sampled"] = "ce",
        negatives: Count = 256,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives, self.scale = dropout, loss, negatives, 1 / temperature
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.features = ModalityVectors(items, text_dim, image_dim if images else 0)
        self.adapt = nn.ModuleList(
            PositionalExperts(width, dim, experts, max_len, dropout, gate_noise) for width in self.features.widths
        )
        self.fusion = SpectralFusion(dim, max_len, len(self.adapt))
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout)
        initialise(self)

    @staticmethod
    def reads(arguments: dict[str, Any]) -> tuple[str, ...]:
        """Ids and text, and images unless they are turned off."""
        return ("ids", "text", "images") if arguments.get("images", True) else ("ids", "text")

    def with_content(
        self, text: np.ndarray, images: np.ndarray | None = None, missing_images: np.ndarray | None = None
    ) -> TedRec:
        """Set the text vectors [N, d] and, where there are some, image vectors [N, d] and which are missing, [N].

        The vector of a missing image is zeros.
        """
        used = self._config["images"]
        self.features.fill(text, images if used else None, missing_images if used else None)
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of unit length; only the last of a history may be trained on: items [B, T] -> [S, D]."""
        numbers = packing.pack(items)
        tables = self.features.tables()
        sides = [adapt(table[numbers], packing.steps) for adapt, table in zip(self.adapt, tables, strict=True)]
        joined = self.fusion(self.item_embedding(numbers), sides, packing)
        x = self.embedding_norm(joined + self.position_embedding(packing.steps))
        encoded = self.encoder(F.dropout(x, self.dropout, self.training), packing)
        return F.normalize(encoded.float(), dim=1)

    def candidates(self) -> Tensor:
        """Item embeddings of unit length, [N, D]."""
        return F.normalize(self.item_embedding.weight[1:], dim=1)
