"""S3-Rec: SASRec whose encoder was first trained to fill in items, attributes and segments."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    CountOrOff,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Share,
    Weight,
    Width,
    check_arguments,
)
from recbase.data.sequences import Histories, SequenceBatch
from recbase.model import initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.nn.transformer import Packing
from recbase.pipeline import Pretraining
from recbase.train.loop import LossOutput
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "S3Rec", "S3Tasks"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": {"dim": 64, "heads": 2, "dropout": 0.5, "attention_dropout": 0.5, "loss": "bce", "negatives": 1,
              "pretrain_epochs": 100, "attribute_weight": 0.2, "item_weight": 1.0, "masked_attribute_weight": 1.0,
              "segment_weight": 0.5, "mask_prob": 0.2, "batch_size": 256, "lr": 1e-3, "optimizer": "adam",
              "attribute_items": 1},
}  # fmt: skip


class S3Rec(SASRec):
    """Self-supervised learning by mutual information maximisation (Zhou et al., CIKM 2020, arXiv 2008.07873).

    Two stages in one training. First the encoder, looking both ways, is trained for ``pretrain_epochs`` on four tasks:
    the attributes of visible items (AAP), masked items against one negative (MIP), the attributes of masked items
    (MAP), a masked segment against a segment of another history (SP); then it is fine-tuned as a causal SASRec.
    Without attributes in the data set the two attribute tasks fall away. Departures: one masked copy of a user's
    history a pass, where the released code pretrains on every prefix for 100 to 500 epochs and always masks the last
    item; full softmax in fine-tuning, where the paper has binary cross-entropy with one negative (recipe ``paper``).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    attributes : int
        Attributes, A; 0 if the data set has none.
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
        Next-item loss of fine-tuning, as SASRec's.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    pretrain_epochs : int, default 20
        Passes over the users in the first stage; 0 leaves it out, which is SASRec.
    attribute_weight : float, default 0.2
        Weight of AAP.
    item_weight : float, default 1.0
        Weight of MIP.
    masked_attribute_weight : float, default 1.0
        Weight of MAP.
    segment_weight : float, default 0.5
        Weight of SP.
    mask_prob : float, default 0.2
        Share of the items that are masked.
    """

    def __init__(
        self,
        items: Large,
        attributes: LargeOrOff,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: Count = 256,
        pretrain_epochs: CountOrOff = 20,
        attribute_weight: Weight = 0.2,
        item_weight: Weight = 1.0,
        masked_attribute_weight: Weight = 1.0,
        segment_weight: Weight = 0.5,
        mask_prob: Share = 0.2,
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
        weights = ("attribute_weight", "item_weight", "masked_attribute_weight", "segment_weight")
        check_arguments(type(self), arguments)
        self.item_embedding = nn.Embedding(items + 2, dim, padding_idx=0)  # the last row is the mask
        initialise(self)
        # Attribute numbers of each item and the flattened training part; only the first stage reads them.
        self.attribute_table: Tensor
        self.events: Tensor
        self.register_buffer("attribute_table", torch.zeros(items + 2, 1, dtype=torch.int64), persistent=False)
        self.register_buffer("events", torch.zeros(0, dtype=torch.int64), persistent=False)

    def with_content(self, histories: Histories, attributes: np.ndarray | None = None) -> S3Rec:
        """Set the training histories and the items' attributes, which the first stage reads, and return the model.

        Parameters
        ----------
        histories : Histories
        attributes : int [N, K], optional
            Attribute numbers 1..A, 0 = none.
        """
        self.events = torch.from_numpy(histories.flat()[0].astype(np.int64))
        if attributes is not None:
            table = torch.as_tensor(attributes).long()
            self.attribute_table = F.pad(table, (0, 0, 1, 1))
        return self

    def pretraining(self) -> Pretraining | None:
        """The first stage, None if it is left out."""
        if self._config["pretrain_epochs"] == 0:
            return None
        if len(self.events) == 0:
            raise ValueError("S3-Rec's first stage reads the training histories: call with_content before training")
        settings = {"mask_item": self.items + 1, "mask_prob": self._config["mask_prob"]}
        return Pretraining(S3Tasks(self), self._config["pretrain_epochs"], "cloze", settings)

    def both_ways(self, items: Tensor, packing: Packing) -> Tensor:
        """States of a bidirectional pass with the same weights: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items)) + self.position_embedding(packing.steps)
        x = F.dropout(self.embedding_norm(tokens), self.dropout, self.training)
        for block in self.encoder.blocks:
            x = block(x, packing, False)
        return x


