"""Published results as JSON lines under results/: one record a row of a table, written by one function.

A record says which table it belongs to, how it was made and where its numbers come from. A file grows; of records that
name one benchmark, data set, row and order the last counts, and the earlier ones are its history.
"""

from __future__ import annotations

import datetime
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.files import write_file

__all__ = ["FIELDS", "RESULTS", "append", "append_runs", "latest", "read", "record"]

RESULTS = Path(__file__).parents[1] / "results"

FIELDS: dict[str, type | tuple[type, ...]] = {
    "benchmark": str,
    "row": str,
    "data": str,
    "order": str,
    "metrics": dict,
    "seeds": (int, type(None)),
    "seconds": (int, float, type(None)),
    "command": str,
    "date": str,
    "machine": str,
    "commit": (str, type(None)),
    "source": str,
    "qualification": str,
    "notes": dict,
}
"""Fields of a record and their types.

``metrics`` maps a name to ``{"mean": ..., "sd": ...}``, sd None for one seed; ``notes`` maps a column to words.
"""


def record(
    benchmark: str,
    row: str,
    data: str,
    metrics: Mapping[str, Sequence[float]],
    command: str,
    machine: str,
    qualification: str,
    seconds: float | None = None,
    order: str = "time, ties as in the file",
) -> dict[str, Any]:
    """One record of runs that were just made.

    Parameters
    ----------
    benchmark, row, data : str
        Table, line of it and data set.
    metrics : mapping
        Values of each metric, one a seed. ``masked ndcg@10`` is ndcg@10 with seen items left out.
    command : str
        The command that makes the row.
    machine : str
        In words, such as ``"two x86-64 cores, busy, no GPU"``.
    qualification : str
        The one thing to keep in mind when the number is quoted.
    seconds : float, optional
        Mean wall-clock seconds of a run.
    order : str
        Order of a user's events and of their ties.
    """
    seeds = max(map(len, metrics.values()))
    return {
        "benchmark": benchmark,
        "row": row,
        "data": data,
        "order": order,
        "metrics": {
            name: {
                "mean": round(float(np.mean(values)), 6),
                "sd": round(float(np.std(values, ddof=1)), 6) if len(values) > 1 else None,
            }
            for name, values in metrics.items()
        },
        "seeds": seeds,
        "seconds": None if seconds is None else round(seconds, 1),
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "commit": _commit(),
        "source": "measured",
        "qualification": qualification,
        "notes": {},
    }


def _commit() -> str | None:
    """Short name of the commit that runs; None outside a clone."""
    words = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def append(records: Iterable[Mapping[str, Any]], folder: Path = RESULTS) -> None:
    """Add records to ``<benchmark>.jsonl``; the file is replaced whole, so none is ever half written.

    Raises
    ------
    ValueError
        If a record lacks a field, has another, or a value of another type.
    """
    for one in records:
        _check(one)
        path = folder / f"{one['benchmark']}.jsonl"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, (before + json.dumps(one, ensure_ascii=False) + "\n").encode())


def append_runs(
    benchmark: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    data: str,
    machine: str,
    qualification: str,
    order: str = "time, ties as in the file",
    folder: Path = RESULTS,
) -> None:
    """Add a record for each row of a table, from the metrics of its runs; the command is the one that is running.

    Parameters
    ----------
    benchmark : str
        Name of the table.
    rows : mapping
        Contents of ``metrics.json`` of every seed, by row; a row without runs is left out.
    data, machine, qualification, order : str
        As of `record`.
    folder : Path, default results/
        Where the file is.
    """
    said = f"python -m benchmarks.{Path(sys.argv[0]).stem} {shlex.join(sys.argv[1:])}"
    records = []
    for row, runs in rows.items():
        if not runs:
            continue
        values = {
            f"{before}{name}": [one[part][name] for one in runs]
            for part, before in (("test", ""), ("test_masked", "masked "), ("valid", "validation "))
            for name in ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10")
            if all(name in one.get(part, {}) for one in runs)
        }
        first = [one.get("last_item_first") for one in runs]
        values |= {} if None in first else {"last item first": first}
        seconds = float(np.mean([one.get("train_seconds") or 0 for one in runs])) or None
        records.append(record(benchmark, row, data, values, said, machine, qualification, seconds, order))
    append(records, folder)


def _check(one: Mapping[str, Any], where: str = "") -> None:
    """Refuse a record that is not as `FIELDS` says."""
    if set(one) != set(FIELDS):
        wrong = ", ".join(sorted(set(one) ^ set(FIELDS)))
        raise ValueError(f"{where}a record must have exactly the fields {', '.join(FIELDS)}; it differs in {wrong}")
    for name, kind in FIELDS.items():
        if not isinstance(one[name], kind):
            raise ValueError(f"{where}field {name} has the value {one[name]!r}, which is of another type")
    for name, found in one["metrics"].items():
        if set(found) != {"mean", "sd"} or not math.isfinite(found["mean"]):
            raise ValueError(f"{where}metric {name} must have a finite mean and an sd, got {found!r}")


def read(benchmark: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All records of a benchmark, the oldest first.

    Raises
    ------
    FileNotFoundError
        If it has no file.
    ValueError
        If a line is no record.
    """
    path = folder / f"{benchmark}.jsonl"
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            one = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is no JSON: {line[:60]!r}") from error
        _check(one, f"{path}, line {number}: ")
        found.append(one)
    return found


def latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last record of every row, in the order in which rows first came."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for one in records:
        found[tuple(one[name] for name in ("benchmark", "data", "row", "order"))] = one
    return list(found.values())
