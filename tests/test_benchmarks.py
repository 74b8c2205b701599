"""The rows of the benchmarks' tables are commands that the programs understand."""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import pytest

import genrec.cli
import seqrec.cli
from benchmarks import beauty, ccfrec, demo, reproduce, rows
from benchmarks.rows import Row, folder_of
from recbase.cli.options import options_from, recipes_from
from semtok.registry import methods

PROGRAMS = {"genrec": genrec.cli.main, "seqrec": seqrec.cli.main}


def understood(words: list[str]) -> dict[str, object]:
    """The options that a program reads from a command, which is not run."""
    group = PROGRAMS[words[0]]
    with click.Context(group) as top:
        train = group.get_command(top, "train")
        assert isinstance(train, click.Group)
        command = train.get_command(top, words[2])
        assert command is not None
        with command.make_context(words[2], list(words[3:])) as context:
            return dict(context.params)


@pytest.mark.parametrize("table", beauty.TABLES)
def test_the_rows_of_a_table_are_commands(table: str, tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, budget_seconds=60.0, options=["--beams", "20"])
    rows = list(beauty.rows(table, "all", 1, tmp_path))
    assert len({folder_of(row, 0, tmp_path) for row in rows}) == len(rows) > 1
    for row in rows:
        found = understood(beauty.command(given, row, 0, tmp_path / "run"))
        assert found["data"] == str(tmp_path)
        if row.program == "genrec":
            assert found["beams"] == 20
            assert found["max_seconds"] == 60.0


@pytest.mark.parametrize("table", ccfrec.TABLES)
def test_the_rows_of_a_table_of_ccfrec_are_commands(table: str, tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, max_seconds=60.0, options=[])
    for row in ccfrec.rows(table, ["title", "brand"], 1):
        found = understood(ccfrec.command(given, row, 0, tmp_path / "run"))
        assert found["data"] == str(tmp_path)
        assert (found.get("encoder") == "minilm") == (row.name == "global emb")


def test_rows_of_one_folder_are_one_command(tmp_path: Path) -> None:
    known: dict[Path, Row] = {}
    shared = 0
    for row in (row for table in beauty.TABLES for row in beauty.rows(table, "all", 1, None)):
        other = known.setdefault(folder_of(row, 0, tmp_path), row)
        shared += other is not row
        assert (other.program, other.model, other.options) == (row.program, row.model, row.options)
    assert shared > 0


def test_the_rows_of_papers_are_commands(tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, set="Beauty", embeddings=tmp_path, budget_seconds=60.0, seed=1)
    run, missing = 0, set()
    for paper, tables in reproduce.published_tables()[0].items():
        for table, names in tables.items():
            for name in names:
                row = reproduce.row_of(paper, table, name)
                if row is not None and reproduce.known(row.model):
                    found = understood(reproduce.command(row, given, tmp_path / "run"))
                    assert found["data"] == str(tmp_path)
                    assert found.get("stage1_seconds", 60.0) == 60.0
                    run += 1
                else:
                    missing.add(name)
    assert run > 40
    assert missing == {"RecForest"}


def test_the_demo_counts_steps_unless_seconds_are_asked_for(tmp_path: Path) -> None:
    found = demo.commands(tmp_path)
    assert [words[0] for words in found] == ["semtok"] * 3 + ["seqrec"] * 4 + ["genrec", "semtok", "seqrec"]
    assert not [word for words in found for word in words if "seconds" in word]
    trained = {words[2]: understood(words) for words in found if words[1] == "train"}
    assert set(trained) == {"popularity", "transitions", "sasrec", "ccfrec", "prorec"}
    for name in ("sasrec", "ccfrec", "prorec"):
        assert trained[name]["max_seconds"] is None
    for name in ("ccfrec", "prorec"):
        assert trained[name]["precision"] == "no"  # what another machine does faster would round otherwise
    wished = demo.commands(tmp_path, max_seconds=60, generator_seconds=30)
    budgets = [
        understood(words)["max_seconds"] for words in wished if words[1:3] in (["train", "ccfrec"], ["train", "prorec"])
    ]
    assert budgets == [60, 30]


def test_no_default_and_no_recipe_names_seconds() -> None:
    from genrec import REGISTRY as GENERATORS
    from seqrec import REGISTRY as RANKERS

    counted = [entry.target for entry in RANKERS.values()]
    sources = [*counted, *(entry.target for entry in GENERATORS.values()), *methods().values()]
    for source in sources:
        for recipe, values in recipes_from(source).items():
            assert not [key for key in values if "seconds" in key], (source, recipe)
    sources += [entry.preparation for entry in GENERATORS.values()] + ["recbase.train.loop:TrainConfig"]
    budgets = [option for source in sources for option in options_from(source) if option.name.endswith("seconds")]
    assert {option.name for option in budgets} == {"max_seconds", "stage1_seconds", "save_every_seconds"}
    assert all(option.default is None for option in budgets if option.name != "save_every_seconds")
    smoke = Path(__file__).parents[1] / "Makefile"
    assert "seconds" not in smoke.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_generator_of_the_demo_beats_popularity(tmp_path: Path) -> None:
    found = demo.commands(tmp_path)
    needed = [words for words in found if words[:2] in (["semtok", "prepare"], ["semtok", "embed"])]
    for words in [*needed, *(words for words in found if words[1:3] in (["train", "popularity"], ["train", "prorec"]))]:
        demo.run(words)
    popular, generated = (
        rows.metrics_of(tmp_path / folder) for folder in (Path("seqrec") / "popularity", Path("genrec") / "prorec")
    )
    assert popular is not None
    assert generated is not None
    for metric in ("recall@10", "ndcg@10"):
        assert generated["test"][metric] > popular["test"][metric]


def test_a_row_that_fails_is_reported_and_the_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(words: list[str], check: bool) -> argparse.Namespace:
        ran.append(words[-1])
        return argparse.Namespace(returncode=1 if words[-1] == "0" else 0)

    monkeypatch.setattr(rows.subprocess, "run", run)
    monkeypatch.setattr(rows, "finished", lambda folder: str(len(ran) - 1) != "0" and folder.name.endswith("-1"))
    row = Row("w/o text", "genrec", "bbqrec", seeds=(0, 1))
    folders = rows.run_row(row, tmp_path, lambda row, seed, out: [row.program, "train", str(seed)])
    assert folders == [folder_of(row, 1, tmp_path)]
    assert ran[0] == "0"
    assert "w/o text, seed 0, failed (exit code 1); the table goes on without it" in capsys.readouterr().out
    assert rows.failed_line("w/o text", 4) == "| w/o text | failed | - | - |"
