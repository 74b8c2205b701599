"""What tokenizers share: the tokenizer folder, checks of vectors, views, streaming.

``ItemTokenizer`` is what every tokenizer is, ``StreamedTokenizer`` one that encodes vectors one by one, in chunks.
``VectorTokenizer`` is one whose fitted state is a list of codebooks, one
a code column, each laid over a range of columns of its view (after an optional rotation): product quantizers lay them
side by side, residual ones on top of each other. Knows nothing of how codebooks are fitted.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from recbase.arguments import check_arguments
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
from semtok.codecs.additive import squared_distances
from semtok.codecs.schemas import CODEBOOKS_FILE, open_tokenizer, read_state
from semtok.codes import KIND, MANIFEST, ItemCodes
from semtok.content.rows import Rows, check_finite, check_rows, checked_views, warn_of_domination
from semtok.kernels.lloyd import INITS, PRECISIONS, few_distinct, import_faiss, nearest
from semtok.kernels.origins import around, far_part, middle, spread_of

__all__ = [
    "CODEBOOKS_FILE",
    "ENGINES",
    "Block",
    "ItemTokenizer",
    "StreamedTokenizer",
    "VectorTokenizer",
    "power_of_two_bits",
]

ENGINES = ("torch", "faiss")

Self = TypeVar("Self", bound="ItemTokenizer")


@dataclass(frozen=True)
class Block:
    """Fitted codebooks of one view.

    Attributes
    ----------
    codebooks : list of Tensor [K, d]
        One a level.
    used : list of int
        Codes of each level that may be assigned; those after them belong to no vector.
    columns : list of (int, int)
        The columns of the (rotated) view that each codebook covers.
    rotation : Tensor [D, D], optional
        Multiplied to the vectors from the right before encoding; orthogonal.
    shift : Tensor [D], optional
        Taken from the vectors before that, where they lie far from zero.
    """

    codebooks: list[Tensor]
    used: list[int]
    columns: list[tuple[int, int]]
    rotation: Tensor | None = None
    shift: Tensor | None = None

    def to(self, device: torch.device) -> Block:
        """The same block on another device."""
        rotation, shift = (None if part is None else part.to(device) for part in (self.rotation, self.shift))
        return Block([book.to(device) for book in self.codebooks], self.used, self.columns, rotation, shift)

    def around(self, origin: Tensor, shift: Tensor | None) -> Block:
        """The block of vectors less ``shift``, where this one was fitted on vectors less ``origin``."""
        rest = origin.cpu().double() if shift is None else origin.cpu().double() - shift.cpu().double()
        rest = rest if self.rotation is None else rest @ self.rotation.cpu().double()
        books = []
        for book, (lo, hi) in zip(self.codebooks, self.columns, strict=True):
            books.append((book.cpu().double() + rest[lo:hi]).float().to(book.device))
            rest[lo:hi] = 0  # books that are added to this one have nothing to make up for
        return Block(books, self.used, self.columns, self.rotation, shift)


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
        """What each item would pay for each code of one level, its other codes staying as they are.

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


class StreamedTokenizer(ItemTokenizer):
    """A tokenizer that encodes every vector by itself: chunk by chunk, on the device that the vectors are on.

    A subclass says how a chunk is encoded (``_encoder``) and what codes stand for (``_decode_into``).
    """

    def _encoder(self, device: torch.device) -> Callable[[Tensor], Any]:
        """What gives the codes [n, L] (tensor or array) of a checked chunk [n, D] on that device."""
        raise NotImplementedError

    def _decode_into(self, vectors: np.ndarray, table: np.ndarray) -> None:
        """Write what the checked codes [N, L] stand for into float32 [N, D], which is zero."""
        raise NotImplementedError

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Memory-mapped arrays are streamed; tensors are encoded on their device.

        Returns
        -------
        int32 array [N, L]

        Raises
        ------
        ValueError
            If this is not fitted, or the vectors have another width or NaN or infinite entries.
        """
        self._check_fitted()
        rows = Rows(self, X, reset=False)
        codes = np.empty((len(rows), len(self.sizes_)), dtype=np.int32)
        encoder = None
        for lo, chunk in rows.chunks():
            check_finite(chunk, lo, self.views_)
            encoder = encoder or self._encoder(chunk.device)
            found = encoder(chunk)
            codes[lo : lo + len(chunk)] = found.int().cpu().numpy() if isinstance(found, Tensor) else found
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: float32 [N, D], zero in columns of no view.

        Parameters
        ----------
        codes : array of int [N, L]

        Raises
        ------
        ValueError
            If this is not fitted, or codes have another number of levels or are out of range.
        """
        self._check_fitted()
        table = ItemCodes(np.asarray(codes), tuple(self.sizes_), np.arange(len(codes))).codes
        vectors = np.zeros((len(table), self.n_features_in_), dtype=np.float32)
        self._decode_into(vectors, table)
        return vectors


