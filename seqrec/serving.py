"""Using a trained run: raw item ids in, raw item ids out; and the folder that a deployment needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from recbase.recommender import Recommendations
from recbase.runs import Run, save_run
from recbase.sequences import Histories

__all__ = ["answer_rows", "export_run", "known_items", "recommend_ids"]


def recommend_ids(
    run: Run, history: Sequence[str | int], k: int = 10, keep_seen: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The ``k`` best items for one history of raw ids.

    Parameters
    ----------
    run : Run
    history : sequence of str or int
        The oldest item first.
    k : int, default 10
    keep_seen : bool, default False
        Whether items of the history may be recommended.

    Returns
    -------
    rows : list of dict
        ``item_id``, ``title`` (where there is one) and ``score``, the best first.
    unknown : list of str
        Ids of the history that the run does not know; they are skipped.

    Raises
    ------
    ValueError
        If no id of the history is known.
    """
    from recbase.evaluation import topk

    known, unknown = known_items(run, history)
    found = topk(run.model.scorer(), Histories.from_lists([known]), min(k, len(run.items)), mask_seen=not keep_seen)
    return answer_rows(run, found), unknown


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


def export_run(run: Run, out: str | os.PathLike[str]) -> list[str]:
    """Write the deployed form of a run and its item vectors.

    A CCFRec run is exported with tables in place of its fusion module; other models are written as they are.

    Parameters
    ----------
    run : Run
    out : path

    Returns
    -------
    list of str
        Names of the files in the new folder.

    Raises
    ------
    ValueError
        If the model has no item vectors (popularity and the transition counter).
    """
    name, model = run.manifest["model"], run.model
    if not hasattr(model, "item_vectors"):
        raise ValueError(f"{run.folder.path} holds a {name}, which has no item vectors to export")
    if hasattr(model, "tabulated"):
        name, model = "ccfrec-tabulated", model.tabulated()
    kept = {key: run.manifest[key] for key in ("data", "split", "recipe", "form") if key in run.manifest}
    written = save_run(out, name, model, run.items, kept | {"exported_from": run.manifest["model"]})
    return sorted(written)
