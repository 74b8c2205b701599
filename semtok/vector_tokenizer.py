"""Tokenizers of codebooks that are fitted on item vectors alone: product and residual quantization, k-means."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import check_arguments
from semtok.codecs.additive import squared_distances
from semtok.content.rows import Rows, check_rows, checked_views, warn_of_domination
from semtok.kernels.lloyd import INITS, PRECISIONS, few_distinct, import_faiss, nearest
from semtok.kernels.origins import around, far_part, middle, spread_of
from semtok.per_view import PerViewTokenizer
from semtok.tokenizer import ENGINES, Self

__all__ = ["Block", "VectorTokenizer", "power_of_two_bits"]


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


class VectorTokenizer(PerViewTokenizer):
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
        blocks: list[Block] = []

        def fit_view(name: str, part: slice, seed: int) -> list[int]:
            points = sample[:, part].contiguous()
            origin = middle(points)
            blocks.append(self._fit_block(around(points, origin), seed).around(origin, far_part(points)))
            return [len(book) for book in blocks[-1].codebooks]

        self._fit_views(fit_view)
        self._keep(blocks)
        self.unused_ = self._unused(sample)
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

    def _view_encoder(self, name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
        block = self._block(name, device)

        def encoded(points: Tensor) -> Tensor:
            points = points if block.shift is None else points - block.shift
            if block.rotation is not None:  # in float64, which leaves nothing to the order of the sums
                wide = torch.float32 if points.device.type == "mps" else torch.float64
                points = (points.to(wide) @ block.rotation.to(wide)).float()
            return self._encode_block(points, block)

        return encoded

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        part, first = self.views_[name], self.blocks_[name].start
        found = np.zeros((len(codes), part.stop - part.start), dtype=np.float32)
        for level in range(codes.shape[1]):
            lo, hi = self.columns_[first + level]
            found[:, lo:hi] += self.codebooks_[first + level][codes[:, level]]
        rotation, shift = self._turn(name)
        found = found if rotation is None else found @ rotation.T
        return found if shift is None else found + shift

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Costs in the (rotated) columns of the view."""
        first, (rotation, shift) = self.blocks_[name].start, self._turn(name)
        points = points.copy() if shift is None else points - shift
        left = points if rotation is None else points @ rotation
        for other in range(codes.shape[1]):
            if other != level:
                lo, hi = self.columns_[first + other]
                left[:, lo:hi] -= self.codebooks_[first + other][codes[:, other]]
        lo, hi = self.columns_[first + level]
        outside = np.square(left).sum(1) - np.square(left[:, lo:hi]).sum(1)
        found: np.ndarray = squared_distances(left[:, lo:hi], self.codebooks_[first + level]) + outside[:, None]
        found[:, self.used_[first + level] :] = np.inf
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

    def _turn(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Rotation and shift of a view."""
        number = list(self.views_).index(name)
        return self.rotations_[number], self.shifts_[number]

    def _block(self, name: str, device: torch.device) -> Block:
        """The fitted attributes of a view as tensors."""
        columns = self.blocks_[name]
        books = [torch.from_numpy(book) for book in self.codebooks_[columns]]
        rotation, shift = (None if part is None else torch.from_numpy(part) for part in self._turn(name))
        return Block(books, self.used_[columns], self.columns_[columns], rotation, shift).to(device)

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
