"""One look: figures, the report's page and the site share their colours."""

from pathlib import Path

import pytest

from recbase.evaluate.look import FIRST, GREY, GRID, SECOND, SERIES, panels, write_png

ROOT = Path(__file__).parents[3]


def test_page_and_site_have_the_colours_of_the_figures():
    page = (ROOT / "semtok/report/page.css").read_text(encoding="utf-8")
    for name, colour in {"one": FIRST, "two": SECOND, "dot": GREY, "line": GRID}.items():
        assert f"--{name}:{colour}" in page.replace("\n", "")
    for place, colour in enumerate(SERIES):
        assert f"--k{place}:{colour}" in page.replace("\n", "")
    site = (ROOT / "docs/look.css").read_text(encoding="utf-8")
    assert f"--md-primary-fg-color: {FIRST}" in site
    assert f"--md-accent-fg-color: {SECOND}" in site


def test_a_figure_fits_a_phone(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need the extra [plots]")
    figure, axes = panels(1.0, 2.0)
    assert len(axes) == 2
    width = figure.get_size_inches()[0]
    for one in axes:
        label = one.xaxis.label.get_size() / 72 / width * 360  # pixels on a phone
        assert label > 9
    write_png(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
