"""Serving without this toolkit's training code: a faiss index of the items, and the whole scorer as ONNX.

Items that a model knows by codes alone are searched as they are; nothing is written for that.

An exported folder is a run folder with two more files: ``items.faiss`` answers user vectors with items, ``scorer.onnx``
maps histories to scores of all items and needs ONNX Runtime and NumPy alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recbase.evaluate.recommender import Recommendations
from recbase.serving.onnx import exported, need, open_session
from recbase.store.restoring import check_finite_array

if TYPE_CHECKING:
    from recbase.data.sequences import Histories

__all__ = ["CodedItems", "FaissItems", "OnnxScorer", "write_faiss", "write_onnx"]

FAISS_FILE = "items.faiss"
ONNX_FILE = "scorer.onnx"


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
        If the model has no such vectors, or faiss does not know the description, or such an index does not fit the
        items.
    """
    faiss = need("faiss")
    if not (hasattr(model, "item_vectors") and hasattr(model, "user_vectors")):
        raise ValueError(f"{type(model).__name__} has no user and item vectors to search by inner product")
    vectors = np.ascontiguousarray(model.item_vectors().detach().cpu().float().numpy())
    if not np.isfinite(vectors).all():
        raise ValueError("the item vectors hold NaN or infinity, so no index is made of them")
    if _ENDLESS.search(factory):
        raise ValueError(
            _does_not_fit(factory, vectors, "failed: a part of it has the number 0, or a graph one neighbour")
        )
    try:
        index = _trained(faiss, factory, vectors)
        content = faiss.serialize_index(index).tobytes()
    except (RuntimeError, MemoryError, OverflowError, TypeError, NotImplementedError) as error:
        raise ValueError(_does_not_fit(factory, vectors, str(error))) from error
    return lambda path: _write(path, content)


# With these faiss aborts the process (HNSW0), runs without end (HNSW1, NSG0) or answers every query alike (PCA0, SQ0).
_ENDLESS = re.compile(r"(?<!\d)0+(?!\d)|(?:HNSW|NSG)0*1(?!\d)", re.IGNORECASE)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _trained(faiss: Any, factory: str, vectors: np.ndarray) -> Any:
    """The index with all items in it, item i being number i - 1."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RuntimeError("failed: it cannot search by inner product")
    inner = index
    while inner is not None:
        if hasattr(inner, "do_polysemous_training"):
            # Minutes of annealing for a kind of search by Hamming distance that is not used here.
            inner.do_polysemous_training = False
        for part in (inner, getattr(inner, "pq", None)):
            if part is not None and hasattr(part, "cp"):
                part.cp.min_points_per_centroid = 1  # faiss writes of it to stderr itself, once a quantizer
        inner = faiss.downcast_index(inner.index) if hasattr(inner, "index") else None
    index.train(vectors)
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2):
        index.add_with_ids(vectors, np.arange(len(vectors)))
    else:
        index.add(vectors)
    return index


def _does_not_fit(factory: str, vectors: np.ndarray, said: str) -> str:
    """Sentence on an index that faiss refuses: which, why where faiss says it in words, and what fits."""
    count, width = vectors.shape
    reason = " ".join(said.rpartition("failed: ")[2].split()) if "failed: " in said else ""
    parts = [part for part in (2, 4, 8, 16, 32, 64) if width % part == 0]
    quantized = f", PQ<m> with an m that divides {width} ({', '.join(map(str, parts))})" if parts else ""
    few = "" if count >= 256 else ", with x4 behind it for fewer than 256 items"
    return (
        f"faiss cannot make the index {factory!r} of {count:,} vectors of {width} numbers"
        f"{f' ({reason[:150]})' if reason else ''}; what fits: Flat, HNSW32, IVF<n>,Flat with n of at most {count:,}"
        f"{quantized}{few}"
    )


class FaissItems:
    """An exported index of items.

    Parameters
    ----------
    path : Path
        File written by :func:`write_faiss`.
    items : int, optional
        Items that it must hold.

    Raises
    ------
    ValueError
        If the file is damaged, or an index of other items.
    """

    def __init__(self, path: Path, items: int | None = None) -> None:
        faiss, self.path = need("faiss"), path
        _check_index(path, items)
        try:
            self.index = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"{path} is not a readable faiss index: truncated or damaged") from error
        if self.index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"{path} searches by another measure than the inner product")
        self.n_items = int(self.index.ntotal)

    @torch.no_grad()
    def topk(
        self, model: Any, histories: Histories, k: int, mask_seen: bool, max_len: int | None = None
    ) -> Recommendations:
        """The ``k`` best items of each history.

        Parameters
        ----------
        model : module
            Makes the user vectors.
        histories : Histories
        k : int
        mask_seen : bool
            Leave out the items of the history.
        max_len : int, optional
            Longest history that is read; that of the model's scorer if not given.

        Raises
        ------
        ValueError
            If the index is of vectors of another width than the model's.
        """
        max_len = model.scorer().max_len if max_len is None else max_len
        items, lengths = (torch.from_numpy(part) for part in histories.padded(slice(None), max_len))
        device = next(model.parameters()).device
        vectors = model.eval().user_vectors(items.to(device), lengths.to(device)).float().cpu().numpy()
        if vectors.shape[1] != self.index.d:
            raise ValueError(
                f"{self.path} is an index of vectors of {self.index.d} numbers but the model's have {vectors.shape[1]}"
            )
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


_HEADER = struct.Struct("<4siqqqBi")  # kind, width, vectors, two of no use, whether it is trained, measure


def _check_index(path: Path, items: int | None) -> None:
    """Compare what an index says of itself with its size: faiss believes it, and allocates what it asks for."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise ValueError(f"{path} is not a readable faiss index: it has {size} bytes")
    kind, width, count, *_ = _HEADER.unpack(head)
    if items is not None and count != items:
        raise ValueError(f"{path} is an index of {count} items, the run has {items}")
    if not kind.isalnum() or not 0 < width < 1 << 20 or not 0 <= count <= size:
        raise ValueError(f"{path} is not a readable faiss index: truncated or damaged")
    if kind == b"IxFI":  # an exact index is nothing but its vectors, behind their number
        if size != _HEADER.size + 8 + 4 * width * count:
            raise ValueError(f"{path} has {size} bytes, which {count} vectors of width {width} do not fill")
        vectors = np.memmap(path, dtype="<f4", mode="r", offset=_HEADER.size + 8, shape=(count, width))
        check_finite_array(path, "vectors", vectors)


