"""One HTML page that compares codes, readable on a desk and on a phone, by day and by night.

Everything is in the file: its style, its figures (SVG drawn here), its text. It loads nothing, runs no script, and says
so to the browser (a content policy that forbids both). Takes finished subjects; measures nothing but what is drawn: a
t-SNE of the vectors, the tree of codes, the nearest items by shared prefix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from semtok.codes import ItemCodes
from semtok.quality import closeness
from semtok.report.drawings import escape, histogram, map_figure, use_figure
from semtok.report.measures import MEASURES, numbers, project, shape_of
from semtok.report.sources import Subject

__all__ = ["comparison_page", "nearest_by_codes", "prefix_tree"]

_SAMPLES, _NEAREST = 6, 5
_MOST_POINTS = 1000
_STYLE = files("semtok.report").joinpath("page.css").read_text(encoding="utf-8")
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
    subjects: Sequence[Subject], titles: Mapping[Any, str] | None = None, title: str = "Item codes", seed: int = 0
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

    Raises
    ------
    ValueError
        If there is no subject.
    """
    if not subjects:
        raise ValueError("there is nothing to compare: subjects is empty")
    names = _Names(titles or {})
    sections = [
        ("glance", "At a glance", _glance(subjects)),
        ("collisions", "Collisions", _collisions(subjects)),
        ("use", "Use of the codes", _use(subjects)),
        ("levels", "Items of each code", _histograms(subjects)),
        ("map", "Map of the items", _maps(subjects, seed)),
        ("tree", "Tree of the codes", _trees(subjects, names)),
        ("nearest", "Nearest items by codes", _neighbours(subjects, names, seed)),
        ("categories", "Agreement with categories", _categories(subjects)),
        ("generations", "Items appended later", _generations(subjects)),
        ("notes", "Notes", _notes(subjects)),
    ]
    shown = [(key, heading, body) for key, heading, body in sections if body]
    links = "".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in shown)
    parts = "".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{escape(heading)}</h2>{body}</section>'
        for key, heading, body in shown
    )
    counts = sorted({len(subject.codes) for subject in subjects})
    items = f"{counts[0]:,} items" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} items"
    what = "one set of codes" if len(subjects) == 1 else f"{len(subjects)} sets of codes"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><h1>{escape(title)}</h1><p>{what}, {items}</p><nav aria-label="Sections">{links}</nav></header>'
        f'<main id="main">{parts}</main></body></html>\n'
    )


class _Names:
    """Names of items as safe HTML."""

    def __init__(self, titles: Mapping[Any, str]) -> None:
        self.titles = titles

    def __call__(self, item: Any) -> str:
        text = self.titles.get(item)
        if text is None:
            return f"item <bdi>{escape(item)}</bdi>"
        short = text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1].rstrip() + "…"
        return f"<bdi>{escape(short)}</bdi>"  # a title in Arabic or Hebrew turns around alone


# --------------------------------------------------------------------------------------- sections


def _glance(subjects: Sequence[Subject]) -> str:
    found = [numbers(subject.report) for subject in subjects]
    columns = [name for name in _GLANCE if any(row[name] is not None for row in found)]
    best = {}
    for name in columns:
        values = [value for row in found if (value := row[name]) is not None]
        if MEASURES[name].better and len(values) > 1 and len(set(values)) > 1:
            best[name] = (min if MEASURES[name].better == "low" else max)(values)
    heads = _heads("tokenizer", "codes", *(MEASURES[name].label for name in columns))
    rows = []
    for subject, row in zip(subjects, found, strict=True):
        cells = []
        for name in columns:
            text = MEASURES[name].show(row[name])
            cells.append(f"<td>{f'<strong>{text}</strong>' if row[name] == best.get(name, math.nan) else text}</td>")
        shape = escape(shape_of(subject.codes.sizes))
        rows.append(f"<tr>{_row_name(subject)}<td>{shape}</td>{''.join(cells)}</tr>")
    meaning = "".join(
        f"<dt>{escape(MEASURES[name].label)}</dt><dd>{escape(MEASURES[name].meaning)}</dd>" for name in columns
    )
    caption = "The best value of each column is bold. Codes are levels x codes of a level."
    return (
        _table(caption, heads, rows) + f"<details><summary>What the columns mean</summary><dl>{meaning}</dl></details>"
    )


