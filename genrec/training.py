"""The training of a generator: its preparation, the training itself, the search for all test users, the run folder.

Commands parse, call a function here, and print. What a model is trained on is made by `genrec.preparation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec import MODELS, REGISTRY, SHAPES
from genrec.dense import check_weight, choose_weight, weighted
from genrec.export import export_notes
from genrec.preparation import Ingredients, Sources
from genrec.search.generation import Search, rank_generated, some_targets, validator
from recbase.arguments import parameters_of
from recbase.cli.options import recipe_of
from recbase.console import say
from recbase.data.sequences import SampleForm
from recbase.evaluate.ranking import check_monitor
from recbase.pipeline import Training, cache_for
from recbase.recipes import check_names, described, filled, spelled
from recbase.store.runs import resolve
from recbase.train.attempts import attempt_at

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.data.splits import Targets
    from recbase.train.loop import TrainConfig
    from semtok.content.ready_vectors import VectorSource

__all__ = ["Searching", "build_model", "evaluate_generator", "recipe_settings", "train_generator"]

# a user has several targets: batches of as many users as prefixes would leave too few steps an epoch
_FORM_DEFAULTS: dict[str, dict[str, Any]] = {"all": {"batch_size": 64}}


def build_model(
    name: str, dataset: Dataset, found: Ingredients, arguments: Mapping[str, Any], form: str = "prefix"
) -> Any:
    """A model with its codes and arrays set, ready to be trained in a sample form.

    Raises
    ------
    ValueError
        If items share codes that have to be told apart, or a part does not fit.
    """
    from semtok.catalogue.fit import popularity_of

    kind = resolve(name, MODELS)
    accepted = parameters_of(kind)
    shapes: dict[str, Any] = {"items": dataset.n_items, "users": dataset.n_users}
    shapes |= {"sizes": [int(size) for size in found.codes.sizes]} | found.shapes
    shared = found.codes.collisions()
    if shared.distinct == 1 < shared.total:
        raise ValueError(
            f"all {shared.total} items have the same codes, so that {name} could recommend one item alone: give codes "
            "that tell the items apart, or have them made unique (--unique)"
        )
    chosen = dict(arguments)
    if form == "all" and "causal_encoder" in accepted:  # positions must not see what comes after them
        chosen["causal_encoder"] = True
    model = kind(**{key: value for key, value in shapes.items() if key in accepted}, **chosen)
    model.with_codes(found.codes.codes, popularity_of(dataset.split().train, dataset.n_items))
    return model.with_arrays(**found.arrays) if found.arrays else model


def recipe_settings(name: str, recipe: str | None, form: str | None = None) -> dict[str, Any]:
    """Settings of a model's recipe by name, for a sample form; its own, or else the model's first, if that is None.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    if recipe is None:
        return {"form": form or REGISTRY[name].forms[0]}
    found = recipe_of(REGISTRY[name].target, recipe)
    form = form or found.get("form", REGISTRY[name].forms[0])
    usual = _FORM_DEFAULTS.get(form, {}) if recipe == "default" else {}
    return found | usual | {"form": form}


