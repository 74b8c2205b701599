"""Content to vectors to codes, each made once and kept in the cache: the one way that every command takes."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbase.arguments import EncoderName, FolderName, ModelName, Width
from recbase.cli.signatures import recipe_of
from recbase.console import say
from recbase.data.catalog import as_dataset
from recbase.pipeline import cache_for, step
from recbase.recipes import parted
from semtok.catalogue.fit import FittedCodes, fit_codes, load_collaborative
from semtok.codes import MANIFEST
from semtok.content.embed import embeddings_for
from semtok.content.embeddings import IMAGE_VIEW, Embeddings
from semtok.content.ready_vectors import VectorSource, open_vectors
from semtok.registry import methods, tokenizer_class

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset

__all__ = ["Encoding", "codes_folder", "fit", "item_embeddings", "keep_codes"]


@dataclass(frozen=True)
class Encoding:
    """Settings by which the content of items becomes vectors.

    Attributes
    ----------
    encoder : str, default "tfidf"
        Text encoder: tfidf, minilm, or the name or folder of a Hugging Face model.
    views : tuple of str, optional
        Text columns; those of the data set if not given.
    pca : int or None, default 128
        Width that every view's vectors are reduced to; None keeps the encoder's.
    whiten : bool, default True
        Give every component of the reduced vectors unit variance.
    joined : bool, default False
        Encode all columns together, too.
    images : bool, default False
        Read the images of the items, too, where the data set has any.
    image_encoder, image_root : str, optional
        Hugging Face vision model for pictures that are files, and the folder that their paths start from.
    """

    encoder: EncoderName = "tfidf"
    views: tuple[str, ...] | None = None
    pca: Width | None = 128
    whiten: bool = True
    joined: bool = False
    images: bool = False
    image_encoder: ModelName | None = None
    image_root: FolderName | None = None


def fit(
    method: str,
    data: Dataset | str | os.PathLike[str],
    *,
    recipe: str = "default",
    embeddings: Path | VectorSource | None = None,
    unique: str | None = None,
    per_view: bool | None = None,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> FittedCodes:
    """Fit a tokenizer on the items of a data set: content to vectors to codes, as ``semtok fit METHOD`` does.

    Parameters
    ----------
    method : str
        Name of the tokenizer, such as ``"rqvae"``; ``semtok list`` shows them.
    data : Dataset, path or str
        See `recbase.data.catalog.load_dataset` for what a name or a path may be.
    recipe : str, default "default"
        Named settings of the method; they apply wherever ``settings`` says nothing.
    embeddings : Path or VectorSource, optional
        Vectors to read instead of making them.
    unique : str, optional
        How codes that items share are made unique; the method's own way if not given.
    per_view : bool, optional
        Codes for each view on its own, or for all in one; the method's own way if not given.
    cache : path, optional
        Where vectors and codes are kept, ``runs/cache`` by default; commands and Python share it.
    seed : int, default 0
    quiet : bool, default False
        Show no progress.
    **settings
        Arguments of the tokenizer's constructor and fields of `Encoding` (``encoder``, ``views``, ``pca``, ...).

    Returns
    -------
    FittedCodes
        ``codes``, ``tokenizer`` and ``report``; ``save(folder)`` writes what `semtok.load` and a training read.

    Raises
    ------
    TypeError
        If a setting is neither one of the method nor of the encoding.
    ValueError
        If the method or the recipe is unknown, or a value is out of its range.
    """
    dataset = as_dataset(data)
    kind = tokenizer_class(method)
    own = set(inspect.signature(kind).parameters)
    given = parted(f"fitting {method}", settings, {"own": own, "encoding": {field.name for field in fields(Encoding)}})
    where = Path(cache) if cache is not None else cache_for("runs/semtok")
    vectors = item_embeddings(dataset, Encoding(**given["encoding"]), where, embeddings, quiet)
    shared = {name: value for name, value in {"seed": seed, "quiet": quiet}.items() if name in own}
    tokenizer = kind(**shared | recipe_of(methods()[method], recipe) | given["own"])
    fitted = fit_codes(
        tokenizer, vectors, dataset=dataset, per_view=per_view, unique=unique, seed=seed,
        made_from={"recipe": recipe}, quiet=quiet,
    )  # fmt: skip
    keep_codes(fitted, vectors, where, dataset=dataset, per_view=per_view, seed=seed)
    return fitted


def item_embeddings(
    dataset: Dataset, encoding: Encoding, cache: Path, given: Path | VectorSource | None = None, quiet: bool = False
) -> Embeddings:
    """Vectors of the items of a data set, read from ``given`` or made and kept in the cache.

    Parameters
    ----------
    dataset : Dataset
    encoding : Encoding
        Not read where vectors are given.
    cache : Path
        See `recbase.pipeline.cache_for`.
    given : Path or VectorSource, optional
        Folder or file of vectors; see `semtok.content.ready_vectors.open_vectors`.
    quiet : bool, default False
        No progress bars, and no line about what was read.

    Raises
    ------
    ValueError
        If the vectors given belong to other items, or are in shards.
    """
    if given is None:
        found = embeddings_for(dataset, encoding.encoder, cache, **_settings(dataset, encoding), quiet=quiet)[0]
    else:
        opened = open_vectors(given, dataset.item_ids, f"the data set {dataset.name}")
        if not isinstance(opened, Embeddings):
            raise ValueError(f"{given} holds vectors in shards; a model takes an embeddings folder or one file")
        found = opened
    if not quiet:
        say(f"Content: {found.described()}", err=True)
    return found


def _settings(dataset: Dataset, encoding: Encoding) -> dict[str, Any]:
    """Arguments of `semtok.content.embed.embed_dataset`."""
    views = list(encoding.views or dataset.views)
    settings: dict[str, Any] = {"pca": encoding.pca, "whiten": encoding.whiten, "joined": encoding.joined}
    if encoding.images and IMAGE_VIEW not in views:
        from_files = encoding.image_encoder is not None and "image_path" in dataset.items.columns
        if dataset.images is not None or from_files:
            views.append(IMAGE_VIEW)
        if dataset.images is None and from_files:
            settings |= {"image_encoder": encoding.image_encoder, "image_root": encoding.image_root}
    return settings | {"views": views}


def codes_folder(
    tokenizer: Any,
    embeddings: Embeddings,
    cache: Path,
    *,
    dataset: Dataset | None = None,
    views: Sequence[str] | None = None,
    per_view: bool | None = None,
    collaborative: Path | None = None,
    unique: str | None = None,
    made_from: Mapping[str, Any] | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Folder of a tokenizer fitted on these vectors, with the codes of all items, made by `fit_codes` and kept.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Not fitted yet; its ``version`` is part of what the folder is known by.
    embeddings : Embeddings
    cache : Path
    dataset, views, per_view, unique, made_from, seed, quiet : object
        As for `fit_codes`; ``made_from`` is recorded and decides nothing.
    collaborative : Path, optional
        Folder or file of item vectors learned from behaviour; see `load_collaborative`.
    """

    def build(target: Path) -> None:
        fitted = fit_codes(
            tokenizer,
            embeddings,
            dataset=dataset,
            views=views,
            per_view=per_view,
            collaborative=collaborative,
            unique=unique,
            seed=seed,
            made_from=made_from,
            quiet=quiet,
        )
        fitted.save(target, carry=False)  # the vectors are kept beside it

    key = _key(tokenizer, embeddings, dataset, views, per_view, unique, seed)
    if collaborative is not None:
        vectors = np.ascontiguousarray(load_collaborative(collaborative, embeddings.item_ids))
        key["collaborative"] = hashlib.sha256(vectors.tobytes()).hexdigest()
    return step(cache, f"codes-{tokenizer.method}", key, MANIFEST, build, tokenizer.version)


