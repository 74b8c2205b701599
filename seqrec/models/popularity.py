"""PopRec: rank every item by how often it occurs in the training part. The floor of every table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import Large, check_arguments
from recbase.data.sequences import Histories
from recbase.model import Pretrained
from recbase.store.restoring import Expected

__all__ = ["Popularity"]


class Popularity(Pretrained):
    """Score = number of training interactions of the item, the same list for everyone. Nothing is trained.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    """

    def __init__(self, items: Large) -> None:
        check_arguments(type(self), locals())
        self.items = items
        self.counts = torch.zeros(items, dtype=torch.float32)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"items": self.items}

    def fit(self, train: Histories) -> Popularity:
        """Count the training events."""
        counts = np.bincount(train.flat()[0], minlength=self.items + 1)[1:]
        self.counts = torch.from_numpy(counts.astype(np.float32))
        return self

    def expected(self) -> dict[str, Expected]:
        """Arrays that a saved model has."""
        return {"counts": Expected((self.items,))}

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`load` restores."""
        return {"counts": self.counts.numpy()}

    def load(self, tensors: dict[str, np.ndarray]) -> Popularity:
        """Restore what :meth:`tensors` gave."""
        self.counts = torch.from_numpy(tensors["counts"].copy())
        return self

    def scorer(self) -> PopularityScorer:
        """Scores for evaluation and recommendation."""
        return PopularityScorer(self.counts)


class PopularityScorer:
    """Popularity as a scorer: the history is ignored."""

    max_len = 1

    def __init__(self, counts: Tensor) -> None:
        self.counts, self.n_items = counts, len(counts)

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> [B, N]."""
        return self.counts.to(items.device).expand(len(items), -1)
