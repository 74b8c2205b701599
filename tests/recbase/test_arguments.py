"""Ranges beside hyper-parameters: one check for Python callers, and the same sentences as on the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbase.arguments import (
    Beams,
    Count,
    Dropout,
    EncoderName,
    IndexName,
    ModelName,
    MonitorName,
    Range,
    Revision,
    Share,
    Weight,
    Width,
    check_arguments,
    flaw_of,
    rule_of,
)

if TYPE_CHECKING:
    from decimal import Decimal


class Base:
    """Takes a width."""

    def __init__(self, dim: Width = 8) -> None:
        check_arguments(type(self), locals())


class Child(Base):
    """Adds to it, in all ways a type can be written."""

    def __init__(
        self,
        dim: Width = 8,
        dropout: Dropout = 0.1,
        share: Share | None = None,
        hidden: tuple[Width, ...] = (4,),
        loss: Literal["ce", "bce"] = "ce",
        streams: tuple[Literal["id", "text"], ...] = ("id",),
        negatives: Count | Literal["auto"] = "auto",
        inline: Annotated[int, Range(2, 5)] = 2,
        unknown: Decimal | None = None,
        free: int = 0,
    ) -> None:
        super().__init__(dim)
        check_arguments(type(self), locals())


@dataclass
class Settings:
    """A dataclass is checked by its fields."""

    kind: ClassVar[str] = "x"
    beams: Beams = 5
    weight: Weight = 0.0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dim": 0}, "--dim must be at least 1, got 0"),
        ({"dim": 10**20}, "--dim must be at most 8,192, got 100000000000000000000"),
        ({"dim": 2.0}, "--dim must be a whole number, got 2.0"),
        ({"dim": True}, "--dim must be a whole number, got True"),
        ({"dim": "8"}, "--dim must be a whole number, got '8'"),
        ({"dim": None}, "--dim must be a whole number, got None"),
        ({"dropout": 1.0}, "--dropout must lie in [0, 1), got 1.0"),
        ({"dropout": math.nan}, "--dropout must be a finite number, got nan"),
        ({"dropout": math.inf}, "--dropout must be a finite number, got inf"),
        ({"share": 0}, "--share must lie in (0, 1], got 0"),
        ({"hidden": (4, 0)}, "--hidden must be at least 1, got (4, 0)"),
        ({"hidden": 4}, "--hidden must be a list, got 4"),
        ({"loss": "mse"}, "--loss must be one of ce, bce, got 'mse'"),
        ({"streams": ("id", "sound")}, "--streams must be one of id, text, got ('id', 'sound')"),
        ({"negatives": 0}, "--negatives must be at least 1 or be one of auto, got 0"),
        ({"inline": 6}, "--inline must be at most 5, got 6"),
    ],
)
def test_arguments_outside_their_range_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Child(**arguments)
    assert str(raised.value) == said


def test_arguments_inside_are_let_through() -> None:
    Child(np.int64(8192), np.float32(0.5), 1, [1, 2], "bce", ["id", "text"], 3, np.int32(5), None, -7)
    Child(share=None, negatives="auto", hidden=())
    Settings(beams=1, weight=0)
    with pytest.raises(ValueError, match="--beams must be at least 1, got 0"):
        Settings(beams=0)
    with pytest.raises(ValueError, match="--weight must be at least 0, got -1"):
        Settings(weight=-1)


@given(st.floats(allow_nan=False), st.booleans(), st.booleans())
def test_a_range_is_what_it_says(value: float, above: bool, below: bool) -> None:
    inside = (value > 0.5 if above else value >= 0.5) and (value < 2 if below else value <= 2)
    assert (Range(0.5, 2, above, below).refusal(value) is None) == inside


def test_ranges_are_written_for_people() -> None:
    assert Range(1, 16384).words == "1 to 16,384"
    assert Range(0, 1, above=True).words == "above 0 to 1"
    assert str(Range(0, 1, below=True)) == "[0, 1)"


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (EncoderName, ["tfidf", "minilm", "a/b", "x.npy", "."], ["bogus", "../x", "a/../b", "/a", "a/b/c"]),
        (ModelName, ["gpt2", "a/b-1.5", "."], ["../x", "a/", "a b", ""]),
        (Revision, ["main", "v1.0", "refs/pr/3", "0a1b2c3"], ["../x", "-x", "a..b", "a b"]),
        (IndexName, ["Flat", "IVF256,Flat", "HNSW32", "OPQ16,IVF64,PQ16x4", "IDMap,Flat"], ["bogus", "0", "../x"]),
        (MonitorName, ["ndcg@10", "recall@5"], ["ndcg@7", "ndcg", "loss", "ndcg@10 "]),
    ],
)
def test_words_are_told_from_others(hint: Any, good: list[str], bad: list[str]) -> None:
    rule = rule_of(hint)
    assert [word for word in good if rule.refusal(word) is not None] == []
    assert [word for word in bad if rule.refusal(word) is None] == []


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("a\0", "holds a control character"),
        ("a\u202eb", "holds a control character"),
        ("x" * 256, "has a name of more than 255 bytes"),
        ("é" * 128, "has a name of more than 255 bytes"),
        ("x/" * 3000, "has more than 4,096 bytes"),
        ("runs/名前", None),
    ],
)
def test_texts_that_name_nothing(text: str, flaw: str | None) -> None:
    assert flaw_of(text) == flaw
