"""Vectors of items in one file that another program wrote: .npy, .safetensors or .parquet.

Every type of number becomes float32, also those that NumPy lacks (bfloat16, float8). What a header claims is compared
with the size of the file before memory is asked for, nothing is unpickled, and whatever is wrong with a file is one
sentence that names it. Knows nothing of data sets or encoders.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "IDS",
    "MISSING",
    "VECTOR_FILES",
    "VectorFile",
    "float8_values",
    "is_vector_file",
    "read_npy",
    "read_tensors",
    "read_vector_file",
    "to_float32",
]

VECTOR_FILES = (".npy", ".safetensors", ".parquet")
"""How the names of files of vectors end."""

IDS = "item_id"
MISSING = ".missing"
_ORDER = "views"  # entry of the metadata of our own shards: safetensors itself keeps no order
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}
_NUMPY_TYPES = {"F64", "F32", "F16", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8", "BOOL"}
_FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_LEAST_BYTES, _MOST_EXPANSION = 1 << 26, 1000  # Parquet compresses: how much more its values may take than its file


@dataclass(frozen=True, eq=False)
class VectorFile:
    """Contents of a file of vectors.

    Attributes
    ----------
    views : dict of str to float32 [N, D]
        One array for each view.
    item_ids : list of str or int, or None
        Ids of the rows, where the file carries them.
    missing : dict of str to bool [N]
        Rows that have nothing in a view, where the file says so.
    """

    views: dict[str, np.ndarray]
    item_ids: list[Any] | None = None
    missing: dict[str, np.ndarray] = field(default_factory=dict)


def is_vector_file(path: str | os.PathLike[str]) -> bool:
    """True where the name is that of a file of vectors."""
    return Path(path).suffix in VECTOR_FILES


def read_vector_file(path: str | os.PathLike[str]) -> VectorFile:
    """Read a file of vectors.

    Parameters
    ----------
    path : path
        ``.npy``: one array [N, D], the view is called as the file is. ``.safetensors``: a tensor [N, D] a view, of any
        type of number, and perhaps ``item_id`` int [N] and ``VIEW.missing`` bool [N]. ``.parquet``: a column of lists
        of numbers a view, or many columns of floats that are one view "item", and perhaps ``item_id``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, a pickle, of no known kind, or holds anything but vectors of finite width.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file of vectors")
    readers: dict[str, Callable[[Path], VectorFile]] = {
        ".npy": _from_npy,
        ".safetensors": _from_safetensors,
        ".parquet": _from_parquet,
    }
    if path.suffix not in readers:
        raise ValueError(_no_vectors(path))
    return readers[path.suffix](path)


def _no_vectors(path: Path) -> str:
    """Sentence on a file whose name is not one of vectors."""
    if path.suffix in _PICKLES:
        return (
            f"{path} is a pickle, and nothing is unpickled here: where it was made, write it as safetensors with "
            "safetensors.torch.save_file({'item': tensor}, 'vectors.safetensors')"
        )
    return f"{path} is no file of vectors; expected a name that ends in {', '.join(VECTOR_FILES)}"


def to_float32(values: np.ndarray) -> np.ndarray:
    """Numbers as float32 in memory; what is too large for it becomes infinite, which is refused later."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


# --------------------------------------------------------------------------------------- .npy


_NPY_REASONS = {
    "Python objects": "it holds Python objects, and nothing is unpickled here; write it as float32",
    "mmap length": "it is shorter than its header says",
}


def read_npy(path: Path, kinds: str = "fiu") -> np.ndarray:
    """Array of a .npy file, of its own type.

    Parameters
    ----------
    path : Path
    kinds : str, default "fiu"
        Letters of NumPy for the kinds of types that are meant: floats and whole numbers; U is text.

    Raises
    ------
    ValueError
        If the file is damaged, shorter than its header says, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("it does not begin as one")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers that Python 2 wrote
            # Mapped, not read: NumPy then compares the shape with the size of the file before it takes memory.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            array = np.array(mapped)
    except Exception as error:  # the header is a Python literal, and its parser raises many kinds
        reason = next((said for words, said in _NPY_REASONS.items() if words in str(error)), _first_line(error))
        raise ValueError(f"{path} is not a readable .npy file of numbers: {reason}") from error
    if array.dtype == np.dtype("V2"):
        # NumPy has no name for bfloat16 and writes it as two bytes of anything; nothing else is written so.
        warnings.warn(f"{path} has numbers of two nameless bytes, which are read as bfloat16", UserWarning, 2)
        return _from_bfloat16(array.view("<u2"))
    if array.dtype.kind not in kinds:
        raise ValueError(f"{path} is not a readable .npy file of numbers: its type is {array.dtype}")
    return array


