"""Objects rebuilt from what a folder says: constructor arguments, tables and tensors that must belong together.

A folder is data from elsewhere. What is read here is compared with what the rest of the folder leads one to expect,
before anything large is allocated, so that a damaged or foreign folder ends in one sentence that names the file. Knows
no model and no manifest.
"""

from __future__ import annotations

import io
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbase.arguments import hints_of, parameters_of
from recbase.store.manifests import NUMBER, shown

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Expected",
    "build",
    "check_arguments_of",
    "check_arrays",
    "load_weights",
    "read_table",
]

_ROWS_A_BYTE = 64  # a column of distinct ids is never packed tighter than this, whatever the codec
_ROOM = 256 << 20  # bytes that a constructor may allocate beside the weights
_KINDS = {"f": "floating-point numbers", "i": "whole numbers", "b": "booleans", "n": "numbers"}
_CODES = {"f": "f", "i": "iu", "b": "b", "n": "fiu"}  # as in NumPy's dtype.kind
_LISTED = 3


# --------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True)
class Expected:
    """An array that a file must hold.

    Parameters
    ----------
    shape : tuple of int or None
        None where any length will do.
    kind : {"f", "i", "b", "n"}, default "f"
        Floating-point, whole, boolean, or any numbers.
    finite : bool, default True
        Refuse NaN and infinity.
    required : bool, default True
        Whether the file must hold it.
    """

    shape: tuple[int | None, ...]
    kind: str = "f"
    finite: bool = True
    required: bool = True


