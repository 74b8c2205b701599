"""Folders on disk that are either wholly the old ones or wholly the new ones.

A folder is one JSON manifest and the files it names. Files are written and flushed to the disk under names that carry
their hash, then the manifest is put in place with ``os.replace``; readers trust the manifest alone, so a crash at any
moment leaves the old state readable. Arrays are safetensors; nothing is pickled or unpickled. This file needs nothing
but the standard library, NumPy and safetensors, and knows nothing of what the folders mean.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.files import (
    TEMPORARY,
    FileContent,
    fill_file,
    flush_file,
    flush_folder,
    is_abandoned,
    new_file,
    why_unwritten,
    write_file,
)
from recbase.store.integrity import (
    check_content,
    check_inside,
    checked_entries,
    hash_file,
    is_plain_name,
    remember,
)
from recbase.store.locks import folder_lock
from recbase.store.manifests import read_json, shown
from recbase.store.reading import consistent, note_opened

__all__ = [
    "FORMAT",
    "FileContent",
    "Folder",
    "check_file",
    "check_replaceable",
    "consistent",
    "folder_lock",
    "load_arrays",
    "open_folder",
    "save_folder",
    "sha256_of",
    "tensor_bytes",
    "write_file",
]

FORMAT = 1
_DIGITS = 12
_HASHED = re.compile(rf"^(.+)\.([0-9a-f]{{{_DIGITS}}})(\.[^.]+)?$")
_HUGGING_FACE = {"architectures", "model_type", "transformers_version"}
_VERSIONS = ("semtok", "torch", "numpy", "polars", "transformers", "scikit-learn", "faiss-cpu", "faiss-gpu")


@dataclass(frozen=True)
class Folder:
    """A folder opened for reading: its manifest and the files that the manifest names.

    Attributes
    ----------
    path : Path
        The folder.
    manifest : dict
        The parsed manifest, without the book-keeping of files.
    files : dict
        Of each file its name on disk (``file``), ``sha256`` and ``bytes``.
    manifest_name : str
        Name of the manifest.
    state : tuple of int
        Tells this manifest from one that replaced it.
    """

    path: Path
    manifest: dict[str, Any]
    files: dict[str, dict[str, Any]]
    manifest_name: str = ""
    state: tuple[int, ...] | None = None

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def file(self, name: str, verify: bool = False) -> Path:
        """Path of the file that the manifest calls ``name``, whose content has the recorded size and SHA-256.

        Parameters
        ----------
        name : str
            Name without the hash, such as ``"model.safetensors"``.
        verify : bool, default False
            Hash the content also where this process has hashed this very state of the file before.

        Raises
        ------
        ValueError
            If the manifest names no such file, or the file is missing, damaged, or a link that leads out of the folder.
        """
        if name not in self.files:
            raise ValueError(f"{self.path} holds no {name}; it holds {', '.join(sorted(self.files)) or 'no files'}")
        entry = self.files[name]
        path = self.path / entry["file"]
        check_inside(path)
        try:
            check_content(path, entry["bytes"], entry["sha256"], verify)
        except FileNotFoundError:
            if self.is_replaced():
                raise ValueError(f"{self.path} was replaced since it was opened: open it again") from None
            raise ValueError(f"{path} is named by the manifest of {self.path} but is missing") from None
        return path

    @property
    def place(self) -> str:
        """The manifest's path, one for all spellings of the folder."""
        return os.path.join(os.path.realpath(self.path), self.manifest_name)

    def is_replaced(self) -> bool:
        """True if another manifest stands in the place of the one that was read."""
        return self.state != _state(self.path / self.manifest_name)

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) that the manifest records for ``name``."""
        self.file(name)
        return str(self.files[name]["sha256"])


def save_folder(
    folder: str | os.PathLike[str],
    manifest_name: str,
    kind: str,
    manifest: Mapping[str, Any],
    files: Mapping[str, FileContent],
    keep: bool = False,
    plain: bool = False,
    former: Callable[[Any], Iterable[str] | None] | None = None,
) -> Folder:
    """Write ``files`` and the manifest that names them, so that a crash leaves the old folder whole.

    One writer at a time; a second one waits. Readers see the old folder or the new one.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    manifest_name : str
        Name of the manifest, such as ``"semtok.json"``.
    kind : str
        What the folder is, such as ``"tokenizer"``; checked by :func:`open_folder`.
    manifest : mapping
        JSON-able content. The keys ``format``, ``kind``, ``files`` and ``versions`` are added here.
    files : mapping
        Name to bytes, or to a function that writes the content to the path it is given.
    keep : bool, default False
        Keep files of the old manifest that are not replaced by ``files``. Whoever has read that manifest to write a
        new one holds :func:`recbase.store.locks.folder_lock` from then on, or the work of another writer is lost.
    plain : bool, default False
        Call files by their names as they are where no other file has them, for folders that other programs read, too.
    former : callable, optional
        Is given the content of a manifest without a kind; returns the names of its files if an earlier version wrote
        it, else None.

    Raises
    ------
    OSError
        If the folder cannot be made or written (no permission, no space left), naming the path; what was there stays.
        :class:`recbase.store.locks.FolderBusyError`, which is one, if another writer holds the folder for a minute.
    ValueError
        If a file of the manifest's name is there that is no manifest of this kind: it would be lost; or the folder is a
        file. If :func:`check_replaceable` was asked for the folder and it has become something else since then.
    """
    folder = Path(folder)
    _check_folder(folder, kind)
    with folder_lock(folder, f"saving a {kind}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        if (os.path.realpath(folder), kind) in _CLAIMED and not os.path.lexists(folder / manifest_name):
            # The command asked when it began. Another one may have made something else of the folder since then.
            _check_kind(folder, kind)
        old = _replaced_files(folder, manifest_name, kind, former)
        kept = open_folder(folder, manifest_name, kind).files if keep and old else {}
        written: list[Path] = []
        try:
            entries = kept | _write_files(folder, files, plain, written)
            body = dict(manifest) | {"format": FORMAT, "kind": kind, "versions": _versions(), "files": entries}
            text = json.dumps(body, indent=1, default=_plain) + "\n"
            with new_file(folder, ".json") as temporary:
                temporary.write_bytes(text.encode("utf-8"))
                flush_file(temporary)
                os.replace(temporary, folder / manifest_name)
        except BaseException as error:
            named = _all_named(folder)
            _unlink(path for path in written if path.name not in named)
            reason = why_unwritten(error)
            if reason is None:
                raise
            raise OSError(f"cannot write to {folder}: {reason}; what it held before is kept") from error
        flush_folder(folder)
        _sweep(folder, old, {*entries, manifest_name})
        return open_folder(folder, manifest_name, kind)


def open_folder(
    folder: str | os.PathLike[str],
    manifest_name: str,
    kind: str,
    check: Callable[[dict[str, Any]], None] | None = None,
    by_hand: bool = False,
) -> Folder:
    """Read the manifest of ``folder``.

    Parameters
    ----------
    folder : path
    manifest_name : str
    kind : str
    check : callable, optional
        Is given the manifest's content; raises ValueError where an entry is missing or of another type.
    by_hand : bool, default False
        Take a manifest without a kind, as people write it by hand.

    Raises
    ------
    FileNotFoundError
        If the folder or its manifest does not exist.
    ValueError
        If the manifest is not JSON, is of another kind, of a newer format than this version reads, or names files in
        any other way than by plain names inside the folder.
    """
    folder = Path(folder)
    path = folder / manifest_name
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected a saved {kind} there")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {manifest_name}, so it is not a saved {kind}")
    check_inside(path)
    state = _state(path)  # before it is read: a manifest that is put in place in between counts as another one
    body = read_json(path)
    if not isinstance(body, dict) or body.get("kind", kind if by_hand else None) != kind:
        found = body.get("kind", "manifest without a kind") if isinstance(body, dict) else type(body).__name__
        found = found[:60] if isinstance(found, str) else f"manifest of kind {shown(found)}"
        raise ValueError(f"{folder} holds a {found}, expected a {kind}")
    number = body.get("format", FORMAT)
    if type(number) is not int or number < 1:
        raise ValueError(f"{path} has format {shown(number)}; expected a whole number from 1 to {FORMAT}")
    if number > FORMAT:
        raise ValueError(f"{path} has format {shown(number)}; this version reads up to {FORMAT}: update semtok")
    files = checked_entries(body.pop("files", {}), path)
    if check is not None:
        try:
            check(body)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    opened = Folder(folder, body, files, manifest_name, state)
    note_opened(opened)
    return opened


def tensor_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise NumPy arrays or torch tensors (moved to the CPU) as safetensors bytes."""
    if any(not isinstance(value, np.ndarray) for value in tensors.values()):
        import torch
        from safetensors.torch import save

        as_torch = {
            name: (torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()).cpu().contiguous()
            for name, value in tensors.items()
        }
        return save(as_torch, dict(metadata) if metadata else None)
    from safetensors.numpy import save as save_numpy

    arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    return save_numpy(arrays, dict(metadata) if metadata else None)


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a safetensors file into NumPy arrays.

    Raises
    ------
    ValueError
        If the file is truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, EOFError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}): truncated or damaged") from error


