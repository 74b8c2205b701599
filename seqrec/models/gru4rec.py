"""GRU4Rec: a recurrent network over item embeddings."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recbase.arguments import Count, Depth, Dropout, Large, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.sequential import SequentialModel

__all__ = ["RECIPES", "GRU4Rec", "recurrent_states"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 5e-3},
    "paper": {
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
        "loss": "ce",
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
    },
}


def recurrent_states(network: nn.GRU | nn.RNN, x: Tensor, packing: Packing) -> Tensor:
    """Outputs of a recurrent network at all real tokens: packed [S, D] -> [S, H]; pads cost nothing.

    The network runs step by step over the rows that are still going on, the longest row first.
    """
    if packing.dense:
        padded = x.unflatten(0, (packing.rows, packing.width)).transpose(0, 1)
        return network(padded)[0].transpose(0, 1).flatten(0, 1)
    if len(x) == 0:
        return x.new_zeros(0, network.hidden_size) + x.sum() * 0 + sum(p.sum() * 0 for p in network.parameters())
    place = (-packing.lengths).argsort(stable=True).argsort()  # rank of each row by length
    order = (packing.steps * packing.rows + place[packing.row]).argsort()
    with torch.autocast(x.device.type, enabled=False):
        outputs = network(PackedSequence(x[order].float(), packing.going_on))[0].data
    return torch.empty_like(outputs).index_copy(0, order, outputs)


class GRU4Rec(SequentialModel):
    """Session-based recommendation with a gated recurrent unit (Hidasi et al., ICLR 2016, arXiv 1511.06939).

    As in RecBole: item embeddings with dropout, one GRU layer without biases, a linear layer back to the width of the
    embeddings, scores against the same table, full softmax. The paper has one-hot inputs, a table of its own for the
    outputs, TOP1 or BPR with the other sessions of a session-parallel mini-batch as negatives, and Adagrad; recipe
    ``paper`` takes its widths and TOP1 with uniform negatives, on our batches and with Adam.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim : int, default 64
        Width of the item embeddings.
    hidden : int, default 128
        Width of the recurrent state.
    layers : int, default 1
        Recurrent layers.
    dropout : float, default 0.3
        On the item embeddings.
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
        self.recurrent = nn.GRU(dim, hidden, layers, bias=False)
        self.out = nn.Linear(hidden, dim)
        initialise(self)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        tokens = F.dropout(self.item_embedding(packing.pack(items)), self.dropout, self.training)
        projected: Tensor = self.out(recurrent_states(self.recurrent, tokens, packing))
        return projected
