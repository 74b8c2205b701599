"""Files as their publishers ship them, turned into one table of events and one of items.

CSV, TSV, Parquet and JSON lines with named columns; RecBole's atomic files; Amazon reviews of 2014, 2018 and 2023;
MovieLens; the text form of S3-Rec; and what ``datasets.load_dataset`` opens. Large files are read batch by batch and
only the columns that are needed are kept. Nothing is filtered or sorted here, and nothing that is read is executed.
"""

from __future__ import annotations

import ast
import gzip
import html
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from recbase.interactions import check_ids, check_interactions

__all__ = ["FORMATS", "RawData", "read", "read_image_features"]

USER_COLUMNS = ("user_id", "user", "userId", "reviewerID", "UserID", "userid")
ITEM_COLUMNS = ("item_id", "parent_asin", "asin", "item", "itemId", "movieId", "MovieID", "itemid")
TIME_COLUMNS = ("timestamp", "unixReviewTime", "time", "Timestamp")
"""Names under which the columns are looked for when none are given, in this order."""

BATCH_BYTES = 1 << 24
_MAX_TEXT = 5000

ItemTable = pl.DataFrame | Callable[[pl.Series], pl.DataFrame] | None


@dataclass
class RawData:
    """Events as a source has them, in the order of the source.

    Attributes
    ----------
    name : str
    interactions : DataFrame
        user_id, item_id and, where the source has them, timestamp and position.
    items : DataFrame, function or None
        The items, or a function that reads the rows of the ids it is given.
    source : dict
        What is recorded of the origin.
    time_unit : int
        Parts of a second in ``timestamp`` (1000 for milliseconds); order is decided before they are cut.
    views : list of str
        Text columns the source lists.
    """

    name: str
    interactions: pl.DataFrame
    items: ItemTable
    source: dict[str, Any]
    time_unit: int = 1
    views: list[str] = field(default_factory=list)

    def items_of(self, ids: pl.Series) -> pl.DataFrame | None:
        """The items, of which at least those in ``ids`` that are known."""
        return self.items(ids) if callable(self.items) else self.items


def read(
    source: str | os.PathLike[str] | pl.DataFrame,
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
) -> RawData:
    """Read events, and items if there are any.

    Parameters
    ----------
    source : path, str or DataFrame
        File of events; a folder for MovieLens; a name for ``format="huggingface"``.
    items : path or DataFrame, optional
        Table of items. For RecBole and MovieLens the file beside the events is found by itself.
    format : str, optional
        One of ``FORMATS``; by default told from the name of the file.
    columns : mapping, optional
        Which column of the source is ``user_id``, ``item_id``, ``timestamp``, ``position``.
    hub : mapping, optional
        Arguments for ``datasets.load_dataset``.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If the format is unknown, a column is missing, or the file is empty or damaged.
    """
    if isinstance(source, pl.DataFrame):
        named, unit = _time_unit(_named(source, columns, "the interactions"))
        return RawData("table", named, _item_table(items, columns), {"table": "given in memory"}, unit)
    if format is None:
        format = _format_of(Path(source))
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "huggingface":
        return _huggingface(os.fspath(source), items, columns, dict(hub or {}))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"the file {path} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected events")
    raw = FORMATS[format](path, items, columns)
    raw.source = {"file": path.name, "format": format} | raw.source
    return raw


def _format_of(path: Path) -> str:
    """The format that the name of a file tells."""
    name = path.name.lower().removesuffix(".gz")
    if name.startswith("reviews_") and name.endswith(".json"):
        return "amazon2014"
    if re.search(r"(ratings|movies)\.dat$", name) or (path / "ratings.dat").exists() or (path / "ratings.csv").exists():
        return "movielens"
    if name == "ratings.csv" and path.is_file() and "movieId" in _first_line(path):
        return "movielens"
    known = {
        ".inter": "recbole", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl",
        ".json": "jsonl", ".txt": "s3rec", ".dat": "movielens",
    }  # fmt: skip
    suffix = Path(name).suffix
    if suffix not in known:
        raise ValueError(f"cannot tell the format of {path} from its name; give one of {', '.join(FORMATS)}")
    return known[suffix]


