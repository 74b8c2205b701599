"""The path that every command takes: steps that are made once and kept, then train, evaluate, save.

A step is a folder named by what it was made from, in one cache that all commands share; what is in it can be deleted at
any time and is made again when it is needed. Rankers and generators train alike and differ in how they are judged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recbase.data.sequences import SampleForm, SequenceBatches
from recbase.store.folder import FileContent, folder_lock
from recbase.train.attempts import Attempt
from recbase.train.processes import alone

if TYPE_CHECKING:
    from accelerate import Accelerator

    from recbase.data.catalog import Dataset
    from recbase.data.sequences import Histories
    from recbase.data.splits import Targets
    from recbase.evaluate.ranking import Ranks
    from recbase.train.loop import TrainConfig, TrainResult

__all__ = ["CACHE", "Judge", "Pretraining", "Training", "cache_for", "evaluate_and_save", "step", "step_name"]

CACHE = "cache"
VARIABLE = "SEMTOK_CACHE"
"""Environment variable that names another folder for the cache."""


def cache_for(out: str | os.PathLike[str]) -> Path:
    """Folder of the steps that a command which writes ``out`` makes and looks for.

    It is ``cache`` in the nearest folder called ``runs`` above ``out``, so that all commands in their usual places
    share one; else ``cache`` beside ``out``. The environment variable ``SEMTOK_CACHE`` names another one.

    Parameters
    ----------
    out : path
        Folder that the command writes.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    out = Path(out)
    # relative paths stay relative: they are shown to users and recorded in manifests
    shared = [parent for parent in out.parents if parent.name == "runs"]
    return (shared[0] if shared else out.parent) / CACHE


def step_name(kind: str, made_from: Mapping[str, Any]) -> str:
    """Name of a step's folder: its kind and a hash of all that decides what it holds."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return f"{kind}-{digest}"


def step(
    cache: Path, kind: str, made_from: Mapping[str, Any], manifest: str, build: Callable[[Path], None], version: int = 1
) -> Path:
    """Folder of a step, built if no folder of the same inputs is there.

    Of several commands, or processes of one launch, that need the same step one builds it and the others wait. An
    interrupted step is never a complete one: its manifest is written last, and only by a build that came to its end.

    Parameters
    ----------
    cache : Path
        See `cache_for`; the step lies in ``cache/<kind>-<hash>``.
    kind : str
        What is made, such as ``"codes-pq"``.
    made_from : mapping
        JSON-able description of inputs and options; its hash names the folder.
    manifest : str
        File whose presence says that the step is complete.
    build : callable
        Writes the folder it is given.
    version : int, default 1
        Of the code that makes it: raised where the same inputs give something else, so that a mended method is not
        answered from a folder of the old one.
    """
    folder = cache / step_name(kind, dict(made_from) | {"version": version})
    if not (folder / manifest).is_file():
        with folder_lock(folder, f"making the {kind}", wait=math.inf), alone():
            if not (folder / manifest).is_file():
                build(folder)
    return folder


@dataclass(frozen=True)
class Pretraining:
    """The first stage of a model's training, as its ``pretraining()`` describes it.

    Attributes
    ----------
    module : nn.Module
        Shares its parameters with the model; ``module(batch)`` returns the loss of this stage.
    epochs : int
        Passes over the users; with a budget in seconds the stage ends at half of it.
    form : {"all", "prefix", "cloze"}
        Sample form.
    settings : dict
        More arguments of `SequenceBatches`.
    """

    module: Any
    epochs: int
    form: SampleForm
    settings: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Validation of a model while it trains, and its evaluation when it is done; each family has its own way."""

    def validator(self, targets: Targets, accelerator: Accelerator) -> Callable[[Any], Mapping[str, float]]:
        """Make the function that gives the validation metrics of a model in training."""
        ...

    def evaluate(
        self, name: str, model: Any, dataset: Dataset, accelerator: Accelerator | None, result: Any, **facts: Any
    ) -> tuple[dict[str, Any], Ranks]:
        """Metrics of all validation and test users, and the ranks of the test users.

        ``result`` is that of the training, or the seconds of a fit; ``facts`` are recorded beside the metrics.
        """
        ...


