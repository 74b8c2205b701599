"""Codes read from the files of other projects."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.manifests import TEXT, Kind, check, record
from semtok.codecs.schemas import BLOCKS, MOST_CODES, SIZES
from semtok.codes import ItemCodes
from semtok.content.vector_files import read_npy, read_tensors
from semtok.exchange.formats import FORMATS, NOTES, NOTES_KIND, TENSOR, check_format

__all__ = ["format_of", "methods_in", "read_codes"]


_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


_TOKEN = re.compile(r"<([A-Za-z]+)_([0-9]{1,10})>")


_LEVEL = re.compile(r"c[0-9]{1,6}")


_IDS = Kind(
    "a list of texts or of whole numbers",
    lambda value: isinstance(value, list) and set(map(type, value)) in ({str}, {int}, set()),
)


_NOTES_SCHEMA = record({"sizes": SIZES, "blocks": BLOCKS, "item_ids": _IDS, "hash": TEXT})


def read_codes(
    path: str | os.PathLike[str],
    format: str | None = None,
    sizes: Sequence[int] | int | None = None,
    item_ids: Any = None,
    method: str | None = None,
) -> ItemCodes:
    """Read codes that another project wrote, or that `write_codes` did.

    Parameters
    ----------
    path : path
    format : {"index", "grid", "rpg", "ccfrec", "table"} or None, default None
        Found out from the file if None.
    sizes : sequence of int [L], int or None, default None
        Codes of each level (or of every level). If None, what was written beside the file; else, for every level, the
        smallest power of two above the largest code of all: a level that few codes of are used is not told from a
        smaller one.
    item_ids : sequence [N] or None, default None
        Ids of the items in the order of their numbers, such as those of a data set; the result has this order. Where
        the keys of the file are these ids, they are matched by id, else by number. If None, what was written beside
        the file; else the keys of the file, or numbers from 0.
    method : str or None, default None
        Which tokenizer's codes, where a table holds those of several.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a pickle, damaged, or not of the format; if its codes are not those that are noted beside it; or if it
        is of other items.
    """
    path = Path(path)
    notes = _read_notes(path) if method is None else None
    if notes is None:
        levels = len(sizes) if isinstance(sizes, Sequence) else None
        return _described(path, _read(path, format, method, levels), sizes, item_ids, {})
    blocks = {name: slice(*bounds) for name, bounds in notes["blocks"].items()}
    found = _read(path, format, method, len(notes["sizes"]))
    codes = _described(path, found, notes["sizes"], notes["item_ids"], blocks)
    if codes.hash != notes["hash"]:
        raise ValueError(
            f"{path} holds other codes than {path.name}{NOTES} says; delete that file to read this one on its own"
        )
    if sizes is not None:
        codes = _described(path, _Found(codes.codes, codes.item_ids, False), sizes, None, blocks)
    return codes if item_ids is None else codes.align(item_ids)


def methods_in(path: str | os.PathLike[str]) -> list[str]:
    """Tokenizers whose codes a file holds: the values of the column ``method`` of a table, in order; else none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no readable table.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        return []
    table = _parquet(path)
    return _methods_of(path, table) if "method" in table.columns else []


def format_of(path: str | os.PathLike[str]) -> str:
    """Format of a file, by its content (JSON) or its name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a pickle, or nothing that is known.
    """
    return _recognised(Path(path))[0]


def _recognised(path: Path) -> tuple[str, Any]:
    """Format of a file, and its JSON where it is one of JSON."""
    _check_readable(path)
    if path.suffix == ".parquet":
        return "table", None
    if path.suffix in {".npy", ".safetensors"}:
        return "grid", None
    content = _json(path)
    if isinstance(content, list):
        return "ccfrec", content
    if isinstance(content, dict) and content:
        first = next(iter(content.values()))
        named = isinstance(first, str) or (isinstance(first, list) and _has_text(first))
        return ("index" if named else "rpg"), content
    raise ValueError(f"{path} is none of the formats {', '.join(FORMATS)}: its JSON holds no codes")


@dataclass(frozen=True)
class _Found:
    """Codes of a file: [N, L], and the keys of its rows; ``numbered`` where the keys only number the items."""

    codes: np.ndarray
    keys: Any
    numbered: bool


