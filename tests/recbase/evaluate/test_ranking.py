"""Ranks against brute force, both seen-item policies, ties, top-k order, slices, files and refusals."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbase.data.sequences import Histories
from recbase.data.splits import Split, Targets
from recbase.evaluate.ranking import Ranks, list_faults, rank_lists, rank_targets, summarize, topk, validator
from recbase.evaluate.recommender import Recommendations, Scorer
from recbase.evaluate.records import (
    describe_protocol,
    metrics_of_run,
    metrics_record,
    popularity_groups,
    ranks_file,
    read_ranks,
    slices,
)


class TableOfScores:
    """Scores looked up by the FIRST item of what it is given, so that every test can lay its scores out as a table."""

    def __init__(self, table: np.ndarray, max_len: int = 50) -> None:
        self.table = torch.tensor(table, dtype=torch.float32)
        self.n_items, self.max_len = self.table.shape[1], max_len
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.batches.append(tuple(items.shape))
        return self.table[items[:, 0] - 1]


def targets_of(histories: list[list[int]], items: list[int]) -> Targets:
    return Targets(np.arange(len(items)) + 100, Histories.from_lists(histories), np.array(items, dtype=np.int32))


def brute_force(scores: np.ndarray, history: list[int], target: int) -> tuple[int, int, int]:
    """Rank, masked rank and ties by looking at every other item in turn."""
    own, rank, masked, ties = scores[target - 1], 1, 1, 0
    for item in range(1, len(scores) + 1):
        if item == target:
            continue
        rank += scores[item - 1] >= own
        masked += scores[item - 1] >= own and item not in history
        ties += scores[item - 1] == own
    return rank, masked, ties


def test_a_ranking_worked_by_hand() -> None:
    # scores of items 1..5 for a user who had items 1 and 4
    scorer = TableOfScores([[0.9, 0.5, 0.5, 0.7, 0.1]])
    ranks = rank_targets(scorer, targets_of([[1, 4]], [2]))
    assert ranks.rank.tolist() == [4]  # 1 and 4 above, 3 equal counts against the target
    assert ranks.rank_masked.tolist() == [2]  # only the equal one is left
    assert ranks.ties.tolist() == [1]
    assert ranks.users.tolist() == [100]
    assert isinstance(scorer, Scorer)


def test_a_target_seen_before_still_competes_and_is_not_masked() -> None:
    scorer = TableOfScores([[0.9, 0.8, 0.7]])
    ranks = rank_targets(scorer, targets_of([[1, 3, 3, 1]], [3]))
    assert ranks.rank.tolist() == [3]
    assert ranks.rank_masked.tolist() == [2]  # item 1 is out (once, though seen twice), item 3 stays


def test_seen_items_older_than_the_scorer_reads_are_masked_too() -> None:
    scorer = TableOfScores(np.tile([0.9, 0.8, 0.7, 0.6], (4, 1)), max_len=1)
    ranks = rank_targets(scorer, targets_of([[1, 2, 4]], [3]))
    assert scorer.batches == [(1, 1)]
    assert ranks.rank.tolist() == [3]
    assert ranks.rank_masked.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_equal_a_brute_force_ranking(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9), label="items")
    users = data.draw(st.integers(1, 12), label="users")
    item = st.integers(1, n)
    histories = data.draw(st.lists(st.lists(item, min_size=1, max_size=6), min_size=users, max_size=users))
    items = data.draw(st.lists(item, min_size=users, max_size=users))
    levels = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0])  # few values, so that ties abound
    table = np.array(data.draw(st.lists(st.lists(levels, min_size=n, max_size=n), min_size=n, max_size=n)))
    max_len = data.draw(st.integers(1, 6))
    batch_size = data.draw(st.integers(1, 5))
    ranks = rank_targets(TableOfScores(table, max_len), targets_of(histories, items), batch_size)
    expected = [
        brute_force(table[history[-max_len:][0] - 1], history, target)
        for history, target in zip(histories, items, strict=True)
    ]
    assert [tuple(row) for row in np.stack([ranks.rank, ranks.rank_masked, ranks.ties], 1).tolist()] == expected
    assert ranks.targets.tolist() == items


def test_users_are_batched_by_length_and_returned_in_their_order() -> None:
    scorer = TableOfScores(np.arange(16.0).reshape(4, 4))
    histories = [[1] * 5, [2], [3] * 4, [4], [1, 1], [2, 2]]
    targets = targets_of(histories, [1, 2, 3, 4, 1, 2])
    ranks = rank_targets(scorer, targets, batch_size=2)
    assert scorer.batches == [(2, 1), (2, 2), (2, 5)]
    assert ranks.users.tolist() == targets.users.tolist()
    assert ranks.rank.tolist() == [4, 3, 2, 1, 4, 3]


def test_processes_share_the_batches_and_sum_to_one_result() -> None:
    """Each of three pretended processes ranks its own batches; the summed counts are those of one process."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 3, (7, 7)).astype(float)
    histories = [rng.integers(1, 8, rng.integers(1, 5)).tolist() for _ in range(23)]
    targets = targets_of(histories, rng.integers(1, 8, 23).tolist())
    parts: list[torch.Tensor] = []

    def process(index: int) -> SimpleNamespace:
        def reduce(part: torch.Tensor, reduction: str) -> torch.Tensor:
            assert reduction == "sum"
            parts.append(part.clone())
            return torch.stack(parts).sum(0)

        return SimpleNamespace(process_index=index, num_processes=3, device=torch.device("cpu"), reduce=reduce)

    alone = rank_targets(TableOfScores(table), targets, 4)
    together = [rank_targets(TableOfScores(table), targets, 4, process(index)) for index in range(3)][-1]
    assert [int((part[:, 0] > 0).sum()) for part in parts] == [8, 8, 7]
    for name in ("rank", "rank_masked", "ties"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


def test_no_targets_give_no_ranks() -> None:
    ranks = rank_targets(TableOfScores(np.ones((3, 3))), targets_of([], []))
    assert len(ranks) == 0
    assert summarize(ranks)["users"] == 0


def test_nan_scores_name_the_user() -> None:
    table = np.ones((3, 3))
    table[1, 2] = np.nan  # not the target's own score
    with pytest.raises(ValueError, match="the scores of user 101 contain NaN: 1 of 3 users cannot be ranked"):
        rank_targets(TableOfScores(table), targets_of([[1], [2], [3]], [1, 1, 1]))
    with pytest.raises(ValueError, match="the scores of row 1 contain NaN"):
        topk(TableOfScores(table), Histories.from_lists([[1], [2], [3]]), 2)


def test_items_outside_the_catalogue_are_refused() -> None:
    scorer = TableOfScores(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"targets hold item number 4 but the scorer knows the items 1\.\.3"):
        rank_targets(scorer, targets_of([[1]], [4]))
    with pytest.raises(ValueError, match="histories hold item number 9"):
        rank_targets(scorer, targets_of([[9]], [1]))
    with pytest.raises(ValueError, match="targets hold item number 0"):
        rank_targets(scorer, targets_of([[1]], [0]))
    with pytest.raises(ValueError, match="batch_size=0 should be >= 1"):
        rank_targets(scorer, targets_of([[1]], [1]), batch_size=0)


def test_scores_of_another_shape_are_refused() -> None:
    scorer = TableOfScores(np.ones((3, 3)))
    scorer.n_items = 4
    with pytest.raises(ValueError, match=r"scores of shape \[1, 3\], expected \[1, 4\]"):
        rank_targets(scorer, targets_of([[1]], [1]))


def test_summary_under_both_policies() -> None:
    ranks = Ranks(np.arange(2), np.array([6, 1]), np.array([2, 1]), np.zeros(2), np.array([1, 2]))
    kept, masked = summarize(ranks), summarize(ranks, mask_seen=True)
    assert kept["recall@5"] == 1 / 2
    assert kept["mrr@10"] == pytest.approx((1 / 6 + 1) / 2)
    assert masked["recall@5"] == 1.0
    assert kept["users"] == 2
    assert set(kept) == {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (5, 10, 20)} | {"users"}


def test_topk_breaks_ties_by_item_number_and_fills_short_lists() -> None:
    scorer = TableOfScores([[0.5, 0.9, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
    found = topk(scorer, Histories.from_lists([[1, 2], [2]]), 3)
    assert found.items.tolist() == [[2, 1, 3], [1, 2, 3]]
    masked = topk(scorer, Histories.from_lists([[1, 2], [2]]), 5, mask_seen=True)
    assert masked.items.tolist() == [[3, 4, -1, -1, -1], [1, 3, 4, -1, -1]]
    assert np.isneginf(masked.scores[0, 2:]).all()
    assert masked.valid.sum() == 5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_topk_equals_a_stable_sort(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, (n, n)).astype(np.float32)
    histories = Histories.from_lists([[int(first)] for first in rng.integers(1, n + 1, 6)])
    found = topk(TableOfScores(table), histories, k, batch_size=4)
    for row in range(6):
        scores = table[histories[row][0] - 1]
        expected = (np.argsort(-scores, kind="stable")[:k] + 1).tolist()
        assert found.items[row].tolist() == expected + [-1] * (k - len(expected))
        np.testing.assert_array_equal(found.scores[row, : len(expected)], scores[np.array(expected) - 1])


def test_topk_refuses_a_list_without_places() -> None:
    with pytest.raises(ValueError, match="k=0 should be >= 1"):
        topk(TableOfScores(np.ones((1, 1))), Histories.from_lists([[1]]), 0)


def test_the_place_in_a_full_list_is_the_rank() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(9, 9))
    targets = targets_of(rng.integers(1, 10, (30, 4)).tolist(), rng.integers(1, 10, 30).tolist())
    full = rank_targets(TableOfScores(table), targets)
    lists = rank_lists(topk(TableOfScores(table), targets.histories, 9), targets)
    np.testing.assert_array_equal(lists.rank, full.rank)
    np.testing.assert_array_equal(lists.rank_masked, full.rank_masked)


def test_ranks_in_lists_worked_by_hand() -> None:
    lists = Recommendations(
        np.array([[5, 2, 3], [4, 1, -1], [2, 3, 4]]), np.array([[0.9, 0.5, 0.5], [0.8, 0.2, -np.inf], [3.0, 2.0, 1.0]])
    )
    ranks = rank_lists(lists, targets_of([[5], [2], [3]], [2, 3, 4]))
    assert ranks.rank.tolist() == [3, 0, 3]  # tied with 3; not returned; third
    assert ranks.ties.tolist() == [1, 0, 0]
    assert ranks.rank_masked.tolist() == [2, 0, 2]  # without 5; not returned; without 3
    with pytest.raises(ValueError, match="there are 3 lists for 1 targets"):
        rank_lists(lists, targets_of([[1]], [1]))


def test_invalid_and_repeated_items_are_counted() -> None:
    lists = Recommendations(np.array([[1, 1, 9], [-1, 2, 2], [3, -1, -1]]), np.zeros((3, 3)))
    assert list_faults(lists, 5) == {"invalid": 3, "duplicates": 2}  # 9, and the two behind a -1


def test_popularity_groups_keep_equal_items_together() -> None:
    # item 1: 4 events, items 2 and 3: 2 each, items 4 and 5: 1 each, item 6: none; 10 in all
    train = Histories.from_lists([[1, 1, 1, 1, 2, 2], [3, 3, 4, 5]])
    assert popularity_groups(train, 6, (0.2, 0.8)).tolist() == [3, 0, 1, 1, 2, 2, 3]
    assert popularity_groups(train, 6, (0.5, 0.9)).tolist() == [3, 0, 0, 0, 1, 1, 3]
    with pytest.raises(ValueError, match=r"shares=\(0.8, 0.2\) should be two growing numbers"):
        popularity_groups(train, 6, (0.8, 0.2))


def test_slices_split_the_users_by_their_target() -> None:
    train = Histories.from_lists([[1, 1, 1, 1, 2, 2], [3, 3, 4, 5]])
    targets = np.array([1, 2, 4, 6, 6], dtype=np.int32)
    ranks = Ranks(np.arange(5), np.array([1, 30, 2, 1, 9]), np.ones(5, int), np.zeros(5, int), targets)
    found = slices(ranks, train, 6)
    assert {name: (part["users"], part["items"]) for name, part in found.items()} == {
        "head": (1, 1),
        "middle": (1, 2),
        "tail": (1, 2),
        "cold": (2, 1),
    }
    assert found["cold"]["recall@5"] == 1 / 2
    assert found["middle"]["recall@20"] == 0.0
    assert found["tail"]["mrr@5"] == 1 / 2


def test_ranks_file_round_trip_keeps_what_was_not_returned() -> None:
    ranks = Ranks(np.array([2, 0]), np.array([0, 4]), np.array([0, 3]), np.array([0, 1]), np.array([7, 8]))
    content = ranks_file(ranks, pl.Series("user_id", ["anna", "ben", "cleo"]))
    stored = pl.read_parquet(io.BytesIO(content))
    assert stored.columns == ["user_id", "rank", "rank_masked", "ties"]
    assert stored["rank"].to_list() == [None, 4]
    read = read_ranks(content)
    assert read["user_id"].to_list() == ["cleo", "anna"]
    assert read["rank"].to_list() == [0, 4]
    assert read["rank_masked"].to_list() == [0, 3]


def test_unusable_ranks_files_are_refused() -> None:
    def content(frame: pl.DataFrame) -> bytes:
        out = io.BytesIO()
        frame.write_parquet(out)
        return out.getvalue()

    with pytest.raises(ValueError, match=r"has no column 'rank'; it has 'user_id'"):
        read_ranks(content(pl.DataFrame({"user_id": [1]})))
    with pytest.raises(ValueError, match="has the user_id 1 more than once"):
        read_ranks(content(pl.DataFrame({"user_id": [1, 1], "rank": [1, 2]})))
    with pytest.raises(ValueError, match="is not a readable Parquet table"):
        read_ranks(b"not a table")
    with pytest.raises(ValueError, match="user 3 has ranks but user_ids holds only 1 users"):
        ranks_file(Ranks(np.array([3]), *np.ones((4, 1), int)), pl.Series("user_id", [1]))


def test_metrics_record_names_the_policy_and_keeps_the_other() -> None:
    ranks = Ranks(np.arange(2), np.array([6, 1]), np.array([2, 1]), np.array([0, 3]), np.array([1, 2]))
    about = {"name": "toy", "hash": "abc", "users": 2, "items": 6}
    lists = Recommendations(np.array([[1, 2], [2, 2]]), np.zeros((2, 2)))
    record = metrics_record(
        "sasrec", about, describe_protocol("last", mask_seen=True), ranks, ks=(1, 2), recommendations=lists, recipe="x"
    )
    assert record["protocol"]["seen_items"] == "masked"
    assert record["test"]["recall@2"] == 1.0
    assert record["test_kept"]["recall@2"] == 1 / 2
    assert record["test"]["duplicates"] == 1
    assert record["test"]["coverage@2"] == 2 / 6
    assert record["test"]["users_with_ties"] == 1
    assert record["recipe"] == "x"
    with pytest.raises(ValueError, match=r"lacks \['hash'\]"):
        metrics_record("m", {"name": "toy", "users": 1, "items": 1}, describe_protocol("last"), ranks)
    with pytest.raises(ValueError, match="protocol has seen_items=None, expected 'kept' or 'masked'"):
        metrics_record("m", about, {"split": "last"}, ranks)


def test_metrics_of_a_run_that_ranks_all_items() -> None:
    train = Histories.from_lists([[1, 2], [2, 3]])
    test = targets_of([[1, 2], [2, 3]], [3, 1])
    scorer = TableOfScores(np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    about = {"name": "toy", "hash": "abc", "users": 2, "items": 3, "repeats": 0.0}
    dataset = SimpleNamespace(name="toy", n_users=2, n_items=3, described=lambda: about)
    ranks = rank_targets(scorer, test)
    record = metrics_of_run("pop", dataset, Split("last", train, test, test), "default", {}, ranks, 1.5, scorer)
    assert record["dataset"] == about
    assert record["train_seconds"] == 1.5
    assert record["test"]["coverage@20"] == 1.0
    assert record["test"]["mrr@5"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert record["test_masked"]["mrr@5"] == 1.0
    assert sum(part["users"] for part in record["slices"].values()) == 2


def test_the_share_of_users_whose_last_item_stands_first_is_counted() -> None:
    """The scorer likes the items 3, 2, 1 in this order whatever the history."""
    test = targets_of([[1, 3], [3, 2], [1], [3]], [1, 1, 2, 2])
    ranks = rank_targets(TableOfScores(np.tile([1.0, 2.0, 3.0], (4, 1))), test)
    assert ranks.last_first.tolist() == [True, False, False, True]
    assert ranks.take(np.array([0, 1])).last_first.tolist() == [True, False]
    about = {"name": "toy", "hash": "abc", "users": 4, "items": 3, "repeats": 0.0}
    record = metrics_record("m", about, describe_protocol("last"), ranks)
    assert record["last_item_first"] == 0.5
    with_lists = rank_lists(Recommendations(np.array([[3, 2]] * 4), np.array([[2.0, 1.0]] * 4)), test)
    assert with_lists.last_first.tolist() == ranks.last_first.tolist()


def test_validator_returns_to_training_mode() -> None:
    class Model(torch.nn.Module):
        def scorer(self) -> TableOfScores:
            self.eval()
            return TableOfScores(np.array([[1.0, 2.0], [2.0, 1.0]]))

    model = Model().train()
    found = validator(targets_of([[1], [2]], [2, 2]), ks=(1,))(model)
    assert found == {"recall@1": 0.5, "ndcg@1": 0.5, "mrr@1": 0.5}
    assert model.training
