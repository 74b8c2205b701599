"""Tables of events, one row an event: de-duplication, k-core, order, hashes, numbering.

A table is a polars frame with ``user_id`` and ``item_id`` (integers or strings) and, where known, ``timestamp`` (int64
seconds), ``nanosecond`` (what follows the second) and ``position`` (order within the user). Everything here is a
function from tables to tables or arrays; files and names of data sets are the business of others. No function depends
on the order of the rows unless it says so.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import polars as pl

from recbase.data.times import split_times

__all__ = [
    "MAX_ID_BYTES",
    "Order",
    "Ties",
    "check_ids",
    "check_interactions",
    "checked_items",
    "drop_repeats",
    "hash_events",
    "hash_ids",
    "hash_pattern",
    "hash_sequences",
    "k_core",
    "latest",
    "number",
    "order_events",
    "same_id_type",
    "segment_offsets",
]

Order = Literal["time", "file", "position"]
Ties = Literal["file", "item", "shuffle"]

MAX_ID_BYTES = 10_000
"""Longest id: longer ones are a column of text that was taken for ids, and hashing walks over every byte."""

_IDS = ("user_id", "item_id")
_LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)  # the two halves of a 128-bit sequence hash


def check_ids(frame: pl.DataFrame, columns: tuple[str, ...], what: str) -> pl.DataFrame:
    """The same table with ids as Int64 or String.

    Floats that are whole numbers become integers; integers beyond 64 bits with a sign become text, digit by digit.

    Raises
    ------
    ValueError
        If a column is missing (the sentence lists those found), holds nulls or fractions, is neither integers nor
        strings, or has an id of more than ``MAX_ID_BYTES``.
    """
    for name in columns:
        if name not in frame.columns:
            found = ", ".join(column[:40] for column in frame.columns[:20])
            raise ValueError(f"{what} has no column {name}; its columns are {found}")
        ids = _plain_ids(frame[name], what)
        if nulls := ids.null_count():
            row = int(ids.is_null().arg_true()[0]) + 1
            raise ValueError(
                f"{name} of {what} is null in {nulls} of {frame.height} rows; every row needs one (first: row {row})"
            )
        frame = frame.with_columns(ids.alias(name))
    return frame


def _plain_ids(ids: pl.Series, what: str) -> pl.Series:
    """Ids as Int64 or String."""
    kind = ids.dtype
    if kind == pl.UInt64 or kind.is_decimal() or kind in (pl.Int128, pl.UInt128):
        whole = ids.cast(pl.Int64, strict=False)
        exact = whole.null_count() == ids.null_count() and bool((whole == ids).all())
        return whole if exact else ids.cast(pl.String)
    if kind.is_integer():
        return ids.cast(pl.Int64)
    if kind.is_float():
        return _whole_floats(ids, what)
    if kind == pl.Binary:
        try:
            ids = ids.cast(pl.String)
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"{ids.name} of {what} is bytes that are not UTF-8; expected integers or strings"
            ) from error
    elif kind == pl.Null:
        ids = ids.cast(pl.String)
    elif kind not in (pl.String, pl.Categorical) and not isinstance(kind, pl.Enum):
        raise ValueError(f"{ids.name} of {what} is {str(kind)[:80]}; expected integers or strings")
    ids = ids.cast(pl.String)
    longest = ids.str.len_bytes().max()
    if isinstance(longest, int) and longest > MAX_ID_BYTES:
        row = int(ids.str.len_bytes().arg_max() or 0) + 1
        raise ValueError(f"{ids.name} of {what} has {longest:,} bytes in row {row}; expected at most {MAX_ID_BYTES:,}")
    return ids


def _whole_floats(ids: pl.Series, what: str) -> pl.Series:
    """Integers of floats, as pandas leaves them in a column that had a gap; NaN is null."""
    # Beyond its digits a float stands for several whole numbers, and two ids would be one.
    bits = {"Float16": 11, "Float32": 24}.get(str(ids.dtype), 53)
    known = ids.cast(pl.Float64).fill_nan(None)
    bad = (known.abs() >= 2.0**bits) | (known != known.floor())
    if bad.any():
        row = int(bad.arg_true()[0])
        raise ValueError(
            f"{ids.name} of {what} is {ids.dtype}; expected integers or strings (row {row + 1} has {known[row]}, which "
            f"is no whole number below 2^{bits})"
        )
    return known.cast(pl.Int64)


def checked_items(items: pl.DataFrame, what: str) -> pl.DataFrame:
    """The catalogue with one row an item, ``item_id`` first; ValueError names ``what`` is wrong."""
    items = check_ids(items, ("item_id",), what)
    if items.height == 0:
        raise ValueError(f"{what} has no rows; expected at least one item")
    repeated = items["item_id"].filter(items["item_id"].is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        raise ValueError(f"{what} has {len(repeated)} item ids more than once, such as {str(repeated[0])[:60]}")
    return items.select("item_id", pl.exclude("item_id"))


def same_id_type(table: pl.DataFrame, items: pl.DataFrame, what: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and catalogue with ids of one type; a mixture of integers and strings is compared as strings."""
    if table.schema["item_id"] == items.schema["item_id"]:
        return table, items
    return table.with_columns(pl.col("item_id").cast(pl.String)), items.with_columns(pl.col("item_id").cast(pl.String))


