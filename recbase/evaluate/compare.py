"""Finished runs side by side: metrics, confidence intervals and paired tests against the first run.

Knows run folders (`metrics.json`, `ranks.parquet`) and how to print and draw them. Rankers and generators are treated
alike, since both leave one rank a user.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recbase.console import cell, console_of
from recbase.data.repeats import repeats_sentence
from recbase.evaluate.look import FIRST, GREY, panels, write_png
from recbase.evaluate.metrics import METRICS, mean_metrics, parse_metric, user_values
from recbase.evaluate.ranking import KS
from recbase.evaluate.records import read_ranks
from recbase.evaluate.significance import Interval, PairedTest, bootstrap_interval, holm, paired_test
from recbase.store.folder import consistent
from recbase.store.runs import open_run, read_metrics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "ComparedRun",
    "Comparison",
    "compare_runs",
    "comparison_table",
    "draw_comparison",
    "metrics_table",
    "print_comparison",
    "print_metrics",
]


_OTHER = ("recall@10", "ndcg@10")
"""Metrics that stand beside the others under the other policy for seen items."""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes
    ----------
    label : str
        The model's name; the folder too where several runs have one name.
    folder : str
        The run folder.
    metrics : dict
        Every metric at 5, 10 and 20 (and at the k compared), over the users that all runs share.
    interval : Interval
        The compared metric and its bootstrap interval.
    test : PairedTest or None
        This run against the first; None for the first.
    t_p, wilcoxon_p : float or None
        p-values after Holm's correction over the runs compared.
    seeds : int
        Runs that differ in their seed alone and stand here as one: metrics are their means, and a user's value in
        interval and test is the mean over them.
    sd : dict or None
        Standard deviation of every metric over the seeds; None for one seed.
    other : dict
        The same metrics under the other policy for seen items; empty where a run has no ranks under it.
    last_item_first : float or None
        Share of the users whose latest item stands first, where the run recorded it.
    """

    label: str
    folder: str
    metrics: dict[str, float]
    interval: Interval
    test: PairedTest | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    seeds: int = 1
    sd: dict[str, float] | None = None
    other: dict[str, float] = field(default_factory=dict)
    last_item_first: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Runs on the same users of the same data set.

    Attributes
    ----------
    metric : str
        The metric that is tested.
    dataset : str
        Name of the data set.
    seen_items : str
        `"kept"` or `"masked"`.
    users : int
        Users that all runs share.
    left_out : int
        Users that only some of the runs have.
    confidence : float
        Level of the intervals.
    runs : tuple of ComparedRun
        In the order given; the first is the reference.
    repeats : float or None
        Share of the events that repeat an item of their user, where the runs recorded it.
    """

    metric: str
    dataset: str
    seen_items: str
    users: int
    left_out: int
    confidence: float
    runs: tuple[ComparedRun, ...]
    repeats: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        print_comparison(self, Console(file=text, width=160))
        return text.getvalue().rstrip()


@dataclass(frozen=True)
class _Run:
    """Contents of a run folder, as far as they are compared."""

    folder: str
    metrics: dict[str, Any]
    ranks: pl.DataFrame
    settings: str = ""  # all that decides the run but its seed

    @property
    def dataset(self) -> dict[str, Any]:
        return dict(self.metrics["dataset"])

    @property
    def protocol(self) -> dict[str, Any]:
        return dict(self.metrics["protocol"])


def compare_runs(
    folders: Sequence[str | os.PathLike[str]],
    metric: str = "ndcg@10",
    mask_seen: bool | None = None,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    seeds_apart: bool = False,
) -> Comparison:
    """Compare run folders on their saved ranks, user by user; the first is what the others are tested against.

    Runs that differ in their seed alone are one entry, with mean and standard deviation: seeds are no rivals.

    Parameters
    ----------
    folders : sequence of path
        Run folders of one data set and protocol.
    metric : str, default "ndcg@10"
        The metric that the intervals and tests are about.
    mask_seen : bool, optional
        Policy for seen items; without it, the one that the runs were reported with.
    confidence : float, default 0.95
        Level of the bootstrap intervals.
    samples : int, default 2000
        Bootstrap resamplings.
    seed : int, default 0
        Seed of the resampling.
    seeds_apart : bool, default False
        Compare every run on its own.

    Returns
    -------
    Comparison

    Raises
    ------
    FileNotFoundError
        A folder is no run.
    ValueError
        Two runs are of different data sets or protocols (both are named), have no user in common, a run's lists are
        shorter than k, or the metric is unknown.
    """
    _, k = parse_metric(metric)
    if not folders:
        raise ValueError("there are no runs to compare, expected at least one run folder")
    runs = [_read(Path(folder)) for folder in folders]
    for run in runs[1:]:
        _check_same(runs[0], run, mask_seen)
    masked = runs[0].protocol["seen_items"] == "masked" if mask_seen is None else mask_seen
    column = "rank_masked" if masked else "rank"
    for run in runs:
        _check_lists(run, column, k)
    ranks, left_out = _join(runs, column)
    second = "rank" if masked else "rank_masked"
    other = _join(runs, second)[0] if all(second in run.ranks.columns for run in runs) else []
    groups = _groups(runs, seeds_apart)
    values = [np.mean([user_values(metric, ranks[one]) for one in group], axis=0) for group in groups]
    tests = [paired_test(values[0], value, confidence, samples, seed) for value in values[1:]]
    t_p, wilcoxon_p = holm([test.t_p for test in tests]), holm([test.wilcoxon_p for test in tests])
    compared = []
    for i, (label, group, value) in enumerate(zip(_labels(runs, groups), groups, values, strict=True)):
        table = _over_seeds([_reported(ranks[one], runs[one], k) for one in group])
        others = _over_seeds([_reported(other[one], runs[one], k) for one in group]) if other else {}
        firsts: list[Any] = [runs[one].metrics.get("last_item_first") for one in group]
        compared.append(
            ComparedRun(
                label,
                runs[group[0]].folder,
                {name: float(column.mean()) for name, column in table.items()},
                bootstrap_interval(value, confidence, samples, seed),
                tests[i - 1] if i else None,
                t_p[i - 1] if i else None,
                wilcoxon_p[i - 1] if i else None,
                len(group),
                {name: float(column.std(ddof=1)) for name, column in table.items()} if len(group) > 1 else None,
                {name: float(column.mean()) for name, column in others.items()},
                None if None in firsts else float(np.mean(firsts)),
            )
        )
    policy = "masked" if masked else "kept"
    dataset = str(runs[0].dataset["name"])
    repeats = runs[0].dataset.get("repeats")
    return Comparison(metric, dataset, policy, len(ranks[0]), left_out, confidence, tuple(compared), repeats)


def _over_seeds(reported: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Metrics that all seeds of a run have, a value each."""
    names = [name for name in reported[0] if all(name in one for one in reported)]
    return {name: np.array([one[name] for one in reported]) for name in names}


