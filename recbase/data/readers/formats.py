"""Formats of files by name, and which of them a file has."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.amazon import amazon2014, amazon2018, amazon2023
from recbase.data.readers.hm import hm_events
from recbase.data.readers.hub import hub_events
from recbase.data.readers.items import given_items
from recbase.data.readers.mind import mind_events
from recbase.data.readers.movielens import movielens_events
from recbase.data.readers.recbole import recbole_events
from recbase.data.readers.sequences import sequences_json, sequences_text
from recbase.data.readers.sessions import diginetica_events, yoochoose_events
from recbase.data.readers.tables import csv_events, jsonl_events, parquet_events, tsv_events
from recbase.data.readers.yelp import yelp_events
from recbase.data.tables.blocks import first_line, plain_name
from recbase.data.tables.columns import (
    ITEM_COLUMNS,
    USER_COLUMNS,
    checked_events,
    choose_columns,
    header_names,
    usual_name,
)
from recbase.data.tables.delimited import SEPARATORS
from recbase.data.tables.raw import Notes, RawData, Request, clip

__all__ = ["FORMATS", "read", "read_all"]

Reader = Callable[[Request], RawData]

FORMATS: dict[str, Reader] = {
    "csv": csv_events,
    "tsv": tsv_events,
    "parquet": parquet_events,
    "jsonl": jsonl_events,
    "recbole": recbole_events,
    "amazon2014": amazon2014,
    "amazon2018": amazon2018,
    "amazon2023": amazon2023,
    "movielens": movielens_events,
    "mind": mind_events,
    "hm": hm_events,
    "yelp": yelp_events,
    "yoochoose": yoochoose_events,
    "diginetica": diginetica_events,
    "s3rec": sequences_text,
    "sequences": sequences_json,
    "huggingface": lambda request: hub_events(str(request.path), request),
}
"""Formats by name; which one a file has is told from its name where it can be."""

_NAMED = {
    "behaviors.tsv": "mind", "transactions_train.csv": "hm", "yelp_academic_dataset_review.json": "yelp",
    "yoochoose-clicks.dat": "yoochoose", "train-item-views.csv": "diginetica",
}  # fmt: skip
_TABLES = {"csv", "tsv", "recbole", "hm"}
_FOLDERS = {"movielens", "mind", "hm", "yelp"}
_SUFFIXES = {
    ".inter": "recbole", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".json": "jsonl", ".txt": "s3rec", ".dat": "movielens",
}  # fmt: skip


def read(
    source: str | os.PathLike[str] | pl.DataFrame,
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
    time_format: str | None = None,
    separator: str | None = None,
    header: Sequence[str] | None = None,
    drop_null: bool = False,
) -> RawData:
    """Read events, and items if there are any.

    Parameters
    ----------
    source : path, str or DataFrame
        File of events; a folder for MovieLens, MIND, H&M and Yelp; a name for ``format="huggingface"``.
    items : path or DataFrame, optional
        Table of items. For RecBole and MovieLens the file beside the events is found by itself.
    format : str, optional
        One of ``FORMATS``; by default told from the name of the file.
    columns : mapping, optional
        Which column of the source is ``user_id``, ``item_id``, ``timestamp``, ``position``, ``history``.
    hub : mapping, optional
        Arguments for ``datasets.load_dataset``.
    time_format : str, optional
        How times are written, in the codes of strptime; numbers and ISO dates need none.
    separator : str, optional
        What stands between the fields of a table; told from its header if not given.
    header : sequence of str, optional
        Names of the columns of a table without a header.
    drop_null : bool, default False
        Leave out events without a user or an item, and count them, instead of refusing them.

    Returns
    -------
    RawData
        With what was lost or guessed in its ``notes``.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If the format is unknown, a column is missing, or the file is empty or damaged.
    """
    notes = Notes()
    if isinstance(source, pl.DataFrame):
        request = Request(Path("the interactions"), items, columns, time_format, notes, drop_null=drop_null)
        wanted = choose_columns(source.columns, columns, "the interactions")
        table = source.select(pl.col(column).alias(name) for name, column in wanted.items())
        named = checked_events(table, request, "the interactions", numbers=False)
        return RawData("table", named, given_items(request), {"table": "given in memory"}, notes=notes)
    path = Path(source)
    if format is None:
        format = "csv" if header is not None else _format_of(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {clip(format)}")
    if format not in _TABLES and (separator is not None or header is not None):
        raise ValueError(f"separator and header are for tables of text, and {path} is read as {format}")
    request = Request(path, items, columns, time_format, notes, separator, header, drop_null)
    if format == "huggingface":
        return hub_events(os.fspath(source), request, hub)
    if not path.exists():
        raise FileNotFoundError(f"the file {path} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected events")
    if path.is_dir() and format not in _FOLDERS:
        raise ValueError(f"{path} is a folder; expected a file of events")
    raw = FORMATS[format](request)
    raw.source = {"file": path.name, "format": format} | raw.source
    return raw


def read_all(
    source: str | os.PathLike[str] | pl.DataFrame | Sequence[str | os.PathLike[str]],
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    *given: Any,
) -> RawData:
    """Read one source, or several files of one form after one another; arguments are those of :func:`read`.

    Parameters
    ----------
    source : path, str, DataFrame or sequence of paths
        A text with ``*``, ``?`` or ``[`` that is no file stands for all files of that pattern, in order of their names.

    Raises
    ------
    FileNotFoundError
        If a file does not exist, or no file is of the pattern.
    ValueError
        As :func:`read` does, or if no file is given.
    """
    if isinstance(source, pl.DataFrame):
        return read(source, items, *given)
    several: Sequence[Any] = source if isinstance(source, list | tuple) else [source]
    paths = [path for one in several for path in _matching(one)]
    if not paths:
        raise ValueError("no file of events is given")
    if len(paths) == 1:
        return read(paths[0], items, *given)
    parts = [read(path, items if number == 0 else None, *given) for number, path in enumerate(paths)]
    tables = [part.interactions for part in parts]
    shared = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    text = {name for name in ("user_id", "item_id") if any(table.schema[name] == pl.String for table in tables)}
    together = pl.concat(
        [table.select(pl.col(name).cast(pl.String) if name in text else name for name in shared) for table in tables]
    )
    if "position" in shared:  # each file counts from 0 on
        together = together.with_columns(position=pl.int_range(pl.len()).over("user_id"))
    first = parts[0]
    for part in parts[1:]:
        first.notes.entries += part.notes.entries
    catalogue = next((part.items for part in parts if part.items is not None), None)
    first.source = first.source | {"files": [path.name for path in paths]}
    return RawData(first.name, together, catalogue, first.source, first.views, first.notes)


def _matching(source: str | os.PathLike[str]) -> list[Path]:
    """The file itself, or the files that a pattern stands for, in order of their names."""
    path = Path(source)
    if path.exists() or not re.search(r"[*?\[]", str(source)):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(source)))
    if not found:
        raise FileNotFoundError(f"no file is of the pattern {source}")
    return found


def _format_of(path: Path) -> str:
    """The format that the name of a file tells."""
    name = plain_name(path)
    if name.startswith("reviews_") and name.endswith(".json"):
        return "amazon2014"
    if re.search(r"(ratings|movies)\.dat$", name) or (path / "ratings.dat").exists() or (path / "ratings.csv").exists():
        return "movielens"
    if name == "ratings.csv" and path.is_file() and "movieId" in first_line(path):
        return "movielens"
    if name.endswith(".inter.json"):
        return "sequences"
    if name in _NAMED:
        return _NAMED[name]
    suffix = Path(name).suffix
    if suffix not in _SUFFIXES:
        raise ValueError(f"cannot tell the format of {path} from its name; give one of {', '.join(FORMATS)}")
    if suffix in (".txt", ".dat") and path.is_file() and _has_header(path):
        return "tsv"
    return _SUFFIXES[suffix]


def _has_header(path: Path) -> bool:
    """True where a text file begins with the names of a user and an item column between separators."""
    line = first_line(path)
    if len(line) > 10_000:
        return False
    names = (header_names(line, mark) for mark in SEPARATORS)
    return any(usual_name(found, USER_COLUMNS) and usual_name(found, ITEM_COLUMNS) for found in map(list, names))
