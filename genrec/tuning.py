"""Search for the settings of a generator on validation; see `recbase.tuning`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec import MODELS, REGISTRY, SHAPES
from genrec.search.generation import Search
from genrec.training import train_generator
from recbase.arguments import parameters_of
from recbase.cli.signatures import options_from, recipe_of
from recbase.data.catalog import as_dataset
from recbase.data.sequences import SampleForm
from recbase.pipeline import cache_for
from recbase.store.runs import resolve
from recbase.train.loop import TrainConfig
from recbase.tuning import Space, Tuned, rebased, tuned

if TYPE_CHECKING:
    from recbase.cli.signatures import Option
    from recbase.data.catalog import Dataset
    from semtok.content.ready_vectors import VectorSource

__all__ = ["searchable", "tune"]


def searchable(model: str, recipe: str = "default") -> list[Option]:
    """Options of a model and its training that can be searched, with the defaults of a recipe."""
    found = options_from(MODELS[model], skip=SHAPES) + options_from("recbase.train.loop:TrainConfig")
    return rebased(found, recipe_of(MODELS[model], recipe))


def tune(
    model: str,
    data: Dataset | str | os.PathLike[str],
    *,
    trials: int = 30,
    space: Space | None = None,
    storage: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    budget_seconds: float | None = None,
    recipe: str = "default",
    form: SampleForm | None = None,
    split: str = "last",
    embeddings: Path | VectorSource | None = None,
    codes: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Tuned:
    """Search the settings of a model by its metric on validation; test is not looked at.

    Parameters
    ----------
    model : str
        Name of a model that is trained, such as ``"tiger"``.
    data : Dataset, path or str
    trials : int, default 30
        Trials in all, earlier parts of a stored study included.
    space : mapping of str to Span or Choice, optional
        What is searched; see `recbase.tuning.usual_space` for what is if not given.
    storage : path, optional
        File that keeps the study, so that it can go on.
    out : path, optional
        Recipe file (``.json``) to write: ``genrec.train(model, data, recipe=out)`` takes it.
    budget_seconds : float, optional
        Seconds after which no new trial begins.
    recipe, form, split, embeddings, codes, cache, quiet
        See `genrec.recommender.train`.
    **settings
        Settings that all trials share, as `genrec.recommender.train` takes them. ``monitor`` is the metric, ``seed``
        that of every training and of the search, ``max_seconds`` the budget of one trial.

    Raises
    ------
    ImportError
        If Optuna is not installed, naming the extra.
    ValueError
        If the model is unknown, a stored study is of something else, or no trial came to its end.
    TypeError
        If a setting is not one of this model.
    """
    kind = resolve(model, MODELS)
    stages = resolve(model, {model: REGISTRY[model].preparation}, "preparation")
    dataset = as_dataset(data).divided(split)
    parts = {"model": set(parameters_of(kind)) - set(SHAPES)}
    parts |= {
        part: {field.name for field in fields(of)}
        for part, of in (("stages", stages), ("training", TrainConfig), ("search", Search))
    }
    where = Path(cache) if cache is not None else cache_for("runs/genrec")

    def trial(given: Mapping[str, Any], folder: Path, report: Callable[[Mapping[str, float]], None]) -> None:
        config = TrainConfig(**given["training"] | {"quiet": True})
        train_generator(
            model, dataset, folder, given["model"], stages(**given["stages"]), config, Search(**given["search"]), form,
            recipe, {}, embeddings, None if codes is None else Path(codes), where, report=report,
        )  # fmt: skip

    return tuned(
        kind.__name__, searchable(model, recipe), parts, trial, dataset.trained_hash, space, settings,
        recipe_of(MODELS[model], recipe), recipe, trials=trials, storage=storage, out=out, max_seconds=budget_seconds,
        quiet=quiet,
    )  # fmt: skip
