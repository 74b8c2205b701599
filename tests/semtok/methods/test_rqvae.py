"""RQ-VAE: the quantizer's gradients against formulas, what training must achieve, codes that depend on nothing else."""

import gc
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import semtok
from semtok.content import rows as plumbing
from semtok.kernels.residual_vq import ResidualCodebooks, sinkhorn_codes
from semtok.methods import fitted_network, network_rows, residual_autoencoder
from semtok.methods.autoencoder import Autoencoder, RowBatches
from semtok.methods.rqvae import RECIPES, RQVAE

VIEWS = {"title": slice(0, 8), "brand": slice(8, 12)}


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage after a training takes longer than the trainings here."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def some_vectors(rows: int = 400, width: int = 12, seed: int = 0) -> np.ndarray:
    """Rows near a curved surface of 4 dimensions."""
    random = np.random.default_rng(seed)
    inner = random.normal(size=(rows, 4))
    outer = np.tanh(inner @ random.normal(size=(4, width))) + 0.05 * random.normal(size=(rows, width))
    return outer.astype(np.float32)


def made(**arguments: object) -> RQVAE:
    small = {"levels": 2, "codebook_size": 16, "latent_dim": 4, "hidden": (24,), "steps": 40, "batch_size": 128}
    return RQVAE(**{**small, "validate_every": 20, "precision": "no", "quiet": True, **arguments})


def codebooks(**arguments: object) -> ResidualCodebooks:
    return ResidualCodebooks(3, 8, 5, seed=1, **arguments)


# ----------------------------------------------------------------------------------------- the quantizer


@pytest.mark.parametrize("rows_of_step", [None, 96])
def test_codes_loss_and_gradients_are_those_of_the_formulas(rows_of_step: int | None) -> None:
    books = codebooks(commitment=0.3)
    latents = torch.randn(32, 5, requires_grad=True)
    pull = torch.randn(32, 5)
    quantized, codes, loss = books(latents, rows_of_step)
    (2.5 * loss + (quantized * pull).sum()).backward()
    found = latents.grad.clone(), books.codebooks.grad.clone()
    latents.grad = books.codebooks.grad = None

    left, total, expected = latents, torch.zeros(32, 5), torch.zeros(())
    for level, book in enumerate(books.codebooks):
        nearest = torch.cdist(left.detach(), book.detach()).argmin(1)
        assert (codes[:, level] == nearest).all()
        word = book[nearest]
        expected = expected + (left.detach() - word).square().sum() + 0.3 * (left - word.detach()).square().sum()
        left, total = left - word.detach(), total + word
    expected = expected / ((rows_of_step or 32) * 5)
    torch.testing.assert_close(quantized, total)
    torch.testing.assert_close(loss, expected)
    straight = latents + (total - latents).detach()
    (2.5 * expected + (straight * pull).sum()).backward()
    torch.testing.assert_close(found[0], latents.grad)
    torch.testing.assert_close(found[1], books.codebooks.grad)


def test_rotation_changes_the_gradient_and_nothing_else() -> None:
    straight, rotated = codebooks(commitment=0.0), codebooks(commitment=0.0, gradient="rotation")
    latents = torch.randn(64, 5, requires_grad=True)
    pull = torch.randn(64, 5)
    one, two = straight(latents), rotated(latents)
    for here, there in zip(one, two, strict=True):
        assert torch.equal(here, there)
    (two[0] * pull).sum().backward()
    quantized, grad = two[0].detach(), latents.grad
    ratio = quantized.norm(dim=1) / latents.detach().norm(dim=1)
    torch.testing.assert_close(grad.norm(dim=1), ratio * pull.norm(dim=1))
    for row in range(64):  # the rotation in the plane of both that takes the latent's direction to the codewords' sum
        a, b = latents.detach()[row] / latents.detach()[row].norm(), quantized[row] / quantized[row].norm()
        turn = torch.eye(5) + torch.outer(b, a) - torch.outer(a, b)
        skew = torch.outer(b, a) - torch.outer(a, b)
        turn = turn + skew @ skew / (1 + a @ b)
        torch.testing.assert_close(ratio[row] * turn @ latents.detach()[row], quantized[row])
        torch.testing.assert_close(ratio[row] * turn.T @ pull[row], grad[row], atol=1e-4, rtol=1e-3)


