"""Full-ranking evaluation: where each user's held-out item stands among all items, and what that is worth.

The rank of a target is 1 + the items scored higher + the OTHER items scored equal: ties count against the model, and
how many there were is kept. Ranks are counted while the scores of a batch are at hand, so there is neither a matrix of
users by items nor a sort. Two policies for the items of the user's history are counted in the same pass: `rank` lets
them compete (seen items kept), `rank_masked` takes them out. The target is never taken out, even where the user had
it before: a repeated item is a legitimate answer.

Knows scorers as functions from histories to scores, and files as bytes. Knows no model and no run folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbase.data.sequences import Histories
from recbase.data.splits import Targets
from recbase.evaluate.metrics import METRICS, mean_metrics
from recbase.evaluate.recommender import NO_ITEM, Recommendations, Scorer

if TYPE_CHECKING:
    from accelerate import Accelerator


__all__ = [
    "KS",
    "Ranks",
    "check_monitor",
    "list_faults",
    "rank_lists",
    "rank_targets",
    "summarize",
    "topk",
    "validator",
]

KS = (5, 10, 20)
"""List lengths that are always reported."""


@dataclass(frozen=True)
class Ranks:
    """Places of the targets among all items.

    Parameters
    ----------
    users : ndarray of int64 [B]
        Row numbers of the users in the data set.
    rank : ndarray of int32 [B]
        Rank among all items; 0 = not in the list that was returned.
    rank_masked : ndarray of int32 [B]
        Rank among the items that are not in the user's history (the target always competes); 0 = not returned.
    ties : ndarray of int32 [B]
        Other items scored exactly as the target (history items included).
    targets : ndarray of int32 [B]
        The item numbers looked for.
    seconds : float
        Time the ranking took.
    last_first : ndarray of bool [B], optional
        True where the latest item of the history itself is scored highest (seen items kept); None if not counted.
    """

    users: np.ndarray
    rank: np.ndarray
    rank_masked: np.ndarray
    ties: np.ndarray
    targets: np.ndarray
    seconds: float = 0.0
    last_first: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def chosen(self, mask_seen: bool) -> np.ndarray:
        """The ranks under one policy for seen items: int32 [B]."""
        return self.rank_masked if mask_seen else self.rank

    def take(self, rows: np.ndarray) -> Ranks:
        """Return the ranks of some targets, in the order given (a mask will do)."""
        names = [
            "users",
            "rank",
            "rank_masked",
            "ties",
            "targets",
            *(["last_first"] if self.last_first is not None else []),
        ]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def rank_targets(
    scorer: Scorer,
    targets: Targets,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> Ranks:
    """Rank every target among all items, both policies for seen items at once.

    Users are sorted by history length, so that little is padded; the result is in the order of `targets`. With several
    processes whole batches are dealt out (batch b to process b mod processes) and the counts are summed, so every
    process returns what a single one would. Nothing leaves the scorer's device before the end.

    Parameters
    ----------
    scorer : Scorer
        `scorer(items [B, T], lengths [B])` returns scores [B, N].
    targets : Targets
        Histories and the items to be found.
    batch_size : int, default 256
        Histories scored together; a batch holds 4 * N * batch_size bytes of scores (12 MB for 12,000 items).
    accelerator : Accelerator, optional
        Spreads the batches over its processes; its device receives the histories.
    progress : bool, default False
        Show a progress bar (on the main process).

    Returns
    -------
    Ranks

    Raises
    ------
    ValueError
        A score is NaN (the user is named), an item number lies outside 1..N, the scores have another shape, or
        `batch_size` is below 1.
    """
    begun = time.perf_counter()
    _check_batch_size(batch_size)
    _check_items(targets.items, scorer.n_items, "targets")
    _check_items(targets.histories.items, scorer.n_items, "histories")
    batches = _batches(targets.histories, scorer.max_len, batch_size)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    mine = range(rank, len(batches), world)
    counts = [
        _count(scorer, targets, batches[b], accelerator) for b in _progress(mine, "ranking", progress and rank == 0)
    ]
    table = np.zeros((len(targets), 5), dtype=np.int32)
    if counts:
        table[np.concatenate([batches[b] for b in mine])] = torch.cat(counts).cpu().numpy()
    if accelerator is not None and world > 1:
        summed = accelerator.reduce(torch.from_numpy(table).to(accelerator.device), reduction="sum")
        table = summed.cpu().numpy().astype(np.int32)
    if table[:, 3].any():
        row = int(np.flatnonzero(table[:, 3])[0])
        raise ValueError(
            f"the scores of user {int(targets.users[row])} contain NaN: {int((table[:, 3] > 0).sum())} of "
            f"{len(targets)} users cannot be ranked; expected finite scores"
        )
    columns = [np.ascontiguousarray(table[:, column]) for column in range(3)]
    return Ranks(
        np.asarray(targets.users, dtype=np.int64),
        columns[0],
        columns[1],
        columns[2],
        np.asarray(targets.items, dtype=np.int32),
        time.perf_counter() - begun,
        table[:, 4] > 0,
    )


@torch.no_grad()
def _count(scorer: Scorer, targets: Targets, rows: np.ndarray, accelerator: Accelerator | None) -> Tensor:
    """Return rank, masked rank, ties, "has NaN" and "last item first" of one batch: int32 [B, 5] on its device."""
    scores = _scores(scorer, targets.histories, rows, accelerator, targets.known_users)  # [B, N]
    device = scores.device
    column = torch.from_numpy(targets.items[rows].astype(np.int64) - 1).to(device, non_blocking=True)
    own = scores.gather(1, column[:, None])  # [B, 1]
    at_least = (scores >= own).sum(1, dtype=torch.int32)  # the target itself included
    higher = (scores > own).sum(1, dtype=torch.int32)
    seen_rows, seen_items = _distinct_seen(targets.histories, rows, targets.items[rows])
    pair_rows = torch.from_numpy(seen_rows).to(device, non_blocking=True)  # [P]
    pair_columns = torch.from_numpy(seen_items - 1).to(device, non_blocking=True)
    beats = (scores[pair_rows, pair_columns] >= own[pair_rows, 0]).to(torch.int32)
    seen = torch.zeros_like(at_least).index_add_(0, pair_rows, beats)
    best = scores.amax(1)
    nan = best.isnan().to(torch.int32)  # amax passes NaN on
    last = _last_items(targets.histories, rows)
    on_top = scores.gather(1, torch.from_numpy(np.maximum(last, 1) - 1).to(device, non_blocking=True)[:, None])[:, 0]
    first = ((on_top == best) & torch.from_numpy(last > 0).to(device, non_blocking=True)).to(torch.int32)
    return torch.stack([at_least, at_least - seen, at_least - higher - 1, nan, first], 1)


def _last_items(histories: Histories, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Latest item of some histories, int64 [B]; 0 where there is none."""
    starts, ends = histories.starts[rows], histories.ends[rows]
    if not len(histories.items):
        return np.zeros(len(starts), dtype=np.int64)
    return np.where(ends > starts, histories.items[np.maximum(ends, 1) - 1], 0).astype(np.int64)


