"""Guards of the architecture: import arrows, light imports, public names, the README's code, lint and types."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["recbase", "semtok", "seqrec", "genrec"]
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imported(path):
    """Top-level names of the packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_leftwards(path):
    allowed = PACKAGES[: PACKAGES.index(path.relative_to(ROOT).parts[0]) + 1]
    assert imported(path) & set(PACKAGES) <= set(allowed)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_pickled(path):
    text = path.read_text(encoding="utf-8")
    for forbidden in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "joblib"):
        assert forbidden not in text


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_a_dumping_ground(path):
    assert path.stem not in {"utils", "common", "helpers", "misc", "base"}


@pytest.mark.parametrize("module", ["recbase", "semtok", "seqrec", "genrec", "semtok.cli", "seqrec.cli", "genrec.cli"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'polars', 'sklearn', 'transformers') " \
           "if name in sys.modules])"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["semtok", "seqrec", "genrec"])
def test_public_names_can_be_had(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_function_and_class_is_documented(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith(("_", "list_")):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_readme_python_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_names_only_options_that_exist():
    """Every `semtok ...` or `seqrec ...` line of the README parses, option by option."""
    from click.testing import CliRunner

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:semtok|seqrec) .*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        package, *words = line.split()
        command = importlib.import_module(f"{package}.cli").main
        path = [word for word in words[:2] if not word.startswith("-") and word not in ("RUN", "...")]
        path = path if path[0] == "train" else path[:1]
        shown = CliRunner().invoke(command, [*path, "--help-all"]).output
        for flag in (word for word in words if word.startswith("--")):
            assert flag in shown, f"{line!r}: {flag} is not an option"


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True, cwd=ROOT)
        assert found.returncode == 0, found.stdout + found.stderr


def test_types():
    found = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
