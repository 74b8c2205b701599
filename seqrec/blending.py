"""Weights of a blend, chosen on validation, and the run that comes of it.

The members are asked once for every validation user; what can stand near the top of any sum of them is kept, and
weights are tried on that. Test is looked at once, by the blend that was chosen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from recbase.console import progress
from recbase.data.splits import DIVISIONS
from recbase.evaluate.metrics import parse_metric, user_values
from recbase.pipeline import evaluate_and_save
from recbase.serving.fitted import FittedRecommender, scratch_folder
from recbase.store.runs import MANIFEST, load_run, open_run
from recbase.train.attempts import attempt_at
from seqrec import MODELS
from seqrec.models.blend import SCALES, Blend, Scale, member_scores, scaled
from seqrec.recommender import FittedRanker
from seqrec.training import Ranking

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.data.splits import Targets

__all__ = ["Candidates", "best_weights", "blend", "open_member"]

_KEPT = 300  # best items of each member that are kept for a user
_BATCH = 128
_STEPS = ((0.0, 0.25, 0.5, 2.0, 4.0), (0.0, 0.7, 1.4), (0.84, 1.19))


@dataclass(frozen=True)
class Candidates:
    """Items that may stand near the top of a sum of members, for each user.

    Attributes
    ----------
    scores : float32 Tensor [M, B, C]
        Scaled scores; -inf for an item that stands there twice.
    own : float32 Tensor [M, B]
        Scaled scores of the targets, which are not among the candidates.
    lengths : int64 ndarray [B]
        Of the histories.
    had : bool Tensor [B, C], optional
        Candidates that are in the history.
    again : bool Tensor [B], optional
        Targets that are in the history.
    """

    scores: Tensor
    own: Tensor
    lengths: np.ndarray
    had: Tensor | None = None
    again: Tensor | None = None

    def unseen(self) -> Candidates:
        """The same users where no item of a history can be found, so that a target that is one never is."""
        if self.had is None or self.again is None:
            return self
        scores, own = self.scores.masked_fill(self.had, -torch.inf), self.own.masked_fill(self.again, -torch.inf)
        return Candidates(scores, own, self.lengths, self.had, self.again)

    def take(self, rows: np.ndarray) -> Candidates:
        """Some of the users."""
        picked = torch.from_numpy(rows)
        had, again = (None if part is None else part[picked] for part in (self.had, self.again))
        return Candidates(self.scores[:, picked], self.own[:, picked], self.lengths[rows], had, again)

    def ranks(self, weights: Sequence[float]) -> np.ndarray:
        """Rank of each target under these weights, ties against it: int [B]."""
        used = [place for place, weight in enumerate(weights) if weight]
        scores = sum(weights[place] * self.scores[place] for place in used)
        own = sum(weights[place] * self.own[place] for place in used)
        assert isinstance(scores, Tensor)
        assert isinstance(own, Tensor)
        return 1 + (scores >= own[:, None]).sum(1).numpy()

    def value(self, weights: Sequence[float], metric: str) -> float:
        """Mean of the metric over the users."""
        return float(user_values(metric, self.ranks(weights)).mean())


def open_member(run: FittedRecommender | str | os.PathLike[str]) -> FittedRecommender:
    """A run of either family, opened.

    Raises
    ------
    ValueError
        If its model is of neither family.
    """
    if isinstance(run, FittedRecommender):
        return run
    name = open_run(run).manifest.get("model")
    for family in ("seqrec", "genrec"):
        if name in import_module(family).MODELS:
            found: FittedRecommender = import_module(f"{family}.recommender").load(run)
            return found
    raise ValueError(f"{Path(run) / MANIFEST}: 'model' is {name!r}, which neither seqrec nor genrec knows")


def candidates(model: Blend, targets: Targets, quiet: bool = False) -> Candidates:
    """Ask every member once for all targets, and keep what can matter."""
    scorers, parts = model.scorers(), []
    order = np.argsort(targets.histories.lengths, kind="stable")
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    with progress("asking the members", len(batches), quiet) as advance:
        for rows in batches:
            parts.append(_asked(model, scorers, targets, rows))
            advance(1)
    back = torch.from_numpy(np.argsort(order))
    scores, own, had, again = (torch.cat(part, axis)[(slice(None),) * axis + (back,)] for part, axis in
                               zip(zip(*parts, strict=True), (1, 1, 0, 0), strict=True))  # fmt: skip
    return Candidates(scores, own, targets.histories.lengths, had, again)


@torch.no_grad()
def _asked(
    model: Blend, scorers: Sequence[Any], targets: Targets, rows: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores of the candidates [M, B, C] and of the targets [M, B] of some users, and which of both they had."""
    items, lengths = (torch.from_numpy(part) for part in targets.histories.padded(rows, model.max_len))
    known = np.full(len(targets), -1) if targets.known_users is None else targets.known_users
    users = torch.from_numpy(known[rows])
    scores = torch.stack([scaled(member_scores(one, items, lengths, users), model.scale) for one in scorers])
    target = torch.from_numpy(targets.items[rows].astype(np.int64) - 1)
    count = min(_KEPT, model.items)
    best = scores.topk(count, 2).indices.permute(1, 0, 2).reshape(len(rows), -1).sort(1).values  # [B, M * K]
    twice = torch.zeros_like(best, dtype=torch.bool)
    twice[:, 1:] = best[:, 1:] == best[:, :-1]
    twice |= best == target[:, None]
    found = scores.gather(2, best.expand(len(scores), -1, -1)).masked_fill(twice, -torch.inf)
    read = torch.zeros(len(rows), model.items + 1, dtype=torch.bool).scatter_(1, items, True)[:, 1:]
    own = scores.gather(2, target.expand(len(scores), -1)[:, :, None])[:, :, 0]
    return found, own, read.gather(1, best), read.gather(1, target[:, None])[:, 0]


