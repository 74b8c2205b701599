"""Bootstrap, paired tests and Holm's correction against scipy and hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recbase.evaluate.significance import bootstrap_interval, holm, paired_test

RNG = np.random.default_rng(0)
FIRST = RNG.choice([0.0, 0.3, 0.5, 1.0], 500, p=[0.7, 0.1, 0.1, 0.1])
SECOND = np.where(RNG.random(500) < 0.15, 1.0, FIRST)


def test_bootstrap_agrees_with_scipy() -> None:
    found = bootstrap_interval(FIRST, samples=4000)
    theirs = stats.bootstrap((FIRST,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert found.mean == pytest.approx(FIRST.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.004)
    assert found.high == pytest.approx(theirs.high, abs=0.004)


def test_bootstrap_is_seeded_and_widens_with_confidence() -> None:
    assert bootstrap_interval(FIRST, seed=3) == bootstrap_interval(FIRST, seed=3)
    assert bootstrap_interval(FIRST, seed=3) != bootstrap_interval(FIRST, seed=4)
    narrow, wide = bootstrap_interval(FIRST, 0.8), bootstrap_interval(FIRST, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_bootstrap_in_blocks_for_many_distinct_values(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=300)
    whole = bootstrap_interval(values, samples=500)
    monkeypatch.setattr("recbase.evaluate.significance._BLOCK", 300 * 7)
    assert bootstrap_interval(values, samples=500) == whole
    assert whole.high - whole.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(300), rel=0.15)


def test_bootstrap_of_equal_values_has_no_width() -> None:
    found = bootstrap_interval(np.full(9, 0.25))
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).random((200, 150)) < 0.3
    intervals = [bootstrap_interval(row, 0.9, samples=300) for row in draws]
    assert 0.82 <= np.mean([found.low <= 0.3 <= found.high for found in intervals]) <= 0.97


def test_paired_test_agrees_with_scipy() -> None:
    found = paired_test(FIRST, SECOND)
    assert found.t_p == pytest.approx(stats.ttest_rel(SECOND, FIRST).pvalue, rel=1e-6)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(SECOND, FIRST).pvalue)
    assert found.difference.mean == pytest.approx(SECOND.mean() - FIRST.mean())
    assert 0 < found.difference.low < found.difference.high
    assert found.users == 500


def test_paired_test_has_a_direction_and_no_order() -> None:
    there, back = paired_test(FIRST, SECOND), paired_test(SECOND, FIRST)
    assert back.difference.mean == pytest.approx(-there.difference.mean)
    assert (back.t_p, back.wilcoxon_p) == pytest.approx((there.t_p, there.wilcoxon_p))


def test_equal_recommenders_are_not_different() -> None:
    found = paired_test(FIRST, FIRST)
    assert (found.difference.mean, found.t_p, found.wilcoxon_p) == (0.0, 1.0, 1.0)


def test_a_constant_difference_is_certain() -> None:
    assert paired_test(np.zeros(30), np.ones(30)).t_p == 0.0


def test_holm_worked_by_hand() -> None:
    # sorted: .01 x 4, .02 x 3, .03 x 2, .2 x 1 -> .04, .06, .06, .2
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(values: list[float]) -> None:
    raw, adjusted = np.array(values), np.array(holm(values))
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(raw)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval(np.zeros(0)), r"values has shape \[0\], expected one value each of at least 1"),
        (lambda: bootstrap_interval(np.array([0.1, np.nan])), "values holds 1 values that are not finite"),
        (lambda: bootstrap_interval(FIRST, confidence=95), "confidence=95 should lie between 0 and 1"),
        (lambda: bootstrap_interval(FIRST, samples=0), "samples=0 should be >= 1"),
        (lambda: paired_test(FIRST, FIRST[:-1]), "first has 500 users but second has 499"),
        (lambda: paired_test(np.ones(1), np.ones(1)), r"first has shape \[1\], .* at least 2 users"),
        (lambda: holm([0.5, 1.5]), r"p_values=\[0.5, 1.5\] should all lie between 0 and 1"),
    ],
)
def test_refusals_name_the_value(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
