"""K-means of many small sets of rows at once, and centroids that take no more than so many rows.

A segment is a run of consecutive rows that is split on its own. Small segments are padded and stacked, so that one
matrix product serves many of them. Knows nothing of codes, items or trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbase.train.loop import fast_bfloat16
from semtok.kernels.lloyd import cluster
from semtok.kernels.origins import around, middle

__all__ = ["Costs", "Filling", "costs_of", "fit_rows", "split_rows", "split_segments"]

Costs = Callable[[Tensor], Tensor]
"""Rows, int64 [n], to what each centroid would cost them, float32 [n, K]: a new tensor, or None of its columns."""

_SCORES = 1 << 21  # costs held at a time
_VALUES = 1 << 20  # vector entries of one stack of segments
_ALONE = 1024  # rows from which a segment is split by itself
_SEED_ROWS = 16  # rows a centroid that the first centroids of such a segment are drawn from
_SEEDS_AT_ONCE = 8  # of K first centroids
_ROUNDS = 50  # times that prices are raised
_MOVES = 8  # times that centroids move once their rows are limited
_MOVE_ROUNDS = 5  # times that prices are raised between two moves
_KEPT = 0.8  # of the prices after a move: they can only rise by themselves
_STILL = 1e-4  # iterations end when the error falls by less than this share


def split_segments(
    points: Tensor,
    sizes: Tensor,
    count: int,
    limits: Tensor | None = None,
    *,
    evenly: bool = False,
    iterations: int = 25,
    most: int | None = None,
    seed: int = 0,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Split every segment by k-means.

    Parameters
    ----------
    points : Tensor [N, D]
        Finite float32 rows. Equal rows of a segment stand next to each other.
    sizes : Tensor [S]
        Rows of each segment, at least 1, int64, on the CPU; their sum is N.
    count : int
        Centroids of each segment, K.
    limits : Tensor [S], optional
        Rows that a centroid may get, int64, on the CPU; K times as many must do for the segment.
    evenly : bool, default False
        Give the centroids of a segment numbers of rows that differ by one at most; ``limits`` is not read then.
    iterations : int, default 25
        Lloyd iterations at most.
    most : int, optional
        Fit the centroids of a segment on at most this many of its rows, evenly spaced.
    seed : int, default 0
        Same seed, same codes on the CPU.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the distances during the iterations; see :func:`semtok.kernels.lloyd.cluster`.

    Returns
    -------
    codes : Tensor [N]
        Centroid of each row within its segment, int64.
    prices : Tensor [N]
        What was added to the squared distance to that centroid to keep its limit: float32, 0 where no limit binds.

    Notes
    -----
    A segment of at most K different rows gives each its own centroid. First centroids are drawn by k-means++ (Arthur
    and Vassilvitskii, SODA 2007), some at a time; an empty centroid is moved onto the row farthest from its own.
    """
    starts = sizes.cumsum(0) - sizes
    prices = torch.zeros(len(points), device=points.device)
    if evenly:
        codes = torch.arange(len(points), device=points.device)
        codes -= starts.repeat_interleave(sizes).to(points.device)
        few = sizes <= count
    else:
        runs = _run_numbers(points, sizes)
        codes = runs - runs[starts.to(runs.device)].repeat_interleave(sizes.to(runs.device))
        few = codes[(starts + sizes - 1).to(codes.device)].cpu() < count
        if limits is not None:
            lengths = torch.bincount(runs)
            longest = torch.zeros(len(sizes), dtype=torch.int64)
            owner = torch.arange(len(sizes)).repeat_interleave(sizes)
            few &= longest.scatter_reduce(0, owner, lengths[runs].cpu(), "amax") <= limits
    for number, group in enumerate(_stacks(sizes, (~few).nonzero()[:, 0], count, points.shape[1])):
        first, rows = starts[group], sizes[group]
        limit = None if limits is None or evenly else limits[group]
        if len(group) == 1 and int(rows) >= _ALONE:
            place: slice | Tensor = slice(int(first), int(first + rows))
            filling = split_rows(
                points[place],
                count,
                None if limit is None else int(limit),
                evenly=evenly,
                iterations=iterations,
                most=most,
                seed=seed,
                precision=precision,
            )
        else:
            stack = _Stack(points, first, rows, precision)
            stack.start(count, torch.Generator().manual_seed(seed * 1_000_003 + number))
            stack.iterate(iterations)
            place, filling = stack.place, stack.finish(limit, evenly)
        codes[place], prices[place] = filling.codes, filling.prices()
    return codes, prices


