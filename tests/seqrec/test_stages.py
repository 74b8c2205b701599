"""Stages: made once, also when several commands want the same one at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqrec.stages import stage


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
