"""Rows of a benchmark's table: one command a row and seed, in a process and a run folder of its own, run once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import open_folder

__all__ = ["Row", "failed_line", "finished", "folder_of", "mean_and_spread", "metrics_of", "run_row", "succeeds"]


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, the program and model, its extra options, and the seeds it is run with."""

    name: str
    program: str
    model: str
    options: list[str] = field(default_factory=list)
    seeds: tuple[int, ...] = (0,)

    @property
    def encodes(self) -> bool:
        """Whether it encodes the text itself, and is given no ready-made embeddings."""
        return "--encoder" in self.options


def folder_of(row: Row, seed: int, out: Path) -> Path:
    """Run folder of one row and seed."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in row.name.lower()).strip("-")
    return out / f"{slug}-{seed}"


def metrics_of(folder: Path) -> dict[str, Any] | None:
    """Metrics of a complete run, None if there is none."""
    try:
        found: dict[str, Any] = json.loads(open_folder(folder, "config.json", "run").file("metrics.json").read_text())
    except FileNotFoundError:
        return None
    return found


def finished(folder: Path) -> bool:
    """Whether a run has its metrics and its training was not interrupted."""
    found = metrics_of(folder)
    return found is not None and found.get("stopped") != "signal"


def succeeds(words: list[str], name: str) -> bool:
    """Run a command of the toolkit; whether it ended well. What failed is named, and the table goes on."""
    print(f"$ {' '.join(words)}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", f"{words[0]}.cli", *words[1:]], check=False).returncode
    print(f"  [{time.perf_counter() - start:.0f} s with all stages]", flush=True)
    if status:
        print(f"  {name} failed (exit code {status}); the table goes on without it", flush=True)
    return status == 0


def run_row(row: Row, out: Path, command: Callable[[Row, int, Path], list[str]]) -> list[Path]:
    """Run a row's command for every seed whose run folder is not complete yet; the run folders that are complete.

    Parameters
    ----------
    row : Row
    out : Path
        Folder of the run folders.
    command : callable
        Given the row, a seed and the run folder, the words of the command, the program first.

    Returns
    -------
    list of Path
        Without those whose command failed, which is printed.
    """
    folders = [folder_of(row, seed, out) for seed in row.seeds]
    return [
        folder
        for seed, folder in zip(row.seeds, folders, strict=True)
        if finished(folder) or (succeeds(command(row, seed, folder), f"{row.name}, seed {seed},") and finished(folder))
    ]


def failed_line(name: str, columns: int) -> str:
    """The line of a row that has no complete run, in a table of so many columns."""
    return f"| {name} | failed |{' - |' * (columns - 2)}"


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and behind it the standard deviation over the seeds if there are several."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"
