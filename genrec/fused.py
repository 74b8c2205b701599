"""Sub-layers of a Transformer on a CPU whose forward and backward passes are written out.

What makes such layers slow on a CPU is not arithmetic but memory: every intermediate tensor is written, kept and read
again. Here tokens go through a whole sub-layer a block at a time, so that a block stays in the cache; what the backward
pass can cheaply compute again is not kept; and dropout costs 16 random bits an element, drawn four at a time, whose
outcome is kept in the sign or the zeros of a tensor that is kept anyway. Results are those of the plain composition of
the same operations, which is what other devices run (:mod:`genrec.attention`, :mod:`genrec.t5`). Second derivatives do
not exist. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Part", "add_dropped_linear", "attention", "dropout", "norm_linear", "relu_feed_forward", "usable"]

_BLOCK = 512  # tokens worked on at once: 2 MiB of a feed-forward layer of width 1,024


def usable(x: Tensor) -> bool:
    """Whether these forms are meant for a tensor: it is on a CPU, in float32 or bfloat16."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What products are computed in: that of autocast where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _bits(count: int) -> Tensor:
    """Random integers of 16 bits, int16 [count]."""
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count]


def _threshold(p: float) -> int:
    """Bits below it have probability ``p``."""
    return round(p * 65536) - 32768


def _keep_(x: Tensor, p: float) -> Tensor:
    """Zero elements of a contiguous tensor in place, each with probability ``p``."""
    mask = torch.empty_like(x)
    torch.ge(_bits(x.numel()).view(x.shape), _threshold(p), out=mask)
    return x.mul_(mask)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = _bits(x.numel()).view(x.shape) >= _threshold(p)
        ctx.save_for_backward(kept)
        ctx.scale = 1 / (1 - p)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grads[0] * kept).mul_(ctx.scale), None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As ``torch.nn.functional.dropout``, with cheaper random numbers on a CPU."""
    if not training or not p or not usable(x):
        return F.dropout(x, p, training)
    result: Tensor = _Dropout.apply(x, p)
    return result


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """[S, D] -> [S, 1]."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_backward(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor, grad_weight: Tensor) -> Tensor:
    """Gradient of x from that of ``x * inverse * weight``; adds to the gradient of the weight."""
    unit = x * inverse
    grad_weight += (grad * unit).sum(0)
    inner = grad * weight
    return inner.addcmul_(unit, (inner * unit).mean(-1, keepdim=True), value=-1).mul_(inverse)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, weight: Tensor, eps: float) -> Tensor:
        dtype = _compute_dtype(weight)
        with torch.autocast("cpu", enabled=False):
            turned = weight.to(dtype).t()
            out = torch.empty(len(x), len(weight), dtype=dtype)
            for part in _blocks(len(x)):
                rows = x[part].float()
                torch.mm((rows * _inverse_rms(rows, eps)).mul_(norm).to(dtype), turned, out=out[part])
        ctx.save_for_backward(x, norm, weight)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, norm, weight = ctx.saved_tensors
        grad, dtype = grads[0], grads[0].dtype
        matrix = weight.to(dtype)
        grad_x, grad_norm, grad_weight = torch.empty_like(x), torch.zeros_like(norm), torch.zeros_like(weight)
        for part in _blocks(len(x)):
            rows, above = x[part].float(), grad[part]
            inverse = _inverse_rms(rows, ctx.eps)
            _add_product(grad_weight, above.t(), (rows * inverse).mul_(norm).to(dtype))
            grad_x[part] = _norm_backward((above @ matrix).float(), rows, inverse, norm, grad_norm)
        return grad_x, grad_norm, grad_weight, None


