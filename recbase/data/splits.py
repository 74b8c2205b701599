"""Events that are trained on, that choose the model, that are reported. Splits are slices; nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbase.data.sequences import Histories

__all__ = ["Split", "Targets", "global_time", "leave_last_out"]


@dataclass(frozen=True)
class Targets:
    """Events to be predicted: for each, the user, what that user did before, and the item.

    Parameters
    ----------
    users : ndarray of int64 [B]
        Row numbers of the users in the data set.
    histories : Histories
        What each had done before the event, [B].
    items : ndarray of int32 [B]
        The item numbers to be found.
    """

    users: np.ndarray
    histories: Histories
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Targets:
        """Some of the events, in the order given."""
        return Targets(self.users[rows], self.histories.take(rows), self.items[rows])


@dataclass(frozen=True)
class Split:
    """A training part and the events for validation and test.

    Parameters
    ----------
    name : str
        ``"leave-last-out"`` or ``"global-time"``, written into every result.
    train : Histories
        Training histories of all U users. Statistics of any kind are taken from these alone.
    valid, test : Targets
    """

    name: str
    train: Histories
    valid: Targets
    test: Targets


def leave_last_out(histories: Histories) -> Split:
    """Last event of a user = test, the one before = validation, the rest = training.

    The test history contains the validation item. Users with fewer than three events are trained on but not evaluated.

    Raises
    ------
    ValueError
        If no user has three events.
    """
    users = np.flatnonzero(histories.lengths >= 3)
    if len(users) == 0:
        raise ValueError(
            f"leave-last-out needs a user with at least 3 events; the longest of {len(histories)} has "
            f"{int(histories.lengths.max(initial=0))}"
        )
    starts, ends = histories.starts[users], histories.ends[users]
    train_ends = histories.ends.copy()
    train_ends[users] -= 2
    return Split(
        "leave-last-out",
        Histories(histories.items, histories.starts, train_ends),
        Targets(users, Histories(histories.items, starts, ends - 2), histories.items[ends - 2]),
        Targets(users, Histories(histories.items, starts, ends - 1), histories.items[ends - 1]),
    )


def global_time(histories: Histories, timestamps: np.ndarray, valid_from: int, test_from: int) -> Split:
    """Train on what came before ``valid_from``; predict each user's first event from then and from ``test_from`` on.

    Parameters
    ----------
    histories : Histories
    timestamps : ndarray of int64 [E]
        Time of each entry of ``histories.items``, ascending within a user.
    valid_from, test_from : int
        Cut times in the unit of ``timestamps``, ``valid_from < test_from``.

    Raises
    ------
    ValueError
        If the cuts are not in order, ``timestamps`` has another length, or no event can be predicted.
    """
    if valid_from >= test_from:
        raise ValueError(f"valid_from ({valid_from}) must lie before test_from ({test_from})")
    if len(timestamps) != len(histories.items):
        raise ValueError(f"timestamps has {len(timestamps)} entries but there are {len(histories.items)} events")
    before_valid = histories.starts + _count_before(histories, timestamps, valid_from)
    before_test = histories.starts + _count_before(histories, timestamps, test_from)
    valid = np.flatnonzero((before_valid < before_test) & (before_valid > histories.starts))
    test = np.flatnonzero((before_test < histories.ends) & (before_test > histories.starts))
    if len(valid) == 0 or len(test) == 0:
        raise ValueError(f"no user has events to predict after the cuts {valid_from} and {test_from}")
    return Split(
        "global-time",
        Histories(histories.items, histories.starts, before_valid),
        _first_events(histories, valid, before_valid),
        _first_events(histories, test, before_test),
    )


def _first_events(histories: Histories, users: np.ndarray, cut: np.ndarray) -> Targets:
    slices = Histories(histories.items, histories.starts[users], cut[users])
    return Targets(users, slices, histories.items[cut[users]])


def _count_before(histories: Histories, timestamps: np.ndarray, cut: int) -> np.ndarray:
    """Events of each user before ``cut``, int64 [U]."""
    earlier = np.concatenate([[0], np.cumsum(timestamps < cut)])
    return (earlier[histories.ends] - earlier[histories.starts]).astype(np.int64)
