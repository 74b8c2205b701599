"""A dense head beside a generator: the encoder's state is compared with a vector of every item.

After LIGER (Yang et al., arXiv 2411.18814): one encoder, trained for both at once; a list is ranked by the
log-probability of an item's codes plus a weight times its log-probability by the head. Ours: items have two tables, one
that the encoder reads and one that states are compared with, and a learned bias where they are in the history (else the
last item itself comes first); all items are in the softmax; the weight is chosen on validation. Any generator that
packs its tokens can take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets.attention import Ragged
from genrec.search.decoding import Beams, Normalization, best_scores, score_items, search_beams
from genrec.search.trie import CodeTrie
from recbase.arguments import Temperature, Weight
from recbase.data.splits import Targets
from recbase.evaluate.recommender import NO_ITEM

__all__ = [
    "WEIGHTS",
    "DenseHead",
    "DenseSettings",
    "all_scores",
    "allowed_items",
    "best_items",
    "both_scores",
    "check_weight",
    "choose_weight",
    "few_prefixes",
    "last_states",
    "rank_both",
    "weighted",
]

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Weights of the head that validation chooses from; 0 is the generator alone."""

_EXACT_PREFIXES = 1_024  # prefixes of a tree that are scored whole rather than searched twice


@dataclass(frozen=True)
class DenseSettings:
    """Settings of a dense head beside the codes; the models say what each setting means."""

    dense_weight: Weight = 0.0
    dense_temperature: Temperature = 0.12


