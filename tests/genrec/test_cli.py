"""The command genrec as a user meets it: all models and stages, resume, evaluate, recommend, export, refusals."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from generators import FAST, T5, TINY

from genrec import MODELS, REGISTRY
from genrec.cli import main
from genrec.search.logits import TrieLogitsProcessor
from genrec.search.trie import CodeTrie
from recbase.data.catalog import load_dataset
from recbase.store.runs import load_run
from seqrec.models.din import DIN


def run(*words: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def tiger(root: Path) -> Path:
    run("train", "tiger", "--data", "synthetic", "--out", root / "tiger", *TINY, *FAST["tiger"])
    return root / "tiger"


def test_every_model_has_a_fast_setting() -> None:
    assert set(FAST) == set(REGISTRY)


@pytest.mark.parametrize("name", FAST)
def test_every_model_runs_all_its_stages_and_its_run_is_movable(name: str, root: Path, tiger: Path) -> None:
    out = root / name
    if name != "tiger":
        run("train", name, "--data", "synthetic", "--out", out, *TINY, *FAST[name])
    loaded = load_run(out, MODELS)
    metrics = loaded.metrics
    assert metrics["test"]["users"] == load_dataset("synthetic").n_users
    assert metrics["test"]["invalid"] == metrics["test"]["duplicates"] == 0
    assert metrics["colliding_items"] == 0
    assert metrics["protocol"]["n_best"] == 20
    moved = root / "elsewhere" / name
    moved.parent.mkdir(exist_ok=True)
    out.rename(moved)
    again = json.loads(run("evaluate", moved, "--beams", "20", "--json").output)
    moved.rename(out)
    assert again["test"] == metrics["test"]
    assert again["valid"] == metrics["valid"]


def test_stages_are_made_once(root: Path, tiger: Path) -> None:
    folders = {path: path.stat().st_mtime_ns for path in (root / "cache").glob("*/semtok.json")}
    assert folders
    run("train", "tiger", "--data", "synthetic", "--out", root / "again", *TINY, *FAST["tiger"])
    assert {path: path.stat().st_mtime_ns for path in folders} == folders
    first, second = (load_run(root / name, MODELS).metrics["test"] for name in ("tiger", "again"))
    assert first == second  # same seed, same metrics


@pytest.mark.parametrize(
    ("options", "size"), [(["--form", "all"], 64), (["--form", "all", "--batch-size", "128"], 128), ([], 256)]
)
def test_a_step_has_fewer_users_where_each_has_several_targets(
    options: list[str], size: int, root: Path, tiger: Path, tmp_path: Path
) -> None:
    codes = load_run(tiger, MODELS).manifest["codes_folder"]
    run("train", "tiger", "--data", "synthetic", "--codes", codes, "--out", tmp_path / "run", *TINY, *T5, *options)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["batch_size"] == size


@pytest.mark.parametrize(("typed", "form"), [([], "all"), (["--form", "prefix"], "prefix")])
def test_a_recipe_holds_for_what_is_not_typed(typed: list[str], form: str, tiger: Path, tmp_path: Path) -> None:
    codes = load_run(tiger, MODELS).manifest["codes_folder"]
    common = ["--data", "synthetic", "--codes", codes, "--out", tmp_path / "run", *TINY, *T5]
    run("train", "tiger", "--recipe", "small", *common, *typed)
    manifest = json.loads((tmp_path / "run" / "config.json").read_text())
    training, arguments = manifest["training"], manifest["arguments"]
    assert (manifest["recipe"], manifest["form"], arguments["causal_encoder"]) == ("small", form, form == "all")
    assert (arguments["dim"], arguments["normalize"]) == (16, "children")
    assert (training["schedule"], training["batch_size"], training["epochs"]) == ("cosine", 128, 1)


def test_resuming_is_exact(root: Path, tiger: Path) -> None:
    codes = load_run(tiger, MODELS).manifest["codes_folder"]
    common = ["--data", "synthetic", "--codes", codes, *TINY[2:], *T5]
    run("train", "tiger", *common, "--epochs", "3", "--out", root / "straight")
    run("train", "tiger", *common, "--epochs", "2", "--out", root / "interrupted")
    run("train", "tiger", *common, "--epochs", "3", "--out", root / "interrupted", "--resume")
    straight, resumed = (load_run(root / name, MODELS) for name in ("straight", "interrupted"))
    assert straight.metrics["test"] == resumed.metrics["test"]
    for (name, ours), theirs in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)


def test_an_interrupted_first_stage_ends_the_command_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "prorec", "--data", "synthetic", *TINY, *FAST["prorec"]]
    steps = 0
    forward = DIN.forward

    def interrupted(self: DIN, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(DIN, "forward", interrupted)
    run(*words, "--out", tmp_path / "one" / "run", code=143)
    assert steps == 3
    assert not (tmp_path / "one" / "run" / "config.json").exists()
    assert not list((tmp_path / "one" / "cache").glob("din-*/config.json"))
    monkeypatch.undo()
    for root in ("one", "straight"):
        run(*words, "--out", tmp_path / root / "run")
    one, straight = (load_run(tmp_path / root / "run", MODELS).metrics["test"] for root in ("one", "straight"))
    assert one == straight


def test_recommend_takes_and_gives_raw_ids(tiger: Path) -> None:
    ids = load_dataset("synthetic").item_ids.cast(str).to_list()
    result = run("recommend", tiger, "--history", f"{ids[3]},nonsense,{ids[8]}", "-k", 5, "--json")
    answer = json.loads(result.stdout)
    assert answer["unknown"] == ["nonsense"]
    found = [str(row["item_id"]) for row in answer["items"]]
    assert len(set(found)) == 5
    assert set(found) <= set(ids) - {ids[3], ids[8]}
    scores = [row["score"] for row in answer["items"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_transformers_generates_the_same_items_from_an_exported_run(
    normalize: Literal["vocabulary", "children"], tiger: Path, tmp_path: Path
) -> None:
    from transformers import T5ForConditionalGeneration

    run("export", tiger, "--out", tmp_path / "t5")
    written = (tmp_path / "t5" / "tokens.parquet", tmp_path / "t5" / "config.json")
    tokens, config = pl.read_parquet(written[0]), json.loads(written[1].read_text())["semantic_ids"]
    opened, theirs = load_run(tiger, MODELS), T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
    assert tokens["item_id"].to_list() == opened.items["item_id"].to_list()
    assert config["normalize"] == "vocabulary"
    opened.model.normalize = normalize
    table = torch.from_numpy(tokens.select(pl.selectors.starts_with("token_")).to_numpy()).long()

    histories = torch.tensor([[5, 9, 2, 0], [7, 0, 0, 0], [1, 2, 3, 4]])
    lengths = (histories > 0).sum(1)
    expected = opened.model.search(histories, lengths, beams=20, n_best=20)
    real = (histories > 0).repeat_interleave(table.shape[1], 1)
    source = torch.where(real, table[histories - 1].flatten(1), 0)
    vocabulary = [theirs.config.vocab_size] * table.shape[1]
    levels = [torch.arange(size) + first for first, size in zip(config["first_tokens"], config["sizes"], strict=True)]
    trie = CodeTrie.from_codes(table, sizes=vocabulary)
    processor = TrieLogitsProcessor(trie, 1, theirs.config.eos_token_id, 20, levels=levels, normalize=normalize)
    found = theirs.generate(
        source,
        attention_mask=real.long(),
        logits_processor=[processor],
        num_beams=20,
        num_return_sequences=20,
        max_new_tokens=len(levels),
        min_new_tokens=len(levels),
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    torch.testing.assert_close(found.sequences_scores.view(3, 20), expected.scores, atol=1e-4, rtol=0)
    same = trie.find(found.sequences[:, 1:]).view(3, 20) == expected.items
    ties = expected.scores.diff(dim=1).abs() < 1e-5  # equal scores may stand in another order
    assert (same | torch.cat([ties, ties[:, :1]], 1) | torch.cat([ties[:, :1], ties], 1)).all()
    assert same.float().mean() > 0.9
    processor = TrieLogitsProcessor(trie, 1, theirs.config.eos_token_id, 20, levels=levels, normalize=normalize)
    to_the_end = theirs.generate(  # as the folder's generation_config.json says: up to the end token
        source,
        attention_mask=real.long(),
        logits_processor=[processor],
        return_dict_in_generate=True,
        output_scores=True,
    )
    torch.testing.assert_close(to_the_end.sequences_scores.view(3, 20), expected.scores, atol=1e-4, rtol=0)
    assert (to_the_end.sequences[:, len(levels) + 1] == theirs.config.eos_token_id).all()
    again = trie.find(to_the_end.sequences[:, 1 : len(levels) + 1]).view(3, 20)
    assert (again == trie.find(found.sequences[:, 1:]).view(3, 20)).float().mean() > 0.9


def test_only_what_transformers_can_be_is_exported(root: Path, tiger: Path, tmp_path: Path) -> None:
    for name, message in (("letter", "the encoder is causal"), ("prorec", "which is no T5 of transformers")):
        if not (root / name).exists():
            run("train", name, "--data", "synthetic", "--out", root / name, *TINY, *FAST[name])
        assert message in run("export", root / name, "--out", tmp_path / "out", code=1).output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert "is not an empty folder" in run("export", tiger, "--out", tmp_path / "full", code=1).output
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]


def test_exact_evaluation_and_comparison(root: Path, tiger: Path) -> None:
    exact = json.loads(run("evaluate", tiger, "--exact", "--beams", "20", "--json").output)
    assert exact["protocol"]["search"] == "exact"
    assert exact["test"]["recall@20"] >= 0
    compared = json.loads(run("compare", tiger, tiger, "--json").output)
    assert compared


def test_list_names_every_model() -> None:
    listed = json.loads(run("list", "--json").output)
    assert [row["name"] for row in listed] == list(REGISTRY)
    assert all(row["paper"] and row["codes"] for row in listed)
    assert [row["name"] for row in listed if "paper" not in row["recipes"]] == ["marius"]


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["train", "word2vec"], "unknown model 'word2vec'", 2),
        (["train", "tiger", "--levels", "0", "--data", "synthetic"], "--levels must be at least 1, got 0", 2),
        (["train", "tiger", "--codes", "nowhere", "--data", "synthetic"], "nowhere", 1),
        (
            ["train", "tiger", "--search-batch", "0", "--data", "synthetic"],
            "--search-batch must be at least 1, got 0",
            2,
        ),
        (["evaluate", "nowhere"], "nowhere", 1),
    ],
)
def test_refusals(words: list[str], message: str, code: int, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")] if words[0] == "train" and code == 1 else []
    assert message in run(*words, *out, code=code).output
    assert not (tmp_path / "out").exists()


def test_codes_of_other_items_are_refused(tiger: Path, tmp_path: Path) -> None:
    codes = load_run(tiger, MODELS).manifest["codes_folder"]
    result = run("train", "tiger", "--data", "journey", "--codes", codes, "--out", tmp_path / "out", code=1)
    assert "item" in result.output
