"""Events in tables with named columns: delimited text, Parquet and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from recbase.data.readers.amazon import amazon2023_csv, amazon_json, amazon_ratings, is_ratings_only
from recbase.data.readers.items import given_items
from recbase.data.readers.sequences import is_sequences_json, sequences_json
from recbase.data.tables.blocks import blocks, first_line, plain_name
from recbase.data.tables.columns import EVENT_COLUMNS, checked_events, choose_columns
from recbase.data.tables.delimited import dialect_of, read_fields
from recbase.data.tables.histories import split_files, warn_of_train
from recbase.data.tables.jsonlines import first_object, json_items, json_keys
from recbase.data.tables.parquet import read_parquet
from recbase.data.tables.raw import RawData, Request, clip, data_name

__all__ = ["csv_events", "delimited_events", "jsonl_events", "parquet_events", "tsv_events"]


def csv_events(request: Request) -> RawData:
    """A table with a header; Amazon's official CSVs, with or without a header, are told by their columns."""
    if request.columns is None and request.header is None:
        header = first_line(request.path)
        if is_ratings_only(header):
            return amazon_ratings(request)
        if header.startswith("user_id,parent_asin,"):
            return amazon2023_csv(request)
    return delimited_events(request, ",")


def tsv_events(request: Request) -> RawData:
    """A table with a header and tabs between fields."""
    return delimited_events(request, "\t")


def delimited_events(request: Request, separator: str) -> RawData:
    """Events of a table with a header, and of the parts of the same set beside it."""

    def read(path: Path) -> pl.DataFrame:
        given = request.columns or {}
        expected = [(given.get(name, ""), *guesses) for name, guesses in EVENT_COLUMNS.items()]
        dialect = dialect_of(path, separator, expected, request.separator, request.header)
        wanted = choose_columns(dialect.names, request.columns, str(path))
        columns = list(dict.fromkeys(wanted.values()))
        parts = list(read_fields(path, dialect, columns, request.notes, request.header is None))
        table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        _refuse_second_header(table, wanted, path)
        return table.select(pl.col(column).alias(name) for name, column in wanted.items())

    return _events(request, read)


def _refuse_second_header(table: pl.DataFrame, wanted: Mapping[str, str], path: Path) -> None:
    """Files that were put one after another have a header in the midst of their rows."""
    names = [wanted[name] for name in ("user_id", "item_id") if name in wanted]
    again = table.select(pl.all_horizontal(pl.col(name) == name for name in names)).to_series().arg_true()
    if len(again):
        raise ValueError(f"{path} has its header again in row {int(again[0]) + 1}; leave out all but the first")


def parquet_events(request: Request) -> RawData:
    """Events of a Parquet table; text stays text, whatever it spells."""

    def read(path: Path) -> pl.DataFrame:
        return read_parquet(path, lambda names: choose_columns(names, request.columns, str(path)))

    return _events(request, read, numbers=False)


def jsonl_events(request: Request) -> RawData:
    """JSON objects; Amazon's reviews of 2018 and 2023 and sequences by user are told by their keys."""
    path = request.path
    if plain_name(path).endswith(".json") and is_sequences_json(path):
        return sequences_json(request)
    if first_line(path).startswith("["):
        return _events(request, lambda file: _json_array(file, request))
    first = first_object(path)
    if request.columns is None and "parent_asin" in first and "user_id" in first:
        return amazon_json(request, ("user_id", "parent_asin", "timestamp"))
    if request.columns is None and "reviewerID" in first and "asin" in first:
        return amazon_json(request, ("reviewerID", "asin", "unixReviewTime"))
    return _events(request, lambda file: _json_lines(file, request))


def _json_lines(path: Path, request: Request) -> pl.DataFrame:
    first = first_object(path)
    wanted = choose_columns(_keys(path), request.columns, str(path))
    columns = list(dict.fromkeys(wanted.values()))
    integers = [column for column in columns if type(first.get(column)) is int]
    table = json_keys(path, columns, request.notes, integers)
    return table.select(pl.col(column).alias(name) for name, column in wanted.items())


def _keys(path: Path) -> list[str]:
    """Keys of the first lines, and the names of a time or position that come later."""
    found: dict[str, None] = {}
    for line in next(blocks(path, size=1 << 16), b"").split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            found.update(dict.fromkeys(entry))
    for names in (EVENT_COLUMNS["timestamp"], EVENT_COLUMNS["position"]):
        if not any(name in found for name in names):
            late = next((name for block in blocks(path) for name in names if b'"%b"' % name.encode() in block), None)
            found.update({} if late is None else {late: None})
    return list(found)


def _json_array(path: Path, request: Request) -> pl.DataFrame:
    given = tuple((request.columns or {}).values())
    ids = (*EVENT_COLUMNS["user_id"], *EVENT_COLUMNS["item_id"], *EVENT_COLUMNS["history"], *given)
    table = json_items(path, ids, request.notes)
    wanted = choose_columns(table.columns, request.columns, str(path))
    return table.select(pl.col(column).alias(name) for name, column in wanted.items())


def _events(request: Request, read: Callable[[Path], pl.DataFrame], numbers: bool = True) -> RawData:
    """Events of a file, and of the parts of the same set that lie beside it."""
    path = request.path
    tables, together = [read(path)], [path]
    for other in split_files(path)[1:]:
        reason = "its columns are others"
        try:
            part = read(other)
        except ValueError as error:
            part, reason = pl.DataFrame(), str(error)
        if set(part.columns) == set(tables[0].columns):
            tables.append(part.select(tables[0].columns))
            together.append(other)
        else:
            request.notes.say(
                "split_not_joined", 1, f"{other} beside {path.name} was not read with it: {clip(reason, 300)}"
            )
    table = tables[0]
    if len(tables) > 1:
        numbered = [part.with_columns(pl.lit(at).alias("_part")) for at, part in enumerate(tables)]
        try:
            table = pl.concat(numbered, how="vertical_relaxed")
        except pl.exceptions.PolarsError as error:
            names = ", ".join(file.name for file in together)
            raise ValueError(f"{names} in {path.parent} have columns of different types; expected one set") from error
        names = ", ".join(file.name for file in together[1:])
        request.notes.say("split_joined", len(together), f"{names} beside {path.name} were read with it", warn=False)
    elif "history" not in table.columns:
        warn_of_train(path, request.notes)
    named = checked_events(table, request, str(path), numbers)
    source = {"files": [file.name for file in together]} if len(together) > 1 else {}
    return RawData(data_name(together), named, given_items(request), source, notes=request.notes)
