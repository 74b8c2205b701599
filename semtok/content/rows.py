"""Vectors and settings as tokenizers take them: checked, and read in chunks of float32 on the device that computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import Tensor

from semtok.codecs.checks import LARGEST

__all__ = [
    "DOMINATION",
    "ONE_VIEW",
    "SMALLEST",
    "Rows",
    "check_finite",
    "check_peaks",
    "check_rows",
    "checked_views",
    "note_peaks",
    "warn_of_domination",
]

ONE_VIEW = "item"  # the view of vectors that were given without views
SMALLEST = 1e-15  # a view whose entries are all nearer to zero, but not all zero, is refused
DOMINATION = 0.999  # share of the variance of a view in one column from which a warning is given
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
        self.device = _device(owner.device or (X.device if isinstance(X, Tensor) else "cpu"))

    def __len__(self) -> int:
        return len(self.X)

    def _floats(self, part: Any) -> Tensor:
        if isinstance(part, Tensor):
            return part.to(self.device, torch.float32)
        given = part
        with np.errstate(over="ignore", under="ignore"):
            part = np.ascontiguousarray(given, dtype=np.float32)
        if part is not given and not part.any() and np.any(given):
            peak = float(np.abs(given).max())
            raise ValueError(f"X has no entry larger than {peak:.3g}, which float32 rounds to 0: multiply the vectors")
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
    """Raise ValueError naming view, row and column of the first NaN or infinite entry, or one of a hopeless scale.

    ``first`` is the chunk's row among all rows.
    """
    low, high = (float(end) for end in chunk.aminmax())
    if low >= -LARGEST and high <= LARGEST:  # False for NaN
        return
    known = torch.isfinite(chunk)
    wrong = ~known if not bool(known.all()) else chunk.abs() > LARGEST
    row, column = wrong.nonzero()[0].tolist()
    named = [name for name, part in views.items() if part.start <= column < part.stop]
    where = f"view {named[0]!r}, " if named and list(views) != [ONE_VIEW] else ""
    where += f"row {first + row}, column {column}"
    if not bool(known.all()):
        raise ValueError(f"X has a NaN or infinite (inf) entry in {where}: every entry must be finite in float32")
    raise ValueError(
        f"X has the entry {float(chunk[row, column]):.3g} in {where}: expected at most {LARGEST:g}, since squared "
        "distances of larger entries overflow float32; divide all vectors by one number"
    )


def check_rows(rows: Rows, views: Mapping[str, slice]) -> None:
    """Raise ValueError unless all rows are finite and each view has a scale that float32 can square."""
    peaks = dict.fromkeys(views, 0.0)
    for lo, chunk in rows.chunks():
        check_finite(chunk, lo, views)
        note_peaks(peaks, chunk, views)
    check_peaks(peaks)


def note_peaks(peaks: dict[str, float], chunk: Tensor, views: Mapping[str, slice]) -> None:
    """Raise the largest absolute entry of each view to that of a chunk."""
    for name, part in views.items():
        low, high = chunk[:, part].aminmax()
        peaks[name] = max(peaks[name], float(high), -float(low))


def check_peaks(peaks: Mapping[str, float]) -> None:
    """Raise ValueError naming the first view whose largest absolute entry is too small, but not 0."""
    for name, peak in peaks.items():
        if 0 < peak < SMALLEST:
            where = "" if list(peaks) == [ONE_VIEW] else f" in view {name!r}"
            raise ValueError(
                f"X has no entry larger than {peak:.3g}{where}: expected some of at least {SMALLEST:g}, since squared "
                "distances of smaller entries underflow float32; multiply all vectors by one number"
            )


def warn_of_domination(spread: Tensor, name: str, first: int = 0) -> None:
    """Warn where one column of a view has nearly all of its variance, so that codes say nothing of the others.

    ``spread`` [D] of the columns; ``first`` is the number of the view's first column.
    """
    variances = spread.square()
    share, column = (variances / variances.sum().clamp(min=1e-300)).max(0)
    if len(spread) > 1 and float(share) > DOMINATION:
        warnings.warn(
            f"column {first + int(column)} has {100 * float(share):.2f} % of the variance of view {name!r}: codes will "
            "say next to nothing of its other columns; scale the columns alike, or make it a view of its own",
            stacklevel=3,
        )


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


def _device(name: Any) -> torch.device:
    """The device of a name; ValueError where torch knows none."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {str(name)[:60]!r}; expected one that torch knows, as cpu or cuda:0") from error
