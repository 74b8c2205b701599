"""Command-line options from signatures: click options, the one check of what was typed, and the shared flags.

`recbase.cli.signatures` reads what a constructor takes; this file turns it into click options, checks every value by
its kind and its range, and fixes the flags that every command shares. It knows no model and no command.

A command is put together like this::

    MODEL = options_from("seqrec.models.sasrec:SASRec")
    TRAIN = options_from("recbase.train.loop:TrainConfig")

    @main.command()
    @add_options(shared("data", "out", "recipe", "json", "quiet"))
    @add_options(MODEL, section="Model")
    @add_options(TRAIN, section="Training")
    @failures
    def train(recipe, **given):
        overrides = recipe_of("seqrec.models.sasrec:SASRec", recipe)
        model = SASRec(**chosen(MODEL, overrides))     # what the user typed, else the recipe, else the default
        config = TrainConfig(**chosen(TRAIN, overrides))
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from recbase.arguments import (
    PATH_PART_BYTES,
    Count,
    EncoderName,
    LearningRate,
    MetricName,
    Range,
    Samples,
    Seconds,
    Seed,
    flaw_of,
    rule_of,
)
from recbase.cli.signatures import (
    Option,
    attribute_of,
    options_from,
    recipe_of,
    recipes_from,
    section_of,
    shown_default,
    summary_of,
    union,
)
from recbase.console import clipped, failures, leave, print_json, progress, short
from recbase.train.interruption import ending_at_signals

__all__ = [
    "Command",
    "Group",
    "Option",
    "add_options",
    "argument",
    "attribute_of",
    "chosen",
    "column_pairs",
    "given",
    "need_paths",
    "failures",
    "options_from",
    "print_json",
    "progress",
    "recipe_of",
    "recipes_from",
    "section_of",
    "shared",
    "summary_of",
    "union",
]


MOST_PARTS = 1_024
MOST_DIGITS = 30


def given(context: click.Context | None = None) -> set[str]:
    """Names of the parameters that the user typed (or set in the environment) for the running command."""
    context = context or click.get_current_context()
    defaults = {None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    return {name for name in context.params if context.get_parameter_source(name) not in defaults}


def chosen(
    options: Iterable[Option], recipe: Mapping[str, Any] | None = None, context: click.Context | None = None
) -> dict[str, Any]:
    """Keyword arguments for a constructor: what the user typed, else what the recipe says, else the default.

    Parameters
    ----------
    options : iterable of Option
        As `options_from` returned them for that constructor; the defaults are taken from here, not from the command,
        whose flag may be shared between several constructors.
    recipe : mapping or None, default None
        As `recipe_of` returned it; names that are no option of this constructor are ignored.
    context : click.Context or None, default None
        The running command.

    Raises
    ------
    click.UsageError
        If a typed value is outside the range that this constructor has for it.
    """
    context = context or click.get_current_context()
    typed = given(context)
    recipe = recipe or {}
    options = list(options)
    for option in options:
        # a flag that several constructors share was checked against the widest of their ranges
        problem = option.refusal(context.params[option.name]) if option.name in typed else None
        if problem is not None:
            raise click.UsageError(f"{option.spelled} must {problem}, got {short(context.params[option.name])}")
    return {
        option.name: context.params[option.name] if option.name in typed else recipe.get(option.name, option.default)
        for option in options
    }


def column_pairs(texts: Iterable[str] | None) -> dict[str, str] | None:
    """Names of columns as ``--columns`` spells them, ``NAME=COLUMN`` each; None where it was not given.

    Raises
    ------
    click.UsageError
        If a text is no such pair.
    """
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    for (name, equal, column), text in zip(pairs, texts, strict=True):
        if not (name.strip() and equal and column.strip()):
            raise click.UsageError(f"--columns has {text!r}; expected NAME=COLUMN, such as user_id=uid")
    return {name.strip(): column.strip() for name, _, column in pairs}


# --------------------------------------------------------------------------------------- click


class _Word(click.ParamType):
    """Parser of one option's value: a number, a word of a choice, a comma-separated list, or ``none``."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = option.kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Placeholder of the value behind the flag in the help."""
        option = self.option
        words = [str(choice) for choice in option.choices]
        if option.kind == "mixed":
            words = ["NUMBER", *(words or ["WORD"])]
        elif option.kind in {"ints", "floats", "strs"}:
            one = {"ints": "INT", "floats": "FLOAT", "strs": "NAME"}[option.kind]
            words = [f"{one},{one},..."]
        elif not words:
            words = [{"str": "TEXT"}.get(option.kind, option.kind.upper())]
        if option.optional and option.default is not None:
            words.append("none")
        return words[0] if len(words) == 1 else "[" + "|".join(words) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Turn the typed text into the value; a default passes unchanged."""
        option = self.option
        if not isinstance(value, str):
            return value
        text = value.strip()
        if option.optional and text.lower() == "none":
            return _NONE
        if text == "" and option.default == ():  # how the default itself is written
            return ()
        flaw = flaw_of(text, option.kind in {"path", "str"})
        if flaw is not None:
            raise click.UsageError(f"{_label(option, param)} {flaw}: {short(value)}", ctx)
        if option.choices and option.kind == "choice":
            return self._choice(text, param, ctx)
        parsed = self._parsed(text)
        problem = parsed.expected if isinstance(parsed, _Refused) else option.refusal(parsed)
        if problem is not None:
            raise click.UsageError(f"{_label(option, param)} must {problem}, got {_quoted(text)}", ctx)
        return _as_python(parsed, option.kind)

    def _choice(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        for choice in self.option.choices:
            if text == str(choice):
                return choice
        self.fail(f"{short(text)} is not one of {', '.join(map(str, self.option.choices))}.", param, ctx)

    def _parsed(self, text: str) -> Any:
        """The value before its range is looked at; a whole number is still a Decimal, so that 1e400 costs nothing."""
        option = self.option
        if option.kind in {"int", "float"}:
            return _number(text, option.kind)
        if option.kind in {"ints", "floats", "strs"}:
            return self._list([part.strip() for part in text.split(",")])
        if option.kind == "mixed":
            words = [choice for choice in option.choices if text == str(choice)]
            number = _number(text, "float")
            if words or (not option.choices and isinstance(number, _Refused)):
                return words[0] if words else text
            if isinstance(number, _Refused):
                return _Refused(f"be a finite number or one of {', '.join(map(str, option.choices))}")
            return _number(text, "int") if re.fullmatch(r"[+-]?[0-9]+", text) else number
        return Path(text) if option.kind == "path" else text

    def _list(self, parts: list[str]) -> Any:
        option = self.option
        if "" in parts or (len(parts) > MOST_PARTS and not option.repeats):
            return _Refused(
                "be parts with a comma between two" + ("" if option.repeats else f", {MOST_PARTS:,} at most")
            )
        values: list[Any] = parts if option.kind == "strs" else [_number(part, option.kind[:-1]) for part in parts]
        refused = [value for value in values if isinstance(value, _Refused)]
        if refused:
            return _Refused(f"be comma-separated numbers, each of which must {refused[0].expected}")
        strange = [part for part in parts if option.choices and part not in option.choices]
        if strange:
            return _Refused(f"be of {', '.join(map(str, option.choices))}")
        if option.kind == "strs" and not option.repeats and any(flaw_of(part) for part in parts):
            return _Refused(f"be names of at most {PATH_PART_BYTES} bytes")
        if option.kind == "strs" and not option.repeats and len(set(parts)) < len(parts):
            return _Refused("name each once")
        return values[0] if option.scalar and len(values) == 1 else tuple(values)


@dataclasses.dataclass(frozen=True)
class _Refused:
    """Complaint of what a text must be that could not be read."""

    expected: str


def _as_python(parsed: Any, kind: str) -> Any:
    if isinstance(parsed, tuple):
        return tuple(_as_python(part, kind) for part in parsed)
    return int(parsed) if isinstance(parsed, Decimal) else parsed


def _label(option: Option, param: click.Parameter | None) -> str:
    return param.human_readable_name if isinstance(param, click.Argument) else option.spelled


class _None:
    """Stands for a typed ``none`` while click would take None for "not given"."""


_NONE = _None()


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")


def _quoted(text: str) -> str:
    return clipped(text, 60) if _NUMBER.fullmatch(text) else short(text)


def _number(text: str, kind: str) -> Decimal | float | _Refused:
    """The number that a text is; 1e6 is how people write a million, so a whole number may be one."""
    text = text.replace("_", "")
    if not _NUMBER.fullmatch(text):
        return _Refused("be a whole number" if kind == "int" else "be a finite number")
    if kind == "float":
        number = float(text)
        return number if math.isfinite(number) else _Refused("be a finite number")
    exact = Decimal(text)
    if exact != exact.to_integral_value():
        return _Refused("be a whole number")
    # int() of a number of a thousand digits is slow, and none is meant
    return exact if exact.adjusted() < MOST_DIGITS else _Refused(f"be at most 1e{MOST_DIGITS}")


class _SectionedOption(click.Option):
    """A click option that knows under which heading of the help it stands."""

    def __init__(self, declarations: list[str], section: str | None = None, **settings: Any) -> None:
        shown = settings.pop("shown", None)
        super().__init__(declarations, **settings)
        self.section = section
        self.shown = shown

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Show the default as a person would write it."""
        extra = super().get_help_extra(ctx)
        if self.shown is not None:
            extra["default"] = self.shown
        rule = self.type.option.rule if isinstance(self.type, _Word) else None
        if isinstance(rule, Range):
            told = rule.zero and not re.search(r"(?<![\d.,])0(?![\d.,]*\d)", self.help or "")
            extra["range"] = rule.words + (f", 0 = {rule.zero}" if told else "")
        return extra

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Put None where ``none`` was typed."""
        value = super().process_value(ctx, value)
        return None if value is _NONE else value


USUAL = frozenset(
    {
        *("data", "out", "recipe", "resume", "as_json", "quiet", "seed", "method"),
        *("embeddings", "codes", "encoder", "views", "unique"),
        *("code_method", "code_levels", "codebook_size", "levels", "bits", "steps", "latent_dim", "cells"),
        *("dim", "layers", "hidden", "encoder_layers", "decoder_layers", "dropout", "max_len"),
        *("epochs", "batch_size", "lr", "patience", "max_seconds", "beams"),
        *("trials", "search", "storage", "budget_seconds"),
    }
)
"""Names of the options that people use, which ``--help`` of a command with many options shows."""

FEW = 25
"""Options that ``--help`` shows at most; a command that has no more shows them all."""


def _help_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the help with every option, and end."""
    if wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_ALL = "recbase.all_options"


