"""The stages before a generator's training, the training itself, and its evaluation.

Each stage is a folder whose name carries the hash of what it was made from, so a second command reuses it. Commands
parse, call a function here, and print.

How a model is added
--------------------
1. One file with one class, a :class:`genrec.model.Generator`, built as ``Class(items, sizes, **options)``; of the
   shapes in ``SHAPES`` it names those it needs in its signature, all other arguments become options of the command.
2. What it reads besides codes is an entry of :attr:`Ingredients.arrays`, set by ``with_arrays(**arrays)`` (copied into
   buffers, row 0 for padding), so that a run folder reloads by itself.
3. Stages of its own are a dataclass that extends :class:`Preparation` (its fields become options of the command, its
   method ``prepare`` makes the :class:`Ingredients`), named in the model's line of ``genrec.REGISTRY``.
4. ``forward(batch) -> LossOutput`` gives its share of the step's mean loss over all targets: sums divided by
   ``batch.target_count``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from genrec import MODELS, REGISTRY, SHAPES
from genrec.generation import Search, rank_generated, validator
from recbase.checkpoints import FileContent, tensor_bytes
from recbase.runs import check_run_folder, resolve, save_run
from recbase.sequences import SampleForm, SequenceBatches
from seqrec.stages import stage

if TYPE_CHECKING:
    from recbase.datasets import Dataset
    from recbase.training import TrainConfig
    from semtok.codes import ItemCodes
    from semtok.embeddings import Embeddings

__all__ = ["SHAPES", "Ingredients", "Preparation", "build_model", "train_generator"]


@dataclass(frozen=True)
class Ingredients:
    """What the stages before the training leave for it.

    Attributes
    ----------
    codes : ItemCodes
        In the order of the item numbers.
    arrays : dict of str to array
        What else the model reads, by the argument names of its ``with_arrays``.
    shapes : dict
        Constructor arguments that follow from them.
    record : dict
        What the manifest of the run says of the stages: folders and hashes.
    """

    codes: ItemCodes
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """From item content to item codes: the options of the stages before a generator's training."""

    method: ClassVar[str] = "rqvae"
    unique: str = "matching"
    """How codes are made unique: none, suffix, sinkhorn, nearest-free, matching, balanced."""
    encoder: str = "tfidf"
    """Text encoder: tfidf, minilm, or the name or folder of a Hugging Face model."""
    views: tuple[str, ...] | None = None
    """Text columns, as a,b; those of the data set if not given."""
    levels: int | None = None
    """Codes an item, before any level that makes them unique; the tokenizer's own number if not given."""
    codebook_size: int | None = None
    """Codes of each level; if not given 256, or fewer where the catalogue has less than four items a code."""
    tokenizer_steps: int | None = None
    """Training steps of a learned tokenizer; its own number if not given."""
    tokenizer_recipe: str = "default"
    """Recipe of the tokenizer: default or paper."""

    def __post_init__(self) -> None:
        for name in ("levels", "codebook_size", "tokenizer_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")

    def prepare(
        self, dataset: Dataset, root: Path, embeddings: Path | None, codes: Path | None, seed: int, quiet: bool
    ) -> Ingredients:
        """Read the codes in the folder ``codes``, or fit the tokenizer as a stage under ``root``.

        Raises
        ------
        ValueError
            If a folder belongs to other items.
        """
        found, record = self.item_codes(dataset, root, embeddings, codes, seed, quiet)
        return Ingredients(found, record=record)

    def item_codes(
        self, dataset: Dataset, root: Path, embeddings: Path | None, codes: Path | None, seed: int, quiet: bool
    ) -> tuple[ItemCodes, dict[str, Any]]:
        """Codes of the items in the order of their numbers, and what the manifest says of them."""
        import semtok

        if codes is None:
            vectors = self.item_embeddings(dataset, root, embeddings, quiet)
            codes = self.fitted(dataset, vectors, root, seed, quiet)
        found = semtok.load_codes(codes).align(dataset.item_ids.to_numpy())
        return found, {"codes": found.hash, "codes_folder": str(codes)}

    def item_embeddings(self, dataset: Dataset, root: Path, folder: Path | None, quiet: bool) -> Embeddings:
        """Vectors of the items, read from ``folder`` or made as a stage."""
        from seqrec.stages import Content, item_embeddings

        content = Content(views=self.views, encoder=self.encoder)
        return item_embeddings(dataset, content, root, folder, quiet)

    def tokenizer_arguments(self, dataset: Dataset, seed: int, method: str | None = None) -> dict[str, Any]:
        """Arguments of the tokenizer (or of another method's): its recipe, and what was given here."""
        from recbase.options import recipe_of
        from semtok.loading import methods, tokenizer_class

        method = method or self.method
        accepted = inspect.signature(tokenizer_class(method)).parameters
        size = self.codebook_size or min(256, 1 << max(1, (dataset.n_items // 4).bit_length() - 1))
        given = {"levels": self.levels, "codebook_size": size, "steps": self.tokenizer_steps, "seed": seed}
        chosen = recipe_of(methods()[method], self.tokenizer_recipe)
        chosen |= {name: value for name, value in given.items() if value is not None}
        return {name: value for name, value in chosen.items() if name in accepted}

    def fitted(self, dataset: Dataset, vectors: Embeddings, root: Path, seed: int, quiet: bool) -> Path:
        """Folder of the tokenizer fitted on these vectors, made as a stage."""
        from semtok.fitting import fit_codes
        from semtok.loading import tokenizer_class

        arguments = self.tokenizer_arguments(dataset, seed)
        key = {"data": dataset.hash, "embeddings": vectors.hash, "method": self.method, "unique": self.unique}

        def build(target: Path) -> None:
            tokenizer = tokenizer_class(self.method)(**arguments)
            made = fit_codes(tokenizer, vectors, dataset=dataset, unique=self.unique, seed=seed, quiet=quiet)
            made.save(target)

        return stage(root, self.method, key | arguments, "semtok.json", build)


def build_model(
    name: str, dataset: Dataset, found: Ingredients, arguments: Mapping[str, Any], form: str = "prefix"
) -> Any:
    """A model with its codes and arrays set, ready to be trained in a sample form.

    Raises
    ------
    ValueError
        If items share codes that have to be told apart, or a part does not fit.
    """
    from semtok.fitting import popularity_of

    kind = resolve(name, MODELS)
    accepted = inspect.signature(kind).parameters
    shapes: dict[str, Any] = {"items": dataset.n_items, "users": dataset.n_users}
    shapes |= {"sizes": [int(size) for size in found.codes.sizes]} | found.shapes
    shared = found.codes.collisions()
    if shared.distinct == 1 < shared.total:
        raise ValueError(
            f"all {shared.total} items have the same codes, so that {name} could recommend one item alone: give codes "
            "that tell the items apart, or have them made unique (--unique)"
        )
    chosen = dict(arguments)
    if form == "all":  # positions must not see what comes after them
        chosen["causal_encoder"] = True
    model = kind(**{key: value for key, value in shapes.items() if key in accepted}, **chosen)
    model.with_codes(found.codes.codes, popularity_of(dataset.split().train, dataset.n_items))
    return model.with_arrays(**found.arrays) if found.arrays else model


def train_generator(
    name: str,
    dataset: Dataset,
    out: Path,
    arguments: Mapping[str, Any],
    preparation: Any,
    config: TrainConfig,
    search: Search,
    form: SampleForm,
    recipe: str,
    record: Mapping[str, Any],
    embeddings: Path | None = None,
    codes: Path | None = None,
    root: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Run the stages, train a generator, search once for all test users, write its run folder, return its metrics.

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
    form : {"prefix", "all"}
        Sample form.
    recipe : str
        Recorded in the manifest and the metrics.
    record : mapping
        More entries of the manifest, such as ``given``: the data set as the user named it.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    root : Path, optional
        Where stages are kept; the parent of ``out`` if not given.
    resume : bool, default False
        Go on from the checkpoint in ``out``.
    """
    from accelerate.utils import set_seed

    from recbase.training import fit, make_accelerator

    if form not in REGISTRY[name].forms:
        raise ValueError(f"--form {form} is not for {name}; use {' or '.join(REGISTRY[name].forms)}")
    check_run_folder(out)
    set_seed(config.seed)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # the others find the stages done
        found = preparation.prepare(dataset, root or out.parent, embeddings, codes, config.seed, config.quiet)
    set_seed(config.seed)
    model = build_model(name, dataset, found, arguments, form)
    split = dataset.split()
    batches = SequenceBatches(
        split.train.sampled(config.train_share, config.seed),
        form,
        batch_size=config.batch_size,
        max_len=model.max_len,
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        micro_batches=config.micro_batches,
    )
    made_from = {"data": dataset.hash, "codes": found.codes.hash}
    validate = validator(split.valid, search, accelerator)
    result = fit(model, batches, validate, config, out, resume, accelerator, made_from)
    manifest = dict(record) | found.record | {"form": form, "training": asdict(config), "search": asdict(search)}
    manifest["preparation"] = asdict(preparation)
    files = {"codes.safetensors": _codes_file(found.codes)}
    return _evaluate_and_save(name, model, dataset, out, recipe, manifest, files, search, result, accelerator)


def _codes_file(codes: ItemCodes) -> bytes:
    return tensor_bytes({"codes": codes.codes, "sizes": np.asarray(codes.sizes, dtype=np.int64)})


def evaluate_generator(
    name: str,
    model: Any,
    dataset: Dataset,
    search: Search,
    recipe: str,
    result: Any = None,
    accelerator: Any = None,
    quiet: bool = True,
    exact: bool = False,
    **facts: Any,
) -> tuple[dict[str, Any], Any]:
    """Metrics of a model on all users, validation and test, and the test ranks."""
    from recbase.evaluation import describe_protocol, metrics_record, summarize

    split = dataset.split()
    settings = {"accelerator": accelerator, "progress": not quiet, "exact": exact}
    valid = summarize(rank_generated(model, split.valid, search.beams, search.search_batch, **settings)[0])
    ranks, lists = rank_generated(model, split.test, search.beams, search.search_batch, **settings)
    if result is not None:
        facts |= {"train_seconds": round(result.seconds, 3), "steps": result.steps, "epochs": result.epochs}
        facts |= {"best_epoch": result.best_epoch, "stopped": result.stopped}
    protocol = describe_protocol(split.name, n_best=search.beams, search="exact" if exact else "beam")
    about = {"name": dataset.name, "hash": dataset.hash, "users": dataset.n_users, "items": dataset.n_items}
    facts["colliding_items"] = dataset.n_items - len(model.code_table[1:].unique(dim=0))
    return metrics_record(name, about, protocol, ranks, valid, split.train, lists, recipe=recipe, **facts), ranks


def _evaluate_and_save(
    name: str,
    model: Any,
    dataset: Dataset,
    out: Path,
    recipe: str,
    manifest: dict[str, Any],
    files: Mapping[str, FileContent],
    search: Search,
    result: Any,
    accelerator: Any,
) -> dict[str, Any]:
    from recbase.evaluation import ranks_file

    budget, quiet = manifest["training"]["max_seconds"], manifest["training"]["quiet"]
    metrics, ranks = evaluate_generator(
        name, model, dataset, search, recipe, result, accelerator, quiet=quiet, budget=budget
    )
    if accelerator.is_main_process:
        data = {"name": dataset.name, "hash": dataset.hash, "users": dataset.n_users, "items": dataset.n_items}
        data["given"] = manifest.pop("given", dataset.name)
        body = {"data": data, "split": dataset.split().name, "recipe": recipe} | manifest
        content = {
            "metrics.json": json.dumps(metrics, indent=1).encode(),
            "ranks.parquet": ranks_file(ranks, dataset.user_ids),
        }
        save_run(out, name, model, dataset.items, body, dict(files) | content)
    return metrics
