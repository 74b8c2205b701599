"""T5 against transformers: logits, gradients, beams; padding, order of rows and steps change nothing."""

import pytest
import torch
from torch.nn import functional as F

from genrec.nets.attention import Ragged
from genrec.nets.t5 import T5
from genrec.search.decoding import search_beams
from genrec.search.trie import CodeTrie
from genrec.search.vocabulary import CodeVocabulary

VOCABULARY, LEVELS, SIZE = 40, 4, 9


def peer(projection="relu", tied=True, **more):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        dropout_rate=0.0,
        feed_forward_proj=projection,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        **more,
    )
    return T5ForConditionalGeneration(config)


def batch(rows=70, width=23):
    lengths = torch.randint(1, width + 1, (rows,))
    valid = torch.arange(width) < lengths[:, None]
    return torch.randint(2, VOCABULARY, (rows, width)) * valid, lengths, valid.long()


@pytest.mark.parametrize(("projection", "tied"), [("relu", True), ("gated-gelu", False)])
def test_logits_and_gradients_are_those_of_transformers(projection, tied):
    theirs = peer(projection, tied)
    ours = T5.from_transformers(theirs)
    tokens, lengths, mask = batch()
    targets = torch.randint(2, VOCABULARY, (70, LEVELS))
    expected = theirs(input_ids=tokens, attention_mask=mask, labels=targets).logits
    logits = ours(tokens, lengths, targets)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    direction = torch.randn_like(logits)
    (expected * direction).sum().backward()
    (logits * direction).sum().backward()
    # the peer's gradients, put under our names by the same renaming as its weights
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(weight.grad)
    renamed = T5.from_transformers(theirs)
    assert gradients
    for (name, ours_weight), theirs_weight in zip(ours.named_parameters(), renamed.parameters(), strict=True):
        torch.testing.assert_close(ours_weight.grad, theirs_weight.detach(), atol=1e-4, rtol=1e-4, msg=name)


def test_from_a_folder_and_with_heads_of_its_own(tmp_path):
    theirs = peer(tied=False)
    ours = T5.from_transformers(theirs)
    theirs.save_pretrained(tmp_path)
    tokens, lengths, mask = batch(5)
    targets = torch.randint(2, VOCABULARY, (5, LEVELS))
    again = T5.from_transformers(tmp_path)
    assert torch.equal(again(tokens, lengths, targets), ours(tokens, lengths, targets))
    unscaled = theirs(input_ids=tokens, attention_mask=mask, labels=targets).logits
    torch.testing.assert_close(ours(tokens, lengths, targets), unscaled, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="activation is 'gelu'; expected 'relu' or 'gated-gelu'"):
        T5.from_transformers(peer("gelu"))


def catalogue(items=150):
    codes = torch.unique(torch.randint(0, SIZE, (items, LEVELS)), dim=0)
    return CodeTrie.from_codes(codes + torch.arange(LEVELS) * SIZE + 3, sizes=[VOCABULARY] * LEVELS)


