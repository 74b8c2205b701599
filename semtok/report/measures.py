"""A quality report as numbers with names, conditions on them, and tables for the terminal.

Takes the dict that `semtok.quality.code_report` returns, with what `semtok fit` adds to it; computes nothing but a
two-dimensional projection. rich is imported where it is used.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbase.console import cell, console_of

__all__ = [
    "MEASURES",
    "Condition",
    "Measure",
    "numbers",
    "print_comparison",
    "print_report",
    "project",
]


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
