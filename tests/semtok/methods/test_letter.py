"""LETTER: its two losses against formulas, what each does to the codes, collaborative vectors that do not fit."""

import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

import semtok
from semtok.kernels.residual_vq import ResidualCodebooks
from semtok.methods.autoencoder import RowBatches
from semtok.methods.letter import LETTER, RECIPES, AlignedAutoencoder, code_groups, collaborative_loss, diversity_loss
from semtok.methods.rqvae import RQVAE


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage after a training takes longer than the trainings here."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def some_vectors(rows: int = 300, width: int = 10, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    inner = random.normal(size=(rows, 4))
    return np.tanh(inner @ random.normal(size=(4, width))).astype(np.float32)


def some_behavior(rows: int = 300, width: int = 4, seed: int = 1) -> np.ndarray:
    """Vectors of 12 communities that content says nothing about."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(12, width))[np.arange(rows) % 12] + 0.1 * random.normal(size=(rows, width))).astype(
        "f4"
    )


def made(**arguments: object) -> LETTER:
    small = {"levels": 2, "codebook_size": 20, "latent_dim": 4, "hidden": (24,), "steps": 40, "batch_size": 128}
    return LETTER(**{**small, "groups": 5, "validate_every": 20, "precision": "no", "quiet": True, **arguments})


# ----------------------------------------------------------------------------------------- losses


def test_collaborative_loss_is_cross_entropy_over_the_known_items_of_the_step() -> None:
    found, targets = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    targets[2] = 0
    known = targets.any(1)
    numbers, step_numbers = torch.tensor([7, 5, 9]), torch.tensor([7, 3, 5, 9, 7, 8])
    own = torch.tensor([0, 2, 3])
    loss = collaborative_loss(found, targets, own, known, numbers, step_numbers)
    scores = found.detach() @ targets.T
    first = math.log(sum(math.exp(scores[0, other]) for other in (0, 1, 3, 5))) - float(scores[0, 0])  # 4 is its twin
    third = math.log(sum(math.exp(scores[2, other]) for other in (0, 1, 3, 4, 5))) - float(scores[2, 3])
    assert float(loss.detach()) == pytest.approx(first + third, rel=1e-5)
    loss.backward()
    assert not found.grad[1].any()  # no collaborative vector, no pull
    assert found.grad[0].any()


def test_diversity_loss_finds_the_partner_among_all_other_codes() -> None:
    book = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    codes, partners = torch.tensor([0, 0, 3]), torch.tensor([1, 4, 2])
    loss = diversity_loss(book, codes, partners)
    expected = 0.0
    for code, partner in zip(codes.tolist(), partners.tolist(), strict=True):
        products = (book.detach() @ book.detach()[code]).tolist()
        others = sum(math.exp(value) for other, value in enumerate(products) if other != code)
        expected -= math.log(math.exp(products[partner]) / others)
    assert float(loss.detach()) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda words: diversity_loss(words, codes, partners), book)


def test_diversity_gradient_brings_partners_together() -> None:
    book = torch.randn(6, 3, requires_grad=True)
    diversity_loss(book, torch.tensor([2]), torch.tensor([5])).backward()
    moved = book.detach() - 1e-3 * book.grad
    assert moved[2] @ moved[5] > book.detach()[2] @ book.detach()[5]
    assert float(diversity_loss(moved, torch.tensor([2]), torch.tensor([5]))) < float(
        diversity_loss(book.detach(), torch.tensor([2]), torch.tensor([5]))
    )


def test_groups_are_even_and_hold_neighbours() -> None:
    centers = 10 * torch.randn(4, 3)
    owner = torch.arange(22) % 4  # groups of 6, 6, 5 and 5
    members, places = code_groups(centers[owner] + 0.1 * torch.randn(22, 3), 4)
    assert sorted(members.tolist()) == list(range(22))
    assert (members[places[:, 0]] == torch.arange(22)).all()
    for code in range(22):
        place, first, size = places[code].tolist()
        assert first <= place < first + size
        assert size in (5, 6)
        assert (owner[members[first : first + size]] == owner[code]).all()


def network(**changed: float) -> AlignedAutoencoder:
    weights = {"collaborative_weight": 0.5, "diversity_weight": 0.5, **changed}
    made_of = torch.zeros(10), torch.ones(10)
    built = AlignedAutoencoder(
        collaborative=torch.from_numpy(some_behavior()),
        **weights,
        groups=5,
        regroup_every=3,
        dim=10,
        hidden=(16,),
        latent_dim=6,
        codebooks=None,
        shift=made_of[0],
        scale=made_of[1],
    )
    built.codebooks = ResidualCodebooks(2, 20, 6)
    return built


def test_partners_are_other_codes_of_the_same_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(book: torch.Tensor, codes: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        asked.append((codes, partners))
        return diversity_loss(book, codes, partners)

    monkeypatch.setattr("semtok.methods.letter.diversity_loss", watched)
    built = network()
    for (batch,) in RowBatches(torch.from_numpy(some_vectors()), 64, 4, 4):
        built(batch)
        for level, (codes, partners) in enumerate(asked[-2:]):
            assert (codes != partners).all()
            first = built.places[level, :, 1]
            assert (first[codes] == first[partners]).all()
    assert len(asked) == 8
    drawn = {(int(a), int(b)) for codes, partners in asked for a, b in zip(codes, partners, strict=True)}
    assert len({b for a, b in drawn if a == int(asked[0][0][0])}) > 1


def test_losses_of_processes_add_up() -> None:
    built = network().train()
    rows = torch.from_numpy(some_vectors())
    alone = next(iter(RowBatches(rows, 65, 1, 1)))[0]
    parts = [next(iter(RowBatches(rows, 65, 1, 1, rank=rank, world=2)))[0] for rank in range(2)]
    whole = built(alone)
    shares = [built(part) for part in parts]
    torch.testing.assert_close(sum(share.loss for share in shares), whole.loss)
    for name, value in whole.parts.items():
        torch.testing.assert_close(sum(share.parts[name] for share in shares), value)
    assert set(whole.parts) == {"quantization", "collaborative", "diversity", "reconstruction"}


# ----------------------------------------------------------------------------------------- the tokenizer


def test_removing_each_part_changes_the_codes() -> None:
    vectors, behavior = some_vectors(), some_behavior()
    whole = {"collaborative_weight": 0.1, "diversity_weight": 0.01}
    codes = made(**whole).fit(vectors, collaborative=behavior).encode(vectors)
    for changed in (
        {"collaborative_weight": 0.0},
        {"diversity_weight": 0.0},
        {"sinkhorn": 0.0},
        {"start": "k-means"},
        {"collaborative_scaling": False},
    ):
        other = made(**whole | changed).fit(vectors, collaborative=behavior).encode(vectors)
        assert not (other == codes).all(), changed
    again = made(**whole).fit(vectors, collaborative=behavior).encode(vectors)
    assert (again == codes).all()


def test_without_its_losses_it_is_rqvae() -> None:
    vectors = some_vectors()
    bare = {"collaborative_weight": 0, "diversity_weight": 0, "start": "k-means", "sinkhorn": 0.0}
    ours = made(**bare).fit(vectors)
    shared = {name: value for name, value in ours.get_params().items() if name in RQVAE().get_params()}
    assert (RQVAE(**shared).fit(vectors).encode(vectors) == ours.encode(vectors)).all()


@pytest.mark.parametrize("width", [4, 7])
def test_quantized_vectors_find_their_collaborative_vectors(width: int) -> None:
    behavior, own = some_behavior(width=width), np.arange(300) % 12
    vectors = np.concatenate([some_vectors(), 0.3 * np.eye(12, dtype=np.float32)[own]], axis=1)
    found = {}
    for weight in (0.0, 1.0):
        tokenizer = made(collaborative_weight=weight, steps=120, lr=3e-3, validate_every=60)
        codes = tokenizer.fit(vectors, collaborative=behavior).encode(vectors)
        total = sum(book[column] for book, column in zip(tokenizer.codebooks_, codes.T, strict=True))
        means = np.stack([total[own == group].mean(0) for group in range(12)])
        found[weight] = float(np.var(means, axis=0).sum() / np.var(total, axis=0).sum())
    assert found[1.0] > 2 * found[0.0]  # share of the variance that the communities explain


def test_items_without_behavior_are_no_trouble(tmp_path: Path) -> None:
    vectors, behavior = some_vectors(), some_behavior()
    behavior[::3] = 0
    tokenizer = made(collaborative_weight=0.5, levels=3).fit(vectors, collaborative=behavior)
    codes = tokenizer.item_codes(vectors, np.arange(300))
    tokenizer.save(tmp_path, codes)
    again, numpy_alone = semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")
    assert isinstance(again, LETTER)
    assert again.get_params() == tokenizer.get_params()
    assert (again.encode(vectors) == codes.codes).all()
    assert (numpy_alone.encode(vectors) == codes.codes).all()
    np.testing.assert_allclose(numpy_alone.decode(codes.codes), tokenizer.decode(codes.codes), rtol=1e-6, atol=1e-6)


def test_even_start_shares_the_rows_out() -> None:
    points = torch.from_numpy(some_vectors(330, 4))
    even, codes = made()._first_codewords(points, 0)
    plain = made(start="k-means")._first_codewords(points, 0)
    assert torch.bincount(codes, minlength=20).tolist().count(16) == 10
    assert torch.bincount(codes, minlength=20).tolist().count(17) == 10
    torch.testing.assert_close(even[3], points[codes == 3].mean(0))
    assert torch.bincount(plain[1], minlength=20).max() > 17


def test_estimator_habits() -> None:
    tokenizer = made(collaborative_weight=0.5)
    assert clone(tokenizer).get_params() == tokenizer.get_params()
    assert tokenizer.fit(some_vectors(), collaborative=some_behavior()) is tokenizer
    assert LETTER.inputs == ("collaborative",)
    paper = LETTER(**RECIPES["paper"])
    paper._check_arguments()
    assert (paper.levels, paper.hidden, paper.sinkhorn) == (4, (2048, 1024, 512, 256, 128, 64), 0.003)
    assert (paper.diversity_weight, paper.groups, paper.start) == (1e-4, 10, "even")
    assert LETTER(**RECIPES["default"]).get_params() == LETTER().get_params()


@pytest.mark.parametrize(
    ("arguments", "behavior", "message"),
    [
        ({}, None, r"LETTER learns from collaborative vectors: give collaborative=\[N, Dc\]"),
        ({}, np.zeros((300, 4)), "collaborative is all zeros: no item has a collaborative vector"),
        ({}, np.ones((299, 4)), r"collaborative has shape \(299, 4\); expected \[300, Dc\], one row for each of X"),
        ({}, np.ones(300), r"collaborative has shape \(300,\)"),
        ({}, np.full((300, 2), np.inf), r"collaborative has a NaN or infinite \(inf\) entry"),
        ({"groups": 11}, np.ones((300, 4)), "groups=11 would leave a group fewer than two of codebook_size=20 codes"),
        ({"groups": 0}, np.ones((300, 4)), "--groups must be at least 1, got 0"),
        ({"diversity_weight": -1}, np.ones((300, 4)), "--diversity-weight must be at least 0"),
        ({"start": "warm"}, np.ones((300, 4)), "start='warm' is not one of even, k-means, random"),
    ],
)
def test_unusable_input_is_refused(arguments: dict, behavior: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**arguments).fit(some_vectors(), collaborative=behavior)


def test_behavior_is_not_needed_where_it_has_no_weight() -> None:
    vectors = some_vectors()
    assert made(collaborative_weight=0.0).fit(vectors).encode(vectors).shape == (300, 2)
