"""Clicks of sessions as the challenges of 2015 (Yoochoose) and 2016 (Diginetica) ship them; a session is a user."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from recbase.data.readers.items import given_items
from recbase.data.readers.tables import delimited_events
from recbase.data.tables.columns import checked_events
from recbase.data.tables.delimited import dialect_of, read_fields
from recbase.data.tables.raw import RawData, Request, data_name

__all__ = ["diginetica_events", "yoochoose_events"]


def yoochoose_events(request: Request) -> RawData:
    """``yoochoose-clicks.dat``: session, time, item and category, between commas and without a header."""
    header = ["user_id", "timestamp", "item_id", "category"]
    return delimited_events(replace(request, header=request.header or header), ",")


def diginetica_events(request: Request) -> RawData:
    """``train-item-views.csv``: the views of a session in order of their milliseconds within it.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    path = request.path
    names = ["sessionId", "itemId", "timeframe", "eventdate"]
    dialect = dialect_of(path, ";", [[name] for name in names], request.separator)
    missing = [name for name in names if name not in dialect.names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; its columns are {', '.join(dialect.names)}")
    parts = list(read_fields(path, dialect, names, request.notes))
    table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    table = table.with_columns(pl.col("timeframe").cast(pl.Int64, strict=False).fill_null(0))
    ordered = table.sort("sessionId", "timeframe", maintain_order=True)
    events = ordered.select(
        user_id="sessionId",
        item_id="itemId",
        timestamp="eventdate",
        position=pl.int_range(pl.len()).over("sessionId"),
    )
    named = checked_events(events, request, str(path))
    return RawData(data_name([path]), named, given_items(request), {}, notes=request.notes)
