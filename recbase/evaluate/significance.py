"""How sure a difference between two recommenders is, given one value a user.

Knows arrays of per-user values. Knows nothing of ranks, metrics or runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Interval", "PairedTest", "bootstrap_interval", "holm", "paired_test"]

_BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes
    ----------
    mean, low, high : float
        Mean of the values and the ends of the interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Two recommenders on the same users.

    Attributes
    ----------
    difference : Interval
        Mean of second minus first, with its bootstrap interval.
    t_p : float
        Two-sided p-value of the paired t test.
    wilcoxon_p : float
        Two-sided p-value of the Wilcoxon signed-rank test; users without a difference are left out, as Wilcoxon did.
    users : int
        Number of users.
    """

    difference: Interval
    t_p: float
    wilcoxon_p: float
    users: int


def bootstrap_interval(values: np.ndarray, confidence: float = 0.95, samples: int = 2000, seed: int = 0) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron and Tibshirani, An Introduction to the Bootstrap).

    Drawing n users with replacement is drawing how often each DISTINCT value occurs from a multinomial distribution;
    per-user metrics have few distinct values, so the resampling costs next to nothing.

    Parameters
    ----------
    values : ndarray [U]
        One value a user.
    confidence : float, default 0.95
        Share of resampled means inside the interval.
    samples : int, default 2000
        Resamplings.
    seed : int, default 0
        Seed of the draws.

    Raises
    ------
    ValueError
        There are no values, one is not finite, or an option is out of range.
    """
    values = _checked(values, "values", least=1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} should lie between 0 and 1")
    if samples < 1:
        raise ValueError(f"samples={samples} should be >= 1")
    distinct, counts = np.unique(values, return_counts=True)  # [V], [V]
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(distinct))
    means = np.concatenate(
        [
            rng.multinomial(len(values), counts / len(values), min(block, samples - start)) @ distinct / len(values)
            for start in range(0, samples, block)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_test(
    first: np.ndarray, second: np.ndarray, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> PairedTest:
    """Test whether two recommenders differ on the same users.

    Parameters
    ----------
    first, second : ndarray [U]
        One value a user, in the same order of users.
    confidence, samples, seed
        As in `bootstrap_interval`, for the interval of the difference.

    Raises
    ------
    ValueError
        The two have different lengths, fewer than two users, or a value that is not finite.
    """
    first, second = _checked(first, "first", least=2), _checked(second, "second", least=2)
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} users but second has {len(second)}: expected the same users")
    change = second - first
    interval = bootstrap_interval(change, confidence, samples, seed)
    if not change.any():
        return PairedTest(interval, 1.0, 1.0, len(change))
    spread = float(change.std(ddof=1))
    t = interval.mean / (spread / np.sqrt(len(change))) if spread > 0 else np.inf
    t_p = 2 * float(stats.t.sf(abs(t), len(change) - 1))
    wilcoxon_p = float(stats.wilcoxon(change).pvalue)
    return PairedTest(interval, t_p, wilcoxon_p, len(change))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests so that the chance of ANY false alarm stays below the level.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979: the i-th
    smallest of m values is multiplied by m - i + 1, then values are made not to decrease and cut at 1.

    Parameters
    ----------
    p_values : sequence of float
        One a test.

    Returns
    -------
    list of float
        Adjusted values in the order given.

    Raises
    ------
    ValueError
        A value lies outside 0..1.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p_values={list(p_values)} should all lie between 0 and 1")
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(given) else scaled
    return [float(value) for value in adjusted]


def _checked(values: np.ndarray, name: str, least: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < least:
        raise ValueError(f"{name} has shape {list(values.shape)}, expected one value each of at least {least} users")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(values)).sum())} values that are not finite")
    return values
