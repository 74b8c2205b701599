"""Commands of the toolkit as child processes that start in milliseconds, to be killed, raced and starved of disk.

The process that imports this loads the packages once and never computes in it, so that a forked child starts with
everything imported and with no threads of ours. A child has its own session, its output in a pipe and its own limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import accelerate  # noqa: F401
import numpy  # noqa: F401
import polars  # noqa: F401
import safetensors.torch  # noqa: F401
import sklearn.decomposition
import sklearn.feature_extraction.text  # noqa: F401
import torch  # noqa: F401

import genrec.cli
import recbase.evaluate.ranking
import recbase.train.loop  # noqa: F401
import semtok.cli
import seqrec.cli
import seqrec.training

MAINS = {"semtok": semtok.cli.main, "seqrec": seqrec.cli.main, "genrec": genrec.cli.main}


@dataclass
class Child:
    """A command that runs: its process, its output and what it was asked."""

    pid: int
    words: list[str]
    pipe: int
    started: float
    code: int | None = None
    output: str = ""

    def wait(self, seconds: float = 300.0) -> int:
        """Exit code as a shell gives it (128 + signal if it was killed); AssertionError if it hangs."""
        if self.code is None:
            deadline = time.monotonic() + seconds
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    raise AssertionError(f"{self.words} hangs: no end after {seconds:.0f} s")
                time.sleep(0.002)
            with os.fdopen(self.pipe, encoding="utf-8", errors="replace") as printed:
                self.output = printed.read()
            code = os.waitstatus_to_exitcode(status)
            self.code = 128 - code if code < 0 else code
        return self.code

    def strike(self, number: int) -> None:
        """Send a signal, as long as it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def start(words: Sequence[str], largest_file: int | None = None) -> Child:
    """Start a command; no file it writes may grow over ``largest_file`` bytes, as on a disk that is full there.

    Both its streams go to a pipe of 1 MiB, since a file would be under the same limit.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, list(words), reading, time.monotonic())
    code = 70
    try:
        os.setsid()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        try:
            MAINS[words[0]](list(words[1:]), prog_name=words[0])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise AssertionError("not reached")


def run(words: Sequence[str], largest_file: int | None = None) -> Child:
    """Start a command and wait for its end."""
    child = start(words, largest_file)
    child.wait()
    return child


def look(function: Callable[..., Any], *arguments: Any) -> Any:
    """The JSON-able result of a function, called in a child; ``{"error": sentence}`` if it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            answer = function(*arguments)
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writing, "w") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"error": "the reader died"}