def _read(path: Path, format: str | None, method: str | None, levels: int | None) -> _Found:
    content = None
    if format is None:
        format, content = _recognised(path)
    check_format(format)
    _check_readable(path)
    if method is not None and format != "table":
        raise ValueError(f"{path} is of the format {format} and holds the codes of one method; leave out {method!r}")
    if format == "table":
        return _from_table(path, method)
    if format == "grid":
        return _from_tensor(path, levels)
    content = _json(path) if content is None else content
    return {"index": _from_index, "rpg": _from_rpg, "ccfrec": _from_ccfrec}[format](path, content)


def _from_index(path: Path, content: Any) -> _Found:
    content = _checked_object(path, content, "index")
    pattern, rows = None, []
    for key, value in content.items():
        text = "".join(value) if isinstance(value, list) and _has_text(value) else value
        pattern = pattern or _pattern_of(text)
        found = pattern.fullmatch(text) if pattern is not None and isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{path}: {_not_like(pattern, key, value, text)}")
        rows.append([int(code) for code in found.groups()])
    keys = list(content)
    codes = _matrix(path, rows, keys)
    numbers = _integers(keys)
    if numbers is not None and sorted(numbers) == list(range(len(keys))):
        return _Found(codes[np.argsort(np.asarray(numbers))], list(range(len(keys))), True)
    return _Found(codes, keys if numbers is None else numbers, False)


def _pattern_of(text: Any) -> re.Pattern[str] | None:
    """Pattern of all tokens of an item, by the first: its letters in their order."""
    letters = [letter for letter, _ in _TOKEN.findall(text)] if isinstance(text, str) else []
    return re.compile("".join(rf"<{letter}_([0-9]{{1,10}})>" for letter in letters)) if letters else None


def _not_like(pattern: re.Pattern[str] | None, key: str, value: Any, text: Any) -> str:
    """Sentence on an item that does not look like the first one."""
    tokens = _TOKEN.findall(text) if isinstance(text, str) else []
    if pattern is None or not tokens or _TOKEN.sub("", text):
        return f"item {key!r} has {_short(value)}; expected tokens such as <a_12><b_7>"
    own, first = (", ".join(re.findall(r"<([A-Za-z]+)_", part)) for part in (text, pattern.pattern))
    return f"item {key!r} has the levels {own} but the first item {first}"


def _from_rpg(path: Path, content: Any) -> _Found:
    content = _checked_object(path, content, "rpg")
    keys = list(content)
    numbers = _integers(keys)
    return _Found(_matrix(path, list(content.values()), keys), keys if numbers is None else numbers, False)


def _from_ccfrec(path: Path, content: Any) -> _Found:
    if not isinstance(content, list) or len(content) < 2:
        raise ValueError(f"{path} is not of the format ccfrec; expected a list of codes, [] first")
    if content[0] != []:
        raise ValueError(f"{path}: row 0 is {_short(content[0])}; expected [], the row of padding")
    numbers = list(range(1, len(content)))
    return _Found(_matrix(path, content[1:], numbers), list(range(len(numbers))), True)


def _from_tensor(path: Path, levels: int | None) -> _Found:
    if path.suffix == ".npy":
        tensor = read_npy(path)
    else:
        arrays = read_tensors(path)
        if len(arrays) != 1 and TENSOR not in arrays:
            raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected one tensor, or one called codes")
        tensor = arrays[TENSOR] if TENSOR in arrays else next(iter(arrays.values()))
    tensor = _whole(tensor)  # GRID's own tensor is one of floats before codes are told apart
    if tensor.ndim != 2 or tensor.dtype.kind not in "iu" or not tensor.size:
        raise ValueError(f"{path} has shape {tensor.shape} and type {tensor.dtype}; expected whole numbers [L, N]")
    wrong = tensor >= 2**31
    if wrong.any():
        raise ValueError(f"{path} has the code {tensor[wrong][0]}; expected whole numbers from 0")
    upright = tensor.shape[0] > tensor.shape[1] if levels is None else tensor.shape[0] != levels
    codes = tensor if upright else tensor.T  # as GRID keeps it, or as it is before GRID turns it
    return _Found(codes, list(range(len(codes))), True)


def _methods_of(path: Path, table: Any) -> list[str]:
    known = table["method"].unique(maintain_order=True).to_list()
    if not all(isinstance(name, str) and name for name in known):
        wrong = next(name for name in known if not isinstance(name, str) or not name)
        raise ValueError(f"{path} has {wrong!r} in the column method; expected the name of one in every row")
    return list(known)


