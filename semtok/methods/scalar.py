"""Codes from single coordinates: sides of random hyperplanes (LSH) and cells along principal axes (FSQ).

Cheap baselines: nothing is learned but a mean, axes and what each cell stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import Cells, CodebookSize, Device, Factor, Levels, Seed, check_arguments
from semtok.codecs.additive import squared_distances
from semtok.codecs.grid import Grid, cells_of
from semtok.content.rows import Rows, check_rows, checked_views
from semtok.kernels.lloyd import principal_axes
from semtok.kernels.origins import grid_of, on_grid, spread_of
from semtok.per_view import PerViewTokenizer

__all__ = ["FiniteScalarQuantizer", "HyperplaneLSH", "ScalarTokenizer"]

_FIT_ROWS = 65_536  # rows that means, axes and decoders are computed from at most, drawn by the seed
_MEAN_SHARE = 1 / 64  # of the spread of a column: the powers of two below it are what its mean is rounded to
_RIDGE = 1e-6  # of the mean variance, added where decoders are solved for

Self = TypeVar("Self", bound="ScalarTokenizer")


class ScalarTokenizer(PerViewTokenizer):
    """Base of tokenizers that cut coordinates into cells; a subclass says which coordinates, and where they are cut.

    A coordinate is a direction in the centred view. A code is the cells of its level's coordinates, counted with the
    last one fastest. A cell stands for the mean coordinate of the fitted vectors in it, and vectors are decoded from
    these by least squares.
    """

    program = "grid"
    levels: int
    seed: int
    device: str | None

    def _cells(self) -> tuple[int, ...]:
        """Cells of each coordinate of one level."""
        raise NotImplementedError

    def _coordinates(self, centred: Tensor, mean: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Directions [D, C] of centred rows, and cuts [C, most cells - 1], ascending and filled up with infinity."""
        raise NotImplementedError

    def _check_arguments(self) -> None:
        check_arguments(type(self), vars(self))

    def fit(self: Self, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> Self:
        """Find coordinates, cuts, and what cells stand for.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; at most 65,536 of them, drawn by ``seed``, are used.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, each with codes of its own; one view of all columns by default.

        Raises
        ------
        ValueError
            If a hyper-parameter or the vectors are unusable: not two-dimensional, NaN or infinite.
        """
        self._check_arguments()
        rows = Rows(self, X, reset=True)
        self.views_ = checked_views(views, rows.width)
        check_rows(rows, self.views_)
        sample = rows.sample(_FIT_ROWS, 1, self.seed)
        cells = self._cells()
        count = self.levels * len(cells)
        self.grids_: dict[str, Grid] = {}

        def fit_view(name: str, part: slice, seed: int) -> list[int]:
            points = sample[:, part]
            # A round number near the mean: rows less it are the same, to the last bit, wherever the rows are moved.
            grid = grid_of(spread_of(points), _MEAN_SHARE)
            mean = on_grid(points.mean(0, dtype=torch.float64).cpu(), grid).float().to(points.device)
            axes, cuts = self._coordinates(points - mean, mean, count, seed)
            values = (points - mean) @ axes  # [n, C]
            found = torch.from_numpy(cells_of(values.cpu().numpy(), cuts.cpu().numpy())).to(points.device)
            means = _cell_means(values, found, max(cells))
            decoded = _solved(means.T.gather(0, found), points - mean)
            self.grids_[name] = Grid(
                {
                    "mean": mean.cpu().numpy(),
                    "axes": axes.cpu().numpy(),
                    "cuts": cuts.cpu().numpy(),
                    "values": (means[:, :, None] * decoded[:, None]).cpu().numpy(),
                },
                cells,
            )
            return [prod(cells)] * self.levels

        self._fit_views(fit_view)
        return self

    def _view_encoder(self, name: str, device: torch.device) -> Callable[[Tensor], np.ndarray]:
        return lambda points: self.grids_[name].encode(points.cpu().numpy())

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        return self.grids_[name].decode(codes)

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        others = np.array(codes)
        others[:, level] = 0
        grid = self.grids_[name]
        book = grid.book(level)
        return squared_distances(points - grid.decode(others) + book[0], book)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {f"{field}.{name}": getattr(grid, field) for name, grid in self.grids_.items() for field in _FIELDS}
        return {"cells": list(self._cells())}, arrays

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.grids_ = {}
        for name in self.views_:
            missing = [field for field in _FIELDS if f"{field}.{name}" not in arrays]
            if missing:
                raise ValueError(f"{missing[0]}.{name} is missing; a grid has {', '.join(_FIELDS)}")
            found = {field: arrays[f"{field}.{name}"] for field in _FIELDS}
            self.grids_[name] = Grid(found, tuple(manifest["cells"]))


_FIELDS = ("mean", "axes", "cuts", "values")


class HyperplaneLSH(ScalarTokenizer):
    """Locality-sensitive hashing: each bit of a code says on which side of a random hyperplane the vector lies.

    Vectors at a small angle (about the mean) agree in most bits. Nothing is learned, so this is the baseline that a
    tokenizer which learns has to beat.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    codebook_size : int, default 256
        Codes of each level, a power of two: log2 K hyperplanes a level.
    center : bool, default True
        Let hyperplanes go through the mean of the vectors instead of the origin.
    orthogonal : bool, default True
        Make normals of hyperplanes orthogonal, D at a time; else they are drawn independently.
    seed : int, default 0
        Draws the hyperplanes.
    device : str or None, default None
        Where fitting computes; by default where the vectors are.

    Attributes
    ----------
    grids_ : dict of str to Grid
        Hyperplanes and what their sides stand for, of each view.

    Notes
    -----
    Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002; orthogonal normals as in Ji et al.,
    Super-bit locality-sensitive hashing, NeurIPS 2012. Decoding by least squares is ours: hashing has none.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> HyperplaneLSH(levels=3, codebook_size=16).fit(vectors).encode(vectors).shape
    (500, 3)
    """

    method = "lsh"

    def __init__(
        self,
        *,
        levels: Levels = 4,
        codebook_size: CodebookSize = 256,
        center: bool = True,
        orthogonal: bool = True,
        seed: Seed = 0,
        device: Device | None = None,
    ) -> None:
        self.levels = levels
        self.codebook_size = codebook_size
        self.center = center
        self.orthogonal = orthogonal
        self.seed = seed
        self.device = device

    def _check_arguments(self) -> None:
        super()._check_arguments()
        bits = self.codebook_size.bit_length() - 1
        if 1 << bits != self.codebook_size or not bits:
            raise ValueError(f"codebook_size={self.codebook_size} is not a power of two of at least 2: a code is bits")

    def _cells(self) -> tuple[int, ...]:
        return (2,) * (self.codebook_size.bit_length() - 1)

    def _coordinates(self, centred: Tensor, mean: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        width = centred.shape[1]
        normals = torch.randn(width, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if self.orthogonal:
            normals = torch.cat([torch.linalg.qr(part).Q for part in normals.split(width, dim=1)], dim=1)
        axes = (normals / normals.norm(dim=0)).float().to(centred.device)
        cuts = torch.zeros(count, device=axes.device) if self.center else -(mean @ axes)
        return axes, cuts[:, None]


class FiniteScalarQuantizer(ScalarTokenizer):
    """Finite scalar quantization along principal axes: each code is a cell of a small grid.

    Level after level takes the next few principal axes of the view; each axis is squashed by tanh and cut into equal
    parts.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    cells : tuple of int, default (8, 6, 5)
        Parts that each axis of a level is cut into, all at least 2; their product is the number of codes. Axes beyond
        the width of the view say nothing.
    spread : float, default 1.0
        Standard deviations of an axis that tanh is given as 1: more makes the inner cells wider.
    seed : int, default 0
        Draws the rows that axes are computed from, where there are more than 65,536.
    device : str or None, default None
        Where fitting computes; by default where the vectors are.

    Attributes
    ----------
    grids_ : dict of str to Grid
        Axes, cuts and what cells stand for, of each view.

    Notes
    -----
    Mentzer et al., Finite scalar quantization: VQ-VAE made simple, ICLR 2024. There the axes are learned by an
    autoencoder; here they are principal axes, and a cell stands for the mean of what lies in it.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> FiniteScalarQuantizer(levels=2).fit(vectors).sizes_
    [240, 240]
    """

    method = "fsq"

    def __init__(
        self,
        *,
        levels: Levels = 4,
        cells: tuple[Cells, ...] = (8, 6, 5),
        spread: Factor = 1.0,
        seed: Seed = 0,
        device: Device | None = None,
    ) -> None:
        self.levels = levels
        self.cells = cells
        self.spread = spread
        self.seed = seed
        self.device = device

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not len(self.cells):
            raise ValueError("--cells must name the cells of one axis at least, got none")

    def _cells(self) -> tuple[int, ...]:
        return tuple(int(cell) for cell in self.cells)

    def _coordinates(self, centred: Tensor, mean: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        width = centred.shape[1]
        _, axes, variances = principal_axes(centred, seed)
        axes = torch.nn.functional.pad(axes[:, :count], (0, max(0, count - width)))
        scales = torch.nn.functional.pad(variances[:count], (0, max(0, count - width))).sqrt() * self.spread
        cells = self._cells()
        cuts = torch.full((count, max(cells) - 1), torch.inf, device=axes.device)
        for place, parts in enumerate(cells):
            edges = torch.arange(1, parts, device=axes.device) * (2 / parts) - 1
            cuts[place :: len(cells), : parts - 1] = scales[place :: len(cells), None] * edges.atanh()
        return axes, cuts


def _cell_means(values: Tensor, cells: Tensor, most: int) -> Tensor:
    """Mean coordinate [C, most] of the rows in each cell; 0, the mean of all, where there are none."""
    count = values.shape[1]
    place = (cells + torch.arange(count, device=cells.device) * most).flatten()
    sums = torch.zeros(count * most, dtype=torch.float64, device=values.device)
    sums.index_add_(0, place, values.flatten().double())
    loads = torch.bincount(place, minlength=count * most)
    return (sums / loads.clamp(min=1)).view(count, most).float()


def _solved(coordinates: Tensor, centred: Tensor) -> Tensor:
    """Directions [C, D] whose sum, weighted by the coordinates [n, C], is nearest to the centred rows [n, D]."""
    wide, rows = coordinates.double(), centred.double()
    gram = wide.T @ wide
    ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    gram += torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * ridge
    return torch.linalg.solve(gram, wide.T @ rows).float()
