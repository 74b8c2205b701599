"""Encode and decode from a folder with NumPy and safetensors alone, with torch's results."""

import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import semtok
from recbase.data.sequences import Histories
from semtok.codecs.additive import best_paths, nearest_rows
from semtok.codecs.portable import load_portable
from semtok.methods.residual import _beam_codes
from semtok.registry import tokenizer_class
from semtok.vector_tokenizer import VectorTokenizer

ROOT = Path(__file__).parents[3]
QUANTIZERS = [name for name in semtok.TOKENIZERS if issubclass(tokenizer_class(name), VectorTokenizer)]
VIEWS = {"text": slice(0, 8), "image": slice(8, 12)}
SMALL = {
    "levels": 2,
    "codebook_size": 16,
    "steps": 20,
    "epochs": 2,
    "batch_size": 32,
    "hidden": (16,),
    "latent_dim": 8,
    "validate_every": 20,
    "groups": 4,
    "inner_steps": 1,
    "max_len": 4,
    "quiet": True,
}

# Refuses every module but those of the standard library, NumPy, safetensors and the toolkit itself.
ISOLATED = """
import sys

ALLOWED = {"numpy", "safetensors", "recbase", "semtok"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
"""
USE = """
import sys
from pathlib import Path

import numpy as np

import semtok

for folder in map(Path, sys.argv[1:]):
    made = semtok.load(folder, backend="numpy")
    found = made.encode(np.load(folder / "X.npy"))
    assert found.dtype == np.int32
    assert (found == np.load(folder / "expected.npy")).all(), folder
    assert np.allclose(made.decode(found), np.load(folder / "decoded.npy"), atol=1e-5), folder
    print(folder.name)
"""


def some_vectors(rows: int = 200) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 12)).astype(np.float32)


