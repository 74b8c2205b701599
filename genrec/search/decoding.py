"""Beam search over the codes of a catalogue, and its exhaustive form.

Knows nothing of models: it is given the logits of the next code, prefix by prefix, and a trie that says which codes may
follow and which item a finished code is. So no list can hold an item that does not exist, or one twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from genrec.search.allowed import AllowedItems
from genrec.search.trie import CodeTrie
from recbase.evaluate.recommender import NO_ITEM, Recommendations

__all__ = [
    "Beams",
    "CodeDecoder",
    "Logits",
    "Normalization",
    "beam_search",
    "best_scores",
    "distinct_items",
    "score_codes",
    "score_items",
    "search_beams",
]

Logits = Tensor | tuple[Tensor, ...]
"""Logits [B, W, V] of the next code; where a node is a tuple of codes, one such tensor for each of them."""

Normalization = Literal["vocabulary", "children", "none"]

_EXACT_PREFIXES = 8_192  # rows x prefixes computed at once by the exhaustive form


class CodeDecoder(Protocol):
    """Interface of a model that is searched: the logits of the next code, one step per call.

    States are opaque and are never changed in place: a step returns a new one, so that a search may go on from an old
    one. Scores are taken in float32 whatever the dtype of the logits.
    """

    def start(self, memory: Any) -> Any:
        """State before the first code, one prefix a request, from whatever stands for the B requests."""
        ...

    def step(self, state: Any, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, Any]:
        """Add one code to each prefix and return the logits of the next.

        Parameters
        ----------
        state : Any
            Of the step before, with W' prefixes a request.
        parents : int64 Tensor [B, W] or None
            Which of the W' prefixes each new one continues; None in the first call, where nothing is added.
        tokens : int64 Tensor [B, W], or [B, W, width] where the last node is a tuple, or None
            The code that is added, as the trie numbers it.

        Returns
        -------
        logits : Tensor [B, W, V], or a tuple of them
            Of the next code; W is 1 in the first call.
        state : Any
        """
        ...


@dataclass(frozen=True)
class Beams:
    """The best codes of every request, best first.

    Attributes
    ----------
    items : int64 Tensor [B, n]
        Item numbers; -1 fills the end of a list that has fewer than n items.
    scores : float32 Tensor [B, n]
        Sum of log-probabilities; -inf where the item is -1.
    leaves : int64 Tensor [B, n]
        Leaf of the trie that each item was reached by, -1 where there is none.
    """

    items: Tensor
    scores: Tensor
    leaves: Tensor

    def recommendations(self) -> Recommendations:
        """As the result type that all recommenders share."""
        return Recommendations(self.items.cpu().numpy(), self.scores.cpu().numpy())


def beam_search(
    decoder: CodeDecoder,
    memory: Any,
    trie: CodeTrie,
    beams: int = 20,
    n_best: int = 10,
    mask: Tensor | np.ndarray | AllowedItems | None = None,
    exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
    normalize: Normalization = "vocabulary",
    exact: bool = False,
    require_items: bool = False,
) -> Recommendations:
    """The best items of every request by constrained beam search.

    The score of an item is the sum of the log-probabilities of its codes, in float32. Prefixes of equal score go by
    the order of their codes, items of equal score by their number. Only children that exist and lead to an allowed
    item are ever scored, so a list is shorter where fewer items are allowed (or fewer than ``n_best`` beams end in
    one): it is filled with item -1, score -inf. Items with equal codes resolve to one of them, see
    :meth:`genrec.search.trie.CodeTrie.from_codes`.

    Parameters
    ----------
    decoder : CodeDecoder
    memory : Any
        What ``decoder.start`` takes: stands for B requests.
    trie : CodeTrie
        On the device of the logits.
    beams : int, default 20
        Prefixes kept at every step.
    n_best : int, default 10
        Length of the lists.
    mask : bool [N] or [B, N], or AllowedItems, optional
        Whether item number j + 1 may be returned; counted once by :meth:`genrec.search.trie.CodeTrie.allow` where many
        searches share it.
    exclude : int [B, E] or list of lists, optional
        Item numbers that must not be returned, such as what was seen.
    normalize : {"vocabulary", "children", "none"}, default "vocabulary"
        What a log-probability is relative to: all logits of the step; those of the node's children alone, allowed or
        not, so that no score depends on a mask; nothing (logits are added as they are).
    exact : bool, default False
        Score every item, computing each prefix once, instead of searching; ``beams`` is not used.
    require_items : bool, default False
        Raise where a request has no allowed item at all, instead of returning an empty list.

    Returns
    -------
    Recommendations
        Item numbers [B, n_best].

    Raises
    ------
    ValueError
        If ``n_best`` exceeds ``beams``, either is below 1, masks do not fit, the logits have another width than the
        trie's codes or are NaN, or, with ``require_items``, nothing is allowed.
    """
    found = search_beams(decoder, memory, trie, beams, n_best, mask, exclude, normalize, exact, require_items)
    return found.recommendations()


@torch.no_grad()
def search_beams(
    decoder: CodeDecoder,
    memory: Any,
    trie: CodeTrie,
    beams: int = 20,
    n_best: int = 10,
    mask: Tensor | np.ndarray | AllowedItems | None = None,
    exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None = None,
    normalize: Normalization = "vocabulary",
    exact: bool = False,
    require_items: bool = False,
) -> Beams:
    """:func:`beam_search` with its result as tensors where they were computed."""
    _check(beams, n_best, normalize, exact)
    allowed = _allowed(trie, mask, exclude)
    if exact:
        found = _exhaustive(decoder, memory, trie, n_best, allowed, normalize)
    else:
        found = _search(decoder, memory, trie, beams, n_best, allowed, normalize)
    if bool(found.scores.isnan().any()):
        raise ValueError("the decoder returned logits that are NaN")
    if require_items and bool((found.items[:, 0] == NO_ITEM).any()):
        row = int((found.items[:, 0] == NO_ITEM).nonzero()[0, 0])
        raise ValueError(f"request {row} has no allowed item among the {len(trie)} of the trie")
    return found


@torch.no_grad()
def score_items(decoder: CodeDecoder, memory: Any, trie: CodeTrie, normalize: Normalization = "vocabulary") -> Tensor:
    """Scores of all items, each prefix computed once: float32 [B, largest item number].

    Column j is item number j + 1, as a :class:`recbase.evaluate.recommender.Scorer` returns it; -inf where the trie has
    no such item, and where an item shares its code with one that stands for both.
    """
    _check(1, 1, normalize, True)
    scores = _leaf_scores(decoder, memory, trie, normalize)
    result = scores.new_full((len(scores), trie.largest_item), -torch.inf)
    items = trie.items if trie.unique else trie.items[trie.ranges[-1][:-1].long()]
    result[:, items.long() - 1] = scores
    return result


@torch.no_grad()
def score_codes(
    decoder: CodeDecoder, memory: Any, trie: CodeTrie, codes: Tensor, normalize: Normalization = "vocabulary"
) -> Tensor:
    """Log-probabilities of given codes, other ones for every request: float32 [B, C].

    Parameters
    ----------
    decoder, memory, trie, normalize
        See :func:`beam_search`; nodes of the trie are single codes.
    codes : int64 Tensor [B, C, L]
        -inf is the score of those that the trie does not have.
    """
    logits, state = decoder.step(decoder.start(memory), None, None)
    heads, path = cast(Tensor, logits), trie.path(codes)  # [B, C, L]
    rows, count = codes.shape[:2]
    nodes = torch.zeros(rows, 1, dtype=torch.int64, device=codes.device)
    parents = nodes.expand(-1, count)
    total = torch.zeros(rows, count, device=codes.device)
    for step in range(trie.steps):
        below = path[..., step]
        children, there = trie.expand(step, nodes)  # [B, W, M]
        if not children.shape[2]:
            return torch.full_like(total, -torch.inf)
        gained = child_scores(heads, trie, step, nodes, children, there, normalize)
        # children of a node stand side by side
        first = trie.children[step][nodes.clamp(min=0)].long().gather(1, parents)
        place = parents * gained.shape[2] + (below - first).clamp(min=0, max=max(0, gained.shape[2] - 1))
        total = (total + gained.flatten(1).gather(1, place)).masked_fill(below < 0, -torch.inf)
        if step < trie.steps - 1:
            tokens = trie.tokens[step][below.clamp(min=0), 0].long()
            logits, state = decoder.step(state, parents, tokens)
            heads, nodes, parents = (
                cast(Tensor, logits),
                below,
                torch.arange(count, device=codes.device).expand(rows, -1),
            )
    return total


def distinct_items(items: Tensor) -> Tensor:
    """Each item of a row once, in ascending order; -1 fills what is left: int64 [B, C] -> [B, C]."""
    ordered = items.sort(dim=1).values
    twice = torch.zeros_like(ordered, dtype=torch.bool)
    twice[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(twice, NO_ITEM)


def _allowed(
    trie: CodeTrie,
    mask: Tensor | np.ndarray | AllowedItems | None,
    exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None,
) -> AllowedItems | None:
    if not isinstance(mask, AllowedItems):
        return None if mask is None and exclude is None else trie.allow(mask, exclude)
    if mask.trie is not trie:
        raise ValueError("the mask was counted over another trie than the one that is searched")
    return mask if exclude is None else mask.excluding(exclude)


def _check(beams: int, n_best: int, normalize: str, exact: bool) -> None:
    for name, value in (("beams", beams), ("n_best", n_best)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if n_best > beams and not exact:
        raise ValueError(f"n_best is {n_best} but only {beams} beams are searched; expected n_best <= beams")
    if normalize not in ("vocabulary", "children", "none"):
        raise ValueError(f"normalize must be one of vocabulary, children, none, got {normalize!r}")


def _search(
    decoder: CodeDecoder,
    memory: Any,
    trie: CodeTrie,
    beams: int,
    n_best: int,
    allowed: AllowedItems | None,
    normalize: Normalization,
) -> Beams:
    logits, state = decoder.step(decoder.start(memory), None, None)
    rows, device = _rows(logits), trie.device
    _check_rows(allowed, rows)
    nodes = torch.zeros(rows, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(rows, 1, device=device)
    items = nodes
    for step in range(trie.steps):
        last = step == trie.steps - 1
        _check_width(logits, trie, step)
        children, there = trie.expand(step, nodes)  # [B, W, M]
        # No beam of any request has a child: the trie is empty, or nothing is allowed.
        if not children.shape[2]:
            return _none(rows, n_best, device)
        gained = child_scores(logits, trie, step, nodes, children, there, normalize)
        if allowed is not None:
            # Prefixes without an allowed item below are cut now: a beam spent on them would end in nothing.
            there = there & (allowed.count(step + 1, children) > 0)
        total = (scores[..., None] + gained).masked_fill(~there, -torch.inf).flatten(1)  # [B, W * M]
        flat = children.flatten(1)
        if last:
            # Ties of the last step go by item number, which only the resolved item has; before, by node, which is code
            # order.
            resolved = _items_of(trie, flat, allowed)
            scores, chosen = best_scores(total, resolved, n_best)
            items = resolved.gather(1, chosen)
        else:
            scores, chosen = best_scores(total, flat, beams)
        parents = chosen // children.shape[2]
        # Fewer real prefixes than beams: the rest stay in the batch as -1, so that shapes do not depend on the
        # requests.
        nodes = flat.gather(1, chosen).masked_fill(scores == -torch.inf, -1)
        if not last:
            tokens = trie.tokens[step][nodes.clamp(min=0)].long()  # [B, W, width]
            logits, state = decoder.step(state, parents, tokens[..., 0] if trie.widths[step] == 1 else tokens)
    items = items.masked_fill(nodes < 0, NO_ITEM)
    return _padded(Beams(items, scores, nodes), n_best)


def _rows(logits: Logits) -> int:
    return len(logits if isinstance(logits, Tensor) else logits[0])


def _check_rows(allowed: AllowedItems | None, rows: int) -> None:
    if allowed is not None and allowed.rows not in (1, rows):
        raise ValueError(f"mask and exclude are of {allowed.rows} requests but memory is of {rows}")


def _check_width(logits: Logits, trie: CodeTrie, step: int) -> None:
    heads = (logits,) if isinstance(logits, Tensor) else logits
    found, wanted = [head.shape[-1] for head in heads], list(trie.sizes[trie.columns[step]])
    if found != wanted:
        raise ValueError(f"the decoder returned logits of widths {found} at step {step}, but the trie has {wanted}")


def child_scores(
    logits: Logits,
    trie: CodeTrie,
    step: int,
    nodes: Tensor,
    children: Tensor,
    there: Tensor,
    normalize: Normalization,
) -> Tensor:
    """Log-probability of each child, float32 [B, W, M].

    Parameters
    ----------
    logits : Tensor [B, W, V], or a tuple of them
        Of the step.
    nodes : int64 Tensor [B, W]
        Prefixes; -1 where there is none.
    children : int64 Tensor [B, W, M]
    there : bool Tensor [B, W, M]
        Both as :meth:`genrec.search.trie.CodeTrie.expand` gives them.
    """
    heads = (logits,) if isinstance(logits, Tensor) else logits
    tokens = trie.tokens[step]
    gained: Tensor | None = None
    for head, column in zip(heads, tokens.unbind(1), strict=True):
        # In float32 even under autocast: sums of bfloat16 log-probabilities tie where items do not.
        head = head.float()
        part = head.gather(2, column[children].long())
        if normalize == "vocabulary":
            part = part - head.logsumexp(2, keepdim=True)
        gained = part if gained is None else gained + part
    assert gained is not None
    if step and trie.ragged:
        gained = gained.masked_fill(trie.closed(step, nodes.clamp(min=0))[..., None], 0.0)
    if normalize == "children":
        lively = gained.masked_fill(~there, -torch.inf)
        gained = gained - lively.logsumexp(2, keepdim=True)
    return gained


def _items_of(trie: CodeTrie, leaves: Tensor, allowed: AllowedItems | None) -> Tensor:
    """Item that each leaf stands for, int64."""
    if allowed is not None:
        return allowed.first(leaves)
    return trie.items[leaves if trie.unique else trie.ranges[-1][leaves].long()].long()


def best_scores(scores: Tensor, ties: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest scores of every row and their places, from the largest; equal scores by ascending ``ties``.

    Score and tie become one integer: the bits of a float32, the lower ones flipped where it is negative, order like
    the number itself.
    """
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    # torch.topk promises no order among equals, and devices differ; one integer a candidate leaves no equals.
    chosen = ((order << 32) - ties).topk(min(count, scores.shape[1]), 1)[1]
    return scores.gather(1, chosen), chosen


