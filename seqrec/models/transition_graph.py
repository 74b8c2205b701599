"""The transition graph: what is one or two steps from the latest items, ordered by likeness. It learns nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbase.arguments import Large, Length, Range, check_arguments
from recbase.data.sequences import Histories
from recbase.model import Pretrained
from recbase.store.restoring import Expected
from seqrec.sequential import sparse_arrays, sparse_table

__all__ = ["TransitionGraph"]

_RING = 4.0  # above the width of a cosine, so that no likeness lifts an item into a nearer ring


class TransitionGraph(Pretrained):
    """Rings of the transition graph around the latest items, ranked by text (Han et al. 2026, arXiv 2605.07125, TGH).

    An edge leads from each item to every item that came right after it in the training part. Items that are one step
    from the latest item come first, then those one step from the item before it, then those two steps away; within a
    ring the most alike in text to the ring's centre stands first, and so do all items outside. Departures: the paper
    encodes texts with FLAN-T5 XL, here any vectors do; it publishes a variant of one centre with three rings and one of
    two centres with two, here both numbers are free; items outside the rings have a place too.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int, default 0
        Width of the text vectors; 0 where there are none.
    latest : int, default 2
        Latest items that rings lie around.
    hops : int, default 2
        Rings around each of these items.
    rank_by : {"text", "counts"}, default "text"
        Order within a ring: likeness of text, or share of the transitions from its centre.
    """

    def __init__(
        self,
        items: Large,
        text_dim: int = 0,
        latest: Length = 2,
        hops: Annotated[int, Range(1, 4)] = 2,
        rank_by: Literal["text", "counts"] = "text",
    ) -> None:
        self._config: dict[str, Any] = {
            "items": items,
            "text_dim": text_dim,
            "latest": latest,
            "hops": hops,
            "rank_by": rank_by,
        }
        check_arguments(type(self), self._config)
        self.items, self.latest, self.hops, self.max_len = items, latest, hops, latest
        self.table = sparse.csr_array((items + 1, items + 1), dtype=np.float32)
        self.text = np.zeros((items, text_dim), dtype=np.float32)

    @staticmethod
    def reads(arguments: dict[str, Any]) -> tuple[str, ...]:
        """Inputs with these options: no text where counts rank."""
        return ("ids",) if arguments.get("rank_by") == "counts" else ("ids", "text")

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(self._config)

    def with_content(self, text: np.ndarray) -> TransitionGraph:
        """Set the text vectors, float32 [N, d]; ValueError where they are of another shape."""
        expected = (self.items, self._config["text_dim"])
        if text.shape != expected:
            raise ValueError(f"text has shape {text.shape}, expected {expected}")
        length = np.linalg.norm(text, axis=1, keepdims=True)
        self.text = (text / np.maximum(length, 1e-12)).astype(np.float32)
        return self

    def fit(self, train: Histories) -> TransitionGraph:
        """Count the steps of the training part."""
        items, offsets = train.flat()
        owner = np.repeat(np.arange(len(train)), np.diff(offsets))
        same = owner[:-1] == owner[1:]
        pairs = items[:-1][same], items[1:][same]
        size = self.items + 1
        table = sparse.coo_array((np.ones(len(pairs[0]), np.float32), pairs), shape=(size, size)).tocsr()
        leaving = np.maximum(table.sum(1), 1)
        self.table = sparse.csr_array(sparse.diags_array(1 / leaving) @ table, dtype=np.float32)
        return self

    def expected(self) -> dict[str, Expected]:
        """Arrays that a saved model has."""
        return sparse_arrays(self.items + 1) | {"text": Expected((self.items, self._config["text_dim"]))}

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays that :meth:`load` restores."""
        return {
            "data": self.table.data,
            "indices": self.table.indices.astype(np.int64),
            "indptr": self.table.indptr.astype(np.int64),
            "text": self.text,
        }

    def load(self, tensors: dict[str, np.ndarray]) -> TransitionGraph:
        """Restore what :meth:`tensors` gave."""
        self.table, self.text = sparse_table(tensors, self.items + 1), tensors["text"]
        return self

    def scorer(self) -> TransitionGraphScorer:
        """Scores for evaluation and recommendation."""
        return TransitionGraphScorer(self)


class TransitionGraphScorer:
    """The rings of a batch: a sparse product a step."""

    def __init__(self, model: TransitionGraph) -> None:
        self.n_items, self.max_len, self.hops = model.items, model.latest, model.hops
        self.table = model.table
        self.text = model.text if model.text.shape[1] and model.config()["rank_by"] == "text" else None

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> [B, N]."""
        numbers, length = items.cpu().numpy(), lengths.cpu().numpy()
        rows = np.arange(len(numbers))
        last = numbers[rows, np.maximum(length - 1, 0)]
        rings = self.max_len * self.hops
        scores = self._likeness(last, self.table[last]) - _RING * rings
        # from the farthest ring to the nearest, so that an item stands in the nearest of its rings
        for hop in reversed(range(self.hops)):
            for age in reversed(range(self.max_len)):
                there = length > age
                centre = np.where(there, numbers[rows, np.maximum(length - 1 - age, 0)], 0)
                reached = self.table[centre]
                for _ in range(hop):
                    reached = sparse.csr_array(reached @ self.table)
                inside = reached.toarray()[:, 1:] > 0
                ring = _RING * (hop * self.max_len + age)
                scores = np.where(inside, self._likeness(centre, reached) - ring, scores)
        return torch.from_numpy(scores.astype(np.float32)).to(items.device)

    def _likeness(self, centre: np.ndarray, reached: sparse.csr_array) -> np.ndarray:
        """Likeness of every item to the centres, within -1..1: [B, N]."""
        if self.text is None:
            shares: np.ndarray = reached.toarray()[:, 1:]
            return shares
        own = np.where(centre[:, None] > 0, self.text[np.maximum(centre - 1, 0)], 0)
        likeness: np.ndarray = own @ self.text.T
        return likeness
