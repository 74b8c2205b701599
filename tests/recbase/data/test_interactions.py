"""Tables of events: filters, order, hashes, against small tables worked by hand."""

import numpy as np
import polars as pl
import pytest

from recbase.data import interactions as events


def table(users: list, items: list, times: list | None = None, **more: list) -> pl.DataFrame:
    columns = {"user_id": users, "item_id": items} | ({} if times is None else {"timestamp": times}) | more
    return events.check_interactions(pl.DataFrame(columns))


def pairs(frame: pl.DataFrame) -> list[tuple]:
    return frame.select("user_id", "item_id").rows()


def random_table(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return table(draw.integers(0, 150, rows).tolist(), draw.integers(0, 120, rows).tolist(), draw.integers(0, 30, rows))


def test_repeats_keep_the_earliest_event() -> None:
    ordered = events.order_events(table([1, 1, 1], ["a", "b", "a"], [30, 20, 10]))
    kept = events.drop_repeats(ordered)
    assert kept.rows() == [(1, "a", 10), (1, "b", 20)]


def test_k_core_is_iterated_to_the_end() -> None:
    # Item z has 2 events until user 3, with one event left, goes.
    frame = table([1, 1, 2, 2, 3, 3, 1], ["x", "y", "x", "y", "w", "z", "z"])
    assert pairs(events.k_core(frame, 2, 2)) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    once = events.k_core(frame, 2, 2, iterate=False)
    assert (1, "z") in pairs(once)


def test_k_core_agrees_with_a_plain_loop() -> None:
    frame = events.drop_repeats(random_table())
    rows = set(range(frame.height))
    users, items = frame["user_id"].to_list(), frame["item_id"].to_list()
    while True:
        count_user = {u: sum(users[r] == u for r in rows) for u in set(users)}
        count_item = {i: sum(items[r] == i for r in rows) for i in set(items)}
        left = {r for r in rows if count_item[items[r]] >= 17 and count_user[users[r]] >= 13}
        if left == rows:
            break
        rows = left
    kept = events.k_core(frame, 13, 17)
    assert 0 < len(rows) < frame.height
    assert kept.rows() == frame[sorted(rows)].rows()


def test_nothing_left_after_k_core() -> None:
    with pytest.raises(ValueError, match="no user is left of 2 when every user needs 5 events"):
        events.k_core(table([1, 2], ["x", "y"]), 5, 5)


def test_negative_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="min_user and min_item must be at least 0, got -1 and 5"):
        events.k_core(table([1], ["x"]), -1, 5)


@pytest.mark.parametrize(
    ("ties", "expected"),
    [("file", ["c", "b", "a", "d"]), ("item", ["a", "b", "c", "d"])],
)
def test_tie_policies(ties: str, expected: list[str]) -> None:
    frame = table([1, 1, 1, 1], ["d", "c", "b", "a"], [9, 5, 5, 5])
    assert events.order_events(frame, "time", ties)["item_id"].to_list() == expected


def test_shuffled_ties_depend_on_the_seed_and_not_on_the_rows() -> None:
    frame = random_table().unique(maintain_order=True)
    mixed = frame.sample(fraction=1.0, shuffle=True, seed=3)
    first = events.order_events(frame, "time", "shuffle", 0)
    assert events.order_events(mixed, "time", "shuffle", 0).equals(first)
    other = events.order_events(frame, "time", "shuffle", 1)
    assert not other.equals(first)
    assert other["timestamp"].equals(first["timestamp"])
    assert sorted(other.rows()) == sorted(first.rows())


def test_shuffled_ties_are_even() -> None:
    """Of two events at one time either comes first about equally often."""
    users = np.repeat(np.arange(4000), 2)
    frame = table(users.tolist(), ["a", "b"] * 4000, [7] * 8000)
    ordered = events.order_events(frame, "time", "shuffle", 5)
    share = (ordered["item_id"].to_numpy()[::2] == "a").mean()
    assert abs(share - 0.5) < 0.03


def test_order_of_the_file_ignores_time() -> None:
    frame = table([2, 1, 2], ["x", "y", "z"], [9, 5, 1])
    assert events.order_events(frame, "file")["item_id"].to_list() == ["y", "x", "z"]


def test_position_decides_and_may_not_repeat() -> None:
    frame = table([1, 1], ["x", "y"], [1, 2], position=[1, 0])
    assert events.order_events(frame, "position")["item_id"].to_list() == ["y", "x"]
    with pytest.raises(ValueError, match="position repeats within a user in 1 of 2 rows"):
        events.order_events(table([1, 1], ["x", "y"], position=[0, 0]), "position")


