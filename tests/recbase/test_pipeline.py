"""Steps: made once, also when several commands want the same one at once; one cache for all commands."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recbase.pipeline import cache_for, step, step_name


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
        first = pool.submit(step, tmp_path, "din", {"seed": 0}, "config.json", build)
        assert begun.wait(10)
        second = pool.submit(step, tmp_path, "din", {"seed": 0}, "config.json", build)
        assert first.result(20) == second.result(20)
    assert len(built) == 1
    assert step(tmp_path, "din", {"seed": 1}, "config.json", build) != first.result()
    assert len(built) == 2


def test_a_step_that_fails_is_begun_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no text")

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    with pytest.raises(RuntimeError, match="no text"):
        step(tmp_path, "din", {}, "config.json", fail)
    assert (step(tmp_path, "din", {}, "config.json", build) / "config.json").is_file()


def test_another_version_of_the_code_makes_another_folder(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    old = step(tmp_path, "codes", {"seed": 0}, "config.json", build)
    assert step(tmp_path, "codes", {"seed": 0}, "config.json", build, version=2) != old
    assert step_name("codes", {"a": 1, "b": 2}) == step_name("codes", {"b": 2, "a": 1})


def test_all_commands_in_their_usual_places_share_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_for("runs/semtok/pq") == cache_for("runs/seqrec/sasrec") == cache_for("runs/a") == Path("runs/cache")
    assert cache_for("elsewhere/a") == Path("elsewhere/cache")
    assert cache_for("/home/me/runs/trial/a/b") == Path("/home/me/runs/cache")
    monkeypatch.setenv("SEMTOK_CACHE", "/scratch/steps")
    assert cache_for("runs/a") == Path("/scratch/steps")
