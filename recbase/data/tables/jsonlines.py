"""JSON: one object a line, one array of objects, or one object of objects.

Events are a few keys of many lines: polars reads them, and a block that it refuses or could read otherwise goes through
Python's own ``json``, line by line, which finds the broken line or the text among the numbers. Items have keys that are
not known beforehand and may come late: they go through ``json`` from the start, block by block.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.tables.blocks import blocks, first_line, whole_text
from recbase.data.tables.columns import HISTORY_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, listed, usual_name
from recbase.data.tables.raw import Notes, clip
from recbase.data.tables.texts import joined

__all__ = ["first_object", "json_items", "json_keys", "json_object", "json_paths", "refuse_columns", "value_text"]

_ITEM_BYTES = 1 << 22


def value_text(value: Any) -> str | None:
    """A JSON value as the text of an id or a time: 12.0 and 12 are one number, every digit of an integer stays."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value)


def first_object(path: Path) -> dict[str, Any]:
    """The first line, which must be a JSON object.

    Raises
    ------
    ValueError
        If it is none.
    """
    line = first_line(path)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON lines: its first line is {clip(line)}") from error
    if not isinstance(first, dict):
        raise ValueError(f"{path} is not JSON lines: its first line is {clip(line)}")
    return first


# ---- some keys of many lines


def json_keys(path: Path, keys: Sequence[str], notes: Notes, integers: Sequence[str] = ()) -> pl.DataFrame:
    """Some keys of a file of JSON lines, as text or integers; a key that a line lacks is null there.

    Parameters
    ----------
    path : Path
    keys : sequence of str
    notes : Notes
    integers : sequence of str, default ()
        Keys that are read as Int64 where every value is an integer; anything else makes the column text.

    Raises
    ------
    ValueError
        If a line is no JSON object; the sentence has its number.
    """
    kinds = {key: pl.Int64() if key in integers else pl.String() for key in keys}
    parts: list[pl.DataFrame] = []
    for block in blocks(path, notes):
        part = None if not parts and _repeats_a_key(block, keys) else _fast_keys(block, kinds)
        parts.append(_slow_keys(block, kinds, path, len(parts)) if part is None else part)
    if not parts:
        raise ValueError(f"{path} is empty; expected events")
    mixed = [key for key in keys if len({part.schema[key] for part in parts}) > 1]
    return pl.concat([part.with_columns(pl.col(mixed).cast(pl.String)) for part in parts] if mixed else parts)


def _repeats_a_key(block: bytes, keys: Sequence[str]) -> bool:
    """True where an object may have a key twice: Python takes its last value and polars the first."""
    block = block[: 1 << 20]  # what writes a key twice writes it twice everywhere
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    return any(block.count(b'"%b"' % key.encode()) > lines for key in keys)


def _fast_keys(block: bytes, kinds: Mapping[str, Any]) -> pl.DataFrame | None:
    """The keys of one block by polars; None where it refuses or could read otherwise than Python's json."""
    texts = dict.fromkeys(kinds, pl.String())
    for schema in (kinds, texts) if dict(kinds) != texts else (texts,):
        try:
            part = pl.read_ndjson(io.BytesIO(block), schema=dict(schema)).select(list(kinds))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            continue
        # Half a surrogate pair comes out as a zero character; lists, objects and booleans as the text of them.
        texts_of = [name for name, kind in part.schema.items() if kind == pl.String]
        return None if any(_odd(part[name]) for name in texts_of) else part
    return None


def _odd(texts: pl.Series) -> bool:
    value = pl.col(texts.name)
    nested = value.str.starts_with("[") | value.str.starts_with("{") | (value == "true") | (value == "false")
    zero = value.str.contains("\x00", literal=True)
    return bool(texts.to_frame().select((nested | zero).any()).item())


def _slow_keys(block: bytes, kinds: Mapping[str, Any], path: Path, earlier: int) -> pl.DataFrame:
    """The keys of one block by Python's json; the number of a broken line is that in the file."""
    lines = sum(piece.count(b"\n") for piece in itertools.islice(blocks(path), earlier))
    columns: dict[str, list[str | None]] = {key: [] for key in kinds}
    for entry in _objects(block, path, lines):
        for key, column in columns.items():
            value = entry.get(key)
            _refuse_nested(value, key, path)
            column.append(value_text(value))
    return pl.DataFrame({key: pl.Series(column, dtype=pl.String) for key, column in columns.items()})