def _from_npy(path: Path) -> VectorFile:
    return VectorFile({path.stem: _two_dimensional(read_npy(path), str(path))})


def _two_dimensional(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise ValueError(f"{what} has shape {array.shape} and type {array.dtype}; expected vectors [N, D]")
    return to_float32(array)


# --------------------------------------------------------------------------------------- .safetensors


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file by name; bfloat16 and float8 as float32, all others of their own type.

    Raises
    ------
    ValueError
        If the file is damaged, or a tensor has a type that is no number of a byte or more.
    """
    return _opened_tensors(path)[0]


def _opened_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors by name, and the metadata."""
    from safetensors import safe_open

    found: dict[str, np.ndarray] = {}
    try:
        with safe_open(str(path), "np") as plain:
            metadata = plain.metadata() or {}
            types = {name: plain.get_slice(name).get_dtype() for name in plain.keys()}  # noqa: SIM118
            for name, kind in types.items():
                if kind in _NUMPY_TYPES:
                    found[name] = plain.get_tensor(name)
                elif kind == "BF16" or kind in _FLOAT8:
                    found[name] = _through_torch(path, name)
                else:
                    raise ValueError(f"the tensor {name!r} has the type {kind}, which is not read")
    except Exception as error:  # SafetensorError, and what torch makes of a type it lacks, share no parent
        raise ValueError(f"{path} is not a readable safetensors file ({_first_line(error)})") from error
    return found, metadata


def _through_torch(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as handle:
        values: np.ndarray = handle.get_tensor(name).float().numpy()
    return values


def _from_bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32)


@lru_cache(maxsize=8)
def float8_values(kind: str) -> np.ndarray:
    """The 256 numbers of a float8 type of safetensors, by their byte: float32 [256]."""
    import torch

    values: np.ndarray = torch.arange(256, dtype=torch.uint8).view(getattr(torch, _FLOAT8[kind])).float().numpy()
    return values


def _from_safetensors(path: Path) -> VectorFile:
    tensors, metadata = _opened_tensors(path)
    ids = tensors.pop(IDS, None)
    masks = {name: tensors.pop(name) for name in list(tensors) if name.endswith(MISSING)}
    if not tensors:
        raise ValueError(f"{path} holds no vectors; expected tensors [N, D], one a view")
    order = _noted_order(metadata)
    names = [*(name for name in order if name in tensors), *(name for name in tensors if name not in order)]
    views = {name: _two_dimensional(tensors[name], f"{path}: the tensor {name!r}") for name in names}
    counts = {len(vectors) for vectors in views.values()}
    if len(counts) > 1:
        raise ValueError(f"the tensors of {path} have {', '.join(map(str, sorted(counts)))} rows; expected one number")
    count = counts.pop()
    if ids is not None and (ids.shape != (count,) or ids.dtype.kind not in "iu"):
        raise ValueError(f"{path}: {IDS} has shape {ids.shape} and type {ids.dtype}; expected whole numbers [{count}]")
    for name, mask in masks.items():
        if mask.shape != (count,):
            raise ValueError(f"{path}: {name} has shape {mask.shape}; expected ({count},)")
    missing = {name.removesuffix(MISSING): mask.astype(bool) for name, mask in masks.items()}
    return VectorFile(views, None if ids is None else ids.tolist(), missing)


def _noted_order(metadata: dict[str, str]) -> list[str]:
    """Names of the views in the order that a shard of ours notes."""
    try:
        order = json.loads(metadata.get(_ORDER, "[]"))
    except ValueError:
        return []
    return list(dict.fromkeys(order)) if isinstance(order, list) and all(isinstance(n, str) for n in order) else []


# --------------------------------------------------------------------------------------- .parquet


def _from_parquet(path: Path) -> VectorFile:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as opened:
            _check_expansion(path, opened)
            views = _vector_columns(path, opened.schema_arrow)
            names = opened.schema_arrow.names
            ids = IDS if IDS in names else _id_column(names)
            listed = None if ids is None else _ids(path, ids, opened.read([ids]).column(0))
            found = {
                name: np.concatenate([_column(path, column, opened) for column in columns], axis=1)
                for name, columns in views.items()
            }
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error
    except Exception as error:  # Arrow's errors share no parent, and damaged pages raise many of them
        raise ValueError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error
    return VectorFile({name: _two_dimensional(vectors, f"{path}: {name!r}") for name, vectors in found.items()}, listed)


def _id_column(names: list[str]) -> str | None:
    from recbase.data.tables.columns import ITEM_COLUMNS, usual_name

    return usual_name(names, ITEM_COLUMNS)


def _check_expansion(path: Path, opened: Any) -> None:
    """Refuse a small file that claims a giant table, before memory is asked for."""
    groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
    claimed = 4 * sum(group.column(place).num_values for group in groups for place in range(group.num_columns))
    size = path.stat().st_size
    if claimed > max(_LEAST_BYTES, _MOST_EXPANSION * size):
        raise ValueError(f"{path} has {size:,} bytes but claims {claimed // 4:,} values: it is damaged")


def _vector_columns(path: Path, schema: Any) -> dict[str, list[str]]:
    """Columns of each view: every column of lists is one; else the columns of floats are together one."""
    import pyarrow as pa

    def numeric(kind: Any) -> bool:
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))

    lists = [entry for entry in schema if hasattr(entry.type, "value_type") and not pa.types.is_dictionary(entry.type)]
    floats = [entry.name for entry in lists if pa.types.is_floating(entry.type.value_type)]
    whole = [entry.name for entry in lists if numeric(entry.type.value_type)]
    if floats or whole:  # lists of whole numbers are vectors only where nothing else is: they may be tags
        return {name: [name] for name in floats or whole}
    plain = [entry.name for entry in schema if pa.types.is_floating(entry.type) and entry.name != IDS]
    if not plain:
        raise ValueError(f"{path} has no vectors: expected columns of lists of numbers, or many columns of floats")
    return {"item": plain}


