"""MIND (Wu et al., ACL 2020): ``behaviors.tsv`` with what each user clicked, ``news.tsv`` beside it with the items."""

from __future__ import annotations

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
    path = request.path
    lines = _read(path, _BEHAVIORS, ["user_id", "timestamp", "history", "impressions"], request.notes)
    moment = pl.col("timestamp").str.to_datetime(request.time_format or _TIMES, strict=False)
    lines = lines.with_columns(moment=moment).with_row_index("row")
    if bad := lines["moment"].null_count():
        value = lines.filter(pl.col("moment").is_null())["timestamp"][0]
        raise ValueError(f"{path} has {bad} times such as {value!r:.40}; expected them as 11/13/2019 8:36:57 AM")
    shown = lines.select("user_id", "moment", "row", shown=pl.col("impressions").str.extract_all(r"\S+"))
    shown = shown.explode("shown").filter(pl.col("shown").is_not_null())
    odd = shown.filter(~pl.col("shown").str.contains(r"-[01]$"))
    if odd.height:
        raise ValueError(f"{path} has the impression {odd['shown'][0]!r:.40}; expected ITEM-0 or ITEM-1")
    clicked = shown.filter(pl.col("shown").str.ends_with("-1"))
    clicked = clicked.select("user_id", "moment", "row", item_id=pl.col("shown").str.head(-2), part=pl.lit(1))
    first = lines.sort("moment", "row").unique("user_id", keep="first", maintain_order=True)
    before = first.select("user_id", "moment", "row", item_id=pl.col("history").str.extract_all(r"\S+"), part=pl.lit(0))
    before = before.explode("item_id").filter(pl.col("item_id").is_not_null())
    events = pl.concat([before, clicked]).sort("user_id", "part", "moment", "row", maintain_order=True)
    table = events.select("user_id", "item_id", position=pl.int_range(pl.len()).over("user_id"))
    beside = path.with_name("news.tsv")
    items = request.items if request.items is not None or not beside.is_file() else beside
    news = None if items is None else _news(items, request.notes)
    return RawData(data_name([path]), checked_events(table, request, str(path)), news, {}, notes=request.notes)


def _news(items: Any, notes: Notes) -> pl.DataFrame:
    """The items: title, abstract as description, category and subcategory as categories."""
    if isinstance(items, pl.DataFrame):
        return item_table(items, "the items", None, notes)
    table = _read(items, _NEWS, _NEWS[:5], notes).unique("item_id", keep="first", maintain_order=True)
    categories = pl.concat_str("category", "subcategory", separator=", ", ignore_nulls=True)
    named = table.select("item_id", "title", categories=categories, description="abstract")
    return item_table(named, str(items), None, notes)


def _read(path: Any, names: list[str], wanted: list[str], notes: Notes) -> pl.DataFrame:
    parts = list(read_fields(path, Dialect("\t", False, names), wanted, notes, header=False))
    return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
