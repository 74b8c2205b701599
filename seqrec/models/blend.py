"""A weighted sum of the scores of several trained models: what complements each other ranks better together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from recbase.arguments import Large, LargeOrOff, check_arguments
from recbase.model import Pretrained
from recbase.store.restoring import Expected, load_weights
from recbase.store.runs import resolve

__all__ = ["SCALES", "Blend", "BlendScorer", "below_others", "member_scores", "scaled"]

Scale = Literal["standard", "rank", "softmax"]
SCALES = ("standard", "rank", "softmax")
_FAMILIES = ("seqrec", "genrec")
_RANKED = 1_000  # places that the scale "rank" tells apart


class Blend(Pretrained):
    """Sum of the scores of trained members, each brought to one scale per history.

    score(item) = sum over members m of weight[m] * scale(score of m), which is the linear combination of Fox and Shaw
    (TREC 1994); EnsRec (arXiv 2512.17820) adds standardised scores of an id and a text model in this way. Ours beside
    that: weights may depend on the length of the history; generators are members by the lists that they find.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    members : list of dict
        Of each ``family`` (seqrec or genrec), ``model`` (its name) and ``arguments`` (of its constructor).
    weights : list of list of float
        A weight for each member, [M], for each range of lengths.
    scale : {"standard", "rank", "softmax"}, default "standard"
        Scale of scores per history: zero mean and unit variance over the catalogue; minus the logarithm of the place;
        or probabilities.
    edges : list of int, default ()
        Lengths of history at which the next row of weights begins, rising; one fewer than rows of weights.
    seen : bool, default True
        Whether items of the history may stand in a list. Where it is False they score below all others, also where
        seen items are said to be kept.
    lists : int, default 100
        Beams, and items, of a generator's list; items that are not found score as one nat below the last. 0 scores
        every item exactly, which is slow for large catalogues.
    """

    def __init__(
        self,
        items: Large,
        members: Sequence[Mapping[str, Any]],
        weights: Sequence[Sequence[float]],
        scale: Scale = "standard",
        edges: Sequence[int] = (),
        lists: LargeOrOff = 100,
        seen: bool = True,
    ) -> None:
        check_arguments(type(self), {"items": items, "scale": scale, "lists": lists})
        _check(members, weights, edges)
        self.items, self.scale, self.lists, self.seen = items, scale, lists, seen
        self.members = [dict(member) for member in members]
        self.weights, self.edges = [[float(one) for one in row] for row in weights], [int(edge) for edge in edges]
        self.models = [_built(member) for member in self.members]
        for place, model in enumerate(self.models):
            if (count := int(model.config()["items"])) != items:
                raise ValueError(f"member {place} has {count} items, expected {items} as the blend")
        self.max_len = max(int(getattr(model, "max_len", 1)) for model in self.models)  # popularity reads no history

    @classmethod
    def of(cls, runs: Sequence[Any], weights: Sequence[Sequence[float]], **settings: Any) -> Blend:
        """Blend of open runs, which share their weights with it.

        Parameters
        ----------
        runs : sequence of FittedRecommender
        weights : list of list of float
        **settings
            The other arguments.
        """
        members = [{"family": run.model.registry, "model": run.name, "arguments": run.model.config()} for run in runs]
        made = cls(len(runs[0].items), members, weights, **settings)
        made.models = [run.model for run in runs]
        return made

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        names = ("items", "members", "weights", "scale", "edges", "lists", "seen")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays of all members, each under the number of its member."""
        found = {}
        for place, model in enumerate(self.models):
            arrays = model.tensors() if hasattr(model, "tensors") else model.state_dict()
            for name, value in arrays.items():
                found[f"{place}.{name}"] = value if isinstance(value, np.ndarray) else value.cpu().numpy()
        return found

    def load(self, tensors: dict[str, np.ndarray]) -> Blend:
        """Restore what :meth:`tensors` gave.

        Raises
        ------
        ValueError
            If they are not those of the members.
        """
        for place, model in enumerate(self.models):
            start = f"{place}."
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            if isinstance(model, nn.Module):
                load_weights(f"member {place}", model, own, f"a {self.members[place]['model']}")
                model.eval()
            else:
                model.load(own)
        return self

    def expected(self) -> dict[str, Expected]:
        """Arrays that a saved model has; those of networks are looked at again by :meth:`load`."""
        found: dict[str, Expected] = {}
        for place, model in enumerate(self.models):
            if isinstance(model, nn.Module):
                parts = {name: _shape(value) for name, value in model.state_dict().items()}
            else:
                parts = model.expected()
            found |= {f"{place}.{name}": part for name, part in parts.items()}
        return found

    def scorers(self) -> list[Any]:
        """A scorer of all items for each member."""
        return [_Lists(model, self.lists) if hasattr(model, "search") else model.scorer() for model in self.models]

    def scorer(self) -> BlendScorer:
        """Scores for evaluation and recommendation."""
        return BlendScorer(self)


