"""Files whose rows carry what came before: histories in a column, and data sets split into files beside one another."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import polars as pl

from recbase.data.tables.raw import Notes, clip

__all__ = ["parse_lists", "spelled_out", "split_files", "warn_of_train"]

_SPLIT = re.compile(r"(?:(?<=^)|(?<=[._-]))(train|training)(?=[._-])", re.IGNORECASE)
_LATER = re.compile(r"(?:(?<=^)|(?<=[._-]))(valid|validation|val|dev|test)(?=[._-])", re.IGNORECASE)
_PARTS = (("valid", "validation", "val", "dev"), ("test",))


def split_files(path: Path) -> list[Path]:
    """The file and, where it is the training part of a set split in files, the parts that lie beside it, in order."""
    if not _SPLIT.search(path.name):
        return [path]
    together = [path]
    for names in _PARTS:
        beside = (path.with_name(_SPLIT.sub(name, path.name)) for name in names)
        together += [other for other in beside if other.is_file()][:1]
    return together


def warn_of_train(path: Path, notes: Notes) -> None:
    """Say that a file is the later part of a set whose training part lies beside it and is not read."""
    if not _LATER.search(path.name):
        return
    train = path.with_name(_LATER.sub("train", path.name))
    if train.is_file():
        notes.say(
            "split_not_joined",
            1,
            f"{path} is one part of a set that was split; {train.name} beside it was not read: give that file to "
            "read all parts together",
        )


def parse_lists(texts: pl.Series, what: str) -> pl.Series:
    """Lists of ids of their text: ``[11, 12]``, ``['a', 'b']``, ``["a"]``, or ids between blanks, commas or bars.

    Raises
    ------
    ValueError
        If a text is a list with a backslash in it that is no Python or JSON list.
    """
    bare = texts.fill_null("").str.strip_chars()
    lists = bare.str.starts_with("[") & bare.str.ends_with("]")
    filled = bare != ""
    if not lists.any() or not (lists | ~filled).all():
        mark = next((mark for mark in ("|", ",", ";") if bare.str.contains(mark, literal=True).any()), None)
        if mark is None or bare.str.contains(r"\s").any():
            return bare.str.extract_all(r"\S+")
        return bare.str.split(mark).list.eval(pl.element().str.strip_chars().filter(pl.element() != ""))
    if bare.str.contains("\\", literal=True).any():
        return pl.Series([_literal(text, what) for text in bare.to_list()], dtype=pl.List(pl.String))
    inside = bare.str.slice(1, bare.str.len_chars().cast(pl.Int64) - 2)
    words = inside.str.extract_all(r"""'[^']*'|"[^"]*"|[^\s,]+""")
    return words.list.eval(pl.element().str.replace(r"""^(?:'([^']*)'|"([^"]*)")$""", "$1$2"))


def _literal(text: str, what: str) -> list[str]:
    if not text:
        return []
    try:
        return [str(part) for part in ast.literal_eval(text)]
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"history of {what} has the value {clip(text)}; expected a list of item ids") from error


def spelled_out(table: pl.DataFrame, what: str, notes: Notes) -> pl.DataFrame:
    """Events in order of rows (user, history, target): what came first, and the target of every row.

    Parameters
    ----------
    table : DataFrame
        user_id, history (text or lists) and perhaps item_id (the target), timestamp and ``_part``, the number of the
        file a row is from. Without item_id the history holds the target too.
    what : str
    notes : Notes
        Users whose rows do not continue one another are counted there.

    Returns
    -------
    DataFrame
        user_id, item_id (text), position, and timestamp where every event has one.
    """
    rows = _rows(table, what, notes)
    before = pl.concat_list(pl.col("history").shift(), pl.col("item_id").shift())
    first = (pl.col("user_id") != pl.col("user_id").shift()).fill_null(True)
    size = pl.col("history").list.len()
    goes_on = before.list.tail(size) == pl.col("history")
    rows = rows.with_columns(_first=first, _sound=first | goes_on.fill_null(False))
    sound = pl.col("_sound").all().over("user_id")
    rows = rows.with_columns(_sound=sound, _last=first.shift(-1).fill_null(True))
    good, odd = rows.filter("_sound"), rows.filter(~pl.col("_sound"))
    parts = [_chained(good, good.filter("_first"))]
    if odd.height:
        users = odd["user_id"].n_unique()
        notes.say(
            "histories_not_continued",
            users,
            f"the histories of {users:,} users of {what} do not continue one another; the longest was taken, and the "
            "items of other rows after it",
        )
        last = odd.filter("_last")
        known = _exploded(last)
        parts.append(_chained(odd.join(known, on=["user_id", "item_id"], how="anti", maintain_order="left"), last))
    events = pl.concat(parts).sort("user_id", "position", maintain_order=True)
    events = events.with_columns(position=pl.int_range(pl.len()).over("user_id"))
    times = [name for name in ("timestamp", "nanosecond") if name in events.columns]
    if times and events["timestamp"].null_count():
        notes.say("times_dropped", events.height, f"the items in the histories of {what} have no times", warn=False)
        events = events.drop(times)
    return events


def _rows(table: pl.DataFrame, what: str, notes: Notes) -> pl.DataFrame:
    """Rows by user in the order in which they were written, each with a list before its target."""
    history = table["history"]
    if isinstance(history.dtype, pl.List | pl.Array):
        lists = history.cast(pl.List(pl.String)).fill_null([])
    else:
        lists = parse_lists(history.cast(pl.String), what)
    table = table.with_columns(lists.alias("history"))
    if "item_id" not in table.columns:
        table = table.with_columns(pl.col("history").list.last().alias("item_id"))
        table = table.with_columns(pl.col("history").list.head(pl.col("history").list.len().cast(pl.Int64) - 1))
        if empty := table["item_id"].null_count():
            notes.say("users_without_items", empty, f"{empty:,} rows of {what} have no item and were left out")
        table = table.filter(pl.col("item_id").is_not_null())
    for name in ("user_id", "item_id"):
        if nulls := table[name].null_count():
            raise ValueError(f"{name} of {what} is null in {nulls} of {table.height} rows; every row needs one")
    times = [name for name in ("timestamp", "nanosecond") if name in table.columns and not table[name].null_count()]
    keys = ["user_id", *(["_part"] if "_part" in table.columns else []), *times, pl.col("history").list.len()]
    table = table.with_columns(pl.col("item_id").cast(pl.String)).sort(*keys, maintain_order=True)
    return table.drop("_part", "position", strict=False)


def _chained(rows: pl.DataFrame, begin: pl.DataFrame) -> pl.DataFrame:
    """The history of the rows in ``begin`` and then the targets of all ``rows``, with positions to sort by."""
    times = [name for name in ("timestamp", "nanosecond") if name in rows.columns]
    start = _exploded(begin).with_columns(position=pl.int_range(pl.len()).over("user_id") - 2**40)
    start = start.with_columns(pl.lit(None, dtype=pl.Int64).alias(name) for name in times)
    targets = rows.with_columns(position=pl.int_range(pl.len()).over("user_id"))
    columns = ["user_id", "item_id", "position", *times]
    return pl.concat([start.select(columns), targets.select(columns)])


def _exploded(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for every item of a history, as ``item_id``."""
    filled = rows.filter(pl.col("history").list.len() > 0)
    return filled.select("user_id", pl.col("history").alias("item_id")).explode("item_id")
