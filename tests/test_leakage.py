"""What is held out is never learned: other validation and test items leave every weight and code as it was.

Two worlds differ in the last two events of every user alone. After one epoch (so that no epoch is chosen) all that a
model has learned, in all of its stages, must be equal bit by bit, and its judgement must not be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from generators import FAST, TINY
from small_models import COUNTED, SHOWN, SMALL

from genrec.cli import main as genrec
from recbase.data.catalog import load_dataset
from recbase.store.folder import load_arrays, open_folder
from semtok.codes import ItemCodes
from seqrec import REGISTRY
from seqrec.cli import main as seqrec

WORLDS = ("one", "other")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of the same users, items and training parts."""
    root = tmp_path_factory.mktemp("worlds")
    whole = load_dataset("synthetic", users=120, items=60)
    items, offsets = whole.histories.flat()
    held = np.concatenate([offsets[1:] - 2, offsets[1:] - 1])
    others = items.copy()
    others[held] = (others[held] + 6) % whole.n_items + 1
    users = np.repeat(np.arange(whole.n_users), np.diff(offsets))
    positions = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    ids = whole.item_ids.cast(str).to_numpy()
    for world, numbers in zip(WORLDS, (items, others), strict=True):
        (root / world).mkdir()
        events = {"user_id": users.astype(str), "item_id": ids[numbers - 1], "position": positions}
        pl.DataFrame(events).write_parquet(root / world / "interactions.parquet")
        whole.items.write_parquet(root / world / "items.parquet")
    one, other = (load_dataset(root / world) for world in WORLDS)
    assert one.hash != other.hash
    np.testing.assert_array_equal(one.split().train.flat()[0], other.split().train.flat()[0])
    assert (one.split().test.items != other.split().test.items).all()
    return root


def learned(command: Any, words: list[Any], out: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of a run's model, and its metrics."""
    result = CliRunner().invoke(command, [str(word) for word in [*words, "--out", out, "--quiet"]])
    assert result.exit_code == 0, result.output
    folder = open_folder(out, "config.json", "run")
    return load_arrays(folder.file("model.safetensors")), json.loads(folder.file("metrics.json").read_text())


def agree(runs: list[tuple[dict[str, np.ndarray], dict[str, Any]]]) -> None:
    """Equal arrays, unequal figures."""
    (ours, metrics), (theirs, other_metrics) = runs
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert metrics["test"] != other_metrics["test"]


@pytest.mark.parametrize("name", SHOWN)
def test_held_out_items_change_nothing_that_a_ranking_model_learns(name: str, worlds: Path) -> None:
    small = [word for key, value in SMALL.get(name, {}).items() for word in (f"--{key.replace('_', '-')}", value)]
    once = [] if name in COUNTED else ["--epochs", "1", "--seed", "0"]
    runs = []
    for world in WORLDS:
        words = ["train", name, "--data", worlds / world, *small, *once]
        runs.append(learned(seqrec, words, worlds / f"runs-{world}" / name))
    agree(runs)


@pytest.mark.parametrize("name", FAST)
def test_held_out_items_change_nothing_that_a_generator_learns(name: str, worlds: Path) -> None:
    runs = []
    for world in WORLDS:
        words = ["train", name, "--data", worlds / world, *TINY, *FAST[name]]
        out = worlds / f"runs-{world}" / name
        weights, metrics = learned(genrec, words, out)
        record = open_folder(out, "config.json", "run").manifest
        folders = record.get("codes_folders") or [record["codes_folder"]]
        codes = {f"codes {number}": ItemCodes.load(folder).codes for number, folder in enumerate(folders)}
        runs.append((weights | codes, metrics))
    agree(runs)


def test_every_shown_model_is_looked_at() -> None:
    assert set(SHOWN) == {name for name, entry in REGISTRY.items() if entry.kind != "deployed"}
