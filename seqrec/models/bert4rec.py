"""BERT4Rec: a bidirectional Transformer that fills in masked items."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Chance, Count, Depth, Dropout, Heads, Large, Length, Share, Width
from recbase.data.sequences import SequenceBatch
from recbase.model import initialise
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput
from seqrec.objectives import next_item_loss, target_states
from seqrec.sequential import SequentialModel, TableScorer

__all__ = ["RECIPES", "BERT4Rec", "with_mask"]

RECIPES = {
    "default": {"epochs": 200, "batch_size": 256, "patience": 12, "lr": 2e-3, "validate_every": 2},
    "paper": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "mask_prob": 0.2,
        "last_prob": 0.0,
        "loss": "ce",
        "batch_size": 256,
        "lr": 1e-4,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_steps": 100,
        "clip": 5.0,
        "epochs": 500,
    },
    "recbole": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "mask_prob": 0.2,
        "last_prob": 0.5,
        "batch_size": 2048,
    },
}


def with_mask(items: Tensor, lengths: Tensor, mask_item: int) -> tuple[Tensor, Tensor]:
    """Histories [B, T] with a [MASK] behind their last item: [B, T + 1] and the new lengths."""
    longer = F.pad(items, (0, 1))
    behind = torch.arange(longer.shape[1], device=items.device) == lengths[:, None]
    return torch.where(behind, mask_item, longer), lengths + 1


class BERT4Rec(SequentialModel):
    """Sequential recommendation with bidirectional encoders (Sun et al., CIKM 2019, arXiv 1904.06690).

    Random items of a history are replaced by [MASK] and predicted from both sides (CLOZE form); a [MASK] behind the
    history asks for the next item. Post-LN blocks with GELU, an output layer Linear-GELU-LN, scores against the tied
    table with a bias an item. A share ``last_prob`` of the samples masks the last item alone, as at test time; the
    paper appends such samples to the training set. It sees both sides, so other sample forms would leak.

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
    dropout : float, default 0.2
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest sequence with its [MASK]; one item less is read of a history.
    mask_prob : float, default 0.2
        Share of the items that are masked.
    last_prob : float, default 0.3
        Share of the samples in which only the last item is masked.
    loss : {"ce", "sampled"}, default "ce"
        Softmax over all items, or over shared uniform negatives.
    negatives : int, default 256
        Negatives a step of the sampled softmax.
    """

    def __init__(
        self,
        items: Large,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.2,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        mask_prob: Share = 0.2,
        last_prob: Chance = 0.3,
        loss: Literal["ce", "sampled"] = "ce",
        negatives: Count = 256,
    ) -> None:
        super().__init__(locals())
        if max_len < 2:
            raise ValueError(f"--max-len must be at least 2 (an item and the mask), got {max_len}")
        self.dropout, self.loss, self.negatives = dropout, loss, negatives
        self.mask_prob, self.last_prob = mask_prob, last_prob
        self.item_embedding = nn.Embedding(items + 2, dim, padding_idx=0)  # the last row is [MASK]
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout, causal=False)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(items))
        initialise(self)

    def batch_settings(self) -> dict[str, Any]:
        """Settings by which CLOZE samples are masked."""
        return {"mask_item": self.items + 1, "mask_prob": self.mask_prob, "last_prob": self.last_prob}

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """Encoder states of all real tokens, masked ones included: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items)) + self.position_embedding(packing.steps)
        encoded: Tensor = self.encoder(F.dropout(self.embedding_norm(tokens), self.dropout, self.training), packing)
        return encoded

    def answers(self, states: Tensor) -> Tensor:
        """Output layer, with a column of ones for the biases: [M, D] -> [M, D + 1]."""
        found = self.head(states).float()
        return torch.cat([found, torch.ones_like(found[:, :1])], 1)

    def candidates(self) -> Tensor:
        """Item vectors and, in the last column, biases: [N, D + 1]."""
        return torch.cat([self.item_embedding.weight[1 : self.items + 1], self.bias[:, None]], 1)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over the masked items of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        chosen, targets = target_states(self.states(batch.items, packing), packing, batch)
        answers, table = self.answers(chosen), self.candidates()
        loss = next_item_loss(answers, table, targets, batch, self.loss, self.negatives)
        return LossOutput(loss, {self.loss: loss.detach()})

    def user_vectors(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """The answer to a [MASK] behind each history: items [B, T] -> [B, D + 1]."""
        longer, more = with_mask(items, lengths, self.items + 1)
        packing = Packing.of(more, longer.shape[1])
        return self.answers(self.states(longer, packing)[packing.last])

    def scorer(self) -> TableScorer:
        """Scores of all items; the [MASK] takes one place of ``max_len``."""
        return TableScorer(self, self.item_vectors(), self.max_len - 1)
