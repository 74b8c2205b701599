"""How a command ends that is told to stop: Ctrl-C and SIGTERM are one exception, one sentence and one exit code."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

__all__ = ["Interrupted", "collected_signals", "command_line", "ending_at_signals", "farewell", "interruptible"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNTOLD = "what was complete is kept, nothing is half-written"


class Interrupted(KeyboardInterrupt):
    """Work that a signal stopped.

    Attributes
    ----------
    number : int
        The signal: 2 is Ctrl-C, 15 SIGTERM.
    kept : str
        What the user still has, as the end of a sentence.
    goes_on : {"again", "resume", "no"}
        Whether the same command starts again, goes on from there with ``--resume``, or has nothing left to do.
    """

    def __init__(
        self, number: int = signal.SIGINT, kept: str = "", goes_on: Literal["again", "resume", "no"] = "again"
    ) -> None:
        super().__init__(kept)
        self.number, self.kept, self.goes_on = int(number), kept, goes_on

    @property
    def exit_code(self) -> int:
        """Exit code that a shell gives a program that a signal ended: 130 or 143."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Raise `Interrupted` in the main thread where SIGTERM or Ctrl-C arrives, so that cleaning up still happens.

    Yields the signals that came. One whose exception was swallowed (Python drops what is raised while an object is
    taken away) is raised at the end of the block.
    """
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        raise Interrupted(number)

    with _handling(stop):
        yield caught
    if caught:
        raise Interrupted(caught[0])


@contextmanager
def ending_at_signals(leave: Callable[[Interrupted], NoReturn]) -> Iterator[None]:
    """Call ``leave`` where a signal arrives: for what a command does before and after its own work.

    click would take the exception for Ctrl-C at a prompt, and end with 1.
    """
    with _handling(lambda number, frame: leave(Interrupted(number))):
        yield


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of being stopped; a second one acts as it would have without us."""
    caught: list[int] = []
    with _handling(lambda number, frame: catch(number)) as restore:

        def catch(number: int) -> None:
            caught.append(number)
            restore()

        yield caught


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[Callable[[], None]]:
    """Have ``handler`` called for both signals; yields what puts the earlier handlers back."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may set handlers
        return
    # A script's shell starts what it puts in the background with Ctrl-C ignored; `kill -INT` is meant there too.
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)

    for number in before:
        signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()


def farewell(stop: KeyboardInterrupt) -> str:
    """Return the sentence for a command that was stopped: by what, what is kept, and the command that goes on."""
    told = stop if isinstance(stop, Interrupted) else Interrupted()
    name = "Ctrl-C" if told.number == signal.SIGINT else signal.Signals(told.number).name
    said = f"Interrupted by {name}: {told.kept or _UNTOLD}"
    if told.goes_on == "no":
        return said
    verb = "go on" if told.goes_on == "resume" else "start again"
    return f"{said}; {verb} with: {command_line(told.goes_on == 'resume')}"


def command_line(resume: bool = False) -> str:
    """Return the running command as it was typed, with ``--resume`` where it has to be added."""
    words = list(sys.orig_argv[1:])
    while words and words[0].startswith("-") and words[0] != "-m":  # options of Python itself
        del words[: 2 if words[0] in ("-X", "-W") else 1]
    if words[:1] == ["-m"] or (words and words[0].endswith(".py")):
        words = ["python", *words]
    elif words:
        words[0] = Path(words[0]).name
    if resume and "--resume" not in words:
        words.append("--resume")
    line = shlex.join(words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        line += " (after the same launcher)"
    return line
