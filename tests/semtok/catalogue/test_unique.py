"""Policies that make codes unique, beside plain loops and exhaustive search."""

from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

import semtok
from semtok.catalogue import placement
from semtok.catalogue import unique as uniqueness
from semtok.catalogue.unique import POLICIES, costs_of, make_unique
from semtok.codes import ItemCodes

RESOLVERS = POLICIES[1:]
MOVING = POLICIES[2:]  # those that change codes instead of adding a level
STEADY = ("nearest-free", "matching")  # those that move nobody but the movers


class Additive:
    """Items and codebooks of small whole numbers, so that costs are exact; some codes may be unusable."""

    def __init__(self, sizes: tuple[int, ...], items: int, seed: int, unused: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        self.sizes_, self.views_ = list(sizes), {"item": slice(0, 3)}
        self.blocks_ = {"item": slice(0, len(sizes))}
        self.books = [random.integers(-9, 10, size=(size, 3)) for size in sizes]
        self.usable = [random.random(size) >= unused for size in sizes]
        self.X = random.integers(-15, 16, size=(items, 3))

    def costs(self, X: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        left = X - sum(self.books[other][codes[:, other]] for other in range(len(self.books)) if other != level)
        found = np.square(left[:, None] - self.books[level]).sum(2).astype(np.float32)
        found[:, ~self.usable[level]] = np.inf
        return found

    def total(self, codes: np.ndarray) -> float:
        decoded = sum(book[codes[:, level]] for level, book in enumerate(self.books))
        return float(np.square(self.X - decoded).sum())


@st.composite
def catalogues(draw: st.DrawFn, full: bool = False, most: int = 24) -> tuple[ItemCodes, Additive, np.ndarray]:
    """Any collision structure: sizes, items, codes (few different ones, or one alone), popularity without ties."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    capacity = prod(sizes)
    items = capacity if full else draw(st.integers(1, min(capacity, most)))
    seed = draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    kinds = draw(st.integers(1, items))
    table = np.stack([random.integers(size, size=kinds) for size in sizes], axis=1)[random.integers(kinds, size=items)]
    codes = ItemCodes(table, sizes, random.permutation(items) + 100)
    return codes, Additive(sizes, items, seed), random.permutation(items)


def resolved(codes: ItemCodes, space: Additive, policy: str, popularity: np.ndarray, **arguments: object) -> tuple:
    return make_unique(codes, policy, costs=costs_of(space, space.X, codes), popularity=popularity, **arguments)


def keepers(codes: ItemCodes, popularity: np.ndarray) -> np.ndarray:
    """The most popular item of each tuple: bool [N]."""
    group = codes.groups()
    return np.array([popularity[row] == popularity[group == group[row]].max() for row in range(len(codes))])


def one_after_the_other(codes: ItemCodes, space: Additive, popularity: np.ndarray) -> np.ndarray:
    """The nearest free codes by plain loops: int [N, L]."""
    table, sizes = codes.codes.copy(), codes.sizes
    keeps = keepers(codes, popularity)
    taken = {tuple(row) for row in table[keeps].tolist()}
    waiting = [row for row in np.argsort(-popularity) if not keeps[row]]

    def room(prefix: tuple[int, ...]) -> bool:
        below = sum(found[: len(prefix)] == prefix for found in taken)
        return below < prod(sizes[len(prefix) :])

    for depth in range(len(sizes) - 1, -1, -1):
        again = []
        for row in waiting:
            path = tuple(table[row, :depth].tolist())
            if not room(path):
                again.append(row)
                continue
            for level in range(depth, len(sizes)):
                costs = space.costs(space.X[row][None], table[row][None], level)[0]
                best = min((code for code in range(sizes[level]) if room((*path, code))), key=lambda code: costs[code])
                table[row, level] = best
                path = (*path, best)
            taken.add(path)
        waiting = again
    return table


@pytest.mark.parametrize("policy", RESOLVERS)
@given(catalogues())
@settings(max_examples=40)
def test_any_collision_structure_becomes_unique(policy: str, found: tuple) -> None:
    codes, space, popularity = found
    new, report = resolved(codes, space, policy, popularity)
    assert new.unique
    assert (new.item_ids == codes.item_ids).all()
    assert report["after"]["items"] == 0
    assert report["before"]["items"] == codes.collisions().items
    assert report["items"] == len(codes)
    assert report["capacity"] == {"tuples": prod(new.sizes), "left": prod(new.sizes) - len(codes)}
    if policy == "suffix":
        assert (new.codes[:, :-1] == codes.codes).all()
        assert new.sizes == (*codes.sizes, codes.collisions().largest)
        return
    changed = new.codes != codes.codes
    assert new.sizes == codes.sizes
    assert report["moved"] == changed.any(1).sum()
    assert report["moved_share"] == changed.any(1).mean()
    assert report["moved_levels"] == changed.sum(0).tolist()
    assert report["distortion"]["before"] == space.total(codes.codes)
    assert report["distortion"]["added"] == space.total(new.codes) - space.total(codes.codes)


@pytest.mark.parametrize("policy", MOVING)
@given(catalogues(full=True))
@settings(max_examples=25)
def test_every_tuple_can_be_given_away(policy: str, found: tuple) -> None:
    codes, space, popularity = found
    new, report = resolved(codes, space, policy, popularity)
    assert new.collisions().distinct == prod(codes.sizes)
    assert report["capacity"]["left"] == 0


@pytest.mark.parametrize("policy", MOVING)
@pytest.mark.parametrize("sizes", [(4,), (2, 3), (1, 2, 2)])
def test_one_item_too_many_is_refused_with_the_numbers(policy: str, sizes: tuple[int, ...]) -> None:
    items = prod(sizes) + 1
    codes = ItemCodes(np.zeros((items, len(sizes)), dtype=int), sizes, np.arange(items))
    with pytest.raises(ValueError, match=rf"{items} items cannot have unique codes: sizes .* make {items - 1} tuples"):
        make_unique(codes, policy)


@given(catalogues())
def test_nearest_free_codes_are_those_of_plain_loops(found: tuple) -> None:
    codes, space, popularity = found
    new, _ = resolved(codes, space, "nearest-free", popularity)
    assert (new.codes == one_after_the_other(codes, space, popularity)).all()


@pytest.mark.parametrize("policy", STEADY)
@given(catalogues())
@settings(max_examples=40)
def test_the_most_popular_item_of_each_tuple_keeps_it(policy: str, found: tuple) -> None:
    codes, space, popularity = found
    new, report = resolved(codes, space, policy, popularity)
    keeps = keepers(codes, popularity)
    assert (new.codes[keeps] == codes.codes[keeps]).all()
    assert report["moved"] == (~keeps).sum()


@pytest.mark.parametrize("policy", MOVING)
@given(catalogues())
@settings(max_examples=40)
def test_prefixes_without_collisions_are_left_alone(policy: str, found: tuple) -> None:
    codes, space, popularity = found
    new, report = resolved(codes, space, policy, popularity)
    if not any(report["moved_levels"][:-1]):
        group = codes.groups()
        shares = np.bincount(group)[group] > 1
        touched = {tuple(prefix) for prefix in codes.codes[shares, :-1].tolist()}
        quiet = np.array([tuple(prefix) not in touched for prefix in codes.codes[:, :-1].tolist()])
        assert (new.codes[quiet] == codes.codes[quiet]).all()


@pytest.mark.parametrize("policy", RESOLVERS)
@given(catalogues(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_permuting_items_permutes_codes(policy: str, found: tuple, random) -> None:
    codes, space, popularity = found
    order = np.array(random.sample(range(len(codes)), len(codes)))
    new, report = resolved(codes, space, policy, popularity)
    shuffled = ItemCodes(codes.codes[order], codes.sizes, codes.item_ids[order])
    space.X = space.X[order]
    other, report_of_other = resolved(shuffled, space, policy, popularity[order])
    assert (other.codes == new.codes[order]).all()
    assert report_of_other == report


@given(catalogues())
def test_matching_adds_no_more_than_nearest_free_and_balanced_no_more_than_matching(found: tuple) -> None:
    codes, space, popularity = found
    totals = [
        space.total(resolved(codes, space, policy, popularity)[0].codes)
        for policy in ("nearest-free", "matching", "balanced")
    ]
    assert totals[0] >= totals[1] >= totals[2]


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 5), st.integers(1, 3))
@settings(max_examples=40)
def test_matching_and_balanced_equal_exhaustive_search(seed: int, size: int, items: int, prefixes: int) -> None:
    items = min(items, size)
    random = np.random.default_rng(seed)
    prefix = np.repeat(np.arange(prefixes), items)
    table = np.stack([prefix, random.integers(min(2, size), size=len(prefix))], axis=1)
    space = Additive((prefixes, size), len(table), seed)
    codes = ItemCodes(table, (prefixes, size), np.arange(len(table)))
    popularity = random.permutation(len(table))
    keeps = keepers(codes, popularity)
    for policy in ("matching", "balanced"):
        new, _ = resolved(codes, space, policy, popularity)
        for number in range(prefixes):
            rows = np.flatnonzero(prefix == number)
            costs = space.costs(space.X[rows], table[rows], 1)
            stays = keeps[rows] & (policy == "matching")
            if policy == "balanced" and keeps[rows].all():
                continue  # nothing collides there, so nothing moves
            free = sorted(set(range(size)) - set(table[rows[stays], 1].tolist()))
            best = min(
                sum(costs[row, code] for row, code in zip(np.flatnonzero(~stays), chosen, strict=True))
                for chosen in permutations(free, int((~stays).sum()))
            )
            assert costs[np.arange(items), new.codes[rows, 1]][~stays].sum() == best


@pytest.mark.parametrize("policy", MOVING)
@given(catalogues(most=12), st.integers(0, 10**6))
@settings(max_examples=40)
def test_unusable_codes_are_given_to_nobody(policy: str, found: tuple, seed: int) -> None:
    codes, _, popularity = found
    space = Additive(codes.sizes, len(codes), seed, unused=0.4)
    usable = prod(int(mask.sum()) for mask in space.usable)
    table = np.stack(
        [np.flatnonzero(mask)[column % mask.sum()] for mask, column in zip(space.usable, codes.codes.T, strict=True)],
        axis=1,
    ) if usable else None  # fmt: skip
    if table is None:
        return
    codes = ItemCodes(table, codes.sizes, codes.item_ids)
    if len(codes) > usable:
        with pytest.raises(ValueError, match=r"find no free code: of the .* too few can be used"):
            resolved(codes, space, policy, popularity)
        return
    new, _ = resolved(codes, space, policy, popularity)
    assert new.unique
    for level, mask in enumerate(space.usable):
        assert mask[new.codes[:, level]].all()


def test_a_prefix_whose_codes_are_all_unusable_is_a_dead_end() -> None:
    """The nearest prefix has room on paper; who tries it turns to the next one, and no one tries it again."""

    def costs(rows: np.ndarray, level: int, codes: np.ndarray) -> np.ndarray:
        if level == 0:
            return np.tile(np.float32([0, 1, 2]), (len(rows), 1))
        found = np.zeros((len(rows), 2), dtype=np.float32)
        found[codes[:, 0] == 1] = np.inf
        return found

    codes = ItemCodes(np.zeros((4, 2), dtype=int), (3, 2), np.arange(4))
    for policy in STEADY:
        new, report = make_unique(codes, policy, costs=costs)
        assert new.codes.tolist() == [[0, 0], [0, 1], [2, 0], [2, 1]]
        assert report["rounds"] == 3
    too_many = ItemCodes(np.zeros((5, 2), dtype=int), (3, 2), np.arange(5))
    with pytest.raises(ValueError, match="1 of 5 items find no free code: of the 6 tuples of sizes"):
        make_unique(too_many, "matching", costs=costs)


@pytest.mark.parametrize("policy", MOVING)
@given(catalogues(), st.data())
@settings(max_examples=40)
def test_fixed_items_never_move(policy: str, found: tuple, data: st.DataObject) -> None:
    codes, space, popularity = found
    lonely = np.flatnonzero(np.unique(codes.groups(), return_index=True)[1])
    chosen = np.unique(codes.groups(), return_index=True)[1][data.draw(st.integers(0, len(lonely))) :]
    fixed = np.zeros(len(codes), dtype=bool)
    fixed[chosen] = True
    new, _ = resolved(codes, space, policy, popularity, fixed=fixed)
    assert new.unique
    assert (new.codes[fixed] == codes.codes[fixed]).all()


def test_a_fixed_item_keeps_its_code_before_a_popular_one() -> None:
    codes = ItemCodes(np.array([[0, 1], [0, 1], [1, 0]]), (2, 2), np.arange(3))
    for policy in STEADY:
        new, _ = make_unique(codes, policy, popularity=[1, 9, 0], fixed=np.array([True, False, False]))
        assert new.codes.tolist() == [[0, 1], [0, 0], [1, 0]]
        new, _ = make_unique(codes, policy, popularity=[1, 9, 0])
        assert new.codes.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_ties_of_popularity_go_by_row() -> None:
    codes = ItemCodes(np.zeros((4, 1), dtype=int), (5,), np.arange(4))
    new, _ = make_unique(codes, "nearest-free", popularity=[1, 2, 2, 1])
    assert new.codes[:, 0].tolist() == [2, 0, 1, 3]
    big = 2**62  # as floats these would be equal
    new, _ = make_unique(codes, "nearest-free", popularity=[big, big + 1, big + 2, big])
    assert new.codes[:, 0].tolist() == [2, 1, 0, 3]


def test_codes_without_costs_go_to_the_lowest_free_code() -> None:
    codes = ItemCodes(np.array([[1, 2]] * 4), (3, 4), np.arange(4))
    for policy in STEADY:
        new, report = make_unique(codes, policy)
        assert new.codes.tolist() == [[1, 2], [1, 0], [1, 1], [1, 3]]
        assert report["distortion"] is None


def test_a_mover_leaves_its_prefix_only_if_that_is_full() -> None:
    codes = ItemCodes(np.array([[0, 0]] * 3 + [[1, 0]]), (3, 2), np.arange(4))

    def costs(rows: np.ndarray, level: int) -> np.ndarray:
        return np.tile(np.float32([0, 1, 5][: 3 - level]), (len(rows), 1))

    for policy in MOVING:
        new, report = make_unique(codes, policy, costs=costs)
        assert sorted(new.codes.tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert report["moved_levels"][0] == 1
        with pytest.raises(ValueError, match=r"1 items find no free code at their last level: the first codes \(0,\) "
                                             "have 3 items but 2 codes at most"):  # fmt: skip
            make_unique(codes, policy, costs=costs, spill=False)


def test_distortion_is_what_decoding_says_also_where_items_leave_their_prefix() -> None:
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(40, 8)), 8, axis=0).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=3, codebook_size=8).fit(vectors)
    codes = tokenizer.item_codes(vectors, np.arange(len(vectors)))

    def error(table: np.ndarray) -> float:
        return float(np.square(vectors - tokenizer.decode(table)).sum(dtype=np.float64))

    for policy in MOVING:
        new, report = make_unique(codes, policy, costs=costs_of(tokenizer, vectors, codes))
        assert all(report["moved_levels"][1:])
        found = report["distortion"]
        assert found["before"] == pytest.approx(error(codes.codes), rel=1e-4)
        assert found["added"] == pytest.approx(error(new.codes) - error(codes.codes), rel=1e-4)
        assert found["added_mean"] == found["added"] / len(codes)
        assert found["added_per_moved"] == found["added"] / report["moved"]
        assert found["relative"] == found["added"] / found["before"]


def test_views_that_are_quantized_apart_add_up() -> None:
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(6, 8)), 5, axis=0).astype(np.float32)
    tokenizer = semtok.ProductQuantizer(levels=1, codebook_size=6).fit(
        vectors, views={"a": slice(0, 4), "b": slice(4, 8)}
    )
    codes = tokenizer.item_codes(vectors, np.arange(len(vectors)))
    new, report = make_unique(codes, "matching", costs=costs_of(tokenizer, vectors, codes))
    assert new.unique
    added = (
        np.square(vectors - tokenizer.decode(new.codes)).sum()
        - np.square(vectors - tokenizer.decode(codes.codes)).sum()
    )
    assert report["distortion"]["added"] == pytest.approx(added, rel=1e-4)


@pytest.mark.parametrize("policy", MOVING)
@pytest.mark.parametrize("seed", range(3))
def test_work_in_small_parts_gives_the_same_codes(policy: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, random = (3, 5, 4), np.random.default_rng(seed)
    table = np.stack([random.integers(size, size=6) for size in sizes], axis=1)[random.integers(6, size=50)]
    codes, space, popularity = ItemCodes(table, sizes, np.arange(50)), Additive(sizes, 50, seed), random.permutation(50)
    whole, report = resolved(codes, space, policy, popularity)
    assert report["moved_levels"][1]
    monkeypatch.setattr(placement, "_ENTRIES", 12)
    parts, report_of_parts = resolved(codes, space, policy, popularity)
    assert (parts.codes == whole.codes).all()
    assert report_of_parts == report


def test_large_catalogues_are_measured_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Additive((6, 8, 10), 400, 0)
    table = np.random.default_rng(0).integers(0, (3, 4, 5), size=(400, 3))
    codes = ItemCodes(table, (6, 8, 10), np.arange(400))
    popularity = np.arange(400)
    whole, exact = resolved(codes, space, "matching", popularity)
    monkeypatch.setattr(uniqueness, "_SAMPLE", 200)
    found = [resolved(codes, space, "matching", popularity, seed=seed) for seed in (1, 1, 2)]
    assert all((new.codes == whole.codes).all() for new, _ in found)
    before = [report["distortion"]["before"] for _, report in found]
    assert before[0] == before[1] != before[2]
    assert before[0] == pytest.approx(exact["distortion"]["before"], rel=0.2)
    assert {report["distortion"]["added"] for _, report in found} == {exact["distortion"]["added"]}


# --------------------------------------------------------------------------------------- suffix


def test_the_suffix_counts_the_items_of_a_tuple_by_popularity() -> None:
    codes = ItemCodes(np.array([[0, 1], [1, 1], [0, 1], [0, 1]]), (2, 3), np.arange(4), {"text": slice(0, 2)})
    new, report = make_unique(codes, "suffix", popularity=[3, 1, 9, 5])
    assert new.codes.tolist() == [[0, 1, 2], [1, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert new.sizes == (2, 3, 3)
    assert new.blocks == {"text": slice(0, 2), "suffix": slice(2, 3)}
    assert report["suffix_size"] == 3
    assert report["moved"] == 0
    assert report["moved_levels"] == [0, 0, 2]
    assert make_unique(codes, "suffix", suffix_size=7)[0].sizes == (2, 3, 7)
    with pytest.raises(ValueError, match="suffix_size=2 is too small: 3 items share one tuple"):
        make_unique(codes, "suffix", suffix_size=2)
    with pytest.raises(ValueError, match="already have a block called suffix"):
        make_unique(new, "suffix")
    with pytest.raises(ValueError, match="1 items are fixed, but the policy suffix adds a level"):
        make_unique(codes, "suffix", fixed=np.array([True, False, False, False]))


def test_the_suffix_is_there_without_collisions_too() -> None:
    codes = ItemCodes(np.array([[0], [1]]), (2,), np.arange(2))
    new, _ = make_unique(codes, "suffix")
    assert new.codes.tolist() == [[0, 0], [1, 0]]
    assert new.sizes == (2, 1)


# --------------------------------------------------------------------------------------- transport


def transported(costs: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The weights of entropic transport by logarithms: [n, K], every code weighing 1 / K."""
    middle, half = (costs.max() + costs.min()) / 2, (costs.max() - costs.min()) / 2 + 1e-5
    log = -(costs.astype(np.float64) - middle) / half / epsilon
    for _ in range(iterations):
        log = log - logsumexp(log, axis=1, keepdims=True) - np.log(len(log))
        log = log - logsumexp(log, axis=0, keepdims=True) - np.log(log.shape[1])
    return np.exp(log)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(2, 16), (5, 16), (20, 16)])
