"""The training of a model: its stages before, one or two stages of its own, evaluation on test, the run folder.

Commands parse, call a function here, and print. What a model reads and was not given is made by
`seqrec.item_content`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbase.cli.options import recipe_of
from recbase.data.sequences import SampleForm, SequenceBatches
from recbase.pipeline import cache_for, step
from recbase.recipes import described, filled, spelled
from recbase.store.folder import FileContent
from recbase.store.runs import MANIFEST, resolve
from recbase.train.attempts import Attempt, attempt_at
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES, ItemContent
from seqrec.item_content import Content, item_content
from seqrec.sequential import Pretraining

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.data.splits import Split
    from recbase.train.loop import TrainConfig, TrainResult
    from semtok.content.ready_vectors import VectorSource

__all__ = ["build_model", "check_form", "train_counted", "train_item_ids", "train_network"]

_MADE_FROM = ("embeddings", "codes", "attributes")


def train_network(
    name: str,
    dataset: Dataset,
    out: Path,
    arguments: dict[str, Any],
    config: TrainConfig,
    form: SampleForm | None,
    recipe: str | None,
    record: dict[str, Any],
    content: Content | None = None,
    embeddings: Path | VectorSource | None = None,
    codes: Path | None = None,
    cache: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model, evaluate it on test once, write its run folder and return its metrics.

    A finished run that stands in ``out`` stays there, whole, until the new one is done and takes its place.

    Parameters
    ----------
    name : str
        Key of ``seqrec.MODELS``.
    dataset : Dataset
    out : Path
        Run folder.
    arguments : dict
        Constructor arguments of the model, without the number of items.
    config : TrainConfig
    form : {"all", "prefix", "cloze"} or None
        Sample form; the recipe's, or else the model's first, if None.
    recipe : str or None
        Its settings apply wherever ``arguments``, ``config`` and ``content`` were not given one, and it is recorded
        together with what was changed. None applies and records no recipe.
    record : dict
        More entries of the manifest, such as ``given``: the data set as the user named it.
    content : Content, optional
        For models that read content.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    cache : Path, optional
        Where vectors and codes are kept; that of `recbase.pipeline.cache_for` if not given.
    resume : bool, default False
        Go on from the checkpoint in ``out``.

    Raises
    ------
    ValueError
        If there is no such recipe, the sample form is not for the model, a folder belongs to other items, or a training
        that is to be resumed was another one (`recbase.train.loop.DifferentRunError`).
    FolderBusyError
        If another command is writing ``out``.
    Interrupted
        If a signal stops it: the checkpoint is kept, and a run that stood in ``out`` stays as it was.
    """
    from accelerate.utils import set_seed

    from recbase.evaluate.ranking import check_monitor

    overrides = {} if recipe is None else recipe_of(MODELS[name], recipe)
    accepted = set(inspect.signature(resolve(name, MODELS)).parameters) - set(SHAPES)
    arguments = {key: value for key, value in overrides.items() if key in accepted} | arguments
    config, content = filled(config, overrides), filled(content or Content(), overrides)
    used: SampleForm = form or overrides.get("form", REGISTRY[name].forms[0])
    check_form(name, used)
    check_monitor(config.monitor)
    manifest = dict(record) | described(recipe, overrides, arguments, config, content, {"form": used})
    with attempt_at(out, f"training {name}", resume) as attempt:
        set_seed(config.seed)
        inputs = _inputs(name, arguments)
        content, cache = content.sized_for(dataset.n_items), cache or cache_for(out)
        behaviour = partial(_sasrec, dataset, cache, config.seed, config.quiet)
        found, made_from = item_content(
            inputs, dataset, content, cache, embeddings, codes, config.seed, config.quiet, behaviour
        )
        manifest |= made_from | {"inputs": list(inputs)} | ({"content": asdict(content)} if made_from else {})
        files = {} if found.codes is None else found.codes.beside_run()
        set_seed(config.seed)  # a stage that was made just now must not change the start
        model = build_model(name, dataset.n_items, dataset.n_users, found, arguments)
        chosen = {"--form": used} | {spelled(key): value for key, value in arguments.items()}
        return _train(name, model, dataset, attempt, config, used, manifest, files, resume, chosen)


