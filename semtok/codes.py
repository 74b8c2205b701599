"""Item codes: the table that says which tuple of codes each item has.

The one thing tokenizers hand to recommenders. Knows nothing of how the codes were made; needs NumPy, and polars where a
table is read or written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import FileContent, Folder, consistent, save_folder, sha256_of, tensor_bytes, write_file
from recbase.store.restoring import read_table
from semtok.codecs.schemas import KIND, MANIFEST, MOST_CODES, open_tokenizer

__all__ = ["CODES_FILE", "KIND", "MANIFEST", "Collisions", "ItemCodes", "load_codes", "read_code_table"]

CODES_FILE = "codes.parquet"
_SHOWN = 3


@dataclass(frozen=True)
class Collisions:
    """Counts of the items that share their tuple of codes with another item.

    Attributes
    ----------
    items : int
        Items whose tuple belongs to more than one item.
    groups : int
        Tuples that belong to more than one item.
    largest : int
        Items in the largest group (1 where no two items collide, 0 without items).
    distinct : int
        Different tuples.
    total : int
        All items.
    """

    items: int
    groups: int
    largest: int
    distinct: int
    total: int

    @property
    def rate(self) -> float:
        """Share of the items that collide."""
        return self.items / self.total if self.total else 0.0


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """Codes of every item of a catalogue.

    Parameters
    ----------
    codes : array of int [N, L]
        Codes of each item, one column a level; kept as int32.
    sizes : sequence of int [L]
        Codes of each level: column ``l`` holds 0 .. ``sizes[l] - 1``.
    item_ids : array of str or int [N]
        Identifier of the item in each row; no two may be equal.
    blocks : dict of str to slice, optional
        Which columns belong together (the views of the items). One block ``"item"`` of all columns by default.

    Raises
    ------
    ValueError
        If shapes do not fit, a code is out of range, an item id occurs twice, or a block lies outside the columns.

    Examples
    --------
    >>> codes = ItemCodes(np.array([[0, 1], [2, 1]]), sizes=(3, 2), item_ids=np.array(["a", "b"]))
    >>> codes.unique
    True
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    item_ids: np.ndarray
    blocks: dict[str, slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.sizes)
        codes = _checked_codes(self.codes, sizes)
        item_ids = _checked_ids(self.item_ids, len(codes))
        given = self.blocks or {"item": slice(0, len(sizes))}
        blocks = {str(name): slice(*_bounds(part)) for name, part in given.items()}
        for name, part in blocks.items():
            if not 0 <= part.start < part.stop <= len(sizes):
                raise ValueError(
                    f"block {name!r} is columns {part.start} to {part.stop} but codes has {len(sizes)} columns"
                )
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "item_ids", item_ids)
        object.__setattr__(self, "blocks", blocks)

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ItemCodes) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash[:16], 16)

    def __repr__(self) -> str:
        return f"ItemCodes({len(self)} items, sizes={self.sizes}, blocks={list(self.blocks)})"

    @property
    def levels(self) -> int:
        """Codes of one item, L."""
        return len(self.sizes)

    @property
    def unique(self) -> bool:
        """True where no two items have the same tuple."""
        return self.collisions().groups == 0

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of codes, sizes, blocks and item ids."""
        blocks = [(name, part.start, part.stop) for name, part in self.blocks.items()]
        return sha256_of(self.codes, repr((self.sizes, blocks)), _id_bytes(self.item_ids))

    def groups(self) -> np.ndarray:
        """Number of the tuple of each item: int64 [N], equal for items with equal codes, in lexicographic order."""
        key = np.zeros(len(self), dtype=np.int64)
        span = 1
        for column, size in zip(self.codes.T, self.sizes, strict=True):
            if span > 2**62 // size:
                key = np.unique(key, return_inverse=True)[1].astype(np.int64)
                span = len(self)
            key = key * size + column
            span *= size
        return np.unique(key, return_inverse=True)[1].astype(np.int64)

    def collisions(self) -> Collisions:
        """Count the items that share their tuple with another one."""
        counts = np.bincount(self.groups()) if len(self) else np.zeros(0, dtype=np.int64)
        shared = counts[counts > 1]
        return Collisions(
            items=int(shared.sum()),
            groups=len(shared),
            largest=int(counts.max(initial=0)),
            distinct=len(counts),
            total=len(self),
        )

    def flat(self, padding: bool = False) -> np.ndarray:
        """Codes as numbers of one shared vocabulary.

        Level ``l`` starts after all codes of the levels before it, and 0 is left free for a mask or padding: with C
        codes at every level, code c of level l becomes ``l * C + c + 1``. The vocabulary has ``sum(sizes) + 1``
        entries.

        Parameters
        ----------
        padding : bool, default False
            Put a row of zeros first, so that row i is item number i (numbers start at 1).

        Returns
        -------
        int64 array [N, L], or [N + 1, L] with ``padding``.
        """
        offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        flat = self.codes + offsets + 1
        return np.concatenate([np.zeros((1, self.levels), dtype=np.int64), flat]) if padding else flat

    def select(self, item_ids: Sequence[Any] | np.ndarray) -> ItemCodes:
        """Codes of the given items, in that order.

        Parameters
        ----------
        item_ids : array of str or int, or a polars Series
            Items, every one of which must be here.

        Raises
        ------
        ValueError
            If an item has no codes here, naming how many and the first of them.
        """
        wanted = _as_ids(item_ids)
        if wanted.dtype.kind != self.item_ids.dtype.kind and len(wanted) and len(self):
            raise ValueError(
                f"the codes are of items with {_kind(self.item_ids)} ids such as {_show(self.item_ids)}, "
                f"not {_kind(wanted)} ids such as {_show(wanted)}"
            )
        order = np.argsort(self.item_ids, kind="stable")
        place = np.searchsorted(self.item_ids, wanted, sorter=order)
        rows = order[np.minimum(place, max(len(order) - 1, 0))] if len(order) else np.zeros(len(wanted), dtype=np.int64)
        missing = self.item_ids[rows] != wanted if len(order) else np.ones(len(wanted), dtype=bool)
        if missing.any():
            raise ValueError(
                f"{int(missing.sum())} of {len(wanted)} items have no codes here, such as {_show(wanted[missing])}; "
                f"these codes are of {len(self)} items such as {_show(self.item_ids)}"
            )
        return ItemCodes(self.codes[rows], self.sizes, wanted, dict(self.blocks))

    def align(self, item_ids: Sequence[Any] | np.ndarray) -> ItemCodes:
        """The same codes with rows in the order of ``item_ids``, which must be exactly these items.

        Raises
        ------
        ValueError
            If the codes are of other items, or of more or fewer, naming both counts and examples.
        """
        wanted = _as_ids(item_ids)
        if len(wanted) != len(self):
            raise ValueError(
                f"the codes are of {len(self)} items such as {_show(self.item_ids)} but the data has {len(wanted)} "
                f"items such as {_show(wanted)}: they do not belong together"
            )
        return self.select(wanted)

    def manifest(self) -> dict[str, Any]:
        """Entry of a manifest for these codes: sizes, blocks, items and hash."""
        blocks = {name: [part.start, part.stop] for name, part in self.blocks.items()}
        return {"sizes": list(self.sizes), "blocks": blocks, "items": len(self), "hash": self.hash}

    def files(self) -> dict[str, FileContent]:
        """The file that holds these codes, as :func:`recbase.store.folder.save_folder` takes it."""
        return {CODES_FILE: lambda path: self._table().write_parquet(path)}

    def beside_run(self) -> dict[str, FileContent]:
        """The file in which a run keeps the codes it was trained with."""
        sizes = np.asarray(self.sizes, dtype=np.int64)
        return {"codes.safetensors": tensor_bytes({"codes": self.codes, "sizes": sizes})}

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a table of item_id, c0, c1 ... as Parquet.

        Raises
        ------
        OSError
            If the file cannot be written; what it held before is kept.
        """
        write_file(path, self._table().write_parquet)

    def _table(self) -> Any:
        import polars as pl

        columns = {f"c{level}": column for level, column in enumerate(np.ascontiguousarray(self.codes.T))}
        if _kind(self.item_ids) == "string":
            ids = pl.Series("item_id", self.item_ids.tolist(), dtype=pl.String)
        else:
            ids = pl.Series("item_id", self.item_ids, dtype=pl.Int64)
        return pl.DataFrame({"item_id": ids, **columns})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that holds these codes alone, readable by :meth:`load` and ``semtok.load_codes``.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        save_folder(folder, MANIFEST, KIND, {"method": None, "codes": self.manifest()}, self.files())

    @classmethod
    @consistent
    def load(cls, folder: str | os.PathLike[str]) -> ItemCodes:
        """Read the codes of a folder written by :meth:`save` or by a tokenizer's ``save``.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it holds no codes, or they were changed since.
        """
        opened = open_tokenizer(folder)
        if opened.manifest.get("codes") is None:
            raise ValueError(f"{folder} holds a tokenizer but no item codes; save it with item_codes=")
        return cls.from_folder(opened, opened.manifest["codes"])

    @classmethod
    def from_folder(cls, folder: Folder, manifest: Mapping[str, Any]) -> ItemCodes:
        """Read :data:`CODES_FILE` of an open folder, given what :meth:`manifest` said when it was written.

        Raises
        ------
        ValueError
            If the table is damaged or does not have the recorded hash.
        """
        path = Path(folder.file(CODES_FILE))
        codes = read_code_table(path, manifest)
        if codes.hash != manifest["hash"]:
            raise ValueError(f"{path} does not have the hash that its manifest records: the codes were changed")
        return codes


