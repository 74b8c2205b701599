"""Where the origin of float32 arithmetic lies, so that squared distances keep their digits.

No distance depends on the origin, but |x|^2 - 2 x.c + |c|^2 does once it is rounded: of a column that counts years from
zero nothing is left but rounding. What is fitted is fitted around the middle of its rows. The middle is made of values
of the rows themselves and subtracting it is exact wherever moving the rows was, so that moved rows get the very same
codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FAR", "around", "far_part", "grid_of", "middle", "on_grid", "spread_of"]

FAR = 16.0  # spreads between the points of the grid to which far columns are moved: nearer ones stay where they are
_ROWS = 1024  # rows that middle and spread are taken from


def middle(points: Tensor) -> Tensor:
    """Median of each column [D], over at most 1,024 evenly spaced rows of ``points`` [N, D]: values of the rows."""
    return _spaced(points).median(0).values.to(points.device)


def around(points: Tensor, origin: Tensor) -> Tensor:
    """Rows as seen from ``origin`` [D]; the rows themselves, not a copy, where that is zero."""
    return points - origin if bool(origin.any()) else points


def spread_of(points: Tensor) -> Tensor:
    """Root mean square distance of each column from its middle: float64 [D], on the CPU, of the rows of the middle."""
    rows = _spaced(points)
    return (rows.double() - rows.median(0).values.double()).square().mean(0).sqrt()


def grid_of(spread: Tensor, share: float) -> Tensor:
    """The powers of two at or below ``share`` of each spread, 0 where that is 0."""
    return torch.where(spread > 0, torch.exp2(torch.log2((spread * share).clamp(min=1e-300)).floor()), 0.0)


def on_grid(values: Tensor, grid: Tensor) -> Tensor:
    """Values moved to the nearest multiple of their grid; as they are where the grid is 0."""
    values = values.double()
    return torch.where(grid > 0, (values / torch.where(grid > 0, grid, 1.0)).round() * grid, values)


def far_part(points: Tensor) -> Tensor | None:
    """Offset to take from every vector, now and later: float32 [D], None if there is none.

    Columns whose middle lies less than eight spreads from zero stay where they are; of the others a multiple of a power
    of two is taken, which leaves them near zero and is nearly always exact.
    """
    origin = middle(points).cpu()
    shift = on_grid(origin, grid_of(spread_of(points), FAR)).float()
    return shift.to(points.device) if bool(shift.any()) else None


def _spaced(points: Tensor) -> Tensor:
    count = min(len(points), _ROWS)
    chosen = torch.arange(count, dtype=torch.int64) * len(points) // count
    return points[chosen.to(points.device)].cpu()
