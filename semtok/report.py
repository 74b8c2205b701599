"""A quality report shown to people: a table for the terminal, and PNG figures.

Takes the dict that `semtok.quality.code_report` returns; computes nothing but a two-dimensional projection. rich and
matplotlib are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semtok.codes import ItemCodes

__all__ = ["figures", "print_report", "project"]

_BLUE, _ORANGE, _GREY = "#3b6fb6", "#e08a3c", "#c9ccd1"
_COLOURS = ("#3b6fb6", "#e08a3c", "#4c9f70", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#4aa8b8")
_MOST_POINTS = 1500


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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    summary = Table(title=title, box=box.SIMPLE, show_header=False, title_justify="left", title_style="bold")
    summary.add_column()
    summary.add_column(justify="right")
    for name, value in _summary(report):
        summary.add_row(name, value)
    console.print(summary)
    levels = Table(title="Levels", box=box.SIMPLE, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for heading in ("level", "view", "codes", "used", "dead", "perplexity", "gini", "branches", "most"):
        levels.add_column(heading, justify="left" if heading == "view" else "right", no_wrap=True)
    for row, fan in zip(report["levels"], report["branching"], strict=True):
        levels.add_row(
            str(row["level"]),
            row["block"],
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
            table.add_row(row["category"], row["block"], str(row["groups"]), *scores)
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
    if "neighbours" in report:
        name, value = next(iter(report["neighbours"].items()))
        rows.append((f"neighbour {name}", f"{value:.3f}"))
    return rows


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    drawn = {"utilisation": _utilisation(report), "branching": _branching(report), "collisions": _collisions(report)}
    if codes is not None and vectors is not None:
        drawn["projection"] = _projection(codes, vectors, seed)
    paths = []
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error
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
        names.append(f"{row['level']}\n{row['block']}" if several and row["block"] != last else str(row["level"]))
        last = row["block"]
    return names


def _utilisation(report: Mapping[str, Any]) -> Any:
    levels = report["levels"]
    figure, axes = _canvas(max(6.4, 0.42 * len(levels) + 1.5))
    place = np.arange(len(levels))
    axes.grid(axis="y", color="#eceef0")
    axes.bar(place - 0.2, [row["utilisation"] for row in levels], 0.4, color=_BLUE, label="used codes")
    effective = [row["perplexity"] / row["size"] for row in levels]
    axes.bar(place + 0.2, effective, 0.4, color=_ORANGE, label="effective codes (perplexity)")
    axes.set(ylim=(0, 1.0), ylabel="share of the level's codes", xlabel="level", title="Use of the codes")
    axes.set_xticks(place, _level_names(report))
    axes.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _branching(report: Mapping[str, Any]) -> Any:
    rows = report["branching"]
    figure, axes = _canvas(max(6.4, 0.42 * len(rows) + 1.5))
    axes.grid(axis="y", color="#eceef0")
    depth = [row["depth"] for row in rows]
    axes.plot(depth, [row["largest"] for row in rows], "o-", color=_ORANGE, label="largest")
    axes.plot(depth, [row["mean"] for row in rows], "o-", color=_BLUE, label="mean")
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
    axes.grid(axis="y", color="#eceef0")
    bars = axes.bar(names, heights, 0.7, color=[_BLUE, *[_ORANGE] * (len(names) - 1)])
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
    common = np.argsort(-np.bincount(first), kind="stable")[: len(_COLOURS)]
    figure, axes = _canvas(6.4, 5.4)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    other = ~np.isin(first, common)
    axes.scatter(*points[other].T, s=7, color=_GREY, linewidths=0, label="other")
    for colour, code in zip(_COLOURS, common, strict=False):
        chosen = points[first == code]
        if len(chosen):
            axes.scatter(*chosen.T, s=13, color=colour, linewidths=0, label=str(code))
    name = next(iter(codes.blocks))
    view = f" of view {name}" if len(codes.blocks) > 1 else ""
    axes.set_title(f"Item vectors{view} (t-SNE of {len(rows):,}), by first code")
    figure.legend(
        loc="outside lower center", ncols=9, frameon=False, handletextpad=0.1, columnspacing=1.0, markerscale=2
    )
    return figure
