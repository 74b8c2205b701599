"""New items in a tokenizer folder: nothing that was there moves, nothing is half written, drift is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

import semtok
from recbase.data.sequences import Histories
from recbase.store.folder import open_folder
from semtok.catalogue.append import ERRORS_FILE, append_items, drift_report, error_sample, generations, unseen_prefixes
from semtok.catalogue.unique import POLICIES, costs_of, make_unique
from semtok.cli import main
from semtok.codes import KIND, MANIFEST, ItemCodes
from semtok.registry import methods, tokenizer_class

SMALL = {"levels": 3, "codebook_size": 8, "bits": 3, "dim": 3}
SMALL |= {"steps": 3, "hidden": (8,), "latent_dim": 4, "groups": 2, "quiet": True}
FROM_BEHAVIOUR = [method for method in methods() if tokenizer_class(method).inputs]


def pairs() -> list[tuple[str, str]]:
    """Methods that learn from vectors alone and the policies that can tell their items apart; two where it is slow."""
    found = []
    for method in methods():
        if method not in FROM_BEHAVIOUR:
            slow = "steps" in tokenizer_class(method)().get_params()
            few = ("none", "suffix") if method == "kmeans" else ("suffix", "matching") if slow else POLICIES
            found += [(method, policy) for policy in few]
    return found


def fitted(method: str, vectors: np.ndarray) -> semtok.ItemTokenizer:
    made = tokenizer_class(method)
    known = made().get_params()
    random = np.random.default_rng(0)
    inputs = {
        "collaborative": random.normal(size=(len(vectors), 4)).astype(np.float32),
        "sequences": Histories.from_lists([(random.permutation(len(vectors))[:5] + 1).tolist() for _ in range(30)]),
        "missing": {name: np.zeros(len(vectors), dtype=bool) for name in ("text", "image")},
    }
    tokenizer = made(**{name: value for name, value in SMALL.items() if name in known})
    views = {"text": slice(0, 3), "image": slice(3, 6)} if made.modalities else None
    return tokenizer.fit(vectors, views=views, **{name: inputs[name] for name in made.inputs})


def some_vectors(rows: int = 60, seed: int = 0) -> np.ndarray:
    """Rows of a few topics, some of them equal, so that codes collide."""
    random = np.random.default_rng(seed)
    vectors = np.random.default_rng(99).normal(size=(12, 6))[random.integers(12, size=rows)]
    vectors += 0.2 * random.normal(size=(rows, 6)) * random.integers(2, size=(rows, 1))
    return vectors.astype(np.float32)


def saved(folder: Path, method: str = "rq", policy: str = "matching", rows: int = 60) -> ItemCodes:
    """A folder of a tokenizer with the codes of items i0, i1 ..., with the distances of the fit."""
    vectors = some_vectors(rows)
    tokenizer = fitted(method, vectors)
    codes = tokenizer.item_codes(vectors, np.array([f"i{row}" for row in range(rows)]))
    unique, report = make_unique(codes, policy, costs=costs_of(tokenizer, vectors, codes))
    files = {ERRORS_FILE: semtok_errors(tokenizer, vectors, codes)}
    tokenizer.save(folder, unique, unique=policy, resolving=report, files=files, made_from={"embeddings": "ab"})
    return unique


def semtok_errors(tokenizer: semtok.ItemTokenizer, vectors: np.ndarray, codes: ItemCodes) -> bytes:
    from recbase.store.folder import tensor_bytes

    found = error_sample(tokenizer, vectors, codes)
    assert found is not None
    return tensor_bytes({"errors": found})


def ids(start: int, count: int) -> np.ndarray:
    return np.array([f"i{row}" for row in range(start, start + count)])


@pytest.mark.parametrize(("method", "policy"), pairs())
def test_appending_moves_no_code_of_any_method(method: str, policy: str, tmp_path: Path) -> None:
    seen = saved(tmp_path, method, policy)
    for generation, count in ((1, 7), (2, 20)):
        vectors = some_vectors(count, seed=generation)
        vectors[0] = some_vectors()[0]  # an item that looks just like one of the fit
        added = append_items(tmp_path, vectors, ids(len(seen), count), grow=policy == "suffix")
        codes = added.codes
        assert (codes.codes[: len(seen)] == seen.codes).all()
        assert codes.item_ids.tolist() == ids(0, len(seen) + count).tolist()
        assert codes.unique or policy == "none"
        assert semtok.load_codes(tmp_path) == codes
        wanted = semtok.load(tmp_path).encode(vectors)
        if policy == "none":
            assert (codes.codes[len(seen) :] == wanted).all()
        if policy == "suffix":
            assert (codes.codes[len(seen) :, :-1] == wanted).all()
        assert added.generation["generation"] == generation
        seen = codes
    assert (semtok.load(tmp_path, backend="numpy").encode(vectors) == wanted).all()


@pytest.mark.parametrize("method", FROM_BEHAVIOUR)
def test_methods_that_learn_from_behaviour_take_new_items_by_their_vectors(method: str, tmp_path: Path) -> None:
    old = saved(tmp_path, method)
    vectors = some_vectors(15, seed=1)
    vectors[0] = some_vectors()[0]
    added = append_items(tmp_path, vectors, ids(60, 15))
    assert added.codes.unique
    assert (added.codes.codes[:60] == old.codes).all()
    wanted = semtok.load(tmp_path).encode(vectors)
    assert (wanted[:, None] == added.codes.codes).all(2).any(1).all()  # who has other codes found his taken


@pytest.mark.filterwarnings("ignore:fewer distinct vectors")
@given(st.integers(0, 10**6), st.sampled_from(POLICIES[2:]), st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=20)
def test_any_order_of_generations_keeps_codes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, policy: str, counts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("grown")
    random = np.random.default_rng(seed)
    vectors = random.integers(-1, 2, size=(10, 3)).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=2, codebook_size=6).fit(vectors)
    codes = tokenizer.item_codes(vectors, np.arange(10))
    usable, costs = int(np.prod(tokenizer.used_)), costs_of(tokenizer, vectors, codes)
    if usable < len(codes):  # few of the ten are distinct
        with pytest.raises(ValueError, match="find no free code"):
            make_unique(codes, policy, costs=costs)
        return
    seen, _ = make_unique(codes, policy, costs=costs)
    tokenizer.save(folder, seen, unique=policy)
    for count in counts:
        more = random.integers(-1, 2, size=(count, 3)).astype(np.float32)
        numbers = np.arange(len(seen), len(seen) + count)
        if len(seen) + count > usable:
            with pytest.raises(ValueError, match=r"find no free code|cannot have unique codes"):
                append_items(folder, more, numbers)
            assert semtok.load_codes(folder) == seen
            break
        found = append_items(folder, more, numbers, popularity=random.permutation(count)).codes
        assert found.unique
        assert (found.codes[: len(seen)] == seen.codes).all()
        seen = found
    assert [entry["total"] for entry in generations(folder)][-1] == len(seen)


def test_a_new_item_keeps_what_it_is_encoded_to_where_that_is_free(tmp_path: Path) -> None:
    old = saved(tmp_path)
    tokenizer = semtok.load(tmp_path)
    vectors = some_vectors(40, seed=5)
    wanted = tokenizer.encode(vectors)
    taken = {tuple(row) for row in old.codes.tolist()}
    found = append_items(tmp_path, vectors, ids(60, 40), popularity=np.arange(40)).codes.codes[60:]
    for row in range(39, -1, -1):
        if tuple(wanted[row]) not in taken:
            assert (found[row] == wanted[row]).all()
            taken.add(tuple(wanted[row].tolist()))
    assert (found != wanted).any()


def test_costs_decide_among_the_free_codes(tmp_path: Path) -> None:
    old = saved(tmp_path)
    tokenizer = semtok.load(tmp_path)
    vector = some_vectors()[:1]
    found = append_items(tmp_path, vector, ["new"]).codes.codes[60]
    wanted = tokenizer.encode(vector)
    costs = tokenizer.costs(vector, wanted, 2)[0]
    taken = old.codes[(old.codes[:, :2] == wanted[0, :2]).all(1), 2]
    costs[taken] = np.inf
    assert wanted[0, 2] in taken
    assert found.tolist() == [*wanted[0, :2], costs.argmin()]


def test_the_suffix_level_is_filled_up_and_grows_only_if_told(tmp_path: Path) -> None:
    old = saved(tmp_path, policy="suffix")
    size = old.sizes[-1]
    group = ItemCodes(old.codes[:, :-1], old.sizes[:-1], np.arange(60)).groups()
    counts = np.bincount(group)
    alone, row = (int(np.flatnonzero(counts[group] == count)[0]) for count in (1, size))
    found = append_items(tmp_path, some_vectors()[[alone]], ["a"])
    assert found.codes.codes[60].tolist() == [*old.codes[alone, :-1].tolist(), 1]
    assert found.codes.sizes == old.sizes
    message = rf"{size + 1} items would share one tuple but the suffix level has {size} codes: let it grow"
    with pytest.raises(ValueError, match=message):
        append_items(tmp_path, some_vectors()[[row]], ["b"])
    assert semtok.load_codes(tmp_path) == found.codes
    grown = append_items(tmp_path, some_vectors()[[row]], ["b"], grow=True)
    assert grown.codes.sizes == (*old.sizes[:-1], size + 1)
    assert grown.codes.codes[61].tolist() == [*old.codes[row, :-1].tolist(), size]
    assert (grown.codes.codes[:60] == old.codes).all()
    assert [entry["sizes"][-1] for entry in generations(tmp_path)] == [size, size, size + 1]


def test_a_catalogue_that_is_full_takes_no_item_and_stays(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=2, codebook_size=3).fit(vectors)
    codes, _ = make_unique(tokenizer.item_codes(vectors, np.arange(9)), "matching")
    tokenizer.save(tmp_path, codes, unique="matching")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"10 items cannot have unique codes: sizes \(3, 3\) make 9 tuples"):
        append_items(tmp_path, vectors[:1], [9])
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --------------------------------------------------------------------------------------- generations


def test_generations_are_a_chain_of_hashes(tmp_path: Path) -> None:
    old = saved(tmp_path)
    assert [entry["items"] for entry in generations(tmp_path)] == [60]
    first = append_items(tmp_path, some_vectors(5, seed=1), ids(60, 5), made_from={"embeddings": "cd"})
    second = append_items(tmp_path, some_vectors(4, seed=2), ids(65, 4))
    chain = generations(tmp_path)
    assert chain == json.loads((tmp_path / MANIFEST).read_text())["generations"]
    assert [entry["generation"] for entry in chain] == [0, 1, 2]
    assert [entry["items"] for entry in chain] == [60, 5, 4]
    assert [entry["total"] for entry in chain] == [60, 65, 69]
    assert [entry["after"] for entry in chain] == [old.hash, first.codes.hash, second.codes.hash]
    assert [entry["before"] for entry in chain] == [None, old.hash, first.codes.hash]
    assert [entry["made_from"] for entry in chain] == [{"embeddings": "ab"}, {"embeddings": "cd"}, {}]
    assert chain[0]["resolving"]["policy"] == chain[1]["resolving"]["policy"] == "matching"
    assert chain[1]["vectors"] != chain[2]["vectors"]


def test_codes_that_were_changed_by_hand_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    append_items(tmp_path, some_vectors(5, seed=1), ids(60, 5))
    text = (tmp_path / MANIFEST).read_text()
    manifest = json.loads(text)
    manifest["generations"][-1]["after"] = "0" * 64
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its last generation left 000000000000: the codes were changed"):
        append_items(tmp_path, some_vectors(2, seed=3), ids(65, 2))


def test_another_folder_gets_everything_and_the_first_stays(tmp_path: Path) -> None:
    old = saved(tmp_path / "a")
    before = contents(tmp_path / "a")
    added = append_items(tmp_path / "a", some_vectors(5, seed=1), ids(60, 5), out=tmp_path / "b")
    assert contents(tmp_path / "a") == before
    assert added.folder == tmp_path / "b"
    assert set(open_folder(tmp_path / "b", MANIFEST, KIND)) == set(open_folder(tmp_path / "a", MANIFEST, KIND))
    assert semtok.load_codes(tmp_path / "b") == added.codes
    assert semtok.load_codes(tmp_path / "a") == old
    again = append_items(tmp_path / "a", some_vectors(5, seed=1), ids(60, 5), out=tmp_path / "c")
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    assert again.generation == added.generation


def test_report_and_card_of_the_folder_stay(tmp_path: Path) -> None:
    vectors = some_vectors()
    tokenizer = fitted("rq", vectors)
    codes = tokenizer.item_codes(vectors, ids(0, 60))
    report = json.dumps(semtok.code_report(codes)).encode()
    tokenizer.save_pretrained(tmp_path, codes, files={"report.json": report})
    assert "65 items" not in (tmp_path / "README.md").read_text()
    append_items(tmp_path, some_vectors(5, seed=1), ids(60, 5))
    assert open_folder(tmp_path, MANIFEST, KIND).file("report.json").read_bytes() == report
    assert "65" in (tmp_path / "README.md").read_text()


KILLED = """
import os, signal, sys
import numpy as np
from semtok.catalogue.append import append_items

