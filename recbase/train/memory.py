"""A check that the weights of a model fit this machine, told from its hyper-parameters before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["check_weights", "least_weights"]


def least_weights(arguments: Mapping[str, Any]) -> int:
    """Return a lower bound of the parameters of a Transformer (or of embeddings alone) with these arguments.

    Parameters
    ----------
    arguments : mapping
        Read are ``dim``, ``ffn``, ``heads``, ``head_dim``, ``items``, ``users``, ``max_len`` and all ``...layers``;
        those that a model does not have count nothing.
    """
    dim = int(arguments.get("dim") or 0)
    inner = int(arguments.get("heads") or 0) * int(arguments.get("head_dim") or 0) or dim
    rows = sum(int(arguments.get(name) or 0) for name in ("items", "users", "max_len"))
    layers = sum(int(value) for name, value in arguments.items() if name.endswith("layers") and isinstance(value, int))
    mixing = 4 * inner if "heads" in arguments else 0
    return dim * (rows + layers * (mixing + 2 * int(arguments.get("ffn") or 0)))


def check_weights(arguments: Mapping[str, Any]) -> None:
    """Refuse a model whose weights alone need more memory than the machine has: Linux would kill the process later.

    Raises
    ------
    ValueError
        Naming both sizes and what makes a model smaller.
    """
    needed = 4 * least_weights(arguments)  # float32
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return
    if needed > there:
        sized = [name for name in ("dim", "ffn", "heads", "head_dim") if name in arguments]
        sized += [name for name in arguments if name.endswith("layers")]
        flags = ", ".join(f"--{name.replace('_', '-')} {arguments[name]}" for name in sized)
        raise ValueError(
            f"a model with {flags} has weights of {needed / 1e9:,.0f} GB and this machine {there / 1e9:,.0f} GB of "
            "memory: choose a smaller one"
        )
