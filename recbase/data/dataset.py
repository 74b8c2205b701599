"""A data set: histories of numbered items with the text of the items, in memory and as a folder on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase.console import say
from recbase.data import interactions as events
from recbase.data.preparation import Rules, prepared_tables
from recbase.data.readers import as_table
from recbase.data.readers import read as read_source
from recbase.data.repeats import Repeats, repeats_of
from recbase.data.sequences import Histories
from recbase.data.splits import DIVISIONS, Split, global_time, held_out_users, leave_last_out
from recbase.store.folder import Folder, load_arrays, save_folder, sha256_of, tensor_bytes
from recbase.store.manifests import OBJECT, TEXT, WHOLE, between, list_of, maybe, null_or, one_of, record
from recbase.store.restoring import Expected, check_arrays

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "UNKNOWN_TIME",
    "VIEW_COLUMNS",
    "Dataset",
    "read_images",
    "usual_views",
]

MANIFEST = "dataset.json"
VIEW_COLUMNS = (
    "title",
    "brand",
    "features",
    "categories",
    "description",
    "department",
    "product_category",
    "product_type",
    "package_size",
)
"""Text columns that are encoded, in this order, where a data set does not list its own."""

_COUNTS = record({"users": WHOLE, "items": WHOLE, "interactions": WHOLE})
SCHEMA = record(
    {
        "name": maybe(TEXT),
        "views": maybe(list_of(TEXT)),
        "counts": maybe(_COUNTS),
        "repeats": maybe(OBJECT),
        "order": maybe(null_or(one_of("time", "file", "position"))),
        "ties": maybe(null_or(one_of("file", "item", "shuffle"))),
        "seed": maybe(null_or(between(0, 2**63 - 1))),
        "hash": maybe(TEXT),
        "facts": maybe(OBJECT),
    }
)
"""Schema of ``dataset.json``."""

UNKNOWN_TIME = int(np.iinfo(np.int64).min)
"""Time of all events of a user none of whose times is known: before everything, so they are trained on."""

_VIEW_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Dataset:
    """Histories of U users over N items.

    Attributes
    ----------
    name : str
        For tables and messages.
    histories : Histories
        Sequences of item numbers 1..N, the oldest first; user u is row u of ``user_ids``.
    user_ids : Series [U]
        Ids as the source has them, ascending.
    items : DataFrame [N rows]
        Item number i is row i - 1; ``item_id`` is the first column, text columns follow; null = missing.
    timestamps : ndarray of int64 [E] or None
        Seconds since 1970 of each entry of ``histories.items``; an unknown time is that of the event beside it, and
        ``UNKNOWN_TIME`` if the user has none.
    manifest : dict
        Name, source, filters, order, views and counts.
    images : ndarray of float32 [N, D] or None
        Image vectors, where the data set brings its own.
    facts : dict
        What is known of a generated data set, such as its best possible recall.
    division : str, default "leave-last-out"
        Name of the split that `split` returns, one of `recbase.data.splits.DIVISIONS`; see `divided`.
    """

    name: str
    histories: Histories
    user_ids: pl.Series
    items: pl.DataFrame
    timestamps: np.ndarray | None
    manifest: dict[str, Any]
    images: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    division: str = DIVISIONS["last"]

    @classmethod
    def from_tables(
        cls,
        name: str,
        ordered: pl.DataFrame,
        items: pl.DataFrame,
        manifest: Mapping[str, Any] | None = None,
        images: np.ndarray | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Number the items of a table of events that is sorted by user and age.

        Parameters
        ----------
        name : str
        ordered : DataFrame
            user_id, item_id and perhaps timestamp, as :func:`recbase.data.interactions.order_events` leaves them.
        items : DataFrame
            One row an item; its order is the numbering.
        manifest : mapping, optional
            What is recorded of the origin; views and counts are added where they are missing.
        images, facts : optional
            See the attributes.

        Raises
        ------
        ValueError
            If items repeat, an event is of an item that is not in ``items``, or the listed views are not columns.
        """
        items = events.checked_items(items, f"items of {name}")
        ordered, items = events.same_id_type(ordered, items, name)
        numbers = events.number(ordered["item_id"], items["item_id"])
        if (numbers == 0).any():
            strange = ordered["item_id"].filter(pl.Series(numbers == 0)).unique(maintain_order=True)
            shown = ", ".join(str(value)[:60] for value in strange.head(3))
            raise ValueError(
                f"{len(strange)} items of the interactions of {name} are not in its items, such as {shown}"
            )
        offsets = events.segment_offsets(ordered["user_id"])
        body = dict(manifest or {}) | {"name": name}
        body["views"] = _checked_views(body.get("views"), items, name)
        timestamps, filled = _timestamps(ordered)
        if filled:
            body["timestamps_filled"] = filled
        body["counts"] = {"users": len(offsets) - 1, "items": items.height, "interactions": ordered.height}
        return cls(
            name,
            Histories.from_offsets(numbers.astype(np.int32), offsets),
            ordered["user_id"].gather(offsets[:-1]),
            items,
            timestamps,
            body,
            images,
            dict(facts or {}),
        )

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any = None,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = None,
        text: Sequence[str] | None = None,
        name: str = "frames",
        min_user: int = 5,
        min_item: int = 5,
        quiet: bool = False,
        **options: Any,
    ) -> Dataset:
        """Number users and items of one's own tables; ``semtok prepare`` does the same with files.

        Parameters
        ----------
        interactions : DataFrame
            One row an event, of pandas, polars, Arrow or ``datasets.Dataset``.
        items : DataFrame, optional
            One row an item, with the column ``item``; items without events are left out.
        user, item : str, default "user_id", "item_id"
            Columns of the ids, integers or text.
        time : str, optional
            Column of the times, whatever their form; ``timestamp`` where there is such a column, else events count as
            in order.
        text : sequence of str, optional
            Text columns of ``items`` that are encoded; those of a usual name (title, brand, ...) if not given.
        name : str, default "frames"
            For tables and messages.
        min_user, min_item : int, default 5
            Fewest events that a user and an item keep; 0 or 1 keeps all. Users of less than 3 are not evaluated.
        quiet : bool, default False
            Do not print how many events, users and items are left out.
        **options
            ``time_format`` and ``drop_null`` of `recbase.data.readers.read`, and fields of
            `recbase.data.preparation.Rules`, such as ``duplicates``, ``order``, ``limit`` and ``sample_users``.

        Raises
        ------
        ValueError
            If a column is missing, ids are null or of another type, or nothing is left.
        """
        columns = {"user_id": user, "item_id": item} | ({} if time is None else {"timestamp": time})
        read = {name: options.pop(name) for name in ("time_format", "drop_null") if name in options}
        catalogue = None if items is None else as_table(items, "the items")
        raw = read_source(as_table(interactions, "the interactions"), catalogue, columns=columns, **read)
        rules = Rules(min_user=min_user, min_item=min_item, views=None if text is None else tuple(text), **options)
        made = cls.from_tables(name, *prepared_tables(raw, rules))
        dropped = made.manifest["dropped"]
        if not quiet and any(dropped.values()):
            left = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in dropped.items() if count)
            say(f"{name}: {made.n_users:,} users, {made.n_items:,} items; left out: {left}", err=True)
        return made

    @property
    def item_ids(self) -> pl.Series:
        """Ids of the items as the source has them; item number i is row i - 1."""
        return self.items["item_id"]

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return self.items.height

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.user_ids)

    @property
    def views(self) -> list[str]:
        """Names of the text columns that are encoded."""
        return list(self.manifest["views"])

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all sequences, item ids (with their numbering) and user ids."""
        ids = ["\n".join(series.cast(pl.String).to_list()) for series in (self.user_ids, self.item_ids)]
        return sha256_of(self.histories.items, self.offsets, *ids)

    @property
    def trained_hash(self) -> str:
        """Name of what is trained on: `hash`, and the split where it is not the usual one (hex)."""
        return self.hash if self.division == DIVISIONS["last"] else sha256_of(self.hash, self.division)

    @cached_property
    def repeats(self) -> Repeats:
        """Measure of how often users have an item again."""
        return repeats_of(self.histories)

    def described(self) -> dict[str, Any]:
        """Name, hash, size and share of repeats, as runs and their metrics record them."""
        about = {"name": self.name, "hash": self.hash, "users": self.n_users, "items": self.n_items}
        return about | {"repeats": self.repeats.events}

    @cached_property
    def sequences_hash(self) -> str:
        """SHA-256 (hex) of every user's sequence of raw ids: equal for any numbering of the items."""
        keyed = np.column_stack([events.hash_ids(self.user_ids), self.sequence_hashes])
        return sha256_of(keyed[np.lexsort(keyed.T[::-1])])

    @cached_property
    def pattern_hash(self) -> str:
        """SHA-256 (hex) of the sequences that does not depend on what users and items are called."""
        return sha256_of(events.hash_pattern(self.histories.items, self.offsets))

    @cached_property
    def sequence_hashes(self) -> np.ndarray:
        """Hash of each user's sequence of raw item ids, uint64 [U, 2]."""
        return events.hash_sequences(events.hash_ids(self.item_ids)[self.histories.items - 1], self.offsets)

    @property
    def offsets(self) -> np.ndarray:
        """Start of each user's history, and the end of the last, int64 [U + 1]."""
        return np.append(self.histories.starts, self.histories.ends[-1:])

    def numbers_of(self, raw_ids: Sequence[Any] | pl.Series | np.ndarray) -> np.ndarray:
        """Item number of each raw id, 0 where the id is unknown: int64."""
        given = (
            raw_ids if isinstance(raw_ids, pl.Series) else pl.Series([str(value) for value in raw_ids], dtype=pl.String)
        )
        return events.number(given.cast(pl.String), self.item_ids.cast(pl.String))

    def __repr__(self) -> str:
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {len(self.histories.items):,} interactions"
        return f"Dataset({self.name}: {counts}; text: {', '.join(self.views) or 'none'})"

    def divided(self, name: str) -> Dataset:
        """The same data set, whose training, validation and test part are those of another split.

        Parameters
        ----------
        name : {"last", "time", "users"}
            Leave the last two events of every user out; cut all users at the same two times; hold one user of five out.

        Raises
        ------
        ValueError
            If the name is unknown.
        """
        full = DIVISIONS.get(name, name)
        if full not in DIVISIONS.values():
            raise ValueError(f"split must be one of {', '.join(DIVISIONS)}, got {name!r}")
        if full == self.division:
            return self
        made = replace(self, division=full)
        made.__dict__["hash"] = self.hash  # of the data alone: it is not counted again
        return made

    def split(self, name: str | None = None, valid_from: int | None = None, test_from: int | None = None) -> Split:
        """Training, validation and test part.

        Parameters
        ----------
        name : {"last", "time", "users"}, optional
            See `divided`; that of the data set if not given.
        valid_from, test_from : int, optional
            Cut times in seconds for ``"time"``; by default the last 20 % and 10 % of all events.

        Raises
        ------
        ValueError
            If the name is unknown, ``"time"`` is asked of a data set without times in order, or a part is empty.
        """
        division = self.divided(name or self.division).division
        if division == DIVISIONS["last"]:
            return leave_last_out(self.histories)
        if division == DIVISIONS["users"]:
            return held_out_users(self.histories, events.hash_ids(self.user_ids))
        if self.timestamps is None:
            raise ValueError(f"split 'time' needs timestamps, but the data set {self.name} has none")
        inside = np.ones(len(self.timestamps), dtype=bool)
        inside[self.histories.starts] = False
        if (self.timestamps < np.roll(self.timestamps, 1))[inside].any():
            raise ValueError(f"split 'time' needs histories in order of time; {self.name} is in another order")
        known = self.timestamps[self.timestamps != UNKNOWN_TIME]
        cuts = np.quantile(known, [0.8, 0.9], method="higher").astype(np.int64)
        valid_from = int(cuts[0]) if valid_from is None else valid_from
        test_from = int(cuts[1]) if test_from is None else test_from
        return global_time(self.histories, self.timestamps, valid_from, test_from)

    def interactions(self) -> pl.DataFrame:
        """The events as a table: user_id, item_id, position and (where known) timestamp."""
        lengths = self.histories.lengths
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns = {
            "user_id": self.user_ids.gather(rows),
            "item_id": self.item_ids.gather(self.histories.items.astype(np.int64) - 1),
            "position": pl.Series(np.arange(len(rows)) - np.repeat(self.offsets[:-1], lengths)),
        }
        if self.timestamps is not None:
            known = pl.Series(self.timestamps != UNKNOWN_TIME)
            columns["timestamp"] = pl.select(pl.when(known).then(pl.Series(self.timestamps))).to_series()
        return pl.DataFrame(columns)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a dataset folder, atomically.

        Raises
        ------
        ValueError
            If the folder holds a data set that was not saved by this function.
        OSError
            If the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / "interactions.parquet").exists() or (folder / "items.parquet").exists():
            raise ValueError(f"{folder} holds a data set that was given; choose another folder to write to")
        sequences = pl.DataFrame(
            {
                "user_id": self.user_ids,
                "length": self.histories.lengths,
                "hash": [row.tobytes().hex() for row in self.sequence_hashes.astype(">u8")],
            }
        )
        files: dict[str, Any] = {
            "interactions.parquet": self.interactions().write_parquet,
            "items.parquet": self.items.write_parquet,
            "sequences.parquet": sequences.write_parquet,
        }
        if self.images is not None:
            files["images.safetensors"] = tensor_bytes({"images": self.images})
        hashes = {"hash": self.hash, "sequences_hash": self.sequences_hash, "pattern_hash": self.pattern_hash}
        facts = {"facts": self.facts} if self.facts else {}
        facts["repeats"] = asdict(self.repeats)
        save_folder(folder, MANIFEST, "dataset", self.manifest | hashes | facts, files)
        return folder