def train_generator(
    name: str,
    dataset: Dataset,
    out: Path,
    arguments: Mapping[str, Any],
    preparation: Any,
    config: TrainConfig,
    search: Search,
    form: SampleForm | None,
    recipe: str | None,
    record: Mapping[str, Any],
    embeddings: Path | VectorSource | None = None,
    codes: Path | None = None,
    cache: Path | None = None,
    resume: bool = False,
    final: bool = False,
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Run the stages, train a generator, search once for all test users, write its run folder, return its metrics.

    A finished run that stands in ``out`` stays there, whole, until the new one is done and takes its place.

    Parameters
    ----------
    name : str
        Key of ``genrec.REGISTRY``.
    dataset : Dataset
    out : Path
        Run folder.
    arguments : mapping
        Constructor arguments of the model, without the shapes.
    preparation : Preparation
        Options of the stages before.
    config : TrainConfig
    search : Search
    form : {"prefix", "all"} or None
        Sample form; the recipe's, or else the model's first, if None.
    recipe : str or None
        Its settings apply wherever ``arguments``, ``preparation``, ``config`` and ``search`` were not given one, and it
        is recorded together with what was changed. None applies and records no recipe.
    record : mapping
        More entries of the manifest, such as ``given``: the data set as the user named it.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    cache : Path, optional
        Where vectors and codes are kept; that of `recbase.pipeline.cache_for` if not given.
    resume : bool, default False
        Go on from the checkpoint in ``out``.
    final : bool, default False
        Train the model again when it has been judged, on all events, for as many epochs as its best took, and save that
        one. Stages before stay; the metrics are those of the judged model, and say so.
    report : callable, optional
        Is told the metrics of every validation; see `recbase.pipeline.Training`.

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

    if form is not None and form not in REGISTRY[name].forms:
        raise ValueError(f"--form {form} is not for {name}; use {' or '.join(REGISTRY[name].forms)}")
    settings = recipe_settings(name, recipe, form)
    accepted = set(parameters_of(resolve(name, MODELS))) - set(SHAPES)
    arguments = {key: value for key, value in settings.items() if key in accepted} | dict(arguments)
    preparation, config = filled(preparation, settings), filled(config, settings)
    search = filled(search, settings)
    check_monitor(config.monitor, search.valid_beams)
    known = accepted | {"form"} | {one.name for of in (preparation, config, search) for one in fields(of)}
    check_names(recipe, settings, known)
    named = {} if recipe is None else recipe_of(REGISTRY[name].target, recipe)
    used = {"form": settings["form"]} | arguments
    manifest = dict(record) | described(recipe, named, used, preparation, config, search)
    with attempt_at(out, f"training {name}", resume) as attempt:
        set_seed(config.seed)
        # before the processes of a launch meet: one of them makes each step, alone, and the others wait for it
        sources = Sources(dataset, cache or cache_for(out), embeddings, codes, config.seed, config.quiet)
        found = preparation.prepare(sources)

        def fresh() -> Any:
            set_seed(config.seed)
            return build_model(name, dataset, found, arguments, settings["form"])

        model = fresh()
        if not config.quiet:
            for note in export_notes(name, model):
                say(note, err=True)
        check_weight(model, search.dense)  # before the training, not after it
        manifest |= found.record | {"preparation": asdict(preparation)}
        manifest |= {"search": asdict(search)}
        # a validation by other beams or users could not be compared with the best so far
        judged = {spelled(key): getattr(search, key) for key in ("valid_beams", "valid_users")}
        return Training(
            name, model, dataset, attempt, config, settings["form"], Searching(search, config.quiet), manifest,
            found.codes.beside_run(), resume=resume, made_from={"codes": found.codes.hash},
            options={"--form": settings["form"]} | {spelled(key): arguments[key] for key in arguments} | judged,
            content={spelled(key): value for key, value in manifest["preparation"].items()},
            fresh=fresh if final else None, report=report,
        ).run()  # fmt: skip


@dataclass(frozen=True)
class Searching:
    """Judge of generators: items are searched by beams for every user; see `recbase.pipeline.Judge`."""

    search: Search
    quiet: bool = True

    def validator(self, targets: Targets, accelerator: Any) -> Callable[[Any], Mapping[str, float]]:
        """Make the function that searches for a fixed part of the validation users."""
        return validator(targets, self.search, accelerator)

    def evaluate(
        self, name: str, model: Any, dataset: Dataset, accelerator: Any, result: Any, **facts: Any
    ) -> tuple[dict[str, Any], Any]:
        """Metrics of all validation and test users, and the ranks of the test users."""
        recipe = facts.pop("recipe")
        return evaluate_generator(
            name, model, dataset, self.search, recipe, result, accelerator, quiet=self.quiet, **facts
        )


def evaluate_generator(
    name: str,
    model: Any,
    dataset: Dataset,
    search: Search,
    recipe: str | None,
    result: Any = None,
    accelerator: Any = None,
    quiet: bool = True,
    exact: bool = False,
    **facts: Any,
) -> tuple[dict[str, Any], Any]:
    """Metrics of a model on all users, validation and test, and the test ranks."""
    from recbase.evaluate.ranking import summarize
    from recbase.evaluate.records import describe_protocol, metrics_record

    split = dataset.split()
    settings = {"accelerator": accelerator, "progress": not quiet, "exact": exact}
    given = search.beams, search.search_batch
    if getattr(model, "dense", None) is not None:
        facts["dense"] = _dense_facts(model, split, search, result is not None, settings)
    with weighted(model, search.dense):
        valid = summarize(rank_generated(model, split.valid, *given, **settings)[0])
        ranks, lists = rank_generated(model, split.test, *given, **settings)
    if result is not None:
        facts |= {"train_seconds": round(result.seconds, 3), "steps": result.steps, "epochs": result.epochs}
        facts |= {"best_epoch": result.best_epoch, "stopped": result.stopped}
    protocol = describe_protocol(split.name, n_best=search.beams, search="exact" if exact else "beam")
    about = dataset.described()
    facts["colliding_items"] = dataset.n_items - len(model.code_table[1:].unique(dim=0))
    return metrics_record(name, about, protocol, ranks, valid, split.train, lists, recipe=recipe, **facts), ranks


def _dense_facts(model: Any, split: Any, search: Search, chosen: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The weight of a model's dense head, chosen on validation after a training, and metrics of its generator alone."""
    from recbase.evaluate.ranking import summarize

    found: dict[str, Any] = {}
    if chosen and search.dense is None:
        some = some_targets(split.valid, search.valid_users)
        found["tried"] = choose_weight(model, some, search.valid_beams, search.search_batch)
    elif chosen:
        model.dense.weight.fill_(search.dense)
    found["weight"] = float(model.dense.weight) if search.dense is None else search.dense
    with weighted(model, 0.0):
        for name, targets in (("valid", split.valid), ("test", split.test)):
            ranks, _ = rank_generated(model, targets, search.beams, search.search_batch, **settings)
            found[f"generator_{name}"] = summarize(ranks)
    found["generator_test_masked"] = summarize(ranks, mask_seen=True)
    return found
