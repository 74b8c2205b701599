"""Values that a hyper-parameter may have, written once, as the type in the signature that has it.

``dim: Width = 64`` is an ``int`` to Python and to a type checker; beside it stands the `Range` that the constructor
(`check_arguments`) and the command line (`recbase.cli.signatures`) both read. It knows no model and imports nothing
heavy.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union

__all__ = [
    "Range",
    "Word",
    "check_arguments",
    "flaw_of",
    "hints_of",
    "parameters_of",
    "rule_of",
    "rules_of",
    "spelled",
    "taken",
]

Group = TypeVar("Group")

PATH_PART_BYTES = 255
PATH_BYTES = 4096


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, which belong to it unless they are said to be open; NaN never does.

    Parameters
    ----------
    least, most : float
        The bounds, finite.
    above, below : bool, default False
        Leave out the lower bound, the upper one.
    zero : str, default ""
        What 0 means, where it turns something off.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    zero: str = field(default="", compare=False)

    def refusal(self, value: Any) -> str | None:
        """Complaint of what the number ``value`` must be; None where it is."""
        low_holds = value > self.least if self.above else value >= self.least
        high_holds = value < self.most if self.below else value <= self.most
        if low_holds and high_holds:
            return None
        if self.most == 1 and self.least == 0:
            return f"lie in {self}"
        if not low_holds:
            return f"be {'above' if self.above else 'at least'} {shown(self.least)}"
        return f"be {'below' if self.below else 'at most'} {shown(self.most)}"

    @property
    def words(self) -> str:
        """The range as the help says it, such as ``0 to below 1``."""
        low, high = ("above " if self.above else ""), ("below " if self.below else "")
        return f"{low}{shown(self.least)} to {high}{shown(self.most)}"

    def __str__(self) -> str:
        """The range as mathematics writes it, such as ``[0, 1)``."""
        left, right = "(" if self.above else "[", ")" if self.below else "]"
        return f"{left}{shown(self.least)}, {shown(self.most)}{right}"


@dataclass(frozen=True)
class Word:
    """Words that are told from others by a look at them alone.

    Parameters
    ----------
    expected : str
        What they are, as a sentence ends that begins with "must be".
    holds : callable
        ``holds(text)``, True for such a word.
    """

    expected: str
    holds: Callable[[str], bool]

    def refusal(self, value: Any) -> str | None:
        """Complaint of what the text ``value`` must be; None where it is."""
        text = str(value)
        return None if text.strip() and self.holds(text) else f"be {self.expected}"


def shown(number: float) -> str:
    """A bound as the help and the sentences write it: 16,384; 0.5; 1e+09."""
    return f"{int(number):,}" if float(number).is_integer() and abs(number) < 1e16 else f"{number:g}"


def spelled(name: str) -> str:
    """The flag of an argument, such as ``--batch-size``."""
    return "--" + name.replace("_", "-")


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_HUB_NAME = r"(?!\.)[\w.-]+(?<!\.)/(?!\.)[\w.-]+(?<!\.)"


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError:  # longer than a path can be
        return False


def _is_encoder(text: str) -> bool:
    known = text in {"tfidf", "minilm"} or text.endswith((".npy", ".safetensors"))
    return known or _is_folder(text) or re.fullmatch(_HUB_NAME, text) is not None


def _is_model(text: str) -> bool:
    return _is_folder(text) or re.fullmatch(r"(?!\.)[\w.-]+(?<!\.)|" + _HUB_NAME, text) is not None


# The upper bounds are far above what the field uses and below what would only end as "not enough memory" after hours.
Width = Annotated[int, Range(1, 8_192)]
"""Numbers of a vector."""
Depth = Annotated[int, Range(1, 256)]
"""Layers, or steps, one after another."""
Heads = Annotated[int, Range(1, 256)]
Length = Annotated[int, Range(1, 16_384)]
"""Items of a history, or events of a window."""
Levels = Annotated[int, Range(1, 1_024)]
"""Codes of an item."""
CodebookSize = Annotated[int, Range(1, 2**24)]
"""Codes of a level."""
Count = Annotated[int, Range(1, 1_000_000)]
CountOrOff = Annotated[int, Range(0, 1_000_000, zero="off")]
Large = Annotated[int, Range(1, 10**9)]
LargeOrOff = Annotated[int, Range(0, 10**9, zero="off")]
Samples = Annotated[int, Range(1, 2**20)]
"""Rows that are in memory together."""
Beams = Annotated[int, Range(1, 10_000)]
Restarts = Annotated[int, Range(1, 1_000)]
Cells = Annotated[int, Range(2, 65_536)]
"""Parts that an axis is cut into."""
Seed = Annotated[int, Range(0, 2**32 - 1)]

Dropout = Annotated[float, Range(0, 1, below=True, zero="none")]
Chance = Annotated[float, Range(0, 1, below=True, zero="never")]
Share = Annotated[float, Range(0, 1, above=True)]
ShareOrOff = Annotated[float, Range(0, 1, zero="none")]
Decay = Annotated[float, Range(0, 1, above=True, below=True)]
Weight = Annotated[float, Range(0, 1e6, zero="left out")]
"""Factor of a part of a loss; 0 leaves that part out."""
NonNegative = Annotated[float, Range(0, 1e6, zero="off")]
Factor = Annotated[float, Range(0, 1e6, above=True)]
Temperature = Annotated[float, Range(0, 1_000, above=True)]
LearningRate = Annotated[float, Range(0, 1e6, above=True)]
Deviation = Annotated[float, Range(0, 100, above=True)]
Seconds = Annotated[float, Range(0, 1e9, above=True)]
SecondsOrOff = Annotated[float, Range(0, 1e9, zero="after every step")]

EncoderName = Annotated[
    str, Word("tfidf, minilm, owner/name on the hub, a folder, or a file .npy or .safetensors", _is_encoder)
]
ModelName = Annotated[str, Word("the name of a model on the hub, or a folder that exists", _is_model)]
Revision = Annotated[str, Word("a branch, tag or commit", _matches(r"(?![./-])(?!.*\.\.)[\w./-]+"))]
Device = Annotated[
    str, Word("a device such as cpu, cuda, cuda:0 or mps", _matches(r"(cpu|cuda|mps|xpu|hpu|npu)(:[0-9]{1,3})?"))
]
DeviceMap = Annotated[
    str,
    Word(
        "auto, balanced, balanced_low_0, sequential or a device",
        _matches(r"auto|balanced|balanced_low_0|sequential|(cpu|cuda|mps|xpu)(:[0-9]{1,3})?"),
    ),
]
TrackerName = Annotated[
    str, Word("the name of a tracker in accelerate, such as tensorboard or wandb", _matches(r"[a-z][a-z_]*"))
]
MonitorName = Annotated[
    str, Word("recall, ndcg or mrr at 5, 10 or 20, such as ndcg@10", _matches(r"(recall|ndcg|mrr)@(5|10|20)"))
]
"""Measures of the validation of a recommender."""
FolderName = Annotated[str, Word("a folder that exists", _is_folder)]
MetricName = Annotated[
    str,
    Word(
        "recall@K, ndcg@K or mrr@K with K from 1 to 1,000, such as ndcg@10",
        _matches(r"(recall|ndcg|mrr)@[1-9][0-9]{0,2}|(recall|ndcg|mrr)@1000"),
    ),
]
# The beginnings of the descriptions that faiss reads; it says the rest itself.
IndexName = Annotated[
    str,
    Word(
        "an index of faiss, such as Flat, IVF256,Flat or HNSW32",
        _matches(
            r"((IDMap2?|L2norm|PCA(R|W|WR)?[0-9]+|OPQ[0-9]+(_[0-9]+)?|RR[0-9]+|ITQ[0-9]*),)*"
            r"(Flat|IVF[0-9]+(_HNSW[0-9]*)?|IMI[0-9]+x[0-9]+|HNSW[0-9]*|NSG[0-9]*|PQ[0-9]+|SQ(4|6|8|fp16|bf16)|LSH|RaBitQ)"
            r"[\w(),x+-]*"
        ),
    ),
]
DatasetName = Annotated[str, Word("a name without path steps", lambda text: ".." not in re.split(r"[/\\]", text))]


# --------------------------------------------------------------------------------------- the check


def check_arguments(owner: type | Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments outside the ranges and the words that the signature of their owner has.

    Parameters
    ----------
    owner : class or function
        A class stands for its constructor (or its dataclass fields) and those of its bases.
    arguments : mapping
        Name to value; names without a range or choices are left alone.

    Raises
    ------
    ValueError
        Naming the option, its value and what was expected.
    """
    for name, hints in rules_of(owner).items():
        if name in arguments:
            problem = _problem(arguments[name], hints)
            if problem is not None:
                raise ValueError(f"{spelled(name)} must {problem}, got {arguments[name]!r}")


