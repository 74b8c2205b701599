"""DuoRec: SASRec, and a contrast between histories that end in the same next item."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import Count, Depth, Dropout, Heads, Large, Length, Temperature, Weight, Width, check_arguments
from recbase.data.sequences import Histories, SequenceBatch
from recbase.nn.draws import draw_uniform
from recbase.train.loop import LossOutput
from seqrec.models.sasrec import SASRec
from seqrec.objectives import contrast

__all__ = ["RECIPES", "DuoRec"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {"dim": 64, "heads": 2, "dropout": 0.5, "attention_dropout": 0.5, "loss": "ce", "contrast_weight": 0.1,
              "form": "prefix", "batch_size": 256, "lr": 1e-3, "optimizer": "adam"},
}  # fmt: skip


class DuoRec(SASRec):
    """Contrastive learning against representation degeneration (Qiu et al., WSDM 2022, arXiv 2110.05730).

    SASRec plus NT-Xent between a second dropout pass of a history and another training history with the SAME next item,
    drawn anew in every step (the released setting "us_x": dot product, temperature 1, weight 0.1, the 2 (B - 1) other
    states of the step are negatives, those of the same next item included). The released code works on prefixes (recipe
    ``paper``); by default a sample is a whole history with a target at every position, and the contrast is that of its
    last target.

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
        On embeddings and on the output of every sub-layer: it also makes the two passes differ.
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
    mask_equal_targets : bool, default False
        Histories with the same next item are no negatives of each other.
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
        mask_equal_targets: bool = False,
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
        self.mask_equal_targets = mask_equal_targets
        # Where each item is the next item: events sorted by item, in the flattened training part. Not saved.
        self.events: Tensor
        self.history_starts: Tensor
        self.by_item: Tensor
        self.item_starts: Tensor
        for name in ("events", "history_starts", "by_item", "item_starts"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)

    def with_content(self, histories: Histories) -> DuoRec:
        """Set the training histories, from which positives are drawn, and return the model."""
        items, offsets = histories.flat()
        starts = np.repeat(offsets[:-1], np.diff(offsets))
        targets = np.flatnonzero(np.arange(len(items)) > starts)  # the first event of a user is no target
        targets = targets[np.argsort(items[targets], kind="stable")]
        counts = np.bincount(items[targets], minlength=self.items + 1)
        self.events, self.history_starts = torch.from_numpy(items.astype(np.int64)), torch.from_numpy(starts)
        self.by_item = torch.from_numpy(targets)
        self.item_starts = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        return self

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss and the contrast of the step."""
        output = super().forward(batch)
        if not self.contrast_weight:
            return output
        if len(self.by_item) == 0:
            raise ValueError("DuoRec draws positives from the training histories: call with_content before training")
        first = self.user_vectors(batch.items, batch.lengths)
        items, lengths, targets = self.twins(batch)
        second = self.user_vectors(items, lengths)
        ids = targets if self.mask_equal_targets else None
        share = contrast(first, second, batch.row_count, self.temperature, self.similarity, ids)
        return LossOutput(output.loss + self.contrast_weight * share, output.parts | {"contrast": share.detach()})

    def twins(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """For each row, what came before some training event of its last target: items [B, T], lengths, targets.

        Drawn evenly among all of them, the row itself included: the only one of an item that is a target once.
        """
        targets = batch.targets.gather(1, (batch.lengths - 1)[:, None])[:, 0]
        first, last = self.item_starts[targets], self.item_starts[targets + 1]
        drawn = (draw_uniform(batch.seed + 1, batch.positions).double() * (last - first)).long()
        event = self.by_item[first + drawn]
        lengths = (event - self.history_starts[event]).clamp_max(self.max_len)
        steps = torch.arange(max(1, int(lengths.max())) if len(lengths) else 1, device=event.device)
        items = self.events[(event[:, None] - lengths[:, None] + steps).clamp_max(len(self.events) - 1)]
        return items * (steps < lengths[:, None]), lengths, targets
