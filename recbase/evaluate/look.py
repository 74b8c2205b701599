"""Colours and sizes of all figures, those of the report's page. Knows nothing of what is drawn."""

from __future__ import annotations

import io
import os
from typing import Any

from recbase.store.folder import check_file, write_file

__all__ = ["FIRST", "GREY", "GRID", "SECOND", "SERIES", "panels", "write_png"]

FIRST, SECOND, GREY, GRID = "#2f6db3", "#c06515", "#b9c0ca", "#dde2e8"
SERIES = (FIRST, "#d2691e", "#2a8a57", "#c2394d", "#7a57b8", "#8a6a35", "#c7549f", "#128c9b")
_WIDTH = 5.0  # inches: at a phone's 360 pixels the labels are still 9 pixels high


def panels(*heights: float, grid: str = "both") -> tuple[Any, list[Any]]:
    """A figure of panels below one another, which a phone shows legibly, and its axes.

    Parameters
    ----------
    *heights : float
        Of each panel, in inches.
    grid : {"x", "y", "both"}, default "both"
        Lines of the grid.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a figure needs matplotlib: install it with pip install 'semtok[plots]'") from error
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    axes = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    for one in axes:
        one.set_prop_cycle(color=SERIES)
        one.grid(axis=grid, color=GRID)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_png(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG of 150 dots an inch, whole or not at all."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    check_file(path)
    write_file(path, out.getvalue())
