"""Trained recommenders side by side, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence

from recbase.evaluate.compare import Comparison, compare_runs
from recbase.serving.fitted import FittedRecommender

__all__ = ["compare"]


def compare(
    runs: Sequence[FittedRecommender | str | os.PathLike[str]],
    metric: str = "ndcg@10",
    seed: int = 0,
    seeds_apart: bool = False,
) -> Comparison:
    """Compare recommenders on the same test users: metrics, bootstrap intervals, paired t and Wilcoxon tests.

    Parameters
    ----------
    runs : sequence of FittedRecommender or path
        Recommenders of both families, or run folders; the first is the reference.
    metric : str, default "ndcg@10"
        Metric that the tests compare.
    seed : int, default 0
        Seed of the bootstrap.
    seeds_apart : bool, default False
        Compare every run on its own. Otherwise runs that differ in their seed alone are one entry, with mean and
        standard deviation.

    Returns
    -------
    Comparison
        ``print`` shows it as a table.

    Raises
    ------
    ValueError
        If the runs were evaluated on different data sets or under different protocols, or the metric is unknown.
    """
    folders = [run.folder if isinstance(run, FittedRecommender) else run for run in runs]
    return compare_runs(folders, metric=metric, seed=seed, seeds_apart=seeds_apart)