def fitted(method: str, **arguments: Any) -> Any:
    made = tokenizer_class(method)
    known = inspect.signature(made).parameters
    small = {name: value for name, value in SMALL.items() if name in known}
    if "codebook_size" in known and isinstance(known["codebook_size"].default, tuple):
        small["codebook_size"] = (16, 16)
    tokenizer = made(**small | arguments)
    views = VIEWS if tokenizer.per_view or tokenizer.modalities else None
    draw = np.random.default_rng(1)
    inputs = {
        "collaborative": draw.normal(size=(200, 4)).astype(np.float32),
        "sequences": Histories.from_lists(draw.integers(1, 201, (60, 5)).tolist()),
        "missing": {},
    }
    return tokenizer.fit(some_vectors(), views=views, **{name: inputs[name] for name in tokenizer.inputs})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A saved folder of every method, with what torch makes of new vectors."""
    made = []
    wanted = [(method, fitted(method)) for method in semtok.TOKENIZERS] + [("rq-beam", fitted("rq", beam=5))]
    for name, tokenizer in wanted:
        folder = tmp_path_factory.mktemp(name)
        new = np.concatenate([some_vectors(50), some_vectors(300)[200:] * 2])
        tokenizer.save(folder)
        np.save(folder / "X.npy", new)
        np.save(folder / "expected.npy", tokenizer.encode(new))
        np.save(folder / "decoded.npy", tokenizer.decode(tokenizer.encode(new)))
        made.append(folder)
    return made


def test_every_method_has_a_program() -> None:
    for method in semtok.TOKENIZERS:
        assert tokenizer_class(method).program, f"{method} cannot be used without torch"


def test_nothing_but_numpy_and_safetensors_is_imported(folders: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "use.py"
    script.write_text(
        ISOLATED + USE + "\nimport importlib\ntry:\n    import torch\nexcept ImportError:\n    print('alone')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *map(str, folders)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [*(folder.name for folder in folders), "alone"]


@pytest.mark.slow
def test_an_environment_with_numpy_and_safetensors_alone(folders: list[Path], tmp_path: Path) -> None:
    """The wheel without its dependencies, beside the two packages and nothing else."""
    pytest.importorskip("setuptools", reason="builds the wheel")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("recbase", "semtok", "seqrec", "genrec"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    here = Path(sysconfig.get_path("platlib"))
    for package in ("numpy", "safetensors"):
        for path in [*here.glob(package), *here.glob(f"{package}.libs"), *here.glob(f"{package}-*.dist-info")]:
            (site / path.name).symlink_to(path)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "dist", source], check=True, cwd=tmp_path
    )
    wheel = next((tmp_path / "dist").glob("*.whl"))
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, cwd=tmp_path)
    script = tmp_path / "use.py"
    script.write_text(USE)
    for name in ("torch", "sklearn", "polars", "click"):
        missing = subprocess.run([python, "-c", f"import {name}"], capture_output=True, text=True, check=False)
        assert "ModuleNotFoundError" in missing.stderr
    found = subprocess.run([python, script, *folders], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [folder.name for folder in folders]


@pytest.mark.parametrize("beam", [2, 7, 100])
def test_the_beam_keeps_the_paths_that_torch_keeps(beam: int) -> None:
    import torch

    draw = np.random.default_rng(1)
    points, books = draw.normal(size=(40, 6)), [draw.normal(size=(size, 6)) for size in (9, 5, 7)]
    points, books = points.astype(np.float32), [book.astype(np.float32) for book in books]
    found = best_paths(points, books, beam)
    expected = _beam_codes(torch.from_numpy(points), [torch.from_numpy(book) for book in books], beam)
    assert (found == expected.numpy()).all()
    if beam == 100:  # more than all partial codes of two levels: the exact best
        every = books[0][:, None, None] + books[1][:, None] + books[2]
        best = np.square(points[:, None] - every.reshape(-1, 6)).sum(2).argmin(1)
        assert (found == np.stack(np.unravel_index(best, (9, 5, 7)), 1)).all()


def test_near_ties_are_settled_alike() -> None:
    """Points half-way between centroids, doubled centroids, tiny differences far from the origin."""
    import torch

    from semtok.kernels.lloyd import nearest

    draw = np.random.default_rng(2)
    book = draw.normal(size=(40, 24)).astype(np.float32)
    book[20:30] = book[:10]
    book[30:] = book[0] + 1e-6 * draw.normal(size=(10, 24)).astype(np.float32)
    left, right = draw.integers(0, 40, (2, 3000))
    points = (book[left] + book[right]) / 2 + draw.choice([0, 1e-7], 3000)[:, None].astype(np.float32)
    for shift in (0, 100):
        moved, centers = (points + shift).astype(np.float32), (book + shift).astype(np.float32)
        found = nearest_rows(moved, centers)
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            args = torch.from_numpy(moved).to(device), torch.from_numpy(centers).to(device)
            assert np.array_equal(found, nearest(*args, settle=True).cpu().numpy())
            turned = torch.from_numpy(moved.copy()).flip(0).to(device)
            assert np.array_equal(found[::-1], nearest(turned, args[1], settle=True).cpu().numpy())
        exact = np.square(moved[:, None].astype(np.float64) - centers.astype(np.float64)).sum(2)
        assert (exact[np.arange(3000), found] <= exact.min(1) + 1e-12 * np.square(moved).sum(1)).all()
        assert not np.isin(found, np.arange(20, 30)).any()  # the first of two equal centroids


@pytest.mark.parametrize(
    "method", [name for name in semtok.TOKENIZERS if issubclass(tokenizer_class(name), VectorTokenizer)]
)
def test_views_and_large_inputs_agree_with_torch(method: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_class(method)(codebook_size=16).fit(some_vectors(), views=VIEWS)
    tokenizer.save(tmp_path)
    new = some_vectors(5000)
    plain = load_portable(tmp_path)
    assert (plain.encode(new) == tokenizer.encode(new)).all()
    assert (plain.decode(tokenizer.encode(new)) == tokenizer.decode(tokenizer.encode(new))).all()


def test_refusals(tmp_path: Path) -> None:
    fitted("pq").save(tmp_path)
    plain = load_portable(tmp_path)
    with pytest.raises(ValueError, match=r"X has shape \(3, 5\); expected \[N, 12\]"):
        plain.encode(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        plain.encode(np.full((1, 12), np.nan))
    with pytest.raises(ValueError, match=r"codes have shape \(1, 3\); expected \[N, 4\]"):
        plain.decode(np.zeros((1, 3), dtype=int))
    with pytest.raises(ValueError, match=r"codes of level 1 must lie in 0\.\.15"):
        plain.decode(np.array([[0, 16, 0, 0]]))
    path = tmp_path / "semtok.json"
    path.write_text(path.read_text().replace('"additive"', '"magic"'))
    with pytest.raises(ValueError, match="has the program 'magic'; this installation knows additive"):
        load_portable(tmp_path)
    with pytest.raises(ValueError, match=r"backend='jax' is not one of torch, numpy"):
        semtok.load(tmp_path, backend="jax")