def test_transport_is_that_of_logarithms(seed: int, shape: tuple[int, int]) -> None:
    costs = np.random.default_rng(seed).random(shape).astype(np.float32)
    weights = transported(costs, 0.01, 50)
    near = weights >= weights.max(1, keepdims=True) * (1 - 1e-6)
    expected = np.where(near, costs, np.inf).argmin(1)
    assert (placement._sinkhorn(costs[None], 0.01, 50)[0] == expected).all()


def test_transport_moves_only_items_that_collide_and_says_what_it_left() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 6)).astype(np.float32)
    vectors[:3] = vectors[0]  # nothing can tell these apart
    tokenizer = semtok.ResidualQuantizer(levels=2, codebook_size=32).fit(vectors)
    codes = tokenizer.item_codes(vectors, np.arange(300))
    assert codes.collisions().items > 20
    group = codes.groups()
    alone = np.bincount(group)[group] == 1
    costs = costs_of(tokenizer, vectors, codes)
    one, report = make_unique(codes, "sinkhorn", costs=costs, popularity=alone, rounds=1)
    assert report["sinkhorn"]["moved"] > 10
    assert report["rounds"] == 1
    assert (one.codes[alone] == codes.codes[alone]).all()
    many, report = make_unique(codes, "sinkhorn", costs=costs_of(tokenizer, vectors, codes))
    assert report["sinkhorn"]["left"] >= 2
    assert report["rounds"] <= 20
    assert many.unique
    assert report["moved_levels"][0] == 0


