"""MIND (Wu et al., ACL 2020): ``behaviors.tsv`` with what each user clicked, ``news.tsv`` beside it with the items.

The publisher ships a training and a development part, each with both files: of a folder that holds such folders all are
read together. Its test part names no clicks and is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import item_table
from recbase.data.tables.columns import checked_events
from recbase.data.tables.delimited import Dialect, read_fields
from recbase.data.tables.raw import Notes, RawData, Request, data_name

__all__ = ["mind_events"]

_BEHAVIORS = ["impression", "user_id", "timestamp", "history", "impressions"]
_NEWS = ["item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
_TIMES = "%m/%d/%Y %I:%M:%S %p"


def mind_events(request: Request) -> RawData:
    """Clicks of each user: the history that the first impression names, then what was clicked, by time.

    Times of the history are not published, so that events have an order and no times. Items that were shown and not
    clicked are no events.

    Raises
    ------
    ValueError
        If a line has another number of fields, or an impression is no ``ITEM-0`` or ``ITEM-1``.
    """
    files = _parts(request.path)
    lines = pl.concat([_impressions(file, request) for file in files]).with_row_index("row")
    clicks = lines.select("user_id", "moment", "row", clicked=pl.col("impressions").str.extract_all(r"\S+-1(?:\s|$)"))
    clicked = clicks.explode("clicked").filter(pl.col("clicked").is_not_null())
    item = pl.col("clicked").str.strip_chars_end().str.head(-2)
    clicked = clicked.select("user_id", "moment", "row", item_id=item, part=pl.lit(1))
    first = lines.sort("moment", "row").unique("user_id", keep="first", maintain_order=True)
    before = first.select("user_id", "moment", "row", item_id=pl.col("history").str.extract_all(r"\S+"), part=pl.lit(0))
    before = before.explode("item_id").filter(pl.col("item_id").is_not_null())
    events = pl.concat([before, clicked]).sort("user_id", "part", "moment", "row", maintain_order=True)
    table = events.select("user_id", "item_id", position=pl.int_range(pl.len()).over("user_id"))
    beside = [file.with_name("news.tsv") for file in files if file.with_name("news.tsv").is_file()]
    items = request.items if request.items is not None else beside or None
    news = None if items is None else _news(items, request.notes)
    source = {"files": [f"{file.parent.name}/{file.name}" for file in files]} if len(files) > 1 else {}
    named = checked_events(table, request, str(request.path))
    return RawData(data_name(files[:1]), named, news, source, notes=request.notes)


def _parts(path: Path) -> list[Path]:
    """The file of behaviours itself, that in a folder, or those of the parts in it that name clicks."""
    if not path.is_dir():
        return [path]
    if (path / "behaviors.tsv").is_file():
        return [path / "behaviors.tsv"]
    parts = sorted(file for file in path.glob("*/behaviors.tsv") if not file.parent.name.endswith("test"))
    if not parts:
        raise FileNotFoundError(f"{path} has no behaviors.tsv, and no folder in it has one that names clicks")
    # The training part comes before the development part; its histories reach further back.
    return sorted(parts, key=lambda file: (not file.parent.name.endswith("train"), file))


def _impressions(path: Path, request: Request) -> pl.DataFrame:
    """The lines of one file: user, moment, history and the items shown, marked -1 where they were clicked."""
    lines = _read(path, _BEHAVIORS, ["user_id", "timestamp", "history", "impressions"], request.notes)
    moment = pl.col("timestamp").str.to_datetime(request.time_format or _TIMES, strict=False)
    lines = lines.with_columns(moment=moment)
    if bad := lines["moment"].null_count():
        value = lines.filter(pl.col("moment").is_null())["timestamp"][0]
        raise ValueError(f"{path} has {bad} times such as {value!r:.40}; expected them as 11/13/2019 8:36:57 AM")
    # All that was shown would be tens of millions of rows: only what was clicked is taken apart.
    marked = pl.col("impressions").str.contains(r"^\s*(\S+-[01](\s+|$))*$")
    if (odd := lines.filter(~marked)).height:
        entries = str(odd["impressions"][0]).split()
        value = next((entry for entry in entries if not entry.endswith(("-0", "-1"))), entries[0])
        raise ValueError(f"{path} has the impression {value!r:.40}; expected ITEM-0 or ITEM-1")
    return lines


def _news(items: Any, notes: Notes) -> pl.DataFrame:
    """The items: title, abstract as description, category and subcategory as categories."""
    if isinstance(items, pl.DataFrame):
        return item_table(items, "the items", None, notes)
    files = items if isinstance(items, list) else [items]
    parts = [_read(file, _NEWS, _NEWS[:5], notes) for file in files]
    table = pl.concat(parts).unique("item_id", keep="first", maintain_order=True)
    categories = pl.concat_str("category", "subcategory", separator=", ", ignore_nulls=True)
    named = table.select("item_id", "title", categories=categories, description="abstract")
    return item_table(named, str(files[0]), None, notes)


def _read(path: Any, names: list[str], wanted: list[str], notes: Notes) -> pl.DataFrame:
    parts = list(read_fields(path, Dialect("\t", False, names), wanted, notes, header=False))
    return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
