"""Damaged artefacts of every kind: each opens and answers, or ends in one sentence that names the file."""

from __future__ import annotations

import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import semtok
from recbase.data.catalog import load_dataset
from recbase.evaluate.compare import compare_runs
from recbase.store.runs import load_run, open_run, read_item_vectors
from recbase.train.loop import DifferentRunError, TrainConfig, fit
from semtok.catalogue.append import generations
from semtok.catalogue.encode_shards import load_code_shards
from semtok.content.embeddings import load_embeddings
from semtok.content.shards import ShardedEmbeddings
from semtok.exchange.reading import read_codes

sys.path.insert(0, str(Path(__file__).parent))
from damages import damage
from saved_folders import FOLDERS, SEQREC, checkpoint_batches, checkpoint_model, vectors

SECONDS = 30
FOREIGN = (
    *(
        "polars",
        "pyarrow",
        "onnxruntime",
        "safetensorerror",
        "safetensors_rust",
        "traceback",
        "faiss/",
        "numpy._",
        "numpy.exceptions",
        "pyo3",
    ),
    *("nonetype", "keyerror", "unhashable", "subscriptable", "object has no attribute", "not iterable", "nn.module"),
)
"""What no sentence of ours says."""


def open_run_folder(folder: Path) -> None:
    """Load a run and let it answer, by every engine that it holds a file of."""
    from genrec import MODELS as GENERATORS
    from genrec.recommender import FittedGenerator
    from seqrec import MODELS
    from seqrec.recommender import FittedRanker

    run = load_run(folder, MODELS | GENERATORS)
    history = [str(item) for item in run.items["item_id"].head(3).to_list()]
    if hasattr(run.model, "search"):
        assert len(FittedGenerator(run).recommend(histories=[history], k=5, beams=8)) <= 5
        return
    engines = {"faiss": "items.faiss", "onnx": "scorer.onnx"}
    for engine in ("model", *(name for name, file in engines.items() if file in run.folder)):
        assert len(FittedRanker(run).recommend(histories=[history], k=5, engine=engine)) <= 5
    if "item_vectors.safetensors" in run.folder:
        assert len(read_item_vectors(open_run(folder))) == len(run.items)
    if "metrics.json" in run.folder:
        compare_runs([folder], samples=20)


def open_tokenizer_folder(folder: Path) -> None:
    """Load a tokenizer with both backends, encode and decode, and read its codes."""
    for backend in ("torch", "numpy"):
        tokenizer = semtok.load(folder, backend=backend)
        width = tokenizer.n_features_in_ if backend == "torch" else tokenizer.width
        X = np.resize(vectors(), (25, width)) if width <= 64 else np.zeros((25, width), dtype=np.float32)
        assert np.isfinite(tokenizer.decode(tokenizer.encode(X))).all()
    semtok.load_codes(folder)
    generations(folder)


def open_dataset_folder(folder: Path) -> None:
    """Load a data set and split it."""
    load_dataset(str(folder)).split()


def open_embeddings_folder(folder: Path) -> None:
    """Load embeddings, lay them side by side and encode a new item."""
    found = load_embeddings(folder)
    assert np.isfinite(found.matrix()[0]).all()


def open_vector_shards(folder: Path) -> None:
    """Read all shards."""
    found = ShardedEmbeddings(folder)
    np.asarray(found.matrix(blank=True)[0])
    assert len(found.item_ids) == len(found)


