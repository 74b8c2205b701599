"""Data sets by name and by folder: opened, or made from raw events.

``load_dataset`` opens a built-in set, a folder, a file or a named public set; ``prepare_dataset`` filters and orders
raw events into one. A folder needs ``interactions.parquet`` and ``items.parquet`` only; what is saved here also has a
manifest ``dataset.json``. Nothing is ever written into a folder that was given. Formats of files are in ``readers``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase.arguments import Count, DatasetName, Large, LargeOrOff, Seed, check_arguments, spelled
from recbase.console import short
from recbase.data import interactions as events
from recbase.data.dataset import MANIFEST, SCHEMA, VIEW_COLUMNS, Dataset, read_images, usual_views
from recbase.data.interactions import Order, Ties, checked_items
from recbase.data.preparation import Duplicates, Rules, prepared_tables
from recbase.data.same_data import Verification, verify
from recbase.data.tables.columns import EVENT_COLUMNS, listed
from recbase.data.tables.raw import Notes, RawData
from recbase.data.times import with_seconds
from recbase.store.folder import consistent, open_folder
from recbase.store.manifests import check

__all__ = [
    "BUILT_IN",
    "VIEW_COLUMNS",
    "Dataset",
    "Verification",
    "as_dataset",
    "load_dataset",
    "prepare_dataset",
    "verify",
]

BUILT_IN = ("journey", "synthetic")
_NO_TEXT = ("image_url", "image_path")  # columns of the items that are never encoded as text


def load_dataset(name_or_folder: str | os.PathLike[str], **options: Any) -> Dataset:
    """Open a built-in data set, a dataset folder, a file of events, or a named public set.

    Parameters
    ----------
    name_or_folder : str or path
        ``"journey"``, ``"synthetic"``, a folder with interactions.parquet and items.parquet, a file in one of the
        formats of :mod:`recbase.data.readers`, or a name of :data:`recbase.data.fetch.PUBLISHED`.
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
    from recbase.data import builtin
    from recbase.data.fetch import PUBLISHED

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


def as_dataset(data: Dataset | str | os.PathLike[str]) -> Dataset:
    """The data set itself, or the one that `load_dataset` opens by this name or path."""
    return data if isinstance(data, Dataset) else load_dataset(data)