def keep_codes(
    fitted: FittedCodes,
    embeddings: Embeddings,
    cache: Path,
    *,
    dataset: Dataset | None = None,
    per_view: bool | None = None,
    seed: int = 0,
) -> Path:
    """Put codes that `fit_codes` has just made where `codes_folder` finds them."""
    tokenizer, views = fitted.tokenizer, fitted.made_from["views"]
    key = _key(tokenizer, embeddings, dataset, views, per_view, fitted.unique, seed)
    save = partial(fitted.save, carry=False)
    return step(cache, f"codes-{tokenizer.method}", key, MANIFEST, save, tokenizer.version)


def _key(
    tokenizer: Any,
    embeddings: Embeddings,
    dataset: Dataset | None,
    views: Sequence[str] | None,
    per_view: bool | None,
    unique: str | None,
    seed: int,
) -> dict[str, Any]:
    """All that decides what the codes are."""
    idle = {"device", "quiet"}
    return {
        "data": None if dataset is None else dataset.trained_hash,
        "embeddings": embeddings.hash,
        "views": list(embeddings.views if views is None else views),
        "method": tokenizer.method,
        "arguments": {name: value for name, value in tokenizer.get_params().items() if name not in idle},
        "per_view": tokenizer.per_view if per_view is None else per_view,
        "unique": tokenizer.default_unique if unique is None else unique,
        "seed": seed,
    }
