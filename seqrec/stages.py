"""What a training command needs and was not given: embeddings, codes, other models' vectors; then the training itself.

Each stage is a folder whose name carries the hash of what it was made from, so a second command reuses it. Commands
parse, call a function here, and print.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recbase.checkpoints import FileContent
from recbase.runs import resolve, save_run
from recbase.sequences import SampleForm, SequenceBatches
from seqrec import MODELS, READS_CONTENT

if TYPE_CHECKING:
    from recbase.datasets import Dataset
    from recbase.splits import Split
    from recbase.training import TrainConfig, TrainResult
    from semtok.codes import ItemCodes
    from semtok.embeddings import Embeddings

__all__ = ["Content", "item_codes", "item_embeddings", "stage", "train_counted", "train_item_ids", "train_network"]

STAGES = "stages"
JOINED = "joined"  # the view of all columns together, as embed_dataset names it


@dataclass(frozen=True)
class Content:
    """What a model that reads content is given, and how its codes are made."""

    views: tuple[str, ...] | None = None
    """Text columns, as a,b; those of the data set if not given. Table 5 of CCFRec adds them one by one."""
    encoder: str = "tfidf"
    """Text encoder: tfidf, minilm, or the name or folder of a Hugging Face model."""
    pca: int = 128
    """Width that every view is reduced to."""
    whiten: bool = True
    """Give every component of the reduced vectors unit variance."""
    code_method: Literal["pq", "rq"] = "pq"
    """Quantizer of the codes: product or residual, for every view on its own."""
    code_levels: int = 4
    """Codes a view, k. Table 6 of CCFRec tries 2, 4 and 8."""
    codebook_size: int | None = None
    """Codes of each position, K; if not given 256, or fewer where the catalogue has less than four items a code."""
    code_type: Literal["text", "random", "sasrec", "mixed"] = "text"
    """What the codes come from: the text, chance, item vectors of a SASRec, or half and half."""
    global_text: bool = False
    """Attend to one vector of all views together (ablation "global emb") instead of one a view."""
    vectors: Path | None = None
    """Run whose item vectors make codes of type sasrec or mixed; a SASRec is trained if not given."""

    def __post_init__(self) -> None:
        for name in ("pca", "code_levels", "codebook_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")

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
        build(folder)
    return folder


def item_embeddings(
    dataset: Dataset, content: Content, root: Path, folder: Path | None = None, quiet: bool = False
) -> Embeddings:
    """The text vectors of a data set, read from ``folder`` or made as a stage.

    Raises
    ------
    ValueError
        If ``folder`` belongs to other items.
    """
    from semtok.embeddings import embeddings_for, load_embeddings

    if folder is not None:
        embeddings = load_embeddings(folder)
        _check_items(dataset, embeddings.item_ids, f"the embeddings in {folder}")
        return embeddings
    views = list(content.views or dataset.views)
    settings = {"views": views, "pca": content.pca, "whiten": content.whiten, "quiet": quiet}
    settings["joined"] = content.global_text
    return embeddings_for(dataset, content.encoder, root / STAGES, **settings)[0]


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
    from recbase.checkpoints import load_arrays, open_folder
    from recbase.training import TrainConfig

    folder = content.vectors
    if folder is None:
        key = {"data": dataset.hash, "model": "sasrec", "dim": 128, "seed": seed}

        def build(target: Path) -> None:
            config = TrainConfig(epochs=60, patience=8, seed=seed, quiet=quiet)
            train_network("sasrec", dataset, target, {"dim": 128}, config, "all", "default", {})

        folder = stage(root, "sasrec", key, "config.json", build)
    vectors = load_arrays(open_folder(folder, "config.json", "run").file("item_vectors.safetensors"))["item_vectors"]
    if len(vectors) != dataset.n_items:
        raise ValueError(f"the run in {folder} has vectors of {len(vectors)} items, {dataset.name} {dataset.n_items}")
    return vectors


def _rotated_codes(vectors: np.ndarray, count: int, content: Content, seed: int) -> np.ndarray:
    """``count`` codes of vectors whose width they need not divide: PQ of several seeded random rotations."""
    from semtok.product import ProductQuantizer

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


def content_model(
    name: str, dataset: Dataset, embeddings: Embeddings, codes: ItemCodes, content: Content, arguments: dict[str, Any]
) -> Any:
    """A model that reads codes and text, with its content set."""
    views = [JOINED] if content.global_text else _views(embeddings, content)
    text = np.stack([embeddings.views[view] for view in views], 1)
    sizes = [int(size) for size in codes.sizes]
    model = resolve(name, MODELS)(dataset.n_items, sizes, len(views), text.shape[2], **arguments)
    return model.with_content(codes.codes, text)


def train_network(
    name: str,
    dataset: Dataset,
    out: Path,
    arguments: dict[str, Any],
    config: TrainConfig,
    form: SampleForm,
    recipe: str,
    record: dict[str, Any],
    content: Content | None = None,
    embeddings: Path | None = None,
    codes: Path | None = None,
    root: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model, evaluate it on test once, write its run folder and return its metrics.

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
    form : {"all", "prefix", "cloze"}
        Sample form.
    recipe : str
        Recorded in the manifest and the metrics.
    record : dict
        More entries of the manifest, such as ``given``: the data set as the user named it.
    content : Content, optional
        For models that read content.
    embeddings, codes : Path, optional
        Folders to read instead of making them.
    root : Path, optional
        Where stages are kept; the parent of ``out`` if not given.
    resume : bool, default False
        Go on from the checkpoint in ``out``.
    """
    from accelerate.utils import set_seed

    set_seed(config.seed)
    root, files, manifest = root or out.parent, {}, dict(record)
    if name in READS_CONTENT:
        content = (content or Content()).sized_for(dataset.n_items)
        vectors = item_embeddings(dataset, content, root, embeddings, config.quiet)
        item_code = item_codes(dataset, vectors, content, root, codes, config.seed, config.quiet)
        model = content_model(name, dataset, vectors, item_code, content, arguments)
        manifest |= {"content": asdict(content), "embeddings": vectors.hash, "codes": item_code.hash}
        files["codes.safetensors"] = _codes_file(item_code)
    else:
        model = resolve(name, MODELS)(dataset.n_items, **arguments)
    return _train(name, model, dataset, out, config, form, recipe, manifest, files, resume)


