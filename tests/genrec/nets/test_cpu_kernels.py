"""Sub-layers with written-out backward passes against the plain composition, with the same dropout."""

import pytest
import torch
from torch.nn import functional as F

from genrec.nets import cpu_kernels as fused
from genrec.nets.attention import Ragged, attend, attend_causal, attend_memory, attend_prefixes, attend_self

EPS = 1e-6


def kept(shape, p):
    """Which elements dropout keeps, in the order in which the random bits are drawn."""
    return fused._mask(torch.Size(shape), p)


def gradients(function, *inputs):
    leaves = [given.detach().clone().requires_grad_() for given in inputs]
    torch.manual_seed(5)
    result = function(*leaves)
    torch.manual_seed(6)
    found = torch.autograd.grad(result, leaves, torch.randn_like(result))
    return result.detach(), found


def compare(left, right, *inputs):
    (ours, own), (plain, their) = gradients(left, *inputs), gradients(right, *inputs)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(own, their, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_dropout_passes_the_gradient_on():
    x = torch.randn(100, 30, requires_grad=True)
    y = fused.dropout(x, 0.1, True)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y != 0) / 0.9)
    torch.testing.assert_close(y, x.detach() * x.grad)
    assert fused.dropout(x, 0.1, False) is x


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.001])
def test_dropout_zeroes_the_right_share_everywhere(p):
    masks = torch.stack([fused._mask(torch.Size([40, 50]), p) for _ in range(400)])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    share = 1 - masks.mean().item()
    # thresholds are drawn call by call, so that shares of calls differ by up to 1 / 256
    assert share == pytest.approx(p, abs=5 * ((p * (1 - p) / 800_000) + (1 / 512) ** 2 / 400) ** 0.5)
    for places in (masks.mean((0, 1)), masks.mean((0, 2))):
        assert (1 - places).sub(p).abs().max() < 6 * (p * (1 - p) / 16_000) ** 0.5 + 0.001


def test_masks_follow_the_seed_and_neighbours_are_independent():
    torch.manual_seed(3)
    mask = fused._mask(torch.Size([400_001]), 0.5)
    torch.manual_seed(3)
    assert torch.equal(mask, fused._mask(torch.Size([400_001]), 0.5))
    for distance in (1, 2, 7, 8, 16):
        both = (mask[:-distance] * mask[distance:]).mean().item()
        assert both == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("rows", [40, 700])
def test_norm_and_linear(rows):
    x, norm, weight = torch.randn(rows, 16), torch.rand(16) + 0.5, torch.randn(24, 16)
    compare(
        lambda *given: fused.norm_linear(*given, EPS),
        lambda x, norm, weight: F.rms_norm(x, (16,), norm, EPS) @ weight.T,
        x,
        norm,
        weight,
    )


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_linear_dropped_and_added(p):
    def plain(x, inner, weight):
        product = inner @ weight.T
        return x + (product * kept(product.shape, p) / (1 - p) if p else product)

    x, inner, weight = torch.randn(9, 5, 16), torch.randn(9, 5, 24), torch.randn(16, 24)
    compare(lambda *given: fused.add_dropped_linear(*given, p), plain, x, inner, weight)


@pytest.mark.parametrize(("rows", "p"), [(40, 0.0), (700, 0.0), (40, 0.3), (512, 0.3)])
def test_feed_forward(rows, p):
    def plain(x, norm, up, down):
        inner = (F.rms_norm(x, (16,), norm, EPS) @ up.T).relu()
        inner = inner * kept(inner.shape, p) / (1 - p) if p else inner
        product = inner @ down.T
        return x + (product * kept(product.shape, p) / (1 - p) if p else product)

    x, norm, up, down = torch.randn(rows, 16), torch.rand(16) + 0.5, torch.randn(32, 16) / 4, torch.randn(16, 32) / 4
    compare(lambda *given: fused.relu_feed_forward(*given, EPS, p), plain, x, norm, up, down)


def rows_of(ragged, packed, row):
    first = int(ragged.lengths[:row].sum())
    return packed[first : first + int(ragged.lengths[row])]


