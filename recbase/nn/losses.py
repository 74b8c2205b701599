"""Losses over a table of items or codes, computed without ever holding all logits.

Every function returns a SUM over rows; callers divide by the count of the whole step (all processes, all
micro-batches), so that gradients do not depend on how the work was cut.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from recbase.train.processes import process_count

__all__ = [
    "binary_cross_entropy",
    "gather_with_gradient",
    "gbce_exponent",
    "info_nce",
    "linear_cross_entropy",
    "sampled_cross_entropy",
]

_SAFE_SHIFT = 40.0  # exp(-2 * 40) is still a normal float32


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Softmax cross-entropy of ``scale * states @ table.T``, summed over rows, in blocks of rows.

    The gradient is computed in the forward pass while a block's logits are at hand, so that memory is one block of
    logits plus the gradients themselves, and no logit is computed twice.

    Parameters
    ----------
    states : Tensor [S, D]
    table : Tensor [N, D]
    targets : int64 Tensor [S]
        Row of ``table`` that is right for each state.
    scale : float, default 1.0
        Factor on the logits (1 / temperature).

    Returns
    -------
    Tensor []
        float32.
    """
    result: Tensor = _LinearCrossEntropy.apply(states, table, targets, scale)
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, scale: float) -> Tensor:
        wants_states, wants_table = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            total, grad_states, grad_table = _cross_entropy_blocks(
                states, table, targets, scale, wants_states, wants_table
            )
        ctx.save_for_backward(grad_states, grad_table)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_states, grad_table = ctx.saved_tensors
        grad = grads[0]
        return (
            None if grad_states is None else grad_states * grad.to(grad_states.dtype),
            None if grad_table is None else grad_table * grad.to(grad_table.dtype),
            None,
            None,
        )


