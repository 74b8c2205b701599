"""One writer at a time in a folder: a lock that says who holds it and that dies with its owner.

Readers need no lock (:mod:`recbase.store.folder` keeps every state of a folder readable). The lock lies beside the
folder, so that no copy and no upload carries it, and is taken away when it is released.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["SHORT_WAIT", "FolderBusyError", "folder_lock"]

SHORT_WAIT = 60.0  # seconds that one short write waits for another
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_LONGEST_NAME = 200  # bytes; file systems end at 255


class FolderBusyError(OSError):
    """Another command, or another thread, is writing the folder."""


@dataclass
class _Held:
    """The lock of one folder in this process: threads take turns, and the thread that has it may take it again."""

    turn: Any = field(default_factory=threading.RLock)
    depth: int = 0
    purpose: str = ""
    since: str = ""


_HELD: dict[str, _Held] = {}
if hasattr(os, "register_at_fork"):
    # A forked child holds nothing: the lock belongs to its parent.
    os.register_at_fork(after_in_child=_HELD.clear)


@contextmanager
def folder_lock(folder: str | os.PathLike[str], purpose: str, wait: float = SHORT_WAIT) -> Iterator[None]:
    """Be the only writer of a folder while the block runs.

    The lock belongs to the process and is free again as soon as that ends, however it ends (``kill -9`` too). The
    thread that holds it may take it again; other threads wait as other processes do. Two spellings of one path are one
    folder. On a file system without locks a warning says so and the block runs.

    Parameters
    ----------
    folder : path
        Need not exist; the folder above it is made.
    purpose : str
        What the holder does, as ``"training sasrec"``; others are told.
    wait : float, default 60
        Seconds to wait for another holder; 0 asks once, ``math.inf`` waits without end.

    Raises
    ------
    FolderBusyError
        If another process or thread holds the lock still, saying who and since when. It is an OSError.
    OSError
        If neither the folder nor the one above it can be written.
    """
    # Two spellings and a link of one folder must meet in one lock.
    path = Path(os.path.realpath(folder))
    held = _HELD.setdefault(str(path), _Held())
    began = time.monotonic()
    wait = min(max(wait, 0.0), threading.TIMEOUT_MAX)
    # Threads take turns before the file is asked: one may enter twice, and a refusal can say which part holds it.
    if not held.turn.acquire(timeout=wait):
        raise FolderBusyError(_refusal(folder, f"another part of this process ({held.purpose})", held.since))
    try:
        if held.depth:
            held.depth += 1
            try:
                yield
            finally:
                held.depth -= 1
            return
        with _process_lock(folder, path, purpose, max(wait - (time.monotonic() - began), 0.0)):
            held.depth, held.purpose, held.since = 1, purpose, _now()
            try:
                yield
            finally:
                held.depth = 0
    finally:
        held.turn.release()


@contextmanager
def _process_lock(folder: str | os.PathLike[str], path: Path, purpose: str, wait: float) -> Iterator[None]:
    found = _acquired(folder, path, wait)
    if found is None:
        yield
        return
    lock, place = found
    owner = os.getpid()
    try:
        _record(place, purpose)
        yield
    finally:
        if os.getpid() == owner:  # a forked child that leaves the block holds nothing
            # Taken away while it is still held. Who opened it in this moment finds that his lock has no name any more,
            # and takes a new one.
            with suppress(OSError):
                os.unlink(place)
            lock.release()


def _acquired(folder: str | os.PathLike[str], path: Path, wait: float) -> tuple[Any, Path] | None:
    """The lock and the file it lies in; None where the file system has no locks, which is said."""
    from filelock import FileLock, Timeout  # here: importing it takes 70 ms, and readers never need it

    reason = "Permission denied"
    for place in _places(folder, path):
        lock = FileLock(place, thread_local=False, poll_interval=0.02)
        try:
            lock.acquire(timeout=wait)
            return lock, place
        except Timeout:
            raise FolderBusyError(_refusal(folder, *_holder(place))) from None
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _NO_LOCKS:
                said = f"the file system of {folder} has no locks: do not let two commands write there at once"
                warnings.warn(said, stacklevel=5)
                return None
            if error.errno not in _READ_ONLY:
                break
    raise OSError(f"cannot write to {folder}: {reason}; what it held before is kept")


def _places(folder: str | os.PathLike[str], path: Path) -> Iterator[Path]:
    """Candidate places of a folder's lock: beside it, or inside where the folder above it may not be written."""
    name = f".{path.name}.lock"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.lock"
    if path.parent != path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file lies where the folder above should
            raise OSError(f"cannot make the folder {folder}: {os.strerror(errno.ENOTDIR)}") from error
        except OSError as error:
            raise OSError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        yield path.parent / name
    if path.is_dir():
        yield path / ".lock"


def _record(place: Path, purpose: str) -> None:
    """Write down who holds the lock; without it a second writer is refused all the same, only less clearly."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    body = {"process": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "command": command[:200]}
    with suppress(OSError):
        place.write_text(json.dumps(body | {"since": _now()}), encoding="utf-8")


def _holder(place: Path) -> tuple[str, str]:
    """Who holds a lock, and since when, as far as its file says."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        who = f"process {found['process']} on {found['host']} ({found['purpose']}: {found['command']})"
        return who, str(found["since"])
    except (OSError, ValueError, TypeError, KeyError):
        return "another process", ""


def _refusal(folder: str | os.PathLike[str], who: str, since: str) -> str:
    when = f" since {since}" if since else ""
    return f"{os.fspath(folder)} is being written by {who}{when}: wait until that ends, or give another folder"


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
