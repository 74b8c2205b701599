"""Item content to vectors: the views of a data set encoded one by one, or ready-made arrays, into a folder."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from recbase.store.folder import (
    check_replaceable,
    consistent,
    folder_lock,
    open_folder,
    sha256_of,
)
from recbase.store.locks import FolderBusyError
from semtok.content.embeddings import (
    IMAGE_VIEW,
    JOINED_VIEW,
    KIND,
    MANIFEST,
    OWN_POOLING,
    VERSION,
    Embeddings,
    ViewTransform,
    as_ids,
    checked_vectors,
    load_embeddings,
)
from semtok.content.encode_views import (
    EncodedParts,
    encode_entries,
    filled_vectors,
    joined_texts,
    known_view,
    listed,
    say_missing,
    source_hash,
    texts_of,
    unreadable_images,
)
from semtok.content.encoders import ImageEncoder, Pca, TextEncoder, Tfidf, check_encoder_name, text_encoder
from semtok.content.vector_files import is_vector_file, read_vector_file
from semtok.content.words import RULES

__all__ = ["embed_dataset", "embeddings_for", "load_vectors"]


_Embed = TypeVar("_Embed", bound=Callable[..., Any])


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
    arrays, entries = _sources(dataset, encoder, views, image_encoder)
    columns = [name for name in entries if name != IMAGE_VIEW]
    if joined:
        entries[JOINED_VIEW] = joined_texts([entries[name][0] for name in columns])
    settings = {"encoder": encoder, "source": source_hash(encoder), "pca": pca, "whiten": whiten, "seed": seed}
    if encoder == "tfidf":
        settings |= {"words": RULES}
    elif not is_vector_file(encoder):
        settings |= {"max_tokens": max_tokens, "dtype": dtype, "revision": revision} | _pooling_of(encoder)
    if IMAGE_VIEW in entries:
        settings |= {"image_encoder": image_encoder, "image_source": source_hash(str(image_encoder))}
    contents = {name: sha256_of("\0".join(texts)) for name, (texts, _) in entries.items()}
    contents |= {name: sha256_of(one) for name, one in arrays.items()}
    key = sha256_of(json.dumps([settings, contents, dataset.hash], sort_keys=True))
    if out is not None and (kept := _kept(out, key)) is not None:
        return kept

    say_missing({name: mask for name, (_, mask) in entries.items()}, "items")
    parts = None if out is None else EncodedParts(Path(out) / "parts")
    where = {"device": device, "device_map": device_map, "revision": revision}
    text = {"max_tokens": max_tokens, "batch_size": batch_size, "dtype": dtype} | where
    image = {"root": image_root, "batch_size": max(1, batch_size // 2)} | where
    encoding, count = _Encoding(encoder, text, image_encoder, image, pca or 128, seed, parts, quiet), len(dataset.items)
    made: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    transforms, described = {}, {}
    for name in [*entries, *arrays]:
        try:
            if name in arrays:
                raw, tfidf, said = encoding.ready(name, arrays[name], count)
                missing[name] = np.zeros(count, dtype=bool)
            else:
                texts, missing[name] = entries[name]
                raw, tfidf, said = encoding.encoded(name, texts, missing[name])
        except _NothingToEncode as nothing:
            _drop(name, str(nothing))
            continue
        fitted = None if pca is None else Pca.fit(raw, pca, whiten)
        made[name] = raw if fitted is None else fitted.transform(raw)
        transforms[name], described[name] = ViewTransform(tfidf, fitted), said
    if not made:
        names = listed([*entries, *arrays])
        raise ValueError(f"no view of data set {dataset.name!r} is left: {names} hold one value each")
    manifest = {
        **settings,
        "key": key,
        "template": "the text of each view alone; missing = the empty string",
        "views": described,
        "joined": columns if joined else None,
        "contents": contents,
        "dataset": {"name": dataset.name, "hash": dataset.hash, "items": count},
    }
    embeddings = Embeddings(made, {n: missing[n] for n in made}, as_ids(dataset.items["item_id"]), manifest, transforms)
    if parts is not None:
        embeddings.save(cast(Path, out))
        parts.clear()
    return embeddings


_Entries = dict[str, tuple[list[str], np.ndarray]]


def _sources(
    dataset: Any, encoder: str, views: Sequence[str] | None, image_encoder: str | None
) -> tuple[dict[str, np.ndarray], _Entries]:
    """Ready-made vectors by view; entries (texts, or paths of images) and which of them are missing by view."""
    arrays = _ready_vectors(encoder, views, dataset) if is_vector_file(encoder) else {}
    images = getattr(dataset, "images", None)
    if images is not None and (views is None or IMAGE_VIEW in views) and not arrays:
        arrays[IMAGE_VIEW] = np.asarray(images)
    names = _text_views(dataset, encoder, views, arrays, image_encoder)
    return arrays, {name: texts_of(dataset.items["image_path" if name == IMAGE_VIEW else name]) for name in names}


class _NothingToEncode(Exception):
    """A view tells no two items apart; the message says why."""


@dataclass
class _Encoding:
    """The encoders of one call, each made when a view first needs it."""

    encoder: str
    text: dict[str, Any]  # settings of the text encoder
    image_encoder: str | None
    image: dict[str, Any]  # settings of the image encoder
    words: int  # width of TF-IDF
    seed: int
    parts: EncodedParts | None
    quiet: bool
    loaded: TextEncoder | None = None

    def ready(self, name: str, vectors: Any, count: int) -> tuple[np.ndarray, Tfidf | None, dict[str, Any]]:
        """Vectors that need no encoder: float32 [N, D], no TF-IDF, and what the manifest says."""
        raw = checked_vectors(vectors, name, count)
        if count > 1 and (raw == raw[0]).all():
            raise _NothingToEncode("the same vector for every item")
        return raw, None, {"encoder": "array"}

    def encoded(
        self, name: str, texts: list[str], missing: np.ndarray
    ) -> tuple[np.ndarray, Tfidf | None, dict[str, Any]]:
        """Vectors of one view: float32 [N, D], its TF-IDF if that made them, and what the manifest says.

        ``missing`` is changed in place where a picture cannot be read.
        """
        if len(set(texts)) < 2:
            raise _NothingToEncode("one value")
        if name == IMAGE_VIEW:
            return self._pictures(name, texts, missing)
        if self.encoder == "tfidf":
            try:
                tfidf = Tfidf.fit(texts, self.words, self.seed)
            except ValueError:
                raise _NothingToEncode("no words") from None
            return tfidf.encode(texts), tfidf, {"encoder": "tfidf", "words": tfidf.rules}
        self.loaded = self.loaded or text_encoder(self.encoder, **self.text)
        return encode_entries(self.loaded, texts, name, self.parts, self.quiet), None, self.loaded.describe()

    def _pictures(
        self, name: str, paths: list[str], missing: np.ndarray
    ) -> tuple[np.ndarray, Tfidf | None, dict[str, Any]]:
        used = ImageEncoder(str(self.image_encoder), **self.image)
        raw = encode_entries(used, paths, name, self.parts, self.quiet, missing)
        missing |= unreadable_images(raw, used, paths)
        return filled_vectors(raw, missing, None), None, used.describe() | {"root": self.image["root"]}


def _pooling_of(encoder: str) -> dict[str, str]:
    """Part of the key that tells vectors apart from those of earlier versions, which took the mean of any model."""
    return {} if encoder == "minilm" else {"pooling": "own"}


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
    deciding["version"] = VERSION if encoder in ("tfidf", "minilm") or is_vector_file(encoder) else OWN_POOLING
    key = [dataset.hash, encoder, deciding | {"views": list(deciding["views"])}]
    digest = sha256_of(json.dumps(key, sort_keys=True, default=str))[:8]
    label = re.sub(r"[^\w.-]+", "-", Path(encoder).name if Path(encoder).exists() else encoder)
    folder = Path(root) / f"vectors-{Path(dataset.name).name}-{label}-{digest}"
    return embed_dataset(dataset, encoder, out=folder, **settings), folder


@consistent
def _kept(out: str | os.PathLike[str], key: str) -> Embeddings | None:
    """Embeddings that the folder already holds, if they were made from the same things."""
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
        raise ValueError(f"image_encoder reads a column image_path; data set {dataset.name!r} has {listed(columns)}")
    if is_vector_file(encoder):
        return []
    if views is None:
        wanted = [name for name in dataset.views if name in columns]
        if image_encoder is not None:
            wanted.append(IMAGE_VIEW)
        if not wanted and not arrays:
            raise ValueError(
                f"data set {dataset.name!r} has no text columns to encode; its columns are {listed(columns)}"
            )
        return wanted
    for name in views:
        if name == IMAGE_VIEW and name not in arrays:
            if image_encoder is None:
                raise ValueError("view 'image' needs image_encoder, a Hugging Face vision model (owner/name or folder)")
        elif name not in columns and name not in arrays:
            raise ValueError(
                f"view {name!r} is missing; data set {dataset.name!r} has {listed(c for c in columns[1:])}"
            )
    return [name for name in views if name not in arrays]


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
    return arrays if views is None else {name: arrays[known_view(name, arrays)] for name in views}


def _ready_vectors(path: str, views: Sequence[str] | None, dataset: Any) -> dict[str, np.ndarray]:
    """Arrays of a file, their rows those of the items: by the ids that the file carries, else as they are."""
    read = read_vector_file(path)
    arrays = read.views if views is None else {name: read.views[known_view(name, read.views)] for name in views}
    if read.item_ids is None:
        return arrays
    from semtok.content.ready_vectors import open_vectors

    made = cast(Embeddings, open_vectors(path, dataset.items["item_id"], f"data set {dataset.name!r}"))
    return {name: made.views[name] for name in arrays}
