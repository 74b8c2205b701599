"""One way to write a file: it is wholly the new one or wholly the old one, whatever happens in between.

Content goes into a temporary file beside its place, is flushed to the disk, and takes the place in one step. A disk
that fills up, a kill or a second writer leaves the old file as it was. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

__all__ = [
    "TEMPORARY",
    "FileContent",
    "fill_file",
    "flush_file",
    "flush_folder",
    "is_abandoned",
    "new_file",
    "new_folder",
    "new_path",
    "why_unwritten",
    "write_file",
]

TEMPORARY = ".writing-"
_OWN = re.compile(rf"^{re.escape(TEMPORARY)}([0-9a-f]{{6}})-(\d+)-[0-9a-f]{{12}}(\.[^/]*)?$")
# polars, safetensors, faiss and pyarrow write in their own languages and raise their own classes on a full disk: what
# they have in common is the system's reason in their text, as "(os error 28)" or in words.
_NUMBERED = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)
_WORDED = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|Input/output error|Read-only file system"
)
_SHORT = re.compile(r"\d+ requested and \d+ written|write error")  # NumPy and faiss, where a write came to an early end

FileContent = bytes | str | Callable[[Path], object]


def write_file(path: str | os.PathLike[str], content: FileContent) -> None:
    """Write a file so that at every moment ``path`` is wholly the old file or wholly the new one.

    A link is followed, so that it goes on pointing to its file; a device or a pipe is written to as it is. The
    permissions of a file that is replaced are kept.

    Parameters
    ----------
    path : path
        Its folder is made if it does not exist.
    content : bytes, str or callable
        The content (text as UTF-8), or a function that writes it to the path it is given.

    Raises
    ------
    OSError
        If the file cannot be written (no permission, no space left), naming it; what it held before is kept.
    """
    path = Path(path)
    held = path.is_file()
    try:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder")
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(f"cannot write {path}: Not a directory ({path.parent} is a file)")
        if path.exists() and not held:  # /dev/stdout, a pipe: there is nothing to keep and nothing to replace
            fill_file(path, content)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_file(target.parent, target.suffix) as temporary:
            fill_file(temporary, content)
            flush_file(temporary)
            if held:
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
    except (IsADirectoryError, NotADirectoryError) as error:
        if error.errno is None:
            raise
        raise OSError(f"cannot write {path}: {error.strerror}") from error
    except BaseException as error:
        reason = why_unwritten(error)
        if reason is None:
            raise
        kept = "; what it held before is kept" if held else ""
        raise OSError(f"cannot write {path}: {reason}{kept}") from error
    flush_folder(target.parent)
    _sweep_once(target.parent)


def new_path(folder: Path, suffix: str = "") -> Path:
    """An empty file of a name that no other writer has.

    It is made as a new file, so that a link which lies in its place is never followed.
    """
    path = folder / f"{TEMPORARY}{_host()}-{os.getpid()}-{os.urandom(6).hex()}{suffix}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))
    return path


@contextmanager
def new_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A :func:`new_path`; if it still lies there at the end of the block, it is removed."""
    temporary = new_path(folder, suffix)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


@contextmanager
def new_folder(path: str | os.PathLike[str], is_ours: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A folder to be filled, which takes the place of ``path`` when the block ends well, and else is removed.

    For folders of other projects' formats, which have no manifest that could say which of their files belong together.

    Parameters
    ----------
    path : path
        Absent, or an empty folder, or one that ``is_ours``, which is replaced as a whole.
    is_ours : callable, optional
        Says of a folder whether it may be replaced.

    Raises
    ------
    FileExistsError
        If something else is there.
    OSError
        If it cannot be written; what was there before is kept.
    """
    path = Path(os.path.realpath(path))
    empty = not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
    if not empty and (is_ours is None or not path.is_dir() or not is_ours(path)):
        raise FileExistsError(f"{path} exists already and is not an empty folder; give a new one")
    made = old = path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{os.urandom(6).hex()}")
    try:
        made.mkdir(parents=True)
        yield made
        for file in made.rglob("*"):
            if file.is_file():
                flush_file(file)
        if not empty:  # a folder cannot take the place of one with files: for a moment both lie beside the place
            old = made.with_name(made.name + "-old")
            os.replace(path, old)
        try:
            os.replace(made, path)
        except BaseException:
            if old != made:
                os.replace(old, path)
            raise
        flush_folder(path.parent)
        for left in path.parent.glob(f"{TEMPORARY}*"):
            if left.is_dir() and not left.is_symlink() and is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
    except BaseException as error:
        reason = why_unwritten(error)
        if reason is None:
            raise
        raise OSError(f"cannot write {path}: {reason}; what it held before is kept") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if old != made and path.exists():
            shutil.rmtree(old, ignore_errors=True)


def is_abandoned(path: Path) -> bool:
    """True of a temporary file of :func:`new_file` whose writer, a process of this machine, is dead."""
    found = _OWN.match(path.name)
    return found is not None and found[1] == _host() and not _is_alive(int(found[2]))


def why_unwritten(error: BaseException) -> str | None:
    """The reason why a file could not be written, in the system's words; None where the error is about something else.

    Libraries that write in another language raise classes of their own on a full disk; they are known by their text.
    """
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error).split())
    if (numbered := _NUMBERED.search(text)) is not None:
        return os.strerror(int(numbered[1]))
    if (worded := _WORDED.search(text)) is not None:
        return worded[0]
    if _SHORT.search(text) is not None:
        return f"the disk took only a part of it ({text})"
    return text or type(error).__name__ if isinstance(error, OSError) else None


def flush_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def flush_folder(folder: Path) -> None:
    """Ask that the names in a folder are on the disk; done after a file took its place, so a refusal changes nothing.

    Some file systems cannot flush a folder; they say so by an error that nobody can act on.
    """
    if os.name != "posix":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def fill_file(path: Path, content: FileContent) -> None:
    """Write the content to a path, as it is."""
    if callable(content):
        content(path)
        return
    with open(path, "wb") as out:
        out.write(content.encode("utf-8") if isinstance(content, str) else content)


@cache  # once a folder: listing one of many shards for every shard would take long
def _sweep_once(folder: Path) -> None:
    """Remove the temporary files that writers which were killed have left in a folder."""
    with suppress(OSError):
        for path in folder.glob(f"{TEMPORARY}*"):
            if path.is_file() and not path.is_symlink() and is_abandoned(path):
                os.unlink(path)


@cache
def _host() -> str:
    """Six hex digits of the machine's name: a process number means something on its own machine alone."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
