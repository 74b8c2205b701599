"""The folder protocol: what a crash, a full disk or damage leaves behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbase.checkpoints import load_arrays, open_folder, save_folder, sha256_of, tensor_bytes

MANIFEST, KIND = "thing.json", "thing"

# Saves a second version over the first and is killed, as by kill -9, in the middle of the given call.
KILLED = """
import os, signal, sys
from pathlib import Path
from recbase import checkpoints

folder, name, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
holder = {"write": None, "replace": os, "fsync": os, "unlink": Path}[name]
calls = 0

def die():
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)

def half(path):
    with open(path, "wb") as out:
        out.write(b"new" * 1000)
        out.flush()
        die()
        out.write(b"new" * 1000)

if holder is not None:
    real = getattr(holder, name)
    def wrapped(*args, **kwargs):
        die()
        return real(*args, **kwargs)
    setattr(holder, name, wrapped)
new = half if name == "write" else b"new" * 2000
checkpoints.save_folder(folder, "thing.json", "thing", {"version": 2}, {"a.bin": new, "b.bin": new})
print("finished")
"""

# A process whose files may not grow beyond a limit, as on a disk that is full.
LIMITED = """
import resource, signal, sys
from recbase.checkpoints import save_folder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_folder(sys.argv[1], "thing.json", "thing", {"version": 2}, {"a.bin": b"n" * 100, "b.bin": b"n" * 8192})
except OSError as error:
    print(error)