def _none(rows: int, count: int, device: torch.device) -> Beams:
    items = torch.full((rows, count), NO_ITEM, dtype=torch.int64, device=device)
    return Beams(items, torch.full((rows, count), -torch.inf, device=device), items)


def _padded(found: Beams, count: int) -> Beams:
    missing = count - found.items.shape[1]
    if missing <= 0:
        return found
    none = _none(len(found.items), missing, found.items.device)
    return Beams(
        torch.cat([found.items, none.items], 1),
        torch.cat([found.scores, none.scores], 1),
        torch.cat([found.leaves, none.leaves], 1),
    )


def _exhaustive(
    decoder: CodeDecoder,
    memory: Any,
    trie: CodeTrie,
    n_best: int,
    allowed: AllowedItems | None,
    normalize: Normalization,
) -> Beams:
    scores = _leaf_scores(decoder, memory, trie, normalize)
    leaves = torch.arange(scores.shape[1], device=trie.device).expand(len(scores), -1)
    if not scores.shape[1]:
        return _none(len(scores), n_best, trie.device)
    _check_rows(allowed, len(scores))
    items = _items_of(trie, leaves, allowed)
    best, chosen = best_scores(scores.masked_fill(items == NO_ITEM, -torch.inf), items, n_best)
    dead = best == -torch.inf
    found = Beams(items.gather(1, chosen).masked_fill(dead, NO_ITEM), best, chosen.masked_fill(dead, -1))
    return _padded(found, n_best)