def _scores(
    scorer: Scorer,
    histories: Histories,
    rows: np.ndarray,
    accelerator: Accelerator | None = None,
    users: np.ndarray | None = None,
) -> Tensor:
    """Score all items for some histories: [B, N]. A scorer with ``reads_users`` is told who they are, if known."""
    items, lengths = (torch.from_numpy(part) for part in histories.padded(rows, scorer.max_len))
    if accelerator is not None:
        items, lengths = items.to(accelerator.device), lengths.to(accelerator.device)
    if users is not None and getattr(scorer, "reads_users", False):
        who = torch.from_numpy(np.asarray(users, dtype=np.int64)[rows]).to(items.device)
        scores = scorer(items, lengths, who)  # type: ignore[call-arg]
    else:
        scores = scorer(items, lengths)
    if scores.shape != (len(rows), scorer.n_items):
        raise ValueError(
            f"the scorer returned scores of shape {list(scores.shape)}, expected {[len(rows), scorer.n_items]}"
        )
    return scores


def _distinct_seen(histories: Histories, rows: np.ndarray, exclude: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row of the batch, item number) of the items in the whole histories, each once, but for `exclude` [B]."""
    items, offsets = histories.flat(rows)
    owner = np.repeat(np.arange(len(rows), dtype=np.int64), np.diff(offsets))  # [S]
    if exclude is not None:
        others = items != exclude[owner]
        items, owner = items[others], owner[others]
    width = int(items.max(initial=0)) + 1
    pairs = np.unique(owner * width + items)
    return pairs // width, pairs % width


def _batches(histories: Histories, max_len: int, batch_size: int) -> list[np.ndarray]:
    """Rows of each batch: sorted by the length that is read, so that a batch is hardly padded."""
    order = np.argsort(np.minimum(histories.lengths, max_len), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_monitor(metric: str, length: int | None = None) -> None:
    """Refuse a metric that the validation of a recommender does not have, before anything is trained.

    Parameters
    ----------
    metric : str
    length : int or None, default None
        Length of the lists that the validation makes, where they are not whole rankings.

    Raises
    ------
    ValueError
        Naming those there are.
    """
    known = [f"{name}@{k}" for name in METRICS for k in KS if length is None or k <= length]
    if metric not in known:
        within = "" if length is None else f" for lists of {length} items"
        raise ValueError(f"--monitor must be one of {', '.join(known) or 'none'}{within}, got {metric!r}")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} should be >= 1")


def _check_items(items: np.ndarray, n_items: int, what: str) -> None:
    if items.size and not (items.min() >= 1 and items.max() <= n_items):
        worst = int(items.max()) if items.max() > n_items else int(items.min())
        raise ValueError(f"{what} hold item number {worst} but the scorer knows the items 1..{n_items}")


def _progress(steps: range, what: str, shown: bool) -> Iterable[int]:
    if not shown:
        return steps
    from rich.progress import track

    from recbase.console import plain

    return track(steps, description=plain(what), transient=True)


def topk(
    scorer: Scorer,
    histories: Histories,
    k: int,
    mask_seen: bool = False,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
    progress: bool = False,
    users: np.ndarray | None = None,
) -> Recommendations:
    """Return the k best items of every history, equal scores in the order of their item numbers.

    Parameters
    ----------
    scorer : Scorer
        `scorer(items [B, T], lengths [B])` returns scores [B, N].
    histories : Histories
        What each user did, [B].
    k : int
        Length of the lists. Where fewer items are left (or score above -inf) the list ends with item -1, score -inf.
    mask_seen : bool, default False
        Leave out the items of the history.
    batch_size : int, default 256
        Histories scored together.
    accelerator : Accelerator, optional
        Its device receives the histories; the work is not spread over processes.
    progress : bool, default False
        Show a progress bar.
    users : ndarray of int64 [B], optional
        Row of each user in the data set, for scorers that have ``reads_users``; without it they are strangers.

    Returns
    -------
    Recommendations
        In the order of `histories`.

    Raises
    ------
    ValueError
        A score is NaN (the row is named), an item number lies outside 1..N, or `k` or `batch_size` is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k} should be >= 1")
    _check_batch_size(batch_size)
    _check_items(histories.items, scorer.n_items, "histories")
    items = np.full((len(histories), k), NO_ITEM, dtype=np.int64)
    scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
    width = min(k, scorer.n_items)
    batches = _batches(histories, scorer.max_len, batch_size)
    for b in _progress(range(len(batches)), "recommending", progress):
        rows = batches[b]
        best_scores, best_items = _best(scorer, histories, rows, width, mask_seen, accelerator, users)
        items[rows, :width] = np.where(np.isneginf(best_scores), NO_ITEM, best_items)
        scores[rows, :width] = best_scores
    return Recommendations(items, scores)


