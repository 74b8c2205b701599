"""Random codes: the control that says what codes are worth when they know nothing of the items.

Knows nothing of the vectors but their content as bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbase.arguments import CodebookSize, Device, Levels, Seed, check_arguments
from semtok.codecs.drawn import drawn_codes, row_keys
from semtok.content.rows import Rows, check_finite, checked_views
from semtok.per_view import PerViewTokenizer

__all__ = ["RandomCodes"]


class RandomCodes(PerViewTokenizer):
    """Codes drawn at random, each as likely as any other.

    An item's codes follow from the bits of its vector and the seed, so that the same vector always has the same codes,
    also one that was not seen while fitting; a vector that differs in the last digit has others.

    Parameters
    ----------
    levels : int, default 4
        Codes a view.
    codebook_size : int, default 256
        Codes of each level, K.
    seed : int, default 0
        Another seed, other codes.
    device : str or None, default None
        Accepted for the sake of uniformity; codes are computed on the CPU.

    Attributes
    ----------
    mean_ : float32 array [D]
        Mean of the vectors, which is what any codes are decoded to.

    Notes
    -----
    The control of the ablations of CCFRec (Liu et al., KDD 2025) and PRORec (2025), in which chance replaces the
    quantizer. Items may share codes; resolve them as those of any other tokenizer.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> RandomCodes(levels=2, codebook_size=8).fit(vectors).encode(vectors).shape
    (500, 2)
    """

    method = "random"
    program = "random"

    def __init__(
        self, *, levels: Levels = 4, codebook_size: CodebookSize = 256, seed: Seed = 0, device: Device | None = None
    ) -> None:
        self.levels = levels
        self.codebook_size = codebook_size
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any = None, views: Mapping[str, slice] | None = None) -> RandomCodes:
        """Compute the mean of the vectors; nothing else is learned.

        Parameters
        ----------
        X : array or tensor of float [N, D]
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, each with codes of its own; one view of all columns by default.

        Raises
        ------
        ValueError
            If a hyper-parameter or the vectors are unusable: not two-dimensional, NaN or infinite.
        """
        check_arguments(type(self), vars(self))
        rows = Rows(self, X, reset=True)
        self.views_ = checked_views(views, rows.width)
        total = np.zeros(rows.width)
        for lo, chunk in rows.chunks():
            check_finite(chunk, lo, self.views_)
            total += chunk.sum(0, dtype=torch.float64).cpu().numpy()
        self.mean_ = (total / len(rows)).astype(np.float32)
        self._fit_views(lambda name, part, seed: [int(self.codebook_size)] * self.levels)
        return self

    def _view_encoder(self, name: str, device: torch.device) -> Callable[[Tensor], np.ndarray]:
        sizes = self.sizes_[self.blocks_[name]]
        return lambda points: drawn_codes(row_keys(points.cpu().numpy()), sizes, self.seed)

    def _view_decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.mean_[self.views_[name]]  # the mean of all vectors, whatever the codes
        return found

    def _view_costs(self, name: str, points: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Distance to the mean, for every code."""
        squared = np.square(points - self.mean_[self.views_[name]]).sum(1)
        return np.repeat(squared[:, None], self.codebook_size, axis=1)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"mean": self.mean_}

    def _restore(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if "mean" not in arrays or arrays["mean"].shape != (self.n_features_in_,):
            raise ValueError(f"mean is missing or misshapen; the manifest expects {self.n_features_in_} columns")
        self.mean_ = arrays["mean"]