@dataclass(frozen=True)
class Training:
    """A training from a new model to its run folder.

    Attributes
    ----------
    name : str
        Name of the model in its registry.
    model : Module
        May have ``batch_settings()``, more arguments of `SequenceBatches`, and ``pretraining()``, a first stage.
    dataset : Dataset
    attempt : Attempt
        The place of the run; see `recbase.train.attempts.attempt_at`.
    config : TrainConfig
    form : {"all", "prefix", "cloze"}
        Sample form.
    judge : Judge
    manifest : dict
        Entries of the run's manifest.
    files : mapping, optional
        More files of the run folder.
    made_from, options, content : mapping, optional
        What must be the same for a checkpoint to be gone on with; see `recbase.train.loop.fit`.
    resume : bool, default False
    fresh : callable, optional
        Makes the model once more, untrained. Then it is trained again when it has been judged, on all events, for as
        many epochs as the best took, and that one is saved.
    report : callable, optional
        Is told the metrics of every validation. Then this is a trial of a search: nothing is written, and nothing
        evaluated on test.
    """

    name: str
    model: Any
    dataset: Dataset
    attempt: Attempt
    config: TrainConfig
    form: SampleForm
    judge: Judge
    manifest: Mapping[str, Any]
    files: Mapping[str, FileContent] = field(default_factory=dict)
    made_from: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    fresh: Callable[[], Any] | None = None
    report: Callable[[Mapping[str, float]], None] | None = None

    def run(self) -> dict[str, Any]:
        """Train, evaluate on test once, write the run folder and return the metrics.

        Raises
        ------
        Interrupted
            If a signal stops it: the checkpoint is kept.
        """
        from recbase.train.loop import make_accelerator

        accelerator, split = make_accelerator(self.config), self.dataset.split()
        trained = split.train.sampled(self.config.train_share, self.config.seed)
        validate = self.judge.validator(split.valid, accelerator)
        if self.report is not None:
            return self._trial(trained, validate, accelerator, self.report)
        attempt = self.attempt.shared()
        result, timings = self._trained(self.model, trained, validate, accelerator, self.config, attempt)
        manifest = dict(self.manifest) | {"form": self.form, "training": asdict(self.config)}
        final = None if self.fresh is None else partial(self._final, accelerator, result)
        return evaluate_and_save(
            self.name, self.model, self.dataset, attempt, self.judge, manifest, result, self.files, accelerator,
            timings, final,
        )  # fmt: skip

    def _trained(
        self,
        model: Any,
        histories: Histories,
        validate: Callable[[Any], Mapping[str, float]] | None,
        accelerator: Accelerator,
        config: TrainConfig,
        attempt: Attempt | None = None,
        last_epoch: int | None = None,
    ) -> tuple[TrainResult, dict[str, Any]]:
        """Train a model in its one or two stages; without an attempt nothing is written."""
        from recbase.train.loop import fit

        def batches(form: SampleForm, settings: Mapping[str, Any]) -> SequenceBatches:
            return SequenceBatches(
                histories,
                form,
                batch_size=config.batch_size,
                max_len=model.max_len,
                seed=config.seed,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                micro_batches=config.micro_batches,
                **settings,
            )

        facts = {
            "made_from": {"data": self.dataset.trained_hash} | dict(self.made_from),
            "options": dict(self.options),
            "content": dict(self.content),
        }
        timings: dict[str, Any] = {}
        first: Pretraining | None = model.pretraining() if hasattr(model, "pretraining") else None
        goes_on = self.resume and attempt is not None and attempt.holds()
        if first is not None and not goes_on:
            seconds = self._pretrain(first, batches(first.form, first.settings), config, attempt, accelerator, facts)
            timings["pretrain_seconds"] = round(seconds, 3)
            if config.max_seconds is not None:
                config = replace(config, max_seconds=max(1.0, config.max_seconds - seconds))
        reader = batches(self.form, model.batch_settings() if hasattr(model, "batch_settings") else {})
        # a training that was begun and came to no checkpoint starts from its beginning
        resume = self.resume and attempt is not None and attempt.holds()
        folder = None if attempt is None else attempt.folder
        result = fit(model, reader, validate, config, folder, resume, accelerator, **facts, last_epoch=last_epoch)
        result.check_complete()
        return result, timings

    def _trial(
        self,
        histories: Histories,
        validate: Callable[[Any], Mapping[str, float]],
        accelerator: Accelerator,
        report: Callable[[Mapping[str, float]], None],
    ) -> dict[str, Any]:
        """Train for validation alone; what the best one reached."""

        def told(model: Any) -> Mapping[str, float]:
            found = validate(model)
            report(found)
            return found

        result, _ = self._trained(self.model, histories, told, accelerator, self.config)
        return {"model": self.name, "valid": result.best, "best_epoch": result.best_epoch, "epochs": result.epochs}

    def _final(self, accelerator: Accelerator, judged: TrainResult) -> tuple[Any, dict[str, Any]]:
        """The model trained again on all events, and what is recorded of that."""
        assert self.fresh is not None
        model, epochs = self.fresh(), max(1, judged.best_epoch or judged.epochs)
        config = replace(self.config, max_seconds=None, patience=0)
        result, _ = self._trained(model, self.dataset.histories, None, accelerator, config, last_epoch=epochs)
        if hasattr(model, "take_choices"):
            model.take_choices(self.model)
        events = int(self.dataset.histories.lengths.sum())
        return model, {"epochs": result.epochs, "events": events, "seconds": round(result.seconds, 3)}

    def _pretrain(
        self,
        first: Pretraining,
        batches: SequenceBatches,
        config: TrainConfig,
        attempt: Attempt | None,
        accelerator: Accelerator,
        facts: Mapping[str, Any],
    ) -> float:
        """Train the first stage of a model for its epochs, or half of the budget; the seconds it took."""
        from recbase.train.loop import fit

        budget = None if config.max_seconds is None else config.max_seconds / 2
        settings = replace(config, epochs=first.epochs, max_seconds=budget, patience=0, schedule="constant")
        first.module.unused_parameters = True
        stage = None if attempt is None else attempt.first_stage
        resume = self.resume and attempt is not None and attempt.holds(stage)
        result = fit(first.module, batches, None, settings, stage, resume, accelerator, **facts)
        result.check_complete()
        return result.seconds