def _from_table(path: Path, method: str | None) -> _Found:
    table = _parquet(path)
    if "method" in table.columns:
        known = _methods_of(path, table)
        if method is None and len(known) != 1:
            raise ValueError(f"{path} holds the codes of {len(known)} methods; choose one of {', '.join(known)}")
        if method is not None and method not in known:
            raise ValueError(f"{path} has no method {method!r}; it has {', '.join(known)}")
        table = table.filter(table["method"] == (known[0] if method is None else method)).drop("method")
    elif method is not None:
        raise ValueError(f"{path} has no column method, so no method {method!r}")
    lists = [name for name, kind in table.schema.items() if str(kind).startswith(("List", "Array"))]
    levels = sorted((name for name in table.columns if _LEVEL.fullmatch(name)), key=lambda name: int(name[1:]))
    id_column = "item_id" if "item_id" in table.columns else next(iter(table.columns), "")
    if id_column in {*lists, *levels, ""} or not (levels or len(lists) == 1) or not len(table):
        raise ValueError(
            f"{path} has {len(table)} rows of the columns {', '.join(table.columns) or 'none'}; expected item_id and "
            "c0, c1, ... or one column of lists"
        )
    if levels and levels != [f"c{level}" for level in range(len(levels))]:
        raise ValueError(f"{path} has the levels {', '.join(levels)}; expected c0, c1, ... without a gap")
    keys = table[id_column].to_list()
    if not levels:
        return _Found(_matrix(path, table[lists[0]].to_list(), keys), keys, False)
    kinds = [str(table.schema[name]) for name in levels if not table.schema[name].is_numeric()]
    if kinds:
        raise ValueError(f"{path} has codes of the type {kinds[0]}; expected whole numbers from 0 in every row")
    empty = {name: table[name].null_count() for name in levels if table[name].null_count()}
    if empty:
        name, count = next(iter(empty.items()))
        raise ValueError(f"{path} has {count} of {len(table)} rows without a code in {name}; expected one in every row")
    codes = np.stack([_whole(table[name].to_numpy()) for name in levels], axis=1)
    if codes.dtype.kind not in "iu" or int(codes.min()) < 0 or int(codes.max()) >= 2**31:
        wrong = next(value for value in codes.ravel().tolist() if not _is_code(value))
        raise ValueError(f"{path} has the code {_short(wrong)}; expected whole numbers from 0 in every row")
    return _Found(codes, keys, False)


def _whole(values: np.ndarray) -> np.ndarray:
    """Floats that are all whole numbers as integers, as pandas and PyTorch write codes now and then; else as given."""
    if values.dtype.kind != "f" or not np.isfinite(values).all() or (values != np.floor(values)).any():
        return values
    return values.astype(np.int64) if np.abs(values).max(initial=0) < 2**62 else values


def _described(
    path: Path,
    found: _Found,
    sizes: Sequence[int] | int | None,
    item_ids: Any,
    blocks: dict[str, slice],
) -> ItemCodes:
    """The codes with sizes and ids: rows in the order of ``item_ids``, where these are given."""
    levels = found.codes.shape[1]
    _check_keys(path, found.keys.tolist() if isinstance(found.keys, np.ndarray) else found.keys)
    if item_ids is not None:
        item_ids = item_ids.to_list() if hasattr(item_ids, "to_list") else np.asarray(item_ids).tolist()
    if sizes is None and int(found.codes.max(initial=0)) >= MOST_CODES:
        row = int((found.codes >= MOST_CODES).any(1).argmax())
        raise ValueError(
            f"{path}: item {found.keys[row]!r} has the code {found.codes[row].max()}; expected codes below "
            f"{MOST_CODES}, the most of a level"
        )
    if sizes is None:
        sizes = 1 << int(found.codes.max(initial=0)).bit_length()
    sizes = (int(sizes),) * levels if isinstance(sizes, int | np.integer) else tuple(int(size) for size in sizes)
    try:
        if item_ids is None:
            if "" in list(found.keys):
                raise ValueError(f"{path} has an item whose id is empty; expected an id of every item")
            return ItemCodes(found.codes, sizes, found.keys, blocks)
        text = any(isinstance(item, str) for item in item_ids)
        keys: Any = [str(key) for key in found.keys] if text else list(found.keys)
        if set(keys) == set(item_ids):
            return ItemCodes(found.codes, sizes, keys, blocks).align(item_ids)
        if found.numbered and len(item_ids) == len(keys):
            return ItemCodes(found.codes, sizes, item_ids, blocks)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path} has codes of {len(keys)} items such as {keys[0]!r} but the data has {len(item_ids)} items such as "
        f"{item_ids[0]!r}: they do not belong together"
    )


