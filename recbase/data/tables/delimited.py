"""Tables with a separator between fields: commas, semicolons, tabs, bars; with quotes or without.

Blocks whose quotes stand where the standard (RFC 4180) has them are parsed by polars, in parallel. Where a quote stands
elsewhere, the rest of the file goes through Python's own ``csv``, which is slower and decides what the file means.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recbase.data.tables import blocks as text_blocks
from recbase.data.tables.columns import header_names, listed
from recbase.data.tables.raw import Notes, clip

__all__ = ["Dialect", "dialect_of", "read_fields"]

SEPARATORS = (",", ";", "\t", "|")
_ROWS = 200_000
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True)
class Dialect:
    """Spelling of the fields of a table: separator, quotes, encoding.

    Attributes
    ----------
    separator : str
    quoted : bool
        Whether a field may stand in quotes, with separators and line ends in it.
    names : list of str
        The columns, by the header.
    """

    separator: str
    quoted: bool
    names: list[str]


def dialect_of(
    path: Path,
    separator: str = ",",
    wanted: Sequence[Sequence[str]] = (),
    fixed: str | None = None,
    header: Sequence[str] | None = None,
) -> Dialect:
    """Read the header of a file and tell its separator.

    Parameters
    ----------
    path : Path
    separator : str, default ","
        The one its name promises.
    wanted : sequence of sequences of str
        Names of which one each should be found; decides for another separator where the promised one finds none.
    fixed : str, optional
        The separator, where it is known.
    header : sequence of str, optional
        Names of the columns of a file without a header.

    Raises
    ------
    ValueError
        If the first line is longer than a header can be, or has another number of fields than ``header``.
    """
    line = text_blocks.first_line(path)
    if len(line) > _HEADER_LIMIT:
        raise ValueError(f"{path} begins with a line of {len(line):,} characters; expected the names of columns")
    tries = [fixed] if fixed else [separator, *(other for other in SEPARATORS if other != separator)]
    if header is not None:
        return _without_names(path, line, tries, header)
    found = {mark: header_names(line, mark) for mark in tries}

    def hits(mark: str) -> int:
        return sum(any(name in found[mark] for name in names) for names in wanted)

    # max keeps the first of equals: the promised separator, unless another explains the header better.
    best = max(tries, key=lambda mark: (hits(mark), len(found[mark]) > 1 and not hits(mark)))
    quoted = best != "\t" or line.startswith('"') or _quotes_fields(path)
    return Dialect(best, quoted, found[best])


def _without_names(path: Path, line: str, tries: Sequence[str], header: Sequence[str]) -> Dialect:
    """Spelling of a file whose first line is an event: the separator that gives as many fields as there are names."""
    counts = {mark: len(header_names(line, mark)) for mark in tries}
    best = next((mark for mark in tries if counts[mark] == len(header)), None)
    if best is None:
        most = max(tries, key=lambda mark: counts[mark])
        raise ValueError(
            f"{path} has {counts[most]} fields in its first line but the header names {len(header)}: "
            f"{listed(list(header))}"
        )
    return Dialect(best, best != "\t" or _quotes_fields(path), list(header))


def _quotes_fields(path: Path) -> bool:
    """True where quotes of a file with tabs enclose fields, as far as its first block tells; else they are letters."""
    block = next(text_blocks.blocks(path, size=1 << 16), b"")
    if b'"' not in block:
        return False
    cut = _last_row_end(block, _quotes(block))
    return re.search(rb'(^|[\t\n])"', block) is not None and cut > 0 and _well_quoted(block[:cut], b"\t")


def read_fields(
    path: Path, dialect: Dialect, columns: Sequence[str], notes: Notes, header: bool = True
) -> Iterator[pl.DataFrame]:
    """Some columns of a table as text, part by part; an empty field is null.

    Parameters
    ----------
    path : Path
    dialect : Dialect
    columns : sequence of str
        Names of ``dialect.names``.
    notes : Notes
    header : bool, default True
        Whether the first row is the header, which is then left out.

    Raises
    ------
    ValueError
        If a row has more fields than the header, or a quote does not close.
    """
    places = [dialect.names.index(name) for name in columns]
    rows = 0
    pieces = _whole_rows(text_blocks.blocks(path, notes), dialect)
    for block, sound in pieces:
        if not sound:
            rest = (part for part, _ in pieces)
            yield from _by_python(block, rest, dialect, places, columns, path, rows, header)
            return
        if header and block.strip():
            block, header = _without_header(block), False
        part = _by_polars(block, dialect, places, columns, path, rows)
        rows += part.height
        yield part


def _quotes(block: bytes) -> np.ndarray:
    """Positions of the quotes, int64."""
    return np.flatnonzero(np.frombuffer(block, np.uint8) == 34)


def _last_row_end(block: bytes, quotes: np.ndarray) -> int:
    """Position after the last line feed that is not between quotes, 0 if there is none."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _well_quoted(block: bytes, separator: bytes) -> bool:
    """True where every quote opens or closes a field, or is doubled inside one; no lone carriage return ends a line."""
    data = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    quotes = np.flatnonzero(data == 34)
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before, after = data[opening - 1], data[closing + 1]
    # "a""b" is a field that closes and opens again at once.
    again = np.append(opening[1:], -1) == closing + 1
    mark = separator[0]
    opens = (before == mark) | (before == 10) | np.append(False, again[:-1])
    crlf = (after == 13) & (data[np.minimum(closing + 2, len(data) - 1)] == 10)
    return bool((opens & ((after == mark) | (after == 10) | again | crlf)).all())


