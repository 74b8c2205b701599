"""Item content to vectors: the views of a data set encoded one by one, or ready-made arrays.

An embeddings folder holds one float32 array [N, D] a view (title, brand, ..., image), which of its entries were
missing, and the fitted transforms, so that new items become vectors by the same rules. Row i - 1 belongs to item number
i. This file knows data sets as tables of columns; it knows nothing of codes or models.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from recbase.arguments import (
    Device,
    DeviceMap,
    EncoderName,
    FolderName,
    Length,
    ModelName,
    Revision,
    Samples,
    Seed,
    Width,
    check_arguments,
)
from recbase.cli.options import progress
from recbase.store.files import is_abandoned
from recbase.store.folder import (
    Folder,
    check_replaceable,
    consistent,
    folder_lock,
    load_arrays,
    open_folder,
    save_folder,
    sha256_of,
    tensor_bytes,
    write_file,
)
from recbase.store.locks import FolderBusyError
from recbase.store.manifests import (
    COUNT,
    OBJECT,
    TEXT,
    WHOLE,
    Kind,
    check,
    list_of,
    map_of,
    maybe,
    null_or,
    read_json,
    record,
    shown,
)
from recbase.store.restoring import Expected, check_arrays
from semtok.content.encoders import Encoder, ImageEncoder, Pca, TextEncoder, Tfidf, check_encoder_name, text_encoder
from semtok.content.vector_files import is_vector_file, read_vector_file
from semtok.content.words import RULES

__all__ = [
    "Embeddings",
    "ViewTransform",
    "embed_dataset",
    "embeddings_for",
    "load_embeddings",
    "load_vectors",
]

MANIFEST = "embeddings.json"
KIND = "embeddings"
SCHEMA = record(
    {
        "widths": map_of(COUNT),
        "items": maybe(WHOLE),
        "hash": maybe(TEXT),
        "key": maybe(TEXT),
        "views": maybe(
            map_of(
                record(
                    {
                        "encoder": TEXT,
                        "revision": maybe(null_or(TEXT)),
                        "max_tokens": maybe(COUNT),
                        "dtype": maybe(TEXT),
                        "root": maybe(null_or(TEXT)),
                    }
                )
            )
        ),
        "joined": maybe(null_or(list_of(TEXT))),
        "dataset": maybe(null_or(OBJECT)),
    }
)
"""Schema of ``embeddings.json``."""
IMAGE_VIEW = "image"
VERSION = 1  # raised where the same content gets other vectors, so that older folders are not taken for new
JOINED_VIEW = "joined"
_CHUNK_ROWS = 65_536
_PART_ITEMS = 512
_SHOWN = 3
_SOURCE_KIND = "content:"
_SOURCE_SAMPLES, _SOURCE_BYTES = 64, 1 << 16
_PART = re.compile(r"^[0-9a-f]{32}\.safetensors$|^\.writing-[0-9a-f]{32}$")  # the second as earlier versions wrote
_Embed = TypeVar("_Embed", bound=Callable[..., Any])


# --------------------------------------------------------------------------------------- the result


@dataclass(frozen=True, eq=False)
class ViewTransform:
    """What turns new entries of one view into vectors: the TF-IDF model (if that is the encoder), then the PCA."""

    tfidf: Tfidf | None = None
    pca: Pca | None = None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of every item of a catalogue, one array a view.

    Parameters
    ----------
    views : dict of str to float32 [N, D_v]
        Vectors; row i - 1 belongs to item number i.
    missing : dict of str to bool [N]
        Which entries were missing (their vector is that of the empty string, or the mean of the images).
    item_ids : array of str or int [N]
        The raw ids.
    manifest : dict
        Encoder, views, PCA, and the hashes of what they were made from.
    transforms : dict of str to ViewTransform
        What `transform_new` applies.

    Raises
    ------
    ValueError
        If shapes do not fit or a vector holds NaN or infinity.
    """

    views: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]
    item_ids: np.ndarray
    manifest: dict[str, Any] = field(default_factory=dict)
    transforms: dict[str, ViewTransform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        item_ids = _as_ids(self.item_ids)
        if not self.views:
            raise ValueError("embeddings have no view; expected one or more arrays [N, D]")
        views = {name: _checked_vectors(vectors, name, len(item_ids)) for name, vectors in self.views.items()}
        missing = {
            name: np.asarray(self.missing.get(name, np.zeros(len(item_ids), dtype=bool)), dtype=bool) for name in views
        }
        for name, mask in missing.items():
            if mask.shape != (len(item_ids),):
                raise ValueError(f"missing of view {name!r} has shape {mask.shape}; expected ({len(item_ids)},)")
        object.__setattr__(self, "item_ids", item_ids)
        object.__setattr__(self, "views", views)
        object.__setattr__(self, "missing", missing)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        widths = ", ".join(f"{name} {vectors.shape[1]}" for name, vectors in self.views.items())
        return f"Embeddings({len(self)} items, {widths})"

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of all vectors, their names and the item ids."""
        parts: list[Any] = [json.dumps(self.item_ids.tolist())]
        for name, vectors in self.views.items():
            parts += [name, vectors]
        return sha256_of(*parts)

    @property
    def reduction(self) -> dict[str, Any]:
        """Encoder of the text and what was made of its vectors: ``encoder``, ``pca``, ``whiten``; None if unknown."""
        return {name: self.manifest.get(name) for name in ("encoder", "pca", "whiten")}

    def described(self) -> str:
        """The same in words, for what a command prints."""
        if "pca" not in self.manifest:
            return f"vectors of {_list(self.views)}, as they were given"
        pca, whiten = self.manifest["pca"], self.manifest.get("whiten")
        shape = "as the encoder gives them" if pca is None else f"reduced to {pca} components a view"
        scale = "" if pca is None else ", whitened to unit variance" if whiten else ", not whitened"
        return f"vectors of {_list(self.views)} by {self.manifest.get('encoder')}, {shape}{scale}"

    def matrix(
        self, views: Iterable[str] | None = None, normalize: bool = False, blank: bool = False
    ) -> tuple[np.ndarray, dict[str, slice]]:
        """The views side by side.

        Parameters
        ----------
        views : iterable of str or None, default None
            Which, in this order; all of them if None.
        normalize : bool, default False
            Give every row of every view length 1 (a zero row stays zero).
        blank : bool, default False
            Make missing entries rows of zeros.

        Returns
        -------
        (float32 [N, sum of D], dict of str to slice)
            The matrix and the columns of each view.

        Raises
        ------
        ValueError
            If a view is not here.
        """
        names = list(self.views) if views is None else list(views)
        parts, columns, start = [], {}, 0
        for name in names:
            vectors = self.views[_known(name, self.views)]
            if normalize:
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.where(lengths > 0, lengths, 1.0)
            if blank and self.missing[name].any():
                vectors = np.where(self.missing[name][:, None], np.float32(0), vectors)
            parts.append(vectors)
            columns[name] = slice(start, start + vectors.shape[1])
            start += vectors.shape[1]
        return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32), columns

    def align(self, item_ids: Any) -> Embeddings:
        """The same vectors with rows in the order of these ids, which must be exactly these items.

        Raises
        ------
        ValueError
            If they are other items, naming both counts and an example.
        """
        wanted = _as_ids(item_ids)
        if np.array_equal(wanted, self.item_ids):
            return self
        place = {item: row for row, item in enumerate(self.item_ids.tolist())}
        rows = [place.get(item, -1) for item in wanted.tolist()]
        if len(wanted) != len(self) or -1 in rows:
            strange = next((item for item, row in zip(wanted.tolist(), rows, strict=True) if row < 0), None)
            example = "" if strange is None else f", such as {strange!r}, which has no vector"
            raise ValueError(
                f"the embeddings are of {len(self)} items such as {self.item_ids[0].item()!r} but the data set has "
                f"{len(wanted)} items{example}: they do not belong together"
            )
        order = np.array(rows)
        return Embeddings(
            {name: vectors[order] for name, vectors in self.views.items()},
            {name: mask[order] for name, mask in self.missing.items()},
            wanted,
            self.manifest,
            self.transforms,
        )

    def transform_new(self, items: Any, item_ids: Any = None, encoder: Encoder | None = None) -> Embeddings:
        """Vectors of items that were not there when the transforms were fitted, by the same rules.

        Parameters
        ----------
        items : polars DataFrame or mapping
            One column of texts (or paths, or an array of vectors) a view; None is a missing entry.
        item_ids : sequence or None, default None
            Ids of the items; the column item_id if None, else row numbers.
        encoder : Encoder or None, default None
            The Transformer encoder, where it is loaded already; loaded by name if None.

        Raises
        ------
        ValueError
            If the items lack a view.
        """
        columns = list(items.columns) if hasattr(items, "columns") else list(items)
        if item_ids is None and "item_id" in columns:
            item_ids = items["item_id"]
        views: dict[str, np.ndarray] = {}
        missing: dict[str, np.ndarray] = {}
        for name in self.views:
            made = self.manifest["views"][name]
            column = "image_path" if name == IMAGE_VIEW and made["encoder"] != "array" else name
            if column not in columns and name != JOINED_VIEW:
                raise ValueError(
                    f"the new items have no column {column!r}; the embeddings have views {_list(self.views)}"
                )
            transform = self.transforms.get(name, ViewTransform())
            if made["encoder"] == "array":
                raw = np.asarray(items[column], dtype=np.float32)
                missing[name] = np.zeros(len(raw), dtype=bool)
            else:
                if name == JOINED_VIEW:
                    texts, missing[name] = _joined([_texts(items[view])[0] for view in self.manifest["joined"]])
                else:
                    texts, missing[name] = _texts(items[column])
                if transform.tfidf is not None:
                    raw = transform.tfidf.encode(texts)
                    _say_unknown(raw, missing[name], name)
                elif name == IMAGE_VIEW:
                    _check_source(made["encoder"], self.manifest.get("image_source"))
                    used = encoder or ImageEncoder(made["encoder"], root=made.get("root"), revision=made["revision"])
                    raw = _encode(used, texts, name, None, True, missing[name])
                    missing[name] |= _unreadable(raw, used, texts)
                    raw = _filled(raw, missing[name], transform.pca)
                else:
                    if encoder is None:
                        _check_source(made["encoder"], self.manifest.get("source"))
                        encoder = text_encoder(
                            made["encoder"],
                            max_tokens=made["max_tokens"],
                            dtype=made["dtype"],
                            revision=made["revision"],
                        )
                    raw = _encode(encoder, texts, name, None, True)
            views[name] = raw if transform.pca is None else transform.pca.transform(raw)
        _say_missing(
            {name: missing[name] for name in missing if self.manifest["views"][name]["encoder"] != "array"}, "new items"
        )
        count = len(next(iter(views.values())))
        return Embeddings(views, missing, np.arange(count) if item_ids is None else item_ids, self.manifest)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write an embeddings folder.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        fitted: dict[str, np.ndarray] = {}
        terms: dict[str, list[str]] = {}
        for name, vectors in self.views.items():
            arrays[name] = vectors
            arrays[f"{name}.missing"] = self.missing[name]
            transform = self.transforms.get(name, ViewTransform())
            if transform.tfidf is not None:
                terms[name] = transform.tfidf.terms
                fitted[f"{name}.idf"] = transform.tfidf.idf
                fitted[f"{name}.directions"] = transform.tfidf.directions
            if transform.pca is not None:
                fitted[f"{name}.mean"] = transform.pca.mean
                fitted[f"{name}.components"] = transform.pca.components
                fitted[f"{name}.scale"] = transform.pca.scale
        manifest = {**self.manifest, "items": len(self), "widths": {n: v.shape[1] for n, v in self.views.items()}}
        files: dict[str, Any] = {
            "embeddings.safetensors": tensor_bytes(arrays),
            "transforms.safetensors": tensor_bytes(fitted),
            "items.json": json.dumps(self.item_ids.tolist(), ensure_ascii=False).encode(),
            "terms.json": json.dumps(terms, ensure_ascii=False).encode(),
        }
        save_folder(folder, MANIFEST, KIND, manifest | {"hash": self.hash}, files)


@consistent
def load_embeddings(folder: str | os.PathLike[str]) -> Embeddings:
    """Read an embeddings folder.

    Parameters
    ----------
    folder : path
        As written by `Embeddings.save`.

    Raises
    ------
    FileNotFoundError
        If it is no embeddings folder.
    ValueError
        If a file is damaged.
    """
    opened = open_folder(folder, MANIFEST, KIND)
    check(opened.path / MANIFEST, opened.manifest, SCHEMA)
    item_ids = _read_ids(opened)
    terms = read_json(opened.file("terms.json"))
    check(opened.file("terms.json"), terms, map_of(Kind("a list of texts", _is_texts)))
    names = list(opened.manifest["widths"])
    arrays = _read_arrays(opened, "embeddings.safetensors", _vector_arrays(opened.manifest["widths"], len(item_ids)))
    fitted = _read_fitted(opened, terms)
    transforms = {}
    for name in names:
        rules = (opened.manifest.get("views") or {}).get(name, {}).get("words", 1)
        tfidf = None
        if name in terms:
            tfidf = Tfidf(terms[name], fitted[f"{name}.idf"], fitted[f"{name}.directions"], rules)
        has_pca = f"{name}.mean" in fitted
        pca = Pca(*(fitted[f"{name}.{part}"] for part in ("mean", "components", "scale"))) if has_pca else None
        transforms[name] = ViewTransform(tfidf, pca)
    missing = {name: arrays[f"{name}.missing"] for name in names}
    return Embeddings({name: arrays[name] for name in names}, missing, item_ids, opened.manifest, transforms)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {str}


def _read_ids(opened: Folder) -> np.ndarray:
    path = opened.file("items.json")
    found = read_json(path)
    if not isinstance(found, list) or set(map(type, found)) not in ({str}, {int}, set()):
        raise ValueError(f"{path} holds {shown(found)}, expected a list of texts or of whole numbers")
    if len(found) != opened.manifest.get("items", len(found)):
        raise ValueError(f"{path} has {len(found)} ids but {opened.path / MANIFEST} says {opened.manifest['items']}")
    try:
        return _as_ids(found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _vector_arrays(widths: Mapping[str, int], count: int) -> dict[str, Expected]:
    """Arrays of the file of vectors."""
    found = {name: Expected((count, width), "n") for name, width in widths.items()}
    return found | {f"{name}.missing": Expected((count,), "b") for name in widths}


def _read_arrays(opened: Folder, name: str, expected: Mapping[str, Expected]) -> dict[str, np.ndarray]:
    path = opened.file(name)
    arrays = load_arrays(path)
    check_arrays(path, arrays, expected, f"an embeddings folder of the views {_list(opened.manifest['widths'])}")
    return arrays


def _read_fitted(opened: Folder, terms: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """Arrays of the transforms: those of TF-IDF where a view has terms, those of the PCA where it has a mean."""
    path, widths = opened.file("transforms.safetensors"), opened.manifest["widths"]
    arrays, expected = load_arrays(path), {}
    for name, width in widths.items():
        mean = arrays.get(f"{name}.mean")
        inside = None if mean is None or mean.ndim != 1 else len(mean)
        if name in terms:
            between = inside if mean is not None else width
            expected[f"{name}.idf"] = Expected((len(terms[name]),))
            expected[f"{name}.directions"] = Expected((between, len(terms[name])))
        if mean is not None:
            expected[f"{name}.mean"] = Expected((inside,))
            expected[f"{name}.components"] = Expected((width, inside))
            expected[f"{name}.scale"] = Expected((width,))
    check_arrays(path, arrays, expected, f"an embeddings folder of the views {_list(widths)}")
    return arrays


def _as_ids(item_ids: Any) -> np.ndarray:
    values = item_ids.to_list() if hasattr(item_ids, "to_list") else np.asarray(item_ids).tolist()
    text = any(isinstance(value, str) for value in values)
    wrong = next((value for value in values if not isinstance(value, str | int) or isinstance(value, bool)), "")
    if wrong != "":
        raise ValueError(f"item_ids holds {wrong!r}; expected text or whole numbers")
    try:
        ids = np.array([str(value) for value in values] if text else values, dtype=str if text else np.int64)
    except OverflowError as error:
        raise ValueError(
            f"item_ids holds {max(values, key=abs)}; expected whole numbers below 2^63, or text"
        ) from error
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        twice = distinct[counts > 1].tolist()
        raise ValueError(f"item_ids has {len(twice)} ids more than once, such as {twice[0]!r}; expected each once")
    return ids


def _checked_vectors(vectors: Any, name: str, count: int) -> np.ndarray:
    array = np.asarray(vectors)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(f"view {name!r} has shape {array.shape} and type {array.dtype}; expected numbers [N, D]")
    if len(array) != count:
        hint = "; leave out the row of padding" if len(array) == count + 1 else ""
        raise ValueError(f"view {name!r} has {len(array)} rows but there are {count} items{hint}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    broken = [
        start + np.flatnonzero(~np.isfinite(array[start : start + _CHUNK_ROWS]).all(1))
        for start in range(0, count, _CHUNK_ROWS)
    ]
    rows = np.concatenate(broken) if broken else np.zeros(0, dtype=np.int64)
    if len(rows):
        where = f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(map(str, rows[:_SHOWN]))}"
        more = f" ... ({len(rows):,} of {count:,} rows)" if len(rows) > _SHOWN else ""
        raise ValueError(f"view {name!r} holds NaN or infinity in {where}{more}; expected numbers that float32 holds")
    return array


def _known(name: str, views: Iterable[str]) -> str:
    if name not in views:
        raise ValueError(f"view {name!r} is missing; there are {_list(views)}")
    return name


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


# --------------------------------------------------------------------------------------- making them


def _one_writer(embed: _Embed) -> _Embed:
    """Of several commands that embed into one folder, let one work; the others wait and take what it made."""

    @functools.wraps(embed)
    def alone(*args: Any, **settings: Any) -> Embeddings:
        out = settings.get("out")
        with ExitStack() as held:
            if out is not None:
                check_replaceable(out, MANIFEST, KIND)
                try:
                    held.enter_context(folder_lock(out, "embedding", math.inf))
                except FolderBusyError:
                    raise
                except OSError:  # a folder that may only be read is good enough if it is complete
                    if not (Path(out) / MANIFEST).is_file():
                        raise
            return cast(Embeddings, embed(*args, **settings))

    return cast(_Embed, alone)


@_one_writer
def embed_dataset(
    dataset: Any,
    encoder: EncoderName = "tfidf",
    views: Sequence[str] | None = None,
    pca: Width | None = 128,
    whiten: bool = True,
    joined: bool = False,
    image_encoder: ModelName | None = None,
    image_root: FolderName | None = None,
    max_tokens: Length = 512,
    batch_size: Samples = 64,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    device: Device | None = None,
    device_map: DeviceMap | None = None,
    revision: Revision | None = None,
    seed: Seed = 0,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Embeddings:
    """Encode the items of a data set, view by view, and shrink each view by PCA.

    Every view is encoded alone, a missing text as the empty string. Equal texts are encoded once, the longest first.
    With ``out`` the result is saved there; a folder that already holds the same embeddings (same data set, texts and
    settings) is loaded instead, and the parts of an interrupted run are taken up again.

    Parameters
    ----------
    dataset : Dataset
        Anything with ``items`` (polars, column item_id first), ``views``, ``name`` and ``hash``.
    encoder : str, default "tfidf"
        tfidf, minilm, a Hugging Face text model (owner/name or folder), or a file of ready vectors: .npy (one view),
        .safetensors (one view a tensor) or .parquet (one view a column of lists). Its rows are found by the ids that it
        carries, else they must be in the order of the items.
    views : sequence of str or None, default None
        Columns to encode; those of the data set if None. ``image`` stands for the pictures in image_path.
    pca : int or None, default 128
        Coordinates a view after PCA, zero-padded where fewer exist; none keeps the encoder's.
    whiten : bool, default True
        Scale every PCA coordinate to unit variance; those with at most 1e-6 of the largest variance become 0.
    joined : bool, default False
        Add a view ``joined``, the texts of all views in one.
    image_encoder : str or None, default None
        Hugging Face vision model (owner/name or folder) for the column image_path.
    image_root : str or None, default None
        Folder that relative image paths start from.
    max_tokens : int, default 512
        Tokens of a text that are read (minilm: 256).
    batch_size : int, default 64
        Texts a forward pass.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default "float32"
        Type of the encoder's weights; auto is as stored.
    device : str or None, default None
        Device of the encoder, such as cuda; the GPU if there is one.
    device_map : str or None, default None
        How to spread a large encoder over devices (auto).
    revision : str or None, default None
        Branch, tag or commit of the encoder on the hub.
    seed : int, default 0
        Seed of the truncated SVD.
    out : path or None, default None
        Folder to write.
    quiet : bool, default False
        No progress bars.

    Returns
    -------
    Embeddings

    Raises
    ------
    ValueError
        If the encoder or a view is unknown, no view is left, or vectors do not fit the items.
    ImportError
        If the encoder needs a package that is not installed.
    OSError
        If a model or file cannot be read, or ``out`` cannot be written.
    """
    check_encoder_name(encoder)
    given = {"pca": pca, "max_tokens": max_tokens, "batch_size": batch_size, "seed": seed, "device": device}
    check_arguments(embed_dataset, given | {"device_map": device_map, "revision": revision})
    arrays = _ready_vectors(encoder, views, dataset) if is_vector_file(encoder) else {}
    images = getattr(dataset, "images", None)
    if images is not None and (views is None or IMAGE_VIEW in views) and not arrays:
        arrays[IMAGE_VIEW] = np.asarray(images)
    text_views = _text_views(dataset, encoder, views, arrays, image_encoder)
    entries = {name: _texts(dataset.items["image_path" if name == IMAGE_VIEW else name]) for name in text_views}
    if joined:
        entries[JOINED_VIEW] = _joined([texts for name, (texts, _) in entries.items() if name != IMAGE_VIEW])
    settings: dict[str, Any] = {
        "encoder": encoder,
        "source": _source_hash(encoder),
        "pca": pca,
        "whiten": whiten,
        "seed": seed,
    }
    if encoder == "tfidf":
        settings |= {"words": RULES}
    elif not is_vector_file(encoder):
        settings |= {"max_tokens": max_tokens, "dtype": dtype, "revision": revision}
    if IMAGE_VIEW in entries:
        settings |= {"image_encoder": image_encoder, "image_source": _source_hash(str(image_encoder))}
    contents = {name: sha256_of("\0".join(texts)) for name, (texts, _) in entries.items()}
    contents |= {name: sha256_of(vectors) for name, vectors in arrays.items()}
    key = sha256_of(json.dumps([settings, contents, dataset.hash], sort_keys=True))
    if out is not None and (kept := _kept(out, key)) is not None:
        return kept

    _say_missing({name: mask for name, (_, mask) in entries.items()}, "items")
    loaded: list[TextEncoder] = []

    def shared_encoder() -> TextEncoder:
        if not loaded:
            loaded.append(
                text_encoder(
                    encoder,
                    max_tokens=max_tokens,
                    batch_size=batch_size,
                    dtype=dtype,
                    device=device,
                    device_map=device_map,
                    revision=revision,
                )
            )
        return loaded[0]

    made: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    transforms: dict[str, ViewTransform] = {}
    described: dict[str, dict[str, Any]] = {}
    parts = None if out is None else _Parts(Path(out) / "parts")
    count = len(dataset.items)
    for name in [*entries, *arrays]:
        tfidf = None
        if name in arrays:
            raw = _checked_vectors(arrays[name], name, count)
            missing[name] = np.zeros(count, dtype=bool)
            described[name] = {"encoder": "array"}
            if count > 1 and (raw == raw[0]).all():
                _drop(name, "the same vector for every item")
                continue
        else:
            texts, missing[name] = entries[name]
            if len(set(texts)) < 2:
                _drop(name, "one value")
                continue
            if name == IMAGE_VIEW:
                used: Encoder = ImageEncoder(
                    str(image_encoder), image_root, max(1, batch_size // 2), device, device_map, revision
                )
                raw = _encode(used, texts, name, parts, quiet, missing[name])
                missing[name] |= _unreadable(raw, used, texts)
                raw = _filled(raw, missing[name], None)
                described[name] = used.describe() | {"root": image_root}
            elif encoder == "tfidf":
                try:
                    tfidf = Tfidf.fit(texts, pca or 128, seed)
                except ValueError:
                    _drop(name, "no words")
                    continue
                raw = tfidf.encode(texts)
                described[name] = {"encoder": "tfidf", "words": tfidf.rules}
            else:
                raw = _encode(shared_encoder(), texts, name, parts, quiet)
                described[name] = shared_encoder().describe()
        fitted = None if pca is None else Pca.fit(raw, pca, whiten)
        made[name] = raw if fitted is None else fitted.transform(raw)
        transforms[name] = ViewTransform(tfidf, fitted)
    if not made:
        raise ValueError(
            f"no view of data set {dataset.name!r} is left: {_list([*entries, *arrays])} hold one value each"
        )
    manifest = {
        **settings,
        "key": key,
        "template": "the text of each view alone; missing = the empty string",
        "views": {name: described[name] for name in made},
        "joined": [name for name in text_views if name != IMAGE_VIEW] if joined else None,
        "contents": contents,
        "dataset": {"name": dataset.name, "hash": dataset.hash, "items": count},
    }
    embeddings = Embeddings(
        made, {n: missing[n] for n in made}, _as_ids(dataset.items["item_id"]), manifest, transforms
    )
    if out is not None:
        embeddings.save(out)
        cast(_Parts, parts).clear()
    return embeddings


def embeddings_for(
    dataset: Any, encoder: str = "tfidf", root: str | os.PathLike[str] = "runs/cache", **settings: Any
) -> tuple[Embeddings, Path]:
    """Embeddings of a data set in a folder of their own below ``root``, made once and reused by hash.

    Parameters
    ----------
    dataset : Dataset
        As for `embed_dataset`.
    encoder : str, default "tfidf"
        As for `embed_dataset`.
    root : path, default "runs/cache"
        Where the folders lie; see `recbase.pipeline.cache_for`.
    **settings : object
        The other arguments of `embed_dataset`, except ``out``.

    Returns
    -------
    (Embeddings, Path)
        The embeddings and their folder.
    """
    idle = {"dataset", "encoder", "out", "quiet", "batch_size", "device"}  # decide nothing about the vectors
    usual = {name: given.default for name, given in inspect.signature(embed_dataset).parameters.items()}
    deciding = {name: value for name, value in (usual | settings).items() if name not in idle}
    if deciding["views"] is None:  # as embed_dataset reads it, so that it finds what was asked for by name
        deciding["views"] = [*dataset.views, *([IMAGE_VIEW] if dataset.images is not None else [])]
    key = [dataset.hash, encoder, deciding | {"views": list(deciding["views"]), "version": VERSION}]
    digest = sha256_of(json.dumps(key, sort_keys=True, default=str))[:8]
    label = re.sub(r"[^\w.-]+", "-", Path(encoder).name if Path(encoder).exists() else encoder)
    folder = Path(root) / f"vectors-{Path(dataset.name).name}-{label}-{digest}"
    return embed_dataset(dataset, encoder, out=folder, **settings), folder


@consistent
def _kept(out: str | os.PathLike[str], key: str) -> Embeddings | None:
    """What the folder already holds, if it was made from the same things."""
    try:
        opened = open_folder(out, MANIFEST, KIND)
        return load_embeddings(out) if opened.manifest.get("key") == key else None
    except (FileNotFoundError, ValueError):
        return None


def _drop(name: str, reason: str) -> None:
    warnings.warn(f"view {name!r} has {reason} and is dropped", UserWarning, stacklevel=3)


def _text_views(
    dataset: Any, encoder: str, views: Sequence[str] | None, arrays: Mapping[str, Any], image_encoder: str | None
) -> list[str]:
    """Views to encode from columns, checked."""
    columns = dataset.items.columns
    if image_encoder is not None and "image_path" not in columns:
        raise ValueError(f"image_encoder reads a column image_path; data set {dataset.name!r} has {_list(columns)}")
    if is_vector_file(encoder):
        return []
    if views is None:
        wanted = [name for name in dataset.views if name in columns]
        if image_encoder is not None:
            wanted.append(IMAGE_VIEW)
        if not wanted and not arrays:
            raise ValueError(
                f"data set {dataset.name!r} has no text columns to encode; its columns are {_list(columns)}"
            )
        return wanted
    for name in views:
        if name == IMAGE_VIEW and name not in arrays:
            if image_encoder is None:
                raise ValueError("view 'image' needs image_encoder, a Hugging Face vision model (owner/name or folder)")
        elif name not in columns and name not in arrays:
            raise ValueError(f"view {name!r} is missing; data set {dataset.name!r} has {_list(c for c in columns[1:])}")
    return [name for name in views if name not in arrays]


def _texts(column: Any) -> tuple[list[str], np.ndarray]:
    """Texts of a column (lists are joined) and which were missing: null, or blank."""
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    texts = [
        "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for value in values
    ]
    texts = [" ".join(text.split()) for text in texts]
    return texts, np.array([not text for text in texts], dtype=bool)


def _joined(views: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The texts of all views of an item in one, and which items have none."""
    if not views:
        raise ValueError("joined needs text views, and there are none")
    texts = [" ".join(part for part in parts if part) for parts in zip(*views, strict=True)]
    return texts, np.array([not text for text in texts], dtype=bool)


def load_vectors(path: str | os.PathLike[str], views: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read ready-made vectors by view.

    Parameters
    ----------
    path : path
        A .npy file (one view, named after the file), a .safetensors file (one view a tensor) or a .parquet file (one
        view a column of lists); numbers of any type, which become float32.
    views : sequence of str or None, default None
        Which of them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, would need pickle, or lacks a view.
    """
    arrays = read_vector_file(path).views
    return arrays if views is None else {name: arrays[_known(name, arrays)] for name in views}


def _ready_vectors(path: str, views: Sequence[str] | None, dataset: Any) -> dict[str, np.ndarray]:
    """Arrays of a file, their rows those of the items: by the ids that the file carries, else as they are."""
    read = read_vector_file(path)
    arrays = read.views if views is None else {name: read.views[_known(name, read.views)] for name in views}
    if read.item_ids is None:
        return arrays
    from semtok.content.ready_vectors import open_vectors

    made = cast(Embeddings, open_vectors(path, dataset.items["item_id"], f"data set {dataset.name!r}"))
    return {name: made.views[name] for name in arrays}


def _source_hash(encoder: str) -> str | None:
    """What tells two model folders of one name apart: the content of their configuration, tokenizer and weights."""
    folder = Path(encoder)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".txt", ".model", ".safetensors"} and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\0".encode())
            with open(path, "rb") as file:
                # Weights of gigabytes are sampled: training changes all of them, so no sample stays the same.
                for place in range(_SOURCE_SAMPLES if size > _SOURCE_SAMPLES * _SOURCE_BYTES else 0):
                    file.seek(place * (size - _SOURCE_BYTES) // (_SOURCE_SAMPLES - 1))
                    digest.update(file.read(_SOURCE_BYTES))
                if size <= _SOURCE_SAMPLES * _SOURCE_BYTES:
                    digest.update(file.read())
    return _SOURCE_KIND + digest.hexdigest()


def _check_source(encoder: str, recorded: Any) -> None:
    """Refuse a model folder that is no longer the one that vectors were made with.

    Earlier versions recorded less of it, which cannot be compared.
    """
    if (
        isinstance(recorded, str)
        and recorded.startswith(_SOURCE_KIND)
        and _source_hash(encoder) not in {None, recorded}
    ):
        raise ValueError(f"the model in {encoder} is not the one that the vectors were made with: it was changed since")


def _say_missing(missing: Mapping[str, np.ndarray], what: str) -> None:
    """Count the items that have nothing in a view."""
    counts = {name: int(mask.sum()) for name, mask in missing.items() if mask.any()}
    if counts:
        total = len(next(iter(missing.values())))
        said = ", ".join(f"{count:,} in {name!r}" for name, count in counts.items())
        warnings.warn(
            f"of {total:,} {what}, some have no text: {said}; there each gets the vector of an empty text, or of the "
            "mean picture",
            UserWarning,
            stacklevel=3,
        )


def _say_unknown(vectors: np.ndarray, missing: np.ndarray, view: str) -> None:
    """Count the new items whose text has no word that TF-IDF was fitted on."""
    unknown = int((~missing & ~vectors.any(1)).sum())
    if unknown:
        warnings.warn(
            f"view {view!r}: {unknown:,} of {len(missing):,} new items have no word that any item had when the "
            "vectors were made; each gets the vector of an empty text",
            UserWarning,
            stacklevel=3,
        )


def _unreadable(vectors: np.ndarray, encoder: Encoder, paths: Sequence[str]) -> np.ndarray:
    """Which pictures could not be read: bool [N]; they are counted and the first of them named.

    Raises
    ------
    OSError
        If none could.
    """
    broken = np.isnan(vectors).any(1)
    if broken.any():
        first = paths[int(broken.argmax())]
        reason = getattr(encoder, "unreadable", {}).get(first, first)
        if int(broken.sum()) == sum(map(bool, paths)):
            raise OSError(f"none of the {int(broken.sum()):,} pictures can be read, such as: {reason}")
        warnings.warn(
            f"{int(broken.sum()):,} of {len(paths):,} items have a picture that cannot be read and count as without "
            f"one, such as: {reason}",
            UserWarning,
            stacklevel=3,
        )
    return broken


def _filled(vectors: np.ndarray, missing: np.ndarray, pca: Pca | None) -> np.ndarray:
    """Put the mean image where there was none (the fitted mean for new items)."""
    if missing.any():
        vectors[missing] = vectors[~missing].mean(0) if pca is None else pca.mean
    return vectors


class _Parts:
    """Encoded chunks of an unfinished run: one file a chunk, named by the hash of encoder and entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> np.ndarray | None:
        try:
            return load_arrays(self.folder / f"{key}.safetensors")["vectors"]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: str, vectors: np.ndarray) -> None:
        write_file(self.folder / f"{key}.safetensors", tensor_bytes({"vectors": vectors}))

    def clear(self) -> None:
        if self.folder.is_dir():
            for path in list(self.folder.iterdir()):
                if _PART.match(path.name) or is_abandoned(path):
                    path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _encode(
    encoder: Encoder,
    texts: Sequence[str],
    view: str,
    parts: _Parts | None,
    quiet: bool,
    skipped: np.ndarray | None = None,
) -> np.ndarray:
    """Encode each distinct entry once, the longest first, in chunks that outlive an interruption: float32 [n, D].

    Rows that are ``skipped`` stay zero.
    """
    used = np.arange(len(texts)) if skipped is None else np.flatnonzero(~skipped)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts[row] for row in used.tolist()))}
    if not place:
        raise ValueError(f"view {view!r} has no entries to encode")
    order = sorted(place, key=lambda text: (-len(text), text))
    said = json.dumps(encoder.describe(), sort_keys=True, default=str)
    vectors: np.ndarray | None = None
    with progress(f"encode {view}", len(order), quiet) as advance:
        for chunk in _chunks(order):
            key = sha256_of(said, "\0".join(chunk))[:32]
            encoded = None if parts is None else parts.get(key)
            if encoded is None or len(encoded) != len(chunk):
                encoded = np.asarray(encoder.encode(chunk), dtype=np.float32)
                if parts is not None and not np.isnan(encoded).any():  # a picture may be mended before the next run
                    parts.put(key, encoded)
            if vectors is None:
                vectors = np.zeros((len(place), encoded.shape[1]), dtype=np.float32)
            vectors[[place[text] for text in chunk]] = encoded
            advance(len(chunk))
    result = np.zeros((len(texts), cast(np.ndarray, vectors).shape[1]), dtype=np.float32)
    result[used] = cast(np.ndarray, vectors)[[place[texts[row]] for row in used.tolist()]]
    return result


def _chunks(entries: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(entries), _PART_ITEMS):
        yield list(entries[start : start + _PART_ITEMS])