class Command(click.Command):
    """A click command whose help lists its options under headings, in the order they were added.

    One that has many shows the `USUAL` ones and those that it needs, and all of them with ``--help-all``.
    """

    def rare(self, ctx: click.Context) -> set[str]:
        """Names of the options that ``--help`` leaves out."""
        options = [one for one in super().get_params(ctx) if isinstance(one, _SectionedOption)]
        if len(options) <= FEW:
            return set()
        return {one.name or "" for one in options if one.name not in USUAL and not one.required}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Parameters of the command, and ``--help-all``, which is shown where ``--help`` leaves something out."""
        settings: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True, "callback": _help_all}
        settings |= {"help": "Show every option and exit.", "hidden": not self.rare(ctx)}
        return [*super().get_params(ctx), click.Option(["--help-all"], **settings)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        left_out = set() if ctx.meta.get(_ALL) else self.rare(ctx)
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if parameter.name in left_out:
                continue
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", None) or "Options", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=32)
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"{len(left_out)} options more are shown by --help-all.")


class Group(click.Group):
    """A click group whose commands are `Command`, and which a signal ends with 130 or 143 from its first line on."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; see `click.Command.main`."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        with ending_at_signals(leave):
            return super().main(*args, **extra)


def add_options(options: Iterable[Option], section: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that gives a click command these options; a name that the command already has is left as it is.

    The help lists the decorators from top to bottom; where two give one name, that nearer to the function wins.

    Parameters
    ----------
    options : iterable of Option
        From `options_from`, `shared` or `union`.
    section : str or None, default None
        Heading in the help.
    """
    listed = list(options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = getattr(function, "__click_params__", [])
        present = {parameter.name for parameter in parameters}
        fresh = [_click_option(option, section) for option in listed if option.name not in present]
        # click keeps the list in reverse order of the help
        function.__click_params__ = [*parameters, *reversed(fresh)]  # type: ignore[attr-defined]
        return function

    return decorate


def need_paths(*names: str, context: click.Context | None = None) -> None:
    """Refuse typed paths that lead nowhere, before long work comes to them.

    Parameters
    ----------
    *names : str
        Parameters of the running command; those it does not have are passed over.
    context : click.Context or None, default None
        The running command.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    """
    context = context or click.get_current_context()
    flags = {parameter.name: parameter.opts[-1] for parameter in context.command.params}
    for name in names:
        path = context.params.get(name)
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{flags[name]} {path} does not exist")


def _click_option(option: Option, section: str | None) -> click.Option:
    settings: dict[str, Any] = {"help": option.help, "default": option.default, "section": section}
    if option.kind == "bool":
        plain = option.default is False and option.flag is not None
        flag = option.spelled if plain else f"{option.spelled}/--no-{option.spelled[2:]}"
        shown = None if plain else option.shown or {True: "on", False: "off", None: "automatic"}[option.default]
        return _SectionedOption([flag, option.name], shown=shown, is_flag=True, **settings)
    if option.required:
        settings["required"] = True
        settings.pop("default")
    settings["shown"] = option.shown or (None if option.default is None else shown_default(option.default))
    flags = [option.spelled] if option.short is None else [option.short, option.spelled]
    return _SectionedOption([*flags, option.name], type=_Word(option), multiple=option.multiple, **settings)


def argument(name: str, kind: str = "path", many: bool = False, metavar: str | None = None) -> Callable[..., Any]:
    """Decorator that gives a click command a positional argument, which is checked as an option of its kind is.

    Parameters
    ----------
    name : str
    kind : {"path", "str"}, default "path"
    many : bool, default False
        Whether it may be given several times (at least once).
    metavar : str or None, default None
        Its name in the help.
    """
    return click.argument(name, type=_Word(Option(name, kind, None)), nargs=-1 if many else 1, required=True,
                          metavar=metavar or name.upper() + ("..." if many else ""))  # fmt: skip


SHARED: dict[str, Option] = {
    option.name: option
    for option in [
        Option("data", "str", "journey", "Data set: a folder, or a name (journey, synthetic, a named public set)."),
        Option("out", "path", None, "Folder to write.", optional=True),
        Option(
            "embeddings",
            "path",
            None,
            "Item embeddings, folder or file (.npy, .safetensors, .parquet); else made.",
            optional=True,
        ),
        Option(
            "embeddings_ids",
            "path",
            None,
            "File of the ids of the rows, where --embeddings is a file of vectors.",
            optional=True,
        ),
        Option(
            "in_order",
            "bool",
            False,
            "The rows of the file --embeddings are the items of the data set in their order.",
            flag="in-order",
        ),
        Option(
            "encoder",
            "str",
            "tfidf",
            "Item encoder: tfidf, minilm, or a Hugging Face model (name or folder).",
            rule=rule_of(EncoderName),
        ),
        Option("views", "strs", None, "Columns to encode, as a,b; those of the data set if not given.", optional=True),
        Option("codes", "path", None, "Folder of a fitted tokenizer; made and reused if not given.", optional=True),
        Option("unique", "str", "none", "How shared codes are made unique (none keeps them)."),
        Option("loss", "str", None, "Training loss; the model's own if not given.", optional=True),
        Option("epochs", "int", None, "Passes over the users of the last stage.", optional=True, rule=rule_of(Count)),
        Option(
            "max_seconds",
            "float",
            None,
            "Stop training after so many seconds, keep the best.",
            optional=True,
            rule=rule_of(Seconds),
        ),
        Option("recipe", "str", "default", "Settings: default (for this machine) or paper (as published)."),
        Option("monitor", "str", "ndcg@10", "Validation metric that chooses the best epoch.", rule=rule_of(MetricName)),
        Option("batch_size", "int", None, "Samples a training step.", optional=True, rule=rule_of(Samples)),
        Option("lr", "float", None, "Learning rate.", optional=True, rule=rule_of(LearningRate)),
        Option("seed", "int", 0, "Seed of everything random.", rule=rule_of(Seed)),
        Option("seeds", "ints", None, "Train once a seed, as 0,1,2, into --out/seed-0 ...; the table is their mean.",
               optional=True, rule=rule_of(Seed)),
        Option("split", "choice", "last", "Held out: each user's last two events, the last times, or users.",
               ("last", "time", "users")),
        Option("final", "bool", False, "Once judged, train again on all events for the epochs that the best took.",
               flag="final"),
        Option("resume", "bool", False, "Go on from the last checkpoint in --out.", flag="resume"),
        Option("as_json", "bool", False, "Print one JSON object on stdout and nothing else.", flag="json"),
        Option("quiet", "bool", False, "No progress bars, no tables: only warnings and errors.", flag="quiet"),
        Option("debug", "bool", False, "Show the traceback of a failure.", flag="debug"),
    ]
}  # fmt: skip
"""The flags that every command shares, each with one name and one meaning (``--json`` arrives as ``as_json``)."""


def shared(*names: str, **defaults: Any) -> list[Option]:
    """Options that every command spells alike, by name.

    Parameters
    ----------
    *names : str
        Keys of `SHARED`, such as ``"data"``, ``"out"``, ``"as_json"``, ``"quiet"``.
    **defaults : object
        This command's own default for some of them.

    Raises
    ------
    ValueError
        If a name is no shared option.
    """
    unknown = [name for name in [*names, *defaults] if name not in SHARED]
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is not shared; known: {', '.join(SHARED)}")
    return [
        dataclasses.replace(SHARED[name], default=defaults[name]) if name in defaults else SHARED[name]
        for name in names
    ]