def test_a_null_time_takes_that_of_its_neighbour() -> None:
    frame = table([1, 1, 1], ["x", "y", "z"], [5, None, 3], position=[0, 1, 2])
    assert events.order_events(frame, "time", "file")["item_id"].to_list() == ["z", "x", "y"]
    with pytest.raises(ValueError, match="order 'time' needs every timestamp, but 1 of 2 are null"):
        events.order_events(table([1, 1], ["x", "y"], [5, None]), "time")


@pytest.mark.parametrize(
    ("order", "ties", "message"),
    [
        ("time", "random", "ties must be one of file, item, shuffle, got 'random'"),
        ("date", "file", "order must be one of time, file, position, got 'date'"),
        ("time", "file", "order 'time' needs a column timestamp; the events have user_id, item_id"),
    ],
)
def test_bad_orders_are_refused(order: str, ties: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        events.order_events(table([1], ["x"]), order, ties)


def test_latest_events_of_each_user() -> None:
    frame = table([1, 1, 1, 2], ["a", "b", "c", "d"])
    assert pairs(events.latest(frame, 2)) == [(1, "b"), (1, "c"), (2, "d")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "item_id": [2]}, "has no column user_id; its columns are user, item_id"),
        ({"user_id": [1, None], "item_id": [2, 3]}, "user_id of the interactions is null in 1 of 2 rows"),
        ({"user_id": [1.5], "item_id": [2]}, "user_id of the interactions is Float64; expected integers or strings"),
        ({"user_id": [1], "item_id": [2], "timestamp": ["soon"]}, "timestamp of the interactions is String"),
        ({"user_id": [1], "item_id": [2], "position": [None]}, "position of the interactions is Null"),
        ({"user_id": pl.Series([], dtype=pl.Int64), "item_id": pl.Series([], dtype=pl.Int64)}, "has no rows"),
    ],
)
def test_bad_tables_are_refused(columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        events.check_interactions(pl.DataFrame(columns))


def test_dates_become_seconds() -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": ["1970-01-02"]})
    dates = frame.with_columns(pl.col("timestamp").str.to_date())
    assert events.check_interactions(dates)["timestamp"].to_list() == [86_400]


def test_id_hashes_are_fnv_of_the_text() -> None:
    def one(text: str) -> int:
        state = 0xCBF29CE484222325
        for byte in text.encode():
            state = ((state ^ byte) * 0x100000001B3) % 2**64
        return state

    ids = ["B00", "", "äöü", "B00", "a much longer identifier"]
    expected = events._mix(np.array([one(text) for text in ids], dtype=np.uint64))
    assert (events.hash_ids(pl.Series(ids)) == expected).all()
    assert (events.hash_ids(pl.Series([12])) == events.hash_ids(pl.Series(["12"]))).all()


def test_sequence_hashes_see_order_items_and_length() -> None:
    sequences = [["a", "b", "c"], ["a", "c", "b"], ["a", "b"], ["a", "b", "c"], [], ["b", "b"], ["b"]]
    offsets = np.cumsum([0] + [len(row) for row in sequences])
    hashes = events.hash_sequences(events.hash_ids(pl.Series([x for row in sequences for x in row])), offsets)
    assert hashes.shape == (7, 2)
    assert (hashes[0] == hashes[3]).all()
    assert len(np.unique(hashes, axis=0)) == 6


def test_numbers_and_unknown_ids() -> None:
    assert events.number(pl.Series(["b", "x", "a"]), pl.Series(["a", "b"])).tolist() == [2, 0, 1]
    assert events.number(pl.Series(["2", "z"]), pl.Series([1, 2])).tolist() == [2, 0]


def test_the_pattern_hash_ignores_names_and_sees_order() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 30, rng.integers(3, 9)).tolist() for _ in range(40)]
    renamed = rng.permutation(30)
    users = rng.permutation(40)
    others = [[int(renamed[item - 1]) + 1 for item in lists[user]] for user in users]

    def pattern(rows: list[list[int]]) -> np.ndarray:
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return events.hash_pattern(np.concatenate(rows), offsets)

    assert np.array_equal(pattern(lists), pattern(others))
    swapped = [row.copy() for row in lists]
    at = next(place for place, row in enumerate(swapped) if row[0] != row[1])
    swapped[at][:2] = swapped[at][1::-1]
    assert not np.array_equal(pattern(lists), pattern(swapped))
