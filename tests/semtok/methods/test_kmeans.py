"""K-means beside scikit-learn and faiss, and on inputs that leave clusters empty."""

import sys

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import check_estimator

import semtok.kernels.lloyd as clustering
from semtok.kernels.lloyd import cluster, cluster_progressive, import_faiss, nearest, principal_axes
from semtok.methods.kmeans import KMeans


def some_points(rows: int = 3000, width: int = 24, topics: int = 60, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    points = random.normal(size=(topics, width))[random.integers(topics, size=rows)] + 0.7 * random.normal(
        size=(rows, width)
    )
    return torch.from_numpy(points.astype(np.float32))


def error_of(points: torch.Tensor, centers: np.ndarray) -> float:
    return float(torch.cdist(points.double(), torch.from_numpy(centers).double()).amin(1).square().mean())


@pytest.mark.parametrize("topics", [60, 300])
def test_mean_error_is_within_one_percent_of_scikit_learn_and_faiss(topics: int) -> None:
    points = some_points(topics=topics)
    ours, theirs, peers = [], [], []
    for seed in range(6):
        found = cluster(points, 64, seed=seed)
        assert found.error == pytest.approx(error_of(points, found.centers.numpy()), rel=1e-5)
        ours.append(found.error)
        reference = ReferenceKMeans(64, n_init=1, max_iter=25, random_state=seed).fit(points.numpy())
        theirs.append(reference.inertia_ / len(points))
        peer = faiss.Kmeans(points.shape[1], 64, niter=25, seed=seed + 1)
        peer.train(points.numpy())
        peers.append(error_of(points, peer.centroids))
    assert np.mean(ours) <= 1.01 * np.mean(theirs)
    assert np.mean(ours) <= 1.01 * np.mean(peers)


def test_separated_blobs_are_found() -> None:
    points, labels = make_blobs(2000, n_features=6, centers=20, cluster_std=0.05, random_state=3)
    found = cluster(torch.from_numpy(points.astype(np.float32)), 20, restarts=3)
    assert len({(int(code), int(label)) for code, label in zip(found.codes, labels, strict=True)}) == 20


def test_same_seed_same_codes_and_another_seed_others() -> None:
    points = some_points()
    first, again, other = cluster(points, 32, seed=5), cluster(points, 32, seed=5), cluster(points, 32, seed=6)
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.centers, again.centers)
    assert not torch.equal(first.codes, other.codes)


def test_centres_are_means_of_their_rows_when_it_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_STILL", 0.0)
    points = some_points(500, 4)
    found = cluster(points, 8, iterations=200)
    for code in range(8):
        mean = points[found.codes == code].double().mean(0)
        torch.testing.assert_close(found.centers[code].double(), mean, rtol=1e-5, atol=1e-5)


def test_more_restarts_never_raise_the_error() -> None:
    points = some_points(800)
    assert cluster(points, 40, restarts=4).error <= cluster(points, 40).error


def test_low_precision_costs_little_even_far_from_the_origin() -> None:
    points = some_points(topics=300) + 50
    exact, low = cluster(points, 64, precision="float32"), cluster(points, 64, precision="bfloat16")
    assert low.error <= 1.01 * exact.error


def test_progressive_start_is_as_good_as_plain() -> None:
    points = some_points()
    assert cluster_progressive(points, 64).error <= 1.02 * cluster(points, 64).error


def test_no_cluster_takes_nearly_all_rows_of_noise() -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 300, generator=random) * (0.7 + torch.rand(4000, 1, generator=random))
    found = cluster(points, 128)
    assert int(torch.bincount(found.codes).max()) < 1000


@pytest.mark.parametrize("fit", [cluster, cluster_progressive])
def test_few_distinct_rows_become_one_centroid_each(fit: object) -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-0.0, 5.0]])
    points = rows[torch.tensor([0, 1, 0, 2, 2, 1, 0, 0, 1])]
    points[4, 0] = 0.0  # the same number as -0
    found = fit(points, 5)  # type: ignore[operator]
    assert found.used == 3
    assert found.centers.shape == (5, 2)
    assert torch.equal(found.centers[:3], rows)
    assert found.codes.tolist() == [0, 1, 0, 2, 2, 1, 0, 0, 1]
    assert found.error == 0


def test_all_rows_equal() -> None:
    found = cluster(torch.ones(10, 3), 4)
    assert (found.used, found.error, found.codes.tolist()) == (1, 0.0, [0] * 10)


def test_one_distinct_row_more_than_centroids_uses_them_all() -> None:
    points = torch.cat([torch.zeros(5000, 4), torch.eye(4), 2 * torch.eye(4)])
    found = cluster(points, 8)
    assert len(found.codes.unique()) == 8


def test_empty_clusters_are_given_far_rows() -> None:
    points = some_points(1000, 5)
    start = torch.full((16, 5), 1e3)
    start[0] = 0
    found = cluster(points, 16, start=start)
    assert len(found.codes.unique()) == 16
    assert found.error <= 1.1 * cluster(points, 16).error


def test_nearest_takes_the_first_of_equals() -> None:
    centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[2.0, 0.0], [0.0, 0.0], [-3.0, 1.0]]), centers).tolist() == [0, 0, 1]


def test_principal_axes_are_orthogonal_and_sorted() -> None:
    points = torch.randn(500, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([5.0, 1, 3, 0.5, 2, 0.1])
    mean, axes, variances = principal_axes(points)
    torch.testing.assert_close(axes.T @ axes, torch.eye(6), atol=1e-5, rtol=0)
    assert bool((variances.diff() <= 0).all())
    torch.testing.assert_close(((points - mean) @ axes).var(0, correction=0), variances, rtol=1e-3, atol=1e-4)


def test_estimator_contract() -> None:
    results = check_estimator(KMeans(codebook_size=3), on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


def test_faiss_engine_agrees() -> None:
    points = some_points(1500, 8).numpy()
    own, peer = (KMeans(codebook_size=32, engine=engine).fit(points) for engine in ("torch", "faiss"))
    errors = [float(np.square(fit.decode(fit.encode(points)) - points).mean()) for fit in (own, peer)]
    assert errors[0] <= 1.01 * errors[1]
    assert peer.engine_ == "faiss"


def test_missing_faiss_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'the extra "faiss" .* or "gpu"'):
        KMeans(codebook_size=2, engine="faiss").fit(np.zeros((4, 2)))


def test_two_faiss_distributions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering.importlib.metadata, "distribution", lambda name: name)
    with pytest.raises(ImportError, match="faiss-cpu and faiss-gpu are both installed"):
        import_faiss()


@pytest.mark.gpu
def test_a_gpu_reaches_the_error_of_the_cpu(device: torch.device) -> None:
    points = some_points(20_000, 32)
    found = cluster(points.to(device), 64)
    assert found.centers.device == device
    assert float(found.error) <= 1.01 * cluster(points, 64).error
