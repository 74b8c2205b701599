"""New and removed items in trained models: what stays answers as before, what is new can be found and read."""

import json

import fitted as small
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import genrec
import genrec.cli
import genrec.refreshing
import semtok
import semtok.cli
import seqrec
import seqrec.cli
import seqrec.refreshing
from recbase.serving.refresh import Moves


@pytest.fixture(scope="module")
def data():
    return small.data()


@pytest.fixture(scope="module")
def shop(data, tmp_path_factory):
    """A tokenizer with two items appended, and a TIGER and a CCFRec trained on its codes before that."""
    root = tmp_path_factory.mktemp("shop")
    rq = {"levels": 2, "codebook_size": 8, "per_view": False, "unique": "matching", "pca": 8, "quiet": True}
    fitted = semtok.fit("rq", data, cache=root / "cache", **rq)
    fitted.save(root / "codes")
    tiger = small.generator(data, root / "cache", codes=root / "codes", out=root / "tiger", epochs=3)
    plain = semtok.fit("pq", data, levels=2, codebook_size=4, cache=root / "cache", quiet=True, pca=8, unique="none")
    plain.save(root / "plain")
    content = {"codes": root / "plain", "pca": 8, "cache": root / "cache", "quiet": True, "epochs": 2, "dim": 8}
    ccfrec = seqrec.CCFRec.train(data, out=root / "ccfrec", item_ids="two", **content)
    new = data.items.head(2).with_columns(
        item_id=pl.Series([5001, 5002]), title=pl.Series(["Fir pans folding M60", "Elm mugs oak M1"])
    )
    new.write_csv(root / "new.csv")
    words = ["encode", str(root / "codes"), "--items", str(root / "new.csv"), "--append", "--out", str(root / "grown")]
    result = CliRunner().invoke(semtok.cli.main, words)
    assert result.exit_code == 0, result.output
    return {"root": root, "tiger": tiger, "ccfrec": ccfrec, "new": new, "content": content}


def test_a_generator_finds_new_items_and_answers_for_the_old_as_before(shop, data, tmp_path):
    report = genrec.refreshing.refresh(shop["tiger"], shop["root"] / "grown", tmp_path / "run", items=shop["new"])
    assert (report["items"], report["kept"], report["added"], report["removed"]) == (42, 40, 2, 0)
    assert report["hidden"] == 0
    new = genrec.load(tmp_path / "run")
    histories = [[data.item_ids[4], data.item_ids[9]], [data.item_ids[20]]]
    before = shop["tiger"].recommend(histories=histories, k=40, exact=True, keep_seen=True)
    only = data.item_ids.to_list()
    after = new.recommend(histories=histories, k=40, exact=True, keep_seen=True, only=only)
    assert after["item"].to_list() == before["item"].to_list()
    assert np.allclose(after["score"], before["score"], atol=1e-5)
    everything = new.recommend(histories=histories, k=42, exact=True, keep_seen=True)
    assert {5001, 5002} <= set(everything["item"])
    assert everything.filter(pl.col("item") == 5002)["title"].to_list() == ["Elm mugs oak M1"] * 2
    assert new.recommend(histories=[[5001]], k=3)["popular"].sum() == 0  # it is read in a history too
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert new.manifest["refreshed"]["from"] == shop["tiger"].version


def test_items_are_taken_out(shop, data, tmp_path):
    gone = data.item_ids[:5].to_list()
    genrec.refreshing.refresh(shop["tiger"], shop["root"] / "codes", tmp_path / "run", remove=gone)
    new = genrec.load(tmp_path / "run")
    assert len(new.items) == 35
    history = [[data.item_ids[9]]]
    before = shop["tiger"].recommend(histories=history, k=40, exact=True, exclude=gone)
    after = new.recommend(histories=history, k=40, exact=True)
    assert after["item"].to_list() == before["item"].to_list()
    ranker = small.ranker(data)
    seqrec.refreshing.refresh(ranker, tmp_path / "ranker", remove=gone)
    found = seqrec.load(tmp_path / "ranker")
    before = ranker.recommend(histories=history, k=40, exclude=gone)
    after = found.recommend(histories=history, k=40)
    assert after["item"].to_list() == before["item"].to_list()
    assert np.allclose(after["score"], before["score"], atol=1e-6)
    with pytest.warns(UserWarning, match="1 item ids are unknown"):
        found.recommend(histories=[[gone[0], data.item_ids[9]]], k=3)


def test_a_ranker_by_content_takes_new_items_in(shop, data, tmp_path):
    out = tmp_path / "run"
    report = seqrec.refreshing.refresh(shop["ccfrec"], out, items=shop["new"], tokenizer=shop["root"] / "plain")
    assert report["added"] == 2
    new, old = seqrec.load(out), shop["ccfrec"]
    history = [[data.item_ids[9], data.item_ids[3]]]
    before = old.recommend(histories=history, k=40, keep_seen=True)
    after = new.recommend(histories=history, k=40, keep_seen=True, only=data.item_ids.to_list())
    assert after["item"].to_list() == before["item"].to_list()
    assert np.allclose(after["score"], before["score"], atol=1e-5)
    assert torch.equal(new.model.codes[:41], old.model.codes)
    # an item of the very same texts has the codes of its twin, and the mean of all ids
    assert torch.equal(new.model.codes[41], old.model.codes[1]) == bool(
        data.items["title"][0] == shop["new"]["title"][0]
    )
    mean = old.model.candidate_ids.weight[1:].mean(0)
    assert torch.allclose(new.model.candidate_ids.weight[41:], mean.expand(2, -1), atol=1e-6)
    assert {5001, 5002} <= set(new.recommend(histories=history, k=42, keep_seen=True)["item"])