def _first_line(path: Path) -> str:
    with _open(path) as file:
        return file.readline().decode("utf-8", "replace").strip()


def _open(path: Path) -> IO[bytes]:
    """A file for reading, through gzip if its first two bytes say so."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else open(path, "rb")  # type: ignore[return-value]


def _blocks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Whole lines, about ``size`` bytes at a time.

    Raises
    ------
    ValueError
        If a compressed file is truncated or damaged.
    """
    rest = b""
    try:
        with _open(path) as file:
            while block := file.read(size or BATCH_BYTES):
                cut = block.rfind(b"\n") + 1
                if not cut:
                    rest += block
                    continue
                yield rest + block[:cut]
                rest = block[cut:]
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if rest.strip():
        yield rest


# ---- tables with named columns


def _csv(path: Path, items: Any, columns: Mapping[str, str] | None, separator: str = ",") -> RawData:
    """A table with a header; Amazon's official CSVs, with or without a header, are told by their columns."""
    header = _first_line(path)
    if separator == "," and columns is None and _is_ratings_only(header):
        return _amazon_ratings(path, items)
    if separator == "," and columns is None and header.startswith("user_id,parent_asin,"):
        return _amazon2023_csv(path, items, None)
    names = header.split(separator)
    if len(names) == 1 and not columns and separator == "," and "\t" in header:
        return _csv(path, items, columns, "\t")
    wanted = _columns(names, columns, str(path))
    return _of_tables(path, _read_csv(path, separator, wanted), items, columns)


def _read_csv(path: Path, separator: str, wanted: Mapping[str, str]) -> pl.DataFrame:
    """The wanted columns of a delimited file, ids as strings unless all are integers."""
    types = dict.fromkeys(wanted.values(), pl.String)
    parts = []
    header = b""
    for block in _whole_rows(path) if separator == "," else _blocks(path):
        content = header + block
        header = header or block[: block.find(b"\n") + 1]
        try:
            part = pl.read_csv(
                io.BytesIO(content),
                separator=separator,
                columns=list(wanted.values()),
                schema_overrides=types,
                quote_char='"' if separator == "," else None,
                encoding="utf8-lossy",
            )
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} is not a readable table separated by {separator!r}: {_short(error)}") from error
        parts.append(part.select(pl.col(column).alias(name) for name, column in wanted.items()))
    table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    return _typed(table, str(path))


def _whole_rows(path: Path) -> Iterator[bytes]:
    """Blocks of a CSV that end outside quotes, so that text with line breaks stays in one piece."""
    pending = b""
    for block in _blocks(path):
        pending += block
        if pending.count(b'"') % 2 == 0:
            yield pending
            pending = b""
    if pending:
        yield pending


def _typed(table: pl.DataFrame, what: str) -> pl.DataFrame:
    """Strings to numbers: times and positions always, ids if every one is a plain integer without leading zeros."""
    for name in table.columns:
        if table.schema[name] != pl.String:
            continue
        if name in ("timestamp", "position"):
            number = table[name].cast(pl.Float64, strict=False)
            if number.null_count() > table[name].null_count():
                bad = table[name].filter(number.is_null() & table[name].is_not_null())[0]
                raise ValueError(f"{name} of {what} has the value {bad!r}; expected a number")
            whole = table[name].cast(pl.Int64, strict=False)
            series = whole if whole.null_count() == table[name].null_count() else number.floor().cast(pl.Int64)
            table = table.with_columns(series.alias(name))
        elif name in ("user_id", "item_id") and table.height and table[name].str.contains(r"^(0|[1-9]\d{0,17})$").all():
            table = table.with_columns(pl.col(name).cast(pl.Int64))
    return table


