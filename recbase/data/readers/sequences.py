"""Sequences by user: the text form of S3-Rec, pairs as SASRec has them, and the JSON of LETTER and LC-Rec."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import given_items
from recbase.data.tables.blocks import blocks, first_line, plain_name
from recbase.data.tables.columns import checked_events
from recbase.data.tables.jsonlines import json_object, refuse_columns, value_text
from recbase.data.tables.raw import RawData, Request, clip, data_name

__all__ = ["is_sequences_json", "sequences_json", "sequences_text"]


def sequences_text(request: Request) -> RawData:
    """Lines ``user item item ...`` or ``user item``, in order, between blanks or tabs."""
    path = request.path
    parts: list[pl.DataFrame] = []
    short, first_short, lines_before = 0, 0, 0
    for block in blocks(path, request.notes):
        lines = pl.Series("line", block.decode("utf-8").split("\n"))
        words = pl.DataFrame({"words": lines.str.extract_all(r"[^ \t\r]+")})
        count = words["words"].list.len()
        if bad := int((count == 1).sum()):
            first_short = first_short or lines_before + int((count == 1).arg_true()[0]) + 1
            short += bad
        lines_before += len(lines) - 1
        words = words.filter(count > 1)
        split = words.select(user_id=pl.col("words").list.first(), item_id=pl.col("words").list.slice(1))
        if not parts and split.height and _looks_like_ratings(split):
            raise ValueError(
                f"{path} has a time at the end of every line, as in 'user item rating time'; expected 'user item item "
                "...': give a table a header, such as user_id, item_id, rating, timestamp"
            )
        parts.append(split.explode("item_id"))
    if short:
        raise ValueError(
            f"{path} has {short} lines with a user and no item (first: line {first_short}); "
            "expected 'user item item ...'"
        )
    table = pl.concat(parts) if parts else pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String})
    # Numbered only here: a user of a file of pairs may go on in the next block.
    table = table.with_columns(position=pl.int_range(pl.len()).over("user_id"))
    named = checked_events(table, request, str(path))
    return RawData(data_name([path]), named, given_items(request), {}, notes=request.notes)


def _looks_like_ratings(split: pl.DataFrame) -> bool:
    """True where lines are "user item rating time", which would pass for a user and three items.

    A time ends every line of one length, and users come more than once: sequences have a line for each user.
    """
    lengths = split["item_id"].list.len()
    if lengths[0] not in (2, 3) or lengths.n_unique() > 1 or split["user_id"].n_unique() == split.height:
        return False
    return bool(split["item_id"].list.last().str.contains(r"^\d{9,19}(\.\d*)?$").all())


def is_sequences_json(path: Path) -> bool:
    """True where a JSON file is one object of lists, sequences by user, as far as its name or first line tells."""
    if plain_name(path).endswith(".inter.json"):
        return True
    start = first_line(path)
    try:
        first = json.loads(start)
    except (ValueError, RecursionError):
        return re.match(r'\{\s*("[^"]*"\s*:\s*\[[^\]]*\]?,?\s*)?$', start[:10_000]) is not None
    return isinstance(first, dict) and len(first) > 0 and all(isinstance(value, list) for value in first.values())


def sequences_json(request: Request) -> RawData:
    """One object from user to the list of the items in order; ``X.item.json`` beside ``X.inter.json`` has the items.

    Raises
    ------
    ValueError
        If a value is no list of ids, or a user stands there twice.
    """
    path = request.path
    value = json_object(path, request.notes)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is JSON but no object from user to items: it begins with {clip(first_line(path))}")
    refuse_columns(value, path)
    users: list[str] = []
    items: list[str | None] = []
    empty = 0
    for user, sequence in value.items():
        if not isinstance(sequence, list) or not all(isinstance(item, str | int | float) for item in sequence):
            raise ValueError(
                f"{path} has {clip(_shown(sequence))} for the user {clip(user)}; expected a list of item ids"
            )
        empty += not sequence
        users += [user] * len(sequence)
        items += [value_text(item) for item in sequence]
    if empty:
        request.notes.say("users_without_items", empty, f"{empty:,} users of {path} have no item and were left out")
    table = _frame(users, items, path)
    named = checked_events(table, request, str(path))
    beside = path.with_name(re.sub(r"\.inter\.json", ".item.json", path.name, flags=re.IGNORECASE))
    if request.items is None and beside != path and beside.is_file():
        request = Request(path, beside, request.columns, request.time_format, request.notes)
    return RawData(data_name([path]), named, given_items(request), {}, notes=request.notes)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:100]
    except (ValueError, RecursionError):
        return type(value).__name__


def _frame(users: list[str], items: list[str | None], path: Path) -> pl.DataFrame:
    try:
        table = pl.DataFrame(
            {"user_id": pl.Series(users, dtype=pl.String), "item_id": pl.Series(items, dtype=pl.String)}
        )
    except UnicodeEncodeError as error:
        raise ValueError(f"{path} has half a surrogate pair (\\ud800 to \\udfff) in an id") from error
    return table.with_columns(position=pl.int_range(pl.len()).over("user_id"))
