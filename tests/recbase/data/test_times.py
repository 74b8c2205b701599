"""Times of any writing and unit become whole seconds and nanoseconds, and lose nothing on the way."""

import datetime as dt
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbase.data import interactions as events
from recbase.data.times import parse_times, split_times, time_unit, with_seconds


def split(values: list, unit: int = 1, dtype: pl.DataType | None = None) -> list[tuple]:
    seconds, nanos = split_times(pl.Series(values, dtype=dtype), "x", unit)
    return list(zip(seconds.to_list(), nanos.to_list(), strict=True))


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1_500_000_000, 1),
        (1_500_000_000_123, 10**3),
        (1_500_000_000_123_456, 10**6),
        (1_500_000_000_123_456_789, 10**9),
    ],
)
def test_units_are_told_by_magnitude(value: int, unit: int) -> None:
    times = pl.Series([value, 0, None])
    assert time_unit(times) == unit
    assert time_unit(times.cast(pl.Float64)) == unit
    after = 0 if unit == 1 else value % unit * (10**9 // unit)
    assert split([value], unit) == [(1_500_000_000, after)]


def test_floats_dates_and_date_times_keep_their_fractions() -> None:
    assert split([1_500_000_000.9, -0.25]) == [(1_500_000_000, 900_000_095), (-1, 750_000_000)]
    assert split([dt.date(1970, 1, 2)]) == [(86_400, 0)]
    moment = dt.datetime(1970, 1, 1, 0, 0, 1, 500_000)
    for unit in ("ms", "us", "ns"):
        assert split([moment], dtype=pl.Datetime(unit)) == [(1, 500_000_000)]
    zoned = pl.Series([moment]).dt.replace_time_zone("Europe/Berlin")
    assert split_times(zoned, "x")[0].to_list() == [1 - 3600]


@given(st.lists(st.floats(-4e9, 4e9), min_size=1, max_size=30))
def test_order_is_that_of_the_source(values: list[float]) -> None:
    pairs = split(values)
    order = np.argsort(values, kind="stable")
    assert all(pairs[a] <= pairs[b] for a, b in itertools.pairwise(order))
    assert all(0 <= nanos < 10**9 for _, nanos in pairs)


@pytest.mark.parametrize(
    ("text", "second", "nanos"),
    [
        ("2014-04-07T10:51:09.277Z", 1_396_867_869, 277_000_000),
        ("2014-04-07 12:51:09,123456789+02:00", 1_396_867_869, 123_456_789),
        ("2014-04-07 10:51:09", 1_396_867_869, 0),
        ("2014-04-07 10:51", 1_396_867_860, 0),
        ("2014/4/7", 1_396_828_800, 0),
        ("2014-04-07T10:51:09-0530", 1_396_867_869 + 19_800, 0),
        (" 1396867869 ", 1_396_867_869, 0),
        ("1396867869.5", 1_396_867_869, 500_000_000),
        ("1e9", 1_000_000_000, 0),
    ],
)
def test_times_written_as_text(text: str, second: int, nanos: int) -> None:
    seconds, after = split_times(parse_times(pl.Series([text, None, ""]), "x"), "x")
    assert (seconds.to_list(), after[0]) == ([second, None, None], nanos)


def test_a_given_time_format() -> None:
    table = pl.DataFrame({"timestamp": ["31/12/2020 11:59 PM", "01/02/2021 12:00 AM"]})
    found, unit = with_seconds(table, "x", "%d/%m/%Y %I:%M %p")
    assert (found["timestamp"].to_list(), unit) == ([1_609_459_140, 1_612_137_600], 0)
    compact = with_seconds(pl.DataFrame({"timestamp": [20180920]}), "x", "%Y%m%d")[0]
    assert compact["timestamp"].to_list() == [1_537_401_600]
    fraction = with_seconds(pl.DataFrame({"timestamp": ["10:00:00.25 2018-01-01"]}), "x", "%H:%M:%S.%f %Y-%m-%d")[0]
    assert fraction.row(0) == (1_514_800_800, 250_000_000)
    with pytest.raises(
        ValueError, match=r"the value '1.1.20'; expected the time format '%d/%m/%Y' \(row 2, 1 such of 2"
    ):
        parse_times(pl.Series(["01/01/2020", "1.1.20"]), "x", "%d/%m/%Y")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1.0, float("nan"), float("inf")],
            r"timestamp of x has the value nan; expected a finite number \(row 2, 2 such",
        ),
        ([1e30], "expected a time that 64 bits hold"),
        ([True], "timestamp of x is Boolean; expected seconds since 1970 or a date"),
    ],
)
def test_times_that_are_none(values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(values)


@pytest.mark.parametrize("text", ["soon", "2020-13-01", "12/31/2020", "2020-01-01 25:00:00", "x" * 5000])
def test_text_that_is_no_time_is_quoted_and_clipped(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected a number, or a date as .*--time-format.* \(row 2, 1 such of 3"
    ) as failure:
        parse_times(pl.Series(["2020-01-01", text, "2020-01-02"]), "x")
    assert len(str(failure.value)) < 400


def test_events_of_one_second_are_in_order_and_ties_stay_as_they_were() -> None:
    seconds = pl.DataFrame({"user_id": [1] * 4, "item_id": list("dacb"), "timestamp": [5.9, 5.1, 5.5, 5.3]})
    checked = events.check_interactions(seconds)
    for ties in ("file", "item", "shuffle"):
        assert events.order_events(checked, "time", ties)["item_id"].to_list() == ["a", "b", "c", "d"]
    # The hash that shuffles ties is of the time in its own unit, as it always was.
    millis = checked.with_columns(timestamp=pl.lit(1_600_000_000), nanosecond=pl.lit(123_000_000, pl.Int64))
    whole = checked.drop("nanosecond").with_columns(timestamp=pl.lit(1_600_000_000_123))
    np.testing.assert_array_equal(events.hash_events(millis, 3), events.hash_events(whole, 3))


def test_a_null_time_takes_that_of_its_neighbour_with_the_fraction() -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1], "item_id": ["a", "b", "c"], "timestamp": [1.5, None, 1.2], "position": [0, 1, 2]}
    )
    ordered = events.order_events(events.check_interactions(frame), "time")
    assert ordered["item_id"].to_list() == ["c", "a", "b"]


@pytest.mark.parametrize("kind", ["text", "decimal"])
def test_decimal_fractions_keep_every_digit(kind: str) -> None:
    texts = pl.Series("timestamp", ["1700000000.123456789", "1700000000.123456788", "-1.5", "3"])
    times = texts if kind == "text" else texts.cast(pl.Decimal(30, 9))
    table, unit = with_seconds(pl.DataFrame({"timestamp": times}), "x")
    assert unit == 1
    assert table["timestamp"].to_list() == [1_700_000_000, 1_700_000_000, -2, 3]
    assert table["nanosecond"].to_list() == [123_456_789, 123_456_788, 500_000_000, 0]
