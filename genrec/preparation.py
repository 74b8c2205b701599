"""Codes of the catalogue and whatever else a generator reads, made before its training: steps kept in the cache.

How a model is added
--------------------
1. One file with one class, a :class:`genrec.generator.Generator`, built as ``Class(items, sizes, **options)``; of the
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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from recbase.arguments import CodebookSize, EncoderName, Large, Levels, Width, check_arguments
from recbase.recipes import Given
from semtok.catalogue.prepare import Encoding, codes_folder, item_embeddings

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from recbase.data.sequences import SampleForm
    from recbase.train.loop import TrainConfig, TrainResult
    from semtok.codes import ItemCodes
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import VectorSource

__all__ = ["Ingredients", "Preparation", "Sources", "UniquePolicy", "train_first"]


@dataclass(frozen=True)
class Sources:
    """Sources of a preparation: the data set, and what was made before.

    Attributes
    ----------
    dataset : Dataset
    cache : Path
        Where steps are kept; see `recbase.pipeline.cache_for`.
    embeddings : Path or VectorSource, optional
        Vectors to read instead of making them.
    codes : Path, optional
        Tokenizer folder to read instead of fitting one.
    seed : int, default 0
    quiet : bool, default False
    """

    dataset: Dataset
    cache: Path
    embeddings: Path | VectorSource | None = None
    codes: Path | None = None
    seed: int = 0
    quiet: bool = False

    @property
    def item_ids(self) -> np.ndarray:
        """Raw id of item 1..N."""
        return self.dataset.item_ids.to_numpy()


@dataclass(frozen=True)
class Ingredients:
    """Results of a preparation, which the training starts from.

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


UniquePolicy = Literal["none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced"]


