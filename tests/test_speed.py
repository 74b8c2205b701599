"""The paired runner: rounds alternate, ratios are of one round, memory is that of the child alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import speed, tables
from benchmarks.results import append, read


def given(**changes: Any) -> argparse.Namespace:
    """Arguments as the command line makes them."""
    usual = {"rounds": 1, "repeats": 1, "threads": 1, "size": 300, "device": "cpu"}
    return argparse.Namespace(**usual | changes)


def told(order: list[str]) -> Any:
    """Measures a side as the number of the call says, and writes down whose turn it was."""

    def run(task: str, side: str, size: int, _: argparse.Namespace) -> dict[str, float]:
        order.append(side)
        return {"seconds": float(len(order)), "peak_mib": 100.0 + len(order)}

    return run


def test_rounds_alternate_and_the_ratio_is_the_median_of_those_of_a_round() -> None:
    order: list[str] = []
    found = speed.compared("codes-engine", given(rounds=3), told(order))
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert found["ratios"] == [2.0, 0.75, 1.2]
    assert found["ratio"] == pytest.approx(1.2)
    assert found["ours"] == {"seconds": 4.0, "peak_mib": 104.0}
    assert found["peer"] == {"seconds": 3.0, "peak_mib": 103.0}


def test_a_tiny_task_is_measured_in_processes_whose_memory_is_their_own(tmp_path: Path) -> None:
    held = np.ones(600 << 17)  # 600 MiB: a child that began at the peak of this process would say more
    speed.main(["codes-engine", "--rounds", "1", "--repeats", "1", "--threads", "1", "--size", "300", "--out",
                str(tmp_path / "out.jsonl")])  # fmt: skip
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert held.nbytes / 2**20 == 600
    for side in ("ours", "peer"):
        assert found[side]["seconds"] > 0
        assert 50 < found[side]["peak_mib"] < speed.peak_mib() - 300
    assert found["ratio"] == pytest.approx(found["peer"]["seconds"] / found["ours"]["seconds"])


@pytest.mark.parametrize("side", ["ours", "peer"])
@pytest.mark.parametrize("task", ["ccfrec-step", "jpq-step", "code-search"])
def test_works_of_this_package_run(task: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.code_search

    small = np.random.default_rng(0).standard_normal((600, benchmarks.code_search.WIDTH)).astype(np.float32)
    monkeypatch.setattr(benchmarks.code_search, "vectors_around", lambda centres, count, rng: small[:count])
    assert speed.worked(task, side, 300, "cpu", 1)["seconds"] > 0


def test_rows_are_records_that_the_table_shows(tmp_path: Path) -> None:
    found = speed.compared("codes-engine", given(rounds=3), told([]))
    append(speed.records([found], "one machine", "made up"), tmp_path)
    (one,) = read("speed", tmp_path)
    assert one["metrics"]["times faster"]["mean"] == pytest.approx(1.2)
    row = tables.TABLES["speed/made"].lines(tmp_path)[2]
    assert row.startswith("| codes-engine, 300 items, 1 threads, cpu | 4,000.0 | 3,000.0 | 1.20 | 104 | 103 | --engine")
    assert "| 2.0 0.75 1.2 |" in row


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nothing"], "nothing is unknown"), (["pq", "--device", "cuda"], "pq is measured on the CPU alone")],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        speed.main(words)
    assert message in capsys.readouterr().err


def test_a_side_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"codes-engine, ours: .*items"):
        speed.child("codes-engine", "ours", -5, given())
