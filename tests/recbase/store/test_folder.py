"""The folder protocol: what a crash, a full disk or damage leaves behind."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbase.store.folder import (
    check_file,
    check_replaceable,
    consistent,
    folder_lock,
    load_arrays,
    open_folder,
    save_folder,
    sha256_of,
    tensor_bytes,
)

MANIFEST, KIND = "thing.json", "thing"

# Saves a second version over the first and is killed, as by kill -9, in the middle of the given call.
KILLED = """
import os, signal, sys
from pathlib import Path
from recbase.store import folder as checkpoints

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
from recbase.store.folder import save_folder

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


def test_a_folder_that_became_something_else_while_a_command_worked_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_replaceable(out, "other.json", "other")  # as a command does when it begins
    first_version(out)  # another command was faster
    with pytest.raises(ValueError, match=r"cannot save a other in .*out: it holds a thing \(thing\.json\)"):
        save_folder(out, "other.json", "other", {}, {"c.bin": b"c"})
    assert_whole(out, 1)
    assert not (out / "other.json").exists()


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


# --------------------------------------------------------------------------------------- several at once


def numbered(version: int) -> dict[str, bytes]:
    """Files of a version: two that every version has, one of three that versions share by name."""
    text = f"{version} ".encode() * 50
    return {"a.bin": text, "b.bin": text * 3, f"c{version % 3}.bin": text}


@consistent
def read_version(folder: Path) -> int:
    saved = open_folder(folder, MANIFEST, KIND)
    version: int = saved.manifest["version"]
    assert {name: saved.file(name).read_bytes() for name in saved} == numbered(version)
    return version


