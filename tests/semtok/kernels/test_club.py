"""The mutual-information bound against closed forms of Gaussians, and what its two kinds of step leave alone."""

import math

import pytest
import torch
from torch import Tensor

from semtok.kernels.club import CLUB


def gaussians(rows: int, dim: int, correlation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of standard Gaussians with the given correlation in each column."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, dim, generator=generator)
    noise = torch.randn(rows, dim, generator=generator)
    return z, correlation * z + math.sqrt(1 - correlation**2) * noise


def fitted(correlation: float, dim: int = 4, rounds: int = 120) -> CLUB:
    club = CLUB(dim, dim, hidden=32, lr=3e-3)
    z, s = gaussians(4000, dim, correlation, seed=1)
    for start in range(rounds):
        part = slice(start * 500 % 4000, start * 500 % 4000 + 500)
        club.improve(z[part], s[part])
    return club


@pytest.mark.parametrize("sampled", [False, True])
def test_independent_gaussians_share_next_to_nothing(sampled: bool) -> None:
    bound = float(fitted(0.0)(*gaussians(20_000, 4, 0.0, seed=2), sampled))
    assert abs(bound) < 0.1


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("correlation", [0.4, 0.7])
def test_dependent_gaussians_lie_above_the_closed_form(correlation: float, sampled: bool) -> None:
    bound = float(fitted(correlation)(*gaussians(20_000, 4, correlation, seed=2), sampled)) / 4
    information = -0.5 * math.log(1 - correlation**2)
    of_true_q = correlation**2 / (1 - correlation**2)  # what the bound is with the true conditional
    assert bound > information + 0.02
    assert bound == pytest.approx(of_true_q, rel=0.15)


def test_the_bound_is_the_mean_over_all_pairs() -> None:
    club = CLUB(3, 5)
    z, s = torch.randn(17, 3), torch.randn(17, 5) * 3 + 1
    mean, log_variance = club._gaussian(z)
    pairs = -0.5 * ((s[None] - mean[:, None]).square() / log_variance.exp()[:, None] + log_variance[:, None]).sum(2)
    assert float(club(z, s)) == pytest.approx(float(pairs.diagonal().mean() - pairs.mean()), rel=1e-4)
    assert float(club.log_likelihood(z, s)) == pytest.approx(float(pairs.diagonal().mean()), rel=1e-5)


def test_the_sampled_bound_is_the_full_one_in_the_mean() -> None:
    club = CLUB(3, 5)
    z, s = torch.randn(200, 3), torch.randn(200, 5)
    draws = torch.stack([club(z, s, sampled=True) for _ in range(400)])
    assert len(draws.unique()) > 300
    assert float(draws.mean()) == pytest.approx(float(club(z, s)), abs=4 * float(draws.std()) / 20)


def test_far_values_lose_no_digits() -> None:
    club = CLUB(2, 2).double()
    z, s = torch.randn(100, 2), torch.randn(100, 2) + 3000
    club.mean[2].bias.data += 3000
    mean, log_variance = club.mean(z.double()), club.log_variance(z.double())
    others = (s.double()[None] - mean[:, None]).square().mean(1)
    expected = float((0.5 * (others - (s.double() - mean).square()) / log_variance.exp()).sum(1).mean())
    assert float(club.float()(z, s)) == pytest.approx(expected, abs=2e-3)


def test_steps_of_q_move_q_and_leave_the_inputs_alone() -> None:
    club = CLUB(3, 3, steps=4)
    z, s = torch.randn(50, 3, requires_grad=True), torch.randn(50, 3, requires_grad=True)
    before = {name: value.clone() for name, value in club.state_dict().items()}
    reached = [float(club.improve(z * 2, s * 2)) for _ in range(20)]
    assert reached[-1] > reached[0] + 0.1
    assert z.grad is None
    assert s.grad is None
    assert all((value != before[name]).any() for name, value in club.state_dict().items())


def test_the_main_step_moves_the_inputs_and_leaves_q_alone() -> None:
    club = CLUB(3, 3)
    z, s = torch.randn(50, 3, requires_grad=True), torch.randn(50, 3, requires_grad=True)
    club.improve(z, s)
    before = {name: value.clone() for name, value in club.state_dict().items()}
    optimizer = torch.optim.AdamW([z, s, *club.parameters()], lr=0.1, weight_decay=0.1)
    club(z, s).backward()
    assert float(z.grad.abs().sum()) > 0
    assert float(s.grad.abs().sum()) > 0
    optimizer.step()
    assert all((value == before[name]).all() for name, value in club.state_dict().items())
    assert not any(parameter.requires_grad for parameter in club.parameters())


def test_q_learns_where_gradients_are_off_and_under_autocast() -> None:
    z, s = gaussians(64, 3, 0.9, seed=3)
    plain, mixed = CLUB(3, 3), CLUB(3, 3)
    mixed.load_state_dict(plain.state_dict())
    wanted = [float(plain.improve(z, s)) for _ in range(3)]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert [float(mixed.improve(z, s)) for _ in range(3)] == wanted
        assert float(mixed(z, s)) == float(plain(z, s))


def test_no_rows_and_one_row_give_no_information() -> None:
    club = CLUB(3, 2)
    before = {name: value.clone() for name, value in club.state_dict().items()}
    assert float(club(torch.zeros(0, 3), torch.zeros(0, 2))) == 0
    assert math.isnan(club.improve(torch.zeros(0, 3), torch.zeros(0, 2)))
    assert all((value == before[name]).all() for name, value in club.state_dict().items())
    assert float(club(torch.randn(1, 3), torch.randn(1, 2))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"condition_dim": 0, "dim": 2}, "condition_dim=0 of the mutual-information bound must be at least 1"),
        ({"condition_dim": 2, "dim": 2, "steps": 0}, "steps=0"),
        ({"condition_dim": 2, "dim": 2, "lr": 0.0}, r"lr=0\.0 of the mutual-information bound must be above 0"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLUB(**arguments)
