"""Events that are trained on, that choose the model, that are reported. Splits are slices; nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbase.data.sequences import Histories

__all__ = ["DIVISIONS", "Split", "Targets", "global_time", "held_out_users", "leave_last_out"]

DIVISIONS = {"last": "leave-last-out", "time": "global-time", "users": "held-out-users"}
"""Short name of every split, as options spell it, and the name that results record."""


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
    strangers : bool, default False
        Whether nothing of these users was trained on: a model is not told who they are.
    """

    users: np.ndarray
    histories: Histories
    items: np.ndarray
    strangers: bool = False

    def __len__(self) -> int:
        return len(self.users)

    @property
    def known_users(self) -> np.ndarray | None:
        """Rows of the users for models that read them, int64 [B]; None where they are strangers."""
        return None if self.strangers else np.asarray(self.users, dtype=np.int64)

    def take(self, rows: np.ndarray) -> Targets:
        """Some of the events, in the order given."""
        return Targets(self.users[rows], self.histories.take(rows), self.items[rows], self.strangers)


@dataclass(frozen=True)
class Split:
    """A training part and the events for validation and test.

    Parameters
    ----------
    name : str
        One of `DIVISIONS`, written into every result.
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


def held_out_users(histories: Histories, keys: np.ndarray) -> Split:
    """Train on four users of five; predict the last event of the others, one half for validation and one for test.

    Nothing of a held-out user is trained on, so a model shows how it serves people it has never met.

    Parameters
    ----------
    histories : Histories
        Of U users.
    keys : ndarray of uint64 [U]
        A hash of each user's id: who is held out depends on it alone, not on who else is in the data.

    Raises
    ------
    ValueError
        If no user of two events falls into a part.
    """
    part = keys % np.uint64(10)  # 8: validation, 9: test
    ends = np.where(part < 8, histories.ends, histories.starts)
    targets = []
    for number, what in ((8, "validation"), (9, "test")):
        users = np.flatnonzero((part == number) & (histories.lengths >= 2))
        if not len(users):
            raise ValueError(
                f"held-out-users finds no user of two events for {what} among {len(histories)}: it holds one of ten out"
            )
        last = histories.ends[users] - 1
        before = Histories(histories.items, histories.starts[users], last)
        targets.append(Targets(users, before, histories.items[last], strangers=True))
    if not (ends > histories.starts).any():
        raise ValueError(f"held-out-users leaves no user to train on among {len(histories)}")
    return Split("held-out-users", Histories(histories.items, histories.starts, ends), *targets)


def _first_events(histories: Histories, users: np.ndarray, cut: np.ndarray) -> Targets:
    slices = Histories(histories.items, histories.starts[users], cut[users])
    return Targets(users, slices, histories.items[cut[users]])


def _count_before(histories: Histories, timestamps: np.ndarray, cut: int) -> np.ndarray:
    """Events of each user before ``cut``, int64 [U]."""
    earlier = np.concatenate([[0], np.cumsum(timestamps < cut)])
    return (earlier[histories.ends] - earlier[histories.starts]).astype(np.int64)
