"""Few dials: the help shows the options people use, and all of them when it is asked to."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from cli import main
from genrec import MODELS as GENERATORS
from semtok import TOKENIZERS
from seqrec import REGISTRY

RANKERS = [name for name, entry in REGISTRY.items() if entry.kind == "trained"]
COMMANDS = [
    *(["semtok", "fit", name] for name in TOKENIZERS),
    *(["seqrec", "train", name] for name in RANKERS),
    *(["genrec", "train", name] for name in GENERATORS),
]
OF_HELP = {"--help", "--help-all", "--debug"}


def options_shown(words: list[str], flag: str) -> set[str]:
    done = CliRunner().invoke(main, [*words, flag], terminal_width=100)
    assert done.exit_code == 0, done.output
    found = re.findall(r"^  (?:-\w, )?(--[\w-]+)", done.output, re.MULTILINE)
    assert len(found) == len(set(found))
    return set(found) - OF_HELP


def command_of(words: list[str]) -> click.Command:
    """The command that the words name."""
    context, command = click.Context(main, info_name="cli"), main
    rest = list(words)
    while rest:
        _, command, rest = command.resolve_command(context, rest)
        context = click.Context(command, parent=context, info_name="x")
    return command


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_few_options_and_help_all_shows_every_one(words: list[str]) -> None:
    few, every = options_shown(words, "--help"), options_shown(words, "--help-all")
    command = command_of(words)
    declared = {one.opts[-1] for one in command.params if isinstance(one, click.Option)}
    assert every == declared - OF_HELP
    assert few < every or len(every) <= 25
    assert 8 <= len(few) <= 25
    assert {"--data", "--out", "--seed"} <= few


def test_a_method_has_its_own_options_alone() -> None:
    assert "--rotation-steps" in options_shown(["semtok", "fit", "opq"], "--help-all")
    assert "--rotation-steps" not in options_shown(["semtok", "fit", "pq"], "--help-all")
    refused = CliRunner().invoke(main, ["semtok", "fit", "pq", "--rotation-steps", "3"])
    assert refused.exit_code == 2
    assert "No such option '--rotation-steps'" in refused.stderr


def test_an_unknown_method_is_named() -> None:
    refused = CliRunner().invoke(main, ["semtok", "fit", "bogus"])
    assert refused.exit_code == 2
    assert "unknown method 'bogus'; known: pq, opq," in refused.stderr


def test_the_method_may_be_a_word_or_an_option(tmp_path) -> None:
    settings = ["--data", "synthetic", "--levels", "2", "--codebook-size", "8", "--quiet"]
    for name, words in {"word": ["fit", "rq"], "option": ["fit", "--method", "rq"]}.items():
        done = CliRunner().invoke(main, ["semtok", *words, *settings, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    one, other = (next((tmp_path / name).glob("codes.*.parquet")) for name in ("word", "option"))
    assert one.read_bytes() == other.read_bytes()
