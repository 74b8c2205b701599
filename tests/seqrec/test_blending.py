"""Blends: one scale for all members, weights chosen on validation, one folder that answers as any other."""

import json

import fitted as small
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import seqrec
import seqrec.cli
from recbase.data.catalog import load_dataset
from recbase.evaluate.ranking import rank_targets, summarize
from seqrec.blending import Candidates, best_weights, candidates, open_member
from seqrec.models.blend import SCALES, Blend, member_scores, scaled


@pytest.fixture(scope="module")
def data():
    return small.data()


@pytest.fixture(scope="module")
def members(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    return [
        small.ranker(data, out=root / "sasrec", epochs=3),
        seqrec.Transitions.train(data, out=root / "transitions"),
        small.generator(data, root / "cache", out=root / "tiger"),
    ]


@pytest.fixture(scope="module")
def blended(members, data, tmp_path_factory):
    return seqrec.blend(members, out=tmp_path_factory.mktemp("blend") / "run", data=data, quiet=True, lists=20)


SCORES = arrays(np.float32, (3, 12), elements=st.floats(-1e3, 1e3, width=32))


@given(SCORES, st.sampled_from(SCALES))
def test_a_scale_keeps_the_order(scores, scale):
    given_scores = torch.from_numpy(scores)
    found = scaled(given_scores, scale)
    assert torch.isfinite(found).all()
    for row, wanted in zip(found, given_scores, strict=True):
        order = wanted.argsort(descending=True, stable=True)
        assert (row[order].diff() <= 1e-5).all()


@given(SCORES, st.floats(0.1, 50), st.floats(-100, 100))
def test_the_standard_scale_does_not_know_unit_and_origin(scores, unit, origin):
    given_scores = torch.from_numpy(scores).double()
    if float(given_scores.std(1).min()) < 1e-2:
        return
    assert torch.allclose(scaled(given_scores, "standard"), scaled(given_scores * unit + origin, "standard"), atol=1e-5)


def test_a_member_alone_ranks_as_it_does_itself(members, data):
    for place in (0, 1):
        weights = [[1.0 if one == place else 0.0 for one in range(3)]]
        model = Blend.of(members, weights, lists=20)
        targets = data.split().test
        own = rank_targets(members[place].model.scorer(), targets)
        assert np.array_equal(rank_targets(model.scorer(), targets).rank, own.rank)


def test_a_generator_is_a_member_by_its_list(members, data):
    model = Blend.of(members, [[0.0, 0.0, 1.0]], lists=20)
    scorer = model.scorers()[2]
    items, lengths = (torch.from_numpy(part) for part in data.split().test.histories.padded(slice(0, 9), 20))
    scores = scorer(items, lengths)
    found = members[2].model.search(items, lengths, 20, 20)
    for row in range(9):
        there = found.items[row][found.items[row] > 0]
        assert torch.allclose(scores[row, there - 1], found.scores[row, : len(there)].float())
        others = torch.ones(data.n_items, dtype=torch.bool)
        others[there - 1] = False
        assert (scores[row, others] < scores[row, there - 1].min()).all()
    exact = Blend.of(members, [[0.0, 0.0, 1.0]], lists=0).scorers()[2]
    assert torch.equal(exact(items, lengths), members[2].model.score_all(items, lengths))


def test_a_member_reads_the_latest_items_it_can(members):
    scorer = members[0].model.scorer()
    items = torch.arange(1, 61)[None] % 40 + 1
    short = items[:, 60 - scorer.max_len :]
    long = member_scores(scorer, torch.cat([items, items.new_zeros(1, 3)], 1), torch.tensor([60]))
    assert torch.equal(long, scorer(short, torch.tensor([scorer.max_len])))


def test_candidates_give_the_ranks_of_all_items(members, data):
    """With fewer items than are kept nothing is lost."""
    model = Blend.of(members, [[0.3, 1.0, 0.2]], lists=20)
    found = candidates(model, data.split().valid, quiet=True)
    ranks = rank_targets(model.scorer(), data.split().valid).rank
    assert (found.ranks([0.3, 1.0, 0.2]) == ranks).mean() > 0.98  # sums in another order round otherwise
    assert found.value([0.3, 1.0, 0.2], "ndcg@10") == pytest.approx(
        summarize(rank_targets(model.scorer(), data.split().valid))["ndcg@10"], abs=2e-3
    )


def test_the_search_finds_what_was_put_in():
    """Two noisy views of one truth are worth as much as their noise allows, and a third of mere noise nothing."""
    rng = np.random.default_rng(0)
    users, items = 400, 60
    truth = rng.normal(size=(users, items))
    truth[:, 0] += 1.5
    noise = rng.normal(size=(3, users, items))
    scores = torch.from_numpy(np.stack([truth + noise[0], truth + noise[1], 3 * noise[2]])).float()
    found = Candidates(scores[:, :, 1:], scores[:, :, 0], np.full(users, 5))
    weights, value = best_weights(found, "ndcg@10")
    assert max(weights) == 1
    assert min(weights[:2]) > 0.4
    assert weights[2] < 0.2
    assert value == found.value(weights, "ndcg@10")
    assert value > max(found.value(one, "ndcg@10") for one in np.eye(3).tolist())


def test_a_blend_is_at_least_as_good_on_validation_as_its_members(blended, members):
    record = blended.manifest["blend"]
    assert record["valid"] >= max(row["alone"] for row in record["members"]) - 1e-12
    assert record["valid"] == max(record["tried"].values())
    assert [row["model"] for row in record["members"]] == ["sasrec", "transitions", "tiger"]
    assert all(record["valid"] >= row["without"] - 1e-9 for row in record["members"])
    assert blended.metrics["valid"]["ndcg@10"] == pytest.approx(record["valid"], abs=3e-3)


def test_a_blend_is_one_folder(blended, members, data, tmp_path):
    again = seqrec.load(blended.folder, data)
    users = data.user_ids[:7]
    assert again.recommend(users=users, k=5).equals(blended.recommend(users=users, k=5))
    assert again.evaluate()["test"] == blended.metrics["test"]
    again.save(tmp_path / "copy")
    assert seqrec.load(tmp_path / "copy", data).recommend(users=users, k=5).equals(blended.recommend(users=users, k=5))
    assert isinstance(seqrec.Blend.from_pretrained(tmp_path / "copy"), Blend)
    assert "blend" in str(seqrec.compare([members[0], blended]))


def test_weights_may_depend_on_the_length(members, data):
    found = seqrec.blend(members[:2], data, by_length=True, quiet=True, scale="standard")
    arguments = found.manifest["arguments"]
    assert len(arguments["weights"]) == len(arguments["edges"]) + 1
    model = Blend.of(members[:2], [[1.0, 0.0], [0.0, 1.0]], edges=[8])
    lengths = torch.tensor([7, 8, 9])
    items = torch.randint(1, data.n_items, (3, 9))
    for row, length in enumerate(lengths.tolist()):
        items[row, length:] = 0
    scores = model.scorer()(items, lengths)
    single = [scaled(member_scores(one, items, lengths), "standard") for one in model.scorers()]
    assert torch.allclose(scores[0], single[0][0])
    assert torch.allclose(scores[1:], single[1][1:])


def test_items_of_the_history_stay_out_where_validation_is_better_without_them(members, data):
    """Nobody has an item twice in this world, so that dropping them can only help."""
    found = {seen: seqrec.blend(members[:2], data, seen=seen, scale="standard", quiet=True) for seen in
             ("keep", "drop", "learn")}  # fmt: skip
    assert found["learn"].manifest["blend"]["seen"] == (
        found["keep"].manifest["blend"]["valid"] >= found["drop"].manifest["blend"]["valid"]
    )
    dropped = found["drop"].metrics
    assert dropped["test"]["ndcg@10"] == dropped["test_masked"]["ndcg@10"]
    history = data.item_ids.gather(data.histories[0].astype(np.int64) - 1).to_list()
    listed = found["drop"].recommend(histories=[history], k=10, keep_seen=True)["item"].to_list()
    assert not set(listed) & set(history)
    assert found["drop"].metrics["valid"]["ndcg@10"] == pytest.approx(
        found["drop"].manifest["blend"]["valid"], abs=3e-3
    )
    with pytest.raises(ValueError, match="seen must be one of keep, drop, learn, got 'no'"):
        seqrec.blend(members, data, seen="no")


def test_a_target_that_the_user_had_before_is_lost_without_seen_items():
    scores = torch.tensor([[[5.0, 1.0, 0.0], [5.0, 1.0, 0.0]]])
    had = torch.tensor([[True, False, False], [False, False, False]])
    given_ = Candidates(scores, torch.tensor([[2.0, 9.0]]), np.array([3, 3]), had, torch.tensor([False, True]))
    assert given_.ranks([1.0]).tolist() == [2, 1]
    assert given_.unseen().ranks([1.0]).tolist() == [1, 4]


def test_refusals(members, data, blended, tmp_path):
    with pytest.raises(ValueError, match="needs two runs or more, got 1"):
        seqrec.blend(members[:1])
    with pytest.raises(ValueError, match="scale must be one of standard, rank, softmax, got 'sum'"):
        seqrec.blend(members, scale="sum")
    other = seqrec.Transitions.train(load_dataset("synthetic", users=50, items=36))
    with pytest.raises(ValueError, match="were trained on different data sets"):
        seqrec.blend([members[0], other])
    with pytest.raises(ValueError, match="member 1 is a blend itself"):
        seqrec.blend([members[0], blended], data)
    with pytest.raises(ValueError, match="is made from a trained model"):
        seqrec.Blend.train(data)
    with pytest.raises(ValueError, match="should be 3 finite numbers, not all 0"):
        Blend.of(members, [[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="expected rising edges"):
        Blend.of(members, [[1.0, 0.0, 0.0]], edges=[3])
    with pytest.raises(FileNotFoundError):
        open_member(tmp_path / "nothing")


def test_every_kind_of_counter_is_a_member(members, data, tmp_path):
    counters = [
        seqrec.Popularity.train(data),
        seqrec.ItemKNN.train(data),
        seqrec.TransitionGraph.train(data, cache=tmp_path, quiet=True),
    ]
    found = seqrec.blend([members[0], *counters], data, scale="rank", quiet=True)
    assert len(seqrec.load(found.folder, data).recommend(users=data.user_ids[:2], k=3)) == 6


def test_a_damaged_blend_is_named(blended, tmp_path):
    import shutil

    shutil.copytree(blended.folder, tmp_path / "run")
    manifest = tmp_path / "run" / "config.json"
    body = json.loads(manifest.read_text())
    body["arguments"]["members"][0]["family"] = "os"
    manifest.write_text(json.dumps(body))
    with pytest.raises(ValueError, match="member 0 must have a family of seqrec or genrec"):
        seqrec.load(tmp_path / "run")


def test_the_command(members, data, tmp_path):
    folder = data.save(tmp_path / "world")
    runs = [str(member.folder) for member in members[:2]]
    words = ["blend", *runs, "--data", str(folder), "--out", str(tmp_path / "run"), "--scale", "standard"]
    result = CliRunner().invoke(seqrec.cli.main, words)
    assert result.exit_code == 0, result.output
    assert "blend without it" in result.stdout
    assert "transitions" in result.stdout
    assert seqrec.load(tmp_path / "run").name == "blend"
