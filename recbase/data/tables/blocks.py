"""Bytes of a file as blocks of whole lines in UTF-8: decompressed, decoded and bounded.

Everything that reads text reads it here, so that a byte-order mark, an old encoding, a damaged archive or a file that
unpacks without end is met in one place.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from recbase.data.tables.raw import Notes

__all__ = ["BATCH_BYTES", "blocks", "decoded", "first_line", "open_file", "plain_name", "whole_text"]

BATCH_BYTES = 1 << 24
LINE_LIMIT = 1 << 26
"""Longest line, in bytes: no catalogue has one of 64 MiB, and a file of zeros is one line."""

BOMB_RATIO = 200
BOMB_BYTES = 1 << 29
"""A file that unpacks to more than both is refused: logs shrink to a tenth or a thirtieth, zeros to a thousandth."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BINARY = {b"PAR1": "a Parquet file", b"\x93NUM": "a NumPy array", b"\x89HDF": "an HDF5 file"}
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# A first line by which Excel is told the separator; no row and no header.
_SEPARATOR_LINE = re.compile(rb"\A\"?sep=[,;|\t]\"?\r?\n", re.IGNORECASE)

# Five bytes have no character in Windows-1252; they keep the one Latin-1 gives them, so that no two bytes become one.
codecs.register_error(
    "recbase.latin1",
    lambda error: (error.object[error.start : error.end].decode("latin-1"), error.end),  # type: ignore[attr-defined]
)


def plain_name(path: Path) -> str:
    """Name of a file in small letters, without the suffix of its compression."""
    name = path.name.lower()
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if its first bytes say so.

    Raises
    ------
    ValueError
        If it is compressed and damaged, or an archive.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith((b"PK\x03\x04", b"7z\xbc\xaf")):
        raise ValueError(f"{path} is an archive; unpack it and give the file that is in it")
    if start.startswith((b"PAR1", b"\x93NUMPY", b"\x89HDF")):
        raise ValueError(f"{path} is {_BINARY[start[:4]]}, not text; give its format, or a file of text")
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "plain")
    try:
        with _opened(path, kind) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    except (OSError, ValueError) as error:
        # Arrow's own errors are of both kinds; what this package raises passes.
        arrow = type(error).__module__.startswith("pyarrow")
        if not arrow and (isinstance(error, ValueError) or error.errno is not None):
            raise
        raise ValueError(f"{path} is truncated or damaged: {str(error)[:100]}") from error


def _opened(path: Path, kind: str) -> Any:
    if kind == "zstd":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open, "plain": open}
    return openers[kind](path, "rb")


def _read(file: IO[bytes], path: Path, size: int) -> Iterator[bytes]:
    """Pieces of a file; ValueError if it unpacks beyond what any table shrinks to."""
    packed = path.stat().st_size
    total = 0
    while piece := file.read(size):
        total += len(piece)
        if total > BOMB_BYTES and total > BOMB_RATIO * packed:
            raise ValueError(
                f"{path} unpacks to more than {BOMB_RATIO} times its {packed:,} bytes; unpack it first if that is right"
            )
        yield piece


def blocks(path: Path, notes: Notes | None = None, size: int | None = None, warn: bool = True) -> Iterator[bytes]:
    """Whole lines in UTF-8 without a byte-order mark, about ``size`` bytes at a time.

    UTF-16 and UTF-32 are told by their mark. A line that is not UTF-8 is read as Windows-1252, which is Latin-1 with
    more letters; how many were is noted.

    Raises
    ------
    ValueError
        If a compressed file is truncated, damaged or unpacks without end, or a line is longer than 64 MiB.
    """
    rest: list[bytes] = []
    foreign = held = 0
    with open_file(path) as file:
        for piece in _utf8(_read(file, path, size or BATCH_BYTES), path):
            cut = piece.rfind(b"\n") + 1
            if not cut:
                rest.append(piece)
                held += len(piece)
                if held > LINE_LIMIT:
                    raise ValueError(f"{path} has a line of more than {LINE_LIMIT >> 20} MiB; expected a table of rows")
                continue
            block, bad = decoded(b"".join([*rest, piece[:cut]]))
            foreign += bad
            yield block
            rest, held = [piece[cut:]], len(piece) - cut
    last, bad = decoded(b"".join(rest))
    foreign += bad
    if last.strip(b" \t\r\n"):
        yield last
    if foreign and notes is not None:
        notes.say(
            "lines_not_utf8",
            foreign,
            f"{foreign:,} lines of {path} are not UTF-8 and were read as Windows-1252 (Latin-1); "
            "convert the file if it is written in another encoding",
            warn,
        )


def _utf8(pieces: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Pieces without the byte-order mark; UTF-16 and UTF-32 become UTF-8, lone carriage returns line feeds."""
    first = next(pieces, b"")
    encoding = next((name for mark, name in _MARKS.items() if first.startswith(mark)), None)
    if encoding is None or encoding == "utf-8":
        first = _SEPARATOR_LINE.sub(b"", first.removeprefix(codecs.BOM_UTF8), count=1)
        if first[:400].count(0) * 3 > len(first[:400]):
            raise ValueError(f"{path} holds many zero bytes: binary, or UTF-16 without a mark; save it as UTF-8")
        # The line ends of an old Macintosh: no line feed at all.
        old = b"\r" in first and b"\n" not in first
        for piece in _chain(first, pieces):
            yield piece.replace(b"\r", b"\n") if old else piece
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in _chain(first, pieces):
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise ValueError(f"{path} begins as {encoding} and does not go on so: {str(error)[:80]}") from error


def _chain(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from pieces


def decoded(block: bytes) -> tuple[bytes, int]:
    """A block of bytes in UTF-8, and how many of its lines were not and were read as Windows-1252."""
    if block.isascii():
        return block, 0
    try:
        block.decode("utf-8")
        return block, 0
    except UnicodeDecodeError:
        pass
    lines = block.split(b"\n")
    foreign = 0
    for at, line in enumerate(lines):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            lines[at] = line.decode("cp1252", "recbase.latin1").encode()
            foreign += 1
    return b"\n".join(lines), foreign


def first_line(path: Path) -> str:
    """The first line that is not blank, without blanks around it; "" if there is none."""
    for block in blocks(path, size=1 << 16):
        match = re.search(rb"[^\r\n]*[^\s][^\r\n]*", block)
        if match:
            return match[0].decode("utf-8").strip()
    return ""


def whole_text(path: Path, notes: Notes | None = None, limit: int = 1 << 31) -> str:
    """All of a file that cannot be read in parts, such as one JSON object.

    Raises
    ------
    ValueError
        If it is longer than ``limit`` bytes.
    """
    pieces: list[bytes] = []
    size = 0
    with open_file(path) as file:
        for piece in _utf8(_read(file, path, BATCH_BYTES), path):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise ValueError(f"{path} is one object of more than {limit >> 20} MiB; write it as JSON lines")
    text, foreign = decoded(b"".join(pieces))
    if foreign and notes is not None:
        notes.say("lines_not_utf8", foreign, f"{foreign:,} lines of {path} are not UTF-8 and were read as Windows-1252")
    return text.decode("utf-8")
