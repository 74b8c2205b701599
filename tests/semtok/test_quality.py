"""Quality measures against examples worked by hand."""

import json
import math

import numpy as np
import polars as pl
import pytest

from semtok.codes import ItemCodes
from semtok.quality import (
    agreement,
    branching,
    category_columns,
    closeness,
    code_report,
    collision_report,
    gini,
    level_report,
    neighbour_recall,
    perplexity,
    prefix_recall,
    reconstruction_error,
)


@pytest.fixture
def codes():
    """Six items: (0,0) three times, (0,1), (2,1) and (2,0)."""
    table = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [2, 1], [2, 0]])
    return ItemCodes(
        table, sizes=(4, 2), item_ids=np.array(list("abcdef")), blocks={"t": slice(0, 1), "b": slice(1, 2)}
    )


def test_collisions(codes):
    assert collision_report(codes) == {
        "items": 3,
        "groups": 1,
        "largest": 3,
        "distinct": 4,
        "rate": 0.5,
        "surplus": pytest.approx(1 / 3),
        "histogram": {1: 3, 3: 1},
    }
    assert collision_report(ItemCodes(np.empty((0, 1), dtype=int), (2,), np.array([], dtype=str)))["surplus"] == 0


def test_levels(codes):
    first, second = level_report(codes)
    assert (first["used"], first["dead"], first["utilisation"], first["largest"]) == (2, 2, 0.5, 4)
    assert first["block"] == "t"
    entropy = -(4 / 6 * math.log(4 / 6) + 2 / 6 * math.log(2 / 6))
    assert first["perplexity"] == pytest.approx(math.exp(entropy))
    # sorted counts 0 0 2 4: 2 * (3 * 2 + 4 * 4) / (4 * 6) - 5 / 4
    assert first["gini"] == pytest.approx(44 / 24 - 5 / 4)
    assert second["dead"] == 0


def test_even_and_single_use():
    assert perplexity(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert perplexity(np.array([0, 7, 0, 0])) == pytest.approx(1)
    assert gini(np.array([0, 7, 0, 0])) == pytest.approx(3 / 4)
    assert (perplexity(np.zeros(3)), gini(np.zeros(3))) == (0, 0)


def test_branching(codes):
    assert branching(codes) == [
        {"depth": 0, "nodes": 1, "mean": 2.0, "largest": 2},
        {"depth": 1, "nodes": 2, "mean": 2.0, "largest": 2},
    ]
    chain = ItemCodes(np.array([[0, 0, 1], [0, 0, 2], [0, 0, 0], [1, 0, 0]]), (2, 1, 3), np.arange(4))
    assert [(row["nodes"], row["mean"], row["largest"]) for row in branching(chain)] == [
        (1, 2, 2),
        (2, 1, 1),
        (2, 2, 3),
    ]


def test_reconstruction_error():
    vectors = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert reconstruction_error(vectors, vectors) == 0
    assert reconstruction_error(vectors, np.ones((4, 2))) == pytest.approx(1)
    half = vectors.copy()
    half[:, 1] = 1  # one of the two columns is lost
    assert reconstruction_error(vectors, half) == pytest.approx(1 / 2)
    assert reconstruction_error(np.ones((3, 1)), np.ones((3, 1))) == 0


def test_neighbour_recall_of_known_neighbours():
    angles = np.array([0.0, 0.1, 0.3, 1.5, 1.65, 1.9])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert neighbour_recall(vectors, vectors, k=2) == pytest.approx(1)
    # each half becomes one point: for k = 1 the neighbour is drawn from two tied ones, one of which is true
    coarse = np.repeat(vectors[[0, 3]], 3, axis=0)
    assert neighbour_recall(vectors, coarse, k=1) == pytest.approx(1 / 2)
    assert neighbour_recall(vectors, coarse, k=2) == pytest.approx(1)
    # the halves are mixed up: none of the nearest ones is true, save for the one that stands on its own
    swapped = vectors[[0, 3, 4, 1, 2, 5]]
    assert neighbour_recall(vectors, swapped, k=1) == pytest.approx(brute_force(vectors, swapped, 1))


def brute_force(vectors, decoded, k):
    hits = 0
    for row in range(len(vectors)):
        lists = []
        for side in (vectors, decoded):
            unit = side / np.linalg.norm(side, axis=1, keepdims=True)
            scores = unit @ unit[row]
            scores[row] = -np.inf
            lists.append(set(np.argsort(-scores)[:k].tolist()))
        hits += len(lists[0] & lists[1])
    return hits / (k * len(vectors))


def test_neighbour_recall_agrees_with_brute_force_in_chunks(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(80, 6))
    decoded = vectors + 0.8 * draw.normal(size=vectors.shape)
    expected = brute_force(vectors, decoded, 5)
    assert 0.1 < expected < 0.9
    assert neighbour_recall(vectors, decoded, k=5) == pytest.approx(expected)
    monkeypatch.setattr("semtok.quality._SCORES_AT_ONCE", 7 * 80)
    assert neighbour_recall(vectors, decoded, k=5) == pytest.approx(expected)
    sampled = neighbour_recall(vectors, decoded, k=5, queries=30, seed=1)
    assert sampled == neighbour_recall(vectors, decoded, k=5, queries=30, seed=1)
    assert sampled == pytest.approx(expected, abs=0.2)


def test_closeness_counts_the_shared_prefix_before_other_equal_codes():
    table = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 0], [1, 0, 3], [0, 2, 3], [0, 0, 0]])
    assert closeness(table, np.array([0, 4])).tolist() == [
        [3 * 4 + 3, 3 * 4 + 3, 2 * 4 + 2, 1 * 4 + 2, 0 * 4 + 2, 0],
        [2, 2, 1, 1, 3 * 4 + 3, 1 * 4 + 1],
    ]


