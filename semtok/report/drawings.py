"""The figures of the page, as SVG."""

from __future__ import annotations

import math
from html import escape as _as_html
from typing import Any

import numpy as np

from recbase.console import plain
from semtok.report.sources import Subject

_COLOURS = 8  # of the style sheet

__all__ = ["escape", "histogram", "map_figure", "use_figure"]


def escape(text: Any) -> str:
    """Text from data as HTML: no tag, no control character, nothing that turns the writing of what follows around."""
    return _as_html(plain(text))


def use_figure(subject: Subject) -> str:
    """Figure of how evenly the codes of every level are used."""
    levels = subject.report["levels"]
    width, height, left, low = 360, 150, 34, 124
    step = (width - left - 6) / len(levels)
    bar = min(22.0, step * 0.36)
    parts = []
    for share in (0, 0.5, 1):
        y = low - share * 110
        parts.append(f'<path class="grid" d="M{left} {y:g}H{width}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:g}" class="end">{share:.0%}</text>')
    every = math.ceil(len(levels) / 16)
    for place, row in enumerate(levels):
        middle = left + (place + 0.5) * step
        for shift, share, colour in ((-bar, row["utilisation"], "s1"), (0.0, row["perplexity"] / row["size"], "s2")):
            tall = max(share * 110, 0.5)
            place_of = f'x="{middle + shift:.1f}" y="{low - tall:.1f}" width="{max(bar - 1, 1):.1f}"'
            parts.append(f'<rect class="{colour}" {place_of} height="{tall:.1f}"/>')
        if place % every == 0:
            parts.append(f'<text x="{middle:.1f}" y="{low + 14}" class="mid">{row["level"]}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 1}" class="mid">level</text>')
    said = "; ".join(
        f"level {row['level']}: {row['utilisation']:.0%} used, {row['perplexity'] / row['size']:.0%} effective"
        for row in levels
    )
    return _figure(width, height + 4, "".join(parts), f"Use of the codes of {subject.name}. {said}.")


def histogram(subject: Subject, level: int, column: np.ndarray) -> str:
    """Figure of how many items each code of a level has."""
    size = subject.codes.sizes[level]
    counts = np.sort(np.bincount(column, minlength=size))[::-1]
    top = max(int(counts[0]), 1)
    width, height, left, low = 160, 92, 4, 72
    wide, tall = width - left - 2, 58
    shown = counts[: int((counts > 0).sum())]
    step = max(1, len(shown) // 128)  # so many corners are enough for the eye

    def height_of(items: float) -> float:
        return low - math.log1p(items) / math.log1p(top) * tall

    path = "".join(
        f"V{height_of(value):.1f}H{left + min(place + step, len(shown)) / size * wide:.1f}"
        for place, value in zip(range(0, len(shown), step), shown[::step].tolist(), strict=True)
    )
    even = height_of(counts.sum() / size)
    inner = (
        f'<path class="area" d="M{left} {low}{path}V{low}Z"/><path class="axis" d="M{left} {low}H{width - 2}"/>'
        f'<path class="even" d="M{left} {even:.1f}H{width - 2}"/>'
        f'<text x="{left}" y="10">level {level}</text>'
        f'<text x="{width - 2}" y="10" class="end">most {top:,}</text>'
        f'<text x="{left}" y="{low + 15}">{len(shown):,} of {size:,} codes used</text>'
    )
    said = f"Level {level} of {subject.name}: {len(shown)} of {size} codes used, the largest has {top} items."
    return _figure(width, height, inner, said)


def map_figure(subject: Subject, rows: np.ndarray, points: np.ndarray) -> str:
    """Figure of the items in two dimensions, coloured by their first code."""
    first = subject.codes.codes[rows, 0]
    counts = np.bincount(subject.codes.codes[:, 0])
    common = np.argsort(-counts, kind="stable")[: min(_COLOURS, int((counts > 0).sum()))]
    size, edge = 360, 8
    low, high = points.min(0), points.max(0)
    scale = (size - 2 * edge) / max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    places = ((points - middle) * scale + size / 2).round(1)
    groups = [("c-other", ~np.isin(first, common))] + [(f"c{at}", first == code) for at, code in enumerate(common)]
    inner = "".join(
        f'<path class="dot {colour}" d="{"".join(f"M{x:g} {y:g}h0" for x, y in places[chosen].tolist())}"/>'
        for colour, chosen in groups
    )
    key = "".join(
        f'<span><i class="c{at}"></i>code {code} ({counts[code]:,} items)</span>' for at, code in enumerate(common)
    )
    whole = "vectors" if subject.vectors is not None else "decoded vectors"
    said = f"Map of {len(rows)} {whole} of items, coloured by the first code of {subject.name}."
    return _figure(size, size, inner, said) + f'<p class="key small-key">{key}</p>'


def _figure(width: int, height: int, inner: str, said: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f"{inner}</svg>"
    )