def read_code_table(path: Path, manifest: Mapping[str, Any]) -> ItemCodes:
    """Codes of a Parquet table of item_id, c0, c1 ..., with the sizes and blocks of a manifest.

    Raises
    ------
    ValueError
        Naming the file, if it is damaged, has other columns or rows, or its codes are out of range.
    """
    names = [f"c{level}" for level in range(len(manifest["sizes"]))]
    columns = {"item_id": "id"} | dict.fromkeys(names, "whole")
    table = read_table(path, columns, manifest.get("items"), distinct="item_id")
    if len(table) and any(table[name].null_count() for name in names):
        raise ValueError(f"{path} has items without a code")
    blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
    found = table.select(names).to_numpy() if len(table) else np.zeros((0, len(names)), dtype=np.int32)
    try:
        return ItemCodes(found, tuple(manifest["sizes"]), _as_ids(table["item_id"]), blocks)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def load_codes(folder: str | os.PathLike[str]) -> ItemCodes:
    """Read the item codes of a tokenizer folder; see :meth:`ItemCodes.load`."""
    return ItemCodes.load(folder)


def _bounds(part: slice | Sequence[int]) -> tuple[int, int]:
    start, stop = (part.start, part.stop) if isinstance(part, slice) else part
    return int(start or 0), int(stop)


