"""A quality report as numbers with names, conditions on them, tables for the terminal, and PNG figures.

Takes the dict that `semtok.quality.code_report` returns, with what `semtok fit` adds to it; computes nothing but a
two-dimensional projection. rich and matplotlib are imported where they are used.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import operator
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbase.console import cell, console_of, plain
from recbase.evaluate.look import FIRST, GREY, GRID, SECOND, SERIES
from recbase.store.folder import write_file
from semtok.codes import ItemCodes

__all__ = [
    "MEASURES",
    "Condition",
    "Measure",
    "figures",
    "numbers",
    "print_comparison",
    "print_report",
    "project",
]

_MOST_POINTS = 1500


@dataclass(frozen=True)
class Measure:
    """One number of a report.

    Attributes
    ----------
    label : str
        What tables call it.
    meaning : str
        One sentence.
    form : str
        How it is written, as for `format`.
    better : {"low", "high", ""}
        Which end is the good one, if one is.
    """

    label: str
    meaning: str
    form: str = ",d"
    better: str = ""

    def show(self, value: float | None) -> str:
        """The value as text; a dash where it is not known."""
        return "–" if value is None else format(value, self.form)


MEASURES: dict[str, Measure] = {
    "items": Measure("items", "Items that have codes."),
    "levels": Measure("levels", "Codes of one item."),
    "bits": Measure("bits", "Binary logarithm of the number of different tuples there could be.", ".0f"),
    "distinct": Measure("distinct tuples", "Different tuples in use.", better="high"),
    "collision_items": Measure("colliding items", "Items that share their tuple with another one.", better="low"),
    "collision_rate": Measure("collision rate", "Share of the items that share their tuple.", ".2%", "low"),
    "surplus_rate": Measure("1 - distinct / items", "The collision rate of LC-Rec, LETTER and others.", ".2%", "low"),
    "largest_group": Measure("largest group", "Items of the tuple that most items share.", better="low"),
    "collision_rate_before": Measure(
        "collision rate before", "The same before the codes were made unique.", ".2%", "low"
    ),
    "surplus_rate_before": Measure(
        "1 - distinct / items before", "The same before the codes were made unique.", ".2%", "low"
    ),
    "largest_group_before": Measure(
        "largest group before", "The same before the codes were made unique.", better="low"
    ),
    "moved": Measure("moved items", "Items whose codes were changed to make them unique."),
    "moved_share": Measure("moved share", "Share of the items whose codes were changed to make them unique.", ".2%"),
    "distortion_added": Measure(
        "distortion added", "Distortion that making the codes unique added, relative to that before.", ".2%", "low"
    ),
    "utilisation": Measure("utilisation", "Used codes of a level, mean over the levels.", ".1%", "high"),
    "utilisation_min": Measure("lowest utilisation", "Used codes of the level that uses fewest.", ".1%", "high"),
    "perplexity": Measure("perplexity", "Effective number of codes of a level, mean over the levels.", ".1f", "high"),
    "perplexity_min": Measure("lowest perplexity", "Effective number of codes of the least even level.", ".1f", "high"),
    "perplexity_share": Measure("perplexity / codes", "Mean over the levels; 1 is perfectly even.", ".1%", "high"),
    "gini": Measure("Gini", "Unevenness of the codes, mean over the levels; 0 is perfectly even.", ".2f", "low"),
    "dead_codes": Measure("dead codes", "Codes of no item, of all levels.", better="low"),
    "reconstruction_error": Measure(
        "reconstruction error", "Squared error of the decoded vectors over the variance of the vectors.", ".3f", "low"
    ),
    "neighbour_recall": Measure(
        "neighbour recall",
        "Share of the 10 nearest items by decoded vectors that are so by the vectors.",
        ".3f",
        "high",
    ),
    "prefix_recall": Measure(
        "prefix recall", "Share of the 10 nearest items by shared prefix that are so by the vectors.", ".3f", "high"
    ),
    "fit_seconds": Measure("fit seconds", "Time of fitting.", ".1f", "low"),
    "encode_seconds": Measure("encode seconds", "Time of giving all items their codes.", ".1f", "low"),
    "drift_ratio": Measure(
        "drift",
        "Squared distance to their codes of the items appended last, relative to those of the fit.",
        ".2f",
        "low",
    ),
    "unseen_prefixes": Measure(
        "unseen first codes", "Share of the items appended last whose first code no item had.", ".2%", "low"
    ),
}
"""Names of the numbers of a report, as conditions spell them."""


def numbers(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The report as numbers with the names of `MEASURES`; None where it does not say.

    Parameters
    ----------
    report : mapping
        From `semtok.quality.code_report`, with ``seconds``, ``before`` and ``resolving`` of `semtok fit` where they
        are known.
    """
    shared, levels, sizes = report["collisions"], report["levels"], report["sizes"]
    resolving = report.get("resolving") or {}
    before = (report.get("before") or {}).get("collisions") or resolving.get("before") or {}
    near, seconds = report.get("neighbours") or {}, report.get("seconds") or {}
    total = report["items"]
    total_before = (report.get("before") or {}).get("items") or before.get("total") or total  # fewer before appending
    drift = (report.get("generations") or [{}])[-1].get("drift") or {}

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    found: dict[str, float | None] = {
        "items": total,
        "levels": len(sizes),
        "bits": math.fsum(math.log2(size) for size in sizes),
        "distinct": shared["distinct"],
        "collision_items": shared["items"],
        "collision_rate": shared["rate"],
        "surplus_rate": 1 - shared["distinct"] / total if total else 0.0,
        "largest_group": shared["largest"],
        "collision_rate_before": before["items"] / total_before if before else None,
        "surplus_rate_before": 1 - before["distinct"] / total_before if before else None,
        "largest_group_before": before.get("largest"),
        "moved": resolving.get("moved"),
        "moved_share": resolving.get("moved_share"),
        "distortion_added": (resolving.get("distortion") or {}).get("relative"),
        "utilisation": mean([row["utilisation"] for row in levels]),
        "utilisation_min": min(row["utilisation"] for row in levels),
        "perplexity": mean([row["perplexity"] for row in levels]),
        "perplexity_min": min(row["perplexity"] for row in levels),
        "perplexity_share": mean([row["perplexity"] / row["size"] for row in levels]),
        "gini": mean([row["gini"] for row in levels]),
        "dead_codes": sum(row["dead"] for row in levels),
        "reconstruction_error": (report.get("reconstruction") or {}).get("relative_error"),
        "neighbour_recall": next((near[name] for name in near if name.startswith("recall@")), None),
        "prefix_recall": next((near[name] for name in near if name.startswith("prefix_recall@")), None),
        "fit_seconds": seconds.get("fit"),
        "encode_seconds": seconds.get("encode"),
        "drift_ratio": drift.get("ratio"),
        "unseen_prefixes": next(iter(drift.get("unseen_prefixes") or []), None),
    }
    return found


