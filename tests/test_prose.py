"""Prose of the pages: British spelling, and no sentence that opens with What or Whether."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
AMERICAN = re.compile(
    r"\b(colou?rs?(?<!colour)(?<!colours)|behaviors?|behavioral|centers?|centered|catalogs?|favorite|gray|labeled|"
    r"modeling|analyze[ds]?|honor|neighbors?|neighboring|canceled|artifacts?|defense|fulfill|skillful|signaled)\b",
    re.IGNORECASE,
)
OPENINGS = re.compile(r"(?:^(?:#+ |- |\*\*)?|[.:] )(?:What|Whether) (?!.*\?)", re.MULTILINE)


def words_of(path: Path) -> str:
    """A page without its code, links' targets and titles of papers in quotes."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", "", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_plain_british_english(path):
    words = words_of(path)
    assert [found[0] for found in AMERICAN.finditer(words)] == []
    assert [found[0] for found in OPENINGS.finditer(words)] == []


def test_the_rules_find_what_they_forbid():
    assert AMERICAN.search("its colors") is not None
    assert AMERICAN.search("the colours of behaviour") is None
    assert OPENINGS.search("It is so. What it costs stands below.") is not None
    assert OPENINGS.search("This says what it costs.") is None