def prepare_dataset(
    source: str | os.PathLike[str] | pl.DataFrame | Sequence[str | os.PathLike[str]],
    name: DatasetName | None = None,
    *,
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
    category: str | None = None,
    from_file: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    min_user: LargeOrOff | None = None,
    min_item: LargeOrOff | None = None,
    ties: Ties = "file",
    order: Order | None = None,
    time_format: str | None = None,
    separator: str | None = None,
    header: Sequence[str] | None = None,
    drop_null: bool = False,
    sample_users: Count | None = None,
    sample_after: bool = False,
    seed: Seed = 0,
    limit: Large | None = None,
    repeats: bool = False,
    duplicates: Duplicates | None = None,
    views: Sequence[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    quiet: bool = True,
) -> Dataset:
    """Filter and order raw events into a data set.

    In this order: events are sorted, repeats of a user-item pair dropped, rare users and items dropped until none is
    left (k-core), and each user's latest events kept. Users are in ascending order of their id; items in that of a
    given folder, else in ascending order of theirs.

    Parameters
    ----------
    source : str, path, list of paths or DataFrame
        A named public set, a file, several files or a pattern such as ``"events-*.csv"``, a folder, a table of events,
        or the Hugging Face name of a set with ``format="huggingface"``.
    name : str, optional
        Name of the data set; by default that of the source.
    items : path or DataFrame, optional
        Table of the items, in the format of the source.
    format : str, optional
        Format of the file (``csv``, ``recbase.data.readers.FORMATS`` has all); told from its name if not given.
    columns : mapping, optional
        Which column of the file is ``user_id``, ``item_id``, ``timestamp``, ``position``, ``history``; any other name
        is that of a text column of the items, as in ``{"title": "Product Name"}``, which is encoded.
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
    time_format : str, optional
        How times are written, in the codes of strptime, such as ``"%d/%m/%Y %H:%M"``; numbers and ISO dates need none.
    separator : str, optional
        What stands between the fields of a table; told from its header if not given.
    header : list of str, optional
        Names of the columns of a table that has no header, such as ``user,item,rating,time``.
    drop_null : bool, default False
        Leave out events without a user or an item, and count them, instead of refusing them.
    sample_users : int, optional
        Users that are drawn, by the seed, before anything is filtered; all by default.
    sample_after : bool, default False
        Draw them after filtering instead: so many are left, and their items may be rarer than ``min_item`` among them.
    seed : int, default 0
        Seed of ``ties="shuffle"`` and of ``sample_users``.
    limit : int, optional
        Number of latest events of a user that are kept; all by default.
    repeats : bool, default False
        Keep repeated events of a user with an item; the same as ``duplicates="keep"``, which hm has by default.
    duplicates : {"keep", "first", "last", "refuse"}, optional
        Repeated events of a user with an item: keep them, the first or last of them, or refuse them; the first by
        default. In the table of items the first or last row of an id stays; two are refused by default.
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
    from recbase.data import fetch as downloads
    from recbase.data import readers

    if not isinstance(source, list | tuple):
        source = readers.as_table(source, "the source")
    check_arguments(prepare_dataset, {"min_user": min_user, "min_item": min_item, "limit": limit, "seed": seed})
    _check_source(source, category=category, from_file=from_file, format=format, columns=columns, items=items)
    if repeats and duplicates not in (None, "keep"):
        raise ValueError(f"repeats keeps repeated events and duplicates={duplicates} does not; give one of them")
    if isinstance(source, str) and source in BUILT_IN:
        if (min_user, min_item, limit, order) != (None, None, None, None):
            raise ValueError(
                f"{source} is built in and has its own filters; give min_user, min_item, order, limit to files"
            )
        return _built_in(source, name, seed)
    if isinstance(source, str) and source in downloads.PUBLISHED:
        raw = downloads.published(source, category, from_file, items, cache, quiet, time_format)
        repeats = repeats or (duplicates is None and downloads.PUBLISHED[source].repeats)
    elif isinstance(source, str | os.PathLike) and format is None and _is_dataset_folder(Path(source)):
        for option, given in (("items", items), ("columns", columns), ("time_format", time_format)):
            if given is not None:
                raise ValueError(f"{option} is for files of events; the folder {source} has its own")
        raw = _raw_folder(Path(source))
        min_user, min_item, repeats = min_user or 0, min_item or 0, duplicates is None
    else:
        raw = readers.read_all(source, items, format, columns, hub, time_format, separator, header, drop_null)
    raw.views = _named_views(raw, columns) or raw.views
    rules = Rules(
        order, ties, seed, sample_users, sample_after, "keep" if repeats else duplicates,
        5 if min_user is None else min_user, 5 if min_item is None else min_item, limit,
        None if views is None else tuple(views),
    )  # fmt: skip
    table, catalogue, manifest = prepared_tables(raw, rules)
    if pictures is not None:
        catalogue = _with_pictures(catalogue, Path(pictures), manifest, raw.notes, quiet)
    if raw.notes.entries:
        several = source if isinstance(source, list | tuple) else (source,)
        paths = [Path(given) for given in (*several, items, from_file) if isinstance(given, str | os.PathLike)]
        folders = [folder for path in paths for folder in ([path, path.parent] if path.is_dir() else [path.parent])]
        manifest["reading"] = [_without_folders(note, folders) for note in raw.notes.entries]
    made = Dataset.from_tables(name or raw.name, table, catalogue, manifest)
    _say_no_view(made)
    made.manifest["texts"] = {view: _with_text(made.items[view]) for view in made.views}
    return made


def _named_views(raw: RawData, columns: Mapping[str, str] | None) -> list[str]:
    """Text columns that were named, beside those of usual names; none if none was named."""
    named = [name for name in columns or {} if name not in EVENT_COLUMNS and name not in _NO_TEXT]
    if named and not isinstance(raw.items, pl.DataFrame):
        raise ValueError(f"columns names {named[0]} of the items, but no table of items was given")
    usual = usual_views(raw.items) if named and isinstance(raw.items, pl.DataFrame) else []
    return [*usual, *(name for name in named if name not in usual)] if named else []


def _with_pictures(
    items: pl.DataFrame, folder: Path, manifest: dict[str, Any], notes: Notes, quiet: bool
) -> pl.DataFrame:
    """The items with the paths of their pictures from ``folder`` on, where they are fetched to."""
    from recbase.data.pictures import fetch_pictures

    if "image_url" not in items.columns:
        raise ValueError(
            f"--pictures fetches from the column image_url, and the items have {listed(items.columns)}; "
            "--columns image_url=NAME names another"
        )
    found = fetch_pictures(items["image_url"].to_list(), folder, quiet=quiet)
    missing = sum(path is None for path in found.paths)
    manifest["pictures"] = {
        "addresses": found.addresses, "there": found.there, "fetched": found.fetched, "failed": found.failed,
        "items_without": missing,
    }  # fmt: skip
    said = f"{found.sentence()}; {missing:,} of {items.height:,} items have no picture"
    notes.say("pictures_fetched", items.height - missing, said, warn=False)
    return items.with_columns(pl.Series("image_path", found.paths, dtype=pl.String))


def _say_no_view(made: Dataset) -> None:
    """Warn that nothing of the items is encoded although they have texts, and say how that is mended."""
    spared = {"item_id", *_NO_TEXT}
    texts = [name for name, kind in made.items.schema.items() if kind == pl.String and name not in spared]
    named = {column.strip().casefold() for column in texts} & set(VIEW_COLUMNS)
    if texts and not made.views and not named:
        warnings.warn(
            f"no text column of the items of {made.name} has a usual name, so that models of content have nothing to "
            f"read; the text columns are {listed(texts)}: name them with --views {','.join(texts[:2])} (views=) or "
            f"--columns title={texts[0]}",
            UserWarning,
            stacklevel=3,
        )


def _check_source(source: Any, **given: Any) -> None:
    """Refuse what means nothing for a source: a category of a file, the format of a public set."""
    from recbase.data.fetch import PUBLISHED

    public = isinstance(source, str) and source in PUBLISHED
    named = public or (isinstance(source, str) and source in BUILT_IN)
    kept = {"category", "from_file", "items"} if public else set() if named else {"format", "columns", "items"}
    for name in (name for name, value in given.items() if value is not None and name not in kept):
        kind = "a public set" if public else "a built-in set" if named else "a file, a folder or a table"
        raise ValueError(f"{spelled(name)} means nothing for {kind}, and {short(str(source))} is one; leave it out")


def _built_in(source: str, name: str | None, seed: int) -> Dataset:
    made = load_dataset(source, **({"seed": seed} if source == "synthetic" else {}))
    return made if name is None else replace(made, name=name, manifest=made.manifest | {"name": name})


def _is_dataset_folder(path: Path) -> bool:
    """True where a path is a folder, and not one of MovieLens, which is read as files are."""
    return path.is_dir() and not any((path / name).is_file() for name in ("ratings.dat", "ratings.csv"))


def _with_text(column: pl.Series) -> int:
    """Count of the values of a text column that have a letter or digit to encode."""
    return int((column.str.strip_chars().str.len_chars() > 0).sum())


def _without_folders(note: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """A note as it is recorded: it names files, and not where they lay on this machine."""
    sentence = note["sentence"]
    for folder in folders:
        sentence = sentence.replace(f"{folder}{os.sep}", "") if folder.name else sentence
    return {**note, "sentence": sentence}


def _raw_folder(path: Path) -> Any:
    from recbase.data.readers import RawData

    loaded = _load_folder(path)
    source = {"folder": path.name, "hash": loaded.hash}
    return RawData(loaded.name, loaded.interactions(), loaded.items, source, views=loaded.views)


@consistent
def _load_folder(path: Path, ties: Ties | None = None, seed: int | None = None, order: Order | None = None) -> Dataset:
    """Open a dataset folder, or any folder that has the two Parquet files."""
    manifest: dict[str, Any] = {}
    files = {name: path / name for name in ("interactions.parquet", "items.parquet")}
    images: np.ndarray | None = None
    if (path / MANIFEST).is_file():
        folder = open_folder(path, MANIFEST, "dataset", by_hand=True)
        check(path / MANIFEST, folder.manifest, SCHEMA)
        manifest = folder.manifest
        files |= {name: folder.file(name) for name in files if name in folder}
        if "images.safetensors" in folder:
            images = read_images(folder, folder.manifest.get("counts", {}).get("items"))
    for name, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{path} is not a data set: it has no {name}")
    source = files["interactions.parquet"]
    table = _read_parquet(source)
    # What is saved here is in seconds; a table of others may count milliseconds or spell dates.
    if not manifest and "timestamp" in table.columns and table.schema["timestamp"] != pl.Null:
        table = with_seconds(table, str(source))[0]
    table = events.check_interactions(table, str(source))
    items = checked_items(_read_parquet(files["items.parquet"]), str(files["items.parquet"]))
    if images is not None and len(images) != items.height:
        raise ValueError(f"{path} has vectors of {len(images)} images but {items.height} items")
    order = order or ("position" if "position" in table.columns else "time" if "timestamp" in table.columns else "file")
    try:
        ties_by = ties or manifest.get("ties") or "file"
        table = events.order_events(table, order, ties_by, seed or manifest.get("seed") or 0)
    except ValueError as error:
        raise ValueError(f"{files['interactions.parquet']}: {error}") from error
    recorded, facts = manifest.pop("hash", None), manifest.pop("facts", {})
    for derived in ("sequences_hash", "pattern_hash"):
        manifest.pop(derived, None)
    if ties or seed or order == "file":
        recorded = None
    manifest.setdefault("source", {"folder": path.name})
    if not manifest.get("order"):
        manifest |= {"order": order, "ties": (ties or "file") if order == "time" else None}
    try:
        made = Dataset.from_tables(manifest.get("name") or path.resolve().name, table, items, manifest, images, facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if recorded is not None and recorded != made.hash:
        raise ValueError(f"the sequences in {path} have hash {made.hash[:12]} but {MANIFEST} says {recorded[:12]}")
    return made


def _read_parquet(path: Path) -> pl.DataFrame:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected a Parquet table")
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: truncated or damaged") from error
