"""The trie as a logits processor: what a causal language model generates is an item of the catalogue, always."""

import numpy as np
import pytest
import torch

from genrec.search.decoding import beam_search
from genrec.search.logits import TrieLogitsProcessor
from genrec.search.trie import CodeTrie

VOCABULARY, END = 30, 2


@pytest.fixture(scope="module")
def model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=END
    )
    return GPT2LMHeadModel(config).eval()


def catalogue():
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 8, (25, 3)), axis=0) + np.array([3, 11, 19])
    return CodeTrie.from_codes(codes, sizes=[VOCABULARY] * 3)


def generate(model, trie, prompts, beams=1, **limits):
    processor = TrieLogitsProcessor(trie, prompts.shape[1], END, beams, **limits)
    found = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        logits_processor=[processor],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=4,
        do_sample=False,
        pad_token_id=0,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    codes = found.sequences[:, prompts.shape[1] : prompts.shape[1] + 3]
    return trie.find(codes).view(len(prompts), -1), found


def prompts(rows=4):
    torch.manual_seed(1)
    return torch.randint(3, VOCABULARY, (rows, 5))


def scores(model, trie, prompt):
    """Log-probability of every item, by the model over whole sequences."""
    codes = trie.codes().long()
    whole = torch.cat([prompt.expand(len(codes), -1), codes], 1)
    with torch.no_grad():
        logs = model(whole).logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
    return logs.gather(2, codes[..., None])[..., 0].sum(1)


def test_greedy_and_sampled_tokens_are_items(model):
    trie = catalogue()
    items, _ = generate(model, trie, prompts())
    assert (items > 0).all()
    processor = TrieLogitsProcessor(trie, 5, END)
    torch.manual_seed(2)
    drawn = model.generate(
        prompts(64),
        attention_mask=torch.ones(64, 5, dtype=torch.int64),
        logits_processor=[processor],
        do_sample=True,
        temperature=3.0,
        max_new_tokens=4,
        pad_token_id=0,
    )
    found = trie.find(drawn[:, 5:8])
    assert (found > 0).all()
    assert len(found.unique()) > 10
    assert (drawn[:, 8] == END).all()


def test_beams_are_the_best_items(model):
    trie = catalogue()
    asked = prompts()
    items, found = generate(model, trie, asked, beams=20)
    for row in range(4):
        known = scores(model, trie, asked[row])
        best = known.topk(5)
        assert items[row, :5].tolist() == trie.items[best.indices].tolist()
    assert found.sequences_scores.shape == (80,)


def test_masks_belong_to_requests(model):
    trie = catalogue()
    mask = torch.zeros(4, trie.largest_item, dtype=torch.bool)
    for row, allowed in enumerate([[3], [5, 9], [1, 2, 3, 4], [7, 8]]):
        mask[row, torch.tensor(allowed) - 1] = True
    items, _ = generate(model, trie, prompts(), beams=2, mask=mask, exclude=[[], [9], [], []])
    assert items[0, 0] == 3
    assert items[1, 0] == 5
    assert set(items[2].tolist()) <= {1, 2, 3, 4}
    assert set(items[3].tolist()) == {7, 8}
    alone, _ = generate(model, trie, prompts(), mask=mask[2])
    assert set(alone.flatten().tolist()) <= {1, 2, 3, 4}