def _collisions(subjects: Sequence[Subject]) -> str:
    groups = {"1": (1, 1), "2": (2, 2), "3–4": (3, 4), "5–8": (5, 8), "9–16": (9, 16), "17 or more": (17, None)}
    held = {name: [_items_in(subject.report, *edges) for subject in subjects] for name, edges in groups.items()}
    used = [name for name in groups if name in "12" or any(held[name])]
    rows = []
    for place, subject in enumerate(subjects):
        total = max(1, len(subject.codes))
        cells = [
            f"<td class=b>{_bar(held[name][place] / total, name != '1')}{held[name][place]:,}</td>" for name in used
        ]
        rows.append(f"<tr>{_row_name(subject)}{''.join(cells)}</tr>")
    caption = "Items by how many items have their tuple (1: the tuple is theirs alone)."
    spread = _table(caption, _heads("tokenizer", *used), rows)
    rows = []
    for subject in subjects:
        found = numbers(subject.report)
        if found["collision_rate_before"] is None:
            continue
        cells = [f"<td>{escape(str(subject.report.get('unique', '')))}</td>"]
        for name in _RESOLVED:
            bar = _bar(found[name] or 0.0, name != "moved_share") if MEASURES[name].form.endswith("%") else ""
            cells.append(f"<td class=b>{bar}{MEASURES[name].show(found[name])}</td>")
        rows.append(f"<tr>{_row_name(subject)}{''.join(cells)}</tr>")
    if not rows:
        return spread
    before = ("colliding before", "after", "largest group before", "after", "items moved", "distortion added")
    return _table("Before and after the codes were made unique.", _heads("tokenizer", "policy", *before), rows) + spread


def _items_in(report: Mapping[str, Any], low: int, high: int | None) -> int:
    histogram = {int(size): int(number) for size, number in report["collisions"]["histogram"].items()}
    return sum(size * number for size, number in histogram.items() if low <= size and (high is None or size <= high))


def _use(subjects: Sequence[Subject]) -> str:
    key = (
        '<p class="key"><span><i class="s1"></i>used codes</span>'
        '<span><i class="s2"></i>effective codes (perplexity)</span></p>'
        "<p>Share of the codes of each level. Much less perplexity than use means that a few codes have most items.</p>"
    )
    return key + _cards(_card(subject, use_figure(subject) + _level_table(subject)) for subject in subjects)


def _level_table(subject: Subject) -> str:
    several = len(subject.codes.blocks) > 1
    rows = []
    for row, fan in zip(subject.report["levels"], subject.report["branching"], strict=True):
        view = f"<td>{escape(row['block'])}</td>" if several else ""
        rows.append(
            f"<tr><th scope=row>{row['level']}</th>{view}<td>{row['size']:,}</td><td>{row['used']:,}</td>"
            f"<td>{row['perplexity']:.1f}</td><td>{row['gini']:.2f}</td><td>{row['largest']:,}</td>"
            f"<td>{fan['nodes']:,}</td><td>{fan['mean']:.2f}</td><td>{fan['largest']:,}</td></tr>"
        )
    named = ["view"] if several else []
    heads = ["level", *named, "codes", "used", "perplexity", "Gini", "items of the largest", "prefixes before it"]
    table = _table(f"Levels of {subject.name}", _heads(*heads, "branches, mean", "most"), rows, True)
    return f"<details><summary>Every level in numbers</summary>{table}</details>"


def _histograms(subjects: Sequence[Subject]) -> str:
    lead = (
        "<p>Codes of a level from the one with the most items to the one with the fewest, heights on a logarithmic "
        "scale; the broken line is what each would have if all had the same.</p>"
    )
    cards = []
    for subject in subjects:
        shown = subject.codes.codes.T[:_MOST_LEVELS]
        parts = [histogram(subject, level, column) for level, column in enumerate(shown)]
        left = subject.codes.levels - len(shown)
        more = f"<p>{left} more level{'s' if left > 1 else ''} not drawn.</p>" if left else ""
        cards.append(_card(subject, f'<div class="small">{"".join(parts)}</div>{more}'))
    return lead + _cards(cards)