def check_interactions(frame: pl.DataFrame, what: str = "the interactions") -> pl.DataFrame:
    """Check a table of events and bring its columns to Int64 (or String for ids).

    Dates, date-times and real-valued times become whole seconds since 1970 in ``timestamp``; what follows the second
    stands in ``nanosecond``, a column that is there only where some event has one. Order is decided by both.

    Raises
    ------
    ValueError
        If the table is empty, a column is missing, an id or position is null, a time is not finite, or a column is of
        another type.
    """
    frame = check_ids(frame, _IDS, what)
    if frame.height == 0:
        raise ValueError(f"{what} has no rows; expected at least one event")
    if "timestamp" in frame.columns and frame.schema["timestamp"] == pl.Null:
        frame = frame.drop("timestamp")
    if "timestamp" in frame.columns and frame.schema["timestamp"] != pl.Int64:
        seconds, nanos = split_times(frame["timestamp"], what)
        frame = frame.with_columns(seconds.alias("timestamp"))
        if (nanos != 0).any():
            frame = frame.with_columns(nanos.fill_null(0).alias("nanosecond"))
    if "position" in frame.columns:
        if not frame.schema["position"].is_integer():
            raise ValueError(f"position of {what} is {frame.schema['position']}; expected integers")
        if nulls := frame["position"].null_count():
            raise ValueError(f"position of {what} is null in {nulls} of {frame.height} rows; every row needs one")
        frame = frame.with_columns(pl.col("position").cast(pl.Int64))
    kept = [name for name in ("timestamp", "nanosecond", "position") if name in frame.columns]
    return frame.select(*_IDS, *kept)


def order_events(frame: pl.DataFrame, order: Order = "time", ties: Ties = "file", seed: int = 0) -> pl.DataFrame:
    """Sort the events by user and, within a user, by age, the oldest first.

    Parameters
    ----------
    frame : DataFrame
        Checked events.
    order : {"time", "file", "position"}, default "time"
        What decides within a user. ``file`` keeps the order of the rows and ignores time altogether.
    ties : {"file", "item", "shuffle"}, default "file"
        Which of two events of one user at the same time comes first: the one earlier in the file; the one with the
        smaller item id; or a seeded hash of user, item and time, which does not depend on the order of the rows.
        Matters for ``order="time"`` alone.
    seed : int, default 0
        Of the hash.

    Raises
    ------
    ValueError
        If the policy is unknown, the column that decides is missing, a position repeats, or a time is null and there
        is no position to place the event by (with one it takes the time of its neighbour).
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
    if ties not in get_args(Ties):
        raise ValueError(f"ties must be one of {', '.join(get_args(Ties))}, got {ties!r}")
    if order == "file":
        return frame.sort("user_id", maintain_order=True)
    column = "timestamp" if order == "time" else "position"
    if column not in frame.columns:
        raise ValueError(f"order {order!r} needs a column {column}; the events have {', '.join(frame.columns)}")
    if order == "position":
        ordered = frame.sort("user_id", "position", maintain_order=True)
        same = (ordered["user_id"] == ordered["user_id"].shift()) & (ordered["position"] == ordered["position"].shift())
        if bad := same.sum():
            raise ValueError(f"position repeats within a user in {bad} of {frame.height} rows; expected an order")
        return ordered
    timed = _known_times(frame)
    moment = ["_time", "_nano"] if "_nano" in timed.columns else ["_time"]
    if ties == "item":
        return timed.sort("user_id", *moment, "item_id", maintain_order=True).drop(moment)
    if ties == "shuffle":
        hashed = timed.with_columns(pl.Series("_tie", hash_events(frame, seed)))
        return hashed.sort("user_id", *moment, "_tie", "item_id", maintain_order=True).drop(*moment, "_tie")
    return timed.sort("user_id", *moment, maintain_order=True).drop(moment)


def _known_times(frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns ``_time`` and perhaps ``_nano`` to sort by: a null takes those of its neighbour by position."""
    nulls = frame["timestamp"].null_count()
    fine = "nanosecond" in frame.columns
    if not nulls:
        timed = frame.with_columns(pl.col("timestamp").alias("_time"))
        return timed.with_columns(pl.col("nanosecond").alias("_nano")) if fine else timed
    if "position" not in frame.columns:
        row = int(frame["timestamp"].is_null().arg_true()[0]) + 1
        raise ValueError(
            f"order 'time' needs every timestamp, but {nulls} of {frame.height} are null (first: row {row})"
        )
    near = pl.col("timestamp").forward_fill().backward_fill().over("user_id", order_by="position")
    timed = frame.with_columns(near.fill_null(pl.col("position")).alias("_time"))
    if not fine:
        return timed
    nano = pl.when(pl.col("timestamp").is_not_null()).then("nanosecond")
    return timed.with_columns(
        nano.forward_fill().backward_fill().over("user_id", order_by="position").fill_null(0).alias("_nano")
    )


