"""Ranking models from Python: train one by name, load a run, ask it in raw ids. Commands call the same functions."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import parameters_of
from recbase.data.catalog import as_dataset
from recbase.data.sequences import Histories, SampleForm
from recbase.evaluate.ranking import rank_targets, summarize, topk
from recbase.evaluate.recommender import Recommendations, Scorer
from recbase.evaluate.records import metrics_of_run
from recbase.pipeline import cache_for
from recbase.recipes import parted
from recbase.serving.fitted import FittedRecommender, scratch_folder
from recbase.store.runs import load_run, resolve
from recbase.train.loop import TrainConfig
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES
from seqrec.item_content import Content
from seqrec.training import train_counted, train_network

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from semtok.content.ready_vectors import VectorSource

__all__ = ["FittedRanker", "load", "train"]

_ENGINES = ("model", "codes", "faiss", "onnx")


class FittedRanker(FittedRecommender):
    """A trained ranking model: scores of all items for every history.

    Parameters
    ----------
    run, data
        See `recbase.serving.fitted.FittedRecommender`.
    """

    models = MODELS
    options = ("engine",)
    kept = ("_scorer", "_index", "_onnx", "_coded")

    @cached_property
    def _scorer(self) -> Any:
        return self.model.scorer()

    @cached_property
    def _index(self) -> Any:
        from seqrec.export import FAISS_FILE, FaissItems

        return FaissItems(self._exported(FAISS_FILE), len(self.items))

    @cached_property
    def _onnx(self) -> Any:
        from seqrec.export import ONNX_FILE, OnnxScorer

        return OnnxScorer(self._exported(ONNX_FILE), len(self.items))

    @cached_property
    def _coded(self) -> Any:
        from seqrec.export import CodedItems

        return CodedItems(self.model)

    def _exported(self, file: str) -> Path:
        if file not in self._run.folder:
            raise ValueError(f"{self.folder} has no {file}; seqrec export RUN --out FOLDER writes one")
        return self._run.folder.file(file)

    def _lists(
        self,
        histories: Histories,
        k: int,
        keep_seen: bool,
        allowed: np.ndarray | None,
        users: np.ndarray | None,
        **options: Any,
    ) -> Recommendations:
        engine = options.get("engine", "model")
        if engine not in _ENGINES:
            raise ValueError(f"engine must be one of {', '.join(_ENGINES)}, got {engine!r}")
        if engine == "faiss":
            if allowed is not None:
                raise ValueError("engine faiss finds the best of all items: exclude and only need another engine")
            return self._index.topk(self.model, histories, k, not keep_seen, self._scorer.max_len)
        if engine == "codes":
            found: Recommendations = self._coded.topk(histories, k, not keep_seen, allowed)
            return found
        scorer = self._scorer if engine == "model" else self._onnx
        scorer = scorer if allowed is None else _Allowed(scorer, allowed)
        return topk(scorer, histories, k, mask_seen=not keep_seen, users=users)

    def _evaluated(self, data: Dataset, **options: Any) -> dict[str, Any]:
        if options:
            raise TypeError(f"evaluate of a {self.name} has no option {next(iter(options))!r}")
        split, scorer = data.split(), self._scorer
        valid = summarize(rank_targets(scorer, split.valid))
        ranks = rank_targets(scorer, split.test)
        return metrics_of_run(self.name, data, split, self._run.recipe, valid, ranks, None, scorer)


class _Allowed:
    """A scorer under which only some items can be recommended."""

    def __init__(self, scorer: Scorer, allowed: np.ndarray) -> None:
        self.scorer, self.forbidden = scorer, torch.from_numpy(~allowed)
        self.n_items, self.max_len = scorer.n_items, scorer.max_len
        self.reads_users = bool(getattr(scorer, "reads_users", False))

    def __call__(self, items: Tensor, lengths: Tensor, *users: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        scores = self.scorer(items, lengths, *users)
        return scores.masked_fill(self.forbidden.to(scores.device), -torch.inf)


def load(
    folder: str | os.PathLike[str], data: Dataset | str | os.PathLike[str] | None = None, revision: str | None = None
) -> FittedRanker:
    """Open a trained model; see `recbase.serving.fitted.FittedRecommender.load`."""
    return FittedRanker.load(folder, data, revision)


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
) -> FittedRanker:
    """Train a ranking model, evaluate it on test once, and return it ready to recommend.

    ``seqrec.SASRec.train(data, ...)`` is the same with the model's name filled in.

    Parameters
    ----------
    model : str
        Name of the model, such as ``"sasrec"``; ``seqrec list`` shows them.
    data : Dataset, path or str
        See `recbase.data.catalog.load_dataset` for what a name or a path may be.
    recipe : str, default "default"
        Named settings; they apply wherever ``settings`` says nothing.
    out : path, optional
        Run folder. Without it a temporary one is used, which is gone with the object unless it is saved.
    form : {"all", "prefix", "cloze"}, optional
        Sample form; the recipe's, or else the model's first, if not given.
    embeddings, codes : path, optional
        Vectors and codes of the items to read instead of making them.
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
        Arguments of the model's constructor, fields of `recbase.train.loop.TrainConfig` (``epochs``, ``lr``,
        ``batch_size``, ``seed``, ``max_seconds``, ...) and, for models that read content, of
        `seqrec.item_content.Content` (``encoder``, ``views``, ...). Every option of ``seqrec train MODEL`` is one.

    Raises
    ------
    TypeError
        If a setting is not one of this model.
    ValueError
        If the model or the recipe is unknown, a value is out of its range, or ``resume`` is asked without ``out``.
    """
    kind = resolve(model, MODELS)
    entry = REGISTRY[model]
    if entry.kind == "deployed":
        raise ValueError(f"{model} is made from a trained model and is not trained itself")
    if resume and out is None:
        raise ValueError("resume=True needs out=FOLDER, the run that it goes on with")
    dataset = as_dataset(data).divided(split)
    own = set(parameters_of(kind)) - set(SHAPES)
    counted, reads = entry.kind == "counted", set(entry.inputs) - {"ids", "histories"}
    parts: dict[str, set[str]] = {"model": own}
    parts["content"] = {field.name for field in fields(Content)} if reads else set()
    if not counted:
        parts["training"] = {field.name for field in fields(TrainConfig)}
    given = parted(f"training {model}", settings, parts)
    target = scratch_folder(model) if out is None else Path(out)
    record = {} if not isinstance(data, str | os.PathLike) else {"given": os.fspath(data)}
    content = Content(**given["content"]) if reads else None
    where = Path(cache) if cache is not None else cache_for("runs/seqrec" if out is None else out)
    if counted:
        train_counted(model, dataset, target, given["model"], record, content, embeddings, where, final)
    else:
        config = TrainConfig(**given["training"] | {"quiet": quiet})
        train_network(
            model, dataset, target, given["model"], config, form, recipe, record, content, embeddings,
            None if codes is None else Path(codes), where, resume, final,
        )  # fmt: skip
    found = FittedRanker(load_run(target, MODELS), dataset)
    return found.own(target) if out is None else found