def test_a_run_of_text_alone_takes_new_items_in(shop, data, tmp_path):
    content = {name: value for name, value in shop["content"].items() if name != "codes"}
    model = seqrec.SASRecContent.train(data, **content, ffn=8, layers=1, heads=2)
    same = data.items.head(3).with_columns(item_id=pl.Series([9001, 9002, 9003]))
    seqrec.refreshing.refresh(model, tmp_path / "run", items=same, tokenizer=shop["root"] / "plain")
    new = seqrec.load(tmp_path / "run")
    vectors = new.model.item_vectors()
    assert torch.allclose(vectors[40:], vectors[:3], atol=1e-4)  # items of equal texts are equal to it


@pytest.mark.parametrize(
    ("kind", "given_", "sentence"),
    [
        ("sasrec", {"items": "new"}, "a sasrec knows items by ids alone, so that new items need a training"),
        ("ccfrec", {"items": "new"}, "new items need the tokenizer folder"),
        ("ccfrec", {"items": "new", "tokenizer": "codes"}, "holds other codes than"),
        ("ccfrec", {"items": "old", "tokenizer": "plain"}, "item '0' is to be added but is there already"),
        ("ccfrec", {"remove": ["zz"]}, "1 items to be removed are unknown to the run, such as 'zz'"),
        ("ccfrec", {"remove": "all"}, "no item would be left"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(shop, data, tmp_path, kind, given_, sentence):
    model = shop["ccfrec"] if kind == "ccfrec" else small.ranker(data)
    asked = dict(given_)
    if "items" in asked:
        asked["items"] = shop["new"] if asked["items"] == "new" else data.items.head(1)
    if "tokenizer" in asked:
        asked["tokenizer"] = shop["root"] / asked["tokenizer"]
    if asked.get("remove") == "all":
        asked["remove"] = data.item_ids.to_list()
    with pytest.raises(ValueError, match=sentence):
        seqrec.refreshing.refresh(model, tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_codes_of_another_making_are_refused(shop, data, tmp_path):
    other = semtok.fit("rq", data, levels=2, codebook_size=8, per_view=False, quiet=True, pca=8, seed=3,
                       cache=shop["root"] / "cache")  # fmt: skip
    with pytest.raises(ValueError, match="items that stay have other codes than the model was trained with"):
        genrec.refreshing.refresh(shop["tiger"], other.codes, tmp_path / "run")
    wider = semtok.fit("rq", data, levels=2, codebook_size=4, per_view=False, quiet=True, pca=8,
                       cache=shop["root"] / "cache")  # fmt: skip
    with pytest.raises(ValueError, match="the model was trained on"):
        genrec.refreshing.refresh(shop["tiger"], wider.codes, tmp_path / "run")


def test_new_items_that_share_their_codes_are_counted(shop, data, tmp_path):
    codes = semtok.load_codes(shop["root"] / "grown")
    twin = codes.codes.copy()
    twin[41] = twin[3]
    shared = semtok.ItemCodes(twin, codes.sizes, codes.item_ids, dict(codes.blocks))
    assert genrec.refreshing.refresh(shop["tiger"], shared, tmp_path / "run")["hidden"] == 1


def test_a_trained_run_is_not_replaced(shop, data, tmp_path):
    model = small.ranker(data, out=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a trained run, which a refreshed one would replace"):
        seqrec.refreshing.refresh(model, tmp_path / "run", remove=[data.item_ids[0]])
    seqrec.refreshing.refresh(model, tmp_path / "new", remove=[data.item_ids[0]])
    seqrec.refreshing.refresh(model, tmp_path / "new", remove=[data.item_ids[1]])  # one of ours is
    assert data.item_ids[0] in seqrec.load(tmp_path / "new").items["item_id"].to_list()


@given(
    st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n), max_size=n - 1))),
    st.integers(0, 4),
    st.integers(0, 2),
)
def test_rows_follow_their_items(old, added, extra):
    count, gone = old
    ids = pl.Series("item_id", [f"i{row}" for row in range(1, count + 1)])
    moves = Moves.of(ids, [f"n{row}" for row in range(added)], [f"i{row}" for row in gone])
    table = torch.arange(count + extra, dtype=torch.float32)[:, None].expand(-1, 2) + 1
    like = torch.full((len(moves.rows) + extra, 2), -1.0)
    found = moves.moved(table, 0, like)
    assert found.shape == like.shape
    shift = min(extra, 1)
    for row, (name, was) in enumerate(zip(moves.ids.to_list(), moves.rows.tolist(), strict=True)):
        assert (was == 0) == name.startswith("n")
        assert found[row + shift, 0] == (-1.0 if was == 0 else was + shift)
    if extra:
        assert found[0, 0] == 1.0
    if extra == 2:
        assert found[-1, 0] == count + 2
    assert torch.equal(moves.moved(table.T, 1, like.T), found.T)


def test_the_commands(shop, data, tmp_path):
    root = shop["root"]
    words = ["refresh", str(root / "tiger"), "--codes", str(root / "grown"), "--items", str(root / "new.csv")]
    result = CliRunner().invoke(genrec.cli.main, [*words, "--out", str(tmp_path / "tiger")])
    assert result.exit_code == 0, result.output
    assert "42 items; 40 stayed, 2 are new, 0 are gone" in result.stdout
    (tmp_path / "gone.txt").write_text(f"{data.item_ids[0]}\n")
    words = [
        "refresh",
        str(root / "ccfrec"),
        "--remove",
        str(tmp_path / "gone.txt"),
        "--out",
        str(tmp_path / "r"),
        "--json",
    ]
    result = CliRunner().invoke(seqrec.cli.main, words)
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert (body["items"], body["removed"]) == (39, 1)
