"""Run folders: a trained recommender, what it was trained on and what it reached, complete and movable.

The manifest is ``config.json``. A run is rebuilt from a registry that the caller hands in, so that a file never names
code to be imported. Knows nothing of particular models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbase.checkpoints import (
    FileContent,
    Folder,
    check_replaceable,
    consistent,
    load_arrays,
    open_folder,
    save_folder,
    tensor_bytes,
)

__all__ = ["KIND", "MANIFEST", "Run", "check_run_folder", "load_run", "resolve", "save_run"]

MANIFEST = "config.json"
KIND = "run"


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
        ``item_id`` and ``title``; item number i is row i - 1.
    """

    folder: Folder
    model: Any
    items: pl.DataFrame

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest: model, arguments, data set, protocol, recipe."""
        return self.folder.manifest

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        content: dict[str, Any] = json.loads(self.folder.file("metrics.json").read_text(encoding="utf-8"))
        return content


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
        The catalogue in the order of item numbers; ``item_id`` and, where there is one, ``title`` are kept.
    manifest : mapping
        What else the manifest records.
    files : mapping, optional
        More files, such as ``metrics.json`` and ``ranks.parquet``.
    """
    columns = [column for column in ("item_id", "title") if column in items.columns]
    tensors = model.tensors() if hasattr(model, "tensors") else dict(model.state_dict())
    content: dict[str, FileContent] = {
        "model.safetensors": tensor_bytes(tensors),
        "items.parquet": lambda path: items.select(columns).write_parquet(path),
    }
    if hasattr(model, "item_vectors"):
        vectors = model.item_vectors().detach().cpu().numpy().astype(np.float32)
        content["item_vectors.safetensors"] = tensor_bytes({"item_vectors": vectors})
    body = {"model": name, "arguments": model.config()} | dict(manifest)
    return save_folder(folder, MANIFEST, KIND, body, content | dict(files or {}))


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
    opened = open_folder(Path(folder), MANIFEST, KIND)
    model = resolve(opened.manifest["model"], registry)(**opened.manifest["arguments"])
    tensors = load_arrays(opened.file("model.safetensors"))
    if hasattr(model, "tensors"):
        model.load(tensors)
    else:
        import torch

        try:
            model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the weights in {folder} do not fit its arguments: {reason}") from error
        model.eval()
    return Run(opened, model, pl.read_parquet(opened.file("items.parquet")))
