"""Records of a finished run: its protocol, metrics and slices as one JSON object, its ranks as a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recbase.data.sequences import Histories
from recbase.data.splits import Split
from recbase.evaluate.metrics import coverage_at
from recbase.evaluate.ranking import KS, Ranks, list_faults, summarize, topk
from recbase.evaluate.recommender import Recommendations, Scorer
from recbase.store.restoring import read_table
from recbase.train.processes import is_main_process

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.train.loop import TrainResult

__all__ = [
    "describe_protocol",
    "metrics_of_run",
    "metrics_record",
    "popularity_groups",
    "ranks_file",
    "read_ranks",
    "slices",
]


_NOT_RETURNED = 0


def popularity_groups(train: Histories, n_items: int, shares: tuple[float, float] = (0.2, 0.8)) -> np.ndarray:
    """Sort items into head, middle, tail and cold by how often they occur in training.

    Items are taken from the most popular down. One belongs to the head while the items more popular than it hold less
    than `shares[0]` of all training events, to the middle while they hold less than `shares[1]`, to the tail after
    that; an item that does not occur in training is cold. Items of equal popularity are always in one group.

    Parameters
    ----------
    train : Histories
        Training histories.
    n_items : int
        Size N of the catalogue.
    shares : (float, float), default (0.2, 0.8)
        Shares of the training events at which head and middle end.

    Returns
    -------
    ndarray of int8 [N + 1]
        By item number: 0 head, 1 middle, 2 tail, 3 cold (entry 0, the padding, is 3).

    Raises
    ------
    ValueError
        The shares are not in the order 0 < head <= middle < 1.
    """
    if not 0 < shares[0] <= shares[1] < 1:
        raise ValueError(f"shares={shares} should be two growing numbers between 0 and 1")
    counts = np.bincount(train.flat()[0], minlength=n_items + 1)  # [N + 1]
    counts[0] = 0
    levels, level, members = np.unique(counts, return_inverse=True, return_counts=True)
    events = levels * members
    above = events.sum() - np.cumsum(events)  # events of more popular items
    group = np.searchsorted(np.asarray(shares) * events.sum(), above, side="right").astype(np.int8)
    group[levels == 0] = 3
    return group[level]


def slices(
    ranks: Ranks,
    train: Histories,
    n_items: int,
    ks: Iterable[int] = KS,
    mask_seen: bool = False,
    shares: tuple[float, float] = (0.2, 0.8),
) -> dict[str, dict[str, Any]]:
    """Return `summarize` of the users whose target is a head, middle, tail or cold item.

    Parameters
    ----------
    ranks : Ranks
        From `rank_targets` or `rank_lists`.
    train : Histories
        Training histories, which alone decide what is popular.
    n_items : int
        Size N of the catalogue.
    ks, mask_seen
        As in `summarize`.
    shares : (float, float), default (0.2, 0.8)
        As in `popularity_groups`: the most popular items that make the first 20 % of training events are the head,
        those up to 80 % the middle, the rest the tail; cold items never occur in training.

    Returns
    -------
    dict
        `{"head": {"recall@5": ..., "users": ..., "items": ...}, "middle": ..., "tail": ..., "cold": ...}`.
    """
    lengths = tuple(ks)
    group = popularity_groups(train, n_items, shares)
    of_target = group[ranks.targets]
    return {
        name: {
            **summarize(ranks.take(of_target == number), lengths, mask_seen),
            "items": int((group[1:] == number).sum()),
        }
        for number, name in enumerate(("head", "middle", "tail", "cold"))
    }


def describe_protocol(split: str, mask_seen: bool = False, n_best: int | None = None, **details: Any) -> dict[str, Any]:
    """Return what `metrics.json` says about how the numbers came about.

    Parameters
    ----------
    split : str
        Name of the split.
    mask_seen : bool, default False
        The policy behind the numbers under `"test"`.
    n_best : int, optional
        Length of the lists where ranks come from lists, not from scores of all items.
    **details
        Anything else that two runs must share to be compared, such as `order="file"`.
    """
    return {
        "split": split,
        "candidates": "all items",
        "seen_items": "masked" if mask_seen else "kept",
        "ties": "count against the target",
        **({"n_best": n_best} if n_best is not None else {}),
        **details,
    }


def metrics_record(
    model: str,
    dataset: Mapping[str, Any],
    protocol: Mapping[str, Any],
    test: Ranks,
    valid: Mapping[str, Any] | None = None,
    train: Histories | None = None,
    recommendations: Recommendations | None = None,
    ks: Iterable[int] = KS,
    **facts: Any,
) -> dict[str, Any]:
    """Build the content of a run folder's `metrics.json`.

    Parameters
    ----------
    model : str
        Name of the model.
    dataset : mapping
        `{"name", "hash", "users", "items"}`; the hash decides which runs may be compared.
    protocol : mapping
        From `describe_protocol`; its `"seen_items"` says which policy the numbers under `"test"` follow. The other
        policy's numbers stand under `"test_masked"` or `"test_kept"`.
    test : Ranks
        Ranks of the test targets.
    valid : mapping, optional
        Metrics on validation of the weights that were kept.
    train : Histories, optional
        Training histories; with them, head, middle, tail and cold are reported under `"slices"`.
    recommendations : Recommendations, optional
        The lists of the test users: adds coverage and counts invalid and repeated items (a ranker has none).
    ks : iterable of int, default 5, 10, 20
        List lengths.
    **facts
        Further entries, such as `recipe`, `budget`, `train_seconds`, `parameters`.

    Raises
    ------
    ValueError
        `dataset` lacks an entry, or `protocol` says nothing known about seen items.
    """
    if missing := [name for name in ("name", "hash", "users", "items") if name not in dataset]:
        raise ValueError(f"dataset has the entries {sorted(dataset)} but lacks {missing}")
    policy = protocol.get("seen_items")
    if policy not in ("kept", "masked"):
        raise ValueError(f"protocol has seen_items={policy!r}, expected 'kept' or 'masked'")
    lengths, masked = tuple(ks), policy == "masked"
    faults = {"invalid": 0, "duplicates": 0}
    coverage = {}
    if recommendations is not None:
        faults = list_faults(recommendations, int(dataset["items"]))
        fitting = [k for k in lengths if k <= recommendations.k]
        coverage = {f"coverage@{k}": coverage_at(recommendations, k, int(dataset["items"])) for k in fitting}
    tied = {"users_with_ties": int((test.ties > 0).sum())}
    other = "test_kept" if masked else "test_masked"
    record: dict[str, Any] = {"model": model, "dataset": dict(dataset), "protocol": dict(protocol), **facts}
    record["valid"] = dict(valid) if valid is not None else {}
    record["test"] = {**summarize(test, lengths, masked), **faults, **tied, **coverage}
    record[other] = summarize(test, lengths, not masked)
    if test.last_first is not None and len(test):
        record["last_item_first"] = round(float(test.last_first.mean()), 6)
    if train is not None:
        record["slices"] = slices(test, train, int(dataset["items"]), lengths, masked)
    record["evaluation_seconds"] = round(test.seconds, 3)
    return record


def metrics_of_run(
    name: str,
    dataset: Dataset,
    split: Split,
    recipe: str,
    valid: Mapping[str, Any],
    ranks: Ranks,
    result: TrainResult | float | None = None,
    scorer: Scorer | None = None,
    mask_seen: bool = False,
    budget: float | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Build `metrics.json` of a run that ranks all items.

    Parameters
    ----------
    name : str
        Name of the model.
    dataset : Dataset
        Its name, hash and size are recorded.
    split : Split
        Its training part decides the popularity slices.
    recipe : str
        Recipe behind the numbers.
    valid : mapping
        Metrics on validation.
    ranks : Ranks
        Ranks of `split.test`.
    result : TrainResult or float, optional
        What training returned, or just the seconds that it took.
    scorer : Scorer, optional
        Used for the coverage of the catalogue by the test users' lists (on the main process); left out without it.
    mask_seen : bool, default False
        The policy of the numbers under `"test"`.
    budget : float, optional
        Seconds that training was allowed.
    **facts
        Further entries.

    Returns
    -------
    dict
        See `metrics_record`.
    """
    lists = None
    if scorer is not None and is_main_process():
        lists = topk(scorer, split.test.histories, max(KS), mask_seen, users=split.test.known_users)
    facts = {"recipe": recipe, "budget": budget} | facts
    if isinstance(result, float | int):
        facts["train_seconds"] = round(float(result), 3)
    elif result is not None:
        facts |= {"train_seconds": round(result.seconds, 3), "steps": result.steps, "epochs": result.epochs}
        facts |= {"best_epoch": result.best_epoch, "stopped": result.stopped}
    about = dataset.described()
    protocol = describe_protocol(split.name, mask_seen)
    return metrics_record(name, about, protocol, ranks, valid, split.train, lists, **facts)


