"""How often users have an item again: it decides what a figure with seen items kept, or masked, can mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbase.data.sequences import Histories

__all__ = ["Repeats", "repeats_of", "repeats_sentence"]


@dataclass(frozen=True)
class Repeats:
    """Shares of repetition.

    Attributes
    ----------
    events : float
        Share of the events, each user's first left out, whose item the user had before.
    users : float
        Share of the users who have any item twice.
    in_a_row : float
        Share of the same events that repeat the item just before.
    """

    events: float
    users: float
    in_a_row: float


def repeats_of(histories: Histories) -> Repeats:
    """Count the repeats of U histories."""
    items, offsets = histories.flat()
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    # one number a pair of user and item: as many distinct ones as there are first times
    pairs = owner * (int(items.max(initial=0)) + 1) + items
    again = lengths - np.bincount(np.unique(pairs) // (int(items.max(initial=0)) + 1), minlength=len(lengths))
    later = max(1, int(np.maximum(lengths - 1, 0).sum()))
    in_a_row = int(((items[1:] == items[:-1]) & (owner[1:] == owner[:-1])).sum()) if len(items) else 0
    users = float((again > 0).mean()) if len(lengths) else 0.0
    return Repeats(round(float(again.sum()) / later, 6), round(users, 6), round(in_a_row / later, 6))


def repeats_sentence(share: Any) -> str:
    """Sentence on what a share of repeated events means for the two policies; empty where none is known."""
    if not isinstance(share, int | float):
        return ""
    if not share:
        return "no user has an item twice: items of the history that stand in a list are wasted places"
    return f"{share:.1%} of the later events repeat an item of the user, which a list without seen items cannot hold"
