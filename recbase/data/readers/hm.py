"""H&M Personalized Fashion Recommendations (Kaggle, 2022): purchases, articles, and a picture of most articles."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import item_table, read_items
from recbase.data.readers.tables import delimited_events
from recbase.data.tables.raw import Notes, RawData, Request, file_in, say_pictures

__all__ = ["hm_events"]

_EVENTS = ("transactions_train.csv", "transactions_train.csv.gz", "transactions_train.csv.zst")
_DEPARTMENT = ("index_group_name", "section_name", "product_group_name")


def hm_events(request: Request) -> RawData:
    """Purchases by day in the order of the file, given or in a folder; ``articles.csv`` and ``images`` beside it.

    A picture of the article 0663713001 is ``images/066/0663713001.jpg``: its path from the folder of the files is the
    column ``image_path``, null where there is none.

    Raises
    ------
    FileNotFoundError
        If a folder has no file of purchases.
    ValueError
        If a column is missing.
    """
    path = file_in(request.path, _EVENTS)
    raw = delimited_events(replace(request, path=path, items=None), ",")
    packed = [path.with_name(f"articles.csv{end}") for end in ("", ".gz", ".zst")]
    beside = next((file for file in packed if file.is_file()), None)
    items = request.items if request.items is not None else beside
    if items is not None:
        raw.items = _with_pictures(_articles(items, request), path.parent, request.notes)
    return raw


def _articles(items: Any, request: Request) -> pl.DataFrame:
    """The articles: names as titles, the section of the shop they belong to as categories."""
    if isinstance(items, pl.DataFrame):
        table = item_table(items, "the items", request.columns, request.notes)
    else:
        table = read_items(items, None, request.columns, request.notes)
    named = [name for name in _DEPARTMENT if name in table.columns]
    if named and "categories" not in table.columns:
        table = table.with_columns(categories=pl.concat_str(named, separator=" > ", ignore_nulls=True))
    if "department_name" in table.columns and "department" not in table.columns:
        table = table.rename({"department_name": "department"})
    return table


def _with_pictures(table: pl.DataFrame, folder: Path, notes: Notes) -> pl.DataFrame:
    """The articles with the path of each one's picture, where there is a folder of pictures."""
    root = folder / "images"
    if not root.is_dir() or table.schema["item_id"] != pl.String:
        return table
    # Some hundred thousand files in a hundred folders: each folder is listed once.
    there = {
        entry.name.removesuffix(".jpg"): f"images/{part.name}/{entry.name}"
        for part in sorted(root.iterdir())
        if part.is_dir()
        for entry in os.scandir(part)
        if entry.name.endswith(".jpg")
    }
    paths = pl.Series("image_path", [there.get(item) for item in table["item_id"].to_list()], dtype=pl.String)
    say_pictures(paths, str(folder), notes)
    return table.with_columns(paths)
