"""Item content to vectors: the views of a data set encoded one by one, or ready-made arrays.

An embeddings folder holds one float32 array [N, D] a view (title, brand, ..., image), which of its entries were
missing, and the fitted transforms, so that new items become vectors by the same rules. Row i - 1 belongs to item number
i. This file knows data sets as tables of columns; it knows nothing of codes or models.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbase.store.folder import (
    Folder,
    consistent,
    load_arrays,
    open_folder,
    save_folder,
    sha256_of,
    tensor_bytes,
)
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
from semtok.content.encode_views import (
    check_pooling,
    check_source,
    encode_entries,
    filled_vectors,
    joined_texts,
    known_view,
    listed,
    say_missing,
    texts_of,
    unreadable_images,
)
from semtok.content.encoders import Encoder, ImageEncoder, Pca, Tfidf, text_encoder
from semtok.content.pooling import MEAN

__all__ = [
    "CARRIED",
    "Embeddings",
    "ViewTransform",
    "as_ids",
    "carried_rules",
    "checked_vectors",
    "load_embeddings",
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
CARRIED = "content.json"
"""File by which a tokenizer folder carries the rules that make vectors of new items."""
_FITTED, _TERMS = "transforms.safetensors", "terms.json"
IMAGE_VIEW = "image"
OWN_POOLING = 2  # the version from which models of the hub pool as their own files say
VERSION = 1  # raised where the same content gets other vectors, so that older folders are not taken for new
JOINED_VIEW = "joined"
_CHUNK_ROWS = 65_536
_SHOWN = 3


# --------------------------------------------------------------------------------------- the result


@dataclass(frozen=True, eq=False)
class ViewTransform:
    """Transform of new entries of one view into vectors: the TF-IDF model (if that is the encoder), then the PCA."""

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
        item_ids = as_ids(self.item_ids)
        if not self.views:
            raise ValueError("embeddings have no view; expected one or more arrays [N, D]")
        views = {name: checked_vectors(vectors, name, len(item_ids)) for name, vectors in self.views.items()}
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
            return f"vectors of {listed(self.views)}, as they were given"
        pca, whiten = self.manifest["pca"], self.manifest.get("whiten")
        shape = "as the encoder gives them" if pca is None else f"reduced to {pca} components a view"
        scale = "" if pca is None else ", whitened to unit variance" if whiten else ", not whitened"
        return f"vectors of {listed(self.views)} by {self.manifest.get('encoder')}, {shape}{scale}"

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
            vectors = self.views[known_view(name, self.views)]
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
        wanted = as_ids(item_ids)
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
                    f"the new items have no column {column!r}; the embeddings have views {listed(self.views)}"
                )
            transform = self.transforms.get(name, ViewTransform())
            if made["encoder"] == "array":
                raw = np.asarray(items[column], dtype=np.float32)
                missing[name] = np.zeros(len(raw), dtype=bool)
            else:
                if name == JOINED_VIEW:
                    texts, missing[name] = joined_texts([texts_of(items[view])[0] for view in self.manifest["joined"]])
                else:
                    texts, missing[name] = texts_of(items[column])
                if transform.tfidf is not None:
                    weights = transform.tfidf.weights(texts)
                    raw = transform.tfidf.vectors(weights)
                    _say_unknown(weights.getnnz(axis=1) == 0, missing[name], name)
                elif name == IMAGE_VIEW:
                    check_source(made["encoder"], self.manifest.get("image_source"))
                    used = encoder or ImageEncoder(made["encoder"], root=made.get("root"), revision=made["revision"])
                    raw = encode_entries(used, texts, name, None, True, missing[name])
                    missing[name] |= unreadable_images(raw, used, texts)
                    raw = filled_vectors(raw, missing[name], transform.pca)
                else:
                    if encoder is None:
                        check_source(made["encoder"], self.manifest.get("source"))
                        pooling = made.get("pooling", MEAN.describe())
                        encoder = text_encoder(
                            made["encoder"],
                            max_tokens=made["max_tokens"],
                            dtype=made["dtype"],
                            revision=made["revision"],
                            pooling="mean" if pooling == MEAN.describe() else "own",
                        )
                        check_pooling(pooling, encoder)
                    raw = encode_entries(encoder, texts, name, None, True)
            views[name] = raw if transform.pca is None else transform.pca.transform(raw)
        say_missing(
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
        for name, vectors in self.views.items():
            arrays[name] = vectors
            arrays[f"{name}.missing"] = self.missing[name]
        manifest = {**self.manifest, "items": len(self), "widths": self.widths}
        files: dict[str, Any] = {
            "embeddings.safetensors": tensor_bytes(arrays),
            "items.json": json.dumps(self.item_ids.tolist(), ensure_ascii=False).encode(),
        }
        save_folder(folder, MANIFEST, KIND, manifest | {"hash": self.hash}, files | self._rule_files())

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each view's vectors."""
        return {name: vectors.shape[1] for name, vectors in self.views.items()}

    def _rule_files(self) -> dict[str, bytes]:
        """Files of the transforms that were fitted to make the vectors."""
        fitted: dict[str, np.ndarray] = {}
        terms: dict[str, list[str]] = {}
        for name in self.views:
            transform = self.transforms.get(name, ViewTransform())
            if transform.tfidf is not None:
                terms[name] = transform.tfidf.terms
                fitted[f"{name}.idf"] = transform.tfidf.idf
                fitted[f"{name}.directions"] = transform.tfidf.directions
            if transform.pca is not None:
                fitted[f"{name}.mean"] = transform.pca.mean
                fitted[f"{name}.components"] = transform.pca.components
                fitted[f"{name}.scale"] = transform.pca.scale
        return {
            _FITTED: tensor_bytes(fitted),
            _TERMS: json.dumps(terms, ensure_ascii=False).encode(),
        }

    def carried(self) -> dict[str, bytes]:
        """Files by which another folder carries the rules that make vectors of new items, without the vectors.

        Read back by `carried_rules`. Empty where vectors were given and nothing is known of how they came about.
        """
        if not self.manifest.get("views"):
            return {}
        manifest = {**self.manifest, "widths": self.widths}
        return {CARRIED: json.dumps(manifest, indent=1, ensure_ascii=False).encode()} | self._rule_files()


