"""Checks of what a folder's manifest names: plain names inside the folder, and content with the recorded SHA-256.

Knows nothing of how folders are written.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

__all__ = [
    "check_content",
    "check_inside",
    "checked_entries",
    "hash_file",
    "is_plain_name",
    "remember",
]

_LONGEST_NAME = 255  # bytes, where file systems end
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_State = tuple[int, int, int, int]
# Hashes of files that this process has read or written, by path; a file counts as the same one while its device,
# number, size and time of change are.
_KNOWN: dict[str, tuple[_State, str]] = {}


def is_plain_name(name: object) -> bool:
    """True of the name of a file in a folder: no separators, no way out of it."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        return False
    return not any(sign in name for sign in ("/", "\\", "\0", ":"))


def checked_entries(files: Any, path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a manifest's files, each with ``file``, ``sha256`` and ``bytes``.

    Raises
    ------
    ValueError
        If something else stands there, naming the manifest, the entry and what was expected.
    """
    if not isinstance(files, dict):
        raise ValueError(f"{path}: its entry 'files' is a {type(files).__name__}; expected an object of files")
    for name, entry in files.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: its file {name!r} is a {type(entry).__name__}; expected file, sha256 and bytes")
        for key in ("file", "sha256", "bytes"):
            if key not in entry:
                raise ValueError(f"{path}: its file {name!r} has no {key!r}; expected file, sha256 and bytes")
        if not is_plain_name(entry["file"]):
            raise ValueError(
                f"{path}: its file {name!r} lies at {_short(entry['file'])}; expected a plain name in the folder"
            )
        if not isinstance(entry["sha256"], str) or _SHA256.match(entry["sha256"]) is None:
            raise ValueError(
                f"{path}: the sha256 of {name!r} is {_short(entry['sha256'])}; expected 64 hexadecimal digits"
            )
        if type(entry["bytes"]) is not int or entry["bytes"] < 0:
            raise ValueError(
                f"{path}: the bytes of {name!r} are {_short(entry['bytes'])}; expected a whole number from 0"
            )
    return dict(files)


def check_inside(path: Path) -> None:
    """Refuse a link that leads out of its folder.

    The snapshots of Hugging Face's cache are links into the ``blobs`` beside them; these are followed.

    Raises
    ------
    ValueError
        If it does.
    """
    if not path.is_symlink():
        return
    folder = path.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    target = path.resolve()
    if not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(f"{path} is a link to {target}, outside its folder: it is not read")


def check_content(path: Path, size: int, sha256: str, again: bool = False) -> None:
    """Compare a file with the size and the hash that were recorded; hashed once per process and state of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another content.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    found = _state(path)
    if found[2] != size:
        raise ValueError(f"{path} has {found[2]} bytes but its manifest says {size}: the file is damaged")
    place = os.path.realpath(path)
    if not again and _KNOWN.get(place) == (found, sha256):
        return
    if hash_file(path) != sha256:
        raise ValueError(f"{path} does not have the hash its manifest gives: the file is damaged")
    _KNOWN[place] = (found, sha256)


def remember(path: Path, sha256: str) -> None:
    """Note the hash of a file that this process has just written and hashed."""
    _KNOWN[os.path.realpath(path)] = (_state(path), sha256)


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _state(path: Path) -> _State:
    said = path.stat()
    return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