def ranks_file(ranks: Ranks, user_ids: pl.Series) -> bytes:
    """Return the bytes of `ranks.parquet`: user_id, rank, rank_masked, ties. A rank that is null was not returned.

    Parameters
    ----------
    ranks : Ranks
        Ranks of the test targets.
    user_ids : polars.Series [U]
        Raw ids of all users of the data set, by row number.

    Raises
    ------
    ValueError
        A user has no id.
    """
    if len(ranks) and int(ranks.users.max()) >= len(user_ids):
        raise ValueError(f"user {int(ranks.users.max())} has ranks but user_ids holds only {len(user_ids)} users")
    frame = pl.DataFrame({"user_id": user_ids.gather(ranks.users)}).with_columns(
        pl.Series("rank", ranks.rank, dtype=pl.Int32),
        pl.Series("rank_masked", ranks.rank_masked, dtype=pl.Int32),
        pl.Series("ties", ranks.ties, dtype=pl.Int32),
    )
    absent = (pl.when(pl.col(name) != _NOT_RETURNED).then(pl.col(name)).alias(name) for name in ("rank", "rank_masked"))
    out = io.BytesIO()
    frame.with_columns(absent).write_parquet(out)
    return out.getvalue()


def read_ranks(file: Path | str | bytes) -> pl.DataFrame:
    """Read `ranks.parquet`: user_id, rank, rank_masked, ties, with 0 for a rank that was not returned.

    Parameters
    ----------
    file : path or bytes
        The file or its content. Only user_id and rank need be there; `rank_masked` is absent from the result where it
        is absent from the file.

    Raises
    ------
    ValueError
        It is no Parquet file, a column is missing, or a user stands in it twice.
    """
    name = "ranks.parquet" if isinstance(file, bytes) else str(file)
    frame = read_table(file, {"user_id": "id", "rank": "whole"}, distinct="user_id")
    columns = [column for column in ("rank", "rank_masked") if column in frame.columns]
    for column in columns:
        if not frame.schema[column].is_integer() or bool((frame[column] < 1).any()):
            raise ValueError(f"{name} has other values than ranks from 1 in the column {column!r}")
    return frame.with_columns(pl.col(columns).fill_null(_NOT_RETURNED))
