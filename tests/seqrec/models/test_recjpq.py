"""Item tables of joint codes: how codes are given, what a vector is, and the search that makes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from polars.testing import assert_frame_equal
from small_models import ITEMS, build, scores, trained

import seqrec
from recbase.data.sequences import Histories
from recbase.evaluate.ranking import topk
from recbase.store.runs import save_run
from seqrec.cli import main
from seqrec.export import CodedItems
from seqrec.models.recjpq import JointCodes, SASRecJPQ, random_codes, svd_codes
from seqrec.recommender import _Allowed

LISTS = [[3, 4, 5, 6, 7], [9], [2, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]


def test_items_of_the_same_users_stand_together() -> None:
    rng = np.random.default_rng(1)
    groups = np.array_split(np.arange(1, 41), 2)  # users have items of one half alone
    lists = [rng.choice(groups[user % 2], 12, replace=False).tolist() for user in range(200)]
    codes = svd_codes(Histories.from_lists(lists), 40, 2, 2)
    halves = np.repeat([0, 1], 20)
    assert max(float((column == halves).mean()) for column in (*codes.T, *(1 - codes.T))) > 0.9


@pytest.mark.parametrize(
    "make", [lambda: svd_codes(Histories.from_lists(LISTS), 40, 6, 8), lambda: random_codes(40, 6, 8)]
)
def test_every_code_has_equally_many_items_and_the_same_ones_again(make: Any) -> None:
    codes = make()
    assert codes.shape == (40, 6)
    assert all(np.bincount(column, minlength=8).tolist() == [5] * 8 for column in codes.T)
    assert np.array_equal(make(), codes)


def test_a_vector_is_the_embeddings_of_its_codes_side_by_side() -> None:
    layer = JointCodes(3, 6, [4, 5])
    layer.set(np.array([[0, 4], [3, 0], [1, 1]]))
    weight = layer.code_embedding.weight
    torch.testing.assert_close(layer.table()[1], torch.cat([weight[1 + 3], weight[1 + 4 + 0]]))
    torch.testing.assert_close(layer(torch.tensor([2, 0])), torch.stack([layer.table()[1], torch.zeros(6)]))


@pytest.mark.parametrize("codes", [[[0, 5], [0, 0], [0, 0]], [[-1, 0], [0, 0], [0, 0]]])
def test_a_code_outside_its_level_is_refused(codes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"codes must lie in 0 up to below the sizes \[4, 5\], got"):
        JointCodes(3, 6, [4, 5]).set(np.array(codes))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="dim is 30; expected a multiple of 4, the codes of an item"):
        SASRecJPQ(ITEMS, dim=30, splits=4)
    with pytest.raises(ValueError, match="assign codes needs items with codes"):
        SASRecJPQ(ITEMS, assign="codes")
    with pytest.raises(ValueError, match="assign svd needs the training histories"):
        SASRecJPQ(ITEMS).with_content()


def test_codes_of_a_tokenizer_are_taken_as_they_are() -> None:
    assert SASRecJPQ.reads({}) == ("histories",)
    assert SASRecJPQ.reads({"assign": "codes"}) == ("codes",)
    codes = np.random.default_rng(0).integers(0, 6, (ITEMS, 4))
    model = SASRecJPQ(ITEMS, [6] * 4, "codes", dim=32, max_len=8).with_content(codes=codes)
    found, sizes = model.item_codes()
    assert np.array_equal(found, codes)
    assert sizes == [6] * 4
    assert model.item_embedding.code_embedding.weight.shape == (25, 8)


@pytest.mark.parametrize("assign", ["svd", "random"])
def test_scores_of_the_codes_add_up_to_the_score(assign: str) -> None:
    model = build("sasrec-jpq", assign=assign).eval()
    items, lengths = (torch.from_numpy(part) for part in Histories.from_lists(LISTS).padded(slice(None), 8))
    with torch.no_grad():
        parts = model.code_scores(model.user_vectors(items, lengths))
    codes, _ = model.item_codes()
    total = sum(part[:, torch.from_numpy(column).long()] for part, column in zip(parts, codes.T, strict=True))
    torch.testing.assert_close(total, scores(model, LISTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_the_search_finds_the_lists_of_dense_scores(mask_seen: bool, some: bool) -> None:
    model, _ = trained("sasrec-jpq")
    rng = np.random.default_rng(2)
    histories = Histories.from_lists([rng.integers(1, ITEMS + 1, rng.integers(1, 12)).tolist() for _ in range(60)])
    allowed = rng.random(ITEMS) < 0.6 if some else None
    found = CodedItems(model).topk(histories, 8, mask_seen, allowed, batch=16)
    scorer = model.scorer() if allowed is None else _Allowed(model.scorer(), allowed)
    expected = topk(scorer, histories, 8, mask_seen)
    assert np.array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_no_history_gives_no_list() -> None:
    found = CodedItems(build("sasrec-jpq")).topk(Histories.from_lists([]), 5, True)
    assert found.items.shape == (0, 5)


def test_recommend_has_the_engine_and_says_who_has_none(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [f"i{number}" for number in range(ITEMS)]})
    for name in ("sasrec-jpq", "sasrec"):
        save_run(tmp_path / name, name, build(name), items, {})
    fitted = seqrec.load(tmp_path / "sasrec-jpq")
    asked = [["i3", "i4"], ["i9"]]
    given: dict[str, Any] = {"histories": asked, "k": 5, "exclude": ["i1"]}
    assert_frame_equal(fitted.recommend(**given, engine="codes"), fitted.recommend(**given))
    assert 0 < fitted._coded.nbytes < 100_000
    words = ["recommend", str(tmp_path / "sasrec"), "--history", "i3,i4", "--engine", "codes"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code
    assert "SASRec has no item table of codes to search; sasrec-jpq has one" in done.output