class VectorTokenizer(StreamedTokenizer):
    """Base of tokenizers that are fitted on item vectors alone; a subclass says how one view is fitted.

    Among the arguments of a subclass are ``codebook_size``, ``engine``, ``seed``, ``device`` and
    ``max_points_per_centroid``; it has ``_fit_block(points, seed) -> Block``, which is given points around zero.
    Codebooks are of the vectors less ``shifts_`` (of each view, None for most): what lies far from zero is moved there
    by a fixed amount, else its distances would be lost in rounding.
    """

    program = "additive"
    per_view = True
    default_unique = "none"
    engines: ClassVar[tuple[str, ...]] = ENGINES

    def _fit_block(self, points: Tensor, seed: int) -> Block:
        raise NotImplementedError

    def _encode_block(self, points: Tensor, block: Block) -> Tensor:
        """Codes of the rotated vectors of one view, each level given what the levels before it left: int64 [n, L]."""
        codes = torch.empty(len(points), len(block.codebooks), dtype=torch.int64, device=points.device)
        left = points
        for level, (book, used, (lo, hi)) in enumerate(zip(block.codebooks, block.used, block.columns, strict=True)):
            codes[:, level] = nearest(left[:, lo:hi], book[:used], settle=True)
            if any(start < hi and lo < stop for start, stop in block.columns[level + 1 :]):
                left = left.clone() if left is points else left
                left[:, lo:hi] -= book[codes[:, level]]
        return codes

    def fit(self: Self, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> Self:
        """Learn the codebooks.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; memory-mapped arrays are streamed. At least ``codebook_size`` rows.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, quantized separately; one view of all columns by default.

        Raises
        ------
        ValueError
            If a hyper-parameter or the vectors are unusable: not two-dimensional, NaN or infinite, or fewer rows than
            ``codebook_size``.
        ImportError
            If ``engine="faiss"`` and faiss is not installed.
        """
        self._check_arguments()
        self.engine_ = self._chosen_engine()
        rows = Rows(self, X, reset=True)
        self.views_ = checked_views(views, rows.width)
        if len(rows) < self.codebook_size:
            raise ValueError(
                f"X has n_samples={len(rows)} rows, fewer than codebook_size={self.codebook_size}: "
                f"give at least {self.codebook_size} rows or a smaller codebook_size"
            )
        check_rows(rows, self.views_)
        sample = rows.sample(self.max_points_per_centroid, self.codebook_size, self.seed)
        blocks = []
        for number, part in enumerate(self.views_.values()):
            points = sample[:, part].contiguous()
            origin = middle(points)
            block = self._fit_block(around(points, origin), self.seed + number)
            blocks.append(block.around(origin, far_part(points)))
        self._keep(blocks)
        codes = self._encode_chunk(sample, self._parts(sample.device))
        counts = [torch.bincount(column, minlength=size) for column, size in zip(codes.T, self.sizes_, strict=True)]
        self.unused_ = [int((count == 0).sum()) for count in counts]
        self._warn_of_few(sample)
        return self

    def _warn_of_few(self, sample: Tensor) -> None:
        """Say once where fewer rows are distinct than codes, or else where one column outweighs all others."""
        few = []
        for (name, columns), part in zip(self.blocks_.items(), self.views_.values(), strict=True):
            points = sample[:, part]
            silent = self.engine_ == "faiss" and few_distinct(points, self.codebook_size)  # faiss does not say it
            if silent or min(self.used_[columns]) < self.codebook_size:
                used = [size - unused for size, unused in zip(self.sizes_[columns], self.unused_[columns], strict=True)]
                few.append(f"view {name!r} (its levels use {', '.join(map(str, used))})")
            else:
                warn_of_domination(spread_of(points), name, part.start)
        if len(few) == len(self.views_):  # a view such as the brand may well have few, as ``used_`` says
            warnings.warn(
                f"fewer distinct vectors than the {self.codebook_size} codes of a level in {', '.join(few)}",
                stacklevel=3,
            )

    def _encoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        blocks = self._parts(device)
        return lambda chunk: self._encode_chunk(chunk, blocks)

    def _decode_into(self, vectors: np.ndarray, table: np.ndarray) -> None:
        turns = zip(self.rotations_, self.shifts_, strict=True)
        for part, columns, (rotation, shift) in zip(self.views_.values(), self.blocks_.values(), turns, strict=True):
            found = np.zeros((len(table), part.stop - part.start), dtype=np.float32)
            for level in range(columns.start, columns.stop):
                lo, hi = self.columns_[level]
                found[:, lo:hi] += self.codebooks_[level][table[:, level]]
            found = found if rotation is None else found @ rotation.T
            vectors[:, part] = found if shift is None else found + shift

    def costs(self, X: Any, codes: Any, level: int) -> np.ndarray:
        """See :meth:`ItemTokenizer.costs`; each code column costs in the (rotated) columns of its own view."""
        self._check_fitted()
        table = np.asarray(codes)
        level = range(len(self.sizes_))[level]
        view = next(name for name, columns in self.blocks_.items() if columns.start <= level < columns.stop)
        columns, part = self.blocks_[view], self.views_[view]
        number = list(self.views_).index(view)
        rotation, shift = self.rotations_[number], self.shifts_[number]
        points = np.asarray(X, dtype=np.float32)[:, part]
        points = points.copy() if shift is None else points - shift
        left = points if rotation is None else points @ rotation
        for other in range(columns.start, columns.stop):
            if other != level:
                lo, hi = self.columns_[other]
                left[:, lo:hi] -= self.codebooks_[other][table[:, other]]
        lo, hi = self.columns_[level]
        book = self.codebooks_[level]
        outside = np.square(left).sum(1) - np.square(left[:, lo:hi]).sum(1)
        found: np.ndarray = squared_distances(left[:, lo:hi], book) + outside[:, None]
        found[:, self.used_[level] :] = np.inf
        return found

    def _check_arguments(self) -> None:
        """Refuse hyper-parameters that mean nothing; subclasses add their own."""
        check_arguments(type(self), vars(self))
        for name, allowed in (("engine", self.engines), ("init", INITS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")

    def _chosen_engine(self) -> str:
        if self.engine == "faiss":
            import_faiss()
        return str(self.engine)

    def _keep(self, blocks: list[Block]) -> None:
        """Fitted attributes, as plain arrays, from the blocks of all views."""
        self.codebooks_ = [book.cpu().numpy() for block in blocks for book in block.codebooks]
        self.used_ = [used for block in blocks for used in block.used]
        self.columns_ = [columns for block in blocks for columns in block.columns]
        self.rotations_ = [None if block.rotation is None else block.rotation.cpu().numpy() for block in blocks]
        self.shifts_ = [None if block.shift is None else block.shift.cpu().numpy() for block in blocks]
        self.sizes_ = [len(book) for book in self.codebooks_]
        ends = np.cumsum([len(block.codebooks) for block in blocks]).tolist()
        starts = [0, *ends[:-1]]
        self.blocks_ = {view: slice(lo, hi) for view, lo, hi in zip(self.views_, starts, ends, strict=True)}

    def _parts(self, device: torch.device) -> list[Block]:
        """The fitted attributes as blocks of tensors."""
        blocks = []
        for columns, *turns in zip(self.blocks_.values(), self.rotations_, self.shifts_, strict=True):
            books = [torch.from_numpy(book) for book in self.codebooks_[columns]]
            turn, shift = (None if part is None else torch.from_numpy(part) for part in turns)
            blocks.append(Block(books, self.used_[columns], self.columns_[columns], turn, shift).to(device))
        return blocks

    def _encode_chunk(self, chunk: Tensor, blocks: list[Block]) -> Tensor:
        found = []
        for part, block in zip(self.views_.values(), blocks, strict=True):
            points = chunk[:, part] if block.shift is None else chunk[:, part] - block.shift
            if block.rotation is not None:  # in float64, which leaves nothing to the order of the sums
                wide = torch.float32 if points.device.type == "mps" else torch.float64
                points = (points.to(wide) @ block.rotation.to(wide)).float()
            found.append(self._encode_block(points, block))
        return torch.cat(found, dim=1)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        entries = {"engine": self.engine_, "columns": self.columns_, "used": self.used_, "unused": self.unused_}
        arrays = {f"codebook.{level}": book for level, book in enumerate(self.codebooks_)}
        for name, rotation, shift in zip(self.views_, self.rotations_, self.shifts_, strict=True):
            arrays |= {} if rotation is None else {f"rotation.{name}": rotation}
            arrays |= {} if shift is None else {f"shift.{name}": shift}
        return entries, arrays

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.engine_ = str(manifest["engine"])
        self.columns_ = [(int(lo), int(hi)) for lo, hi in manifest["columns"]]
        self.used_ = [int(used) for used in manifest["used"]]
        self.unused_ = [int(unused) for unused in manifest["unused"]]
        self.codebooks_ = []
        for level, (size, (lo, hi)) in enumerate(zip(self.sizes_, self.columns_, strict=True)):
            book = arrays.get(f"codebook.{level}")
            if book is None or book.shape != (size, hi - lo):
                found = "missing" if book is None else f"of shape {book.shape}"
                raise ValueError(f"codebook.{level} is {found}; the manifest expects {(size, hi - lo)}")
            self.codebooks_.append(book)
        self.rotations_ = [arrays.get(f"rotation.{name}") for name in self.views_]
        self.shifts_ = [arrays.get(f"shift.{name}") for name in self.views_]


def power_of_two_bits(codebook_size: int, what: str) -> int:
    """Bits of a code, for an engine that counts in them."""
    bits = codebook_size.bit_length() - 1
    if 1 << bits != codebook_size or not bits:
        raise ValueError(f'codebook_size={codebook_size} is not a power of two, which engine="faiss" needs for {what}')
    return bits
