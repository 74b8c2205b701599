"""The documentation site builds without a warning, and what README and pages show is run or parsed."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORKED = {"adding-a-model", "adding-a-tokenizer"}  # run by test_docs, as whole files
PYTHON = [path for path in PAGES if "```python" in path.read_text(encoding="utf-8") and path.stem not in WORKED]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    pytest.importorskip("mkdocs", reason="the site needs the extra [docs]")
    pytest.importorskip("mkdocstrings", reason="the site needs the extra [docs]")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_builds_and_every_link_leads_somewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    wrong = []
    for page in pages:
        if page.name == "404.html":
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if re.match(r"[a-z]+:|//", link):
                continue
            target = (page.parent / link).resolve()
            target = target / "index.html" if link.endswith("/") or target.is_dir() else target
            if not target.exists():
                wrong.append(f"{page.relative_to(site)}: {link}")
    assert wrong == []


def test_every_command_and_public_name_is_in_the_reference(site):
    commands = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    names = (site / "reference/api/index.html").read_text(encoding="utf-8")
    for package in ("semtok", "seqrec", "genrec"):
        for command in importlib.import_module(f"{package}.cli").main.commands:
            assert f"{package} {command}" in commands
        for name in importlib.import_module(package).__all__:
            value = getattr(importlib.import_module(package), name)
            assert not isinstance(value, type) or f".{name}" in names, name


def test_the_search_finds_what_pages_say(site):
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    for word in ("Duplicates", "refresh", "standardised", "prefix recall"):
        assert word.lower() in index.lower()


@pytest.mark.parametrize("page", PYTHON, ids=name_of)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, page.name, "exec"), {"__name__": "page"})


LINES = [
    (name_of(path), line)
    for path in PAGES
    for line in re.findall(
        r"^    (?:curl.*|((?:semtok|seqrec|genrec) .*?))(?: +#.*)?$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    if line
]


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda value: str(value)[:60])
def test_commands_of_a_page_have_only_options_that_exist(page, line):
    package, *words = re.sub(r'"[^"]*"', "QUOTED", line).split()
    group = importlib.import_module(f"{package}.cli").main
    path = [words[0]]
    if words[0] in ("train", "fit", "tune") and len(words) > 1 and not words[1].startswith("-") and words[1].islower():
        path.append(words[1])
    shown = CliRunner().invoke(group, [*path, "--help-all"])
    assert shown.exit_code == 0, shown.output
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        for one in flag.split("|"):
            assert one in shown.output, f"{page}: {line!r}: {one} is not an option"


def test_the_readme_is_read_in_five_minutes():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
