"""ItemKNN: what other users of the history's items also had. Order-blind and counted, yet strong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbase.arguments import Count, Large, Length, NonNegative, check_arguments
from recbase.data.sequences import Histories
from recbase.model import Pretrained
from recbase.store.restoring import Expected
from seqrec.sequential import sparse_arrays, sparse_table

__all__ = ["ItemKNN"]

_COLUMNS = 2_048  # items whose neighbours are counted at a time


class ItemKNN(Pretrained):
    """Item-to-item collaborative filtering by cosine (Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS 2004).

    sim(i, j) = users with both / (sqrt(users of i) * sqrt(users of j) + shrink), over the binary user-item matrix of
    the training part; every item keeps its ``neighbours`` most similar others; the score of an item is the sum of its
    similarities with the history's items, as in RecBole. Nothing is trained. An item seen in no training history has
    no neighbour and scores 0. A history's items are each other's neighbours, so they stand high in its list unless seen
    items are masked. TSSR's "adaptive" number of neighbours is not described and not built.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    neighbours : int, default 100
        Most similar items that an item keeps.
    shrink : float, default 0.0
        Added to the denominator: lowers the similarity of rare items.
    max_len : int, default 200
        Latest history items used for a score.
    """

    def __init__(self, items: Large, neighbours: Count = 100, shrink: NonNegative = 0.0, max_len: Length = 200) -> None:
        self._config = {"items": items, "neighbours": neighbours, "shrink": shrink, "max_len": max_len}
        check_arguments(type(self), self._config)
        self.items, self.neighbours, self.shrink, self.max_len = items, neighbours, shrink, max_len
        self.table = sparse.csr_array((items + 1, items + 1), dtype=np.float32)

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(self._config)

    def fit(self, train: Histories) -> ItemKNN:
        """Count which items share users in the training part."""
        items, offsets = train.flat()
        users = np.repeat(np.arange(len(train)), np.diff(offsets))
        size = self.items + 1
        had = sparse.coo_array((np.ones(len(items), np.float32), (users, items)), shape=(len(train), size)).tocsr()
        had.data[:] = 1  # a repeated purchase counts once
        norms = np.sqrt(np.bincount(had.indices, minlength=size)).astype(np.float32)
        columns = had.tocsc()
        backwards = had.T.tocsr()
        parts = []
        for start in range(0, size, _COLUMNS):
            near = (backwards @ columns[:, start : start + _COLUMNS]).tocoo()
            row, column = near.coords
            column = column + start
            others = row != column
            row, column, together = row[others], column[others], near.data[others]
            parts.append(self._nearest(row, column, together / (norms[row] * norms[column] + self.shrink)))
        rows, cols, values = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        self.table = sparse.csr_array((values.astype(np.float32), (rows, cols)), shape=(size, size))
        return self

    def _nearest(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, ...]:
        """The entries that are among the largest of their column; equal ones in the order of item numbers."""
        order = np.lexsort((row, -value, column))
        row, column, value = row[order], column[order], value[order]
        first = np.flatnonzero(np.diff(column, prepend=-1))
        place = np.arange(len(column)) - np.repeat(first, np.diff(first, append=len(column)))
        kept = place < self.neighbours
        return row[kept], column[kept], value[kept]

    def expected(self) -> dict[str, Expected]:
        """Arrays that a saved model has."""
        return sparse_arrays(self.items + 1)

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`load` restores."""
        table = self.table
        return {
            "data": table.data,
            "indices": table.indices.astype(np.int64),
            "indptr": table.indptr.astype(np.int64),
        }

    def load(self, tensors: dict[str, np.ndarray]) -> ItemKNN:
        """Restore what :meth:`tensors` gave."""
        self.table = sparse_table(tensors, self.items + 1)
        return self

    def scorer(self) -> ItemKNNScorer:
        """Scores for evaluation and recommendation."""
        return ItemKNNScorer(self)


class ItemKNNScorer:
    """A sparse product of the distinct items of the histories with the similarities."""

    def __init__(self, model: ItemKNN) -> None:
        self.n_items, self.max_len, self.table = model.items, model.max_len, model.table[:, 1:]

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> [B, N]."""
        numbers = items.cpu().numpy()
        rows, steps = np.nonzero(numbers)
        shape = (len(numbers), self.n_items + 1)
        ones = np.ones(len(rows), dtype=np.float32)
        history = sparse.coo_array((ones, (rows, numbers[rows, steps])), shape=shape).tocsr()
        history.data[:] = 1
        return torch.from_numpy((history @ self.table).toarray().astype(np.float32)).to(items.device)
