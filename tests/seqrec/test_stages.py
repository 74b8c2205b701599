"""Stages: made once, also when several commands want the same one at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recbase.data.catalog import load_dataset
from recbase.store.runs import load_run
from recbase.train.loop import TrainConfig
from seqrec import MODELS
from seqrec.stages import stage, train_network


def test_of_two_commands_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    built: list[int] = []
    begun = threading.Event()

    def build(folder: Path) -> None:
        built.append(threading.get_ident())
        begun.set()
        time.sleep(0.3)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(stage, tmp_path, "din", {"seed": 0}, "config.json", build)
        assert begun.wait(10)
        second = pool.submit(stage, tmp_path, "din", {"seed": 0}, "config.json", build)
        assert first.result(20) == second.result(20)
    assert len(built) == 1
    assert stage(tmp_path, "din", {"seed": 1}, "config.json", build) != first.result()
    assert len(built) == 2


def test_a_stage_that_fails_is_begun_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no text")

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    with pytest.raises(RuntimeError, match="no text"):
        stage(tmp_path, "din", {}, "config.json", fail)
    assert (stage(tmp_path, "din", {}, "config.json", build) / "config.json").is_file()


def test_a_recipe_named_from_python_is_applied_and_what_was_given_is_recorded_beside_it(tmp_path: Path) -> None:
    data = load_dataset("synthetic", users=60, items=40)
    config = TrainConfig(epochs=1, quiet=True)
    train_network("sasrec", data, tmp_path / "paper", {"dim": 8}, config, None, "paper", {})
    run = load_run(tmp_path / "paper", MODELS)
    assert run.manifest["arguments"]["loss"] == "bce"
    assert run.manifest["arguments"]["norm"] == "pre-query"
    assert run.manifest["training"]["beta2"] == 0.98
    assert run.manifest["training"]["batch_size"] == 128
    for recorded in (run.manifest, run.metrics):
        assert recorded["recipe"] == "paper"
        assert recorded["changed"] == {"dim": 8}
    train_network("sasrec", data, tmp_path / "none", {"dim": 8}, config, "all", None, {})
    plain = load_run(tmp_path / "none", MODELS)
    assert plain.metrics["recipe"] is None
    assert plain.manifest["training"]["beta2"] == 0.999
    with pytest.raises(ValueError, match="recipe 'papier' is unknown for SASRec; known: default, original, paper"):
        train_network("sasrec", data, tmp_path / "no", {}, config, "all", "papier", {})
    assert not (tmp_path / "no").exists()
