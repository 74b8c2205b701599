"""The dense head beside a generator: lists ranked by both, its weight, folders, and a catalogue that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec.dense import WEIGHTS, choose_weight, weighted
from genrec.models.bbqrec import BBQRec
from genrec.models.letter import LETTER
from genrec.models.prorec import PRORec
from genrec.models.tiger import TIGER
from genrec.recommender import load, train
from genrec.refreshing import refresh
from genrec.search.generation import rank_generated
from recbase.data.catalog import Dataset
from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import Targets
from recbase.evaluate.ranking import summarize
from semtok.codes import ItemCodes

ITEMS = 24
HISTORIES = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
LENGTHS = torch.tensor([4, 2, 3])


def codes(shared: bool = False) -> np.ndarray:
    rows = np.stack([np.arange(ITEMS) // 6, np.arange(ITEMS) % 6], 1)
    if shared:
        rows[1] = rows[0]
    return rows


def prorec(shared: bool = False, **arguments: Any) -> PRORec:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "ffn": 32, "decoder_layers": 2, "dropout": 0.0, "dense_weight": 1.0} | arguments
    model: PRORec = PRORec(ITEMS, [4, 6], 8, **given).with_codes(codes(shared))
    return model.with_arrays(np.random.default_rng(2).normal(size=(ITEMS, 8)).astype(np.float32))


def tiger(shared: bool = False, **arguments: Any) -> TIGER:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    model: TIGER = TIGER(ITEMS, [4, 6], **given | {"dense_weight": 1.0} | arguments).with_codes(codes(shared))
    return model


def letter(**arguments: Any) -> LETTER:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    given |= {"dense_weight": 1.0, "temperature": 1.0}
    model: LETTER = LETTER(ITEMS, [4, 6], **given | arguments).with_codes(codes())
    return model


def bbqrec(**arguments: Any) -> BBQRec:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    places = np.arange(ITEMS)
    table = np.stack([places % 2, places // 2 % 2, places // 4 % 3, places // 12], 1)
    model = BBQRec(ITEMS, [2, 2, 3, 2], 2, 6, **given | {"dense_weight": 1.0} | arguments).with_codes(table)
    found: BBQRec = model.with_arrays(np.random.default_rng(2).normal(size=(ITEMS, 6)).astype(np.float32))
    return found


MODELS = [
    pytest.param(lambda **more: prorec(**more), id="prorec"),
    pytest.param(lambda **more: prorec(encoder_tokens="items", leaf_embeddings=True, **more), id="prorec-items"),
    pytest.param(lambda **more: tiger(**more), id="tiger"),
    pytest.param(lambda **more: letter(**more), id="letter"),
    pytest.param(lambda **more: bbqrec(**more), id="bbqrec"),
]


@pytest.mark.parametrize("make", MODELS)
def test_a_list_is_ranked_by_the_sum_of_both(make: Any) -> None:
    model = make().eval()
    torch.nn.init.constant_(model.dense.repeat, -3.0)
    with weighted(model, 0.0):
        generated = model.score_all(HISTORIES, LENGTHS)
    torch.testing.assert_close(generated.exp().sum(1) <= 1 + 1e-5, torch.ones(3, dtype=torch.bool))
    memory = model.encode_histories(HISTORIES, LENGTHS)
    dense = model.dense.scores(
        torch.stack([memory.ragged.unpack(memory.states)[row, model.group * n - 1] for row, n in enumerate(LENGTHS)]),
        model.dense_content()[1:],
        torch.zeros(3, 1, dtype=torch.int64),
    )
    for row, history in enumerate(HISTORIES):
        dense[row, history[history > 0] - 1] += model.dense.repeat
    wanted = generated + 0.5 * dense.log_softmax(1)
    with weighted(model, 0.5):
        torch.testing.assert_close(model.score_all(HISTORIES, LENGTHS), wanted)
        found = model.search(HISTORIES, LENGTHS, beams=5, n_best=5)
    best = wanted.topk(5, 1)
    assert torch.equal(found.items, best.indices + 1)
    torch.testing.assert_close(found.scores, best.values)


@pytest.mark.parametrize("make", MODELS)
def test_candidates_of_beams_and_head_have_exact_scores(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make().eval()
    allowed = torch.ones(ITEMS, dtype=torch.bool)
    allowed[3:9] = False
    whole = model.search(HISTORIES, LENGTHS, 4, 4, mask=allowed, exclude=HISTORIES)
    monkeypatch.setattr("genrec.dense._EXACT_PREFIXES", 0)
    everything = model.search(HISTORIES, LENGTHS, ITEMS, ITEMS, mask=allowed, exclude=HISTORIES)
    assert torch.equal(everything.items[:, :4], whole.items)
    torch.testing.assert_close(everything.scores[:, :4], whole.scores)
    few = model.search(HISTORIES, LENGTHS, 4, 4, mask=allowed, exclude=HISTORIES)
    scores = model.score_all(HISTORIES, LENGTHS)
    torch.testing.assert_close(few.scores, scores.gather(1, few.items - 1))
    assert not (few.items[..., None] == HISTORIES[:, None]).any()
    assert not ((few.items >= 4) & (few.items <= 9)).any()
    few = model.search(HISTORIES, LENGTHS, 4, 4, mask=torch.arange(ITEMS) < 2)
    assert (few.items[:, 2:] == -1).all()
    assert (few.scores[:, 2:] == -torch.inf).all()


def test_items_that_share_codes_are_told_apart_by_the_head() -> None:
    model = tiger(shared=True).eval()
    found = model.search(HISTORIES, LENGTHS, beams=ITEMS, n_best=ITEMS)
    assert sorted(found.items[0].tolist()) == list(range(1, ITEMS + 1))
    with weighted(model, 0.0):  # the generator alone cannot
        alone = model.search(HISTORIES, LENGTHS, beams=ITEMS, n_best=ITEMS)
    assert (alone.items[0] == -1).sum() == 1


@pytest.mark.parametrize("make", MODELS)
def test_one_pass_is_all_prefixes_and_every_weight_learns(make: Any) -> None:
    draws = np.random.default_rng(0)
    lists = [draws.integers(1, ITEMS + 1, size=length).tolist() for length in (2, 9, 5, 5, 3, 7)]
    model = make(causal_encoder=True, recency_bias=True)
    losses, gradients = [], []
    for form in ("all", "prefix"):
        model.zero_grad()
        (batch,) = next(iter(SequenceBatches(Histories.from_lists(lists), form, batch_size=100, max_len=20, seed=3)))
        output = model(batch)
        (output.parts["dense"] + 0).item()
        loss = output.loss - model.config().get("distill_weight", 0) * output.parts.get("distill", 0)
        loss.backward()
        losses.append((output.parts["ce"].item(), output.parts["dense"].item()))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(gradients[0]["dense.repeat"], gradients[1]["dense.repeat"], rtol=1e-3, atol=1e-6)
    assert gradients[0]["dense.repeat"] != 0
    for name in ("dense.inputs.weight", "dense.candidates.weight"):
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-3, atol=1e-6)
        assert (gradients[0][name][1:].abs().sum(1) > 0).any()
        assert not gradients[0][name][0].any()
    (recency,) = [name for name in gradients[0] if name.endswith("recency")]
    torch.testing.assert_close(gradients[0][recency], gradients[1][recency], rtol=1e-3, atol=1e-6)
    assert gradients[0][recency].any()


def test_the_weight_is_the_best_on_validation_and_restored_meanwhile() -> None:
    model = prorec()

    draws = np.random.default_rng(0)
    lists = [draws.integers(1, ITEMS + 1, size=length).tolist() for length in (2, 9, 5, 5, 3, 7)]
    targets = Targets(np.arange(6), Histories.from_lists(lists), draws.integers(1, ITEMS + 1, size=6))
    tried = choose_weight(model, targets, batch_size=4)
    assert list(tried) == [f"{weight:g}" for weight in WEIGHTS]
    assert len(set(tried.values())) > 1
    for weight in WEIGHTS:
        with weighted(model, weight):
            wanted = summarize(rank_generated(model, targets, beams=20)[0])["ndcg@10"]
        assert tried[f"{weight:g}"] == pytest.approx(wanted)
    chosen = float(model.dense.weight)  # type: ignore[union-attr]
    assert tried[f"{chosen:g}"] == max(tried.values())
    with pytest.raises(RuntimeError), weighted(model, 0.3):
        raise RuntimeError
    assert float(model.dense.weight) == chosen  # type: ignore[union-attr]
    with (
        pytest.raises(ValueError, match=r"--dense is 0\.5 but the model was trained without a dense head"),
        weighted(prorec(dense_weight=0.0), 0.5),
    ):
        pass


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="--user-buckets 3"):
        tiger(user_buckets=3)
    with pytest.raises(ValueError, match="transformers' T5 cannot"):
        tiger().t5.to_transformers()
    with pytest.raises(ValueError, match="transformers' T5 cannot"):
        tiger(dense_weight=0.0, recency_bias=True).t5.to_transformers()
    broken = prorec()
    broken.dense.weight.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"'dense\.weight' is nan"):
        broken.check_restored()


def test_a_run_keeps_its_weight_reports_the_generator_alone_and_loses_items(tmp_path: Path) -> None:
    draws = np.random.default_rng(4)
    rows = [(user, (user + step) % ITEMS, step) for user in range(40) for step in range(int(draws.integers(5, 9)))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = Dataset.from_frames(frame, quiet=True)
    names = data.item_ids.to_numpy()
    ItemCodes(codes()[: len(names)], (4, 6), names).save(tmp_path / "codes")
    settings: dict[str, Any] = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 1}
    settings |= {"decoder_layers": 1, "dense_weight": 1.0, "epochs": 3, "form": "all", "normalize": "children"}
    given = {"codes": tmp_path / "codes", "cache": tmp_path / "cache", "quiet": True} | settings
    run = train("tiger", data, out=tmp_path / "run", beams=20, valid_beams=10, **given)
    facts = run.metrics["dense"]
    assert facts["weight"] == float(run.model.dense.weight)
    assert set(facts["tried"]) == {f"{w:g}" for w in WEIGHTS}
    assert facts["tried"][f"{facts['weight']:g}"] == max(facts["tried"].values())
    with pytest.raises(ValueError, match="trained without a dense head"):
        train("tiger", data, out=tmp_path / "none", dense=0.5, **given | {"dense_weight": 0.0})
    again = load(tmp_path / "run", data)
    assert float(again.model.dense.weight) == facts["weight"]
    one, two = (found.recommend(users=data.user_ids.to_list()[:5], k=5) for found in (run, again))
    assert one == two if not isinstance(one, pl.DataFrame) else one.equals(two)
    alone = again.evaluate(dense=0.0)
    assert alone["test"]["ndcg@10"] == pytest.approx(facts["generator_test"]["ndcg@10"])
    assert float(again.model.dense.weight) == facts["weight"]
    same = train("tiger", data, out=tmp_path / "again", beams=20, valid_beams=10, **given)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name]), name
    refresh(again, ItemCodes(codes()[1 : len(names)], (4, 6), names[1:]), tmp_path / "fewer")
    fewer = load(tmp_path / "fewer").model
    assert fewer.items == again.model.items - 1
    assert float(fewer.dense.weight) == facts["weight"]
    assert torch.equal(fewer.dense.candidates.weight[1:], again.model.dense.candidates.weight[2:])
    with pytest.raises(ValueError, match="items can only be removed"):
        refresh(
            again,
            ItemCodes(np.concatenate([codes()[: len(names)], [[0, 0]]]), (4, 6), np.append(names, 999)),
            tmp_path / "more",
        )
