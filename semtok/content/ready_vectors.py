"""Vectors that were made elsewhere, given to a command by a path: which items they are of, and in what order.

A folder of embeddings and shards say themselves which items they are of. A file of vectors says so where it carries
ids; else the user does, by a file of ids or by the word that the rows are in the order of the data set.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semtok.content.embeddings import MANIFEST, Embeddings, load_embeddings
from semtok.content.vector_files import VECTOR_FILES, is_vector_file, read_npy, read_vector_file

if TYPE_CHECKING:
    from semtok.content.shards import ShardedEmbeddings

__all__ = ["VectorSource", "check_settings", "open_vectors", "read_ids"]

_SHOWN = 3


@dataclass(frozen=True)
class VectorSource:
    """Place of vectors and the items of their rows, as a user names them.

    Attributes
    ----------
    path : Path
        Embeddings folder, folder of shards, or file of vectors.
    ids : Path or None, default None
        File of the ids of the rows; see `read_ids`.
    in_order : bool, default False
        The rows are in the order of the items of the data set.
    typed : mapping
        Settings of encoding that the user typed beside them, which must be those that the vectors were made with.
    """

    path: Path
    ids: Path | None = None
    in_order: bool = False
    typed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: Any, ids: Path | None = None, in_order: bool = False, typed: Mapping[str, Any] | None = None
    ) -> VectorSource | None:
        """Source that options name; None where no vectors are given.

        Raises
        ------
        ValueError
            If ids or their order are given without vectors, or both.
        """
        if path is None and (ids is not None or in_order):
            raise ValueError("--embeddings-ids and --in-order say whose the vectors of --embeddings are; give it too")
        if ids is not None and in_order:
            raise ValueError("--embeddings-ids and --in-order both say whose the vectors are; give one of them")
        return path if path is None or isinstance(path, cls) else cls(Path(path), ids, in_order, typed or {})

    def __str__(self) -> str:
        return str(self.path)


def open_vectors(
    source: str | os.PathLike[str] | VectorSource, item_ids: Any = None, data: str = "the data set"
) -> Embeddings | ShardedEmbeddings:
    """Read vectors, their rows those of the items.

    Parameters
    ----------
    source : path or VectorSource
        An embeddings folder, a folder of shards (part-00000.safetensors or .parquet ...), or a file of vectors (.npy,
        .safetensors, .parquet).
    item_ids : array of str or int [N], or None, default None
        The items of a data set, in its order, which the result has too. If None, the items are those that the vectors
        say; the rows of a file without ids are then numbered from 0.
    data : str, default "the data set"
        What an error calls the data set.

    Raises
    ------
    FileNotFoundError
        If there is nothing there.
    ValueError
        If it holds no vectors, or nothing says that they are of these items.
    """
    from semtok.content.shards import ShardedEmbeddings, is_sharded

    source = source if isinstance(source, VectorSource) else VectorSource(Path(source))
    path = source.path
    if not path.is_dir() and (path.suffix in VECTOR_FILES or path.is_file()):
        return _of_file(source, item_ids, data)
    if source.ids is not None or source.in_order:
        option = "--in-order" if source.in_order else "--embeddings-ids"
        raise ValueError(f"{option} is for one file of vectors ({', '.join(VECTOR_FILES)}); {path} is none")
    if is_sharded(path):
        shards = ShardedEmbeddings(path)
        return shards if item_ids is None else shards.align(item_ids)
    if path.is_dir() and not (path / MANIFEST).is_file():
        inside = sorted(part.name for part in path.iterdir() if is_vector_file(part))
        hint = f"; it holds {inside[0]}, which can be given itself" if inside else ""
        raise FileNotFoundError(f"{path} has no {MANIFEST}, so it is not a saved embeddings folder{hint}")
    made = load_embeddings(path)
    check_settings(made.manifest, source.typed, path)
    return made if item_ids is None else made.align(item_ids)


def _of_file(source: VectorSource, item_ids: Any, data: str) -> Embeddings:
    """Vectors of one file, with the ids that it or the user gives them."""
    read = read_vector_file(source.path)
    count = len(next(iter(read.views.values())))
    wanted = None if item_ids is None else _listed(item_ids)
    if source.in_order:
        if wanted is None:
            raise ValueError(f"--in-order says that the rows of {source.path} are the items of a data set; give --data")
        if read.item_ids is not None and list(map(str, read.item_ids)) != list(map(str, wanted)):
            raise ValueError(
                f"--in-order: {source.path} carries ids of its own, which are not the items of {data} in their order; "
                "leave --in-order out to go by the ids"
            )
        if count != len(wanted):
            hint = "; leave out the row of padding" if count == len(wanted) + 1 else ""
            raise ValueError(f"--in-order: {source.path} has {count:,} rows but {data} has {len(wanted):,} items{hint}")
        return Embeddings(read.views, read.missing, _array(wanted))
    ids = read.item_ids
    if source.ids is not None:
        ids = read_ids(source.ids)
        if len(ids) != count:
            raise ValueError(f"{source.ids} names {len(ids):,} items but {source.path} has {count:,} rows")
    made = Embeddings(read.views, read.missing, np.arange(count) if ids is None else _array(ids))
    if wanted is None:
        return made
    if ids is None and set(map(str, wanted)) != set(map(str, range(count))):
        raise ValueError(_unnamed(source.path, count, wanted, data))
    return _chosen(made, wanted, source.path, data)


def _unnamed(path: Path, count: int, wanted: list[Any], data: str) -> str:
    """Sentence on a file that does not say whose its rows are."""
    fits = (
        "--in-order if its rows are in the order of the items (of items.parquet), or " if count == len(wanted) else ""
    )
    return (
        f"{path} has {count:,} rows and does not say which items they are; {data} has {len(wanted):,} items such as "
        f"{wanted[0]!r}: give {fits}--embeddings-ids FILE with the id of each row (or make vectors with semtok embed)"
    )


def _chosen(made: Embeddings, wanted: list[Any], path: Path, data: str) -> Embeddings:
    """The rows of the items of a data set, in its order; what is left over is said."""
    place = {str(item): row for row, item in enumerate(made.item_ids.tolist())}
    rows = [place.get(str(item), -1) for item in wanted]
    absent = [item for item, row in zip(wanted, rows, strict=True) if row < 0]
    if absent:
        raise ValueError(
            f"{path} has no vector of {len(absent):,} of the {len(wanted):,} items of {data}, such as "
            f"{', '.join(map(repr, absent[:_SHOWN]))}; it has {len(made):,} items such as {made.item_ids[0].item()!r}"
        )
    if len(made) > len(wanted):
        warnings.warn(
            f"{len(made) - len(wanted):,} of the {len(made):,} vectors in {path} are of items that {data} does not "
            "have, and are left out",
            UserWarning,
            stacklevel=4,
        )
    order = np.array(rows)
    views = {name: vectors[order] for name, vectors in made.views.items()}
    return Embeddings(views, {name: mask[order] for name, mask in made.missing.items()}, _array(wanted))


def _array(ids: Sequence[Any]) -> np.ndarray:
    """Ids as an array of Python objects, which `Embeddings` checks: NumPy would turn mixed ones into text."""
    made = np.empty(len(ids), dtype=object)
    made[:] = ids
    return made


def _listed(item_ids: Any) -> list[Any]:
    values: list[Any] = item_ids.to_list() if hasattr(item_ids, "to_list") else np.asarray(item_ids).tolist()
    return values


def read_ids(path: str | os.PathLike[str]) -> list[Any]:
    """Ids of the rows of vectors, one a row.

    Parameters
    ----------
    path : path
        ``.txt``: one id a line. ``.json``: a list. ``.npy``: one array of text or whole numbers. Else a table of items
        (.csv, .tsv, .parquet, .jsonl) with a column item_id.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no ids.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file of ids")
    if path.suffix in {".txt", ""}:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip("\r\n").split("\n")]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8; expected one id a line") from error
        if not all(lines):
            raise ValueError(f"{path} has an empty line {lines.index('') + 1}; expected one id a line")
        return lines
    if path.suffix == ".json":
        return _ids_of_json(path)
    if path.suffix == ".npy":
        return _ids_of_npy(path)
    from recbase.data.readers import read_items

    ids: list[Any] = read_items(path)["item_id"].to_list()
    return ids


