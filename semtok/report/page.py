"""One HTML page that compares codes, readable on a desk and on a phone, by day and by night.

Everything is in the file: its style, its figures (SVG drawn here), its text. It loads nothing, runs no script, and says
so to the browser (a content policy that forbids both). Takes finished subjects; measures nothing but what is drawn: a
t-SNE of the vectors, the tree of codes, the nearest items by shared prefix. How it looks is said by the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recbase.console import plain
from semtok.codes import ItemCodes
from semtok.quality import closeness
from semtok.report.drawings import STYLE, Drawn, colours_of, draw
from semtok.report.measures import MEASURES, numbers, shape_of
from semtok.report.sources import Subject

__all__ = ["comparison_page", "nearest_by_codes", "prefix_tree"]

_SAMPLES, _NEAREST = 6, 5
_TEMPLATE = files("semtok.report").joinpath("page.html.j2").read_text(encoding="utf-8")
_TREE_WIDTHS = (12, 6, 4)
_TREE_TITLES = 4
_MOST_LEVELS = 8
_TITLE_LENGTH = 110
_GLANCE = (
    "collision_rate",
    "surplus_rate",
    "largest_group",
    "utilisation",
    "perplexity",
    "dead_codes",
    "reconstruction_error",
    "neighbour_recall",
    "prefix_recall",
    "fit_seconds",
)
_RESOLVED = (
    "collision_rate_before",
    "collision_rate",
    "largest_group_before",
    "largest_group",
    "moved_share",
    "distortion_added",
)


# --------------------------------------------------------------------------------------- what is drawn


def nearest_by_codes(codes: ItemCodes, row: int, k: int) -> list[tuple[int, int]]:
    """The k items nearest to one by codes: longest shared prefix first, then most equal codes, then catalogue order.

    Parameters
    ----------
    codes : ItemCodes
    row : int
        The item, left out of the result.
    k : int

    Returns
    -------
    list of (int, int)
        Row of the item, and codes of the prefix that it shares.
    """
    scores = closeness(codes.codes, np.array([row]))[0]
    scores[row] = -1
    best = np.argsort(-scores, kind="stable")[: min(k, len(codes) - 1)]
    return [(int(found), int(scores[found]) // (codes.levels + 1)) for found in best]


def prefix_tree(codes: ItemCodes, widths: Sequence[int] = _TREE_WIDTHS, items: int = _TREE_TITLES) -> dict[str, Any]:
    """The first levels of the tree of codes, its largest branches only.

    Parameters
    ----------
    codes : ItemCodes
    widths : sequence of int, default (12, 6, 4)
        Branches that are kept at each level; as many levels as there are widths.
    items : int, default 4
        Items that are named below the last of them.

    Returns
    -------
    dict
        ``items`` of the node, ``branches`` (list of such nodes, with their ``code``), ``more`` (branches that were left
        out) and ``more_items``; ``rows`` (of some items) at the end of the tree.
    """

    def grow(rows: np.ndarray, level: int) -> dict[str, Any]:
        node: dict[str, Any] = {"items": len(rows), "branches": [], "more": 0, "more_items": 0, "rows": []}
        if level == min(len(widths), codes.levels) or len(rows) == 1:
            return node | {"rows": rows[:items].tolist()}
        values, counts = np.unique(codes.codes[rows, level], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        for place in order[: widths[level]]:
            part = rows[codes.codes[rows, level] == values[place]]
            node["branches"].append({"code": int(values[place]), **grow(part, level + 1)})
        left = order[widths[level] :]
        return node | {"more": len(left), "more_items": int(counts[left].sum())}

    return grow(np.arange(len(codes)), 0)


def comparison_page(
    subjects: Sequence[Subject],
    titles: Mapping[Any, str] | None = None,
    title: str = "Item codes",
    seed: int = 0,
    drawn: Sequence[Drawn] | None = None,
) -> str:
    """The page as text.

    Parameters
    ----------
    subjects : sequence of Subject
        From `semtok.report.sources.examine`.
    titles : mapping or None, default None
        What to call the items, by item id; the ids if None.
    title : str, default "Item codes"
        Heading of the page.
    seed : int, default 0
        Seed of the sample items, of the points and of the t-SNE.
    drawn : sequence of Drawn or None, default None
        Figures of the subjects, from `semtok.report.drawings.draw`; drawn here if None.

    Raises
    ------
    ValueError
        If there is no subject.
    """
    if not subjects:
        raise ValueError("there is nothing to compare: subjects is empty")
    # Whatever comes from data is made harmless twice: `plain` takes what turns writing around, autoescaping the markup.
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_harmless)
    page.filters |= {"breakable": _breakable, "named": partial(_named, titles or {})}
    each = list(zip(subjects, drawn or draw(subjects, seed), strict=True))
    found = {
        "glance": _glance(subjects),
        "collisions": _collisions(subjects),
        "use": [_use(subject) | {"figure": figures.use} for subject, figures in each],
        "levels": [
            {"name": subject.name, "figures": figures.levels, "left": subject.codes.levels - len(figures.levels)}
            for subject, figures in each
        ],
        "map": [
            {"name": subject.name, "figure": figures.map, "key": list(zip(*colours_of(subject), strict=True))}
            for subject, figures in each
            if figures.map is not None
        ],
        "tree": [
            {"name": subject.name, "tree": prefix_tree(subject.codes), "ids": subject.codes.item_ids.tolist()}
            for subject in subjects
        ],
        "nearest": _neighbours(subjects, seed),
        "categories": _categories(subjects),
        "generations": _generations(subjects),
        "notes": [{"name": subject.name, "about": _about(subject)} for subject in subjects],
    }
    counts = sorted({len(subject.codes) for subject in subjects})
    return page.from_string(_TEMPLATE).render(
        title=title,
        style=Markup(STYLE),
        found=found,
        items=f"{counts[0]:,} items" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} items",
        what="one set of codes" if len(subjects) == 1 else f"{len(subjects)} sets of codes",
    )


def _harmless(value: Any) -> Any:
    """Text of one line that only shows itself; markup of ours as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else plain(value)