class S3Tasks(nn.Module):
    """The first stage of S3-Rec: four tasks on masked histories, over the weights of a model (Zhou et al. 2020).

    Parameters
    ----------
    model : S3Rec
        Trained in place; the four output layers and the attribute vectors belong to this stage alone.
    """

    def __init__(self, model: S3Rec) -> None:
        super().__init__()
        config = model.config()
        dim, self.count = config["dim"], config["attributes"]
        self.heads = nn.ModuleDict(
            {name: nn.Linear(dim, dim) for name in ("attribute", "item", "masked_attribute", "segment")}
        )
        self.attribute_embedding = nn.Embedding(max(1, self.count), dim)
        initialise(self)
        self.weights = {name: config[f"{name}_weight"] for name in self.heads}
        self.model = model

    def config(self) -> dict[str, Any]:
        """Arguments of the model."""
        return self.model.config()

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the weighted sum of the four losses of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states = self.model.both_ways(batch.items, packing)
        targets = packing.pack(batch.targets)
        hidden = targets > 0
        parts = {"item": self._items(states[hidden], targets[hidden], batch) / batch.target_count}
        if self.count:
            visible = max(1, int(batch.step_lengths.sum()) - batch.target_count)
            seen = packing.pack(batch.items)[~hidden]
            parts["attribute"] = self._attributes("attribute", states[~hidden], seen) / visible
            masked = self._attributes("masked_attribute", states[hidden], targets[hidden])
            parts["masked_attribute"] = masked / batch.target_count
        parts["segment"] = self._segments(batch) / batch.row_count
        loss = sum((self.weights[name] * part for name, part in parts.items()), states.new_zeros(()))
        return LossOutput(loss, {name: part.detach() for name, part in parts.items()})

    def _items(self, states: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
        """Masked items against one uniform negative each: -log sigmoid(sigmoid(s+) - sigmoid(s-)), as released."""
        rows, steps = (batch.targets > 0).nonzero(as_tuple=True)
        negatives = 1 + draw_integers(batch.seed + 1, self.model.items, batch.positions[rows], steps)
        vectors = self.model.item_embedding
        projected = self.heads["item"](states)
        right, wrong = ((projected * vectors(items)).sum(1).float().sigmoid() for items in (targets, negatives))
        return -F.logsigmoid(right - wrong).sum()

    def _attributes(self, task: str, states: Tensor, items: Tensor) -> Tensor:
        """Binary cross-entropy over all attributes, summed over attributes and states."""
        logits = (self.heads[task](states) @ self.attribute_embedding.weight.T).float()  # [M, A]
        own = self.model.attribute_table[items]  # [M, K]
        return F.softplus(logits).sum() - F.pad(logits, (1, 0)).gather(1, own).sum()

    def _segments(self, batch: SequenceBatch) -> Tensor:
        """The state of a history without a segment, nearer to the segment's own state than to that of another one."""
        rows, lengths = batch.positions, batch.lengths
        mask = self.model.items + 1
        whole = torch.where(batch.targets > 0, batch.targets, batch.items)
        length = 1 + (draw_uniform(batch.seed + 2, rows).double() * (lengths // 2)).long().clamp_max(lengths // 2 - 1)
        start = (draw_uniform(batch.seed + 3, rows).double() * (lengths - length + 1)).long()
        steps = torch.arange(whole.shape[1], device=whole.device)
        inside = (steps >= start[:, None]) & (steps < (start + length)[:, None])
        valid = steps < lengths[:, None]
        other = draw_integers(batch.seed + 4, len(self.model.events), rows)
        strange = self.model.events[(other[:, None] + steps - start[:, None]) % len(self.model.events)]
        copies = [
            torch.where(inside, mask, whole),
            torch.where(inside, whole, mask),
            torch.where(inside, strange, mask),
        ]
        packing = Packing.of(lengths.repeat(3), whole.shape[1])
        states = self.model.both_ways(torch.cat([copy * valid for copy in copies]), packing)[packing.last]
        context, own, foreign = states.view(3, len(rows), states.shape[1])
        context = self.heads["segment"](context)
        right, wrong = ((context * segment).sum(1).float().sigmoid() for segment in (own, foreign))
        return -F.logsigmoid(right - wrong).sum()
