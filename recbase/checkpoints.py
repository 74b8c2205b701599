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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "Folder", "load_arrays", "open_folder", "save_folder", "sha256_of", "tensor_bytes"]

FORMAT = 1
_DIGITS = 12
_HASHED = re.compile(rf"^.+\.[0-9a-f]{{{_DIGITS}}}(\.[A-Za-z0-9]+)?$")
_TEMPORARY = ".writing-"
_VERSIONS = ("semtok", "torch", "numpy", "polars", "transformers", "scikit-learn", "faiss-cpu", "faiss-gpu")

FileContent = bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Folder:
    """A folder opened for reading: its manifest and the files that the manifest names.

    Attributes
    ----------
    path : Path
        The folder.
    manifest : dict
        The parsed manifest, without the book-keeping of files.
    """

    path: Path
    manifest: dict[str, Any]
    files: dict[str, dict[str, Any]]

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def file(self, name: str, verify: bool = False) -> Path:
        """Path of the file that the manifest calls ``name``.

        Parameters
        ----------
        name : str
            Name without the hash, such as ``"model.safetensors"``.
        verify : bool, default False
            Hash the content again; otherwise only its size is compared.

        Raises
        ------
        ValueError
            If the manifest names no such file, or the file is missing, truncated or (with ``verify``) changed.
        """
        if name not in self.files:
            raise ValueError(f"{self.path} holds no {name}; it holds {', '.join(sorted(self.files)) or 'no files'}")
        entry = self.files[name]
        path = self.path / entry["file"]
        if not path.is_file():
            raise ValueError(f"{path} is named by the manifest of {self.path} but is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ValueError(f"{path} has {size} bytes but its manifest says {entry['bytes']}: the file is damaged")
        if verify and _hash_file(path) != entry["sha256"]:
            raise ValueError(f"{path} does not have the hash its manifest gives: the file is damaged")
        return path

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
) -> Folder:
    """Write ``files`` and the manifest that names them, so that a crash leaves the old folder whole.

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
        Keep files of the old manifest that are not replaced by ``files``.

    Raises
    ------
    OSError
        If the folder cannot be made or written (no permission, no space left), naming the path; what was there stays.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    entries: dict[str, dict[str, Any]] = {}
    if keep and (folder / manifest_name).is_file():
        entries.update(open_folder(folder, manifest_name, kind).files)
    written: list[Path] = []
    try:
        for name, content in files.items():
            entries[name] = _write_file(folder, name, content, written)
        body = dict(manifest) | {"format": FORMAT, "kind": kind, "versions": _versions(), "files": entries}
        temporary = folder / f"{_TEMPORARY}{manifest_name}"
        with open(temporary, "w", encoding="utf-8") as out:
            json.dump(body, out, indent=1, default=_plain)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, folder / manifest_name)
        _flush_folder(folder)
    except OSError as error:
        named = _named_files(folder, manifest_name)
        for path in [*written, *folder.glob(f"{_TEMPORARY}*")]:
            if path.name not in named:
                path.unlink(missing_ok=True)
        raise OSError(f"cannot write to {folder}: {error.strerror or error}; what it held before is kept") from error
    _sweep(folder, {entry["file"] for entry in entries.values()} | _all_named(folder))
    return open_folder(folder, manifest_name, kind)


def open_folder(folder: str | os.PathLike[str], manifest_name: str, kind: str) -> Folder:
    """Read the manifest of ``folder``.

    Raises
    ------
    FileNotFoundError
        If the folder or its manifest does not exist.
    ValueError
        If the manifest is not JSON, is of another kind, or of a newer format than this version reads.
    """
    folder = Path(folder)
    path = folder / manifest_name
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected a saved {kind} there")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {manifest_name}, so it is not a saved {kind}")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(body, dict) or body.get("kind", kind) != kind:
        found = body.get("kind") if isinstance(body, dict) else type(body).__name__
        raise ValueError(f"{folder} holds a {found}, expected a {kind}")
    if body.get("format", FORMAT) > FORMAT:
        raise ValueError(f"{path} has format {body['format']}; this version reads up to {FORMAT}: update semtok")
    files = body.pop("files", {})
    return Folder(folder, body, files)


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


def _write_file(folder: Path, name: str, content: FileContent, written: list[Path]) -> dict[str, Any]:
    temporary = folder / f"{_TEMPORARY}{name}"
    if isinstance(content, bytes):
        with open(temporary, "wb") as out:
            out.write(content)
    else:
        content(temporary)
    with open(temporary, "rb+") as handle:
        os.fsync(handle.fileno())
    digest = _hash_file(temporary)
    stem, suffix = Path(name).stem, Path(name).suffix
    target = folder / f"{stem}.{digest[:_DIGITS]}{suffix}"
    size = temporary.stat().st_size
    os.replace(temporary, target)
    written.append(target)
    return {"file": target.name, "sha256": digest, "bytes": size}


def _hash_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _named_files(folder: Path, manifest_name: str) -> set[str]:
    try:
        files = json.loads((folder / manifest_name).read_text(encoding="utf-8")).get("files", {})
        return {entry["file"] for entry in files.values()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return set()


def _all_named(folder: Path) -> set[str]:
    """Files that any manifest in the folder names: two manifests may share one folder."""
    return set().union(*(_named_files(folder, path.name) for path in folder.glob("*.json")))


def _sweep(folder: Path, named: set[str]) -> None:
    for path in folder.iterdir():
        stale = _HASHED.match(path.name) is not None or path.name.startswith(_TEMPORARY)
        if path.is_file() and stale and path.name not in named:
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