def test_rotation_leaves_rows_that_have_no_direction() -> None:
    books = codebooks(gradient="rotation", commitment=0.0)
    latents = torch.zeros(3, 5, requires_grad=True)
    pull = torch.randn(3, 5)
    (books(latents)[0] * pull).sum().backward()
    torch.testing.assert_close(latents.grad, pull)


def test_moving_averages_are_those_of_the_closed_form() -> None:
    books = codebooks(update="ema", decay=0.9)
    first, sizes, sums = books.codebooks.clone(), torch.ones(3, 8), books.codebooks.clone()
    assert not list(books.parameters())
    for _ in range(2):
        latents = torch.randn(50, 5)
        left, before = latents, first.clone()
        for level in range(3):
            codes = torch.cdist(left, before[level]).argmin(1)
            chosen = torch.nn.functional.one_hot(codes, 8).float()
            sizes[level] = 0.9 * sizes[level] + 0.1 * chosen.sum(0)
            sums[level] = 0.9 * sums[level] + 0.1 * chosen.T @ left
            left = left - before[level][codes]
        first = sums / sizes[:, :, None]
        loss = books(latents)[2]
        torch.testing.assert_close(books.codebooks, first)
    torch.testing.assert_close(loss, 0.25 * _squares(latents, before) / (50 * 5))
    books.eval()
    books(latents)
    torch.testing.assert_close(books.codebooks, first)