def drop_repeats(frame: pl.DataFrame, keep: Literal["first", "last"] = "first") -> pl.DataFrame:
    """Keep the first or the last row of every user-item pair (sort first: it is by row)."""
    return frame.unique(subset=list(_IDS), keep=keep, maintain_order=True)


def k_core(frame: pl.DataFrame, min_user: int = 5, min_item: int = 5, iterate: bool = True) -> pl.DataFrame:
    """Drop rare items and users until every user has ``min_user`` events and every item ``min_item``.

    Parameters
    ----------
    frame : DataFrame
    min_user, min_item : int, default 5
        Fewest events of a user and of an item that stays; 0 or 1 keeps all.
    iterate : bool, default True
        Repeat until nothing changes. Otherwise items are dropped once, then users once.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    if min_user < 0 or min_item < 0:
        raise ValueError(f"min_user and min_item must be at least 0, got {min_user} and {min_item}")
    users = _codes(frame["user_id"])
    items = _codes(frame["item_id"])
    rows = np.arange(frame.height)
    while True:
        before = len(rows)
        for codes, least in ((items, min_item), (users, min_user)):
            if least > 1 and len(rows):
                rows = rows[np.bincount(codes[rows])[codes[rows]] >= least]
        if len(rows) == before or not iterate:
            break
    if len(rows) == 0:
        raise ValueError(
            f"no user is left of {int(users.max(initial=-1)) + 1} when every user needs {min_user} events "
            f"and every item {min_item}; lower min_user or min_item"
        )
    return frame if len(rows) == frame.height else frame[rows]


def latest(frame: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The last ``limit`` events of each user of a sorted table."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    offsets = segment_offsets(frame["user_id"])
    from_end = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(frame.height)
    return frame.filter(pl.Series(from_end <= limit))


def segment_offsets(users: pl.Series) -> np.ndarray:
    """Start of each user's run of adjacent rows, and the end of the last: int64 [U + 1]."""
    if len(users) == 0:
        return np.zeros(1, np.int64)
    change = (users != users.shift()).fill_null(True).to_numpy()
    return np.append(np.flatnonzero(change), len(users)).astype(np.int64)


def number(ids: pl.Series, known: pl.Series) -> np.ndarray:
    """Row of each id in ``known`` plus one, and 0 for an id that is not there: int64, shape of ``ids``."""
    if ids.dtype != known.dtype:
        ids = ids.cast(known.dtype, strict=False)
    table = pl.DataFrame({"id": known, "number": np.arange(1, len(known) + 1, dtype=np.int64)})
    joined = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")
    return joined["number"].fill_null(0).to_numpy().astype(np.int64)


