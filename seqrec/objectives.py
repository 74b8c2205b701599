"""What states are trained towards: the next item, or another view of the same history.

Every function returns this batch's SHARE of the step's mean, so that shares of processes and micro-batches add up.
Random negatives are addressed by row and position: any split of the work draws the same ones.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recbase.data.sequences import SequenceBatch
from recbase.nn.draws import draw_integers
from recbase.nn.losses import binary_cross_entropy, gather_with_gradient, linear_cross_entropy, sampled_cross_entropy
from recbase.nn.transformer import Packing

__all__ = ["NEXT_ITEM_LOSSES", "NextItemLoss", "contrast", "draw_negatives", "next_item_loss", "target_states"]

NextItemLoss = Literal["ce", "sampled", "bce", "gbce", "bpr", "top1"]
NEXT_ITEM_LOSSES = ("ce", "sampled", "bce", "gbce", "bpr", "top1")


def target_states(states: Tensor, packing: Packing, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """The packed states [S, ...] that have a target, [M, ...], and their target items, int64 [M]."""
    targets = packing.pack(batch.targets)
    if len(batch.items) == batch.row_count and len(targets) == batch.target_count:  # a target at every position
        return states, targets
    chosen = targets.nonzero()[:, 0]
    return states[chosen], targets[chosen]


def draw_negatives(batch: SequenceBatch, items: int, count: int) -> Tensor:
    """Uniform items 1..N for every target of a batch, int64 [M, count]."""
    rows, steps = (batch.targets > 0).nonzero(as_tuple=True)
    draws = torch.arange(count, device=batch.targets.device)
    return draw_integers(batch.seed, items, batch.positions[rows][:, None], steps[:, None], draws[None, :]) + 1


def next_item_loss(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    batch: SequenceBatch,
    kind: NextItemLoss = "ce",
    negatives: int = 1,
    scale: float = 1.0,
    exponent: float = 1.0,
) -> Tensor:
    """This batch's share of the mean loss over the targets of the step.

    Parameters
    ----------
    states : Tensor [M, D]
        One a target, in the order of :func:`target_states`.
    table : Tensor [N, D]
        Item vectors; row i - 1 is item i.
    targets : int64 Tensor [M]
        Items 1..N.
    batch : SequenceBatch
    kind : {"ce", "sampled", "bce", "gbce", "bpr", "top1"}
        Softmax over all items; over ``negatives`` uniform items shared by the step; binary cross-entropy (with an
        exponent: gBCE), BPR (Rendle et al. 2009) or TOP1 (Hidasi et al. 2016) against ``negatives`` items a target.
    negatives : int, default 1
    scale : float, default 1.0
        Factor on the logits (1 / temperature) of ce and sampled.
    exponent : float, default 1.0
        Exponent of the positive's probability in gbce.
    """
    rights = targets - 1
    if kind == "ce":
        total = linear_cross_entropy(states, table, rights, scale)
    elif kind == "sampled":
        shared = draw_integers(batch.seed, len(table), torch.arange(negatives, device=states.device))
        total = sampled_cross_entropy(states, table, rights, shared, scale)
    else:
        wrongs = draw_negatives(batch, len(table), negatives) - 1
        if kind in ("bce", "gbce"):
            total = binary_cross_entropy(states, table, rights, wrongs, exponent)
        else:
            total = _pairwise(states, table, rights, wrongs, kind)
    return total / batch.target_count


def _pairwise(states: Tensor, table: Tensor, rights: Tensor, wrongs: Tensor, kind: str) -> Tensor:
    """Sum over targets of the mean over negatives; a negative that is the target counts as no negative."""
    right = (states * table[rights]).sum(1, keepdim=True).float()
    wrong = torch.einsum("sd,smd->sm", states, table[wrongs]).float()
    losses = -F.logsigmoid(right - wrong) if kind == "bpr" else (wrong - right).sigmoid() + wrong.square().sigmoid()
    return losses.masked_fill(wrongs == rights[:, None], 0.0).sum() / wrongs.shape[1]


def contrast(
    first: Tensor,
    second: Tensor,
    row_count: int,
    temperature: float = 1.0,
    similarity: Literal["dot", "cosine"] = "dot",
    ids: Tensor | None = None,
) -> Tensor:
    """Share of the mean NT-Xent between two views of each row, over the rows of all processes (SimCLR's form).

    The anchor's positive is the other view of its row; its negatives are both views of all other rows, 2 (B - 1).

    Parameters
    ----------
    first, second : Tensor [B, D]
    row_count : int
        Rows of the whole step; the mean is over 2 * row_count anchors.
    temperature : float, default 1.0
    similarity : {"dot", "cosine"}, default "dot"
    ids : int64 Tensor [B], optional
        Rows of one id are no negatives of each other.
    """
    if similarity == "cosine":
        first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    all_first, start = gather_with_gradient(first)
    all_second, _ = gather_with_gradient(second)
    if len(first) == 0:
        return all_first.sum() * 0 + all_second.sum() * 0
    own = torch.arange(len(first), device=first.device) + start
    twins = own[:, None] == torch.arange(len(all_first), device=first.device)
    others = twins
    if ids is not None:
        everyone = gather_with_gradient(ids[:, None].double())[0][:, 0].long()
        others = ids[:, None] == everyone[None, :]
    total = first.new_zeros((), dtype=torch.float32)
    for anchors, same, cross in ((first, all_first, all_second), (second, all_second, all_first)):
        across = (anchors @ cross.T).float() / temperature
        within = (anchors @ same.T).float() / temperature
        logits = torch.cat([across.masked_fill(others & ~twins, -torch.inf), within.masked_fill(others, -torch.inf)], 1)
        total = total + F.cross_entropy(logits, own, reduction="sum")
    return total / (2 * row_count)
