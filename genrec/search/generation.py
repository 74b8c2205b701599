"""Lists of items from generative models for whole test sets, and how they are evaluated.

The metrics are of items, never of codes: a list holds item numbers, and items that share a code resolve to one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbase.arguments import Beams, LargeOrOff, Samples, Weight, check_arguments
from recbase.data.sequences import Histories
from recbase.data.splits import Targets
from recbase.evaluate.ranking import Ranks, rank_lists, summarize
from recbase.evaluate.recommender import NO_ITEM, Recommendations
from recbase.recipes import Given

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Search", "generate", "rank_generated", "some_targets", "validator"]


@dataclass(frozen=True)
class Search(Given):
    """Settings by which items are searched when a model is evaluated."""

    beams: Beams = 50
    """Prefixes kept at every step of the search on test, and length of the lists."""
    valid_beams: Beams = 20
    """Beams in the validation during training."""
    valid_users: LargeOrOff = 2000
    """Users of the validation during training, drawn once; 0 takes all."""
    search_batch: Samples = 64
    """Histories searched together."""
    dense: Weight | None = None
    """Weight of the dense head in lists, 0 for the generator alone; if not given, a training takes the one that is best
    on validation, and later that one is the run's."""

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))


def generate(
    model: Any,
    histories: Histories,
    beams: int = 20,
    n_best: int | None = None,
    batch_size: int = 64,
    users: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    mask_seen: bool = False,
    exact: bool = False,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> Recommendations:
    """The best items of every history.

    Histories are sorted by length, so that little is padded, and dealt out to the processes of a launch; the result is
    in their order, the same on every process.

    Parameters
    ----------
    model : Generator
    histories : Histories [B]
    beams : int, default 20
    n_best : int, optional
        Length of the lists; as many as beams if not given.
    batch_size : int, default 64
        Histories searched together.
    users : int array [B], optional
        Rows of the users in the training histories.
    mask : bool array [N] or [B, N], optional
        Items that may be recommended.
    mask_seen : bool, default False
        Leave the items of a history out of its list.
    exact : bool, default False
        Score every item instead of searching.
    accelerator : Accelerator, optional
    progress : bool, default False
    """
    from recbase.cli.options import progress as bar

    n_best = beams if n_best is None else n_best
    if len(histories.items) and int(histories.items.max()) > model.items:
        raise ValueError(f"histories hold item {int(histories.items.max())}; the model knows 1..{model.items}")
    batch_size = min(batch_size, model.rows_at_once(beams))
    order = np.argsort(-np.minimum(histories.lengths, model.max_len), kind="stable")
    batches = [order[lo : lo + batch_size] for lo in range(0, len(order), batch_size)]
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    items = np.full((len(histories), n_best), NO_ITEM, dtype=np.int64)
    scores = np.full((len(histories), n_best), -np.inf, dtype=np.float32)
    with bar("searching", len(range(rank, len(batches), world)), quiet=not progress or rank > 0) as advance:
        for rows in batches[rank::world]:
            given, lengths = (torch.from_numpy(part) for part in histories.padded(rows, model.max_len))
            exclude = None
            if mask_seen:
                exclude = histories.padded(rows, int(histories.lengths[rows].max()))[0]
            found = model.search(
                given,
                lengths,
                beams,
                n_best,
                mask=mask if mask is None or mask.ndim == 1 else mask[rows],
                exclude=exclude,
                users=None if users is None else torch.from_numpy(np.asarray(users)[rows]),
                exact=exact,
            )
            items[rows], scores[rows] = found.items.cpu().numpy(), found.scores.float().cpu().numpy()
            advance(1)
    if accelerator is not None and world > 1:
        mine = np.zeros(len(histories), dtype=bool)
        mine[np.concatenate([np.zeros(0, dtype=np.int64), *batches[rank::world]])] = True
        items[~mine], scores[~mine] = 0, 0
        device = accelerator.device
        items = accelerator.reduce(torch.from_numpy(items).to(device), reduction="sum").cpu().numpy()
        scores = accelerator.reduce(torch.from_numpy(scores).to(device), reduction="sum").cpu().numpy()
    return Recommendations(items, scores)


def rank_generated(
    model: Any,
    targets: Targets,
    beams: int = 20,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    progress: bool = False,
    exact: bool = False,
) -> tuple[Ranks, Recommendations]:
    """Ranks of the targets in the model's lists of as many items as beams, and the lists."""
    begun = time.perf_counter()
    lists = generate(
        model,
        targets.histories,
        beams,
        batch_size=batch_size,
        users=targets.known_users,
        exact=exact,
        accelerator=accelerator,
        progress=progress,
    )
    return rank_lists(lists, targets, seconds=time.perf_counter() - begun), lists


def some_targets(targets: Targets, count: int, seed: int = 0) -> Targets:
    """A fixed, seeded part of the targets, in their order; all of them if there are no more or ``count`` is 0."""
    if not count or len(targets) <= count:
        return targets
    rows = np.sort(np.random.default_rng(seed).choice(len(targets), count, replace=False))
    return targets.take(rows)


def validator(
    targets: Targets, search: Search, accelerator: Accelerator | None = None
) -> Callable[[Any], dict[str, float]]:
    """Make the function that a training loop calls to validate a generator, on a fixed part of the users.

    It searches in the precision of the training; figures of a finished run are searched for in float32.
    """
    some = some_targets(targets, search.valid_users)

    def validate(model: Any) -> dict[str, float]:
        with nullcontext() if accelerator is None else accelerator.autocast():
            ranks, _ = rank_generated(model, some, search.valid_beams, search.search_batch, accelerator)
        return {name: float(value) for name, value in summarize(ranks).items() if name != "users"}

    return validate
