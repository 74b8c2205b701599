"""Raw item ids to item numbers and back, for whoever asks a run for recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recbase.evaluate.recommender import Recommendations

if TYPE_CHECKING:
    from recbase.store.runs import Run

__all__ = ["answer_rows", "known_items"]


def known_items(run: Run, history: Sequence[str | int]) -> tuple[list[int], list[str]]:
    """Item numbers of raw ids, and the ids that the run does not know.

    Raises
    ------
    ValueError
        If no id is known.
    """
    names = run.items["item_id"].cast(str).to_list()
    numbers = {name: number for number, name in enumerate(names, 1)}
    known = [numbers[str(item)] for item in history if str(item) in numbers]
    if not known:
        raise ValueError(f"none of the {len(history)} items of the history is known to {run.folder.path}")
    return known, [str(item) for item in history if str(item) not in numbers]


def answer_rows(run: Run, found: Recommendations) -> list[dict[str, Any]]:
    """The first list as rows of ``item_id``, ``title`` (where there is one) and ``score``."""
    pairs = zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)
    return [run.items.row(item - 1, named=True) | {"score": score} for item, score in pairs if item > 0]
