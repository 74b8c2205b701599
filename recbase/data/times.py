"""Moments, however a source writes them, as whole seconds since 1970 and the nanoseconds after them.

Two whole numbers keep the order of any source (a float of today's seconds ends at a quarter of a microsecond) and never
round a moment into the next second. Knows nothing of files.
"""

from __future__ import annotations

import warnings

import polars as pl

__all__ = ["parse_times", "split_times", "time_unit", "unit_name", "with_seconds"]

_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
_NANO = 10**9
_LARGEST_SECOND = 10**11  # the year 5138; in milliseconds the same number is 1973, before any log of a web site

_DECIMAL = r"^[+-]?\d{1,18}(\.\d*)?$"
_FLOAT_DIGITS = 15  # that a float of 53 bits keeps of any number

_ISO = (
    r"^(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:(?:[Tt]|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9})\d*)?)?)?"
    r"\s*(?:([Zz]|UTC|GMT)|([+-])(\d{2}):?(\d{2})?)?$"
)


def unit_name(unit: int) -> str:
    """Name of a unit given as parts of a second, such as ``"milliseconds"`` for 1000."""
    return _UNITS[unit]


def time_unit(times: pl.Series) -> int:
    """Parts of a second that a column of numbers counts, told by its largest magnitude: 1, 10^3, 10^6 or 10^9."""
    if times.dtype.is_float():
        times = times.filter(times.is_finite())
    ends = [abs(float(end)) for end in (times.min(), times.max()) if end is not None]  # type: ignore[arg-type]
    return next((unit for unit in _UNITS if max(ends, default=0.0) <= _LARGEST_SECOND * unit), _NANO)


def split_times(times: pl.Series, what: str, unit: int = 1) -> tuple[pl.Series, pl.Series]:
    """Whole seconds since 1970 and the nanoseconds after them, both Int64; null stays null.

    Parameters
    ----------
    times : Series
        Numbers in ``unit``, dates or date-times of any unit and zone.
    what : str
        Source, for the sentence of an error.
    unit : int, default 1
        Parts of a second that numbers count.

    Raises
    ------
    ValueError
        If a number is not finite or lies beyond whole 64-bit seconds, or the column is of another type.
    """
    kind = times.dtype
    if kind == pl.Date:
        return times.cast(pl.Int64) * 86_400, _zeros(times)
    if isinstance(kind, pl.Datetime):
        unit = {"ms": 10**3, "us": 10**6, "ns": _NANO}[kind.time_unit]
        times = times.to_physical()
    elif kind.is_decimal():
        return _split_decimals(times, what, unit)
    elif not kind.is_numeric():
        raise ValueError(f"timestamp of {what} is {kind}; expected seconds since 1970 or a date")
    if times.dtype.is_float():
        return _split_floats(times.cast(pl.Float64), what, unit)
    whole = times.cast(pl.Int64, strict=False)
    _refuse(whole.is_null() & times.is_not_null(), times, what, "expected a time that 64 bits hold")
    if unit == 1:
        return whole, _zeros(whole)
    return whole // unit, (whole % unit) * (_NANO // unit)


def with_seconds(table: pl.DataFrame, what: str, time_format: str | None = None) -> tuple[pl.DataFrame, int]:
    """The table with ``timestamp`` in seconds and, where some event has one, ``nanosecond``; and the unit of numbers.

    Parameters
    ----------
    table : DataFrame
        With a column ``timestamp`` of numbers, text, dates or date-times.
    what : str
        Source, for the sentence of an error.
    time_format : str, optional
        How the times are written, in the codes of strptime.

    Returns
    -------
    table : DataFrame
    unit : int
        Parts of a second that the numbers counted, told by the largest; 0 for dates and date-times.

    Raises
    ------
    ValueError
        If a time is none.
    """
    times = table["timestamp"]
    if time_format is not None and times.dtype.is_numeric():
        times = times.cast(pl.String).str.replace(r"\.0+$", "")
    if times.dtype in (pl.String, pl.Categorical):
        times = parse_times(times.cast(pl.String), what, time_format)
    unit = time_unit(times) if times.dtype.is_numeric() else 0
    if unit == 1 and times.dtype == pl.Int64:
        return table.with_columns(times.alias("timestamp")), unit
    seconds, nanos = split_times(times, what, unit or 1)
    table = table.with_columns(seconds.alias("timestamp"))
    fine = bool((nanos != 0).any())
    return table.with_columns(nanos.fill_null(0).alias("nanosecond")) if fine else table, unit


def _zeros(like: pl.Series) -> pl.Series:
    return pl.Series("nanosecond", [0], dtype=pl.Int64).new_from_index(0, len(like))


def _split_floats(times: pl.Series, what: str, unit: int) -> tuple[pl.Series, pl.Series]:
    _refuse(~times.is_finite(), times, what, "expected a finite number")
    _refuse(times.abs() >= 9.2e18, times, what, "expected a time that 64 bits hold")
    # Floor and fraction are taken in the unit of the source: there both are exact.
    floor = times.floor()
    ratio = _NANO // unit
    fraction = ((times - floor) * ratio).round().clip(0, ratio - 1).cast(pl.Int64)
    whole = floor.cast(pl.Int64)
    return whole // unit, (whole % unit) * ratio + fraction