class DenseHead(nn.Module):
    """Two tables of item vectors and the softmax over all items.

    Parameters
    ----------
    items : int
        N.
    dim : int
        Width of the encoder's states, D.
    temperature : float, default 0.12
        Divides the cosine of a state and an item.

    Attributes
    ----------
    weight : float32 Tensor []
        Weight of the head in a list, 1 until it is chosen; saved with the model.
    """

    weight: Tensor

    def __init__(self, items: int, dim: int, temperature: float = 0.12) -> None:
        super().__init__()
        self.temperature = temperature
        self.inputs = nn.Embedding(items + 1, dim, padding_idx=0)
        self.candidates = nn.Embedding(items + 1, dim, padding_idx=0)
        self.repeat = nn.Parameter(torch.zeros(()))
        self.register_buffer("weight", torch.tensor(1.0))
        for table in (self.inputs, self.candidates):
            nn.init.normal_(table.weight, std=0.02)
            with torch.no_grad():
                table.weight[0] = 0

    def item_inputs(self, content: Tensor, items: Tensor) -> Tensor:
        """Vectors that the encoder reads of items [S]: their content [S, D], brought to length 1, and their row."""
        return F.normalize(content, dim=-1) + self.inputs(items)

    def scores(self, states: Tensor, content: Tensor, seen: Tensor) -> Tensor:
        """Logits of all items, float32 [S, N].

        Parameters
        ----------
        states : Tensor [S, D]
        content : Tensor [N, D]
            Of items 1..N.
        seen : int64 Tensor [S, T]
            Items of each history, filled with 0: they have a learned bias, as items are bought again or are not.
        """
        vectors = F.normalize(content, dim=-1) + self.candidates.weight[1:]
        scores = F.normalize(states.float(), dim=-1) @ F.normalize(vectors.float(), dim=-1).T / self.temperature
        again = torch.zeros(len(scores), scores.shape[1] + 1, device=scores.device).scatter_(1, seen, 1.0)
        return torch.addcmul(scores, again[:, 1:], self.repeat.float())

    def loss(self, states: Tensor, content: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
        """Sum over rows of the cross-entropy of their targets, item numbers [S], among all items."""
        return F.cross_entropy(self.scores(states, content, seen), targets - 1, reduction="sum")


def last_states(states: Tensor, ragged: Ragged) -> Tensor:
    """State of the last token of every row of the batch: packed [S, D] to [B, D]."""
    return states[(ragged.lengths.cumsum(0) - 1)[ragged.inverse]]


def check_weight(model: Any, weight: float | None) -> None:
    """Refuse the weight of a dense head that a model does not have.

    Raises
    ------
    ValueError
        If a weight is given and the model has no dense head.
    """
    if weight is not None and getattr(model, "dense", None) is None:
        raise ValueError(f"--dense is {weight} but the model was trained without a dense head (--dense-weight)")


@contextmanager
def weighted(model: Any, weight: float | None) -> Iterator[None]:
    """Set the weight of a model's dense head for a while; None leaves it as it is.

    Raises
    ------
    ValueError
        If the model has no dense head.
    """
    if weight is None:
        yield
        return
    check_weight(model, weight)
    head = model.dense
    before = head.weight.clone()
    head.weight.fill_(weight)
    try:
        yield
    finally:
        head.weight.copy_(before)


@torch.no_grad()
def choose_weight(model: Any, targets: Targets, beams: int = 20, batch_size: int = 64) -> dict[str, float]:
    """Set the weight whose lists are best on validation, the smallest of equals; returns NDCG@10 of all tried.

    Parameters
    ----------
    model : Generator
        With a dense head, on its device.
    targets : Targets
        Of validation users.
    beams : int, default 20
        See :func:`both_scores`.
    batch_size : int, default 64
    """
    gains = torch.zeros(len(WEIGHTS), dtype=torch.float64)
    order = np.argsort(-np.minimum(targets.histories.lengths, model.max_len), kind="stable")
    size = min(batch_size, model.rows_at_once(beams))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        items, lengths = (torch.from_numpy(part) for part in targets.histories.padded(rows, model.max_len))
        users = None if targets.known_users is None else torch.from_numpy(targets.known_users[rows])
        generated, dense = model.score_both(items, lengths, users, beams)
        right = torch.from_numpy(np.asarray(targets.items)[rows]).long().to(dense.device)[:, None] - 1
        for number, weight in enumerate(WEIGHTS):
            total = generated + weight * dense
            mine = total.gather(1, right)
            ranks = (total >= mine).sum(1)  # ties count against the model
            found = (ranks <= 10) & (mine[:, 0] > -torch.inf)
            gains[number] += torch.where(found, 1 / torch.log2(ranks + 1.0), 0.0).sum().double().cpu()
    tried = dict(zip(WEIGHTS, (gains / max(1, len(order))).tolist(), strict=True))
    model.dense.weight.fill_(max(tried, key=lambda weight: tried[weight]))
    return {f"{weight:g}": gain for weight, gain in tried.items()}


def both_scores(
    decoder: Any,
    memory: Any,
    dense: Tensor,
    trie: CodeTrie,
    leaves: Tensor,
    normalize: Normalization,
    beams: int | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of items by their codes and by the head, float32 [B, N] each.

    Parameters
    ----------
    beams : int, optional
        Where the tree has many prefixes, codes are scored of candidates alone, -inf elsewhere: the best of a search
        with so many beams and as many that are the head's best. None scores all.
    hidden : bool Tensor [B, N], optional
        Items that are no candidates.
    """
    logged = dense.float().log_softmax(1)
    if beams is None or few_prefixes(trie):
        return all_scores(decoder, memory, trie, leaves, normalize), logged
    if hidden is None:
        hidden = torch.zeros_like(logged, dtype=torch.bool)
    return _candidate_scores(decoder, memory, logged, hidden, trie, leaves, beams, normalize), logged


def few_prefixes(trie: CodeTrie) -> bool:
    """True of a tree whose items are scored whole rather than searched twice."""
    return sum(len(tokens) for tokens in trie.tokens[:-1]) <= _EXACT_PREFIXES


def all_scores(decoder: Any, memory: Any, trie: CodeTrie, leaves: Tensor, normalize: Normalization) -> Tensor:
    """Log-probability of the codes of every item, float32 [B, N]; items that share their codes have the same."""
    first = trie.items[leaves if trie.unique else trie.ranges[-1][leaves].long()].long()
    return score_items(decoder, memory, trie, normalize)[:, first - 1]


def best_items(scores: Tensor, hidden: Tensor, leaves: Tensor, n_best: int) -> Beams:
    """The best of all items by scores [B, N], without those ``hidden`` [B, N]; ties go to the smaller number.

    Parameters
    ----------
    leaves : int64 Tensor [N]
        Leaf of every item.
    """
    total = scores.masked_fill(hidden, -torch.inf)
    numbers = torch.arange(1, total.shape[1] + 1, device=total.device)
    best, chosen = best_scores(total, numbers.expand_as(total), n_best)
    gone = best == -torch.inf
    found = [(chosen + 1).masked_fill(gone, NO_ITEM), best, leaves[chosen].masked_fill(gone, -1)]
    missing = n_best - chosen.shape[1]
    if missing > 0:
        fills = (NO_ITEM, -torch.inf, -1)
        found = [F.pad(part, (0, missing), value=fill) for part, fill in zip(found, fills, strict=True)]
    return Beams(*found)


def rank_both(
    decoder: Any,
    memory: Any,
    dense: Tensor,
    weight: float,
    trie: CodeTrie,
    leaves: Tensor,
    beams: int,
    n_best: int,
    mask: Tensor | np.ndarray | None,
    exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None,
    normalize: Normalization,
    exact: bool,
) -> Beams:
    """The best items by log p(codes) + weight * log p(item) of the dense head.

    Candidates are all items where that is asked or the tree has few prefixes, else the items of a beam search and as
    many that are the head's best; all candidates have exact scores. The head tells items apart that share their codes.

    Parameters
    ----------
    dense : Tensor [B, N]
        Logits of the head.
    leaves : int64 Tensor [N]
        Leaf of every item.
    beams, n_best, mask, exclude, normalize, exact
        See :func:`genrec.search.decoding.beam_search`.
    """
    hidden = ~allowed_items(dense, mask, exclude)
    generated, logged = both_scores(decoder, memory, dense, trie, leaves, normalize, None if exact else beams, hidden)
    return best_items(generated + weight * logged, hidden, leaves, n_best)


def allowed_items(
    scores: Tensor, mask: Tensor | np.ndarray | None, exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None
) -> Tensor:
    """Items 1..N that may be returned, bool of the shape of the scores [B, N].

    Raises
    ------
    ValueError
        If a mask is not of all items, or of other requests.
    """
    allowed = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    if mask is not None:
        given = torch.as_tensor(mask, dtype=torch.bool, device=scores.device)
        if given.shape[-1] != scores.shape[1] or (given.dim() == 2 and len(given) not in (1, len(scores))):
            raise ValueError(f"the mask has shape {tuple(given.shape)}; expected {tuple(scores.shape)}")
        allowed &= given
    if exclude is not None:
        if not isinstance(exclude, Tensor | np.ndarray):
            longest = max((len(row) for row in exclude), default=0)
            exclude = torch.tensor([[*row, *[0] * (longest - len(row))] for row in exclude]).view(len(exclude), longest)
        numbers = torch.as_tensor(exclude, device=scores.device).long()
        numbers = numbers.masked_fill((numbers < 0) | (numbers > scores.shape[1]), 0)
        wide = F.pad(allowed, (1, 0))
        allowed = wide.scatter(1, numbers, False)[:, 1:]
    return allowed


def _candidate_scores(
    decoder: Any,
    memory: Any,
    dense: Tensor,
    hidden: Tensor,
    trie: CodeTrie,
    leaves: Tensor,
    beams: int,
    normalize: Normalization,
) -> Tensor:
    """Log-probability of the codes of candidates [B, N], -inf elsewhere: the best by beams and the best by the head."""
    by_codes = search_beams(decoder, memory, trie, beams, beams, ~hidden, None, normalize)
    by_head = dense.masked_fill(hidden, -torch.inf).topk(min(beams, dense.shape[1]), 1).indices
    wanted = torch.zeros(len(dense), dense.shape[1] + 1, dtype=torch.bool, device=dense.device)
    wanted.scatter_(1, by_head + 1, True).scatter_(1, by_codes.items.clamp(min=0), True)
    wanted = wanted[:, 1:] & ~hidden
    # with as many beams as candidates, no prefix of any of them is dropped
    most = max(1, int(wanted.sum(1).max()))
    found = search_beams(decoder, memory, trie, most, most, wanted, None, normalize)
    count = len(trie.tokens[-1])
    table = found.scores.new_full((len(dense), count + 1), -torch.inf)
    table.scatter_(1, torch.where(found.leaves < 0, count, found.leaves), found.scores)
    return table[:, leaves].masked_fill(~wanted, -torch.inf)