folder, name, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
real, calls = getattr(os, name), 0

def wrapped(*args, **kwargs):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(os, name, wrapped)
append_items(folder, np.load(sys.argv[4]), ["n0", "n1", "n2"])
"""


@pytest.mark.parametrize(
    ("call", "at", "items"),
    [
        pytest.param("replace", 2, 60, marks=pytest.mark.slow),
        ("replace", 3, 60),  # before the manifest is put in place
        pytest.param("fsync", 4, 63, marks=pytest.mark.slow),
    ],
)
def test_kill_9_in_the_middle_leaves_one_whole_version(call: str, at: int, items: int, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    old = saved(folder)
    np.save(tmp_path / "new.npy", some_vectors(3, seed=1))
    command = [sys.executable, "-c", KILLED, str(folder), call, str(at), str(tmp_path / "new.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    codes = semtok.load_codes(folder)
    assert len(codes) == items
    assert (codes.codes[:60] == old.codes).all()
    assert len(semtok.load(folder).encode(some_vectors(3))) == 3
    if items == 60:
        assert len(append_items(folder, some_vectors(3, seed=1), ["n0", "n1", "n2"]).codes) == 63


# --------------------------------------------------------------------------------------- drift


def test_drift_is_small_for_items_like_those_of_the_fit_and_large_for_others(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centers = random.normal(size=(8, 6))

    def drawn(rows: int, spread: float) -> np.ndarray:
        return (centers[random.integers(8, size=rows)] + spread * random.normal(size=(rows, 6))).astype(np.float32)

    vectors = drawn(2000, 0.3)
    tokenizer = semtok.ResidualQuantizer(levels=3, codebook_size=16).fit(vectors)
    tokenizer.save(tmp_path, tokenizer.item_codes(vectors, np.arange(2000)))
    same = append_items(tmp_path, drawn(500, 0.3), np.arange(2000, 2500), reference=vectors).generation["drift"]
    assert 0.85 < same["ratio"] < 1.2
    assert 0.01 < same["above"] < 0.1
    assert same["ks"] < 0.15
    assert same["training"]["items"] == 2000
    other = append_items(tmp_path, drawn(500, 1.0), np.arange(2500, 3000)).generation["drift"]  # the folder knows now
    assert other["training"] == same["training"]
    assert other["ratio"] > 3
    assert other["above"] > 0.5
    assert other["ks"] > 0.5
    assert other["p_value"] < 1e-6
    for drift in (same, other):  # whole tuples are many, first codes few; how many are new depends on the fit's luck
        assert drift["unseen_prefixes"] == sorted(drift["unseen_prefixes"])
        assert drift["unseen_prefixes"][2] > 0.1


def test_drift_without_training_distances_says_so(tmp_path: Path) -> None:
    vectors = some_vectors()
    tokenizer = fitted("rq", vectors)
    tokenizer.save(tmp_path, tokenizer.item_codes(vectors, np.arange(60)))
    drift = append_items(tmp_path, vectors[:3], [60, 61, 62]).generation["drift"]
    assert drift["training"] is drift["ratio"] is drift["ks"] is None
    decoded = tokenizer.decode(tokenizer.encode(vectors[:3]))
    assert drift["new"]["mean"] == pytest.approx(np.square(vectors[:3] - decoded).sum(1).mean(), rel=1e-3, abs=1e-5)


def test_drift_numbers_by_hand() -> None:
    found = drift_report(np.array([1.0, 2, 3, 4]), np.array([2.0, 6]))
    assert found["ratio"] == 4 / 2.5
    assert found["above"] == 0.5
    assert found["ks"] == ks_2samp([1, 2, 3, 4], [2, 6], method="asymp").statistic == 0.5
    assert found["training"]["quantiles"]["0.5"] == 2.5
    assert drift_report(np.zeros(3), np.ones(2))["ratio"] is None
    assert drift_report(np.ones(3), None)["new"] is None


def test_unseen_prefixes_by_depth() -> None:
    table = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1], [2, 0, 0], [1, 1, 0]])
    found = ItemCodes(table, (3, 2, 2), np.arange(6))
    old = ItemCodes(table[:2], (3, 2, 2), np.arange(2))
    assert unseen_prefixes(old, found) == [0.25, 0.5, 1.0]


def test_views_and_streams_all_count_in_the_distance() -> None:
    vectors = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=2, codebook_size=8).fit(
        vectors, views={"a": slice(0, 2), "b": slice(2, 6)}
    )
    codes = tokenizer.encode(vectors)
    error = np.square(vectors - tokenizer.decode(codes)).sum(1)
    assert error_sample(tokenizer, vectors, codes) == pytest.approx(np.sort(error), rel=1e-3, abs=1e-5)


def test_many_training_items_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semtok.catalogue.append._KEPT", 50)
    vectors = some_vectors(400)
    tokenizer = fitted("rq", vectors)
    codes = tokenizer.encode(vectors)
    found = [error_sample(tokenizer, vectors, codes, seed) for seed in (0, 0, 1)]
    assert len(found[0]) == 50
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    assert (np.diff(found[0]) >= 0).all()


# --------------------------------------------------------------------------------------- refusals


def test_items_that_have_codes_are_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 items have codes in .* already, such as 'i7', 'i59'"):
        append_items(tmp_path, some_vectors(3), ["i7", "new", "i59"])
    with pytest.raises(ValueError, match="item_ids has 1 ids more than once, such as 'x'"):
        append_items(tmp_path, some_vectors(2), ["x", "x"])
    with pytest.raises(ValueError, match="have string ids but the new ones integer ids"):
        append_items(tmp_path, some_vectors(2), [1, 2])
    with pytest.raises(ValueError, match="item_ids has 3 entries but codes has 2 rows"):
        append_items(tmp_path, some_vectors(2), ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"popularity has shape \(3,\) but there are 2 new items"):
        append_items(tmp_path, some_vectors(2), ["x", "y"], popularity=[1, 2, 3])
    with pytest.raises(ValueError, match="X has 4 features, but ResidualQuantizer is expecting 6 features"):
        append_items(tmp_path, some_vectors(2)[:, :4], ["x", "y"])
    assert contents(tmp_path) == before


def test_folders_without_codes_or_tokenizer_are_refused(tmp_path: Path) -> None:
    vectors = some_vectors()
    tokenizer = fitted("rq", vectors)
    tokenizer.save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="holds a tokenizer but no item codes"):
        append_items(tmp_path / "tokenizer", vectors[:1], [0])
    tokenizer.item_codes(vectors, np.arange(60)).save(tmp_path / "codes")
    with pytest.raises(ValueError, match="holds item codes but no tokenizer"):
        append_items(tmp_path / "codes", vectors[:1], [60])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        append_items(tmp_path / "nothing", vectors[:1], [60])


# --------------------------------------------------------------------------------------- the command


def test_the_command_appends_new_items_by_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    words = ["red", "green", "blue", "big", "small", "shoe", "hat", "coat"]
    items = pl.DataFrame({"item_id": ids(0, 40), "title": [" ".join(draw.choice(words, 4)) for _ in range(40)]})
    (tmp_path / "given").mkdir()
    items.write_parquet(tmp_path / "given/items.parquet")
    users = np.repeat(np.arange(30), 6)
    events = {"user_id": users, "item_id": [f"i{i}" for i in draw.integers(0, 40, 180)], "position": np.arange(180)}
    pl.DataFrame(events).write_parquet(tmp_path / "given/interactions.parquet")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("fit", "--method", "rq", "--data", "given", "--levels", "2", "--codebook-size", "8", "--unique", "matching",
        "--out", "codes", "--quiet")  # fmt: skip
    assert ERRORS_FILE in open_folder("codes", MANIFEST, KIND)
    old = semtok.load_codes("codes")
    table = pl.DataFrame({"item_id": ["n0", "n1"], "title": ["red big hat", "blue small coat hat"]})
    table.write_csv("new.csv")
    said = json.loads(run("encode", "codes", "--append", "--items", "new.csv", "--out", "other", "--json"))
    assert said["folder"] == "other"
    assert said["items"] == 2
    assert said["drift"]["ratio"] > 0
    assert semtok.load_codes("codes") == old
    assert (semtok.load_codes("other").codes[:40] == old.codes).all()
    shown = run("encode", "codes", "--append", "--items", "new.csv")
    assert "Generation 1" in shown
    assert "2 new items are in codes, 42 in all" in shown
    assert semtok.load_codes("codes") == semtok.load_codes("other")
    again = CliRunner().invoke(main, ["encode", "codes", "--append", "--items", "new.csv"])
    assert again.exit_code == 1
    assert "2 of 2 items have codes in codes already, such as 'n0', 'n1'" in again.stderr
    wrong = CliRunner().invoke(main, ["encode", "codes", "--grow", "--items", "new.csv"])
    assert wrong.exit_code == 2
    assert "--grow says what --append may do" in wrong.stderr


APPENDING = """
import sys
import numpy as np
from semtok.catalogue.append import append_items

folder, first = sys.argv[1], int(sys.argv[2])
for start in range(first, first + 30, 10):
    vectors = np.random.default_rng(start).normal(size=(10, 6)).astype(np.float32)
    append_items(folder, vectors, np.array([f"i{row}" for row in range(start, start + 10)]))
    print("appended")
"""


def test_of_several_that_append_at_once_none_is_lost(tmp_path: Path) -> None:
    old = saved(tmp_path)
    commands = [[sys.executable, "-c", APPENDING, str(tmp_path), str(first)] for first in (100, 200)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert said == ["appended\n" * 3] * 2
    codes = semtok.load_codes(tmp_path)
    assert codes.item_ids.tolist()[:60] == old.item_ids.tolist()
    assert set(codes.item_ids.tolist()) == {*ids(0, 60), *ids(100, 30), *ids(200, 30)}
    assert [entry["total"] for entry in generations(tmp_path)] == [60, 70, 80, 90, 100, 110, 120]
