"""Any bytes are what Python's csv and json make of them, or are refused in one sentence; ``make fuzz`` tries more."""

import gzip
import io
import json
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from reader_oracle import HEADERS, SUFFIXES, check

PIECES = [
    *(
        b"1",
        b"2.0",
        b"007",
        b"a",
        b"B",
        b"nan",
        b"None",
        b"\xc3\xa9",
        b"\xe9",
        b"\xff",
        b"\x00",
        b"18446744073709551615",
    ),
    *(b",", b",", b",", b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\t", b"\t", b";", b"|", b" ", b'"', b'"', b'""', b"'"),
    *(b"1500000000", b"1500000000.5", b"1e400", b"inf", b"2020-01-02", b"2020-01-02T03:04:05.6Z", b"-", b"::", b"\\"),
    b"\xef\xbb\xbf",
]
JSON_PIECES = [
    *PIECES,
    *(b'{"user_id":', b'{"user_id":1,"item_id":2}', b'"item_id":', b"{", b"}", b"[", b"]", b":", b"null", b"true"),
    *(b"NaN", b'"\\ud800"', b'"\\u0061"', b'"user_id"', b"1e3", b"12.0"),
    b'{"user_id":"u","item_id":"i","timestamp":3}\n',
]
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def soup(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    mixed = st.lists(st.sampled_from(pieces), max_size=40).map(b"".join)
    return mixed | st.binary(max_size=60)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("format", [name for name in SUFFIXES if "json" not in name and "parquet" not in name])
@QUICK
@given(data=st.data())
def test_any_bytes_of_a_table(folder: Path, format: str, data: st.DataObject) -> None:
    header = data.draw(st.sampled_from([HEADERS.get(format, b""), b""]))
    check(format, header + data.draw(soup(PIECES)), folder)


@pytest.mark.parametrize("format", ["jsonl", "sequences", "amazon2014", "items-jsonl"])
@QUICK
@given(data=soup(JSON_PIECES))
def test_any_bytes_of_json(folder: Path, format: str, data: bytes) -> None:
    check(format, data, folder)


@pytest.mark.parametrize("format", ["parquet", "items-parquet"])
@QUICK
@given(data=st.data())
def test_any_damage_of_parquet(folder: Path, format: str, data: st.DataObject) -> None:
    whole = io.BytesIO()
    pl.DataFrame({"user_id": ["a", "b"], "item_id": [1, 2], "timestamp": [1.5, 2.5]}).write_parquet(whole)
    damaged = bytearray(whole.getvalue())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=6)):
        damaged[at] = value
    check(format, bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), folder)


@QUICK
@given(data=st.binary(max_size=40), keep=st.integers(0, 60))
def test_any_damage_of_gzip(folder: Path, data: bytes, keep: int) -> None:
    packed = gzip.compress(HEADERS["csv"] + b"1,2,3\n" * 5, mtime=0)
    check("csv", packed[:keep] + data + packed[keep:], folder)


fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
rows = st.lists(st.tuples(fields, fields, fields), min_size=1, max_size=8)


@QUICK
@given(table=rows, quoting=st.sampled_from(["necessary", "always"]), separator=st.sampled_from(",;\t|"))
def test_tables_that_polars_writes_come_back(folder: Path, table: list, quoting: str, separator: str) -> None:
    frame = pl.DataFrame(table, schema=dict.fromkeys(["item_id", "title", "brand"], pl.String), orient="row")
    frame = frame.with_columns(item_id="i" + pl.int_range(pl.len()).cast(pl.String))
    out = io.BytesIO()
    frame.write_csv(out, quote_style=quoting, separator=separator)
    assert check("items-tsv" if separator == "\t" else "items-csv", out.getvalue(), folder)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | fields


@QUICK
@given(entries=st.lists(st.dictionaries(fields, scalars | st.lists(scalars, max_size=3), max_size=4), min_size=1))
def test_json_items_keep_every_key(folder: Path, entries: list[dict]) -> None:
    lines = "".join(json.dumps({**entry, "item_id": f"i{at}"}) + "\n" for at, entry in enumerate(entries))
    assert check("items-jsonl", lines.encode(), folder)