def _split_decimals(times: pl.Series, what: str, unit: int) -> tuple[pl.Series, pl.Series]:
    """Every digit counts: a float of today's seconds would end at a quarter of a microsecond."""
    numbers = times.cast(pl.Float64)
    _refuse(numbers.abs() >= 9.2e18, times, what, "expected a time that 64 bits hold")
    exact = times.cast(pl.Decimal(38, 9), strict=False)
    if exact.null_count() > times.null_count():
        return _split_floats(numbers, what, unit)
    parts = pl.DataFrame({"t": exact.to_physical()}).select(
        whole=(pl.col("t") // _NANO).cast(pl.Int64), rest=(pl.col("t") % _NANO).cast(pl.Int64)
    )
    whole, ratio = parts["whole"], _NANO // unit
    return whole // unit, (whole % unit) * ratio + (parts["rest"] * ratio) // _NANO


def _refuse(bad: pl.Series, times: pl.Series, what: str, expected: str) -> None:
    """Raise one sentence with the number of bad rows and the first of them."""
    count = bad.sum()
    if count:
        row = int(bad.arg_true()[0])
        value = times[row] if not isinstance(times[row], str) else repr(times[row][:40])
        raise ValueError(
            f"timestamp of {what} has the value {value}; {expected} (row {row + 1}, {count} such of {len(times)} rows)"
        )


def parse_times(texts: pl.Series, what: str, time_format: str | None = None) -> pl.Series:
    """Times written as text: numbers, ISO 8601 dates and date-times, or ``time_format``.

    Parameters
    ----------
    texts : Series of String
    what : str
        Source, for the sentence of an error.
    time_format : str, optional
        How the times are written, in the codes of strptime, such as ``"%d/%m/%Y %H:%M"``.

    Returns
    -------
    Series
        Int64, Float64 or Decimal where every text is a number, else Datetime in nanoseconds, UTC; a text without a
        zone is taken as UTC. Null and empty text is null.

    Raises
    ------
    ValueError
        If a text is written otherwise.
    """
    if time_format is None:  # the usual column, before anything else is tried
        whole = texts.cast(pl.Int64, strict=False)
        if whole.null_count() == texts.null_count():
            return whole
    texts = texts.str.strip_chars()
    texts = texts.set(texts == "", None) if (texts == "").any() else texts
    if time_format is not None:
        return _parse_format(texts, what, time_format)
    whole, number = texts.cast(pl.Int64, strict=False), texts.cast(pl.Float64, strict=False)
    if number.null_count() == texts.null_count():
        _refuse_large(whole, number, texts, what)
        longest = texts.str.len_bytes().max()
        if isinstance(longest, int) and longest > _FLOAT_DIGITS + 1 and texts.str.contains(_DECIMAL).all():
            return texts.cast(pl.Decimal(38, 9))
        return number
    parsed = _parse_iso(texts)
    bad = parsed.is_null() & texts.is_not_null()
    if number.null_count() <= parsed.null_count():  # most are numbers, so a number is what was meant
        bad = number.is_null() & texts.is_not_null()
    _refuse(
        bad,
        texts,
        what,
        "expected a number, or a date as 2020-12-31 or 2020-12-31 23:59:59.999; another way of writing is named by "
        "--time-format, as %d/%m/%Y",
    )
    return parsed


def _refuse_large(whole: pl.Series, number: pl.Series, texts: pl.Series, what: str) -> None:
    """A column of whole numbers of which some need more than 64 bits would lose digits as floats."""
    digits = whole.is_null() & texts.str.contains(r"^[+-]?\d+$")
    _refuse(digits.fill_null(False) & number.is_finite(), texts, what, "expected at most 64 bits")


def _parse_iso(texts: pl.Series) -> pl.Series:
    """Datetime[ns] where the text is an ISO date or date-time of the years 1678 to 2261, else null."""
    parts = pl.DataFrame({"text": texts}).select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    parts.columns = ["year", "month", "day", "hour", "minute", "second", "fraction", "utc", "sign", "east", "past"]
    two = {name: pl.col(name).fill_null("0").str.zfill(2) for name in ("month", "day", "hour", "minute", "second")}
    clock = pl.concat_str(
        pl.col("year"), two["month"], two["day"], two["hour"], two["minute"], two["second"], separator=" "
    )
    moment = clock.str.to_datetime("%Y %m %d %H %M %S", time_unit="us", strict=False).dt.timestamp("us")
    nanos = pl.col("fraction").fill_null("0").str.pad_end(9, "0").cast(pl.Int64)
    minutes = pl.col("east").fill_null("0").cast(pl.Int64) * 60 + pl.col("past").fill_null("0").cast(pl.Int64)
    shift = pl.when(pl.col("sign") == "-").then(-minutes).otherwise(minutes)
    micros = moment - shift * 60_000_000
    inside = micros.is_between(-9_200_000_000_000_000, 9_200_000_000_000_000)
    return parts.select(pl.when(inside).then(micros * 1000 + nanos).cast(pl.Datetime("ns")).alias("t"))["t"]


def _parse_format(texts: pl.Series, what: str, time_format: str) -> pl.Series:
    """Times in a given format; ``%f`` after a point is a fraction of a second, as in Python."""
    pattern = time_format.replace(".%f", "%.f")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = texts.str.to_datetime(pattern, time_unit="us", strict=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"time_format {time_format!r} is none that strptime knows, such as %d/%m/%Y %H:%M") from error
    _refuse(parsed.is_null() & texts.is_not_null(), texts, what, f"expected the time format {time_format!r}")
    return parsed.dt.convert_time_zone("UTC") if parsed.dtype.time_zone else parsed  # type: ignore[attr-defined]
