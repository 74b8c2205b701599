"""Random codes: evenly drawn, the same for the same vector, of no content."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

import semtok
from semtok.codecs.drawn import drawn_codes, row_keys
from semtok.methods.random_codes import RandomCodes


def some_vectors(rows: int = 20_000, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def test_all_codes_and_pairs_of_codes_are_as_likely() -> None:
    codes = RandomCodes(levels=2, codebook_size=10).fit(some_vectors()).encode(some_vectors())
    for counts in (*(np.bincount(column, minlength=10) for column in codes.T), np.bincount(codes @ [10, 1])):
        expected = 20_000 / len(counts)
        squared = float(np.square(counts - expected).sum() / expected)  # chi-squared
        assert len(counts) - 1 < squared + 4 * np.sqrt(2 * len(counts))
        assert squared < len(counts) + 4 * np.sqrt(2 * len(counts))


def test_the_same_vector_has_the_same_codes_and_another_seed_others() -> None:
    vectors = some_vectors(500)
    fitted = RandomCodes().fit(vectors)
    codes = fitted.encode(vectors)
    assert (fitted.encode(vectors[::-1]) == codes[::-1]).all()
    assert (RandomCodes().fit(vectors[:9]).encode(vectors) == codes).all()
    assert (RandomCodes().fit(torch.from_numpy(vectors)).encode(vectors.astype(np.float64)) == codes).all()
    assert (RandomCodes(seed=1).fit(vectors).encode(vectors) == codes).mean() < 0.02
    assert (fitted.encode(vectors + np.float32(1e-6)) == codes).mean() < 0.05


def test_near_vectors_have_nothing_in_common() -> None:
    vectors = some_vectors(2000)
    codes = RandomCodes(codebook_size=4).fit(vectors).encode(vectors)
    order = np.argsort(vectors[:, 0])
    assert (codes[order[1:]] == codes[order[:-1]]).mean() == pytest.approx(0.25, abs=0.02)


def test_folder_and_numpy_backend_have_the_same_codes(tmp_path: Path) -> None:
    vectors = some_vectors(300)
    views = {"title": slice(0, 4), "brand": slice(4, 5)}
    fitted = RandomCodes(levels=3, codebook_size=50, seed=4).fit(vectors, views=views)
    codes = fitted.item_codes(vectors, np.arange(300))
    fitted.save(tmp_path, codes)
    assert codes.sizes == (50,) * 6
    for found in (semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")):
        assert (found.encode(vectors) == codes.codes).all()
        assert (found.decode(codes.codes) == fitted.decode(codes.codes)).all()
    decoded = fitted.decode(codes.codes)
    np.testing.assert_allclose(decoded[:, :5], np.repeat(vectors[:, :5].mean(0)[None], 300, 0), atol=1e-6)
    assert not decoded[:, 5].any()


def test_all_codes_cost_the_distance_to_the_mean() -> None:
    vectors = some_vectors(50)
    fitted = RandomCodes(levels=2, codebook_size=7).fit(vectors)
    costs = fitted.costs(vectors, fitted.encode(vectors), -1)
    assert costs.shape == (50, 7)
    np.testing.assert_allclose(costs[:, 3], np.square(vectors - vectors.mean(0)).sum(1), rtol=1e-5)
    assert (costs == costs[:, :1]).all()


def test_drawn_codes_follow_from_keys_alone() -> None:
    keys = row_keys(some_vectors(100))
    assert (drawn_codes(keys, [5, 9], 3)[40:60] == drawn_codes(keys[40:60], [5, 9], 3)).all()


def test_wrong_arguments_are_refused() -> None:
    for arguments, message in (({"levels": 0}, "--levels must be"), ({"seed": -2}, "--seed must be at least")):
        with pytest.raises(ValueError, match=message):
            RandomCodes(**arguments).fit(some_vectors(10))


def test_scikit_learn_accepts_it() -> None:
    results = check_estimator(RandomCodes(), on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}
