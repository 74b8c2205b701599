"""Hierarchical k-means: unique codes by construction, limits, recognition of the fitted items, streaming."""

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.utils.estimator_checks import check_estimator

import semtok
from semtok.catalogue.append import append_items
from semtok.catalogue.unique import costs_of, make_unique
from semtok.content.shards import ShardedEmbeddings, write_shard
from semtok.kernels import growth
from semtok.methods.hierarchical import HierarchicalKMeans

FORMS = [{}, {"balanced": True}, {"form": "variable"}]


def some_vectors(rows: int = 600, width: int = 12, topics: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    points = random.normal(size=(topics, width))[random.integers(topics, size=rows)]
    return (points + 0.5 * random.normal(size=(rows, width))).astype(np.float32)


def distinct(codes: np.ndarray) -> int:
    return len(np.unique(codes, axis=0))


def check_tree(vectors: np.ndarray, fitted: HierarchicalKMeans) -> None:
    """Everything that holds for any vectors: unique codes, limits, balance, END, centroids, order in the last node."""
    codes, size = fitted.codes_, fitted.codebook_size
    rows, levels = codes.shape
    assert codes.dtype == np.int32
    assert distinct(codes) == rows
    assert (codes >= 0).all()
    assert (codes < np.array(fitted.sizes_)).all()
    tree = fitted.trees_["item"]
    assert tree.items.sum() == rows
    assert fitted.sizes_ == [size] + [size + (fitted.form == "variable")] * (levels - 1)
    for level in range(1, levels + 1):
        prefixes, inverse, loads = np.unique(codes[:, :level], axis=0, return_inverse=True, return_counts=True)
        if fitted.form == "capacity":
            assert loads.max() <= size ** (levels - level)
        else:
            ended = prefixes[:, -1] == size
            assert (loads[ended] == 1).all()
            assert ((codes[:, level:] == size) | (codes[:, level - 1 : level] < size)).all()
        nodes = tree.nodes_of(prefixes)
        real = tree.depth[nodes] == level
        means = np.zeros((len(prefixes), vectors.shape[1]))
        np.add.at(means, inverse.ravel(), vectors)
        means /= loads[:, None]
        np.testing.assert_allclose((tree.mean + tree.offsets[nodes])[real], means[real], atol=1e-4)
    if fitted.balanced:
        for level in range(levels):
            parents, inverse = np.unique(codes[:, :level], axis=0, return_inverse=True)
            loads = np.bincount(inverse.ravel() * size + codes[:, level], minlength=len(parents) * size)
            loads = loads.reshape(len(parents), size)
            if level < levels - 1:
                assert (loads.max(1) - loads.min(1) <= 1).all()


def check_order(vectors: np.ndarray, fitted: HierarchicalKMeans) -> None:
    """The last code of the form "capacity" counts items by their distance to the centroid."""
    far = np.square(vectors - fitted.decode(fitted.codes_)).sum(1)
    order = np.lexsort(fitted.codes_.T[::-1])
    same = (fitted.codes_[order[1:], :-1] == fitted.codes_[order[:-1], :-1]).all(1)
    assert (np.diff(far[order]) >= -1e-4)[same].all()
    assert (np.diff(fitted.codes_[order, -1]) == 1)[same].all()
    assert (fitted.codes_[order[1:], -1] == 0)[~same].all()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    size=st.sampled_from([2, 3, 4, 9, 40]),
    values=st.sampled_from([1, 2, 3, 1000]),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 5),
)
def test_codes_tell_any_items_apart(rows: int, size: int, values: int, form: dict, seed: int) -> None:
    vectors = np.random.default_rng(seed).integers(0, values, (rows, 2)).astype(np.float32)
    fitted = HierarchicalKMeans(codebook_size=size, **form, seed=seed).fit(vectors)
    check_tree(vectors, fitted)
    if fitted.form == "capacity":
        check_order(vectors, fitted)
        least = 1
        while size**least < rows:
            least += 1
        assert len(fitted.sizes_) == least
    assert (fitted.item_codes(vectors, np.arange(rows)).codes == fitted.codes_).all()
    again = HierarchicalKMeans(codebook_size=size, **form, seed=seed).fit(vectors)
    assert (again.codes_ == fitted.codes_).all()


