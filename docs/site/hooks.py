"""Pages that mkdocs builds from the code: commands, the public API, models with departures, examples, changelog."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import notebooks  # noqa: E402  (beside this file, which mkdocs loads by its path)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/commands.md": commands(),
        "reference/api.md": api(),
        "reference/models.md": models(),
        "examples.md": examples(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        pages[f"notebooks/{notebook.stem}.md"], pictures = notebooks.page(notebook)
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
        files.remove(files.src_uris[f"notebooks/{notebook.name}"])
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands() -> str:
    """Help of every command, all options shown."""
    import click
    from click.testing import CliRunner

    parts = ["# Commands\n\nThe help of every command, with all options (`--help-all`).\n"]

    def walk(command: click.Command, names: list[str]) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=names[-1])
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                if found is not None:
                    walk(found, [*names, name])
            return
        shown = CliRunner().invoke(main, [*names[1:], "--help-all"], prog_name=names[0], terminal_width=100)
        parts.append(f"## {' '.join(names)}\n\n```text\n{shown.output.rstrip()}\n```\n")

    for package in ("semtok", "seqrec", "genrec"):
        main = importlib.import_module(f"{package}.cli").main
        walk(main, [package])
    return "\n".join(parts)


def api() -> str:
    """Public names of the packages."""
    parts = ["# Python\n\nPublic names; what is not here may change without notice.\n"]
    for package in ("recbase", "semtok", "seqrec", "genrec"):
        module = importlib.import_module(package)
        parts.append(f"## {package}\n")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                parts.append(f"::: {value.__module__}.{value.__qualname__}\n    options:\n      heading_level: 3\n")
    return "\n".join(parts)


def models() -> str:
    """Every tokenizer and model: its paper, what it is and where it departs from the paper, from its docstring."""
    from genrec import REGISTRY as GENERATORS
    from semtok import TOKENIZERS
    from seqrec import REGISTRY as RANKERS

    parts = ["# Methods and models\n\nEach with its paper, and where it departs from it.\n"]
    groups = {
        "Tokenizers": {name: (target, "") for name, target in TOKENIZERS.items()},
        "Models that rank": {name: (entry.target, entry.paper) for name, entry in RANKERS.items()},
        "Generators": {name: (entry.target, entry.paper) for name, entry in GENERATORS.items()},
    }
    for title, group in groups.items():
        parts.append(f"## {title}\n")
        for name, (target, paper) in group.items():
            parts.append(f"### {name}\n")
            parts.append(f"*{paper}.* {_prose(target)}\n" if paper else f"{_prose(target)}\n")
    return "\n".join(parts)


def examples() -> str:
    """The scripts of examples/, as they stand."""
    parts = ["# Examples\n\nScripts of `examples/`, one for each kind of user. The test suite runs them.\n"]
    for name in ("shop", "researcher", "other_project"):
        text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").rstrip()
        parts.append(f"## examples/{name}.py\n\n```python\n{text}\n```\n")
    return "\n".join(parts)


def _prose(target: str) -> str:
    """Docstring of a class up to its parameters, and its notes."""
    module, _, kind = target.partition(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    node = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == kind)
    text = ast.get_docstring(node) or ""
    before, _, after = text.partition("\nParameters\n")
    notes = after.partition("\nNotes\n-----\n")[2].partition("\n\nExamples\n")[0]
    return before.strip() + (f"\n\n{notes.strip()}" if notes else "")