@dataclass(frozen=True)
class Preparation(Given):
    """From item content to item codes: the options of the stages before a generator's training."""

    method: ClassVar[str] = "rqvae"
    unique: UniquePolicy = "matching"
    """How codes are made unique: none, suffix, sinkhorn, nearest-free, matching, balanced."""
    encoder: EncoderName = "tfidf"
    """Text encoder: tfidf, minilm, or the name or folder of a Hugging Face model."""
    views: tuple[str, ...] | None = None
    """Text columns, as a,b; those of the data set if not given."""
    pca: Width | None = 128
    """Width that the vectors of every text column are reduced to before codes are made; none keeps the encoder's."""
    whiten: bool = True
    """Give every component of the reduced vectors unit variance (only CCFRec's paper does; recipe paper does not)."""
    levels: Levels | None = None
    """Codes an item, before any level that makes them unique; the tokenizer's own number if not given."""
    codebook_size: CodebookSize | None = None
    """Codes of each level; if not given 256, or fewer where the catalogue has less than four items a code."""
    tokenizer_steps: Large | None = None
    """Training steps of a learned tokenizer; its own number if not given."""
    tokenizer_recipe: str = "default"
    """Recipe of the tokenizer: default or paper."""

    def __post_init__(self) -> None:
        from recbase.cli.signatures import recipe_of
        from semtok.registry import methods

        check_arguments(type(self), vars(self))
        recipe_of(methods()[getattr(self, "tokenizer", self.method)], self.tokenizer_recipe)

    def prepare(self, sources: Sources) -> Ingredients:
        """Read the codes that were given, or fit the tokenizer and keep it in the cache.

        Raises
        ------
        ValueError
            If a folder belongs to other items.
        """
        found, record = self.item_codes(sources)
        return Ingredients(found, record=record)

    def item_codes(self, sources: Sources) -> tuple[ItemCodes, dict[str, Any]]:
        """Codes of the items in the order of their numbers, and what the manifest says of them."""
        import semtok

        folder, record = sources.codes, {}
        if folder is None:
            vectors = self.item_embeddings(sources)
            record = {"embeddings": vectors.hash, "vectors": vectors.reduction}
            folder = self.fitted(sources, vectors)
        found = semtok.load_codes(folder).align(sources.item_ids)
        return found, record | {"codes": found.hash, "codes_folder": str(folder)}

    def item_embeddings(self, sources: Sources, images: bool = False) -> Embeddings:
        """Vectors of the items, with those of their images if wanted, read or made.

        Raises
        ------
        OSError
            If the encoder, which a recipe may have named, cannot be had.
        """
        encoding = Encoding(self.encoder, self.views, self.pca, self.whiten, images=images)
        try:
            return item_embeddings(sources.dataset, encoding, sources.cache, sources.embeddings, sources.quiet)
        except OSError as error:
            said = str(error).rstrip(".")
            if not said.startswith("encoder "):
                raise
            raise OSError(f"{said}; --encoder takes another one, --embeddings vectors that are ready") from error

    def tokenizer_arguments(self, dataset: Dataset, seed: int, method: str | None = None) -> dict[str, Any]:
        """Arguments of the tokenizer (or of another method's): its recipe, and what was given here."""
        from recbase.cli.signatures import recipe_of
        from semtok.registry import methods, tokenizer_class

        method = method or self.method
        accepted = inspect.signature(tokenizer_class(method)).parameters
        size = self.codebook_size or min(256, 1 << max(1, (dataset.n_items // 4).bit_length() - 1))
        given = {"levels": self.levels, "codebook_size": size, "steps": self.tokenizer_steps, "seed": seed}
        chosen = recipe_of(methods()[method], self.tokenizer_recipe)
        chosen |= {name: value for name, value in given.items() if value is not None}
        chosen.setdefault("groups", min(10, size // 2))  # LETTER clusters small codebooks into fewer groups
        return {name: value for name, value in chosen.items() if name in accepted}

    def collaborative_run(self, sources: Sources) -> Path | None:
        """Run folder of item vectors that the tokenizer learns from besides text; none if it makes its own."""
        return None

    def fitted(self, sources: Sources, vectors: Embeddings) -> Path:
        """Folder of the tokenizer fitted on these vectors, kept in the cache."""
        from semtok.registry import tokenizer_class

        tokenizer = tokenizer_class(self.method)(**self.tokenizer_arguments(sources.dataset, sources.seed))
        return codes_folder(
            tokenizer,
            vectors,
            sources.cache,
            dataset=sources.dataset,
            unique=self.unique,
            collaborative=self.collaborative_run(sources),
            seed=sources.seed,
            quiet=sources.quiet,
        )


def train_first(
    name: str,
    model: Any,
    dataset: Dataset,
    form: SampleForm,
    judge: Callable[[Any], dict[str, float]],
    config: TrainConfig,
    target: Path,
) -> None:
    """Train a ranking model whose item vectors a generator's codes are made of, into a run folder.

    Parameters
    ----------
    name : str
        The model's name in `seqrec.MODELS`.
    model, dataset, form, config
        As for `recbase.train.loop.fit`.
    judge : callable
        Gives the metrics by which the training stops; of validation.
    target : path
        A checkpoint that is there is gone on with.
    """
    from recbase.data.sequences import SequenceBatches
    from recbase.store.runs import save_run
    from recbase.train.attempts import gone_on_with
    from recbase.train.loop import fit

    batches = SequenceBatches(dataset.split().train, form, config.batch_size, model.max_len, config.seed)

    def train(resume: bool) -> TrainResult:
        return fit(model, batches, judge, config, target, resume)

    result = gone_on_with(target, train)
    result.check_complete(f"the {name} is kept as far as it came in {target / 'checkpoint'}")
    facts: dict[str, Any] = {"data": {"name": dataset.name, "hash": dataset.hash}, "training": asdict(config)}
    facts |= {"best": result.best, "best_epoch": result.best_epoch, "seconds": result.seconds}
    save_run(target, name, model.cpu(), dataset.items, facts)
