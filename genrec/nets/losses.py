"""Losses over the codes of target items, level by level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.search.decoding import child_scores
from genrec.search.trie import CodeTrie

__all__ = ["children_loss", "level_loss"]


def level_loss(logits: Sequence[Tensor], targets: Tensor, scale: float = 1.0) -> Tensor:
    """Sum over the rows of the mean cross-entropy over their levels.

    Parameters
    ----------
    logits : list of Tensor [S, V_l]
    targets : int64 Tensor [S, L]
        -100 where a code has ended.
    scale : float, default 1.0
        Multiplies the logits (one over the temperature).
    """
    counts = (targets >= 0).sum(1).clamp(min=1)
    total = torch.zeros((), device=targets.device)
    for level, scores in enumerate(logits):
        losses = F.cross_entropy(scores.float() * scale, targets[:, level], ignore_index=-100, reduction="none")
        total = total + (losses / counts).sum()
    return total


def children_loss(logits: Sequence[Tensor], codes: Tensor, trie: CodeTrie, scale: float = 1.0) -> Tensor:
    """Sum over the rows of the mean over their steps of -log p(code), among codes that follow there in some item.

    The mean over steps of minus the score that a search with ``normalize="children"`` gives to the item. Which codes
    exist is known, so nothing has to be learned to tell them from the many that do not.

    Parameters
    ----------
    logits : list of Tensor [S, V_l]
        One a column of the codes.
    codes : int Tensor [S, L]
        Of items that are in the trie; -1 where a code has ended.
    trie : CodeTrie
    scale : float, default 1.0
        Multiplies the logits (one over the temperature).
    """
    nodes = trie.path(codes)  # [S, steps]
    above = torch.cat([torch.zeros_like(nodes[:, :1]), nodes[:, :-1]], 1)
    going = torch.ones_like(nodes, dtype=torch.bool)
    for step in range(1, trie.steps if trie.ragged else 1):
        going[:, step] = ~trie.closed(step, above[:, step])
    counts = going.sum(1)
    total = torch.zeros((), device=codes.device)
    for step, columns in enumerate(trie.columns):
        parents = above[:, step : step + 1]
        children, there = trie.expand(step, parents)  # [S, 1, M]
        heads = tuple(head[:, None].float() * scale for head in logits[columns])
        scores = child_scores(heads, trie, step, parents, children, there, "children")[:, 0]
        right = (nodes[:, step : step + 1] - children[:, 0, :1]).clamp(min=0)
        total = total - (scores.gather(1, right)[:, 0] / counts).sum()
    return total
