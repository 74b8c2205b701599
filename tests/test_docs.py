"""The worked examples of docs/ are run as they stand: the file, its line in the registry, and the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
CASES = {
    "adding-a-model": ("seqrec.REGISTRY", "seqrec.models.", "from seqrec import MODELS, REGISTRY, ModelEntry"),
    "adding-a-tokenizer": ("semtok.TOKENIZERS", "semtok.methods.", "from semtok import TOKENIZERS"),
}
REGISTER = {
    "adding-a-model": "REGISTRY.update(lines)\nMODELS.update({name: entry.target for name, entry in lines.items()})",
    "adding-a-tokenizer": "TOKENIZERS.update(lines)",
}


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", list(CASES))
def test_a_worked_example_runs(page: str, tmp_path: Path) -> None:
    code, line, contract = blocks(page, "python")
    (commands,) = blocks(page, "sh")
    _, room, imports = CASES[page]
    module = re.search(r"^# (\S+)\.py$", code, re.MULTILINE)
    assert module is not None
    name = module[1].rpartition("/")[2]
    (tmp_path / f"{name}.py").write_text(code)
    entries = "\n".join(one for one in line.splitlines() if not one.startswith("#")).replace(room + name, name)
    for words in (one.split() for one in commands.splitlines()):
        program = [
            "import sys",
            f"sys.path.insert(0, {str(tmp_path)!r})",
            imports,
            f"lines = {{{entries}}}",
            REGISTER[page],
            f"from {words[0]}.cli import main",
            f"main({words[1:]!r})",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(program)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.stdout.strip()
    (tmp_path / "test_contract.py").write_text(contract.replace(room + name, name))
    (tmp_path / "conftest.py").write_text("\n".join([imports, f"lines = {{{entries}}}", REGISTER[page]]))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(DOCS.parent)])}
    done = subprocess.run(tests, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, **paths})
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b(9|1\d) passed", done.stdout), done.stdout
