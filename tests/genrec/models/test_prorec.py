"""PRORec: the two stages, the token that distils, and what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genrec.analysis.similarity import relative_similarity
from genrec.models.prorec import PRORec, standardized
from recbase.data.sequences import Histories, SequenceBatches
from recbase.nn.draws import draw_integers
from seqrec.models.din import DIN, WINDOWS, AdaptionLayer

ITEMS = 24
TINY = {"dim": 16, "heads": 2, "ffn": 32, "decoder_layers": 2, "dropout": 0.0}


@pytest.fixture
def histories() -> Histories:
    draws = np.random.default_rng(0)
    return Histories.from_lists([draws.integers(1, ITEMS + 1, size=length).tolist() for length in (2, 9, 5, 5, 3, 7)])


def prorec(**arguments: object) -> PRORec:
    torch.manual_seed(1)
    codes = np.stack([np.arange(ITEMS) // 6, np.arange(ITEMS) % 6], 1)
    vectors = np.random.default_rng(2).normal(size=(ITEMS, 8)).astype(np.float32)
    model: PRORec = PRORec(ITEMS, [4, 6], 8, **TINY | arguments).with_codes(codes)  # type: ignore[arg-type]
    return model.with_arrays(vectors)


def test_the_distilling_token_does_not_alter_generation(histories: Histories) -> None:
    (batch,) = next(iter(SequenceBatches(histories, "prefix", batch_size=100, max_len=20)))
    with_token = prorec().eval()
    without = prorec(distill_weight=0.0).eval()
    without.load_state_dict({name: value for name, value in with_token.state_dict().items() if "project" not in name})
    parts = with_token(batch).parts
    assert set(parts) == {"ce", "distill"}
    assert parts["ce"].item() == pytest.approx(without(batch).parts["ce"].item(), abs=1e-6)


def test_the_target_is_never_among_the_negatives() -> None:
    model = prorec(distill_negatives=1)
    states = torch.randn(1, 16)
    for seed in range(40):
        drawn = draw_integers(seed, ITEMS, torch.arange(1)) + 1
        assert model.decoder.distill(states, drawn, model.vectors, seed).item() == 0  # nothing is left to be told from
        assert model.decoder.distill(states, drawn % ITEMS + 1, model.vectors, seed).item() > 0


@pytest.mark.parametrize("encoder_tokens", ["codes", "items"])
def test_one_pass_is_all_prefixes(histories: Histories, encoder_tokens: str) -> None:
    model = prorec(causal_encoder=True, encoder_tokens=encoder_tokens)
    losses = []
    for form in ("all", "prefix"):
        (batch,) = next(iter(SequenceBatches(histories, form, batch_size=100, max_len=20, seed=3)))
        losses.append(model(batch).parts["ce"].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_every_item_has_one_path_and_a_wide_search_is_exhaustive() -> None:
    model = prorec().eval()
    assert model.trie.unique
    codes = model.code_table[1:]
    assert model.trie.find(codes).unique().numel() == ITEMS
    items, lengths = torch.tensor([[3, 7, 1], [9, 0, 0]]), torch.tensor([3, 1])
    scores = model.score_all(items, lengths)
    order = scores.argsort(dim=1, descending=True, stable=True) + 1
    found = model.search(items, lengths, beams=ITEMS, n_best=ITEMS)
    assert found.items.tolist() == order.tolist()
    assert torch.allclose(scores.exp().sum(1), torch.ones(2), atol=1e-5)  # all codes of this catalogue exist


def test_the_adaption_layer_starts_as_a_norm_of_the_projection() -> None:
    layer, text = AdaptionLayer(12, 8), torch.randn(5, 12)
    torch.testing.assert_close(layer(text), F.layer_norm(layer.project(text), (8,)))


def din(**arguments: object) -> DIN:
    torch.manual_seed(0)
    text = np.random.default_rng(1).normal(size=(ITEMS, 12)).astype(np.float32)
    return DIN(ITEMS, 12, 8, negatives=5, init_std=0.1, **arguments).with_content(text)  # type: ignore[arg-type]


def test_the_pair_layer_is_that_of_the_concatenation() -> None:
    model = din().eval()
    history, candidates = torch.randn(2, 19, 8), torch.randn(2, 3, 8)
    first, second, third = model.event.weight, model.candidate.weight, model.product.weight
    # [event, candidate, event - candidate, product] with blocks a, b, c, d: a + c and b - c are what is kept.
    c = torch.randn_like(first)
    whole = torch.cat([first - c, second + c, c, third], 1)
    event, candidate = history[:, None].expand(-1, 3, -1, -1), candidates[:, :, None].expand(-1, -1, 19, -1)
    pairs = torch.cat([event, candidate, event - candidate, event * candidate], -1)
    expected = pairs @ whole.T + model.event.bias
    ours = model.event(history)[:, None] + model.candidate(candidates)[:, :, None]
    ours = ours + model.product(candidates[:, :, None] * history[:, None])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_windows_sum_events_from_the_oldest_to_the_newest() -> None:
    model = din()
    assert model.window.tolist() == [place for place, count in enumerate(WINDOWS) for _ in range(count)]
    latest = model.latest(torch.tensor([[5, 6, 7, 0]]), torch.tensor([3]))
    assert latest[0, -3:].tolist() == [5, 6, 7]
    assert not latest[0, :-3].any()


def test_padding_and_later_items_do_not_change_scores() -> None:
    model = din().eval()
    candidates = torch.tensor([[1, 2, 3]])
    short = model.score_items(torch.tensor([[5, 6]]), torch.tensor([2]), candidates)
    padded = model.score_items(torch.tensor([[5, 6, 9, 9]]), torch.tensor([2]), candidates)
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-5)


def test_stage_one_trains_both_losses_and_its_table_feels_the_text(histories: Histories) -> None:
    (batch,) = next(iter(SequenceBatches(histories, "all", batch_size=100, max_len=19)))
    model = din(integrate="aligned")
    output = model(batch)
    assert set(output.parts) == {"nip", "align"}
    output.loss.backward()
    assert model.adaption.project.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert not model.text.requires_grad
    aligned = model.item_embedding.weight.grad.clone()  # type: ignore[union-attr]
    plain = din(align_weight=0.0, integrate="aligned")
    plain(batch).loss.backward()
    assert not torch.allclose(aligned, plain.item_embedding.weight.grad)  # type: ignore[arg-type]
    everything = torch.arange(1, ITEMS + 1)
    mean = din().item_vectors()
    torch.testing.assert_close(mean, (model.item_vectors() + model.adapted(everything)) / 2)
    beside = din(integrate="beside")
    assert torch.equal(beside.vectors(everything), model.vectors(everything))
    found = beside.item_vectors()
    assert found.shape == (ITEMS, 16)
    for part, own in zip(found.split(8, 1), (model.vectors(everything), model.adapted(everything)), strict=True):
        torch.testing.assert_close(part, F.layer_norm(own, (8,)))
    norms = [part.norm(dim=1) for part in found.split(8, 1)]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-2, atol=0)  # neither drowns the other
    losses = []
    for one in (beside, din(integrate="aligned")):
        torch.manual_seed(4)
        losses.append(one(batch).loss.item())
    assert losses[0] == pytest.approx(losses[1])


def test_relative_similarity() -> None:
    draws = np.random.default_rng(0)
    text, behaviour = draws.normal(size=(50, 6)), draws.normal(size=(50, 9))
    of_text = relative_similarity(text, text, behaviour)
    assert of_text["share_semantic"] == pytest.approx(1)
    both = relative_similarity(np.concatenate([text, behaviour], 1), text, behaviour, sample=30)
    assert both["share_semantic"] + both["share_collaborative"] == pytest.approx(1)
    assert 0.2 < both["share_semantic"] < 0.8
    with pytest.raises(ValueError, match="50, 49 and 50 items"):
        relative_similarity(text, text[1:], behaviour)


def test_standardized_columns() -> None:
    found = standardized(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert found.tolist() == [[-1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "--heads 3 does not divide --dim 16"),
        ({"distill_temperature": 0.0}, "--distill-temperature must be above 0"),
        ({"encoder_tokens": "words"}, "--encoder-tokens must be one of codes, items"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prorec(**arguments)
    with pytest.raises(ValueError, match="--max-len must be at least 10"):
        DIN(5, max_len=4)


@pytest.mark.parametrize("training", [True, False])
def test_pairs_are_scored_as_written_out(training: bool) -> None:
    torch.manual_seed(0)
    model = DIN(30, dim=16, align_weight=0, init_std=0.5, dropout=0.0).train(training)
    history, candidates = torch.randn(4, 19, 16), torch.randn(4, 7, 16)

    def written_out() -> torch.Tensor:
        keys = model.event(history)[:, None] + model.candidate(candidates)[:, :, None]
        keys = keys + model.product(candidates[:, :, None] * history[:, None])
        weights = model.activation_out(model.activation_dice(keys))[..., 0]  # [B, C, T]
        windows = [(weights * (model.window == w)) @ history for w in range(len(WINDOWS))]
        x = model.head_in(torch.cat([*windows, candidates], -1))
        scores: torch.Tensor = model.head_out(model.mid_dice(model.head_mid(model.head_dice(x))))[..., 0]
        return scores

    found = []
    for score in (written_out, lambda: model.score(history, candidates)):
        model.zero_grad()
        scores = score()
        scores.sin().sum().backward()
        found.append([scores.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_padding_takes_no_part_in_the_scores_of_pairs() -> None:
    torch.manual_seed(0)
    model = DIN(30, dim=16, align_weight=0, init_std=0.5).eval()
    valid = torch.arange(19) >= torch.tensor([[0], [12], [18], [7]])
    history, candidates = torch.randn(4, 19, 16) * valid[..., None], torch.randn(4, 7, 16)
    expected = model.score(history, candidates)
    torch.testing.assert_close(model.score(history, candidates, valid), expected, rtol=1e-5, atol=1e-5)
