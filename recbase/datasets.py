"""Data sets: histories of numbered items with the text of the items, in memory and as a folder on disk.

``load_dataset`` opens a built-in set, a folder, a file or a named public set; ``prepare_dataset`` filters and orders
raw events into one. A folder needs ``interactions.parquet`` and ``items.parquet`` only; what is saved here also has a
manifest ``dataset.json``. Nothing is ever written into a folder that was given. Formats of files are in ``readers``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase import interactions as events
from recbase.checkpoints import load_arrays, open_folder, save_folder, sha256_of, tensor_bytes
from recbase.interactions import Order, Ties
from recbase.sequences import Histories
from recbase.splits import Split, global_time, leave_last_out
from recbase.verification import Verification, verify

__all__ = ["BUILT_IN", "VIEW_COLUMNS", "Dataset", "Verification", "load_dataset", "prepare_dataset", "verify"]

MANIFEST = "dataset.json"
BUILT_IN = ("journey", "synthetic")
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
    """

    name: str
    histories: Histories
    user_ids: pl.Series
    items: pl.DataFrame
    timestamps: np.ndarray | None
    manifest: dict[str, Any]
    images: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

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
            user_id, item_id and perhaps timestamp, as :func:`recbase.interactions.order_events` leaves them.
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
        items = _checked_items(items, f"items of {name}")
        ordered, items = _same_id_type(ordered, items, name)
        numbers = events.number(ordered["item_id"], items["item_id"])
        if (numbers == 0).any():
            strange = ordered["item_id"].filter(pl.Series(numbers == 0)).unique(maintain_order=True)
            shown = ", ".join(str(value) for value in strange.head(3))
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
        """Where each user's history begins, and the end of the last, int64 [U + 1]."""
        return np.append(self.histories.starts, self.histories.ends[-1:])

    def numbers_of(self, raw_ids: Sequence[Any] | pl.Series | np.ndarray) -> np.ndarray:
        """Item number of each raw id, 0 where the id is unknown: int64."""
        given = (
            raw_ids if isinstance(raw_ids, pl.Series) else pl.Series([str(value) for value in raw_ids], dtype=pl.String)
        )
        return events.number(given.cast(pl.String), self.item_ids.cast(pl.String))

    def split(self, name: str = "last", valid_from: int | None = None, test_from: int | None = None) -> Split:
        """Training, validation and test part.

        Parameters
        ----------
        name : {"last", "time"}, default "last"
            Leave the last two events of every user out, or cut all users at the same two times.
        valid_from, test_from : int, optional
            Cut times in seconds for ``"time"``; by default the last 20 % and 10 % of all events.

        Raises
        ------
        ValueError
            If the name is unknown, or ``"time"`` is asked of a data set without times in order.
        """
        if name in ("last", "leave-last-out"):
            return leave_last_out(self.histories)
        if name not in ("time", "global-time"):
            raise ValueError(f"split must be one of last, time, got {name!r}")
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
        save_folder(folder, MANIFEST, "dataset", self.manifest | hashes | facts, files)
        return folder


def load_dataset(name_or_folder: str | os.PathLike[str], **options: Any) -> Dataset:
    """Open a built-in data set, a dataset folder, a file of events, or a named public set.

    Parameters
    ----------
    name_or_folder : str or path
        ``"journey"``, ``"synthetic"``, a folder with interactions.parquet and items.parquet, a file in one of the
        formats of :mod:`recbase.readers`, or a name of :data:`recbase.downloads.PUBLISHED`.
    **options
        For ``"synthetic"`` its parameters; for a folder ``ties`` and ``seed`` (they matter without positions); for
        files and public sets the arguments of :func:`prepare_dataset`.

    Raises
    ------
    ValueError
        If the name is unknown (the sentence lists the names) or the data are not sound.
    FileNotFoundError
        If a path does not exist.
    ImportError
        If the package that carries the data is not installed.
    """
    from recbase import builtin
    from recbase.downloads import PUBLISHED

    text = os.fspath(name_or_folder)
    path = Path(text)
    if text == "journey":
        return builtin.journey(**options)
    if text == "synthetic":
        return builtin.synthetic(**options)
    if text in PUBLISHED or path.is_file():
        return prepare_dataset(name_or_folder, **options)
    if path.is_dir():
        return _load_folder(path, **options)
    if os.sep in text or path.suffix:
        raise FileNotFoundError(f"the folder or file {text} does not exist")
    names = ", ".join([*BUILT_IN, *PUBLISHED])
    raise ValueError(f"unknown data set {text!r}: it is no folder here, and the names are {names}")


