"""Recommendations for many users, written to one file batch by batch, so that memory stays flat."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recbase.console import progress
from recbase.data import interactions as events
from recbase.data.readers import read
from recbase.serving.fitted import FittedRecommender
from recbase.store.folder import check_file, write_file

__all__ = ["FORMATS", "Asked", "histories_in", "recommend_to_file", "users_in"]

FORMATS = (".parquet", ".csv", ".jsonl")
"""Endings of the files that recommendations are written to."""

_BATCH = 8_192


@dataclass(frozen=True)
class Asked:
    """Users to be answered.

    Attributes
    ----------
    ids : Series [B]
        Shown in the column ``user``.
    histories : list of list of str, optional
        Raw item ids of each, the oldest first; without it the ids are users of the model's data set.
    """

    ids: pl.Series
    histories: Sequence[Sequence[Any]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int) -> Iterator[Asked]:
        """The same users, so many at a time."""
        for start in range(0, len(self), size):
            part = None if self.histories is None else self.histories[start : start + size]
            yield Asked(self.ids.slice(start, size), part)

    def question(self) -> dict[str, Any]:
        """Arguments of `FittedRecommender.recommend` that say who is asked for."""
        return {"users": self.ids} if self.histories is None else {"histories": self.histories}


def users_in(path: str | os.PathLike[str]) -> Asked:
    """Users in a text file, one id a line; blank lines are passed over.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it names nobody, or is not UTF-8 text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; expected one user id a line") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"{path} names no user; expected one id a line")
    return Asked(pl.Series("user", ids, dtype=pl.String))


def histories_in(path: str | os.PathLike[str]) -> Asked:
    """Users and their histories in a file of events, in any format that ``semtok prepare`` reads.

    Nothing is filtered: a user of one event is answered too.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no events.
    """
    table = read(path).interactions
    order = "position" if "position" in table.columns else "time" if "timestamp" in table.columns else "file"
    ordered = events.order_events(table, order, "file", 0)  # type: ignore[arg-type]
    grouped = ordered.group_by("user_id", maintain_order=True).agg(pl.col("item_id").cast(pl.String))
    return Asked(grouped["user_id"].alias("user"), grouped["item_id"].to_list())


def recommend_to_file(
    fitted: FittedRecommender,
    asked: Asked,
    out: str | os.PathLike[str],
    k: int = 10,
    quiet: bool = False,
    batch: int = _BATCH,
    **options: Any,
) -> dict[str, Any]:
    """Write the recommendations for all users to a Parquet, CSV or JSON-lines file, atomically.

    Parameters
    ----------
    fitted : FittedRecommender
    asked : Asked
    out : path
        Its ending says the format: .parquet, .csv or .jsonl.
    k : int, default 10
    quiet : bool, default False
        Show no progress bar.
    batch : int, default 8192
        Users answered together.
    **options
        More arguments of `FittedRecommender.recommend`.

    Returns
    -------
    dict
        ``users``, ``rows``, ``unknown`` (item ids that were skipped, each once), ``popular`` (users of whom nothing was
        known) and ``without`` (users who got no item, as they have had all that may be recommended).

    Raises
    ------
    ValueError
        If the ending is none of those, or as for `FittedRecommender.recommend`.
    OSError
        If the file cannot be written; what was there is kept.
    """
    target = Path(out)
    if target.suffix not in FORMATS:
        raise ValueError(f"{out} should end in {', '.join(FORMATS)}")
    check_file(target)
    parts = Path(tempfile.mkdtemp(prefix="recommendations-"))
    unknown, counts = dict[str, None](), {"users": len(asked), "rows": 0, "popular": 0, "without": 0}
    try:
        with progress("recommending", len(asked), quiet) as advance:
            for number, some in enumerate(asked.batches(batch)):
                found = fitted.answer(**some.question(), k=k, **options)
                table = found.table if some.histories is None else _named(found.table, some.ids)
                table.write_parquet(parts / f"{number:06d}.parquet")
                unknown.update(dict.fromkeys(found.unknown))
                counts["rows"] += table.height
                counts["without"] += len(some) - found.table["user"].n_unique()
                counts["popular"] += found.strangers
                advance(len(some))
        write_file(target, partial(_join, parts, target.suffix))
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return counts | {"unknown": list(unknown)}


def _named(table: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """The table with ids of users instead of places of histories."""
    return table.with_columns(user=ids.gather(table["user"].to_numpy()))


def _join(parts: Path, suffix: str, path: Path) -> None:
    """Stream the parts into one file."""
    scan = pl.scan_parquet(sorted(parts.glob("*.parquet")))
    if suffix == ".parquet":
        scan.sink_parquet(path)
    elif suffix == ".csv":
        scan.sink_csv(path)
    else:
        scan.sink_ndjson(path)