def _column(path: Path, name: str, opened: Any) -> np.ndarray:
    """Numbers of a column, row by row: [N, D]."""
    column = opened.read([name]).column(0).combine_chunks()
    rows = len(column)
    if column.null_count:
        raise ValueError(f"{path} has {column.null_count} of {rows} entries empty in the column {name!r}")
    flat = column.flatten() if hasattr(column.type, "value_type") else column
    if flat.null_count:
        raise ValueError(f"{path} has {flat.null_count} empty numbers in the lists of the column {name!r}")
    if flat is not column:
        _check_widths(path, name, column)
    return to_float32(flat.to_numpy(zero_copy_only=False)).reshape(rows, -1)


def _check_widths(path: Path, name: str, column: Any) -> None:
    import pyarrow.compute as pc

    widths, counts = np.unique(np.asarray(pc.list_value_length(column)), return_counts=True)
    if len(widths) > 1:
        usual = widths[counts.argmax()]
        raise ValueError(
            f"{path} has lists of different lengths in the column {name!r}: {len(column) - counts.max()} of "
            f"{len(column)} have not {usual} numbers but others, such as {widths[widths != usual][0]}"
        )


def _ids(path: Path, name: str, column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if all(isinstance(value, float) and value.is_integer() for value in values):  # as pandas writes them beside a gap
        return [int(value) for value in values]
    wrong = next((value for value in values if not isinstance(value, str | int) or isinstance(value, bool)), "")
    if wrong != "":
        raise ValueError(f"{path} has the id {wrong!r} in the column {name!r}; expected text or whole numbers")
    return values


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
