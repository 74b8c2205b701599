"""What Python's own csv and json make of the bytes of a file, to hold the readers against.

``check(format, data, folder)`` reads the bytes as a file of a format. Either the events are those that the oracle
finds, in its order, or one short sentence (ValueError or OSError, of no library) refuses the file.
"""

import csv
import io
import json
import math
import re
import warnings
from pathlib import Path

import polars as pl

from recbase.data import readers

SUFFIXES = {
    "csv": ".csv",
    "tsv": ".tsv",
    "jsonl": ".jsonl",
    "recbole": ".inter",
    "s3rec": ".txt",
    "sequences": ".inter.json",
    "movielens": ".dat",
    "parquet": ".parquet",
    "amazon2014": ".json",
    "amazon2018": ".csv",
    "amazon2023": ".csv",
    "items-csv": ".csv",
    "items-tsv": ".tsv",
    "items-jsonl": ".jsonl",
    "items-parquet": ".parquet",
}
HEADERS = {
    "csv": b"user_id,item_id,timestamp\n",
    "tsv": b"user_id\titem_id\ttimestamp\n",
    "recbole": b"user_id:token\titem_id:token\ttimestamp:float\n",
    "amazon2023": b"user_id,parent_asin,rating,timestamp\n",
    "items-csv": b"item_id,title\n",
    "items-tsv": b"item_id\ttitle\n",
}
LONGEST_SENTENCE = 1500


def read(format: str, path: Path) -> pl.DataFrame | str:
    """The table, or the sentence that refuses the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if format.startswith("items-"):
                return readers.read_items(path, format.removeprefix("items-"))
            return readers.read(path, format=format).interactions
        except (ValueError, OSError) as error:
            refusal = error
    sentence = str(refusal)
    assert type(refusal) in (ValueError, OSError, FileNotFoundError), f"{type(refusal).__name__}: {sentence}"
    assert len(sentence) < LONGEST_SENTENCE, sentence
    assert path.name in sentence, sentence
    return sentence


def check(format: str, data: bytes, folder: Path) -> bool:
    """Whether the bytes are a table at all; AssertionError if reading them went wrong in silence."""
    path = folder / f"x{SUFFIXES[format]}"
    path.write_bytes(data)
    found = read(format, path)
    if isinstance(found, str):
        return False
    expected = EXPECTED.get(format, lambda _: None)(data)
    if expected is not None:
        names = ("user_id", "item_id") if "user_id" in found.columns else ("item_id",)
        assert found.select(pl.col(names).cast(pl.String)).rows() == expected, (found.rows()[:5], expected[:5])
    return True


def text_of(data: bytes) -> str | None:
    """The text of bytes in UTF-8; None for others, which the readers tell from guesses of their own."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or text.startswith("\x1f") or "\n" not in text:
        return None
    # Blanks after the last line feed are no row.
    return text if text.rsplit("\n", 1)[1].strip(" \t\r") else text[: text.rindex("\n") + 1]


def plain(columns: list[list[str]]) -> list[tuple]:
    """Ids by the rules of the readers: without blanks around them and, among whole numbers, without ".0"."""
    done = []
    for column in columns:
        # str.strip takes the separators 1C to 1F for blanks; Unicode and polars do not.
        bare = [re.sub(r"^[^\S\x1c-\x1f]+|[^\S\x1c-\x1f]+$", "", value) for value in column]
        if all(re.fullmatch(r"(0|[1-9][0-9]{0,17})(\.0+)?", value) for value in bare):
            bare = [value.split(".")[0] for value in bare]
        done.append(bare)
    return list(zip(*done, strict=True))


def _table(data: bytes, separator: str, names: list[tuple[str, ...]], quoting: int = csv.QUOTE_MINIMAL) -> list | None:
    text = text_of(data)
    if text is None:
        return None
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting) if row]
    header = [re.sub(r":(token|float)$", "", name.strip().strip('"').strip()) for name in rows[0]]
    places = [next((header.index(name) for name in choice if name in header), None) for choice in names]
    if None in places:  # another separator was told
        return None
    return plain([[row[at] if at < len(row) else "" for row in rows[1:]] for at in places])


def _tabs(data: bytes) -> list | None:
    """Tables with tabs take quotes for quotes or for letters; what both readings agree on is checked."""
    names = [("user_id",), ("item_id",)]
    with_quotes, without = None, None
    try:
        with_quotes = _table(data, "\t", names)
        without = _table(data, "\t", names, csv.QUOTE_NONE)
    except csv.Error:
        return None
    return with_quotes if with_quotes == without else None


def _json_value(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) or value is None else json.dumps(value)


def _json_lines(data: bytes, keys: tuple[str, ...]) -> list | None:
    text = text_of(data)
    if text is None:
        return None
    entries = [json.loads(line) for line in text.split("\n") if line.strip()]
    numbers = [entry.get(key) for entry in entries for key in keys]
    if any(isinstance(value, float) and (abs(value) >= 1e15 or math.isnan(value)) for value in numbers):
        return None
    return plain([[_json_value(entry.get(key)) or "" for entry in entries] for key in keys])


def _words(data: bytes) -> list | None:
    text = text_of(data)
    lines = [re.findall(r"[^ \t\r]+", line) for line in (text or "").split("\n")]
    pairs = [(line[0], item) for line in lines if line for item in line[1:]]
    return plain([list(column) for column in zip(*pairs, strict=True)]) if pairs else None


def _object(data: bytes) -> list | None:
    text = text_of(data)
    if text is None:
        return None
    pairs = [(user, _json_value(item) or "") for user, items in json.loads(text).items() for item in items]
    return plain([list(column) for column in zip(*pairs, strict=True)]) if pairs else None


EXPECTED = {
    "csv": lambda data: _table(data, ",", [("user_id",), ("item_id",)]),
    "tsv": _tabs,
    "recbole": _tabs,
    "amazon2023": lambda data: _table(data, ",", [("user_id",), ("parent_asin",)]) if b"history" not in data else None,
    "jsonl": lambda data: _json_lines(data, ("user_id", "item_id")),
    "s3rec": _words,
    "sequences": _object,
    "items-csv": lambda data: _table(data, ",", [("item_id",)]),
    "items-jsonl": lambda data: _json_lines(data, ("item_id",)),
}

if __name__ == "__main__":
    print(" ".join(SUFFIXES))