def forked(*works: Callable[[], None]) -> list[int]:
    """Run functions in processes of their own; how each ended."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_writers_and_readers_of_one_folder_never_meet(tmp_path: Path) -> None:
    def writing(first: int) -> Callable[[], None]:
        def work() -> None:
            for version in range(first, first + 6):
                save_folder(tmp_path / "f", MANIFEST, KIND, {"version": version}, numbered(version))

        return work

    def reading() -> None:
        for _ in range(60):
            read_version(tmp_path / "f")

    save_folder(tmp_path / "f", MANIFEST, KIND, {"version": 0}, numbered(0))
    assert forked(writing(10), writing(20), writing(30), reading, reading) == [0] * 5
    assert read_version(tmp_path / "f") in (15, 25, 35)  # the last of one of them
    assert_no_leavings(tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_read_and_written_under_the_lock_loses_no_update(tmp_path: Path) -> None:
    def adding(first: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(first, first + 4):
                with folder_lock(tmp_path / "f", "adding"):
                    seen = open_folder(tmp_path / "f", MANIFEST, KIND).manifest["numbers"]
                    file = {f"{number}.bin": str(number).encode()}
                    save_folder(tmp_path / "f", MANIFEST, KIND, {"numbers": [*seen, number]}, file, keep=True)

        return work

    save_folder(tmp_path / "f", MANIFEST, KIND, {"numbers": []}, {})
    assert forked(adding(10), adding(20), adding(30)) == [0] * 3
    saved = open_folder(tmp_path / "f", MANIFEST, KIND)
    expected = [first + number for first in (10, 20, 30) for number in range(4)]
    assert sorted(saved.manifest["numbers"]) == expected
    assert sorted(saved) == [f"{number}.bin" for number in expected]


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    first_version(tmp_path)
    tries = []

    @consistent
    def load() -> tuple[Any, bytes]:
        saved = open_folder(tmp_path, MANIFEST, KIND)
        if not tries:
            save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {"a.bin": b"new"})
        tries.append(saved.manifest["version"])
        return saved.manifest["version"], saved.file("a.bin").read_bytes()

    assert load() == (2, b"new")
    assert tries == [1, 2]
    old = open_folder(tmp_path, MANIFEST, KIND)
    save_folder(tmp_path, MANIFEST, KIND, {"version": 3}, {})
    with pytest.raises(ValueError, match="was replaced since it was opened: open it again"):
        old.file("a.bin")


def test_two_states_of_one_folder_are_never_mixed(tmp_path: Path) -> None:
    first_version(tmp_path)
    tries = []

    @consistent
    def load() -> list[int]:
        first = open_folder(tmp_path, MANIFEST, KIND).manifest["version"]
        if not tries:
            save_folder(tmp_path, MANIFEST, KIND, {"version": 2}, {})
        tries.append(first)
        return [first, open_folder(tmp_path, MANIFEST, KIND).manifest["version"]]

    assert load() == [2, 2]

    @consistent
    def failing() -> None:
        tries.append(0)
        open_folder(tmp_path, MANIFEST, KIND)
        raise KeyError("a fault of its own")

    with pytest.raises(KeyError):
        failing()
    assert tries == [1, 2, 0]


# --------------------------------------------------------------------------------------- a disk that is full


class Full:
    """Lets the n-th step of writing fail as on a full disk: opening, writing, flushing or naming a file."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.steps = at, 0
        for name in ("open", "fsync", "replace"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self.opener(module.open))

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def counted(self, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if real is not REAL_OPEN or args[1] & (os.O_WRONLY | os.O_RDWR):
                self.step()
            return real(*args, **kwargs)

        return call

    def opener(self, real: Any) -> Any:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "w" not in mode:
                return real(file, mode, *args, **kwargs)
            self.step()
            handle = real(file, mode, *args, **kwargs)
            write = handle.write

            class Handle:
                def write(inner, content: Any) -> Any:
                    write(content[: len(content) // 2])
                    handle.flush()
                    self.step()
                    return write(content[len(content) // 2 :])

                def __getattr__(inner, name: str) -> Any:
                    return getattr(handle, name)

                def __enter__(inner) -> Any:
                    return inner

                def __exit__(inner, *_: Any) -> None:
                    handle.close()

            return Handle()

        return call


REAL_OPEN = os.open


def test_a_disk_that_is_full_at_any_step_leaves_one_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replaced = 0
    new = {"a.bin": b"new" * 2000, "b.bin": lambda path: path.write_bytes(b"new" * 2000)}
    for at in range(1, 100):
        folder = tmp_path / str(at) / "f"
        first_version(folder)
        with monkeypatch.context() as patched:
            full = Full(at, patched)
            try:
                save_folder(folder, MANIFEST, KIND, {"version": 2}, new)
                version = 2
            except OSError as error:
                version, said = 1, str(error)
        assert version == 2 or said == f"cannot write to {folder}: No space left on device; what it held before is kept"
        assert_whole(folder, version)
        assert_no_leavings(folder)
        assert os.listdir(folder.parent) == ["f"]
        kept, replaced = kept + (version == 1), replaced + (version == 2)
        if full.steps < at:
            break
    assert (kept, replaced) == (16, 4)


# --------------------------------------------------------------------------------------- what is not ours


@pytest.mark.parametrize(
    "text", ['{"model_type": "t5"}', '{"kind": "other", "format": 1}', "[]", "{", '{"kind": "thing"}']
)
def test_a_manifest_that_is_not_of_the_kind_is_not_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    for refused in (lambda: check_replaceable(tmp_path, MANIFEST, KIND), lambda: first_version(tmp_path)):
        with pytest.raises(
            ValueError,
            match=r"cannot save a thing in .*: the thing\.json there is (none of ours|of a other) and would be lost",
        ):
            refused()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(MANIFEST, text)]


def test_only_files_that_a_manifest_of_ours_named_are_swept(tmp_path: Path) -> None:
    first_version(tmp_path)
    foreign = {"notes.0123456789ab.txt": "mine", "a.0123456789ab.bin": "mine", ".writing-novel.txt": "mine"}
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".writing-b.bin").write_text("left by an earlier version")
    (tmp_path / f"b.{digest(b'left by a kill')[:12]}.bin").write_bytes(b"left by a kill")
    (tmp_path / "link.0123456789ab.bin").symlink_to(tmp_path / "notes.0123456789ab.txt")
    saved = save_folder(tmp_path, MANIFEST, KIND, {}, {"b.bin": b"new"})
    names = {MANIFEST, saved.file("b.bin").name, *foreign, "link.0123456789ab.bin"}
    assert {path.name for path in tmp_path.iterdir()} == names


# --------------------------------------------------------------------------------------- reading


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    first_version(tmp_path)
    (path,) = tmp_path.glob("a.*.bin")
    assert open_folder(tmp_path, MANIFEST, KIND).file("a.bin") == path
    path.write_bytes(b"0ld a")
    with pytest.raises(ValueError, match="does not have the hash its manifest gives: the file is damaged"):
        open_folder(tmp_path, MANIFEST, KIND).file("a.bin")


def test_a_file_is_hashed_once_a_process_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbase.store import integrity

    first_version(tmp_path)
    monkeypatch.setattr(integrity, "_KNOWN", {})
    hashed = []
    real = integrity.hash_file
    monkeypatch.setattr(integrity, "hash_file", lambda path: hashed.append(path.name) or real(path))
    for _ in range(3):
        open_folder(tmp_path, MANIFEST, KIND).file("a.bin")
    assert len(hashed) == 1
    (path,) = tmp_path.glob("a.*.bin")
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    open_folder(tmp_path, MANIFEST, KIND).file("a.bin")
    assert len(hashed) == 2


def entry_of(**changed: Any) -> dict[str, Any]:
    return {"file": "a.bin", "sha256": digest(b"old a"), "bytes": 5} | changed


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "'files' is a list"),
        ({"a.bin": "a.bin"}, "'a.bin' is a str"),
        ({"a.bin": {"file": "a.bin"}}, "'a.bin' has no 'sha256'"),
        ({"a.bin": entry_of(file="../a.bin")}, r"lies at '\.\./a\.bin'; expected a plain name in the folder"),
        ({"a.bin": entry_of(file="/etc/passwd")}, "lies at '/etc/passwd'"),
        ({"a.bin": entry_of(file="..")}, r"lies at '\.\.'"),
        ({"a.bin": entry_of(file="a\0")}, "expected a plain name in the folder"),
        ({"a.bin": entry_of(file="a\\b")}, "expected a plain name in the folder"),
        ({"a.bin": entry_of(file=5)}, "lies at 5"),
        ({"a.bin": entry_of(sha256=5)}, "the sha256 of 'a.bin' is 5; expected 64"),
        ({"a.bin": entry_of(bytes="5")}, "the bytes of 'a.bin' are '5'"),
        ({"a.bin": entry_of(bytes=True)}, "the bytes of 'a.bin' are True"),
    ],
)
def test_entries_of_files_are_checked(files: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"kind": KIND, "format": 1, "files": files}))
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path, MANIFEST, KIND)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["kind", "format", "files", "file", "sha256", "bytes", "a"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_manifest_is_read_or_refused_in_a_sentence(body: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_text(json.dumps({"kind": KIND, **body} if isinstance(body, dict) else body))
        said = folder
        try:
            saved = open_folder(folder, MANIFEST, KIND)
            for name in saved:
                saved.file(name)
        except ValueError as error:
            said = str(error)
        assert folder in said


def test_deep_json_and_huge_numbers_are_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\ud800".encode("utf-8", "surrogatepass")):
        (tmp_path / MANIFEST).write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(ValueError, match=r"thing\.json is not valid JSON"):
            open_folder(tmp_path, MANIFEST, KIND)


def test_a_check_of_the_manifest_is_run_on_opening(tmp_path: Path) -> None:
    first_version(tmp_path)

    def check(manifest: dict[str, Any]) -> None:
        if manifest["version"] < 2:
            raise ValueError("version is 1; expected 2 or more")

    with pytest.raises(ValueError, match=r"thing\.json: version is 1; expected 2 or more"):
        open_folder(tmp_path, MANIFEST, KIND, check)


def test_links_out_of_the_folder_are_refused_and_those_of_the_hub_followed(tmp_path: Path) -> None:
    first_version(tmp_path / "repo" / "snapshots" / "abc")
    folder = tmp_path / "repo" / "snapshots" / "abc"
    (tmp_path / "repo" / "blobs").mkdir()
    for path in list(folder.iterdir()):  # as Hugging Face's cache keeps a repository
        path.rename(tmp_path / "repo" / "blobs" / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    assert_whole(folder, 1)
    (path,) = folder.glob("a.*.bin")
    path.unlink()
    (tmp_path / "secret").write_bytes(b"old a")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"is a link to .*secret, outside its folder: it is not read"):
        open_folder(folder, MANIFEST, KIND).file("a.bin")
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(tmp_path / "repo" / "snapshots")
    with pytest.raises((ValueError, FileNotFoundError)):
        open_folder(folder, MANIFEST, KIND)


def test_names_are_plain_where_others_read_the_folder(tmp_path: Path) -> None:
    def save(text: bytes) -> list[str]:
        saved = save_folder(tmp_path, MANIFEST, KIND, {}, {"part.txt": text}, plain=True)
        assert saved.file("part.txt").read_bytes() == text
        return sorted(path.name for path in tmp_path.iterdir())

    assert save(b"one") == ["part.txt", MANIFEST]
    assert save(b"one") == ["part.txt", MANIFEST]
    assert save(b"two") == [f"part.{digest(b'two')[:12]}.txt", MANIFEST]
    assert save(b"three") == ["part.txt", MANIFEST]


@pytest.mark.parametrize("held", ["thing", "hub", "nothing", "strange"])
def test_a_command_is_refused_a_folder_that_is_something_else(held: str, tmp_path: Path) -> None:
    if held == "thing":
        save_folder(tmp_path, "thing.json", "thing", {}, {"a.txt": b"a"})
    elif held == "hub":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    elif held == "strange":
        (tmp_path / "notes.json").write_text('{"kind": "note"}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if held in ("thing", "hub"):
        with pytest.raises(
            ValueError,
            match=r"cannot save a other in .*: it holds a (thing|Hugging Face model) .*; give another folder",
        ):
            check_replaceable(tmp_path, "other.json", "other")
    else:
        check_replaceable(tmp_path, "other.json", "other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_or_a_link_to_nothing_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("gone")
    for name, said in {"file": "is a file", "link": "is a link to nothing"}.items():
        with pytest.raises(ValueError, match=f"{name} {said}; expected a folder for a thing"):
            save_folder(tmp_path / name, "thing.json", "thing", {}, {})
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("key", ["file", "sha256", "bytes"])
@pytest.mark.parametrize("value", ["9" * 5000, ["x"] * 5000, None, -(10**400)])
def test_a_long_or_strange_entry_is_one_short_sentence(key: str, value: object, tmp_path: Path) -> None:
    save_folder(tmp_path, MANIFEST, KIND, {}, {"a.txt": b"a"})
    body = json.loads((tmp_path / MANIFEST).read_text())
    body["files"]["a.txt"][key] = value
    (tmp_path / MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"thing\.json: .*'a\.txt'.*; expected") as error:
        open_folder(tmp_path, MANIFEST, KIND).file("a.txt")
    assert len(str(error.value)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("entry", ["kind", "format"])
@pytest.mark.parametrize("value", ["9" * 5000, ["x"] * 5000, {"a": 1}])
def test_a_long_or_strange_kind_is_one_short_sentence(entry: str, value: object, tmp_path: Path) -> None:
    save_folder(tmp_path, MANIFEST, KIND, {}, {})
    body = json.loads((tmp_path / MANIFEST).read_text()) | {entry: value}
    (tmp_path / MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ValueError, match="expected a") as error:
        open_folder(tmp_path, MANIFEST, KIND)
    assert len(str(error.value)) < len(str(tmp_path)) + 200


def test_a_file_that_is_read_or_belongs_to_a_folder_of_ours_is_not_written(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "one", MANIFEST, KIND, {}, {"a.txt": b"a"})
    (tmp_path / "items.csv").write_text("item_id")
    (tmp_path / "one" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "one" / MANIFEST)
    for path in (tmp_path / "one" / MANIFEST, folder.file("a.txt"), tmp_path / "link"):
        with pytest.raises(ValueError, match="is a part of the thing in"):
            check_file(path)
    with pytest.raises(ValueError, match="is what the command reads"):
        check_file(tmp_path / "one" / ".." / "items.csv", None, tmp_path / "items.csv")
    for path in ("items.csv", "one/notes.txt", "new.csv", "one/new.csv"):
        check_file(tmp_path / path, tmp_path / "other.csv")


def test_a_manifest_that_another_writer_is_putting_in_place_is_not_a_foreign_one(tmp_path: Path) -> None:
    (tmp_path / ".writing-5bce98-11438-caabf88023ef.json").write_text('{"kind": "thing", "format": 1, "files": {}}')
    check_replaceable(tmp_path, "thing.json", "thing")
    assert [path.name for path in tmp_path.iterdir()] == [".writing-5bce98-11438-caabf88023ef.json"]
