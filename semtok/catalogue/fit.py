"""From vectors to the codes of a catalogue: what a method's fit is given, unique codes, quality, the tokenizer folder.

Lays the views of the embeddings out as a method wants them, reads or makes what else it learns from, fits, makes the
codes unique and measures them. Knows no method by name: classes say what they need (see ``ItemTokenizer``).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbase.data.sequences import Histories
from recbase.store.folder import FileContent, consistent, tensor_bytes
from semtok.catalogue.append import ERRORS_FILE, error_sample
from semtok.codes import ItemCodes
from semtok.content.arrange import Layout, arrangement_for, lay_out
from semtok.content.embed import load_vectors
from semtok.content.embeddings import Embeddings, load_embeddings
from semtok.quality import code_report

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset
    from semtok.content.shards import ShardedEmbeddings

__all__ = [
    "FittedCodes",
    "decoded_from",
    "fit_codes",
    "load_collaborative",
    "popularity_of",
]

_REPORTED_ROWS = 50_000  # of sharded vectors, on which reconstruction and neighbours are measured


@dataclass(frozen=True)
class FittedCodes:
    """A fitted tokenizer, the codes of its catalogue, and what is known of them."""

    tokenizer: Any
    codes: ItemCodes
    report: dict[str, Any]
    made_from: dict[str, Any]
    unique: str
    errors: np.ndarray | None = None  # how far items are from their codes, for the drift of items appended later
    embeddings: Embeddings | None = None  # what the vectors came from, where they are one array

    def save(self, folder: str | os.PathLike[str], carry: bool = True) -> None:
        """Write the tokenizer folder with its codes and ``report.json``; see ``ItemTokenizer.save``.

        With ``carry`` it also holds the rules by which the content of new items becomes vectors (words and directions
        of TF-IDF, PCA, name and revision of an encoder), so that it encodes them wherever it is moved.
        """
        files: dict[str, FileContent] = {"report.json": json.dumps(self.report, indent=1).encode()}
        if carry and self.embeddings is not None:
            files |= self.embeddings.carried()
        if self.errors is not None:
            files[ERRORS_FILE] = tensor_bytes({"errors": self.errors})
        self.tokenizer.save(
            folder,
            self.codes,
            unique=self.unique,
            resolving=self.report.get("resolving"),
            made_from=self.made_from,
            files=files,
        )


def decoded_from(tokenizer: Any, codes: ItemCodes) -> np.ndarray | None:
    """Vectors that codes stand for, float32 [N, D], or None where the method has none like those it is given.

    Levels that were added to tell items apart are left out.
    """
    try:
        found: np.ndarray = tokenizer.decode(codes.codes[:, : len(tokenizer.sizes_)])
    except NotImplementedError:
        return None
    return found if found.shape[1] == tokenizer.n_features_in_ else None


def popularity_of(train: Histories, n_items: int) -> np.ndarray:
    """Training events of each item: int64 [N], row i - 1 being item number i."""
    return np.bincount(train.flat()[0], minlength=n_items + 1)[1:]


@consistent
def load_collaborative(path: str | os.PathLike[str], item_ids: Any) -> np.ndarray:
    """Item vectors learned from behaviour, in the order of ``item_ids``.

    Parameters
    ----------
    path : path
        A run folder with ``item_vectors.safetensors`` (any trained recommender that scores from a table, or what
        ``seqrec export`` wrote), an embeddings folder (its view "collaborative", or the only one), or a file of vectors
        (.npy, .safetensors) whose rows are the items.
    item_ids : array of str or int [N]

    Returns
    -------
    float32 array [N, D]

    Raises
    ------
    FileNotFoundError
        If there is nothing there.
    ValueError
        If it holds no item vectors, or those of other items.
    """
    path = Path(path)
    wanted = np.asarray(item_ids)
    if path.suffix in {".npy", ".safetensors"}:
        found = _one_of(load_vectors(path), path)
        if len(found) != len(wanted):
            raise ValueError(f"{path} has vectors of {len(found)} items but the data has {len(wanted)}")
        return np.ascontiguousarray(found, dtype=np.float32)
    if (path / "embeddings.json").is_file():
        return _one_of(load_embeddings(path).align(wanted).views, path)
    from recbase.store.runs import open_run, read_item_vectors, read_items

    opened = open_run(path)
    vectors = read_item_vectors(opened)
    ids = read_items(opened)["item_id"].to_list()
    return Embeddings({"collaborative": vectors}, {}, np.asarray(ids)).align(wanted).views["collaborative"]


def _one_of(views: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    if len(views) > 1 and "collaborative" not in views:
        raise ValueError(f"{path} holds {', '.join(views)}; expected one array, or one called collaborative")
    return views["collaborative"] if "collaborative" in views else next(iter(views.values()))


def fit_codes(
    tokenizer: Any,
    embeddings: Embeddings | ShardedEmbeddings,
    *,
    dataset: Dataset | None = None,
    views: Sequence[str] | None = None,
    per_view: bool | None = None,
    collaborative: str | os.PathLike[str] | np.ndarray | None = None,
    unique: str | None = None,
    seed: int = 0,
    engine: str = "local",
    made_from: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> FittedCodes:
    """Fit a tokenizer on embeddings and give every item its codes.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Not fitted yet.
    embeddings : Embeddings or ShardedEmbeddings
        Vectors of the items, in the order of the data set's item numbers where there is one. Shards are streamed by the
        methods that can; their reconstruction is measured on a sample.
    dataset : Dataset or None, default None
        Behaviour (its training part alone) for methods that learn from it, popularity for making codes unique, and
        categories for the report.
    views : sequence of str or None, default None
        Which views; all if None.
    per_view : bool or None, default None
        Codes for each view on its own, or for all in one; as the method wants it if None.
    collaborative : path, float32 array [N, Dc] or None, default None
        Item vectors learned from behaviour, for methods that want them; made from ``dataset`` if None.
    unique : str or None, default None
        How codes are made unique; the method's own way if None.
    seed : int, default 0
        Seed of making codes unique and of the report.
    engine : {"local", "ray"}, default "local"
        Where shards are encoded; see `semtok.catalogue.encode_shards.encode_shards`.
    made_from : mapping or None, default None
        More entries for the manifest.
    quiet : bool, default False
        No progress bars.

    Raises
    ------
    ValueError
        If a method needs behaviour and neither a data set nor its vectors are given, or the parts do not belong
        together, or codes cannot be made unique.
    """
    started = time.perf_counter()
    layout = lay_out(embeddings, arrangement_for(tokenizer, per_view), views, tokenizer.modalities)
    if dataset is not None and len(dataset.items) != len(embeddings):
        raise ValueError(f"the embeddings are of {len(embeddings)} items but {dataset.name} has {len(dataset.items)}")
    train = None if dataset is None else dataset.split().train
    inputs, used = _inputs(tokenizer, layout, embeddings, train, collaborative)
    prepared = time.perf_counter()
    tokenizer.fit(layout.matrix, views=layout.columns, **inputs)
    fitted = time.perf_counter()
    origin = {
        "embeddings": embeddings.hash,
        "views": list(layout.views),
        "arrangement": layout.arrangement,
        "modalities": list(tokenizer.modalities),
        "joined": layout.arrangement != "views",
        "dataset": embeddings.manifest.get("dataset"),
    }
    codes = _encoded(tokenizer, embeddings, layout, origin, engine, quiet)
    encoded = time.perf_counter()
    policy = tokenizer.default_unique if unique is None else unique
    popularity = None if train is None else popularity_of(train, len(embeddings))
    resolved, resolving = _resolved(tokenizer, codes, layout.matrix, policy, popularity, seed)
    categories = None
    if dataset is not None:
        from semtok.quality import category_columns

        categories = category_columns(dataset.items)
    report = _quality(tokenizer, resolved, layout, categories, seed)
    if policy != "none":
        report |= {"before": _quality(tokenizer, codes, layout, None, seed), "resolving": resolving}
    if getattr(tokenizer, "history_", None):
        report["training"] = tokenizer.history_
    report["unique"] = policy
    report["seconds"] = {
        "inputs": prepared - started,
        "fit": fitted - prepared,
        "encode": encoded - fitted,
        "unique and report": time.perf_counter() - encoded,
    }
    errors = error_sample(tokenizer, layout.matrix, codes, seed)
    made_of = embeddings if isinstance(embeddings, Embeddings) else None
    return FittedCodes(tokenizer, resolved, report, origin | used | dict(made_from or {}), policy, errors, made_of)


def _encoded(
    tokenizer: Any,
    embeddings: Embeddings | ShardedEmbeddings,
    layout: Layout,
    origin: Mapping[str, Any],
    engine: str,
    quiet: bool,
) -> ItemCodes:
    from semtok.tokenizer import ItemTokenizer

    one_array = isinstance(embeddings, Embeddings)
    together = type(tokenizer).item_codes is not ItemTokenizer.item_codes  # an item's codes depend on other items
    if (one_array or together) and engine != "local":
        why = "these embeddings are one array" if one_array else f"{tokenizer.method} looks at all items together"
        raise ValueError(f"engine={engine!r} encodes shards one by one, but {why}: leave it out")
    if isinstance(embeddings, Embeddings) or together:
        found: ItemCodes = tokenizer.item_codes(layout.matrix, embeddings.item_ids)
        return found
    from semtok.catalogue.encode_shards import encode_shards

    codes = encode_shards(tokenizer, embeddings, origin, engine=engine, quiet=quiet)
    assert codes is not None
    return ItemCodes(codes, tuple(tokenizer.sizes_), embeddings.item_ids, dict(tokenizer.blocks_))


def _quality(
    tokenizer: Any, codes: ItemCodes, layout: Layout, categories: Mapping[str, Sequence[Any]] | None, seed: int
) -> dict[str, Any]:
    if isinstance(layout.matrix, np.ndarray):
        decoded = decoded_from(tokenizer, codes)
        return code_report(codes, layout.matrix, decoded, layout.columns, categories, seed=seed)
    rows = np.arange(len(codes))
    if len(rows) > _REPORTED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), _REPORTED_ROWS, replace=False))
    some = ItemCodes(codes.codes[rows], codes.sizes, codes.item_ids[rows], codes.blocks)
    measured = code_report(some, layout.matrix[rows], decoded_from(tokenizer, some), layout.columns, seed=seed)
    report = code_report(codes, categories=categories, seed=seed)
    report |= {name: measured[name] for name in ("reconstruction", "neighbours") if name in measured}
    return report | {"measured_rows": len(rows)}


def _inputs(
    tokenizer: Any,
    layout: Layout,
    embeddings: Embeddings | ShardedEmbeddings,
    train: Histories | None,
    collaborative: str | os.PathLike[str] | np.ndarray | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of the method's fit besides vectors, and what the manifest says of them."""
    inputs: dict[str, Any] = {}
    used: dict[str, Any] = {}
    for name in tokenizer.inputs:
        if name == "missing":
            inputs[name] = layout.missing
        elif name == "collaborative" and collaborative is not None:
            if isinstance(collaborative, np.ndarray):
                inputs[name] = collaborative
            else:
                inputs[name] = load_collaborative(collaborative, embeddings.item_ids)
                used["collaborative"] = str(collaborative)
        elif name in ("collaborative", "sequences"):
            if train is None:
                raise ValueError(
                    f"{tokenizer.method} learns from behaviour: give the data set of these vectors (--data)"
                    + (" or item vectors (--collaborative)" if tokenizer.inputs == ("collaborative",) else "")
                )
            if name == "sequences":
                inputs[name] = train
            else:
                from semtok.content.collaborative import collaborative_vectors

                inputs[name] = collaborative_vectors(train, len(embeddings))
                used["collaborative"] = "co-occurrence in the training part"
        else:
            raise ValueError(f"{tokenizer.method} wants {name!r}; known: collaborative, sequences, missing")
    if collaborative is not None and "collaborative" not in tokenizer.inputs:
        raise ValueError(f"{tokenizer.method} does not read collaborative vectors; leave them out")
    return inputs, used


def _resolved(
    tokenizer: Any, codes: ItemCodes, matrix: Any, policy: str, popularity: np.ndarray | None, seed: int
) -> tuple[ItemCodes, dict[str, Any] | None]:
    if policy == "none":
        return codes, None
    from semtok.catalogue.unique import costs_of, make_unique

    costs = costs_of(tokenizer, matrix, codes)
    return make_unique(codes, policy, costs=costs, popularity=popularity, seed=seed)