def _ids_of_json(path: Path) -> list[Any]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(ids, list) or {type(item) for item in ids} not in ({str}, {int}):
        raise ValueError(f"{path} is no list of ids; expected all text or all whole numbers")
    return ids


def _ids_of_npy(path: Path) -> list[Any]:
    ids = read_npy(path, kinds="iuU")
    if ids.ndim != 1:
        raise ValueError(f"{path} has shape {ids.shape} and type {ids.dtype}; expected ids [N]")
    listed: list[Any] = ids.tolist()
    return listed


def check_settings(manifest: Mapping[str, Any], typed: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Refuse vectors that were made otherwise than a command was told to make them.

    Parameters
    ----------
    manifest : mapping
        Of the embeddings: what the encoder was given.
    typed : mapping
        The settings that the user typed, by the names of the arguments of `embed_dataset`.
    folder : path
        Of the embeddings, for the sentence.

    Raises
    ------
    ValueError
        If one of them differs from what is recorded.
    """
    for name, value in typed.items():
        option = "--" + name.replace("_", "-")
        if name == "views":
            absent = [view for view in value or () if view not in manifest.get("views", {})]
            if absent and "views" in manifest:
                raise ValueError(f"{option} names {absent[0]!r}, but {folder} has {', '.join(manifest['views'])}")
        elif name in manifest and manifest[name] != value:
            raise ValueError(
                f"{option} is {_said(value)}, but the vectors in {folder} were made with {_said(manifest[name])}; "
                f"leave {option} out, or --embeddings to make them anew"
            )


def _said(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
