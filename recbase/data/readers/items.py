"""Tables of items, whatever the file: one reader for ``prepare`` and for ``encode``, in which strings stay strings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.interactions import check_ids
from recbase.data.tables.blocks import decoded, plain_name
from recbase.data.tables.columns import EVENT_COLUMNS, ITEM_COLUMNS, listed, usual_name
from recbase.data.tables.delimited import dialect_of, read_fields
from recbase.data.tables.ids import typed_ids
from recbase.data.tables.jsonlines import json_items
from recbase.data.tables.parquet import read_parquet
from recbase.data.tables.raw import Notes, Request, as_table, clip
from recbase.data.tables.texts import clean_column

__all__ = ["given_items", "item_table", "read_items"]

_TEXTS = {
    "title": ("prod_name", "product_name", "business_name", "name"),
    "description": ("detail_desc", "abstract"),
    "product_type": ("product_type_name",),
}
"""Names of text columns in public sets and shops, by the usual name that stands for them where it is missing."""

_SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv",
    ".tsv": "tsv", ".item": "recbole", ".txt": "tsv",
}  # fmt: skip


def read_items(
    path: str | os.PathLike[str],
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    notes: Notes | None = None,
) -> pl.DataFrame:
    """Read a table of items: ``item_id`` and every other column of the file.

    No type is guessed: a field of a CSV is text, so that "0042" keeps its zeros; numbers are numbers only where the
    file says so (Parquet, JSON). Ids follow the rules of :mod:`recbase.data.tables.ids`: integers if all are plain
    integers, else text. Texts lose markup and the blanks around them, and are null where nothing is left.

    Parameters
    ----------
    path : path
        CSV, TSV, RecBole's ``.item``, Parquet or JSON (lines, an array, or one object of objects by id), compressed
        or not.
    format : {"csv", "tsv", "recbole", "parquet", "jsonl"}, optional
        Told from the name of the file if not given.
    columns : mapping, optional
        ``item_id`` to the name of its column, by default the first of the usual names that is there.
    notes : Notes, optional
        Where to record what was lost or guessed; it is warned of either way.

    Returns
    -------
    DataFrame [N rows]
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is empty, damaged or of no known format, or has no column of ids; an id is null or empty.
    """
    path, notes = Path(path), notes if notes is not None else Notes()
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected items")
    given = (columns or {}).get("item_id")
    names = (given, *ITEM_COLUMNS) if given is not None else ITEM_COLUMNS
    return item_table(_raw(path, format, names, notes), str(path), columns, notes)


def given_items(request: Request) -> pl.DataFrame | None:
    """The table of items that a request names, None if it names none."""
    if request.items is None:
        return None
    items = as_table(request.items, "the items")
    if isinstance(items, pl.DataFrame):
        return item_table(items, "the items", request.columns, request.notes)
    return read_items(items, None, request.columns, request.notes)


def _raw(path: Path, format: str | None, id_columns: tuple[str, ...], notes: Notes) -> pl.DataFrame:
    """The table as it is in the file."""
    known = ("csv", "tsv", "recbole", "parquet", "jsonl")
    if format is None:
        suffix = Path(plain_name(path)).suffix
        if suffix not in _SUFFIXES:
            raise ValueError(f"cannot tell the format of {path} from its name; give one of {', '.join(known)}")
        format = _SUFFIXES[suffix]
    if format not in known:
        raise ValueError(f"format of items must be one of {', '.join(known)}, got {clip(format)}")
    if format == "parquet":
        return read_parquet(path)
    if format == "jsonl":
        return json_items(path, id_columns, notes)
    dialect = dialect_of(path, "," if format == "csv" else "\t", [id_columns])
    names = [name for name in dialect.names if name]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path} has the column {repeated} more than once; its columns are {listed(names)}")
    if not names:
        raise ValueError(f"{path} has no header; expected the names of its columns in the first line")
    parts = list(read_fields(path, dialect, names, notes))
    return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))


def item_table(
    table: pl.DataFrame, what: str, columns: Mapping[str, str] | None, notes: Notes, clean: bool = True
) -> pl.DataFrame:
    """A table of items with its ids in ``item_id``, lists joined and texts clean.

    Parameters
    ----------
    table : DataFrame
    what : str
        Source, for the sentence of an error.
    columns : mapping or None
        May name the column of ids.
    notes : Notes
    clean : bool, default True
        Whether texts lose markup and blanks.

    Raises
    ------
    ValueError
        If there is no column of ids, or an id is none.
    """
    table = _renamed(table, what, columns)
    column = (columns or {}).get("item_id")
    if column not in table.columns:
        column = usual_name(table.columns, ITEM_COLUMNS)
    if column is None:
        raise ValueError(f"{what} has no column item_id; its columns are {listed(table.columns)}")
    if column != "item_id":
        table = table.drop("item_id", strict=False).rename({column: "item_id"})
    table = _without_nested(table, what, notes)
    table = table.with_columns(typed_ids(check_ids(table, ("item_id",), what)["item_id"], what, notes))
    texts = [name for name, kind in table.schema.items() if kind == pl.String and name != "item_id"]
    return table.with_columns(clean_column(table[name], what, notes) for name in texts) if clean else table


def _renamed(table: pl.DataFrame, what: str, columns: Mapping[str, str] | None) -> pl.DataFrame:
    """The table with the text columns that were named under their names, and those of public sets under usual ones."""
    given = {name: column for name, column in (columns or {}).items() if name not in EVENT_COLUMNS}
    for name, column in given.items():
        if column not in table.columns:
            raise ValueError(
                f"{what} has no column {clip(column)} to take as {name}; its columns are {listed(table.columns)}"
            )
    usual = {
        name: column
        for name, guesses in _TEXTS.items()
        for column in guesses
        if name not in given and name not in table.columns and column in table.columns and column not in given.values()
    }
    moved = {column: name for name, column in (usual | given).items() if name != column}
    return table.drop(set(moved.values()) & set(table.columns), strict=False).rename(moved)


def _without_nested(table: pl.DataFrame, what: str, notes: Notes) -> pl.DataFrame:
    """Lists of plain values become text, categories text; other nested columns are left out, and that is told."""
    kept: list[Any] = []
    for name, kind in table.schema.items():
        if name == "item_id" or not (
            kind.is_nested() or kind in (pl.Categorical, pl.Binary) or isinstance(kind, pl.Enum)
        ):
            kept.append(pl.col(name))
        elif kind == pl.Binary:
            kept.append(_decoded(table[name], what, notes))
        elif kind == pl.Categorical or isinstance(kind, pl.Enum):
            kept.append(pl.col(name).cast(pl.String))
        elif isinstance(kind, pl.List) and kind.inner is not None and not kind.inner.is_nested():  # type: ignore[attr-defined]
            kept.append(pl.col(name).cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True))
        else:
            notes.say(
                "column_of_objects",
                1,
                f"the column {clip(name, 40)} of {what} holds objects and was left out; text that is wanted needs a "
                "column of its own",
                warn=False,
            )
    return table.select(kept)


def _decoded(column: pl.Series, what: str, notes: Notes) -> pl.Series:
    """Bytes as text; those that are not UTF-8 are read as Windows-1252, as lines of a file are, and counted."""
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:
        pairs = [(None, 0) if value is None else decoded(value) for value in column.to_list()]
    foreign = sum(1 for _, bad in pairs if bad)
    notes.say(
        "values_not_utf8",
        foreign,
        f"{foreign:,} values of the column {clip(column.name, 40)} of {what} are bytes that are not UTF-8 and were "
        "read as Windows-1252 (Latin-1)",
    )
    texts = [None if text is None else text.decode("utf-8") for text, _ in pairs]
    return pl.Series(column.name, texts, dtype=pl.String)
