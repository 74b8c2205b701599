"""Item codes in the files of other projects, read and written; and a faiss index of the vectors that codes stand for.

Every such file leaves something out: which items the rows are, how many codes a level has, which columns belong
together. Writing therefore puts a small JSON file of that name beside it (``X.index.json.semtok.json``), and reading
uses it where it is there, so that what was written comes back whole. Nothing is ever unpickled.

The formats, as the projects' own files have them:

=========  =====================================================================================================
index      LETTER, LC-Rec, MiniOneRec, MQL4GRec: ``{"0": ["<a_12>", "<b_7>"], ...}``, keys are item numbers from 0
grid       GRID: one integer tensor [L, N], column i being item number i from 0 (.safetensors or .npy)
rpg        RPG, ActionPiece: ``{"RAW-ID": [12, 7], ...}`` (their ``.sem_ids`` files)
ccfrec     CCFRec: ``[[], [12, 7], ...]``, row 0 is padding and row i is item number i from 1
table      Parquet: item_id and one column a level, ``c0``, ``c1``, ... or one column of lists; a column ``method``
           where one file holds the codes of several tokenizers
faiss      an index of the vectors that the codes stand for, item i being number i from 0 (written only)
=========  =====================================================================================================

Knows nothing of how codes are made.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbase.store.folder import FileContent, check_file, tensor_bytes, write_file
from semtok.codes import ItemCodes

__all__ = ["FORMATS", "code_tokens", "is_exported", "level_name", "write_codes", "write_faiss"]

FORMATS = {
    "index": ".index.json",
    "grid": ".grid.safetensors",
    "rpg": ".sem_ids",
    "ccfrec": ".codes.json",
    "table": ".codes.parquet",
}
"""Formats that are both read and written, and how the name of such a file ends where none is given."""

NOTES = ".semtok.json"
NOTES_KIND = "semtok item codes"
TENSOR = "codes"


# --------------------------------------------------------------------------------------- tokens


def level_name(level: int) -> str:
    """Letters of a level in its tokens: a, b, ... z, aa, ab, ... (level 0 is ``a``)."""
    name = ""
    level += 1
    while level:
        level, letter = divmod(level - 1, 26)
        name = chr(ord("a") + letter) + name
    return name


def code_tokens(sizes: Sequence[int]) -> list[list[str]]:
    """Token of every code of every level: ``<a_0>`` to ``<a_255>``, then ``<b_0>`` ...

    Parameters
    ----------
    sizes : sequence of int [L]
        Codes of each level.
    """
    return [[f"<{level_name(level)}_{code}>" for code in range(size)] for level, size in enumerate(sizes)]


# --------------------------------------------------------------------------------------- writing


def write_codes(codes: ItemCodes, path: str | os.PathLike[str], format: str) -> None:
    """Write codes in the format of another project, and beside it what that format leaves out.

    Parameters
    ----------
    codes : ItemCodes
        Codes of N items.
    path : path
        File to write; for "grid" its name ends in .safetensors or .npy.
    format : {"index", "grid", "rpg", "ccfrec", "table"}
        See the head of this file.

    Raises
    ------
    ValueError
        If the format is unknown, or the name does not fit it.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    check_format(format)
    check_file(path)
    if format == "table":
        codes.write_parquet(path)
    elif format == "grid":
        write_file(path, _tensor_writer(path, np.ascontiguousarray(codes.codes.T, dtype=np.int64)))
    else:
        content = {"index": _as_index, "rpg": _as_rpg, "ccfrec": _as_ccfrec}[format](codes)
        write_file(path, json.dumps(content, ensure_ascii=False))
    _write_notes(codes, path)


def write_faiss(vectors: np.ndarray, codes: ItemCodes, path: str | os.PathLike[str], metric: str = "cosine") -> None:
    """Write an exact faiss index of the vectors that codes stand for; item i is number i from 0.

    Parameters
    ----------
    vectors : float [N, D]
        What the codes decode to.
    codes : ItemCodes
        Of the same items; their ids are written beside the index.
    path : path
        File to write.
    metric : {"cosine", "l2"}, default "cosine"
        "cosine" gives every vector length 1 and searches by inner product; "l2" searches by squared distance.

    Raises
    ------
    ValueError
        If there are not as many vectors as items, or the metric is unknown.
    ImportError
        If faiss is not installed.
    OSError
        If the file cannot be written.
    """
    from semtok.kernels.lloyd import import_faiss

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(codes):
        raise ValueError(f"vectors have shape {vectors.shape} but there are {len(codes)} items; expected [N, D]")
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric={metric!r} is not one of cosine, l2")
    faiss = import_faiss()
    if metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    index = (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(vectors.shape[1])
    index.add(vectors)
    check_file(path)
    write_file(path, faiss.serialize_index(index).tobytes())
    _write_notes(codes, Path(path))


def _as_index(codes: ItemCodes) -> dict[str, list[str]]:
    names = code_tokens(codes.sizes)
    return {
        str(row): [level[code] for level, code in zip(names, item, strict=True)]
        for row, item in enumerate(codes.codes.tolist())
    }


def _as_rpg(codes: ItemCodes) -> dict[str, list[int]]:
    return dict(zip(map(str, codes.item_ids.tolist()), codes.codes.tolist(), strict=True))


def _as_ccfrec(codes: ItemCodes) -> list[list[int]]:
    return [[], *codes.codes.tolist()]


def _tensor_writer(path: Path, tensor: np.ndarray) -> FileContent:
    if path.suffix == ".npy":
        out = io.BytesIO()
        np.save(out, tensor)
        return out.getvalue()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not fit the format grid; expected a name that ends in .safetensors or .npy")
    return tensor_bytes({TENSOR: tensor})


def is_exported(path: Path) -> bool:
    """True of a file that `write_codes` wrote: its notes lie beside it."""
    notes = path.with_name(path.name + NOTES)
    try:
        content = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == NOTES_KIND


def _write_notes(codes: ItemCodes, path: Path) -> None:
    content = {"kind": NOTES_KIND, "format": 1, **codes.manifest(), "item_ids": codes.item_ids.tolist()}
    write_file(path.with_name(path.name + NOTES), json.dumps(content, ensure_ascii=False))


# --------------------------------------------------------------------------------------- reading


def check_format(format: str) -> None:
    """Refuse a format that there is not."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not one of {', '.join(FORMATS)}")