@pytest.mark.parametrize("beams", [1, 7, 20])
def test_beams_are_those_of_generate(beams):
    theirs, trie = peer().eval(), catalogue()
    ours = T5.from_transformers(theirs).eval()
    tokens, lengths, mask = batch(6)

    def allowed(_, tokens):
        prefix = tokens[1:]
        if len(prefix) == LEVELS:
            return [1]
        children, there = trie.expand(len(prefix), trie.walk(prefix) if len(prefix) else torch.tensor(0))
        return trie.tokens[len(prefix)][children[there], 0].tolist()

    found = theirs.generate(
        input_ids=tokens,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=beams,
        prefix_allowed_tokens_fn=allowed,
        max_new_tokens=LEVELS,
        min_new_tokens=LEVELS,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    lists = search_beams(ours, ours.encode(tokens, lengths), trie, beams, beams)
    assert torch.equal(lists.items, trie.find(found.sequences[:, 1:]).view(6, beams))
    if beams > 1:
        torch.testing.assert_close(lists.scores, found.sequences_scores.view(6, beams), atol=1e-4, rtol=0)


@pytest.fixture
def small():
    torch.manual_seed(1)
    vocabulary = CodeVocabulary([SIZE] * LEVELS)
    return T5(vocabulary, 16, 2, 2, 2, 8, 32, dropout=0.0).eval()


def source(model, rows=40, width=24):
    lengths = torch.randint(1, width + 1, (rows,))
    valid = torch.arange(width) < lengths[:, None]
    return torch.randint(3, model.vocabulary.size, (rows, width)) * valid, lengths


def test_steps_give_what_whole_sequences_give(small):
    tokens, lengths = source(small)
    codes = torch.randint(0, SIZE, (40, LEVELS))
    whole = small(tokens, lengths, small.vocabulary.tokens(codes))
    memory = small.encode(tokens, lengths)
    logits, state = small.step(small.start(memory), None, None)
    for level in range(LEVELS):
        torch.testing.assert_close(logits[:, 0], whole[level], atol=1e-5, rtol=1e-5)
        if level + 1 < LEVELS:
            logits, state = small.step(state, torch.zeros(40, 1, dtype=torch.int64), codes[:, level : level + 1])


def test_a_state_can_be_gone_on_from_twice_and_prefixes_keep_to_their_ancestors(small):
    tokens, lengths = source(small, 3)
    logits, state = small.step(small.start(small.encode(tokens, lengths)), None, None)
    first = torch.randint(0, SIZE, (3, 5))
    _, second = small.step(state, torch.zeros(3, 5, dtype=torch.int64), first)
    parents, codes = torch.randint(0, 5, (3, 8)), torch.randint(0, SIZE, (3, 8))
    branched, third = small.step(second, parents, codes)
    again, _ = small.step(second, parents, codes)
    assert torch.equal(branched, again)
    chosen, last = torch.randint(0, 8, (3, 2)), torch.randint(0, SIZE, (3, 2))
    deep, _ = small.step(third, chosen, last)
    for row in range(3):
        for place in range(2):
            parent = int(chosen[row, place])
            path = [int(first[row, parents[row, parent]]), int(codes[row, parent]), int(last[row, place]), 0]
            target = small.vocabulary.tokens(torch.tensor([path]))
            alone = small(tokens[row : row + 1, : lengths[row]], lengths[row : row + 1], target)
            torch.testing.assert_close(deep[row, place], alone[3][0], atol=1e-5, rtol=1e-5)
    assert logits.shape == (3, 1, SIZE)


def test_padding_and_company_change_nothing(small):
    tokens, lengths = source(small)
    targets = small.vocabulary.tokens(torch.randint(0, SIZE, (40, LEVELS)))
    together = small(tokens, lengths, targets)
    for row in range(0, 40, 7):
        alone = small(tokens[row : row + 1, : lengths[row]], lengths[row : row + 1], targets[row : row + 1])
        for level in range(LEVELS):
            torch.testing.assert_close(together[level][row], alone[level][0], atol=1e-5, rtol=1e-5)
    order = torch.randperm(40)
    shuffled = small(F.pad(tokens, (0, 9))[order], lengths[order], targets[order])
    for level in range(LEVELS):
        torch.testing.assert_close(shuffled[level], together[level][order], atol=1e-5, rtol=1e-5)


def test_targets_see_only_what_came_before_them(small):
    tokens, lengths = source(small)
    codes = torch.randint(0, SIZE, (40, LEVELS))
    changed = codes.clone()
    changed[:, 2:] = (codes[:, 2:] + 1) % SIZE
    before = small(tokens, lengths, small.vocabulary.tokens(codes))
    after = small(tokens, lengths, small.vocabulary.tokens(changed))
    for level in range(3):
        assert torch.equal(before[level], after[level])
    assert not torch.equal(before[3], after[3])


@pytest.mark.parametrize("kernel", [True, False])
def test_what_other_devices_run_gives_the_same(small, kernel, monkeypatch):
    tokens, lengths = source(small)
    targets = small.vocabulary.tokens(torch.randint(0, SIZE, (40, LEVELS)))

    def run():
        small.zero_grad()
        logits = torch.stack(small(tokens, lengths, targets))
        logits.square().sum().backward()
        return [logits.detach(), *(weight.grad.clone() for weight in small.parameters())]

    expected = run()
    monkeypatch.setattr("genrec.nets.cpu_kernels.usable", lambda x: False)
    monkeypatch.setattr("genrec.nets.attention._has_kernel", lambda x: kernel)
    for ours, theirs in zip(run(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_reach_every_weight_and_bfloat16_is_near(tied):
    model = T5(CodeVocabulary([SIZE] * LEVELS), 16, 2, 2, 2, 8, 32, dropout=0.0, tied=tied)
    tokens, lengths = source(model)
    codes = torch.randint(0, SIZE, (40, LEVELS))

    def loss():
        logits = model(tokens, lengths, model.vocabulary.tokens(codes))
        return sum(F.cross_entropy(scores.float(), codes[:, level]) for level, scores in enumerate(logits))

    exact = loss()
    exact.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss()
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.01)
    for name, weight in model.named_parameters():
        assert gradients[name].norm() > 0
        assert weight.grad.dtype == torch.float32
        assert F.cosine_similarity(weight.grad.flatten(), gradients[name].flatten(), 0) > 0.97, name


def test_a_mixer_of_plain_weights_and_values_is_plain_attention():
    class Plain(torch.nn.Module):
        def forward(self, weights, values, context):
            assert context.shape == (len(weights), 2)
            seen.append(context)
            return weights @ values

    seen = []
    plain = T5(CodeVocabulary([SIZE] * LEVELS), 16, 2, 1, 2, 8, 32, dropout=0.0)
    mixed = T5(CodeVocabulary([SIZE] * LEVELS), 16, 2, 1, 2, 8, 32, dropout=0.0, mixers=[Plain(), Plain()])
    mixed.load_state_dict(plain.state_dict())
    tokens, lengths = source(plain)
    context = torch.stack([lengths, torch.arange(40)], 1)
    expected = plain.encode(tokens, lengths).states
    torch.testing.assert_close(mixed.encode(tokens, lengths, context).states, expected, atol=1e-5, rtol=1e-5)
    rows = torch.cat(seen[: len(seen) // 2])
    assert torch.equal(rows[:, 0], lengths.sort(descending=True)[0])
    assert sorted(rows[:, 1].tolist()) == list(range(40))
    (mixed.encode(tokens, lengths, context).states ** 2).sum().backward()
    (plain.encode(tokens, lengths).states ** 2).sum().backward()
    for ours, theirs in zip(mixed.encoder.parameters(), plain.encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="1 mixers for 2 layers"):
        T5(9, encoder_layers=2, mixers=[Plain()])


def test_ragged_rows_pack_and_unpack():
    lengths = torch.tensor([2, 5, 1, 5])
    ragged = Ragged.of(lengths, 6)
    padded = torch.arange(24).view(4, 6) + 1
    packed = ragged.pack(padded)
    assert packed.tolist() == [7, 8, 9, 10, 11, 19, 20, 21, 22, 23, 1, 2, 13]
    valid = torch.arange(6) < lengths[:, None]
    assert torch.equal(ragged.unpack(packed), padded * valid)
    assert ragged.steps.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 0]
    with pytest.raises(ValueError, match=r"lengths lie in 0..3; expected 1..6"):
        Ragged.of(torch.tensor([3, 0]), 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heads": 0}, "--heads must be at least 1, got 0"),
        ({"dropout": 1.0}, r"--dropout must lie in \[0, 1\), got 1.0"),
        ({"activation": "gelu"}, "--activation must be one of relu, gated-gelu"),
    ],
)
def test_bad_shapes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        T5(10, **arguments)
