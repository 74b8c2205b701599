"""The rows of the benchmarks' tables are commands that the programs understand."""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import pytest

import genrec.commands
import seqrec.commands
from benchmarks import beauty, ccfrec, reproduce
from benchmarks.rows import Row, folder_of

PROGRAMS = {"genrec": genrec.commands.main, "seqrec": seqrec.commands.main}


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
