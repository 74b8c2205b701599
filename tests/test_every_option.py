"""Every option of every command against values that mean nothing, by walking the commands as click has them.

A value is accepted only where `_justified` can say what it means; a new option needs a range, choices, a rule, or a line
in `LOOKED_UP`, or these tests fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cli import main
from recbase.arguments import Range
from recbase.options import Option

# Words that a command looks up before any long work, and what in: each has a test of its own with the command.
LOOKED_UP = {
    "attribute_columns": "columns of the data set",
    "category": "categories of the public set",
    "columns": "pairs NAME=COLUMN of known names",
    "conditions": "measures of a report and a finite number",
    "data": "built-in and public sets, folders, files",
    "format": "formats of files",
    "history": "items of the run",
    "method": "methods of the file",
    "paths": "folders and files",
    "recipe": "recipes of the model",
    "source": "built-in and public sets, folders, files, the hub",
    "tokenizer_recipe": "recipes of the tokenizer",
    "verify": "built-in and public sets, folders, files",
    "views": "columns of the data set",
}
NUMBERS = [
    "0",
    "-1",
    "1",
    "2.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e20",
    "1e999999",
    "9" * 5000,
    "1e-400",
    "１２",
    "0x10",
]
WORDS = ["", " ", "word", "../x", "a\0b", "\x1b[31m", "a\u202eb", "a\nb", "w" * 5000, "ünïcode"]
LISTS = [",", "1,", "1,,2", "1,word", "0,0", "a,a", "1,1e400", "8,8", ",".join(["3"] * 5000)]
VALUES = NUMBERS + WORDS + LISTS


def _commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command, info_name="x")
        for name in command.list_commands(context):
            made = command.get_command(context, name)
            assert made is not None
            yield from _commands(made, (*names, name))
    else:
        yield names, command


COMMANDS = dict(_commands(main))


def _parameters(command: click.Command) -> list[tuple[click.Parameter, Option]]:
    """Parameters that take a value, and what is known of them."""
    valued = [part for part in command.params if not getattr(part, "is_flag", False)]
    unknown = [part.name for part in valued if not isinstance(getattr(part.type, "option", None), Option)]
    assert not unknown, f"{command.name}: {unknown} are not made with recbase.options, so nothing checks them"
    return [(part, part.type.option) for part in valued]  # type: ignore[attr-defined]


def _taken(parameter: click.Parameter, context: click.Context, text: str) -> tuple[bool, Any]:
    """Whether click takes the text, and as what; any other exception than wrong usage is a fault."""
    try:
        return True, parameter.type.convert(text, parameter, context)
    except click.UsageError as error:
        said = error.format_message()
        assert len(said) < 700, said
        assert said.isprintable(), said
        return False, None


def _one_justified(option: Option, value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float) and not isinstance(option.rule, Range):
        return False
    if isinstance(option.rule, Range) and isinstance(value, int | float):
        low, high = option.rule.least, option.rule.most
        inside = low <= value <= high and not (option.rule.above and value == low)
        return math.isfinite(value) and inside and not (option.rule.below and value == high)
    if option.choices:
        return value in option.choices
    printable = str(value).isprintable() and str(value).strip() != ""
    if option.kind == "path":  # a path need not exist: a file that is missing is named when it is looked for
        return printable and all(len(part) <= 255 for part in str(value).split("/"))
    if option.rule is not None:
        return printable and option.rule.refusal(value) is None and ".." not in str(value).split("/")
    return printable and option.name in LOOKED_UP


def _justified(option: Option, text: str, value: Any) -> bool:
    """Whether the value that a text was taken as means something for this option."""
    if option.default == () and text.strip() == "":
        return bool(value == ())
    if not isinstance(value, tuple):
        return _one_justified(option, value)
    distinct = option.kind != "strs" or option.repeats or len(set(value)) == len(value)
    few = len(value) <= 1024 or option.repeats
    return 0 < len(value) and few and distinct and all(_one_justified(option, part) for part in value)


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_values_that_mean_nothing_are_refused_in_one_sentence(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    context = click.Context(command, info_name=" ".join(names))
    for parameter, option in _parameters(command):
        for text in VALUES:
            taken, value = _taken(parameter, context, text)
            assert not taken or _justified(option, text, value), (option.spelled, text[:40], value)


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_numbers_have_a_range_that_holds_the_default_and_is_said(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    context = click.Context(command, info_name=" ".join(names))
    for parameter, option in _parameters(command):
        if option.kind not in {"int", "float", "ints", "floats", "mixed"}:
            continue
        assert isinstance(option.rule, Range), f"{option.spelled} of {' '.join(names)} has no range"
        assert option.refusal(option.default) is None, (option.spelled, option.default)
        record = parameter.get_help_record(context)
        assert record is not None
        assert option.rule.words in record[1], record
        if option.rule.refusal(0) is None and option.name != "seed":
            assert re.search(r"(?<![\d.,])0(?![\d.,]*\d)", record[1].replace(option.rule.words, "")), record
        least, most = option.rule.least, option.rule.most
        step = 1 if option.kind.startswith("int") else 1e-6
        for number, held in ((least, not option.rule.above), (least - step, False), (most, not option.rule.below),
                             (most * 1.001 + step, False)):  # fmt: skip
            text = repr(int(number)) if option.kind.startswith("int") else repr(float(number))
            assert _taken(parameter, context, text)[0] == held, (option.spelled, text)


@pytest.mark.parametrize("names", [("seqrec", "train", "sasrec"), ("genrec", "train", "tiger"), ("semtok", "fit")])
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--seed", "inf"], "--seed must be a whole number, got 'inf'"),
        (["--seed", "1e400"], "--seed must be at most 1e30, got 1e400"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--levels", "1e20"], "--levels must be at most 1,024, got 1e20"),
        (["--layers", "1e20"], "--layers must be at most 256, got 1e20"),
        (["--temperature", "inf"], "--temperature must be a finite number, got 'inf'"),
        (["--max-seconds", "-1"], "--max-seconds must be above 0, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--data", "a\0b"], "--data holds a control character: 'a\\x00b'"),
        (["--out", ""], "--out is empty: ''"),
        (["--monitor", "bogus"], "--monitor must be recall, ndcg or mrr at 5, 10 or 20"),
        (["--unique", "bogus"], "'bogus' is not one of none, suffix"),
        (["--encoder", "bogus"], "--encoder must be tfidf, minilm, owner/name on the hub"),
    ],
)
def test_sentences_name_option_bound_and_value(names: tuple[str, ...], typed: list[str], said: str) -> None:
    command = COMMANDS[names]
    if typed[0] not in {flag for part in command.params for flag in part.opts}:
        pytest.skip(f"{' '.join(names)} has no {typed[0]}")
    result = CliRunner().invoke(main, [*names, *typed])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 4  # usage, where help is, blank, the sentence