def evaluate_and_save(
    name: str,
    model: Any,
    dataset: Dataset,
    attempt: Attempt,
    judge: Judge,
    manifest: Mapping[str, Any],
    result: TrainResult | float,
    files: Mapping[str, FileContent] | None = None,
    accelerator: Accelerator | None = None,
    timings: Mapping[str, Any] | None = None,
    final: Callable[[], tuple[Any, dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Evaluate a finished model on test once, write its run folder and return its metrics.

    ``result`` is that of the training, or the seconds of a fit that only counts. ``final`` makes the model that is
    saved in place of the evaluated one, and what is recorded of it. The rest is as in `Training`.
    """
    from recbase.evaluate.records import ranks_file

    facts = dict(timings or {}) | {key: manifest[key] for key in ("changed",) if key in manifest}
    facts |= {"recipe": manifest["recipe"], "budget": manifest.get("training", {}).get("max_seconds")}
    metrics, ranks = judge.evaluate(name, model, dataset, accelerator, result, **facts)
    manifest = dict(manifest)
    if final is not None:
        model, metrics["final"] = final()
        manifest["final"] = metrics["final"]
    if accelerator is None or accelerator.is_main_process:
        content = dict(files or {}) | {"ranks.parquet": ranks_file(ranks, dataset.user_ids)}
        attempt.save(name, model, dataset, {"split": dataset.split().name} | dict(manifest), metrics, content)
    return metrics
