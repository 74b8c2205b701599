"""What a training command needs and was not given: embeddings, codes, other models' vectors; then the training itself.

Each stage is a folder whose name carries the hash of what it was made from, so a second command reuses it. Commands
parse, call a function here, and print.

How a model that reads content is added
---------------------------------------
1. One file with one class, built as ``Class(items, **shapes, **options)``. Of the shapes it names in its signature
   those it needs: ``users``, ``text_dim``, ``views``, ``image_dim`` (0 where the data set has no pictures), ``sizes``
   (of each code level), ``attributes`` (their number, perhaps 0). All other arguments become options of the command.
2. ``with_content(**content)`` takes what its line of ``REGISTRY`` lists and returns the model: ``text`` float32 [N, d],
   ``views`` float32 [N, V, d], ``images`` float32 [N, d] with ``missing_images`` bool [N] (both left out where there
   are none), ``codes`` int32 [N, L], ``attributes`` int32 [N, K] (numbers 1..A, 0 = none), ``histories`` (the training
   part), ``sentences``, ``pictures``. It copies them into buffers with a row 0 of zeros for padding. Buffers are saved
   with the weights, so a run folder reloads by itself; what only training needs is registered ``persistent=False``.
3. A model whose inputs depend on its options has a static method ``reads(arguments) -> tuple of str`` (a part of the
   line in ``REGISTRY``; ``arguments`` are its options).
4. It is trained like any other: ``forward(batch) -> LossOutput`` gives its share of the step's mean loss, ``scorer()``
   scores, ``config()`` rebuilds; `seqrec.sequential.SequentialModel` has these for models that score by a dot product.
   ``batch_settings()`` may add arguments of `SequenceBatches` (``mask_item`` ...), ``pretraining()`` may return a
   module that shares parameters and is trained first (see `Pretraining`).
5. The line in ``REGISTRY`` lists only sample forms that do not leak: a model that lets a position see later items takes
   ``prefix`` or ``cloze``. The contract tests run over every line; what a model cannot keep stands there by name.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recbase.arguments import CodebookSize, Count, EncoderName, FolderName, Levels, ModelName, Width, check_arguments
from recbase.data.sequences import SampleForm
from recbase.recipes import Given
from recbase.store.folder import folder_lock
from recbase.store.runs import resolve
from recbase.train.processes import alone
from seqrec import MODELS, REGISTRY
from seqrec.content import ItemContent, item_attributes, item_texts

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from semtok.codes import ItemCodes
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import VectorSource
    from seqrec.training import train_counted, train_item_ids, train_network

__all__ = [
    "Content",
    "Pretraining",
    "build_model",
    "check_form",
    "item_codes",
    "item_content",
    "item_embeddings",
    "stage",
    "train_counted",
    "train_item_ids",
    "train_network",
]

STAGES = "stages"
JOINED = "joined"  # the view of all columns together, as embed_dataset names it
IMAGE = "image"


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


@dataclass(frozen=True)
class Content(Given):
    """What a model that reads content is given, and how its codes are made."""

    views: tuple[str, ...] | None = None
    """Text columns, as a,b; those of the data set if not given. Table 5 of CCFRec adds them one by one."""
    encoder: EncoderName = "tfidf"
    """Text encoder: tfidf, minilm, or the name or folder of a Hugging Face model."""
    pca: Width | None = 128
    """Width that every view's vectors are reduced to; none keeps the encoder's."""
    whiten: bool = True
    """Give every component of the reduced vectors unit variance, as CCFRec's code does."""
    code_method: Literal["pq", "opq", "rq"] = "pq"
    """Quantizer of the codes: product, rotated product or residual, for every view on its own."""
    code_levels: Levels = 4
    """Codes a view, k. Table 6 of CCFRec tries 2, 4 and 8."""
    codebook_size: CodebookSize | None = None
    """Codes of each position, K; if not given 256, or fewer where the catalogue has less than four items a code."""
    code_type: Literal["text", "random", "sasrec", "mixed"] = "text"
    """What the codes come from: the text, chance, item vectors of a SASRec, or half and half."""
    global_text: bool = False
    """Attend to one vector of all views together (ablation "global emb") instead of one a view."""
    vectors: Path | None = None
    """Run whose item vectors make codes of type sasrec or mixed; a SASRec is trained if not given."""
    image_encoder: ModelName | None = None
    """Hugging Face vision model (name or folder) for pictures in image_path; without it only ready vectors are read."""
    image_root: FolderName | None = None
    """Folder that relative paths of pictures start from."""
    attribute_columns: tuple[str, ...] | None = None
    """Columns of categories, as a,b; if not given those of categories, brand, department ... that there are."""
    attribute_items: Count = 2
    """Fewest items that an attribute must have to count."""

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    @property
    def size(self) -> int:
        """The codebook size, 256 where it was left open."""
        return self.codebook_size or 256

    def sized_for(self, items: int) -> Content:
        """The same content with the codebook size settled for a catalogue of so many items."""
        if self.codebook_size is not None:
            return self
        return replace(self, codebook_size=min(256, 1 << max(1, (items // 4).bit_length() - 1)))


def stage(root: Path, kind: str, made_from: Mapping[str, Any], manifest: str, build: Callable[[Path], None]) -> Path:
    """The folder of a stage, built if no folder of the same inputs is there.

    Of several commands, or processes of one launch, that need the same stage one builds it and the others wait. An
    interrupted stage is never a complete one: its manifest is written last, and only by a build that came to its end.

    Parameters
    ----------
    root : Path
        Runs folder; the stage lies in ``root/stages/<kind>-<hash>``.
    kind : str
    made_from : mapping
        JSON-able description of the inputs; its hash names the folder.
    manifest : str
        File whose presence says that the stage is complete.
    build : callable
        Writes the folder it is given.
    """
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]
    folder = root / STAGES / f"{kind}-{digest}"
    if not (folder / manifest).is_file():
        with folder_lock(folder, f"making the {kind}", wait=math.inf), alone():
            if not (folder / manifest).is_file():
                build(folder)
    return folder


def item_embeddings(
    dataset: Dataset,
    content: Content,
    root: Path,
    folder: Path | VectorSource | None = None,
    quiet: bool = False,
    images: bool = False,
) -> Embeddings:
    """The text vectors of a data set (and the image vectors it has), read from ``folder`` or made as a stage.

    Raises
    ------
    ValueError
        If ``folder`` (or file; see `semtok.content.ready_vectors.open_vectors`) belongs to other items.
    """
    from recbase.cli.console import say
    from semtok.content.embeddings import Embeddings, embeddings_for
    from semtok.content.ready_vectors import open_vectors

    def said(found: Embeddings) -> Embeddings:
        if not quiet:
            say(f"Content: {found.described()}", err=True)
        return found

    if folder is not None:
        embeddings = open_vectors(folder, dataset.item_ids, f"the data set {dataset.name}")
        if not isinstance(embeddings, Embeddings):
            raise ValueError(f"{folder} holds vectors in shards; a model takes an embeddings folder or one file")
        return said(embeddings)
    views = list(content.views or dataset.views)
    settings: dict[str, Any] = {"pca": content.pca, "whiten": content.whiten, "quiet": quiet}
    settings["joined"] = content.global_text
    encoded = content.image_encoder is not None and "image_path" in dataset.items.columns
    if images and IMAGE not in views and (dataset.images is not None or encoded):
        views.append(IMAGE)
        if dataset.images is None:
            settings |= {"image_encoder": content.image_encoder, "image_root": content.image_root}
    settings["views"] = views
    return said(embeddings_for(dataset, content.encoder, root / STAGES, **settings)[0])


def item_codes(
    dataset: Dataset,
    embeddings: Embeddings,
    content: Content,
    root: Path,
    folder: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> ItemCodes:
    """Codes of the items, read from ``folder`` (a fitted tokenizer) or fitted as a stage.

    Raises
    ------
    ValueError
        If ``folder`` belongs to other items.
    """
    import semtok
    from semtok.codes import ItemCodes

    content = content.sized_for(dataset.n_items)
    if folder is not None:
        codes = semtok.load_codes(folder)
        _check_items(dataset, codes.item_ids, f"the codes in {folder}")
        return codes
    views = _views(embeddings, content)
    total = len(views) * content.code_levels
    ids = dataset.item_ids.to_numpy()
    if content.code_type == "random":
        drawn = np.random.default_rng(seed).integers(0, content.size, (dataset.n_items, total))
        return ItemCodes(drawn.astype(np.int32), (content.size,) * total, ids)
    wanted = {"text": total, "sasrec": 0, "mixed": total // 2}[content.code_type]
    parts: list[np.ndarray] = []
    if wanted:
        parts.append(_text_codes(dataset, embeddings, views, content, root, seed)[:, :wanted])
    if wanted < total:
        vectors = _behaviour_vectors(dataset, content, root, seed, quiet)
        parts.append(_rotated_codes(vectors, total - wanted, content, seed))
    return ItemCodes(np.concatenate(parts, 1), (content.size,) * total, ids)


def _text_codes(
    dataset: Dataset, embeddings: Embeddings, views: list[str], content: Content, root: Path, seed: int
) -> np.ndarray:
    """Codes of every view on its own, int32 [N, views x levels], view-major; ``mixed`` takes every other one."""
    import semtok

    matrix, slices = embeddings.matrix(views)
    arguments = {"levels": content.code_levels, "codebook_size": content.size, "seed": seed}
    key = {"data": dataset.hash, "embeddings": embeddings.hash, "views": views, "method": content.code_method}

    def build(target: Path) -> None:
        tokenizer = semtok.tokenizer_class(content.code_method)(**arguments).fit(matrix, views=slices)
        codes = tokenizer.item_codes(matrix, dataset.item_ids.to_numpy())
        tokenizer.save(target, codes, made_from={"data": dataset.hash, "embeddings": embeddings.hash})

    folder = stage(root, "codes", key | arguments, "semtok.json", build)
    codes: np.ndarray = semtok.load_codes(folder).codes
    return codes[:, ::2] if content.code_type == "mixed" else codes


def _behaviour_vectors(dataset: Dataset, content: Content, root: Path, seed: int, quiet: bool) -> np.ndarray:
    """Item vectors [N, D] of the run given, or of a SASRec of width 128 trained here."""
    from recbase.store.runs import open_run, read_item_vectors

    folder = content.vectors
    if folder is None:
        key = {"data": dataset.hash, "model": "sasrec", "dim": 128, "seed": seed}

        def build(target: Path) -> None:
            from recbase.train.attempts import gone_on_with
            from recbase.train.loop import TrainConfig
            from seqrec.training import train_network

            config = TrainConfig(epochs=60, batch_size=256, patience=8, seed=seed, quiet=quiet)

            def train(resume: bool) -> Any:
                return train_network(
                    "sasrec", dataset, target, {"dim": 128}, config, "all", "default", {}, resume=resume
                )

            gone_on_with(target, train)

        folder = stage(root, "sasrec", key, "config.json", build)
    vectors = read_item_vectors(open_run(folder))
    if len(vectors) != dataset.n_items:
        raise ValueError(f"the run in {folder} has vectors of {len(vectors)} items, {dataset.name} {dataset.n_items}")
    return vectors


def _rotated_codes(vectors: np.ndarray, count: int, content: Content, seed: int) -> np.ndarray:
    """``count`` codes of vectors whose width they need not divide: PQ of several seeded random rotations."""
    from semtok.methods.product import ProductQuantizer

    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(part.shape[1] for part in parts) < count:
        rotation = np.linalg.qr(rng.standard_normal((vectors.shape[1],) * 2))[0]
        rotated = (vectors @ rotation).astype(np.float32)
        quantizer = ProductQuantizer(levels=content.code_levels, codebook_size=content.size, seed=seed)
        parts.append(quantizer.fit(rotated).encode(rotated))
    return np.concatenate(parts, 1)[:, :count].astype(np.int32)


def _views(embeddings: Embeddings, content: Content) -> list[str]:
    """The views that codes are made of: those asked for, or all but the joined one."""
    present = [view for view in embeddings.views if view != JOINED]
    missing = [view for view in content.views or () if view not in present]
    if missing:
        raise ValueError(f"the embeddings have no view {missing[0]!r}; they have {', '.join(present)}")
    return list(content.views or present)


def _check_items(dataset: Dataset, item_ids: Any, what: str) -> None:
    expected, found = dataset.item_ids.to_numpy(), np.asarray(item_ids)
    if len(found) != len(expected):
        raise ValueError(f"{what} are of {len(found)} items but the data set {dataset.name} has {len(expected)}")
    if not np.array_equal(found.astype(str), expected.astype(str)):
        raise ValueError(f"{what} are of other items than the data set {dataset.name} (same number, other ids)")


def item_content(
    inputs: Sequence[str],
    dataset: Dataset,
    content: Content,
    root: Path,
    embeddings: Path | VectorSource | None = None,
    codes: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> tuple[ItemContent, dict[str, Any]]:
    """Everything that a model reads besides ids, and what the manifest says of it.

    Parameters
    ----------
    inputs : sequence of str
        As in ``seqrec.REGISTRY``.
    dataset : Dataset
        Its training part alone is used for ``histories``.
    content : Content
    root : Path
        Where stages are kept.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    seed : int, default 0
    quiet : bool, default False

    Raises
    ------
    ValueError
        If a folder belongs to other items, or there is no text to read.
    """
    found: dict[str, Any] = {}
    record: dict[str, Any] = {}
    if {"text", "views", "images", "codes"} & set(inputs):
        vectors = item_embeddings(dataset, content, root, embeddings, quiet, "images" in inputs)
        record |= {"embeddings": vectors.hash, "vectors": vectors.reduction}
        if "views" in inputs:
            names = [JOINED] if content.global_text else _views(vectors, content)
            found["views"] = np.stack([vectors.views[view] for view in names], 1)
        if "text" in inputs:
            found["text"] = _joined_text(vectors, content)
        if "images" in inputs and IMAGE in vectors.views:
            found |= {"images": vectors.views[IMAGE], "missing_images": vectors.missing[IMAGE]}
        if "codes" in inputs:
            found["codes"] = item_codes(dataset, vectors, content, root, codes, seed, quiet)
            record["codes"] = found["codes"].hash
    if "attributes" in inputs:
        found["attributes"] = item_attributes(dataset.items, content.attribute_columns, content.attribute_items)
        record["attributes"] = found["attributes"].names
    if "histories" in inputs:
        found["histories"] = dataset.split().train
    if "sentences" in inputs:
        found["sentences"] = item_texts(dataset.items, content.views or dataset.views)
    if "pictures" in inputs and "image_path" in dataset.items.columns:
        found["pictures"] = [None if path is None else Path(path) for path in dataset.items["image_path"].to_list()]
    return ItemContent(**found), record


def _joined_text(embeddings: Embeddings, content: Content) -> np.ndarray:
    """One text vector an item: that of all texts together if asked for, else those of the views, side by side."""
    if content.global_text:
        return embeddings.views[JOINED]
    views = [view for view in _views(embeddings, content) if view != IMAGE]
    if not views:
        raise ValueError(f"the embeddings have no text view; they have {', '.join(embeddings.views)}")
    return embeddings.matrix(views, normalize=True)[0]


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


def __getattr__(name: str) -> Any:
    """Import the trainings the first time one is asked for (PEP 562): they import this module."""
    if name not in ("train_counted", "train_item_ids", "train_network"):
        raise AttributeError(f"module 'seqrec.stages' has no attribute {name!r}")
    from seqrec import training

    return getattr(training, name)
