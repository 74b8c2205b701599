"""The lock of a folder: who holds it, for how long, and that it dies with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recbase.store.locks import FolderBusyError, folder_lock

HOLDER = """
import sys, time
from recbase.store.locks import folder_lock
with folder_lock(sys.argv[1], "training sasrec", 0):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        wanted = (
            rf"run is being written by process {process.pid} on .* \(training sasrec: .*\) since \d{{4}}-\d\d-\d\d "
        )
        with (
            pytest.raises(FolderBusyError, match=wanted + r"\d\d:\d\d:\d\d.*: wait until that ends"),
            folder_lock(folder, "saving", 0),
        ):
            raise AssertionError("two writers")
        with pytest.raises(FolderBusyError), folder_lock(folder, "saving", 0.1):
            raise AssertionError("two writers")
        os.kill(process.pid, signal.SIGKILL)
        with folder_lock(folder, "saving", 30):  # the lock died with its owner
            pass
    assert list(tmp_path.iterdir()) == []


def test_spellings_of_one_path_are_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path / "link"):
        for spelling in ("run", "./link", "run/../run", tmp_path / "run"):
            with pytest.raises(FolderBusyError), folder_lock(spelling, "saving", 0):
                raise AssertionError("two writers")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".run.lock",
        "link",
        "run",
    ]  # of the one that was killed
    with folder_lock("run", "saving", 0):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]


def test_the_thread_that_holds_it_may_take_it_again_and_another_may_not(tmp_path: Path) -> None:
    said = []

    def other() -> None:
        try:
            with folder_lock(tmp_path / "run", "other", 0):
                said.append("entered")
        except FolderBusyError as error:
            said.append(str(error))

    def run_other() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with folder_lock(tmp_path / "run", "training", 0):
        with folder_lock(tmp_path / "run", "saving", 0):
            run_other()
        run_other()
        assert (tmp_path / ".run.lock").is_file()
    run_other()
    assert ["another part of this process (training)" in line for line in said] == [True, True, False]
    assert said[2] == "entered"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run", "training", 0):
        child = os.fork()
        if child == 0:
            try:
                with folder_lock(tmp_path / "run", "saving", 0):
                    os._exit(1)
            except FolderBusyError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / ".run.lock").is_file()


def test_the_lock_lies_inside_where_the_folder_above_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    real = filelock.FileLock.acquire
    (tmp_path / "run").mkdir()

    def acquire(self: filelock.FileLock, *args: object, **kwargs: object) -> object:
        if Path(self.lock_file).parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with folder_lock(tmp_path / "run", "saving", 0):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert list((tmp_path / "run").iterdir()) == []
    with (
        pytest.raises(OSError, match=r"cannot write to .*absent: Permission denied"),
        folder_lock(tmp_path / "absent", "saving", 0),
    ):
        raise AssertionError("no lock")


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def acquire(self: filelock.FileLock, *args: object, **kwargs: object) -> object:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with (
        pytest.warns(UserWarning, match="has no locks: do not let two commands write there at once"),
        folder_lock(tmp_path / "run", "saving", 0),
    ):
        pass


def test_long_names_and_the_root_have_locks(tmp_path: Path) -> None:
    with folder_lock(tmp_path / ("n" * 255), "saving", 0):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
