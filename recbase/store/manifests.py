"""Conditions on a JSON file: one small schema language, and one sentence where a file does not keep to it.

A schema is made of kinds (`WHOLE`, `TEXT`, `list_of(WHOLE)`, `record({...})`); `check` walks a value along them and
names the file, the entry, what was found and what was expected. Keys that a schema does not name pass: newer versions
add entries, and older ones must open what they understand. Knows no file of ours, and needs the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "ANYTHING",
    "COUNT",
    "FLAG",
    "NUMBER",
    "OBJECT",
    "RANGE",
    "TEXT",
    "WHOLE",
    "Kind",
    "between",
    "check",
    "list_of",
    "map_of",
    "maybe",
    "null_or",
    "one_of",
    "read_json",
    "record",
    "shown",
]

_LONGEST = 60
_MISSING = object()


@dataclass(frozen=True)
class Kind:
    """Type of a value in a manifest: its name in sentences, and its check.

    Parameters
    ----------
    expected : str
        How a sentence calls it, such as ``"a whole number"``.
    holds : callable
        Whether a value is of this kind, its parts aside.
    parts : callable, optional
        The parts of a value that holds, as (name, value, kind): a record's entries, a list's elements.
    required : bool, default True
        Whether a record must have the entry.
    """

    expected: str
    holds: Callable[[Any], bool]
    parts: Callable[[Any], Iterable[tuple[str, Any, Kind]]] = lambda value: ()
    required: bool = True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


ANYTHING = Kind("any value", lambda value: True)
TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", _is_number)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def between(least: int, most: int = 2**31 - 1) -> Kind:
    """A whole number in a range; by default up to what an int32 holds, which no count of ours exceeds."""
    said = f"a whole number of at least {least}" if most == 2**31 - 1 else f"a whole number from {least} to {most}"
    return Kind(said, lambda value: _is_whole(value) and least <= value <= most)


WHOLE = between(0)
COUNT = between(1)


def one_of(*words: str) -> Kind:
    """One of some texts."""
    return Kind(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


def null_or(kind: Kind) -> Kind:
    """A kind, or null."""
    return Kind(
        f"{kind.expected} or null",
        lambda value: value is None or kind.holds(value),
        lambda value: () if value is None else kind.parts(value),
    )


def maybe(kind: Kind) -> Kind:
    """A kind that a record may leave out."""
    return Kind(kind.expected, kind.holds, kind.parts, required=False)


def list_of(kind: Kind, length: int | None = None, least: int = 0) -> Kind:
    """A list of one kind, of a given length or at least so long."""
    many = f"{length} " if length is not None else f"at least {least} " if least else ""

    def holds(value: Any) -> bool:
        return isinstance(value, list) and len(value) >= least and (length is None or len(value) == length)

    return Kind(
        f"a list of {many}values",
        holds,
        lambda value: ((f"[{place}]", part, kind) for place, part in enumerate(value)),
    )


def map_of(kind: Kind) -> Kind:
    """An object of any keys whose values are of one kind."""
    return Kind(
        OBJECT.expected,
        OBJECT.holds,
        lambda value: ((f".{name}", part, kind) for name, part in value.items()),
    )


def record(entries: Mapping[str, Kind]) -> Kind:
    """An object with these entries; it may have more."""

    def parts(value: Any) -> Iterable[tuple[str, Any, Kind]]:
        return ((f".{name}", value.get(name, _MISSING), kind) for name, kind in entries.items())

    return Kind(OBJECT.expected, OBJECT.holds, parts)


RANGE = Kind(
    "two whole numbers, the first below the second",
    lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)) and 0 <= value[0] < value[1] < 2**31
    ),
)
"""Columns of a view or a block: [first, stop]."""


def check(path: str | os.PathLike[str], value: Any, kind: Kind, name: str = "") -> None:
    """Refuse a value that is not of a kind.

    Parameters
    ----------
    path : path
        File that it was read from.
    value : object
        Parsed JSON.
    kind : Kind
    name : str, default ""
        Where in the file the value stands; the whole of it by default.

    Raises
    ------
    ValueError
        Naming the file, the first entry that is wrong, what it is and what was expected.
    """
    if value is _MISSING:
        if kind.required:
            raise ValueError(f"{path} has no entry {_said(name)}, expected {kind.expected}")
        return
    if not kind.holds(value):
        where = f": {_said(name)} is" if name else " holds"
        raise ValueError(f"{path}{where} {shown(value)}, expected {kind.expected}")
    for part, found, wanted in kind.parts(value):
        check(path, found, wanted, name + part)


def _said(name: str) -> str:
    name = name.removeprefix(".")
    return repr(name if len(name) <= _LONGEST else name[: _LONGEST - 3] + "...")


def shown(value: Any) -> str:
    """A value as a sentence shows it: short, and on one line."""
    if isinstance(value, dict | list) and len(value) > 8:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)} entries"
    if _is_whole(value) and abs(value) >= 10**_LONGEST:  # Python refuses to print what has thousands of digits
        return "a whole number of more than 60 digits"
    text = json.dumps(value, default=repr)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no JSON: damaged, no UTF-8, or nested deeper than Python reads.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:  # of JSON, of UTF-8, and of numbers of too many digits
        raise ValueError(f"{path} is not valid JSON: {error}") from error
