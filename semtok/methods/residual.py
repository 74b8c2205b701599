"""Residual quantization: each level quantizes what the levels before it left over.

Fits codebooks level by level and searches codes greedily or with a beam; views, streaming and folders are those of the
tokenizer file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbase.arguments import Beams, CodebookSize, Count, Device, Large, Levels, Restarts, Seed
from semtok.codecs.additive import SETTLED
from semtok.kernels.lloyd import cluster, cluster_progressive, import_faiss
from semtok.vector_tokenizer import Block, VectorTokenizer, power_of_two_bits

__all__ = ["ResidualQuantizer"]

RECIPES = {
    "default": {},
    "paper": {"levels": 4, "codebook_size": 256, "beam": 1},  # CCFRec's variant with residual codes
}
STARTS = ("plain", "progressive")
_BEAM_SCORES = 1 << 21


class ResidualQuantizer(VectorTokenizer):
    """Residual quantization (RQ) of item vectors by k-means.

    The first code of a view is the nearest centroid of the vector, the next one the nearest centroid of what is left
    when the first is subtracted, and so on; a vector is decoded as the sum of its centroids.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    codebook_size : int, default 256
        Codes of each level, K.
    start : {"plain", "progressive"}, default "plain"
        "plain" fits each level by one k-means from k-means++ seeds, "progressive" in growing subspaces of the principal
        axes, as faiss does by default: quicker, evener use of the codes, somewhat more error.
    iterations : int or None, default None
        k-means iterations of each fit at most; None is 10 a subspace, 25 where plain.
    beam : int, default 1
        Partial codes kept for each vector while encoding; 1 is greedy. Fitting is always greedy.
    init : {"k-means++", "random"}, default "k-means++"
        How the first centroids are drawn.
    restarts : int, default 1
        Plain k-means fits with different seeds for each level; the one with the least error is kept.
    max_points_per_centroid : int or None, default 256
        Fit on at most this many rows a centroid, drawn by ``seed``; None fits on all.
    engine : {"torch", "faiss"}, default "torch"
        "faiss" fits with faiss.ResidualQuantizer (extras ``faiss`` or ``gpu``).
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Precision of the distances while fitting; "auto" takes bfloat16 where the CPU multiplies it in hardware.
    seed : int, default 0
        Same seed, same codes on the CPU.
    device : str or None, default None
        Where to compute, such as "cuda"; by default where the vectors are.

    Attributes
    ----------
    codebooks_ : list of float32 array [K, D_view]
        One a code column.
    sizes_ : list of int
        Codes of each column.
    used_ : list of int
        Codes of each column that can be assigned: fewer than the size where fewer residuals are distinct.
    unused_ : list of int
        Codes of each column that no vector of the fit has.
    blocks_ : dict of str to slice
        Code columns of each view.

    Notes
    -----
    Chen, Guan and Wang, Approximate nearest neighbor search by residual vector quantization, Sensors 2010; the
    progressive start follows Liu, Shao and Lu, Generalized residual vector quantization for large scale data, ICME
    2016.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> ResidualQuantizer(levels=3, codebook_size=16).fit(vectors).encode(vectors).shape
    (500, 3)
    """

    method = "rq"

    def __init__(
        self,
        *,
        levels: Levels = 4,
        codebook_size: CodebookSize = 256,
        start: str = "plain",
        iterations: Count | None = None,
        beam: Beams = 1,
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
        self.start = start
        self.iterations = iterations
        self.beam = beam
        self.init = init
        self.restarts = restarts
        self.max_points_per_centroid = max_points_per_centroid
        self.engine = engine
        self.precision = precision
        self.seed = seed
        self.device = device

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.start not in STARTS:
            raise ValueError(f"start={self.start!r} is not one of {', '.join(STARTS)}")

    def _fit_block(self, points: Tensor, seed: int) -> Block:
        columns = [(0, points.shape[1])] * self.levels
        if self.engine_ == "faiss":
            return Block(self._faiss_codebooks(points, seed), [self.codebook_size] * self.levels, columns)
        books, used = [], []
        left = points.clone()
        for level in range(self.levels):
            number = seed * 1009 + level
            if self.start == "progressive":
                found = cluster_progressive(
                    left,
                    self.codebook_size,
                    iterations=self.iterations or 10,
                    seed=number,
                    init=self.init,
                    precision=self.precision,
                )
            else:
                found = cluster(
                    left,
                    self.codebook_size,
                    iterations=self.iterations or 25,
                    seed=number,
                    init=self.init,
                    restarts=self.restarts,
                    precision=self.precision,
                )
            books.append(found.centers)
            used.append(found.used)
            left -= found.centers[found.codes]
        return Block(books, used, columns)

    def _faiss_codebooks(self, points: Tensor, seed: int) -> list[Tensor]:
        faiss = import_faiss()
        width = points.shape[1]
        bits = power_of_two_bits(self.codebook_size, "residual quantization")
        quantizer = faiss.ResidualQuantizer(width, self.levels, bits)
        plain = self.start == "plain"
        quantizer.train_type = quantizer.Train_default if plain else quantizer.Train_progressive_dim
        quantizer.max_beam_size = 1
        quantizer.cp.niter = self.iterations or (25 if plain else 10)
        quantizer.cp.seed = seed + 1
        quantizer.cp.min_points_per_centroid = 1
        quantizer.cp.max_points_per_centroid = max(len(points), self.codebook_size)
        quantizer.train(points.cpu().numpy())
        books = faiss.vector_to_array(quantizer.codebooks).reshape(self.levels, self.codebook_size, width)
        return [torch.from_numpy(book.copy()).to(points.device) for book in books]

    def _encode_block(self, points: Tensor, block: Block) -> Tensor:
        if self.beam == 1:
            return super()._encode_block(points, block)
        step = max(16, _BEAM_SCORES // (self.beam * max(self.codebook_size, points.shape[1])))
        books = [book[:used] for book, used in zip(block.codebooks, block.used, strict=True)]
        return torch.cat([_beam_codes(part, books, self.beam) for part in points.split(step)])


def _beam_codes(points: Tensor, books: list[Tensor], beam: int) -> Tensor:
    """Codes of least error found by keeping ``beam`` partial codes: int64 [n, L].

    |x - sum c|^2 grows by |c|^2 - 2 x.c + 2 sum_before c'.c with each level, so products of codebooks do for residuals.
    """
    rows = len(points)
    paths = torch.zeros(rows, 1, 0, dtype=torch.int64, device=points.device)
    costs = torch.zeros(rows, 1, device=points.device)
    for level, book in enumerate(books):
        step = book.square().sum(1) - 2 * (points @ book.T)  # [n, K]
        total = costs[:, :, None] + step[:, None, :]  # [n, b, K]
        for before in range(level):
            total += (2 * (books[before] @ book.T))[paths[:, :, before]]
        costs, flat = total.flatten(1).topk(min(beam, total.shape[1] * len(book)), largest=False)  # [n, b]
        parent = torch.div(flat, len(book), rounding_mode="floor")
        paths = torch.cat(
            [paths.gather(1, parent[:, :, None].expand(-1, -1, level)), (flat % len(book))[:, :, None]], 2
        )
    return _settled(points, books, paths)


def _settled(points: Tensor, books: list[Tensor], paths: Tensor) -> Tensor:
    """The best of some paths [n, b, L] by its error in float64, of equally good ones the smallest: int64 [n, L]."""
    exact = points.double()
    left = exact[:, None, :].expand(-1, paths.shape[1], -1)  # [n, b, d]
    for level, book in enumerate(books):
        left = left - book.double()[paths[:, :, level]]
    errors = left.square().sum(2)
    slack = SETTLED * (exact.square().sum(1) + errors.amax(1))
    good = errors <= (errors.amin(1) + slack)[:, None]
    for level in range(len(books)):
        codes = paths[:, :, level].masked_fill(~good, torch.iinfo(torch.int64).max)
        good &= codes == codes.amin(1, keepdim=True)
    return paths[torch.arange(len(paths), device=paths.device), good.int().argmax(1)]
