"""Generators from Python: train one by name, load a run, ask it in raw ids. The commands call the same functions."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrec import MODELS, REGISTRY, SHAPES
from genrec.search.generation import Search, generate
from genrec.training import evaluate_generator, train_generator
from recbase.arguments import parameters_of
from recbase.data.catalog import as_dataset
from recbase.data.sequences import Histories, SampleForm
from recbase.evaluate.recommender import Recommendations
from recbase.pipeline import cache_for
from recbase.recipes import parted
from recbase.serving.fitted import FittedRecommender, scratch_folder
from recbase.store.runs import load_run, resolve
from recbase.train.loop import TrainConfig

if TYPE_CHECKING:
    from genrec.portable.runtime import OnnxGenerator
    from recbase.data.catalog import Dataset
    from semtok.content.ready_vectors import VectorSource

__all__ = ["FittedGenerator", "load", "train"]

_ENGINES = ("model", "onnx")


class FittedGenerator(FittedRecommender):
    """A trained generator: items found by a beam search over their codes.

    Parameters
    ----------
    run, data
        See `recbase.serving.fitted.FittedRecommender`.
    """

    models = MODELS
    options = ("engine", "beams", "exact")
    kept = ("_onnx",)

    @cached_property
    def _onnx(self) -> OnnxGenerator:
        from genrec.portable.runtime import OnnxGenerator

        return OnnxGenerator(self.folder)

    def _lists(
        self,
        histories: Histories,
        k: int,
        keep_seen: bool,
        allowed: np.ndarray | None,
        users: np.ndarray | None,
        **options: Any,
    ) -> Recommendations:
        beams, exact = max(options.get("beams", 50), k), bool(options.get("exact", False))
        engine = options.get("engine", "model")
        if engine not in _ENGINES:
            raise ValueError(f"engine must be one of {', '.join(_ENGINES)}, got {engine!r}")
        if engine == "model":
            return generate(
                self.model, histories, beams, k, users=users, mask=allowed, mask_seen=not keep_seen, exact=exact
            )
        if exact:
            raise ValueError("engine onnx searches; exact scores of all items need engine model")
        tokens = None
        if users is not None and self._onnx.stranger_token:
            tokens = self.model.vocabulary.user_tokens(torch.from_numpy(np.asarray(users))).numpy()
        return self._onnx.lists([histories[row] for row in range(len(histories))], k, beams, keep_seen, allowed, tokens)

    def _evaluated(self, data: Dataset, **options: Any) -> dict[str, Any]:
        about = {name: options.pop(name) for name in ("exact", "quiet") if name in options}
        settings = dict(self.manifest.get("search", {})) | options
        named = parted(f"evaluating {self.name}", settings, {"search": [field.name for field in fields(Search)]})
        return evaluate_generator(self.name, self.model, data, Search(**named["search"]), self._run.recipe, **about)[0]


def load(
    folder: str | os.PathLike[str], data: Dataset | str | os.PathLike[str] | None = None, revision: str | None = None
) -> FittedGenerator:
    """Open a trained model; see `recbase.serving.fitted.FittedRecommender.load`."""
    return FittedGenerator.load(folder, data, revision)


def train(
    model: str,
    data: Dataset | str | os.PathLike[str],
    *,
    recipe: str = "default",
    out: str | os.PathLike[str] | None = None,
    form: SampleForm | None = None,
    embeddings: Path | VectorSource | None = None,
    codes: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    resume: bool = False,
    split: str = "last",
    final: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> FittedGenerator:
    """Run all stages of a generator, train it, evaluate it on test once, and return it ready to recommend.

    ``genrec.TIGER.train(data, ...)`` is the same with the model's name filled in.

    Parameters
    ----------
    model : str
        Name of the model, such as ``"tiger"``; ``genrec list`` shows them.
    data : Dataset, path or str
        See `recbase.data.catalog.load_dataset` for what a name or a path may be.
    recipe : str, default "default"
        Named settings; they apply wherever ``settings`` says nothing.
    out : path, optional
        Run folder. Without it a temporary one is used, which is gone with the object unless it is saved.
    form : {"prefix", "all"}, optional
        Sample form; the recipe's, or else the model's first, if not given.
    embeddings, codes : path, optional
        Vectors of the items, or a folder that ``semtok fit`` wrote, to read instead of making them.
    cache : path, optional
        Where vectors and codes are kept, ``runs/cache`` by default; commands and Python share it.
    resume : bool, default False
        Go on from the checkpoint in ``out``.
    split : {"last", "time", "users"}, default "last"
        What is held out; see `recbase.data.dataset.Dataset.divided`.
    final : bool, default False
        Train again when the model has been judged, on all events, for as many epochs as its best took.
    quiet : bool, default False
        Show no progress.
    **settings
        Arguments of the model's constructor, fields of its stages before (``encoder``, ``levels``, ``unique``, ...), of
        `recbase.train.loop.TrainConfig` (``epochs``, ``lr``, ``seed``, ...) and of `genrec.search.generation.Search`
        (``beams``, ...). Every option of ``genrec train MODEL`` is one.

    Raises
    ------
    TypeError
        If a setting is not one of this model.
    ValueError
        If the model or the recipe is unknown, a value is out of its range, or ``resume`` is asked without ``out``.
    """
    kind = resolve(model, MODELS)
    stages = resolve(model, {model: REGISTRY[model].preparation}, "preparation")
    if resume and out is None:
        raise ValueError("resume=True needs out=FOLDER, the run that it goes on with")
    parts = {"model": set(parameters_of(kind)) - set(SHAPES)}
    parts |= {
        part: {field.name for field in fields(of)}
        for part, of in (("stages", stages), ("training", TrainConfig), ("search", Search))
    }
    given = parted(f"training {model}", settings, parts)
    dataset = as_dataset(data).divided(split)
    target = scratch_folder(model) if out is None else Path(out)
    train_generator(
        model,
        dataset,
        target,
        given["model"],
        stages(**given["stages"]),
        TrainConfig(**given["training"] | {"quiet": quiet}),
        Search(**given["search"]),
        form,
        recipe,
        {} if not isinstance(data, str | os.PathLike) else {"given": os.fspath(data)},
        embeddings,
        None if codes is None else Path(codes),
        Path(cache) if cache is not None else cache_for("runs/genrec" if out is None else out),
        resume,
        final,
    )
    found = FittedGenerator(load_run(target, MODELS), dataset)
    return found.own(target) if out is None else found
