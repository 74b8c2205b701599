"""Item vectors in many files, together larger than memory.

A folder of shards holds ``part-00000.safetensors``, ``part-00001.safetensors`` ... (or ``.parquet``), each with the
rows that follow those of the one before. Rows are read where they are asked for, so what streams never holds the whole.
Knows nothing of tokenizers or codes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import sha256_of, tensor_bytes, write_file
from semtok.content.vector_files import float8_values

__all__ = [
    "ShardedArray",
    "ShardedEmbeddings",
    "is_sharded",
    "write_shard",
]

IDS = "item_id"
_MISSING = ".missing"
_ORDER = "views"  # entry of a shard's metadata: safetensors itself keeps no order
_SHARD = re.compile(r"^part-(\d+)\.(safetensors|parquet)$")
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "F8_E4M3": "|u1", "F8_E5M2": "|u1"}
_OTHERS = {"I64": "<i8", "I32": "<i4", "BOOL": "|b1", "U8": "|u1"}


# --------------------------------------------------------------------------------------- one shard


@dataclass(frozen=True)
class _Piece:
    """A run of rows that is read from one place: a safetensors file, or one row group of a Parquet file."""

    path: Path
    group: int
    rows: int
    shard: int


@dataclass(frozen=True)
class _Tensor:
    kind: str
    shape: tuple[int, ...]
    offset: int


def _tensors(path: Path) -> dict[str, _Tensor]:
    """Positions of the tensors of a safetensors file."""
    said = path.stat()
    return _header(path, said.st_size, said.st_mtime_ns)


@lru_cache(maxsize=4096)
def _header(path: Path, size: int, changed: int) -> dict[str, _Tensor]:
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(handle.read(length))
        order = json.loads((header.pop("__metadata__", None) or {}).get(_ORDER, "[]"))
        header = {name: header[name] for name in [*order, *(name for name in header if name not in order)]}
        found = {
            name: _Tensor(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        end = max((8 + length + entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    if end > size:
        raise ValueError(f"{path} has {size} bytes but its header speaks of {end}: the file is truncated")
    return found


def _mapped(path: Path, tensor: _Tensor) -> np.ndarray:
    """A tensor of a file, not read yet; the map is dropped with the array, so that no pages stay behind."""
    kind = (_FLOATS | _OTHERS).get(tensor.kind)
    if kind is None:
        raise ValueError(f"{path} holds numbers of type {tensor.kind}; expected {', '.join(_FLOATS)}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=tensor.offset, shape=tensor.shape)


def _floats(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if kind.startswith("F8"):
        return float8_values(kind)[values]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _read(piece: _Piece, views: Mapping[str, tuple[int, tuple[str, ...]]], rows: Any) -> dict[str, np.ndarray]:
    """Some rows of a piece, float32 [n, D] a view."""
    if piece.path.suffix == ".safetensors":
        tensors = _tensors(piece.path)
        return {name: _floats(_mapped(piece.path, tensors[name])[rows], tensors[name].kind) for name in views}
    changed = piece.path.stat().st_mtime_ns
    groups = _row_group(piece.path, piece.group, tuple(columns for _, columns in views.values()), changed)
    return {name: vectors[rows] for name, vectors in zip(views, groups, strict=True)}


@lru_cache(maxsize=1)  # chunks are read one after the other, so the next one is most often of the same row group
def _row_group(path: Path, group: int, views: tuple[tuple[str, ...], ...], changed: int) -> list[np.ndarray]:
    """A row group of a Parquet file: float32 [n, D] for each view, whose columns are given."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read_row_group(group, columns=[name for columns in views for name in columns])
    found = []
    for columns in views:
        parts = []
        for name in columns:
            column = table.column(name).combine_chunks()
            if column.null_count:
                raise ValueError(f"{path} has {column.null_count} empty entries in the column {name!r}")
            flat = column.flatten() if hasattr(column.type, "value_type") else column
            values = flat.to_numpy(zero_copy_only=False)
            if len(values) % max(len(table), 1):
                raise ValueError(f"{path} has lists of different lengths in the column {name!r}")
            parts.append(_floats(values.reshape(len(table), -1), "F32"))
        found.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
    return found


_Views = dict[str, tuple[int, tuple[str, ...]]]  # of each view its width, and the columns it is read from


