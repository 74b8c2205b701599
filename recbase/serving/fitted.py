"""A trained recommender as its users meet it: raw ids in, a table of raw ids out.

Rankers and generators differ in how lists are made and judged; they extend `FittedRecommender` and define that alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from recbase.data.catalog import as_dataset, load_dataset
from recbase.data.interactions import number
from recbase.data.sequences import Histories
from recbase.evaluate.recommender import NO_ITEM, Recommendations
from recbase.store.files import write_file
from recbase.store.hub import downloaded_folder
from recbase.store.runs import Run, load_run

if TYPE_CHECKING:
    from typing import Self

    from recbase.data.catalog import Dataset

__all__ = ["Answers", "FittedRecommender", "scratch_folder"]

_HISTORY = "history.jsonl"
_SHOWN = 3

Ids = Sequence[str | int] | np.ndarray | pl.Series


@dataclass(frozen=True)
class Answers:
    """Recommendations, and what had to be left out of the question.

    Attributes
    ----------
    table : DataFrame
        See `FittedRecommender.recommend`.
    unknown : list of str
        Ids in the histories and filters that the model does not know, each once.
    strangers : int
        Histories without any known item, which were answered with the most popular items.
    """

    table: pl.DataFrame
    unknown: list[str]
    strangers: int


class FittedRecommender(ABC):
    """A trained model with the ids and titles of its items: what training and loading return.

    What a call needs again (map of ids, scores' table, prefix tree) is made at the first one and kept.

    Parameters
    ----------
    run : Run
        An open run folder.
    data : Dataset, optional
        The data set that it was trained on, for ``recommend(users=...)`` and ``evaluate``; opened when it is needed,
        by the name that the run records, if not given.

    Attributes
    ----------
    models : mapping
        Registry of the family: name to ``module:Class``.
    options : tuple of str
        Further arguments of `recommend`.
    kept : tuple of str
        Attributes that are made of the model at first use and kept.
    """

    models: ClassVar[Mapping[str, str]]
    options: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run, data: Dataset | None = None) -> None:
        self._run = run
        self._data = None if data is None else data.divided(run.manifest.get("split", data.division))
        self._scratch: weakref.finalize | None = None

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        data: Dataset | str | os.PathLike[str] | None = None,
        revision: str | None = None,
    ) -> Self:
        """Open a trained model: a run folder, an export, or a repository of the Hugging Face hub.

        Parameters
        ----------
        folder : path or str
        data : Dataset, path or str, optional
            The data set that it was trained on, for answers by user and for evaluation; by default it is opened by the
            name that the run records, when it is needed.
        revision : str, optional
            Of the repository.

        Raises
        ------
        FileNotFoundError
            If there is neither a folder nor a repository of that name.
        ValueError
            If the run is damaged, or of a model that is unknown here.
        """
        path = Path(folder) if Path(folder).is_dir() else downloaded_folder(folder, revision)
        return cls(load_run(path, cls.models), None if data is None else as_dataset(data))

    def __repr__(self) -> str:
        found = self._run.manifest.get("data", {}).get("name")
        of = f" of {found}" if found else ""
        return f"{type(self).__name__}({self.name}{of}: {len(self.items):,} items, {str(self.folder)!r})"

    # ------------------------------------------------------------------------------------------- what it is

    @property
    def name(self) -> str:
        """Name of the model in its registry, such as ``"sasrec"``."""
        return str(self._run.manifest["model"])

    @property
    def model(self) -> Any:
        """The model, with its weights, in eval mode."""
        return self._run.model

    @property
    def folder(self) -> Path:
        """Run folder that it was read from or last saved to."""
        return self._run.folder.path

    @property
    def version(self) -> str:
        """First digits of the SHA-256 of the weights, which tell this model from one that replaced it."""
        return self._run.folder.files["model.safetensors"]["sha256"][:12]

    @property
    def items(self) -> pl.DataFrame:
        """``item_id`` and, where they are known, ``title`` and ``events`` (in training) of item 1..N."""
        return self._run.items

    @property
    def manifest(self) -> dict[str, Any]:
        """Entries of the run's manifest: model, arguments, data set, recipe, training."""
        return self._run.manifest

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``: protocol, ``valid``, ``test`` (seen items kept), ``test_masked``, seconds."""
        return self._run.metrics

    @property
    def history(self) -> pl.DataFrame:
        """Learning curve, one row a validation; without rows where nothing was trained by gradient."""
        path = self.folder / _HISTORY
        if not path.is_file() or not path.stat().st_size:
            return pl.DataFrame()
        return pl.read_ndjson(path, infer_schema_length=None).unnest("metrics")

    @property
    def data(self) -> Dataset:
        """The data set that it was trained on.

        Raises
        ------
        ValueError
            If it cannot be opened by the name that the run records, or is another one by now.
        """
        if self._data is None:
            given = self._run.data.get("given", self._run.data["name"])
            try:
                found = load_dataset(given)
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(
                    f"the data set {given} that {self.folder} was trained on cannot be opened ({error}); give it as "
                    "data=... when the model is loaded"
                ) from error
            self._data = self.checked(found)
        return self._data

    def checked(self, dataset: Dataset) -> Dataset:
        """The data set, divided as the run's; ValueError if it is not the one that the model was trained on."""
        if dataset.hash != self._run.data["hash"]:
            raise ValueError(
                f"{self.folder} was trained on {self._run.data['name']}, not on the data set {dataset.name}"
            )
        return dataset.divided(self.manifest.get("split", dataset.division))

    # ------------------------------------------------------------------------------------------- what it does

    def recommend(
        self,
        users: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 10,
        *,
        keep_seen: bool = False,
        exclude: Ids | None = None,
        only: Ids | None = None,
        strict: bool = False,
        **options: Any,
    ) -> pl.DataFrame:
        """Best items for users of the data set, or for histories of raw item ids.

        Parameters
        ----------
        users : sequence of ids, optional
            Users of the data set, each answered by the whole of the user's history.
        histories : sequence of sequences of ids, optional
            The oldest item first. Either this or ``users`` is given.
        k : int, default 10
            Length of the lists; shorter where fewer items may be recommended.
        keep_seen : bool, default False
            Whether items of the history may be recommended again.
        exclude, only : sequence of ids, optional
            Items that must not, or alone may, be recommended.
        strict : bool, default False
            Refuse ids that the model does not know. Otherwise they are skipped with a warning that counts them, and a
            history without any known item is answered with the most popular items.
        **options
            Of the family: ``engine`` for rankers, ``beams`` and ``exact`` for generators.

        Returns
        -------
        DataFrame
            ``user`` (the id, or the place of the history from 0 on), ``rank`` from 1 on, ``item``, ``title`` where the
            run has titles, ``score`` (null for a popular item), ``popular`` (True where nothing was known of the user).

        Raises
        ------
        ValueError
            If neither or both of users and histories are given, a user is not of the data set, ``k`` is below 1, or, if
            ``strict``, an item is unknown or a history empty.
        """
        answers = self.answer(users, histories, k, keep_seen, exclude, only, strict, **options)
        if answers.unknown or answers.strangers:
            warnings.warn(self._left_out(answers), stacklevel=2)
        return answers.table

    def answer(
        self,
        users: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 10,
        keep_seen: bool = False,
        exclude: Ids | None = None,
        only: Ids | None = None,
        strict: bool = False,
        **options: Any,
    ) -> Answers:
        """Recommend as `recommend` does, and tell what was left out instead of warning of it."""
        if (users is None) == (histories is None):
            raise ValueError("give either users or histories, and not both")
        for name in options:
            if name not in self.options:
                raise TypeError(f"recommend of a {self.name} has no option {name!r}; it has {', '.join(self.options)}")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a whole number of 1 or more, got {k!r}")
        asked, rows, known, unknown = self._question(users, histories, strict)
        allowed = self._allowed(exclude, only, unknown, strict)
        k = min(int(k), len(self.items))
        familiar = known.lengths > 0  # networks read histories of one item or more
        if familiar.all():
            found = self._lists(known, k, keep_seen, allowed, rows, **options)
        else:
            found = self._popular_lists(len(known), k, allowed)
            if familiar.any():
                some = np.flatnonzero(familiar)
                lists = self._lists(
                    known.take(some), k, keep_seen, allowed, None if rows is None else rows[some], **options
                )
                found.items[some], found.scores[some] = lists.items, lists.scores
        return Answers(self._table(asked, found, ~familiar), unknown, int((~familiar).sum()))

    def evaluate(self, data: Dataset | None = None, **options: Any) -> dict[str, Any]:
        """Rank the held-out items of all validation and test users again.

        Parameters
        ----------
        data : Dataset, optional
            By default the one that it was trained on, opened by its name.
        **options
            Of generators: ``beams``, ``search_batch`` and ``exact``; by default as the run was searched.

        Returns
        -------
        dict
            As `metrics`, without what the training took.

        Raises
        ------
        ValueError
            If the data set is another one than the model was trained on.
        """
        self.check_judged()
        return self._evaluated(self.data if data is None else self.checked(data), **options)

    def check_judged(self) -> None:
        """Refuse to evaluate a model that was trained on its test events.

        Raises
        ------
        ValueError
            If it was.
        """
        if "final" in self.manifest:
            raise ValueError(
                f"{self.folder} was trained on all events, those of validation and test too (--final): its figures in "
                "metrics.json are those of the model before, which was trained on the training part alone"
            )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the run folder, complete: model, ids, titles, metrics, ranks, learning curve.

        From then on `folder` is this one. A model in a temporary folder is lost with its object if it is not saved.

        Raises
        ------
        ValueError, OSError
            If the folder holds something else than a run, or cannot be written; what it held is kept.
        """
        target, curve = Path(folder), self.folder / _HISTORY
        if target.resolve() == self.folder.resolve():
            return target
        lines = curve.read_bytes() if curve.is_file() else b""
        self.model.save_pretrained(target)
        if lines:
            write_file(target / _HISTORY, lines)
        self._run = load_run(target, self.models)
        for made in self.kept:  # of a model that is another object now
            self.__dict__.pop(made, None)
        if self._scratch is not None:
            self._scratch()
            self._scratch = None
        return target

    # ------------------------------------------------------------------------------------------- what a family defines

    @abstractmethod
    def _lists(
        self,
        histories: Histories,
        k: int,
        keep_seen: bool,
        allowed: np.ndarray | None,
        users: np.ndarray | None,
        **options: Any,
    ) -> Recommendations:
        """Lists of item numbers; ``allowed`` bool [N], ``users`` rows of the data set."""

    @abstractmethod
    def _evaluated(self, data: Dataset, **options: Any) -> dict[str, Any]:
        """Metrics on all validation and test users."""

    # ------------------------------------------------------------------------------------------- ids and numbers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Item number of each raw id, as text."""
        return {name: number for number, name in enumerate(self.items["item_id"].cast(pl.String).to_list(), 1)}

    def _question(
        self, users: Ids | None, histories: Sequence[Ids] | None, strict: bool
    ) -> tuple[pl.Series, np.ndarray | None, Histories, list[str]]:
        """Who is asked for, their rows in the data set, their known items, and ids that are unknown."""
        if users is not None:
            rows = self._rows_of(users)
            return self.data.user_ids.gather(rows).alias("user"), rows, self.data.histories.take(rows), []
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories or ()):
            raise ValueError("histories must be a sequence of sequences of item ids, got a text")
        numbers, unknown = self._numbers, dict[str, None]()
        known = []
        for place, history in enumerate(histories or ()):
            named = [str(item) for item in history]
            found = [numbers[name] for name in named if name in numbers]
            if len(found) < len(named):
                unknown.update((name, None) for name in named if name not in numbers)
            if strict and (unknown or not found):
                what = f"item {next(iter(unknown))!r:.80}" if unknown else "an empty history"
                raise ValueError(f"history {place} has {what}, expected items that {self.folder} knows")
            known.append(found)
        return pl.Series("user", np.arange(len(known))), None, Histories.from_lists(known), list(unknown)

    def _rows_of(self, users: Ids) -> np.ndarray:
        if isinstance(users, str):
            raise ValueError(f"users must be a sequence of ids, got the text {users!r:.80}")
        asked = pl.Series([str(user) for user in users], dtype=pl.String)
        rows = number(asked, self.data.user_ids.cast(pl.String)) - 1
        if (rows < 0).any():
            strange = asked.filter(pl.Series(rows < 0))
            raise ValueError(
                f"{len(strange)} of {len(asked)} users are not in the data set {self.data.name}, such as "
                f"{strange[0]!r:.80}; give the histories of new users"
            )
        return rows

    def _allowed(self, exclude: Ids | None, only: Ids | None, unknown: list[str], strict: bool) -> np.ndarray | None:
        """Items that may be recommended, bool [N]; None for all. Ids that are unknown are added to ``unknown``."""
        if exclude is None and only is None:
            return None
        allowed = np.full(len(self.items), only is None)
        for what, ids, value in (("only", only, True), ("exclude", exclude, False)):
            if isinstance(ids, str):
                raise ValueError(f"{what} must be a sequence of item ids, got the text {ids!r:.80}")
            named = [str(item) for item in ([] if ids is None else ids)]
            strange = [name for name in named if name not in self._numbers]
            if strict and strange:
                raise ValueError(f"{what} has item {strange[0]!r:.80}, expected items that {self.folder} knows")
            unknown.extend(name for name in dict.fromkeys(strange) if name not in unknown)
            chosen = np.array([self._numbers[name] for name in named if name in self._numbers], dtype=np.int64)
            allowed[chosen - 1] = value
        return allowed

    # ------------------------------------------------------------------------------------------- answers

    @cached_property
    def _popular(self) -> np.ndarray | None:
        """Item numbers, those with most events in training first; None where the run does not know."""
        if "events" not in self.items.columns:
            return None
        return np.argsort(-self.items["events"].to_numpy(), kind="stable") + 1

    def _popular_lists(self, count: int, k: int, allowed: np.ndarray | None) -> Recommendations:
        """Lists of the most popular items for histories of which nothing is known; scores are NaN."""
        order = self._popular
        if order is None:
            raise ValueError(
                f"a history has no known item, and {self.folder} does not record how popular its items are (an earlier "
                "version saved it): train it again, or leave such histories out"
            )
        best = (order if allowed is None else order[allowed[order - 1]])[:k]
        items = np.full((count, k), NO_ITEM, dtype=np.int64)
        items[:, : len(best)] = best
        return Recommendations(items, np.full((count, k), np.nan, dtype=np.float32))

    def _table(self, asked: pl.Series, found: Recommendations, strangers: np.ndarray) -> pl.DataFrame:
        """Lists as one table, a row an item."""
        rows, places = np.nonzero(found.valid)
        numbers = found.items[rows, places] - 1
        columns = {"user": asked.gather(rows), "rank": pl.Series(places + 1, dtype=pl.Int32)}
        columns["item"] = self.items["item_id"].gather(numbers)
        if "title" in self.items.columns:
            columns["title"] = self.items["title"].gather(numbers)
        columns["score"] = pl.Series(found.scores[rows, places]).fill_nan(None)
        columns["popular"] = pl.Series(strangers[rows])
        return pl.DataFrame(columns)

    def _left_out(self, answers: Answers) -> str:
        parts = []
        if answers.unknown:
            shown = ", ".join(repr(name[:40]) for name in answers.unknown[:_SHOWN])
            parts.append(f"{len(answers.unknown)} item ids are unknown and were skipped, such as {shown}")
        if answers.strangers:
            parts.append(f"{answers.strangers} histories have no known item and got the most popular items")
        return "; ".join(parts)

    # ------------------------------------------------------------------------------------------- temporary folders

    def own(self, folder: Path) -> Self:
        """Remove a temporary folder when this object is saved elsewhere or gone."""
        self._scratch = weakref.finalize(self, shutil.rmtree, str(folder), True)
        return self


def scratch_folder(name: str) -> Path:
    """A new temporary folder for a training that was not told where to."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
