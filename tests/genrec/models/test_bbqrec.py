"""BBQRec: tokens of three codes, attention that knows similar items, and its controls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from genrec.models.bbqrec import BBQRec, SimilarityGate, similarity_buckets
from recbase.data.sequences import Histories, SequenceBatches

ITEMS = 27
TINY = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 2, "decoder_layers": 1, "dropout": 0.0}
CODES = np.array(list(itertools.product(range(3), repeat=3)))  # one level of triples: every triple is an item
LEVELS = ["product", "autoregressive", "flatten"]


def bbqrec(**arguments: object) -> BBQRec:
    torch.manual_seed(1)
    given = {"vector_dim": 6, "codebook_dim": 6} | TINY | arguments
    vectors = np.random.default_rng(2).normal(size=(ITEMS, 6)).astype(np.float32)
    books = np.random.default_rng(3).normal(size=(3, 3, 6)).astype(np.float32)
    model: BBQRec = BBQRec(ITEMS, [3, 3, 3], 3, **given).with_codes(CODES)  # type: ignore[arg-type]
    return model.with_arrays(vectors, books)


@pytest.fixture
def histories() -> Histories:
    draws = np.random.default_rng(0)
    return Histories.from_lists([draws.integers(1, ITEMS + 1, size=length).tolist() for length in (2, 9, 5, 5, 3, 7)])


@pytest.mark.parametrize("layout", LEVELS)
def test_probabilities_of_all_tuples_sum_to_one(layout: str) -> None:
    model = bbqrec(layout=layout).eval()
    scores = model.score_all(torch.tensor([[3, 9, 4], [7, 0, 0]]), torch.tensor([3, 1]))
    assert torch.allclose(scores.exp().sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("layout", LEVELS)
def test_the_search_scores_what_the_loss_counts(layout: str, histories: Histories) -> None:
    model = bbqrec(layout=layout).eval()
    (batch,) = next(iter(SequenceBatches(histories, "prefix", batch_size=100, max_len=20)))
    targets = batch.targets.amax(1)
    scores = model.score_all(batch.items, batch.lengths)
    own = scores.gather(1, targets[:, None] - 1)[:, 0]
    assert model(batch).loss.item() == pytest.approx(-own.mean().item(), abs=1e-5)
    wide = model.search(batch.items, batch.lengths, beams=ITEMS, n_best=ITEMS)
    expected = scores.argsort(dim=1, descending=True, stable=True) + 1
    assert torch.equal(wide.items, expected)


def test_streams_see_each_other_only_where_they_are_to() -> None:
    codes = torch.tensor([[0, 1], [1, 1], [0, 1]])
    states = torch.randn(1, 16).expand(3, -1)
    plain, chained = bbqrec(), bbqrec(layout="autoregressive")
    together = plain._logits(states, 2, codes)
    assert torch.equal(together[0], together[1])
    after = chained._logits(states, 2, codes)
    assert torch.equal(after[0], after[2])
    assert not torch.allclose(after[0], after[1])


def test_a_gate_of_ones_is_plain_attention() -> None:
    torch.manual_seed(0)
    weights, values = torch.rand(2, 3, 8, 8).softmax(-1), torch.randn(2, 3, 8, 5)
    buckets = torch.randint(0, 4, (2, 4, 4))
    gate = SimilarityGate(4, 5, group=2)
    torch.testing.assert_close(gate(weights, values, buckets), weights @ values)
    off = SimilarityGate(4, 5, group=2, trained=False)
    assert torch.equal(off(weights, values, buckets), weights @ values)


def test_the_gate_is_the_written_out_sum() -> None:
    torch.manual_seed(0)
    weights, values = torch.rand(2, 3, 6, 6), torch.randn(2, 3, 6, 5, requires_grad=True)
    buckets = torch.randint(0, 4, (2, 9, 9))
    gate = SimilarityGate(4, 5, group=2)
    torch.nn.init.normal_(gate.gate)
    found = gate(weights, values, buckets)
    expected = torch.zeros_like(found)
    for query, key in itertools.product(range(6), repeat=2):
        row = gate.gate[buckets[:, query // 2, key // 2]]  # [b, d]
        expected[:, :, query] += weights[:, :, query, key, None] * row[:, None] * values[:, :, key]
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert gate.gate.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(gate(weights, values, buckets), expected)


def test_buckets() -> None:
    vectors = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    found = similarity_buckets(vectors, 100)
    assert found[0, 0].tolist() == [99, 0, 50, 99]
    assert torch.equal(found, found.transpose(1, 2))


def test_similarity_changes_what_is_encoded_once_it_is_trained() -> None:
    model, plain = bbqrec().eval(), bbqrec(similarity=False).eval()
    state = model.state_dict()
    plain.load_state_dict({name: value for name, value in state.items() if "mixer" not in name and name != "vectors"}
                          | {"vectors": plain.vectors})  # fmt: skip
    items, lengths = torch.tensor([[3, 9, 4]]), torch.tensor([3])
    torch.testing.assert_close(model.score_all(items, lengths), plain.score_all(items, lengths))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mixer" in name:
                parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(model.score_all(items, lengths), plain.score_all(items, lengths))


def test_inherited_tables_start_from_the_codebooks() -> None:
    model = bbqrec(inherit=True)
    book = np.random.default_rng(3).normal(size=(3, 3, 6)).astype(np.float32)[1]
    np.testing.assert_allclose(model.tables[1].weight.detach().numpy(), book / book.std(ddof=1), rtol=1e-5)
    assert model.tables[1].weight.requires_grad


def test_refusals() -> None:
    with pytest.raises(ValueError, match="4 code columns for 3 streams; expected as many for every stream"):
        BBQRec(5, [2, 2, 2, 2], 3)
    with pytest.raises(ValueError, match="--inherit needs the codebooks"):
        BBQRec(5, [2, 2, 2], 3, inherit=True)
    with pytest.raises(ValueError, match="--layout must be one of product, autoregressive, flatten"):
        bbqrec(layout="rows")
