"""Parts that tokenizers share: the tokenizer folder, checks of vectors, views, streaming.

``ItemTokenizer`` is what every tokenizer is, ``PerViewTokenizer`` (per_view.py) one that quantizes each view by itself,
``VectorTokenizer`` one whose fitted state is a list of codebooks, one a code column, each laid over a range of columns
of its view (after an optional rotation): product quantizers lay them side by side, residual ones on top of each other.
Knows nothing of how codebooks are fitted.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from recbase.store.folder import (
    FileContent,
    Folder,
    consistent,
    folder_lock,
    load_arrays,
    save_folder,
    tensor_bytes,
)
from recbase.store.hub import downloaded_folder
from recbase.store.restoring import build
from semtok.codecs.schemas import CODEBOOKS_FILE, open_tokenizer, read_state
from semtok.codes import KIND, MANIFEST, ItemCodes

__all__ = ["CODEBOOKS_FILE", "ENGINES", "ItemTokenizer"]

ENGINES = ("torch", "faiss")

Self = TypeVar("Self", bound="ItemTokenizer")


class ItemTokenizer(TransformerMixin, BaseEstimator):
    """Base of all tokenizers: the tokenizer folder, Hugging Face's names for it, and what every method answers.

    A subclass stores its arguments in ``__init__`` as scikit-learn wants it, names itself in ``method`` and has
    ``fit``, ``encode`` and ``decode``. Fitting sets ``n_features_in_``, ``views_``, ``sizes_`` and ``blocks_``.
    ``_state`` gives the rest of what is fitted as JSON-able entries and arrays, enough for the NumPy ``program`` (see
    the portable file) to encode and decode, and ``_restore`` takes it back.
    """

    method: ClassVar[str]
    version: ClassVar[int] = 1  # raised where the same input gets other codes: older steps are not taken for new
    program: ClassVar[str] = ""  # none: the method needs torch
    inputs: ClassVar[tuple[str, ...]] = ()  # what fit takes besides vectors: "collaborative", "sequences", "missing"
    per_view: ClassVar[bool] = False  # whether the command line gives it one view at a time, or all in one
    modalities: ClassVar[tuple[str, ...]] = ()  # or these, "image" being that view and "text" all others in one
    default_unique: ClassVar[str] = "matching"  # how the command line makes its codes unique

    n_features_in_: int
    views_: dict[str, slice]
    sizes_: list[int]
    blocks_: dict[str, slice]
    _origin: Folder  # folder that this was read from

    def fit(self: Self, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> Self:
        """Learn from item vectors [N, D]."""
        raise NotImplementedError

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        raise NotImplementedError

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        raise NotImplementedError

    def costs(self, X: Any, codes: Any, level: int) -> np.ndarray:
        """Cost of each code of one level for each item, its other codes staying as they are.

        Parameters
        ----------
        X : array of float [N, D]
            Vectors of the items.
        codes : array of int [N, L]
            Their codes; column ``level`` is not read.
        level : int
            Column, from 0; negative ones count from the last.

        Returns
        -------
        float32 array [N, K]
            Squared distance, in the space that is quantized, between the item and what it would be decoded to. Codes
            that stand for nothing cost infinity.
        """
        raise NotImplementedError

    def transform(self, X: Any) -> np.ndarray:
        """Same as :meth:`encode`, for scikit-learn pipelines."""
        return self.encode(X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Same as :meth:`decode`, for scikit-learn pipelines."""
        return self.decode(X)

    def item_codes(self, X: Any, item_ids: Any) -> ItemCodes:
        """Encode the vectors of a catalogue, row i being the item ``item_ids[i]``."""
        return ItemCodes(self.encode(X), tuple(self.sizes_), item_ids, dict(self.blocks_))

    def encode_items(self, items: Any, item_ids: Any = None) -> ItemCodes:
        """Encode new items by their content, with a tokenizer that was read from a folder.

        Parameters
        ----------
        items : DataFrame
            A table of pandas, polars or Arrow: one row an item, with the text columns that the tokenizer was fitted
            on, and ``item_id``.
        item_ids : sequence of str or int, optional
            Ids of the items; the column ``item_id`` if not given, else row numbers.

        Returns
        -------
        ItemCodes
            The codes that the tokenizer gives. They may be those of other items: `semtok.append_items` gives new items
            codes of their own.

        Raises
        ------
        ValueError
            If this was not read from a folder that carries the rules by which content becomes vectors, or a column is
            missing.
        """
        from recbase.data.tables.raw import as_table
        from semtok.content.arrange import laid_out_as
        from semtok.content.embeddings import carried_rules

        origin = getattr(self, "_origin", None)
        rules = None if origin is None else carried_rules(origin)
        if origin is None or rules is None:
            where = "this tokenizer was not read from a folder" if origin is None else f"{origin.path}"
            raise ValueError(
                f"{where} carries no rules that make vectors of texts, as `semtok fit` saves them with vectors that it "
                "made itself: give vectors to encode"
            )
        vectors = rules.transform_new(as_table(items, "the items"), item_ids)
        return self.item_codes(laid_out_as(vectors, origin.manifest["made_from"]).matrix, vectors.item_ids)

    def save(
        self,
        folder: str | os.PathLike[str],
        item_codes: ItemCodes | None = None,
        *,
        unique: str = "none",
        resolving: Mapping[str, Any] | None = None,
        made_from: Mapping[str, Any] | None = None,
        files: Mapping[str, FileContent] | None = None,
    ) -> None:
        """Write the tokenizer folder: ``semtok.json``, ``codebooks.safetensors`` and the codes, if given.

        A tokenizer that was read from a folder and not fitted again keeps what that one holds (codes, report, and what
        it was made from) wherever nothing else is given, so that the new folder equals the old one.

        Parameters
        ----------
        folder : path
            Made if missing; what it held is replaced at once, when all is written.
        item_codes : ItemCodes, optional
            Codes of the catalogue, kept as ``codes.parquet`` and as the array ``codes``.
        unique : str, default "none"
            The policy by which ``item_codes`` were made unique.
        resolving : mapping, optional
            What ``semtok.make_unique`` reported.
        made_from : mapping, optional
            Hashes (and names) of what the tokenizer was made from, such as ``{"embeddings": "3f.."}``.
        files : mapping of name to bytes or writer, optional
            More files, such as ``report.json``.

        Raises
        ------
        ValueError
            If this is not fitted, or ``item_codes`` are not unique under a policy that says they are.
        OSError
            If the folder cannot be written.
        """
        self._check_fitted()
        if unique != "none" and item_codes is not None and not item_codes.unique:
            shared = item_codes.collisions()
            raise ValueError(
                f"codes under the policy unique={unique} must be unique, but {shared.items} of {shared.total} items "
                f"share theirs: resolve them first (semtok.make_unique)"
            )
        entries, arrays = self._state()
        if item_codes is None and (unique, resolving, made_from, files) == ("none", None, None, None):
            kept = self._kept(entries, arrays)
            if kept is not None:
                save_folder(folder, MANIFEST, KIND, *kept)
                return
        manifest = {
            "method": self.method,
            "program": self.program,
            "arguments": self.get_params(deep=False),
            "n_features": self.n_features_in_,
            "sizes": list(self.sizes_),
            "views": {name: [part.start, part.stop] for name, part in self.views_.items()},
            "blocks": {name: [part.start, part.stop] for name, part in self.blocks_.items()},
            "unique": unique,
            "resolving": None if resolving is None else dict(resolving),
            "made_from": dict(made_from or {}),
            "codes": None if item_codes is None else item_codes.manifest(),
        } | entries
        content: dict[str, FileContent] = dict(files or {})
        if item_codes is not None:
            arrays["codes"] = item_codes.codes
            content |= item_codes.files()
        content[CODEBOOKS_FILE] = tensor_bytes(arrays)
        save_folder(folder, MANIFEST, KIND, manifest, content)

    @classmethod
    @consistent
    def load(cls: type[Self], folder: str | os.PathLike[str]) -> Self:
        """Read a tokenizer from a folder written by :meth:`save`.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If the folder holds another method's tokenizer, or its files are damaged.
        """
        if cls is ItemTokenizer:
            from semtok.registry import load

            found: Self = load(folder)
            return found
        opened = open_tokenizer(folder)
        if opened.manifest.get("method") != cls.method:
            raise ValueError(
                f"{folder} holds a tokenizer of method {opened.manifest.get('method')!r}, not {cls.method!r}"
            )
        arguments = opened.manifest["arguments"]
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        made: Self = build(opened.path / MANIFEST, cls, tuples, f"a tokenizer of method {cls.method}")
        made.n_features_in_ = int(opened.manifest["n_features"])
        made.views_ = {name: slice(*bounds) for name, bounds in opened.manifest["views"].items()}
        made.blocks_ = {name: slice(*bounds) for name, bounds in opened.manifest["blocks"].items()}
        made.sizes_ = [int(size) for size in opened.manifest["sizes"]]
        arrays = read_state(opened)
        try:
            made._restore(opened.manifest, arrays)
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
        ) as error:  # of a third party's method, which is not checked above
            raise ValueError(f"{opened.path} holds no whole tokenizer of method {cls.method}: {error}") from error
        made._origin = opened
        return made

    def save_pretrained(
        self, folder: str | os.PathLike[str], item_codes: ItemCodes | None = None, **saving: Any
    ) -> None:
        """Same as :meth:`save`, and a model card README.md, under the name that Hugging Face's libraries use.

        Parameters
        ----------
        folder : path
        item_codes : ItemCodes, optional
        **saving : object
            The other arguments of :meth:`save`.
        """
        from semtok.cards import write_card

        with folder_lock(folder, "saving a tokenizer"):  # the card is of this tokenizer, not of one saved in between
            self.save(folder, item_codes, **saving)
            write_card(folder)

    @classmethod
    def from_pretrained(cls: type[Self], name: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Read a tokenizer from a folder, or from a repository of the Hugging Face hub (downloaded once).

        ``ItemTokenizer.from_pretrained`` reads a tokenizer of any method.

        Raises
        ------
        FileNotFoundError
            If there is neither a folder nor a repository of that name.
        """
        if Path(name).is_dir():
            return cls.load(name)
        return cls.load(downloaded_folder(name, revision))

    def push_to_hub(
        self, repository: str, item_codes: ItemCodes | None = None, private: bool = False, **saving: Any
    ) -> str:
        """Upload the tokenizer folder and its model card to a repository of the Hugging Face hub.

        Parameters
        ----------
        repository : str
            "owner/name"; made if it does not exist.
        item_codes : ItemCodes, optional
            Codes of the catalogue, uploaded with it.
        private : bool, default False
            Make it private where it is made.
        **saving : object
            The other arguments of :meth:`save`.

        Returns
        -------
        str
            Address of the commit. A folder that is saved already is uploaded by ``semtok.cards.push_folder``.
        """
        import tempfile

        from semtok.cards import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder, item_codes, **saving)
            return push_folder(folder, repository, private)

    def _kept(
        self, entries: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, FileContent]] | None:
        """Manifest and files of the folder that this was read from, if it is what was fitted there; else None."""
        origin = getattr(self, "_origin", None)
        if origin is None:
            return None
        try:
            held = load_arrays(origin.file(CODEBOOKS_FILE))
        except (OSError, ValueError):
            warnings.warn(f"{origin.path} is gone or was replaced: the codes it held are not kept", stacklevel=4)
            return None
        own = {name: array for name, array in held.items() if name != "codes"}
        same = own.keys() == arrays.keys() and all(np.array_equal(own[name], arrays[name]) for name in own)
        said = json.loads(json.dumps(dict(entries) | {"arguments": self.get_params(deep=False)}, default=str))
        if not same or any(origin.manifest.get(name) != value for name, value in said.items()):
            return None
        facts = {name: value for name, value in origin.manifest.items() if name not in ("format", "kind", "versions")}
        return facts, {name: partial(shutil.copyfile, origin.file(name)) for name in origin}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "sizes_")

    def _check_fitted(self) -> None:
        check_is_fitted(self, msg="this %(name)s is not fitted yet: call fit or load first")

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Entries of the manifest and arrays of the codebooks file, besides what every method keeps."""
        raise NotImplementedError

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``_state`` gave; ValueError, naming the entry, where something is missing or misshapen."""
        raise NotImplementedError
