"""Ways to damage a saved folder, seeded; what the manifest says of a damaged file is made true again.

Otherwise the recorded size and hash would hide what lies behind them: a folder may also be damaged by whoever made it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load, save

Random = np.random.Generator
WRONG: tuple[Any, ...] = (
    *(None, True, False, "", "text", "../x", -1, 0, 1, 3, 1.5, -0.5, 1e308, 10**6, 10**12, 10**30, 2**31),
    *([], {}, [[]], [1], ["a"], [-1, 2], [0, 10**9], {"a": 1}, [[[[[[[1]]]]]]]),
)
"""Values that stand where others should."""


def damage(folder: Path, random: Random) -> str:
    """Damage one thing in a folder; says what."""
    names = list(DAMAGES)
    while True:
        name = names[int(random.integers(len(names)))]
        try:
            said = DAMAGES[name](folder, random)
        except (OSError, ValueError, SafetensorError, pl.exceptions.PolarsError):  # a second damage of one file
            continue
        if said is not None:
            return f"{name}: {said}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _pick(values: Any, random: Random) -> Any:
    values = list(values)
    return values[int(random.integers(len(values)))]


def _put(path: Path, content: bytes) -> None:
    """Write a file, and in every manifest beside it what is now true of it."""
    path.write_bytes(content)
    for manifest in path.parent.glob("*.json"):
        try:
            body = json.loads(manifest.read_text())
        except ValueError:
            continue
        files = body.get("files") if isinstance(body, dict) else None
        for entry in files.values() if isinstance(files, dict) else ():
            if isinstance(entry, dict) and entry.get("file") == path.name:
                entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                manifest.write_text(json.dumps(body))


def _truncated(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    content = path.read_bytes()
    kept = int(random.integers(0, max(1, len(content))))
    _put(path, content[:kept])
    return f"{path.name} to {kept} of {len(content)} bytes"


def _flipped(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    content = bytearray(path.read_bytes())
    if not content:
        return None
    places = random.integers(0, len(content), int(random.integers(1, 9)))
    for place in places:
        content[place] ^= 1 << int(random.integers(8))
    _put(path, bytes(content))
    return f"{path.name} at {sorted(places.tolist())}"


def _overwritten(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    content = bytearray(path.read_bytes())
    if not content:
        return None
    start = int(random.integers(len(content)))
    stop = min(len(content), start + int(random.integers(1, 200)))
    content[start:stop] = _pick((b"\0", b"\xff", b" ", b"9"), random) * (stop - start)
    _put(path, bytes(content))
    return f"{path.name} from {start} to {stop}"


def _emptied(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    _put(path, b"")
    return path.name


def _removed(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    path.unlink()
    return path.name


def _added(folder: Path, random: Random) -> str | None:
    name = _pick(("extra.json", "part-00009.parquet", "model.safetensors", ".writing-x", "notes.txt"), random)
    if (folder / name).exists():
        return None
    (folder / name).write_bytes(b"something else")
    return str(name)


def _unhashed(folder: Path, random: Random) -> str | None:
    """A flipped byte that the manifest knows nothing of."""
    path = _pick(_files(folder), random)
    content = bytearray(path.read_bytes())
    if not content:
        return None
    content[int(random.integers(len(content)))] ^= 255
    path.write_bytes(bytes(content))
    return path.name


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a JSON value; of the book-keeping of files only the top."""
    found = [at] if at else []
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if at == () and key in ("files", "versions"):
            continue
        found += _places(part, (*at, key))
    return found


