"""How good codes are, in numbers: shared tuples, use of each level, branching, reconstruction, neighbours, categories.

Works on finished codes and, where they are given, on the vectors they were made from and the vectors they decode to.
Knows nothing of how codes are made or shown. NumPy alone, scikit-learn for the mutual information.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from semtok.codes import ItemCodes

__all__ = [
    "agreement",
    "branching",
    "category_columns",
    "closeness",
    "code_report",
    "collision_report",
    "gini",
    "level_report",
    "neighbour_recall",
    "perplexity",
    "prefix_recall",
    "reconstruction_error",
]

_SCORES_AT_ONCE = 1 << 23
_TIE = 1e-5
_FAR = 256.0  # squared distance of vectors from zero, over their squared spread, that is far


def code_report(
    codes: ItemCodes,
    vectors: np.ndarray | None = None,
    decoded: np.ndarray | None = None,
    views: Mapping[str, slice] | None = None,
    categories: Mapping[str, Sequence[Any]] | None = None,
    k: int = 10,
    queries: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All measures that the given parts allow, as one JSON-able dict.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items.
    vectors : float [N, D] or None, default None
        What the codes were made from.
    decoded : float [N, D] or None, default None
        What the codes decode to.
    views : mapping of str to slice or None, default None
        Columns of each view, for the reconstruction error of each.
    categories : mapping of str to sequence or None, default None
        Known groupings of the items, such as their brand; None entries are left out.
    k : int, default 10
        Neighbours of the neighbour recall.
    queries : int, default 1000
        Items whose neighbours are looked up, drawn by ``seed``.
    seed : int, default 0
        Seed of that draw.

    Returns
    -------
    dict
        ``items``, ``sizes``, ``collisions``, ``levels``, ``branching`` and, where the parts are there,
        ``reconstruction``, ``neighbours`` (``recall@k`` by decoded vectors, ``prefix_recall@k`` by the codes alone),
        ``agreement``.

    Raises
    ------
    ValueError
        If the vectors are of another number of items, or hold NaN or infinity.
    """
    report: dict[str, Any] = {
        "items": len(codes),
        "sizes": list(codes.sizes),
        "collisions": collision_report(codes),
        "levels": level_report(codes),
        "branching": branching(codes),
    }
    if vectors is not None:
        near: dict[str, Any] = {}
        if decoded is not None:
            report["reconstruction"] = {
                "relative_error": reconstruction_error(vectors, decoded),
                "views": {
                    name: reconstruction_error(vectors[:, columns], decoded[:, columns])
                    for name, columns in (views or {}).items()
                },
            }
            near[f"recall@{k}"] = neighbour_recall(vectors, decoded, k, queries, seed)
        near[f"prefix_recall@{k}"] = prefix_recall(vectors, codes, k, queries, seed)
        report["neighbours"] = near | {"queries": min(queries, len(codes))}
    if categories:
        report["agreement"] = [
            {"category": name, "block": block, **agreement(codes.codes[:, columns.start], values)}
            for name, values in categories.items()
            for block, columns in codes.blocks.items()
        ]
    return report


def collision_report(codes: ItemCodes) -> dict[str, Any]:
    """Items that share their tuple: counts, rate, and how many tuples are shared by how many items.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items.

    Returns
    -------
    dict
        ``items`` (that share), ``groups``, ``largest``, ``distinct``, ``rate`` (share of the items that share theirs),
        ``surplus`` (1 - distinct / items, which LC-Rec, LETTER and others call collision rate) and ``histogram`` (items
        of a tuple to number of such tuples).
    """
    counts = np.bincount(codes.groups()) if len(codes) else np.zeros(0, dtype=np.int64)
    found = codes.collisions()
    sizes, tuples = np.unique(counts, return_counts=True)
    return {
        "items": found.items,
        "groups": found.groups,
        "largest": found.largest,
        "distinct": found.distinct,
        "rate": found.rate,
        "surplus": 1 - found.distinct / found.total if found.total else 0.0,
        "histogram": {int(size): int(number) for size, number in zip(sizes, tuples, strict=True)},
    }


def perplexity(counts: np.ndarray) -> float:
    """Effective number of codes in use: exp of the entropy of the counts; K if all are used alike.

    Parameters
    ----------
    counts : int [K]
        Items of each code.
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of the counts: 0 if all codes have as many items, near 1 if one has all of them.

    Parameters
    ----------
    counts : int [K]
        Items of each code, unused ones included.
    """
    total, size = counts.sum(), len(counts)
    if total == 0:
        return 0.0
    ranks = np.arange(1, size + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (size * total) - (size + 1) / size)


def level_report(codes: ItemCodes) -> list[dict[str, Any]]:
    """Use of each level's codes: used, dead, utilisation (used / size), perplexity and Gini coefficient.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items.
    """
    block_of = {level: name for name, part in codes.blocks.items() for level in range(part.start, part.stop)}
    rows = []
    for level, size in enumerate(codes.sizes):
        counts = np.bincount(codes.codes[:, level], minlength=size)
        used = int((counts > 0).sum())
        rows.append(
            {
                "level": level,
                "block": block_of.get(level, ""),
                "size": size,
                "used": used,
                "dead": size - used,
                "utilisation": used / size,
                "perplexity": perplexity(counts),
                "gini": gini(counts),
                "largest": int(counts.max()),
            }
        )
    return rows


