"""Question to a reader and its answer: a request, the raw tables, and notes of what was lost or guessed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

__all__ = ["ItemTable", "Notes", "RawData", "Request", "as_table", "clip", "data_name", "file_in", "say_pictures"]

ItemTable = pl.DataFrame | Callable[[pl.Series], pl.DataFrame] | None


def clip(value: object, length: int = 60) -> str:
    """A value as an error quotes it: never longer than ``length`` characters and three dots."""
    text = value if isinstance(value, str) else str(value)
    return repr(text) if len(text) <= length else repr(text[:length]) + "..."


def as_table(source: Any, what: str) -> Any:
    """A table of pandas, Arrow, ``datasets`` or polars (lazy too) as a polars DataFrame; a path as it is.

    Raises
    ------
    ValueError
        If it is neither, or a table that has no such form: a column name twice, a column of mixed types.
    """
    if isinstance(source, str | os.PathLike | pl.DataFrame):
        return source
    try:
        if isinstance(source, pl.LazyFrame):
            return source.collect()
        if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
            return pl.from_pandas(source)
        if type(source).__module__.startswith("datasets."):  # a table of the Hugging Face library
            return pl.from_arrow(source.with_format("arrow")[:])
        if hasattr(source, "__arrow_c_stream__") and hasattr(source, "column_names"):
            return pl.DataFrame(source)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError, ImportError) as error:
        reason = clip(str(error).partition("\n")[0], 200)
        raise ValueError(
            f"{what} cannot be read as a table ({reason}); expected a name and one type a column"
        ) from error
    raise ValueError(
        f"{what} is of the type {type(source).__name__}; expected a path, or a table of polars, pandas, Arrow, datasets"
    )


def data_name(files: Sequence[Path]) -> str:
    """Name of a data set from that of its files; that of the folder where the file only says what it is."""
    name = files[0].name
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(suffix)
    stem = Path(name).stem
    if len(files) > 1:
        stem = re.sub(r"[._-]?(train|training)$", "", stem, flags=re.IGNORECASE) or "interactions"
    stem = stem.removesuffix(".inter") or stem
    return files[0].parent.name if stem in ("ratings", "interactions") and files[0].parent.name else stem


@dataclass
class Notes:
    """Counts of what reading dropped, merged, decoded with loss or guessed.

    Attributes
    ----------
    entries : list of dict
        ``what`` (a fixed word), ``count``, ``sentence`` and ``warned`` (whether it was a warning too) of each; they go
        into the manifest of a data set.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)

    def say(self, what: str, count: int, sentence: str, warn: bool = True) -> None:
        """Record a note; with ``warn`` it is also a warning, for what may be wrong and not only worth knowing."""
        self.entries.append({"what": what, "count": int(count), "sentence": sentence, "warned": warn})
        if warn:
            warnings.warn(sentence, UserWarning, stacklevel=2)


def file_in(path: Path, names: Sequence[str]) -> Path:
    """The file itself, or the first of some names in a folder.

    Raises
    ------
    FileNotFoundError
        If the folder has none of them.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path} has no {names[0]}")
    return found


def say_pictures(paths: pl.Series, what: str, notes: Notes) -> None:
    """Note how many items have a picture; their paths start from the folder of the files."""
    there = len(paths) - paths.null_count()
    said = f"{there:,} of {len(paths):,} items have a picture in {what}; name that folder with --image-root"
    notes.say("pictures", there, said, warn=False)


@dataclass
class RawData:
    """Events as a source has them, in the order of the source.

    Attributes
    ----------
    name : str
    interactions : DataFrame
        user_id, item_id and, where the source has them, timestamp (seconds), nanosecond (after it) and position.
    items : DataFrame, function or None
        The items, or a function that reads the rows of the ids it is given.
    source : dict
        What is recorded of the origin.
    views : list of str
        Text columns the source lists.
    notes : Notes
        What reading lost or guessed.
    """

    name: str
    interactions: pl.DataFrame
    items: ItemTable
    source: dict[str, Any]
    views: list[str] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def items_of(self, ids: pl.Series) -> pl.DataFrame | None:
        """The items, of which at least those in ``ids`` that are known."""
        return self.items(ids) if callable(self.items) else self.items


@dataclass(frozen=True)
class Request:
    """Order for a reader of one format: what to read, and how.

    Attributes
    ----------
    path : Path
        File or folder of events.
    items : path, DataFrame or None
        Table of items.
    columns : mapping or None
        Our name of a column to the name in the source.
    time_format : str or None
        How times are written, in the codes of strptime.
    notes : Notes
        Where the reader says what it lost or guessed.
    separator : str or None
        What stands between the fields of a table; told from the header if None.
    header : sequence of str or None
        Names of the columns of a table that has no header.
    drop_null : bool
        Leave out events without a user or an item instead of refusing them.
    """

    path: Path
    items: Any = None
    columns: Mapping[str, str] | None = None
    time_format: str | None = None
    notes: Notes = field(default_factory=Notes)
    separator: str | None = None
    header: Sequence[str] | None = None
    drop_null: bool = False
