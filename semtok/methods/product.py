"""Product quantization: each view cut into sub-vectors, one codebook for each; and the same after a learned rotation.

Fits codebooks and a rotation; encoding, views and folders are those of the tokenizer file.
"""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import CodebookSize, Count, CountOrOff, Device, Large, Levels, Restarts, Seed
from semtok.kernels.lloyd import cluster, import_faiss, principal_axes
from semtok.vector_tokenizer import Block, VectorTokenizer, power_of_two_bits

__all__ = ["OptimizedProductQuantizer", "ProductQuantizer"]

RECIPES = {
    "default": {},
    "paper": {"levels": 4, "codebook_size": 256},  # CCFRec's, whose views are quantized one by one
}


class ProductQuantizer(VectorTokenizer):
    """Product quantization (PQ) of item vectors.

    Each view is cut into ``levels`` sub-vectors of consecutive columns and each sub-vector gets the number of its
    nearest centroid. Codes of a view stand side by side, view after view.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    codebook_size : int, default 256
        Codes of each level, K.
    iterations : int, default 25
        Iterations of each k-means at most.
    init : {"k-means++", "random"}, default "k-means++"
        How the first centroids are drawn.
    restarts : int, default 1
        k-means fits with different seeds for each sub-vector; the one with the least error is kept.
    max_points_per_centroid : int or None, default 256
        Fit on at most this many rows a centroid, drawn by ``seed``; None fits on all.
    engine : {"torch", "faiss"}, default "torch"
        "faiss" fits with faiss.ProductQuantizer (extras ``faiss`` or ``gpu``).
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Precision of the distances while fitting; "auto" takes bfloat16 where the CPU multiplies it in hardware.
    seed : int, default 0
        Same seed, same codes on the CPU.
    device : str or None, default None
        Where to compute, such as "cuda"; by default where the vectors are.

    Attributes
    ----------
    codebooks_ : list of float32 array [K, d]
        One a code column.
    columns_ : list of (int, int)
        Columns of the view that each codebook covers; sub-vectors differ by one in width where they must.
    sizes_ : list of int
        Codes of each column.
    used_ : list of int
        Codes of each column that can be assigned: fewer than the size where fewer rows are distinct.
    unused_ : list of int
        Codes of each column that no vector of the fit has.
    blocks_ : dict of str to slice
        Code columns of each view.

    Notes
    -----
    Jegou, Douze and Schmid, Product quantization for nearest neighbor search, TPAMI 2011.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> ProductQuantizer(levels=4, codebook_size=16).fit(vectors).encode(vectors).shape
    (500, 4)
    """

    method = "pq"

    def __init__(
        self,
        *,
        levels: Levels = 4,
        codebook_size: CodebookSize = 256,
        iterations: Count = 25,
        init: str = "k-means++",
        restarts: Restarts = 1,
        max_points_per_centroid: Large | None = 256,
        engine: str = "torch",
        precision: str = "auto",
        seed: Seed = 0,
        device: Device | None = None,
    ) -> None:
        self.levels = levels
        self.codebook_size = codebook_size
        self.iterations = iterations
        self.init = init
        self.restarts = restarts
        self.max_points_per_centroid = max_points_per_centroid
        self.engine = engine
        self.precision = precision
        self.seed = seed
        self.device = device

    def _fit_block(self, points: Tensor, seed: int) -> Block:
        columns = _cut(points.shape[1], self.levels)
        if self.engine_ == "faiss":
            books = _faiss_codebooks(points, self.levels, self.codebook_size, self.iterations, self.restarts, seed)
            return Block(books, [self.codebook_size] * self.levels, columns)
        books, used = [], []
        for level, (lo, hi) in enumerate(columns):
            found = cluster(
                points[:, lo:hi].contiguous(),
                self.codebook_size,
                iterations=self.iterations,
                seed=seed * 1009 + level,
                init=self.init,
                restarts=self.restarts,
                precision=self.precision,
            )
            books.append(found.centers)
            used.append(found.used)
        return Block(books, used, columns)


