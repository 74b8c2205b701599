"""Product quantizers beside faiss, and what their codes must satisfy."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.utils.estimator_checks import check_estimator

from semtok.methods.product import OptimizedProductQuantizer, ProductQuantizer


def some_vectors(rows: int = 2000, width: int = 32, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, width)) * (1 + np.arange(width)) ** -0.7
    return (mixed @ np.linalg.qr(random.normal(size=(width, width)))[0]).astype(np.float32)


def error_of(quantizer: ProductQuantizer, vectors: np.ndarray) -> float:
    return float(np.square(quantizer.decode(quantizer.encode(vectors)) - vectors).mean())


def test_codes_and_decoding_equal_faiss_with_the_same_codebooks() -> None:
    vectors = some_vectors()
    ours = ProductQuantizer(levels=4, codebook_size=64).fit(vectors)
    peer = faiss.ProductQuantizer(32, 4, 6)
    faiss.copy_array_to_vector(np.stack(ours.codebooks_).ravel(), peer.centroids)
    packed = peer.compute_codes(vectors)
    theirs = np.stack([faiss.unpack_bitstrings(row[None], 4, 6)[0] for row in packed])
    assert (ours.encode(vectors) == theirs).all()
    np.testing.assert_allclose(ours.decode(theirs), peer.decode(packed), rtol=1e-6)


def test_error_is_within_one_percent_of_faiss() -> None:
    vectors = some_vectors(3000)
    own = error_of(ProductQuantizer(levels=4, codebook_size=64).fit(vectors), vectors)
    peer = error_of(ProductQuantizer(levels=4, codebook_size=64, engine="faiss").fit(vectors), vectors)
    assert own <= 1.01 * peer


def test_rotation_lowers_the_error_and_is_orthogonal() -> None:
    vectors = some_vectors()
    plain = error_of(ProductQuantizer(levels=4, codebook_size=32).fit(vectors), vectors)
    own = OptimizedProductQuantizer(levels=4, codebook_size=32, engine="torch").fit(vectors)
    start = OptimizedProductQuantizer(levels=4, codebook_size=32, engine="torch", rotation_steps=0).fit(vectors)
    peer = OptimizedProductQuantizer(levels=4, codebook_size=32).fit(vectors)
    assert (own.engine_, peer.engine_) == ("torch", "faiss")
    assert error_of(own, vectors) < error_of(start, vectors) < 0.97 * plain
    assert error_of(own, vectors) <= 1.02 * error_of(peer, vectors)
    for fitted in (own, peer):
        np.testing.assert_allclose(fitted.rotations_[0] @ fitted.rotations_[0].T, np.eye(32), atol=1e-4)


def test_views_are_quantized_apart() -> None:
    vectors = some_vectors(600, 24)
    views = {"title": slice(0, 16), "brand": slice(16, 24)}
    both = ProductQuantizer(levels=2, codebook_size=16).fit(vectors, views=views)
    codes = both.encode(vectors)
    assert both.blocks_ == {"title": slice(0, 2), "brand": slice(2, 4)}
    assert both.sizes_ == [16] * 4
    title = ProductQuantizer(levels=2, codebook_size=16).fit(vectors[:, :16])
    assert (codes[:, :2] == title.encode(vectors[:, :16])).all()
    changed = vectors.copy()
    changed[:, 16:] += 1
    assert (both.encode(changed)[:, :2] == codes[:, :2]).all()


def test_per_view_codes_equal_one_quantizer_over_the_joined_vector() -> None:
    vectors = some_vectors(500, 24)
    views = {"a": slice(0, 8), "b": slice(8, 16), "c": slice(16, 24)}
    apart = ProductQuantizer(levels=2, codebook_size=16).fit(vectors, views=views)
    joined = ProductQuantizer(levels=6, codebook_size=16).fit(vectors)
    assert apart.columns_ == [(0, 4), (4, 8)] * 3
    assert apart.encode(vectors).shape == joined.encode(vectors).shape
    assert error_of(apart, vectors) == pytest.approx(error_of(joined, vectors), rel=0.03)


def test_ragged_sub_vectors_cover_every_column() -> None:
    vectors = some_vectors(300, 11)
    quantizer = ProductQuantizer(levels=4, codebook_size=8).fit(vectors)
    assert quantizer.columns_ == [(0, 3), (3, 6), (6, 9), (9, 11)]
    with pytest.raises(ValueError, match='11 columns are not a multiple of levels=4, which engine="faiss" needs'):
        ProductQuantizer(levels=4, codebook_size=8, engine="faiss").fit(vectors)


def test_degenerate_sub_vectors_report_unused_codes() -> None:
    vectors = some_vectors(200, 8)
    vectors[:, 4:] = np.arange(200)[:, None] % 3
    with pytest.warns(
        UserWarning,
        match=r"fewer distinct vectors than the 16 codes of a level in view 'item' \(its levels use 16, 3\)",
    ):
        quantizer = ProductQuantizer(levels=2, codebook_size=16).fit(vectors)
    assert quantizer.sizes_ == [16, 16]
    assert quantizer.used_ == [16, 3]
    assert quantizer.unused_ == [0, 13]
    assert quantizer.encode(vectors * 5 - 1)[:, 1].max() == 2


QUANTIZER = ProductQuantizer(levels=3, codebook_size=8).fit(some_vectors(300, 7))
ROWS = arrays(np.float32, st.tuples(st.integers(1, 12), st.just(7)), elements=st.floats(-3, 3, width=16))


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_each_code_is_the_nearest_codeword(vectors: np.ndarray) -> None:
    codes = QUANTIZER.encode(vectors)
    for level, (lo, hi) in enumerate(QUANTIZER.columns_):
        gaps = np.square(vectors[:, None, lo:hi].astype(np.float64) - QUANTIZER.codebooks_[level]).sum(2)
        assert (np.take_along_axis(gaps, codes[:, level : level + 1], 1)[:, 0] <= gaps.min(1) + 1e-4).all()


@settings(deadline=None, max_examples=25)
@given(ROWS, st.randoms())
def test_permuted_rows_have_permuted_codes(vectors: np.ndarray, random: object) -> None:
    order = list(range(len(vectors)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = QUANTIZER.decode(QUANTIZER.encode(vectors[order]))
    wanted = QUANTIZER.decode(QUANTIZER.encode(vectors))[order]
    errors = [np.square(part - vectors[order]).sum(1) for part in (found, wanted)]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantizer", [ProductQuantizer, OptimizedProductQuantizer])
def test_estimator_contract(quantizer: type) -> None:
    results = check_estimator(quantizer(levels=2, codebook_size=3, engine="torch"), on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "--levels must be at least 1, got 0"),
        ({"levels": 40}, "n_features=32 columns, fewer than levels=40"),
        ({"codebook_size": -4}, "--codebook-size must be at least 1, got -4"),
        ({"codebook_size": 2.5}, "--codebook-size must be a whole number, got 2.5"),
        ({"iterations": 0}, "--iterations must be at least 1, got 0"),
        ({"restarts": -1}, "--restarts must be at least 1, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"max_points_per_centroid": 0}, "--max-points-per-centroid must be at least 1, got 0"),
        ({"engine": "scann"}, "engine='scann' is not one of torch, faiss"),
        ({"init": "first"}, "init='first' is not one of"),
        ({"precision": "int8"}, "precision='int8' is not one of"),
        ({"codebook_size": 12, "engine": "faiss"}, "codebook_size=12 is not a power of two"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(**{"levels": 2, "codebook_size": 4, **arguments}).fit(some_vectors(50))


def test_negative_rotation_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="--rotation-steps must be at least 0, got -1"):
        OptimizedProductQuantizer(levels=2, codebook_size=4, rotation_steps=-1).fit(some_vectors(50))


def test_opq_of_fewer_rows_than_columns_does_not_go_to_faiss():
    pytest.importorskip("faiss", reason="needs the extra faiss")
    few = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
    auto, torch_ = (OptimizedProductQuantizer(levels=4, codebook_size=4, engine=engine) for engine in ("auto", "torch"))
    np.testing.assert_array_equal(auto.fit(few).rotations_[0], torch_.fit(few).rotations_[0])
    with pytest.raises(ValueError, match="by at least as many rows, but X has 20"):
        OptimizedProductQuantizer(levels=4, codebook_size=4, engine="faiss").fit(few)
