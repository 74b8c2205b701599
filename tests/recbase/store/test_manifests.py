"""Schemas of JSON files: what passes, and the one sentence where something does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbase.store.manifests import (
    COUNT,
    FLAG,
    NUMBER,
    RANGE,
    TEXT,
    WHOLE,
    between,
    check,
    list_of,
    map_of,
    maybe,
    null_or,
    one_of,
    read_json,
    record,
)

SCHEMA = record(
    {
        "name": TEXT,
        "items": COUNT,
        "seed": maybe(null_or(WHOLE)),
        "order": one_of("time", "file"),
        "views": map_of(RANGE),
        "loop": record({"step": WHOLE, "losses": list_of(NUMBER), "done": FLAG}),
        "pair": maybe(list_of(WHOLE, length=2)),
    }
)
SOUND: dict[str, Any] = {
    "name": "x",
    "items": 3,
    "order": "time",
    "views": {"title": [0, 4]},
    "loop": {"step": 0, "losses": [1, 0.5], "done": True},
    "more": "of a later version",
}


def test_what_a_schema_says_passes_and_so_does_what_it_does_not_name() -> None:
    check("m.json", SOUND, SCHEMA)
    check("m.json", SOUND | {"seed": None, "pair": [1, 2]}, SCHEMA)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": 3}, "m.json: 'name' is 3, expected a text"),
        ({"items": 0}, "m.json: 'items' is 0, expected a whole number of at least 1"),
        ({"items": True}, "m.json: 'items' is true, expected a whole number of at least 1"),
        ({"items": 10**80}, "m.json: 'items' is a whole number of more than 60 digits, expected"),
        ({"seed": -1}, "m.json: 'seed' is -1, expected a whole number of at least 0 or null"),
        ({"order": "item"}, "m.json: 'order' is \"item\", expected one of time, file"),
        ({"views": {"title": [4, 4]}}, r"m.json: 'views.title' is \[4, 4\], expected two whole numbers"),
        ({"views": []}, r"m.json: 'views' is \[\], expected an object"),
        ({"loop": {"step": 1, "losses": []}}, "m.json has no entry 'loop.done', expected true or false"),
        (
            {"loop": {"step": 1, "losses": [float("nan")], "done": False}},
            r"m.json: 'loop.losses\[0\]' is NaN, expected a finite number",
        ),
        ({"pair": [1]}, r"m.json: 'pair' is \[1\], expected a list of 2 values"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_its_value_and_what_was_expected(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check("m.json", SOUND | change, SCHEMA)


def test_a_missing_entry_and_another_kind_of_file_are_named() -> None:
    with pytest.raises(ValueError, match=r"^m.json has no entry 'name', expected a text$"):
        check("m.json", {}, SCHEMA)
    with pytest.raises(ValueError, match=r"^m.json holds \[1\], expected an object$"):
        check("m.json", [1], SCHEMA)


def test_numbers_of_a_range_are_kept_to() -> None:
    check("m.json", 8, between(3, 8))
    with pytest.raises(ValueError, match="holds 9, expected a whole number from 3 to 8"):
        check("m.json", 9, between(3, 8))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"1" * 5000, "is not valid JSON"),
    ],
)
def test_what_is_no_json_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(SOUND))
    assert read_json(path) == SOUND
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_json(tmp_path / "none.json")