def _columns(found: list[str], given: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """Our name to the source's name, for the columns that are there.

    Raises
    ------
    ValueError
        If user or item are missing, or a given column is; the sentence lists the columns found.
    """
    known = {"user_id": USER_COLUMNS, "item_id": ITEM_COLUMNS, "timestamp": TIME_COLUMNS, "position": ("position",)}
    given = dict(given or {})
    if strange := set(given) - set(known):
        raise ValueError(f"columns has the key {sorted(strange)[0]!r}; expected {', '.join(known)}")
    chosen: dict[str, str] = {}
    for name, guesses in known.items():
        column = given.get(name) or next((guess for guess in guesses if guess in found), None)
        if column is None and name in ("user_id", "item_id"):
            raise ValueError(f"{what} has no column {name}; its columns are {', '.join(found)}")
        if column is not None and column not in found:
            raise ValueError(f"{what} has no column {column}; its columns are {', '.join(found)}")
        if column is not None:
            chosen[name] = column
    return chosen


def _named(table: pl.DataFrame, columns: Mapping[str, str] | None, what: str) -> pl.DataFrame:
    wanted = _columns(table.columns, columns, what)
    return check_interactions(table.select(pl.col(column).alias(name) for name, column in wanted.items()), what)


def _of_tables(path: Path, table: pl.DataFrame, items: Any, columns: Mapping[str, str] | None) -> RawData:
    named = check_interactions(table, str(path))
    named, unit = _time_unit(named)
    return RawData(_stem(path), named, _item_table(items, columns), {}, unit)


def _time_unit(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Milliseconds are told by their size: seconds reach 10^11 in the year 5138."""
    largest = table["timestamp"].max() if "timestamp" in table.columns else None
    return table, 1000 if isinstance(largest, int) and largest > 100_000_000_000 else 1


def _item_table(items: Any, columns: Mapping[str, str] | None) -> pl.DataFrame | None:
    """A table of items from a frame or a file with named columns."""
    if items is None:
        return None
    if isinstance(items, pl.DataFrame):
        table, what = items, "the items"
    else:
        path, what = Path(items), str(items)
        if not path.is_file():
            raise FileNotFoundError(f"the file {path} does not exist")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty; expected items")
        table = _read_items(path)
    column = (columns or {}).get("item_id")
    if column not in table.columns:
        column = next((name for name in ITEM_COLUMNS if name in table.columns), None)
    if column is None:
        raise ValueError(f"{what} has no column item_id; its columns are {', '.join(table.columns)}")
    table = table.rename({column: "item_id"}) if column != "item_id" else table
    texts = [name for name, kind in table.schema.items() if kind == pl.String and name != "item_id"]
    table = _typed(table, what).with_columns(_clean(pl.col(name)) for name in texts)
    return check_ids(table, ("item_id",), what)


def _read_items(path: Path) -> pl.DataFrame:
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            return pl.read_parquet(path, glob=False)
        if name.endswith((".jsonl", ".ndjson", ".json")):
            return _flat_lists(pl.concat([pl.read_ndjson(block) for block in _blocks(path)], how="diagonal_relaxed"))
        if name.endswith(".item"):
            return _recbole_table(path)
        separator = "\t" if name.endswith(".tsv") else ","
        with _open(path) as file:
            return pl.read_csv(file.read(), separator=separator, infer_schema=False, encoding="utf8-lossy")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not a readable table: {_short(error)}") from error


def _parquet(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    try:
        lazy = pl.scan_parquet(path, glob=False)
        wanted = _columns(lazy.collect_schema().names(), columns, str(path))
        table = lazy.select(pl.col(column).alias(name) for name, column in wanted.items()).collect()
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not a readable Parquet file: truncated or damaged") from error
    return _of_tables(path, table, items, columns)


def _jsonl(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    """One JSON object a line; Amazon's reviews of 2018 and 2023 are told by their keys."""
    line = _first_line(path)
    try:
        first = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON lines: its first line is {line[:60]!r}") from error
    if not isinstance(first, dict):
        raise ValueError(f"{path} is not JSON lines: its first line is {line[:60]!r}")
    if columns is None and "parent_asin" in first and "user_id" in first:
        return _amazon_json(path, items, ("user_id", "parent_asin", "timestamp"), 1000)
    if columns is None and "reviewerID" in first and "asin" in first:
        return _amazon_json(path, items, ("reviewerID", "asin", "unixReviewTime"), 1)
    wanted = _columns(list(first), columns, str(path))
    kinds = {column: _json_type(first[column]) for column in wanted.values()}
    table = _json_columns(path, wanted, kinds)
    return _of_tables(path, table, items, columns)


def _json_type(value: Any) -> Any:
    if isinstance(value, int):
        return pl.Int64
    return pl.Float64 if isinstance(value, float) else pl.String


def _json_columns(path: Path, wanted: Mapping[str, str], kinds: Mapping[str, Any]) -> pl.DataFrame:
    """Some keys of a file of JSON lines, batch by batch."""
    parts = []
    for block in _blocks(path):
        try:
            part = pl.read_ndjson(io.BytesIO(block), schema=dict(kinds))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} is not JSON lines: {_short(error)}") from error
        parts.append(part.select(pl.col(column).alias(name) for name, column in wanted.items()))
    if not parts:
        raise ValueError(f"{path} is empty; expected events")
    return _typed(pl.concat(parts), str(path))


# ---- Amazon reviews (McAuley, UCSD)


def _amazon_json(path: Path, items: Any, keys: tuple[str, str, str], unit: int) -> RawData:
    """Review files: one JSON object a line with the given keys."""
    user, item, time = keys
    kinds = {user: pl.String, item: pl.String, time: pl.Int64}
    table = _json_columns(path, {"user_id": user, "item_id": item, "timestamp": time}, kinds)
    # An ASIN stays a string even where all of them are digits.
    table = table.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    return RawData(_stem(path), check_interactions(table, str(path)), _amazon_items(items), {}, unit)


def _amazon2014(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    return _amazon_json(path, items, ("reviewerID", "asin", "unixReviewTime"), 1)


def _amazon2023(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    if path.name.removesuffix(".gz").endswith(".csv"):
        return _amazon2023_csv(path, items, columns)
    return _amazon_json(path, items, ("user_id", "parent_asin", "timestamp"), 1000)


def _amazon2018(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    if path.name.removesuffix(".gz").endswith(".csv"):
        return _amazon_ratings(path, items)
    return _amazon_json(path, items, ("reviewerID", "asin", "unixReviewTime"), 1)


_RATING_ROW = re.compile(r"^[A-Za-z0-9]{6,},[A-Za-z0-9]{6,},[0-9.]+,\d{6,}$")


def _is_ratings_only(header: str) -> bool:
    return bool(_RATING_ROW.match(header))


def _amazon_ratings(path: Path, items: Any) -> RawData:
    """ "Ratings only" files without a header: item,user,rating,time (2018) or user,item,rating,time (2014).

    The two are told apart by the ids: a reviewer's begins with A and is longer than an item's ten characters.
    """
    parts = []
    for block in _blocks(path):
        part = pl.read_csv(io.BytesIO(block), has_header=False, infer_schema=False)
        if part.width < 4:
            raise ValueError(f"{path} has {part.width} columns; expected user, item, rating, time in either order")
        parts.append(part.select(part.columns[at] for at in (0, 1, 3)))
    table = pl.concat(parts)
    table.columns = ["first", "second", "timestamp"]
    table = _typed(table, str(path))
    lengths = [table[name].str.len_chars().mean() for name in ("first", "second")]
    first = "user_id" if float(lengths[0] or 0) >= float(lengths[1] or 0) else "item_id"  # type: ignore[arg-type]
    second = "item_id" if first == "user_id" else "user_id"
    table = table.rename({"first": first, "second": second})
    return RawData(_stem(path), check_interactions(table, str(path)), _amazon_items(items), {})


def _amazon2023_csv(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    """The official 5-core CSVs of 2023: user_id,parent_asin,rating,timestamp and perhaps history.

    Of a set split in three, ``X.train.csv`` brings ``X.valid.csv`` and ``X.test.csv`` with it. A file with histories
    that stands alone gives each user's longest history and what follows it.
    """
    together = [path]
    if ".train." in path.name:
        others = [path.with_name(path.name.replace(".train.", f".{part}.")) for part in ("valid", "test")]
        together += [other for other in others if other.is_file()]
    wanted = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp"}
    header = _first_line(path).split(",")
    _columns(header, wanted, str(path))
    alone = "history" in header and len(together) == 1
    tables = [_read_csv(file, ",", wanted | ({"history": "history"} if alone else {})) for file in together]
    table = pl.concat([part.with_columns(pl.col("user_id", "item_id").cast(pl.String)) for part in tables])
    if alone:
        table = _whole_histories(table)
    source = {"files": [file.name for file in together]}
    name = _stem(path).removesuffix(".train")
    return RawData(name, check_interactions(table, str(path)), _amazon_items(items), source, 1000)


def _whole_histories(table: pl.DataFrame) -> pl.DataFrame:
    """Events in order from rows (target, history): the row of each user that comes last, its history spelt out."""
    last = table.sort("user_id", "timestamp", maintain_order=True).group_by("user_id", maintain_order=True).last()
    before = pl.col("history").fill_null("").str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    joined = last.select("user_id", before.list.concat(pl.concat_list("item_id")).alias("item_id"))
    return joined.explode("item_id").with_columns(position=pl.int_range(pl.len()).over("user_id"))


def _amazon_items(items: Any) -> ItemTable:
    """Metadata, read when the items that are wanted are known."""
    if items is None or isinstance(items, pl.DataFrame):
        return _item_table(items, None)
    path = Path(items)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    if not re.search(r"\.(json|jsonl)(\.gz)?$", path.name):
        return _item_table(path, None)
    return lambda ids: _amazon_metadata(path, ids)


_ID_IN_LINE = re.compile(r"""['"](?:parent_)?asin['"]: ?['"]([^'"]+)['"]""")


def _amazon_metadata(path: Path, ids: pl.Series) -> pl.DataFrame:
    """Text of the wanted items from a metadata file of 2014 (Python literals), 2018 or 2023 (JSON).

    Lines are parsed as JSON or, failing that, by ``ast.literal_eval``, which builds values and runs nothing.
    """
    wanted = set(ids.cast(pl.String).to_list())
    rows: dict[str, dict[str, str | None]] = {}
    for block in _blocks(path):
        for line in block.decode("utf-8", "replace").split("\n"):
            found = _ID_IN_LINE.findall(line)
            if not line.strip() or (found and wanted.isdisjoint(found)):
                continue
            entry = _parse(line, path)
            identifier = str(entry.get("parent_asin") or entry.get("asin") or "")
            if identifier in wanted and identifier not in rows:
                rows[identifier] = _amazon_text(entry)
    names = ("title", "brand", "features", "categories", "description", "price")
    columns: dict[str, Any] = {"item_id": pl.Series(list(rows), dtype=pl.String)}
    for name in names:
        columns[name] = pl.Series([row[name] for row in rows.values()], dtype=pl.String)
    return pl.DataFrame(columns)


def _parse(line: str, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        try:
            entry = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{path} has a line that is neither JSON nor a Python literal: {line[:60]!r}") from error
    if not isinstance(entry, dict):
        raise ValueError(f"{path} has a line that is no object: {line[:60]!r}")
    return entry


def _amazon_text(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """Title, brand, features, categories, description and price as text, null where there is none."""
    details = entry.get("details")
    brand = entry.get("brand") or entry.get("store") or (details.get("Brand") if isinstance(details, dict) else None)
    return {
        "title": _plain(entry.get("title")),
        "brand": _plain(brand),
        "features": _plain(entry.get("features") or entry.get("feature")),
        "categories": _paths(entry.get("categories") or entry.get("category")),
        "description": _plain(entry.get("description")),
        "price": _plain(entry.get("price")),
    }


def _paths(value: Any) -> str | None:
    """A category path joined by " > ", several by " | "."""
    if not isinstance(value, list) or not value:
        return _plain(value)
    several = value if isinstance(value[0], list) else [value]
    return _plain(" | ".join(" > ".join(str(level) for level in path) for path in several))


def _plain(value: Any) -> str | None:
    """One line of text without HTML entities or tags, at most 5,000 characters; null if nothing is left."""
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    if value is None:
        return None
    text = re.sub(r"<[^<>]{1,200}>", " ", html.unescape(str(value)))
    return " ".join(text.split())[:_MAX_TEXT] or None


def read_image_features(
    path: str | os.PathLike[str], item_ids: pl.Series, width: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Image vectors of some items from Amazon's binary file, streamed: 10 bytes of ASIN, then ``width`` float32.

    Parameters
    ----------
    path : path
        Such as ``image_features_Beauty.b``, compressed by gzip or not.
    item_ids : Series [N]
    width : int, default 4096

    Returns
    -------
    vectors : ndarray of float32 [N, width]
        Zero where there is none.
    missing : ndarray of bool [N]

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file ends within a record, or an item has a vector that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    record = np.dtype([("asin", "S10"), ("vector", "<f4", (width,))])
    vectors = np.zeros((len(item_ids), width), dtype=np.float32)
    missing = np.ones(len(item_ids), dtype=bool)
    rows = {str(identifier).encode(): row for row, identifier in enumerate(item_ids)}
    with _open(path) as file:
        while data := file.read(record.itemsize * 256):
            if len(data) % record.itemsize:
                raise ValueError(
                    f"{path} ends within a record of {record.itemsize} bytes: truncated, or not width {width}"
                )
            block = np.frombuffer(data, dtype=record)
            found = [(at, rows[asin]) for at, asin in enumerate(block["asin"].tolist()) if asin in rows]
            if found:
                at, into = np.array(found).T
                vectors[into], missing[into] = block["vector"][at], False
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path} has vectors that are not finite; expected width {width} and little-endian float32")
    return vectors, missing


# ---- other publishers


def _recbole(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    """Atomic files: ``name:type`` headers, tabs; the ``.item`` beside the ``.inter`` is read with it."""
    header = [column.split(":")[0] for column in _first_line(path).split("\t")]
    wanted = _columns(header, columns, str(path))
    full = dict(zip(header, _first_line(path).split("\t"), strict=True))
    table = _read_csv(path, "\t", {name: full[column] for name, column in wanted.items()})
    beside = path.with_suffix(".item")
    items = beside if items is None and beside.is_file() else items
    return _of_tables(path, table, items, columns)


def _recbole_table(path: Path) -> pl.DataFrame:
    table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, encoding="utf8-lossy")
    return table.rename({column: column.split(":")[0] for column in table.columns})


def _movielens(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    """ratings.dat (``::`` between fields) or ratings.csv, with movies.dat or movies.csv beside it."""
    if path.is_dir():
        path = next((path / name for name in ("ratings.dat", "ratings.csv") if (path / name).is_file()), path)
        if path.is_dir():
            raise FileNotFoundError(f"{path} has neither ratings.dat nor ratings.csv")
    beside = path.with_name(path.name.replace("ratings", "movies"))
    items = beside if items is None and beside != path and beside.is_file() else items
    if path.suffix == ".dat":
        table = _double_colon(path, ["user_id", "item_id", "rating", "timestamp"]).drop("rating")
        movies = None if items is None else _item_table(_movies_dat(items), None)
        return RawData(_stem(path), check_interactions(_typed(table, str(path)), str(path)), movies, {})
    wanted = _columns(_first_line(path).split(","), columns, str(path))
    movies = None if items is None else _movie_columns(_item_table(items, None))
    return RawData(_stem(path), check_interactions(_read_csv(path, ",", wanted), str(path)), movies, {})


def _movies_dat(items: Any) -> pl.DataFrame:
    if isinstance(items, pl.DataFrame):
        return items
    return _movie_columns(_double_colon(Path(items), ["item_id", "title", "genres"]))


def _movie_columns(table: pl.DataFrame | None) -> pl.DataFrame:
    """Genres become ``categories``, with commas."""
    assert table is not None
    if "genres" not in table.columns:
        return table
    genres = pl.col("genres").str.replace_all("|", ", ", literal=True).replace("(no genres listed)", None)
    return table.with_columns(genres.alias("categories")).drop("genres")


def _double_colon(path: Path, names: list[str]) -> pl.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    parts = []
    for block in _blocks(path):
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError:
            text = block.decode("latin-1")
        lines = pl.Series("line", text.splitlines())
        fields = lines.filter(lines != "").str.splitn("::", len(names)).struct.rename_fields(names)
        parts.append(fields.struct.unnest())
    table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    if nulls := table[names[-1]].null_count():
        raise ValueError(f"{path} has {nulls} lines with fewer than {len(names)} fields separated by '::'")
    return table


def _s3rec(path: Path, items: Any, columns: Mapping[str, str] | None) -> RawData:
    """The text form of S3-Rec: a line is a user and the items in order, between blanks."""
    parts = []
    for block in _blocks(path):
        lines = pl.DataFrame({"line": block.decode("utf-8", "replace").split("\n")})
        words = lines.select(pl.col("line").str.strip_chars().str.split(" ")).filter(pl.col("line").list.first() != "")
        split = words.select(user_id=pl.col("line").list.first(), item_id=pl.col("line").list.slice(1))
        short = split.filter(pl.col("item_id").list.len() == 0).height
        if short:
            raise ValueError(f"{path} has {short} lines with a user and no item; expected 'user item item ...'")
        exploded = split.explode("item_id").with_columns(position=pl.int_range(pl.len()).over("user_id"))
        parts.append(exploded)
    return _of_tables(path, _typed(pl.concat(parts), str(path)), items, columns)


def _huggingface(name: str, items: Any, columns: Mapping[str, str] | None, hub: dict[str, Any]) -> RawData:
    """A set that ``datasets.load_dataset`` opens, as Arrow; code that a repository brings is not run."""
    import datasets

    if hub.pop("trust_remote_code", False):
        raise ValueError(f"trust_remote_code is refused for {name}: code from the hub is never run")
    hub.setdefault("split", "train")
    opened = datasets.load_dataset(name, **hub)
    found = list(opened.column_names)
    wanted = _columns(found, columns, name)
    arrow = opened.select_columns(list(wanted.values())).with_format("arrow")[:]
    table = pl.DataFrame(pl.from_arrow(arrow)).select(pl.col(column).alias(ours) for ours, column in wanted.items())
    named, unit = _time_unit(check_interactions(table, name))
    return RawData(
        Path(name).name, named, _item_table(items, columns), {"huggingface": name, "format": "huggingface"}, unit
    )


def _clean(column: pl.Expr) -> pl.Expr:
    """Text without blanks around it; null where nothing is left."""
    text = column.str.strip_chars()
    return pl.when(text != "").then(text)


def _flat_lists(table: pl.DataFrame) -> pl.DataFrame:
    """Lists of strings joined to text; nested columns dropped."""
    kept = []
    for name, kind in table.schema.items():
        if kind == pl.List(pl.String):
            kept.append(pl.col(name).list.join(" ", ignore_nulls=True))
        elif not kind.is_nested():
            kept.append(pl.col(name))
    return table.select(kept)


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    stem = Path(name).stem
    return path.parent.name if stem in ("ratings", "interactions") and path.parent.name else stem


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:120]


Reader = Callable[[Path, Any, Mapping[str, str] | None], RawData]

FORMATS: dict[str, Reader] = {
    "csv": _csv,
    "tsv": lambda path, items, columns: _csv(path, items, columns, "\t"),
    "parquet": _parquet,
    "jsonl": _jsonl,
    "recbole": _recbole,
    "amazon2014": _amazon2014,
    "amazon2018": _amazon2018,
    "amazon2023": _amazon2023,
    "movielens": _movielens,
    "s3rec": _s3rec,
    "huggingface": lambda path, items, columns: _huggingface(str(path), items, columns, {}),
}
"""Formats by name; which one a file has is told from its name where it can be."""
