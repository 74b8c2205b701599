"""Trainings that are told to stop, in processes of their own: what is kept, the exit code, and that they go on."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stopped_commands import contents, ran, stopped, stopped_after

from recbase.data.catalog import load_dataset
from recbase.store.runs import load_run
from seqrec import MODELS
from seqrec.cli import main
from seqrec.models.sasrec import SASRec

SMALL = ["--dim", "16", "--ffn", "32", "--max-len", "8", "--patience", "0", "--quiet"]
CCFREC = ["--fusion-layers", "1", "--codebook-size", "8", "--code-levels", "2", "--pca", "16", "--code-type", "sasrec"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    load_dataset("synthetic", users=120, items=60).save(folder)
    return folder


def run(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def epochs(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_an_interrupted_retraining_leaves_the_run_and_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "sasrec", "--data", data, "--out", out, *SMALL]
    run(*words, "--epochs", 1)
    before = contents(out)
    history = out / "training" / "history.jsonl"

    def has_validated() -> bool:
        return history.is_file() and bool(history.read_text())

    done = stopped(signal.SIGTERM, has_validated, "seqrec", *words, "--epochs", 4000)
    assert done.returncode == 143
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert f"kept in {out / 'training' / 'checkpoint'}, and the run in {out} stays as it was; go on with: " in said
    assert contents(out) == before
    run("evaluate", out, "--json")
    reached = json.loads((out / "training" / "checkpoint" / "checkpoint.json").read_text())["loop"]["epoch"]
    said_words = shlex.split(said.partition("go on with: ")[2])
    assert said_words[:3] == ["python", "-m", "seqrec.cli"]
    again = [str(reached + 1) if word == "4000" else word for word in said_words[3:]]  # it would take long
    run(*again)
    assert epochs(out) == list(range(1, reached + 2))
    assert load_run(out, MODELS).manifest["training"]["epochs"] == reached + 1
    assert not (out / "training").exists()


def test_an_interrupted_stage_is_never_a_complete_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "ccfrec", "--data", data, "--out", tmp_path / "run", *SMALL, *CCFREC, "--epochs", 1]
    steps, forward = [], SASRec.forward

    def interrupted(self: SASRec, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return forward(self, batch)

    monkeypatch.setattr(SASRec, "forward", interrupted)
    said = run(*words, code=130)
    (stage,) = (tmp_path / "cache").glob("sasrec-*")
    assert f"kept in {stage / 'checkpoint'}; go on with:" in said
    assert not (stage / "config.json").exists()
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.undo()
    run(*words, "--resume")
    made = load_run(stage, MODELS)
    assert made.metrics["stopped"] != "signal"
    assert made.metrics["steps"] == made.metrics["epochs"]  # 120 users are one step, gone on with where it stopped
    assert load_run(tmp_path / "run", MODELS).manifest["content"]["code_type"] == "sasrec"


def test_what_was_changed_is_named_as_it_was_typed(data: Path, tmp_path: Path) -> None:
    words = ["train", "sasrec", "--data", data, "--out", tmp_path, *SMALL, "--epochs", 1]
    run(*words)
    for change, said in (
        (["--form", "prefix"], "made with --form all, this run has --form prefix"),
        (["--dim", 32], "made with --dim 16, this run has --dim 32"),
        (["--lr", 0.5], "made with --lr 0.001, this run has --lr 0.5"),
        (["--train-share", 0.5], "made with --train-share 1.0, this run has --train-share 0.5"),
        (["--form", "prefix", "--seed", 3], "made with --seed 0 and --form all, this run has --seed 3 and --form"),
    ):
        assert said in run(*words, "--resume", *change, code=1)


def test_an_option_of_the_content_is_named(data: Path, tmp_path: Path) -> None:
    plain = [*CCFREC[:-2], "--mask-share", 0.5]
    words = ["train", "ccfrec", "--data", data, "--out", tmp_path / "run", *SMALL, *plain, "--epochs", 1]
    run(*words)
    said = run(*words, "--code-method", "rq", "--resume", code=1)
    assert "made with --code-method pq, this run has --code-method rq" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("model", [["sasrec"], ["ccfrec", *CCFREC], ["s3rec", "--pretrain-epochs", "30"]])
def test_signals_at_any_moment_lose_nothing(model: list[str], number: int, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["seqrec", "train", *model, "--data", data, "--out", out, *SMALL]
    ran(*words, "--epochs", 1)
    before = contents(out)
    for moment in range(1, 9):
        for stage in (tmp_path / "cache").glob("sasrec-*"):
            (stage / "config.json").unlink(missing_ok=True)  # to be made again
        resume = ["--resume"] if (out / "training").exists() else []
        done = stopped_after(number, 1.5 * moment, *words, "--epochs", 40_000, *resume)
        assert done.returncode in (CODES[signal.Signals(number)], -number), done.stderr  # or before it was Python's
        assert "Traceback" not in done.stderr
        assert contents(out) == before
        load_run(out, MODELS)
        for line in (out / "history.jsonl").read_text().splitlines():
            json.loads(line)
    ran(*words, "--epochs", 2)  # anew
    assert epochs(out) == [1, 2]
    assert not (out / "training").exists()
