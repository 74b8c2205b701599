"""The training of a model: its stages before, one or two stages of its own, evaluation on test, the run folder.

Commands parse, call a function here, and print. What a model reads and was not given is made by
`seqrec.item_content`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recbase.arguments import parameters_of
from recbase.cli.options import recipe_of
from recbase.data.sequences import SampleForm
from recbase.pipeline import Training, cache_for, evaluate_and_save, step
from recbase.recipes import Given, check_names, described, filled, spelled
from recbase.store.runs import MANIFEST, resolve
from recbase.train.attempts import attempt_at
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES, ItemContent
from seqrec.item_content import Content, item_content

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.data.sequences import Histories
    from recbase.data.splits import Targets
    from recbase.evaluate.ranking import Ranks
    from recbase.train.loop import TrainConfig
    from semtok.content.ready_vectors import VectorSource

__all__ = ["ItemIdStage", "Ranking", "build_model", "check_form", "train_counted", "train_item_ids", "train_network"]

_MADE_FROM = ("embeddings", "codes", "attributes")


@dataclass(frozen=True)
class ItemIdStage(Given):
    """Stage that trains item ids on a trained CCFRec (section 4.4.5 of its paper); recipes fill it in."""

    id_form: Literal["inputs", "shared", "two-tables"] = "shared"
    """In the item-id stage, where ids are added: inputs (the paper), inputs and candidates, or to each its own."""
    id_loss: Literal["all", "base"] = "all"
    """In the item-id stage, the loss: a softmax over all items, or that of the base with its negatives (the paper)."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of `seqrec.models.ccfrec.CCFRec.tabulated`."""
        tables = "two" if self.id_form == "two-tables" else "one"
        kept = {"item_ids": True, "id_in_candidates": self.id_form != "inputs", "id_tables": tables}
        return kept | {"own_loss": self.id_loss == "base"}


class Ranking:
    """Judge of models that rank: all items are ranked for every user; see `recbase.pipeline.Judge`."""

    def validator(self, targets: Targets, accelerator: Any) -> Callable[[Any], Mapping[str, float]]:
        """Make the function that ranks all items for the validation users."""
        from recbase.evaluate.ranking import validator

        return validator(targets, accelerator=accelerator)

    def evaluate(
        self, name: str, model: Any, dataset: Dataset, accelerator: Any, result: Any, **facts: Any
    ) -> tuple[dict[str, Any], Ranks]:
        """Metrics of all validation and test users, and the ranks of the test users."""
        from recbase.evaluate.ranking import rank_targets, summarize
        from recbase.evaluate.records import metrics_of_run

        split, scorer, recipe = dataset.split(), model.scorer(), facts.pop("recipe")
        valid = summarize(rank_targets(scorer, split.valid, accelerator=accelerator))
        ranks = rank_targets(scorer, split.test, accelerator=accelerator)
        return metrics_of_run(name, dataset, split, recipe, valid, ranks, result, scorer, **facts), ranks


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
    final: bool = False,
    report: Callable[[Mapping[str, float]], None] | None = None,
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
    final : bool, default False
        Train the model again when it has been judged, on all events, for as many epochs as its best took, and save that
        one. Vectors and codes stay; the metrics are those of the judged model, and say so.
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

    from recbase.evaluate.ranking import check_monitor

    overrides = {} if recipe is None else recipe_of(MODELS[name], recipe)
    accepted = set(parameters_of(resolve(name, MODELS))) - set(SHAPES)
    arguments = {key: value for key, value in overrides.items() if key in accepted} | arguments
    config, content = filled(config, overrides), filled(content or Content(), overrides)
    stage = fields(ItemIdStage) if name == "ccfrec" else ()
    others = {one.name for one in (*fields(config), *fields(content), *stage)}
    check_names(recipe, overrides, accepted | {"form"} | others)
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

        def fresh() -> Any:
            set_seed(config.seed)  # a stage that was made just now must not change the start
            return build_model(name, dataset.n_items, dataset.n_users, found, arguments)

        return Training(
            name, fresh(), dataset, attempt, config, used, Ranking(), manifest, files, resume=resume,
            made_from={part: made_from[part] for part in _MADE_FROM if part in made_from},
            options={"--form": used} | {spelled(key): value for key, value in arguments.items()},
            content={spelled(key): value for key, value in manifest.get("content", {}).items()},
            fresh=fresh if final else None, report=report,
        ).run()  # fmt: skip