def _refuse_nested(value: Any, key: str, path: Path) -> None:
    """An id or a time is text or a number; only a history is a list."""
    if isinstance(value, dict | bool) or (isinstance(value, list) and key not in HISTORY_COLUMNS):
        raise ValueError(f"{path} has {clip(json.dumps(value))} for {clip(key, 40)}; expected text or a number")


def _objects(block: bytes, path: Path, lines: int) -> Iterator[dict[str, Any]]:
    """The objects of a block, line by line."""
    for at, line in enumerate(block.decode("utf-8").split("\n"), start=lines + 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply or a number too long")
            raise ValueError(f"{path} has a line that is not JSON, line {at:,}: {clip(line)} ({reason})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path} has a line that is no JSON object, line {at:,}: {clip(line)}")
        if "\\u" in line:
            _check_text(line, entry, path, at)
        yield entry


def _check_text(line: str, entry: dict[str, Any], path: Path, at: int) -> None:
    """Half a surrogate pair is a string to Python's json and to nobody else."""
    if re.search(r"\\u[dD][89a-fA-F]", line):
        try:
            json.dumps(entry, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{path} has half a surrogate pair (\\ud800 to \\udfff) in line {at:,}") from error


def json_object(path: Path, notes: Notes) -> Any:
    """All of a file that is one JSON value.

    Raises
    ------
    ValueError
        If it is not JSON, or an object has a key twice.
    """
    try:
        return json.loads(whole_text(path, notes), object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} in line {error.lineno:,}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, _Repeated):
            raise ValueError(f"{path} has the key {clip(error.args[0])} twice in one object") from None
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is not JSON: nested too deeply or a number too long") from error


class _Repeated(ValueError):
    """A key that stands twice in an object; its argument is the key."""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _Repeated(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return made


# ---- all keys of a catalogue


def json_items(path: Path, id_columns: Sequence[str], notes: Notes) -> pl.DataFrame:
    """Items of a JSON file: every key a column, ids and mixed columns text, lists joined, objects left out.

    Parameters
    ----------
    path : Path
        Lines of objects, one array of them, or one object of objects by item id.
    id_columns : sequence of str
        Columns that are text, digit by digit, whatever they hold.
    notes : Notes

    Raises
    ------
    ValueError
        If it is not JSON or no objects.
    """
    start = first_line(path)
    if start.startswith("["):
        groups: Iterable[Sequence[dict[str, Any]]] = [_array(json_object(path, notes), path)]
    elif _is_one_object(start, path):
        whole = json_object(path, notes)
        refuse_columns(whole, path)
        groups = [_entries(whole, path)]
    else:
        groups = _groups(path, notes)
    parts = [_columns_of(group, id_columns, path) for group in groups if group]
    return _together(parts, path, notes)


def refuse_columns(value: Mapping[str, Any], path: Path) -> None:
    """Refuse an object of columns, as pandas writes a table: its keys are names of columns and neither users nor items.

    Raises
    ------
    ValueError
        If it is one.
    """
    names = list(value)
    usual = usual_name(names, ITEM_COLUMNS) or (usual_name(names, USER_COLUMNS) if len(names) < 20 else None)
    if usual is not None and isinstance(value[usual], list | dict):
        raise ValueError(
            f"{path} is a table by columns ({listed(names)}); write an object a row, as pandas does with "
            'to_json(orient="records", lines=True)'
        )


def _is_one_object(start: str, path: Path) -> bool:
    """True where a file is one object of objects, on one line or spread over many."""
    try:
        first = json.loads(start)
    except (ValueError, RecursionError):
        return start.rstrip() == "{" or re.match(r'\{\s*"[^"]*"\s*:\s*\{\s*$', start) is not None
    inside = list(first.values()) if isinstance(first, dict) else []
    return len(inside) > 0 and all(isinstance(value, dict) for value in inside)


def _array(value: Any, path: Path) -> list[dict[str, Any]]:
    strange = next((entry for entry in value if not isinstance(entry, dict)), None)
    if strange is not None:
        raise ValueError(f"{path} is an array with {clip(json.dumps(strange))} in it; expected objects")
    return list(value)


def _entries(value: Any, path: Path) -> list[dict[str, Any]]:
    strange = next((key for key, entry in value.items() if not isinstance(entry, dict)), None)
    if strange is not None:
        raise ValueError(f"{path} has no object at the key {clip(strange)}; expected the attributes of an item")
    return [{"item_id": key} | entry for key, entry in value.items()]


def _groups(path: Path, notes: Notes) -> Iterator[list[dict[str, Any]]]:
    lines = 0
    for block in blocks(path, notes, _ITEM_BYTES):
        yield list(_objects(block, path, lines))
        lines += block.count(b"\n")


_Kind = str  # "null", "bool", "int", "float", "text", "mixed" or "object"


def _columns_of(
    group: Sequence[Mapping[str, Any]], id_columns: Sequence[str], path: Path
) -> dict[str, tuple[_Kind, pl.Series, int]]:
    """A column for each key, with the kind of its values and how many of them are objects."""
    keys: dict[str, None] = {}
    for entry in group:
        keys.update(dict.fromkeys(entry))
    columns = {key: [entry.get(key) for entry in group] for key in keys}
    for key in (key for key in columns if key in id_columns):
        strange = next((value for value in columns[key] if isinstance(value, dict | list | bool)), None)
        _refuse_nested(strange, key, path)
    return {key: (*_column(values, key in id_columns), _objects_in(values)) for key, values in columns.items()}


def _objects_in(values: list[Any]) -> int:
    """Count of the values that are objects, or lists with objects in them."""
    return sum(
        isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict) for part in value))
        for value in values
    )


