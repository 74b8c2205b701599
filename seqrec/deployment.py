"""Serving without this toolkit's training code: a faiss index of the items, and the whole scorer as ONNX.

An exported folder is a run folder with two more files: ``items.faiss`` answers user vectors with items, ``scorer.onnx``
maps histories to scores of all items and needs ONNX Runtime and NumPy alone.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recbase.recommender import Recommendations

if TYPE_CHECKING:
    from recbase.sequences import Histories

__all__ = ["FaissItems", "OnnxScorer", "write_faiss", "write_onnx"]

FAISS_FILE = "items.faiss"
ONNX_FILE = "scorer.onnx"

_EXTRA = {"faiss": "faiss", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}


def _module(name: str) -> Any:
    """A package of an extra; ImportError, naming the extra, if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs the package {name}: pip install 'semtok[{_EXTRA[name]}]'") from error


# --------------------------------------------------------------------------------------- faiss


def write_faiss(model: Any, factory: str = "Flat") -> Callable[[Path], None]:
    """A function that writes the index of a model's item vectors, by inner product.

    Parameters
    ----------
    model : module
        Has ``item_vectors()`` and ``user_vectors(items, lengths)``.
    factory : str, default "Flat"
        Description of the index as faiss's ``index_factory`` takes it; Flat is exact.

    Raises
    ------
    ImportError
        If faiss is missing, naming the extra.
    ValueError
        If the model has no such vectors, or faiss does not know the description.
    """
    faiss = _module("faiss")
    if not (hasattr(model, "item_vectors") and hasattr(model, "user_vectors")):
        raise ValueError(f"{type(model).__name__} has no user and item vectors to search by inner product")
    vectors = np.ascontiguousarray(model.item_vectors().detach().cpu().float().numpy())
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"faiss cannot make an index {factory!r}: {str(error).splitlines()[-1]}") from error
    index.train(vectors)
    index.add(vectors)
    content = faiss.serialize_index(index).tobytes()

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


class FaissItems:
    """An exported index of items.

    Parameters
    ----------
    path : Path
        File written by :func:`write_faiss`.
    """

    def __init__(self, path: Path) -> None:
        self.index = _module("faiss").read_index(str(path))
        self.n_items = int(self.index.ntotal)

    @torch.no_grad()
    def topk(self, model: Any, histories: Histories, k: int, mask_seen: bool) -> Recommendations:
        """The ``k`` best items of each history.

        Parameters
        ----------
        model : module
            Makes the user vectors.
        histories : Histories
        k : int
        mask_seen : bool
            Leave out the items of the history.
        """
        items, lengths = (torch.from_numpy(part) for part in histories.padded(slice(None), model.scorer().max_len))
        device = next(model.parameters()).device
        vectors = model.eval().user_vectors(items.to(device), lengths.to(device)).float().cpu().numpy()
        wanted = k + (int(histories.lengths.max(initial=0)) if mask_seen else 0)
        scores, rows = self.index.search(np.ascontiguousarray(vectors), min(wanted, self.n_items))
        found, values = np.full((len(rows), k), -1, dtype=np.int64), np.full((len(rows), k), -np.inf, dtype=np.float32)
        for user, (row, score) in enumerate(zip(rows, scores, strict=True)):
            kept = row >= 0
            if mask_seen:
                kept &= ~np.isin(row + 1, histories[user])
            best = np.flatnonzero(kept)[:k]
            found[user, : len(best)], values[user, : len(best)] = row[best] + 1, score[best]
        return Recommendations(found, values)


# --------------------------------------------------------------------------------------- ONNX


class _Scores(nn.Module):
    """A model's scorer as a module: items int64 [B, T], lengths int64 [B] -> scores float32 [B, N]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.scorer = model, model.scorer()

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self.scorer(items, lengths)
        return scores


def write_onnx(model: Any) -> Callable[[Path], None]:
    """A function that writes a model's scorer as ONNX: inputs ``items`` and ``lengths``, output ``scores``.

    Histories are padded on the right with 0. The batch is free; so is the length, up to ``max_len`` (kept in the file's
    metadata), unless the model's ``onnx_length`` is "fixed": then histories are padded to ``max_len``.

    Raises
    ------
    ImportError
        If a package is missing, naming the extra.
    ValueError
        If the model computes something that ONNX cannot express.
    """
    for package in ("onnx", "onnxscript"):
        _module(package)
    scores = _Scores(model).eval()
    longest, free = scores.scorer.max_len, getattr(model, "onnx_length", "free") == "free"
    free = free and longest > 2  # the example must be shorter than the longest, or its length would be fixed
    device = next(model.parameters()).device
    width = longest - 1 if free else longest
    items = torch.ones(3, width, dtype=torch.int64, device=device)
    lengths = torch.full((3,), width, dtype=torch.int64, device=device)
    lengths[0] = 1
    items[0, 1:] = 0
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=longest) if free else None
    shapes = {"items": {0: batch, 1: length}, "lengths": {0: batch}}
    level = logging.getLogger("torch.onnx").level
    try:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                scores,
                (items, lengths),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["items", "lengths"],
                output_names=["scores"],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"{type(model).__name__} computes something that ONNX cannot express") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    program.model.metadata_props.update({"max_len": str(longest), "n_items": str(scores.scorer.n_items)})
    return lambda path: program.save(str(path))


class OnnxScorer:
    """A scorer read from an ONNX file; it satisfies `recbase.recommender.Scorer`.

    Parameters
    ----------
    path : Path
        File written by :func:`write_onnx`.
    """

    def __init__(self, path: Path) -> None:
        self.session = _module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        facts = self.session.get_modelmeta().custom_metadata_map
        self.n_items, self.max_len = int(facts["n_items"]), int(facts["max_len"])
        self.fixed = isinstance(self.session.get_inputs()[0].shape[1], int)

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        numbers = items.cpu().numpy()
        if self.fixed:
            numbers = np.pad(numbers, ((0, 0), (0, self.max_len - numbers.shape[1])))
        (scores,) = self.session.run(["scores"], {"items": numbers, "lengths": lengths.cpu().numpy()})
        return torch.from_numpy(scores)