def _leaf_scores(decoder: CodeDecoder, memory: Any, trie: CodeTrie, normalize: Normalization) -> Tensor:
    """Scores of all leaves, float32 [B, leaves], depth first, a bounded number of prefixes at a time."""
    logits, state = decoder.step(decoder.start(memory), None, None)
    rows = _rows(logits)
    result = torch.full((rows, len(trie.tokens[-1])), -torch.inf, device=trie.device)
    block = max(1, _EXACT_PREFIXES // max(1, rows))

    def visit(step: int, logits: Logits, state: Any, first: int, stop: int, scores: Tensor) -> None:
        """Score everything below nodes first to stop of depth ``step``, which ``logits`` and ``state`` are of."""
        _check_width(logits, trie, step)
        offsets = trie.children[step][first : stop + 1].long()
        low, high = int(offsets[0]), int(offsets[-1])
        if low == high:
            return
        parents = torch.arange(stop - first, device=trie.device).repeat_interleave(offsets.diff())
        total = scores[:, parents] + _flat_scores(logits, trie, step, parents, first, normalize)
        if step == trie.steps - 1:
            result[:, low:high] = total
            return
        # Depth first in blocks: a whole level at once would hold the decoder's state of every prefix of the catalogue.
        for start in range(0, high - low, block):
            part = slice(start, min(start + block, high - low))
            tokens = trie.tokens[step][low + part.start : low + part.stop].long().expand(rows, -1, -1)
            above = parents[part].expand(rows, -1)
            given = tokens[..., 0] if trie.widths[step] == 1 else tokens
            further, after = decoder.step(state, above, given)
            visit(step + 1, further, after, low + part.start, low + part.stop, total[:, part])

    visit(0, logits, state, 0, 1, torch.zeros(rows, 1, device=trie.device))
    return result


def _flat_scores(
    logits: Logits,
    trie: CodeTrie,
    step: int,
    parents: Tensor,
    first: int,
    normalize: Normalization,
) -> Tensor:
    """Log-probability of all children of nodes ``first`` and on, whose prefix is ``parents`` [M]: float32 [B, M]."""
    low = int(trie.children[step][first])
    high = low + len(parents)
    heads = (logits,) if isinstance(logits, Tensor) else logits
    gained: Tensor | None = None
    for head, column in zip(heads, trie.tokens[step][low:high].unbind(1), strict=True):
        head = head.float()
        part = head[:, parents, column.long()]
        if normalize == "vocabulary":
            part = part - head.logsumexp(2)[:, parents]
        gained = part if gained is None else gained + part
    assert gained is not None
    if step and trie.ragged:
        gained = gained.masked_fill(trie.closed(step, parents + first), 0.0)
    if normalize == "children":
        wide = parents.expand(len(gained), -1)
        width = heads[0].shape[1]
        most = gained.new_full((len(gained), width), -torch.inf).scatter_reduce(1, wide, gained, "amax")
        # A logsumexp over groups of unequal size: subtract each group's largest, and 0 where a group has none.
        most = most.masked_fill(most == -torch.inf, 0.0)
        total = torch.zeros_like(most).scatter_add(1, wide, (gained - most.gather(1, wide)).exp())
        gained = gained - (most + total.log()).gather(1, wide)
    return gained