def prepare_dataset(
    source: str | os.PathLike[str] | pl.DataFrame,
    name: str | None = None,
    *,
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
    category: str | None = None,
    from_file: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    min_user: int | None = None,
    min_item: int | None = None,
    ties: Ties = "file",
    order: Order | None = None,
    seed: int = 0,
    limit: int | None = None,
    repeats: bool = False,
    views: Sequence[str] | None = None,
    quiet: bool = True,
) -> Dataset:
    """Filter and order raw events into a data set.

    In this order: events are sorted, repeats of a user-item pair dropped, rare users and items dropped until none is
    left (k-core), and each user's latest events kept. Users are in ascending order of their id; items in that of a
    given folder, else in ascending order of theirs.

    Parameters
    ----------
    source : str, path or DataFrame
        A named public set, a file, a folder, a table of events, or the Hugging Face name of a set with
        ``format="huggingface"``.
    name : str, optional
        Name of the data set; by default that of the source.
    items : path or DataFrame, optional
        Table of the items, in the format of the source.
    format : str, optional
        Format of the file (``csv``, ``recbase.readers.FORMATS`` has all); told from its name if not given.
    columns : mapping, optional
        Which column of the file is ``user_id``, ``item_id``, ``timestamp``, ``position``.
    hub : mapping, optional
        Arguments of ``datasets.load_dataset`` for ``format="huggingface"``, such as ``split``.
    category : str, optional
        Category of a public set that has several, such as ``"Beauty"``.
    from_file : path, optional
        Read a public set from this file instead of downloading it.
    cache : path, optional
        Where downloads are kept, by default ``~/.cache/semtok``.
    min_user, min_item : int, optional
        Fewest events a user and an item keep (iterated k-core); 5 by default, and 0 for a folder.
    ties : {"file", "item", "shuffle"}, default "file"
        Order of events of one time: as in the file, by ascending item id, or by a seeded hash.
    order : {"time", "file", "position"}, optional
        What orders a user's events; by default position, else time, else the file, as the source has them.
    seed : int, default 0
        Seed of ``ties="shuffle"``.
    limit : int, optional
        Number of latest events of a user that are kept; all by default.
    repeats : bool, default False
        Keep repeated events of a user with an item.
    views : list of str, optional
        Text columns to encode.
    quiet : bool, default True
        Show no progress bar.

    Raises
    ------
    ValueError
        If the data are not sound or nothing is left of them.
    FileNotFoundError
        If a file does not exist.
    """
    from recbase import downloads, readers

    if isinstance(source, str) and source in BUILT_IN:
        if (min_user, min_item, limit, order) != (None, None, None, None):
            raise ValueError(
                f"{source} is built in and has its own filters; give min_user, min_item, order, limit to files"
            )
        made = load_dataset(source, **({"seed": seed} if source == "synthetic" else {}))
        return made if name is None else replace(made, name=name, manifest=made.manifest | {"name": name})
    if isinstance(source, str) and source in downloads.PUBLISHED:
        raw = downloads.published(source, category, from_file, items, cache, quiet)
    elif not isinstance(source, pl.DataFrame) and format is None and Path(source).is_dir():
        raw = _raw_folder(Path(source))
        min_user, min_item = min_user or 0, min_item or 0
        repeats = True
    else:
        raw = readers.read(source, items, format, columns, hub)
    least = (5 if min_user is None else min_user, 5 if min_item is None else min_item)
    found = raw.interactions.columns
    order = order or ("position" if "position" in found else "time" if "timestamp" in found else "file")
    table = events.order_events(raw.interactions, order, ties, seed)
    read = table.height
    table = table if repeats else events.drop_repeats(table)
    distinct = table.height
    table = events.k_core(table, *least)
    table = table if limit is None else events.latest(table, limit)
    if raw.time_unit != 1 and "timestamp" in table.columns:
        table = table.with_columns(pl.col("timestamp") // raw.time_unit)
    filters = {"min_user": least[0], "min_item": least[1], "iterated": True, "limit": limit, "repeats": repeats}
    manifest: dict[str, Any] = {
        "source": raw.source,
        "filters": filters,
        "order": order,
        "ties": ties if order == "time" else None,
        "seed": seed if order == "time" and ties == "shuffle" else None,
        "events_read": read,
        "events_distinct": distinct,
    }
    if views is not None or raw.views:
        manifest["views"] = list(views or raw.views)
    catalogue = _catalogue(table, raw.items_of(table["item_id"].unique()), manifest)
    return Dataset.from_tables(name or raw.name, table, catalogue, manifest)


def _catalogue(table: pl.DataFrame, items: pl.DataFrame | None, manifest: dict[str, Any]) -> pl.DataFrame:
    """One row for every item with events: rows of ``items`` in their order, or by id; unknown items have null texts."""
    ids = table.select("item_id").unique().sort("item_id")
    if items is None:
        return ids
    items = _checked_items(items, "the items")
    table, items = _same_id_type(table, items, "the source")
    ids = table.select("item_id").unique().sort("item_id")
    missing = ids.join(items, on="item_id", how="anti").height
    if missing:
        manifest["items_without_text"] = missing
    return ids.join(items, on="item_id", how="left", maintain_order="left")


def _raw_folder(path: Path) -> Any:
    from recbase.readers import RawData

    loaded = _load_folder(path)
    source = {"folder": path.name, "hash": loaded.hash}
    return RawData(loaded.name, loaded.interactions(), loaded.items, source, views=loaded.views)


def _load_folder(path: Path, ties: Ties | None = None, seed: int | None = None, order: Order | None = None) -> Dataset:
    """Open a dataset folder, or any folder that has the two Parquet files."""
    manifest: dict[str, Any] = {}
    files = {name: path / name for name in ("interactions.parquet", "items.parquet")}
    images: np.ndarray | None = None
    if (path / MANIFEST).is_file():
        folder = open_folder(path, MANIFEST, "dataset")
        manifest = folder.manifest
        files |= {name: folder.file(name) for name in files if name in folder}
        if "images.safetensors" in folder:
            images = load_arrays(folder.file("images.safetensors"))["images"]
    for name, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{path} is not a data set: it has no {name}")
    table = events.check_interactions(_read_parquet(files["interactions.parquet"]), str(files["interactions.parquet"]))
    items = _checked_items(_read_parquet(files["items.parquet"]), str(files["items.parquet"]))
    order = order or ("position" if "position" in table.columns else "time" if "timestamp" in table.columns else "file")
    table = events.order_events(table, order, ties or manifest.get("ties") or "file", seed or manifest.get("seed") or 0)
    recorded, facts = manifest.pop("hash", None), manifest.pop("facts", {})
    for derived in ("sequences_hash", "pattern_hash"):
        manifest.pop(derived, None)
    if ties or seed or order == "file":
        recorded = None
    manifest.setdefault("source", {"folder": path.name})
    if not manifest.get("order"):
        manifest |= {"order": order, "ties": (ties or "file") if order == "time" else None}
    made = Dataset.from_tables(manifest.get("name") or path.resolve().name, table, items, manifest, images, facts)
    if recorded is not None and recorded != made.hash:
        raise ValueError(f"the sequences in {path} have hash {made.hash[:12]} but {MANIFEST} says {recorded[:12]}")
    return made


def _read_parquet(path: Path) -> pl.DataFrame:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected a Parquet table")
    try:
        return pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not a readable Parquet file: truncated or damaged") from error


def _checked_items(items: pl.DataFrame, what: str) -> pl.DataFrame:
    items = events.check_ids(items, ("item_id",), what)
    if items.height == 0:
        raise ValueError(f"{what} has no rows; expected at least one item")
    repeated = items["item_id"].filter(items["item_id"].is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        raise ValueError(f"{what} has {len(repeated)} item ids more than once, such as {repeated[0]}")
    return items.select("item_id", pl.exclude("item_id"))


def _same_id_type(table: pl.DataFrame, items: pl.DataFrame, what: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with ids of one type; a mixture of integers and strings is compared as strings."""
    if table.schema["item_id"] == items.schema["item_id"]:
        return table, items
    return table.with_columns(pl.col("item_id").cast(pl.String)), items.with_columns(pl.col("item_id").cast(pl.String))


def _checked_views(given: Sequence[str] | None, items: pl.DataFrame, name: str) -> list[str]:
    if given is None:
        texts = [column for column in VIEW_COLUMNS if items.schema.get(column) == pl.String]
        return [column for column in texts if _worth_encoding(items[column])]
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
