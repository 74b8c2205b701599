"""The split of a data set goes with it: what is trained on, what a run records, and a last training on everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from generators import FAST
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec
import semtok
import seqrec
from recbase import Dataset
from recbase.data.catalog import load_dataset
from recbase.data.sequences import Histories
from recbase.data.splits import held_out_users
from seqrec.cli import main


def world(users: int = 120, items: int = 40) -> Dataset:
    rng = np.random.default_rng(5)
    drawn = rng.integers(3, size=(users, 8))
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{(user + 3 * step + drawn[user, step]) % items}", "timestamp": step}
        for user in range(users)
        for step in range(8)
    ]
    titles = [f"thing {item % 7} no {item}" for item in range(items)]
    catalogue = pl.DataFrame({"item_id": [f"i{item}" for item in range(items)], "title": titles})
    return Dataset.from_frames(pl.DataFrame(rows), catalogue, min_user=1, min_item=1, quiet=True)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=60, max_size=120), seed=st.integers(0, 999))
def test_nothing_of_a_held_out_user_is_trained_on(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [list(rng.integers(1, 9, length)) for length in [2, 3, *lengths]]
    histories = Histories.from_lists(lists)
    keys = rng.integers(0, 2**63, len(lists)).astype(np.uint64)
    keys[:3] = [8, 9, 0]  # every part has somebody
    split = held_out_users(histories, keys)
    trained = np.flatnonzero(split.train.lengths)
    for targets in (split.valid, split.test):
        assert targets.known_users is None
        assert not set(targets.users) & set(trained)
        for row, user in enumerate(targets.users):
            assert [*targets.histories[row], targets.items[row]] == list(histories[user])
    assert not set(split.valid.users) & set(split.test.users)
    assert (split.train.lengths[trained] == histories.lengths[trained]).all()


def test_who_is_held_out_depends_on_the_id_alone() -> None:
    whole = world().divided("users")
    held = {str(whole.user_ids[int(row)]) for row in whole.split().test.users}
    events = whole.interactions().filter(pl.col("user_id").str.ends_with("5").not_())
    less = Dataset.from_frames(events, whole.items, min_user=1, min_item=1, quiet=True).divided("users")
    kept = {str(less.user_ids[int(row)]) for row in less.split().test.users}
    assert kept == {name for name in held if not name.endswith("5")}
    assert 0.02 < len(held) / whole.n_users < 0.25


def test_a_division_is_part_of_what_is_trained_on_and_not_of_the_data() -> None:
    data = world()
    for name, full in (("last", "leave-last-out"), ("time", "global-time"), ("users", "held-out-users")):
        made = data.divided(name)
        assert made.split().name == made.division == full
        assert made.hash == data.hash
        assert made.divided("last").trained_hash == data.hash
    assert len({data.divided(name).trained_hash for name in ("last", "time", "users")}) == 3
    assert data.divided("leave-last-out") is data
    with pytest.raises(ValueError, match="split must be one of last, time, users, got 'half'"):
        data.divided("half")


@pytest.mark.parametrize("split", ["time", "users"])
def test_runs_record_their_split_and_are_evaluated_by_it(split: str, tmp_path: Path) -> None:
    data = world()
    model = seqrec.SASRec.train(data, split=split, epochs=1, dim=8, out=tmp_path / "run", cache=tmp_path, quiet=True)
    full = data.divided(split).division
    assert model.metrics["protocol"]["split"] == full
    assert model.manifest["split"] == full
    again = seqrec.load(tmp_path / "run", data)
    assert again.evaluate()["test"] == model.metrics["test"]
    assert again.evaluate(data)["test"] == model.metrics["test"]
    assert again.data.division == full
    other = seqrec.SASRec.train(data, epochs=1, dim=8, out=tmp_path / "other", cache=tmp_path, quiet=True)
    with pytest.raises(ValueError, match=f"has the split {full} but|has the split leave-last-out but"):
        seqrec.blend([other, again], quiet=True)
    with pytest.raises(ValueError, match="split"):
        seqrec.compare([other, again])


def test_held_out_users_are_strangers_to_models_that_read_users(tmp_path: Path) -> None:
    data = world().divided("users")
    model = seqrec.train("bpr", data, split="users", epochs=1, out=tmp_path / "run", cache=tmp_path, quiet=True)
    before = model.evaluate()["test"]
    rows = torch.from_numpy(np.asarray(data.split().test.users))
    with torch.no_grad():
        table = model.model.user_embedding.weight
        table[rows] = table[rows].flip(0)  # their mean, the prior of strangers, stays
    assert model.evaluate()["test"] == before


def test_codes_that_learn_behaviour_know_the_split(tmp_path: Path) -> None:
    data, options = world(), {"steps": 5, "codebook_size": 8, "levels": 2, "groups": 2}
    codes = [
        semtok.fit("letter", data.divided(split), cache=tmp_path, quiet=True, **options)
        for split in ("last", "users", "last")
    ]
    assert codes[0].codes.hash == codes[2].codes.hash
    names = {path.name for path in tmp_path.glob("codes-letter-*")}
    assert len(names) == 2


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_final_trains_on_everything_for_the_best_epochs(tmp_path: Path) -> None:
    data = world()
    given: dict[str, Any] = {"epochs": 4, "dim": 8, "schedule": "cosine", "quiet": True, "cache": tmp_path}
    usual = seqrec.SASRec.train(data, out=tmp_path / "usual", **given)
    final = seqrec.SASRec.train(data, out=tmp_path / "final", final=True, **given)
    assert final.metrics["test"] == usual.metrics["test"]
    assert final.metrics["final"]["epochs"] == usual.metrics["best_epoch"]
    assert final.metrics["final"]["events"] == len(data.histories.items)
    assert not same_weights(final.model, usual.model)
    with pytest.raises(ValueError, match=r"was trained on all events, those of validation and test too \(--final\)"):
        final.evaluate()
    with pytest.raises(ValueError, match="was trained on all events"):
        seqrec.blend([usual, final], quiet=True)
    assert seqrec.load(tmp_path / "final", data).recommend(users=[data.user_ids[0]], k=3).height == 3
    again = seqrec.SASRec.train(data, out=tmp_path / "final", final=True, resume=True, **given)
    assert same_weights(again.model, final.model)


def test_final_sees_the_last_events(tmp_path: Path) -> None:
    events = [{"user_id": f"u{user}", "item_id": item} for user in range(30) for item in ("a", "b", "c", "d", "e")]
    data = Dataset.from_frames(pl.DataFrame(events), min_user=1, min_item=1, quiet=True)
    counted = [
        seqrec.train("transitions", data, final=final, out=tmp_path / str(final), cache=tmp_path)
        for final in (False, True)
    ]
    best = [model.recommend(histories=[["d"]], k=1) for model in counted]
    assert best[1]["item"].to_list() == ["e"]
    assert best[0].filter(pl.col("score") > 0)["item"].to_list() != ["e"]
    assert counted[1].manifest["final"] == {"events": 150}


def test_the_commands_split_and_train_on_everything(tmp_path: Path) -> None:
    words = ["train", "sasrec", "--data", "synthetic", "--epochs", "1", "--dim", "8", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*words, "--split", "users", "--final"])
    assert done.exit_code == 0, done.output
    assert "Trained again on all events: these figures are of the model before" in done.output
    body = json.loads((tmp_path / "run" / "config.json").read_text())
    assert body["split"] == "held-out-users"
    assert body["final"]["epochs"] == 1
    refused = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run")])
    assert refused.exit_code == 1
    assert "was trained on all events" in refused.output


def test_a_generator_trains_on_everything_too(tmp_path: Path) -> None:
    options = dict(zip(*[iter(FAST["tiger"])] * 2, strict=True))
    given = {name[2:].replace("-", "_"): int(value) for name, value in options.items()}
    data = load_dataset("synthetic")
    model = genrec.TIGER.train(
        data, final=True, out=tmp_path / "run", cache=tmp_path, quiet=True, epochs=1, beams=20, valid_beams=10,
        valid_users=50, **given,
    )  # fmt: skip
    assert model.metrics["final"]["epochs"] == 1
    with pytest.raises(ValueError, match="was trained on all events"):
        model.evaluate()


def test_a_final_generator_keeps_the_weight_that_validation_chose(tmp_path: Path) -> None:
    options = dict(zip(*[iter(FAST["tiger"])] * 2, strict=True))
    given: dict[str, Any] = {name[2:].replace("-", "_"): int(value) for name, value in options.items()}
    given |= {"epochs": 1, "beams": 20, "valid_beams": 10, "valid_users": 50, "cache": tmp_path, "quiet": True}
    model = genrec.TIGER.train("synthetic", final=True, dense_weight=1.0, split="users", out=tmp_path / "run", **given)
    assert float(model.model.dense.weight) == model.metrics["dense"]["weight"]
    assert len(model.recommend(histories=[["1", "2"]], k=3)) == 3


def test_an_export_of_a_final_training_is_not_evaluated(tmp_path: Path) -> None:
    from seqrec.serving import export_run

    model = seqrec.SASRec.train(world(), final=True, epochs=1, dim=8, out=tmp_path / "run", cache=tmp_path, quiet=True)
    export_run(model._run, tmp_path / "out", faiss=False, onnx=False)
    with pytest.raises(ValueError, match="was trained on all events"):
        seqrec.load(tmp_path / "out", world()).evaluate()