def best_weights(found: Candidates, metric: str, start: Sequence[float] | None = None) -> tuple[list[float], float]:
    """Weights of the highest metric: from several starts, one weight at a time, by coarse and then by fine factors.

    Returns
    -------
    (list of float, float)
        The weights, the largest being 1, and the metric.
    """
    count = len(found.scores)
    starts = [list(start)] if start is not None else [[1.0] * count, *np.eye(count).tolist()]
    reached = max(((weights, found.value(weights, metric)) for weights in starts), key=lambda pair: pair[1])
    if start is None and count > 1:  # a member that stands alone is joined by the others at a quarter of its weight
        joined = [max(weight, 0.25) for weight in reached[0]]
        reached = max((reached, (joined, found.value(joined, metric))), key=lambda pair: pair[1])
    weights, value = reached
    for factors in _STEPS:
        improved = True
        while improved:
            improved = False
            for place in range(count):
                tried = [_with(weights, place, factor) for factor in factors]
                tried = [one for one in tried if any(one) and one != weights]
                for one in tried:
                    if (now := found.value(one, metric)) > value:
                        weights, value, improved = one, now, True
    largest = max(weights)
    return [round(weight / largest, 4) for weight in weights], value


def _with(weights: Sequence[float], place: int, factor: float) -> list[float]:
    """The weights with one of them multiplied; one that is 0 comes back at a quarter of the largest."""
    changed = list(weights)
    changed[place] = factor * changed[place] if changed[place] else 0.25 * factor * max(weights)
    return changed


def _weights_by_length(found: Candidates, weights: list[float], edges: Sequence[int], metric: str) -> list[list[float]]:
    """Weights of each range of lengths, where those found on one half of its users are better on the other half."""
    rows = []
    for number in range(len(edges) + 1):
        inside = np.flatnonzero(np.searchsorted(edges, found.lengths, side="right") == number)
        first, second = found.take(inside[::2]), found.take(inside[1::2])
        if len(inside) < 200:
            rows.append(weights)
            continue
        better = all(
            other.value(best_weights(half, metric, weights)[0], metric) > other.value(weights, metric)
            for half, other in ((first, second), (second, first))
        )
        rows.append(best_weights(found.take(inside), metric, weights)[0] if better else weights)
    return rows


