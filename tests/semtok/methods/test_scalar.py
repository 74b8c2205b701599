"""LSH and FSQ: what a bit and a cell mean, decoding by least squares, the folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import check_estimator

import semtok
from semtok.codecs.grid import cells_of
from semtok.methods.scalar import FiniteScalarQuantizer, HyperplaneLSH, ScalarTokenizer

VIEWS = {"title": slice(0, 14), "brand": slice(14, 20)}
MADE = [
    HyperplaneLSH(levels=3, codebook_size=16),
    HyperplaneLSH(levels=2, codebook_size=4, center=False, orthogonal=False),
    FiniteScalarQuantizer(levels=3, cells=(5, 4)),
    FiniteScalarQuantizer(levels=2, cells=(7,), spread=1.5),
]


def some_vectors(rows: int = 500, width: int = 20, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(rows, width)) / np.arange(1, width + 1) ** 0.7 + 3).astype(np.float32)


@pytest.mark.parametrize("tokenizer", MADE, ids=repr)
def test_folder_and_numpy_backend_have_the_same_codes(tokenizer: ScalarTokenizer, tmp_path: Path) -> None:
    vectors, new = some_vectors(), some_vectors(seed=1)
    tokenizer.fit(vectors, views=VIEWS)
    codes = tokenizer.encode(vectors)
    assert codes.dtype == np.int32
    assert codes.shape == (500, len(tokenizer.sizes_))
    assert list(tokenizer.blocks_) == list(VIEWS)
    tokenizer.save(tmp_path, tokenizer.item_codes(vectors, np.arange(500)))
    for found in (semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")):
        assert (found.encode(vectors) == codes).all()
        assert (found.encode(new) == tokenizer.encode(new)).all()
        assert (found.decode(codes) == tokenizer.decode(codes)).all()
    assert semtok.load(tmp_path).get_params() == tokenizer.get_params()


@pytest.mark.parametrize("tokenizer", MADE, ids=repr)
def test_costs_are_distances_to_what_is_decoded(tokenizer: ScalarTokenizer) -> None:
    vectors = some_vectors(60)
    codes = tokenizer.fit(vectors, views=VIEWS).encode(vectors)
    for level, size in enumerate(tokenizer.sizes_):
        costs = tokenizer.costs(vectors, codes, level)
        assert costs.shape == (60, size)
        part = next(VIEWS[name] for name, block in tokenizer.blocks_.items() if block.start <= level < block.stop)
        for code in range(size):
            tried = codes.copy()
            tried[:, level] = code
            far = np.square(vectors - tokenizer.decode(tried))[:, part].sum(1)
            np.testing.assert_allclose(costs[:, code], far, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokenizer", MADE, ids=repr)
def test_same_codes_from_tensors_and_in_any_company(tokenizer: ScalarTokenizer) -> None:
    vectors = some_vectors()
    codes = tokenizer.fit(vectors).encode(vectors)
    assert (tokenizer.fit(torch.from_numpy(vectors)).encode(vectors) == codes).all()
    assert (tokenizer.encode(vectors[17:19]) == codes[17:19]).all()
    assert (tokenizer.encode(vectors[::-1]) == codes[::-1]).all()


@pytest.mark.parametrize("tokenizer", MADE, ids=repr)
def test_scikit_learn_accepts_it(tokenizer: ScalarTokenizer) -> None:
    results = check_estimator(tokenizer, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


def test_bits_say_the_side_of_each_hyperplane() -> None:
    vectors = some_vectors()
    for center in (True, False):
        fitted = HyperplaneLSH(levels=2, codebook_size=8, center=center).fit(vectors)
        grid = fitted.grids_["item"]
        origin = grid.mean if center else 0
        sides = ((vectors - origin).astype(np.float64) @ grid.axes >= 0).reshape(500, 2, 3)
        assert (fitted.encode(vectors) == sides @ np.array([4, 2, 1])).all()
        np.testing.assert_allclose(grid.axes.T @ grid.axes, np.eye(6), atol=1e-5)


def test_near_vectors_agree_in_more_bits() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(400, 32)).astype(np.float32)
    fitted = HyperplaneLSH(levels=64, codebook_size=2, orthogonal=False).fit(vectors)
    angle = 0.3
    turned = np.linalg.norm(vectors - fitted.grids_["item"].mean, axis=1, keepdims=True)
    aside = random.normal(size=vectors.shape)
    centred = vectors - fitted.grids_["item"].mean
    aside -= (aside * centred).sum(1, keepdims=True) / turned**2 * centred
    aside *= turned / np.linalg.norm(aside, axis=1, keepdims=True)
    near = np.cos(angle) * centred + np.sin(angle) * aside + fitted.grids_["item"].mean
    share = (fitted.encode(near) != fitted.encode(vectors)).mean()
    assert share == pytest.approx(angle / np.pi, rel=0.05)  # Goemans and Williamson


def test_cells_are_equal_parts_after_tanh() -> None:
    vectors = some_vectors(3000)
    fitted = FiniteScalarQuantizer(levels=2, cells=(5, 3)).fit(vectors)
    assert fitted.sizes_ == [15, 15]
    axes = PCA(4).fit(vectors.astype(np.float64))
    turned = axes.transform(vectors.astype(np.float64))
    turned *= np.sign((axes.components_ * fitted.grids_["item"].axes.T).sum(1))
    squashed = np.tanh(turned / np.sqrt(axes.explained_variance_))
    parts = np.floor((squashed + 1) / 2 * np.array([5, 3, 5, 3]))
    wanted = np.stack([parts[:, 0] * 3 + parts[:, 1], parts[:, 2] * 3 + parts[:, 3]], axis=1)
    assert (fitted.encode(vectors) == wanted).mean() > 0.99


def test_more_codes_lower_the_error() -> None:
    vectors = some_vectors()
    for tokenizers in (
        [HyperplaneLSH(levels=levels, codebook_size=16).fit(vectors) for levels in (1, 2, 4)],
        [FiniteScalarQuantizer(levels=levels, cells=(4, 4)).fit(vectors) for levels in (1, 2, 4)],
    ):
        errors = [np.square(vectors - found.decode(found.encode(vectors))).sum() for found in tokenizers]
        assert errors[0] > errors[1] > errors[2]
        assert errors[0] < np.square(vectors - vectors.mean(0)).sum()


def test_values_on_a_cut_lie_above_it() -> None:
    cuts = np.array([[-1, 0.5], [0, np.inf]], dtype=np.float32)
    assert cells_of(np.array([[-1, 0], [-1.1, -0.1], [0.5, 9]]), cuts).tolist() == [[1, 1], [0, 0], [2, 1]]


def test_axes_beyond_the_width_say_nothing() -> None:
    vectors = some_vectors(width=3)
    fitted = FiniteScalarQuantizer(levels=4, cells=(4, 3)).fit(vectors)
    codes = fitted.encode(vectors)
    assert [len(np.unique(column)) for column in codes.T[2:]] == [1, 1]
    assert np.square(vectors - fitted.decode(codes)).sum() < 0.2 * np.square(vectors - vectors.mean(0)).sum()


def test_wrong_arguments_are_refused() -> None:
    for tokenizer, message in (
        (HyperplaneLSH(codebook_size=100), "codebook_size=100 is not a power of two of at least 2"),
        (HyperplaneLSH(levels=0), "--levels must be at least 1, got 0"),
        (FiniteScalarQuantizer(cells=(8, 1)), r"--cells must be at least 2, got \(8, 1\)"),
        (FiniteScalarQuantizer(spread=0), "--spread must be above 0, got 0"),
        (FiniteScalarQuantizer(seed=-1), "--seed must be at least"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.fit(some_vectors())
    fitted = HyperplaneLSH().fit(some_vectors())
    with pytest.raises(ValueError, match=r"cuts\.item is missing; a grid has mean, axes"):
        fitted._restore({"cells": [2]}, {name: a for name, a in fitted._state()[1].items() if "cuts" not in name})