def _maps(subjects: Sequence[Subject], seed: int) -> str:
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    cards = []
    for subject in subjects:
        vectors = subject.vectors if subject.vectors is not None else subject.decoded
        if vectors is None:
            continue
        same = next((key for key in made if key == id(vectors)), None) or _like(subject, subjects, made)
        if same is None:
            rows = np.arange(len(vectors))
            if len(rows) > _MOST_POINTS:
                rows = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST_POINTS, replace=False))
            same = id(vectors)
            made[same] = (rows, project(np.asarray(vectors)[rows], seed))
        rows, points = made[same]
        cards.append(_card(subject, map_figure(subject, rows, points)))
    if not cards:
        return ""
    lead = (
        "<p>Item vectors by t-SNE, coloured by their first code: the eight most frequent ones, all others grey. Codes "
        "that keep neighbours together make patches; codes that do not make confetti.</p>"
    )
    return lead + _cards(cards)


def _like(subject: Subject, subjects: Sequence[Subject], made: Mapping[int, Any]) -> int | None:
    """An earlier subject that has the very same vectors of the same items, so that their maps can be compared."""
    for other in subjects:
        if other is subject:
            return None
        mine, theirs = subject.vectors, other.vectors
        if mine is None or theirs is None or id(theirs) not in made or mine.shape != theirs.shape:
            continue
        if np.array_equal(subject.codes.item_ids, other.codes.item_ids) and np.array_equal(mine, theirs):
            return id(theirs)
    return None


def _trees(subjects: Sequence[Subject], names: _Names) -> str:
    lead = "<p>The largest branches of the first levels, with some of the items at their ends.</p>"
    return lead + _cards(_card(subject, _tree(subject, names)) for subject in subjects)


def _tree(subject: Subject, names: _Names) -> str:
    ids = subject.codes.item_ids.tolist()

    def show(node: Mapping[str, Any], prefix: str, depth: int) -> str:
        count = f'<span class="count">{node["items"]:,} item{"s" if node["items"] > 1 else ""}</span>'
        inside = "".join(show(branch, f"{prefix} {branch['code']}", depth + 1) for branch in node["branches"])
        leaves = "".join(f"<li>{names(ids[row])}</li>" for row in node["rows"])
        if leaves and node["items"] > len(node["rows"]):
            leaves += f'<li class="count">{node["items"] - len(node["rows"]):,} more</li>'
        if node["more"]:
            inside += (
                f'<p class="count">{node["more"]:,} more branches with {node["more_items"]:,} '
                f"item{'s' if node['more_items'] > 1 else ''}</p>"
            )
        body = inside + (f"<ul>{leaves}</ul>" if leaves else "")
        if depth == 0:
            return f'<div class="tree">{body}</div>'
        return f"<details><summary><code>{prefix.strip()}</code> {count}</summary>{body}</details>"

    return show(prefix_tree(subject.codes), "", 0)


def _neighbours(subjects: Sequence[Subject], names: _Names, seed: int) -> str:
    known = [set(subject.codes.item_ids.tolist()) for subject in subjects]
    shared = [item for item in subjects[0].codes.item_ids.tolist() if all(item in ids for ids in known[1:])]
    if not shared:
        return ""
    drawn = np.random.default_rng(seed).permutation(len(shared))[:_SAMPLES]
    places = [{item: row for row, item in enumerate(subject.codes.item_ids.tolist())} for subject in subjects]
    blocks = []
    for number, pick in enumerate(np.sort(drawn).tolist()):
        item = shared[pick]
        cards = []
        owner = next((at for at, subject in enumerate(subjects) if subject.vectors is not None), None)
        if owner is not None:
            cards.append(_true_neighbours(subjects[owner], places[owner][item], names))
        for subject, place in zip(subjects, places, strict=True):
            row, ids = place[item], subject.codes.item_ids.tolist()
            found = "".join(
                f'<li><span class="shared">{depth} of {subject.codes.levels}</span> {names(ids[other])}</li>'
                for other, depth in nearest_by_codes(subject.codes, row, _NEAREST)
            )
            code = " ".join(map(str, subject.codes.codes[row].tolist()))
            cards.append(_card(subject, f"<p><code>{code}</code></p><ol>{found}</ol>", "h4"))
        opened = " open" if number == 0 else ""
        summary = f"<summary><h3>{names(item)}</h3></summary>"
        blocks.append(f'<details class="sample"{opened}>{summary}{_cards(cards)}</details>')
    lead = (
        "<p>For some items drawn at random: the items that share the longest prefix of codes with them, and how many "
        "codes that prefix has.</p>"
    )
    return lead + "".join(blocks)


