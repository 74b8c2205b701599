"""Repeats of histories, counted by hand, and what is said of them."""

from __future__ import annotations

import pytest

from recbase.data.repeats import repeats_of, repeats_sentence
from recbase.data.sequences import Histories


def test_repeats_are_counted_after_each_users_first_event() -> None:
    found = repeats_of(Histories.from_lists([[1, 2, 1, 1], [3, 4], [5], []]))
    assert found.events == pytest.approx(2 / 4)
    assert found.users == pytest.approx(1 / 4)
    assert found.in_a_row == pytest.approx(1 / 4)


def test_the_same_item_of_two_users_is_no_repeat() -> None:
    assert repeats_of(Histories.from_lists([[1, 2], [2, 1]])).events == 0


def test_no_history_is_no_repeat() -> None:
    assert repeats_of(Histories.from_lists([])).users == 0


def test_sentences() -> None:
    assert "no user has an item twice" in repeats_sentence(0.0)
    assert repeats_sentence(0.25).startswith("25.0% of the later events repeat")
    assert repeats_sentence(None) == ""