def test_transport_at_the_least_epsilon_stays_finite() -> None:
    costs = np.array([[[0.0, 1e6, 2e6], [0.0, 1e6, 2e6]]], dtype=np.float32)
    costs[0, 1] = [0.0, 2e6, 1e6]
    with np.errstate(all="raise", under="ignore"):
        found = placement._sinkhorn(costs, 0.003, 50)
    assert sorted(found[0].tolist()) == [1, 2]


# --------------------------------------------------------------------------------------- arguments


def test_nothing_is_done_to_unique_codes_nor_under_none() -> None:
    unique = ItemCodes(np.array([[0, 1], [1, 0]]), (2, 2), np.arange(2))
    shared = ItemCodes(np.array([[0, 1], [0, 1]]), (2, 2), np.arange(2))
    for policy in ("none", *MOVING):
        new, report = make_unique(unique, policy)
        assert new == unique
        assert report["moved"] == report["rounds"] == 0
    new, report = make_unique(shared, "none")
    assert new == shared
    assert report["after"] == report["before"] == {
        "items": 2, "groups": 1, "largest": 2, "distinct": 1, "total": 2, "rate": 1.0
    }  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_no_items_are_unique(policy: str) -> None:
    empty = ItemCodes(np.zeros((0, 2), dtype=int), (2, 2), np.zeros(0, dtype=int))
    new, report = make_unique(empty, policy, costs=lambda rows, level: np.zeros((len(rows), 2)))
    assert len(new) == report["moved"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "hope"}, "policy='hope' is not one of none, suffix, sinkhorn"),
        ({"popularity": [1, 2, 3]}, r"popularity has shape \(3,\)"),
        ({"popularity": [1.0, np.nan]}, "expected .* numbers, none NaN"),
        ({"popularity": ["a", "b"]}, "popularity has shape .* and dtype <U1"),
        ({"fixed": [True]}, r"fixed has shape \(1,\)"),
        ({"fixed": [1, 0]}, "dtype int64; expected bool"),
        ({"fixed": [True, True]}, "1 of 2 fixed items share the codes of another one"),
        ({"epsilon": 1e-4}, "epsilon=0.0001, iterations=50 and rounds=20; expected an epsilon of at least 0.003"),
        ({"rounds": 0}, "rounds=0; expected"),
        ({"costs": lambda rows, level: np.zeros((len(rows), 3))}, r"have shape \(1, 3\); expected \(1, 2\)"),
        ({"costs": lambda rows, level: np.full((len(rows), 2), np.nan)}, "costs of level 1 hold NaN"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    codes = ItemCodes(np.array([[0, 1], [0, 1]]), (2, 2), np.arange(2))
    with pytest.raises(ValueError, match=message):
        make_unique(codes, **arguments)


def test_costs_of_a_tokenizer_follow_the_codes_they_are_given() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 6)).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=2, codebook_size=8).fit(vectors)
    codes, _ = make_unique(tokenizer.item_codes(vectors, np.arange(50)), "suffix")
    costs = costs_of(tokenizer, vectors, codes)
    rows, other = np.array([3, 7]), np.array([[0, 0, 0], [5, 1, 0]])
    decoded = tokenizer.codebooks_[0][other[:, 0]][:, None] + tokenizer.codebooks_[1]
    assert costs(rows, 1, other) == pytest.approx(np.square(vectors[rows][:, None] - decoded).sum(2), rel=1e-4)
    assert (costs(rows, 1) == costs(rows, 1, codes.codes[rows])).all()
    assert (costs(rows, 1) != costs(rows, 1, other)).any()
