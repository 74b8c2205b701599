"""The figures of a report, drawn once, as SVG: on the page, in files of their own, and as PNG."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from recbase.console import plain
from semtok.report.measures import project
from semtok.report.sources import Subject

_COLOURS = 8  # of the style sheet

_MOST_LEVELS, _MOST_POINTS = 8, 1000
_PIXELS = 1080  # three times the drawing's own width, for screens and print
STYLE = files("semtok.report").joinpath("page.css").read_text(encoding="utf-8")

__all__ = ["STYLE", "Drawn", "colours_of", "draw", "histogram", "map_figure", "use_figure"]


@dataclass(frozen=True)
class Drawn:
    """The figures of one subject.

    Attributes
    ----------
    use : Markup
        How evenly the codes of every level are used.
    levels : list of Markup
        Items of each code, a figure each for the first eight levels.
    map : Markup or None
        The items in two dimensions, where there are vectors.
    """

    use: Markup
    levels: list[Markup]
    map: Markup | None

    def files(self, png: bool = False) -> dict[str, bytes]:
        """Name to content of a file for each figure, with the style of the page.

        Parameters
        ----------
        png : bool, default False
            Render each as PNG too, 1,080 pixels wide and in the light colours.

        Raises
        ------
        ImportError
            If PNGs are wanted and resvg-py, or matplotlib with its font, is not installed.
        """
        named = {"use": self.use} | {f"level-{level}": figure for level, figure in enumerate(self.levels)}
        named |= {} if self.map is None else {"map": self.map}
        found = {f"{name}.svg": _alone(figure, STYLE).encode() for name, figure in named.items()}
        return found | ({f"{name}.png": _rendered(figure) for name, figure in named.items()} if png else {})


def _alone(figure: Markup, style: str) -> str:
    opened = str(figure).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return opened.replace("<title>", f"<style>{style}</style><title>", 1)


def _rendered(figure: Markup) -> bytes:
    try:
        from matplotlib import get_data_path
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ImportError("a PNG needs resvg-py and matplotlib: pip install 'semtok[plots]'") from error
    # A font that comes with the packages: servers often have none, and the same figure is the same file everywhere.
    font: dict[str, Any] = {
        "font_files": [f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"],
        "sans_serif_family": "DejaVu Sans",
    }
    drawn = _alone(figure, _plain_style())
    return bytes(svg_to_bytes(svg_string=drawn, background="#ffffff", width=_PIXELS, skip_system_fonts=True, **font))


def _plain_style() -> str:
    """The style without variables and without what depends on a screen: a renderer of files knows neither."""
    colours = dict(re.findall(r"--(\w+):([^;}]+)", STYLE.split("@media", 1)[0]))
    rules = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", STYLE)
    rules = rules.replace("system-ui,", "")
    return re.sub(r"var\(--(\w+)\)", lambda found: colours.get(found[1], found[0]), rules)


def draw(subjects: Sequence[Subject], seed: int = 0) -> list[Drawn]:
    """Draw the figures of subjects.

    Parameters
    ----------
    subjects : sequence of Subject
        From `semtok.report.sources.examine`; those that have the same vectors share one map of points.
    seed : int, default 0
        Seed of the points and of the t-SNE.
    """
    maps = _maps(subjects, seed)
    return [
        Drawn(
            use_figure(subject),
            [histogram(subject, level, column) for level, column in enumerate(subject.codes.codes.T[:_MOST_LEVELS])],
            figure,
        )
        for subject, figure in zip(subjects, maps, strict=True)
    ]


def _maps(subjects: Sequence[Subject], seed: int) -> list[Markup | None]:
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    figures: list[Markup | None] = []
    for subject in subjects:
        vectors = subject.vectors if subject.vectors is not None else subject.decoded
        if vectors is None:
            figures.append(None)
            continue
        same = next((key for key in made if key == id(vectors)), None) or _like(subject, subjects, made)
        if same is None:
            rows = np.arange(len(vectors))
            if len(rows) > _MOST_POINTS:
                rows = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST_POINTS, replace=False))
            same = id(vectors)
            made[same] = (rows, project(np.asarray(vectors)[rows], seed))
        figures.append(map_figure(subject, *made[same]))
    return figures


def _like(subject: Subject, subjects: Sequence[Subject], made: Mapping[int, object]) -> int | None:
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


def use_figure(subject: Subject) -> Markup:
    """Figure of how evenly the codes of every level are used."""
    levels = subject.report["levels"]
    width, height, left, low = 360, 168, 42, 142
    step = (width - left - 6) / len(levels)
    bar = min(22.0, step * 0.36)
    parts = [
        f'<rect class="{colour}" x="{x}" y="2" width="10" height="10"/><text x="{x + 14}" y="11">{label}</text>'
        for x, colour, label in ((left, "s1", "used codes"), (left + 110, "s2", "effective codes (perplexity)"))
    ]
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


def histogram(subject: Subject, level: int, column: np.ndarray) -> Markup:
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


def colours_of(subject: Subject) -> tuple[list[int], list[int]]:
    """The most frequent first codes, which have colours of their own on the map, and how many items each has."""
    counts = np.bincount(subject.codes.codes[:, 0])
    common = np.argsort(-counts, kind="stable")[: min(_COLOURS, int((counts > 0).sum()))]
    return common.tolist(), counts[common].tolist()


def map_figure(subject: Subject, rows: np.ndarray, points: np.ndarray) -> Markup:
    """Figure of the items in two dimensions, coloured by their first code."""
    first = subject.codes.codes[rows, 0]
    common, _ = colours_of(subject)
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
    whole = "vectors" if subject.vectors is not None else "decoded vectors"
    said = f"Map of {len(rows)} {whole} of items, coloured by the first code of {subject.name}."
    return _figure(size, size, inner, said)


def _figure(width: int, height: int, inner: str, said: str) -> Markup:
    """The drawing, and in words what it shows; names in these come from data."""
    words = Markup.escape(plain(said))
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{words}"><title>{words}</title>'
    return Markup(f"{opening}{inner}</svg>")