@functools.cache
def rules_of(owner: type | Callable[..., Any]) -> dict[str, Any]:
    """Name to evaluated type, of every argument whose type holds a `Range`, a `Word` or a ``Literal``."""
    return {name: hint for name, hint in hints_of(owner).items() if any(True for _ in _rules(hint))}


@functools.cache
def hints_of(owner: type | Callable[..., Any], extras: bool = True) -> dict[str, Any]:
    """Name to evaluated type of every argument, without its ranges and words where these ``extras`` are not wanted.

    Arguments whose type only a type checker can evaluate are left out.
    """
    found: dict[str, Any] = {}
    for function in reversed(list(_signatures(owner))):
        scope = getattr(function, "__globals__", None) or vars(__import__("sys").modules[function.__module__])
        for name, annotation in vars(function).get("__annotations__", function.__annotations__).items():
            if str(annotation).startswith("ClassVar"):
                continue
            hint = _evaluated(annotation, scope, extras)
            if hint is not None:
                found[name] = hint
    return found


def _signatures(owner: type | Callable[..., Any]) -> Iterator[Any]:
    """The constructors of a class and its bases, nearest first; a function is its own."""
    if not isinstance(owner, type):
        yield owner
        return
    for kind in owner.__mro__:
        if "__dataclass_fields__" in vars(kind):
            yield kind
        elif hasattr(vars(kind).get("__init__"), "__globals__"):  # not a built-in one
            yield vars(kind)["__init__"]
        yield from vars(kind).get("setting_groups", ())