def _groups(runs: Sequence[_Run], apart: bool) -> list[list[int]]:
    """Places of the runs, those together that differ in their seed alone, in order of the first of each."""
    found: dict[Any, list[int]] = {}
    for place, run in enumerate(runs):
        found.setdefault(place if apart or not run.settings else run.settings, []).append(place)
    return list(found.values())


@consistent
def _read(folder: Path) -> _Run:
    opened = open_run(folder)
    metrics, manifest = read_metrics(opened), opened.manifest
    training = dict(manifest.get("training") or {})
    if training.pop("seed", None) is None:  # nothing was drawn: two such runs are two
        return _Run(str(folder), metrics, read_ranks(opened.file("ranks.parquet")))
    names = ("model", "arguments", "recipe", "form", "content", "preparation", "search", "embeddings")
    settings = [training, *(manifest.get(name) for name in names)]
    text = json.dumps(settings, sort_keys=True, default=str)
    return _Run(str(folder), metrics, read_ranks(opened.file("ranks.parquet")), text)


def _check_same(first: _Run, other: _Run, mask_seen: bool | None) -> None:
    """Refuse runs whose numbers mean different things."""
    if first.dataset["hash"] != other.dataset["hash"]:
        ours, theirs = (f"{run.dataset['name']} (hash {str(run.dataset['hash'])[:12]})" for run in (first, other))
        raise ValueError(
            f"{first.folder} was evaluated on {ours} but {other.folder} on {theirs}: expected one data set"
        )
    ignored = {"n_best", "search"} if mask_seen is None else {"n_best", "search", "seen_items"}
    for name in sorted((first.protocol.keys() | other.protocol.keys()) - ignored):
        if first.protocol.get(name) != other.protocol.get(name):
            raise ValueError(
                f"{first.folder} was evaluated with {name} {first.protocol.get(name)!r} but {other.folder} with "
                f"{other.protocol.get(name)!r}: expected one protocol"
            )


