"""Losses against the plain formulas, draws against their contract, attention against PyTorch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from recbase.nn.draws import draw_integers, draw_uniform
from recbase.nn.losses import (
    binary_cross_entropy,
    gbce_exponent,
    info_nce,
    linear_cross_entropy,
    sampled_cross_entropy,
)
from recbase.nn.transformer import Encoder, Packing, attention_mask


@pytest.mark.parametrize("size", [1.0, 40.0])  # small logits take the fused shift, large ones the row maximum
def test_linear_cross_entropy_equals_the_plain_one(size):
    torch.manual_seed(0)
    states, table = torch.randn(300, 16) * size, torch.randn(70, 16)
    targets = torch.randint(70, (300,))
    results = []
    for own in (True, False):
        h, w = states.clone().requires_grad_(), table.clone().requires_grad_()
        if own:
            loss = linear_cross_entropy(h, w, targets, 1.3)
        else:
            loss = F.cross_entropy(1.3 * h @ w.T, targets, reduction="sum")
        (loss * 0.5).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_linear_cross_entropy_of_no_rows_is_zero():
    table = torch.randn(5, 4, requires_grad=True)
    loss = linear_cross_entropy(torch.zeros(0, 4), table, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert not table.grad.any()


def test_sampled_softmax_leaves_accidental_hits_out():
    torch.manual_seed(0)
    states, table, targets = torch.randn(4, 8), torch.randn(9, 8), torch.tensor([0, 3, 3, 8])
    with_hits = sampled_cross_entropy(states, table, targets, torch.tensor([3, 5, 6]))
    expected = torch.zeros(())
    for row, target in enumerate(targets.tolist()):
        columns = [target] + [wrong for wrong in (3, 5, 6) if wrong != target]
        expected += F.cross_entropy((states[row] @ table[columns].T)[None], torch.tensor([0]))
    torch.testing.assert_close(with_hits, expected)


def test_binary_cross_entropy_and_gbce():
    states, table = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss = binary_cross_entropy(states, table, torch.tensor([0]), torch.tensor([[1, 2, 0]]), 0.5)
    expected = (
        0.5 * F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(2.0)) + F.softplus(torch.tensor(3.0))
    ) / 4
    torch.testing.assert_close(loss, expected)
    assert gbce_exponent(10, 101, 0.0) == pytest.approx(1.0)  # t = 0 is plain BCE
    assert gbce_exponent(10, 101, 1.0) == pytest.approx(0.1)  # t = 1 gives the sampling rate


def test_info_nce_masks_twins_and_offsets():
    anchors, candidates = torch.eye(3)[:2], torch.cat([torch.ones(1, 3), torch.eye(3)[:2]])
    loss = info_nce(anchors, candidates, 0.5, first=1)
    logits = F.normalize(anchors) @ F.normalize(candidates).T / 0.5
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([1, 2]), reduction="sum"))
    ids = torch.tensor([7, 7])
    masked = info_nce(anchors, candidates, 0.5, 1, ids, torch.tensor([1, 7, 7]))
    logits[0, 2] = logits[1, 1] = float("-inf")
    torch.testing.assert_close(masked, F.cross_entropy(logits, torch.tensor([1, 2]), reduction="sum"))


def test_draws_depend_on_coordinates_alone():
    rows, steps = torch.arange(100)[:, None], torch.arange(50)
    whole = draw_uniform(3, rows, steps)
    assert torch.equal(whole[20:30, :5], draw_uniform(3, rows[20:30], steps[:5]))
    assert not torch.equal(whole, draw_uniform(4, rows, steps))
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(float(whole.mean()) - 0.5) < 0.02
    assert abs(float(whole.var()) - 1 / 12) < 0.005
    counts = torch.bincount(draw_integers(9, 7, torch.arange(70_000)), minlength=7)
    assert counts.min() > 9_600
    assert counts.max() < 10_400


def test_guard_gives_a_lonely_query_itself():
    mask = attention_mask(torch.tensor([[False, True, True], [False, False, False]]), causal=True)[:, 0]
    assert mask[0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]
    assert mask[1].tolist() == torch.eye(3, dtype=torch.bool).tolist()


@pytest.mark.parametrize("norm", ["post", "pre", "pre-query"])
@pytest.mark.parametrize("causal", [True, False])
def test_packing_changes_nothing_and_causality_holds(norm, causal):
    torch.manual_seed(0)
    encoder = Encoder(2, 16, 2, 32, 0.0, norm=norm, causal=causal).eval()
    lengths = torch.tensor([5, 2, 3])
    x = torch.randn(3, 5, 16)
    packing = Packing.of(lengths, 5)
    packed = encoder(packing.pack(x), packing)
    for row, length in enumerate(lengths.tolist()):
        alone = Packing.of(lengths[row : row + 1], length)
        expected = encoder(x[row, :length], alone)
        torch.testing.assert_close(packing.unpack(packed)[row, :length], expected, rtol=1e-5, atol=1e-5)
    changed = x.clone()
    changed[:, 2:] += 1
    again = packing.unpack(encoder(packing.pack(changed), packing))
    same = torch.equal(again[:, :2], packing.unpack(packed)[:, :2])
    assert same == causal


def test_post_ln_block_equals_pytorch():
    torch.manual_seed(0)
    ours = Encoder(1, 16, 4, 32, 0.0, eps=1e-5, causal=False).eval()
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True).eval()
    block = ours.blocks[0]
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([block.attention.query.weight, block.attention.key_value.weight])
        )
        theirs.self_attn.in_proj_bias.copy_(torch.cat([block.attention.query.bias, block.attention.key_value.bias]))
        theirs.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        theirs.linear1.load_state_dict(block.up.state_dict())
        theirs.linear2.load_state_dict(block.down.state_dict())
        x = torch.randn(2, 4, 16)
        packing = Packing.of(torch.tensor([4, 4]), 4)
        torch.testing.assert_close(packing.unpack(ours(packing.pack(x), packing)), theirs(x), rtol=1e-5, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="--dim 10 must be a multiple of --heads, got 4"):
        Encoder(1, 10, 4, 16, 0.0)