def _breakable(name: str) -> Markup:
    """A name that may be broken at a slash or an underscore."""
    return Markup(str(Markup.escape(plain(name))).replace("/", "/<wbr>").replace("_", "_<wbr>"))


def _named(titles: Mapping[Any, str], item: Any) -> Markup:
    """An item by its title, else by its id; in Arabic or Hebrew it turns around alone."""
    text = titles.get(item)
    if text is None:
        return Markup("item <bdi>{}</bdi>").format(plain(item))
    short = text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1].rstrip() + "…"
    return Markup("<bdi>{}</bdi>").format(plain(short))


# --------------------------------------------------------------------------------------- what sections show


def _glance(subjects: Sequence[Subject]) -> dict[str, Any]:
    found = [numbers(subject.report) for subject in subjects]
    columns = [name for name in _GLANCE if any(row[name] is not None for row in found)]
    best = {}
    for name in columns:
        values = [value for row in found if (value := row[name]) is not None]
        if MEASURES[name].better and len(values) > 1 and len(set(values)) > 1:
            best[name] = (min if MEASURES[name].better == "low" else max)(values)
    rows = [
        {
            "name": subject.name,
            "shape": shape_of(subject.codes.sizes),
            "cells": [
                {"text": MEASURES[name].show(row[name]), "best": name in best and row[name] == best[name]}
                for name in columns
            ],
        }
        for subject, row in zip(subjects, found, strict=True)
    ]
    return {"columns": [MEASURES[name] for name in columns], "rows": rows}


def _collisions(subjects: Sequence[Subject]) -> dict[str, Any]:
    groups = {"1": (1, 1), "2": (2, 2), "3–4": (3, 4), "5–8": (5, 8), "9–16": (9, 16), "17 or more": (17, None)}
    held = {name: [_items_in(subject.report, *edges) for subject in subjects] for name, edges in groups.items()}
    used = [name for name in groups if name in "12" or any(held[name])]
    spread, resolved = [], []
    for place, subject in enumerate(subjects):
        total = max(1, len(subject.codes))
        counts = [(name, held[name][place]) for name in used]
        cells = [{"share": items / total, "bad": name != "1", "text": f"{items:,}"} for name, items in counts]
        spread.append({"name": subject.name, "cells": cells})
        found = numbers(subject.report)
        if found["collision_rate_before"] is not None:
            cells = [
                {
                    "share": (found[name] or 0.0) if MEASURES[name].form.endswith("%") else 0.0,
                    "bad": name != "moved_share",
                    "text": MEASURES[name].show(found[name]),
                }
                for name in _RESOLVED
            ]
            resolved.append({"name": subject.name, "policy": subject.report.get("unique", ""), "cells": cells})
    return {"groups": used, "spread": spread, "resolved": resolved}


