"""Output of a command: progress bars, tables, JSON, warnings and failures.

All text from data (titles, ids, names of files and columns) passes `plain` before it reaches a terminal, so that
nothing in it is taken for markup or moves the cursor.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from recbase.train.interruption import Interrupted, farewell, interruptible
from recbase.train.processes import is_main_process, leave_at_once

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "cell",
    "clipped",
    "console_of",
    "failures",
    "plain",
    "print_json",
    "print_table",
    "progress",
    "say",
    "sentence_of",
    "short",
    "tolerate_encodings",
    "warn",
]

MOST_LETTERS = 600
LEAST_COLUMNS = 40


# --------------------------------------------------------------------------------------- text from data


def plain(text: Any) -> str:
    """Text that only shows itself: one line, without anything that moves a cursor or turns the writing around.

    Line breaks, tabs and odd blanks become a blank. All else that does not print (escape sequences, directions, marks
    of no width, lone surrogates) is spelled as Python spells it, such as ``\\x1b`` or ``\\u202e``.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else letter.encode("unicode_escape").decode("ascii")
        for letter in line
    )


def clipped(text: str, most: int = MOST_LETTERS) -> str:
    """The text, its middle left out where it has more than ``most`` letters."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 5]} ... {text[-(most // 3) :]}"


def short(value: Any) -> str:
    """A value as a sentence quotes it: text as its repr, clipped."""
    return clipped(plain(repr(value) if isinstance(value, str) else value), 60)


def say(text: str, err: bool = False) -> None:
    """Print one line of text in which there may be data."""
    click.echo(plain(text), err=err)


def warn(text: str) -> None:
    """Print one line of warning on stderr."""
    say(f"Warning: {clipped(' '.join(plain(text).split()))}", err=True)


def tolerate_encodings() -> None:
    """Let the streams spell what their encoding lacks (``PYTHONIOENCODING=ascii``) instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# --------------------------------------------------------------------------------------- tables


def console_of() -> Console:
    """The console that all tables go to: nothing in a cell is markup, an emoji's name or a number to be coloured."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    if made.width < LEAST_COLUMNS:  # COLUMNS=1 leaves no room for a letter
        made.width = LEAST_COLUMNS
    return made


def cell(text: Any, style: str = "") -> Text:
    """A cell or a title of a table that shows ``text`` as it is, whatever console prints it."""
    from rich.text import Text

    return Text(plain(text), style=style)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None, clip: str | None = None
) -> None:
    """Print rows as a table; columns of numbers are set to the right.

    Parameters
    ----------
    headings : sequence of str
    rows : sequence of sequence
        A cell may have lines of its own, as a list.
    title : str or None, default None
        A line above.
    clip : str or None, default None
        Heading of the column that is cut to the width of the terminal (others are never cut).
    """
    from rich import box
    from rich.table import Table

    console = console_of()
    if title is not None:
        console.print(cell(title, "bold"))
    table = Table(box=box.SIMPLE)
    for place, heading in enumerate(headings):
        numbers = bool(rows) and all(plain(row[place])[:1].isdigit() for row in rows)
        justify: Any = "right" if numbers else "left"
        if heading == clip:
            room = _room(headings, rows, place, console.width)
            table.add_column(cell(heading), justify=justify, no_wrap=True, overflow="ellipsis", max_width=room)
        else:
            table.add_column(cell(heading), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_lines(part) for part in row))
    console.print(table)


def _room(headings: Sequence[str], rows: Sequence[Sequence[Any]], place: int, width: int) -> int:
    """Columns of the terminal that the other columns, with a blank on both sides of each, leave for one of them."""
    others = [number for number in range(len(headings)) if number != place]
    taken = sum(2 + max(_lines(row[number]).cell_len for row in [headings, *rows]) for number in others)
    return max(10, width - taken - 4)


def _lines(part: Any) -> Text:
    from rich.text import Text

    return Text("\n").join(map(cell, part)) if isinstance(part, list) else cell(part)


# --------------------------------------------------------------------------------------- failures


def failures(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command: a failure is one sentence on stderr and exit code 1; ``--debug`` shows the traceback.

    It adds ``--debug`` and takes it away again before the function is called. Wrong usage (exit code 2) stays click's.
    Warnings are one line each on stderr. Ctrl-C and SIGTERM end it with one sentence (what is kept, and the command
    that goes on) and exit code 130 or 143.
    """

    @functools.wraps(function)
    def guarded(*positional: Any, debug: bool = False, **keywords: Any) -> Any:
        tolerate_encodings()
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                with interruptible() as caught:
                    return function(*positional, **keywords)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except KeyboardInterrupt as stop:
                _leave(stop)
            except Exception as error:
                if caught:  # a library turned the signal into an error of its own
                    _leave(Interrupted(caught[0]))
                if debug:
                    raise
                say(f"Error: {sentence_of(error)}", err=True)
                raise click.exceptions.Exit(1) from error

    return click.option("--debug", is_flag=True, help="Show the traceback of a failure.")(guarded)


