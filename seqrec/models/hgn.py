"""HGN: gates decide which features of the latest items, and which of these items, matter."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recbase.arguments import Count, Large, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.models.caser import older, user_rows
from seqrec.sequential import SequentialModel, TableScorer

__all__ = ["HGN", "RECIPES"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 2e-3},
    "paper": {
        "dim": 50,
        "window": 5,
        "loss": "bpr",
        "negatives": 1,
        "weight_decay": 8e-8,  # 1e-3 in the authors' code, whose loss is the sum of a batch's 4,096 x 3 pairs
        "optimizer": "adam",
        "batch_size": 4096,
        "lr": 1e-3,
        "epochs": 200,
        "patience": 0,
        "validate_every": 20,
        "form": "prefix",  # a batch is so many windows, not users
    },
    "recbole": {"dim": 64, "window": 50, "loss": "ce", "form": "prefix", "batch_size": 2048},
}


class HGN(SequentialModel):
    """Hierarchical gating networks (Ma et al., KDD 2019, arXiv 1906.09217).

    Feature gate e' = sigmoid(W1 e + W2 u + b) * e, instance gate sigmoid(w3 . e'_j + (W4 u)_j), state = u + the gated
    average of the window's items + the sum of their raw vectors, scores against an output table of its own with biases.
    The window slides over the history, so one pass gives the states of all positions. Default departs from the paper in
    the loss (full softmax as in RecBole instead of BPR) and in predicting one item, not three. A user who was not
    trained on has the mean user vector.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    users : int
        Users, U.
    dim : int, default 64
        Width of item and user vectors.
    window : int, default 5
        Latest items that are read, L.
    max_len : int, default 50
        Longest history that is trained on, in items.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; BPR (the paper).
    negatives : int, default 128
        Uniform negatives a target (bce, bpr) or a step (sampled).
    """

    reads_users = True

    def __init__(
        self,
        items: Large,
        users: Large,
        dim: Width = 64,
        window: Length = 5,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
    ) -> None:
        super().__init__(locals())
        self.window, self.loss, self.negatives = window, loss, negatives
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user_embedding = nn.Embedding(users, dim)
        self.output_embedding = nn.Embedding(items + 1, dim + 1, padding_idx=0)  # the last column is the bias
        self.feature_item = nn.Linear(dim, dim)
        self.feature_user = nn.Linear(dim, dim, bias=False)
        self.instance_item = nn.Linear(dim, 1, bias=False)
        self.instance_user = nn.Linear(dim, window, bias=False)
        initialise(self)
        for layer in (self.feature_item, self.feature_user, self.instance_item, self.instance_user):
            nn.init.xavier_uniform_(layer.weight)
        with torch.no_grad():
            self.output_embedding.weight[:, -1] = 0

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens, with a column of ones for the biases: items [B, T] -> [S, D + 1]."""
        tokens = self.item_embedding(packing.pack(items))
        user = user_rows(self.user_embedding, users, packing)
        gated = (self.feature_item(tokens) + self.feature_user(user)).sigmoid() * tokens
        here, place = self.instance_item(gated), self.instance_user(user)  # [S, 1], [S, L]
        pooled = weights = recent = torch.zeros_like(here)
        for age in range(self.window):
            gate = (older(here, packing, age) + place[:, self.window - 1 - age, None]).sigmoid()
            gate = gate * (packing.steps[:, None] >= age)
            pooled = pooled + gate * older(gated, packing, age)
            weights = weights + gate
            recent = recent + older(tokens, packing, age)
        state = user + pooled / weights + recent
        return torch.cat([state, torch.ones_like(here)], 1)

    def candidates(self) -> Tensor:
        """Output vectors and, in the last column, biases: [N, D + 1]."""
        return self.output_embedding.weight[1:]

    def scorer(self) -> TableScorer:
        """Scores of all items; only the latest ``window`` items are read."""
        return TableScorer(self, self.item_vectors(), min(self.window, self.max_len))
