"""K-means in blocked torch, one path for CPU and CUDA; the ground that the quantizers stand on.

Scores of a block of rows against all centroids stay in cache, sums of clusters are kept in float64, seeds are drawn by
k-means++ and an empty cluster is given a far point. All is computed around the middle of the rows, so that rows far
from zero lose no digits. Rows must be finite float32; knows nothing of codes or items.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbase.train.loop import fast_bfloat16
from semtok.codecs.additive import SETTLED
from semtok.kernels.origins import around, middle

__all__ = [
    "INITS",
    "PRECISIONS",
    "Clustering",
    "cluster",
    "cluster_progressive",
    "few_distinct",
    "import_faiss",
    "nearest",
    "principal_axes",
]

INITS = ("k-means++", "random")
PRECISIONS = ("auto", "float32", "bfloat16")
_CPU_SCORES = 1 << 21  # scores of one block: 8,192 rows x 256 centroids
_CUDA_SCORES = 1 << 27
_SEED_POINTS = 16  # rows a centroid that k-means++ draws its seeds from
_SEED_WIDTH = 128  # columns that k-means++ compares; more are projected at random to so many
_SEED_SCALES = (1.0, 0.7)  # of the distance of seeds from the mean
_STILL = 1e-4  # iterations end when the error falls by less than this share
_FAR_CENTERS = 256.0  # squared distance of centroids from zero, over their squared spread, that is far
_AXES_ROWS = 8  # rows a column that principal axes are computed from


@dataclass(frozen=True)
class Clustering:
    """Centroids of one k-means fit.

    Attributes
    ----------
    centers : Tensor [K, D]
        Centroids, float32. Rows from ``used`` on belong to no row of the data and hold the mean of the data.
    used : int
        Centroids that may be assigned: K, or the number of distinct rows where there are fewer.
    codes : Tensor [N]
        Nearest centroid of each row, int64.
    error : float
        Mean squared distance of a row to its centroid.
    """

    centers: Tensor
    used: int
    codes: Tensor
    error: float


def cluster(
    points: Tensor,
    count: int,
    *,
    iterations: int = 25,
    seed: int = 0,
    init: str = "k-means++",
    restarts: int = 1,
    precision: str = "auto",
    start: Tensor | None = None,
) -> Clustering:
    """K-means of ``points`` (Lloyd's iterations).

    Parameters
    ----------
    points : Tensor [N, D]
        Finite float32 rows on any device, N >= 1.
    count : int
        Centroids, K.
    iterations : int, default 25
        Lloyd iterations at most; stops earlier when one lowers the error by less than 0.01 %.
    seed : int, default 0
        Same seed, same centroids on the CPU.
    init : {"k-means++", "random"}, default "k-means++"
        How the first centroids are drawn. k-means++ draws from a sample of 16 rows a centroid.
    restarts : int, default 1
        Fits with different seeds; the one with the least error is kept.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the distances during the iterations; sums and the last two assignments are always exact. "auto" takes
        bfloat16 where the CPU multiplies it in hardware (AMX, AVX512-BF16), float32 elsewhere.
    start : Tensor [K, D], optional
        First centroids instead of drawn ones.

    Returns
    -------
    Clustering

    Notes
    -----
    With at most K distinct rows each distinct row becomes a centroid, in order of appearance, and the other centroids
    are marked as unused. Seeding: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    rows = _distinct_rows(points, count)
    if rows is not None and len(rows) <= count:
        return _one_a_row(points, rows, count)
    origin = middle(points)
    points = around(points, origin)
    low = _low_precision(points, precision)
    best: Clustering | None = None
    for restart in range(restarts if start is None else 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + restart)
        first = _seeds(points, count, init, generator, rows) if start is None else start - origin
        found = _lloyd(points, first, iterations, generator, low)
        if best is None or found.error < best.error:
            best = found
    assert best is not None
    return _seen_from_zero(best, origin)


def cluster_progressive(
    points: Tensor,
    count: int,
    *,
    iterations: int = 10,
    steps: int = 4,
    seed: int = 0,
    init: str = "k-means++",
    precision: str = "auto",
) -> Clustering:
    """K-means in growing subspaces of the principal axes, each fit started from the one before.

    Early fits are cheap and see the directions of most variance alone, which leads to lower error than starting in all
    dimensions at once.

    Parameters
    ----------
    points : Tensor [N, D]
        Finite float32 rows.
    count : int
        Centroids, K.
    iterations : int, default 10
        Lloyd iterations of each fit at most.
    steps : int, default 4
        Fits; the numbers of dimensions grow geometrically up to D.
    seed, init, precision
        As in :func:`cluster`.

    Notes
    -----
    The idea is that of progressive-dimension clustering in faiss (Liu, Shao and Lu, Generalized residual vector
    quantization for large scale data, 2016).
    """
    rows = _distinct_rows(points, count)
    if rows is not None and len(rows) <= count:
        return _one_a_row(points, rows, count)
    width = points.shape[1]
    origin = middle(points)
    points = around(points, origin)
    mean, axes, _ = principal_axes(points, seed)
    rotated = (points - mean) @ axes
    low = _low_precision(rotated, precision)
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    dims = sorted({min(width, math.ceil(width ** ((step + 1) / steps))) for step in range(steps)})
    found: Clustering | None = None
    for dim in dims:
        part = rotated[:, :dim].contiguous() if dim < width else rotated
        part_low = None if low is None else _Low(low.rows[:, :dim].contiguous(), low.shift[:dim], low.unit)
        first = _seeds(part, count, init, generator, rows) if found is None else _extend(part, found)
        found = _lloyd(part, first, iterations, generator, part_low, exact=dim == width)
    assert found is not None
    centers = found.centers @ axes.T + mean
    return _seen_from_zero(Clustering(centers, found.used, found.codes, found.error), origin)


def nearest(points: Tensor, centers: Tensor, settle: bool = False) -> Tensor:
    """Index of the nearest row of ``centers`` [K, D] for each row of ``points`` [N, D], in float32: int64 [N].

    Of two centroids at equal distance the first is taken. Which is nearer is rounded away where they are almost equally
    near; with ``settle`` these rows are decided in float64, so that any other arithmetic of float32 (other blocks, a
    GPU, NumPy) finds the same; not on Apple's GPUs, which have no float64.
    """
    codes = torch.empty(len(points), dtype=torch.int64, device=points.device)
    if not settle or points.device.type == "mps":
        origin = _far_origin(centers)
        centers = centers if origin is None else centers - origin
        half = centers.square().sum(1).div_(-2)
        for lo, hi, scores in _blocks(len(points), centers):
            torch.addmm(half, points[lo:hi] if origin is None else points[lo:hi] - origin, centers.T, out=scores)
            torch.argmax(scores, dim=1, out=codes[lo:hi])
        return codes
    half = centers.square().sum(1).div_(-2)
    reach = float((-2 * half).max().sqrt())
    # Only rows whose two best scores are closer than rounding can tell are decided again, in float64.
    doubt = 2 * (points.shape[1] + 8) * 2.0**-24 * reach  # what rounding does to two scores, over |x| + |c|
    exact = centers.double()
    exact_half = exact.square().sum(1) / 2
    for lo, hi, scores in _blocks(len(points), centers):
        part = points[lo:hi]
        torch.addmm(half, part, centers.T, out=scores)
        found = torch.argmax(scores, dim=1, out=codes[lo:hi])[:, None]
        least = scores.gather(1, found)[:, 0] - doubt * (torch.linalg.vector_norm(part, dim=1) + reach)
        scores.scatter_(1, found, -math.inf)
        close = (scores.amax(1) >= least).nonzero()[:, 0]
        if len(close):
            rows = part[close].double()
            sums = rows @ exact.T - exact_half
            slack = SETTLED * reach * (torch.linalg.vector_norm(rows, dim=1) + reach)
            codes[lo + close] = (sums >= (sums.amax(1) - slack)[:, None]).int().argmax(1)
    return codes


def _far_origin(centers: Tensor) -> Tensor | None:
    """Mean of the centroids where it lies so far away that scores would lose digits, else None (elsewhere than on the
    CPU zeros: to ask would halt the device)."""
    mean = centers.mean(0)
    far = mean.square().sum() > _FAR_CENTERS * (centers - mean).square().sum(1).mean()
    if centers.device.type == "cpu":
        return mean if bool(far) else None
    return torch.where(far, mean, 0.0)


def principal_axes(points: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], principal axes [D, D] (columns, most variance first) and their variances [D] of ``points``.

    Computed from at most 8 D rows (at least 4,096), drawn by ``seed``.
    """
    limit = max(4096, _AXES_ROWS * points.shape[1])
    mean = points.mean(0)
    if len(points) > limit:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:limit]
        points = points[chosen.to(points.device)]
    centred = points - mean
    covariance = (centred.T @ centred).double().div_(len(points))
    variances, axes = torch.linalg.eigh(covariance)
    axes = axes.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))  # the sign of an axis is arbitrary: fix it
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    return mean, axes.float(), variances.flip(0).clamp_(min=0).float()


class _Low(NamedTuple):
    """Rows around their mean and in units of their spread, in low precision.

    Far from the origin a score would have no digits left; in other units entries would be rounded elsewhere.
    """

    rows: Tensor
    shift: Tensor
    unit: float

    def of(self, centers: Tensor) -> Tensor:
        """Centroids as the rows are."""
        return ((centers - self.shift) / self.unit).bfloat16()


def import_faiss() -> Any:
    """The faiss module.

    Raises
    ------
    ImportError
        If it is not installed, naming the extras that install it, or if both of its distributions are installed.
    """
    installed = []
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed.append(name)
    if len(installed) == 2:
        raise ImportError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other: uninstall both, then install one"
        )
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'engine="faiss" needs faiss: install the extra "faiss" (pip install "semtok[faiss]") or "gpu" (faiss-gpu)'
        ) from error
    return faiss


def _blocks(rows: int, centers: Tensor, low: bool = False) -> Any:
    """Row ranges and a score buffer for each, so small that it stays in cache."""
    count = len(centers)
    room = _CUDA_SCORES if centers.is_cuda else _CPU_SCORES
    step = max(64, min(room // count, rows))
    dtype = torch.bfloat16 if low else torch.float32
    buffer = torch.empty(step, count, dtype=dtype, device=centers.device)
    for lo in range(0, rows, step):
        hi = min(lo + step, rows)
        yield lo, hi, buffer[: hi - lo]


def _lloyd(
    points: Tensor, centers: Tensor, iterations: int, generator: torch.Generator, low: _Low | None, exact: bool = True
) -> Clustering:
    count = len(centers)
    spread = _spread(points) if low is None else _spread(low.rows) * low.unit**2
    before = math.inf
    for step in range(iterations):
        # The last iteration is exact, so that bfloat16 has a say in the way but not in the outcome.
        if low is not None and exact and step == iterations - 1:
            low, spread = None, _spread(points)
        codes, gain, sums, sizes = _assign_and_sum(points, centers, low)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers.double()).float()
        empty = (sizes == 0).nonzero()[:, 0]
        repaired = len(empty) > 0 and _repair(points, centers, codes, empty, generator)
        error = spread - 2 * gain
        if before - error <= _STILL * max(error, 0.0) and not repaired:
            break
        before = error
    codes = nearest(points, centers)
    return Clustering(centers, count, codes, _error(points, centers, codes))


def _assign_and_sum(points: Tensor, centers: Tensor, low: _Low | None) -> tuple[Tensor, float, Tensor, Tensor]:
    """Nearest centroid of each row [N], the mean best score, and the sum [K, D] (float64) and size [K] of each cluster.

    The score of a row and a centroid is x.c - |c|^2 / 2: the squared distance is |x|^2 less twice the score.
    """
    count, width = centers.shape
    codes = torch.empty(len(points), dtype=torch.int64, device=points.device)
    sums = torch.zeros(count, width, dtype=torch.float64, device=points.device)
    part = torch.empty(count, width, device=points.device)
    table, source = (centers, points) if low is None else (low.of(centers), low.rows)
    half = table.float().square().sum(1).div_(-2).to(table.dtype)
    best = torch.empty(len(points), dtype=table.dtype, device=points.device)
    gain = torch.zeros((), dtype=torch.float64, device=points.device)
    for lo, hi, scores in _blocks(len(points), centers, low is not None):
        torch.addmm(half, source[lo:hi], table.T, out=scores)
        torch.max(scores, dim=1, out=(best[: hi - lo], codes[lo:hi]))
        gain += best[: hi - lo].sum(dtype=torch.float64)
        # float32 within a block, float64 between blocks: sums of many rows keep their digits.
        sums += part.zero_().index_add_(0, codes[lo:hi], points[lo:hi])
    scale = 1.0 if low is None else low.unit**2
    return codes, float(gain) * scale / len(points), sums, torch.bincount(codes, minlength=count)


def _spread(points: Tensor) -> float:
    """Mean squared norm of the rows."""
    return sum(float(part.float().square().sum(dtype=torch.float64)) for part in points.split(8192)) / len(points)


def _repair(points: Tensor, centers: Tensor, codes: Tensor, empty: Tensor, generator: torch.Generator) -> bool:
    """Move empty centroids onto rows drawn by squared distance to their own centroid; False if all distances are 0."""
    reach = _squared(points, centers, codes).double().cumsum(0)
    if float(reach[-1]) <= 0:
        return False
    draws = torch.rand(len(empty), generator=generator, dtype=torch.float64).to(points.device) * reach[-1]
    chosen = torch.searchsorted(reach, draws, right=True).clamp_(max=len(points) - 1).unique()
    centers[empty[: len(chosen)]] = points[chosen]
    return True


def _squared(points: Tensor, centers: Tensor, codes: Tensor) -> Tensor:
    """Squared distance of each row to the centroid that ``codes`` names: [N]."""
    squared = torch.empty(len(points), device=points.device)
    for lo, hi, _ in _blocks(len(points), centers):
        squared[lo:hi] = (points[lo:hi] - centers[codes[lo:hi]]).square_().sum(1)
    return squared


def _error(points: Tensor, centers: Tensor, codes: Tensor) -> float:
    return float(_squared(points, centers, codes).double().mean())


def _seeds(points: Tensor, count: int, init: str, generator: torch.Generator, rows: Tensor | None) -> Tensor:
    """First centroids [K, D]: rows drawn from all, or from the distinct ``rows`` where few are distinct."""
    pool = len(points) if rows is None else len(rows)
    order = torch.randperm(pool, generator=generator)
    order = order[: count if init == "random" else max(_SEED_POINTS * count, 1024)].to(points.device)
    sample = points[order if rows is None else rows[order]]
    return sample if init == "random" else _scaled(sample, sample[_plus_plus(sample, count, generator)])


def _scaled(sample: Tensor, seeds: Tensor) -> Tensor:
    """Seeds drawn towards the mean if that lowers the error.

    Where there are no clusters (residuals of many columns) the seed with the least norm would be nearest to nearly all
    rows, and the iterations never leave that state; seeds nearer to the mean share the rows out.
    """
    mean = sample.mean(0)
    tried = [mean + scale * (seeds - mean) if scale < 1 else seeds for scale in _SEED_SCALES]
    gains = [_assign_and_sum(sample, centers, None)[1] for centers in tried]
    return tried[gains.index(max(gains))]


def _plus_plus(sample: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows chosen by k-means++, the best of some candidates at each step: int64 [K]."""
    sample = sample - sample.mean(0)
    if sample.shape[1] > _SEED_WIDTH:
        projection = torch.randn(sample.shape[1], _SEED_WIDTH, generator=generator)
        sample = sample @ projection.to(sample.device)
    trials = 2 + int(math.log(count))
    norms = sample.square().sum(1)
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64).to(sample.device)
    chosen = torch.empty(count, dtype=torch.int64, device=sample.device)
    chosen[0] = int(draws[0, 0] * len(sample))
    taken = torch.zeros(len(sample), dtype=torch.bool, device=sample.device)
    taken[chosen[0]] = True
    closest = _distances(sample, norms, chosen[:1])[:, 0]
    for step in range(1, count):
        reach = closest.double().cumsum(0)
        # Asked now and then alone: on a GPU every question waits.
        if step % 64 == 0 and float(reach[-1]) <= 0:  # what is left equals a chosen row: take any others
            chosen[step:] = (~taken).nonzero()[: count - step, 0]
            break
        picks = torch.searchsorted(reach, draws[step] * reach[-1], right=True).clamp_(max=len(sample) - 1)
        left = torch.minimum(_distances(sample, norms, picks), closest[:, None])
        best = left.sum(0).argmin()
        chosen[step] = picks[best]
        taken[picks[best]] = True
        closest = left[:, best].contiguous()
        closest[picks[best]] = 0
    return chosen