def leave(stop: Interrupted) -> NoReturn:
    """End the program that a signal stopped, outside of any command's own work."""
    if is_main_process():
        say(farewell(stop), err=True)
    raise SystemExit(stop.exit_code)


def _leave(stop: KeyboardInterrupt) -> NoReturn:
    """End a command that a signal stopped: one sentence, and the exit code that a shell gives such a program."""
    if is_main_process():
        say(farewell(stop), err=True)
    code = stop.exit_code if isinstance(stop, Interrupted) else Interrupted().exit_code
    leave_at_once(code)
    raise click.exceptions.Exit(code) from stop


def sentence_of(error: BaseException) -> str:
    """One sentence that says what went wrong, never longer than a few lines."""
    text = clipped(" ".join(plain(error).split()))
    if isinstance(error, MemoryError | RuntimeError) and _is_about_memory(error, text):
        return f"there is not enough memory: {text or 'an allocation failed'}"
    if isinstance(error, RecursionError):
        return f"something is nested too deep to be read: {text}"
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f": {short_path(error.filename)}"
        return clipped(plain(error.strerror)) + where
    if isinstance(error, UnicodeError):
        return f"some text cannot be read or written in its encoding: {text}"
    ours = isinstance(error, ValueError | OSError | ImportError | RuntimeError)
    library = type(error).__module__.partition(".")[0]
    if ours and text and library in {"builtins", *_PACKAGES}:
        return text
    if library not in {"builtins", *_PACKAGES}:
        return f"{library.lstrip('_')} could not go on: {text or 'it does not say why'} ({_place(error)})"
    said = f"{text} is missing" if isinstance(error, KeyError) else text or "no message"
    return f"unexpected data or a fault of this program: {said} ({_place(error)})"


_PACKAGES = ("recbase", "semtok", "seqrec", "genrec")
_HOME = Path(__file__).parents[1]


def _is_about_memory(error: BaseException, text: str) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in text.lower() or "allocate memory" in text


def _place(error: BaseException) -> str:
    """Line of the toolkit that failed, for whoever reports it."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        file = Path(frame.filename)
        if file.is_relative_to(_HOME) and file.relative_to(_HOME).parts[0] in _PACKAGES:
            return f"in {file.relative_to(_HOME).as_posix()}, line {frame.lineno}; --debug shows more"
    return "--debug shows where"


def short_path(path: Any) -> str:
    """A path as a sentence names it."""
    return clipped(plain(path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path), 300)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    warn(str(message))


# --------------------------------------------------------------------------------------- JSON


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; numbers that JSON lacks (NaN, infinity) become null.

    Text is exact: what does not print, or what the encoding of stdout lacks, is escaped as JSON escapes.
    """
    text = json.dumps(_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    text = "".join(
        letter if letter == "\n" or letter.isprintable() else json.dumps(letter)[1:-1] for letter in text
    ) if not text.replace("\n", "").isprintable() else text  # fmt: skip
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_jsonable(value), indent=2, allow_nan=False)
    click.echo(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(part) for part in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


# --------------------------------------------------------------------------------------- progress


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(description), total=total, text="", rate="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            speed = bar.tasks[0].speed
            fields: dict[str, Any] = {"rate": f"{speed:,.0f}/s" if speed else ""}
            if text is not None:
                fields["text"] = plain(text)
            bar.update(task, advance=steps, **fields)

        yield advance
