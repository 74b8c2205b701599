"""Commands in processes of their own that are sent a signal at a moment one can wait for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT = 60.0  # seconds for a moment to come: machines that test many things at once are slow


def command_of(words: tuple[Any, ...]) -> list[str]:
    return [sys.executable, "-m", f"{words[0]}.cli", *map(str, words[1:])]


def stopped(number: int, when: Callable[[], bool], *words: Any) -> subprocess.CompletedProcess[str]:
    """Run a command (``"seqrec", "train", ...``), send it a signal as soon as ``when()``, and wait for its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command_of(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        latest = time.monotonic() + WAIT
        while not when():
            if process.poll() is not None or time.monotonic() > latest:
                process.kill()
                raise AssertionError(f"the moment never came: {process.communicate()}")
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def stopped_after(number: int, seconds: float, *words: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and send it a signal after some seconds, wherever it is then, unless it has ended."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command_of(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            out, err = process.communicate(timeout=WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ran(*words: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which has to be a good one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command_of(words), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def contents(folder: Path, without: str = "training") -> dict[str, str]:
    """Hash of every file in a folder, by its name; a sub-folder may be left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not name.startswith(f"{without}/")
    }