def _items_in(report: Mapping[str, Any], low: int, high: int | None) -> int:
    histogram = {int(size): int(number) for size, number in report["collisions"]["histogram"].items()}
    return sum(size * number for size, number in histogram.items() if low <= size and (high is None or size <= high))


def _use(subject: Subject) -> dict[str, Any]:
    levels = list(zip(subject.report["levels"], subject.report["branching"], strict=True))
    return {"name": subject.name, "levels": levels, "several": len(subject.codes.blocks) > 1}


def _neighbours(subjects: Sequence[Subject], seed: int) -> list[dict[str, Any]]:
    known = [set(subject.codes.item_ids.tolist()) for subject in subjects]
    shared = [item for item in subjects[0].codes.item_ids.tolist() if all(item in ids for ids in known[1:])]
    drawn = np.random.default_rng(seed).permutation(len(shared))[:_SAMPLES]
    places = [{item: row for row, item in enumerate(subject.codes.item_ids.tolist())} for subject in subjects]
    owner = next((at for at, subject in enumerate(subjects) if subject.vectors is not None), None)
    samples = []
    for item in (shared[pick] for pick in np.sort(drawn).tolist()):
        rows = []
        for subject, place in zip(subjects, places, strict=True):
            row, ids = place[item], subject.codes.item_ids.tolist()
            near = nearest_by_codes(subject.codes, row, _NEAREST)
            listed = [(f"{depth} of {subject.codes.levels}", ids[other]) for other, depth in near]
            code = " ".join(map(str, subject.codes.codes[row].tolist()))
            rows.append({"name": subject.name, "code": code, "items": listed})
        truth = [] if owner is None else _true_neighbours(subjects[owner], places[owner][item])
        samples.append({"item": item, "rows": rows, "truth": truth})
    return samples


def _true_neighbours(subject: Subject, row: int) -> list[tuple[str, Any]]:
    assert subject.vectors is not None
    lengths = np.linalg.norm(subject.vectors, axis=1)
    lengths[lengths == 0] = 1.0
    scores = subject.vectors @ (subject.vectors[row] / lengths[row]) / lengths
    scores[row] = -np.inf
    ids = subject.codes.item_ids.tolist()
    nearest = np.argsort(-scores, kind="stable")[: min(_NEAREST, len(ids) - 1)]
    return [(f"{scores[other]:.2f}", ids[other]) for other in nearest]


def _categories(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    rows = []
    for subject in subjects:
        listed = subject.report.get("agreement") or []
        for row in listed:
            if row["block"] == listed[0]["block"]:
                cells = (row["category"], f"{row['groups']:,}", f"{row['nmi']:.3f}", f"{row['purity']:.3f}")
                rows.append({"name": subject.name, "cells": cells})
    return rows


def _generations(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    rows = []
    for subject in subjects:
        for entry in (subject.report.get("generations") or [])[1:]:
            drift = entry.get("drift") or {}
            unseen = drift.get("unseen_prefixes") or []
            cells = (
                str(entry["generation"]),
                f"{entry['items']:,}",
                f"{entry['total']:,}",
                "–" if drift.get("ratio") is None else f"{drift['ratio']:.2f}",
                "–" if drift.get("above") is None else f"{drift['above']:.1%}",
                ", ".join(f"{share:.1%}" for share in unseen[:_MOST_LEVELS]) or "–",
            )
            rows.append({"name": subject.name, "cells": cells})
    return rows


def _about(subject: Subject) -> str:
    about = [f"From {subject.source}."] + ([f"Method {subject.method}."] if subject.method else [])
    return " ".join([*about, *subject.notes])
