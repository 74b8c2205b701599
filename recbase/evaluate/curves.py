"""Learning curves of runs, as a table and a figure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbase.evaluate.look import panels, write_png

__all__ = ["draw_curves", "read_curve"]


def read_curve(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Validations of a run that is finished, or of a training that goes on, the first first.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    ValueError
        If the file is damaged.
    """
    beside = Path(folder) / "training" / "history.jsonl"  # of a training that will take the run's place
    path = beside if beside.is_file() else Path(folder) / "history.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no learning curve (history.jsonl): nothing was trained there by gradient"
        )
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is not a learning curve: damaged") from error


def draw_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, path: str | os.PathLike[str]) -> None:
    """Write a PNG: loss and validation metric of every run by seconds of training.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure, (left, right) = panels(2.4, 2.4)
    for name, lines in curves.items():
        seconds = [line["seconds"] for line in lines]
        left.plot(seconds, [line["loss"] for line in lines], marker=".", label=name.replace("$", r"\$"))
        known = [line for line in lines if metric in line["metrics"]]
        right.plot([line["seconds"] for line in known], [line["metrics"][metric] for line in known], marker=".")
    for axes, said in ((left, "loss"), (right, f"validation {metric}")):
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(said)
    left.legend(frameon=False)
    write_png(figure, path)