def _checked_codes(codes: Any, sizes: tuple[int, ...]) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(f"codes has shape {codes.shape}; expected two dimensions, items and levels")
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers")
    if codes.shape[1] != len(sizes) or not sizes:
        raise ValueError(f"codes has {codes.shape[1]} levels but sizes names {len(sizes)}")
    if min(sizes) < 1:
        raise ValueError(f"sizes is {sizes}; every level needs at least one code")
    if max(sizes) > MOST_CODES:
        raise ValueError(f"sizes has a level of {max(sizes)} codes; expected at most {MOST_CODES}")
    wrong = (codes < 0) | (codes >= np.array(sizes))
    if wrong.any():
        row, level = (int(place[0]) for place in np.nonzero(wrong))
        raise ValueError(
            f"codes[{row}, {level}] is {codes[row, level]} but level {level} has codes 0 to {sizes[level] - 1}"
        )
    return np.ascontiguousarray(codes, dtype=np.int32)


def _as_ids(item_ids: Any) -> np.ndarray:
    values = item_ids.to_list() if hasattr(item_ids, "to_list") else item_ids
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"item_ids has shape {array.shape}; expected one dimension")
    if array.size == 0:
        return array.astype(np.int64) if array.dtype.kind not in "U" else array
    if array.dtype.kind == "O":
        kinds = {type(value) for value in values}
        if kinds != {str} and not all(issubclass(kind, (int, np.integer)) for kind in kinds):
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"item_ids holds {found}; expected all strings or all integers")
        array = np.asarray(list(values), dtype=str if kinds == {str} else np.int64)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind != "U":
        raise ValueError(f"item_ids has dtype {array.dtype}; expected strings or integers")
    return array


def _checked_ids(item_ids: Any, count: int) -> np.ndarray:
    ids = _as_ids(item_ids)
    if len(ids) != count:
        raise ValueError(f"item_ids has {len(ids)} entries but codes has {count} rows")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twice = values[counts > 1]
        raise ValueError(f"item_ids has {len(twice)} ids more than once, such as {_show(twice)}")
    return ids


def _id_bytes(ids: np.ndarray) -> bytes:
    """Content of the ids whatever the width of their array."""
    if ids.dtype.kind != "U":
        return b"int" + ids.astype("<i8").tobytes()
    texts = [text.encode("utf-8", "surrogatepass") for text in ids.tolist()]
    return b"str" + np.array([len(text) for text in texts], dtype="<i8").tobytes() + b"".join(texts)


def _kind(ids: np.ndarray) -> str:
    return "string" if ids.dtype.kind == "U" else "integer"


def _show(ids: np.ndarray) -> str:
    return ", ".join(repr(value) for value in ids[:_SHOWN].tolist())