def _check_lists(run: _Run, column: str, k: int) -> None:
    if column not in run.ranks.columns:
        raise ValueError(f"{run.folder} holds no ranks with seen items masked, only with seen items kept")
    n_best = run.protocol.get("n_best")
    if n_best is not None and n_best < k:
        raise ValueError(f"{run.folder} returned lists of {n_best} items, too short for a metric at {k}")


def _join(runs: Sequence[_Run], column: str) -> tuple[list[np.ndarray], int]:
    """Return every run's ranks of the users that all share, in one order, and how many users were left out."""
    joined = runs[0].ranks.select("user_id", pl.col(column).alias("0"))
    everyone = joined.select("user_id")
    for number, run in enumerate(runs[1:], 1):
        if run.ranks["user_id"].dtype != joined["user_id"].dtype:
            raise ValueError(
                f"{runs[0].folder} names users by {joined['user_id'].dtype} but {run.folder} by "
                f"{run.ranks['user_id'].dtype}: expected the same users"
            )
        joined = joined.join(run.ranks.select("user_id", pl.col(column).alias(str(number))), on="user_id")
        everyone = pl.concat([everyone, run.ranks.select("user_id")]).unique()
    if joined.is_empty():
        raise ValueError(f"the runs {', '.join(run.folder for run in runs)} have no test user in common")
    joined = joined.sort("user_id")
    return [joined[str(number)].to_numpy() for number in range(len(runs))], len(everyone) - len(joined)


def _reported(rank: np.ndarray, run: _Run, k: int) -> dict[str, float]:
    """Return the metrics at the usual list lengths and at k, as far as the run's lists go."""
    n_best = run.protocol.get("n_best") or np.inf
    return mean_metrics(rank, [length for length in sorted({*KS, k}) if length <= n_best])


def _labels(runs: Sequence[_Run], groups: Sequence[Sequence[int]]) -> list[str]:
    firsts = [runs[group[0]] for group in groups]
    names = [str(run.metrics["model"]) for run in firsts]
    if len(set(names)) < len(names):
        names = [f"{name} ({Path(run.folder).name})" for name, run in zip(names, firsts, strict=True)]
    return [
        name if len(group) == 1 else f"{name}, {len(group)} seeds" for name, group in zip(names, groups, strict=True)
    ]


def comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out as a `rich` table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    level = f"{comparison.confidence:.0%}"
    table = Table(
        title=cell(f"{comparison.dataset}: {comparison.users:,} users, seen items {comparison.seen_items}"),
        caption=cell(_caption(comparison)),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown = [f"{name}@{k}" for k in (5, 10, 20) for name in ("recall", "ndcg")]
    table.add_column("run")
    for name in shown:
        table.add_column(name.replace("@", "\n@"), justify="right")
    policy = "masked" if comparison.seen_items == "kept" else "kept"
    for name in _OTHER:
        table.add_column(f"{policy}\n{name}", justify="right")
    for heading in (
        f"{comparison.metric}\n{level} interval",
        f"difference\n{level} interval",
        "t test\np",
        "Wilcoxon\np",
    ):
        table.add_column(heading, justify="right")
    for run in comparison.runs:
        cells = [f"{run.metrics[name]:.4f}" if name in run.metrics else "-" for name in shown]
        cells += [f"{run.other[name]:.4f}" if name in run.other else "-" for name in _OTHER]
        cells.append(f"{run.interval.low:.4f}..{run.interval.high:.4f}")
        if run.test is None:
            cells += ["reference", "", ""]
        else:
            change = run.test.difference
            cells.append(f"{change.mean:+.4f} ({change.low:+.4f}..{change.high:+.4f})")
            cells += [_p_value(run.t_p), _p_value(run.wilcoxon_p)]
        table.add_row(cell(run.label), *cells)
        if run.sd is not None:
            table.add_row(cell("  ± sd"), *[f"{run.sd[name]:.4f}" if name in run.sd else "-" for name in shown])
    return table


def _caption(comparison: Comparison) -> str:
    tests = len(comparison.runs) - 1
    parts = [f"difference of {comparison.metric} to the first run"] if tests else []
    if tests > 1:
        parts.append(f"p-values after Holm's correction for {tests} runs")
    if said := repeats_sentence(comparison.repeats):
        parts.append(said)
    if comparison.left_out:
        parts.append(f"{comparison.left_out:,} users that not every run has were left out")
    return "; ".join(parts)


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def metrics_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay `metrics.json` contents out as a `rich` table, one row a run and seen-item policy.

    Parameters
    ----------
    rows : mapping
        Label to the content of `metrics.json`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    named = {f"{record['dataset']['name']}: {record['test']['users']:,} test users" for record in rows.values()}
    said = {repeats_sentence(record["dataset"].get("repeats")) for record in rows.values()} - {""}
    table = Table(
        title=cell("; ".join(sorted(named))),
        caption=cell("; ".join(sorted(said))) if said else None,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run")
    table.add_column("seen\nitems")
    shown = [f"{name}@{k}" for k in KS for name in METRICS]
    for name in shown:
        table.add_column(name.replace("@", "\n@"), justify="right")
    table.add_column("last item\nfirst", justify="right")
    for label, record in rows.items():
        policy = str(record["protocol"]["seen_items"])
        other = "masked" if policy == "kept" else "kept"
        blocks = [(label, policy, record["test"])]
        if f"test_{other}" in record:
            blocks.append(("", other, record[f"test_{other}"]))
        for first, seen, values in blocks:
            figures = [f"{values[name]:.4f}" if name in values else "-" for name in shown]
            # with seen items masked it cannot stand there
            share = record.get("last_item_first") if seen == "kept" else None
            table.add_row(cell(first), cell(seen), *figures, "" if share is None else f"{share:.1%}")
    return table


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print a comparison as a table.

    Parameters
    ----------
    comparison : Comparison
        From `compare_runs`.
    console : rich Console, optional
        Where to print; the terminal without it.
    """
    _print(comparison_table(comparison), console)


def print_metrics(rows: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Print `metrics.json` contents as a table, one row a run and seen-item policy.

    Parameters
    ----------
    rows : mapping
        Label to the content of `metrics.json`.
    console : rich Console, optional
        Where to print; the terminal without it.
    """
    _print(metrics_table(rows), console)


def _print(table: Table, console: Console | None) -> None:
    """Print without cutting numbers short: a table wider than the console runs over its edge."""
    from rich.measure import Measurement

    out = console or console_of()
    width = out.width
    out.width = max(width, Measurement.get(out, out.options.update(width=10_000), table).maximum)
    try:
        out.print(table, crop=False)
    finally:
        out.width = width


def draw_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a PNG: the compared metric of every run with its interval, and the differences to the first run.

    Parameters
    ----------
    comparison : Comparison
        From `compare_runs`.
    path : path
        File to write; missing folders are made.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    """
    runs = comparison.runs
    figure, (left, right) = panels(*[0.7 + 0.4 * len(runs)] * 2, grid="x")
    places = np.arange(len(runs))
    _draw_intervals(left, [run.interval for run in runs], places)
    left.set_yticks(places, [run.label.replace("$", r"\$") for run in runs])
    right.set_yticks(places, [run.label.replace("$", r"\$") for run in runs])
    for axes in (left, right):
        axes.set_ylim(len(runs) - 0.4, -0.6)
    left.set_xlabel(f"{comparison.metric} ({comparison.confidence:.0%} interval)")
    tested = [(place, run) for place, run in enumerate(runs) if run.test is not None]
    _draw_intervals(
        right, [run.test.difference for _, run in tested if run.test], np.asarray([place for place, _ in tested])
    )
    right.axvline(0.0, color=GREY, linewidth=1)
    for place, run in tested:
        if run.test:
            note = f"p {_p_value(run.t_p)}"
            right.annotate(
                note, (run.test.difference.mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=8
            )
    right.set_xlabel("difference to " + runs[0].label.replace("$", r"\$"))
    figure.suptitle(
        comparison.dataset.replace("$", r"\$") + f": {comparison.users:,} users, seen items {comparison.seen_items}"
    )
    write_png(figure, path)


def _draw_intervals(axes: Any, intervals: Sequence[Interval], places: np.ndarray) -> None:
    if not intervals:
        return
    means = np.asarray([interval.mean for interval in intervals])
    reach = np.asarray([[interval.mean - interval.low, interval.high - interval.mean] for interval in intervals]).T
    axes.errorbar(means, places, xerr=np.maximum(reach, 0), fmt="o", color=FIRST, capsize=3)