@settings(max_examples=25)
@given(rows=st.integers(1, 120), size=st.sampled_from([2, 5, 30]), form=st.sampled_from(FORMS), seed=st.integers(0, 9))
def test_permuted_items_have_permuted_codes(rows: int, size: int, form: dict, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, 3)).astype(np.float32)
    order = random.permutation(rows)
    codes = HierarchicalKMeans(codebook_size=size, **form).fit(vectors).codes_
    assert (HierarchicalKMeans(codebook_size=size, **form).fit(vectors[order]).codes_ == codes[order]).all()


def test_permuted_duplicates_have_the_same_codes_between_them() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(0, 30, 300)
    vectors, order = some_vectors(30)[kinds], random.permutation(300)
    codes = HierarchicalKMeans(codebook_size=8).fit(vectors).codes_
    others = HierarchicalKMeans(codebook_size=8).fit(vectors[order]).codes_
    pairs = {(int(kind), *code) for kind, code in zip(kinds, codes.tolist(), strict=True)}
    assert {(int(kind), *code) for kind, code in zip(kinds[order], others.tolist(), strict=True)} == pairs


@pytest.mark.parametrize(
    ("rows", "size", "levels"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (16, 4, 2), (64, 4, 3), (3, 9, 1)]
)
def test_as_few_levels_as_will_do(rows: int, size: int, levels: int) -> None:
    fitted = HierarchicalKMeans(codebook_size=size).fit(some_vectors(rows))
    assert fitted.sizes_ == [size] * levels
    assert fitted.capacity_ == [size ** (levels - level - 1) for level in range(levels)]
    if rows == size**levels:
        assert distinct(fitted.codes_) == size**levels


def test_more_levels_leave_room() -> None:
    fitted = HierarchicalKMeans(codebook_size=8, levels=4).fit(some_vectors())
    assert fitted.sizes_ == [8] * 4
    check_tree(some_vectors(), fitted)
    with pytest.raises(ValueError, match=r"levels=3 .* at most 512 items apart, but X has 600: .* at least 4"):
        HierarchicalKMeans(codebook_size=8, levels=3).fit(some_vectors())


def test_exact_balance_where_it_divides() -> None:
    fitted = HierarchicalKMeans(codebook_size=10, balanced=True).fit(some_vectors(600))
    assert np.bincount(fitted.codes_[:, 0]).tolist() == [60] * 10
    assert (np.bincount(fitted.codes_[:, 0] * 10 + fitted.codes_[:, 1]) == 6).all()


def test_variable_depth_follows_the_data() -> None:
    random = np.random.default_rng(0)
    crowd = random.normal(size=(300, 4)) * 0.01
    lonely = np.eye(4)[[0, 1, 2]] * 50
    fitted = HierarchicalKMeans(codebook_size=5, form="variable").fit(np.concatenate([crowd, lonely]))
    check_tree(np.concatenate([crowd, lonely]).astype(np.float32), fitted)
    assert (fitted.codes_[300:, 1:] == 5).all()
    assert (fitted.codes_[:300, :3] < 5).all()


def test_a_plain_level_is_as_good_as_that_of_others() -> None:
    vectors = some_vectors(3000, 24, 100)
    fitted = HierarchicalKMeans(codebook_size=64).fit(vectors)
    assert len(fitted.sizes_) == 2
    ours = np.square(vectors - fitted.decode(fitted.codes_)).sum()
    theirs = KMeans(64, n_init=1, random_state=0).fit(vectors).inertia_
    peer = faiss.Kmeans(24, 64, niter=25, seed=1)
    peer.train(vectors)
    assert ours <= 1.02 * min(theirs, float(peer.index.search(vectors, 1)[0].sum()))