def _sasrec(dataset: Dataset, cache: Path, seed: int, quiet: bool) -> Path:
    """Run of a SASRec of width 128, whose item vectors make codes of type sasrec and mixed; trained once."""
    from recbase.train.attempts import gone_on_with
    from recbase.train.loop import TrainConfig

    config = TrainConfig(epochs=60, batch_size=256, patience=8, seed=seed, quiet=quiet)

    def build(target: Path) -> None:
        def train(resume: bool) -> Any:
            return train_network("sasrec", dataset, target, {"dim": 128}, config, "all", "default", {}, resume=resume)

        gone_on_with(target, train)

    key = {"data": dataset.hash, "model": "sasrec", "dim": 128, "seed": seed}
    return step(cache, "sasrec", key, MANIFEST, build)


def build_model(name: str, items: int, users: int, content: ItemContent, arguments: dict[str, Any]) -> Any:
    """A model with its content set, ready to be trained.

    Parameters
    ----------
    name : str
        Key of ``seqrec.REGISTRY``.
    items, users : int
        N and U.
    content : ItemContent
        What its line of the registry lists.
    arguments : dict
        Its options.
    """
    kind = resolve(name, MODELS)
    accepted = inspect.signature(kind).parameters
    shapes = {"items": items, "users": users} | content.shapes()
    model = kind(**{key: value for key, value in shapes.items() if key in accepted}, **arguments)
    given = content.given()
    return model.with_content(**given) if given else model


def check_form(name: str, form: str) -> None:
    """Refuse a sample form that would show a model its own labels.

    Raises
    ------
    ValueError
        Naming the forms that do not.
    """
    allowed = REGISTRY[name].forms
    if form not in allowed:
        why = "would show it the items it has to predict" if form == "all" else "is not what it learns from"
        raise ValueError(f"--form {form} is not for {name}: it {why}; use {' or '.join(allowed)}")


