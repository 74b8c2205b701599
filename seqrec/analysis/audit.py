"""An audit of a data set: what popularity, order, repetition and one step of transitions explain without learning.

A figure on a data set means little beside what counting reaches there. Nothing here is trained or chosen, so the test
part may be looked at as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recbase.data.sequences import Histories
from recbase.data.splits import Targets
from recbase.evaluate.ranking import KS, Ranks, rank_targets, summarize
from seqrec.models.itemknn import ItemKNN
from seqrec.models.popularity import Popularity
from seqrec.models.transition_graph import TransitionGraph
from seqrec.models.transitions import Transitions

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset

__all__ = ["audit_dataset", "audit_rows"]

_SHOWN = ("recall@10", "ndcg@10")
_BATCH = 4_096


def audit_dataset(
    dataset: Dataset,
    part: Literal["valid", "test"] = "test",
    embeddings: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure what counting alone explains of the held-out events of a data set.

    Parameters
    ----------
    dataset : Dataset
    part : {"valid", "test"}, default "test"
        Events that are to be explained.
    embeddings : Path, optional
        Item embeddings, by which the transition graph is ranked too.
    seed : int, default 0
        Of the shuffle that takes the order away.
    say : callable, optional
        Told the name of each row before it is counted.

    Returns
    -------
    dict
        ``dataset``, ``repeats`` (see `recbase.data.repeats.Repeats`), ``transitions`` (share of the targets one and two
        steps from the latest item, successors of an item), ``cold`` (share of targets that training never had),
        ``rows`` (name to metrics under both policies) and ``oracle_union`` (share of users whose target stands among
        the first 10 of any row: no blend of the rows' lists can find more).
    """
    split = dataset.split()
    targets: Targets = getattr(split, part)
    rows: dict[str, Any] = {}
    hits: dict[str, np.ndarray] = {}
    for name, model, train, held_out in _counters(dataset, split.train, targets, embeddings, seed):
        say(name)
        ranks = rank_targets(model.fit(train).scorer(), held_out)
        rows[name] = _row(ranks)
        if name != _SHUFFLED:
            hits[name] = np.stack([(ranks.chosen(masked) <= 10) for masked in (False, True)])
    union = np.any(list(hits.values()), axis=0).mean(1)
    seen = np.bincount(split.train.flat()[0], minlength=dataset.n_items + 1)[targets.items] > 0
    return {
        "dataset": dataset.described(),
        "part": part,
        "repeats": asdict(dataset.repeats),
        "transitions": _steps(dataset.n_items, split.train, targets),
        "cold": round(float((~seen).mean()), 6),
        "rows": rows,
        "oracle_union": {"recall@10": round(float(union[0]), 6), "masked": round(float(union[1]), 6)},
    }


_SHUFFLED = "counter, order shuffled"


def _counters(dataset: Dataset, train: Histories, targets: Targets, embeddings: Path | None, seed: int) -> Any:
    """Name, model, training part and targets of each row; models are fitted one at a time."""
    items = dataset.n_items
    yield "popularity", Popularity(items), train, targets
    yield "one step", Transitions(items, window=1, max_len=1), train, targets
    yield "counter", Transitions(items), train, targets
    mixed = replace(targets, histories=_shuffled(targets.histories, seed))
    yield _SHUFFLED, Transitions(items), _shuffled(train, seed), mixed
    yield "item-item", ItemKNN(items), train, targets
    yield "graph", TransitionGraph(items, rank_by="counts"), train, targets
    if embeddings is not None:
        from semtok.content.ready_vectors import open_vectors

        vectors: Any = open_vectors(embeddings, dataset.item_ids, f"the data set {dataset.name}")
        text = np.asarray(vectors.matrix()[0], dtype=np.float32)
        yield "graph by text", TransitionGraph(items, text_dim=text.shape[1]).with_content(text), train, targets


def _shuffled(histories: Histories, seed: int) -> Histories:
    """The same items of every user in an order drawn by the seed."""
    items, offsets = histories.flat()
    owner = np.repeat(np.arange(len(histories)), np.diff(offsets))
    order = np.lexsort((np.random.default_rng(seed).random(len(items)), owner))
    return Histories.from_offsets(items[order], offsets)


def _row(ranks: Ranks) -> dict[str, Any]:
    kept, masked = summarize(ranks, KS), summarize(ranks, KS, mask_seen=True)
    found: dict[str, Any] = {name: round(float(kept[name]), 6) for name in _SHOWN}
    found |= {f"masked {name}": round(float(masked[name]), 6) for name in _SHOWN}
    if ranks.last_first is not None and len(ranks):
        found["last_item_first"] = round(float(ranks.last_first.mean()), 6)
    return found


def _steps(items: int, train: Histories, targets: Targets) -> dict[str, float]:
    """Targets one and two steps from the latest item in the training part's graph, and how wide the graph is."""
    table = TransitionGraph(items).fit(train).table
    histories = targets.histories
    last = np.where(histories.lengths > 0, histories.items[np.maximum(histories.ends, 1) - 1], 0)
    near = [0, 0]
    for start in range(0, len(last), _BATCH):
        rows = slice(start, start + _BATCH)
        first = table[last[rows]]
        place = np.arange(first.shape[0]), targets.items[rows]
        one = np.asarray(first[place]).ravel() > 0
        two = np.asarray((first @ table).tocsr()[place]).ravel() > 0
        near[0] += int(one.sum())
        near[1] += int((one | two).sum())
    width = np.diff(table.indptr)
    count = max(1, len(targets))
    return {
        "one_step": round(near[0] / count, 6),
        "two_steps": round(near[1] / count, 6),
        "successors": round(float(width[width > 0].mean()), 3) if (width > 0).any() else 0.0,
    }


def audit_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table: the metrics of each counter under both policies, then their union."""
    names = (*_SHOWN, *(f"masked {name}" for name in _SHOWN))
    rows = [
        (name, *(f"{row[metric]:.4f}" for metric in names), f"{row.get('last_item_first', 0):.1%}")
        for name, row in found["rows"].items()
    ]
    union = found["oracle_union"]
    return [*rows, ("any of them (oracle)", f"{union['recall@10']:.4f}", "", f"{union['masked']:.4f}", "", "")]
