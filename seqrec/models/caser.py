"""Caser: convolutions over the image of the latest items."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Dropout, Large, Length, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.sequential import SequentialModel, TableScorer

__all__ = ["RECIPES", "Caser", "older"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "lr": 3e-3},
    "paper": {
        "dim": 50,
        "window": 5,
        "vertical": 4,
        "horizontal": 16,
        "dropout": 0.5,
        "loss": "bce",
        "negatives": 3,
        "weight_decay": 1e-6,
        "optimizer": "adam",
        "batch_size": 512,
        "form": "prefix",  # a batch is so many windows, not users
    },
    "recbole": {
        "dim": 64,
        "window": 50,
        "vertical": 4,
        "horizontal": 8,
        "dropout": 0.4,
        "loss": "ce",
        "form": "prefix",
        "batch_size": 2048,
    },
}


def older(x: Tensor, packing: Packing, steps: int, empty: Tensor | float = 0.0) -> Tensor:
    """Tokens ``steps`` items earlier in the same history: packed [S, D] -> [S, D]; ``empty`` before its start."""
    if steps == 0:
        return x
    shifted = F.pad(x, (0, 0, steps, 0))[: x.shape[0]]
    fill = torch.as_tensor(empty, dtype=x.dtype, device=x.device)
    return torch.where(packing.steps[:, None] >= steps, shifted, fill)


class Caser(SequentialModel):
    """Convolutional sequence embedding (Tang and Wang, WSDM 2018, arXiv 1809.07426).

    The latest ``window`` items are an image, zeros before the first item: vertical filters span all of its rows,
    horizontal filters of every height are followed by the maximum over time; a ReLU layer, the user's vector, another
    ReLU layer (as in RecBole, so that scores use the item table; the paper has an output table of twice the width
    instead). The image slides over the history, so one pass gives the states of all positions; each is what the image
    ending there gives. The paper predicts the next three items by binary cross-entropy, here the next one. A user who
    was not trained on has the mean user vector.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    users : int
        Users, U.
    dim : int, default 64
        Width of item and user vectors.
    window : int, default 5
        Items in the image, L.
    vertical : int, default 4
        Vertical filters.
    horizontal : int, default 8
        Horizontal filters of each height 1..L.
    dropout : float, default 0.4
        On the output of the convolutions.
    max_len : int, default 50
        Longest history that is trained on, in items.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy (the paper); BPR.
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
        vertical: Width = 4,
        horizontal: Width = 8,
        dropout: Dropout = 0.4,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 128,
    ) -> None:
        super().__init__(locals())
        self.window, self.dropout, self.loss, self.negatives = window, dropout, loss, negatives
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user_embedding = nn.Embedding(users, dim)
        self.vertical = nn.Linear(window, vertical)
        # One matrix for the filters of all heights: columns are (height, row of the filter, filter).
        self.horizontal = nn.Linear(dim, horizontal * window * (window + 1) // 2, bias=False)
        self.horizontal_bias = nn.Parameter(torch.zeros(window, horizontal))
        self.first = nn.Linear(dim * vertical + horizontal * window, dim)
        self.second = nn.Linear(2 * dim, dim)
        initialise(self)
        for layer in (self.vertical, self.horizontal, self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items))
        image = torch.stack([older(tokens, packing, age) for age in reversed(range(self.window))], 2)  # [S, D, L]
        convolved = [self.vertical(image).flatten(1), *self._horizontal(tokens, packing)]
        x = F.relu(self.first(F.dropout(torch.cat(convolved, 1), self.dropout, self.training)))
        states: Tensor = F.relu(self.second(torch.cat([x, user_rows(self.user_embedding, users, packing)], 1)))
        return states

    def _horizontal(self, tokens: Tensor, packing: Packing) -> list[Tensor]:
        """Maximum over time of the filters of each height: packed [S, D] -> a list of [S, filters]."""
        filters = self.horizontal_bias.shape[1]
        products = self.horizontal(tokens).split(filters, 1)
        found, first = [], 0
        for height in range(1, self.window + 1):
            rows = products[first : first + height]  # row r of the filter meets the item height - 1 - r steps back
            bias = self.horizontal_bias[height - 1]
            response = sum((older(row, packing, height - 1 - at) for at, row in enumerate(rows)), bias)
            response = F.relu(response)
            nothing = F.relu(bias).to(response.dtype)  # what the filter gives on zeros
            places = [older(response, packing, age, nothing) for age in range(self.window - height + 1)]
            found.append(torch.stack(places).amax(0))
            first += height
        return found

    def scorer(self) -> TableScorer:
        """Scores of all items; only the latest ``window`` items are read."""
        return TableScorer(self, self.item_vectors(), min(self.window, self.max_len))


def user_rows(table: nn.Embedding, users: Tensor | None, packing: Packing) -> Tensor:
    """The vector of each token's user, [S, D]; the mean of all users where they are not known."""
    if users is None:
        return table.weight.mean(0).expand(packing.steps.shape[0], -1)
    vectors: Tensor = table(users)[packing.row]
    return vectors
