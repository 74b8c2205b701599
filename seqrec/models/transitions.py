"""The transition counter: what followed what in the training part. It learns nothing and beats many models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbase.arguments import Large, Length, NonNegative, Share, check_arguments
from recbase.data.sequences import Histories
from recbase.model import Pretrained
from recbase.store.restoring import Expected
from seqrec.sequential import sparse_arrays, sparse_table

__all__ = ["Transitions"]


class Transitions(Pretrained):
    """Decayed co-occurrence counts of ordered item pairs.

    Every pair (a, b) with b at most ``window`` steps after a adds 1 / sqrt(steps) to C[a, b]. The score of item i is
    the sum over the history of decay**age * C[a, i] / sqrt(1 + count(a)), age 0 being the latest item; popularity
    breaks ties. Our own baseline: it needs no training, so a model that does not beat it has learned little.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    window : int, default 20
        Longest distance counted, in events.
    decay : float, default 0.8
        Weight of a history item relative to the one after it.
    symmetric : bool, default False
        Count both directions.
    max_len : int, default 50
        Latest history items used for a score.
    second_step : float, default 0.0
        Weight of the second step, what followed the items that followed, for items that nothing led to directly.
    """

    def __init__(
        self,
        items: Large,
        window: Length = 20,
        decay: Share = 0.8,
        symmetric: bool = False,
        max_len: Length = 50,
        second_step: NonNegative = 0.0,
    ) -> None:
        check_arguments(type(self), locals())
        self.items, self.window, self.decay, self.symmetric, self.max_len = items, window, decay, symmetric, max_len
        self.second_step = second_step
        self.table = sparse.csr_array((items + 1, items + 1), dtype=np.float32)
        self.popularity = np.zeros(items, dtype=np.float32)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        names = ("items", "window", "decay", "symmetric", "max_len", "second_step")
        return {name: getattr(self, name) for name in names}

    def fit(self, train: Histories) -> Transitions:
        """Count the ordered pairs of the training part."""
        items, offsets = train.flat()
        owner = np.repeat(np.arange(len(train)), np.diff(offsets))
        size = self.items + 1
        table = sparse.csr_array((size, size), dtype=np.float64)
        for steps in range(1, min(self.window, int(train.lengths.max(initial=0)) - 1) + 1):
            same = owner[:-steps] == owner[steps:]
            before, after = items[:-steps][same], items[steps:][same]
            weights = np.full(len(before), 1 / np.sqrt(steps))
            table = table + sparse.coo_array((weights, (before, after)), shape=(size, size)).tocsr()
        if self.symmetric:
            table = table + table.T
        counts = np.bincount(items, minlength=size)
        scaled = sparse.diags_array(1 / np.sqrt(1 + counts)) @ table
        self.table = sparse.csr_array(scaled, dtype=np.float32)
        self.popularity = (counts[1:] / max(1, counts.max())).astype(np.float32)
        return self

    def expected(self) -> dict[str, Expected]:
        """Arrays that a saved model has."""
        return sparse_arrays(self.items + 1) | {"popularity": Expected((self.items,))}

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`load` restores."""
        table = self.table
        return {
            "data": table.data,
            "indices": table.indices.astype(np.int64),
            "indptr": table.indptr.astype(np.int64),
            "popularity": self.popularity,
        }

    def load(self, tensors: dict[str, np.ndarray]) -> Transitions:
        """Restore what :meth:`tensors` gave."""
        self.table = sparse_table(tensors, self.items + 1)
        self.popularity = tensors["popularity"]
        return self

    def scorer(self) -> TransitionScorer:
        """Scores for evaluation and recommendation."""
        return TransitionScorer(self)


class TransitionScorer:
    """The counter as a scorer: a sparse product of decayed histories with the table."""

    def __init__(self, model: Transitions) -> None:
        self.n_items, self.max_len, self.decay = model.items, model.max_len, model.decay
        self.table, self.second_step = model.table, model.second_step
        self.tie_break = model.popularity * 1e-6

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> [B, N]."""
        numbers, length = items.cpu().numpy(), lengths.cpu().numpy()
        rows, steps = np.nonzero(numbers)
        ages = length[rows] - 1 - steps
        weights = (self.decay ** ages.astype(np.float64)).astype(np.float32)
        shape = (len(numbers), self.n_items + 1)
        history = sparse.coo_array((weights, (rows, numbers[rows, steps])), shape=shape).tocsr()
        first = sparse.csr_array(history @ self.table)
        scores = first.toarray()[:, 1:] + self.tie_break
        if self.second_step:
            # each user's first step sums to 1, so that a long history does not weigh more in the second
            shares = sparse.diags_array(1 / np.maximum(first.sum(1), 1e-9)) @ first
            scores = scores + self.second_step * (shares @ self.table).toarray()[:, 1:]
        return torch.from_numpy(scores.astype(np.float32)).to(items.device)