def split_rows(
    points: Tensor,
    count: int,
    limit: int | None = None,
    *,
    evenly: bool = False,
    iterations: int = 25,
    most: int | None = None,
    seed: int = 0,
    precision: str = "auto",
) -> Filling:
    """Split one segment by itself; arguments as those of :func:`split_segments`."""
    points = around(points, middle(points))
    sample = points if most is None or len(points) <= most else points[_spaced(len(points), most).to(points.device)]
    share = None if limit is None else max(-(-limit * len(sample) // len(points)), -(-len(sample) // count))
    centers, price = fit_rows(
        sample, count, share, evenly=evenly, iterations=iterations, seed=seed, precision=precision
    )
    filling = Filling(costs_of(points, centers), len(points), price)
    if limit is not None or evenly:
        filling.fill(torch.tensor([len(points)]), None if limit is None else torch.tensor([limit]))
    return filling


def fit_rows(
    points: Tensor,
    count: int,
    limit: int | None = None,
    *,
    evenly: bool = False,
    iterations: int = 25,
    seed: int = 0,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Centroids [K, D] of one segment and their prices [1, K]; arguments as those of :func:`split_segments`."""
    origin = middle(points)
    points = around(points, origin)
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    sample = points[_spaced(len(points), min(len(points), max(_SEED_ROWS * count, 1024))).to(points.device)]
    mean = sample.mean(0)
    start = _seeds((sample - mean)[None], torch.tensor([len(sample)]), count, generator)[0] + mean
    found = cluster(points, count, iterations=iterations, seed=seed, precision=precision, start=start)
    if not evenly and (limit is None or int(torch.bincount(found.codes).max()) <= limit):
        return found.centers + origin, torch.zeros(1, count, device=points.device)
    centers = found.centers

    def move(codes: Tensor) -> None:
        nonlocal centers
        centers = _means(points, codes, centers)

    filling = _settled(
        lambda price: Filling(costs_of(points, centers), len(points), price),
        move,
        torch.zeros(1, count, device=points.device),
        torch.tensor([len(points)]),
        None if evenly or limit is None else torch.tensor([limit]),
    )
    return centers + origin, filling.price


def costs_of(points: Tensor, centers: Tensor) -> Costs:
    """Squared distance of rows of ``points`` [N, D] to ``centers`` [K, D], without the norm of the row itself.

    Both must lie around zero.
    """
    norms = centers.square().sum(1)
    return lambda rows: torch.addmm(norms, points[rows], centers.T, alpha=-2)


class Filling:
    """Rows given to the centroids of their segment, none of which may get more rows than it has room for.

    As long as a centroid has more rows than room its price rises, by just so much that those who lose least go to
    another one: at the end nobody would gain by a free move (the dual ascent of a transport problem). What equal rows
    and the last rounds leave is settled row by row: who would lose most keeps the place, of equal ones the first.

    Parameters
    ----------
    costs : callable
        See ``Costs``.
    rows : int
        Rows, N.
    price : Tensor [S, K]
        Added to the costs; what it is at first.
    segment : Tensor [N], optional
        Segment of each row; all are of the first by default.

    Attributes
    ----------
    codes : Tensor [N]
        Centroid of each row, int64: the cheapest one at first, one with room after ``fill``.
    price : Tensor [S, K]
    """

    def __init__(self, costs: Costs, rows: int, price: Tensor, segment: Tensor | None = None) -> None:
        self.costs, self.price, self.segment = costs, price.clone(), segment
        self.codes = torch.empty(rows, dtype=torch.int64, device=price.device)
        self.margins = torch.empty(rows, device=price.device)
        self._look(None)

    def fill(self, sizes: Tensor, limits: Tensor | None, rounds: int = _ROUNDS) -> None:
        """Keep to ``limits`` [S] in segments of ``sizes`` [S] rows; None shares the rows of each out evenly.

        Prices are raised at most ``rounds`` times.
        """
        count = self.price.shape[1]
        room = (-(-sizes // count) if limits is None else limits)[:, None].repeat(1, count).to(self.price.device)
        self._raise_prices(room, rounds)
        if limits is None:
            # First everyone gets the larger share, then those who fill it least give up a place: who lacks it is not
            # known before.
            spare = room.sum(1, keepdim=True) - sizes[:, None].to(room.device)
            order = self.loads().argsort(dim=1, stable=True)  # those with the fewest rows get one place less
            room.scatter_add_(1, order, -(torch.arange(count, device=room.device) < spare).long())
            self._raise_prices(room, rounds)
        self._settle(room)

    def loads(self) -> Tensor:
        """Rows of each centroid: int64 [S, K]."""
        return torch.bincount(self._place(self.codes), minlength=self.price.numel()).view(self.price.shape)

    def prices(self) -> Tensor:
        """Price of the centroid of each row: float32 [N]."""
        return self.price.view(-1)[self._place(self.codes)]

    def _place(self, codes: Tensor, rows: Tensor | None = None) -> Tensor:
        """Number of a centroid among those of all segments."""
        if self.segment is None:
            return codes
        return (self.segment if rows is None else self.segment[rows]) * self.price.shape[1] + codes

    def _look(self, rows: Tensor | None, full: Tensor | None = None) -> None:
        """Give rows (None: all) their cheapest centroid that is not full, and note what the next one would cost."""
        total = len(self.codes) if rows is None else len(rows)
        step = max(1, _SCORES // self.price.shape[1])
        extra = self.price if full is None else self.price.masked_fill(full, math.inf)
        for lo in range(0, total, step):
            hi = min(lo + step, total)
            part = torch.arange(lo, hi, device=self.codes.device) if rows is None else rows[lo:hi]
            costs = self.costs(part)
            costs += extra if self.segment is None else extra[self.segment[part]]
            least, codes = costs.min(1)
            costs.scatter_(1, codes[:, None], math.inf)
            self.codes[part], self.margins[part] = codes, costs.amin(1) - least

    def _raise_prices(self, room: Tensor, rounds: int) -> None:
        for _ in range(rounds):
            excess = (self.loads() - room).flatten()
            place = self._place(self.codes)
            rows = (excess[place] > 0).nonzero()[:, 0]
            if not len(rows):
                return
            # Two stable sorts make one by centroid and, within it, by what leaving costs.
            rows = rows[self.margins[rows].argsort(stable=True)]
            order = place[rows].argsort(stable=True)
            rows = rows[order]
            over, members = place[rows].unique_consecutive(return_counts=True)
            last = members.cumsum(0) - members + excess[over]  # the first that stays, or beyond the end
            leaving = self.margins[rows[last - 1]]
            staying = self.margins[rows[last.clamp(max=len(rows) - 1)]]
            # Half-way between the last that leaves and the first that stays: neither gains by a move back.
            middle = torch.where(members > excess[over], (leaving + staying) / 2, leaving)
            self.price.view(-1)[over] += middle
            self._look(rows)

    def _settle(self, room: Tensor) -> None:
        load, room = self.loads().flatten(), room.flatten()
        waiting = (load > room)[self._place(self.codes)].nonzero()[:, 0]
        room = torch.where(load > room, room, room - load)
        # Ends: in every round a centroid with room fills up, or nobody waits any more.
        while len(waiting):
            waiting = waiting[self.margins[waiting].argsort(descending=True, stable=True)]
            place = self._place(self.codes[waiting], waiting)
            order = place.argsort(stable=True)
            waiting, place = waiting[order], place[order]
            load = torch.bincount(place, minlength=len(room))
            rank = torch.arange(len(place), device=place.device) - (load.cumsum(0) - load)[place]
            waiting = waiting[rank >= room[place]].sort().values
            room = (room - load).clamp(min=0)
            self._look(waiting, (room == 0).view(self.price.shape))


class _Stack:
    """Segments of about the same size, each centred at its mean and padded with zeros to the largest: [G, M, D]."""

    def __init__(self, points: Tensor, first: Tensor, sizes: Tensor, precision: str) -> None:
        device = points.device
        self.sizes, self.most = sizes.to(device), int(sizes.max())
        column = torch.arange(self.most, device=device)
        self.real = column < self.sizes[:, None]  # [G, M]
        place = first.to(device)[:, None] + column
        self.place = place[self.real]  # rows of ``points``
        self.points = points[torch.where(self.real, place, 0)] * self.real[:, :, None]
        self.points -= (self.points.sum(1) / self.sizes[:, None])[:, None] * self.real[:, :, None]
        if precision == "auto":
            precision = "bfloat16" if not points.is_cuda and fast_bfloat16(device) else "float32"
        self.low = precision == "bfloat16"

    def start(self, count: int, generator: torch.Generator) -> None:
        """First centroids, ``count`` a segment."""
        self.count = count
        self.centers = _seeds(self.points, self.sizes, count, generator)  # [G, K, D]

    def iterate(self, iterations: int) -> None:
        """Lloyd's iterations, in low precision where that was asked for."""
        unit = torch.ones(len(self.sizes), 1, 1, device=self.points.device)
        points = self.points
        if self.low:  # in units of the spread of each segment: in others, entries would be rounded elsewhere
            unit = self.points.square().mean((1, 2), keepdim=True).sqrt()
            unit = torch.where(unit > 0, unit, 1.0)
            points = (self.points / unit).bfloat16()
        scale = unit[:, 0, 0].double().square()
        before = torch.full((len(self.sizes),), math.inf, device=points.device, dtype=torch.float64)
        spread = self.points.square().sum((1, 2), dtype=torch.float64)
        for _ in range(iterations):
            table = (self.centers / unit).to(points.dtype)
            half = table.float().square().sum(2).div_(-2).to(points.dtype)
            scores = torch.baddbmm(half[:, None], points, table.transpose(1, 2))
            best, codes = scores.max(2)  # [G, M]
            error = spread - 2 * scale * torch.where(self.real, best, 0).sum(1, dtype=torch.float64)
            flat = self._flat(codes)
            loads = torch.bincount(flat, minlength=self.centers[..., 0].numel()).view(len(self.sizes), -1)
            self._move(flat, loads)
            moved = self._repair(codes, loads)
            if not moved and bool((before - error <= _STILL * error.clamp(min=0)).all()):
                break
            before = error

    def finish(self, limits: Tensor | None, evenly: bool) -> Filling:
        """The real rows with their exact centroids, within the limits."""
        owner = torch.arange(len(self.sizes), device=self.sizes.device).repeat_interleave(self.sizes)

        def start(price: Tensor) -> Filling:
            return Filling(self._costs(), len(self.place), price, owner)

        def move(codes: Tensor) -> None:
            flat = owner * self.count + codes
            self._move(flat, torch.bincount(flat, minlength=price.numel()).view(price.shape))

        price = torch.zeros(len(self.sizes), self.count, device=self.points.device)
        found = start(price)
        if evenly or (limits is not None and bool((found.loads().amax(1).cpu() > limits).any())):
            found = _settled(start, move, price, self.sizes.cpu(), None if evenly else limits)
        return found

    def _flat(self, codes: Tensor) -> Tensor:
        """Number of the centroid of each real row among those of the whole stack: [n]."""
        return (torch.arange(len(codes), device=codes.device)[:, None] * self.count + codes)[self.real]

    def _costs(self) -> Costs:
        norms = self.centers.square().sum(2)[:, None]
        table = torch.baddbmm(norms, self.points, self.centers.transpose(1, 2), alpha=-2)[self.real]  # [n, K]
        return lambda rows: table[rows]

    def _move(self, flat: Tensor, loads: Tensor) -> None:
        """Put centroids at the means of their rows; those without rows stay."""
        sums = torch.zeros(loads.numel(), self.points.shape[2], device=self.points.device)
        sums.index_add_(0, flat, self.points[self.real])
        means = sums.view_as(self.centers) / loads.clamp(min=1)[:, :, None]
        self.centers = torch.where(loads[:, :, None] > 0, means, self.centers)

    def _repair(self, codes: Tensor, loads: Tensor) -> bool:
        """Move centroids without rows onto the rows farthest from theirs; False if all rows lie on theirs."""
        empty = loads == 0
        if not bool(empty.any()):
            return False
        which = torch.arange(len(codes), device=codes.device)[:, None]
        reach = (self.points - self.centers[which, codes]).square_().sum(2) * self.real
        order = reach.argsort(dim=1, descending=True, stable=True)
        rank = (empty.cumsum(1) - 1).clamp(0, self.most - 1)
        rows = order.gather(1, rank)
        far = empty & (reach.gather(1, rows) > 0)
        self.centers = torch.where(far[:, :, None], self.points[which, rows], self.centers)
        return bool(far.any())


def _seeds(points: Tensor, sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First centroids by k-means++ for centred and padded segments [G, M, D]: [G, K, D].

    Candidates are drawn by their squared distance to the nearest centroid, some at a time, and of them one after the
    other the one that lowers the sum of these distances most: as good as new candidates for each, and quicker.
    """
    device, sizes = points.device, sizes.to(points.device)
    together = max(1, min(_SEEDS_AT_ONCE, count // 16))
    trials = max(2 + int(math.log(count)), 4 * together)
    which = torch.arange(len(sizes), device=device)
    real = torch.arange(points.shape[1], device=device) < sizes[:, None]
    norms = points.square().sum(2)
    centers = torch.empty(len(sizes), count, points.shape[2], device=device)
    closest = torch.where(real, torch.inf, 0.0)
    reach = real.double().cumsum(1)
    done = 0
    while done < count:
        draws = torch.rand(len(sizes), trials, generator=generator, dtype=torch.float64).to(device)
        picks = torch.searchsorted(reach, draws * reach[:, -1:], right=True)
        picks = torch.minimum(picks, sizes[:, None] - 1)  # [G, T]
        rows = points[which[:, None], picks]  # [G, T, D]
        total = norms[:, :, None] + norms.gather(1, picks)[:, None]
        left = torch.baddbmm(total, points, rows.transpose(1, 2), alpha=-2)  # [G, M, T]
        left = torch.where(left > 1e-6 * total, left, 0)  # less is nothing but rounding
        left = torch.minimum(left, closest[:, :, None])
        for _ in range(min(together, count - done) if done else 1):
            best = left.sum(1).argmin(1)
            centers[:, done] = rows[which, best]
            closest = left[which, :, best]
            left = torch.minimum(left, closest[:, :, None])
            done += 1
        reach = closest.double().cumsum(1)
    return centers


def _settled(
    start: Callable[[Tensor], Filling],
    move: Callable[[Tensor], None],
    price: Tensor,
    sizes: Tensor,
    limits: Tensor | None,
) -> Filling:
    """Lloyd's iterations under limits: ``start`` at prices, ``move`` the centroids by codes. The last filling."""
    filling = start(price)
    for _ in range(_MOVES):
        filling.fill(sizes, limits, _MOVE_ROUNDS)
        move(filling.codes)
        filling = start(filling.price * _KEPT)
    filling.fill(sizes, limits)
    return filling


def _run_numbers(points: Tensor, sizes: Tensor) -> Tensor:
    """Number of the run of equal rows of one segment that each row is in, from 0: int64 [N]."""
    new = torch.ones(len(points), dtype=torch.int64, device=points.device)
    step = max(1, _VALUES // points.shape[1])
    for lo in range(1, len(points), step):
        hi = min(lo + step, len(points))
        new[lo:hi] = (points[lo:hi] != points[lo - 1 : hi - 1]).any(1)
    new[(sizes.cumsum(0) - sizes).to(points.device)] = 1
    return new.cumsum(0) - 1


def _stacks(sizes: Tensor, which: Tensor, count: int, width: int) -> Iterator[Tensor]:
    """Groups of the segments ``which``, of falling size, each not too large to be held at once."""
    which = which[sizes[which].argsort(descending=True, stable=True)]
    done = 0
    while done < len(which):
        most = int(sizes[which[done]])
        room = 1 if most >= _ALONE else max(1, min(_VALUES // (most * width), _SCORES // (most * count)))
        yield which[done : done + room]
        done += room


def _means(points: Tensor, codes: Tensor, centers: Tensor) -> Tensor:
    sums = torch.zeros(len(centers), points.shape[1], dtype=torch.float64, device=points.device)
    part = torch.empty(len(centers), points.shape[1], device=points.device)
    for rows, found in zip(points.split(8192), codes.split(8192), strict=True):
        sums += part.zero_().index_add_(0, found, rows)
    loads = torch.bincount(codes, minlength=len(centers))[:, None]
    return torch.where(loads > 0, (sums / loads.clamp(min=1)).float(), centers)


def _spaced(rows: int, most: int) -> Tensor:
    """``most`` of ``rows`` row numbers at even distances."""
    return torch.arange(most, dtype=torch.int64) * rows // most