def _evaluated(annotation: Any, scope: dict[str, Any], extras: bool) -> Any:
    holder = SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, globalns=scope, include_extras=extras)["value"]
    except NameError:  # a type that is imported for the type checker alone is no number and no word
        return None


def _rules(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is Literal or any(isinstance(extra, Range | Word) for extra in _extras(hint)):
        yield hint
    for part in typing.get_args(hint):
        if typing.get_origin(part) is not None:
            yield from _rules(part)


def _extras(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _problem(value: Any, hint: Any) -> str | None:
    """Complaint of what ``value`` must be to be of the type ``hint``; None where it is."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated_problem(value, parts[0], _extras(hint))
    if origin is Literal:
        return None if value in parts else f"be one of {', '.join(map(str, parts))}"
    if origin in {Union, UnionType}:
        if value is None and type(None) in parts:
            return None
        problems = [_problem(value, part) for part in parts if part is not type(None)]
        return None if None in problems else " or ".join(dict.fromkeys(map(str, problems)))
    if isinstance(origin, type) and parts and not isinstance(value, str) and isinstance(value, list | tuple):
        return next(filter(None, (_problem(each, parts[0]) for each in value)), None)
    if any(True for _ in _rules(hint)):
        return "be a list"
    return None if not isinstance(hint, type) or isinstance(value, hint) else f"be {hint.__name__}"


def _annotated_problem(value: Any, kind: Any, extras: tuple[Any, ...]) -> str | None:
    if kind is int and (isinstance(value, bool) or not isinstance(value, Integral)):
        return "be a whole number"
    if kind is float and (isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)):
        return "be a finite number"
    return next(filter(None, (extra.refusal(value) for extra in extras if isinstance(extra, Range | Word))), None)


# --------------------------------------------------------------------------------------- groups of settings
#
# A constructor of many settings takes some of them as ``**options``; ``setting_groups`` of its class names the small
# dataclasses that they belong to. Whoever calls it, the command line and the saved manifest know flat names alone.


def taken(group: type[Group], options: Mapping[str, Any]) -> Group:
    """Settings of one group from the keywords of its constructor.

    Parameters
    ----------
    group : dataclass
    options : mapping
        Keywords of all groups; those that are not given have the default of their field.
    """
    names = [part.name for part in fields(group)]  # type: ignore[arg-type]
    return group(**{name: options[name] for name in names if name in options})


def parameters_of(owner: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Name to parameter of a class or function; ``**options`` are the fields of its ``setting_groups``."""
    found = dict(inspect.signature(owner).parameters)
    for group in getattr(owner, "setting_groups", ()):
        found.pop("options", None)
        found |= inspect.signature(group).parameters
    return found


def rule_of(hint: Any) -> Any:
    """The `Range` or `Word` of one of the types above."""
    return _extras(hint)[0]


def flaw_of(text: str, path: bool = True) -> str | None:
    """Flaw by which a text names nothing, whatever it is for: empty, control characters, too long; None if it has none.

    Parameters
    ----------
    text : str
    path : bool, default True
        Whether it may name a file, whose name and path have greatest lengths.
    """
    if not text.strip():
        return "is empty"
    if not text.isprintable():
        return "holds a control character"
    if path and any(len(part.encode("utf-8", "replace")) > PATH_PART_BYTES for part in text.split("/")):
        return f"has a name of more than {PATH_PART_BYTES} bytes"
    if path and len(text.encode("utf-8", "replace")) > PATH_BYTES:
        return f"has more than {PATH_BYTES:,} bytes"
    return None