def read_images(folder: Folder, count: int | None) -> np.ndarray:
    """Image vectors of an open dataset folder, float32 [N, D]; ValueError if they are damaged or not those of N."""
    path = folder.file("images.safetensors")
    arrays = load_arrays(path)
    check_arrays(path, arrays, {"images": Expected((count, None))}, "a data set")
    return arrays["images"]


def usual_views(items: pl.DataFrame) -> list[str]:
    """Text columns of usual names, in the usual order, as far as there is something to encode in them."""
    named = {column.strip().casefold(): column for column in reversed(items.columns)}
    usual = [view if view in items.columns else named.get(view, view) for view in VIEW_COLUMNS]
    texts = [column for column in usual if items.schema.get(column) == pl.String]
    return [column for column in texts if _worth_encoding(items[column])]


def _checked_views(given: Sequence[str] | None, items: pl.DataFrame, name: str) -> list[str]:
    if given is None:
        return usual_views(items)
    for view in given:
        if items.schema.get(view) != pl.String:
            columns = ", ".join(column for column in items.columns if items.schema[column] == pl.String)
            raise ValueError(f"view {view!r} of {name} is not a text column of its items; those are {columns}")
    return list(given)


def _worth_encoding(column: pl.Series) -> bool:
    filled = column.filter(column.str.strip_chars().str.len_chars() > 0)
    return len(filled) >= _VIEW_SHARE * len(column) and filled.n_unique() > 1


def _timestamps(ordered: pl.DataFrame) -> tuple[np.ndarray | None, int]:
    """Times, a null taking that of the user's event before (or after) it, and how many were null.

    Users without any time get ``UNKNOWN_TIME`` throughout.
    """
    if "timestamp" not in ordered.columns:
        return None, 0
    nulls = ordered["timestamp"].null_count()
    if nulls == ordered.height:
        return None, 0
    near = pl.col("timestamp").forward_fill().backward_fill().over("user_id")
    return ordered.select(near.fill_null(UNKNOWN_TIME))["timestamp"].to_numpy().astype(np.int64), nulls
