"""Random numbers by place: independent across seeds and coordinates, not only each uniform by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

from recbase.nn.draws import draw_integers, draw_uniform

SEED = 5_123_456_789_012_345_678
PLACES = torch.arange(40_000)
NEAR = [(1, 0), (0, 1), (1, 1), (1, -1), (-1, 1), (2, 1), (1, 2), (3, -2), (2, -1), (4, 4), (0, 6), (7, 0)]

GOLDEN_INTEGERS = [910547, 920785, 769045, 697383]
GOLDEN_UNIFORM = [0.8505720496177673, 0.5820940732955933, 0.8701366186141968, 0.5267179608345032]


def pair_p(first: torch.Tensor, second: torch.Tensor, parts: int = 8) -> float:
    """p-value of a chi-square test that two draws are uniform and independent of each other."""
    place = (first * parts).long() * parts + (second * parts).long()
    seen = np.bincount(place.flatten().numpy(), minlength=parts * parts)
    expected = place.numel() / parts**2
    return float(chi2.sf(((seen - expected) ** 2 / expected).sum(), parts**2 - 1))


@pytest.mark.parametrize("seed", [0, 1, SEED, -3])
def test_draws_at_neighbouring_seeds_and_places_are_independent(seed):
    base = draw_uniform(seed, PLACES)
    found = [pair_p(base, draw_uniform(seed + d, PLACES + k)) for d, k in NEAR]
    found += [pair_p(draw_uniform(seed, PLACES * 4 + a), draw_uniform(seed, PLACES * 4 + a + 1)) for a in range(4)]
    assert min(found) > 1e-4
    assert kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, SEED])
def test_draws_with_two_coordinates_are_independent(seed):
    rows, columns = torch.arange(400)[:, None], torch.arange(100)
    base = draw_uniform(seed, rows, columns)
    near = [(d, i, j) for d in (-1, 0, 1, 2) for i in (-1, 0, 1) for j in (-1, 0, 1) if (d, i, j) != (0, 0, 0)]
    found = [pair_p(base, draw_uniform(seed + d, rows + i, columns + j)) for d, i, j in near]
    found.append(pair_p(base[100:], draw_uniform(seed, columns, rows[100:])))
    found.append(pair_p(base, draw_uniform(seed, rows, columns, torch.tensor(0))))
    found.append(pair_p(draw_uniform(seed, PLACES), draw_uniform(seed, PLACES, torch.tensor(0))))
    assert min(found) > 1e-4
    assert kstest(found, "uniform").pvalue > 1e-3


def test_no_seed_is_another_one_moved_along():
    base = draw_integers(2, 1 << 40, torch.arange(2_000))
    for seed in (0, 1, 3, 4, 5, 10, 1 << 32):
        assert not torch.isin(draw_integers(seed, 1 << 40, torch.arange(2_000)), base).any()


def test_draws_are_those_of_all_machines_and_versions():
    assert draw_integers(7, 1_000_000, torch.arange(4)).tolist() == GOLDEN_INTEGERS
    assert draw_uniform(-1, torch.tensor([[0], [1]]), torch.tensor([0, 1])).flatten().tolist() == GOLDEN_UNIFORM


def test_draws_equal_a_plain_splitmix64():
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    for seed in (0, 3, -2, 1 << 61):
        for row, step in ((0, 0), (5, 1), (10**9, 7)):
            state = mix((seed + 1) * golden & mask)
            for coordinate in (row, step):
                state = mix((state + coordinate * golden + 1) & mask)
            drawn = draw_uniform(seed, torch.tensor(row), torch.tensor(step))
            assert float(drawn) == (state >> 40) / (1 << 24)
