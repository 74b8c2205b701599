"""What a command shows: progress bars, tables, JSON, warnings and failures.

All text from data (titles, ids, names of files and columns) passes `plain` before it reaches a terminal, so that
nothing in it is taken for markup or moves the cursor.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["failures", "plain", "print_json", "progress", "short"]


def short(value: Any, most: int = 60) -> str:
    """A value as a sentence quotes it: its repr, clipped in the middle."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 3 :]}"


def failures(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command: a failure is one sentence on stderr and exit code 1; ``--debug`` shows the traceback.

    It adds ``--debug`` and takes it away again before the function is called. Wrong usage (exit code 2) stays click's.
    Warnings are one line each on stderr.
    """

    @functools.wraps(function)
    def guarded(*positional: Any, debug: bool = False, **keywords: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return function(*positional, **keywords)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except Exception as error:
                if debug:
                    raise
                click.echo(_sentence(error), err=True)
                raise click.exceptions.Exit(1) from error

    return click.option("--debug", is_flag=True, help="Show the traceback of a failure.")(guarded)


def _sentence(error: Exception) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if not isinstance(error, ValueError | OSError | ImportError | RuntimeError) or not text:
        text = f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"
    return f"Error: {text}"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; numbers that JSON lacks (NaN, infinity) become null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@contextmanager
def progress(description: str, total: int | None, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr with speed and time left; nothing when quiet or when stderr is not a terminal.

    Parameters
    ----------
    description : str
        What is being done, such as ``"encode title"``.
    total : int or None
        Number of steps, None if unknown.
    quiet : bool, default False
        Show nothing.

    Yields
    ------
    callable
        ``advance(steps=1, text=None)``; the text, such as the loss, stands beside the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda steps=1, text=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, text="", rate="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            speed = bar.tasks[0].speed
            fields: dict[str, Any] = {"rate": f"{speed:,.0f}/s" if speed else ""}
            if text is not None:
                fields["text"] = text
            bar.update(task, advance=steps, **fields)

        yield advance
