"""A third party's tokenizer, installed as a package with an entry point, behaves as one of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MODULE = '''
"""Signs of random projections."""

import numpy as np

from semtok import ItemTokenizer


class SignCodes(ItemTokenizer):
    """Signs of random projections, one bit a level.

    Parameters
    ----------
    bits : int, default 3
        Projections.
    seed : int, default 0
        Same seed, same codes.

    Notes
    -----
    Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.
    """

    method = "signs"
    program = "signs"
    default_unique = "none"

    def __init__(self, *, bits: int = 3, seed: int = 0) -> None:
        self.bits = bits
        self.seed = seed

    def fit(self, X, y=None, views=None):
        X = np.asarray(X, dtype=np.float32)
        self.directions_ = np.random.default_rng(self.seed).normal(size=(X.shape[1], self.bits)).astype(np.float32)
        self.n_features_in_ = X.shape[1]
        self.views_ = {"item": slice(0, X.shape[1])}
        self.sizes_ = [2] * self.bits
        self.blocks_ = {"item": slice(0, self.bits)}
        return self

    def encode(self, X):
        return (np.asarray(X) @ self.directions_ > 0).astype(np.int32)

    def decode(self, codes):
        return ((2.0 * np.asarray(codes) - 1) @ self.directions_.T).astype(np.float32)

    def _state(self):
        return {}, {"directions": self.directions_}

    def _restore(self, manifest, arrays):
        self.directions_ = arrays["directions"]


class Signs:  # no torch, no scikit-learn
    """The same with NumPy alone."""

    def __init__(self, manifest, arrays):
        self.directions = arrays["directions"]

    def encode(self, X):
        return (np.asarray(X) @ self.directions > 0).astype(np.int32)

    def decode(self, codes):
        return ((2.0 * np.asarray(codes) - 1) @ self.directions.T).astype(np.float32)
'''


def install(site: Path, module: str, source: str, points: str) -> None:
    """What pip leaves behind of a small package."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[semtok.tokenizers]\n{points}\n[semtok.programs]\nsigns = {module}:Signs\n"
    )


def python(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process that finds the package."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=site, env=environment, check=False)


def semtok(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return python(site, "-m", "semtok.cli", *arguments)


USE = """
import json
import numpy as np
import semtok
from click.testing import CliRunner
from semtok.cli import main

def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout

listed = json.loads(run("list", "--json"))["methods"]
shown = run("fit", "--help")
report = json.loads(run("fit", "--method", "signs", "--bits", "5", "--data", "synthetic", "--json", "--out", "codes"))
codes, made, plain = semtok.load_codes("codes").codes, semtok.load("codes"), semtok.load("codes", backend="numpy")
X = np.eye(made.n_features_in_)
print(json.dumps({
    "listed": listed["signs"],
    "ours": "pq" in listed,
    "help": "signs" in shown and "--bits INT" in shown,
    "sizes": report["report"]["sizes"],
    "classes": [type(made).__name__, type(plain).__name__],
    "levels": codes.shape[1],
    "equal": bool((plain.encode(X) == made.encode(X)).all()),
}))
"""


def test_an_installed_tokenizer_is_listed_fitted_and_loaded(tmp_path: Path) -> None:
    install(tmp_path, "sign_codes", MODULE, "signs = sign_codes:SignCodes")
    found = python(tmp_path, "-c", USE)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == {
        "listed": {
            "summary": "Signs of random projections, one bit a level.",
            "paper": "Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002",
            "inputs": ["vectors"],
            "unique": "none",
            "class": "sign_codes:SignCodes",
        },
        "ours": True,
        "help": True,
        "sizes": [2] * 5,
        "classes": ["SignCodes", "Signs"],
        "levels": 5,
        "equal": True,
    }


@pytest.mark.parametrize(
    ("points", "source", "words"),
    [
        ("signs = gone:SignCodes", MODULE, "method signs cannot be used: module 'gone' does not exist"),
        ("signs = sign_codes:Nothing", MODULE, "'sign_codes:Nothing' names no class"),
        ("signs = sign_codes:SignCodes", MODULE.replace("bits: int = 3", "levels: bool = True"), "option levels is"),
    ],
)
def test_a_broken_one_is_named_and_disturbs_no_other(tmp_path: Path, points: str, source: str, words: str) -> None:
    install(tmp_path, "sign_codes", source, points)
    failed = semtok(tmp_path, "fit", "--method", "signs", "--data", "synthetic")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert failed.stderr.count("\n") == 1
    listed = json.loads(semtok(tmp_path, "list", "--json").stdout)["methods"]
    assert "cannot be used" in listed["signs"]["summary"]
    assert listed["pq"]["unique"] == "none"


def test_a_taken_name_is_left_out_with_a_warning(tmp_path: Path) -> None:
    install(tmp_path, "sign_codes", MODULE, "pq = sign_codes:SignCodes")
    listed = semtok(tmp_path, "list", "--json")
    assert "its name already means 'semtok.methods.product:ProductQuantizer'" in listed.stderr
    assert json.loads(listed.stdout)["methods"]["pq"]["class"] == "semtok.methods.product:ProductQuantizer"