def _codes_file(codes: ItemCodes) -> bytes:
    from recbase.checkpoints import tensor_bytes

    return tensor_bytes({"codes": codes.codes, "sizes": np.asarray(codes.sizes, dtype=np.int64)})


def train_item_ids(
    base: Path,
    dataset: Dataset,
    out: Path,
    config: TrainConfig,
    id_in_candidates: bool,
    record: dict[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """CCFRec's item-id stage: load a trained run, freeze it, train an id embedding, evaluate, write a run folder.

    Raises
    ------
    ValueError
        If the run was trained on another data set.
    """
    from accelerate.utils import set_seed

    from recbase.runs import load_run

    set_seed(config.seed)
    run = load_run(base, MODELS)
    if run.manifest["model"] != "ccfrec":
        raise ValueError(f"the item-id stage starts from a ccfrec run, but {base} holds a {run.manifest['model']}")
    if run.manifest["data"]["hash"] != dataset.hash:
        raise ValueError(f"{base} was trained on {run.manifest['data']['name']}, not on this {dataset.name}")
    model = run.model.tabulated(item_ids=True, id_in_candidates=id_in_candidates)
    manifest = record | {"stage": "item-id", "base": run.metrics["test"]}
    form = run.manifest["form"]
    name = "ccfrec-tabulated"
    return _train(name, model, dataset, out, config, form, run.manifest["recipe"], manifest, {}, resume)


def _train(
    name: str,
    model: Any,
    dataset: Dataset,
    out: Path,
    config: TrainConfig,
    form: SampleForm,
    recipe: str,
    manifest: dict[str, Any],
    files: Mapping[str, FileContent],
    resume: bool,
) -> dict[str, Any]:
    from recbase.evaluation import validator
    from recbase.training import fit, make_accelerator

    accelerator = make_accelerator(config)
    split = dataset.split()
    batches = SequenceBatches(
        split.train,
        form,
        batch_size=config.batch_size,
        max_len=model.max_len,
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        micro_batches=config.micro_batches,
    )

    validate = validator(split.valid, accelerator=accelerator)
    made_from = {"data": dataset.hash} | {name: manifest[name] for name in ("embeddings", "codes") if name in manifest}
    result = fit(model, batches, validate, config, out, resume, accelerator, made_from)
    manifest |= {"form": form, "training": asdict(config)}
    return _evaluate_and_save(name, model, dataset, split, out, recipe, manifest, files, result, accelerator)


def train_counted(
    name: str, dataset: Dataset, out: Path, arguments: dict[str, Any], record: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fit a model that only counts (popularity, transitions), evaluate it on test, write its run folder.

    ``record`` holds more entries of the manifest, such as ``given``: the data set as the user named it.
    """
    split = dataset.split()
    start = time.perf_counter()
    model = resolve(name, MODELS)(dataset.n_items, **arguments).fit(split.train)
    seconds = time.perf_counter() - start
    manifest = dict(record or {}) | {"form": "counts"}
    return _evaluate_and_save(name, model, dataset, split, out, "default", manifest, {}, seconds, None)


def _evaluate_and_save(
    name: str,
    model: Any,
    dataset: Dataset,
    split: Split,
    out: Path,
    recipe: str,
    manifest: dict[str, Any],
    files: Mapping[str, FileContent],
    result: TrainResult | float,
    accelerator: Any,
) -> dict[str, Any]:
    from recbase.evaluation import metrics_of_run, rank_targets, ranks_file, summarize

    scorer = model.scorer()
    valid = summarize(rank_targets(scorer, split.valid, accelerator=accelerator))
    ranks = rank_targets(scorer, split.test, accelerator=accelerator)
    budget = manifest.get("training", {}).get("max_seconds")
    metrics = metrics_of_run(name, dataset, split, recipe, valid, ranks, result, scorer, budget=budget)
    if accelerator is None or accelerator.is_main_process:
        data = {"name": dataset.name, "hash": dataset.hash, "users": dataset.n_users, "items": dataset.n_items}
        data["given"] = manifest.pop("given", dataset.name)
        body = {"data": data, "split": split.name, "recipe": recipe} | manifest
        content = {
            "metrics.json": json.dumps(metrics, indent=1).encode(),
            "ranks.parquet": ranks_file(ranks, dataset.user_ids),
        }
        save_run(out, name, model, dataset.items, body, dict(files) | content)
    return metrics
