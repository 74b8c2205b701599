"""Exported runs: the faiss index and the ONNX scorer recommend what the model recommends."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from small_models import ITEMS, TRAINED, build, trained

import seqrec
from recbase.data.sequences import Histories
from recbase.evaluate.ranking import topk
from recbase.store.runs import load_run, save_run
from seqrec import MODELS
from seqrec.cli import main
from seqrec.export import FaissItems, OnnxScorer, write_faiss, write_onnx
from seqrec.serving import export_run

LISTS = [[3, 4, 5, 6, 7], [9], [2, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
NOT_ONNX = {
    "bpr": "folding a stranger in solves a linear system",
    "mmsr": "the number of nodes of its graphs depends on the histories",
}
NO_VECTORS: dict[str, str] = {
    "din": "an item's score is a network of history and item",
    "missrec": "text and image are mixed for each user and item",
}


def exported(name, tmp_path):
    save_run(tmp_path / "run", name, build(name), pl.DataFrame({"item_id": [f"i{n}" for n in range(ITEMS)]}), {})
    return load_run(tmp_path / "run", MODELS)


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in NO_VECTORS])
def test_the_index_recommends_what_the_model_does(name, tmp_path):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    model, _ = trained(name)
    model = model.tabulated() if hasattr(model, "tabulated") else model
    write_faiss(model)(tmp_path / "items.faiss")
    histories = Histories.from_lists(LISTS)
    index = FaissItems(tmp_path / "items.faiss")
    for mask_seen in (False, True):
        found = index.topk(model, histories, 6, mask_seen)
        expected = topk(model.scorer(), histories, 6, mask_seen)
        assert np.array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_an_index_shorter_than_the_list_ends_with_no_item(tmp_path):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    model, _ = trained("sasrec")
    write_faiss(model)(tmp_path / "items.faiss")
    found = FaissItems(tmp_path / "items.faiss").topk(model, Histories.from_lists([[1, 2, 3]]), ITEMS, True)
    assert found.items[0, -3:].tolist() == [-1, -1, -1]
    assert not set(found.items[0]) & {1, 2, 3}
    with pytest.raises(ValueError, match="faiss cannot make the index 'nonsense' of"):
        write_faiss(model, "nonsense")


@pytest.mark.parametrize(
    "factory",
    [
        "",
        "PQ7",
        "IVF1024,Flat",
        "PQ8",
        "LSH",
        "PCA999,Flat",
        "IVF99999999999,Flat",
        "HNSW0",
        "HNSW1",
        "NSG01",
        "IVF0,Flat",
        "IVF4_HNSW1,Flat",
        "PCA0,Flat",
        "SQ0",
    ],
)
def test_an_index_that_does_not_fit_is_one_sentence_and_the_rest_stays(tmp_path, factory):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    run = exported("sasrec", tmp_path)
    written, notes = export_run(run, tmp_path / "out", factory=factory, onnx=False)
    assert "model.safetensors" in written
    assert "items.faiss" not in written
    (note,) = notes
    assert f"faiss cannot make the index {factory!r} of {ITEMS} vectors" in note
    assert "what fits: Flat, HNSW32, IVF<n>,Flat with n of at most" in note
    assert not any(trace in note for trace in ("::", ".cpp", "Error"))
    with pytest.raises(ValueError, match="the rest of the export is in"):
        export_run(run, tmp_path / "asked", faiss=True, factory=factory, onnx=False)
    assert (tmp_path / "asked" / "config.json").is_file()


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IDMap2,Flat", "PQ2x4", "IVF2,Flat"])
def test_an_index_with_ids_of_its_own_or_few_items_answers(tmp_path, factory):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    model, _ = trained("sasrec")
    write_faiss(model, factory)(tmp_path / "items.faiss")
    found = FaissItems(tmp_path / "items.faiss").topk(model, Histories.from_lists(LISTS), 3, False)
    if "Flat" in factory and "IVF" not in factory:
        assert np.array_equal(found.items, topk(model.scorer(), Histories.from_lists(LISTS), 3, False).items)
    assert found.items.min() >= 1
    assert found.items.max() <= ITEMS


def test_damaged_files_are_named(tmp_path):
    for package in ("faiss", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extras faiss and onnx")
    (tmp_path / "x").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="x is not a readable faiss index: it has 7 bytes"):
        FaissItems(tmp_path / "x")
    with pytest.raises(ValueError, match="x is not a readable ONNX file: truncated or damaged"):
        OnnxScorer(tmp_path / "x")


@pytest.mark.slow  # seconds a model; the command's test exports one
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in NOT_ONNX])
def test_the_onnx_scorer_scores_as_the_model_does(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    model, _ = trained(name)
    model = model.tabulated() if hasattr(model, "tabulated") else model
    write_onnx(model)(tmp_path / "scorer.onnx")
    scorer, ours = OnnxScorer(tmp_path / "scorer.onnx"), model.scorer()
    assert (scorer.n_items, scorer.max_len) == (ITEMS, ours.max_len)
    for lists in (LISTS, [[5, 1]], [[7]] * 5):
        items, lengths = (
            torch.from_numpy(part) for part in Histories.from_lists(lists).padded(slice(None), ours.max_len)
        )
        expected = ours(items, lengths)
        largest = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(scorer(items, lengths), expected, rtol=0, atol=2e-5 * largest)
    found = topk(scorer, Histories.from_lists(LISTS), 6, mask_seen=True)
    assert np.array_equal(found.items, topk(ours, Histories.from_lists(LISTS), 6, mask_seen=True).items)


def test_the_command_exports_and_recommends_with_every_engine(tmp_path):
    for package in ("faiss", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extras faiss and onnx")
    exported("sasrec", tmp_path)
    run = CliRunner().invoke(main, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "items.faiss" in run.output
    assert "scorer.onnx" in run.output
    answers = []
    for engine in ("model", "faiss", "onnx"):
        words = ["recommend", str(tmp_path / "out"), "--history", "i3,i4", "-k", "5", "--engine", engine, "--json"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout)["items"])
    for other in answers[1:]:
        assert [row["item_id"] for row in other] == [row["item_id"] for row in answers[0]]
        np.testing.assert_allclose(
            [row["score"] for row in other], [row["score"] for row in answers[0]], rtol=1e-4, atol=1e-6
        )
    refused = CliRunner().invoke(main, ["recommend", str(tmp_path / "run"), "--history", "i3", "--engine", "onnx"])
    assert refused.exit_code == 1
    assert "has no scorer.onnx; seqrec export RUN --out FOLDER writes one" in refused.output


@pytest.mark.parametrize("onnx", [True, False])
def test_the_example_of_an_export_runs(tmp_path, onnx):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra onnx")
    out = tmp_path / "out"
    export_run(exported("sasrec", tmp_path), out, faiss=False, onnx=onnx)
    script = str(out / "example.py")
    code = f"import runpy, sys; sys.argv = ['x', 'i3', 'i9']; runpy.run_path({script!r}, None, '__main__')"
    forbidden = "; assert not {'torch', 'seqrec', 'recbase'} & set(sys.modules)" if onnx else ""
    done = subprocess.run([sys.executable, "-c", code + forbidden], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = seqrec.load(out).recommend(histories=[["i3", "i9"]], k=10)["item"].to_list()
    if onnx:
        assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == expected
    else:
        assert all(f" {item} " in done.stdout for item in expected[:3])
    assert "- `scorer.onnx`" in (out / "README.md").read_text() or not onnx


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    run = exported("sasrec", tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    written, notes = export_run(run, tmp_path / "out")
    assert "items.faiss" not in written
    assert "model.safetensors" in written
    assert notes == [
        "no items.faiss: this needs the package faiss: pip install 'semtok[faiss]'",
        "no scorer.onnx: this needs the package onnx: pip install 'semtok[onnx]'",
    ]
    with pytest.raises(ImportError, match=r"pip install 'semtok\[onnx\]'"):
        export_run(run, tmp_path / "other", onnx=True)


@pytest.mark.slow
def test_models_that_onnx_cannot_express_are_refused():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra onnx")
    for name in NOT_ONNX:
        with pytest.raises(ValueError, match="computes something that ONNX cannot express"):
            write_onnx(trained(name)[0])


def test_counts_are_not_exported(tmp_path):
    run = exported("popularity", tmp_path)
    with pytest.raises(ValueError, match="holds a popularity, which has no item vectors to export"):
        export_run(run, tmp_path / "out")


def test_an_export_replaces_an_export_and_nothing_else(tmp_path):
    run = exported("sasrec", tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="run holds a trained run, which an export would replace: give another folder"):
        export_run(run, tmp_path / "run", faiss=False, onnx=False)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match=r"the config\.json there is none of ours and would be lost"):
        export_run(run, tmp_path / "hub", faiss=False, onnx=False)
    assert (tmp_path / "hub" / "config.json").read_text() == '{"model_type": "t5"}'
    first, _ = export_run(run, tmp_path / "out", faiss=False, onnx=False)
    second, _ = export_run(run, tmp_path / "out", faiss=False, onnx=False)
    assert first == second == [
        "README.md", "example.py", "item_vectors.safetensors", "items.parquet", "model.safetensors"
    ]  # fmt: skip
    trained_more = exported("sasrec", tmp_path / "again")
    torch.nn.init.normal_(next(trained_more.model.parameters()))
    export_run(trained_more, tmp_path / "out", faiss=False, onnx=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*first, "config.json"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_no_training_replaces_the_configuration_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    words = ["train", "popularity", "--data", "synthetic", "--out", str(tmp_path)]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "the config.json there is none of ours and would be lost; give another folder" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