def _inputs(name: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    """Kinds of input that a model reads with these options."""
    reads = getattr(resolve(name, MODELS), "reads", None)
    return REGISTRY[name].inputs if reads is None else tuple(reads(arguments))


def train_item_ids(
    base: Path,
    dataset: Dataset,
    out: Path,
    config: TrainConfig,
    id_in_candidates: bool,
    record: dict[str, Any],
    resume: bool = False,
    recipe: str | None = "default",
) -> dict[str, Any]:
    """CCFRec's item-id stage: load a trained run, freeze it, train an id embedding, evaluate, write a run folder.

    ``recipe`` is that of this training and fills in ``config``; the base's own stands in the manifest beside it.

    Raises
    ------
    ValueError
        If the run was trained on another data set.
    """
    from accelerate.utils import set_seed

    from recbase.store.runs import load_run

    overrides = {} if recipe is None else recipe_of(MODELS["ccfrec"], recipe)
    config = filled(config, overrides)
    run = load_run(base, MODELS)
    if run.manifest["model"] != "ccfrec":
        raise ValueError(f"the item-id stage starts from a ccfrec run, but {base} holds a {run.manifest['model']}")
    if run.data["hash"] != dataset.hash:
        raise ValueError(f"{base} was trained on {run.data['name']}, not on this {dataset.name}")
    if Path(base).resolve() == Path(out).resolve():
        raise ValueError(f"--out {out} is the run that the item-id stage starts from: give another folder")
    with attempt_at(out, "training item ids", resume) as attempt:
        set_seed(config.seed)
        model = run.model.tabulated(item_ids=True, id_in_candidates=id_in_candidates)
        manifest = record | {"stage": "item-id", "base": run.metrics["test"], "base_recipe": run.recipe}
        manifest |= described(recipe, overrides, config)
        form, chosen = run.manifest["form"], {"--id-in-candidates": id_in_candidates}
        return _train("ccfrec-tabulated", model, dataset, attempt, config, form, manifest, {}, resume, chosen)


def _train(
    name: str,
    model: Any,
    dataset: Dataset,
    attempt: Attempt,
    config: TrainConfig,
    form: SampleForm,
    manifest: dict[str, Any],
    files: Mapping[str, FileContent],
    resume: bool,
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    from recbase.evaluate.ranking import validator
    from recbase.train.loop import fit, make_accelerator

    accelerator = make_accelerator(config)
    attempt = attempt.shared()
    split = dataset.split()
    trained = split.train.sampled(config.train_share, config.seed)

    def batches_of(form: SampleForm, settings: dict[str, Any]) -> SequenceBatches:
        return SequenceBatches(
            trained,
            form,
            batch_size=config.batch_size,
            max_len=model.max_len,
            seed=config.seed,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            micro_batches=config.micro_batches,
            **settings,
        )

    validate = validator(split.valid, accelerator=accelerator)
    facts = {
        "made_from": {"data": dataset.hash} | {part: manifest[part] for part in _MADE_FROM if part in manifest},
        "options": chosen,
        "content": {spelled(key): value for key, value in manifest.get("content", {}).items()},
    }
    whole, timings = config, {}
    first: Pretraining | None = model.pretraining() if hasattr(model, "pretraining") else None
    if first is not None and not (resume and attempt.holds()):
        seconds = _pretrain(first, batches_of, config, attempt, resume, accelerator, facts)
        timings["pretrain_seconds"] = round(seconds, 3)
        if config.max_seconds is not None:
            config = replace(config, max_seconds=max(1.0, config.max_seconds - seconds))
    batches = batches_of(form, model.batch_settings() if hasattr(model, "batch_settings") else {})
    # one that was begun and came to no checkpoint starts from its beginning
    result = fit(model, batches, validate, config, attempt.folder, resume and attempt.holds(), accelerator, **facts)
    result.check_complete()
    manifest |= {"form": form, "training": asdict(whole)}
    return _evaluate_and_save(name, model, dataset, split, attempt, manifest, files, result, accelerator, timings)


def _pretrain(
    first: Pretraining,
    batches_of: Callable[[SampleForm, dict[str, Any]], SequenceBatches],
    config: TrainConfig,
    attempt: Attempt,
    resume: bool,
    accelerator: Any,
    facts: Mapping[str, Any],
) -> float:
    """Train the first stage of a model for its epochs, or half of the budget; the seconds it took."""
    from recbase.train.loop import fit

    budget = None if config.max_seconds is None else config.max_seconds / 2
    settings = replace(config, epochs=first.epochs, max_seconds=budget, patience=0, schedule="constant")
    module = first.module
    module.unused_parameters = True
    batches = batches_of(first.form, first.settings)
    stage = attempt.first_stage
    result = fit(module, batches, None, settings, stage, resume and attempt.holds(stage), accelerator, **facts)
    result.check_complete()
    return result.seconds


def train_counted(
    name: str, dataset: Dataset, out: Path, arguments: dict[str, Any], record: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fit a model that only counts (popularity, transitions), evaluate it on test, write its run folder.

    ``record`` holds more entries of the manifest, such as ``given``: the data set as the user named it.
    """
    with attempt_at(out, f"fitting {name}") as attempt:
        split = dataset.split()
        start = time.perf_counter()
        model = resolve(name, MODELS)(dataset.n_items, **arguments).fit(split.train)
        seconds = time.perf_counter() - start
        manifest = dict(record or {}) | {"form": "counts", "recipe": "default"}
        return _evaluate_and_save(name, model, dataset, split, attempt, manifest, {}, seconds, None)


def _evaluate_and_save(
    name: str,
    model: Any,
    dataset: Dataset,
    split: Split,
    attempt: Attempt,
    manifest: dict[str, Any],
    files: Mapping[str, FileContent],
    result: TrainResult | float,
    accelerator: Any,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    from recbase.evaluate.ranking import rank_targets, summarize
    from recbase.evaluate.records import metrics_of_run, ranks_file

    scorer = model.scorer()
    valid = summarize(rank_targets(scorer, split.valid, accelerator=accelerator))
    ranks = rank_targets(scorer, split.test, accelerator=accelerator)
    budget = manifest.get("training", {}).get("max_seconds")
    given = dict(facts or {}) | {name: manifest[name] for name in ("changed",) if name in manifest}
    recipe = manifest["recipe"]
    metrics = metrics_of_run(name, dataset, split, recipe, valid, ranks, result, scorer, budget=budget, **given)
    if accelerator is None or accelerator.is_main_process:
        content = dict(files) | {"ranks.parquet": ranks_file(ranks, dataset.user_ids)}
        attempt.save(name, model, dataset, {"split": split.name} | manifest, metrics, content)
    return metrics