def _check_keys(path: Path, keys: Sequence[Any]) -> None:
    """Refuse ids that are no plain text or whole numbers, each at most once; a sentence names the first."""
    kinds = set(map(type, keys))
    if kinds not in ({str}, {int}):
        wrong = next((key for key in keys if type(key) not in (str, int)), keys[0])
        raise ValueError(f"{path} has the item id {_short(wrong)}; expected all text or all whole numbers")
    if kinds == {int}:
        wrong = next((key for key in (min(keys), max(keys)) if not -(2**63) <= key < 2**63), None)
        if wrong is not None:
            raise ValueError(f"{path} has the item id {wrong}; expected whole numbers below 2^63, or text")
        return
    joined = "".join(keys)
    if "\0" in joined or (not joined.isascii() and joined.encode(errors="replace").decode() != joined):
        wrong = next(key for key in keys if "\0" in key or key.encode(errors="replace").decode() != key)
        raise ValueError(f"{path} has the item id {_short(wrong)}, which is no text that every file can hold")


def _matrix(path: Path, rows: list[Any], keys: Sequence[Any]) -> np.ndarray:
    """Rows of codes as one array [N, L]; a sentence where a row is of another length or not of whole numbers."""
    if not rows:
        raise ValueError(f"{path} has codes of no item")
    if set(map(type, rows)) != {list} or len(set(map(len, rows))) > 1 or not rows[0]:
        for key, row in zip(keys, rows, strict=True):
            if not isinstance(row, list) or not row:
                raise ValueError(f"{path}: item {key!r} has {_short(row)}; expected its codes, such as [12, 7]")
            if len(row) != len(rows[0]):
                raise ValueError(f"{path}: item {key!r} has {len(row)} codes but the first item has {len(rows[0])}")
    kinds = set(map(type, chain.from_iterable(rows)))
    try:
        codes = _whole(np.asarray(rows)) if kinds <= {int, float} else np.empty((0, 0), dtype=object)
    except (ValueError, OverflowError):
        codes = np.empty((0, 0), dtype=object)
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or int(codes.min()) < 0 or int(codes.max()) >= 2**31:
        wrong = next((key, row) for key, row in zip(keys, rows, strict=True) if not all(map(_is_code, row)))
        raise ValueError(f"{path}: item {wrong[0]!r} has {_short(wrong[1])}; expected whole numbers from 0")
    return codes


def _is_code(value: Any) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value < 2**31


def _integers(keys: Sequence[Any]) -> list[int] | None:
    """Keys as integers, if every one of them is written as an integer would be (``007`` is a name)."""
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", key) for key in keys):
        return [int(key) for key in keys]
    return None


def _has_text(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _checked_object(path: Path, content: Any, format: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is not of the format {format}; expected an object of items and their codes")
    return content


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected codes in one of the formats {', '.join(FORMATS)}")
    with open(path, "rb") as file:
        start = file.read(2)
    if path.suffix in _PICKLES or start[:1] == b"\x80" or start == b"PK":
        raise ValueError(
            f"{path} is a pickle, and nothing is unpickled here: where it was made, save the tensor as .safetensors "
            "or .npy"
        )


def _json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")  # with the mark that Windows puts before a text, or without
        return json.loads(text, object_pairs_hook=_without_repetition)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is none of the formats {', '.join(FORMATS)}") from error
    except KeyError as error:
        raise ValueError(f"{path} has the item {_short(error.args[0])} more than once") from error
    except json.JSONDecodeError as error:
        known = "" if path.suffix == ".json" else f", and its name is of none of the formats {', '.join(FORMATS)}"
        raise ValueError(f"{path} is not valid JSON in line {error.lineno:,}{known}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits raise a plain ValueError
        raise ValueError(f"{path} is not valid JSON: nested too deeply, or a number too long") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise KeyError(key)
            seen.add(key)
    return found


def _parquet(path: Path) -> Any:
    import polars as pl

    _check_readable(path)
    try:
        return pl.read_parquet(path)
    except BaseException as error:  # polars panics on some damaged pages, which Exception does not catch
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"{path} is not a readable Parquet table: {_short(' '.join(str(error).split()))}") from error


def _read_notes(path: Path) -> dict[str, Any] | None:
    notes = path.with_name(path.name + NOTES)
    if not notes.is_file():
        return None
    content = _json(notes)
    if not isinstance(content, dict) or content.get("kind") != NOTES_KIND:
        raise ValueError(f"{notes} does not say what {path.name} holds; delete it to read {path.name} on its own")
    check(notes, content, _NOTES_SCHEMA)
    return content