@pytest.mark.parametrize("form", FORMS)
def test_fitted_items_are_recognized_and_others_go_near(form: dict) -> None:
    vectors = some_vectors()
    fitted = HierarchicalKMeans(codebook_size=16, **form).fit(vectors)
    assert (fitted.encode(vectors) == fitted.codes_).all()
    assert (fitted.encode(vectors.astype(np.float64)[::-1]) == fitted.codes_[::-1]).all()
    moved = vectors + 1e-4 * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    found = fitted.encode(moved)
    assert (found == fitted.codes_).all(1).mean() > (0.6 if form.get("balanced") else 0.9)
    tree = fitted.trees_["item"]
    assert set(map(tuple, found.tolist())) <= set(map(tuple, fitted.codes_.tolist()))
    if not form:
        first = tree.offsets[1 : 1 + tree.children[0]]
        centred = moved - tree.mean
        nearest = np.square(centred[:, None] - first).sum(2).argmin(1)
        assert (found[:, 0] == tree.code[1 + nearest])[fitted.trees_["item"].price[1 + nearest] == 0].all()


def test_equal_vectors_share_their_code_until_they_are_items() -> None:
    vectors = some_vectors(50)[np.arange(200) % 50]
    fitted = HierarchicalKMeans(codebook_size=16).fit(vectors)
    assert (fitted.encode(vectors) == fitted.codes_[np.arange(200) % 50]).all()
    assert (fitted.item_codes(vectors, np.arange(200)).codes == fitted.codes_).all()
    more = fitted.item_codes(np.concatenate([vectors, vectors[:3]]), np.arange(203))
    assert (more.codes[200:] == fitted.codes_[:3]).all()


@pytest.mark.parametrize("form", [*FORMS, {"normalize": True}])
def test_folder_and_numpy_backend_have_the_same_codes(form: dict, tmp_path: Path) -> None:
    vectors, new = some_vectors(), some_vectors(seed=5)
    views = {"title": slice(0, 8), "brand": slice(8, 12)}
    fitted = HierarchicalKMeans(codebook_size=16, **form).fit(vectors, views=views)
    items = fitted.item_codes(vectors, np.arange(600))
    fitted.save(tmp_path, items, unique="matching")
    again, plain = semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")
    assert again.get_params() == fitted.get_params()
    for found in (again, plain):
        assert (found.encode(vectors) == fitted.codes_).all()
        assert (found.encode(new) == fitted.encode(new)).all()
        assert (found.decode(items.codes) == fitted.decode(items.codes)).all()
    assert (again.item_codes(vectors, np.arange(600)).codes == items.codes).all()
    assert again.capacity_ == fitted.capacity_
    assert items.blocks == {
        "title": slice(0, again.blocks_["title"].stop),
        "brand": slice(again.blocks_["title"].stop, len(again.sizes_)),
    }


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    fitted = HierarchicalKMeans(codebook_size=16).fit(some_vectors())
    with pytest.raises(ValueError, match=r"reach\.item is missing; a tree has mean, offsets"):
        fitted._restore({}, {name: array for name, array in fitted._state()[1].items() if "reach" not in name})
    with pytest.raises(ValueError, match=r"price\.item has 1 rows; the tree has \d+ nodes"):
        fitted._restore({}, fitted._state()[1] | {"price.item": np.zeros(1, dtype=np.float32)})


