"""Files of publishers, written small by the tests; downloads from a server on this machine."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from recbase.data import fetch as downloads
from recbase.data import readers
from recbase.data.catalog import load_dataset, prepare_dataset
from recbase.data.tables import blocks


def rows(raw: readers.RawData) -> list[tuple]:
    return raw.interactions.rows()


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# ---- named columns


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.tsv", "e.jsonl", "e.jsonl.gz", "e.parquet"])
def test_tables_with_named_columns(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"who": ["a", "b"], "what": ["007", "x,y"], "stars": [5, 4], "when": [10, 20]})
    path = tmp_path / name
    plain = path.with_name(name.removesuffix(".gz"))
    if ".jsonl" in name:
        table.write_ndjson(plain)
    elif ".parquet" in name:
        table.write_parquet(plain)
    else:
        table.write_csv(plain, separator="\t" if "tsv" in name else ",")
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    raw = readers.read(path, columns={"user_id": "who", "item_id": "what", "timestamp": "when"})
    assert rows(raw) == [("a", "007", 10), ("b", "x,y", 20)]
    assert raw.source["file"] == name


def test_usual_names_are_found_and_plain_integers_stay_integers(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "userId,movieId,timestamp\n3,12,1.9\n1,7,2\n")
    assert rows(readers.read(path)) == [(3, 12, 1, 900_000_000), (1, 7, 2, 0)]


def test_text_with_line_breaks_stays_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BATCH_BYTES", 16)
    body = "".join(f'u{n},"line one\nline, two ""quoted""\n",i{n}\n' for n in range(50))
    path = write(tmp_path / "log.csv", "user_id,text,item_id\n" + body)
    assert rows(readers.read(path)) == [(f"u{n}", f"i{n}") for n in range(50)]


def test_items_beside_events(tmp_path: Path) -> None:
    events = write(tmp_path / "e.csv", "user_id,item_id\n1,1\n1,2\n1,3\n")
    items = write(tmp_path / "items.csv", "item_id,title,brand\n3,three,\n2, two ,B\n1,one,A\n")
    data = prepare_dataset(events, items=items, min_user=1, min_item=1)
    assert data.items["title"].to_list() == ["one", "two", "three"]
    assert data.items["brand"].to_list() == ["A", "B", None]
    jsonl = write(tmp_path / "items.jsonl", '{"item_id": 1, "title": "one", "features": ["a", "b"], "x": {"y": 1}}\n')
    assert readers.read(events, jsonl).items_of(pl.Series([1])).rows() == [(1, "one", "a b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "", "e.csv is empty; expected events"),
        ("e.csv", "user,rating\n1,2\n", "e.csv has no column item_id; its columns are user, rating"),
        ("e.csv", "user_id,item_id\n", "e.csv has no rows; expected at least one event"),
        ("e.csv", "user_id,item_id\n1,\n", "item_id of .*e.csv is null in 1 of 1 rows"),
        (
            "e.csv",
            "user_id,item_id,timestamp\n1,2,today\n",
            "timestamp of .*e.csv has the value 'today'; expected a number",
        ),
        ("e.jsonl", "user item\n", "e.jsonl is not JSON lines: its first line is 'user item'"),
        ("e.parquet", "PAR1 nonsense", "e.parquet is not a readable Parquet file: truncated or damaged"),
        ("e.xls", "x", "cannot tell the format of .*e.xls from its name; give one of csv, tsv"),
        ("e.txt", "7\n", "e.txt has 1 lines with a user and no item"),
        ("ratings.dat", "1::2\n", "ratings.dat has 1 lines with fewer than 4 fields separated by '::'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        readers.read(write(tmp_path / name, text))


def test_missing_files_and_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the file .*none.csv does not exist"):
        readers.read(tmp_path / "none.csv")
    events = write(tmp_path / "e.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(FileNotFoundError, match=r"the file .*items.csv does not exist"):
        readers.read(events, tmp_path / "items.csv")
    with pytest.raises(ValueError, match=r"format must be one of csv, .*, got 'excel'"):
        readers.read(events, format="excel")
    with pytest.raises(ValueError, match="columns has the key 'userid'; expected user_id"):
        readers.read(events, columns={"userid": "user_id"})
    with pytest.raises(ValueError, match="has no column person; its columns are user_id, item_id"):
        readers.read(events, columns={"user_id": "person"})


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv.gz", "user_id,item_id\n" + "".join(f"{n},{n * n}\n" for n in range(1000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"e.csv.gz is truncated or damaged"):
        readers.read(path)


# ---- RecBole, MovieLens, S3-Rec


def test_recbole_atomic_files(tmp_path: Path) -> None:
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\tB1\t5.0\t100.0\nu1\tB2\t4.0\t50.0\n"
    path = write(tmp_path / "shop.inter", inter)
    write(tmp_path / "shop.item", 'item_id:token\ttitle:token_seq\nB1\tA "quoted cup\nB2\tpan\n')
    raw = readers.read(path)
    assert rows(raw) == [("u1", "B1", 100), ("u1", "B2", 50)]
    assert raw.items_of(raw.interactions["item_id"]).rows() == [("B1", 'A "quoted cup'), ("B2", "pan")]


def test_movielens_dat_in_latin_1(tmp_path: Path) -> None:
    write(tmp_path / "ratings.dat", "1::2::5::300\n1::3::4::200\n")
    write(tmp_path / "movies.dat", "2::Amélie (2001)::Comedy|Romance\n3::Heat (1995)::Crime\n", "latin-1")
    raw = readers.read(tmp_path)
    assert rows(raw) == [(1, 2, 300), (1, 3, 200)]
    items = raw.items_of(pl.Series([2, 3]))
    assert items.rows() == [(2, "Amélie (2001)", "Comedy, Romance"), (3, "Heat (1995)", "Crime")]


def test_movielens_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,5.0,300\n")
    write(tmp_path / "movies.csv", 'movieId,title,genres\n2,"Heat, The",Action|Crime\n3,X,(no genres listed)\n')
    raw = readers.read(path)
    assert rows(raw) == [(1, 2, 300)]
    items = raw.items_of(pl.Series([2, 3]))
    assert items.rows() == [(2, "Heat, The", "Action, Crime"), (3, "X", None)]


def test_s3rec_lines_are_sequences(tmp_path: Path) -> None:
    path = write(tmp_path / "Beauty.txt", "1 5 3 4\n2 3 5\n")
    data = prepare_dataset(path, min_user=0, min_item=0)
    assert data.manifest["order"] == "position"
    assert data.histories[0].tolist() == [3, 1, 2]
    assert data.histories[1].tolist() == [1, 3]
    assert data.item_ids.to_list() == [3, 4, 5]


# ---- Amazon


def reviews_2014() -> str:
    said = [("A1", "B2", 30), ("A1", "0001", 20), ("A2", "B2", 10)]
    lines = [{"reviewerID": u, "asin": i, "reviewText": 'so "so"\n', "unixReviewTime": t} for u, i, t in said]
    return "".join(json.dumps(line) + "\n" for line in lines)


META_2014 = """{'asin': '0001', 'title': 'Kohl &amp; more', 'brand': "L'Or", 'price': 4.5, 'categories': [['Beauty', 'Eyes'], ['Gifts']], 'related': {'also_bought': ['B2']}}
{'asin': 'B2', 'description': 'It\\'s <b>good</b>\\nreally', 'categories': [['Beauty']]}
{'asin': 'B9', 'title': __import__('os').system('true')}
"""  # noqa: E501


def test_amazon_2014_reviews_and_literal_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews_Beauty_5.json.gz", reviews_2014())
    write(tmp_path / "meta_Beauty.json.gz", META_2014)  # B9 is not wanted, so its line is not even parsed
    raw = downloads.published("amazon2014", from_file=path)
    assert rows(raw) == [("A1", "B2", 30), ("A1", "0001", 20), ("A2", "B2", 10)]
    items = raw.items_of(pl.Series(["0001", "B2"])).select("item_id", "title", "brand", "categories", "description")
    assert items.rows() == [
        ("0001", "Kohl & more", "L'Or", "Beauty > Eyes | Gifts", None),
        ("B2", None, None, "Beauty", "It's good really"),
    ]
    data = load_dataset("amazon2014", from_file=path, min_user=1, min_item=1)
    assert data.items["title"].to_list() == ["Kohl & more", None]
    assert data.histories[0].tolist() == [1, 2]
    assert data.manifest["source"]["published"] == "amazon2014"


def test_metadata_is_never_executed(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews_Beauty_5.json.gz", reviews_2014())
    meta = write(tmp_path / "m.json.gz", META_2014)
    raw = readers.read(path, meta)
    with pytest.raises(ValueError, match=r"m.json.gz has a line that is neither JSON nor a Python literal"):
        raw.items_of(pl.Series(["B9"]))


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ({"imUrl": "http://x/2014.jpg"}, "http://x/2014.jpg"),
        (
            {"imageURL": ["http://x/small.jpg"], "imageURLHighRes": ["http://x/2018.jpg", "http://x/b.jpg"]},
            "http://x/2018.jpg",
        ),
        ({"imageURL": ["http://x/small.jpg"], "imageURLHighRes": []}, "http://x/small.jpg"),
        ({"images": [{"thumb": "http://x/t.jpg", "large": "http://x/2023.jpg", "hi_res": None}]}, "http://x/2023.jpg"),
        ({"images": [{"thumb": "http://x/t.jpg"}]}, "http://x/t.jpg"),
    ],
)
def test_amazon_metadata_names_a_picture(tmp_path: Path, entry: dict, address: str) -> None:
    path = write(tmp_path / "reviews_Gift_Cards_5.json.gz", reviews_2014())
    lines = [{"asin": "B1", "title": "Card", "images": []}, {"asin": "B2", "title": "Card"} | entry]
    items = write(tmp_path / "meta.json.gz", "".join(json.dumps(line) + "\n" for line in lines))
    table = downloads.published("amazon2014", from_file=path, items=items).items_of(pl.Series(["B1", "B2"]))
    assert table["image_url"].to_list() == [None, address]


def test_amazon_2018_json_and_ratings(tmp_path: Path) -> None:
    path = write(tmp_path / "Gift_Cards_5.json.gz", reviews_2014())
    meta = {
        "asin": "B2",
        "title": "Card",
        "feature": ["a", "b"],
        "category": ["Gifts", "Cards"],
        "description": ["x", "y"],
    }
    items = write(tmp_path / "meta_Gift_Cards.json.gz", json.dumps(meta) + "\n")
    raw = downloads.published("amazon2018", from_file=path)
    assert rows(raw)[0] == ("A1", "B2", 30)
    assert raw.items_of(pl.Series(["B2"])).rows() == [("B2", "Card", None, "a b", "Gifts > Cards", "x y", None)]
    assert items.exists()
    ratings = "B00000000A,A1234567890123,5.0,1500000000\nB00000000B,A1234567890123,4.0,1400000000\n"
    by_item = readers.read(write(tmp_path / "Gift_Cards.csv", ratings))
    assert rows(by_item) == [
        ("A1234567890123", "B00000000A", 1500000000),
        ("A1234567890123", "B00000000B", 1400000000),
    ]
    swapped = "A1234567890123,B00000000A,5.0,1500000000\n"
    assert rows(readers.read(write(tmp_path / "ratings_X.csv", swapped))) == rows(by_item)[:1]


def test_amazon_2023_jsonl_orders_by_milliseconds(tmp_path: Path) -> None:
    said = [("U", "B1", 1700000000900), ("U", "B2", 1700000000100), ("U", "B3", 1600000000000)]
    lines = [{"user_id": u, "parent_asin": i, "asin": "variant", "timestamp": t} for u, i, t in said]
    path = write(tmp_path / "All_Beauty.jsonl.gz", "".join(json.dumps(line) + "\n" for line in lines))
    meta = {"parent_asin": "B1", "title": "Cream", "store": "S", "features": ["f"], "categories": [], "details": {}}
    write(tmp_path / "meta_All_Beauty.jsonl.gz", json.dumps(meta) + "\n")
    data = load_dataset("amazon2023", from_file=path, min_user=1, min_item=1)
    assert [data.item_ids[int(i) - 1] for i in data.histories[0]] == ["B3", "B2", "B1"]
    assert data.timestamps.tolist() == [1600000000, 1700000000, 1700000000]
    assert data.items.row(0)[:4] == ("B1", "Cream", "S", "f")


def test_amazon_2023_splits_come_together(tmp_path: Path) -> None:
    header = "user_id,parent_asin,rating,timestamp,history\n"
    write(tmp_path / "Baby.train.csv", header + "U,B1,5,1000000000000,\nU,B2,5,1000000001000,B1\n")
    write(tmp_path / "Baby.valid.csv", header + "U,B3,5,1000000002000,B1 B2\n")
    test = write(tmp_path / "Baby.test.csv", header + "U,B4,5,1000000003000,B1 B2 B3\n")
    whole = prepare_dataset(tmp_path / "Baby.train.csv", min_user=0, min_item=0)
    assert whole.histories[0].tolist() == [1, 2, 3, 4]
    assert whole.name == "Baby"
    alone = prepare_dataset(test, min_user=0, min_item=0)
    assert alone.sequences_hash == whole.sequences_hash
    assert alone.timestamps is None


def test_a_big_review_file_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 MB of reviews: only the three columns and one batch are held."""
    monkeypatch.setattr(blocks, "BATCH_BYTES", 1 << 20)
    path = tmp_path / "reviews_Big_5.json.gz"
    text = "x" * 1500
    with gzip.open(path, "wt", compresslevel=1) as out:
        for n in range(40_000):
            line = {"reviewerID": f"A{n % 900}", "asin": f"B{n % 700}", "reviewText": text, "unixReviewTime": n}
            out.write(json.dumps(line) + "\n")
    meta = tmp_path / "meta.json.gz"
    with gzip.open(meta, "wt", compresslevel=1) as out:
        for n in range(20_000):
            out.write(repr({"asin": f"B{n}", "title": f"t{n}", "description": text}) + "\n")
    tracemalloc.start()
    raw = readers.read(path, meta)
    items = raw.items_of(pl.Series([f"B{n}" for n in range(700)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raw.interactions.height == 40_000
    assert items.height == 700
    assert peak < 12e6
    assert raw.interactions.estimated_size() < 3e6


# ---- Hugging Face datasets


def test_what_datasets_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp,text\na,x,5,hello\na,y,6,world\n")
    hub = {"data_files": str(path), "cache_dir": str(tmp_path / "cache")}
    raw = readers.read("csv", format="huggingface", hub=hub)
    assert rows(raw) == [("a", "x", 5), ("a", "y", 6)]
    with pytest.raises(ValueError, match="trust_remote_code is refused for csv"):
        readers.read("csv", format="huggingface", hub=hub | {"trust_remote_code": True})


# ---- downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; cuts the first ``cuts`` answers in the middle; knows byte ranges unless ``ranges`` is off."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str | None] = []  # noqa: RUF012
    cuts = 0
    ranges = True
    tag: str | None = '"first"'
    kept_tag = True  # whether If-Range is looked at

    def do_GET(self) -> None:
        kind = type(self)
        asked = self.headers.get("Range")
        kind.asked.append(asked)
        if self.path not in kind.files:
            self.send_error(404)
            return
        data = kind.files[self.path]
        start = int(asked.split("=")[1].split("-")[0]) if asked and kind.ranges else 0
        if kind.kept_tag and self.headers.get("If-Range") not in (None, kind.tag):
            start = 0
        if start >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if kind.tag is not None:
            self.send_header("ETag", kind.tag)
        self.end_headers()
        body = data[start:]
        if kind.cuts > 0:
            kind.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    kind = type("OneServer", (Server,), {"files": {}, "asked": [], "cuts": 0, "ranges": True, "tag": '"first"'})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=functools.partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield kind, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


CONTENT = bytes(range(256)) * 4000


def test_a_download_is_resumed_after_cut_connections(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files["/a.bin"], kind.cuts = CONTENT, 2
    path = downloads.download(f"{url}/a.bin", tmp_path, wait=0)
    assert path.read_bytes() == CONTENT
    assert kind.asked == [None, "bytes=512000-", "bytes=768000-"]
    assert (tmp_path / "a.bin.sha256").read_text().split() == [hashlib.sha256(CONTENT).hexdigest(), "a.bin"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.bin.sha256"]
    downloads.download(f"{url}/a.bin", tmp_path)
    assert len(kind.asked) == 3  # it is there


def test_a_download_goes_on_in_the_next_call(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files["/a.bin"], kind.cuts = CONTENT, 5
    with pytest.raises(OSError, match=r"cannot download .*a.bin after 5 tries .*kept in .*a.bin.part, so run it again"):
        downloads.download(f"{url}/a.bin", tmp_path, wait=0)
    have = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < have < len(CONTENT)
    assert downloads.download(f"{url}/a.bin", tmp_path, wait=0).read_bytes() == CONTENT
    assert kind.asked[-1] == f"bytes={have}-"


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files["/a.bin"], kind.cuts, kind.ranges = CONTENT, 1, False
    assert downloads.download(f"{url}/a.bin", tmp_path, wait=0).read_bytes() == CONTENT


def test_a_whole_part_is_recognised(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.tag").write_text('"first"')
    assert downloads.download(f"{url}/a.bin", tmp_path, wait=0).read_bytes() == CONTENT
    assert kind.asked == [f"bytes={len(CONTENT)}-"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.bin.sha256"]


@pytest.mark.parametrize("tag", ['W/"weak"', None])
def test_halves_of_two_versions_are_never_joined(tmp_path: Path, server: tuple, tag: str | None) -> None:
    """A server that names no version: the file starts anew, even if a first half is there."""
    kind, url = server
    kind.files["/a.bin"], kind.tag = CONTENT[::-1], tag
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    assert downloads.download(f"{url}/a.bin", tmp_path, wait=0).read_bytes() == CONTENT[::-1]
    assert kind.asked == [None]


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_file_that_changed_between_two_halves_starts_anew(tmp_path: Path, server: tuple, looked_at: bool) -> None:
    """Also where the server ignores If-Range and sends the second half of the new version."""
    kind, url = server
    kind.files["/a.bin"], kind.tag, kind.kept_tag = CONTENT[::-1], '"second"', looked_at
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    (tmp_path / "a.bin.part.tag").write_text('"first"')
    assert downloads.download(f"{url}/a.bin", tmp_path, wait=0).read_bytes() == CONTENT[::-1]
    assert kind.asked[0] == "bytes=5000-"


def test_a_wrong_checksum_is_refused(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files |= {"/a.bin": CONTENT, "/a.bin.md5": b"MD5 (a.bin) = " + b"0" * 32}
    with pytest.raises(ValueError, match=r"a.bin has the md5 [0-9a-f]{32}, not 0{32} \(the one published for"):
        downloads.download(f"{url}/a.bin", tmp_path, f"{url}/a.bin.md5")
    assert not list(tmp_path.iterdir())
    right = hashlib.md5(CONTENT).hexdigest()
    assert downloads.download(f"{url}/a.bin", tmp_path, right).read_bytes() == CONTENT


def test_a_file_that_changed_since_is_refused(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    kind.files["/a.bin"] = CONTENT
    downloads.download(f"{url}/a.bin", tmp_path).write_bytes(b"other")
    with pytest.raises(ValueError, match="the one recorded when it was downloaded"):
        downloads.download(f"{url}/a.bin", tmp_path)


def test_a_missing_file_is_named_at_once(tmp_path: Path, server: tuple) -> None:
    kind, url = server
    with pytest.raises(OSError, match=r"cannot download .*none.bin: the server answers 404"):
        downloads.download(f"{url}/none.bin", tmp_path)
    assert len(kind.asked) == 1
    with pytest.raises(ValueError, match="expected an address that begins with http"):
        downloads.download("file:///etc/hostname", tmp_path)


def test_a_published_set_is_fetched_and_unpacked(
    tmp_path: Path, server: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, url = server
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("ml/ratings.dat", "".join(f"{u}::{i}::5::{i}\n" for u in range(5) for i in range(6)))
        out.writestr("ml/movies.dat", "".join(f"{i}::Film {i}::Drama\n" for i in range(6)))
        out.writestr("../../outside.txt", "no")
    digest = hashlib.md5(archive.getvalue()).hexdigest()
    kind.files |= {"/ml.zip": archive.getvalue(), "/ml.zip.md5": f"MD5 = {digest}".encode()}
    here = downloads.PublishedSet(
        url + "/{category}.zip",
        None,
        "movielens",
        "x",
        ("ml",),
        "ml",
        ("ratings.dat", "movies.dat"),
        url + "/{category}.zip.md5",
    )
    monkeypatch.setitem(downloads.PUBLISHED, "films", here)
    data = load_dataset("films", cache=tmp_path)
    assert (data.name, data.n_users, data.n_items) == ("films-ml", 5, 6)
    assert data.items["title"][0] == "Film 0"
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert files == [f"films/ml/{name}" for name in ("ml.zip", "ml.zip.sha256", "ml/movies.dat", "ml/ratings.dat")]


def test_every_published_set_says_where_it_is() -> None:
    for name, wanted in downloads.PUBLISHED.items():
        if wanted.events is None:  # not for a program to fetch
            assert wanted.page.startswith("https://"), name
            assert not wanted.categories
        else:
            assert wanted.events.startswith("https://"), name
            assert "{category}" in wanted.events
        assert wanted.format in readers.FORMATS
        assert wanted.default is None or wanted.default in wanted.categories
    assert "Beauty" in downloads.PUBLISHED["amazon2014"].categories