def _describe_safetensors(path: Path) -> tuple[_Views, list[int], set[str]]:
    """The views of a shard, the rows of its one piece, and its other tensors."""
    found = _tensors(path)
    views = {name: entry.shape[1] for name, entry in found.items() if len(entry.shape) == 2 and entry.kind in _FLOATS}
    if not views:
        raise ValueError(f"{path} holds no vectors: expected tensors [n, D] of {', '.join(_FLOATS)}, one a view")
    counts = {entry.shape[0] for name, entry in found.items() if name in views or name == IDS}
    if len(counts) != 1:
        raise ValueError(f"the tensors of {path} have {', '.join(map(str, sorted(counts)))} rows; expected one number")
    return {name: (width, (name,)) for name, width in views.items()}, [counts.pop()], set(found) - set(views)


def _describe_parquet(path: Path) -> tuple[_Views, list[int], set[str]]:
    """The views of a shard, the rows of each row group, and the column of ids if there is one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    schema = opened.schema_arrow
    rows = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    views: _Views = {}
    for field in schema:
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type):
            views[field.name] = (field.type.list_size, (field.name,))
        elif hasattr(field.type, "value_type") and pa.types.is_floating(field.type.value_type):
            first = opened.iter_batches(batch_size=1, columns=[field.name])  # the first list says how long all are
            views[field.name] = (next((len(batch.column(0)[0]) for batch in first if len(batch)), 0), (field.name,))
    if not views:
        plain = tuple(field.name for field in schema if pa.types.is_floating(field.type))
        if not plain:
            raise ValueError(f"{path} has no vectors: expected columns of lists of floats, or many columns of floats")
        views = {"item": (len(plain), plain)}
    return views, rows, {IDS} & set(schema.names)


# --------------------------------------------------------------------------------------- all shards


class ShardedArray:
    """Rows of all shards as one float32 array [N, D] that is read where it is indexed.

    ``array[lo:hi]``, ``array[rows]`` and ``array[mask]`` give NumPy arrays; ``np.asarray(array)`` reads everything.
    """

    streams = True  # tokenizers read it chunk by chunk
    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        pieces: Sequence[_Piece],
        views: Mapping[str, tuple[int, tuple[str, ...]]],
        normalize: bool = False,
        missing: Mapping[str, np.ndarray] | None = None,
        first: int = 0,
    ) -> None:
        self._pieces = list(pieces)
        self._views = dict(views)
        self._normalize = normalize
        self._missing = dict(missing or {})
        self._first = first
        self._starts = np.cumsum([0, *(piece.rows for piece in self._pieces)])
        self.shape = (int(self._starts[-1]), sum(width for width, _ in self._views.values()))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShardedArray({self.shape[0]} rows of {self.shape[1]} columns in {self.shards} shards)"

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len({piece.shard for piece in self._pieces})

    def shard(self, number: int) -> ShardedArray:
        """The rows of one shard, as an array of the same kind."""
        mine = [place for place, piece in enumerate(self._pieces) if piece.shard == number]
        if not mine:
            raise ValueError(f"shard {number} is not there; there are shards 0 to {self.shards - 1}")
        pieces = self._pieces[mine[0] : mine[-1] + 1]
        first = self._first + int(self._starts[mine[0]])
        return ShardedArray(pieces, self._views, self._normalize, self._missing, first)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            lo, hi, step = rows.indices(len(self))
            if step == 1:
                return self._span(lo, max(lo, hi))
            rows = np.arange(lo, hi, step)
        if isinstance(rows, tuple):
            raise TypeError("a ShardedArray is indexed by rows alone; take the columns of what it returns")
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(f"the mask has shape {index.shape}; expected ({len(self)},)")
            index = np.flatnonzero(index)
        if index.ndim == 0:
            return self._rows(index.reshape(1))[0]
        return self._rows(index.astype(np.int64))

    def _span(self, lo: int, hi: int) -> np.ndarray:
        found = np.empty((hi - lo, self.shape[1]), dtype=np.float32)
        begin, end = np.searchsorted(self._starts, (lo, hi), side="right") - 1
        for place in range(max(int(begin), 0), min(int(end) + 1, len(self._pieces))):
            piece, start = self._pieces[place], int(self._starts[place])
            first, last = max(lo, start), min(hi, start + piece.rows)
            if first < last:
                self._fill(found[first - lo : last - lo], piece, slice(first - start, last - start), start)
        return found

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"row {int(rows.max())} is not there; there are {len(self)} rows")
        found = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        places = np.searchsorted(self._starts, rows, side="right") - 1
        for place in np.unique(places):
            mine = np.flatnonzero(places == place)
            start = int(self._starts[place])
            part = np.empty((len(mine), self.shape[1]), dtype=np.float32)
            self._fill(part, self._pieces[place], rows[mine] - start, start)
            found[mine] = part
        return found

    def _fill(self, out: np.ndarray, piece: _Piece, rows: Any, start: int) -> None:
        """Put some rows of a piece, which starts at row ``start``, into ``out``."""
        at = 0
        for name, vectors in _read(piece, self._views, rows).items():
            width = self._views[name][0]
            if vectors.shape[1] != width:
                raise ValueError(f"{piece.path} has vectors of width {vectors.shape[1]} in {name!r}; expected {width}")
            if self._normalize:
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.where(lengths > 0, lengths, 1.0)
            out[:, at : at + width] = vectors
            if name in self._missing:
                first = self._first + start
                mask = self._missing[name][first : first + piece.rows][rows]
                out[mask, at : at + width] = 0
            at += width


class ShardedEmbeddings:
    """Vectors of a catalogue in shards: what ``Embeddings`` answers, without holding the vectors.

    Parameters
    ----------
    folder : path
        Holds ``part-00000.safetensors``, ``part-00001.safetensors`` ... : a tensor [n, D] a view, of the same widths in
        every shard (in the order that ``write_shard`` notes, else in that of the file); ``item_id`` int64 [n] and
        ``VIEW.missing`` bool [n] where there are such. Or ``.parquet``: a column of lists of floats a view, or many
        columns of floats that are one view "item"; ``item_id`` (strings or integers); other columns are ignored, and
        one row group at a time is read. Items without ids are numbered from 0.

    Raises
    ------
    FileNotFoundError
        If there are no shards.
    ValueError
        If a shard is damaged or missing, holds no vectors, or other views than the first one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.paths = _shard_paths(self.folder)
        self.manifest: dict[str, Any] = {}
        self._pieces: list[_Piece] = []
        self._views: _Views = {}
        self._extra: list[set[str]] = []
        for shard, path in enumerate(self.paths):
            describe = _describe_safetensors if path.suffix == ".safetensors" else _describe_parquet
            views, groups, extra = describe(path)
            if shard and views != self._views:
                raise ValueError(
                    f"{path} holds {_said(views)} but {self.paths[0]} holds {_said(self._views)}: "
                    "the shards do not belong together"
                )
            self._views = self._views or views
            self._extra.append(extra)
            self._pieces += [_Piece(path, group, rows, shard) for group, rows in enumerate(groups)]

    def __len__(self) -> int:
        return sum(piece.rows for piece in self._pieces)

    def __repr__(self) -> str:
        return f"ShardedEmbeddings({len(self)} items in {len(self.paths)} shards, {_said(self._views)})"

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.paths)

    @property
    def views(self) -> dict[str, ShardedArray]:
        """The array of each view."""
        return {name: ShardedArray(self._pieces, {name: view}) for name, view in self._views.items()}

    @cached_property
    def item_ids(self) -> np.ndarray:
        """The raw ids: str or int64 [N]."""
        having = [IDS in extra for extra in self._extra]
        if not any(having):
            return np.arange(len(self))
        if not all(having):
            raise ValueError(f"{self.paths[having.index(False)]} has no {IDS} though other shards have")
        return np.concatenate([self.shard_ids(shard) for shard in range(self.shards)])

    def shard_rows(self, number: int) -> int:
        """Items of one shard."""
        return sum(piece.rows for piece in self._pieces if piece.shard == number)

    def shard_ids(self, number: int) -> np.ndarray:
        """The raw ids of one shard's items."""
        path = self.paths[number]
        if IDS not in self._extra[number]:
            before = sum(piece.rows for piece in self._pieces if piece.shard < number)
            return np.arange(before, before + self.shard_rows(number))
        if path.suffix == ".safetensors":
            return np.array(_mapped(path, _tensors(path)[IDS])).astype(np.int64)
        import polars as pl

        column = pl.read_parquet(path, columns=[IDS])[IDS]
        return column.to_numpy() if column.dtype.is_integer() else np.array(column.to_list(), dtype=str)

    @cached_property
    def missing(self) -> dict[str, np.ndarray]:
        """Marks of the missing entries of each view: bool [N]."""
        found = {name: np.zeros(len(self), dtype=bool) for name in self._views}
        start = 0
        for piece in self._pieces:
            for name in self._views:
                if name + _MISSING in self._extra[piece.shard]:
                    entry = _tensors(piece.path)[name + _MISSING]
                    found[name][start : start + piece.rows] = _mapped(piece.path, entry)
            start += piece.rows
        return found

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all shards, which are read for it."""
        parts = []
        for path in self.paths:
            with open(path, "rb") as handle:
                parts.append(f"{path.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}")
        return sha256_of(*parts)

    def matrix(
        self, views: Iterable[str] | None = None, normalize: bool = False, blank: bool = False
    ) -> tuple[ShardedArray, dict[str, slice]]:
        """The views side by side, not read yet; see ``Embeddings.matrix``.

        Raises
        ------
        ValueError
            If a view is not here.
        """
        names = list(self._views) if views is None else list(views)
        columns, start = {}, 0
        for name in names:
            if name not in self._views:
                raise ValueError(f"view {name!r} is missing; there are {', '.join(self._views)}")
            columns[name] = slice(start, start + self._views[name][0])
            start = columns[name].stop
        chosen = {name: self._views[name] for name in names}
        return ShardedArray(self._pieces, chosen, normalize, self.missing if blank else None), columns

    def align(self, item_ids: Any) -> ShardedEmbeddings:
        """This, if its items are exactly these in this order; shards are not put into another order.

        Raises
        ------
        ValueError
            If they are not.
        """
        wanted = np.asarray(item_ids.to_list() if hasattr(item_ids, "to_list") else item_ids)
        if len(wanted) != len(self) or not np.array_equal(wanted.astype(str), self.item_ids.astype(str)):
            raise ValueError(
                f"the shards in {self.folder} are of {len(self)} items such as {self.item_ids[0].item()!r} but the "
                f"data set has {len(wanted)} such as {wanted[0].item()!r}; expected the same items in the same order"
            )
        return self


def is_sharded(folder: str | os.PathLike[str]) -> bool:
    """True where a folder holds shards of vectors."""
    return Path(folder).is_dir() and any(_SHARD.match(path.name) for path in Path(folder).iterdir())


def write_shard(
    folder: str | os.PathLike[str],
    number: int,
    views: Mapping[str, np.ndarray],
    item_ids: np.ndarray | None = None,
    missing: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write one shard of vectors as ``part-NUMBER.safetensors``.

    Parameters
    ----------
    folder : path
        Made if missing.
    number : int
        From 0; its rows follow those of the shard before.
    views : mapping of str to float [n, D]
        float32 or float16.
    item_ids : int array [n], optional
        Items are numbered from 0 over all shards if not given.
    missing : mapping of str to bool [n], optional
        Which entries of a view are missing.

    Raises
    ------
    ValueError
        If ids are not integers (shards with other ids are written as Parquet).
    OSError
        If the file cannot be written.
    """
    arrays = dict(views)
    if item_ids is not None:
        if np.asarray(item_ids).dtype.kind not in "iu":
            raise ValueError("a safetensors shard holds integer ids; write Parquet where they are strings")
        arrays[IDS] = np.asarray(item_ids, dtype=np.int64)
    arrays |= {name + _MISSING: np.asarray(mask, dtype=bool) for name, mask in (missing or {}).items()}
    path = Path(folder) / f"part-{number:05d}.safetensors"
    write_file(path, tensor_bytes(arrays, {_ORDER: json.dumps(list(views))}))
    return path


def _shard_paths(folder: Path) -> list[Path]:
    found = {path: match for path in folder.iterdir() if (match := _SHARD.match(path.name))} if folder.is_dir() else {}
    if not found:
        raise FileNotFoundError(f"{folder} holds no shards; expected part-00000.safetensors or part-00000.parquet ...")
    paths = sorted(found, key=lambda path: int(found[path][1]))
    numbers = [int(found[path][1]) for path in paths]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        wanted = next(n for n in range(numbers[0] if numbers[0] < 2 else 0, numbers[-1] + 1) if numbers.count(n) != 1)
        raise ValueError(f"{folder} has {numbers.count(wanted)} files part-{wanted:05d}; expected one of every number")
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{folder} mixes shards of .safetensors and .parquet; expected one kind")
    return paths


def _said(views: Mapping[str, tuple[int, tuple[str, ...]]]) -> str:
    return ", ".join(f"{name} {width}" for name, (width, _) in views.items())
