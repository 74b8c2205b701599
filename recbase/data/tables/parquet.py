"""Parquet tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

__all__ = ["read_parquet"]


def read_parquet(path: Path, pick: Callable[[list[str]], dict[str, str]] | None = None) -> pl.DataFrame:
    """A Parquet table, or some of its columns.

    Parameters
    ----------
    path : Path
    pick : function, optional
        From the names of the columns to the mapping (new name to name) of those that are wanted.

    Raises
    ------
    ValueError
        If it is empty, truncated or damaged.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected a Parquet table")
    try:
        lazy = pl.scan_parquet(path, glob=False)
        names = lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: truncated or damaged") from error
    wanted = {name: name for name in names} if pick is None else pick(names)
    try:
        return lazy.select(pl.col(column).alias(name) for name, column in wanted.items()).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, MemoryError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: truncated or damaged") from error
