"""Ranking metrics of one relevant item a user, computed from its rank.

Knows ranks alone: 1 is the best, 0 stands for "not in the returned list". Knows nothing of scores, models or files.
A metric is written `name@k`: `recall@10`, `ndcg@5`, `mrr@20`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from recbase.evaluate.recommender import NO_ITEM, Recommendations

__all__ = ["METRICS", "coverage_at", "mean_metrics", "mrr_at", "ndcg_at", "parse_metric", "recall_at", "user_values"]


def recall_at(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 for every rank in 1..k and 0 elsewhere: float64 [B]. With one target it equals the hit rate.

    Parameters
    ----------
    rank : int [B]
        Ranks of the targets; 0 = not returned.
    k : int
        Length of the list that is looked at.
    """
    rank = np.asarray(rank)
    return ((rank >= 1) & (rank <= k)).astype(np.float64)


def ndcg_at(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / log2(rank + 1) for every rank in 1..k and 0 elsewhere: float64 [B]. The ideal gain is 1.

    Parameters
    ----------
    rank : int [B]
        Ranks of the targets; 0 = not returned.
    k : int
        Length of the list that is looked at.
    """
    return recall_at(rank, k) / np.log2(np.maximum(np.asarray(rank), 1) + 1.0)


def mrr_at(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / rank for every rank in 1..k and 0 elsewhere: float64 [B].

    Parameters
    ----------
    rank : int [B]
        Ranks of the targets; 0 = not returned.
    k : int
        Length of the list that is looked at.
    """
    return recall_at(rank, k) / np.maximum(np.asarray(rank), 1)


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"recall": recall_at, "ndcg": ndcg_at, "mrr": mrr_at}


def parse_metric(metric: str) -> tuple[str, int]:
    """Split `"ndcg@10"` into `("ndcg", 10)`.

    Raises
    ------
    ValueError
        The name is unknown, or k is no positive integer.
    """
    name, _, k = metric.partition("@")
    if name not in METRICS or not (k.isascii() and k.isdecimal() and len(k) < 10) or int(k) < 1:
        raise ValueError(f"metric {metric!r} is unknown: expected {', '.join(METRICS)}, then @ and a positive integer")
    return name, int(k)


def user_values(metric: str, rank: np.ndarray) -> np.ndarray:
    """Return the metric of every user: float64 [B].

    Parameters
    ----------
    metric : str
        Such as `"ndcg@10"`.
    rank : int [B]
        Ranks of the targets; 0 = not returned.

    Raises
    ------
    ValueError
        The metric is unknown.
    """
    name, k = parse_metric(metric)
    return METRICS[name](rank, k)


def mean_metrics(rank: np.ndarray, ks: Iterable[int] = (5, 10, 20)) -> dict[str, float]:
    """Return every metric at every k, averaged per user.

    Parameters
    ----------
    rank : int [B]
        Ranks of the targets; 0 = not returned.
    ks : iterable of int
        List lengths.

    Returns
    -------
    dict
        `{"recall@5": ..., "recall@10": ..., "ndcg@5": ...}`; all 0.0 where there are no users.

    Raises
    ------
    ValueError
        A k is not positive.
    """
    values = {metric: user_values(metric, rank) for metric in (f"{name}@{k}" for name in METRICS for k in ks)}
    return {metric: float(value.mean()) if value.size else 0.0 for metric, value in values.items()}


def coverage_at(recommendations: Recommendations, k: int, n_items: int) -> float:
    """Return the share of the catalogue that stands in at least one user's first k places.

    Parameters
    ----------
    recommendations : Recommendations
        Ranked lists.
    k : int
        Places of each list that count.
    n_items : int
        Size N of the catalogue.

    Raises
    ------
    ValueError
        The lists are shorter than k.
    """
    if k > recommendations.k:
        raise ValueError(f"coverage@{k} needs lists of {k} items but these have {recommendations.k}")
    items = recommendations.items[:, :k]
    return np.unique(items[items != NO_ITEM]).size / n_items