_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of one number of a report with a bound, such as ``collision_rate>0.01``."""

    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises
        ------
        ValueError
            If it is no comparison with a number, or of a number that reports do not have.
        """
        found = _CONDITION.fullmatch(text)
        try:
            bound = float(found.group(3)) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ValueError(
                f"{text!r} is not a condition; expected a name, one of {' '.join(_OPERATORS)} and a number, such as "
                "collision_rate>0.01"
            )
        if found.group(1) not in MEASURES:
            raise ValueError(f"reports have no {found.group(1)!r}; they have {', '.join(MEASURES)}")
        return cls(found.group(1), found.group(2), bound)

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"

    def holds(self, report: Mapping[str, Any]) -> bool | None:
        """True where it is so; None if the report does not say."""
        value = numbers(report)[self.name]
        return None if value is None else _OPERATORS[self.sign](value, self.bound)


_COLUMNS = (
    "collision_rate",
    "surplus_rate",
    "largest_group",
    "utilisation",
    "perplexity",
    "reconstruction_error",
    "neighbour_recall",
    "prefix_recall",
    "fit_seconds",
)
_HEADINGS = {
    "collision_rate": "colliding\nitems",
    "surplus_rate": "1 - distinct\n/ items",
    "largest_group": "largest\ngroup",
    "utilisation": "codes\nused",
    "perplexity": "perplexity",
    "reconstruction_error": "error /\nvariance",
    "neighbour_recall": "neighbour\nrecall",
    "prefix_recall": "prefix\nrecall",
    "fit_seconds": "fit\nseconds",
}


