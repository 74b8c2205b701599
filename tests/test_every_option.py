"""Every option of every command against values that mean nothing, by walking the commands as click has them.

A value is accepted only where `_justified` can say what it means; a new option needs a range, choices, a rule, or a
line in `LOOKED_UP`, or these tests fail.
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
from genrec import REGISTRY
from recbase.arguments import Range
from recbase.cli.options import Option, recipes_from
from seqrec import MODELS as SEQREC

GENREC = {name: entry.target for name, entry in REGISTRY.items()}

# Words that a command looks up before any long work, and what in: each has a test of its own with the command.
LOOKED_UP = {
    "attribute_columns": "columns of the data set",
    "category": "categories of the public set",
    "columns": "pairs NAME=COLUMN of known names",
    "conditions": "measures of a report and a finite number",
    "data": "built-in and public sets, folders, files",
    "exclude": "items of the run",
    "format": "formats of files",
    "header": "names of columns",
    "history": "items of the run",
    "method": "methods of the file",
    "only": "items of the run",
    "paths": "folders and files",
    "recipe": "recipes of the model",
    "time_format": "codes of strptime",
    "stage1_recipe": "recipes of DIN",
    "source": "built-in and public sets, folders, files, the hub",
    "tokenizer_recipe": "recipes of the tokenizer",
    "users": "all, or a file of ids",
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
LISTS = [",", "1,", "1,,2", "1,word", "0,0", "a,a", "1,1e400", "8,8", ",".join(["3"] * 1500)]
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
SENTENCES = [
    (["--seed", "inf"], "--seed must be a whole number, got 'inf'"),
    (["--seed", "1e400"], "--seed must be at most 1e30, got 1e400"),
    (["--seed", "-1"], "--seed must be at least 0, got -1"),
    (["--levels", "1e20"], "--levels must be at most 1,024, got 1e20"),
    (["--layers", "1e20"], "--layers must be at most 256, got 1e20"),
    (["--restarts", "1e20"], "--restarts must be at most 1,000, got 1e20"),
    (["--temperature", "inf"], "--temperature must be a finite number, got 'inf'"),
    (["--max-seconds", "-1"], "--max-seconds must be above 0, got -1"),
    (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    (["--data", "a\0b"], "--data holds a control character: 'a\\x00b'"),
    (["--out", ""], "--out is empty: ''"),
    (["--monitor", "bogus"], "--monitor must be recall, ndcg or mrr at 5, 10 or 20"),
    (["--unique", "bogus"], "'bogus' is not one of none, suffix"),
    (["--encoder", "bogus"], "--encoder must be tfidf, minilm, owner/name on the hub"),
]


def _parameters(command: click.Command) -> list[tuple[click.Parameter, Option]]:
    """Parameters that take a value, and what is known of them."""
    valued = [part for part in command.params if not getattr(part, "is_flag", False)]
    unknown = [part.name for part in valued if not isinstance(getattr(part.type, "option", None), Option)]
    assert not unknown, f"{command.name}: {unknown} are not made with recbase.cli.options, so nothing checks them"
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
    return len(value) > 0 and few and distinct and all(_one_justified(option, part) for part in value)


def _distinct() -> dict[Option, tuple[click.Parameter, click.Context]]:
    """Every option once, in the first command that has it just so."""
    found: dict[Option, tuple[click.Parameter, click.Context]] = {}
    for names, command in COMMANDS.items():
        context = click.Context(command, info_name=" ".join(names))
        for parameter, option in _parameters(command):
            found.setdefault(option, (parameter, context))
    return found


DISTINCT = _distinct()


@pytest.mark.parametrize("text", VALUES, ids=lambda text: repr(text[:20]))
def test_values_that_mean_nothing_are_refused_in_one_sentence(text: str) -> None:
    for option, (parameter, context) in DISTINCT.items():
        taken, value = _taken(parameter, context, text)
        assert not taken or _justified(option, text, value), (option.spelled, value)


def test_numbers_have_a_range_that_holds_the_default_and_is_said() -> None:
    for option, (parameter, context) in DISTINCT.items():
        if option.kind not in {"int", "float", "ints", "floats", "mixed"}:
            continue
        where = f"{option.spelled} of {context.info_name}"
        assert isinstance(option.rule, Range), f"{where} has no range"
        assert option.refusal(option.default) is None, f"{where} is {option.default} by default"
        record = parameter.get_help_record(context)
        assert record is not None
        assert option.rule.words in record[1], record
        if option.rule.refusal(0) is None and option.name != "seed":
            assert re.search(r"(?<![\d.,])0(?![\d.,]*\d)", record[1].replace(option.rule.words, "")), record


def test_both_ends_of_a_range_are_where_it_says() -> None:
    for option, (parameter, context) in DISTINCT.items():
        if not isinstance(option.rule, Range):
            continue
        whole = option.kind.startswith("int")
        least, most, step = option.rule.least, option.rule.most, 1 if whole else 1e-6
        for number, held in (
            (least, not option.rule.above),
            (least - step, False),
            (most, not option.rule.below),
            (most * 1.001 + step, False),
        ):
            text = repr(int(number)) if whole else repr(float(number))
            assert _taken(parameter, context, text)[0] == held, (option.spelled, text)


def test_recipes_stay_inside_the_ranges() -> None:
    for names, command in COMMANDS.items():
        if names[1:2] != ("train",):
            continue
        target = (SEQREC if names[0] == "seqrec" else GENREC)[names[2]]
        options = {option.name: option for _, option in _parameters(command)}
        for recipe, values in recipes_from(target).items():
            for name, value in values.items():
                if name in options:
                    assert options[name].refusal(value) is None, (names, recipe, name, value)


@pytest.mark.parametrize(
    ("names", "typed", "said"),
    [
        (names, typed, said)
        for names in (("seqrec", "train", "sasrec"), ("genrec", "train", "tiger"), ("semtok", "fit"))
        for typed, said in SENTENCES
        if typed[0] in {flag for part in COMMANDS[names].params for flag in part.opts}
    ],
)
def test_sentences_name_option_bound_and_value(names: tuple[str, ...], typed: list[str], said: str) -> None:
    result = CliRunner().invoke(main, [*names, *typed])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 4  # usage, where help is, blank, the sentence