def _json_changed(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    if path.suffix != ".json":
        return None
    try:
        body = json.loads(path.read_text())
    except ValueError:
        return None
    places = _places(body)
    if not places:
        return None
    *way, last = _pick(places, random)
    holder = body
    for key in way:
        holder = holder[key]
    act = _pick(("set", "set", "set", "remove", "rename", "repeat"), random)
    said = f"{path.name} {act} {'.'.join(map(str, [*way, last]))}"
    if act == "set":
        holder[last] = _pick(WRONG, random)
        said += f" = {holder[last]!r}"
    elif act == "remove":
        del holder[last]
    elif act == "rename" and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    elif isinstance(holder, list):
        holder.insert(last, holder[last])
    else:
        return None
    _put(path, json.dumps(body).encode())
    return said


def _tensor_changed(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    if path.suffix != ".safetensors":
        return None
    arrays = {name: value.copy() for name, value in load(path.read_bytes()).items()}
    name = _pick(arrays, random)
    value = arrays[name]
    act = _pick(TENSOR_ACTS, random)
    changed = TENSOR_ACTS[act](value, random)
    if changed is None:
        return None
    arrays[name] = np.ascontiguousarray(changed)
    if act == "removed":
        del arrays[name]
    elif act == "renamed":
        arrays[f"{name}.x"] = arrays.pop(name)
    elif act == "added":
        arrays[f"{name}.more"] = value
    _put(path, save(arrays))
    return f"{path.name} {name} {act}"


def _with(value: np.ndarray, number: Any, random: Random) -> np.ndarray | None:
    if not value.size or (value.dtype.kind != "f" and isinstance(number, float)) or value.dtype.kind == "b":
        return None
    flat = value.reshape(-1).copy()
    flat[int(random.integers(flat.size))] = number
    return flat.reshape(value.shape)


TENSOR_ACTS: dict[str, Callable[[np.ndarray, Random], np.ndarray | None]] = {
    "with NaN": lambda value, random: _with(value, float("nan"), random),
    "with infinity": lambda value, random: _with(value, float("inf"), random),
    "with -7": lambda value, random: _with(value, -7, random) if value.dtype.kind == "i" else None,
    "with 2**30": lambda value, random: _with(value, 2**30, random) if value.dtype.kind == "i" else None,
    "without a row": lambda value, random: value[:-1] if value.ndim else None,
    "with one more row": lambda value, random: (
        np.concatenate([value, value[:1]]) if value.ndim and len(value) else None
    ),
    "without any row": lambda value, random: value[:0] if value.ndim else None,
    "turned": lambda value, random: value.T if value.ndim == 2 and len(set(value.shape)) == 2 else None,
    "flat": lambda value, random: value.reshape(-1) if value.ndim > 1 else None,
    "as whole numbers": lambda value, random: value.astype(np.int64) if value.dtype.kind == "f" else None,
    "as floats": lambda value, random: value.astype(np.float32) if value.dtype.kind != "f" else None,
    "removed": lambda value, random: value,
    "renamed": lambda value, random: value,
    "added": lambda value, random: value,
}


def _table_changed(folder: Path, random: Random) -> str | None:
    path = _pick(_files(folder), random)
    if path.suffix != ".parquet":
        return None
    table = pl.read_parquet(path.read_bytes())
    name = _pick(table.columns, random)
    act = _pick(TABLE_ACTS, random)
    changed = TABLE_ACTS[act](table, name)
    if changed is None:
        return None
    out = io.BytesIO()
    changed.write_parquet(out)
    _put(path, out.getvalue())
    return f"{path.name} {name} {act}"


TABLE_ACTS: dict[str, Callable[[pl.DataFrame, str], pl.DataFrame | None]] = {
    "dropped": lambda table, name: table.drop(name),
    "renamed": lambda table, name: table.rename({name: f"{name}x"}),
    "with nulls": lambda table, name: table.with_columns(
        pl.when(pl.int_range(pl.len()) > 2).then(pl.col(name)).alias(name)
    ),
    "as floats": lambda table, name: (
        table.with_columns(pl.col(name).cast(pl.Float64) + 0.5) if table.schema[name].is_integer() else None
    ),
    "as text": lambda table, name: (
        table.with_columns(pl.col(name).cast(pl.String)) if table.schema[name].is_integer() else None
    ),
    "as lists": lambda table, name: table.with_columns(pl.concat_list(name).alias(name)),
    "huge": lambda table, name: (
        table.with_columns(pl.lit(2**40).alias(name)) if table.schema[name].is_integer() else None
    ),
    "negative": lambda table, name: (
        table.with_columns((-1 - pl.col(name)).alias(name)) if table.schema[name].is_integer() else None
    ),
    "all equal": lambda table, name: table.with_columns(pl.col(name).first().alias(name)),
    "without a row": lambda table, name: table.head(-1),
    "with a row twice": lambda table, name: pl.concat([table, table.head(1)]),
    "without any row": lambda table, name: table.clear(),
}

DAMAGES: dict[str, Callable[[Path, Random], str | None]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "overwritten": _overwritten,
    "emptied": _emptied,
    "removed": _removed,
    "added": _added,
    "flipped behind the manifest": _unhashed,
    "changed JSON": _json_changed,
    "changed JSON of any kind": _json_changed,
    "changed entry": _json_changed,
    "changed tensor": _tensor_changed,
    "changed tensors": _tensor_changed,
    "changed table": _table_changed,
}
"""Name of each damage; those that are most worth trying stand here more than once."""