def norm_linear(x: Tensor, norm: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Linear layer without bias over an RMS norm: [..., D] -> [..., O].

    Parameters
    ----------
    x : Tensor [..., D]
    norm : Tensor [D]
        Weight of the norm.
    weight : Tensor [O, D]
    eps : float
    """
    result: Tensor = _NormLinear.apply(x.reshape(-1, x.shape[-1]), norm, weight, eps)
    return result.unflatten(0, x.shape[:-1])


class _AddDroppedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: Tensor, weight: Tensor, p: float) -> Tensor:
        dtype = _compute_dtype(weight)
        ctx.scale = 1 / (1 - p)
        with torch.autocast("cpu", enabled=False):
            product = inner.to(dtype) @ weight.to(dtype).t()
            if p:
                kept = _bits(product.numel()).view(product.shape) >= _threshold(p)
                product = (product * kept).mul_(ctx.scale)
                ctx.save_for_backward(inner, weight, kept)
            else:
                ctx.save_for_backward(inner, weight)
        return x + product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inner, weight, *kept = ctx.saved_tensors
        grad = grads[0]
        above = (grad * kept[0]).mul_(ctx.scale).to(inner.dtype) if kept else grad.to(inner.dtype)
        grad_weight = torch.zeros_like(weight)
        _add_product(grad_weight, above.t(), inner)
        return grad, above @ weight.to(inner.dtype), grad_weight, None


def add_dropped_linear(x: Tensor, inner: Tensor, weight: Tensor, p: float) -> Tensor:
    """``x + dropout(inner @ weight.T)``: [..., D] and [..., I] -> [..., D]."""
    flat = x.reshape(-1, x.shape[-1]), inner.reshape(-1, inner.shape[-1])
    result: Tensor = _AddDroppedLinear.apply(*flat, weight, p)
    return result.view(x.shape)


class _ReluFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, up: Tensor, down: Tensor, eps: float, p: float, keep: bool
    ) -> Tensor:
        dtype = _compute_dtype(up)
        ctx.scale, ctx.eps = (1 - p) ** -2, eps  # both dropouts' factors at once
        hidden, kept = [], []
        with torch.autocast("cpu", enabled=False):
            raised, lowered = up.to(dtype).t(), down.to(dtype).t()
            out = torch.empty_like(x)
            for part in _blocks(len(x)):
                rows = x[part].float()
                inner = torch.mm((rows * _inverse_rms(rows, eps)).mul_(norm).to(dtype), raised).relu_()
                if p:
                    _keep_(inner, p)
                product = torch.mm(inner, lowered).float()
                if p:
                    kept.append(_bits(product.numel()).view(product.shape) >= _threshold(p))
                    product.mul_(kept[-1]).mul_(ctx.scale)
                torch.add(rows, product, out=out[part])
                if keep:
                    hidden.append(inner)
        ctx.save_for_backward(x, norm, up, down, *hidden, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, up, down, *rest = ctx.saved_tensors
        parts = _blocks(len(x))
        hidden, kept = rest[: len(parts)], rest[len(parts) :]
        grad, dtype = grads[0], (hidden[0].dtype if hidden else x.dtype)
        raise_matrix, lower_matrix = up.to(dtype), down.to(dtype)
        grad_x, grad_norm = torch.empty_like(x), torch.zeros_like(norm)
        grad_up, grad_down = torch.zeros_like(up), torch.zeros_like(down)
        for number, part in enumerate(parts):
            rows, above, inner = x[part].float(), grad[part], hidden[number]
            below = ((above * kept[number]).mul_(ctx.scale) if kept else above).to(dtype)
            _add_product(grad_down, below.t(), inner)
            # what ReLU or dropout made zero passes no gradient on
            middle = torch.ops.aten.threshold_backward(below @ lower_matrix, inner, 0)
            inverse = _inverse_rms(rows, ctx.eps)
            _add_product(grad_up, middle.t(), (rows * inverse).mul_(norm).to(dtype))
            entered = _norm_backward((middle @ raise_matrix).float(), rows, inverse, norm, grad_norm)
            torch.add(above, entered, out=grad_x[part])
        return grad_x, grad_norm, grad_up, grad_down, None, None, None


def relu_feed_forward(x: Tensor, norm: Tensor, up: Tensor, down: Tensor, eps: float, p: float) -> Tensor:
    """``x + dropout(dropout(relu(rms_norm(x) @ up.T)) @ down.T)``: [..., D] -> [..., D].

    Parameters
    ----------
    x : Tensor [..., D]
    norm : Tensor [D]
    up : Tensor [F, D]
    down : Tensor [D, F]
    eps : float
    p : float
        Probability of dropout; 0 outside of training.
    """
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _ReluFeedForward.apply(flat, norm, up, down, eps, p, torch.is_grad_enabled())
    return result.view(x.shape)


@dataclass(frozen=True)
class Part:
    """Rows of an attention that are computed together.

    Attributes
    ----------
    rows : int
        b.
    queries, keys : slice
        Among the packed tokens.
    query_width, key_width : int
        Q and K: what rows are padded to.
    query_index, key_index : int64 Tensor or None
        Place of each token in the flattened [b * width]; None where nothing is padded.
    hidden : float Tensor or None
        Added to the scores, broadcast to [b, H, Q, K]: -inf where a key must not be seen.
    """

    rows: int
    queries: slice
    keys: slice
    query_width: int
    key_width: int
    query_index: Tensor | None = None
    key_index: Tensor | None = None
    hidden: Tensor | None = None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        memory: Tensor | None,
        bias: Tensor | None,
        parts: list[Part],
        heads: int,
        p: float,
        keep: bool,
    ) -> Tensor:
        width = source.shape[1] if memory is not None else source.shape[1] // 3
        out = source.new_empty(len(source), width)
        saved = []
        with torch.autocast("cpu", enabled=False):
            for part in parts:
                query, key, value = _heads(part, source, memory, heads)
                scores = torch.bmm(query, key.transpose(1, 2)).float().unflatten(0, (part.rows, heads))
                if bias is not None:
                    scores += bias[:, : part.query_width, : part.key_width]
                if part.hidden is not None:
                    scores += part.hidden
                weights = scores.softmax(-1).flatten(0, 1)
                passed = weights
                if p:  # what is dropped is remembered by a minus sign
                    kept = torch.ge(_bits(weights.numel()), _threshold(p), out=scores.view(-1)).sub_(0.5)
                    weights = weights.copysign_(kept.view(weights.shape))
                    passed = weights.relu()
                mixed = torch.bmm(passed.to(value.dtype), value)
                if p:
                    mixed.mul_(1 / (1 - p))
                out[part.queries] = _packed(mixed, part.rows, part.query_index)
                if keep:
                    saved.append(weights.to(source.dtype))
        ctx.save_for_backward(source, memory, bias, *saved)
        ctx.parts, ctx.heads, ctx.p = parts, heads, p
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        source, memory, bias, *saved = ctx.saved_tensors
        heads = ctx.heads
        grad_source = torch.empty_like(source)
        grad_memory = None if memory is None else torch.empty_like(memory)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        width = source.shape[1] if memory is not None else source.shape[1] // 3
        for part, weights in zip(ctx.parts, saved, strict=True):
            query, key, value = _heads(part, source, memory, heads)
            above = _split(grads[0], part.queries, part.rows, part.query_width, part.query_index, heads)
            if ctx.p:
                above = above * (1 / (1 - ctx.p))
            passed = weights.relu() if ctx.p else weights
            grad_value = torch.bmm(passed.transpose(1, 2), above)
            moved = torch.bmm(above, value.transpose(1, 2))
            if ctx.p:
                moved = torch.ops.aten.threshold_backward(moved, weights, 0)
                weights = weights.abs()
            scores = torch._softmax_backward_data(moved.float(), weights.float(), -1, torch.float32)
            if grad_bias is not None:
                whole = scores.unflatten(0, (part.rows, heads)).sum(0)
                grad_bias[:, : part.query_width, : part.key_width] += whole
            scores = scores.to(key.dtype)
            grad_query, grad_key = torch.bmm(scores, key), torch.bmm(scores.transpose(1, 2), query)
            grad_source[part.queries, :width] = _packed(grad_query, part.rows, part.query_index)
            target, first = (grad_source, width) if grad_memory is None else (grad_memory, 0)
            target[part.keys, first : first + width] = _packed(grad_key, part.rows, part.key_index)
            target[part.keys, first + width :] = _packed(grad_value, part.rows, part.key_index)
        return grad_source, grad_memory, grad_bias, None, None, None, None


def attention(
    source: Tensor, memory: Tensor | None, bias: Tensor | None, parts: list[Part], heads: int, p: float
) -> Tensor:
    """softmax(q k + bias) v with no scaling, over packed tokens.

    Parameters
    ----------
    source : Tensor [S, 3 * H * d], or [Q, H * d]
        Queries, keys and values of every token, one after the other; queries alone where there is a memory.
    memory : Tensor [S, 2 * H * d], optional
        Keys and values.
    bias : Tensor [H, Q, K], optional
        Added to the scores, cut to the width of a part.
    parts : list of Part
        Together all tokens, each once.
    heads : int
    p : float
        Probability of dropout of a weight; 0 outside of training.

    Returns
    -------
    Tensor [S or Q, H * d]
    """
    result: Tensor = _Attention.apply(source, memory, bias, parts, heads, p, torch.is_grad_enabled())
    return result


def _heads(part: Part, source: Tensor, memory: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a part, [b * H, width, d] each."""
    if memory is None:
        columns = source.unflatten(1, (3, -1)).unbind(1)
        query, key, value = columns
    else:
        query = source
        key, value = memory.unflatten(1, (2, -1)).unbind(1)
    keys = part.keys, part.rows, part.key_width, part.key_index, heads
    return (
        _split(query, part.queries, part.rows, part.query_width, part.query_index, heads),
        _split(key, *keys),
        _split(value, *keys),
    )


def _split(packed: Tensor, tokens: slice, rows: int, width: int, index: Tensor | None, heads: int) -> Tensor:
    """Packed tokens [S, H * d] of a part to [b * H, width, d], zero where padded."""
    mine = packed[tokens]
    if index is not None:
        mine = mine.new_zeros(rows * width, mine.shape[1]).index_copy_(0, index, mine)
    return mine.unflatten(1, (heads, -1)).unflatten(0, (rows, width)).transpose(1, 2).reshape(rows * heads, width, -1)


def _packed(rows: Tensor, count: int, index: Tensor | None) -> Tensor:
    """[b * H, width, d] to packed tokens [s, H * d]."""
    flat = rows.unflatten(0, (count, -1)).transpose(1, 2).flatten(2).flatten(0, 1)
    return flat if index is None else flat[index]


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum in float32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