def carried_rules(opened: Folder) -> Embeddings | None:
    """The rules that a folder carries, as embeddings of no items; None where it carries none.

    Raises
    ------
    ValueError
        If a file is damaged.
    """
    if CARRIED not in opened:
        return None
    path = opened.file(CARRIED)
    manifest = read_json(path)
    check(path, manifest, SCHEMA)
    transforms = _read_transforms(opened, manifest)
    empty = {name: np.zeros((0, width), dtype=np.float32) for name, width in manifest["widths"].items()}
    return Embeddings(empty, {}, np.zeros(0, dtype=np.int64), manifest, transforms)


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
    names = list(opened.manifest["widths"])
    arrays = _read_arrays(opened, "embeddings.safetensors", _vector_arrays(opened.manifest["widths"], len(item_ids)))
    transforms = _read_transforms(opened, opened.manifest)
    missing = {name: arrays[f"{name}.missing"] for name in names}
    return Embeddings({name: arrays[name] for name in names}, missing, item_ids, opened.manifest, transforms)


def _read_transforms(opened: Folder, manifest: Mapping[str, Any]) -> dict[str, ViewTransform]:
    """The transform of each view, from the files of a folder and the manifest of its embeddings."""
    terms = read_json(opened.file(_TERMS))
    check(opened.file(_TERMS), terms, map_of(Kind("a list of texts", _is_texts)))
    fitted = _read_fitted(opened, manifest["widths"], terms)
    transforms = {}
    for name in manifest["widths"]:
        rules = (manifest.get("views") or {}).get(name, {}).get("words", 1)
        tfidf = None
        if name in terms:
            tfidf = Tfidf(terms[name], fitted[f"{name}.idf"], fitted[f"{name}.directions"], rules)
        has_pca = f"{name}.mean" in fitted
        pca = Pca(*(fitted[f"{name}.{part}"] for part in ("mean", "components", "scale"))) if has_pca else None
        transforms[name] = ViewTransform(tfidf, pca)
    return transforms


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
        return as_ids(found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _vector_arrays(widths: Mapping[str, int], count: int) -> dict[str, Expected]:
    """Arrays of the file of vectors."""
    found = {name: Expected((count, width), "n") for name, width in widths.items()}
    return found | {f"{name}.missing": Expected((count,), "b") for name in widths}


def _read_arrays(opened: Folder, name: str, expected: Mapping[str, Expected]) -> dict[str, np.ndarray]:
    path = opened.file(name)
    arrays = load_arrays(path)
    check_arrays(path, arrays, expected, f"an embeddings folder of the views {listed(opened.manifest['widths'])}")
    return arrays


def _read_fitted(opened: Folder, widths: Mapping[str, int], terms: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """Arrays of the transforms: those of TF-IDF where a view has terms, those of the PCA where it has a mean."""
    path = opened.file(_FITTED)
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
    check_arrays(path, arrays, expected, f"an embeddings folder of the views {listed(widths)}")
    return arrays


def as_ids(item_ids: Any) -> np.ndarray:
    """Ids as an array of strings or whole numbers: [N]."""
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


def checked_vectors(vectors: Any, name: str, count: int) -> np.ndarray:
    """Vectors of a view as float32 [N, D]; ValueError where they are no finite matrix of N rows."""
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


# --------------------------------------------------------------------------------------- making them


def _say_unknown(wordless: np.ndarray, missing: np.ndarray, view: str) -> None:
    """Count the new items whose text has no word that TF-IDF was fitted on."""
    unknown = int((~missing & wordless).sum())
    if unknown:
        warnings.warn(
            f"view {view!r}: {unknown:,} of {len(missing):,} new items have no word that any item had when the "
            "vectors were made; each gets the vector of an empty text",
            UserWarning,
            stacklevel=3,
        )