def blend(
    runs: Sequence[FittedRecommender | str | os.PathLike[str]],
    data: Dataset | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    scale: Scale | None = None,
    by_length: bool = False,
    seen: Literal["keep", "drop", "learn"] = "learn",
    lists: int = 100,
    metric: str = "ndcg@10",
    quiet: bool = False,
) -> FittedRanker:
    """Blend trained recommenders: choose weights on validation, evaluate on test once, and save one run.

    Parameters
    ----------
    runs : sequence of FittedRecommender or path
        Rankers and generators of one data set and split.
    data : Dataset, optional
        The data set; by default the one the first run was trained on.
    out : path, optional
        Run folder. Without it a temporary one is used, which is gone with the object unless it is saved.
    scale : {"standard", "rank", "softmax"}, optional
        See `seqrec.models.blend.Blend`; all three are tried on validation if not given.
    by_length : bool, default False
        Let the weights depend on the length of the history, where validation confirms it on users apart.
    seen : {"keep", "drop", "learn"}, default "learn"
        Whether items of the history may stand in a list; learned: they may not where validation is better without them,
        as it is where nobody has an item twice. The figures with seen items kept and masked are then one.
    lists : int, default 100
        Length of the lists of generators; 0 scores every item.
    metric : str, default "ndcg@10"
        Validation metric that chooses, seen items kept.
    quiet : bool, default False
        Show no progress.

    Returns
    -------
    FittedRanker
        Its manifest holds, under ``blend``, each member's weight, its metric alone and the blend's without it.

    Raises
    ------
    ValueError
        If there are fewer than two runs, they are of different data sets, or the scale is unknown.
    """
    members = [open_member(run) for run in runs]
    if len(members) < 2:
        raise ValueError(f"a blend needs two runs or more, got {len(members)}")
    if scale is not None and scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if seen not in ("keep", "drop", "learn"):
        raise ValueError(f"seen must be one of keep, drop, learn, got {seen!r}")
    parse_metric(metric)
    for member in members:
        member.check_judged()
        if member.manifest["data"]["hash"] != members[0].manifest["data"]["hash"]:
            raise ValueError(f"{member.folder} and {members[0].folder} were trained on different data sets")
        splits = [one.manifest.get("split", DIVISIONS["last"]) for one in (member, members[0])]
        if splits[0] != splits[1]:
            raise ValueError(f"{member.folder} has the split {splits[0]} but {members[0].folder} has {splits[1]}")
    dataset = members[0].data if data is None else members[0].checked(data)
    target = scratch_folder("blend") if out is None else Path(out)
    begun = time.perf_counter()
    with attempt_at(target, "blending") as attempt:
        model, record = _chosen(members, dataset, scale, by_length, seen, lists, metric, quiet)
        manifest = {"form": "counts", "recipe": "default", "blend": record}
        manifest |= {"given": members[0].manifest["data"].get("given", dataset.name)}
        evaluate_and_save("blend", model, dataset, attempt, Ranking(), manifest, time.perf_counter() - begun)
    found = FittedRanker(load_run(target, MODELS), dataset)
    return found.own(target) if out is None else found


def _chosen(
    members: Sequence[FittedRecommender],
    dataset: Dataset,
    scale: Scale | None,
    by_length: bool,
    seen: str,
    lists: int,
    metric: str,
    quiet: bool,
) -> tuple[Blend, dict[str, Any]]:
    """The blend that is best on validation, and what is said of it."""
    valid, count = dataset.split().valid, len(members)
    tried: dict[str, float] = {}
    best: tuple[float, Blend, Candidates] | None = None
    for name in SCALES if scale is None else (scale,):
        model = Blend.of(members, [[1.0] * count], scale=name, lists=lists)
        kept = candidates(model, valid, quiet)
        ways = {"keep": [(True, kept)], "drop": [(False, kept.unseen())]}
        for allowed, found in ways.get(seen, ways["keep"] + ways["drop"]):
            weights, value = best_weights(found, metric)
            tried[name if allowed else f"{name}, without seen items"] = value
            if best is None or value > best[0]:
                model.weights, model.seen = [weights], allowed
                best = value, model, found
    assert best is not None
    value, model, found = best
    rows = []
    for place, member in enumerate(members):
        others = [one for one in range(count) if one != place]
        without = Candidates(found.scores[others], found.own[others], found.lengths, found.had, found.again)
        rows.append(
            {
                "model": member.name,
                "folder": str(member.folder),
                "version": member.version,
                "weight": model.weights[0][place],
                "alone": found.value(np.eye(count)[place].tolist(), metric),
                "without": best_weights(without, metric)[1],
            }
        )
    if by_length:
        edges = sorted(set(np.quantile(found.lengths, [1 / 3, 2 / 3]).astype(int).tolist()))
        model.weights = _weights_by_length(found, model.weights[0], edges, metric)
        model.edges = edges
    return model, {"metric": metric, "valid": value, "tried": tried, "seen": model.seen, "members": rows}