class OptimizedProductQuantizer(ProductQuantizer):
    """Product quantization after a learned rotation (OPQ), which spreads the variance evenly over the sub-vectors.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    codebook_size : int, default 256
        Codes of each level, K.
    iterations : int, default 25
        Iterations of each k-means at most, after the rotation is found.
    rotation_steps : int, default 12
        Alternating steps of codebooks and rotation; 0 keeps the start, a PCA rotation with balanced allocation.
    init : {"k-means++", "random"}, default "k-means++"
        How the first centroids are drawn.
    restarts : int, default 1
        k-means fits with different seeds for each sub-vector; the one with the least error is kept.
    max_points_per_centroid : int or None, default 256
        Fit on at most this many rows a centroid, drawn by ``seed``; None fits on all.
    engine : {"auto", "torch", "faiss"}, default "auto"
        What finds the rotation and the codebooks: "auto" takes faiss (50 alternating steps) where it is installed.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Precision of the distances while fitting; "auto" takes bfloat16 where the CPU multiplies it in hardware.
    seed : int, default 0
        Same seed, same codes on the CPU.
    device : str or None, default None
        Where to compute, such as "cuda"; by default where the vectors are.

    Attributes
    ----------
    rotations_ : list of float32 array [D_view, D_view]
        Multiplied to the vectors of each view from the right.
    codebooks_, columns_, sizes_, used_, unused_, blocks_
        As in :class:`ProductQuantizer`, of the rotated vectors.
    engine_ : str
        What was used.

    Notes
    -----
    Ge, He, Ke and Sun, Optimized product quantization, TPAMI 2014.
    """

    method = "opq"
    engines = ("auto", "torch", "faiss")

    def __init__(
        self,
        *,
        levels: Levels = 4,
        codebook_size: CodebookSize = 256,
        iterations: Count = 25,
        rotation_steps: CountOrOff = 12,
        init: str = "k-means++",
        restarts: Restarts = 1,
        max_points_per_centroid: Large | None = 256,
        engine: str = "auto",
        precision: str = "auto",
        seed: Seed = 0,
        device: Device | None = None,
    ) -> None:
        super().__init__(
            levels=levels,
            codebook_size=codebook_size,
            iterations=iterations,
            init=init,
            restarts=restarts,
            max_points_per_centroid=max_points_per_centroid,
            engine=engine,
            precision=precision,
            seed=seed,
            device=device,
        )
        self.rotation_steps = rotation_steps

    def _chosen_engine(self) -> str:
        if self.engine == "auto":
            return "torch" if importlib.util.find_spec("faiss") is None else "faiss"
        return super()._chosen_engine()

    def _fit_block(self, points: Tensor, seed: int) -> Block:
        _cut(points.shape[1], self.levels)
        # faiss's rotation writes outside of its memory where there are fewer rows than columns.
        enough = len(points) >= points.shape[1]
        if self.engine == "faiss" and not enough:
            raise ValueError(
                f'engine="faiss" rotates {points.shape[1]} columns by at least as many rows, but X has {len(points)}; '
                'use engine="torch"'
            )
        if self.engine_ == "faiss" and enough:
            rotation = _faiss_rotation(points, self.levels, self.codebook_size, seed)
        else:
            rotation = self._rotation(points, seed)
        block = super()._fit_block(points @ rotation, seed)
        return Block(block.codebooks, block.used, block.columns, rotation)

    def _rotation(self, points: Tensor, seed: int) -> Tensor:
        """Alternate a few k-means steps on the rotated rows and the rotation that suits their codebooks best."""
        columns = _cut(points.shape[1], self.levels)
        rotation = _balanced_axes(points, columns, seed)
        books: list[Tensor | None] = [None] * len(columns)
        for _ in range(self.rotation_steps):
            turned = points @ rotation
            decoded = torch.empty_like(turned)
            for level, (lo, hi) in enumerate(columns):
                part = turned[:, lo:hi].contiguous()
                found = cluster(
                    part,
                    self.codebook_size,
                    iterations=8 if books[level] is None else 2,
                    seed=seed * 1009 + level,
                    init=self.init,
                    precision=self.precision,
                    start=books[level],
                )
                books[level] = found.centers
                decoded[:, lo:hi] = found.centers[found.codes]
            left, _, right = torch.linalg.svd((points.T @ decoded).double())  # Procrustes: the nearest rotation
            rotation = (left @ right).float()
        return rotation


def _cut(width: int, levels: int) -> list[tuple[int, int]]:
    """Ranges of ``levels`` sub-vectors over ``width`` columns, widths differing by one at most."""
    if width < levels:
        raise ValueError(f"a view has n_features={width} columns, fewer than levels={levels}: use fewer levels")
    edges = np.cumsum([0] + [width // levels + (level < width % levels) for level in range(levels)]).tolist()
    return list(itertools.pairwise(edges))


def _balanced_axes(points: Tensor, columns: list[tuple[int, int]], seed: int) -> Tensor:
    """Principal axes dealt out so that the product of variances is about equal in every sub-vector: [D, D]."""
    _, axes, variances = principal_axes(points, seed)
    logs = variances.clamp(min=max(1e-10 * float(variances[0]), 1e-38)).log().tolist()
    room = [hi - lo for lo, hi in columns]
    dealt: list[list[int]] = [[] for _ in columns]
    load = [0.0] * len(columns)
    floor = min(logs)
    for axis, value in enumerate(logs):
        level = min((level for level in range(len(columns)) if len(dealt[level]) < room[level]), key=load.__getitem__)
        dealt[level].append(axis)
        load[level] += value - floor
    return axes[:, [axis for level in dealt for axis in level]].contiguous()


def _faiss_codebooks(
    points: Tensor, levels: int, codebook_size: int, iterations: int, restarts: int, seed: int
) -> list[Tensor]:
    faiss = import_faiss()
    width = points.shape[1]
    if width % levels:
        raise ValueError(f'{width} columns are not a multiple of levels={levels}, which engine="faiss" needs')
    quantizer = faiss.ProductQuantizer(width, levels, power_of_two_bits(codebook_size, "product quantization"))
    quantizer.cp.niter, quantizer.cp.nredo, quantizer.cp.seed = iterations, restarts, seed + 1
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.max_points_per_centroid = max(len(points), codebook_size)
    quantizer.train(points.cpu().numpy())
    books = faiss.vector_to_array(quantizer.centroids).reshape(levels, codebook_size, width // levels)
    return [torch.from_numpy(book.copy()).to(points.device) for book in books]


def _faiss_rotation(points: Tensor, levels: int, codebook_size: int, seed: int) -> Tensor:
    faiss = import_faiss()
    width = points.shape[1]
    if width % levels:
        raise ValueError(f'{width} columns are not a multiple of levels={levels}, which engine="faiss" needs')
    quantizer = faiss.ProductQuantizer(width, levels, power_of_two_bits(codebook_size, "product quantization"))
    quantizer.cp.seed = seed + 1
    quantizer.cp.min_points_per_centroid = 1
    matrix = faiss.OPQMatrix(width, levels)
    matrix.pq = quantizer
    matrix.max_train_points = len(points)
    matrix.train(points.cpu().numpy())
    rotation = faiss.vector_to_array(matrix.A).reshape(width, width).T.copy()
    return torch.from_numpy(rotation).to(points.device)
