"""A training told line by line, where there is no terminal to draw a bar on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbase.console import say

if TYPE_CHECKING:
    from recbase.train.loop import TrainConfig

__all__ = ["described_validation", "tell_validation"]


def tell_validation(line: Mapping[str, Any], loop: Mapping[str, Any], config: TrainConfig) -> None:
    """Print one line about a validation, unless the training is quiet or stderr is a terminal, which shows a bar."""
    if not config.quiet and not sys.stderr.isatty():
        say(described_validation(line, loop, config), err=True)


def described_validation(line: Mapping[str, Any], loop: Mapping[str, Any], config: TrainConfig) -> str:
    """Epoch, loss, the monitored metric and its best so far, time taken and the longest that is left: one line.

    Parameters
    ----------
    line : mapping
        Entry of the history.
    loop : mapping
        Counters of the training, ``best`` and ``best_epoch`` among them.
    config : TrainConfig
    """
    parts = [f"epoch {line['epoch']}/{config.epochs}", f"loss {line['loss']:.4f}"]
    if config.monitor in line["metrics"]:
        best = f"best {loop['best'][config.monitor]:.4f} in {loop['best_epoch']}"
        parts.append(f"{config.monitor} {line['metrics'][config.monitor]:.4f} ({best})")
    left = line["seconds"] / max(1, line["epoch"]) * (config.epochs - line["epoch"])
    if config.max_seconds is not None:
        left = min(left, max(0.0, config.max_seconds - line["seconds"]))
    parts.append(f"{_clock(line['seconds'])}, at most {_clock(left)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