def _squares(latents: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    left, total = latents, torch.zeros(())
    for book in books:
        left = left - book[torch.cdist(left, book).argmin(1)]
        total = total + left.square().sum()
    return total


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codewords_are_put_on_residuals(update: str) -> None:
    books = codebooks(update=update, revive_every=2)
    books.place(1, torch.cat([books.codebooks[1, :3].detach(), torch.full((5, 5), 1e3)]))
    latents = torch.randn(200, 5)
    for _ in range(2):
        books(latents)
        assert (books.codes(latents)[:, 1] < 3).all()
    with torch.no_grad():
        left = latents - books.codebooks[0, books.codes(latents)[:, 0]]
    books(latents)  # the third step begins with the revival
    assert books.codebooks.detach().abs().max() < 10
    assert len(books.codes(latents)[:, 1].unique()) > 3
    if update == "gradient":  # averages move on at once
        gaps = torch.cdist(books.codebooks[1, 3:].detach(), left).amin(1)
        torch.testing.assert_close(gaps, torch.zeros(5), atol=1e-3, rtol=0)
    alive = codebooks(update=update, revive_every=2)
    alive.eval()
    before = alive.codebooks.detach().clone()
    for _ in range(4):
        alive(latents)
    assert torch.equal(alive.codebooks.detach(), before)


def test_sinkhorn_assignment_is_even_and_nearly_the_cheapest_even_one() -> None:
    points, words = torch.randn(60, 4), torch.randn(6, 4)
    codes = sinkhorn_codes(points, words, 0.003, iterations=400)
    assert torch.bincount(codes, minlength=6).tolist() == [10] * 6
    costs = torch.cdist(points, words).square()
    rows, columns = linear_sum_assignment(costs.repeat_interleave(10, 1).numpy())
    best = float(costs[rows, columns // 10].sum())
    assert float(costs.gather(1, codes[:, None]).sum()) <= 1.01 * best
    assert float(costs.amin(1).sum()) < best  # the nearest codewords are not used evenly


def test_sinkhorn_holds_in_training_alone_and_at_the_last_level_alone() -> None:
    plain, even = codebooks(), codebooks(sinkhorn=0.003)
    latents = torch.randn(160, 5)
    assert torch.equal(plain(latents)[1][:, :2], even(latents)[1][:, :2])
    spread = torch.bincount(even(latents)[1][:, 2], minlength=8)
    assert spread.max() - spread.min() < torch.bincount(plain(latents)[1][:, 2], minlength=8).max() - spread.min()
    plain.eval(), even.eval()
    assert torch.equal(plain(latents)[1], even(latents)[1])


# ----------------------------------------------------------------------------------------- batches


def test_steps_run_through_shuffled_passes() -> None:
    batches = RowBatches(torch.arange(10.0)[:, None], batch_size=4, steps=10, epoch_steps=4, seed=3)
    numbers = np.concatenate([batches.numbers(step) for step in range(10)])
    assert len(batches) == 4
    assert batches.epochs == 3
    for first in range(0, 40, 10):
        assert sorted(numbers[first : first + 10]) == list(range(10))
    assert not (numbers[:10] == numbers[10:20]).all()
    assert (RowBatches(torch.zeros(10, 1), 4, 10, 4, seed=3).numbers(7) == batches.numbers(7)).all()
    assert not (RowBatches(torch.zeros(10, 1), 4, 10, 4, seed=4).numbers(7) == batches.numbers(7)).all()


def test_epochs_resume_at_the_next_step() -> None:
    def taken(batches: RowBatches, stop: int | None = None) -> list[int]:
        found = []
        for (batch,) in batches:
            assert (batch.rows[:, 0].long() == batch.numbers).all()
            found.append(batch.step)
            if len(found) == stop:
                break
        return found

    whole = RowBatches(torch.arange(10.0)[:, None], 4, 7, 3)
    steps = []
    for epoch in range(whole.epochs):
        whole.set_epoch(epoch)
        steps += taken(whole)
    assert steps == list(range(7))
    first, second = (RowBatches(torch.arange(10.0)[:, None], 4, 7, 3) for _ in range(2))
    first.set_epoch(1)
    assert taken(first, 1) == [3]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.set_epoch(1)
    assert taken(second) == [4, 5]


def test_processes_share_the_rows_of_a_step() -> None:
    rows = torch.randn(20, 3)
    alone = next(iter(RowBatches(rows, 7, 2, 2)))[0]
    parts = [next(iter(RowBatches(rows, 7, 2, 2, rank=rank, world=2)))[0] for rank in range(2)]
    assert [len(part.rows) for part in parts] == [4, 3]
    assert all(part.row_count == 7 for part in parts)
    for part in parts:
        assert torch.equal(part.step_numbers[part.positions], part.numbers)
        assert torch.equal(part.rows, alone.rows[part.positions])
    network = Autoencoder(3, (4,), 2, ResidualCodebooks(2, 4, 2), torch.zeros(3), torch.ones(3))
    shares = [network(part).loss for part in parts]
    torch.testing.assert_close(sum(shares), network(alone).loss)


# ----------------------------------------------------------------------------------------- fitting


def test_training_restores_vectors_from_codes() -> None:
    vectors = some_vectors(2000)
    tokenizer = made(codebook_size=32, levels=3, steps=600, validate_every=100, lr=3e-3).fit(vectors)
    errors = [line["error"] for line in tokenizer.history_]
    restored = tokenizer.decode(tokenizer.encode(vectors))
    lost = float(np.square(restored - vectors).sum() / np.square(vectors - vectors.mean(0)).sum())
    assert lost < 0.25
    assert lost < 0.7 * errors[0]
    scores = [line["score"] for line in tokenizer.history_]
    best = tokenizer.history_[int(np.argmin(scores))]
    assert lost == pytest.approx(best["error"], rel=1e-3)  # the best weights are kept
    codes = tokenizer.item_codes(vectors, np.arange(2000))
    assert codes.collisions().rate == pytest.approx(best["collisions"], abs=2e-3)
    assert best["score"] == pytest.approx(best["error"] + best["collisions"])
    assert tokenizer.seconds_ > 0
    assert [line["step"] for line in tokenizer.history_] == list(range(100, 601, 100))[: len(errors)]


def test_kmeans_start_prevents_collapse() -> None:
    vectors = some_vectors(1000)
    bare = {"revive_every": 0, "refit": 0, "codebook_size": 64, "steps": 20}
    placed, drawn = (made(start=start, **bare).fit(vectors) for start in ("k-means", "random"))
    assert max(placed.unused_) <= 8
    assert min(drawn.unused_) >= 16


def test_revival_and_refit_undo_a_collapse() -> None:
    vectors = some_vectors(1000)
    bare = {"start": "random", "codebook_size": 64, "steps": 40, "revive_every": 0, "refit": 0}
    collapsed = made(**bare).fit(vectors)
    revived = made(**bare | {"revive_every": 10}).fit(vectors)
    refitted = made(**bare | {"refit": 10}).fit(vectors)
    assert sum(revived.unused_) < 0.5 * sum(collapsed.unused_)
    assert sum(refitted.unused_) < 0.1 * sum(collapsed.unused_)
    assert refitted.history_[-1]["collisions"] < collapsed.history_[-1]["collisions"]


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient": "rotation"},
        {"update": "ema"},
        {"sinkhorn": 0.003},
        {"plain_steps": 20},
        {"scaling": "each"},
        {"scaling": "none"},
        {"commitment": 2.0},
        {"schedule": "cosine"},
        {"refit": 0},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_codes(changed: dict) -> None:
    vectors = some_vectors(200) * np.linspace(0.5, 2, 12, dtype=np.float32)
    assert not (made(**changed).fit(vectors).encode(vectors) == made().fit(vectors).encode(vectors)).all()


def test_same_seed_same_codes_and_global_generators_are_left_alone() -> None:
    vectors = some_vectors()
    tokenizer = made().fit(vectors)
    codes = tokenizer.encode(vectors)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    again = clone(tokenizer).fit(torch.from_numpy(vectors).double()).encode(vectors)
    drawn = np.random.random(), float(torch.rand(()))  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    assert drawn == (np.random.random(), float(torch.rand(())))  # noqa: NPY002
    assert (again == codes).all()
    assert (clone(tokenizer).fit(some_vectors(seed=9)).fit(vectors).encode(vectors) == codes).all()


def test_plain_steps_come_first_and_have_no_codes() -> None:
    history = made(plain_steps=40).fit(some_vectors()).history_
    assert [line["step"] for line in history] == [20, 40, 60, 80]
    assert ["collisions" in line for line in history] == [False, False, True, True]


def test_training_stops_at_its_budget() -> None:
    tokenizer = made(steps=10**6, validate_every=10, patience=0, max_seconds=0.5).fit(some_vectors())
    assert 1 <= tokenizer.history_[-1]["step"] < 10**6
    assert tokenizer.encode(some_vectors()).shape == (400, 2)
    patient = made(steps=10**6, validate_every=5, patience=2, lr=1e-12, refit=0, revive_every=0).fit(some_vectors())
    assert patient.history_[-1]["step"] < 100


def test_views_have_networks_of_their_own() -> None:
    vectors = some_vectors()
    tokenizer = made().fit(vectors, views=VIEWS)
    codes = tokenizer.encode(vectors)
    assert tokenizer.blocks_ == {"title": slice(0, 2), "brand": slice(2, 4)}
    assert tokenizer.sizes_ == [16] * 4
    assert {line["view"] for line in tokenizer.history_} == {"title", "brand"}
    assert (codes[:, :2] == made().fit(vectors[:, :8]).encode(vectors[:, :8])).all()
    changed = vectors.copy()
    changed[:, :8] = 0
    assert (tokenizer.encode(changed)[:, 2:] == codes[:, 2:]).all()
    assert not made().fit(vectors, views={"x": slice(2, 8)}).decode(np.zeros((1, 2), dtype=int))[:, 8:].any()


def test_constant_columns_and_equal_rows_are_no_trouble() -> None:
    vectors = np.repeat(some_vectors(20), 10, axis=0)
    vectors[:, 3] = 1e4
    for scaling in ("all", "each", "none"):
        tokenizer = made(scaling=scaling, codebook_size=32).fit(vectors)
        codes = tokenizer.encode(vectors)
        assert (codes.reshape(20, 10, 2) == codes[::10, None]).all()
        assert np.isfinite(tokenizer.decode(codes)).all()
    scale = made(scaling="each").fit(vectors).fitted_[0].scale
    np.testing.assert_allclose(np.delete(scale, 3), np.delete(vectors, 3, 1).std(0), rtol=1e-4)
    assert scale[3] == 1


# ----------------------------------------------------------------------------------------- encoding

TOKENIZER = made(levels=3, codebook_size=8, latent_dim=3).fit(some_vectors(300, 5))
ROWS = arrays(np.float32, st.tuples(st.integers(1, 12), st.just(5)), elements=st.floats(-3, 3, width=16))


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_codes_are_the_nearest_codeword_path_of_the_latent(vectors: np.ndarray) -> None:
    codes, left = TOKENIZER.encode(vectors), TOKENIZER.latents(vectors)
    total = np.zeros_like(left)
    for level, column in enumerate(codes.T):
        book = TOKENIZER.codebooks_[level].astype(np.float64)
        gaps = np.square(left[:, None] - book).sum(2)
        assert (gaps[np.arange(len(gaps)), column] <= gaps.min(1) + 1e-9).all()
        left, total = left - book[column], total + book[column]
    fitted = TOKENIZER.fitted_[0]
    values = total
    for place, (weight, bias) in enumerate(fitted.decoder):
        values = (values if place == 0 else np.maximum(values, 0)) @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(TOKENIZER.decode(codes), values * fitted.scale + fitted.shift, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(ROWS, st.randoms(use_true_random=False))
def test_codes_do_not_depend_on_the_other_rows(vectors: np.ndarray, random: object) -> None:
    codes = TOKENIZER.encode(vectors)
    order = list(range(len(vectors)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert (TOKENIZER.encode(vectors[order]) == codes[order]).all()
    assert (np.concatenate([TOKENIZER.encode(row[None]) for row in vectors]) == codes).all()


def test_many_rows_have_the_codes_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_vectors(3000, 5, seed=7)
    codes = TOKENIZER.encode(vectors)
    assert (np.concatenate([TOKENIZER.encode(part) for part in np.array_split(vectors, 37)]) == codes).all()
    monkeypatch.setattr(residual_autoencoder, "_CHUNK_ROWS", 100)
    monkeypatch.setattr(fitted_network, "_CHUNK_ROWS", 100)
    assert (TOKENIZER.encode(vectors) == codes).all()
    np.testing.assert_allclose(TOKENIZER.decode(codes)[:250], TOKENIZER.decode(codes[:250]), rtol=1e-6, atol=1e-6)


def test_costs_are_distances_of_latents_with_one_code_changed() -> None:
    vectors = some_vectors(30, 5, seed=2)
    codes, latents = TOKENIZER.encode(vectors), TOKENIZER.latents(vectors)
    for level in (0, 1, -1):
        costs = TOKENIZER.costs(vectors, codes, level)
        assert costs.dtype == np.float32
        for code in range(8):
            changed = codes.copy()
            changed[:, level] = code
            total = sum(TOKENIZER.codebooks_[at][changed[:, at]].astype(np.float64) for at in range(3))
            np.testing.assert_allclose(costs[:, code], np.square(latents - total).sum(1), rtol=1e-4, atol=1e-6)
    assert (TOKENIZER.costs(vectors, codes, 2).argmin(1) == codes[:, 2]).all()


def test_a_codeword_that_stands_twice_is_assigned_once() -> None:
    few = np.repeat(some_vectors(6), 10, axis=0)
    tokenizer = made(revive_every=0, refit=0, steps=1).fit(few)
    fitted = tokenizer.fitted_[0]
    assert not fitted.usable.all()
    codes = tokenizer.encode(few)
    for level, column in enumerate(codes.T):
        assert fitted.usable[level, column].all()
        costs = tokenizer.costs(few, codes, level)
        assert np.isinf(costs[:, ~fitted.usable[level]]).all()
        assert np.isfinite(costs[:, fitted.usable[level]]).all()


# ----------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("views", [None, VIEWS])
def test_folder_gives_the_same_tokenizer_with_and_without_torch(views: dict | None, tmp_path: Path) -> None:
    vectors = some_vectors(3000)
    tokenizer = made(levels=3, codebook_size=32, sinkhorn=0.003).fit(vectors[:400], views=views)
    codes = tokenizer.item_codes(vectors, np.arange(3000))
    tokenizer.save(tmp_path, codes)
    again, numpy_alone = semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")
    assert isinstance(again, RQVAE)
    assert again.get_params() == tokenizer.get_params()
    assert (again.history_, again.unused_, again.blocks_) == (
        tokenizer.history_,
        tokenizer.unused_,
        tokenizer.blocks_,
    )
    assert (again.encode(vectors) == codes.codes).all()
    assert (numpy_alone.encode(vectors) == codes.codes).all()
    assert (again.decode(codes.codes) == tokenizer.decode(codes.codes)).all()
    np.testing.assert_allclose(numpy_alone.decode(codes.codes), tokenizer.decode(codes.codes), rtol=1e-6, atol=1e-6)
    assert (again.costs(vectors[:9], codes.codes[:9], 1) == tokenizer.costs(vectors[:9], codes.codes[:9], 1)).all()


def test_numpy_alone_does_not_assign_unusable_codewords(tmp_path: Path) -> None:
    few = np.repeat(some_vectors(6), 10, axis=0)
    tokenizer = made(revive_every=0, refit=0, steps=1).fit(few)
    tokenizer.save(tmp_path)
    others = some_vectors(500, seed=4)
    assert (semtok.load(tmp_path, backend="numpy").encode(others) == tokenizer.encode(others)).all()


def test_a_folder_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    tokenizer = made().fit(some_vectors())
    state = tokenizer._state()
    with pytest.raises(ValueError, match=r"encoder\.item\.1\.weight is missing; the manifest expects \(4, 24\)"):
        tokenizer._restore(state[0], {k: v for k, v in state[1].items() if k != "encoder.item.1.weight"})
    with pytest.raises(ValueError, match=r"codebook\.1 is of shape \(3, 4\); the manifest expects \(16, 4\)"):
        tokenizer._restore(state[0], state[1] | {"codebook.1": np.zeros((3, 4), dtype=np.float32)})


class Streamed:
    """An array that counts how many of its rows are read at a time."""

    streams = True

    def __init__(self, whole: np.ndarray) -> None:
        self.whole, self.shape, self.most = whole, whole.shape, 0

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: object) -> np.ndarray:
        found = self.whole[rows]
        self.most = max(self.most, len(found))
        return found


def test_rows_in_files_are_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_vectors(1000)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    codes = made().fit(vectors, views=VIEWS).encode(vectors)
    assert (made().fit(mapped, views=VIEWS).encode(mapped) == codes).all()
    assert (made().fit(Streamed(vectors), views=VIEWS).encode(Streamed(vectors)) == codes).all()
    monkeypatch.setattr(network_rows, "_VALIDATION_ROWS", 300)
    monkeypatch.setattr(network_rows, "_STATISTICS_ROWS", 300)
    monkeypatch.setattr(plumbing, "_CHUNK_VALUES", 12 * 256)
    streamed = Streamed(vectors)
    tokenizer = made(codebook_size=2).fit(streamed)
    assert streamed.most == 512  # 256 rows a codeword, to count those that are not used
    assert (made(codebook_size=2).fit(vectors).encode(vectors) == tokenizer.encode(streamed)).all()


# ----------------------------------------------------------------------------------------- contracts


def test_estimator_contract() -> None:
    tiny = RQVAE(levels=2, codebook_size=3, latent_dim=2, hidden=(4,), steps=2, validate_every=2, quiet=True)
    results = check_estimator(tiny, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


def test_recipes_are_arguments() -> None:
    paper = RQVAE(**RECIPES["paper"])
    paper._check_arguments()
    assert (paper.levels, paper.codebook_size, paper.latent_dim, paper.hidden) == (3, 256, 32, (512, 256, 128))
    assert (paper.commitment, paper.batch_size, paper.refit, paper.revive_every) == (0.25, 1024, 0, 0)
    assert RQVAE(**RECIPES["default"]).get_params() == RQVAE().get_params()


def test_use_before_fit_is_refused() -> None:
    for use in (lambda: made().encode(some_vectors()), lambda: made().decode([[0, 0]]), lambda: made().latents([[0]])):
        with pytest.raises(NotFittedError, match="is not fitted yet: call fit or load first"):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "--levels must be at least 1, got 0"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"hidden": (8, 0)}, r"--hidden must be at least 1, got \(8, 0\)"),
        ({"hidden": "8"}, "--hidden must be a list, got '8'"),
        ({"plain_steps": -1}, "--plain-steps must be at least 0, got -1"),
        ({"commitment": -0.1}, "--commitment must be at least 0"),
        ({"sinkhorn": float("nan")}, "--sinkhorn must be a finite number"),
        ({"decay": 1.0}, r"--decay must lie in \(0, 1\), got 1.0"),
        ({"gradient": "gumbel"}, "gradient='gumbel' is not one of straight-through, rotation"),
        ({"update": "adam"}, "update='adam' is not one of gradient, ema"),
        ({"start": "even"}, "start='even' is not one of k-means, random"),
        ({"scaling": "unit"}, "scaling='unit' is not one of all, each, none"),
        ({"precision": "int8"}, "precision='int8' is not one of no, auto, bf16, fp16"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"codebook_size": 500}, "n_samples=400 rows, fewer than codebook_size=500: give at least 500 rows"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**arguments).fit(some_vectors())


def test_unusable_vectors_are_refused() -> None:
    vectors = some_vectors()
    tokenizer = made(steps=1).fit(vectors, views=VIEWS)
    vectors[7, 9] = np.nan
    for use in (tokenizer.encode, tokenizer.latents, lambda x: made().fit(x, views=VIEWS)):
        with pytest.raises(ValueError, match=r"NaN or infinite \(inf\) entry in view 'brand', row 7, column 9"):
            use(vectors)
    with pytest.raises(ValueError, match="X has 10 features, but RQVAE is expecting 12 features"):
        tokenizer.encode(some_vectors(5, 10))
    with pytest.raises(ValueError, match=r"codes\[0, 1\] is 16 but level 1 has codes 0 to 15"):
        tokenizer.decode(np.array([[0, 16, 0, 0]]))
    with pytest.raises(ValueError, match="view 'x' is columns 0 to 13 but X has columns 0 to 12"):
        made().fit(some_vectors(), views={"x": slice(0, 13)})


def test_training_that_diverges_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda layer, x: decode(layer, x) * 1e20)
    with pytest.raises(ValueError, match="is not finite at step 1"):
        made(scaling="none").fit(some_vectors())


def test_an_interruption_is_none_of_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = RowBatches.numbers

    def interrupted(batches: RowBatches, step: int) -> np.ndarray:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return draw(batches, step)

    monkeypatch.setattr(RowBatches, "numbers", interrupted)
    tokenizer = made()
    with pytest.raises(KeyboardInterrupt):
        tokenizer.fit(some_vectors())
    with pytest.raises(NotFittedError):
        tokenizer.encode(some_vectors())


@pytest.mark.gpu
@pytest.mark.parametrize("given", ["array", "tensor there"])
def test_a_gpu_trains_and_encodes(given: str, device: torch.device) -> None:
    steps, error = (200, 0.6) if device.type == "cuda" else (80, 0.9)
    vectors = some_vectors(2000)
    on_device = torch.from_numpy(vectors).to(device)
    rows = vectors if given == "array" else on_device
    tokenizer = made(precision="auto", sinkhorn=0.003, steps=steps).fit(rows)
    assert tokenizer.history_[-1]["error"] < error
    there = tokenizer.encode(on_device)
    assert (there == tokenizer.encode(vectors)).mean() > 0.999
