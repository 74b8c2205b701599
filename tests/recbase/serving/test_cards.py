"""The model card of a run says what the folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from generators import FAST

import genrec
import seqrec
from recbase.serving.cards import write_run_card


def front_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


def test_the_card_of_a_ranking_model(tmp_path: Path) -> None:
    model = seqrec.train("transitions", "synthetic", out=tmp_path / "run", cache=tmp_path)
    path = write_run_card(tmp_path / "run", "seqrec", "owner/walks", "apache-2.0")
    assert path is not None
    text = path.read_text()
    front = front_of(text)
    assert front["library_name"] == "semtok"
    assert front["license"] == "apache-2.0"
    assert {"recommender-systems", "transitions"} <= set(front["tags"])
    (index,) = front["model-index"]
    found = {row["name"]: row["value"] for result in index["results"] for row in result["metrics"]}
    assert found["ndcg@10"] == pytest.approx(model.metrics["test"]["ndcg@10"], abs=1e-6)
    assert found["ndcg@10 (seen items left out)"] == pytest.approx(model.metrics["test_masked"]["ndcg@10"], abs=1e-6)
    assert f"{model.metrics['test']['recall@10']:.4f}" in text
    assert "seqrec.load('owner/walks')" in text
    assert "leave-last-out" in text
    assert "Licence" not in text
    assert seqrec.load(tmp_path / "run").metrics == model.metrics


def test_a_card_without_a_licence_says_so_and_a_final_training_too(tmp_path: Path) -> None:
    seqrec.train("popularity", "synthetic", out=tmp_path / "run", cache=tmp_path, final=True)
    text = (write_run_card(tmp_path / "run", "seqrec") or tmp_path).read_text()
    assert "None is stated" in text
    assert "trained once more on all events" in text


def test_a_generators_card_tells_of_shared_codes(tmp_path: Path) -> None:
    options = dict(zip(*[iter(FAST["tiger"])] * 2, strict=True))
    given: dict[str, Any] = {name[2:].replace("-", "_"): int(value) for name, value in options.items()}
    given |= {"epochs": 1, "valid_users": 30, "beams": 20, "valid_beams": 10, "cache": tmp_path, "quiet": True}
    apart = genrec.TIGER.train("synthetic", out=tmp_path / "apart", **given)
    text = (write_run_card(tmp_path / "apart", "genrec") or tmp_path).read_text()
    assert ("Every item has codes of its own" in text) == (apart.metrics["colliding_items"] == 0)
    assert "generative-retrieval" in front_of(text)["tags"]
    body = json.loads((tmp_path / "apart" / "config.json").read_text())
    metrics = tmp_path / "apart" / body["files"]["metrics.json"]["file"]
    shared = json.loads(metrics.read_text()) | {"colliding_items": 7}
    other = seqrec.train("popularity", "synthetic", out=tmp_path / "other", cache=tmp_path)
    assert "colliding_items" not in other.metrics
    from recbase.serving.cards import _codes

    assert "7 of 300 items share their codes" in _codes(shared, {"items": 300})


def test_an_export_keeps_its_own_readme(tmp_path: Path) -> None:
    from recbase.store.runs import load_run
    from seqrec.serving import export_run

    seqrec.SASRec.train("synthetic", out=tmp_path / "run", cache=tmp_path, epochs=1, dim=8, quiet=True)
    export_run(load_run(tmp_path / "run", seqrec.MODELS), tmp_path / "out", faiss=False, onnx=False)
    before = (tmp_path / "out" / "README.md").read_text()
    assert write_run_card(tmp_path / "out", "seqrec") is None
    assert (tmp_path / "out" / "README.md").read_text() == before
