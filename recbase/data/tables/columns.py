"""Columns of a source: which of them are the user, the item and the time, and the tables that become of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

import polars as pl

from recbase.data.interactions import check_interactions
from recbase.data.tables.histories import spelled_out
from recbase.data.tables.ids import typed_ids
from recbase.data.tables.raw import Notes, Request, clip
from recbase.data.times import unit_name, with_seconds

__all__ = [
    "EVENT_COLUMNS",
    "HISTORY_COLUMNS",
    "ITEM_COLUMNS",
    "USER_COLUMNS",
    "choose_columns",
    "checked_events",
    "header_names",
    "listed",
    "usual_name",
    "with_times",
]

USER_COLUMNS = (
    *("user_id", "user", "userId", "reviewerID", "UserID", "userid", "customer_id", "customer", "visitorid"),
    *("session_id", "sessionId", "SessionId"),
)
ITEM_COLUMNS = (
    *("item_id", "parent_asin", "asin", "item", "itemId", "movieId", "MovieID", "itemid", "article_id", "business_id"),
    *("product_id", "sku", "ItemId", "news_id"),
)
TIME_COLUMNS = (
    *("timestamp", "unixReviewTime", "time", "Timestamp", "t_dat", "date", "datetime", "created_at", "event_time"),
    *("eventdate", "Time"),
)
HISTORY_COLUMNS = ("item_id_list", "history_item_id", "item_id_history", "hist_item_id", "item_list", "item_id_seq")
"""Names under which the columns are looked for when none are given, in this order."""

EVENT_COLUMNS = {
    "user_id": USER_COLUMNS,
    "item_id": ITEM_COLUMNS,
    "timestamp": TIME_COLUMNS,
    "position": ("position",),
    "history": HISTORY_COLUMNS,
}


_MEANT = {"user", "userid", "users", "item", "itemid", "items", "time", "timestamps", "date", "positions", "histories"}


def header_names(line: str, separator: str) -> list[str]:
    """Names in a header line, without quotes, blanks and RecBole's ``:type``."""
    try:
        fields = next(csv.reader([line.strip("\r\n")], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        fields = line.split(separator)
    names = [field.strip().strip('"').strip() for field in fields]
    return [re.sub(r":(token|token_seq|float|float_seq)$", "", name) for name in names]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names as an error lists them: clipped, and not all of a great many."""
    bare = ["".join(letter if letter.isprintable() else "?" for letter in name[:41]) for name in names[:most]]
    shown = ", ".join(name if len(name) <= 40 else name[:40] + "..." for name in bare)
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def choose_columns(found: Sequence[str], given: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """Our name to the source's name, for the columns that are there.

    Raises
    ------
    ValueError
        If user or item are missing (a history in a column stands for the item), a given column is, or a name that is
        needed stands there twice; the sentence lists the columns found. A key that is none of our names is that of a
        text of the items, and is read with them.
    """
    if meant := [
        name for name in given or {} if name not in EVENT_COLUMNS and _folded(name).replace("_", "") in _MEANT
    ]:
        raise ValueError(
            f"columns has the key {meant[0]!r}; expected {', '.join(EVENT_COLUMNS)}, or a text of the items"
        )
    given = {name: column for name, column in (given or {}).items() if name in EVENT_COLUMNS}
    chosen: dict[str, str] = {}
    for name, guesses in EVENT_COLUMNS.items():
        column = given.get(name) or usual_name(found, guesses)
        if column is not None and column not in found:
            raise ValueError(f"{what} has no column {column}; its columns are {listed(found)}")
        if column is not None:
            chosen[name] = column
            if list(found).count(column) > 1:
                raise ValueError(f"{what} has the column {column} more than once; its columns are {listed(found)}")
    for name in ("user_id", "item_id"):
        if name not in chosen and not (name == "item_id" and "history" in chosen):
            bare = any(re.fullmatch(r"[+-]?\d+(\.\d*)?", column.strip()) for column in found)
            hint = "; its first line has to name them, and holds numbers" if bare else ""
            raise ValueError(f"{what} has no column {name}; its columns are {listed(found)}{hint}")
    return chosen


def usual_name(found: Sequence[str], guesses: Sequence[str]) -> str | None:
    """The column that has a usual name: as it is written, else in any case, with blanks for underscores.

    ``USER_ID``, ``Item ID`` and `` item_id `` are what databases and spreadsheets make of the names.
    """
    exact = next((guess for guess in guesses if guess in found), None)
    if exact is not None:
        return exact
    alike = {_folded(name): name for name in reversed(found)}
    return next((alike[_folded(guess)] for guess in guesses if _folded(guess) in alike), None)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def checked_events(table: pl.DataFrame, request: Request, what: str, numbers: bool = True) -> pl.DataFrame:
    """Events with ids, times and positions of their own types.

    Parameters
    ----------
    table : DataFrame
        user_id, item_id and perhaps timestamp, position and history, of any type that a file gives.
    request : Request
        Its notes and its time format.
    what : str
        Source, for the sentence of an error.
    numbers : bool, default True
        Whether ids that are all plain integers become integers.

    Raises
    ------
    ValueError
        If there is no event, or an id, time or position is none.
    """
    table = with_times(_without_nulls(table, request, what), request, what)
    if "history" in table.columns:
        inner = getattr(table.schema["history"], "inner", pl.String())
        numbers = numbers or inner.is_integer() or table.schema.get("item_id", pl.String()).is_integer()
        table = spelled_out(table, what, request.notes)
    ids = [typed_ids(table[name], what, request.notes, numbers) for name in ("user_id", "item_id")]
    table = table.with_columns(ids)
    if "position" in table.columns and table.schema["position"] == pl.String:
        position = table["position"].str.strip_chars().str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
        bad = position.is_null() & table["position"].is_not_null()
        if bad.any():
            value = table["position"].filter(bad)[0]
            raise ValueError(f"position of {what} has the value {clip(value)}; expected a whole number")
        table = table.with_columns(position.alias("position"))
    return check_interactions(table, what)


def _without_nulls(table: pl.DataFrame, request: Request, what: str) -> pl.DataFrame:
    """The table without rows that have no user or no item, where that was asked for; they are counted."""
    names = [name for name in ("user_id", "item_id") if name in table.columns]
    if not request.drop_null or "history" in table.columns:
        return table
    whole = pl.all_horizontal(pl.col(name).is_not_null() for name in names)
    kept = table.filter(whole)
    if lost := table.height - kept.height:
        share = f"{lost:,} of {table.height:,} rows of {what}"
        request.notes.say("null_dropped", lost, f"{share} have no user or no item and were left out", warn=False)
    return kept


def with_times(table: pl.DataFrame, request: Request, what: str) -> pl.DataFrame:
    """The table with ``timestamp`` in whole seconds and, where it has them, ``nanosecond``; says the unit taken."""
    if "timestamp" not in table.columns or table.schema["timestamp"] == pl.Null:
        return table
    given = table["timestamp"]
    _say_coarse(given, what, request.notes)
    table, unit = with_seconds(table, what, request.time_format)
    if unit == 1:
        _say_dates(table["timestamp"], what, request.notes)
    if unit:
        _say_unit(table["timestamp"], unit, what, request.notes)
    return table


def _say_coarse(times: pl.Series, what: str, notes: Notes) -> None:
    """Floats of 32 bits hold seconds since 1970 to two minutes: moments within that are one."""
    bits = {"Float16": 11, "Float32": 24}.get(str(times.dtype))
    coarse = 0 if bits is None else int((times.cast(pl.Float64).abs() > 2.0**bits).sum())
    if coarse:
        notes.say(
            "times_cut",
            coarse,
            f"{coarse:,} of {len(times):,} times of {what} are {times.dtype}, which has lost their last digits: events "
            "may stand in the wrong order; write the column as integers or Float64",
        )


def _say_dates(seconds: pl.Series, what: str, notes: Notes) -> None:
    """Whole numbers that all read as a date of 1900 to 2100, as 20190512, are hardly seconds of the year 1970."""
    low, high = seconds.min(), seconds.max()
    if not (isinstance(low, int) and isinstance(high, int) and low >= 19_000_101 and high <= 21_001_231):
        return
    month, day = seconds // 100 % 100, seconds % 100
    if (month.is_between(1, 12) & day.is_between(1, 31)).all():
        notes.say(
            "times_like_dates",
            len(seconds),
            f"times of {what} read as dates, as {high}, and were taken as seconds since 1970; if they are dates name "
            "the time format %Y%m%d",
        )


def _say_unit(seconds: pl.Series, unit: int, what: str, notes: Notes) -> None:
    if seconds.null_count() == len(seconds):
        return
    first, last = (_day(seconds.min()), _day(seconds.max()))
    notes.say(
        "time_unit", len(seconds), f"times of {what} were taken as {unit_name(unit)}: {first} to {last}", warn=False
    )
    # A column has one unit. Numbers a thousand times smaller are of another, and would all fall in 1970.
    small = int(((seconds.abs() < 100_000_000) & (seconds != 0)).sum()) if unit > 1 else 0
    if small:
        notes.say(
            "times_of_another_unit",
            small,
            f"{small:,} of {len(seconds):,} times of {what} are too small for {unit_name(unit)}, the unit of the "
            "largest; bring all of them to one unit",
        )


def _day(second: object) -> str:
    assert isinstance(second, int)
    moment = pl.Series([second]).cast(pl.Int64) // 86_400
    inside = abs(int(moment[0])) < 3_000_000
    return str(moment.cast(pl.Int32).cast(pl.Date)[0]) if inside else f"{second:,} s"
