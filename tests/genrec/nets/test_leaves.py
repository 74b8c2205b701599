"""Output embeddings of leaves, and cross-attention that knows how far a token is from the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrec import SHAPES
from genrec.models.bbqrec import BBQRec
from genrec.models.letter import LETTER
from genrec.models.prorec import PRORec
from genrec.models.tiger import TIGER
from genrec.nets.attention import Ragged, attend_memory, attend_prefixes, recency_bias
from genrec.nets.leaves import LeafHead
from genrec.search.trie import CodeTrie
from recbase.data.sequences import Histories, SequenceBatches

ITEMS = 24
HISTORIES = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
LENGTHS = torch.tensor([4, 2, 3])


def codes(levels: int = 2) -> np.ndarray:
    """Clusters of different sizes, three levels where wanted."""
    first = np.repeat([0, 1, 2, 3], [1, 12, 4, 7])
    within = np.concatenate([np.arange(count) for count in (1, 12, 4, 7)])
    return np.stack([first, within] if levels == 2 else [first, within // 2, within % 2], 1)


def prorec(levels: int = 2, **arguments: Any) -> PRORec:
    torch.manual_seed(1)
    given = {"dim": 16, "heads": 2, "ffn": 32, "decoder_layers": 2, "dropout": 0.0, "leaf_embeddings": True}
    sizes = [4, 12] if levels == 2 else [4, 6, 2]
    model: PRORec = PRORec(ITEMS, sizes, **given | arguments).with_codes(codes(levels))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_logits_are_products_with_the_children_of_the_node() -> None:
    torch.manual_seed(0)
    trie, head = CodeTrie.from_codes(codes()), LeafHead(ITEMS, 5)
    states, nodes = torch.randn(3, 4, 5), torch.tensor([[0, 1, 1, 3], [2, 2, 1, 0], [3, 3, 3, 3]])
    logits = head(states, nodes, trie)
    assert logits.shape == (3, 4, 12)
    for row in range(3):
        for place in range(4):
            node, wanted = int(nodes[row, place]), torch.full((12,), -torch.inf)
            for item, (first, second) in enumerate(codes(), 1):
                if first == node:
                    wanted[second] = states[row, place] @ head.embedding.weight[item]
            torch.testing.assert_close(logits[row, place], wanted)


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
@pytest.mark.parametrize("levels", [2, 3])
def test_probabilities_of_all_items_add_to_one_and_beams_find_them(normalize: str, levels: int) -> None:
    model = prorec(levels, normalize=normalize).eval()
    scores = model.score_all(HISTORIES, LENGTHS)
    if normalize == "children" or levels == 2:  # the level between has codes that no item has
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    found = model.search(HISTORIES, LENGTHS, ITEMS, ITEMS)
    torch.testing.assert_close(found.scores, scores.gather(1, found.items - 1))
    assert sorted(found.items[0].tolist()) == list(range(1, ITEMS + 1))


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_the_loss_is_minus_the_score_of_the_target(normalize: str) -> None:
    model = prorec(normalize=normalize)
    histories = Histories.from_lists([[1, 2, 3], [5, 9, 20], [24, 7, 13]])
    (batch,) = next(iter(SequenceBatches(histories, "prefix", batch_size=100, max_len=20)))
    output = model(batch)
    found = [(batch.items[row], batch.lengths[row], int(batch.targets[row].max())) for row in range(len(batch.items))]
    wanted = [float(model.score_all(items[None], length[None])[0, target - 1]) for items, length, target in found]
    assert output.loss.item() == pytest.approx(-np.mean(wanted) / 2, abs=1e-5)  # a mean over the levels
    output.loss.backward()
    rows = model.leaf_head.embedding.weight.grad  # type: ignore[union-attr]
    assert rows is not None
    assert not rows[0].any()
    assert rows[1:].any()


def test_codes_that_are_shared_are_refused() -> None:
    shared = codes()
    shared[2] = shared[1]
    model = prorec().with_codes(shared).eval()
    with pytest.raises(ValueError, match=r"24 items share 23 codes.*--unique"):
        model.search(HISTORIES, LENGTHS, 5, 5)


@pytest.mark.parametrize("group", [1, 2])
def test_a_bias_by_distance_is_the_same_at_every_place(group: int) -> None:
    """One query a prefix, and all of a row at once; both against the sums written out."""
    torch.manual_seed(0)
    heads, width = 2, 3
    lengths = torch.tensor([5, 1, 3])
    keys, queries = Ragged.of(lengths * group), Ragged.of(lengths)
    query, memory = torch.randn(9, heads * width), torch.randn(9 * group, 2 * heads * width)
    recency = torch.randn(heads, 4, requires_grad=True)
    together = attend_prefixes(query, memory, heads, queries, keys, 1, key_group=group, recency=recency)
    rows = [slice(0, 5), slice(5, 8), slice(8, 9)]  # from the longest
    wanted = torch.zeros_like(query)
    for row in rows:
        for step in range(row.stop - row.start):
            known = memory[row.start * group : (row.start + step + 1) * group].unflatten(1, (2, heads, width))
            far = torch.arange(len(known) - 1, -1, -1).clamp(max=3)
            asked = query[row.start + step].view(heads, width)
            weights = (torch.einsum("hd,khd->hk", asked, known[:, 0]) + recency[:, far]).softmax(1)
            wanted[row.start + step] = torch.einsum("hk,khd->hd", weights, known[:, 1]).flatten().detach()
    torch.testing.assert_close(together, wanted)
    last = torch.tensor([4, 7, 8])
    alone = attend_memory(query[last][:, None], memory, heads, keys, recency=recency)
    torch.testing.assert_close(alone[:, 0], wanted[last])
    (gradient,) = torch.autograd.grad(together.square().sum(), recency)
    assert gradient.abs().sum() > 0


def test_the_bias_counts_from_the_end_of_each_row() -> None:
    bias = recency_bias(torch.tensor([[10.0, 20.0, 30.0]]), torch.tensor([2, 5]), 5)
    assert bias[:, 0, 0, :2].tolist() == [[20, 10], [30, 30]]
    assert bias[1, 0, 0].tolist() == [30, 30, 30, 20, 10]


@pytest.mark.parametrize("family", ["prorec", "tiger", "letter", "bbqrec"])
def test_a_search_has_the_bias_that_training_has(family: str) -> None:
    if family == "prorec":
        model: Any = prorec(recency_bias=True, leaf_embeddings=False, causal_encoder=True, normalize="children")
    else:
        torch.manual_seed(1)
        given = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 1, "decoder_layers": 2}
        given |= {"recency_bias": True, "causal_encoder": True, "normalize": "children"}
        if family == "bbqrec":
            model = BBQRec(ITEMS, [4, 12], 1, **given).with_codes(codes())  # type: ignore[arg-type]
        else:
            given |= {"temperature": 0.5, "search_temperature": 0.5} if family == "letter" else {}
            model = {"tiger": TIGER, "letter": LETTER}[family](ITEMS, [4, 12], **given).with_codes(codes())  # type: ignore[arg-type]
        torch.nn.init.normal_(model.decoder.recency if family == "bbqrec" else model.t5.decoder.recency)
    model.eval()
    lists = [[1, 2, 3, 8, 4], [5, 9], [24, 7, 13]]
    histories = Histories.from_lists(lists)
    scores = []
    for row in range(3):
        numbers = lists[row]
        for length in range(1, len(numbers)):
            found = model.score_all(torch.tensor([numbers[:length]]), torch.tensor([length]))
            scores.append(float(found[0, numbers[length] - 1]))
    for form in ("all", "prefix"):
        (batch,) = next(iter(SequenceBatches(histories, form, batch_size=100, max_len=20)))
        assert model(batch).loss.item() == pytest.approx(-np.mean(scores) / 2, abs=1e-5)


def test_a_catalogue_that_loses_items_keeps_what_the_leaves_learned() -> None:
    model = prorec().eval()
    fewer = PRORec(ITEMS - 1, [4, 12], **{name: value for name, value in model.config().items() if name not in SHAPES})
    fewer.with_codes(codes()[1:])  # item 1, alone in its cluster, is gone
    moved = {name: value for name, value in model.state_dict().items() if name not in ("code_table", "priority")}
    moved |= {name: fewer.state_dict()[name] for name in ("code_table", "priority")}
    moved["leaf_head.embedding.weight"] = torch.cat([torch.zeros(1, 16), moved["leaf_head.embedding.weight"][2:]])
    moved["vectors"] = fewer.vectors
    fewer.load_state_dict(moved)
    before = model.score_all(torch.tensor([[5, 6, 7]]), torch.tensor([3]))[:, 1:]
    after = fewer.eval().score_all(torch.tensor([[4, 5, 6]]), torch.tensor([3]))
    torch.testing.assert_close(after, before)
