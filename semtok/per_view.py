"""Views in one place: a quantizer sees one matrix, and this applies it to each view and puts the codes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semtok.codes import ItemCodes
from semtok.content.rows import Rows, check_finite
from semtok.tokenizer import ItemTokenizer

__all__ = ["PerViewTokenizer"]

Encoder = Callable[[Tensor], Any]
"""Codes [n, l] (tensor or array) of checked rows [n, d] of one view."""


class PerViewTokenizer(ItemTokenizer):
    """A tokenizer that quantizes each view on its own, chunk by chunk, on the device that the vectors are on.

    A subclass says for ONE view how it is fitted (a function for ``_fit_views``), how its rows are encoded
    (``_view_encoder``), what its codes stand for (``_view_decoded``) and what they cost (``_view_costs``).
    """

    def _view_encoder(self, name: str, device: torch.device) -> Encoder:
        """Function that gives the codes of checked rows of a view that lie on that device."""
        raise NotImplementedError

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Vectors [n, d] of a view that its checked codes [n, l] stand for (or one [d] for all)."""
        raise NotImplementedError

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Costs [n, K] of the codes of one level of a view: float32 points [n, d], codes [n, l]."""
        raise NotImplementedError

    def _fit_views(self, fit_view: Callable[[str, slice, int], list[int]]) -> None:
        """Fit one view after the other and lay out their code columns.

        Parameters
        ----------
        fit_view : callable
            ``fit_view(name, columns, seed)`` fits a view and gives the codes of each of its levels. Every view has a
            seed of its own: else views that are alike would start alike.
        """
        sizes: list[int] = []
        blocks = {}
        for number, (name, part) in enumerate(self.views_.items()):
            own = fit_view(name, part, self.seed + number)
            blocks[name] = slice(len(sizes), len(sizes) + len(own))
            sizes += own
        self.sizes_, self.blocks_ = sizes, blocks

    def _unused(self, sample: Tensor) -> list[int]:
        """Codes of each column that no row of a sample [n, D] has."""
        codes = self._chunk_codes(sample, self._encoders(sample.device))
        counts = [np.bincount(column, minlength=size) for column, size in zip(codes.T, self.sizes_, strict=True)]
        return [int((count == 0).sum()) for count in counts]

    def _encoders(self, device: torch.device) -> dict[str, Encoder]:
        return {name: self._view_encoder(name, device) for name in self.views_}

    def _encoded(self, rows: Rows, encoders: Mapping[str, Encoder]) -> np.ndarray:
        codes = np.empty((len(rows), len(self.sizes_)), dtype=np.int32)
        for lo, chunk in rows.chunks():
            check_finite(chunk, lo, self.views_)
            codes[lo : lo + len(chunk)] = self._chunk_codes(chunk, encoders)
        return codes

    def _chunk_codes(self, chunk: Tensor, encoders: Mapping[str, Encoder]) -> np.ndarray:
        codes = np.empty((len(chunk), len(self.sizes_)), dtype=np.int32)
        # Of one chunk, not of all rows: rows in files are read once for all views.
        for name, part in self.views_.items():
            found = encoders[name](chunk[:, part])
            codes[:, self.blocks_[name]] = found.int().cpu().numpy() if isinstance(found, Tensor) else found
        return codes

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Memory-mapped arrays and rows in files are streamed; tensors are encoded on their device.

        Returns
        -------
        int32 array [N, L]

        Raises
        ------
        ValueError
            If this is not fitted, or the vectors have another width or NaN or infinite entries.
        """
        self._check_fitted()
        rows = Rows(self, X, reset=False)
        return self._encoded(rows, self._encoders(rows.device))

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: float32 [N, D], zero in columns of no view.

        Parameters
        ----------
        codes : array of int [N, L]

        Raises
        ------
        ValueError
            If this is not fitted, or codes have another number of levels or are out of range.
        """
        self._check_fitted()
        table = ItemCodes(np.asarray(codes), tuple(self.sizes_), np.arange(len(codes))).codes
        vectors = np.zeros((len(table), self.n_features_in_), dtype=np.float32)
        for name, part in self.views_.items():
            vectors[:, part] = self._view_decoded(name, table[:, self.blocks_[name]])
        return vectors

    def costs(self, X: Any, codes: Any, level: int) -> np.ndarray:
        """See :meth:`ItemTokenizer.costs`; each code column costs in the columns of its own view."""
        self._check_fitted()
        level = range(len(self.sizes_))[level]
        name, own = next((name, own) for name, own in self.blocks_.items() if own.start <= level < own.stop)
        points = np.asarray(X, dtype=np.float32)[:, self.views_[name]]
        return self._view_costs(name, points, np.asarray(codes)[:, own], level - own.start)
