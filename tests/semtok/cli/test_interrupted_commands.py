"""Learned tokenizers that are told to stop: no folder, one sentence, the exit code of the signal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stopped_commands import contents, ran, stopped_after

import semtok
from recbase.data.catalog import load_dataset
from semtok.cli import main
from semtok.methods.autoencoder import Autoencoder

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
SMALL = ["--codebook-size", "8", "--quiet"]
ROOM = {"letter": ["--groups", "4"]}  # groups of two codes at least


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    load_dataset("synthetic", users=120, items=60).save(folder)
    return folder


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_an_interrupted_fit_leaves_the_tokenizer_that_stood_there(
    number: int, name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--method", "rqvae", "--data", str(data), "--out", str(tmp_path / "codes"), *SMALL]
    assert CliRunner().invoke(main, [*words, "--steps", "3"]).exit_code == 0
    before = contents(tmp_path / "codes")
    steps, forward = [], Autoencoder.forward

    def interrupted(self: Autoencoder, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == 3:
            signal.raise_signal(number)
        return forward(self, batch)

    monkeypatch.setattr(Autoencoder, "forward", interrupted)
    result = CliRunner().invoke(main, [*words, "--steps", "50"])
    assert result.exit_code == CODES[signal.Signals(number)]
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"Interrupted by {name}: what was complete is kept, nothing is half-written; start again")
    assert contents(tmp_path / "codes") == before
    assert len(steps) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("method", ["rqvae", "letter", "behavior"])
def test_signals_at_any_moment_leave_the_tokenizer(
    method: str, number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "semtok",
        "fit",
        "--method",
        method,
        "--data",
        data,
        "--out",
        tmp_path / "codes",
        *SMALL,
        *ROOM.get(method, []),
    ]
    ran(*words, "--steps", 20)
    before = contents(tmp_path / "codes")
    for moment in range(1, 7):
        done = stopped_after(number, 1.5 * moment, *words, "--steps", 10**6, "--max-seconds", "none")
        assert done.returncode in (CODES[signal.Signals(number)], -number), done.stderr
        assert "Traceback" not in done.stderr
        assert contents(tmp_path / "codes") == before
        semtok.load(tmp_path / "codes")


@pytest.mark.slow
def test_reports_and_encodings_end_by_the_signal(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran("semtok", "fit", "--method", "rq", "--data", data, "--out", tmp_path / "codes", *SMALL)
    for command in (["report", tmp_path / "codes"], ["embed", "--data", data, "--out", tmp_path / "vectors"]):
        for number in (signal.SIGINT, signal.SIGTERM):
            done = stopped_after(number, 0.9, "semtok", *command)
            assert done.returncode in (0, CODES[number], -number)
            assert "Traceback" not in done.stderr or done.returncode == -number
