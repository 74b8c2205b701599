"""Public names have real types for whoever checks their own code, and a plug-in's models are ours for the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GOOD = """
import polars as pl

import genrec
import semtok
import seqrec
from recbase import Dataset
from seqrec import SASRec

data = Dataset.from_frames(pl.DataFrame(), user="customer", item="sku")
model = SASRec.train(data, epochs=20)
table: pl.DataFrame = model.recommend(users=["anna"], k=10)
model.evaluate()
print(model.save("runs/x"), seqrec.load("runs/x").metrics, genrec.load("runs/y").history)
print(str(seqrec.compare([model, "runs/y"])), genrec.TIGER.train(data, codes="codes").name)
network = SASRec(items=10, dim=16)
fused = seqrec.CCFRec(10, [4, 4], 2, dim=16, fusion_dropout=0.1, mask_ratio=0.5)
network.train()
network.train(False)
fitted = semtok.fit("rqvae", data)
codes = semtok.ProductQuantizer(levels=4).fit(fitted.codes.codes)
"""

BAD = {
    "SASRec(items=10, dims=3)": 'Unexpected keyword argument "dims" for "SASRec"',
    "SASRec(items='ten')": 'Argument "items" to "SASRec" has incompatible type "str"; expected "int"',
    "seqrec.CCFRec(10, [4], 1, fusion_droput=0.1)": 'Unexpected keyword argument "fusion_droput" for "CCFRec"',
    "seqrec.CCFRec(10, [4], 1, mask_ratio='half')": 'Argument "mask_ratio" to "CCFRec" has incompatible type "str"',
    "seqrec.SASRek": 'Module has no attribute "SASRek"',
    "semtok.ProductQuantizer(level=4)": 'Unexpected keyword argument "level" for "ProductQuantizer"',
    "genrec.TIGGER": 'Module has no attribute "TIGGER"',
    "seqrec.load('x').recommend(user=['anna']).columns + 1": 'No overload variant of "__add__" of "list"',
    "seqrec.load(3)": 'Argument 1 to "load" has incompatible type "int"',
    "Dataset.from_frames()": 'Missing positional argument "interactions"',
}


def check(folder, *flags):
    """Messages of mypy about good and bad code of a user, in ``folder``."""
    opening = "# mypy: disallow-untyped-calls, disallow-untyped-defs, warn-return-any, disallow-any-generics\n"
    imports = ["import genrec, semtok, seqrec", "from recbase import Dataset", "from seqrec import SASRec"]
    (folder / "good.py").write_text(opening + GOOD)
    (folder / "bad.py").write_text(opening + "\n".join([*imports, *BAD]) + "\n")
    files = [str(folder / name) for name in ("good.py", "bad.py")]
    found = subprocess.run([sys.executable, "-m", "mypy", *flags, *files], capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in found.stdout.splitlines() if "good.py" in line or "bad.py" in line]
    assert not found.stderr, found.stderr
    assert [line for line in lines if "good.py" in line] == []
    for number, (line, wanted) in enumerate(BAD.items(), 5):
        said = [message for message in lines if f"bad.py:{number}:" in message]
        assert any(wanted in message for message in said), (line, lines)


def test_types(tmp_path):
    """The packages' own types, then those a user sees: in this order, so that the second run finds what is cached."""
    found = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    check(tmp_path)


@pytest.mark.slow
def test_types_under_strict(tmp_path):
    check(tmp_path, "--strict", "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache"))


ENTRY = """
from seqrec import ModelEntry

LATEST = ModelEntry("latest_model:Latest", "none", ("ids",), "none", kind="counted")
BROKEN = 3
"""

MODEL = '''
"""Recommends what was bought last."""

import numpy as np
import torch

from recbase.model import Pretrained


class Latest(Pretrained):
    """Items by how lately anybody had them.

    Parameters
    ----------
    items : int
        Items in the catalogue.
    bonus : float, default 1.0
        Score of the latest.
    """

    def __init__(self, items: int, *, bonus: float = 1.0) -> None:
        self.items, self.bonus, self.max_len = items, bonus, 1
        self.scores = np.zeros(items, np.float32)

    def fit(self, train):
        self.scores[train.flat()[0] - 1] = self.bonus
        return self

    def config(self):
        return {"items": self.items, "bonus": self.bonus}

    def tensors(self):
        return {"scores": self.scores}

    def load(self, tensors):
        self.scores = tensors["scores"]

    def scorer(self):
        return Scores(self)


class Scores:
    def __init__(self, model):
        self.model, self.n_items, self.max_len = model, model.items, 1

    def __call__(self, items, lengths):
        return torch.from_numpy(self.model.scores).expand(len(items), -1)
'''


@pytest.fixture
def site(tmp_path):
    """What pip leaves behind of a package with two entries, one of them broken."""
    (tmp_path / "latest_entry.py").write_text(ENTRY)
    (tmp_path / "latest_model.py").write_text(MODEL)
    info = tmp_path / "latest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: latest\nVersion: 1.0\n")
    points = "[seqrec.models]\nlatest = latest_entry:LATEST\nodd = latest_entry:BROKEN\nsasrec = latest_entry:LATEST\n"
    (info / "entry_points.txt").write_text(points)
    return tmp_path


def python(site, *words):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=site, env=environment)


def test_a_model_of_another_package_is_trained_by_name(site):
    command = ["-m", "seqrec.cli", "train", "latest", "--data", "synthetic", "--bonus", "2", "--out", "run"]
    found = python(site, *command)
    assert found.returncode == 0, found.stderr
    assert "latest" in found.stdout
    assert "the entry point 'odd' of the group seqrec.models is left out: latest_entry:BROKEN is a int" in found.stderr
    assert "the entry point 'sasrec' = 'latest_entry:LATEST' of the group seqrec.models is left out" in found.stderr
    used = python(
        site,
        "-W",
        "ignore",
        "-c",
        "import latest_entry, latest_model, seqrec; from recbase.data.catalog import load_dataset; "
        "model = latest_model.Latest.train(load_dataset('synthetic'), bonus=3.0); "
        "print(model.name, model.recommend(histories=[[0]], k=2)['score'].to_list(), seqrec.load('run').name)",
    )
    assert used.stdout.split() == ["latest", "[3.0,", "3.0]", "latest"], used.stderr
    listed = python(site, "-W", "ignore", "-m", "seqrec.cli", "list")
    assert "latest" in listed.stdout
