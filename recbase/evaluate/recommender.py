"""Answers of a recommender, and the questions that evaluation may ask of one.

Knows item numbers and scores. Knows nothing of models, of how scores come about, or of raw item ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from recbase.data.sequences import Histories

__all__ = ["NO_ITEM", "Recommendations", "Recommender", "Scorer"]

NO_ITEM = -1
"""Item number that fills the end of a list shorter than k (its score is -inf)."""


@dataclass(frozen=True)
class Recommendations:
    """Ranked items of a batch of histories, best first.

    Parameters
    ----------
    items : ndarray of int64 [B, k]
        Item numbers 1..N; -1 fills the end of a list that has fewer than k items.
    scores : ndarray of float32 [B, k]
        Scores in the recommender's own unit, not increasing along a row; -inf where the item is -1.

    Raises
    ------
    ValueError
        The two arrays have different shapes or are not matrices.
    """

    items: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        items, scores = np.asarray(self.items, dtype=np.int64), np.asarray(self.scores, dtype=np.float32)
        if items.ndim != 2 or items.shape != scores.shape:
            raise ValueError(
                f"items {list(items.shape)} and scores {list(scores.shape)} should both have one shape [B, k]"
            )
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.items.shape[1])

    @property
    def valid(self) -> np.ndarray:
        """bool [B, k]: where a list holds an item."""
        return self.items != NO_ITEM


class Recommender(Protocol):
    """Anything that answers histories with ranked lists: rankers and generators alike."""

    def recommend(self, histories: Histories | Sequence[Sequence[int]], k: int, **options: Any) -> Recommendations:
        """Return the k best items of every history."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores every item for a batch of histories, on whatever device it likes.

    Attributes
    ----------
    n_items : int
        Number N of items; column j of the scores is item number j + 1.
    max_len : int
        Longest history it reads: it is given the latest `max_len` items.
    """

    n_items: int
    max_len: int

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Return float32 scores [B, N] of items [B, T], right padded with 0, of which `lengths` [B] are real."""
        ...
