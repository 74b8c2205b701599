"""One k-means codebook a view, as a tokenizer of a single level; the clustering itself is in ``clustering``."""

from __future__ import annotations

import torch
from torch import Tensor

from recbase.arguments import CodebookSize, Count, Device, Large, Restarts, Seed
from semtok.kernels.lloyd import cluster, import_faiss
from semtok.vector_tokenizer import Block, VectorTokenizer

__all__ = ["KMeans"]


class KMeans(VectorTokenizer):
    """K-means as a tokenizer of one code an item (or one a view).

    Parameters
    ----------
    codebook_size : int, default 256
        Centroids, K.
    iterations : int, default 25
        Lloyd iterations at most.
    init : {"k-means++", "random"}, default "k-means++"
        How the first centroids are drawn.
    restarts : int, default 1
        Fits with different seeds; the one with the least error is kept.
    max_points_per_centroid : int or None, default 256
        Fit on at most this many rows a centroid, drawn by ``seed``; None fits on all.
    engine : {"torch", "faiss"}, default "torch"
        "faiss" runs faiss.Kmeans (extras ``faiss`` or ``gpu``).
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Precision of the distances while fitting; "auto" takes bfloat16 where the CPU multiplies it in hardware.
    seed : int, default 0
        Same seed, same codes on the CPU.
    device : str or None, default None
        Where to compute, such as "cuda"; by default where the vectors are.

    Attributes
    ----------
    codebooks_ : list of float32 array [K, D_view]
        Centroids of each view.
    sizes_ : list of int
        Codes of each column.
    unused_ : list of int
        Codes of each column that no vector of the fit has.

    Notes
    -----
    Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 1982; seeds by Arthur and
    Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> KMeans(codebook_size=16).fit(vectors).encode(vectors).shape
    (500, 1)
    """

    method = "kmeans"
    per_view = False

    def __init__(
        self,
        *,
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
        if self.engine_ == "faiss":
            faiss = import_faiss()
            fit = faiss.Kmeans(
                points.shape[1],
                self.codebook_size,
                niter=self.iterations,
                nredo=self.restarts,
                seed=seed + 1,
                max_points_per_centroid=max(len(points), self.codebook_size),
                min_points_per_centroid=1,
            )
            fit.train(points.cpu().numpy())
            centers, used = torch.from_numpy(fit.centroids.copy()), self.codebook_size
        else:
            found = cluster(
                points,
                self.codebook_size,
                iterations=self.iterations,
                seed=seed,
                init=self.init,
                restarts=self.restarts,
                precision=self.precision,
            )
            centers, used = found.centers, found.used
        return Block([centers], [used], [(0, points.shape[1])])
