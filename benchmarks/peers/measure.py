"""What every worker does alike: read the histories, count steps by the clock, write one JSON file.

Needs NumPy alone, because it runs inside the environment of each library that is measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Task:
    """One measurement: what to run, on which histories."""

    what: str
    items: np.ndarray
    offsets: np.ndarray
    folder: Path
    seconds: float
    warmup: int
    result: Path
    max_len: int
    dim: int
    layers: int
    heads: int

    @property
    def n_items(self) -> int:
        return int(self.items.max())

    def users(self, drop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User row, item number and place of every event but the last `drop` of each user."""
        lengths = np.diff(self.offsets)
        user = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        kept = place < np.repeat(lengths, lengths) - drop
        return user[kept], self.items[kept], place[kept]


def read_task() -> Task:
    """Parse the worker's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "evaluate"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warmup", type=int, default=2)
    for name, value in (("max-len", 50), ("dim", 64), ("layers", 2), ("heads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    items = np.load(args.folder / "items.npy", allow_pickle=False)
    offsets = np.load(args.folder / "offsets.npy", allow_pickle=False)
    return Task(items=items, offsets=offsets, **vars(args))


class StepClock:
    """Watches batches go by: after the warm-up it times whole steps, and ends them when the time is over.

    Parameters
    ----------
    seconds : float
        Time to measure; at least three steps are.
    warmup : int
        First steps that do not count.
    """

    def __init__(self, seconds: float, warmup: int) -> None:
        self.seconds, self.warmup = seconds, warmup
        self.marks: list[float] = []

    def __deepcopy__(self, memo: object) -> StepClock:
        return self

    def mark(self) -> bool:
        """Note that a step begins (which ends the one before); true once enough was measured."""
        self.marks.append(time.perf_counter())
        timed = len(self.marks) - 1 - self.warmup
        return timed >= 3 and self.marks[-1] - self.marks[self.warmup] >= self.seconds

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches on until enough was measured."""
        for batch in batches:
            if self.mark():
                return
            yield batch
        self.mark()

    @property
    def steps(self) -> int:
        return len(self.marks) - 1 - self.warmup

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step, the reading of its batch included."""
        if self.steps < 1:
            raise ValueError(f"only {len(self.marks) - 1} steps ran, expected more than the {self.warmup} of warm-up")
        return (self.marks[-1] - self.marks[self.warmup]) / self.steps


def write_training(task: Task, clock: StepClock, epoch_steps: int, epoch_targets: int, **facts: Any) -> None:
    """Write the seconds of an epoch, scaled from the steps that were timed, and the process's peak memory."""
    _write(
        task,
        {
            "epoch_seconds": clock.step_seconds * epoch_steps,
            "step_seconds": clock.step_seconds,
            "timed_steps": clock.steps,
            "epoch_steps": epoch_steps,
            "epoch_targets": epoch_targets,
            **facts,
        },
    )


def write_evaluation(task: Task, seconds: float, users: int, **facts: Any) -> None:
    """Write the users evaluated a second and the process's peak memory."""
    _write(task, {"users_per_second": users / seconds, "seconds": seconds, "users": users, **facts})


def _write(task: Task, record: dict[str, Any]) -> None:
    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if platform.system() == "Darwin" else 1024)
    if platform.system() == "Darwin":
        peak /= 1024**2
    shape = {"peak_mib": peak, "torch": torch.__version__, "threads": torch.get_num_threads()}
    task.result.write_text(json.dumps(record | shape))
