"""MovieLens and sets in its form: ratings.dat with ``::`` between fields, or ratings.csv, and the movies beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import item_table, read_items
from recbase.data.readers.tables import delimited_events
from recbase.data.tables.blocks import blocks
from recbase.data.tables.columns import checked_events
from recbase.data.tables.raw import Notes, RawData, Request, data_name

__all__ = ["movielens_events"]


def movielens_events(request: Request) -> RawData:
    """ratings.dat or ratings.csv, given or in a folder, with movies.dat or movies.csv beside it."""
    path = request.path
    if path.is_dir():
        path = next((path / name for name in ("ratings.dat", "ratings.csv") if (path / name).is_file()), path)
        if path.is_dir():
            raise FileNotFoundError(f"{path} has neither ratings.dat nor ratings.csv")
    beside = path.with_name(path.name.replace("ratings", "movies"))
    items = beside if request.items is None and beside != path and beside.is_file() else request.items
    movies = None if items is None else _movies(items, request.notes)
    request = replace(request, path=path, items=None)
    if path.suffix != ".dat":
        raw = delimited_events(request, ",")
        raw.items = movies
        return raw
    table = _double_colon(path, ["user_id", "item_id", "rating", "timestamp"], request.notes).drop("rating")
    named = checked_events(table, request, str(path))
    return RawData(data_name([path]), named, movies, {}, notes=request.notes)


def _movies(items: Any, notes: Notes) -> pl.DataFrame:
    if isinstance(items, pl.DataFrame):
        return _with_categories(item_table(items, "the items", None, notes))
    if Path(items).suffix != ".dat":
        return _with_categories(read_items(items, None, None, notes))
    table = _double_colon(Path(items), ["item_id", "title", "genres"], notes)
    return _with_categories(item_table(table, str(items), None, notes))


def _with_categories(table: pl.DataFrame) -> pl.DataFrame:
    """Genres become ``categories``, with commas."""
    if "genres" not in table.columns:
        return table
    genres = pl.col("genres").str.replace_all("|", ", ", literal=True).replace("(no genres listed)", None)
    return table.with_columns(genres.alias("categories")).drop("genres")


def _double_colon(path: Path, names: list[str], notes: Notes) -> pl.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    parts = []
    # GroupLens ships these files in Latin-1 and says so: recorded, and no reason to warn.
    for block in blocks(path, notes, warn=False):
        lines = pl.Series("line", block.decode("utf-8").replace("\r\n", "\n").split("\n"))
        fields = lines.filter(lines != "").str.splitn("::", len(names)).struct.rename_fields(names)
        parts.append(fields.struct.unnest())
    table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    if nulls := table[names[-1]].null_count():
        raise ValueError(f"{path} has {nulls} lines with fewer than {len(names)} fields separated by '::'")
    return table
