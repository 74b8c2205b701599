"""Trainings from Python: recipes that are named are applied, and what differs from them is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbase.data.catalog import load_dataset
from recbase.store.runs import load_run
from recbase.train.loop import TrainConfig
from seqrec import MODELS
from seqrec.training import train_network


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
