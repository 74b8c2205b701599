"""Ctrl-C and SIGTERM: one exception, one sentence, one exit code, for every command."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from genrec.cli import main as genrec
from recbase.cli.options import failures
from recbase.train.interruption import Interrupted, collected_signals, command_line, farewell, interruptible
from semtok.cli import main as semtok
from seqrec.cli import main as seqrec


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        elif command is not None:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("name", "group"), [("semtok", semtok), ("seqrec", seqrec), ("genrec", genrec)])
def test_every_command_is_guarded(name: str, group: click.Group) -> None:
    found = dict(commands(group, name))
    assert len(found) > 5
    for path, command in found.items():  # `failures` adds --debug and nothing else does
        assert "debug" in {parameter.name for parameter in command.params}, path


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_a_command_with_its_code_and_one_sentence(
    number: int, code: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "/usr/bin/semtok", "report", "a folder"])

    @click.command()
    @failures
    def report() -> None:
        signal.raise_signal(number)
        pytest.fail("it went on")

    before = signal.getsignal(number)
    result = CliRunner().invoke(report, [])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"Interrupted by {name}: what was complete is kept, nothing is half-written; "
        "start again with: semtok report 'a folder'"
    ]
    assert signal.getsignal(number) == before


def test_a_signal_that_a_library_or_a_finalizer_swallows_still_ends_the_command() -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    @click.command()
    @failures
    def silent() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "unraisablehook", lambda *_: None)  # Python prints what it drops
            made = Finalized()
            del made
            gc.collect()

    @click.command()
    @failures
    def turned() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("the engine failed") from error

    assert CliRunner().invoke(silent, []).exit_code == 143
    assert CliRunner().invoke(turned, []).exit_code == 130


def test_signals_are_collected_once_and_heard_in_the_background_of_a_script() -> None:
    caught: list[int] = []

    def twice() -> None:
        nonlocal caught
        with collected_signals() as caught:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # a second one acts as it would have outside

    with pytest.raises(Interrupted), interruptible():
        twice()
    assert caught == [15]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted), interruptible():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("words", "resume", "line"),
    [
        (["/env/bin/python", "/env/bin/seqrec", "train", "sasrec"], True, "seqrec train sasrec --resume"),
        (["/env/bin/python", "/env/bin/seqrec", "train", "a b", "--resume"], True, "seqrec train 'a b' --resume"),
        (["python", "-X", "dev", "-m", "seqrec.cli", "train"], False, "python -m seqrec.cli train"),
        (["python", "cli.py", "seqrec", "train"], True, "python cli.py seqrec train --resume"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_was_typed(
    words: list[str], resume: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert command_line(resume) == line


def test_what_is_done_needs_no_command() -> None:
    assert farewell(Interrupted(15, "the run is saved in runs/a", "no")) == (
        "Interrupted by SIGTERM: the run is saved in runs/a"
    )
