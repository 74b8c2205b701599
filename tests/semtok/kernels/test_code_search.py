"""The search over codes gives the list that scoring every item gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import semtok
from semtok.kernels import code_search
from semtok.kernels.code_search import CodeSearch, code_tables


def dense(scores: list[np.ndarray], codes: np.ndarray, k: int, exclude: Any = None, mask: Any = None) -> np.ndarray:
    """Item numbers of the best items, all of them scored in float64."""
    total = sum(part[:, codes[:, level]] for level, part in enumerate(scores))
    lists = np.full((len(total), k), -1)
    for row, values in enumerate(total):
        allowed = values > -np.inf
        if mask is not None:
            allowed &= mask
        if exclude is not None:
            gone = np.asarray(exclude[row])
            allowed[gone[(gone > 0) & (gone <= len(codes))] - 1] = False
        order = np.lexsort((np.arange(len(codes)), -values))
        best = order[allowed[order]][:k] + 1
        lists[row, : len(best)] = best
    return lists


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    items=st.integers(1, 400),
    sizes=st.lists(st.sampled_from([1, 2, 5, 40, 256, 300]), min_size=1, max_size=6),
    k=st.integers(1, 30),
    kind=st.sampled_from(["normal", "whole", "heavy", "one"]),
    threads=st.sampled_from([1, 2]),
    excluding=st.booleans(),
    masked=st.booleans(),
)
def test_lists_are_those_of_dense_scoring(
    seed: int, items: int, sizes: list[int], k: int, kind: str, threads: int, excluding: bool, masked: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in sizes], 1)
    scores: list[np.ndarray] = []
    for size in sizes:
        drawn = rng.standard_normal((3, size))
        scores.append({"normal": drawn, "whole": drawn.round(), "heavy": drawn**5, "one": drawn * 0 + 1}[kind])
    exclude = rng.integers(0, items + 3, (3, 6)) if excluding else None
    mask = rng.random(items) < 0.5 if masked else None
    found = CodeSearch(codes, sizes, threads).search(scores, k, exclude, mask)
    assert np.array_equal(found.items, dense(scores, codes, k, exclude, mask))


def test_pruning_cuts_nothing_off_where_there_is_much_to_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples and first guesses, so that a catalogue of a test is pruned as one of millions."""
    monkeypatch.setattr(code_search, "_FIRST", 32)
    monkeypatch.setattr(code_search, "_BLOCK", 1000)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 64, (30_000, 6))
    scores = [rng.standard_normal((5, 64)) * scale for scale in (1, 3, 0.2, 1, 2, 0.5)]
    search = CodeSearch(codes, [64] * 6)
    kept: list[int] = []
    whole = code_search._kept

    def counted(*given: Any) -> np.ndarray:
        rows = whole(*given)
        kept.append(len(rows))
        return rows

    monkeypatch.setattr(code_search, "_kept", counted)
    exclude = rng.integers(1, 30_001, (5, 40))
    exclude[:, 0] = dense(scores, codes, 1)[:, 0]
    assert np.array_equal(search.search(scores, 20, exclude).items, dense(scores, codes, 20, exclude))
    assert max(kept) < 3_000


def test_a_code_of_minus_infinity_is_forbidden() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    scores = [np.array([[1.0, 5.0]]), np.array([[0.0, -np.inf]])]
    found = CodeSearch(codes, [2, 2]).search(scores, 4)
    assert found.items.tolist() == [[3, 1, -1, -1]]
    assert CodeSearch(codes, [2, 2]).search([part - np.inf for part in scores], 2).items.tolist() == [[-1, -1]]


@pytest.mark.parametrize("kind", [semtok.ProductQuantizer, semtok.ResidualQuantizer, semtok.OptimizedProductQuantizer])
def test_tables_of_a_tokenizer_score_its_decoded_vectors(kind: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 16)) + 3).astype(np.float32)
    tokenizer = kind(codebook_size=16, **({"levels": 4} if kind is semtok.ResidualQuantizer else {})).fit(vectors)
    codes = tokenizer.encode(vectors)
    tables, offset = code_tables(tokenizer)
    queries = rng.standard_normal((4, 16)).astype(np.float32)
    found = CodeSearch(codes, tokenizer.sizes_).search([queries @ table.T for table in tables], 5)
    whole = queries @ tokenizer.decode(codes).T
    np.testing.assert_allclose(
        found.scores + (queries @ offset)[:, None], np.take_along_axis(whole, found.items - 1, 1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(found.scores[:, 0] + queries @ offset, whole.max(1), rtol=1e-4, atol=1e-4)


def test_codes_that_do_not_add_up_are_refused() -> None:
    rng = np.random.default_rng(0)
    made = semtok.RQVAE(codebook_size=4, levels=2, steps=3, latent_dim=4, hidden=(8,), quiet=True)
    made.fit(rng.standard_normal((60, 4)).astype(np.float32))
    with pytest.raises(ValueError, match="codes of rqvae do not add up"):
        code_tables(made)


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        (np.zeros((3, 2)), [4], r"codes have shape \(3, 2\); expected \[N, 1\]"),
        (np.array([[4]]), [4], r"codes lie in 4\.\.4"),
        (np.array([[-1]]), [4], r"codes lie in -1\.\.-1"),
        (np.array([[0]]), [70_000], "expected 1 to 65,536 codes a level"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: np.ndarray, sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeSearch(codes, sizes)


def test_scores_that_do_not_fit_are_refused() -> None:
    search = CodeSearch(np.array([[0, 1]]), [2, 2])
    with pytest.raises(ValueError, match=r"scores have shapes \[\(1, 2\)\]"):
        search.search([np.zeros((1, 2))])
    with pytest.raises(ValueError, match="scores hold NaN"):
        search.search([np.zeros((1, 2)), np.full((1, 2), np.nan)])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search.search([np.zeros((1, 2)), np.zeros((1, 2))], 0)
