"""What is published: a source distribution from which the suite runs, a wheel with all that the packages read."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {"faiss": "faiss-cpu", "sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub", "PIL": "pillow"} | {
    "resvg_py": "resvg-py"
}
BUILD = "from setuptools import build_meta as b; import sys; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files that git knows."""
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("the suite does not run from a git checkout")
    return [name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, so that a build leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("build") / "semtok"
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def built(checkout: Path, kind: str) -> Path:
    """A distribution of this checkout."""
    out = checkout.parent / kind
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(out)],
        cwd=checkout, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.splitlines()[-1]


def test_the_source_distribution_holds_every_file(checkout: Path, tracked: list[str]) -> None:
    with tarfile.open(built(checkout, "sdist")) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in tracked if name not in held and name != ".gitignore"]
    assert not missing


def test_the_wheel_holds_what_the_packages_read_and_nothing_else(checkout: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(built(checkout, "wheel")) as archive:
        held = set(archive.namelist())
    packages = ("recbase/", "semtok/", "seqrec/", "genrec/")
    wanted = {name for name in tracked if name.startswith(packages)}
    assert wanted <= held
    assert {name for name in held if ".dist-info/" not in name} == wanted


def imported() -> dict[str, set[str]]:
    """Top-level packages that ours import, with the files that do."""
    found: dict[str, set[str]] = {}
    ours = {"recbase", "semtok", "seqrec", "genrec"}
    for path in (path for package in ours for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - ours - set(sys.stdlib_module_names):
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_imported_package_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(one for name, listed in extras.items() if name != "dev" for one in listed)]
    names = {re.split(r"[\[><=;~! ]", one)[0].lower() for one in declared}
    for package, files in imported().items():
        assert NAMES.get(package, package).lower() in names, (package, sorted(files))


def test_packages_of_extras_are_imported_late() -> None:
    """A plain install imports nothing that it does not have."""
    plain = {re.split(r"[\[><=;~! ]", one)[0].lower() for one in PROJECT["dependencies"]}
    allowed = {"recbase/serving/web.py", "recbase/serving/messages.py", "seqrec/examples/onnx_example.py"}
    for package, files in imported().items():
        if NAMES.get(package, package).lower() in plain:
            continue
        for name in files - allowed:
            tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            for node in top:
                given = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert (given or "").partition(".")[0] != package, f"{name} imports {package} at its top"


def test_the_changelog_and_the_classifiers_fit() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["authors"]
    assert f"Programming Language :: Python :: {sys.version_info[0]}.{sys.version_info[1]}" in PROJECT["classifiers"]