def sha256_of(*parts: np.ndarray | bytes | str) -> str:
    """Hex SHA-256 over parts; an array counts with its dtype, shape and content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data if part.size else b"")
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\x00")
    return digest.hexdigest()


def check_replaceable(
    folder: str | os.PathLike[str],
    manifest_name: str,
    kind: str,
    former: Callable[[Any], Iterable[str] | None] | None = None,
) -> None:
    """Refuse a folder that :func:`save_folder` would refuse, or that is something else already.

    For commands, which work for long before they save and are given a folder by mistake more often than by intent.

    Raises
    ------
    ValueError
        If the folder holds a file of the manifest's name that is no manifest of this kind, or holds one of ours of
        another kind or a Hugging Face model, or is a file itself.
    """
    folder = Path(folder)
    _check_folder(folder, kind)
    if not os.path.lexists(folder / manifest_name):
        _check_kind(folder, kind)
    _CLAIMED.add((os.path.realpath(folder), kind))
    _replaced_files(folder, manifest_name, kind, former)


def check_file(path: str | os.PathLike[str], *inputs: str | os.PathLike[str] | None) -> None:
    """Refuse a file to be written that a folder of ours needs, or that the command reads.

    Parameters
    ----------
    path : path
    inputs : path or None
        Files that are read.

    Raises
    ------
    ValueError
        If the file is one of ``inputs``, the manifest of a folder of ours, or named by it.
    """
    target = Path(os.path.realpath(path))
    if not target.is_file():
        return
    if any(given is not None and os.path.realpath(given) == str(target) for given in inputs):
        raise ValueError(f"{path} is what the command reads, and would be lost: give another file to write")
    for manifest in target.parent.glob(_MANIFESTS):
        held = None
        with suppress(OSError, ValueError):
            body = read_json(manifest)
            if isinstance(body, dict) and "format" in body and isinstance(body.get("files"), dict):
                names = {entry["file"] for entry in checked_entries(body["files"], manifest).values()}
                held = body.get("kind") if target.name in names | {manifest.name} else None
        if isinstance(held, str):
            raise ValueError(f"{path} is a part of the {held} in {target.parent}, and would be lost: give another file")


def _check_folder(folder: Path, kind: str) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
        raise ValueError(f"{folder} is {what}; expected a folder for a {kind}")


def _replaced_files(
    folder: Path, manifest_name: str, kind: str, former: Callable[[Any], Iterable[str] | None] | None = None
) -> set[str]:
    """Names on disk of the files whose manifest is about to be replaced; none where there is no manifest yet."""
    path = folder / manifest_name
    if not os.path.lexists(path):
        return set()
    held = None
    with suppress(OSError, ValueError):
        body = read_json(path)
        if isinstance(body, dict):
            held = body.get("kind")
            if held == kind and type(body.get("format")) is int:
                return {entry["file"] for entry in checked_entries(body.get("files", {}), path).values()}
            names = former(body) if former is not None and "kind" not in body else None
            if names is not None:
                return {name for name in names if is_plain_name(name)}
    what = f"of a {held}" if isinstance(held, str) and held != kind else "none of ours"
    raise ValueError(
        f"cannot save a {kind} in {folder}: the {manifest_name} there is {what} and would be lost; give another folder"
    )


_CLAIMED: set[tuple[str, str]] = set()  # folders that commands of this process asked for, with what each shall become
_MANIFESTS = "[!.]*.json"  # a manifest that another writer is just putting in place has a dot before its name


def _check_kind(folder: Path, kind: str) -> None:
    """Refuse a folder that is something else already: one of ours of another kind, or a Hugging Face model."""
    for path in sorted(folder.glob(_MANIFESTS)):
        with suppress(OSError, ValueError):
            body = read_json(path)
            if not isinstance(body, dict):
                continue
            held = body.get("kind")
            if not (isinstance(held, str) and isinstance(body.get("files"), dict) and "format" in body):
                held = "Hugging Face model" if path.name == "config.json" and _HUGGING_FACE & set(body) else None
            if held is not None:
                break
    else:
        return
    what = kind if kind.endswith("s") else f"a {kind}"
    raise ValueError(f"cannot save {what} in {folder}: it holds a {held} ({path.name}); give another folder")


def _write_files(
    folder: Path, files: Mapping[str, FileContent], plain: bool, written: list[Path]
) -> dict[str, dict[str, Any]]:
    """Write all files, then give all of them their names, which carry their hashes; returns the manifest's entries."""
    entries: dict[str, dict[str, Any]] = {}
    with ExitStack() as unfinished:
        made: list[tuple[Path, str]] = []
        for name, content in files.items():
            temporary = unfinished.enter_context(new_file(folder, Path(name).suffix))
            fill_file(temporary, content)
            flush_file(temporary)
            digest = hash_file(temporary)
            made.append((temporary, digest))
            entries[name] = {"file": name, "sha256": digest, "bytes": temporary.stat().st_size}
        for (name, entry), (temporary, digest) in zip(entries.items(), made, strict=True):
            target = folder / name
            if not plain or (os.path.lexists(target) and not _has_hash(target, digest)):
                target = folder / f"{Path(name).stem}.{digest[:_DIGITS]}{Path(name).suffix}"
            if not os.path.lexists(target):
                written.append(target)
            os.replace(temporary, target)
            remember(target, digest)
            entry["file"] = target.name
    return entries