def hash_ids(ids: pl.Series) -> np.ndarray:
    """A stable 64-bit hash of each id, uint64: FNV-1a over the UTF-8 of its text, then mixed. 12 and "12" are equal."""
    distinct = ids.cast(pl.String).unique(maintain_order=True)
    encoded = distinct.cast(pl.Binary)
    lengths = encoded.bin.size().to_numpy().astype(np.int64)
    data = np.frombuffer(b"".join(encoded.to_list()), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    state = np.full(len(distinct), 0xCBF29CE484222325, dtype=np.uint64)
    alive = np.argsort(-lengths, kind="stable")
    for at in range(int(lengths.max(initial=0))):
        alive = alive[: np.searchsorted(-lengths[alive], -at, side="left")]
        state[alive] = (state[alive] ^ data[starts[alive] + at].astype(np.uint64)) * np.uint64(0x100000001B3)
    hashes = _mix(state)
    if len(distinct) == len(ids):
        return hashes
    return cast(np.ndarray, hashes[number(ids.cast(pl.String), distinct) - 1])


def hash_events(frame: pl.DataFrame, seed: int = 0) -> np.ndarray:
    """A hash of user, item and time of each row under a seed, uint64 [E]; independent of the order of the rows."""
    state = _mix(np.full(1, np.uint64(seed % 2**64)) + np.uint64(1))
    for name in _IDS:
        state = _mix(state ^ hash_ids(frame[name]))
    if "timestamp" in frame.columns:
        state = _mix(state ^ _moments(frame).view(np.uint64))
    return state


def _moments(frame: pl.DataFrame) -> np.ndarray:
    """Times as whole numbers of the coarsest unit (s, ms, us, ns) that holds them all, int64 [E]; null is 0."""
    seconds = frame["timestamp"].fill_null(0).to_numpy().astype(np.int64)
    if "nanosecond" not in frame.columns:
        return seconds
    nanos = frame["nanosecond"].fill_null(0).to_numpy().astype(np.int64)
    parts = next((parts for parts in (1, 10**3, 10**6) if not (nanos % (10**9 // parts)).any()), 10**9)
    return cast(np.ndarray, seconds * parts + nanos // (10**9 // parts))


def hash_sequences(item_hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A 128-bit hash of every user's sequence, uint64 [U, 2], from the hash of each event's item.

    Equal sequences of equal ids have equal hashes whatever the item numbers are; order counts.

    Parameters
    ----------
    item_hashes : ndarray of uint64 [E]
    offsets : ndarray of int64 [U + 1]
    """
    lengths = np.diff(offsets)
    step = (np.arange(len(item_hashes)) - np.repeat(offsets[:-1], lengths) + 1).astype(np.uint64)
    lanes = []
    for multiplier in _LANES:
        mixed = _mix(item_hashes ^ _mix(step * np.uint64(multiplier)))
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        lanes.append(_mix(total[offsets[1:]] - total[offsets[:-1]] + lengths.astype(np.uint64)))
    return np.stack(lanes, axis=1)


def hash_pattern(items: np.ndarray, offsets: np.ndarray, rounds: int = 6) -> np.ndarray:
    """Hashes of the users' sequences that do not depend on what users and items are called: uint64 [U, 2], sorted.

    Items are told apart by where they stand in which sequences, sequences by their items, in turns (colour refinement).
    Two sources with the same sequences under other ids give the same array; any other order of events gives another.

    Parameters
    ----------
    items : ndarray of int [E]
        Item numbers from 0 or 1 on.
    offsets : ndarray of int64 [U + 1]
    rounds : int, default 6
        Turns of refinement.
    """
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    step = (np.arange(len(items)) - np.repeat(offsets[:-1], lengths) + 1).astype(np.uint64)
    colours = _mix(np.bincount(items, minlength=1).astype(np.uint64))
    for _ in range(rounds):
        sequences = hash_sequences(colours[items], offsets)
        events = _mix(sequences[owner, 0] ^ _mix(step))
        sums = np.zeros_like(colours)
        np.add.at(sums, items, events)
        colours = _mix(colours ^ _mix(sums))
    sequences = hash_sequences(colours[items], offsets)
    return cast(np.ndarray, sequences[np.lexsort(sequences.T[::-1])])


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(np.ndarray, values ^ (values >> np.uint64(31)))


def _codes(ids: pl.Series) -> np.ndarray:
    """0, 1, 2, ... for the distinct ids, int64."""
    return number(ids, ids.unique(maintain_order=True)) - 1
