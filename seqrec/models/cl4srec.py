"""CL4SRec: SASRec, and a contrast between two augmented copies of each history."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    Length,
    Share,
    Temperature,
    Weight,
    Width,
    check_arguments,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.train.loop import LossOutput
from seqrec.models.sasrec import SASRec
from seqrec.objectives import contrast

__all__ = ["RECIPES", "CL4SRec", "crop", "mask", "reorder"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {"dim": 64, "heads": 2, "dropout": 0.5, "attention_dropout": 0.5, "loss": "bce", "negatives": 1,
              "contrast_weight": 0.1, "crop_ratio": 0.6, "mask_ratio": 0.3, "reorder_ratio": 0.6, "batch_size": 256,
              "lr": 1e-3, "optimizer": "adam"},
}  # fmt: skip


def crop(items: Tensor, lengths: Tensor, ratio: float, start: Tensor) -> tuple[Tensor, Tensor]:
    """A run of ``ratio`` of each history: items [B, T], ``start`` in [0, 1) -> items [B, T] and lengths."""
    kept = (lengths * ratio).floor().long().clamp_min(1)
    first = (start * (lengths - kept + 1)).floor().long()
    steps = torch.arange(items.shape[1], device=items.device)
    taken = items.gather(1, (first[:, None] + steps).clamp_max(max(0, items.shape[1] - 1)))
    return taken * (steps < kept[:, None]), kept


def mask(items: Tensor, lengths: Tensor, ratio: float, draws: Tensor, mask_item: int) -> tuple[Tensor, Tensor]:
    """Each item hidden with probability ``ratio``: items [B, T], ``draws`` [B, T] in [0, 1)."""
    return torch.where((draws < ratio) & (items > 0), mask_item, items), lengths


def reorder(items: Tensor, lengths: Tensor, ratio: float, start: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """A run of ``ratio`` of each history shuffled: items [B, T], ``start`` [B] and ``draws`` [B, T] in [0, 1)."""
    count = (lengths * ratio).floor().long()[:, None]
    first = (start * (lengths - count[:, 0] + 1)).floor().long()[:, None]
    steps = torch.arange(items.shape[1], device=items.device)
    inside = (steps >= first) & (steps < first + count)
    order = torch.where(inside, first + draws.double() * count, steps.double()).argsort(dim=1, stable=True)
    return items.gather(1, order), lengths


class CL4SRec(SASRec):
    """Contrastive learning for sequential recommendation (Xie et al., ICDE 2022, arXiv 2010.14395).

    SASRec's next-item loss plus ``contrast_weight`` times NT-Xent between the last states of two copies of the same
    history, each cropped, masked or reordered at random (the kinds drawn independently); all other copies of the step
    are negatives. The released settings that are known come from DuoRec's repository. Default loss: full softmax; the
    paper has binary cross-entropy with one negative (recipe ``paper``).

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
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "gbce", "sampled"}, default "ce"
        Next-item loss, as SASRec's.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    contrast_weight : float, default 0.1
        Weight of the contrast; 0 turns it off.
    temperature : float, default 1.0
        Divides the similarities of the contrast.
    similarity : {"dot", "cosine"}, default "dot"
        Similarity that the contrast compares by.
    crop_ratio : float, default 0.6
        Share of a history that cropping keeps.
    mask_ratio : float, default 0.3
        Probability that masking hides an item.
    reorder_ratio : float, default 0.6
        Share of a history that reordering shuffles.
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
        max_len: Length = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: Count = 256,
        contrast_weight: Weight = 0.1,
        temperature: Temperature = 1.0,
        similarity: Literal["dot", "cosine"] = "dot",
        crop_ratio: Share = 0.6,
        mask_ratio: Share = 0.3,
        reorder_ratio: Share = 0.6,
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
        self.contrast_weight, self.temperature, self.similarity = contrast_weight, temperature, similarity
        self.ratios = (crop_ratio, mask_ratio, reorder_ratio)
        self.item_embedding = nn.Embedding(items + 2, dim, padding_idx=0)  # the last row is the mask
        initialise(self)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss and the contrast of the step."""
        output = super().forward(batch)
        if not self.contrast_weight:
            return output
        first, second = self.views(batch)
        share = contrast(first, second, batch.row_count, self.temperature, self.similarity)
        loss = output.loss + self.contrast_weight * share
        return LossOutput(loss, output.parts | {"contrast": share.detach()})

    def views(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Last states of the two copies, [B, D] each, in one pass."""
        copies = [self.augment(batch, batch.seed + 10 * (copy + 1)) for copy in range(2)]
        items, lengths = (torch.cat(parts) for parts in zip(*copies, strict=True))
        order = (-lengths).argsort(stable=True)  # from the longest to the shortest: little is padded
        states = self.user_vectors(items[order], lengths[order])[order.argsort()]
        return states[: len(batch.items)], states[len(batch.items) :]

    def augment(self, batch: SequenceBatch, seed: int) -> tuple[Tensor, Tensor]:
        """A cropped, masked or reordered copy of every history: items [B, T] and lengths [B]."""
        items, lengths, rows = batch.items, batch.lengths, batch.positions
        kind, start = draw_integers(seed, 3, rows), draw_uniform(seed + 1, rows).double()
        draws = draw_uniform(seed + 2, rows[:, None], torch.arange(items.shape[1], device=items.device)[None, :])
        made = (
            crop(items, lengths, self.ratios[0], start),
            mask(items, lengths, self.ratios[1], draws, self.items + 1),
            reorder(items, lengths, self.ratios[2], start, draws),
        )
        items, lengths = (torch.stack(parts) for parts in zip(*made, strict=True))  # [3, B, T], [3, B]
        at = torch.arange(len(rows), device=rows.device)
        return items[kind, at], lengths[kind, at]
