"""Results are JSON lines, and the tables of the pages are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.results import RESULTS, append, latest, read, record

ROOT = Path(__file__).parents[1]
SHOWN = sorted({page for page in tables.PAGES.glob("*.md") if "<!-- table:" in page.read_text(encoding="utf-8")})


def made(row: str = "a", value: float = 0.25) -> dict:
    metrics = {"ndcg@10": [value, value + 0.02], "masked ndcg@10": [0.5]}
    return record("trial", row, "D", metrics, "seqrec train a", "one machine", "made up", seconds=1234.5)


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_tables_of_a_page_are_those_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "python -m benchmarks.tables writes the tables; do not edit them by hand"


def test_every_table_stands_on_one_page():
    names = [name for page in SHOWN for name in re.findall("<!-- table: (.*?) -->", page.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(tables.TABLES)


def test_a_number_edited_by_hand_is_found():
    text = SHOWN[0].read_text(encoding="utf-8")
    edited = re.sub(r"\| \.(\d)(\d{3}) ", lambda found: f"| .{(int(found[1]) + 1) % 10}{found[2]} ", text, count=1)
    assert edited != text
    assert tables.filled(edited) == text


def test_numbers_of_the_readme_are_those_of_the_records():
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Results")[2].partition("## ")[0]
    known = {
        f"{one['metrics'][name]['mean']:.4f}"[1:]
        for path in RESULTS.glob("*.jsonl")
        for one in read(path.stem)
        for name in one["metrics"]
    }
    shown = re.findall(r"\| (\.\d{4}) ", part)
    assert len(shown) >= 8
    assert set(shown) <= known


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_record_says_how_it_was_made(path):
    for one in read(path.stem):
        for name in ("command", "date", "machine", "source", "qualification"):
            assert one[name], f"{one['row']} has no {name}"
        assert one["source"].startswith("measured") or one["source"].startswith("carried over")


def test_records_are_added_and_the_last_of_a_row_counts(tmp_path):
    append([made("a"), made("b")], tmp_path)
    append([made("a", 0.3)], tmp_path)
    found = read("trial", tmp_path)
    assert [one["row"] for one in found] == ["a", "b", "a"]
    assert found[0]["metrics"]["ndcg@10"] == {"mean": 0.26, "sd": pytest.approx(0.014142)}
    assert found[0]["metrics"]["masked ndcg@10"]["sd"] is None
    table = tables.Table("trial", "D", ("model", "ndcg@10", "seconds", "seeds"))
    assert [one["metrics"]["ndcg@10"]["mean"] for one in latest(found)] == [0.31, 0.26]
    assert table.lines(tmp_path)[2:] == ["| a | .3100 ± .0141 | 1,234 | 2 |", "| b | .2600 ± .0141 | 1,234 | 2 |"]
    everything = tables.Table("trial", "D", ("model", "seeds"), history=True)
    assert len(everything.lines(tmp_path)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": 3}, "field command has the value 3"),
        ({"extra": 3}, "it differs in extra"),
        ({"metrics": {"ndcg@10": {"mean": float("nan"), "sd": None}}}, "metric ndcg@10 must have a finite mean"),
    ],
)
def test_what_is_no_record_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        append([made() | change], tmp_path)
    (tmp_path / "trial.jsonl").write_text(json.dumps(made() | change) + "\n")
    with pytest.raises(ValueError, match="line 1: "):
        read("trial", tmp_path)


def test_a_table_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="there is no table 'none/Here'"):
        tables.filled("<!-- table: none/Here -->\n<!-- end of table -->")
