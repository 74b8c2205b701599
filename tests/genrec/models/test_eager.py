"""EAGER: two streams with leaves, tables and normalizations of their own, and lists that add both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec.dense import all_scores, choose_weight, weighted
from genrec.models.eager import EAGER, Preparation
from genrec.models.prorec import Preparation as PRORecPreparation
from genrec.preparation import Sources
from genrec.search.decoding import score_codes
from recbase.data.catalog import Dataset
from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import Targets
from semtok.content.collaborative import collaborative_vectors

ITEMS = 24
HISTORIES = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
LENGTHS = torch.tensor([4, 2, 3])
LISTS = [[1, 2, 3, 8, 4], [5, 9], [24, 7, 13]]
FORMS: list[dict[str, Any]] = [
    {},
    {"normalize": "children"},
    {"leaf_embeddings": True},
    {"leaf_embeddings": True, "normalize": "children", "item_tables": "two", "recency_bias": True},
    {"leaf_embeddings": True, "recency_bias": True, "dense_weight": 1.0},
    {"dense_weight": 1.0, "normalize": "children"},
]


def codes() -> np.ndarray:
    """Two trees, of clusters of different sizes."""
    behaviour = np.stack([np.repeat([0, 1, 2, 3], [1, 12, 4, 7]), np.r_[0, :12, :4, :7]], 1)
    semantic = np.stack([np.arange(ITEMS) % 5, np.arange(ITEMS) // 5], 1)
    return np.concatenate([behaviour, semantic], 1)


def eager(**arguments: Any) -> EAGER:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "ffn": 32, "decoder_layers": 2, "dropout": 0.0, "distill_negatives": 5}
    model = EAGER(ITEMS, [5, 13, 6, 7], 2, 6, 4, **given | arguments)
    model.with_codes(codes(), np.arange(ITEMS))
    draws = np.random.default_rng(3)
    model.with_arrays(*(draws.normal(size=(ITEMS, width)).astype(np.float32) for width in (6, 4)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def scores_by_the_loss(model: EAGER, form: str) -> list[torch.Tensor]:
    """Parts of the loss of each sample of the lists, on its own."""
    found = []
    for row in LISTS:
        (batch,) = next(iter(SequenceBatches(Histories.from_lists([row]), form, 100, 20)))  # type: ignore[arg-type]
        found.append(model(batch).parts)
    return found


@pytest.mark.parametrize("arguments", FORMS)
@pytest.mark.parametrize("form", ["all", "prefix"])
def test_the_loss_is_minus_the_scores_that_a_list_adds(arguments: dict[str, Any], form: str) -> None:
    model = eager(causal_encoder=True, **arguments).eval()
    for row, parts in zip(LISTS, scores_by_the_loss(model, form), strict=True):
        wanted, headed = [], []
        for length in range(1, len(row)):
            items, lengths = torch.tensor([row[:length]]), torch.tensor([length])
            with weighted(model, 0.0 if model.dense is not None else None):
                wanted.append(-float(model.score_all(items, lengths)[0, row[length] - 1]) / 2)  # 2 levels each
            if model.dense is not None:
                headed.append(-float(model.score_both(items, lengths)[1][0, row[length] - 1]))
        assert float(parts["behaviour"] + parts["semantic"]) == pytest.approx(np.mean(wanted), abs=1e-4)
        if headed:
            assert float(parts["dense"]) == pytest.approx(np.mean(headed), abs=1e-4)


@pytest.mark.parametrize("arguments", FORMS)
def test_a_wide_search_is_exhaustive(arguments: dict[str, Any]) -> None:
    model = eager(**arguments).eval()
    scores = model.score_all(HISTORIES, LENGTHS)
    wide, exact = (model.search(HISTORIES, LENGTHS, ITEMS, ITEMS, exact=exact) for exact in (False, True))
    assert torch.equal(wide.items, exact.items)
    torch.testing.assert_close(wide.scores, scores.gather(1, wide.items - 1))
    allowed = torch.arange(ITEMS) % 2 == 1
    few = model.search(HISTORIES, LENGTHS, ITEMS, 20, mask=allowed, exclude=HISTORIES)
    assert (few.items[few.items > 0] % 2 == 0).all()
    assert not (few.items[..., None] == HISTORIES[:, None]).any()
    assert (few.items > 0).sum(1).tolist() == [12 - 2, 12 - 1, 12 - 1]


def test_a_tree_of_many_prefixes_is_searched_and_not_scored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = eager(dense_weight=1.0, leaf_embeddings=True).eval()
    whole = model.search(HISTORIES, LENGTHS, ITEMS, 10)
    monkeypatch.setattr("genrec.models.eager.few_prefixes", lambda trie: False)
    searched = model.search(HISTORIES, LENGTHS, ITEMS, 10)
    assert torch.equal(searched.items, whole.items)
    torch.testing.assert_close(searched.scores, whole.scores)
    none = model.search(HISTORIES, LENGTHS, 5, 5, mask=torch.zeros(ITEMS, dtype=torch.bool))
    assert (none.items == -1).all()
    assert (none.scores == -torch.inf).all()
    scores = model.score_all(HISTORIES, LENGTHS)
    narrow = model.search(HISTORIES, LENGTHS, 3, 3)
    torch.testing.assert_close(narrow.scores, scores.gather(1, narrow.items - 1))


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
@pytest.mark.parametrize("leaves", [False, True])
def test_given_codes_are_scored_as_in_the_whole_tree(leaves: bool, normalize: Any) -> None:
    model = eager(leaf_embeddings=leaves, normalize=normalize).eval()
    memory = model.encode_histories(HISTORIES, LENGTHS)
    chosen = torch.tensor([[1, 5, 9], [24, 2, 3], [7, 7, 8]])
    given = torch.from_numpy(codes())[chosen - 1]
    given[0, 2, :2] = torch.tensor([0, 12])  # no item has these
    for stream, part in enumerate((given[..., :2], given[..., 2:])):
        coder, trie = model.coders[stream], model.tries[stream]
        found = score_codes(coder, memory, trie, part, normalize)
        leaves = trie.path(torch.from_numpy(codes())[:, 2 * stream : 2 * stream + 2])[:, -1]
        wanted = all_scores(coder, memory, trie, leaves, normalize).gather(1, chosen - 1)
        if stream == 0:
            wanted[0, 2] = -torch.inf
        torch.testing.assert_close(found, wanted)


def test_streams_with_a_table_each_read_different_rows() -> None:
    model = eager(item_tables="two").eval()
    before = model.score_all(HISTORIES, LENGTHS)
    first, second = model._memories(HISTORIES, LENGTHS)
    assert not torch.allclose(first.states, second.states)
    with torch.no_grad():
        model.semantic_embedding.weight[1:].add_(torch.randn(ITEMS, 16))  # type: ignore[union-attr]
    again, changed = model._memories(HISTORIES, LENGTHS)
    assert torch.equal(first.states, again.states)
    assert not torch.allclose(second.states, changed.states)
    assert not torch.allclose(before, model.score_all(HISTORIES, LENGTHS))
    one = eager()._memories(HISTORIES, LENGTHS)
    assert one[0] is one[1]


@pytest.mark.parametrize("arguments", FORMS)
def test_every_weight_learns(arguments: dict[str, Any]) -> None:
    model = eager(**arguments)
    lists = [[1, 2, 3, 8, 4], [5, 9], [24, 7, 13], [3, 4, 5, 6]]
    (batch,) = next(iter(SequenceBatches(Histories.from_lists(lists), "prefix", 100, 20, 3)))
    output = model(batch)
    output.loss.backward()
    names = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert not names, names


def test_leaves_are_what_the_last_code_is_read_as() -> None:
    model = eager(leaf_embeddings=True)
    items = torch.tensor([3, 20])
    found = model._embedded(1, torch.from_numpy(codes())[items - 1, 2:], items)
    heads: Any = model.leaf_heads
    assert torch.equal(found[:, 1], heads[1].embedding(items))
    inputs = model.streams[0].inputs(torch.from_numpy(codes())[items - 1, :2], heads[0].embedding(items))
    plain = model.streams[0].inputs(torch.from_numpy(codes())[items - 1, :2])
    assert torch.equal(inputs[:, :2], plain[:, :2])
    placed = heads[0].embedding(items) + model.streams[0].position.weight[2]
    torch.testing.assert_close(inputs[:, 2], model.streams[0].norm(placed))
    assert torch.equal(inputs[:, 3], plain[:, 3])


def test_the_weight_of_the_head_is_chosen_and_what_does_not_fit_is_refused() -> None:
    model = eager(dense_weight=1.0)
    draws = np.random.default_rng(0)
    targets = Targets(np.arange(3), Histories.from_lists(LISTS), draws.integers(1, ITEMS + 1, size=3))
    tried = choose_weight(model, targets)
    assert tried[f"{float(model.dense.weight):g}"] == max(tried.values())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"--dense-weight is 1\.0 and --item-tables two"):
        eager(dense_weight=1.0, item_tables="two")
    shared = codes()
    shared[2] = shared[1]
    with pytest.raises(ValueError, match=r"24 items share 23 codes.*--unique"):
        eager(leaf_embeddings=True).with_codes(shared).search(HISTORIES, LENGTHS, 5, 5)


def test_a_behaviour_stream_of_what_occurs_together_needs_no_network(tmp_path: Path) -> None:
    draws = np.random.default_rng(4)
    rows = [(user, (user + step) % 20, step) for user in range(40) for step in range(int(draws.integers(5, 9)))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(20), "title": [f"thing {n} of {n % 4}" for n in range(20)]})
    dataset = Dataset.from_frames(frame, items, quiet=True)
    sources = Sources(dataset, tmp_path / "cache", quiet=True)
    given: dict[str, Any] = {"codebook_size": 8, "pca": 4, "views": ("title",)}
    found = Preparation(**given, behaviour="ppmi").prepare(sources)
    wanted = collaborative_vectors(dataset.split().train, 20)
    np.testing.assert_allclose(found.arrays["behaviour"], wanted, rtol=1e-6)
    assert found.shapes["behaviour_dim"] == wanted.shape[1]
    assert not list((tmp_path / "cache").glob("din-*"))
    unit = Preparation(**given, behaviour="ppmi", normalize=True).prepare(sources)
    np.testing.assert_allclose(np.linalg.norm(unit.arrays["behaviour"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(unit.arrays["semantic"], axis=1), 1, rtol=1e-5)
    alone = PRORecPreparation(**given, source="ppmi").prepare(sources)
    np.testing.assert_array_equal(alone.codes.codes, found.codes.codes[:, : found.shapes["behaviour_levels"]])
