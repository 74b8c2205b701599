"""What a model reads of its items besides their numbers: vectors, codes, attributes, histories, raw texts and pictures.

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
   Where an encoder of raw texts or pictures is to be trained too, the model extends
   `seqrec.finetuned.EndToEndModel` and takes its options by ``setting_groups = (Finetuning,)``.
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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recbase.arguments import CodebookSize, Count, EncoderName, FolderName, Levels, ModelName, Width, check_arguments
from recbase.recipes import Given
from semtok.catalogue.prepare import Encoding, codes_folder, item_embeddings
from semtok.content.embeddings import IMAGE_VIEW, Embeddings
from seqrec.content import ItemContent, item_attributes, item_texts

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from semtok.codes import ItemCodes
    from semtok.content.ready_vectors import VectorSource

__all__ = ["Content", "item_codes", "item_content"]

JOINED = "joined"  # the view of all columns together, as embed_dataset names it


@dataclass(frozen=True)
class Content(Given):
    """Content that a model reads, and settings by which its codes are made."""

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

    def encoding(self, images: bool) -> Encoding:
        """Settings by which the vectors are made, with those of the images if they are read."""
        return Encoding(
            self.encoder, self.views, self.pca, self.whiten, self.global_text, images, self.image_encoder,
            self.image_root,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """The codebook size, 256 where it was left open."""
        return self.codebook_size or 256

    def sized_for(self, items: int) -> Content:
        """The same content with the codebook size settled for a catalogue of so many items."""
        if self.codebook_size is not None:
            return self
        return replace(self, codebook_size=min(256, 1 << max(1, (items // 4).bit_length() - 1)))


def item_content(
    inputs: Sequence[str],
    dataset: Dataset,
    content: Content,
    cache: Path,
    embeddings: Path | VectorSource | None = None,
    codes: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
    behaviour: Callable[[], Path] | None = None,
) -> tuple[ItemContent, dict[str, Any]]:
    """Everything that a model reads besides ids, and what the manifest says of it.

    Parameters
    ----------
    inputs : sequence of str
        As in ``seqrec.REGISTRY``.
    dataset : Dataset
        Its training part alone is used for ``histories``.
    content : Content
    cache : Path
        Where vectors and codes are kept; see `recbase.pipeline.cache_for`.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    seed : int, default 0
    quiet : bool, default False
    behaviour : callable, optional
        Gives the run whose item vectors make codes of type sasrec or mixed, where ``content.vectors`` names none.

    Raises
    ------
    ValueError
        If a folder belongs to other items, or there is no text to read.
    OSError
        If the encoder, which a recipe may have named, cannot be had.
    """
    found: dict[str, Any] = {}
    record: dict[str, Any] = {}
    if {"text", "views", "images", "codes"} & set(inputs):
        vectors = _vectors(dataset, content.encoding("images" in inputs), cache, embeddings, quiet)
        record |= {"embeddings": vectors.hash, "vectors": vectors.reduction}
        if "views" in inputs:
            names = [JOINED] if content.global_text else _views(vectors, content)
            found["views"] = np.stack([vectors.views[view] for view in names], 1)
        if "text" in inputs:
            found["text"] = _joined_text(vectors, content)
        if "images" in inputs and IMAGE_VIEW in vectors.views:
            found |= {"images": vectors.views[IMAGE_VIEW], "missing_images": vectors.missing[IMAGE_VIEW]}
        if "codes" in inputs:
            found["codes"] = item_codes(dataset, vectors, content, cache, codes, seed, quiet, behaviour)
            record["codes"] = found["codes"].hash
    if "attributes" in inputs:
        found["attributes"] = item_attributes(dataset.items, content.attribute_columns, content.attribute_items)
        record["attributes"] = found["attributes"].names
    if "histories" in inputs:
        found["histories"] = dataset.split().train
    if "sentences" in inputs:
        found["sentences"] = item_texts(dataset.items, content.views or dataset.views)
    if "pictures" in inputs and "image_path" in dataset.items.columns:
        root, paths = Path(content.image_root or ""), dataset.items["image_path"].to_list()
        found["pictures"] = [None if path is None else root / path for path in paths]
    return ItemContent(**found), record


def _vectors(
    dataset: Dataset, encoding: Encoding, cache: Path, given: Path | VectorSource | None, quiet: bool
) -> Embeddings:
    """Vectors of the items, read or made; where the encoder cannot be had, the sentence says what to give instead."""
    try:
        return item_embeddings(dataset, encoding, cache, given, quiet)
    except OSError as error:
        said = str(error).rstrip(".")
        if not said.startswith("encoder "):
            raise
        raise OSError(f"{said}; --encoder takes another one, --embeddings vectors that are ready") from error


def _joined_text(embeddings: Embeddings, content: Content) -> np.ndarray:
    """One text vector an item: that of all texts together if asked for, else those of the views, side by side."""
    if content.global_text:
        return embeddings.views[JOINED]
    views = [view for view in _views(embeddings, content) if view != IMAGE_VIEW]
    if not views:
        raise ValueError(f"the embeddings have no text view; they have {', '.join(embeddings.views)}")
    return embeddings.matrix(views, normalize=True)[0]


def item_codes(
    dataset: Dataset,
    embeddings: Embeddings,
    content: Content,
    cache: Path,
    folder: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
    behaviour: Callable[[], Path] | None = None,
) -> ItemCodes:
    """Codes of the items, read from ``folder`` (a fitted tokenizer) or fitted and kept in the cache.

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
    wanted = {"text": total, "random": total, "sasrec": 0, "mixed": total // 2}[content.code_type]
    parts: list[np.ndarray] = []

    def fitted(method: str, levels: int, vectors: Embeddings, views: list[str]) -> np.ndarray:
        tokenizer = semtok.tokenizer_class(method)(levels=levels, codebook_size=content.size, seed=seed)
        made = codes_folder(
            tokenizer, vectors, cache, dataset=dataset, views=views, unique="none", seed=seed, quiet=quiet
        )
        found: np.ndarray = semtok.load_codes(made).codes
        return found

    if content.code_type == "random":
        chance = np.random.default_rng(seed).standard_normal((dataset.n_items, 8)).astype(np.float32)
        drawn = Embeddings({"chance": chance}, {}, np.arange(dataset.n_items))  # items of equal text are not told by it
        parts.append(fitted("random", total, drawn, ["chance"]))
    elif wanted:
        codes_of_text = fitted(content.code_method, content.code_levels, embeddings, views)
        parts.append((codes_of_text[:, ::2] if content.code_type == "mixed" else codes_of_text)[:, :wanted])
    if wanted < total:
        turned = _rotations(_behaviour_vectors(dataset, content, behaviour), total - wanted, content, seed)
        parts.append(fitted("pq", content.code_levels, turned, list(turned.views))[:, : total - wanted])
    ids = dataset.item_ids.to_numpy()
    return ItemCodes(np.concatenate(parts, 1).astype(np.int32), (content.size,) * total, ids)


def _behaviour_vectors(dataset: Dataset, content: Content, behaviour: Callable[[], Path] | None) -> np.ndarray:
    """Item vectors [N, D] of the run given, or of the one that ``behaviour`` trains."""
    from recbase.store.runs import open_run, read_item_vectors

    if content.vectors is None and behaviour is None:
        raise ValueError(f"codes of type {content.code_type} need a run with item vectors: give vectors")
    folder = content.vectors if content.vectors is not None else behaviour()  # type: ignore[misc]
    vectors = read_item_vectors(open_run(folder))
    if len(vectors) != dataset.n_items:
        raise ValueError(f"the run in {folder} has vectors of {len(vectors)} items, {dataset.name} {dataset.n_items}")
    return vectors


def _rotations(vectors: np.ndarray, count: int, content: Content, seed: int) -> Embeddings:
    """Views of seeded random rotations of the vectors, as many as ``count`` codes need.

    ``count`` need not divide the width of the vectors, as it would have to for one product quantizer.
    """
    rng = np.random.default_rng(seed)
    views = {}
    for number in range(-(-count // content.code_levels)):
        rotation = np.linalg.qr(rng.standard_normal((vectors.shape[1],) * 2))[0]
        views[f"rotation{number + 1}"] = (vectors @ rotation).astype(np.float32)
    return Embeddings(views, {}, np.arange(len(vectors)))


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
