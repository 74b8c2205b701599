"""The usual way to train and score a ranking model: states of histories times vectors of items.

A model needs nothing of `SequentialModel` to be trained, only the calls that `seqrec.item_content` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbase.data.sequences import SequenceBatch
from recbase.model import Network
from recbase.nn.transformer import Packing
from recbase.store.restoring import Expected
from recbase.train.loop import LossOutput
from seqrec.objectives import next_item_loss, target_states

__all__ = ["SequentialModel", "TableScorer", "sparse_arrays", "sparse_table"]


class SequentialModel(Network):
    """A model whose score is a dot product of a history's last state with an item vector.

    A subclass passes ``locals()`` of its constructor, makes an ``item_embedding`` of at least N + 1 rows (row 0 is
    padding, row i item i) and defines `states`; it may override `candidates` and the class attributes.

    Parameters
    ----------
    arguments : mapping
        The constructor's arguments by name; ``items`` and ``max_len`` must be among them.
    """

    loss: Any = "ce"
    negatives: int = 1
    scale: float = 1.0
    exponent: float = 1.0
    reads_users: ClassVar[bool] = False

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens of ``items`` [B, T]: [S, D]. ``users`` [B] only where ``reads_users``."""
        raise NotImplementedError

    def candidates(self) -> Tensor:
        """Vectors that states are scored against, with gradient: [N, D]."""
        table: Tensor = self.item_embedding.weight  # type: ignore[union-attr,assignment]
        return table[1 : self.items + 1]

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        loss = self.next_item(self.states(batch.items, packing, batch.users), packing, batch)
        return LossOutput(loss, {self.loss: loss.detach()})

    def next_item(self, states: Tensor, packing: Packing, batch: SequenceBatch) -> Tensor:
        """Share of the next-item loss of packed states [S, D]."""
        chosen, targets = target_states(states, packing, batch)
        return next_item_loss(
            chosen, self.candidates(), targets, batch, self.loss, self.negatives, self.scale, self.exponent
        )

    def user_vectors(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Last states: items [B, T] -> [B, D]. Their dot product with :meth:`item_vectors` is the score."""
        packing = Packing.of(lengths, items.shape[1])
        return self.states(items, packing, users)[packing.last]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Vectors that states are scored against, in eval mode: [N, D]."""
        training = self.training
        self.eval()
        vectors = self.candidates().detach()
        self.train(training)
        return vectors

    def scorer(self) -> TableScorer:
        """Scores of all items from the last state of a history."""
        return TableScorer(self, self.item_vectors())


class TableScorer:
    """Scores of a model whose score is a dot product of a user vector and an item vector.

    Parameters
    ----------
    model : module
        Has ``user_vectors(items, lengths)`` and ``max_len``.
    table : Tensor [N, D]
        Item vectors, computed once.
    max_len : int, optional
        Longest history; the model's if not given.
    """

    def __init__(self, model: Any, table: Tensor, max_len: int | None = None) -> None:
        self.model, self.table = model.eval(), table.T.contiguous()
        self.n_items, self.max_len = table.shape[0], max_len or model.max_len
        self.reads_users = bool(getattr(model, "reads_users", False))

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        device = self.table.device
        items, lengths = items.to(device), lengths.to(device)
        if self.reads_users and users is not None:
            vectors = self.model.user_vectors(items, lengths, users.to(device))
        else:
            vectors = self.model.user_vectors(items, lengths)
        return vectors.float() @ self.table.float()


def sparse_arrays(size: int) -> dict[str, Expected]:
    """Arrays of a saved sparse matrix [size, size]."""
    return {
        "data": Expected((None,)),
        "indices": Expected((None,), "i"),
        "indptr": Expected((size + 1,), "i"),
    }


def sparse_table(tensors: Mapping[str, np.ndarray], size: int) -> sparse.csr_array:
    """A sparse matrix [size, size] from its arrays; ValueError where they are not those of one."""
    data, columns, starts = tensors["data"], tensors["indices"], tensors["indptr"]
    if starts[0] or starts[-1] != len(columns) or (np.diff(starts) < 0).any() or len(data) != len(columns):
        raise ValueError(f"'indptr' must rise from 0 to {len(data)}, the length of 'data' and 'indices'")
    if len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < size:
        raise ValueError(f"'indices' must lie in 0..{size - 1}, found {int(columns.min())} to {int(columns.max())}")
    return sparse.csr_array((data, columns, starts), shape=(size, size))
