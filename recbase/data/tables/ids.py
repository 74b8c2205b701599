"""Ids of users and items as a source writes them, so that one thing has one id in events and catalogue.

The rules, the same for both:

- Ids that are all plain integers below 10^18 are integers. Anything else stays the text it is: "0007" has its zeros,
  and an integer beyond 64 bits all its digits.
- Where a column holds whole numbers only and some are written "12.0" (pandas does that to a column with a gap), the
  ".0" is dropped from all.
- Blanks around an id are dropped and counted.
- An empty id is refused. The words that stand for a missing value (nan, null, None, ...) are refused in a column of
  numbers, where nothing else can be meant, and elsewhere kept as text with a warning.
"""

from __future__ import annotations

import re

import polars as pl

from recbase.data.interactions import MAX_ID_BYTES
from recbase.data.tables.raw import Notes, clip

__all__ = ["check_text_ids", "typed_ids"]

_WORDS = ("nan", "null", "none", "<na>", "n/a", "nat", "na", "#n/a", "(null)", "\\n", "undefined", "nil")
_INTEGER = r"^(0|[1-9]\d{0,17})$"
_WHOLE = r"^(0|[1-9]\d{0,17})(\.0+)?$"
_SCIENTIFIC = r"^\d(?:[.,]\d+)?[eE]\+?\d{1,3}$"
_ODD = "|".join(
    [
        r"^\s|\s$|^$|[^\x00-\x7F]|^\d+\.0+$",
        r"^(?i:nan|null|none|<na>|#?n/a|nat|na|\(null\)|\\n|undefined|nil)$",
        _SCIENTIFIC,
    ]
)


def typed_ids(ids: pl.Series, what: str, notes: Notes, numbers: bool = True) -> pl.Series:
    """Ids by the rules above; the name of the series is that of the column.

    Parameters
    ----------
    ids : Series
        Text is checked; any other type is returned as it is.
    what : str
        Source, for the sentence of an error.
    notes : Notes
    numbers : bool, default True
        Turn a column of plain integers into integers. Otherwise (Amazon's ids, tables with types) text stays text.

    Raises
    ------
    ValueError
        If an id is empty, too long, or a missing value written out.
    """
    if ids.dtype != pl.String or len(ids) == 0:
        return ids
    if nulls := ids.null_count():
        _refuse(ids.is_null(), f"{ids.name} of {what} is null in {nulls} of {len(ids)} rows; every row needs one")
    # The first id tells most columns of text, and spares them one of two walks over every row.
    if re.match(_INTEGER, str(ids[0])) and ids.str.contains(_INTEGER).all():
        return ids.cast(pl.Int64) if numbers else ids
    odd = bool(ids.str.contains(_ODD).any())
    if odd:
        ids = _stripped(ids, what, notes)
        empty = ids == ""
        if count := empty.sum():
            _refuse(empty, f"{ids.name} of {what} is empty in {count} of {len(ids)} rows; every row needs one")
        ids = _without_point(_known(ids, what, notes), what, notes)
        _say_scientific(ids, what, notes)
        _say_unicode_forms(ids, what, notes)
    check_text_ids(ids, what)
    return ids.cast(pl.Int64) if numbers and odd and ids.str.contains(_INTEGER).all() else ids


def check_text_ids(ids: pl.Series, what: str) -> None:
    """Refuse ids that are longer than any real one; ValueError names the row."""
    longest = ids.str.len_bytes().max()
    if isinstance(longest, int) and longest > MAX_ID_BYTES:
        row = ids.str.len_bytes().arg_max() or 0
        raise ValueError(
            f"{ids.name} of {what} has {longest:,} bytes in row {row + 1} ({clip(ids[row], 30)}); "
            f"expected at most {MAX_ID_BYTES:,}"
        )


def _refuse(bad: pl.Series, sentence: str) -> None:
    raise ValueError(f"{sentence} (first: row {int(bad.arg_true()[0]) + 1})")


def _stripped(ids: pl.Series, what: str, notes: Notes) -> pl.Series:
    bare = ids.str.strip_chars()
    padded = int((bare != ids).sum())
    if not padded:
        return ids
    merged = ids.n_unique() - bare.n_unique()
    together = f", which makes {merged:,} of them equal to another" if merged else ""
    notes.say(
        "ids_padded",
        padded,
        f"{padded:,} of {len(ids):,} values of {ids.name} of {what} have blanks around them; "
        f"they were dropped{together}",
        warn=merged > 0,
    )
    return bare


def _known(ids: pl.Series, what: str, notes: Notes) -> pl.Series:
    """Refuse or tell of words for a missing value."""
    missing = ids.str.to_lowercase().is_in(_WORDS)
    count = int(missing.sum())
    if not count:
        return ids
    row = int(missing.arg_true()[0])
    said = f"{ids.name} of {what} is {ids[row]!r} in {count:,} of {len(ids):,} rows (first: row {row + 1})"
    others = ids.filter(~missing)
    if len(others) and others.str.contains(_WHOLE).all():
        raise ValueError(f"{said}: a missing id among numbers; drop those rows or give them ids")
    notes.say("ids_that_read_missing", count, f"{said}; kept as the id it spells: drop those rows if it is missing")
    return ids


def _without_point(ids: pl.Series, what: str, notes: Notes) -> pl.Series:
    """Whole numbers without ".0", where a column has nothing else."""
    if not ids.str.contains(_WHOLE).all():
        return ids
    bare = ids.str.replace(r"\.0+$", "")
    changed = int((bare != ids).sum())
    if not changed:
        return ids
    merged = ids.n_unique() - bare.n_unique()
    together = f"; {merged:,} of them stand there both ways and are one" if merged else ""
    notes.say(
        "ids_as_floats",
        changed,
        f"{changed:,} of {len(ids):,} values of {ids.name} of {what} are written as {ids.filter(bare != ids)[0]}; "
        f"read as {bare.filter(bare != ids)[0]}{together}",
        warn=False,
    )
    return bare


def _say_scientific(ids: pl.Series, what: str, notes: Notes) -> None:
    """A spreadsheet shows an id of twelve digits as 1.23457E+11 and exports what it shows: several ids are then one."""
    rounded = ids.str.contains(_SCIENTIFIC)
    count = int(rounded.sum())
    others = ids.filter(~rounded)
    if count and (len(others) == 0 or others.str.contains(_WHOLE).all()):
        row = int(rounded.arg_true()[0])
        notes.say(
            "ids_rounded",
            count,
            f"{count:,} of {len(ids):,} values of {ids.name} of {what} are numbers with an exponent, as {ids[row]} "
            f"(row {row + 1}), of which a program has cut the digits: different ids may be one; export the column as "
            "text",
        )


def _say_unicode_forms(ids: pl.Series, what: str, notes: Notes) -> None:
    """Ids that look alike and differ in Unicode form are two ids, and that is told."""
    foreign = ids.filter(ids.str.contains(r"[^\x00-\x7F]")).unique()
    if len(foreign) == 0:
        return
    twins = len(foreign) - foreign.str.normalize("NFC").n_unique()
    if twins:
        notes.say(
            "ids_alike",
            twins,
            f"{twins:,} values of {ids.name} of {what} look like another and differ in Unicode form (NFC, NFD); "
            "they were kept apart: normalise the file if they are one",
        )
