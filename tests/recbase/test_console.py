"""What a command shows: plain text, tables, sentences of failures, JSON, progress."""

from __future__ import annotations

import io
import json
import sys

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from recbase.console import (
    clipped,
    failures,
    plain,
    print_json,
    print_table,
    progress,
    sentence_of,
    short,
    warn,
)


@given(st.text(st.characters()))
def test_plain_text_prints_and_keeps_what_prints(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
    if text.isprintable():
        assert shown == text


def test_plain_spells_what_does_not_print() -> None:
    assert plain("a\tb\r\nc\u2028d\u00a0e") == "a b  c d e"
    assert plain("\x1b[2J\u202e\u2066\u200b\ud800") == r"\x1b[2J\u202e\u2066\u200b\ud800"
    assert plain("[/x] :smile: 漢字 é") == "[/x] :smile: 漢字 é"
    assert clipped("a" * 400 + "b" * 400, 30) == "a" * 15 + " ... " + "b" * 10
    assert short("x\n" * 100) == "'x\\nx\\nx\\nx\\nx\\nx\\nx\\nx\\nx\\nx\\nx\\nx ... nx\\nx\\nx\\nx\\nx\\nx\\n'"


def test_tables_take_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = [("1", "[/b] [red]x", ["one [i]", "two"]), ("20", ":smile:" + "y" * 100, "\x1b[31m")]
    print_table(("n", "title", "[rest]"), rows, "[/title]", clip="title")
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "[/title]"
    assert "[rest]" in lines[2]
    assert "1   [/b] [red]x" in lines[4]
    assert "one [i]" in lines[4]
    assert "two" in lines[5]
    assert ":smile:yyy" in lines[6]
    assert "…" in lines[6]
    assert r"\x1b[31m" in lines[6]
    assert all(len(line) <= 60 for line in lines)


class _LibraryError(Exception):
    """An exception of a library."""


_LibraryError.__module__ = "faiss.swigfaiss"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("levels is 0,\n  expected 1"), "levels is 0, expected 1"),
        (FileNotFoundError(2, "No such file or directory", "a\nb"), "No such file or directory: a b"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 9 TiB"), "there is not enough memory: Unable to allocate 9 TiB"),
        (MemoryError(), "there is not enough memory: an allocation failed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
         "there is not enough memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        (RecursionError("too deep"), "something is nested too deep to be read: too deep"),
        (KeyError("sizes"), "unexpected data or a fault of this program: 'sizes' is missing (--debug shows where)"),
        (TypeError("bad"), "unexpected data or a fault of this program: bad (--debug shows where)"),
        (OverflowError(), "unexpected data or a fault of this program: no message (--debug shows where)"),
        (pl.exceptions.ComputeError("wrong"), "polars could not go on: wrong (--debug shows where)"),
        (_LibraryError("Error in void"), "faiss could not go on: Error in void (--debug shows where)"),
        (ValueError("title '\x1b[31m\u202e'"), r"title '\x1b[31m\u202e'"),
    ],
)  # fmt: skip
def test_every_failure_is_one_sentence(error: Exception, said: str) -> None:
    assert sentence_of(error) == said


def test_a_fault_says_where_the_toolkit_was() -> None:
    from recbase.evaluate.metrics import parse_metric

    with pytest.raises(AttributeError) as raised:
        parse_metric(None)  # type: ignore[arg-type]
    assert sentence_of(raised.value).startswith("unexpected data or a fault of this program: ")
    assert "(in recbase/evaluate/metrics.py, line " in sentence_of(raised.value)


def test_long_sentences_are_clipped_in_the_middle() -> None:
    said = sentence_of(ValueError("begin " + "x" * 100_000 + " end"))
    assert len(said) <= 600
    assert said.startswith("begin xxx")
    assert said.endswith("xxx end")


@pytest.mark.filterwarnings("always")
def test_exit_codes_and_warnings() -> None:
    @click.command()
    @click.argument("kind")
    @failures
    def fail(kind: str) -> None:
        import warnings

        warnings.warn("title '\x1b[2J'\nis odd", stacklevel=1)
        if kind == "stop":
            raise KeyboardInterrupt
        if kind == "fail":
            raise ValueError("no")
        if kind == "usage":
            raise click.UsageError("no")

    codes = {kind: CliRunner().invoke(fail, [kind]).exit_code for kind in ("none", "fail", "usage", "stop")}
    assert codes == {"none": 0, "fail": 1, "usage": 2, "stop": 130}
    assert CliRunner().invoke(fail, ["none"]).stderr == "Warning: title '\\x1b[2J' is odd\n"


def test_json_is_exact_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"title": "\x1b\u202e\u2028 漢字 \ud800", "n": np.float32("nan")}
    print_json(value)
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert "漢字" in shown
    assert json.loads(shown) == {"title": value["title"], "n": None}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_takes_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with progress("encode [/b] \u202e", 2) as advance:
        advance(1, text="loss [/x]")
    assert "[/b] \\u202e" in shown.getvalue()
    assert "loss [/x]" in shown.getvalue()


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn("item '\x1b[31m'\nis unknown")
    assert capsys.readouterr().err == "Warning: item '\\x1b[31m' is unknown\n"
