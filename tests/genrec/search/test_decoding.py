"""Beam search against exhaustive scoring and against a plain one in Python, over a decoder whose logits are a table."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.search.decoding import beam_search, score_items, search_beams
from genrec.search.trie import CodeTrie
from recbase.evaluate.ranking import list_faults
from recbase.nn.draws import draw_uniform

SIZES = (4, 5, 3)


@dataclass(frozen=True)
class State:
    """Prefixes as one number each, [B, W]."""

    prefixes: torch.Tensor
    steps: int = 0


@dataclass
class HashDecoder:
    """Logits of a step are random numbers addressed by request and prefix: the same however they are asked for."""

    sizes: tuple
    widths: tuple
    scale: float = 6.0
    calls: int = 0

    def start(self, memory):
        return State(torch.zeros(memory, 1, dtype=torch.int64))

    def step(self, state, parents, tokens):
        self.calls += 1
        steps, prefixes = state.steps, state.prefixes
        if parents is not None:
            width = self.widths[steps - 1]
            first = sum(self.widths[: steps - 1])
            added = tokens[..., None] if width == 1 else tokens
            prefixes = prefixes.gather(1, parents)
            for column in range(width):
                prefixes = prefixes * (self.sizes[first + column] + 1) + added[..., column] + 1
        first = sum(self.widths[:steps])
        rows = torch.arange(len(prefixes))[:, None, None]
        heads = tuple(
            self.scale
            * draw_uniform(first + column, rows, prefixes[..., None], torch.arange(self.sizes[first + column]))
            for column in range(self.widths[steps])
        )
        return heads if len(heads) > 1 else heads[0], State(prefixes, steps + 1)


def paths(trie, rows, decoder, children=False):
    """Score of every leaf, float64 [rows, leaves], and of every prefix, one call a prefix."""
    scores = {(): torch.zeros(rows, dtype=torch.float64)}
    level = {(): decoder.step(decoder.start(rows), None, None)}
    for step in range(trie.steps):
        span, following = trie.columns[step], {}
        for prefix, (logits, state) in level.items():
            node = 0 if not prefix else int(trie.walk(torch.tensor(prefix)))
            kids, there = trie.expand(step, torch.tensor(node))
            heads = logits if isinstance(logits, tuple) else (logits,)
            over = bool(step) and prefix[-1] == trie.ends[len(prefix) - 1]
            gains = []
            for kid in kids[there]:
                code = trie.tokens[step][kid].tolist()
                gain = torch.zeros(rows, dtype=torch.float64)
                for head, token in zip(heads, code, strict=True):
                    wide = head[:, 0].double()
                    gain += wide[:, token] if children else wide.log_softmax(-1)[:, token]
                gain = gain * (not over)
                gains.append((code, gain))
            total = torch.stack([gain for _, gain in gains]).logsumexp(0) if children else 0.0
            for code, gain in gains:
                whole = (*prefix, *code)
                scores[whole] = scores[prefix] + gain - total
                if span.stop < len(trie.sizes):
                    given = torch.tensor(code).expand(rows, 1, -1)
                    given = given[..., 0] if trie.widths[step] == 1 else given
                    following[whole] = decoder.step(state, torch.zeros(rows, 1, dtype=torch.int64), given)
        level = following
    return scores


def best(trie, rows, scores, beams, n_best, allowed=None):
    """Beam search in plain Python over known scores of all prefixes."""
    items, values = np.full((rows, n_best), -1), np.full((rows, n_best), -np.inf)
    for row in range(rows):
        kept = [()]
        for step in range(trie.steps):
            stop = trie.columns[step].stop
            found = [path for path in scores if len(path) == stop and path[: trie.columns[step].start] in kept]
            found = [path for path in found if scores[path][row] > -np.inf]
            last = step == trie.steps - 1
            named = {path: path for path in found}
            if last:
                leaves = {path: trie.walk(torch.tensor(path)) for path in found}
                chosen = trie.allow(torch.ones(trie.largest_item, dtype=torch.bool)) if allowed is None else allowed
                rowed = chosen if chosen.rows == 1 else chosen.select(slice(row, row + 1))
                named = {path: int(rowed.first(leaf[None, None])) for path, leaf in leaves.items()}
            order = sorted(found, key=lambda path: (-float(scores[path][row].float()), named[path]))
            kept = set(order[: n_best if last else beams])
            if last:
                for place, path in enumerate(order[:n_best]):
                    items[row, place], values[row, place] = named[path], scores[path][row]
    return items, values


def world(seed, ragged=False, wide=False, items=30):
    rng = np.random.default_rng(seed)
    sizes = SIZES * 2 if wide else SIZES
    codes = np.stack([rng.integers(0, size, items) for size in sizes], 1)
    if ragged:
        for row, length in enumerate(rng.integers(1, 4, items)):
            codes[row, length:] = -1
    trie = CodeTrie.from_codes(codes, sizes, widths=3 if wide else 1, priority=rng.integers(0, 3, items))
    return rng, trie, HashDecoder(trie.sizes, trie.widths)


def limits(rng, trie, rows, kind):
    """Arguments mask and exclude of a search."""
    count = trie.largest_item
    mask = rng.random(count if kind == 1 else (rows, count)) < 0.6 if kind in (1, 2, 4) else None
    exclude = rng.integers(0, count + 5, (rows, 12)) if kind in (3, 4) else None
    return {"mask": mask, "exclude": exclude}


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(0, 4), st.sampled_from(["plain", "ragged", "wide"]), st.booleans())
def test_with_as_many_beams_as_items_it_equals_scoring_everything(seed, kind, shape, children):
    rng, trie, decoder = world(seed, shape == "ragged", shape == "wide")
    given_limits = limits(rng, trie, 3, kind)
    allowed = trie.allow(**given_limits) if kind else None
    normalize = "children" if children else "vocabulary"
    scores = paths(trie, 3, decoder, children)
    if allowed is not None:
        scores = dead(trie, scores, allowed)
    items, values = best(trie, 3, scores, 10**6, 30, allowed)
    found = search_beams(decoder, 3, trie, 1000, 30, normalize=normalize, **given_limits)
    exact = search_beams(decoder, 3, trie, 1, 30, normalize=normalize, exact=True, **given_limits)
    assert (found.items.numpy() == items).all()
    np.testing.assert_allclose(found.scores, values, atol=2e-5)
    assert torch.equal(found.items, exact.items)
    assert torch.equal(found.leaves, exact.leaves)
    np.testing.assert_allclose(found.scores, exact.scores, atol=2e-5)
    assert list_faults(found.recommendations(), 30) == {"invalid": 0, "duplicates": 0}


def dead(trie, scores, allowed):
    """-inf for prefixes that lead to no allowed item."""
    result = {}
    for path, score in scores.items():
        step = len([span for span in trie.columns if span.stop <= len(path)])
        node = trie.walk(torch.tensor(path, dtype=torch.int64)) if path else torch.tensor(0)
        alive = allowed.count(step, node.expand(len(score), 1))[:, 0] > 0
        result[path] = score.masked_fill(~alive, -torch.inf)
    return result


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 4), st.sampled_from(["plain", "ragged", "wide"]))
def test_few_beams_keep_the_best_prefixes_of_every_step(seed, beams, kind, shape):
    rng, trie, decoder = world(seed, shape == "ragged", shape == "wide")
    given_limits = limits(rng, trie, 2, kind)
    allowed = trie.allow(**given_limits) if kind else None
    scores = paths(trie, 2, decoder)
    if allowed is not None:
        scores = dead(trie, scores, allowed)
    items, values = best(trie, 2, scores, beams, min(beams, 5), allowed)
    found = beam_search(decoder, 2, trie, beams, min(beams, 5), **given_limits)
    assert (found.items == items).all()
    np.testing.assert_allclose(found.scores, values, atol=2e-5)
    assert list_faults(found, 30) == {"invalid": 0, "duplicates": 0}


@pytest.mark.parametrize("shape", ["plain", "ragged", "wide"])
def test_exact_mode_in_small_blocks_computes_every_prefix_once(shape, monkeypatch):
    _, trie, decoder = world(3, shape == "ragged", shape == "wide")
    whole = score_items(decoder, 2, trie)
    monkeypatch.setattr("genrec.search.decoding._EXACT_PREFIXES", 6)
    decoder.calls = 0
    np.testing.assert_allclose(score_items(decoder, 2, trie), whole, atol=1e-6)
    blocks = 0
    for step in range(1, trie.steps):  # blocks of three prefixes, at most one short one under every block above
        blocks += len(trie.tokens[step - 1])
    assert decoder.calls <= 1 + blocks
    exact = search_beams(decoder, 2, trie, exact=True, n_best=7)
    assert torch.equal(exact.scores, whole.topk(7, 1)[0])


def test_scores_of_all_items_are_those_of_their_codes():
    _, trie, decoder = world(5)
    scores, known = score_items(decoder, 2, trie), paths(trie, 2, decoder)
    assert scores.shape == (2, 30)
    for item in range(1, 31):
        place = int(trie.positions[item])
        code = tuple(trie.codes()[place].tolist())
        stands = int(trie.find(torch.tensor(code))) == item
        for row in range(2):
            wanted = known[code][row].item() if stands else -np.inf
            assert scores[row, item - 1].item() == pytest.approx(wanted, abs=2e-5)


def test_equal_scores_go_by_item_number_and_prefixes_by_their_codes():
    codes = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    flat = HashDecoder((2, 2), (1, 1), scale=0.0)
    trie = CodeTrie.from_codes(codes)
    assert beam_search(flat, 1, trie, 4, 4).items.tolist() == [[1, 2, 3, 4]]
    assert beam_search(flat, 1, trie, 4, 4, exact=True).items.tolist() == [[1, 2, 3, 4]]
    assert beam_search(flat, 1, trie, 1, 1).items.tolist() == [[3]]


def test_items_with_equal_codes_resolve_to_one_and_to_the_next_where_it_is_excluded():
    codes = np.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    trie = CodeTrie.from_codes(codes, priority=np.array([1, 5, 5, 0]))
    decoder = HashDecoder((2, 2), (1, 1), scale=0.0)
    assert beam_search(decoder, 1, trie, 4, 4).items.tolist() == [[2, 4, -1, -1]]
    assert beam_search(decoder, 2, trie, 4, 2, exclude=[[2], [2, 3]]).items.tolist() == [[3, 4], [1, 4]]


def test_where_too_little_is_allowed_lists_are_short_and_never_wrong():
    _, trie, decoder = world(1)
    mask = torch.zeros(3, 30, dtype=torch.bool)
    mask[0, 7] = True
    mask[2, [1, 20, 25]] = True
    found = beam_search(decoder, 3, trie, 10, 5, mask=mask)
    assert found.items[0].tolist() == [8, -1, -1, -1, -1]
    assert found.items[1].tolist() == [-1] * 5
    assert set(found.items[2].tolist()) <= {2, 21, 26, -1}
    assert (found.scores[found.items < 0] == -np.inf).all()
    assert np.isfinite(found.scores[found.items > 0]).all()
    with pytest.raises(ValueError, match="request 1 has no allowed item among the 30 of the trie"):
        beam_search(decoder, 3, trie, 10, 5, mask=mask, require_items=True)
    empty = trie.delete(range(1, 31))
    for exact in (False, True):
        assert beam_search(decoder, 2, empty, 10, 3, exact=exact).items.tolist() == [[-1] * 3] * 2


def test_a_mask_counted_once_serves_many_searches():
    rng, trie, decoder = world(4)
    mask, seen = torch.from_numpy(rng.random(30) < 0.5), rng.integers(0, 31, (2, 5))
    counted = trie.allow(mask)
    found = beam_search(decoder, 2, trie, 10, 5, mask=mask, exclude=seen)
    assert (beam_search(decoder, 2, trie, 10, 5, mask=counted, exclude=seen).items == found.items).all()
    assert mask[beam_search(decoder, 2, trie, 10, 5, mask=counted).items - 1].all()
    with pytest.raises(ValueError, match="counted over another trie"):
        beam_search(decoder, 2, trie.delete([1]), 10, 5, mask=counted)
    with pytest.raises(ValueError, match="excluded already"):
        beam_search(decoder, 2, trie, 10, 5, mask=counted.excluding(seen), exclude=seen)


def test_without_normalization_logits_are_added():
    _, trie, decoder = world(2)
    found = search_beams(decoder, 1, trie, 40, 1, normalize="none")
    code = trie.codes()[int(trie.positions[int(found.items)])].tolist()
    total, prefix = 0.0, 0
    for step, token in enumerate(code):
        total += float(6.0 * draw_uniform(step, torch.tensor(0), torch.tensor(prefix), torch.tensor(token)))
        prefix = prefix * (trie.sizes[step] + 1) + token + 1
    assert float(found.scores) == pytest.approx(total, abs=1e-5)


def test_bad_requests_are_refused():
    _, trie, decoder = world(0)
    with pytest.raises(ValueError, match="n_best is 11 but only 10 beams are searched"):
        beam_search(decoder, 2, trie, 10, 11)
    with pytest.raises(ValueError, match="beams must be at least 1, got 0"):
        beam_search(decoder, 2, trie, 0, 0)
    with pytest.raises(ValueError, match="normalize must be one of"):
        beam_search(decoder, 2, trie, normalize="trie")
    with pytest.raises(ValueError, match="mask and exclude are of 3 requests but memory is of 2"):
        beam_search(decoder, 2, trie, exclude=[[1], [2], [3]])
    with pytest.raises(ValueError, match=r"logits of widths \[7\] at step 0, but the trie has \[4\]"):
        beam_search(HashDecoder((7, 5, 3), (1, 1, 1)), 2, trie)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(replace(decoder, scale=float("nan")), 2, trie)
    with pytest.raises(ValueError, match="normalize must be one of"):
        score_items(decoder, 2, trie, normalize="trie")