# ------------------------------------------------------------------------------------ item codes


class CodedItems:
    """Search over items that a model knows by codes alone: exact, and no vector of an item is made.

    Parameters
    ----------
    model : module
        Has ``user_vectors(items, lengths)``, ``item_codes()`` and ``code_scores(vectors)``: an item's score is the sum
        of what its codes score.

    Attributes
    ----------
    nbytes : int
        Memory of the codes and of the lists by code that are searched.

    Raises
    ------
    ValueError
        If scores of the model are not sums over codes.
    """

    def __init__(self, model: Any) -> None:
        from semtok.kernels.code_search import CodeSearch

        if not (hasattr(model, "item_codes") and hasattr(model, "code_scores")):
            raise ValueError(f"{type(model).__name__} has no item table of codes to search; sasrec-jpq has one")
        codes, sizes = model.item_codes()
        self.model, self.search = model.eval(), CodeSearch(codes, sizes)
        self.nbytes = self.search.nbytes

    @torch.no_grad()
    def topk(
        self, histories: Histories, k: int, mask_seen: bool, allowed: np.ndarray | None = None, batch: int = 256
    ) -> Recommendations:
        """The ``k`` best items of each history, equal scores by the smaller number.

        Parameters
        ----------
        histories : Histories
        k : int
        mask_seen : bool
            Leave out the items of the history.
        allowed : bool array [N], optional
            Items that may be recommended.
        batch : int, default 256
            Histories whose vectors are made together.
        """
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(histories), batch):
            rows = slice(start, min(start + batch, len(histories)))
            items, lengths = (torch.from_numpy(part) for part in histories.padded(rows, self.model.max_len))
            vectors = self.model.user_vectors(items.to(device), lengths.to(device)).float()
            scores = [part.cpu().numpy() for part in self.model.code_scores(vectors)]
            seen: Any = [histories[user] for user in range(rows.start, rows.stop)] if mask_seen else None
            found.append(self.search.search(scores, k, seen, allowed))
        if not found:
            return Recommendations(np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32))
        return Recommendations(
            np.concatenate([one.items for one in found]), np.concatenate([one.scores for one in found])
        )


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
    example = {"items": items, "lengths": lengths}
    program = exported(scores, example, shapes, ["scores"], type(model).__name__)
    program.model.metadata_props.update({"max_len": str(longest), "n_items": str(scores.scorer.n_items)})
    return lambda path: program.save(str(path))


class OnnxScorer:
    """A scorer read from an ONNX file; it satisfies `recbase.evaluate.recommender.Scorer`.

    Parameters
    ----------
    path : Path
        File written by :func:`write_onnx`.
    items : int, optional
        Items that it must score.

    Raises
    ------
    ValueError
        If the file is damaged, or scores other items.
    """

    def __init__(self, path: Path, items: int | None = None) -> None:
        self.path, self.session = path, open_session(path)
        facts = self.session.get_modelmeta().custom_metadata_map
        for name in ("n_items", "max_len"):
            if not re.fullmatch(r"[1-9]\d{0,8}", facts.get(name, "")):
                raise ValueError(f"{path} says {name}={facts.get(name)!r}, expected a whole number of at least 1")
        self.n_items, self.max_len = int(facts["n_items"]), int(facts["max_len"])
        if items is not None and self.n_items != items:
            raise ValueError(f"{path} scores {self.n_items} items, the run has {items}")
        given = {part.name: part for part in self.session.get_inputs()}
        shapes = {name: len(part.shape) for name, part in given.items()}
        if shapes != {"items": 2, "lengths": 1} or [part.name for part in self.session.get_outputs()] != ["scores"]:
            raise ValueError(f"{path} is no scorer: expected the inputs items and lengths and the output scores")
        self.fixed = isinstance(given["items"].shape[1], int)

    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        numbers = items.cpu().numpy()
        if self.fixed:
            numbers = np.pad(numbers, ((0, 0), (0, self.max_len - numbers.shape[1])))
        try:
            (scores,) = self.session.run(["scores"], {"items": numbers, "lengths": lengths.cpu().numpy()})
        except Exception as error:
            raise ValueError(
                f"{self.path} cannot score histories: it is damaged, or made by another version"
            ) from error
        if scores.shape != (len(numbers), self.n_items) or np.isnan(scores).any():
            raise ValueError(f"{self.path} answers with NaN or not with scores of {self.n_items} items: it is damaged")
        return torch.from_numpy(scores)