def test_prefix_recall_of_known_neighbours(codes):
    angles = np.array([0.0, 0.1, 0.3, 1.5, 1.65, 1.9])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    halves = ItemCodes(np.array([[0], [0], [0], [1], [1], [1]]), (2,), np.arange(6))
    assert prefix_recall(vectors, halves, k=2) == pytest.approx(1)
    assert prefix_recall(vectors, halves, k=1) == pytest.approx(1 / 2)  # two share the code, one of them is nearest
    # a finer second code names the nearest of the half: 0-1, 1-0, 2-1, 3-4, 4-3, 5-4 (2 and 5 stay tied with two)
    finer = ItemCodes(np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1]]), (2, 2), np.arange(6))
    assert prefix_recall(vectors, finer, k=1) == pytest.approx((4 + 2 * 1 / 2) / 6)
    nothing = ItemCodes(np.zeros((6, 1), dtype=int), (2,), np.arange(6))
    assert prefix_recall(vectors, nothing, k=2) == pytest.approx(2 / 5)  # as good as drawing two of five
    with pytest.raises(ValueError, match=r"vectors have shape \(5, 2\) but there are codes of 6 items"):
        prefix_recall(vectors[:5], codes)


def test_agreement():
    same = agreement(np.array([3, 3, 1, 1]), ["x", "x", "y", "y"])
    assert (same["nmi"], same["purity"], same["groups"]) == (pytest.approx(1), 1, 2)
    none = agreement(np.array([0, 0, 1, 1]), ["x", "y", "x", "y"])
    assert (none["nmi"], none["purity"]) == (pytest.approx(0), 0.5)
    some = agreement(np.array([0, 0, 0, 1, 1]), ["x", "x", "y", "y", None])
    assert (some["items"], some["purity"]) == (4, 3 / 4)
    assert agreement(np.array([0, 1]), [None, None])["groups"] == 0
    with pytest.raises(ValueError, match="categories has 1 entries but there are 2 items"):
        agreement(np.array([0, 1]), ["x"])


def test_category_columns_group_items():
    items = pl.DataFrame(
        {
            "item_id": range(20),
            "brand": ["a", "b"] * 10,
            "title": [f"t{i}" for i in range(20)],
            "price": [1, 2] * 10,
            "one": ["z"] * 20,
        }
    )
    assert list(category_columns(items)) == ["brand"]
    assert category_columns(items, views=["title"]) == {}


def test_report_is_json_and_complete(codes):
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    report = code_report(codes, vectors, vectors * 0.5, {"t": slice(0, 2), "b": slice(2, 4)}, {"kind": list("xxyyzz")})
    assert json.loads(json.dumps(report))["items"] == 6
    assert set(report["reconstruction"]["views"]) == {"t", "b"}
    assert report["neighbours"]["recall@10"] == 1.0  # every other item is a neighbour
    assert [(row["category"], row["block"]) for row in report["agreement"]] == [("kind", "t"), ("kind", "b")]
    assert "neighbours" not in code_report(codes)
    foreign = code_report(codes, vectors)  # codes of others, without a decoder
    assert list(foreign["neighbours"]) == ["prefix_recall@10", "queries"]
    assert "reconstruction" not in foreign


def test_refusals(codes):
    vectors = np.ones((6, 4))
    with pytest.raises(ValueError, match=r"vectors have shape \(6, 4\) but the decoded ones \(5, 4\)"):
        reconstruction_error(vectors, vectors[:5])
    broken = vectors.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="decoded vectors hold NaN or infinity in row 2"):
        neighbour_recall(vectors, broken)
    with pytest.raises(ValueError, match="k is 0; expected 1 or more"):
        neighbour_recall(vectors, vectors, k=0)


def test_neighbour_recall_sees_through_a_constant_column():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(400, 8)).astype(np.float32)
    vectors -= vectors.mean(0)
    decoded = vectors + 0.3 * draw.normal(size=vectors.shape).astype(np.float32)
    right = neighbour_recall(vectors, decoded)
    assert 0.3 < right < 0.9
    far = np.zeros(8, dtype=np.float32)
    far[3] = 2010
    assert neighbour_recall(vectors + far, decoded + far) == pytest.approx(right, abs=0.01)