def _has_hash(path: Path, beginning: str) -> bool:
    with suppress(OSError):
        return path.is_file() and not path.is_symlink() and hash_file(path).startswith(beginning)
    return False


def _all_named(folder: Path) -> set[str]:
    """Files that any manifest in the folder names: two manifests may share one folder."""
    named: set[str] = set()
    for path in folder.glob(_MANIFESTS):
        with suppress(OSError, ValueError, AttributeError):
            named |= {entry["file"] for entry in checked_entries(read_json(path).get("files", {}), path).values()}
    return named


def _sweep(folder: Path, old: set[str], names: set[str]) -> None:
    """Remove what the replaced manifest named, and what writers that were killed have left.

    A file that a killed writer had given its name already is known by it: it carries the hash of the file's content.
    """
    named = _all_named(folder)
    names |= {f"{found[1]}{found[3] or ''}" for found in map(_HASHED.match, old) if found}
    former = {f"{TEMPORARY}{name}" for name in names}  # as earlier versions called what they were writing
    for path in folder.iterdir():
        if path.name in named or path.is_symlink() or not path.is_file():
            continue
        if path.name in old or path.name in former or is_abandoned(path) or _is_orphan(path, names):
            _unlink([path])


def _is_orphan(path: Path, names: set[str]) -> bool:
    found = _HASHED.match(path.name)
    return found is not None and f"{found[1]}{found[3] or ''}" in names and _has_hash(path, found[2])


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, ...] | None:
    """Tells one manifest from the next: each is a new file."""
    with suppress(OSError):
        said = path.stat()
        return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns
    return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """JSON form of NumPy scalars, arrays and paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, slice):
        return [value.start, value.stop]
    raise TypeError(f"a manifest cannot hold a {type(value).__name__}: {value!r}")
