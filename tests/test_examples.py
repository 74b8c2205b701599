"""The scripts of examples/ run as they stand, on small data, and stay short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *words: str, cwd: Path) -> str:
    """Standard output of a script."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_shop_gets_a_table_and_a_service(tmp_path):
    pytest.importorskip("fastapi", reason="serving needs the extra [serve]")
    said = run("shop", "--out", "made", "--epochs", "1", cwd=tmp_path)
    table = pl.read_csv(tmp_path / "made/recommendations.csv")
    assert table.height == 10 * table["user"].n_unique()
    assert table["user"][0].startswith("c")
    assert said.count("'item': 's") == 3  # the answer of the service


def test_a_researcher_compares_an_own_model(tmp_path):
    said = run("researcher", "--epochs", "1", "--seeds", "2", cwd=tmp_path)
    assert "decay 1 validation" in said
    table = said.partition("decay 1 validation")[2]
    assert "transitions" in table
    assert "decay" in table
    assert "±" in table


def test_another_project_encodes_with_numpy_alone(tmp_path):
    run("other_project", "fit", "tokenizer", cwd=tmp_path)
    said = run("other_project", "use", "tokenizer", cwd=tmp_path)
    assert said.rstrip().endswith("NumPy and safetensors alone")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) < 80
