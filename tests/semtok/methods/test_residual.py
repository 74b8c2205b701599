"""Residual quantizers beside faiss, and what their codes must satisfy."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.utils.estimator_checks import check_estimator

from semtok.methods.residual import ResidualQuantizer


def some_vectors(rows: int = 2000, width: int = 24, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    topics = random.normal(size=(100, width)) * (1 + np.arange(width)) ** -0.5
    return (topics[random.integers(100, size=rows)] + 0.4 * random.normal(size=(rows, width))).astype(np.float32)


def error_of(quantizer: ResidualQuantizer, vectors: np.ndarray) -> float:
    return float(np.square(quantizer.decode(quantizer.encode(vectors)) - vectors).mean())


@pytest.mark.parametrize("beam", [1, 4])
def test_codes_equal_faiss_with_the_same_codebooks(beam: int) -> None:
    vectors = some_vectors()
    ours = ResidualQuantizer(levels=3, codebook_size=64, beam=beam).fit(vectors)
    peer = faiss.ResidualQuantizer(24, 3, 6)
    peer.max_beam_size = beam
    faiss.copy_array_to_vector(np.stack(ours.codebooks_).ravel(), peer.codebooks)
    peer.is_trained = True
    theirs = np.stack([faiss.unpack_bitstrings(row[None], 3, 6)[0] for row in peer.compute_codes(vectors)])
    assert (ours.encode(vectors) == theirs).all()


@pytest.mark.parametrize("start", ["plain", "progressive"])
def test_error_is_near_that_of_faiss(start: str) -> None:
    vectors = some_vectors(4000)
    own = error_of(ResidualQuantizer(levels=3, codebook_size=64, start=start).fit(vectors), vectors)
    like = error_of(ResidualQuantizer(levels=3, codebook_size=64, start=start, engine="faiss").fit(vectors), vectors)
    assert own <= 1.02 * like


def test_default_error_is_within_two_percent_of_faiss_default() -> None:
    vectors = some_vectors(4000)
    peer = faiss.ResidualQuantizer(24, 3, 6)
    peer.train(vectors)
    theirs = float(np.square(peer.decode(peer.compute_codes(vectors)) - vectors).mean())
    assert error_of(ResidualQuantizer(levels=3, codebook_size=64, beam=5).fit(vectors), vectors) <= 1.02 * theirs


def test_every_level_lowers_the_error() -> None:
    vectors = some_vectors()
    errors = [
        error_of(ResidualQuantizer(levels=levels, codebook_size=16).fit(vectors), vectors) for levels in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_wider_beam_never_raises_the_mean_error() -> None:
    vectors = some_vectors()
    quantizer = ResidualQuantizer(levels=3, codebook_size=16).fit(vectors)
    errors = [error_of(quantizer.set_params(beam=beam), vectors) for beam in (1, 2, 8)]
    assert errors[0] > errors[1] > errors[2]


def test_widest_beam_finds_the_best_of_all_tuples() -> None:
    vectors = some_vectors(60, 5)
    quantizer = ResidualQuantizer(levels=2, codebook_size=4, beam=16).fit(vectors)
    every = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), axis=-1).reshape(-1, 2)
    gaps = np.square(vectors[:, None] - quantizer.decode(every)).sum(2)
    assert (quantizer.encode(vectors) == every[gaps.argmin(1)]).all()


def test_views_are_quantized_apart() -> None:
    vectors = some_vectors(500, 12)
    quantizer = ResidualQuantizer(levels=2, codebook_size=8).fit(vectors, views={"a": slice(0, 5), "b": slice(5, 12)})
    assert quantizer.blocks_ == {"a": slice(0, 2), "b": slice(2, 4)}
    assert [book.shape[1] for book in quantizer.codebooks_] == [5, 5, 7, 7]
    alone = ResidualQuantizer(levels=2, codebook_size=8).fit(vectors[:, :5])
    assert (quantizer.encode(vectors)[:, :2] == alone.encode(vectors[:, :5])).all()


def test_residuals_that_are_all_zero_use_one_code() -> None:
    vectors = np.repeat(some_vectors(4, 6), 5, axis=0)
    with pytest.warns(
        UserWarning,
        match=r"fewer distinct vectors than the 8 codes of a level in view 'item' \(its levels use 4, 1, 1\)",
    ):
        quantizer = ResidualQuantizer(levels=3, codebook_size=8).fit(vectors)
    assert quantizer.used_ == [4, 1, 1]
    assert quantizer.unused_ == [4, 7, 7]
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(vectors)), vectors, atol=1e-6)


QUANTIZER = ResidualQuantizer(levels=3, codebook_size=8).fit(some_vectors(300, 5))
ROWS = arrays(np.float32, st.tuples(st.integers(1, 12), st.just(5)), elements=st.floats(-3, 3, width=16))


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_codes_are_the_nearest_codeword_path(vectors: np.ndarray) -> None:
    left = vectors.astype(np.float64)
    for level, column in enumerate(QUANTIZER.encode(vectors).T):
        gaps = np.square(left[:, None] - QUANTIZER.codebooks_[level]).sum(2)
        assert (gaps[np.arange(len(gaps)), column] <= gaps.min(1) + 1e-4).all()
        left = left - QUANTIZER.codebooks_[level][column]
    np.testing.assert_allclose(vectors - left, QUANTIZER.decode(QUANTIZER.encode(vectors)), atol=1e-5)


def test_permuted_rows_have_permuted_codes() -> None:
    vectors = some_vectors(700, 5, seed=3)
    order = np.random.default_rng(0).permutation(700)
    assert (QUANTIZER.encode(vectors[order]) == QUANTIZER.encode(vectors)[order]).all()


def test_estimator_contract() -> None:
    results = check_estimator(ResidualQuantizer(levels=2, codebook_size=3, beam=2), on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": -1}, "--levels must be at least 1, got -1"),
        ({"beam": 0}, "--beam must be at least 1, got 0"),
        ({"iterations": 0}, "--iterations must be at least 1, got 0"),
        ({"start": "warm"}, "start='warm' is not one of plain, progressive"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(**{"levels": 2, "codebook_size": 4, **arguments}).fit(some_vectors(50))
