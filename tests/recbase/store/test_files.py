"""The one file writer: the old file or the new one, whatever fails, and an error of one sentence."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from recbase.store.files import is_abandoned, new_file, new_folder, why_unwritten, write_file

# A process whose files may not grow beyond 4 kB, as on a disk that is full; writes by the library that is named.
LIMITED = """
import functools, resource, signal, sys
import numpy as np
import polars as pl
import pyarrow, pyarrow.parquet
from pathlib import Path
from safetensors.numpy import save_file
from recbase.store.files import write_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
numbers = np.random.default_rng(0).normal(size=20_000)
table = pl.DataFrame({"a": numbers})
writers = {
    "bytes": numbers.tobytes(),
    "text": "x" * 9000,
    "parquet": table.write_parquet,
    "csv": table.write_csv,
    "jsonl": table.write_ndjson,
    "safetensors": functools.partial(save_file, {"a": numbers}),
    "npy": lambda path: np.save(path, numbers),
    "arrow": functools.partial(pyarrow.parquet.write_table, table.to_arrow()),
}
for name, content in writers.items():
    path = Path(sys.argv[1]) / f"out.{name}"
    try:
        write_file(path, content)
    except OSError as error:
        print(error)
"""


def test_a_full_disk_keeps_the_old_file_whichever_library_writes(tmp_path: Path) -> None:
    names = ("bytes", "text", "parquet", "csv", "jsonl", "safetensors", "arrow")
    for name in (*names, "npy"):
        (tmp_path / f"out.{name}").write_text("old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"cannot write {tmp_path}/out.{name}: File too large; what it held before is kept" in said
    (numpys,) = (line for line in said if "out.npy" in line)
    assert numpys.startswith(f"cannot write {tmp_path}/out.npy: ")
    assert numpys.endswith("; what it held before is kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"out.{name}" for name in (*names, "npy"))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError("No space left on device (os error 28)"), "No space left on device"),
        (pl.exceptions.ComputeError("parquet: underlying IO error: File too large (os error 27)"), "File too large"),
        (RuntimeError("write error in x: 4 != 8 (No space left on device)"), "No space left on device"),
        (OSError("the camera is off"), "the camera is off"),
        (pl.exceptions.ComputeError("CSV format does not support nested data"), None),
        (KeyError("no such column"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_the_reason_is_told_in_the_words_of_the_system(error: BaseException, reason: str | None) -> None:
    assert why_unwritten(error) == reason


def test_content_may_be_bytes_text_or_a_function(tmp_path: Path) -> None:
    table = pl.DataFrame({"a": [1, 2]})
    write_file(tmp_path / "deep" / "a.bin", b"\x00\x01")
    write_file(tmp_path / "deep" / "a.txt", "é")
    write_file(tmp_path / "deep" / "a.csv", table.write_csv)
    write_file(tmp_path / "deep" / "a.safetensors", lambda path: save_file({"x": np.arange(3)}, path))
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "é".encode()
    assert pl.read_csv(tmp_path / "deep" / "a.csv").equals(table)
    assert len(list((tmp_path / "deep").iterdir())) == 4


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink()
    assert (real.read_text(), stat.S_IMODE(real.stat().st_mode)) == ("new", 0o640)


def test_devices_are_written_to_and_folders_refused(tmp_path: Path) -> None:
    write_file("/dev/null", "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match=r"cannot write .*: it is a folder"):
        write_file(tmp_path, "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cannot write .*file/a\.txt: (Not a directory|File exists)"):
        write_file(tmp_path / "file" / "a.txt", "x")


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(os, "urandom", lambda count: b"\x00" * count)
    with new_file(tmp_path, ".txt") as guessed:
        pass
    guessed.symlink_to(victim)
    with pytest.raises(OSError, match=r"cannot write .*: File exists"):
        write_file(tmp_path / "a.txt", "x")
    assert victim.read_text() == "mine"


def test_two_writers_never_share_a_temporary_and_dead_ones_are_known(tmp_path: Path) -> None:
    with new_file(tmp_path, ".csv") as one, new_file(tmp_path, ".csv") as two:
        assert one != two
        assert (one.suffix, is_abandoned(one)) == (".csv", False)
    assert list(tmp_path.iterdir()) == []
    left = (
        "import sys, os; from recbase.store.files import new_path; from pathlib import Path; print(new_path(Path('.')))"
    )
    done = subprocess.run([sys.executable, "-c", left], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert is_abandoned(tmp_path / done.stdout.strip())
    write_file(tmp_path / "a.txt", "swept with the next file that is written")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert not is_abandoned(tmp_path / ".writing-novel.txt")


def test_a_new_folder_takes_its_place_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fill(text: str, **settings: Any) -> None:
        with new_folder(out, **settings) as made:
            (made / "a.txt").write_text(text)
            assert not out.exists() or text != "first"

    fill("first")
    with pytest.raises(FileExistsError, match="out exists already and is not an empty folder; give a new one"):
        fill("second")
    fill("third", is_ours=lambda folder: (folder / "a.txt").is_file())
    assert (out / "a.txt").read_text() == "third"

    def full(**settings: Any) -> None:
        with new_folder(out, **settings) as made:
            (made / "a.txt").write_text("fourth")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"cannot write .*out: No space left on device; what it held before is kept"):
        full(is_ours=lambda folder: True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "a.txt").read_text() == "third"
