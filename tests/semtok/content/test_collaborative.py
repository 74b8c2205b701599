"""Vectors of co-occurrence: counts against loops, weights worked by hand, what the vectors say of communities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import semtok
from recbase.data.sequences import Histories
from semtok.content import collaborative
from semtok.content.collaborative import collaborative_vectors, cooccurrences, positive_pmi

HISTORIES = st.lists(st.lists(st.integers(1, 6), max_size=7), min_size=1, max_size=5)


@given(HISTORIES, st.sampled_from([1, 2, 5, None]), st.sampled_from([3, 1 << 22]))
def test_counts_are_those_of_a_loop(lists: list[list[int]], window: int | None, pairs: int) -> None:
    expected = np.zeros((6, 6))
    for items in lists:
        for one in range(len(items)):
            for two in range(one + 1, len(items)):
                if (window is None or two - one <= window) and items[one] != items[two]:
                    expected[items[one] - 1, items[two] - 1] += 1
                    expected[items[two] - 1, items[one] - 1] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collaborative, "_PAIRS", pairs)
        found = cooccurrences(Histories.from_lists(lists), 6, window)
    assert (found.toarray() == expected).all()


def test_weights_are_positive_mutual_information() -> None:
    counts = cooccurrences(Histories.from_lists([[1, 2], [1, 2], [1, 3], [3, 4]]), 4)
    # pairs: 1-2 twice, 1-3 once, 3-4 once; sums 3, 2, 2, 1; 8 in all
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = np.log(2 * 8 / (3 * 2))
    expected[0, 2] = expected[2, 0] = np.log(1 * 8 / (3 * 2))
    expected[2, 3] = expected[3, 2] = np.log(1 * 8 / (2 * 1))
    np.testing.assert_allclose(positive_pmi(counts).toarray(), expected)
    shifted = positive_pmi(counts, shift=2.0)
    np.testing.assert_allclose(shifted.toarray(), np.maximum(expected - np.log(2), 0), atol=1e-12)
    assert shifted.nnz == 4  # 8/6 is less than the shift of 2


def test_products_of_full_rank_are_the_root_of_the_squared_weights() -> None:
    random = np.random.default_rng(0)
    train = Histories.from_lists([list(random.integers(1, 9, size=6)) for _ in range(30)])
    weights = positive_pmi(cooccurrences(train, 8, 10)).toarray()
    values, axes = np.linalg.eigh(weights)
    vectors = collaborative_vectors(train, 8, dim=8)
    np.testing.assert_allclose(vectors @ vectors.T, (axes * np.abs(values)) @ axes.T, atol=1e-4)


def communities(seed: int = 0) -> Histories:
    """200 users who stay in one of two halves of items 1..40; item 41 occurs alone, item 42 never."""
    random = np.random.default_rng(seed)
    lists = [list(random.integers(1, 21, size=8) + 20 * (user % 2)) for user in range(200)]
    return Histories.from_lists([*lists, [41]])


def test_items_of_a_community_are_alike_and_unseen_ones_are_zero() -> None:
    vectors = collaborative_vectors(communities(), 42, dim=8)
    assert vectors.shape == (42, 8)
    assert vectors.dtype == np.float32
    assert not vectors[40:].any()
    unit = vectors[:40] / np.linalg.norm(vectors[:40], axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[:20, :20].mean() > alike[:20, 20:].mean() + 0.1
    assert np.abs(alike[:20, 20:]).max() < 0.05
    assert (collaborative_vectors(communities(), 42, dim=8) == vectors).all()
    assert semtok.collaborative_vectors is collaborative_vectors


def test_more_columns_than_items_are_zeros() -> None:
    vectors = collaborative_vectors(Histories.from_lists([[1, 2], [2, 3]]), 4, dim=6)
    assert vectors.shape == (4, 6)
    assert not vectors[:, 4:].any()
    assert not vectors[3].any()
    assert not collaborative_vectors(Histories.from_lists([[1], []]), 3, dim=2).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_items": 2}, r"a history holds item number 3; expected 1\.\.2"),
        ({"window": 0}, "window=0 is not an integer of at least 1, nor None"),
        ({"dim": 0}, "dim=0 is not an integer of at least 1"),
        ({"shift": 0.0}, "shift=0.0 is not a number above 0"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collaborative_vectors(Histories.from_lists([[1, 2], [2, 3]]), **{"n_items": 4, **arguments})
    with pytest.raises(ValueError, match=r"item number 0; expected 1\.\.4"):
        collaborative_vectors(Histories.from_lists([[0, 2]]), 4)
