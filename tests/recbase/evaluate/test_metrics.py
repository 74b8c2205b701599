"""Metrics against numbers worked by hand with visible fractions."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbase.evaluate.metrics import coverage_at, mean_metrics, mrr_at, ndcg_at, parse_metric, recall_at, user_values
from recbase.evaluate.recommender import Recommendations

RANKS = np.array([1, 2, 3, 7, 11, 0], dtype=np.int32)  # the last target was not returned


def test_recall_counts_targets_inside_the_list() -> None:
    assert recall_at(RANKS, 3).tolist() == [1, 1, 1, 0, 0, 0]
    assert recall_at(RANKS, 10).mean() == pytest.approx(4 / 6)


def test_ndcg_discounts_by_rank() -> None:
    expected = [1 / log2(2), 1 / log2(3), 1 / log2(4), 1 / log2(8), 0, 0]
    np.testing.assert_allclose(ndcg_at(RANKS, 10), expected)
    assert ndcg_at(RANKS, 3).mean() == pytest.approx((1 + 1 / log2(3) + 1 / 2) / 6)


def test_mrr_is_the_reciprocal_rank() -> None:
    np.testing.assert_allclose(mrr_at(RANKS, 10), [1, 1 / 2, 1 / 3, 1 / 7, 0, 0])
    assert mrr_at(RANKS, 20).mean() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 7 + 1 / 11) / 6)


def test_mean_metrics_names_every_metric_at_every_k() -> None:
    found = mean_metrics(RANKS, (2, 10))
    assert set(found) == {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (2, 10)}
    assert found["recall@2"] == pytest.approx(2 / 6)
    assert found["mrr@2"] == pytest.approx((1 + 1 / 2) / 6)


def test_mean_metrics_of_nobody_is_zero_without_a_warning() -> None:
    assert mean_metrics(np.zeros(0, np.int32), (5,)) == {"recall@5": 0.0, "ndcg@5": 0.0, "mrr@5": 0.0}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 30))
def test_metrics_are_ordered_and_grow_with_k(ranks: list[int], k: int) -> None:
    rank = np.array(ranks)
    assert (mrr_at(rank, k) <= ndcg_at(rank, k)).all()
    assert (ndcg_at(rank, k) <= recall_at(rank, k)).all()
    for metric in (recall_at, ndcg_at, mrr_at):
        assert (metric(rank, k) <= metric(rank, k + 1)).all()


def test_metric_names() -> None:
    assert parse_metric("ndcg@10") == ("ndcg", 10)
    assert user_values("recall@1", RANKS).tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "hit@10", "ndcg@ten"])
def test_unknown_metric_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"metric '{name}' is unknown: expected recall, ndcg, mrr, then @"):
        parse_metric(name)


def test_coverage_counts_distinct_items() -> None:
    lists = Recommendations(np.array([[1, 2, 3], [2, 4, -1]]), np.zeros((2, 3)))
    assert coverage_at(lists, 1, 8) == 2 / 8  # items 1, 2
    assert coverage_at(lists, 3, 8) == 4 / 8  # items 1, 2, 3, 4; -1 is no item
    with pytest.raises(ValueError, match="coverage@5 needs lists of 5 items but these have 3"):
        coverage_at(lists, 5, 8)


def test_recommendations_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"items \[1, 2\] and scores \[1, 3\] should both have one shape"):
        Recommendations(np.ones((1, 2)), np.ones((1, 3)))