def branching(codes: ItemCodes) -> list[dict[str, Any]]:
    """Children of the nodes of the tree of codes: for every depth the number of prefixes, mean and largest branching.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items.

    Returns
    -------
    list of dict
        For depth 0 (the root) to L - 1: ``depth``, ``nodes`` (prefixes of that length), ``mean`` and ``largest``
        (different next codes).
    """
    rows = []
    prefix = np.zeros(len(codes), dtype=np.int64)
    for depth, size in enumerate(codes.sizes):
        nodes = int(prefix.max(initial=-1)) + 1
        children, longer = np.unique(prefix * size + codes.codes[:, depth], return_inverse=True)
        fan = np.bincount(children // size, minlength=nodes)
        mean, largest = (float(fan.mean()), int(fan.max())) if nodes else (0.0, 0)
        rows.append({"depth": depth, "nodes": nodes, "mean": mean, "largest": largest})
        prefix = longer.astype(np.int64)
    return rows


def reconstruction_error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    """Squared error of the decoded vectors over the variance of the vectors: 0 is exact, 1 is as good as the mean.

    Parameters
    ----------
    vectors, decoded : float [N, D]
        What was encoded, and what came back.

    Raises
    ------
    ValueError
        If the shapes differ or a vector holds NaN or infinity.
    """
    _check_alike(vectors, decoded)
    mean = vectors.mean(0, dtype=np.float64)
    error = spread = 0.0
    step = max(1, _SCORES_AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].astype(np.float64)
        error += float(((part - decoded[start : start + step]) ** 2).sum())
        spread += float(((part - mean) ** 2).sum())
    return error / spread if spread > 0 else float(error > 0)


def neighbour_recall(
    vectors: np.ndarray, decoded: np.ndarray, k: int = 10, queries: int = 1000, seed: int = 0
) -> float:
    """Share of the k nearest items by decoded vectors that are among the k nearest by the vectors (cosine).

    Items at the same distance as the k-th true neighbour count as true; decoded vectors that are equal (shared codes)
    count with the chance of being drawn among the k. Cosines are taken around the mean of the vectors where that lies
    more than 16 times as far from zero as the vectors from it: around zero all would be equal.

    Parameters
    ----------
    vectors, decoded : float [N, D]
        What was encoded, and what came back.
    k : int, default 10
        Neighbours of an item, itself left out.
    queries : int, default 1000
        Items whose neighbours are looked up; drawn by ``seed`` if there are more.
    seed : int, default 0
        Seed of that draw.

    Raises
    ------
    ValueError
        If the shapes differ, a vector holds NaN or infinity, or k is below 1.
    """
    _check_alike(vectors, decoded)
    origin = _origin(vectors)
    code_side = _unit(decoded - origin)
    return _recall(vectors - origin, lambda rows: _scores(code_side, rows), k, queries, seed)


def prefix_recall(vectors: np.ndarray, codes: ItemCodes, k: int = 10, queries: int = 1000, seed: int = 0) -> float:
    """Share of the k nearest items by codes alone that are among the k nearest by the vectors (cosine).

    By codes, an item is the nearer the longer the prefix it shares, and of those that share equally much the nearer the
    more codes it has in common. Needs no decoder, so that codes of any origin can be compared. Ties count as in
    `neighbour_recall`.

    Parameters
    ----------
    vectors : float [N, D]
        Item vectors; the codes may have been made from others.
    codes : ItemCodes
        Codes of the same items.
    k : int, default 10
        Neighbours of an item, itself left out.
    queries : int, default 1000
        Items whose neighbours are looked up; drawn by ``seed`` if there are more.
    seed : int, default 0
        Seed of that draw.

    Raises
    ------
    ValueError
        If there are not as many vectors as items, a vector holds NaN or infinity, or k is below 1.
    """
    vectors = np.asarray(vectors)
    if len(vectors) != len(codes):
        raise ValueError(f"vectors have shape {vectors.shape} but there are codes of {len(codes)} items")
    _check_alike(vectors, vectors)

    def scores(rows: np.ndarray) -> np.ndarray:
        found = closeness(codes.codes, rows).astype(np.float32)
        found[np.arange(len(rows)), rows] = -np.inf
        return found

    return _recall(vectors - _origin(vectors), scores, k, queries, seed)


def closeness(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Closeness of some items to all by their codes: (L + 1) times the codes of the shared prefix, plus equal codes.

    Parameters
    ----------
    table : int [N, L]
        Codes of all items.
    rows : int [q]
        Items that are compared with all.

    Returns
    -------
    int32 array [q, N]
    """
    levels = table.shape[1]
    found = np.zeros((len(rows), len(table)), dtype=np.int32)
    same_so_far = np.ones(found.shape, dtype=bool)
    for column in table.T:
        equal = column[rows, None] == column
        same_so_far &= equal
        found += equal
        found[same_so_far] += levels + 1
    return found


def _recall(
    vectors: np.ndarray, scores_of: Callable[[np.ndarray], np.ndarray], k: int, queries: int, seed: int
) -> float:
    """Share of the k best by ``scores_of`` (rows to [q, N]) that are among the k nearest by the vectors."""
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    count = len(vectors)
    k = min(k, count - 1)
    if k < 1:
        return 1.0
    asked = np.arange(count)
    if count > queries:
        asked = np.sort(np.random.default_rng(seed).choice(count, queries, replace=False))
    true_side = _unit(vectors)
    hits = 0.0
    step = max(1, _SCORES_AT_ONCE // count)
    for start in range(0, len(asked), step):
        rows = asked[start : start + step]
        relevant = _scores(true_side, rows)  # [q, N]
        relevant = relevant >= _kth(relevant, k) - _TIE
        scores = scores_of(rows)
        last = _kth(scores, k)
        surely = scores > last + _TIE
        tied = ~surely & (scores >= last - _TIE)
        places = k - surely.sum(1)
        hits += float((surely & relevant).sum())
        hits += float(((tied & relevant).sum(1) * places / np.maximum(tied.sum(1), 1)).sum())
    return hits / (len(asked) * k)


def agreement(first: np.ndarray, values: Sequence[Any]) -> dict[str, Any]:
    """Agreement of one code column with a known grouping of the items.

    Parameters
    ----------
    first : int [N]
        Code of each item at one level.
    values : sequence [N]
        Group of each item; None is left out.

    Returns
    -------
    dict
        ``groups``, ``items`` (that have a group), ``nmi`` (normalised mutual information, arithmetic mean) and
        ``purity`` (share of items that are in the largest group of their code).

    Raises
    ------
    ValueError
        If there are not as many values as codes.
    """
    from sklearn.metrics import normalized_mutual_info_score

    if len(values) != len(first):
        raise ValueError(f"categories has {len(values)} entries but there are {len(first)} items")
    known = np.array([value is not None for value in values], dtype=bool)
    labels, groups = np.unique(np.array([str(value) for value in values if value is not None]), return_inverse=True)
    codes = np.unique(np.asarray(first)[known], return_inverse=True)[1]
    if not len(labels):
        return {"groups": 0, "items": 0, "nmi": 0.0, "purity": 0.0}
    pairs, counts = np.unique(codes.astype(np.int64) * len(labels) + groups, return_counts=True)
    best = np.zeros(int(codes.max()) + 1, dtype=np.int64)
    np.maximum.at(best, pairs // len(labels), counts)
    return {
        "groups": len(labels),
        "items": int(known.sum()),
        "nmi": float(normalized_mutual_info_score(groups, codes)),
        "purity": float(best.sum() / known.sum()),
    }


def category_columns(items: Any, views: Sequence[str] = (), most: int = 200) -> dict[str, list[Any]]:
    """Text columns of an item table that group the items: 2 to ``most`` values, each of five items on average.

    Parameters
    ----------
    items : polars DataFrame
        The items, column item_id first.
    views : sequence of str, default ()
        Columns to look at; all but the first if empty.
    most : int, default 200
        Most values of a grouping.
    """
    found = {}
    for name in views or items.columns[1:]:
        if name in items.columns and str(items[name].dtype) == "String":
            values = items[name].drop_nulls().n_unique()
            if 2 <= values <= min(most, len(items) // 5):
                found[name] = items[name].to_list()
    return found


def _check_alike(vectors: np.ndarray, decoded: np.ndarray) -> None:
    if vectors.shape != decoded.shape or vectors.ndim != 2:
        raise ValueError(
            f"vectors have shape {vectors.shape} but the decoded ones {decoded.shape}; expected equal [N, D]"
        )
    for name, array in (("vectors", vectors), ("decoded vectors", decoded)):
        if not np.isfinite(array).all():
            row = int((~np.isfinite(array)).any(1).argmax())
            raise ValueError(f"{name} hold NaN or infinity in row {row}; expected numbers")


def _origin(vectors: np.ndarray) -> np.ndarray:
    """Origin of cosines: 0, or the mean of vectors that lie so far from zero that all look the same way."""
    mean = vectors.mean(0, dtype=np.float64)
    lengths = [np.square(part - mean).sum() for part in np.array_split(vectors, max(1, len(vectors) // 8192))]
    far = np.square(mean).sum() > _FAR * sum(lengths) / max(1, len(vectors))
    return mean.astype(np.float32) if far else np.zeros(1, dtype=np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _scores(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosine of some rows to all, the row itself left out: float32 [q, N]."""
    scores = vectors[rows] @ vectors.T
    scores[np.arange(len(rows)), rows] = -np.inf
    return scores


def _kth(scores: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest score of each row: [q, 1]."""
    return -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