@torch.no_grad()
def _best(
    scorer: Scorer,
    histories: Histories,
    rows: np.ndarray,
    k: int,
    mask_seen: bool,
    accelerator: Accelerator | None,
    users: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores float32 [B, k] and item numbers int64 [B, k] of one batch."""
    scores = _scores(scorer, histories, rows, accelerator, users)
    if mask_seen:
        pair_rows, pair_items = (
            torch.from_numpy(part).to(scores.device) for part in _distinct_seen(histories, rows, None)
        )
        scores = scores.index_put((pair_rows, pair_items - 1), scores.new_tensor(-torch.inf))
    if bool((broken := scores.amax(1).isnan()).any()):
        row = int(rows[int(broken.nonzero()[0])])
        raise ValueError(f"the scores of row {row} contain NaN; expected finite scores")
    threshold, columns = scores.topk(k, 1)
    tied = ((scores >= threshold[:, -1:]).sum(1) > k).nonzero()[:, 0]  # equal scores at the edge
    if len(tied):
        columns[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    columns = columns.sort(dim=1).values  # item order, then score order
    best, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return best.float().cpu().numpy(), columns.gather(1, order).cpu().numpy() + 1


def rank_lists(
    recommendations: Recommendations,
    targets: Targets,
    masked: Recommendations | None = None,
    seconds: float = 0.0,
) -> Ranks:
    """Rank targets within returned lists, as for a generator, which scores only what it returns.

    The rank is 1 + the other places of the list that score higher or equal; 0 where the target is not in the list.

    Parameters
    ----------
    recommendations : Recommendations
        One list a target, seen items kept.
    targets : Targets
        The items to be found, [B].
    masked : Recommendations, optional
        Lists without seen items. Without it, the masked rank is found by taking the history items out of the lists.
    seconds : float, default 0.0
        Time the lists took, for the record.

    Raises
    ------
    ValueError
        There is not one list for every target.
    """
    for lists in (recommendations, masked):
        if lists is not None and len(lists) != len(targets):
            raise ValueError(f"there are {len(lists)} lists for {len(targets)} targets: expected one each")
    rank, ties = _places(recommendations, targets.items, np.zeros(recommendations.items.shape, dtype=bool))
    if masked is None:
        rank_masked, _ = _places(recommendations, targets.items, _seen_places(recommendations, targets))
    else:
        rank_masked, _ = _places(masked, targets.items, np.zeros(masked.items.shape, dtype=bool))
    users, items = np.asarray(targets.users, dtype=np.int64), np.asarray(targets.items, dtype=np.int32)
    first = (recommendations.items[:, :1] == _last_items(targets.histories)[:, None]).any(1)
    return Ranks(users, rank, rank_masked, ties, items, seconds, first)


def _places(lists: Recommendations, targets: np.ndarray, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rank and ties int32 [B] within the lists, with places `removed` bool [B, k] left out."""
    hit = lists.items == targets[:, None]  # [B, k]
    found, first = hit.any(1), hit.argmax(1)
    own = np.take_along_axis(lists.scores, first[:, None], 1)
    others = lists.valid & ~hit & ~removed
    rank = 1 + (others & (lists.scores >= own)).sum(1)
    ties = (others & (lists.scores == own)).sum(1)
    return np.where(found, rank, 0).astype(np.int32), np.where(found, ties, 0).astype(np.int32)


def _seen_places(lists: Recommendations, targets: Targets) -> np.ndarray:
    """Marks of the list entries that are in the user's history: bool [B, k]."""
    owner, items = _distinct_seen(targets.histories, np.arange(len(targets)), targets.items)
    width = 1 + max(int(items.max(initial=0)), int(lists.items.max(initial=0)))
    listed = np.where(lists.valid, np.arange(len(targets))[:, None] * width + lists.items, -1)
    return np.isin(listed, owner * width + items)


def list_faults(recommendations: Recommendations, n_items: int) -> dict[str, int]:
    """Count what must not be in returned lists.

    Parameters
    ----------
    recommendations : Recommendations
        Ranked lists.
    n_items : int
        Size N of the catalogue.

    Returns
    -------
    dict
        `"invalid"`: places whose number is neither -1 nor in 1..N, or that hold an item behind a -1; `"duplicates"`:
        places that repeat an item of the same list.
    """
    items, valid = recommendations.items, recommendations.valid
    behind_end = valid & (np.cumsum(~valid, 1) > 0)
    invalid = valid & ((items < 1) | (items > n_items)) | behind_end
    ordered = np.sort(items, 1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)
    return {"invalid": int(invalid.sum()), "duplicates": int(repeated.sum())}


def summarize(ranks: Ranks, ks: Iterable[int] = KS, mask_seen: bool = False) -> dict[str, Any]:
    """Return recall, NDCG and MRR at every k averaged per user, and the number of users.

    Parameters
    ----------
    ranks : Ranks
        From `rank_targets` or `rank_lists`.
    ks : iterable of int, default 5, 10, 20
        List lengths.
    mask_seen : bool, default False
        The policy: ranks without the items of the user's history.

    Returns
    -------
    dict
        `{"recall@5": ..., "ndcg@5": ..., "mrr@5": ..., "users": B}`.

    Raises
    ------
    ValueError
        A k is below 1.
    """
    return {**mean_metrics(ranks.chosen(mask_seen), ks), "users": len(ranks)}


def validator(
    targets: Targets,
    ks: Iterable[int] = KS,
    mask_seen: bool = False,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> Callable[[Any], dict[str, float]]:
    """Make the function that a training loop calls to validate a model that has a `scorer()`.

    The model is put back into the mode it was in. Arguments are those of `rank_targets` and `summarize`.
    """
    lengths = tuple(ks)

    def validate(model: Any) -> dict[str, float]:
        training = getattr(model, "training", False)
        try:
            ranks = rank_targets(model.scorer(), targets, batch_size, accelerator, progress)
        finally:
            if training:
                model.train()
        return mean_metrics(ranks.chosen(mask_seen), lengths)

    return validate
