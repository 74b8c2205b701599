"""Trainings into a run folder that may hold a finished run: what stands there at every moment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recbase.store.folder import save_folder
from recbase.store.locks import FolderBusyError
from recbase.train import attempts
from recbase.train.attempts import Attempt, attempt_at, gone_on_with
from recbase.train.interruption import Interrupted


def train(attempt: Attempt, text: str, first: bool = False) -> None:
    """What a training leaves while it is under way."""
    for stage in [attempt.folder, *([attempt.first_stage] if first else [])]:
        save_folder(stage / "checkpoint", "checkpoint.json", "training checkpoint", {"run": text}, {})
        (stage / "history.jsonl").write_text(text)


def finish(attempt: Attempt, text: str) -> None:
    with attempt.finishing():
        save_folder(attempt.out, "config.json", "run", {"model": text, "attempt": attempt.name}, {})


def trained(out: Path, text: str, first: bool = False) -> None:
    with attempt_at(out, "training") as attempt:
        train(attempt, text, first)
        finish(attempt, text)


def state(out: Path) -> tuple[str, str, str]:
    """Model, history and checkpoint of a run folder."""
    model = json.loads((out / "config.json").read_text())["model"]
    checkpoint = json.loads((out / "checkpoint" / "checkpoint.json").read_text())["run"]
    return model, (out / "history.jsonl").read_text(), checkpoint


def test_a_first_training_works_in_the_run_folder(tmp_path: Path) -> None:
    with attempt_at(tmp_path / "run", "training") as attempt:
        assert attempt.folder == tmp_path / "run"
        assert not attempt.holds()
        train(attempt, "one")
        assert attempt.holds()
        finish(attempt, "one")
    assert state(tmp_path / "run") == ("one", "one", "one")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint", "config.json", "history.jsonl"}


def test_a_finished_run_stays_until_the_new_one_is_done(tmp_path: Path) -> None:
    trained(tmp_path, "one", first=True)
    with attempt_at(tmp_path, "training") as attempt:
        train(attempt, "two")
        assert state(tmp_path) == ("one", "one", "one")
        finish(attempt, "two")
    assert state(tmp_path) == ("two", "two", "two")
    assert not (tmp_path / "pretraining").exists()  # the new training had no first stage
    assert not (tmp_path / "training").exists()


@pytest.mark.parametrize("call", range(6))
def test_a_crash_while_the_new_run_takes_its_place_is_made_good(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, "one")
    calls, replace = [], os.replace

    def crash(source: object, target: object) -> None:
        calls.append(source)
        if len(calls) > call:
            raise RuntimeError("killed")
        replace(source, target)  # type: ignore[arg-type]

    with attempt_at(tmp_path, "training") as attempt:
        train(attempt, "two", first=True)
        with monkeypatch.context() as patched:
            patched.setattr(attempts.os, "replace", crash)
            try:
                finish(attempt, "two")
            except RuntimeError:
                model = json.loads((tmp_path / "config.json").read_text())["model"]
                assert model in ("one", "two")  # whole, either way
    with attempt_at(tmp_path, "training", resume=True) as again:
        expected = "two" if json.loads((tmp_path / "config.json").read_text())["model"] == "two" else "one"
        assert state(tmp_path) == (expected,) * 3
        assert json.loads((again.folder / "checkpoint" / "checkpoint.json").read_text())["run"] == "two"


def test_resuming_goes_on_with_what_was_begun_last(tmp_path: Path) -> None:
    trained(tmp_path, "one")
    with attempt_at(tmp_path, "training") as attempt:
        save_folder(attempt.first_stage / "checkpoint", "checkpoint.json", "training checkpoint", {}, {})
    with attempt_at(tmp_path, "training", resume=True) as resumed:
        assert resumed.name == attempt.name
        assert not resumed.holds()  # not the old run's
        assert resumed.holds(resumed.first_stage)
    with pytest.warns(UserWarning, match="a training that was not finished"), attempt_at(tmp_path, "training") as anew:
        assert not anew.holds(anew.first_stage)


def test_a_finished_run_is_trained_further_from_a_copy(tmp_path: Path) -> None:
    trained(tmp_path, "one")
    with attempt_at(tmp_path, "training", resume=True) as attempt:
        assert attempt.folder == tmp_path / "training"
        assert attempt.holds()
        train(attempt, "further")
        assert state(tmp_path) == ("one", "one", "one")
        finish(attempt, "further")
    assert state(tmp_path) == ("further", "further", "further")


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    save_folder(tmp_path / "checkpoint", "checkpoint.json", "training checkpoint", {"run": "early"}, {})
    (tmp_path / "history.jsonl").write_text("early")
    with attempt_at(tmp_path, "training", resume=True) as attempt:  # one that was interrupted
        assert attempt.folder == tmp_path
        assert attempt.holds()
    save_folder(tmp_path, "config.json", "run", {"model": "early"}, {})
    with attempt_at(tmp_path, "training", resume=True) as attempt:  # one that was finished
        assert attempt.holds()
        assert state(tmp_path) == ("early", "early", "early")


def test_nothing_begun_is_nothing_to_resume(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="holds no checkpoint to resume; leave out --resume"),
        attempt_at(tmp_path / "above" / "run", "training", resume=True),
    ):
        pass
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["T5"]}')
    with pytest.raises(ValueError, match=r"config\.json"), attempt_at(tmp_path, "training"):
        pass
    assert json.loads((tmp_path / "config.json").read_text()) == {"architectures": ["T5"]}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_second_training_is_refused_at_once_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = (
        "import sys\nfrom recbase.store.locks import folder_lock\n"
        f"with folder_lock({str(tmp_path / 'run')!r}, 'training sasrec'):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = rf"run is being written by process {other.pid} .*training sasrec.* since \d{{4}}-"
        with pytest.raises(FolderBusyError, match=said), attempt_at(tmp_path / "run", "training tssr"):
            pass
        other.communicate("")
    trained(tmp_path / "run", "free again")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_says_what_is_kept(number: int, code: int, tmp_path: Path) -> None:
    trained(tmp_path, "one")

    def interrupted() -> None:
        with attempt_at(tmp_path, "training") as attempt:
            train(attempt, "two")
            raise Interrupted(number)

    with pytest.raises(Interrupted) as caught:
        interrupted()
    assert caught.value.exit_code == code
    assert caught.value.goes_on == "resume"
    assert f"kept in {tmp_path / 'training' / 'checkpoint'}" in caught.value.kept
    assert f"the run in {tmp_path} stays as it was" in caught.value.kept
    assert state(tmp_path) == ("one", "one", "one")


def test_a_signal_waits_until_the_run_is_saved(tmp_path: Path) -> None:

    def interrupted() -> None:
        with attempt_at(tmp_path, "training") as attempt:
            train(attempt, "one")
            with attempt.finishing():
                signal.raise_signal(signal.SIGTERM)
                save_folder(tmp_path, "config.json", "run", {"model": "one", "attempt": attempt.name}, {})

    with pytest.raises(Interrupted, match="the run is saved") as caught:
        interrupted()
    assert caught.value.goes_on == "no"
    assert state(tmp_path) == ("one", "one", "one")


def test_a_stage_is_gone_on_with_or_begun_anew(tmp_path: Path) -> None:
    from recbase.train.loop import DifferentRunError

    asked: list[bool] = []

    def stage(resume: bool) -> int:
        asked.append(resume)
        if resume and len(asked) == 2:
            raise DifferentRunError("another machine")
        return len(asked)

    assert gone_on_with(tmp_path, stage) == 1
    save_folder(tmp_path / "checkpoint", "checkpoint.json", "training checkpoint", {}, {})
    assert gone_on_with(tmp_path, stage) == 3
    assert gone_on_with(tmp_path, stage) == 4
    assert asked == [False, True, False, True]


def test_a_training_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"), attempt_at(tmp_path / "run", "training"):
        raise ValueError("no text")
    assert not (tmp_path / "run").exists()
    trained(tmp_path / "run", "one")
    with pytest.raises(ValueError, match="no text"), attempt_at(tmp_path / "run", "training"):
        raise ValueError("no text")
    assert not (tmp_path / "run" / "training").exists()
    assert state(tmp_path / "run") == ("one", "one", "one")


def interrupted(out: Path, text: str) -> None:
    def begin() -> None:
        with attempt_at(out, "training") as attempt:
            train(attempt, text, first=True)
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        begin()


@pytest.mark.parametrize("finished", [False, True])
def test_an_unfinished_training_survives_a_new_one_that_comes_to_nothing(finished: bool, tmp_path: Path) -> None:
    if finished:
        trained(tmp_path, "one")
    interrupted(tmp_path, "two")
    folder = tmp_path / "training" if finished else tmp_path

    def fail() -> None:
        with attempt_at(tmp_path, "training") as anew:
            assert not anew.holds()
            assert not anew.holds(anew.first_stage)
            raise ValueError("no such encoder")

    with pytest.warns(UserWarning, match="is kept in"), pytest.raises(ValueError, match="no such encoder"):
        fail()
    assert not (folder / ".earlier").exists()
    with attempt_at(tmp_path, "training", resume=True) as resumed:
        assert resumed.holds(resumed.first_stage)
        assert json.loads((resumed.folder / "checkpoint" / "checkpoint.json").read_text())["run"] == "two"
        assert (resumed.folder / "history.jsonl").read_text() == "two"


def test_what_an_unfinished_training_had_goes_when_the_new_one_is_done(tmp_path: Path) -> None:
    interrupted(tmp_path, "one")
    with pytest.warns(UserWarning, match="is kept in"):
        trained(tmp_path, "two")
    assert state(tmp_path) == ("two", "two", "two")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "config.json", "history.jsonl"}


@pytest.mark.parametrize(
    "strange", ["checkpoint/epoch=3.ckpt", "pretraining/corpus.txt", "history.jsonl", "training.json", "checkpoint"]
)
def test_files_of_others_that_a_training_would_replace_are_kept(strange: str, tmp_path: Path) -> None:
    (tmp_path / strange).parent.mkdir(exist_ok=True)
    (tmp_path / strange).write_text('{"loss": 1}\n')
    for resume in (False, True):
        with (
            pytest.raises((ValueError, FileNotFoundError), match=re.escape(str(tmp_path))),
            attempt_at(tmp_path, "training", resume),
        ):
            pass
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / strange]
        assert (tmp_path / strange).read_text() == '{"loss": 1}\n'


@pytest.mark.parametrize("strange", ["notes.txt", "config.json"])
def test_a_folder_of_others_in_a_finished_run_is_kept(strange: str, tmp_path: Path) -> None:
    trained(tmp_path, "one")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / strange).write_text("{}")
    with pytest.raises(ValueError, match="none of a training of ours"), attempt_at(tmp_path, "training"):
        pass
    assert (tmp_path / "training" / strange).read_text() == "{}"
    assert state(tmp_path) == ("one", "one", "one")


def test_a_copy_that_was_not_trained_further_is_taken_away(tmp_path: Path) -> None:
    trained(tmp_path, "one")
    with pytest.raises(ValueError, match="another training"), attempt_at(tmp_path, "training", resume=True):
        raise ValueError("another training")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "config.json", "history.jsonl"}

    def fail() -> None:
        with attempt_at(tmp_path, "training", resume=True) as attempt:
            train(attempt, "further")
            raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        fail()
    with attempt_at(tmp_path, "training", resume=True) as attempt:
        assert json.loads((attempt.folder / "checkpoint" / "checkpoint.json").read_text())["run"] == "further"
