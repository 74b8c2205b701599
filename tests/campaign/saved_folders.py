"""One saved folder of every kind, small: what the campaign of damaged artefacts takes apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import semtok
from recbase.data.dataset import Dataset
from recbase.data.interactions import order_events
from recbase.data.sequences import Histories, SequenceBatches
from recbase.evaluate.ranking import rank_targets
from recbase.evaluate.records import metrics_record, ranks_file
from recbase.store.runs import load_run, save_run
from recbase.train.loop import TrainConfig, fit
from semtok.catalogue.encode_shards import write_code_shards
from semtok.codes import ItemCodes
from semtok.content.embed import embed_dataset
from semtok.content.shards import ShardedEmbeddings, write_shard
from semtok.exchange.formats import write_codes
from semtok.registry import tokenizer_class

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "support"))
import small_models  # noqa: E402

ITEMS = small_models.ITEMS
IDS = np.array([f"i{number:02}" for number in range(ITEMS)])
SMALL: dict[str, dict[str, Any]] = {
    "pq": {"levels": 2, "codebook_size": 4},
    "opq": {"levels": 2, "codebook_size": 4, "engine": "torch", "rotation_steps": 2},
    "kmeans": {"codebook_size": 4},
    "rq": {"levels": 2, "codebook_size": 4},
    "hierarchical": {"codebook_size": 4},
    "lsh": {"levels": 2, "codebook_size": 4},
    "fsq": {"levels": 2, "cells": (2, 3)},
    "random": {"levels": 2, "codebook_size": 8},
    "rqvae": {"levels": 2, "codebook_size": 4, "latent_dim": 3, "hidden": (5,), "steps": 4, "batch_size": 16},
    "letter": {
        "levels": 2,
        "codebook_size": 4,
        "latent_dim": 3,
        "hidden": (5,),
        "steps": 4,
        "batch_size": 16,
        "groups": 2,
    },
    "cosette": {"levels": 2, "codebook_size": 4, "latent_dim": 3, "hidden": (5,), "steps": 4, "batch_size": 16},
    "behavior": {
        "levels": 2,
        "codebook_size": 4,
        "latent_dim": 4,
        "hidden": (5,),
        "steps": 4,
        "batch_size": 16,
        "inner_steps": 1,
        "heads": 2,
        "max_len": 5,
        "max_seconds": 60.0,
    },
}
"""Constructor arguments with which every method is fitted in less than a second."""


def vectors() -> np.ndarray:
    """Item vectors, float32 [N, 6]."""
    return np.random.default_rng(3).normal(size=(ITEMS, 6)).astype(np.float32)


def dataset() -> Dataset:
    """Histories of 20 users, with two text columns and image vectors."""
    histories = small_models.cycle(20)
    lengths = histories.lengths
    table = pl.DataFrame(
        {
            "user_id": np.repeat([f"u{user:02}" for user in range(len(lengths))], lengths),
            "item_id": IDS[histories.flat()[0] - 1],
            "position": np.concatenate([np.arange(length) for length in lengths]),
        }
    )
    items = pl.DataFrame(
        {
            "item_id": IDS,
            "title": [f"thing number {number}" for number in range(ITEMS)],
            "brand": [f"maker {number % 5}" for number in range(ITEMS)],
        }
    )
    images = np.random.default_rng(4).normal(size=(ITEMS, 3)).astype(np.float32)
    return Dataset.from_tables("small", order_events(table, "position"), items, {"source": {}}, images)


def save_dataset(folder: Path) -> None:
    """A data set."""
    dataset().save(folder)


def save_tokenizer(method: str, folder: Path) -> None:
    """A fitted tokenizer of a method, with codes of all items."""
    torch.manual_seed(0)
    made = tokenizer_class(method)(**SMALL[method])
    extra: dict[str, Any] = {}
    views: dict[str, slice] = {"title": slice(0, 4), "brand": slice(4, 6)}
    if method == "behavior":
        extra["sequences"], views = small_models.cycle(20), {"text": slice(0, 4), "image": slice(4, 6)}
        made.set_params(quiet=True)
    elif method == "letter":
        extra["collaborative"], views = vectors()[:, :3], {"item": slice(0, 6)}
        made.set_params(quiet=True)
    elif method == "cosette":
        extra["sequences"], views = small_models.cycle(20), {"item": slice(0, 6)}
        made.set_params(quiet=True)
    elif method == "rqvae":
        views = {"item": slice(0, 6)}
        made.set_params(quiet=True)
    made.fit(vectors(), views=views, **extra)
    made.save(folder, made.item_codes(vectors(), IDS), made_from={"embeddings": "0" * 64})


def save_seqrec(name: str, folder: Path) -> None:
    """A run of a ranking model, with metrics and ranks."""
    model = small_models.build(name)
    if hasattr(model, "eval"):
        model.eval()
    data = dataset()
    ranks = rank_targets(model.scorer(), small_models.targets())
    about = {"name": data.name, "hash": data.hash, "users": data.n_users, "items": data.n_items}
    metrics = metrics_record(name, about, {"split": "last", "seen_items": "kept"}, ranks)
    users = pl.Series([f"u{user}" for user in range(small_models.USERS)])
    files = {"metrics.json": json.dumps(metrics).encode(), "ranks.parquet": ranks_file(ranks, users)}
    body = {"data": about | {"given": "small"}, "split": "last", "recipe": "default", "form": "all"}
    save_run(folder, name, model, data.items, body, files)


def save_genrec(name: str, folder: Path) -> None:
    """A run of a generator."""
    sys.path.insert(0, str(TESTS / "genrec" / "models"))
    import test_models as generators

    model = generators.build(name).eval()
    table = pl.DataFrame({"item_id": IDS[: generators.ITEMS], "title": [f"t{n}" for n in range(generators.ITEMS)]})
    save_run(folder, name, model, table, {"recipe": "default"})


def save_checkpoint(folder: Path) -> None:
    """A training that ended after one of two epochs; ``folder`` holds the folder ``checkpoint``."""
    fit(checkpoint_model(), checkpoint_batches(), None, TrainConfig(epochs=1, patience=0, quiet=True), folder)


def checkpoint_model() -> Any:
    """The model that `save_checkpoint` trains, anew."""
    return small_models.build("bpr")


def checkpoint_batches() -> SequenceBatches:
    """Its batches."""
    return small_models.batches(checkpoint_model(), "all", Histories.from_lists([[1, 2, 3], [4, 5, 6], [7, 8, 9]]))


def save_export(folder: Path) -> None:
    """A deployed run, with the index and the scorer where their packages are installed."""
    from seqrec import MODELS
    from seqrec.serving import export_run

    save_seqrec("sasrec", folder.with_name(f"{folder.name}-source"))
    export_run(load_run(folder.with_name(f"{folder.name}-source"), MODELS), folder)


def save_embeddings(folder: Path) -> None:
    """TF-IDF of two views, whitened."""
    embed_dataset(dataset(), pca=4, out=folder, quiet=True)


def save_vector_shards(folder: Path) -> None:
    """Vectors in two shards."""
    for number, part in enumerate(np.array_split(np.arange(ITEMS), 2)):
        write_shard(folder, number, {"title": vectors()[part]}, part)


def save_code_shards(folder: Path) -> None:
    """Codes in two shards."""
    save_vector_shards(folder.with_name(f"{folder.name}-vectors"))
    codes = ItemCodes(np.arange(ITEMS * 2).reshape(ITEMS, 2) % 7, (7, 7), np.arange(ITEMS))
    write_code_shards(folder, codes, ShardedEmbeddings(folder.with_name(f"{folder.name}-vectors")))


def save_code_files(folder: Path) -> None:
    """The same codes in the formats of other projects."""
    codes = ItemCodes(np.arange(ITEMS * 2).reshape(ITEMS, 2) % 7, (7, 7), IDS)
    for name in ("index", "rpg", "ccfrec"):
        write_codes(codes, folder / f"{name}.json", name)
    write_codes(codes, folder / "table.parquet", "table")
    write_codes(codes, folder / "grid.safetensors", "grid")


def save_codes(folder: Path) -> None:
    """Codes without a tokenizer."""
    ItemCodes(np.arange(ITEMS * 2).reshape(ITEMS, 2) % 7, (7, 7), IDS).save(folder)


SEQREC = ("sasrec", "popularity", "transitions", "itemknn", "ccfrec", "gru4rec", "din", "fdsa")
GENREC = ("tiger", "prorec", "bbqrec", "eager", "marius")
FOLDERS: dict[str, Callable[[Path], None]] = {
    "dataset": save_dataset,
    "embeddings": save_embeddings,
    "codes": save_codes,
    "code-files": save_code_files,
    "code-shards": save_code_shards,
    "vector-shards": save_vector_shards,
    "checkpoint": save_checkpoint,
    "export": save_export,
    **{f"tokenizer-{name}": (lambda folder, name=name: save_tokenizer(name, folder)) for name in semtok.TOKENIZERS},
    **{f"run-{name}": (lambda folder, name=name: save_seqrec(name, folder)) for name in SEQREC},
    **{f"run-{name}": (lambda folder, name=name: save_genrec(name, folder)) for name in GENREC},
}
"""Name of each kind, and what writes one."""