def check_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], expected: Mapping[str, Expected], owner: str
) -> None:
    """Refuse arrays that are not exactly the expected ones.

    Parameters
    ----------
    path : path
        File that they were read from.
    arrays : mapping of str to ndarray
    expected : mapping of str to Expected
    owner : str
        What they belong to, as a sentence calls it: ``"a tokenizer of method pq"``.

    Raises
    ------
    ValueError
        Naming the file and the first array that is missing, strange, of another shape or type, or not finite.
    """
    missing = [name for name, wanted in expected.items() if wanted.required and name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {_listed(missing)}, which {owner} has; the file is damaged or of another one")
    strange = [name for name in arrays if name not in expected]
    if strange:
        raise ValueError(f"{path} holds {_listed(strange)}, which {owner} does not have")
    for name, array in arrays.items():
        _check_array(path, name, array, expected[name])


def _check_array(path: str | os.PathLike[str], name: str, array: np.ndarray, wanted: Expected) -> None:
    fits = len(array.shape) == len(wanted.shape) and all(
        size is None or size == found for size, found in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        said = ", ".join("any" if size is None else str(size) for size in wanted.shape)
        raise ValueError(f"{path}: {name!r} has shape {list(array.shape)}, expected [{said}]")
    if array.dtype.kind not in _CODES[wanted.kind]:
        raise ValueError(f"{path}: {name!r} holds {array.dtype}, expected {_KINDS[wanted.kind]}")
    if wanted.finite:
        check_finite_array(path, name, array)


def check_finite_array(path: str | os.PathLike[str], name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity; ValueError names the file, the array and how many there are."""
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.isfinite(array.sum())  # NaN and infinity survive a sum; a finite one clears all at once
    if not whole and (wrong := int((~np.isfinite(array)).sum())):
        raise ValueError(
            f"{path}: {name!r} holds NaN or infinity in {wrong} of {array.size} places, expected finite numbers"
        )


def _listed(names: Collection[str]) -> str:
    first = ", ".join(repr(name) for name in list(names)[:_LISTED])
    return first if len(names) <= _LISTED else f"{first} and {len(names) - _LISTED} more"


# --------------------------------------------------------------------------------------- tables


def read_table(
    file: str | os.PathLike[str] | bytes,
    columns: Mapping[str, str],
    rows: int | None = None,
    distinct: str | None = None,
) -> pl.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    file : path or bytes
        The file, or its content.
    columns : mapping of str to {"id", "text", "whole", "any"}
        Columns it must have, and what is in them: ids are texts or whole numbers, none of them null.
    rows : int, optional
        Rows it must have.
    distinct : str, optional
        Column whose values differ from row to row.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Naming the file, where it is damaged, speaks of more rows than it can hold, or is another table.
    """
    import polars as pl

    path = "the table" if isinstance(file, bytes) else os.fspath(file)
    if not isinstance(file, bytes) and not Path(file).is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a Parquet table")
    try:
        # One reading of the bytes serves all three; Rust panics reach Python as a BaseException of their own.
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        schema = pl.read_parquet_schema(io.BytesIO(content))
        count = int(pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item())
        _check_table(path, schema, columns, (count, len(content)), rows, distinct)
        table = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet table: truncated or damaged") from error
    for name, kind in columns.items():
        if kind == "id" and table[name].null_count():
            raise ValueError(f"{path} has {table[name].null_count()} rows without {name}")
    if distinct is not None and table[distinct].is_duplicated().any():
        twice = table[distinct].filter(table[distinct].is_duplicated())[0]
        raise ValueError(f"{path} has the {distinct} {twice!r} more than once, expected each once")
    return table


def _check_table(
    path: Any, schema: Any, columns: Mapping[str, str], held: tuple[int, int], rows: int | None, distinct: str | None
) -> None:
    """Refuse a table by what its footer says, before its content is unpacked."""
    import polars as pl

    fits: dict[str, Callable[[Any], bool]] = {
        "id": lambda kind: kind == pl.String or kind.is_integer(),
        "text": lambda kind: kind == pl.String,
        "whole": lambda kind: kind.is_integer(),
        "any": lambda kind: True,
    }
    said = {"id": "texts or whole numbers", "text": "texts", "whole": "whole numbers"}
    for name, kind in columns.items():
        if name not in schema:
            raise ValueError(f"{path} has no column {name!r}; it has {_listed(list(schema)) or 'none'}")
        if not fits[kind](schema[name]):
            raise ValueError(f"{path} has {str(schema[name]).lower()} in the column {name!r}, expected {said[kind]}")
    count, size = held
    if rows is not None and count != rows:
        raise ValueError(f"{path} has {count} rows, expected {rows}")
    if distinct is not None and count > _ROWS_A_BYTE * size:
        raise ValueError(f"{path} speaks of {count} rows in {size} bytes: it is damaged")


# --------------------------------------------------------------------------------------- constructors


def check_arguments_of(path: str | os.PathLike[str], make: Any, arguments: Mapping[str, Any], owner: str) -> None:
    """Compare the arguments that a manifest records with the signature of what is made of them.

    Parameters
    ----------
    path : path
        The manifest.
    make : callable
        A class, whose constructor takes them.
    arguments : mapping
    owner : str
        What is made, as a sentence calls it.

    Raises
    ------
    ValueError
        Naming the file and the first argument that is unknown, missing or of another type.
    """
    taken = {name: part for name, part in parameters_of(make).items() if name != "self"}
    if any(part.kind is part.VAR_KEYWORD for part in taken.values()):
        return
    strange = [name for name in arguments if name not in taken]
    if strange:
        raise ValueError(f"{path}: 'arguments' has {_listed(strange)}, which {owner} does not take")
    missing = [name for name, part in taken.items() if part.default is part.empty and name not in arguments]
    if missing:
        raise ValueError(f"{path}: 'arguments' has no {_listed(missing)}, which {owner} needs")
    hints = hints_of(make, extras=False)
    for name, value in arguments.items():
        if not _fits(value, hints.get(name, Any)):
            raise ValueError(f"{path}: 'arguments.{name}' is {shown(value)}, expected {_said(hints[name])}")


_SIMPLE: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: (
        "a whole number",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
    ),
    float: ("a finite number", NUMBER.holds),
    str: ("a text", lambda value: isinstance(value, str)),
    type(None): ("null", lambda value: value is None),
}
_LISTS = (list, tuple, typing.get_origin(typing.Sequence[int]))


def _fits(value: Any, hint: Any) -> bool:
    """True where a JSON value may stand for an argument with a type hint; hints that mean nothing in JSON pass."""
    if hint in _SIMPLE:
        return _SIMPLE[hint][1](value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if hint in _LISTS or origin in _LISTS:
        return isinstance(value, list | tuple) and (not inner or all(_fits(part, inner[0]) for part in value))
    if hint is dict or origin in (dict, typing.get_origin(typing.Mapping[str, int])):
        return isinstance(value, dict)
    return True


def _said(hint: Any) -> str:
    if hint in _SIMPLE:
        return _SIMPLE[hint][0]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_said(part) for part in inner)
    if hint in _LISTS or origin in _LISTS:
        return f"a list, each {_said(inner[0])}" if inner else "a list"
    return "an object" if hint is dict or origin is dict else str(hint)


def build(
    path: str | os.PathLike[str], make: Any, arguments: Mapping[str, Any], owner: str, weights: int | None = None
) -> Any:
    """Call a constructor with the arguments of a manifest.

    Parameters
    ----------
    path : path
        The manifest.
    make : callable
    arguments : mapping
    owner : str
        As in `check_arguments_of`.
    weights : int, optional
        Bytes of the file of weights. With them the constructor may allocate four times as much and 256 MiB of tensors,
        so that a number in a manifest cannot ask for more memory than its weights justify.

    Raises
    ------
    ValueError
        Naming the file, if the arguments are not those of the constructor, or it refuses them.
    """
    check_arguments_of(path, make, arguments, owner)
    limit = nullcontext() if weights is None else _limited(4 * weights + _ROOM)
    try:
        with limit:
            return make(**arguments)
    except Exception as error:  # whatever a constructor meets in numbers it was never made for
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: its arguments make no {owner.removeprefix('a ')}: {reason}") from error


def _limited(limit: int) -> Any:
    """A context in which tensors may be made of no more than so many bytes in all; MemoryError before the rest."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Limited(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            size = _size_of(func, args)
            if size is not None:
                dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
                self.made += size * dtype.itemsize
                if self.made > limit:
                    raise MemoryError(f"they ask for more than {limit:,} bytes, which its weights do not justify")
            return func(*args, **(kwargs or {}))

    return Limited()


_FACTORIES = {"empty", "zeros", "ones", "full", "rand", "randn", "randint", "empty_strided", "eye", "arange"}


def _size_of(func: Any, args: Any) -> int | None:
    """Entries of the tensor that a call is about to make; None if it makes none of a size of its own."""
    name = func.overloadpacket.__name__
    if name not in _FACTORIES or not args:
        return None
    if name == "arange":
        numbers = [float(value) for value in args if isinstance(value, int | float)]
        return int(max(map(abs, numbers), default=0))
    if name == "eye":
        return math.prod(value for value in (args * 2)[:2] if isinstance(value, int))
    size = next((value for value in args if isinstance(value, list | tuple)), ())
    return math.prod(size)


# --------------------------------------------------------------------------------------- weights


def load_weights(path: str | os.PathLike[str], model: Any, arrays: Mapping[str, np.ndarray], owner: str) -> None:
    """Put arrays into a module, which must be exactly its parameters and buffers, and finite.

    A module may have ``index_ranges()``: the least and the largest value of its whole-number buffers, which are indices
    into tables and would fail far from here; ``unfilled``: names of buffers that may hold NaN; and the model itself
    ``check_restored()``, which raises ValueError where parts do not belong together.

    Parameters
    ----------
    path : path
        File that they were read from.
    model : torch module
    arrays : mapping of str to ndarray
    owner : str
        As in `check_arrays`.

    Raises
    ------
    ValueError
        As `check_arrays` does.
    """
    import torch

    unfilled = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "unfilled", ())
    }

    def expected(name: str, value: Any) -> Expected:
        kind = "f" if value.is_floating_point() else "b" if value.dtype == torch.bool else "i"
        return Expected(tuple(value.shape), kind, finite=name not in unfilled)

    check_arrays(path, arrays, {name: expected(name, value) for name, value in model.state_dict().items()}, owner)
    for prefix, module in model.named_modules():
        for name, (low, high) in module.index_ranges().items() if hasattr(module, "index_ranges") else ():
            whole = f"{prefix}.{name}" if prefix else name
            _check_range(path, whole, arrays[whole], low, high)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    if hasattr(model, "check_restored"):
        try:
            model.check_restored()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _check_range(path: str | os.PathLike[str], name: str, array: np.ndarray, low: Any, high: Any) -> None:
    wrong = (array < np.asarray(low)) | (array > np.asarray(high))
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), array.shape)
        most = int(np.broadcast_to(high, array.shape)[place])
        raise ValueError(
            f"{path}: {name!r} is {int(array[place])} at {[int(at) for at in place]}, expected numbers from "
            f"{int(np.min(low))} to {most}"
        )
