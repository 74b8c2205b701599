"""COSETTE: neighbours of histories, its contrast against the formula, the codes that come of it, its refusals."""

import gc
import math

import numpy as np
import pytest
import torch

from recbase.data.sequences import Histories
from semtok.methods.cosette import COSETTE, contrast_loss, neighbours_of
from semtok.methods.rqvae import RQVAE


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage after a training takes longer than the trainings here."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


GROUPS = 10


def world(items: int = 200, users: int = 150) -> tuple[np.ndarray, Histories]:
    """Vectors that say little, and histories that stay within one group of items."""
    random = np.random.default_rng(0)
    group = np.arange(items) % GROUPS
    vectors = random.normal(size=(items, 12)) + 0.7 * random.normal(size=(GROUPS, 12))[group]
    walks = [(random.integers(0, items // GROUPS, 8) * GROUPS + own + 1).tolist() for own in np.arange(users) % GROUPS]
    return vectors.astype(np.float32), Histories.from_lists(walks)


def made(**arguments: object) -> COSETTE:
    small = {"levels": 2, "codebook_size": 20, "latent_dim": 6, "hidden": (24,), "steps": 200, "batch_size": 128}
    return COSETTE(**{**small, "validate_every": 50, "patience": 0, "precision": "no", "quiet": True, **arguments})


@pytest.mark.parametrize("window", [1, 2, 9])
def test_neighbours_are_those_of_the_histories(window: int) -> None:
    lists = [[1, 2, 3, 2], [2], [4, 4, 1]]
    found = neighbours_of(Histories.from_lists(lists), 5, window)
    expected: list[list[int]] = [[] for _ in range(5)]
    for row in lists:
        for place, item in enumerate(row):
            near = row[max(0, place - window) : place] + row[place + 1 : place + 1 + window]
            expected[item - 1] += [other - 1 for other in near if other != item]
    for item, near in enumerate(expected):
        assert found.rows[found.starts[item] : found.starts[item + 1]].tolist() == sorted(near)


def test_partners_are_neighbours_drawn_as_often_as_they_are_near() -> None:
    found = neighbours_of(Histories.from_lists([[1, 2], [1, 2], [1, 2], [1, 3]]), 4)
    drawn = found.draw(torch.zeros(4000, dtype=torch.int64), 7, 3, torch.arange(4000))
    assert set(drawn.tolist()) == {1, 2}
    assert float((drawn == 1).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert found.draw(torch.tensor([3]), 7, 3, torch.tensor([0])).tolist() == [-1]
    assert not torch.equal(drawn, found.draw(torch.zeros(4000, dtype=torch.int64), 7, 4, torch.arange(4000)))


def test_contrast_is_cross_entropy_over_the_partners_of_the_step() -> None:
    found, targets = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    partners, own = torch.tensor([7, -1, 7, 2, 9]), torch.tensor([0, 1, 3])
    loss = contrast_loss(found, targets, own, partners, 0.5)
    unit = torch.nn.functional.normalize
    scores = unit(found.detach(), dim=1) @ unit(targets, dim=1).T / 0.5
    first = math.log(sum(math.exp(scores[0, other]) for other in (0, 3, 4))) - float(scores[0, 0])  # 2 is its twin
    third = math.log(sum(math.exp(scores[2, other]) for other in (0, 2, 3, 4))) - float(scores[2, 3])
    assert float(loss.detach()) == pytest.approx(first + third, rel=1e-5)
    loss.backward()
    assert found.grad is not None
    assert not found.grad[1].any()  # no neighbour, no pull


def share_together(codes: np.ndarray) -> float:
    """Share of pairs of one group that share their first code, over that of all pairs."""
    same = codes[:, None, 0] == codes[None, :, 0]
    groups = np.arange(len(codes)) % GROUPS
    inside = (groups[:, None] == groups[None, :]) & ~np.eye(len(codes), dtype=bool)
    return float(same[inside].mean() / same[~np.eye(len(codes), dtype=bool)].mean())


def test_items_of_one_history_come_to_share_codes() -> None:
    vectors, walks = world()
    plain = share_together(made(collaborative_weight=0.0).fit(vectors, sequences=walks).encode(vectors))
    drawn = share_together(made(collaborative_weight=3.0).fit(vectors, sequences=walks).encode(vectors))
    assert drawn - 1 > 1.3 * (plain - 1)  # 1 is chance


def test_without_its_contrast_it_is_rqvae() -> None:
    vectors, walks = world()
    settings = {"levels": 2, "codebook_size": 20, "latent_dim": 6, "hidden": (24,), "steps": 40, "batch_size": 128}
    settings |= {"validate_every": 20, "precision": "no", "quiet": True, "update": "gradient"}
    same = RQVAE(**settings).fit(vectors).encode(vectors)
    for sequences in (walks, None):
        found = made(collaborative_weight=0.0, steps=40, validate_every=20, patience=5)
        np.testing.assert_array_equal(found.fit(vectors, sequences=sequences).encode(vectors), same)


def test_same_seed_same_codes_and_a_new_item_needs_no_history() -> None:
    vectors, walks = world()
    first, second = (made(steps=40).fit(vectors, sequences=walks) for _ in range(2))
    np.testing.assert_array_equal(first.encode(vectors), second.encode(vectors))
    assert first.encode(vectors[:3] + 0.01).shape == (3, 2)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (None, "COSETTE learns from histories: give sequences="),
        ([[1, 300]], "sequences hold item number 300; expected 1..200"),
        ([[5, 5], [7]], "no history has two different items near each other"),
    ],
)
def test_refuses_histories_that_teach_nothing(histories: list[list[int]] | None, message: str) -> None:
    vectors, _ = world()
    with pytest.raises(ValueError, match=message):
        made().fit(vectors, sequences=None if histories is None else Histories.from_lists(histories))