def _distances(sample: Tensor, norms: Tensor, picks: Tensor) -> Tensor:
    """Squared distances of all rows to the picked ones [S, T]; 0 where they are nothing but rounding."""
    total = norms[:, None] + norms[picks]
    squared = total - 2 * (sample @ sample[picks].T)
    return torch.where(squared > 1e-6 * total, squared, torch.zeros_like(squared))


def _extend(points: Tensor, found: Clustering) -> Tensor:
    """Centroids of a subspace carried to more dimensions, as means of the rows they were assigned."""
    count = len(found.centers)
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64, device=points.device)
    for lo, hi, _ in _blocks(len(points), found.centers):
        part = torch.zeros(count, points.shape[1], device=points.device)
        sums += part.index_add_(0, found.codes[lo:hi], points[lo:hi])
    sizes = torch.bincount(found.codes, minlength=count)[:, None]
    padded = torch.zeros_like(sums)
    padded[:, : found.centers.shape[1]] = found.centers.double()
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), padded).float()


def few_distinct(points: Tensor, count: int) -> bool:
    """Say if fewer than ``count`` rows of ``points`` [N, D] are distinct."""
    rows = _distinct_rows(points, count)
    return rows is not None and len(rows) < count


def _distinct_rows(points: Tensor, count: int) -> Tensor | None:
    """First row of each distinct value, in order; None if a sample shows that more than ``count`` are distinct."""
    few = min(len(points), 4 * count)
    if len(_row_keys(points[:few]).unique()) > count:
        return None
    _, first = np.unique(_row_keys(points).cpu().numpy(), return_index=True)
    return torch.from_numpy(np.sort(first)).to(points.device)


