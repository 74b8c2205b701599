"""What has to hold on a CUDA device: the trie, the beams, T5's logits and a bfloat16 step are those of the CPU."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrec.nets.t5 import T5
from genrec.search.decoding import score_items, search_beams
from genrec.search.logits import TrieLogitsProcessor
from genrec.search.trie import CodeTrie
from genrec.search.vocabulary import CodeVocabulary

pytestmark = pytest.mark.gpu

SIZES = [32, 32, 32]


def catalogue(device="cpu", items=3000, **more):
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, 32, (items, 3)))
    priority = torch.from_numpy(rng.integers(0, 9, items))
    return CodeTrie.from_codes(codes.to(device), SIZES, priority=priority.to(device), **more)


def models():
    torch.manual_seed(0)
    model = T5(CodeVocabulary(SIZES), 32, 2, 2, 4, 16, 64, dropout=0.0)
    lengths = torch.randint(1, 31, (16,))
    tokens = torch.randint(3, model.vocabulary.size, (16, 30)) * (torch.arange(30) < lengths[:, None])
    return model, tokens, lengths


def test_the_trie_is_built_changed_and_walked_alike(device):
    here, there = catalogue(), catalogue(device)
    moved = here.to(device)
    codes = torch.cartesian_prod(*(torch.arange(32),) * 3)[::7]
    for left, right in ((here, there), (here.delete([1, 5, 9]), there.delete([1, 5, 9])), (here, moved)):
        assert right.device == device
        for name in ("children", "tokens", "ranges"):
            for one, other in zip(getattr(left, name), getattr(right, name), strict=True):
                assert torch.equal(one, other.cpu())
        assert torch.equal(left.items, right.items.cpu())
        assert torch.equal(left.find(codes), right.find(codes.to(device)).cpu())
    grown = there.insert(torch.tensor([[1, 2, 3]]), [9000], [4])
    assert torch.equal(grown.items.cpu(), here.insert(torch.tensor([[1, 2, 3]]), [9000], [4]).items)


def test_logits_and_gradients_are_those_of_the_cpu(device):
    model, tokens, lengths = models()
    codes = torch.randint(0, 32, (16, 3))
    targets = model.vocabulary.tokens(codes)
    found, gradients = [], []
    for place in ("cpu", device):
        model.to(place).zero_grad()
        logits = model(tokens.to(place), lengths.to(place), targets.to(place))
        sum(F.cross_entropy(scores, codes[:, level].to(place)) for level, scores in enumerate(logits)).backward()
        found.append([scores.detach().cpu() for scores in logits])
        gradients.append([weight.grad.cpu() for weight in model.parameters()])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-2)


def test_beams_with_masks_are_those_of_the_cpu(device):
    model, tokens, lengths = models()
    model.eval()
    mask, seen = torch.rand(3000) < 0.5, torch.randint(1, 3001, (16, 40))
    lists, whole = [], []
    for place in ("cpu", device):
        model.to(place)
        trie = catalogue(place)
        with torch.no_grad():
            memory = model.encode(tokens.to(place), lengths.to(place))
        limits = {"mask": mask.to(place), "exclude": seen.to(place)}
        lists.append(search_beams(model, memory, trie, 30, 10, **limits))
        whole.append(score_items(model, memory, trie).cpu())
    torch.testing.assert_close(lists[0].scores, lists[1].scores.cpu(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(whole[0], whole[1], atol=1e-3, rtol=1e-3)
    assert (lists[0].items == lists[1].items.cpu()).float().mean() > 0.95  # equal but for nearly equal scores


def test_bfloat16_training_lowers_the_loss(cuda):
    model, tokens, lengths = models()
    model.to(cuda).train()
    codes = torch.randint(0, 32, (16, 3), device=cuda)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        with torch.autocast(cuda.type, torch.bfloat16):
            logits = model(tokens.to(cuda), lengths.to(cuda), model.vocabulary.tokens(codes))
            loss = sum(F.cross_entropy(scores.float(), codes[:, level]) for level, scores in enumerate(logits))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_logits_processor_works_on_the_device(device):
    trie = catalogue(device)
    processor = TrieLogitsProcessor(trie, 1, 0)
    rows = torch.cat([torch.zeros(5, 1, dtype=torch.int64), trie.codes().cpu()[:5, :1].long()], 1).to(device)
    left = processor(rows, torch.zeros(5, 32, device=device)).isfinite()
    for row in range(5):
        children, there = trie.expand(1, trie.walk(rows[row, 1:]))
        assert left[row].nonzero().flatten().tolist() == trie.tokens[1][children[there], 0].tolist()