@pytest.mark.parametrize("form", [*FORMS, {"max_points_per_centroid": 4}, {"codebook_size": 25}])
def test_streamed_nodes_keep_every_promise(form: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_HELD", 12 * 50)
    vectors = some_vectors(620)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    held: list[int] = []
    take = growth.View.take

    def watched(self: growth.View, which: np.ndarray) -> torch.Tensor:
        held.append(len(which))
        return take(self, which)

    monkeypatch.setattr(growth.View, "take", watched)
    fitted = HierarchicalKMeans(**({"codebook_size": 8} | form)).fit(mapped)
    check_tree(vectors, fitted)
    assert max(held) <= (8 * 256 if "codebook_size" not in form and "max_points_per_centroid" not in form else 25 * 256)
    assert (fitted.encode(mapped) == fitted.codes_).all()
    monkeypatch.undo()
    whole = HierarchicalKMeans(**({"codebook_size": 8} | form)).fit(vectors)
    errors = [np.square(vectors - tree.decode(tree.codes_)).sum() for tree in (fitted, whole)]
    if "max_points_per_centroid" not in form:
        assert errors[0] <= 1.1 * errors[1]


@pytest.mark.parametrize("held", [growth._HELD_OF_FILES, 12 * 100])
def test_shards_have_the_codes_of_arrays(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_vectors()
    for number, part in enumerate(np.split(vectors, 3)):
        write_shard(tmp_path, number, {"item": part})
    shards, _ = ShardedEmbeddings(tmp_path).matrix()
    monkeypatch.setattr(growth, "_HELD_OF_FILES", held)
    monkeypatch.setattr(growth, "_HELD", held)
    fitted = HierarchicalKMeans(codebook_size=8).fit(shards)
    assert (fitted.codes_ == HierarchicalKMeans(codebook_size=8).fit(vectors).codes_).all()
    assert (fitted.item_codes(shards, np.arange(600)).codes == fitted.codes_).all()


def test_tensors_lists_and_refits_have_the_codes_of_arrays() -> None:
    vectors = some_vectors()
    codes = HierarchicalKMeans(codebook_size=16).fit(vectors).codes_
    assert (HierarchicalKMeans(codebook_size=16).fit(torch.from_numpy(vectors)).codes_ == codes).all()
    assert (HierarchicalKMeans(codebook_size=16).fit(vectors.tolist()).codes_ == codes).all()
    assert (HierarchicalKMeans(codebook_size=16).fit(some_vectors(seed=3)).fit(vectors).codes_ == codes).all()
    assert not (HierarchicalKMeans(codebook_size=16, seed=1).fit(vectors).codes_ == codes).all()


def test_normalizing_forgets_length() -> None:
    vectors = some_vectors()
    scaled = vectors * np.random.default_rng(0).uniform(0.5, 2, size=(600, 1)).astype(np.float32)
    vectors[0] = scaled[0] = 0
    plain = HierarchicalKMeans(codebook_size=16, normalize=True).fit(vectors)
    other = HierarchicalKMeans(codebook_size=16, normalize=True).fit(scaled)
    assert (plain.encode(scaled) == plain.codes_).all(1).mean() > 0.8
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-9)
    for fitted in (plain, other):
        assert np.square(unit - fitted.decode(fitted.codes_)).sum() < 0.35 * np.square(unit - unit.mean(0)).sum()


@pytest.mark.parametrize("form", FORMS)
def test_costs_are_distances_to_the_cluster_a_code_leads_to(form: dict) -> None:
    vectors = some_vectors()
    fitted = HierarchicalKMeans(codebook_size=6, **form).fit(vectors)
    codes = fitted.codes_[:40]
    for level, size in enumerate(fitted.sizes_):
        costs = fitted.costs(vectors[:40], codes, level)
        assert costs.shape == (40, size)
        assert costs.dtype == np.float32
        own = costs[np.arange(40), codes[:, level]]
        assert np.isfinite(own).all()
        taken = {tuple(code) for code in fitted.codes_[:, : level + 1].tolist()}
        for code in range(size):
            known = np.array([(*prefix, code) in taken for prefix in codes[:, :level].tolist()])
            assert np.isfinite(costs[known, code]).all()
            tried = np.concatenate([codes[:, :level], np.full((40, 1), code)], axis=1)
            tree = fitted.trees_["item"]
            center = tree.mean + tree.offsets[tree.nodes_of(tried)]
            far = np.square(vectors[:40] - center).sum(1)
            real = np.isfinite(costs[:, code])
            np.testing.assert_allclose(costs[real, code], far[real], rtol=1e-3, atol=1e-3)
            if level < len(fitted.sizes_) - 1 and not form.get("form"):
                assert (known == real).all()
    if not form.get("form"):
        assert np.isfinite(costs).all()  # any place in the last cluster will do
    else:
        ended = codes[:, -1] == 6
        assert np.isfinite(costs[ended, 6]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("policy", ["nearest-free", "matching"])
def test_new_items_find_a_free_code_in_their_cluster(form: dict, policy: str) -> None:
    vectors, new = some_vectors(200), some_vectors(40, seed=8)
    levels = {} if form.get("form") else {"levels": 3}
    fitted = HierarchicalKMeans(codebook_size=8, **form, **levels).fit(vectors)
    both = np.concatenate([vectors, new])
    codes = fitted.item_codes(both, np.arange(240))
    fixed = np.arange(240) < 200
    assert not codes.unique
    found, _ = make_unique(codes, policy, costs=costs_of(fitted, both, codes), fixed=fixed)
    assert found.unique
    assert (found.codes[:200] == fitted.codes_).all()
    assert (found.codes[200:, 0] == codes.codes[200:, 0]).mean() > 0.9


def test_appended_items_stay_in_their_cluster(tmp_path: Path) -> None:
    vectors = some_vectors(100)
    new = vectors[::4] + np.float32(0.01)
    fitted = HierarchicalKMeans(codebook_size=16).fit(vectors)
    fitted.save(tmp_path, fitted.item_codes(vectors, np.arange(100)), unique="matching")
    found = append_items(tmp_path, np.concatenate([new, new[:1]]), np.arange(100, 126))
    assert found.codes.unique
    assert (found.codes.codes[:100] == fitted.codes_).all()
    loads = np.bincount(np.concatenate([fitted.codes_[:, 0], fitted.encode(new)[:, 0]]), minlength=16)
    stayed = found.codes.codes[100:125, 0] == fitted.encode(new)[:, 0]
    assert stayed[loads[fitted.encode(new)[:, 0]] < 16].all()
    with pytest.raises(ValueError, match="tuples"):
        append_items(tmp_path, some_vectors(131, seed=9), np.arange(300, 431))


def test_wrong_arguments_are_refused() -> None:
    for arguments, message in (
        ({"codebook_size": 1}, "codebook_size=1 splits nothing; expected at least 2"),
        ({"form": "tree"}, "form='tree' is not one of capacity, variable"),
        ({"form": "variable", "balanced": True}, 'balanced=True needs form="capacity"'),
        ({"form": "variable", "levels": 3}, 'levels=3 needs form="capacity"'),
        ({"levels": 0}, "--levels must be at least 1, got 0"),
        ({"iterations": 0}, "--iterations must be at least"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            HierarchicalKMeans(**arguments).fit(some_vectors())
    fitted = HierarchicalKMeans(codebook_size=32).fit(some_vectors())
    with pytest.raises(ValueError, match="codes has 3 levels but sizes names 2"):
        fitted.decode(np.zeros((4, 3), dtype=int))
    with pytest.raises(ValueError, match=r"NaN or infinite \(inf\) entry in row 3, column 1"):
        fitted.encode(np.where(np.arange(600 * 12).reshape(600, 12) == 37, np.nan, some_vectors()))


@pytest.mark.parametrize("form", FORMS)
def test_scikit_learn_accepts_it(form: dict) -> None:
    results = check_estimator(HierarchicalKMeans(codebook_size=3, **form), on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_split_where_they_are(device: torch.device) -> None:
    count, near = (4000, 0.03) if device.type == "cuda" else (200, 0.1)
    vectors = some_vectors(count)
    errors = []
    for place in ("cpu", device):
        for form in FORMS:
            fitted = HierarchicalKMeans(codebook_size=16, **form).fit(torch.from_numpy(vectors).to(place))
            check_tree(vectors, fitted)
            assert (fitted.encode(torch.from_numpy(vectors).to(place)) == fitted.codes_).all()
            new = torch.from_numpy(some_vectors(seed=4))
            assert (fitted.encode(new.to(place)) == fitted.encode(new)).all(1).mean() > 0.99
            errors.append(np.square(vectors - fitted.decode(fitted.codes_)).sum())
    np.testing.assert_allclose(errors[3:], errors[:3], rtol=near)
