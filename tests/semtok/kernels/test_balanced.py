"""Splitting many segments at once, beside k-means of each; limits beside the best assignment there is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import semtok.kernels.balanced as segments
from semtok.kernels.balanced import Filling, costs_of, fit_rows, split_segments
from semtok.kernels.lloyd import cluster


def some_points(rows: int, width: int = 8, topics: int = 20, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(topics, 0.5))
    points = random.normal(size=(topics, width))[random.choice(topics, rows, p=shares)]
    return torch.from_numpy((1.5 * points + random.normal(size=(rows, width))).astype(np.float32))


def error_of(points: torch.Tensor, codes: torch.Tensor, sizes: torch.Tensor, count: int) -> float:
    """Squared distances of rows to the mean of those with the same code in the same segment."""
    place = torch.arange(len(sizes)).repeat_interleave(sizes) * count + codes
    loads = torch.bincount(place, minlength=len(sizes) * count).clamp(min=1)
    means = torch.zeros(len(loads), points.shape[1]).index_add_(0, place, points) / loads[:, None]
    return float((points - means[place]).square().sum())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stacked_segments_are_split_as_well_as_each_by_itself(precision: str) -> None:
    sizes = torch.tensor([30, 200, 31, 90, 1500, 60, 64])
    points = some_points(int(sizes.sum()))
    codes, prices = split_segments(points, sizes, 8, precision=precision)
    alone = sum(cluster(part, 8).error * len(part) for part in points.split(sizes.tolist()))
    assert error_of(points, codes, sizes, 8) <= 1.02 * alone
    assert not prices.any()


def test_rows_lie_with_their_nearest_mean_where_nothing_limits() -> None:
    sizes = torch.tensor([400, 300])
    points = some_points(700)
    codes, _ = split_segments(points, sizes, 4, iterations=200, precision="float32")
    for part, found in zip(points.split([400, 300]), codes.split([400, 300]), strict=True):
        means = torch.stack([part[found == code].mean(0) for code in range(4)])
        assert (torch.cdist(part, means).argmin(1) == found).float().mean() > 0.98


def test_few_different_rows_have_a_centroid_each() -> None:
    rows = torch.tensor([[0.0, 1], [0, 1], [2, 2], [5, 5], [5, 5], [7, 1]])
    codes, _ = split_segments(rows, torch.tensor([5, 1]), 3)
    assert codes.tolist() == [0, 0, 1, 2, 2, 0]


@pytest.mark.parametrize(("limit", "evenly"), [(40, True), (45, False), (60, False), (100, False)])
def test_limits_are_kept_at_nearly_the_least_cost(limit: int, evenly: bool) -> None:
    points = some_points(400)
    centers, _ = fit_rows(points, 10)
    filling = Filling(costs_of(points, centers), 400, torch.zeros(1, 10))
    filling.fill(torch.tensor([400]), None if evenly else torch.tensor([limit]))
    costs = torch.cdist(points, centers).square()
    paid = float(costs.gather(1, filling.codes[:, None]).sum())
    places = costs.repeat_interleave(limit, 1).double().numpy()
    best = places[linear_sum_assignment(places)].sum()
    assert filling.loads().max() <= limit
    assert best * (1 - 1e-5) <= paid <= best * (1.001 if limit > 40 else 1.02)


def test_prices_say_why_a_row_is_where_it_is() -> None:
    points = some_points(400)
    centers, _ = fit_rows(points, 10)
    filling = Filling(costs_of(points, centers), 400, torch.zeros(1, 10))
    crowded = filling.loads()[0] > 60
    filling.fill(torch.tensor([400]), torch.tensor([60]))
    priced = torch.cdist(points, centers).square() + filling.price
    assert crowded.any()
    assert (priced.argmin(1) == filling.codes).all()
    assert (filling.price[0] > 0)[crowded].all()
    assert (filling.loads()[0] == 60)[filling.price[0] > 0].all()


def test_centroids_that_move_under_limits_lower_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    points, sizes = some_points(2000), torch.tensor([2000])
    moved = error_of(points, split_segments(points, sizes, 16, evenly=True)[0], sizes, 16)
    monkeypatch.setattr(segments, "_MOVES", 0)
    stayed = error_of(points, split_segments(points, sizes, 16, evenly=True)[0], sizes, 16)
    assert moved < 0.98 * stayed


def test_fitting_on_a_part_costs_little() -> None:
    points, sizes = some_points(6000), torch.tensor([6000])
    whole, part = (split_segments(points, sizes, 16, torch.tensor([450]), most=most)[0] for most in (None, 1500))
    assert torch.bincount(part).max() <= 450
    assert error_of(points, part, sizes, 16) <= 1.05 * error_of(points, whole, sizes, 16)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    count=st.integers(2, 6),
    spare=st.integers(0, 3),
    evenly=st.booleans(),
    values=st.integers(1, 40),
)
def test_no_centroid_gets_more_rows_than_it_may(
    sizes: list[int], count: int, spare: int, evenly: bool, values: int
) -> None:
    random = np.random.default_rng(values)
    points = torch.from_numpy(random.integers(0, values, (sum(sizes), 2)).astype(np.float32))
    points = torch.cat([part[np.lexsort(part.T.numpy())] for part in points.split(sizes)])
    limits = torch.tensor([-(-size // count) + spare for size in sizes])
    codes, prices = split_segments(points, torch.tensor(sizes), count, limits, evenly=evenly)
    assert prices.shape == codes.shape
    for found, limit in zip(codes.split(sizes), limits, strict=True):
        loads = torch.bincount(found, minlength=count)
        assert len(loads) == count
        assert loads.max() - loads.min() <= 1 if evenly else loads.max() <= limit


def test_stacking_does_not_change_what_a_large_segment_gets() -> None:
    points = some_points(3000)
    both, _ = split_segments(points, torch.tensor([1800, 1200]), 8, seed=3)
    alone, _ = split_segments(points[:1800], torch.tensor([1800]), 8, seed=3)
    assert torch.equal(both[:1800], alone)