"""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def first_version(folder: Path) -> None:
    save_folder(folder, MANIFEST, KIND, {"version": 1}, {"a.bin": b"old a", "b.bin": b"old b"})


def assert_whole(folder: Path, version: int) -> None:
    """The folder is exactly one version, and both of its files are of it."""
    saved = open_folder(folder, MANIFEST, KIND)
    assert saved.manifest["version"] == version
    contents = {name: saved.file(name, verify=True).read_bytes() for name in saved}
    old, new = {"a.bin": b"old a", "b.bin": b"old b"}, {"a.bin": b"new" * 2000, "b.bin": b"new" * 2000}
    assert contents == (old if version == 1 else new)


@pytest.mark.parametrize(
    ("call", "at", "version"),
    [
        ("write", 1, 1),  # in the middle of the first file
        ("write", 2, 1),  # in the middle of the second
        ("fsync", 1, 1),  # before the first file is on the disk
        ("fsync", 3, 1),  # before the manifest is on the disk
        ("replace", 1, 1),  # before the first file has its name
        ("replace", 3, 1),  # before the manifest is put in place
        ("fsync", 4, 2),  # after that, before the folder is flushed
        ("unlink", 1, 2),  # in the middle of sweeping the old files
        ("unlink", 2, 2),
    ],
)
def test_kill_9_in_the_middle_of_a_save_leaves_one_whole_version(
    call: str, at: int, version: int, tmp_path: Path
) -> None:
    first_version(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path), call, str(at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert "finished" not in done.stdout
    assert_whole(tmp_path, version)
    save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {"a.bin": b"new" * 2000, "b.bin": b"new" * 2000})
    assert_whole(tmp_path, 2)
    assert_no_leavings(tmp_path)


def assert_no_leavings(folder: Path) -> None:
    """Nothing lies in the folder but the manifest and what it names."""
    saved = open_folder(folder, MANIFEST, KIND)
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *(saved.file(name).name for name in saved)}


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_leaves_the_old_version_and_says_so(tmp_path: Path) -> None:
    first_version(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"cannot write to {tmp_path}: File too large; what it held before is kept"
    assert_whole(tmp_path, 1)
    assert_no_leavings(tmp_path)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_space_left_while_flushing_leaves_the_old_version(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_version(tmp_path)
    real, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write to .*: No space left on device; what it held before is kept"):
        save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {"a.bin": b"new", "b.bin": b"new"})
    assert_whole(tmp_path, 1)
    assert_no_leavings(tmp_path)


def test_a_failing_writer_leaves_the_old_version(tmp_path: Path) -> None:
    first_version(tmp_path)

    def writer(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyError("no such column")

    with pytest.raises(KeyError):
        save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {"a.bin": writer})
    assert_whole(tmp_path, 1)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot make the folder .*file/run: Not a directory"):
        first_version(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot write to .*: Permission denied"):
        first_version(tmp_path)


def test_keep_carries_files_over_and_sweeps_what_was_replaced(tmp_path: Path) -> None:
    first_version(tmp_path)
    saved = save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {"b.bin": b"new b"}, keep=True)
    assert {name: saved.file(name, verify=True).read_bytes() for name in saved} == {
        "a.bin": b"old a",
        "b.bin": b"new b",
    }
    assert_no_leavings(tmp_path)


def test_files_that_are_not_ours_are_never_swept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first_version(tmp_path)
    save_folder(tmp_path, MANIFEST, KIND, {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", MANIFEST]


def test_two_manifests_share_a_folder(tmp_path: Path) -> None:
    first_version(tmp_path)
    save_folder(tmp_path, "other.json", "other", {}, {"c.bin": b"c"})
    assert_whole(tmp_path, 1)
    assert open_folder(tmp_path, "other.json", "other").file("c.bin").read_bytes() == b"c"


def test_a_writer_function_is_given_the_path(tmp_path: Path) -> None:
    saved = save_folder(tmp_path, MANIFEST, KIND, {}, {"a.txt": lambda path: path.write_text("hello") and None})
    assert saved.file("a.txt", verify=True).read_text() == "hello"
    assert saved.sha256("a.txt") == digest(b"hello")


def test_the_manifest_records_format_kind_versions_and_hashes(tmp_path: Path) -> None:
    first_version(tmp_path)
    body = json.loads((tmp_path / MANIFEST).read_text())
    assert (body["format"], body["kind"], body["version"]) == (1, KIND, 1)
    assert body["versions"]["numpy"] == np.__version__
    entry = body["files"]["a.bin"]
    assert entry == {
        "file": f"a.{digest(b'old a')[:12]}.bin",
        "sha256": digest(b"old a"),
        "bytes": 5,
    }


@pytest.mark.parametrize(
    ("damage", "verify", "message"),
    [
        (lambda path: path.write_bytes(b"ol"), False, "has 2 bytes but its manifest says 5: the file is damaged"),
        (lambda path: path.write_bytes(b"0ld a"), True, "does not have the hash its manifest gives"),
        (lambda path: path.unlink(), False, "is named by the manifest of .* but is missing"),
    ],
)
def test_damage_is_found(damage: Any, verify: bool, message: str, tmp_path: Path) -> None:
    first_version(tmp_path)
    damage(next(tmp_path.glob("a.*.bin")))
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path, MANIFEST, KIND).file("a.bin", verify=verify)


def test_an_unknown_file_is_refused_with_those_there_are(tmp_path: Path) -> None:
    first_version(tmp_path)
    with pytest.raises(ValueError, match=r"holds no c\.bin; it holds a\.bin, b\.bin"):
        open_folder(tmp_path, MANIFEST, KIND).file("c.bin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"kind": "other"}', "holds a other, expected a thing"),
        ("[]", "holds a list, expected a thing"),
        ('{"kind": "thing", "format": 2}', "has format 2; this version reads up to 1: update semtok"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path, MANIFEST, KIND)


def test_a_missing_folder_or_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; expected a saved thing there"):
        open_folder(tmp_path / "nowhere", MANIFEST, KIND)
    with pytest.raises(FileNotFoundError, match=r"has no thing\.json, so it is not a saved thing"):
        open_folder(tmp_path, MANIFEST, KIND)


def test_arrays_and_tensors_come_back_equal(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array(3), "c": np.zeros((0, 2), np.int64)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensor_bytes(arrays))
    loaded = load_arrays(path)
    for name, value in arrays.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].shape == value.shape
    path.write_bytes(tensor_bytes({"a": torch.arange(6.0).reshape(2, 3).T, "b": np.ones(2)}))
    np.testing.assert_array_equal(load_arrays(path)["a"], arrays["a"])


@pytest.mark.parametrize("size", [0, 4, 20, -1])
def test_a_truncated_safetensors_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensor_bytes({"a": np.ones(100)})[:size])
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable safetensors file .*truncated or damaged"):
        load_arrays(path)


def test_a_hash_tells_dtype_shape_and_order_apart() -> None:
    a = np.arange(6, dtype=np.int32)
    hashes = {
        sha256_of(a),
        sha256_of(a.astype(np.int64)),
        sha256_of(a.reshape(2, 3)),
        sha256_of(a[:3], a[3:]),
        sha256_of(a[3:], a[:3]),
        sha256_of(b"ab"),
        sha256_of("a", "b"),
    }
    assert len(hashes) == 7
    assert sha256_of(a) == sha256_of(np.arange(12, dtype=np.int32)[::2] // 2)