def print_comparison(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row a tokenizer on stdout, of what the reports say.

    Parameters
    ----------
    reports : mapping of str to mapping
        Name of the tokenizer to its report.
    """
    from rich import box
    from rich.table import Table

    rows = {name: numbers(report) for name, report in reports.items()}
    columns = [name for name in _COLUMNS if any(row[name] is not None for row in rows.values())]
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("tokenizer", no_wrap=True)
    table.add_column("codes", justify="right")
    for name in columns:
        table.add_column(_HEADINGS.get(name, MEASURES[name].label), justify="right", no_wrap=True)
    for name, row in rows.items():
        shown = (MEASURES[column].show(row[column]) for column in columns)
        table.add_row(cell(name), shape_of(reports[name]["sizes"]), *shown)
    console = console_of()
    # a narrow terminal breaks lines, it does not cut numbers
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)


def shape_of(sizes: Sequence[int]) -> str:
    """Levels and codes of each, such as ``4x256`` or ``256, 256, 18``."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)}x{sizes[0]}"
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return " + ".join(f"{count}x{size}" for count, size in runs)


def print_report(report: Mapping[str, Any], title: str = "codes") -> None:
    """Print the report as tables on stdout.

    Parameters
    ----------
    report : mapping
        From `semtok.quality.code_report`.
    title : str, default "codes"
        Heading.
    """
    from rich import box
    from rich.table import Table

    console = console_of()
    summary = Table(title=cell(title), box=box.SIMPLE, show_header=False, title_justify="left", title_style="bold")
    summary.add_column()
    summary.add_column(justify="right")
    for name, value in _summary(report):
        summary.add_row(cell(name), cell(value))
    console.print(summary)
    levels = Table(title="Levels", box=box.SIMPLE, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for heading in ("level", "view", "codes", "used", "dead", "perplexity", "gini", "branches", "most"):
        levels.add_column(heading, justify="left" if heading == "view" else "right", no_wrap=True)
    for row, fan in zip(report["levels"], report["branching"], strict=True):
        levels.add_row(
            str(row["level"]),
            cell(row["block"]),
            str(row["size"]),
            str(row["used"]),
            str(row["dead"]),
            f"{row['perplexity']:.1f}",
            f"{row['gini']:.2f}",
            f"{fan['mean']:.2f}",
            str(fan["largest"]),
        )
    console.print(levels)
    if report.get("agreement"):
        table = Table(title="First code and categories", box=box.SIMPLE, title_justify="left", title_style="bold")
        for heading in ("category", "view", "groups", "NMI", "purity"):
            table.add_column(heading, justify="left" if heading in {"category", "view"} else "right")
        for row in report["agreement"]:
            if row["block"] != report["agreement"][0]["block"]:
                continue  # the first code of all; the other views are in the JSON
            scores = (f"{row['nmi']:.3f}", f"{row['purity']:.3f}")
            table.add_row(cell(row["category"]), cell(row["block"]), str(row["groups"]), *scores)
        console.print(table)


def _summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    shared = report["collisions"]
    rows = [
        ("items", f"{report['items']:,}"),
        ("codes an item", str(len(report["sizes"]))),
        ("distinct tuples", f"{shared['distinct']:,}"),
        ("items that share a tuple", f"{shared['items']:,} ({shared['rate']:.1%})"),
        ("tuples that are shared", f"{shared['groups']:,}"),
        ("most items of one tuple", f"{shared['largest']:,}"),
    ]
    if "reconstruction" in report:
        rows.append(("reconstruction error / variance", f"{report['reconstruction']['relative_error']:.3f}"))
        rows += [(f"  {name}", f"{error:.3f}") for name, error in report["reconstruction"]["views"].items()]
    for name, value in report.get("neighbours", {}).items():
        if name != "queries":
            rows.append((f"neighbour {name}".replace("neighbour prefix_", "prefix "), f"{value:.3f}"))
    found = numbers(report)
    for name in ("collision_rate_before", "largest_group_before", "moved_share", "distortion_added", "fit_seconds"):
        if found[name] is not None:
            rows.append((MEASURES[name].label, MEASURES[name].show(found[name])))
    return rows


def _drawn(text: Any) -> str:
    """Text from data in a figure, where matplotlib would take what stands between two $ for a formula."""
    return plain(text).replace("$", r"\$")


def project(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Project vectors to the plane by t-SNE: float32 [n, 2]; up to three vectors lie on a line.

    Parameters
    ----------
    vectors : float [n, D]
        A few thousand at most.
    seed : int, default 0
        Seed of the optimisation.
    """
    if len(vectors) < 4 or not (vectors != vectors[0]).any():
        return np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], 1).astype(np.float32)
    from sklearn.manifold import TSNE

    vectors = vectors - vectors.mean(0, dtype=np.float64)  # float32 distances lose their digits far from zero
    close = min(30.0, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=close, init="random", random_state=seed).fit_transform(vectors), np.float32)


def figures(
    report: Mapping[str, Any],
    folder: str | os.PathLike[str],
    codes: ItemCodes | None = None,
    vectors: np.ndarray | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw the report as PNG files.

    Parameters
    ----------
    report : mapping
        From `semtok.quality.code_report`.
    folder : path
        Where the files are written; made if it does not exist.
    codes : ItemCodes or None, default None
        For the projection: the colour of an item is its first code.
    vectors : float [N, D] or None, default None
        For the projection: what is projected.
    seed : int, default 0
        Seed of the projection and of the items drawn for it.

    Returns
    -------
    list of Path
        utilisation.png, branching.png, collisions.png and, with codes and vectors, projection.png.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the folder cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("figures need the package matplotlib, which is not installed: pip install 'semtok[plots]'")
    folder = Path(folder)
    drawn = {"utilisation": _utilisation(report), "branching": _branching(report), "collisions": _collisions(report)}
    if codes is not None and vectors is not None:
        drawn["projection"] = _projection(codes, vectors, seed)
    paths = []
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # drawn as a box
            write_file(path, functools.partial(figure.savefig, format="png", dpi=150))
        paths.append(path)
    return paths


def _canvas(width: float = 6.4, height: float = 3.8) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _level_names(report: Mapping[str, Any]) -> list[str]:
    """Labels of the levels: the view's name once, at its first level."""
    names, last = [], None
    for row in report["levels"]:
        several = len({other["block"] for other in report["levels"]}) > 1
        names.append(
            f"{row['level']}\n{_drawn(row['block'])}" if several and row["block"] != last else str(row["level"])
        )
        last = row["block"]
    return names


def _utilisation(report: Mapping[str, Any]) -> Any:
    levels = report["levels"]
    figure, axes = _canvas(max(6.4, 0.42 * len(levels) + 1.5))
    place = np.arange(len(levels))
    axes.grid(axis="y", color=GRID)
    axes.bar(place - 0.2, [row["utilisation"] for row in levels], 0.4, color=FIRST, label="used codes")
    effective = [row["perplexity"] / row["size"] for row in levels]
    axes.bar(place + 0.2, effective, 0.4, color=SECOND, label="effective codes (perplexity)")
    axes.set(ylim=(0, 1.0), ylabel="share of the level's codes", xlabel="level", title="Use of the codes")
    axes.set_xticks(place, _level_names(report))
    axes.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _branching(report: Mapping[str, Any]) -> Any:
    rows = report["branching"]
    figure, axes = _canvas(max(6.4, 0.42 * len(rows) + 1.5))
    axes.grid(axis="y", color=GRID)
    depth = [row["depth"] for row in rows]
    axes.plot(depth, [row["largest"] for row in rows], "o-", color=SECOND, label="largest")
    axes.plot(depth, [row["mean"] for row in rows], "o-", color=FIRST, label="mean")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    top = max(row["largest"] for row in rows)
    axes.set(ylim=(0.8, top * 1.6), xlabel="codes already known", ylabel="different next codes", title="Branching")
    axes.set_xticks(depth)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _collisions(report: Mapping[str, Any]) -> Any:
    histogram = {int(size): number for size, number in report["collisions"]["histogram"].items()}
    names, heights = [], []
    lower = 1
    while lower <= max(histogram, default=1):  # 1, 2, 3-4, 5-8, 9-16, ... items of a tuple
        upper = lower if lower <= 2 else 2 * (lower - 1)
        names.append(str(lower) if upper == lower else f"{lower}–{upper}")
        heights.append(sum(size * number for size, number in histogram.items() if lower <= size <= upper))
        lower = upper + 1
    figure, axes = _canvas()
    axes.grid(axis="y", color=GRID)
    bars = axes.bar(names, heights, 0.7, color=[FIRST, *[SECOND] * (len(names) - 1)])
    axes.bar_label(bars, [f"{height:,}" for height in heights], padding=2)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    shared = report["collisions"]
    axes.set(
        xlabel="items of a tuple (1 = unique)",
        ylabel="items",
        title=f"{shared['rate']:.1%} of {report['items']:,} items share their tuple",
    )
    return figure


def _projection(codes: ItemCodes, vectors: np.ndarray, seed: int) -> Any:
    rows = np.arange(len(codes))
    if len(rows) > _MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST_POINTS, replace=False))
    points = project(np.asarray(vectors)[rows], seed)
    first = codes.codes[rows, 0]
    common = np.argsort(-np.bincount(first), kind="stable")[: len(SERIES)]
    figure, axes = _canvas(6.4, 5.4)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    other = ~np.isin(first, common)
    axes.scatter(*points[other].T, s=7, color=GREY, linewidths=0, label="other")
    for colour, code in zip(SERIES, common, strict=False):
        chosen = points[first == code]
        if len(chosen):
            axes.scatter(*chosen.T, s=13, color=colour, linewidths=0, label=str(code))
    name = next(iter(codes.blocks))
    view = f" of view {_drawn(name)}" if len(codes.blocks) > 1 else ""
    axes.set_title(f"Item vectors{view} (t-SNE of {len(rows):,}), by first code")
    figure.legend(
        loc="outside lower center", ncols=9, frameon=False, handletextpad=0.1, columnspacing=1.0, markerscale=2
    )
    return figure