def _column(values: list[Any], text: bool) -> tuple[_Kind, pl.Series]:
    kinds = set(map(type, values)) - {type(None)}
    if text:
        return "text", pl.Series([value_text(value) for value in values], dtype=pl.String)
    if not kinds:
        return "null", pl.Series([None] * len(values), dtype=pl.Null)
    if kinds == {dict}:
        return "object", pl.Series([None] * len(values), dtype=pl.Null)
    if kinds == {bool}:
        return "bool", pl.Series(values, dtype=pl.Boolean)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values if value is not None):
        return "int", pl.Series(values, dtype=pl.Int64)
    if kinds == {float}:
        return "float", pl.Series(values, dtype=pl.Float64)
    if kinds == {int, float} and all(abs(value) < 2**53 for value in values if isinstance(value, int)):
        return "float", pl.Series([None if value is None else float(value) for value in values], dtype=pl.Float64)
    texts = pl.Series([_text_of(value) for value in values], dtype=pl.String)
    return "text" if kinds <= {str} or kinds <= {list} else "mixed", texts


def _text_of(value: Any) -> str | None:
    if isinstance(value, dict):
        return None
    return json_paths(value) if isinstance(value, list) else value_text(value)


def json_paths(value: Any) -> str | None:
    """A list as text: its values joined by a blank; of a list of lists each is a path joined by " > "."""
    if isinstance(value, list) and any(isinstance(part, list) for part in value):
        several = [part if isinstance(part, list) else [part] for part in value]
        return joined(" | ".join(" > ".join(str(level) for level in path) for path in several))
    if isinstance(value, list):
        value = [part for part in value if not isinstance(part, dict)]
        return " ".join(text for part in value if (text := value_text(part)) is not None) or None
    return joined(value)


def _together(parts: list[dict[str, tuple[_Kind, pl.Series, int]]], path: Path, notes: Notes) -> pl.DataFrame:
    """One table of the parts; says which columns are mixed or hold objects."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    if not parts or not names:
        raise ValueError(f"{path} has no item with any key; expected objects with item_id")
    heights = [len(next(iter(part.values()))[1]) for part in parts if part]
    parts = [part for part in parts if part]
    columns = {}
    for name in names:
        kinds = {part[name][0] for part in parts if name in part} - {"null"}
        if "object" in kinds and len(kinds) == 1:
            _say_objects(name, path, notes)
            continue
        kind = {frozenset({"int"}): pl.Int64, frozenset({"bool"}): pl.Boolean}.get(frozenset(kinds), pl.String)
        if kinds and kinds <= {"int", "float"} and "float" in kinds:
            kind = pl.Float64
        lost = sum(part[name][2] for part in parts if name in part)
        if lost:
            notes.say(
                "values_of_objects",
                lost,
                f"{lost:,} values of the column {clip(name, 40)} of {path} are objects and were left out; text that is "
                "wanted needs a key of its own",
            )
        elif kind == pl.String and kinds - {"text"}:
            notes.say(
                "column_of_mixed_types",
                1,
                f"the column {clip(name, 40)} of {path} holds values of several types; all were read as text",
                warn=False,
            )
        series = [
            part[name][1].cast(kind) if name in part else pl.Series([None] * height, dtype=kind)
            for part, height in zip(parts, heights, strict=True)
        ]
        columns[name] = pl.concat(series).alias(name)
    return pl.DataFrame(columns)


def _say_objects(name: str, path: Path, notes: Notes) -> None:
    notes.say(
        "column_of_objects",
        1,
        f"the column {clip(name, 40)} of {path} holds objects and was left out; text that is wanted needs a "
        "key of its own",
        warn=False,
    )