def _row_keys(points: Tensor) -> Tensor:
    """A 64-bit key of each row that is equal for equal rows: int64 [N]."""
    weights = torch.randint(-(2**62), 2**62, (points.shape[1],), generator=torch.Generator().manual_seed(0))
    weights = (weights * 2 + 1).to(points.device)
    keys = torch.empty(len(points), dtype=torch.int64, device=points.device)
    for lo in range(0, len(points), 8192):
        bits = (points[lo : lo + 8192] + 0.0).contiguous().view(torch.int32)  # + 0.0 turns -0 into 0
        keys[lo : lo + 8192] = (bits.long() * weights).sum(1)
    return keys


def _seen_from_zero(found: Clustering, origin: Tensor) -> Clustering:
    """A fit of rows less ``origin`` as one of the rows themselves."""
    return Clustering(found.centers + origin, found.used, found.codes, found.error)


def _one_a_row(points: Tensor, rows: Tensor, count: int) -> Clustering:
    origin = middle(points)
    centers = (around(points, origin).mean(0, keepdim=True) + origin).repeat(count, 1)
    centers[: len(rows)] = points[rows]
    codes = nearest(around(points, origin), around(centers[: len(rows)], origin))
    return Clustering(centers, len(rows), codes, _error(points, centers, codes))


def _low_precision(points: Tensor, precision: str) -> _Low | None:
    """The rows in bfloat16, where distances shall be computed so."""
    if precision == "auto":
        precision = "bfloat16" if not points.is_cuda and fast_bfloat16(points.device) else "float32"
    if precision == "float32":
        return None
    shift = points.mean(0)
    centred = points - shift
    unit = math.sqrt(_spread(centred) / points.shape[1]) or 1.0
    return _Low(centred.div_(unit).bfloat16(), shift, unit)
