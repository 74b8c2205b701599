"""``semtok prepare`` says what it read, dropped, matched and guessed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from semtok.cli import main


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["prepare", *map(str, arguments)])
    return done.exit_code, " ".join(done.stdout.split()), " ".join(done.stderr.split())


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    rows = [(user, item) for user in range(3) for item in range(3)] + [(7, 0), (0, 0)]
    body = "".join(f"{user},{item},{20 - at:02d}/01/2020 10:00\n" for at, (user, item) in enumerate(rows))
    path.write_text("user_id,item_id,when\n" + body)
    return path


COLUMNS = ("--columns", "timestamp=when", "--time-format", "%d/%m/%Y %H:%M", "--min-user", 2, "--min-item", 2)


def test_every_event_is_accounted_for(tmp_path: Path, events: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n0.0,<b>cup</b>\n1.0,pan\n5.0,pot\n")
    code, said, warned = run(events, "--items", items, "--out", tmp_path / "out", *COLUMNS)
    assert (code, warned) == (0, "")
    for expected in (
        "events read 11",
        "- repeats of a user and an item 1",
        "- of 1 rare users and 0 rare items 1",
        "items in the table of items 2 of 3, with 6 events",
        "items with a text: title 2 of 3",
        "3 of 3 values of item_id of",
        "1 of 3 texts of the column title of",
    ):
        assert expected in said
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["dropped"]["rare_users"] == 1
    assert [note["what"] for note in manifest["reading"]] == ["ids_as_floats", "texts_with_markup"]


@pytest.mark.filterwarnings("always:.*table of items:UserWarning")
def test_a_catalogue_that_does_not_match_is_a_warning(tmp_path: Path, events: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\nA0,cup\nA1,pan\n")
    code, said, warned = run(events, "--items", items, "--out", tmp_path / "out", *COLUMNS, "--json")
    assert code == 0
    assert "Warning: 3 of 3 items of the events are not in the table of items and have no text" in warned
    assert "events have ids as '0', '1', '2', the table as 'A0', 'A1'" in warned
    assert '"matching": { "items": 0, "events": 0, "rows_without_events": 2 }' in said


def test_a_time_format_that_does_not_fit_is_one_sentence(tmp_path: Path, events: Path) -> None:
    code, _, warned = run(events, "--columns", "timestamp=when", "--out", tmp_path / "out")
    assert code == 1
    assert "timestamp of" in warned
    assert "expected a number, or a date as 2020-12-31" in warned
    assert "--time-format" in warned
    assert not (tmp_path / "out").exists()
