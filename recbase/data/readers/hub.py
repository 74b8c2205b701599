"""Data sets that ``datasets.load_dataset`` opens, as Arrow; code that a repository brings is never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recbase.data.readers.items import given_items
from recbase.data.tables.columns import checked_events, choose_columns
from recbase.data.tables.raw import RawData, Request, clip

__all__ = ["hub_events"]


def hub_events(name: str, request: Request, hub: Mapping[str, Any] | None = None) -> RawData:
    """Events of a set on the hub, or of what one of the library's own formats opens.

    Raises
    ------
    ValueError
        If code of the repository would have to run, or the set cannot be opened as it is asked for.
    OSError
        If it cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} is read by the package datasets: pip install 'semtok[hub]'") from error

    arguments = dict(hub or {})
    if arguments.pop("trust_remote_code", False):
        raise ValueError(f"trust_remote_code is refused for {name}: code from the hub is never run")
    arguments.setdefault("split", "train")
    try:
        opened = datasets.load_dataset(name, **arguments)
    except (OSError, ImportError):
        raise
    except Exception as error:  # the library raises errors of many packages
        raise ValueError(f"datasets cannot open {name}: {type(error).__name__}: {clip(error, 200)}") from error
    if not hasattr(opened, "select_columns") or isinstance(opened, dict):
        raise ValueError(f"datasets opened several parts of {name}; name one of them with hub={{'split': ...}}")
    wanted = choose_columns(list(opened.column_names), request.columns, name)
    arrow = opened.select_columns(list(dict.fromkeys(wanted.values()))).with_format("arrow")[:]
    table = pl.DataFrame(pl.from_arrow(arrow)).select(pl.col(column).alias(ours) for ours, column in wanted.items())
    named = checked_events(table, request, name, numbers=False)
    source = {"huggingface": name, "format": "huggingface"}
    return RawData(Path(name).name, named, given_items(request), source, notes=request.notes)