@pytest.mark.parametrize("count", [3, 60])
def test_self_attention_row_by_row(count):
    heads, lengths = 2, torch.randint(1, 30, (count,))
    ragged = Ragged.of(lengths, 30)
    qkv, bias = torch.randn(int(lengths.sum()), 3 * heads * 4), torch.randn(heads, 30, 30)

    def plain(qkv, bias):
        done = []
        for row in range(count):
            query, key, value = rows_of(ragged, qkv, row).unflatten(1, (3, heads, 4)).permute(1, 2, 0, 3)
            width = query.shape[1]
            weights = (query @ key.transpose(1, 2) + bias[:, :width, :width]).softmax(-1)
            done.append((weights @ value).transpose(0, 1).flatten(1))
        return torch.cat(done)

    compare(lambda *given: attend_self(given[0], heads, ragged, given[1]), plain, qkv, bias)


def test_memory_attention_row_by_row():
    heads, lengths = 2, torch.randint(1, 30, (50,))
    ragged = Ragged.of(lengths, 30)
    query, memory = torch.randn(50, 3, heads * 4), torch.randn(int(lengths.sum()), 2 * heads * 4)

    def plain(query, memory):
        done = []
        for row in range(50):
            key, value = rows_of(ragged, memory, row).unflatten(1, (2, heads, 4)).permute(1, 2, 0, 3)
            asked = query[row].unflatten(1, (heads, 4)).transpose(0, 1)
            done.append(((asked @ key.transpose(1, 2)).softmax(-1) @ value).transpose(0, 1).flatten(1))
        return torch.stack(done)

    compare(lambda *given: attend_memory(*given, heads, ragged), plain, query, memory)


def test_causal_attention_and_prefixes_of_items():
    heads, width = 2, 4
    later = torch.full((width, width), -torch.inf).triu(1)
    bias = torch.randn(heads, width, width) + later
    qkv = torch.randn(7, width, 3 * heads * 4)

    def plain(qkv):
        query, key, value = qkv.unflatten(2, (3, heads, 4)).unbind(2)
        return attend(query, key, value, bias, 0.0, False).flatten(2)

    compare(lambda given: attend_causal(given, heads, bias), plain, qkv)

    items, group = torch.randint(1, 6, (20,)), 3
    queries, keys = Ragged.of(items * group, 15), Ragged.of(items * group + 1, 16)
    query, memory = torch.randn(int(queries.lengths.sum()), heads * 4), torch.randn(int(keys.lengths.sum()), 16)

    def by_row(query, memory):
        done = []
        for row in range(20):
            key, value = rows_of(keys, memory, row).unflatten(1, (2, heads, 4)).permute(1, 2, 0, 3)
            asked = rows_of(queries, query, row).unflatten(1, (heads, 4)).transpose(0, 1)
            seen = torch.arange(key.shape[1]) < 1 + (torch.arange(asked.shape[1]) // group + 1)[:, None] * group
            scores = (asked @ key.transpose(1, 2)).masked_fill(~seen, -torch.inf)
            done.append((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
        return torch.cat(done)

    compare(lambda *given: attend_prefixes(*given, heads, queries, keys, group), by_row, query, memory)


def test_dropout_of_attention_weights():
    heads, rows, width, p = 2, 5, 6, 0.3
    ragged = Ragged.of(torch.full((rows,), width), width)
    qkv = torch.randn(rows * width, 3 * heads * 4)

    def plain(qkv):
        query, key, value = qkv.unflatten(0, (rows, width)).unflatten(2, (3, heads, 4)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        weights = weights * kept((rows * heads, width, width), p).view(weights.shape) / (1 - p)
        return (weights @ value).transpose(1, 2).flatten(2).flatten(0, 1)

    compare(lambda given: attend_self(given, heads, ragged, None, p, True), plain, qkv)


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    x, norm, up, down = torch.randn(9, 16), torch.ones(16), torch.randn(32, 16), torch.randn(16, 32)
    with torch.no_grad():
        assert not fused.relu_feed_forward(x, norm, up, down, EPS, 0.0).requires_grad
    assert not fused.usable(torch.zeros(2, dtype=torch.float64))
