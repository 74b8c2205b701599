"""Behaviour-bound codes (BBQRec): one codebook a level for several streams. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from semtok.codecs.additive import CHUNK_ROWS, nearest_rows, squared_distances
from semtok.codecs.checks import checked_codes, checked_vectors
from semtok.codecs.drawn import row_keys

__all__ = ["Behavior"]


_NEIGHBOR_SCORES = 1 << 22  # distances of new items to known ones held at a time


class Behavior:
    """Behaviour-bound codes: text and image through their encoders, a row of its own for each item of the fit.

    Computed in float64, so that codes do not depend on how many items are encoded at a time, nor on the library that
    multiplies. ``streams`` names what is quantized, in the order of the code columns within a level.
    """

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.width = int(manifest["n_features"])
        self.sizes = [int(size) for size in manifest["sizes"]]
        self.views = {name: slice(*bounds) for name, bounds in manifest["views"].items()}
        self.streams = [str(name) for name in manifest["streams"]]
        self.neighbors = int(manifest["neighbors"])
        self.normalized = bool(manifest.get("normalized", False))
        self.arrays = arrays
        self.books = arrays["codebooks"].astype(np.float64)  # [1 or S, L, K, D]
        self.order = np.argsort(arrays["keys"], kind="stable")  # items of the fit by the key of their row
        self.keys = arrays["keys"][self.order]

    def encode(self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L S], level by level.

        ``item_rows`` int [N] says which item of the fit each is, -1 where none; by default they are recognized by their
        content. ``missing`` has masks bool [N] of the items that lack a view; by default those of the fit.
        """
        streams = self.represent(X, item_rows, missing)
        count = len(next(iter(streams.values())))
        codes = np.empty((count, len(self.sizes)), dtype=np.int32)
        for lo in range(0, count, CHUNK_ROWS):
            for stream, name in enumerate(self.streams):
                left = streams[name][lo : lo + CHUNK_ROWS].copy()
                for level, book in enumerate(self._books_of(stream)):
                    found = nearest_rows(left, book)
                    codes[lo : lo + len(left), level * len(self.streams) + stream] = found
                    left -= book[found]
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Quantized vectors of the streams side by side: [N, L S] to float32 [N, S D]."""
        table = checked_codes(codes, self.sizes)
        parts = []
        for stream in range(len(self.streams)):
            books = self._books_of(stream)
            found = np.zeros((len(table), books.shape[2]))
            for level, book in enumerate(books):
                found += book[table[:, level * len(self.streams) + stream]]
            parts.append(found.astype(np.float32))
        return np.concatenate(parts, axis=1)

    def represent(
        self, X: Any, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Vectors of each stream before they are quantized: float64 [N, D]. Arguments as in :meth:`encode`."""
        vectors = checked_vectors(X, self.width)
        rows = self._rows(vectors, item_rows)
        masks = {name: self._missing(name, rows, missing) for name in self.views}
        streams = self.aligned(vectors, masks)
        if "id" in self.streams:
            ids = self.arrays["ids"].astype(np.float64)[rows]
            new = np.flatnonzero(rows < 0)
            ids[new] = self.from_neighbors(np.concatenate([part[new] for part in streams.values()], axis=1))
            streams = {"id": self._standardized(ids)} | streams
        return streams

    def aligned(self, vectors: np.ndarray, missing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Behaviour-aligned vectors of text and image: [N, D_in] to float64 [N, D] each."""
        arrays, found = self.arrays, {}
        for name, part in self.views.items():
            depth = sum(key.startswith(f"{name}.weight.") for key in arrays)
            weights = [arrays[f"{name}.weight.{layer}"].astype(np.float64).T for layer in range(depth)]
            found[name] = np.empty((len(vectors), weights[-1].shape[1]))
            for lo in range(0, len(vectors), CHUNK_ROWS):
                x = (vectors[lo : lo + CHUNK_ROWS, part] - arrays[f"{name}.mean"]) / arrays[f"{name}.scale"]
                x = np.where(missing[name][lo : lo + CHUNK_ROWS, None], arrays[f"{name}.absent"], x).astype(np.float64)
                for layer, weight in enumerate(weights):
                    x = (x if layer == 0 else np.maximum(x, 0)) @ weight + arrays[f"{name}.bias.{layer}"]
                found[name][lo : lo + CHUNK_ROWS] = self._standardized(x)
        return found

    def _standardized(self, rows: np.ndarray) -> np.ndarray:
        """Rows with mean 0 and variance 1, as torch's layer norm makes them, where they were quantized so."""
        if not self.normalized:
            return rows
        centred_rows = rows - rows.mean(1, keepdims=True)
        standard: np.ndarray = centred_rows / np.sqrt(np.square(centred_rows).mean(1, keepdims=True) + 1e-5)
        return standard

    def from_neighbors(self, places: np.ndarray) -> np.ndarray:
        """Mean id row of the trained items nearest to each place: [N, sum of D] to float64 [N, D].

        Of items at equal distance (to seven digits) the first are taken.
        """
        trained = self.arrays["trained"]
        known = self.arrays["places"][trained].astype(np.float64)
        ids = self.arrays["ids"][trained].astype(np.float64)
        count = min(self.neighbors, len(known))
        step = max(16, _NEIGHBOR_SCORES // len(known))
        found = np.empty((len(places), ids.shape[1]))
        squares = np.square(known).sum(1)
        for lo in range(0, len(places), step):
            part = places[lo : lo + step].astype(np.float64)
            distances = (np.square(part).sum(1)[:, None] - 2 * part @ known.T + squares).astype(np.float32)
            limit = np.partition(distances, count - 1, axis=1)[:, count - 1, None]
            nearer, level = distances < limit, distances == limit
            room = count - nearer.sum(1, keepdims=True)
            chosen = nearer | (level & (level.cumsum(1) <= room))
            found[lo : lo + step] = chosen.astype(np.float64) @ ids / count
        return found

    def costs(
        self, X: Any, codes: Any, level: int, item_rows: Any = None, missing: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Squared distance between each item's stream and what it would be quantized to with each code of one column.

        Float32 [N, K]; the other codes of the stream stay as they are. Arguments as in :meth:`encode`.
        """
        table = np.asarray(codes)
        at, stream = divmod(range(len(self.sizes))[level], len(self.streams))
        left = self.represent(X, item_rows, missing)[self.streams[stream]].copy()
        books = self._books_of(stream)
        for other, book in enumerate(books):
            if other != at:
                left -= book[table[:, other * len(self.streams) + stream]]
        return squared_distances(left, books[at]).astype(np.float32)

    def _books_of(self, stream: int) -> np.ndarray:
        """Codebooks of a stream, [L, K, D]: its own, or those that all share."""
        found: np.ndarray = self.books[min(stream, len(self.books) - 1)]
        return found

    def _rows(self, vectors: np.ndarray, item_rows: Any) -> np.ndarray:
        """Item of the fit that each vector is, -1 where none: int64 [N]."""
        if item_rows is not None:
            rows = np.asarray(item_rows)
            fitted = len(self.keys)
            if rows.shape != (len(vectors),) or rows.dtype.kind not in "iu":
                raise ValueError(f"item_rows is {rows.dtype} of shape {rows.shape}; expected {len(vectors)} integers")
            if len(rows) and not -1 <= int(rows.min()) <= int(rows.max()) < fitted:
                strange = rows[(rows < -1) | (rows >= fitted)][0]
                raise ValueError(f"item_rows has {strange}; expected -1 (new) to {fitted - 1}, the items of the fit")
            return rows.astype(np.int64)
        keys = row_keys(vectors)
        if np.array_equal(keys, self.arrays["keys"]):
            return np.arange(len(keys))
        first, last = np.searchsorted(self.keys, keys, "left"), np.searchsorted(self.keys, keys, "right")
        return np.where(last - first == 1, self.order[np.minimum(first, len(self.order) - 1)], -1)

    def _missing(self, name: str, rows: np.ndarray, missing: Mapping[str, Any] | None) -> np.ndarray:
        """Marks of the items that lack a view: as given, else as in the fit. bool [N]."""
        if missing is None or name not in missing:
            return np.where(rows < 0, False, self.arrays[f"{name}.missing"][rows])
        mask = np.asarray(missing[name])
        if mask.shape != rows.shape or mask.dtype != bool:
            raise ValueError(f"missing[{name!r}] is {mask.dtype} of shape {mask.shape}; expected {len(rows)} bools")
        return mask
