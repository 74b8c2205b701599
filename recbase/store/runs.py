"""Run folders: a trained recommender, what it was trained on and what it reached, complete and movable.

The manifest is ``config.json``. A run is rebuilt from a registry that the caller hands in, so that a file never names
code to be imported. Knows nothing of particular models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase.store.folder import (
    FileContent,
    Folder,
    check_replaceable,
    consistent,
    folder_lock,
    load_arrays,
    open_folder,
    save_folder,
    tensor_bytes,
)
from recbase.store.manifests import (
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    check,
    list_of,
    map_of,
    maybe,
    null_or,
    read_json,
    record,
    shown,
)
from recbase.store.restoring import Expected, build, check_arrays, load_weights, read_table

__all__ = [
    "KIND",
    "MANIFEST",
    "METRICS",
    "SCHEMA",
    "Run",
    "check_export",
    "check_run_folder",
    "load_run",
    "open_run",
    "read_item_vectors",
    "read_items",
    "read_metrics",
    "resolve",
    "save_export",
    "save_run",
]

MANIFEST = "config.json"
KIND = "run"
SCHEMA = record(
    {
        "model": maybe(TEXT),
        "arguments": maybe(OBJECT),
        "data": maybe(
            record(
                {
                    "name": TEXT,
                    "hash": TEXT,
                    "given": maybe(TEXT),
                    "users": maybe(COUNT),
                    "items": maybe(COUNT),
                    "repeats": maybe(NUMBER),
                }
            )
        ),
        "inputs": maybe(list_of(TEXT)),
        "attributes": maybe(list_of(TEXT)),
        "embeddings": maybe(TEXT),
        "codes": maybe(TEXT),
        "codes_folder": maybe(TEXT),
        "content": maybe(OBJECT),
        "preparation": maybe(OBJECT),
        "search": maybe(OBJECT),
        "recipe": maybe(null_or(TEXT)),
        "form": maybe(null_or(TEXT)),
        "split": maybe(TEXT),
        "final": maybe(OBJECT),
        "training": maybe(OBJECT),
        "exported_from": maybe(TEXT),
    }
)
"""Schema of ``config.json``; more entries may stand in it."""
_ITEM_COLUMNS = ("item_id", "title", "events")
_MODEL = record({"model": TEXT, "arguments": OBJECT})

METRICS = record(
    {
        "model": TEXT,
        "dataset": record({"name": TEXT, "hash": TEXT, "users": maybe(COUNT), "items": maybe(COUNT)}),
        "protocol": record({"seen_items": TEXT, "n_best": maybe(null_or(COUNT))}),
        "last_item_first": maybe(NUMBER),
        "valid": maybe(OBJECT),
        "test": maybe(map_of(NUMBER)),
        "test_kept": maybe(map_of(NUMBER)),
        "test_masked": maybe(map_of(NUMBER)),
    }
)
"""Schema of ``metrics.json``."""


@dataclass(frozen=True)
class Run:
    """A run folder opened for use.

    Attributes
    ----------
    folder : Folder
        The folder, its files and its manifest.
    model : object
        The model with its weights, in eval mode.
    items : polars.DataFrame [N]
        ``item_id`` and perhaps ``title`` and ``events``; item number i is row i - 1.
    """

    folder: Folder
    model: Any
    items: pl.DataFrame

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest: model, arguments, data set, protocol, recipe."""
        return self.folder.manifest

    @property
    def data(self) -> dict[str, Any]:
        """Name, hash and origin of the data set it was trained on; ValueError if the run does not record one."""
        if "data" not in self.manifest:
            raise ValueError(
                f"{self.folder.path} does not say what it was trained on; expected a run that a training wrote"
            )
        found: dict[str, Any] = self.manifest["data"]
        return found

    @property
    def recipe(self) -> str:
        """Recipe it was trained with; "none" where it was trained by no recipe."""
        return str(self.manifest.get("recipe", "default") or "none")

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``."""
        return read_metrics(self.folder)


def resolve(name: str, registry: Mapping[str, str], what: str = "model") -> Any:
    """The class that a registry of ``module:Class`` strings gives a name.

    Raises
    ------
    ValueError
        If the registry has no such name; the known ones are listed.
    """
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(registry))}")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)


def check_run_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that :func:`save_run` would refuse, before a training that takes hours.

    Raises
    ------
    ValueError
        If it is a file, or holds a ``config.json`` that is not of a run, such as that of a Hugging Face model.
    """
    check_replaceable(folder, MANIFEST, KIND)


def save_run(
    folder: str | os.PathLike[str],
    name: str,
    model: Any,
    items: pl.DataFrame,
    manifest: Mapping[str, Any],
    files: Mapping[str, FileContent] | None = None,
    plain: bool = False,
) -> Folder:
    """Write a run folder.

    Parameters
    ----------
    folder : path
    name : str
        The model's name in its registry.
    model : object
        A module with ``config()``, or a counting model with ``config()`` and ``tensors()``.
    items : polars.DataFrame [N]
        The catalogue in the order of item numbers; ``item_id`` and, where they are there, ``title`` and ``events`` (how
        often it occurs in training) are kept.
    manifest : mapping
        What else the manifest records.
    files : mapping, optional
        More files, such as ``metrics.json`` and ``ranks.parquet``.
    plain : bool, default False
        Call files by plain names, for exports that other programs read; see :func:`recbase.store.folder.save_folder`.
    """
    columns = [column for column in _ITEM_COLUMNS if column in items.columns]
    tensors = model.tensors() if hasattr(model, "tensors") else dict(model.state_dict())
    content: dict[str, FileContent] = {
        "model.safetensors": tensor_bytes(tensors),
        "items.parquet": lambda path: items.select(columns).write_parquet(path),
    }
    if hasattr(model, "item_vectors"):
        vectors = model.item_vectors().detach().cpu().numpy().astype(np.float32)
        content["item_vectors.safetensors"] = tensor_bytes({"item_vectors": vectors})
    body = {"model": name, "arguments": model.config()} | dict(manifest)
    return save_folder(folder, MANIFEST, KIND, body, content | dict(files or {}), plain=plain)


