"""Using a trained run: raw item ids in, raw item ids out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genrec.search.generation import generate
from recbase.data.sequences import Histories
from recbase.evaluate.answers import answer_rows, known_items
from recbase.store.runs import Run

__all__ = ["recommend_ids"]


def recommend_ids(
    run: Run, history: Sequence[str | int], k: int = 10, beams: int = 50, keep_seen: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The ``k`` best items for one history of raw ids.

    Parameters
    ----------
    run : Run
    history : sequence of str or int
        The oldest item first.
    k : int, default 10
    beams : int, default 50
        Prefixes kept at every step; raised to ``k`` where fewer.
    keep_seen : bool, default False
        Whether items of the history may be recommended.

    Returns
    -------
    rows : list of dict
        ``item_id``, ``title`` (where there is one) and ``score`` (log-probability), the best first.
    unknown : list of str
        Ids of the history that the run does not know; they are skipped.

    Raises
    ------
    ValueError
        If no id of the history is known.
    """
    known, unknown = known_items(run, history)
    k = min(k, run.model.items)
    found = generate(run.model, Histories.from_lists([known]), max(beams, k), k, mask_seen=not keep_seen)
    return answer_rows(run, found), unknown
