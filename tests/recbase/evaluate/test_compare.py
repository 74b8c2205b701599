"""Comparison of run folders: numbers, refusals that name both runs, table and figure."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from recbase.evaluate.compare import compare_runs, draw_comparison, print_comparison, print_metrics
from recbase.evaluate.metrics import user_values
from recbase.evaluate.ranking import Ranks
from recbase.evaluate.records import describe_protocol, metrics_record, ranks_file
from recbase.store.folder import save_folder

USERS = 400
RNG = np.random.default_rng(0)
WEAK = RNG.integers(1, 60, USERS).astype(np.int32)
STRONG = np.maximum(1, WEAK // 2).astype(np.int32)


def write_run(
    folder: Path,
    rank: np.ndarray,
    model: str = "sasrec",
    users: np.ndarray | None = None,
    hash: str = "0123456789abcdef",
    protocol: dict[str, Any] | None = None,
) -> Path:
    users = np.arange(len(rank)) if users is None else users
    masked = np.where(rank > 0, np.maximum(1, rank - 1), 0)
    ranks = Ranks(users, rank, masked, np.zeros_like(rank), np.ones_like(rank))
    about = {"name": "toy", "hash": hash, "users": 1000, "items": 60}
    metrics = metrics_record(model, about, protocol or describe_protocol("leave-last-out"), ranks)
    files = {
        "metrics.json": json.dumps(metrics).encode(),
        "ranks.parquet": ranks_file(ranks, pl.Series("user_id", [f"u{number}" for number in range(1000)])),
    }
    save_folder(folder, "config.json", "run", {"model": model}, files)
    return folder


def test_two_runs_are_compared_user_by_user(tmp_path: Path) -> None:
    shuffled = RNG.permutation(USERS)
    first = write_run(tmp_path / "a", WEAK, "pop")
    second = write_run(tmp_path / "b", STRONG[shuffled], "sasrec", users=shuffled)
    found = compare_runs([first, second], metric="recall@10")
    change = user_values("recall@10", STRONG) - user_values("recall@10", WEAK)
    assert [run.label for run in found.runs] == ["pop", "sasrec"]
    assert found.runs[0].test is None
    test = found.runs[1].test
    assert test is not None
    assert test.difference.mean == pytest.approx(change.mean())
    assert test.users == found.users == USERS
    assert found.runs[1].metrics["recall@10"] == pytest.approx((STRONG <= 10).mean())
    assert found.runs[1].interval.low < (STRONG <= 10).mean() < found.runs[1].interval.high
    assert found.runs[1].t_p == test.t_p < 1e-6
    assert json.loads(json.dumps(found.as_dict()))["runs"][1]["test"]["difference"]["mean"] > 0


def test_several_runs_are_corrected_by_holm_and_told_apart_by_folder(tmp_path: Path) -> None:
    small = WEAK.copy()
    small[:12] = 1
    ranks = {"weak": WEAK, "small": small, "strong": STRONG}
    found = compare_runs([write_run(tmp_path / name, rank) for name, rank in ranks.items()])
    assert [run.label for run in found.runs] == ["sasrec (weak)", "sasrec (small)", "sasrec (strong)"]
    raw = [run.test.t_p for run in found.runs[1:] if run.test]
    assert found.runs[1].t_p == pytest.approx(max(raw[0], 2 * min(raw)))
    assert found.runs[2].t_p == pytest.approx(2 * raw[1])


def test_one_run_alone_has_intervals_and_no_test(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / "a", WEAK)])
    assert len(found.runs) == 1
    assert found.runs[0].test is None
    assert found.runs[0].interval.low < found.runs[0].interval.mean


def test_policy_follows_the_runs_unless_it_is_chosen(tmp_path: Path) -> None:
    kept = write_run(tmp_path / "kept", WEAK)
    masked = write_run(tmp_path / "masked", WEAK, protocol=describe_protocol("leave-last-out", mask_seen=True))
    assert compare_runs([kept]).seen_items == "kept"
    assert compare_runs([masked]).seen_items == "masked"
    with pytest.raises(ValueError, match=r"kept was evaluated with seen_items 'kept' but .*masked with 'masked'"):
        compare_runs([kept, masked])
    both = compare_runs([kept, masked], mask_seen=True)
    assert both.runs[0].metrics == both.runs[1].metrics
    assert both.runs[0].metrics["recall@5"] == pytest.approx((np.maximum(1, WEAK - 1) <= 5).mean())


def test_users_that_one_run_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    part = np.arange(100)
    found = compare_runs([write_run(tmp_path / "a", WEAK), write_run(tmp_path / "b", STRONG[part], users=part)])
    assert (found.users, found.left_out) == (100, USERS - 100)
    assert found.runs[0].metrics["recall@5"] == pytest.approx((WEAK[:100] <= 5).mean())


def test_a_generator_with_short_lists_is_compared_as_far_as_they_go(tmp_path: Path) -> None:
    returned = np.where(STRONG <= 10, STRONG, 0)
    lists = write_run(tmp_path / "g", returned, "tiger", protocol=describe_protocol("leave-last-out", n_best=10))
    full = write_run(tmp_path / "r", STRONG, "sasrec")
    found = compare_runs([full, lists], metric="ndcg@10")
    assert found.runs[1].metrics["ndcg@10"] == found.runs[0].metrics["ndcg@10"]
    assert "ndcg@20" in found.runs[0].metrics
    assert "ndcg@20" not in found.runs[1].metrics
    with pytest.raises(ValueError, match="g returned lists of 10 items, too short for a metric at 20"):
        compare_runs([full, lists], metric="ndcg@20")


def test_refusals_name_both_runs(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", WEAK)
    other_data = write_run(tmp_path / "b", WEAK, hash="ffff")
    with pytest.raises(ValueError, match=r"a was evaluated on toy \(hash 0123456789ab\) but .*b on toy \(hash ffff\)"):
        compare_runs([first, other_data])
    other_split = write_run(tmp_path / "c", WEAK, protocol=describe_protocol("global-time"))
    with pytest.raises(ValueError, match=r"a was evaluated with split 'leave-last-out' but .*c with 'global-time'"):
        compare_runs([first, other_split])
    strangers = write_run(tmp_path / "d", WEAK, users=np.arange(USERS) + 500)
    with pytest.raises(ValueError, match=r"the runs .*a, .*d have no test user in common"):
        compare_runs([first, strangers])
    with pytest.raises(ValueError, match="metric 'auc' is unknown"):
        compare_runs([first], metric="auc")
    with pytest.raises(ValueError, match="there are no runs to compare"):
        compare_runs([])
    with pytest.raises(FileNotFoundError, match="nothing is not a folder"):
        compare_runs([first, tmp_path / "nothing"])


def test_a_run_without_its_protocol_is_refused(tmp_path: Path) -> None:
    files = {"metrics.json": b'{"model": "x"}', "ranks.parquet": b""}
    save_folder(tmp_path, "config.json", "run", {}, files)
    with pytest.raises(ValueError, match=r"metrics\.\w+\.json has no entry 'dataset', expected an object"):
        compare_runs([tmp_path])


def test_table_shows_numbers_and_the_correction(tmp_path: Path) -> None:
    out = io.StringIO()
    runs = [write_run(tmp_path / name, rank) for name, rank in (("a", WEAK), ("b", STRONG), ("c", STRONG))]
    print_comparison(compare_runs(runs), Console(file=out, width=40))  # too narrow: nothing may be cut short
    text = out.getvalue()
    assert f"toy: {USERS} users, seen items kept" in text
    assert f"{(STRONG <= 10).mean():.4f}" in text
    assert "p-values after Holm's correction for 2 runs" in text
    assert "<0.0001" in text


def test_metrics_table_has_a_row_for_each_policy(tmp_path: Path) -> None:
    out = io.StringIO()
    content = json.loads(next(write_run(tmp_path, WEAK).glob("metrics.*.json")).read_text())
    print_metrics({"SASRec": content}, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert any("SASRec" in line and "kept" in line and f"{(WEAK <= 5).mean():.4f}" in line for line in lines)
    assert any("masked" in line and f"{(WEAK <= 6).mean():.4f}" in line for line in lines)


def test_figure_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare_runs([write_run(tmp_path / "a", WEAK), write_run(tmp_path / "b", STRONG)])
    draw_comparison(found, tmp_path / "figures" / "compared.png")
    content = (tmp_path / "figures" / "compared.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5_000
    draw_comparison(compare_runs([tmp_path / "a"]), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5_000


def test_a_figure_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare_runs([write_run(tmp_path / "a", WEAK)])
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs matplotlib: install it with pip install 'semtok\[plots\]'"):
        draw_comparison(found, tmp_path / "x.png")
