"""Guards of the architecture: import arrows, light imports, public names and lint."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
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


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_and_constructors_are_short(path):
    for function in functions(tree_of(path)):
        first = function.body[1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0]
        assert function.end_lineno - first.lineno < 60, (
            f"{function.name} has {function.end_lineno - first.lineno + 1} lines"
        )
        if function.name == "__init__":
            arguments = len(function.args.args) + len(function.args.kwonlyargs) - 1
            assert arguments <= 20, f"line {function.lineno}: a constructor of {arguments} arguments"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_dataclasses_have_few_fields_of_their_own(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef) and "dataclass" in " ".join(map(ast.unparse, node.decorator_list)):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            assert len([field for field in fields if "ClassVar" not in ast.unparse(field.annotation)]) <= 20, node.name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings_open_with_a_verb_or_a_noun(path):
    nodes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef | ast.FunctionDef))
    for node in nodes:
        opening = (ast.get_docstring(node) or "").split(" ", 1)[0]
        assert opening not in {"What", "Whether", "Which", "How", "Where", "Why"}, f"{node.name}: {opening} ..."


def test_rooms_have_few_files():
    counts = Counter(path.parent for path in FILES if not path.stem.startswith("__"))
    crowded = {
        name_of(room): count for room, count in counts.items() if count > 15 and room.name not in ("models", "methods")
    }
    assert crowded == {}


def import_graph():
    """Modules of the packages, and those of them that each imports, at its top or inside a function."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        tree = tree_of(path)
        for node in ast.walk(tree):  # what only a type checker imports is no arrow
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in modules else node.module for name in names}
        graph[module] = (found & modules.keys()) - {module}
    return graph


def test_no_module_imports_itself_in_a_circle():
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the circle


def room_of(module):
    parts = module.split(".")
    return ".".join(parts[:2]) if (ROOT / "/".join(parts[:2])).is_dir() else parts[0]


def test_rooms_import_in_one_direction():
    """No two rooms of a package import each other; a package's own files at its root are no room."""
    arrows = {(room_of(module), room_of(other)) for module, others in import_graph().items() for other in others}
    arrows = {(a, b) for a, b in arrows if a != b and "." in a and "." in b}
    assert [pair for pair in sorted(arrows) if pair[::-1] in arrows and pair < pair[::-1]] == []


def test_generators_take_from_rankers_only_models():
    taken = {other for module, others in import_graph().items() if module.startswith("genrec") for other in others}
    assert {name for name in taken if name.startswith("seqrec") and not name.startswith("seqrec.models.")} <= {"seqrec"}


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True, cwd=ROOT)
        assert found.returncode == 0, found.stdout + found.stderr
