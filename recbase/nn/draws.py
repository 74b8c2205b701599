"""Random numbers addressed by where they are used, so that any split of the work over processes draws the same ones.

A draw is a hash of a seed and integer coordinates (row of the step, position, ...): nothing is consumed from a
generator, so neither the shape of a batch nor the number of processes changes it. Draws are independent across seeds as
they are across coordinates: ``seed + 1`` and ``seed + 2`` are two generators, for two purposes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_integers", "draw_uniform"]

_ALL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= _ALL
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    return x ^ _shift(x, 31)


def _mixed_seed(seed: int) -> int:
    """The finalizer of splitmix64, of a number: neighbouring seeds become numbers that nothing relates."""
    x = (seed + 1) * _GOLDEN & _ALL
    x = (x ^ (x >> 30)) * _MIX1 & _ALL
    x = (x ^ (x >> 27)) * _MIX2 & _ALL
    return x ^ (x >> 31)


def _hashes(seed: int, coordinates: tuple[Tensor, ...]) -> Tensor:
    # Each step of the chain is one draw of a splitmix64 generator whose state the step before made. The seed is mixed
    # before the first coordinate is added: else seed + 1 at one place would be the seed itself at the next place.
    state = torch.full((), _signed(_mixed_seed(seed)), dtype=torch.int64, device=coordinates[0].device)
    for coordinate in coordinates:
        state = _mix(state + coordinate * _signed(_GOLDEN) + 1)
    return state


def draw_uniform(seed: int, *coordinates: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float32, one for each broadcast combination of int64 coordinates.

    Parameters
    ----------
    seed : int
        Equal seeds and coordinates give equal numbers on every device and process.
    *coordinates : Tensor of int64
        Broadcast against each other.
    """
    # 24 bits: all that a float32 below 1 tells apart; more would round up to 1.
    return _shift(_hashes(seed, coordinates), 40).to(torch.float32) * (1.0 / (1 << 24))


def draw_integers(seed: int, high: int, *coordinates: Tensor) -> Tensor:
    """Integers in [0, high), int64, as :func:`draw_uniform`; the bias of the modulus is below high / 2**62."""
    return _shift(_hashes(seed, coordinates), 2) % high