def _cross_entropy_blocks(
    states: Tensor, table: Tensor, targets: Tensor, scale: float, wants_states: bool, wants_table: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    h, w = states.float() * scale, table.float()
    rows = _block_rows(h, w)
    shifts = _safe_shifts(h, w)
    total = torch.zeros((), dtype=torch.float64, device=h.device)
    grad_h = torch.empty_like(h) if wants_states else None
    grad_w = torch.zeros_like(w) if wants_table else None
    for start in range(0, len(h), rows):
        block, target = h[start : start + rows], targets[start : start + rows]
        if shifts is not None:
            shift = shifts[start : start + rows, None]
            weights = torch.addmm(-shift, block, w.T)
        else:
            weights = block @ w.T
            shift = weights.amax(1, keepdim=True)
            weights.sub_(shift)
        right = weights.gather(1, target[:, None])
        sums = weights.exp_().sum(1, keepdim=True)
        total += (sums.log() - right).sum(dtype=torch.float64)
        scaled = block / sums
        if grad_h is not None:
            grad_h[start : start + rows] = ((weights @ w) / sums - w[target]) * scale
        if grad_w is not None:
            grad_w.addmm_(weights.T, scaled)
            grad_w.index_add_(0, target, block, alpha=-1.0)
    return (
        total.float(),
        None if grad_h is None else grad_h.to(states.dtype),
        None if grad_w is None else grad_w.to(table.dtype),
    )


def _safe_shifts(h: Tensor, w: Tensor) -> Tensor | None:
    """A bound of each row's largest logit (Cauchy-Schwarz), [S], where all are small enough to be taken off instead.

    The shift is then fused into the matrix product. None on a GPU, where looking at it would wait for all that is
    under way.
    """
    if h.device.type != "cpu" or len(h) == 0:
        return None
    bound = h.norm(dim=1) * w.norm(dim=1).max()
    return bound if bool(bound.max() < _SAFE_SHIFT) else None


def _block_rows(h: Tensor, w: Tensor) -> int:
    """Rows whose logits fill a few MiB on a CPU, and a share of the memory of a GPU."""
    budget = (1 << 28) if h.device.type == "cuda" else (1 << 20)  # logits
    return max(64, budget // max(1, len(w)))


def sampled_cross_entropy(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, scale: float = 1.0
) -> Tensor:
    """Softmax cross-entropy of each target against negatives that all rows share, summed over rows.

    A negative that equals a row's target is left out of that row. Negatives are drawn uniformly, so no correction of
    the sampling probability is needed.

    Parameters
    ----------
    states : Tensor [S, D]
    table : Tensor [N, D]
    targets : int64 Tensor [S]
    negatives : int64 Tensor [M]
        Rows of ``table``.
    scale : float, default 1.0
    """
    right = (states * table[targets]).sum(1, keepdim=True).float() * scale
    wrong = (states @ table[negatives].T).float() * scale
    wrong = wrong.masked_fill(targets[:, None] == negatives[None, :], float("-inf"))
    return (torch.cat([right, wrong], 1).logsumexp(1) - right[:, 0]).sum()


def binary_cross_entropy(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, positive_exponent: float = 1.0
) -> Tensor:
    """Binary cross-entropy of one positive and M negatives a row, divided by M + 1 and summed over rows.

    With ``positive_exponent`` = 1 and M = 1 this is SASRec's loss (Kang and McAuley 2018) up to the factor 1/2, which
    Adam ignores; with :func:`gbce_exponent` it is gBCE (Petrov and Macdonald 2023).

    Parameters
    ----------
    states : Tensor [S, D]
    table : Tensor [N, D]
    targets : int64 Tensor [S]
    negatives : int64 Tensor [S, M]
        A negative that equals the row's target counts as no negative.
    positive_exponent : float, default 1.0
        Exponent of the positive's probability.
    """
    right = (states * table[targets]).sum(1).float()
    wrong = torch.einsum("sd,smd->sm", states, table[negatives]).float()
    accidental = negatives == targets[:, None]
    losses = F.softplus(wrong).masked_fill(accidental, 0.0).sum(1) + positive_exponent * F.softplus(-right)
    return losses.sum() / (negatives.shape[1] + 1)


def gbce_exponent(negatives: int, items: int, calibration: float) -> float:
    """Exponent beta of gBCE (Petrov and Macdonald 2023, eq. 13): undoes the over-confidence that sampling causes.

    Parameters
    ----------
    negatives : int
        Negatives a positive.
    items : int
        Items in the catalogue.
    calibration : float
        t in [0, 1]: 0 is plain BCE, 1 full calibration.
    """
    alpha = negatives / max(1, items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


class _Gather(torch.autograd.Function):
    """Rows of equal count from all processes, stacked; the gradient of a row is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_with_gradient(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes, with gradient, and where this process's rows start. One process: the rows themselves.

    Parameters
    ----------
    rows : Tensor [B, D]
        B may differ between processes.
    """
    if process_count() == 1:
        return rows, 0
    counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    sizes = [int(count) for count in counts]
    padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
    parts = _Gather.apply(padded)
    gathered = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return gathered, sum(sizes[: dist.get_rank()])


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    first: int = 0,
    ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
) -> Tensor:
    """In-batch contrast by cosine, summed over rows: anchor i belongs to row ``first + i`` of ``candidates``.

    Parameters
    ----------
    anchors : Tensor [B, D]
    candidates : Tensor [M, D]
    temperature : float
        Divides the cosines.
    first : int, default 0
        Row of ``candidates`` that belongs to the first anchor.
    ids, candidate_ids : int64 Tensor [B] and [M], optional
        Where both are given, other candidates with the anchor's id are no negatives.
    """
    if len(anchors) == 0:
        return anchors.sum() + candidates.sum() * 0
    logits = (F.normalize(anchors.float(), dim=1) @ F.normalize(candidates.float(), dim=1).T) / temperature
    own = torch.arange(len(anchors), device=anchors.device) + first
    if ids is not None and candidate_ids is not None:
        twins = ids[:, None] == candidate_ids[None, :]
        twins[torch.arange(len(anchors), device=anchors.device), own] = False
        logits = logits.masked_fill(twins, float("-inf"))
    return F.cross_entropy(logits, own, reduction="sum")
