"""Sub-layers of a Transformer on a CPU whose forward and backward passes are written out.

What makes such layers slow on a CPU is not arithmetic but memory: every intermediate tensor is written, kept and read
again. Here tokens go through a whole sub-layer a block at a time, so that a block stays in the cache; what the backward
pass can cheaply compute again is not kept; and dropout costs 8 random bits an element, whose outcome is kept, where
tensors are large, in the sign or the zeros of a tensor that is kept anyway. Results are those of the plain composition
of the same operations, which is what other devices run (:mod:`genrec.nets.attention`, :mod:`genrec.nets.t5`). Second
derivatives do not exist. Knows nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Part", "Side", "add_dropped_linear", "attention", "dropout", "norm_linear", "relu_feed_forward", "usable"]

_BLOCK = 512  # tokens worked on at once: 2 MiB of a feed-forward layer of width 1,024


def usable(x: Tensor) -> bool:
    """True where these forms are for a tensor: on a CPU, in float32 or bfloat16, and nothing is being compiled."""
    fitting = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return fitting and not torch.compiler.is_compiling()


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Data type of products: that of autocast where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _mask(shape: torch.Size, p: float, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Tensor:
    """0 with probability ``p``, else 1.

    Eight random bits are compared with a threshold; where p is no multiple of 1 / 256, the threshold is drawn too.
    """
    count = shape.numel()
    # Eight elements share one draw of 64 bits: drawing them is what dropout costs.
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    # -128, since the eight bits are read as a signed number.
    threshold = math.floor(256 * p + torch.rand(()).item()) - 128
    mask = torch.empty(shape, dtype=dtype) if out is None else out
    return torch.ge(words.view(torch.int8)[:count].view(shape), threshold, out=mask)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = _mask(x.shape, p, x.dtype).mul_(1 / (1 - p))
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None


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
            # Turned once a call, not once a block.
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
            # Computed again: keeping the normed rows would write and read a tensor as large as x.
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
        with torch.autocast("cpu", enabled=False):
            product = (inner.to(dtype) @ weight.to(dtype).t()).to(x.dtype)
            masks = [_mask(product.shape, p, x.dtype).mul_(1 / (1 - p))] if p else []
            ctx.save_for_backward(inner, weight, *masks)
            return torch.addcmul(x, product, masks[0]) if p else x + product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inner, weight, *masks = ctx.saved_tensors
        grad = grads[0]
        above = (grad * masks[0] if masks else grad).to(inner.dtype)
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
        ctx.eps = eps
        hidden, masks = [], []
        with torch.autocast("cpu", enabled=False):
            raised, lowered = up.to(dtype).t(), down.to(dtype).t()
            out = torch.empty_like(x)
            for part in _blocks(len(x)):
                rows = x[part].float()
                inner = torch.mm((rows * _inverse_rms(rows, eps)).mul_(norm).to(dtype), raised).relu_()
                if p:
                    inner.mul_(_mask(inner.shape, p, dtype))
                product = torch.mm(inner, lowered).float()
                if p:  # one mask with the factors of both dropouts
                    masks.append(_mask(product.shape, p).mul_((1 - p) ** -2))
                    product.mul_(masks[-1])
                torch.add(rows, product, out=out[part])
                if keep:
                    hidden.append(inner)
        ctx.save_for_backward(x, norm, up, down, *hidden, *masks)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, up, down, *rest = ctx.saved_tensors
        parts = _blocks(len(x))
        hidden, masks = rest[: len(parts)], rest[len(parts) :]
        grad, dtype = grads[0], (hidden[0].dtype if hidden else x.dtype)
        raise_matrix, lower_matrix = up.to(dtype), down.to(dtype)
        grad_x, grad_norm = torch.empty_like(x), torch.zeros_like(norm)
        grad_up, grad_down = torch.zeros_like(up), torch.zeros_like(down)
        for number, part in enumerate(parts):
            rows, above, inner = x[part].float(), grad[part], hidden[number]
            below = (above * masks[number] if masks else above).to(dtype)
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
class Side:
    """The queries, or the keys, of some rows: packed tokens and how they stand side by side.

    Attributes
    ----------
    tokens : slice
        Among the packed tokens.
    width : int
        What rows are padded to.
    padded : int64 Tensor [b * width] or None
        Packed token that each place shows (some token of the row where it is padding); None where nothing is padded.
    places : int64 Tensor or None
        Place of each token in the flattened [b * width].
    real : float Tensor [b, 1, width, 1] or None
        0 where a place is padding, else 1.
    """

    tokens: slice
    width: int
    padded: Tensor | None = None
    places: Tensor | None = None
    real: Tensor | None = None

    def unfold(self, packed: Tensor, rows: int, heads: int, count: int) -> Tensor:
        """Packed [S, count * H * d] to [count, b * H, width, d]."""
        mine = packed[self.tokens] if self.padded is None else packed.index_select(0, self.padded)
        shaped = mine.view(rows, self.width, count, heads, -1).permute(2, 0, 3, 1, 4)
        return shaped.reshape(count, rows * heads, self.width, -1)

    def fold(self, unfolded: list[Tensor], rows: int, packed: Tensor) -> None:
        """The reverse: tensors [b * H, width, d] into their places in packed [S, count * H * d]."""
        target = packed[self.tokens]
        wide = target if self.padded is None else target.new_empty(rows * self.width, target.shape[1])
        heads = unfolded[0].shape[0] // rows
        shaped = wide.view(rows, self.width, len(unfolded), heads, -1)
        for number, part in enumerate(unfolded):
            shaped[:, :, number].copy_(part.unflatten(0, (rows, heads)).transpose(1, 2))
        if self.places is not None:
            torch.index_select(wide, 0, self.places, out=target)


@dataclass(frozen=True)
class Part:
    """Rows of an attention that are computed together.

    Attributes
    ----------
    rows : int
        b.
    queries, keys : Side
        Of Q and K places a row.
    hidden : float Tensor or None
        Added to the scores, broadcast to [b, H, Q, K]: -inf where a key must not be seen, as all padded ones.
    """

    rows: int
    queries: Side
    keys: Side
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
        out = source.new_empty(len(source), source.shape[1] // (3 if memory is None else 1))
        saved: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for part in parts:
                if memory is None:
                    blocks = [part.keys.unfold(source, part.rows, heads, 3)]
                else:
                    blocks = [part.queries.unfold(source, part.rows, heads, 1)]
                    blocks.append(part.keys.unfold(memory, part.rows, heads, 2))
                query, key, value = (tensor for block in blocks for tensor in block)
                scores = torch.bmm(query, key.transpose(1, 2)).float().unflatten(0, (part.rows, heads))
                if bias is not None:
                    scores += bias[:, : part.queries.width, : part.keys.width]
                if part.hidden is not None:
                    scores += part.hidden
                weights = scores.softmax(-1).flatten(0, 1)
                passed = weights
                if p:  # what is dropped is remembered by a minus sign
                    mask = _mask(weights.shape, p, out=scores.view(weights.shape))
                    weights = weights.copysign_(mask.sub_(0.5))
                    passed = weights.relu()
                mixed = torch.bmm(passed.to(value.dtype), value)
                if p:
                    mixed.mul_(1 / (1 - p))
                part.queries.fold([mixed], part.rows, out)
                if keep:
                    saved += [weights.to(source.dtype), *blocks]
        ctx.save_for_backward(*saved)
        ctx.sizes = source.shape, None if memory is None else memory.shape, None if bias is None else bias.shape
        ctx.parts, ctx.heads, ctx.p = parts, heads, p
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, heads, saved = grads[0], ctx.heads, list(ctx.saved_tensors)
        grad_source = grad.new_empty(ctx.sizes[0])
        grad_memory = None if ctx.sizes[1] is None else grad.new_empty(ctx.sizes[1])
        grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = torch.zeros(ctx.sizes[2])
        step = 2 if grad_memory is None else 3
        for number, part in enumerate(ctx.parts):
            weights, *blocks = saved[number * step : (number + 1) * step]
            query, key, value = (tensor for block in blocks for tensor in block)
            above = part.queries.unfold(grad, part.rows, heads, 1)[0]
            if part.queries.real is not None:
                above = (above.unflatten(0, (part.rows, heads)) * part.queries.real.to(above.dtype)).flatten(0, 1)
            if ctx.p:
                above = above * (1 / (1 - ctx.p))
            passed = weights.relu() if ctx.p else weights
            grad_value = torch.bmm(passed.transpose(1, 2), above)
            moved = torch.bmm(above, value.transpose(1, 2))
            if ctx.p:
                moved = torch.ops.aten.threshold_backward(moved, weights, 0)
                weights = weights.abs()
            # Dropped weights passed nothing on but were in the softmax, so its backward needs their size: hence abs.
            scores = torch._softmax_backward_data(moved.float(), weights.float(), -1, torch.float32)
            if grad_bias is not None:
                whole = scores.unflatten(0, (part.rows, heads)).sum(0)
                grad_bias[:, : part.queries.width, : part.keys.width] += whole
            scores = scores.to(key.dtype)
            grad_query, grad_key = torch.bmm(scores, key), torch.bmm(scores.transpose(1, 2), query)
            if grad_memory is None:
                part.keys.fold([grad_query, grad_key, grad_value], part.rows, grad_source)
            else:
                part.queries.fold([grad_query], part.rows, grad_source)
                part.keys.fold([grad_key, grad_value], part.rows, grad_memory)
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


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum in float32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