_EXPORTED = ("data", "split", "recipe", "form", "search", "final")


def check_export(out: str | os.PathLike[str]) -> None:
    """Refuse a folder whose run an export would replace: an export keeps no metrics.

    Raises
    ------
    ValueError
        If it holds a trained run, or anything else that is no export.
    """
    check_replaceable(out, MANIFEST, KIND)
    if (Path(out) / MANIFEST).is_file() and "exported_from" not in open_folder(out, MANIFEST, KIND).manifest:
        raise ValueError(f"{out} holds a trained run, which an export would replace: give another folder")


def save_export(
    run: Run, out: str | os.PathLike[str], name: str, model: Any, files: Mapping[str, FileContent]
) -> list[str]:
    """Write a run folder for deployment, whose files have plain names; those of its files.

    Parameters
    ----------
    run : Run
        Exported: its catalogue and what it was trained on go along.
    out : path
        A new folder, or an earlier export.
    name, model
        As `save_run` takes them.
    files : mapping
        More files.

    Raises
    ------
    ValueError
        See `check_export`.
    """
    body = {key: run.manifest[key] for key in _EXPORTED if key in run.manifest}
    body |= {"exported_from": run.manifest["model"]}
    with folder_lock(out, "exporting a run"):
        check_export(out)
        written = save_run(out, name, model, run.items, body, files, plain=True)
        if any(entry["file"] != file for file, entry in written.files.items()):
            # An older export stood here, whose names are free only now.
            written = save_run(out, name, model, run.items, body, files, plain=True)
    return sorted(written)


@consistent
def load_run(folder: str | os.PathLike[str], registry: Mapping[str, str]) -> Run:
    """Rebuild the model of a run folder.

    Parameters
    ----------
    folder : path
    registry : mapping
        Name to ``module:Class``.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If a part is damaged, or the model is not in the registry, or weights do not fit the arguments.
    """
    opened = open_run(folder)
    check(opened.path / MANIFEST, opened.manifest, _MODEL)
    path, name, arguments = opened.path / MANIFEST, opened.manifest["model"], opened.manifest["arguments"]
    if name not in registry:
        raise ValueError(f"{path}: 'model' is {shown(name)}, which is unknown; known: {', '.join(sorted(registry))}")
    kind, owner = resolve(name, registry), f"a {name}"
    items = read_items(opened)
    if (count := arguments.get("items", items.height)) != items.height:
        raise ValueError(
            f"{path}: 'arguments.items' is {shown(count)} but {opened.file('items.parquet')} has {items.height} rows"
        )
    if hasattr(kind, "check_saved"):
        try:
            kind.check_saved(arguments)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    weights = opened.file("model.safetensors")
    model = build(path, kind, arguments, owner, weights.stat().st_size)
    tensors = load_arrays(weights)
    if hasattr(model, "tensors"):
        if hasattr(model, "expected"):
            check_arrays(weights, tensors, model.expected(), owner)
        try:
            model.load(tensors)
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
    else:
        load_weights(weights, model, tensors, owner)
        model.eval()
    run = Run(opened, model, items)
    if hasattr(model, "remember"):
        model.remember(run)
    return run


def open_run(folder: str | os.PathLike[str]) -> Folder:
    """Open a run folder and check its manifest; nothing else is read.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If the manifest is damaged.
    """
    opened = open_folder(Path(folder), MANIFEST, KIND)
    check(opened.path / MANIFEST, opened.manifest, SCHEMA)
    return opened


def read_items(opened: Folder) -> pl.DataFrame:
    """Catalogue of an open run: ``item_id``, and ``title`` where there is one, in the order of item numbers.

    Raises
    ------
    ValueError
        If the table is damaged, or an id is missing or there twice.
    """
    return read_table(opened.file("items.parquet"), {"item_id": "id"}, distinct="item_id")


def read_item_vectors(opened: Folder) -> np.ndarray:
    """Item vectors of an open run, float32 [N, D], as many as its items.

    Raises
    ------
    ValueError
        If the run has none, or they are damaged or not those of its items.
    """
    if "item_vectors.safetensors" not in opened:
        raise ValueError(f"the run in {opened.path} has no item vectors: its model does not score from a table")
    path = opened.file("item_vectors.safetensors")
    arrays = load_arrays(path)
    rows = read_items(opened).height
    check_arrays(path, arrays, {"item_vectors": Expected((rows, None))}, "a run")
    return arrays["item_vectors"]


def read_metrics(opened: Folder) -> dict[str, Any]:
    """Content of ``metrics.json`` of an open run.

    Raises
    ------
    ValueError
        If the run has none, or it is damaged.
    """
    path = opened.file("metrics.json")
    content: dict[str, Any] = read_json(path)
    check(path, content, METRICS)
    return content