def open_code_files(folder: Path) -> None:
    """Read codes in every format."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".parquet", ".safetensors") and ".semtok." not in path.name:
            read_codes(path)


def open_checkpoint(folder: Path) -> None:
    """Go on training from a checkpoint."""
    config = TrainConfig(epochs=2, patience=0, quiet=True)
    fit(checkpoint_model(), checkpoint_batches(), None, config, folder, resume=True)


OPENERS: dict[str, Callable[[Path], Any]] = {
    "dataset": open_dataset_folder,
    "embeddings": open_embeddings_folder,
    "codes": semtok.load_codes,
    "code-files": open_code_files,
    "code-shards": load_code_shards,
    "vector-shards": open_vector_shards,
    "checkpoint": open_checkpoint,
}


def opener(name: str) -> Callable[[Path], Any]:
    """What opens a folder of a kind."""
    if name in OPENERS:
        return OPENERS[name]
    return open_tokenizer_folder if name.startswith("tokenizer") else open_run_folder


def command(name: str, folder: Path) -> list[Any] | None:
    """A command that reads a folder of a kind: its group and its words; None where there is none."""
    from genrec.cli import main as genrec
    from semtok.cli import main as semtok_group
    from seqrec.cli import main as seqrec

    if name.startswith("run-") or name == "export":
        group = seqrec if name.removeprefix("run-") in (*SEQREC, "export") else genrec
        return [group, "recommend", folder, "--history", "i01,i02", "--json"]
    if name.startswith("tokenizer") or name == "codes":
        return [semtok_group, "report", folder, "--json"]
    if name == "dataset":
        return [semtok_group, "embed", "--data", folder, "--out", folder.parent / "vectors", "--json"]
    return None


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise where a folder is not answered in time."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(error: BaseException, folder: Path) -> str | None:
    """What is wrong with how an opening ended; None if it is one clear sentence."""
    text = str(error)
    if type(error) not in (ValueError, OSError, FileNotFoundError, DifferentRunError):
        return f"{type(error).__name__}: {text}"
    names = {path.name for path in folder.rglob("*")} | {str(folder)}
    if not any(name in text for name in names):
        return f"names no file: {text}"
    if "\n" in text.strip() or len(text) > 700:
        return f"is not one sentence: {text}"
    if strange := [word for word in FOREIGN if word in text.lower().replace(str(folder).lower(), "")]:
        return f"says {strange[0]!r}: {text}"
    return None


def attempt(name: str, folder: Path) -> str | None:
    """What is wrong with how a folder opens; None if it answers or refuses clearly."""
    try:
        with time_limit():
            opener(name)(folder)
    except Exception as error:
        return fault(error, folder)
    return None


def attempt_command(name: str, folder: Path) -> str | None:
    """What is wrong with how a command answers; None if it is as it should be."""
    words = command(name, folder)
    if words is None:
        return None
    group, *rest = words
    with time_limit():
        result = CliRunner().invoke(group, [str(word) for word in rest])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{' '.join(map(str, rest))}: traceback {result.exception!r}"
    if result.exit_code not in (0, 1):
        return f"{' '.join(map(str, rest))}: exit code {result.exit_code}"
    if result.exit_code == 1 and "Error" not in result.stderr:
        return f"{' '.join(map(str, rest))}: no sentence on {result.stderr!r}"
    return None


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sound folder of every kind."""
    root = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in FOLDERS.items():
            torch.manual_seed(0)
            make(root / name)
    return root


def damaged_folder(saved: Path, name: str, target: Path, seed: int) -> str:
    """A copy of a sound folder with one or two damages; says which."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(saved / name, target)
    random = np.random.default_rng([seed, sum(map(ord, name))])
    return " and ".join(damage(target, random) for _ in range(1 + int(random.random() < 0.15)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOLDERS)
def test_a_sound_folder_answers(name: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / name, tmp_path / name)
    opener(name)(tmp_path / name)
    assert attempt_command(name, tmp_path / name) is None


def try_damages(saved: Path, tmp_path: Path, rounds: range, commands: int) -> list[str]:
    """Faults over some rounds of damages of every kind; every so many are tried by a command too."""
    faults, tried = [], 0
    for seed in rounds:
        for name in FOLDERS:
            target = tmp_path / name
            said = damaged_folder(saved, name, target, seed)
            tried += 1
            found = attempt(name, target)
            if found is None and tried % commands == 0:
                damaged_folder(saved, name, target, seed)
                found = attempt_command(name, target)
            if found is not None:
                faults.append(f"{name} (seed {seed}), {said}: {found}")
    return faults


@pytest.mark.filterwarnings("ignore")
def test_damaged_artefacts_answer_or_are_refused_in_a_sentence(saved: Path, tmp_path: Path) -> None:
    faults = try_damages(saved, tmp_path, range(5), 10)
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_damaged_artefacts(saved: Path, tmp_path: Path) -> None:
    faults = try_damages(saved, tmp_path, range(100, 100 + -(-2000 // len(FOLDERS))), 10)
    assert not faults, "\n".join(faults)
