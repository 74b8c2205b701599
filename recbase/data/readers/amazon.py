"""Amazon reviews (McAuley, UCSD) of 2014, 2018 and 2023, and the metadata of their items."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import given_items
from recbase.data.tables.blocks import blocks, first_line, plain_name
from recbase.data.tables.columns import checked_events, choose_columns
from recbase.data.tables.delimited import Dialect, dialect_of, read_fields
from recbase.data.tables.histories import split_files
from recbase.data.tables.jsonlines import json_keys, json_paths
from recbase.data.tables.raw import ItemTable, Notes, RawData, Request, clip, data_name
from recbase.data.tables.texts import MAX_TEXT, joined

__all__ = [
    "amazon2014",
    "amazon2018",
    "amazon2023",
    "amazon2023_csv",
    "amazon_json",
    "amazon_ratings",
    "is_ratings_only",
]

_RATING_ROW = re.compile(r"^[A-Za-z0-9]{6,},[A-Za-z0-9]{6,},[0-9.]+,\d{6,}$")
_ID_IN_LINE = re.compile(r"""['"](?:parent_)?asin['"]\s*: ?['"]([^'"]+)['"]""")
_TEXTS = ("title", "brand", "features", "categories", "description", "price", "image_url")


def amazon_json(request: Request, keys: tuple[str, str, str]) -> RawData:
    """Review files: one JSON object a line with the given keys for user, item and time."""
    path = request.path
    table = json_keys(path, keys, request.notes, keys[2:])
    table = table.rename(dict(zip(keys, ("user_id", "item_id", "timestamp"), strict=True)))
    # An ASIN stays a string even where all of them are digits.
    named = checked_events(table, request, str(path), numbers=False)
    return RawData(data_name([path]), named, _amazon_items(request), {}, notes=request.notes)


def amazon2014(request: Request) -> RawData:
    """Reviews of 2014."""
    return amazon_json(request, ("reviewerID", "asin", "unixReviewTime"))


def amazon2018(request: Request) -> RawData:
    """Reviews of 2018, or the file of their ratings only."""
    if plain_name(request.path).endswith(".csv"):
        return amazon_ratings(request)
    return amazon_json(request, ("reviewerID", "asin", "unixReviewTime"))


def amazon2023(request: Request) -> RawData:
    """Reviews of 2023, or the official 5-core tables."""
    if plain_name(request.path).endswith(".csv"):
        return amazon2023_csv(request)
    return amazon_json(request, ("user_id", "parent_asin", "timestamp"))


def is_ratings_only(header: str) -> bool:
    """True where a first line is a row of a "ratings only" file, which has no header."""
    return bool(_RATING_ROW.match(header))


def amazon_ratings(request: Request) -> RawData:
    """ "Ratings only" files without a header: item,user,rating,time (2018) or user,item,rating,time (2014).

    The two are told apart by the ids: a reviewer's begins with A and is longer than an item's ten characters.
    """
    path = request.path
    width = first_line(path).count(",") + 1
    if width < 4:
        raise ValueError(f"{path} has {width} columns; expected user, item, rating, time in either order")
    names = ["first", "second", "rating", "timestamp", *(f"more{at}" for at in range(width - 4))]
    dialect = Dialect(",", True, names)
    table = pl.concat(read_fields(path, dialect, ["first", "second", "timestamp"], request.notes, header=False))
    lengths = [table[name].str.len_chars().mean() for name in ("first", "second")]
    first = "user_id" if float(lengths[0] or 0) >= float(lengths[1] or 0) else "item_id"  # type: ignore[arg-type]
    second = "item_id" if first == "user_id" else "user_id"
    named = checked_events(table.rename({"first": first, "second": second}), request, str(path))
    return RawData(data_name([path]), named, _amazon_items(request), {}, notes=request.notes)


def amazon2023_csv(request: Request) -> RawData:
    """The official 5-core CSVs of 2023: user_id,parent_asin,rating,timestamp and perhaps history.

    Of a set split in three, ``X.train.csv`` brings ``X.valid.csv`` and ``X.test.csv`` with it. A file with histories
    that stands alone gives each user's longest history and what follows it.
    """
    path = request.path
    together = split_files(path)
    wanted = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp"}
    parts = []
    for at, file in enumerate(together):
        dialect = dialect_of(file, ",", [["parent_asin"]])
        choose_columns(dialect.names, wanted, str(file))
        columns = [*wanted.values(), *(["history"] if "history" in dialect.names else [])]
        tables = list(read_fields(file, dialect, columns, request.notes))
        tables = tables or [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
        parts.append(pl.concat(tables).rename({"parent_asin": "item_id"}).with_columns(_part=pl.lit(at)))
    named = checked_events(pl.concat(parts, how="diagonal"), request, str(path), numbers=False)
    source = {"files": [file.name for file in together]}
    return RawData(data_name([path, *together[1:]]), named, _amazon_items(request), source, notes=request.notes)


def _amazon_items(request: Request) -> ItemTable:
    """Metadata, read when the items that are wanted are known."""
    items = request.items
    if items is None or isinstance(items, pl.DataFrame):
        return given_items(replace(request, columns=None))
    path = Path(items)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    if not plain_name(path).endswith((".json", ".jsonl")):
        return given_items(replace(request, columns=None))
    return lambda ids: _amazon_metadata(path, ids, request.notes)


def _amazon_metadata(path: Path, ids: pl.Series, notes: Notes) -> pl.DataFrame:
    """Text of the wanted items from a metadata file of 2014 (Python literals), 2018 or 2023 (JSON).

    Lines are parsed as JSON or, failing that, by ``ast.literal_eval``, which builds values and runs nothing.
    """
    wanted = set(ids.cast(pl.String).to_list())
    rows: dict[str, dict[str, str | None]] = {}
    lines = repeated = 0
    for block in blocks(path, notes):
        for at, line in enumerate(block.decode("utf-8").split("\n"), start=lines + 1):
            matches = _ID_IN_LINE.findall(line)
            if not line.strip() or (matches and wanted.isdisjoint(matches)):
                continue
            entry = _parse(line, path, at)
            identifier = str(entry.get("parent_asin") or entry.get("asin") or "")
            if identifier in wanted and identifier not in rows:
                rows[identifier] = _amazon_text(entry)
            elif identifier in wanted:
                repeated += 1
        lines += block.count(b"\n")
    _say_metadata(rows, repeated, path, notes)
    columns: dict[str, Any] = {"item_id": pl.Series(list(rows), dtype=pl.String)}
    for name in _TEXTS:
        columns[name] = pl.Series([row[name] for row in rows.values()], dtype=pl.String)
    table = pl.DataFrame(columns)
    return table if table["image_url"].count() else table.drop("image_url")


def _say_metadata(rows: Mapping[str, Mapping[str, str | None]], repeated: int, path: Path, notes: Notes) -> None:
    cut = sum(len(text or "") >= MAX_TEXT for row in rows.values() for text in row.values())
    if cut:
        notes.say("texts_cut", cut, f"{cut:,} texts of {path} were cut to {MAX_TEXT:,} characters", warn=False)
    if repeated:
        sentence = f"{repeated:,} lines of {path} are of an item that came before; the first of each was taken"
        notes.say("items_repeated", repeated, sentence, warn=False)


def _parse(line: str, path: Path, at: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        try:
            entry = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError(
                f"{path} has a line that is neither JSON nor a Python literal: {clip(line)} (line {at:,})"
            ) from error
    if not isinstance(entry, dict):
        raise ValueError(f"{path} has a line that is no object: {clip(line)} (line {at:,})")
    return entry


def _amazon_text(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """Title, brand, features, categories, description, price and a picture's address, null where there is none.

    The brand of 2023 is the one among the details, as CCFRec's preparation has it; the name of the store, which that
    preparation does not read, stands in only where the details have none.
    """
    details = entry.get("details")
    brand = entry.get("brand") or (details.get("Brand") if isinstance(details, dict) else None) or entry.get("store")
    categories = entry.get("categories") or entry.get("category")
    return {
        "title": joined(entry.get("title")),
        "brand": joined(brand),
        "features": joined(entry.get("features") or entry.get("feature")),
        "categories": _paths(categories),
        "description": joined(entry.get("description")),
        "price": joined(entry.get("price")),
        "image_url": _picture(entry),
    }


def _picture(entry: Mapping[str, Any]) -> str | None:
    """Address of the first picture: ``imUrl`` of 2014, the high resolution of 2018, the large one of 2023."""
    several = entry.get("imUrl"), entry.get("imageURLHighRes"), entry.get("imageURL"), entry.get("images")
    given = next((value for value in several if value), None)
    first = given[0] if isinstance(given, list) else given
    if isinstance(first, dict):
        first = first.get("large") or first.get("hi_res") or first.get("thumb")
    return first.strip() or None if isinstance(first, str) else None


def _paths(value: Any) -> str | None:
    """A category path joined by " > ", several by " | "."""
    if not isinstance(value, list) or not value:
        return joined(value)
    return json_paths(value if isinstance(value[0], list) else [value])
