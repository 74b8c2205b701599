"""Tokens of codes, levels, users and histories."""

import numpy as np
import pytest
import torch

from genrec.search.vocabulary import BOS, END, PAD, CodeVocabulary
from semtok.codes import ItemCodes


def test_every_code_has_a_token_of_its_own_and_back():
    vocabulary = CodeVocabulary([4, 3, 5], user_buckets=7)
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5))
    tokens = vocabulary.tokens(codes)
    assert vocabulary.size == 3 + 7 + 12
    assert sorted(tokens.unique().tolist()) == list(range(10, 22))
    assert torch.equal(vocabulary.codes(tokens), codes)
    for level in range(3):
        assert torch.equal(vocabulary.level_codes_to_tokens(level, codes[:, level]), tokens[:, level])
        assert torch.equal(vocabulary.level_tokens(level)[codes[:, level]], tokens[:, level])
    assert vocabulary.codes(torch.tensor([[14, PAD, 21]])).tolist() == [[-1, -1, 4]]
    assert len({PAD, BOS, END}) == 3


def test_short_codes_end_once():
    vocabulary = CodeVocabulary([4, 3, 5], ragged=True)
    codes = torch.tensor([[3, 2, 4], [1, 0, -1], [2, -1, -1]])
    assert vocabulary.output_sizes == (4, 4, 6)
    assert vocabulary.targets(codes).tolist() == [[3, 2, 4], [1, 0, 5], [2, 3, -100]]
    assert vocabulary.tokens(codes).tolist() == [[6, 9, 14], [4, 7, PAD], [5, PAD, PAD]]
    assert vocabulary.level_tokens(1).tolist() == [7, 8, 9, END]
    assert vocabulary.level_codes_to_tokens(1, torch.tensor([2, 3])).tolist() == [9, END]


@pytest.mark.parametrize("ragged", [False, True])
def test_histories_are_their_items_codes_one_after_the_other(ragged):
    codes = np.array([[0, 1], [2, 0], [1, -1 if ragged else 1]], dtype=np.int32)
    vocabulary = CodeVocabulary([3, 2], ragged=ragged)
    table = vocabulary.table(codes if ragged else ItemCodes(codes, (3, 2), np.arange(3)))
    assert table[0].tolist() == [PAD, PAD]
    items, lengths = torch.tensor([[3, 1, 2], [2, 0, 0]]), torch.tensor([3, 1])
    tokens, counts = vocabulary.history(items, lengths, table)
    expected = [table[3, 0], *([] if ragged else [table[3, 1]]), *table[1], *table[2]]
    assert tokens[0, : counts[0]].tolist() == [int(token) for token in expected]
    assert tokens[1, : counts[1]].tolist() == table[2].tolist()
    assert (tokens[1, counts[1] :] == PAD).all()


def test_users_keep_the_buckets_of_models_already_saved():
    vocabulary = CodeVocabulary([4], user_buckets=2000)
    users = torch.tensor([0, 1, 2, 3, 10**6, 10**9])
    assert (vocabulary.user_tokens(users) - 3).tolist() == [1069, 169, 66, 1278, 1001, 363]


def test_users_share_buckets():
    vocabulary = CodeVocabulary.of(ItemCodes(np.zeros((1, 1), dtype=np.int32), (1,), np.arange(1)), user_buckets=10)
    tokens = vocabulary.user_tokens(torch.arange(1000))
    assert set(tokens.tolist()) == set(range(3, 13))
    assert tokens.bincount()[3:].min() > 60
    assert torch.equal(tokens, vocabulary.user_tokens(torch.arange(1000)))
    with pytest.raises(ValueError, match="no user buckets"):
        CodeVocabulary([2]).user_tokens(torch.arange(2))


@pytest.mark.parametrize(("arguments", "words"), [(([],), "at least one level"), (([3, 0],), "one code a level")])
def test_bad_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        CodeVocabulary(*arguments)
    with pytest.raises(ValueError, match="--user-buckets must be at least 0, got -1"):
        CodeVocabulary([2], -1)
