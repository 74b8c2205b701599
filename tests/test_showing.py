"""What commands print of titles, ids, names and columns that look like markup, move cursors or turn writing around."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from cli import main
from recbase.console import plain
from recbase.data.catalog import prepare_dataset

TITLES = [
    "[/set of 4]",
    "[import] knife",
    "[bold red]x[/]",
    "[link=file:///x]y[/link]",
    ":smile: \\[a]",
    "\x1b[2J\x1b[31mred",
    "a\u202egnp.exe",
    "\u2066turned\u2069",
    "two\nlines\tand\r\x0bmore",
    "no\u200bwidth\ufeff",
    "漢字の商品名" * 12,
    "very long " * 60,
    "nul\0bell\x07",
    "next\x85line\u2028separated",
]
NAME = "[/data] of \x1b[31m\u202eeverything"
COUNT = 42


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    for line in [*result.stdout.split("\n"), *result.stderr.split("\n")]:
        assert line.isprintable(), repr(line)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose items, users, columns and name are hostile, with runs and codes of it."""
    root = tmp_path_factory.mktemp("hostile")
    raw = root / "raw"
    raw.mkdir()
    draw = np.random.default_rng(0)
    ids = [f"[/i{row}]\u202e" if row % 3 else f"i{row}" for row in range(COUNT)]
    titles = [TITLES[row % len(TITLES)] + f" {row}" for row in range(COUNT)]
    brands = [f"[/b]\x1b{row % 4}" for row in range(COUNT)]
    pl.DataFrame({"item_id": ids, "title": titles, "brand": brands}).write_parquet(raw / "items.parquet")
    events = {
        "user_id": [f"[/u]{user}" for user in np.repeat(np.arange(30), 8)],
        "item_id": [ids[row] for row in draw.integers(0, COUNT, 240)],
        "position": np.arange(240),
    }
    pl.DataFrame(events).write_parquet(raw / "interactions.parquet")
    prepare_dataset(str(raw), name=NAME, views=["title", "brand"]).save(root / "data")
    for model in ("popularity", "itemknn"):
        run("seqrec", "train", model, "--data", root / "data", "--out", root / model, "--quiet")
    run("semtok", "fit", "--data", root / "data", "--levels", 2, "--codebook-size", 8, "--quiet", "--out", root / "pq",
        "--unique", "suffix")  # fmt: skip
    return root


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_recommendations_show_titles_as_they_are_in_80_columns(folder: Path) -> None:
    words = ("seqrec", "recommend", folder / "popularity", "--history", "i0", "-k", COUNT, "--keep-seen")
    shown = run(*words).stdout
    for title in TITLES[:5]:
        assert title in shown
    assert r"\x1b[2J\x1b[31mred" in shown
    assert r"a\u202egnp.exe" in shown
    assert "two lines and" in shown
    assert all(cell_len(line) <= 80 for line in shown.split("\n"))
    exact = {row["title"].rpartition(" ")[0] for row in json.loads(run(*words, "--json").stdout)["items"]}
    assert exact >= {title for title in TITLES if not title.endswith(" ")}


def test_every_table_shows_names_as_they_are(folder: Path) -> None:
    name = plain(NAME)
    assert name == r"[/data] of \x1b[31m\u202eeverything"
    shown = run("seqrec", "compare", folder / "popularity", folder / "itemknn").stdout
    assert squeezed(name) in squeezed(shown)
    assert name in run("seqrec", "evaluate", folder / "popularity").stdout
    assert name in run("semtok", "prepare", folder / "data", "--out", folder / "again").stdout
    assert name in run("semtok", "embed", "--data", folder / "data", "--out", folder / "vectors").stdout
    shown = run("semtok", "report", folder / "pq", "--data", folder / "data", "--out", folder / "report").stdout
    assert "brand" in shown
    assert json.loads((folder / "report" / "report.json").read_text())["tokenizers"]
    run("semtok", "report", folder / "pq", folder / "pq", "--no-page", "--out", folder / "reports")
    run("semtok", "export", folder / "pq", "--format", "rpg", "--out", folder / "codes.json")
    run("semtok", "encode", folder / "pq", "--embeddings", folder / "vectors", "--out", folder / "codes.parquet")
    for package in ("semtok", "seqrec", "genrec"):
        run(package, "list")


def test_generators_show_titles_as_they_are(folder: Path) -> None:
    tiny = ["--epochs", 1, "--dim", 16, "--heads", 2, "--head-dim", 8, "--ffn", 16, "--encoder-layers", 1,
            "--decoder-layers", 1, "--beams", 20, "--valid-beams", 10]  # fmt: skip
    out = folder / "tiger"
    shown = run("genrec", "train", "tiger", "--data", folder / "data", "--codes", folder / "pq", "--out", out, *tiny)
    assert squeezed(plain(NAME)) in squeezed(shown.stdout)
    assert squeezed(plain(NAME)) in squeezed(run("genrec", "evaluate", out, "--quiet").stdout)
    shown = run("genrec", "recommend", out, "--history", "i0,[/nobody]", "-k", COUNT, "--keep-seen")
    assert "[/set of 4]" in shown.stdout
    assert shown.stderr == "Warning: item '[/nobody]' is unknown and was skipped\n"


def test_sentences_of_failures_are_plain(folder: Path) -> None:
    odd = folder / "[/odd]"
    odd.mkdir(parents=True, exist_ok=True)
    assert f"{odd}" in run("seqrec", "evaluate", odd, code=1).stderr
    said = run("seqrec", "recommend", folder / "popularity", "--history", "\x1b[31m,\u202e", code=2).stderr
    assert said.endswith("--history holds a control character: '\\x1b[31m,\\u202e'\n")
    said = run("semtok", "fit", "--data", folder / "data", "--views", "[/colour]", code=1).stderr
    assert "view '[/colour]' is missing" in said
    assert NAME not in said


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "wide", "LINES": "-1"},
        {"TERM": "dumb", "NO_COLOR": "1"},
        {"TERM": "no-such-terminal", "FORCE_COLOR": ""},
    ],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()),
)
def test_odd_terminals_do_not_matter(folder: Path, environment: dict[str, str]) -> None:
    for words in (
        ["seqrec", "recommend", str(folder / "popularity"), "--history", "i0"],
        ["semtok", "list"],
        ["seqrec", "compare", str(folder / "popularity"), str(folder / "itemknn")],
    ):
        result = CliRunner().invoke(main, words, env=environment)
        assert result.exit_code == 0, result.output


def test_encodings_without_the_letters_do_not_matter(folder: Path) -> None:
    words = ["seqrec", "recommend", str(folder / "popularity"), "--history", "i0", "-k", str(COUNT)]
    shown = CliRunner(charset="ascii").invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert r"\u6f22\u5b57" in shown.stdout
    rows = json.loads(CliRunner(charset="ascii").invoke(main, [*words, "--json"]).stdout)["items"]
    assert any(row["title"].startswith("漢字の商品名") for row in rows)