class BlendScorer:
    """The sum of the scaled scores of all members."""

    def __init__(self, model: Blend) -> None:
        self.n_items, self.max_len, self.scale = model.items, model.max_len, model.scale
        self.scorers = model.scorers()
        self.weights = torch.tensor(model.weights, dtype=torch.float32)  # [R, M]
        self.edges = torch.tensor(model.edges, dtype=torch.int64)
        self.reads_users = any(getattr(scorer, "reads_users", False) for scorer in self.scorers)
        self.seen = model.seen

    def __call__(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        weights = self.weights[torch.bucketize(lengths.cpu(), self.edges, right=True)].to(items.device)  # [B, M]
        total = items.new_zeros((len(items), self.n_items), dtype=torch.float32)
        for place, scorer in enumerate(self.scorers):
            if bool((weights[:, place] != 0).any()):
                total += weights[:, place, None] * scaled(member_scores(scorer, items, lengths, users), self.scale)
        return total if self.seen else below_others(total, items)


def member_scores(scorer: Any, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
    """Scores [B, N] of one member, which is given as much of the histories as it reads."""
    if items.shape[1] > scorer.max_len:
        kept = lengths.clamp(max=scorer.max_len)
        steps = torch.arange(scorer.max_len, device=items.device)
        places = (lengths - kept)[:, None] + steps  # the latest items
        items = items.gather(1, places.clamp(max=items.shape[1] - 1)) * (steps < kept[:, None])
        lengths = kept
    known = (users,) if users is not None and getattr(scorer, "reads_users", False) else ()
    scores: Tensor = scorer(items, lengths, *known)
    return scores.float()


def below_others(scores: Tensor, items: Tensor) -> Tensor:
    """Scores [B, N] with the items of the histories [B, T], as far as they are read, below all others."""
    floor = scores.amin(1, keepdim=True) - 1
    filled = torch.cat([floor, scores], 1)  # column 0 is padding
    return filled.scatter(1, items, floor.expand(-1, items.shape[1]))[:, 1:]


def scaled(scores: Tensor, scale: Scale) -> Tensor:
    """Scores [B, N] on a scale that is the same for every member and history."""
    if scale == "softmax":
        return scores.softmax(1)
    if scale == "rank":
        best = scores.topk(min(_RANKED, scores.shape[1]), 1).values
        higher = torch.searchsorted(-best, -scores.contiguous())  # items that score higher; equal ones share a place
        return -(higher + 2).float().log2()
    spread = scores.std(1, keepdim=True).clamp(min=1e-12)
    return (scores - scores.mean(1, keepdim=True)) / spread


class _Lists:
    """A generator as a scorer: log-probabilities of the items that it finds, all others one nat below the last."""

    def __init__(self, model: Any, lists: int) -> None:
        self.model, self.lists = model, min(lists, model.items)
        self.n_items, self.max_len, self.reads_users = model.items, model.max_len, True

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        if not self.lists:
            return self.model.score_all(items, lengths, users)
        parts = []
        step = self.model.rows_at_once(self.lists)
        for start in range(0, len(items), step):
            rows = slice(start, start + step)
            who = None if users is None else users[rows]
            found = self.model.search(items[rows], lengths[rows], self.lists, self.lists, users=who)
            there = found.items > 0
            scores = found.scores.float()
            floor = torch.where(there, scores, torch.inf).amin(1, keepdim=True) - 1
            filled = floor.expand(-1, self.n_items + 1).clone()
            filled.scatter_(1, found.items.clamp(min=0), torch.where(there, scores, floor))
            parts.append(filled[:, 1:])
        return torch.cat(parts)


def _built(member: Mapping[str, Any]) -> Any:
    return resolve(member["model"], import_module(member["family"]).MODELS)(**member["arguments"])


def _shape(value: Tensor) -> Expected:
    kind = "f" if value.is_floating_point() else "b" if value.dtype == torch.bool else "i"
    return Expected(tuple(value.shape), kind, finite=False)


def _check(members: Sequence[Mapping[str, Any]], weights: Sequence[Sequence[float]], edges: Sequence[int]) -> None:
    if not members:
        raise ValueError("a blend needs one member or more, got none")
    for place, member in enumerate(members):
        if member.get("family") not in _FAMILIES or not {"model", "arguments"} <= set(member):
            raise ValueError(f"member {place} must have a family of {' or '.join(_FAMILIES)}, a model and arguments")
        if member["model"] == "blend":
            raise ValueError(f"member {place} is a blend itself; give its members instead")
    if len(weights) != len(edges) + 1 or list(edges) != sorted(set(edges)):
        raise ValueError(f"weights has {len(weights)} rows for edges {list(edges)}, expected rising edges, one fewer")
    for row in weights:
        if len(row) != len(members) or not np.isfinite(np.asarray(row, dtype=float)).all() or not any(row):
            raise ValueError(f"weights {list(row)} should be {len(members)} finite numbers, not all 0")
