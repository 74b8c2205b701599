"""Yelp's open data set: reviews as events, businesses as items, and the photos that users took of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import polars as pl

from recbase.data.readers.items import given_items
from recbase.data.readers.tables import jsonl_events
from recbase.data.tables.jsonlines import json_keys
from recbase.data.tables.raw import Notes, RawData, Request, file_in, say_pictures

__all__ = ["yelp_events"]

_PACKED = ("", ".gz", ".zst")
_EVENTS = tuple(f"{start}review.json{end}" for start in ("yelp_academic_dataset_", "") for end in _PACKED)
_PHOTOS = tuple(f"{part}{name}" for part in ("", "yelp_photos/", "photos/") for name in ("photos.json", "photo.json"))


def yelp_events(request: Request) -> RawData:
    """Reviews by time, given or in a folder; ``..._business.json``, ``photos.json`` and ``photos`` beside it.

    Of several photos of a business the first that ``photos.json`` names and that is there is taken: its path from the
    folder of the files is the column ``image_path``, null where there is none.

    Raises
    ------
    FileNotFoundError
        If a folder has no file of reviews.
    ValueError
        If a line is no object, or has no user, business or date.
    """
    path = file_in(request.path, _EVENTS)
    beside = path.with_name(path.name.replace("review", "business"))
    items = request.items if request.items is not None or beside == path or not beside.is_file() else beside
    raw = jsonl_events(replace(request, path=path, items=None))
    table = given_items(replace(request, items=items))
    raw.items = table if table is None else _with_photos(table, path.parent, request.notes)
    return raw


def _with_photos(table: pl.DataFrame, folder: Path, notes: Notes) -> pl.DataFrame:
    """The businesses with the path of a photo of each, where there are photos."""
    listed = next((folder / name for name in _PHOTOS if (folder / name).is_file()), None)
    if listed is None:
        return table
    root = next((part for part in (listed.parent / "photos", listed.parent) if part.is_dir()), listed.parent)
    photos = json_keys(listed, ["photo_id", "business_id"], notes).drop_nulls()
    where = root.relative_to(folder).as_posix()
    there = {entry.name.removesuffix(".jpg") for entry in os.scandir(root) if entry.name.endswith(".jpg")}
    first = photos.filter(pl.col("photo_id").is_in(list(there))).unique(
        "business_id", keep="first", maintain_order=True
    )
    name = pl.format("{}{}.jpg", pl.lit("" if where == "." else f"{where}/"), pl.col("photo_id"))
    paths = first.select(item_id="business_id", image_path=name)
    joined = table.with_columns(pl.col("item_id").cast(pl.String)).join(
        paths, on="item_id", how="left", maintain_order="left"
    )
    say_pictures(joined["image_path"], str(listed), notes)
    return table.with_columns(joined["image_path"])
