"""What moving and scaling all vectors must not change: codes and errors, for every quantizer of distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as PlainKMeans

import semtok
from semtok.catalogue.unique import costs_of, make_unique
from semtok.codecs.portable import load_portable
from semtok.kernels.lloyd import cluster, cluster_progressive, nearest
from semtok.kernels.origins import far_part, middle
from semtok.kernels.residual_vq import sinkhorn_codes
from semtok.methods.hierarchical import HierarchicalKMeans
from semtok.methods.kmeans import KMeans
from semtok.methods.product import OptimizedProductQuantizer, ProductQuantizer
from semtok.methods.residual import ResidualQuantizer
from semtok.methods.rqvae import RQVAE
from semtok.methods.scalar import FiniteScalarQuantizer, HyperplaneLSH

QUANTIZERS: dict[str, Any] = {
    "pq": lambda: ProductQuantizer(levels=3, codebook_size=16),
    "pq-float32": lambda: ProductQuantizer(levels=3, codebook_size=16, precision="float32"),
    "pq-bfloat16": lambda: ProductQuantizer(levels=3, codebook_size=16, precision="bfloat16"),
    "opq": lambda: OptimizedProductQuantizer(levels=3, codebook_size=16, engine="torch", rotation_steps=3),
    "rq": lambda: ResidualQuantizer(levels=3, codebook_size=16),
    "rq-progressive": lambda: ResidualQuantizer(levels=3, codebook_size=16, start="progressive"),
    "rq-beam": lambda: ResidualQuantizer(levels=3, codebook_size=16, beam=4, precision="float32"),
    "kmeans": lambda: KMeans(codebook_size=16),
    "hierarchical": lambda: HierarchicalKMeans(codebook_size=8),
    "hierarchical-balanced": lambda: HierarchicalKMeans(codebook_size=8, balanced=True),
    "hierarchical-variable": lambda: HierarchicalKMeans(codebook_size=8, form="variable"),
    "lsh": lambda: HyperplaneLSH(levels=3, codebook_size=16),
    "fsq": lambda: FiniteScalarQuantizer(levels=2, cells=(4, 3)),
}
FAISS: dict[str, Any] = {
    "faiss-pq": lambda: ProductQuantizer(levels=3, codebook_size=16, engine="faiss"),
    "faiss-opq": lambda: OptimizedProductQuantizer(levels=3, codebook_size=16, engine="faiss"),
    "faiss-rq": lambda: ResidualQuantizer(levels=3, codebook_size=16, engine="faiss"),
    "faiss-kmeans": lambda: KMeans(codebook_size=16, engine="faiss"),
}
ROWS, WIDTH = 700, 12


def on_a_grid(seed: int = 0, spread: float = 0.05) -> np.ndarray:
    """Vectors in steps of 1/1024, so that adding whole numbers below 8192 is exact in float32; more rows than fit."""
    vectors = np.random.default_rng(seed).normal(size=(ROWS + 100, WIDTH)) * spread
    return (np.round(vectors * 1024) / 1024).astype(np.float32)


def relative_error(quantizer: Any, vectors: np.ndarray) -> float:
    decoded = quantizer.decode(quantizer.encode(vectors)).astype(np.float64)
    exact = vectors.astype(np.float64)
    return float(np.square(exact - decoded).sum() / np.square(exact - exact.mean(0)).sum())


@pytest.mark.parametrize("name", [*QUANTIZERS, *FAISS])
@pytest.mark.parametrize("offset", ["a year", "all columns"])
def test_moved_vectors_have_the_same_codes(name: str, offset: str, tmp_path: Path) -> None:
    make, vectors = (QUANTIZERS | FAISS)[name], on_a_grid()
    moved = vectors.copy()
    if offset == "a year":
        moved[:, 3] += 2010
    else:
        moved += (np.arange(WIDTH) * 512 - 2048).astype(np.float32)
    near, far = make().fit(vectors[:ROWS]), make().fit(moved[:ROWS])
    assert (near.encode(vectors) == far.encode(moved)).all()  # those of the fit and new ones
    assert relative_error(far, moved) == pytest.approx(relative_error(near, vectors), rel=2e-3)
    far.save(tmp_path, far.item_codes(moved[:ROWS], np.arange(ROWS)))
    assert (semtok.load(tmp_path).encode(moved) == far.encode(moved)).all()
    portable = load_portable(tmp_path)
    assert (portable.encode(moved) == far.encode(moved)).all()
    np.testing.assert_allclose(portable.decode(far.encode(moved)), far.decode(far.encode(moved)), atol=1e-3)


@pytest.mark.parametrize("name", QUANTIZERS)
@settings(deadline=None, max_examples=3)
@given(power=st.integers(-20, 20))
def test_powers_of_two_change_no_code(name: str, power: int) -> None:
    vectors, scale = on_a_grid(1), np.float32(2.0**power)
    near, scaled = QUANTIZERS[name]().fit(vectors[:ROWS]), QUANTIZERS[name]().fit(vectors[:ROWS] * scale)
    assert (near.encode(vectors) == scaled.encode(vectors * scale)).all()


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("change", ["1e-6", "1e6", "1e4 further"])
def test_error_depends_on_neither_place_nor_scale(name: str, change: str) -> None:
    vectors = np.random.default_rng(2).normal(size=(ROWS, WIDTH)).astype(np.float32)
    changed = vectors + np.float32(1e4) if change == "1e4 further" else vectors * np.float32(change)
    near, other = QUANTIZERS[name]().fit(vectors), QUANTIZERS[name]().fit(changed)
    # 1e4 further on, float32 itself rounds the vectors to thousandths, and small clusters of a tree fall out otherwise.
    close = 0.25 if change == "1e4 further" and name.startswith("hierarchical") else 0.04
    assert relative_error(other, changed) == pytest.approx(relative_error(near, vectors), rel=close)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(-4000, 4000), min_size=5, max_size=5), st.integers(0, 5))
def test_clusters_move_with_their_rows(offset: list[int], seed: int) -> None:
    points = torch.from_numpy(on_a_grid(seed)[:300, :5].copy())
    moved = points + torch.tensor(offset, dtype=torch.float32)
    for fit in (cluster, cluster_progressive):
        near, far = fit(points, 8), fit(moved, 8)
        assert torch.equal(near.codes, far.codes)
        assert far.error == near.error
        torch.testing.assert_close(far.centers - torch.tensor(offset), near.centers, atol=1e-3, rtol=0)


@pytest.mark.parametrize("offset", [0, 2010, 10_000])
def test_nearest_is_right_far_from_zero(offset: int) -> None:
    draw = np.random.default_rng(3)
    centers = torch.from_numpy((draw.normal(size=(50, 8)) * 0.05 + offset).astype(np.float32))
    points = torch.from_numpy((draw.normal(size=(2000, 8)) * 0.05 + offset).astype(np.float32))
    exact = torch.cdist(points.double(), centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
    for settle, close in ((False, 1e-6), (True, 1e-4 if offset < 3000 else 1e-2)):  # settled: ties go to the first
        own = exact.gather(1, nearest(points, centers, settle)[:, None])[:, 0]
        assert float((own - exact.amin(1)).max()) < close


def test_kmeans_far_from_zero_is_as_good_as_scikit_learn_and_faiss() -> None:
    vectors = on_a_grid(4, 0.5)[:ROWS] + np.float32(4096)
    plain = PlainKMeans(16, n_init=3, random_state=0).fit(vectors.astype(np.float64)).inertia_ / ROWS
    centred = faiss.Kmeans(WIDTH, 16, niter=25, nredo=3)
    theirs = centred.train(vectors - np.float32(4096)) / ROWS
    ours = cluster(torch.from_numpy(vectors), 16, restarts=3).error
    assert ours <= 1.02 * min(plain, theirs)


def test_costs_far_from_zero_make_the_same_codes_unique() -> None:
    vectors = on_a_grid(5)[:ROWS]
    moved = vectors.copy()
    moved[:, 3] += 2010
    found = []
    for rows in (vectors, moved):
        quantizer = ResidualQuantizer(levels=2, codebook_size=32).fit(rows)
        codes = quantizer.item_codes(rows, np.arange(ROWS))
        costs = quantizer.costs(rows, codes.codes, 1)
        own = np.square(rows - quantizer.decode(codes.codes)).sum(1)
        np.testing.assert_allclose(costs[np.arange(ROWS), codes.codes[:, 1]], own, rtol=0.02, atol=1e-5)
        found.append(make_unique(codes, "matching", costs=costs_of(quantizer, rows, codes))[0].codes)
    assert (found[0] != found[1]).any(1).mean() < 0.01  # equally cheap ones may be exchanged


def test_autoencoders_scale_small_columns_beside_far_ones() -> None:
    vectors = np.random.default_rng(6).normal(size=(300, 6)).astype(np.float32)
    vectors *= np.array([1, 1e-3, 1e-3, 1, 1, 0], dtype=np.float32)
    vectors[:, 2] += np.float32(2010)
    vectors[:, 5] = 7
    shape = {"levels": 2, "codebook_size": 8, "hidden": (8,), "latent_dim": 4, "steps": 2, "quiet": True}
    fitted = RQVAE(scaling="each", **shape).fit(vectors).fitted_[0]
    np.testing.assert_allclose(fitted.scale[:5], vectors[:, :5].astype(np.float64).std(0), rtol=1e-3)
    assert fitted.scale[5] == 1
    small = RQVAE(scaling="each", **shape).fit(vectors * np.float32(2.0**-30)).fitted_[0]
    np.testing.assert_allclose(small.scale[:5], 2.0**-30 * fitted.scale[:5], rtol=1e-6)


def test_even_assignment_does_not_depend_on_the_origin() -> None:
    draw = torch.Generator().manual_seed(0)
    points, words = torch.randn(64, 4, generator=draw), torch.randn(8, 4, generator=draw)
    assert torch.equal(sinkhorn_codes(points, words, 0.05), sinkhorn_codes(points + 1000, words + 1000, 0.05))


def test_ordinary_vectors_keep_plain_codebooks(tmp_path: Path) -> None:
    vectors = np.random.default_rng(7).normal(size=(300, 6)).astype(np.float32) + np.float32(1.5)
    quantizer = ResidualQuantizer(levels=2, codebook_size=8).fit(vectors)
    assert quantizer.shifts_ == [None]
    codes = quantizer.encode(vectors)
    summed = quantizer.codebooks_[0][codes[:, 0]] + quantizer.codebooks_[1][codes[:, 1]]
    np.testing.assert_allclose(summed, quantizer.decode(codes), atol=1e-6)
    far = ResidualQuantizer(levels=2, codebook_size=8).fit(vectors + np.float32(256))
    assert (far.shifts_[0] % 8 == 0).all()
    assert np.abs(far.codebooks_[0]).max() < 20


def test_a_damaged_shift_is_named(tmp_path: Path) -> None:
    vectors = on_a_grid()[:ROWS] + np.float32(100)
    quantizer = ProductQuantizer(levels=3, codebook_size=16).fit(vectors)
    quantizer.shifts_[0] = quantizer.shifts_[0][:5]
    quantizer.save(tmp_path)
    with pytest.raises(ValueError, match=r"'shift.item' has shape \[5\], expected \[12\]"):
        semtok.load(tmp_path)


def test_middle_is_made_of_values_of_the_rows() -> None:
    points = torch.tensor([[1.0, 5.0], [2.0, 5.0], [100.0, 5.0]])
    assert middle(points).tolist() == [2, 5]
    assert far_part(points[:, :1].contiguous()) is None
    assert far_part(torch.tensor([[2010.0], [2011.0], [2012.0]])).tolist() == [2008]


@pytest.mark.parametrize("method", [ProductQuantizer, ResidualQuantizer, KMeans, HierarchicalKMeans, HyperplaneLSH])
@pytest.mark.parametrize("scale", [1e20, 3e38, 1e-20, 1e-38, 1e-60])
def test_hopeless_scales_are_refused_and_named(method: Any, scale: float) -> None:
    vectors = np.random.default_rng(8).uniform(0.1, 1.0, size=(300, 4)) * scale
    vectors = vectors if scale == 1e-60 else vectors.astype(np.float32)
    word = "divide" if scale > 1 else "multiply"
    said = vectors.flat[0] if scale > 1 else vectors.max()
    with pytest.raises(ValueError, match=rf"X has .* {float(said):.3g}[ ,:].*{word}".replace("e+", r"e\+")):
        method(codebook_size=16).fit(vectors)


@pytest.mark.parametrize("scale", [1e-14, 1e14])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_scales_that_are_taken_are_right(name: str, scale: float) -> None:
    vectors = on_a_grid(9)[:ROWS]
    near = relative_error(QUANTIZERS[name]().fit(vectors), vectors)
    scaled = vectors * np.float32(scale)
    assert relative_error(QUANTIZERS[name]().fit(scaled), scaled) == pytest.approx(near, rel=0.05)


def test_new_vectors_of_a_hopeless_scale_are_refused_and_small_ones_encoded(tmp_path: Path) -> None:
    vectors = on_a_grid()[:ROWS]
    quantizer = ProductQuantizer(levels=3, codebook_size=16).fit(vectors)
    quantizer.save(tmp_path)
    for one in (quantizer, load_portable(tmp_path)):
        with pytest.raises(ValueError, match=r"entry.* 1e\+20"):
            one.encode(np.full((1, WIDTH), 1e20, dtype=np.float32))
        assert (one.encode(vectors[:5] * np.float32(1e-30)) == one.encode(np.zeros((5, WIDTH), dtype=np.float32))).all()


def test_a_column_that_outweighs_the_others_is_named() -> None:
    vectors = on_a_grid()[:ROWS]
    vectors[:, 7] *= 1000
    for quantizer in (ResidualQuantizer(levels=2, codebook_size=8), HierarchicalKMeans(codebook_size=8)):
        with pytest.warns(UserWarning, match="column 7 has 100.00 % of the variance of view 'item'"):
            quantizer.fit(vectors)


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_constant_vectors_use_one_code_and_say_so(engine: str) -> None:
    vectors = np.full((64, 4), 7.0, dtype=np.float32)
    with pytest.warns(UserWarning, match=r"than the 16 codes of a level in view 'item' \(its levels use 1\)"):
        quantizer = KMeans(codebook_size=16, engine=engine).fit(vectors)
    assert (quantizer.decode(quantizer.encode(vectors)) == vectors).all()


def test_one_view_of_few_values_among_others_is_ordinary() -> None:
    vectors = np.concatenate([on_a_grid()[:ROWS], np.arange(ROWS)[:, None] % 2], axis=1).astype(np.float32)
    quantizer = KMeans(codebook_size=16).fit(vectors, views={"text": slice(0, WIDTH), "brand": slice(WIDTH, WIDTH + 1)})
    assert quantizer.used_ == [16, 2]
