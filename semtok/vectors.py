"""Vectors and settings as tokenizers take them: checked, and read in chunks of float32 on the device that computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import Tensor

__all__ = ["ONE_VIEW", "Rows", "check_count", "check_finite", "checked_views"]

ONE_VIEW = "item"  # the view of vectors that were given without views
_CHUNK_VALUES = 1 << 22  # vector entries held at a time while streaming: 16 MiB


class Rows:
    """Checked vectors, read in chunks.

    Parameters
    ----------
    owner : estimator
        The tokenizer, as scikit-learn's ``validate_data`` takes it; its ``device`` is used if set, else that of ``X``.
    X : array, DataFrame or Tensor [N, D]
        Vectors in memory, memory-mapped, or rows in files (``streams``).
    reset : bool
        Whether the owner learns the number and names of features, or checks them.

    Raises
    ------
    ValueError
        Not two-dimensional, complex, empty, or not the features that the owner was fitted on.
    """

    def __init__(self, owner: Any, X: Any, reset: bool) -> None:
        if isinstance(X, Tensor):
            X = X.detach()
            if X.ndim != 2:
                raise ValueError(f"X has shape {tuple(X.shape)}; expected two dimensions, items and features")
            if X.is_complex() or not len(X) or not X.shape[1]:
                raise ValueError(f"X has shape {tuple(X.shape)} and dtype {X.dtype}; expected real, non-empty vectors")
            validate_data(owner, X, reset=reset, skip_check_array=True)
        elif getattr(X, "streams", False):  # rows in files: float32 [N, D], read where it is indexed
            if not len(X):
                raise ValueError(f"X has shape {tuple(X.shape)}; expected one or more rows")
            validate_data(owner, X, reset=reset, skip_check_array=True)
        else:
            names = X if hasattr(X, "columns") else None
            X = check_array(X, dtype="numeric", ensure_all_finite=False, estimator=owner, input_name="X")
            validate_data(owner, X if names is None else names, reset=reset, skip_check_array=True)
        self.X = X
        self.width = int(X.shape[1])
        self.device = torch.device(owner.device or (X.device if isinstance(X, Tensor) else "cpu"))

    def __len__(self) -> int:
        return len(self.X)

    def _floats(self, part: Any) -> Tensor:
        if isinstance(part, Tensor):
            return part.to(self.device, torch.float32)
        with np.errstate(over="ignore"):
            part = np.ascontiguousarray(part, dtype=np.float32)
        return torch.from_numpy(part if part.flags.writeable else part.copy()).to(self.device)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and content of each chunk."""
        step = max(256, _CHUNK_VALUES // self.width)
        for lo in range(0, len(self), step):
            yield lo, self._floats(self.X[lo : lo + step])

    def sample(self, limit: int | None, count: int, seed: int) -> Tensor:
        """All rows, or ``limit * count`` of them drawn without replacement, in their order."""
        if limit is None or len(self) <= limit * count:
            return self._floats(self.X[:])
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), size=limit * count, replace=False))
        index = torch.from_numpy(chosen).to(self.X.device) if isinstance(self.X, Tensor) else chosen
        return self._floats(self.X[index])


def check_finite(chunk: Tensor, first: int, views: Mapping[str, slice]) -> None:
    """Raise ValueError naming view, row and column of the first NaN or infinite entry; ``first`` is the chunk's row."""
    if bool(torch.isfinite(chunk.sum(dtype=torch.float64))):
        return
    row, column = (~torch.isfinite(chunk)).nonzero()[0].tolist()
    named = [name for name, part in views.items() if part.start <= column < part.stop]
    where = f"view {named[0]!r}, " if named and list(views) != [ONE_VIEW] else ""
    raise ValueError(
        f"X has a NaN or infinite (inf) entry in {where}row {first + row}, column {column}: every entry must be finite"
    )


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not an integer of at least {least}")


def checked_views(views: Mapping[str, slice] | None, width: int) -> dict[str, slice]:
    """Column ranges of the views with both ends; the one view ``item`` if None. ValueError beyond ``width`` columns."""
    if views is None:
        return {ONE_VIEW: slice(0, width)}
    if not views:
        raise ValueError("views is empty: name at least one view, or leave views out")
    checked = {}
    for name, part in views.items():
        lo, hi = part.start or 0, width if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= lo < hi <= width:
            raise ValueError(f"view {name!r} is columns {lo} to {hi} but X has columns 0 to {width}")
        checked[str(name)] = slice(int(lo), int(hi))
    return checked