def test_nothing_allowed_is_an_error_and_no_free_step(model):
    trie = catalogue()
    with pytest.raises(ValueError, match="request 0 has no allowed item"):
        generate(model, trie, prompts(), mask=torch.zeros(trie.largest_item, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask and exclude are of 2 requests, but there are 4 rows"):
        generate(model, trie, prompts(), exclude=[[1], [2]])
    processor = TrieLogitsProcessor(trie, 1, END)
    astray = torch.tensor([[0, 29], [0, int(trie.tokens[0][0, 0])]])
    free = processor(astray, torch.zeros(2, VOCABULARY))
    assert free[0].isfinite().nonzero().flatten().tolist() == [END]
    children, there = trie.expand(1, torch.tensor(0))
    assert free[1].isfinite().nonzero().flatten().tolist() == trie.tokens[1][children[there], 0].tolist()
    done = processor(torch.cat([torch.zeros(1, 1, dtype=torch.int64), trie.codes()[:1].long()], 1), torch.zeros(1, 30))
    assert done[0].isfinite().nonzero().flatten().tolist() == [END]


def test_tries_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match=r"steps of \(2,\) codes"):
        TrieLogitsProcessor(CodeTrie.from_codes(np.array([[0, 1]]), widths=2), 1, END)
    wide = CodeTrie.from_codes(np.array([[40, 1]]), sizes=[50, 50])
    with pytest.raises(ValueError, match="50 tokens but the model only 30"):
        generate(model, wide, prompts())


def test_codes_that_end_early():
    codes = np.array([[5, 6, END], [5, 6, 7], [8, END, END]])
    trie = CodeTrie.from_codes(codes, sizes=[VOCABULARY] * 3, end=END)
    processor = TrieLogitsProcessor(trie, 1, END)
    rows = torch.tensor([[0, 5, 6], [0, 8, END]])
    left = processor(rows, torch.zeros(2, VOCABULARY)).isfinite()
    assert left[0].nonzero().flatten().tolist() == [END, 7]
    assert left[1].nonzero().flatten().tolist() == [END]


class Causal:
    """The causal model as a decoder of our own search: it reads the whole sequence at every step."""

    def __init__(self, model, levels=None):
        self.model, self.levels = model, levels

    def start(self, memory):
        return memory[:, None]  # [B, 1, T]

    def step(self, state, parents, tokens):
        if tokens is not None:
            index = parents[..., None].expand(-1, -1, state.shape[2])
            state = torch.cat([state.gather(1, index), tokens[..., None]], 2)
        with torch.no_grad():
            logits = self.model(state.flatten(0, 1)).logits[:, -1].unflatten(0, state.shape[:2])
        if self.levels is None:
            return logits, state
        outside = torch.ones(logits.shape[-1], dtype=torch.bool)
        outside[self.levels[state.shape[2] - PROMPT]] = False
        return logits.masked_fill(outside, -torch.inf), state


PROMPT = 5
LAYOUTS = {
    "one level after the other": [range(3, 11), range(11, 19), range(19, 27)],
    "the same tokens at every level": [range(3, 8)] * 4,
    "a level of one token": [range(10, 18), range(5, 6), range(20, 26)],
    "tokens above and below the end": [range(2), range(25, 30), range(3, 9)],
    "a long suffix level": [range(3, 5), range(5, 8), range(8, 10), range(10, 30)],
}


def laid_out(layout, items=25):
    """A catalogue of these levels, and the tokens of each."""
    rng = np.random.default_rng(3)
    levels = [np.asarray(level) for level in LAYOUTS[layout]]
    codes = np.unique(np.stack([rng.choice(level, items) for level in levels], 1), axis=0)
    return CodeTrie.from_codes(codes, sizes=[VOCABULARY] * len(levels)), [torch.from_numpy(level) for level in levels]


def searched(model, trie, asked, beams, extra, **settings):
    """Items and scores that generate finds in as many tokens as a code has, and some more."""
    found = model.generate(
        asked,
        attention_mask=torch.ones_like(asked),
        logits_processor=[TrieLogitsProcessor(trie, PROMPT, END, beams, **settings)],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=trie.steps + extra,
        do_sample=False,
        pad_token_id=0,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    codes = found.sequences[:, PROMPT : PROMPT + trie.steps]
    codes = torch.nn.functional.pad(codes, (0, trie.steps - codes.shape[1]), value=END)
    return trie.find(codes).view(len(asked), -1), found.sequences_scores.view(len(asked), -1)


@pytest.mark.parametrize("own_softmax", [False, True])
@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_generate_finds_what_our_search_finds_with_and_without_the_end(model, layout, normalize, own_softmax):
    trie, tokens = laid_out(layout)
    levels, asked, beams = tokens if own_softmax else None, prompts(3), 8
    known = beam_search(Causal(model, levels), asked, trie, beams, beams, normalize=normalize)
    for extra in (0, 1, 2):
        items, scores = searched(model, trie, asked, beams, extra, levels=levels, normalize=normalize)
        assert items.tolist() == known.items.tolist()
        np.testing.assert_allclose(scores.numpy(), known.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_codes_that_end_early_cost_what_they_cost_in_our_search(model, normalize):
    rng = np.random.default_rng(5)
    codes = np.unique(rng.integers(3, 8, (30, 3)), axis=0)
    short = np.concatenate([codes, np.array([[9, END, END], [9, 4, END], [10, 4, END], [3, 9, END]])])
    trie, asked = CodeTrie.from_codes(short, sizes=[VOCABULARY] * 3, end=END), prompts(3)
    count = len(trie)  # as many beams as items: what has ended leaves its place to others in generate alone
    known = beam_search(Causal(model), asked, trie, count, count, normalize=normalize)
    for extra in (0, 1, 2):
        items, scores = searched(model, trie, asked, count, extra, normalize=normalize)
        assert items.tolist() == known.items.tolist()
        np.testing.assert_allclose(scores.numpy(), known.scores, rtol=1e-4, atol=1e-4)


def test_items_that_are_not_allowed_are_not_free(model):
    trie, asked = catalogue(), prompts()
    mask = torch.zeros(4, trie.largest_item, dtype=torch.bool)
    mask[torch.arange(4), torch.tensor([2, 6, 1, 9])] = True  # one item a request: every code of it is the only one
    known = beam_search(Causal(model), asked, trie, 1, 1, mask)
    for extra in (0, 1):
        items, scores = searched(model, trie, asked, 2, extra, mask=mask)
        assert items[:, 0].tolist() == [3, 7, 2, 10]
        np.testing.assert_allclose(scores[:, 0].numpy(), known.scores[:, 0], rtol=1e-4, atol=1e-4)


def test_what_follows_a_whole_code_is_certain(model):
    trie = catalogue()
    processor = TrieLogitsProcessor(trie, 1, END)
    whole = torch.cat([torch.zeros(len(trie), 1, dtype=torch.int64), trie.codes().long()], 1)
    later = torch.nn.functional.pad(whole, (0, 2), value=END)
    for rows in (whole, later):
        scores = processor(rows, torch.randn(len(rows), VOCABULARY) * 9)
        assert (scores[:, END] == 0).all()
        assert scores.isfinite().sum() == len(rows)
    with pytest.raises(ValueError, match="end_token is 30 but the model has only 30 tokens"):
        TrieLogitsProcessor(trie, 1, 30)(whole[:, :1], torch.zeros(len(whole), VOCABULARY))
    with pytest.raises(ValueError, match="0 or above, got -1"):
        TrieLogitsProcessor(trie, 1, -1)