def _whole_rows(pieces: Iterable[bytes], dialect: Dialect) -> Iterator[tuple[bytes, bool]]:
    """Blocks of whole rows, and whether polars may parse them; after one that it may not the blocks are of lines."""
    mark = dialect.separator.encode()
    rest = b""
    source = iter(pieces)
    for piece in source:
        block = rest + piece
        rest = b""
        if dialect.quoted and b'"' in block:
            cut = _last_row_end(block, _quotes(block))
            block, rest = block[:cut], block[cut:]
            if len(rest) > text_blocks.LINE_LIMIT or (cut and not _well_quoted(block, mark)):
                yield block + rest, False
                yield from ((other, False) for other in source)
                return
        if block:
            yield block, not _lone_returns(block)
    if rest:  # without a line feed at its end, or with a quote that never closes
        yield rest, _well_quoted(rest, mark)


def _lone_returns(block: bytes) -> bool:
    return b"\r" in block and block.count(b"\r") != block.count(b"\r\n")


def _without_header(block: bytes) -> bytes:
    """The rows after the first that is not blank."""
    quotes = _quotes(block)
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    start = 0
    for end in ends[np.searchsorted(quotes, ends) % 2 == 0]:
        if block[start:end].strip():
            return block[int(end) + 1 :]
        start = int(end) + 1
    return b""


def _without_blank_lines(block: bytes, quoted: bool) -> bytes:
    """The block without lines that hold nothing, as Python's csv leaves them out."""
    if block.startswith((b"\n", b"\r\n")):
        block = block.lstrip(b"\r\n")
    if b"\n\n" not in block and b"\n\r\n" not in block:
        return block
    if not (quoted and b'"' in block):
        return re.sub(rb"\n(?:\r?\n)+", b"\n", block)
    quotes = _quotes(block)
    parts, start = [], 0
    for match in re.finditer(rb"(?<=\n)(?:\r?\n)+", block):
        if np.searchsorted(quotes, match.start()) % 2 == 0:
            parts.append(block[start : match.start()])
            start = match.end()
    return b"".join([*parts, block[start:]])


def _by_polars(
    block: bytes,
    dialect: Dialect,
    places: Sequence[int],
    columns: Sequence[str],
    path: Path,
    rows: int,
    blanks: bool = False,
) -> pl.DataFrame:
    """Some columns of a block; ``blanks`` says that blank lines were taken out of it."""
    if not block.strip(b"\r\n"):
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    quoted = dialect.quoted and b'"' in block
    names = [f"c{at}" for at in range(len(dialect.names))]
    top = dialect.separator.join(names).encode() + b"\n"
    try:
        part = pl.read_csv(
            io.BytesIO(top + block),
            separator=dialect.separator,
            columns=[names[at] for at in places],
            infer_schema=False,
            quote_char='"' if quoted else None,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(_what_is_wrong(block, dialect, path, rows)) from error
    part = part.select(pl.col(names[at]).alias(name) for at, name in zip(places, columns, strict=True))
    # A row of nothing may be a blank line, which is no row: only then the block is searched for them.
    if not blanks and part.select(pl.all_horizontal(pl.all().is_null()).any()).item():
        return _by_polars(_without_blank_lines(block, dialect.quoted), dialect, places, columns, path, rows, True)
    return part


def _what_is_wrong(block: bytes, dialect: Dialect, path: Path, rows: int) -> str:
    """A sentence that names the first row with too many fields."""
    lines = io.StringIO(block.decode("utf-8"), newline="")
    try:
        for at, row in enumerate(_python_rows(lines, dialect)):
            if len(row) > len(dialect.names):
                return (
                    f"{path} has {len(row)} fields in row {rows + at + 1} and {len(dialect.names)} in its header "
                    f"({listed(dialect.names)}); expected as many, separated by {dialect.separator!r}"
                )
    except csv.Error:
        pass
    return f"{path} is not a readable table separated by {dialect.separator!r}; its columns are {listed(dialect.names)}"


def _by_python(
    block: bytes,
    rest: Iterable[bytes],
    dialect: Dialect,
    places: Sequence[int],
    columns: Sequence[str],
    path: Path,
    rows: int,
    header: bool,
) -> Iterator[pl.DataFrame]:
    """The rows from here on through Python's csv, strictly: a quote that does not close is refused."""

    def lines() -> Iterator[str]:
        for piece in _chain(block, rest):
            yield from io.StringIO(piece.decode("utf-8"), newline="")

    width = len(dialect.names)
    reader = _python_rows(lines(), dialect)
    kept: list[list[str | None]] = [[] for _ in places]
    try:
        for row in reader:
            if not row:
                continue
            if header:
                header = False
                continue
            rows += 1
            if len(row) > width:
                raise ValueError(
                    f"{path} has {len(row)} fields in row {rows} and {width} in its header ({listed(dialect.names)}); "
                    f"expected as many, separated by {dialect.separator!r}"
                )
            for column, at in zip(kept, places, strict=True):
                column.append(row[at] or None if at < len(row) else None)
            if len(kept[0]) >= _ROWS:
                yield _frame(kept, columns)
                kept = [[] for _ in places]
    except csv.Error as error:
        raise ValueError(
            f"{path} has a quote out of place near row {rows + 1} ({clip(str(error), 80)}); "
            'expected a field in quotes to end before a separator, and a quote in it to be doubled ("")'
        ) from error
    yield _frame(kept, columns)


def _python_rows(lines: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    """Rows as Python's csv reads them, a quote that does not close being an error."""
    if dialect.quoted:
        return csv.reader(lines, delimiter=dialect.separator, strict=True)
    return csv.reader(lines, delimiter=dialect.separator, strict=True, quoting=csv.QUOTE_NONE)


def _chain(block: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield block
    yield from rest


def _frame(kept: list[list[str | None]], columns: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series(column, dtype=pl.String) for name, column in zip(columns, kept, strict=True)})
