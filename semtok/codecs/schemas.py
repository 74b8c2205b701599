"""What a tokenizer folder must say and hold: the schema of ``semtok.json`` and the arrays of every program.

Both readers of a folder, with torch and with NumPy alone, check it here before they build anything of it. Needs neither
torch nor polars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import Folder, load_arrays, open_folder
from recbase.store.manifests import (
    COUNT,
    NUMBER,
    OBJECT,
    RANGE,
    TEXT,
    WHOLE,
    Kind,
    between,
    check,
    list_of,
    map_of,
    maybe,
    null_or,
    one_of,
    read_json,
    record,
)
from recbase.store.restoring import Expected, check_arrays, check_finite_array

__all__ = [
    "BLOCKS",
    "CODEBOOKS_FILE",
    "CODES",
    "CODE_SHARDS",
    "KIND",
    "MANIFEST",
    "MOST_CODES",
    "check_state",
    "REPORT",
    "SIZES",
    "open_tokenizer",
    "read_report",
    "read_state",
]

MANIFEST = "semtok.json"
KIND = "tokenizer"
CODEBOOKS_FILE = "codebooks.safetensors"

MOST_CODES = 1 << 24
"""Codes of one level at most: tables and counts of a level are made in full, so a size is a claim on memory."""

SIZES = list_of(between(1, MOST_CODES), least=1)
BLOCKS = map_of(RANGE)

CODES = record({"sizes": SIZES, "blocks": BLOCKS, "items": maybe(WHOLE), "hash": TEXT})
"""What a manifest says of a table of codes."""

CODE_SHARDS = record({"sizes": SIZES, "blocks": BLOCKS, "rows": list_of(WHOLE, least=1)})
"""Manifest of codes in shards."""

_SHARED = record({"items": WHOLE, "rate": NUMBER, "largest": maybe(WHOLE)})
REPORT = record(
    {
        "sizes": SIZES,
        "collisions": _SHARED,
        "levels": list_of(record({"size": WHOLE, "used": WHOLE, "perplexity": NUMBER})),
        "before": maybe(record({"collisions": _SHARED})),
        "reconstruction": maybe(record({"relative_error": NUMBER})),
        "neighbours": maybe(null_or(map_of(NUMBER))),
    }
)
"""Schema of ``report.json``."""

_MADE_FROM = record(
    {
        "embeddings": maybe(null_or(TEXT)),
        "embeddings_folder": maybe(null_or(TEXT)),
        "views": maybe(null_or(list_of(TEXT))),
        "dataset": maybe(null_or(OBJECT)),
        "arrangement": maybe(null_or(TEXT)),
    }
)
_FOLDER = record(
    {
        "method": null_or(TEXT),
        "codes": maybe(null_or(CODES)),
        "unique": maybe(TEXT),
        "resolving": maybe(null_or(OBJECT)),
        "made_from": maybe(null_or(_MADE_FROM)),
        "generations": maybe(null_or(list_of(record({"after": TEXT})))),
    }
)
_FITTED = {
    "program": null_or(TEXT),
    "arguments": OBJECT,
    "n_features": COUNT,
    "sizes": SIZES,
    "views": map_of(RANGE),
    "blocks": BLOCKS,
}
_UNUSED = {"unused": list_of(WHOLE)}
_STATE: dict[str, dict[str, Kind]] = {
    "additive": {"engine": TEXT, "columns": list_of(RANGE), "used": list_of(COUNT), **_UNUSED},
    "residual-network": {
        "layers": between(1, 1000),
        **_UNUSED,
        "seconds": NUMBER,
        "history": list_of(OBJECT),
        "arguments": record({"hidden": list_of(COUNT), "latent_dim": COUNT}),
    },
    "behavior": {
        "streams": list_of(one_of("id", "text", "image"), least=1),
        "neighbors": COUNT,
        "levels": COUNT,
        "training": record({"history": list_of(OBJECT), "seconds": NUMBER}),
    },
    "tree": {"arguments": record({"normalize": Kind("true or false", lambda value: isinstance(value, bool))})},
    "grid": {"cells": list_of(COUNT, least=1)},
    "random": {"arguments": record({"seed": between(-(2**63), 2**63 - 1)})},
}


def open_tokenizer(folder: str | os.PathLike[str]) -> Folder:
    """Open a tokenizer folder, or one of codes alone, and check its manifest.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is of another kind, or an entry of the manifest is missing or wrong.
    """
    opened = open_folder(folder, MANIFEST, KIND)
    path, manifest = opened.path / MANIFEST, opened.manifest
    check(path, manifest, _FOLDER)
    if manifest["method"] is not None:
        _check_fitted(path, manifest)
    return opened


def _check_fitted(path: Path, manifest: Mapping[str, Any]) -> None:
    """Entries of a fitted tokenizer, and that they fit each other."""
    check(path, manifest, record(_FITTED))
    state = _STATE.get(manifest["program"])
    if state is not None:
        check(path, manifest, record(state))
    for what, limit, parts in (
        ("columns", manifest["n_features"], manifest["views"]),
        ("levels", len(manifest["sizes"]), manifest["blocks"]),
    ):
        for name, (lo, hi) in parts.items():
            if hi > limit:
                whole = "views" if what == "columns" else "blocks"
                raise ValueError(f"{path}: '{whole}.{name}' is [{lo}, {hi}] but there are {limit} {what}")
    if state is not None:
        apart = list(manifest["views"]) != list(manifest["blocks"])
        if apart and manifest["program"] != "behavior":  # its blocks are levels, of all views
            raise ValueError(
                f"{path}: 'blocks' has {', '.join(manifest['blocks']) or 'nothing'} but 'views' has "
                f"{', '.join(manifest['views']) or 'nothing'}"
            )
        ends = [0, *(part for bounds in manifest["blocks"].values() for part in bounds), len(manifest["sizes"])]
        if any(first != second for first, second in zip(ends[::2], ends[1::2], strict=True)):
            raise ValueError(f"{path}: 'blocks' do not follow each other from 0 to {len(manifest['sizes'])} levels")


def read_state(opened: Folder) -> dict[str, np.ndarray]:
    """Arrays of the codebooks of an open tokenizer folder, checked.

    Raises
    ------
    ValueError
        If the file is damaged, lacks an array, has one of another shape or type, or holds NaN or infinity.
    """
    path = opened.file(CODEBOOKS_FILE)
    arrays = load_arrays(path)
    check_state(path, opened, arrays)
    return arrays


def read_report(opened: Folder) -> dict[str, Any]:
    """Content of ``report.json`` of an open tokenizer folder; ValueError if it is damaged."""
    path = opened.file("report.json")
    report: dict[str, Any] = read_json(path)
    check(path, report, REPORT)
    return report


def check_state(path: str | os.PathLike[str], opened: Folder, arrays: Mapping[str, np.ndarray]) -> None:
    """Compare the arrays of a tokenizer with what its manifest leads one to expect; see `read_state`."""
    manifest = opened.manifest
    describe = _ARRAYS.get(manifest["program"])
    if describe is None:  # a third party's program, or a method that needs torch: its arrays are its own affair
        for name, array in arrays.items():
            check_finite_array(path, name, array)
        return
    try:
        expected = describe(manifest, arrays)
    except ValueError as error:
        raise ValueError(f"{opened.path / MANIFEST}: {error}") from error
    codes = manifest.get("codes")
    if codes is not None:
        expected["codes"] = Expected((codes.get("items"), len(codes["sizes"])), "i", required=False)
    check_arrays(path, arrays, expected, f"a tokenizer of method {manifest['method']}")
    try:
        _CHECKS.get(manifest["program"], lambda manifest, arrays: None)(manifest, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# --------------------------------------------------------------------------------------- arrays of each program


def _width(bounds: list[int]) -> int:
    return bounds[1] - bounds[0]


def _additive(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    sizes, columns, used = manifest["sizes"], manifest["columns"], manifest["used"]
    if not len(sizes) == len(columns) == len(used):
        raise ValueError(f"'sizes', 'columns' and 'used' have {len(sizes)}, {len(columns)} and {len(used)} entries")
    for name, (lo, hi) in manifest["blocks"].items():
        width = _width(manifest["views"][name])
        for level in range(lo, hi):
            if columns[level][1] > width:
                raise ValueError(f"'columns[{level}]' is {columns[level]} but view {name!r} has {width} columns")
    for level, (size, count) in enumerate(zip(sizes, used, strict=True)):
        if count > size:
            raise ValueError(f"'used[{level}]' is {count} but level {level} has {size} codes")
    found = {f"codebook.{level}": Expected((sizes[level], _width(columns[level]))) for level in range(len(sizes))}
    for name, bounds in manifest["views"].items():
        found[f"rotation.{name}"] = Expected((_width(bounds), _width(bounds)), required=False)
        found[f"shift.{name}"] = Expected((_width(bounds),), required=False)
    return found


def _residual_network(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    hidden, latent = manifest["arguments"]["hidden"], manifest["arguments"]["latent_dim"]
    if manifest["layers"] != len(hidden) + 1:
        raise ValueError(f"'layers' is {manifest['layers']} but 'arguments.hidden' has {len(hidden)} entries")
    sizes = manifest["sizes"]
    found = {f"codebook.{level}": Expected((size, latent)) for level, size in enumerate(sizes)}
    for name, bounds in manifest["views"].items():
        widths = [_width(bounds), *hidden, latent]
        lo, hi = manifest["blocks"][name]
        if len(set(sizes[lo:hi])) > 1:
            raise ValueError(f"'sizes' of the levels of view {name!r} differ: {sizes[lo:hi]}")
        found |= {f"shift.{name}": Expected((widths[0],)), f"scale.{name}": Expected((widths[0],))}
        found[f"usable.{name}"] = Expected((hi - lo, sizes[lo]), "b")
        for part, along in (("encoder", widths), ("decoder", widths[::-1])):
            for place, (inside, outside) in enumerate(pairwise(along)):
                found[f"{part}.{name}.{place}.weight"] = Expected((outside, inside))
                found[f"{part}.{name}.{place}.bias"] = Expected((outside,))
    return found


def _check_residual_network(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name in manifest["views"]:
        if not arrays[f"usable.{name}"].any(1).all():
            raise ValueError(f"'usable.{name}' leaves a level without any code")
        if not arrays[f"scale.{name}"].all():
            raise ValueError(f"'scale.{name}' holds 0, by which vectors are divided")


def _behavior(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    streams, levels, sizes = manifest["streams"], manifest["levels"], manifest["sizes"]
    if levels * len(streams) != len(sizes) or len(set(sizes)) > 1:
        raise ValueError(f"'sizes' has {sizes}, expected one size for {levels} levels of {len(streams)} streams")
    if {*streams} - {"id"} != set(manifest["views"]):
        raise ValueError(f"'streams' has {', '.join(streams)} but 'views' has {', '.join(manifest['views'])}")
    hidden, latent = manifest["arguments"].get("hidden"), manifest["arguments"].get("latent_dim")
    if not isinstance(hidden, list) or not all(isinstance(width, int) for width in [*hidden, latent]):
        raise ValueError("'arguments' must have 'hidden', a list of whole numbers, and 'latent_dim', a whole number")
    count = len(arrays["keys"]) if arrays.get("keys", np.zeros(())).ndim == 1 else None
    found = {"keys": Expected((count,), "i"), "codebooks": Expected((None, levels, sizes[0], latent))}
    for name, bounds in manifest["views"].items():
        width = _width(bounds)
        found |= {f"{name}.{part}": Expected((width,)) for part in ("mean", "scale", "absent")}
        found[f"{name}.missing"] = Expected((count,), "b")
        for place, (inside, outside) in enumerate(pairwise([width, *hidden, latent])):
            found[f"{name}.weight.{place}"] = Expected((outside, inside))
            found[f"{name}.bias.{place}"] = Expected((outside,))
    if "id" in streams:
        found |= {"ids": Expected((count, latent)), "trained": Expected((count,), "b")}
        found["places"] = Expected((count, latent * len(manifest["views"])))
    return found


def _check_behavior(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    books, streams = arrays["codebooks"], manifest["streams"]
    if len(books) not in (1, len(streams)):
        raise ValueError(
            f"'codebooks' has {len(books)} tables, expected one, or one for each of {len(streams)} streams"
        )
    if "id" in streams and not arrays["trained"].any():
        raise ValueError("'trained' names no item, so that no new item could be placed")
    for name in manifest["views"]:
        if not arrays[f"{name}.scale"].all():
            raise ValueError(f"'{name}.scale' holds 0, by which vectors are divided")


_TREE = {"mean": "f", "offsets": "f", "code": "i", "price": "f", "children": "i", "items": "i", "reach": "f"}


def _tree(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    found = {}
    for name, (lo, hi) in manifest["blocks"].items():
        width = _width(manifest["views"][name])
        nodes, rows = (
            len(array) if (array := arrays.get(f"{field}.{name}")) is not None and array.ndim == 1 else None
            for field in ("code", "keys")
        )
        shapes = {"mean": (width,), "offsets": (nodes, width), "reach": (None,)}
        for field, kind in _TREE.items():
            found[f"{field}.{name}"] = Expected(shapes.get(field, (nodes,)), kind)
        found[f"keys.{name}"] = Expected((rows,), "i")
        found[f"codes.{name}"] = Expected((rows, hi - lo), "i")
    return found


def _check_tree(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name, (lo, hi) in manifest["blocks"].items():
        sizes = np.array(manifest["sizes"][lo:hi])
        code, children, items = (arrays[f"{field}.{name}"].astype(np.int64) for field in ("code", "children", "items"))
        if not len(code) or children.min() < 0 or int(children.sum()) != len(code) - 1:
            raise ValueError(f"'children.{name}' must sum to {max(0, len(code) - 1)}, the nodes below the root")
        reached = 1 + children.cumsum()  # nodes numbered up to here, which a node must be among to be reached
        if (reached[:-1] <= np.arange(1, len(code))).any():
            raise ValueError(f"'children.{name}' leaves nodes that no path leads to")
        if items.min() < 0 or int(items.sum()) != len(arrays[f"reach.{name}"]):
            raise ValueError(f"'items.{name}' must sum to {len(arrays[f'reach.{name}'])}, the length of 'reach.{name}'")
        if ((children == 0) & (items == 0)).any():
            raise ValueError(f"'items.{name}' has a last node without items")
        if code.min() < 0 or code.max() >= sizes[0]:
            raise ValueError(f"'code.{name}' must lie in 0..{sizes[0] - 1}, found {code.min()} to {code.max()}")
        if (items > sizes[0]).any():
            raise ValueError(f"'items.{name}' has {items.max()} items under one node, which has {sizes[0]} codes")
        _check_depth(name, children, items, len(sizes), bool(sizes[-1] > sizes[0]))
        table = arrays[f"codes.{name}"]
        if not len(table) or ((table < 0) | (table >= sizes)).any():
            raise ValueError(f"'codes.{name}' must hold codes below the sizes {sizes.tolist()}")


def _check_depth(name: str, children: np.ndarray, items: np.ndarray, levels: int, ends: bool) -> None:
    """Refuse nodes too deep for their items to be told apart by one more code, where they need one."""
    lo, hi, depth = 0, 1, 0
    while lo < hi:
        needs_code = (children[lo:hi] > 0) | (items[lo:hi] > 1) | (not ends)
        if depth >= levels and needs_code.any():
            raise ValueError(f"'children.{name}' make a tree deeper than its {levels} levels")
        lo, hi, depth = hi, hi + int(children[lo:hi].sum()), depth + 1


def _grid(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    cells, found = manifest["cells"], {}
    codes = int(np.prod([float(cell) for cell in cells]))
    for name, (lo, hi) in manifest["blocks"].items():
        for level in range(lo, hi):
            if manifest["sizes"][level] != codes:
                raise ValueError(f"'sizes[{level}]' is {manifest['sizes'][level]} but 'cells' make {codes} codes")
        width, axes = _width(manifest["views"][name]), len(cells) * (hi - lo)
        cuts = max(cells) - 1
        found[f"mean.{name}"] = Expected((width,))
        found[f"axes.{name}"] = Expected((width, axes))
        found[f"cuts.{name}"] = Expected((axes, cuts), finite=False)  # filled up with infinity
        found[f"values.{name}"] = Expected((axes, cuts + 1, width))
    return found


def _check_grid(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name in manifest["views"]:
        cuts = arrays[f"cuts.{name}"]
        if np.isnan(cuts).any() or (cuts[:, 1:] < cuts[:, :-1]).any() or np.isneginf(cuts).any():
            raise ValueError(f"'cuts.{name}' must rise along every coordinate and hold no NaN")
        kept = np.tile(np.array(manifest["cells"]) - 1, len(cuts) // len(manifest["cells"]))
        if (np.isfinite(cuts).sum(1) > kept).any():
            raise ValueError(f"'cuts.{name}' cuts a coordinate into more cells than {manifest['cells']}")


def _random(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    return {"mean": Expected((manifest["n_features"],))}


_ARRAYS: dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], dict[str, Expected]]] = {
    "additive": _additive,
    "residual-network": _residual_network,
    "behavior": _behavior,
    "tree": _tree,
    "grid": _grid,
    "random": _random,
}
_CHECKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], None]] = {
    "residual-network": _check_residual_network,
    "behavior": _check_behavior,
    "tree": _check_tree,
    "grid": _check_grid,
}