def _sasrec(dataset: Dataset, cache: Path, seed: int, quiet: bool) -> Path:
    """Run of a SASRec of width 128, whose item vectors make codes of type sasrec and mixed; trained once."""
    from recbase.train.attempts import gone_on_with
    from recbase.train.loop import TrainConfig

    config = TrainConfig(epochs=60, batch_size=256, patience=8, seed=seed, quiet=quiet)

    def build(target: Path) -> None:
        def train(resume: bool) -> Any:
            return train_network("sasrec", dataset, target, {"dim": 128}, config, "all", "default", {}, resume=resume)

        gone_on_with(target, train)

    key = {"data": dataset.trained_hash, "model": "sasrec", "dim": 128, "seed": seed}
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
    accepted = parameters_of(kind)
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
    stage: ItemIdStage,
    record: dict[str, Any],
    resume: bool = False,
    recipe: str | None = "default",
) -> dict[str, Any]:
    """CCFRec's item-id stage: load a trained run, freeze it, train an id embedding, evaluate, write a run folder.

    ``recipe`` is that of this training and fills in ``config`` and ``stage``; the base's own stands in the manifest
    beside it.

    Raises
    ------
    ValueError
        If the run was trained on another data set.
    """
    from accelerate.utils import set_seed

    from recbase.store.runs import load_run

    overrides = {} if recipe is None else recipe_of(MODELS["ccfrec"], recipe)
    config, stage = filled(config, overrides), filled(stage, overrides)
    run = load_run(base, MODELS)
    if run.manifest["model"] != "ccfrec":
        raise ValueError(f"the item-id stage starts from a ccfrec run, but {base} holds a {run.manifest['model']}")
    if run.data["hash"] != dataset.hash:
        raise ValueError(f"{base} was trained on {run.data['name']}, not on this {dataset.name}")
    if Path(base).resolve() == Path(out).resolve():
        raise ValueError(f"--out {out} is the run that the item-id stage starts from: give another folder")
    with attempt_at(out, "training item ids", resume) as attempt:
        set_seed(config.seed)
        model = run.model.tabulated(**stage.arguments())
        manifest = (
            record | {"stage": "item-id"} | asdict(stage) | {"base": run.metrics["test"], "base_recipe": run.recipe}
        )
        manifest |= described(recipe, overrides, config, stage)
        return Training(
            "ccfrec-tabulated", model, dataset, attempt, config, run.manifest["form"], Ranking(), manifest,
            resume=resume, options={spelled(key): value for key, value in asdict(stage).items()},
        ).run()  # fmt: skip


def train_counted(
    name: str,
    dataset: Dataset,
    out: Path,
    arguments: dict[str, Any],
    record: dict[str, Any] | None = None,
    content: Content | None = None,
    embeddings: Path | VectorSource | None = None,
    cache: Path | None = None,
    final: bool = False,
) -> dict[str, Any]:
    """Fit a model that only counts (popularity, transitions), evaluate it on test, write its run folder.

    ``record`` holds more entries of the manifest, such as ``given``: the data set as the user named it.
    ``content``, ``embeddings`` and ``cache`` are for a model that ranks what it counted by content; ``final`` fits the
    model once more, to all events. See `train_network`.
    """
    with attempt_at(out, f"fitting {name}") as attempt:
        inputs = _inputs(name, arguments)
        found = ItemContent()
        made_from: dict[str, Any] = {}
        if set(inputs) - {"ids"}:
            where = cache or cache_for(out)
            found, made_from = item_content(inputs, dataset, content or Content(), where, embeddings, quiet=True)
            made_from |= {"inputs": list(inputs), "content": asdict(content or Content())}
        start = time.perf_counter()

        def fitted(histories: Histories) -> Any:
            return build_model(name, dataset.n_items, dataset.n_users, found, arguments).fit(histories)

        model, whole = fitted(dataset.split().train), dataset.histories
        seconds = time.perf_counter() - start
        manifest = dict(record or {}) | {"form": "counts", "recipe": "default"} | made_from
        again = None if not final else lambda: (fitted(whole), {"events": int(whole.lengths.sum())})
        return evaluate_and_save(name, model, dataset, attempt, Ranking(), manifest, seconds, final=again)
