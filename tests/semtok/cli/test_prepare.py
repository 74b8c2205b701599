"""``semtok prepare`` says what it read, dropped, matched and guessed."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recbase.data.catalog import load_dataset
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


META_2023 = {  # every key of a line of the publisher's metadata
    "main_category": "Industrial & Scientific",
    "average_rating": 4.5,
    "rating_number": 7,
    "price": 9.99,
    "images": [{"thumb": "http://x/t.jpg", "large": "http://x/l.jpg", "variant": "MAIN", "hi_res": None}],
    "videos": [],
    "store": "Shop",
    "bought_together": None,
}


def packed(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def test_amazon_2023_as_its_publisher_lays_it_out(tmp_path: Path) -> None:
    """5-core tables split by the last items, with histories, and the metadata, all under the publisher's names."""
    name, header = "Industrial_and_Scientific", "user_id,parent_asin,rating,timestamp,history\n"
    users, length = 12, 5
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(users):
        items = [f"B{(user + step) % 8:09d}" for step in range(length)]
        for at, item in enumerate(items):
            part = {length - 2: "valid", length - 1: "test"}.get(at, "train")
            stamp = 1_600_000_000_000 + 1000 * at
            parts[part].append(f"AE{user:026d},{item},5.0,{stamp},{' '.join(items[:at])}\n")
    for part, lines in parts.items():
        packed(tmp_path / f"{name}.{part}.csv.gz", header + "".join(lines))
    whole = [line for lines in parts.values() for line in lines]
    plain = [",".join(line.split(",")[:4]) + "\n" for line in whole]
    (tmp_path / "rating_only").mkdir()
    packed(tmp_path / "rating_only" / f"{name}.csv.gz", header.replace(",history", "") + "".join(plain))
    details = [{"Brand": "Maker", "Color": "Red"}, {"Color": "Red"}]
    meta = [
        META_2023
        | {"title": f"Blade {n}", "parent_asin": f"B{n:09d}", "details": details[n % 2]}
        | {"features": ["Sharp <b>edge</b>", f"Steel {n}"], "description": [f"Number {n}.", "For metal."]}
        | {"categories": ["Industrial & Scientific", f"Tools {n % 3}"]}
        for n in range(9)
    ]
    for folder in (tmp_path, tmp_path / "rating_only"):
        packed(folder / f"meta_{name}.jsonl.gz", "".join(json.dumps(line) + "\n" for line in meta))
    files = {"split": tmp_path / f"{name}.train.csv.gz", "whole": tmp_path / "rating_only" / f"{name}.csv.gz"}
    found = {}
    for kind, path in files.items():
        code, _, warned = run("amazon2023", "--from", path, "--out", tmp_path / kind)
        assert (code, warned) == (0, "")
        found[kind] = load_dataset(str(tmp_path / kind))
    data = found["split"]
    assert data.sequences_hash == found["whole"].sequences_hash
    assert (data.n_users, data.n_items, int(data.histories.lengths.sum())) == (users, 8, users * length)
    assert data.views == ["title", "brand", "features", "categories", "description"]  # the order of table 5
    rows = {row["item_id"]: row for row in data.items.iter_rows(named=True)}
    assert {rows[f"B{n:09d}"]["brand"] for n in (0, 2, 4, 6)} == {"Maker"}  # not the shop that sells it
    assert {rows[f"B{n:09d}"]["brand"] for n in (1, 3, 5, 7)} == {"Shop"}
    first = {name: rows["B000000000"][name] for name in ("title", "features", "categories", "description")}
    assert list(first.values()) == [
        "Blade 0", "Sharp edge Steel 0", "Industrial & Scientific > Tools 0", "Number 0. For metal.",
    ]  # fmt: skip
    split = data.split()
    assert [data.item_ids[int(item) - 1] for item in split.test.items[:2]] == ["B000000004", "B000000005"]