def _true_neighbours(subject: Subject, row: int, names: _Names) -> str:
    assert subject.vectors is not None
    lengths = np.linalg.norm(subject.vectors, axis=1)
    lengths[lengths == 0] = 1.0
    scores = subject.vectors @ (subject.vectors[row] / lengths[row]) / lengths
    scores[row] = -np.inf
    ids = subject.codes.item_ids.tolist()
    found = "".join(
        f'<li><span class="shared">{scores[other]:.2f}</span> {names(ids[other])}</li>'
        for other in np.argsort(-scores, kind="stable")[: min(_NEAREST, len(ids) - 1)]
    )
    return f'<article class="card truth"><h4>By the vectors (cosine)</h4><ol>{found}</ol></article>'


def _categories(subjects: Sequence[Subject]) -> str:
    rows = []
    for subject in subjects:
        listed = subject.report.get("agreement") or []
        for row in listed:
            if row["block"] == listed[0]["block"]:
                rows.append(
                    f"<tr>{_row_name(subject)}<td>{escape(row['category'])}</td><td>{row['groups']:,}</td>"
                    f"<td>{row['nmi']:.3f}</td><td>{row['purity']:.3f}</td></tr>"
                )
    if not rows:
        return ""
    heads = _heads("tokenizer", "category", "groups", "mutual information", "purity")
    caption = (
        "How well the first code agrees with what is known of the items: normalised mutual information, and the share "
        "of items in the largest group of their code. Both grow with the number of codes."
    )
    return _table(caption, heads, rows)


def _generations(subjects: Sequence[Subject]) -> str:
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
            rows.append(f"<tr>{_row_name(subject)}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not rows:
        return ""
    caption = (
        "How far new items lie from what their codes stand for, relative to the items of the fit; how many lie beyond "
        "95 % of those (5 % if nothing drifted); how many have first codes that no item had, for 1, 2, ... codes."
    )
    heads = ("tokenizer", "generation", "items", "items in all", "drift", "beyond 95 %", "unseen prefixes")
    return _table(caption, _heads(*heads), rows)


def _notes(subjects: Sequence[Subject]) -> str:
    parts = []
    for subject in subjects:
        about = [f"From {subject.source}."]
        if subject.method:
            about.append(f"Method {subject.method}.")
        about += subject.notes
        parts.append(f"<dt>{escape(subject.name)}</dt><dd>{escape(' '.join(about))}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


# --------------------------------------------------------------------------------------- pieces


def _row_name(subject: Subject) -> str:
    return f"<th scope=row>{_breakable(subject.name)}</th>"


def _breakable(name: str) -> str:
    return escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _heads(*labels: str) -> str:
    return "".join(f"<th scope=col>{escape(label)}</th>" for label in labels)


def _table(caption: str, heads: str, rows: Iterable[str], inside: bool = False) -> str:
    """A table that scrolls sideways where it is too wide; its caption is for the ear alone inside a card."""
    shown = "" if inside else f'<figcaption aria-hidden="true">{escape(caption)}</figcaption>'
    return (
        f'<figure>{shown}<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _bar(share: float, bad: bool) -> str:
    if share <= 0:
        return ""
    return f'<i class="bar {"s2" if bad else "s1"}" style="--v:{min(share, 1.0):.4f}"></i>'


def _card(subject: Subject, body: str, level: str = "h3") -> str:
    return f'<article class="card"><{level}>{_breakable(subject.name)}</{level}>{body}</article>'


def _cards(cards: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'
