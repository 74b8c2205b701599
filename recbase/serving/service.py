"""A trained recommender in a server: one model in use, replaced as a whole, and bounds of what is taken on.

The model is one attribute, so that every request is answered by one model from beginning to end, and the answer says
which. HTTP is the business of `recbase.serving.web`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbase.arguments import Count, check_arguments

if TYPE_CHECKING:
    from recbase.serving.fitted import FittedRecommender

__all__ = ["Bounds", "Loader", "Service"]

Loader = Callable[[], "FittedRecommender"]


@dataclass(frozen=True)
class Bounds:
    """Bounds of what a server takes on."""

    workers: Count = 1
    """Requests computed at the same time."""
    waiting: Count = 64
    """Requests in all, computed or waiting for their turn; more are answered by 503."""
    most_histories: Count = 1_000
    """Histories of one request."""
    most_bytes: Count = 1_000_000
    """Bytes of one request."""
    most_items: Count = 1_000
    """Longest list, k."""

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))


class Service:
    """A model in use, and how it is replaced.

    Parameters
    ----------
    load : callable
        Opens the run folder.
    answer : mapping, optional
        Options of `FittedRecommender.recommend` that the server fixes, such as ``beams``.

    Attributes
    ----------
    current : FittedRecommender
        The model that answers.
    """

    def __init__(self, load: Loader, answer: Mapping[str, Any] | None = None) -> None:
        self.load, self.options = load, dict(answer or {})
        self.current = self._ready()

    def _ready(self) -> FittedRecommender:
        """A model that has answered once, so that no request waits for its tables."""
        fitted = self.load()
        fitted.answer(histories=[[fitted.items["item_id"][0]]], k=1, keep_seen=True, **self.options)
        return fitted

    def reload(self) -> dict[str, Any]:
        """Open the folder again and take what is there into use; if it cannot be opened the old model stays.

        Raises
        ------
        OSError, ValueError
            If the folder is gone or damaged.
        """
        fitted = self._ready()
        self.current = fitted
        return self.about(fitted)

    def about(self, fitted: FittedRecommender | None = None) -> dict[str, Any]:
        """Name, version and size of the model in use."""
        fitted = self.current if fitted is None else fitted
        name = fitted.manifest.get("data", {}).get("name")
        return {"model": fitted.name, "version": fitted.version, "items": len(fitted.items), "data": name}

    def recommend(self, histories: list[list[str]], k: int, keep_seen: bool, **filters: Any) -> dict[str, Any]:
        """Lists for some histories, all by one model.

        Raises
        ------
        ValueError
            As for `FittedRecommender.recommend`.
        """
        fitted = self.current
        found = fitted.answer(histories=histories, k=k, keep_seen=keep_seen, **filters, **self.options)
        lists: list[dict[str, Any]] = [{"items": [], "popular": False} for _ in histories]
        for row in found.table.drop("rank").iter_rows(named=True):
            place = lists[row.pop("user")]
            place["popular"] = row.pop("popular")
            place["items"].append(row)
        return {"lists": lists, "unknown": found.unknown, "version": fitted.version}
