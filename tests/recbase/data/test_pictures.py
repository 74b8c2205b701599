"""Pictures from addresses: what is fetched, gone on with, tried again, counted and never kept."""

import contextlib
import errno
import functools
import gzip
import http.server
import io
import json
import threading
import time
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image

import semtok.cli
from recbase.data import pictures
from recbase.data.catalog import load_dataset, prepare_dataset
from recbase.data.pictures import FAILED, fetch_pictures


def picture(seed, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


class Shop(http.server.BaseHTTPRequestHandler):
    """Pictures; ``cut`` says how often one comes by half, ``busy`` how often not, ``slow`` which ones wait."""

    files: ClassVar[dict] = {}
    cut: ClassVar[dict] = {}
    busy: ClassVar[dict] = {}
    slow: ClassVar[set] = set()
    asked: ClassVar[list] = []
    at_once = 0
    most = 0
    lock = threading.Lock()

    def do_GET(self):
        kind = type(self)
        with kind.lock:
            kind.asked.append((self.path, self.headers["Range"]))
            kind.at_once += 1
            kind.most = max(kind.most, kind.at_once)
        try:
            self.answer(kind)
        finally:
            with kind.lock:
                kind.at_once -= 1

    def answer(self, kind):
        if self.path in kind.slow:
            time.sleep(1.5)
        if kind.busy.get(self.path, 0) > 0:
            kind.busy[self.path] -= 1
            self.send_error(503)
            return
        if self.path not in kind.files:
            self.send_error(404)
            return
        content, start = kind.files[self.path], 0
        if self.headers["Range"] and self.headers["If-Range"] == '"v1"':
            start = int(self.headers["Range"].split("=")[1].rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if kind.cut.get(self.path, 0) > 0:
            kind.cut[self.path] -= 1
            end = start + (end - start) // 2
        time.sleep(0.02)
        with contextlib.suppress(ConnectionError):  # who did not want to wait is gone
            self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def shop():
    fresh = {"files": {}, "cut": {}, "busy": {}, "slow": set(), "asked": [], "at_once": 0, "most": 0}
    kind = type("OneShop", (Shop,), fresh | {"lock": threading.Lock()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=functools.partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield kind, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_pictures_of_all_kinds_are_fetched_once(tmp_path, shop):
    kind, url = shop
    kinds = {"a.jpg": "JPEG", "b.png": "PNG", "c.gif": "GIF", "d.webp": "WEBP", "e.bmp": "BMP"}
    kind.files |= {f"/{name}": picture(at, form) for at, (name, form) in enumerate(kinds.items())}
    addresses = [f"{url}/{name}" for name in kinds] + [None, "", f"{url}/a.jpg"]
    found = fetch_pictures(addresses, tmp_path)
    assert (found.addresses, found.there, found.fetched, found.failed) == (5, 0, 5, {})
    assert found.paths[5:7] == [None, None]
    assert found.paths[7] == found.paths[0]
    for name, path in zip(kinds, found.paths, strict=False):
        assert (tmp_path / path).read_bytes() == kind.files[f"/{name}"]
        assert path.endswith(name[1:])
    assert len(kind.asked) == 5
    again = fetch_pictures(addresses, tmp_path)
    assert (again.there, again.fetched, again.paths) == (5, 0, found.paths)
    assert len(kind.asked) == 5
    assert sorted(file.suffix for file in tmp_path.rglob("*") if file.is_file()) == [
        ".bmp", ".gif", ".jpg", ".png", ".webp"
    ]  # fmt: skip


def test_a_half_picture_is_gone_on_with(tmp_path, shop):
    kind, url = shop
    kind.files["/a.jpg"], kind.cut["/a.jpg"] = picture(0), 1
    found = fetch_pictures([f"{url}/a.jpg"], tmp_path, wait=0)
    assert (tmp_path / found.paths[0]).read_bytes() == kind.files["/a.jpg"]
    half = len(kind.files["/a.jpg"]) // 2
    assert kind.asked == [("/a.jpg", None), ("/a.jpg", f"bytes={half}-")]


def test_the_next_call_goes_on_with_a_half_picture(tmp_path, shop):
    kind, url = shop
    kind.files["/a.jpg"], kind.cut["/a.jpg"] = picture(0), 2
    found = fetch_pictures([f"{url}/a.jpg"], tmp_path, tries=2, wait=0)
    assert (found.paths, found.failed) == ([None], {"cut": 1})
    assert (tmp_path / FAILED).read_text() == f"{url}/a.jpg\tcut\n"
    found = fetch_pictures([f"{url}/a.jpg"], tmp_path, tries=2, wait=0)
    assert (tmp_path / found.paths[0]).read_bytes() == kind.files["/a.jpg"]
    assert not (tmp_path / FAILED).exists()
    assert kind.asked[-1][1] is not None


def test_what_cannot_be_had_is_counted_by_its_reason(tmp_path, shop):
    kind, url = shop
    kind.files |= {"/a.jpg": picture(0), "/page.jpg": b"<html>gone</html>"}
    kind.busy |= {"/late.jpg": 1, "/never.jpg": 99}
    kind.files["/late.jpg"] = picture(1)
    names = ["a.jpg", "none.jpg", "other.jpg", "page.jpg", "late.jpg", "never.jpg"]
    addresses = [*(f"{url}/{name}" for name in names), "file:///etc/hostname", "no address"]
    found = fetch_pictures(addresses, tmp_path, tries=2, wait=0)
    assert [path is not None for path in found.paths] == [True, False, False, False, True, False, False, False]
    assert found.failed == {
        "answer 404": 2, "no address of http or https": 2, "answer 503": 1, "answer that is no picture": 1
    }  # fmt: skip
    assert found.fetched == 2
    asked = [path for path, _ in kind.asked]
    assert asked.count("/none.jpg") == 1  # it is not there, and that was said
    assert asked.count("/never.jpg") == 2
    assert len((tmp_path / FAILED).read_text().splitlines()) == 6
    assert "8 addresses of pictures: 0 were there, 2 fetched, 6 failed (2 answer 404" in found.sentence()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"html" in file.read_bytes()]
    fetch_pictures([f"{url}/gone.jpg"], tmp_path, tries=1)
    assert len((tmp_path / FAILED).read_text().splitlines()) == 7  # those of other calls stay


def test_addresses_as_tables_write_them(tmp_path, shop):
    kind, url = shop
    kind.files |= {"/b%C3%A4r%201.jpg": picture(0), "/a%2Bb.jpg?size=1": picture(1)}
    found = fetch_pictures([f"{url}/bär 1.jpg", f"{url}/a%2Bb.jpg?size=1", f"{url[:-5]}xyz/a.jpg"], tmp_path, tries=1)
    assert [path is not None for path in found.paths] == [True, True, False]
    assert found.failed == {"no address of http or https": 1}


def test_a_server_that_does_not_answer_is_left(tmp_path, shop):
    kind, url = shop
    kind.files |= {"/a.jpg": picture(0), "/b.jpg": picture(1)}
    kind.slow.add("/a.jpg")
    found = fetch_pictures([f"{url}/a.jpg", f"{url}/b.jpg"], tmp_path, tries=1, timeout=1)
    assert found.failed == {"no answer in time": 1}
    assert found.paths[1] is not None
    assert fetch_pictures(["http://127.0.0.1:1/a.jpg"], tmp_path, tries=1).failed == {"no connection": 1}


def test_no_more_at_once_than_said(tmp_path, shop):
    kind, url = shop
    kind.files |= {f"/{at}.jpg": picture(at) for at in range(30)}
    found = fetch_pictures([f"{url}/{at}.jpg" for at in range(30)], tmp_path, workers=3)
    assert found.fetched == 30
    assert 2 <= kind.most <= 3


def test_a_picture_beyond_the_limit_is_not_kept(tmp_path, shop, monkeypatch):
    kind, url = shop
    kind.files["/a.jpg"] = picture(0)
    monkeypatch.setattr(pictures, "_LIMIT", 1000)
    assert fetch_pictures([f"{url}/a.jpg"], tmp_path).failed == {"larger than 0 MiB": 1}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.name != FAILED]


def test_a_full_disk_is_an_error_and_no_failed_picture(tmp_path, shop, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures, "fetch_part", full)
    with pytest.raises(OSError, match="No space left on device"):
        fetch_pictures([f"{shop[1]}/a.jpg"], tmp_path)


# ------------------------------------------------------------------------------------------------------- data sets


def amazon(folder, url):
    """Reviews and metadata of 2014 as published: six items, the last without a picture, one address dead."""
    reviews = [
        {"reviewerID": f"A{user}XXXXXXXXXXX", "asin": f"B00000000{item}", "unixReviewTime": 1_400_000_000 + item}
        for user in range(6)
        for item in range(6)
    ]
    (folder / "reviews_Toys_and_Games_5.json").write_text("\n".join(map(json.dumps, reviews)))
    entries = [
        {"asin": f"B00000000{item}", "title": f"Toy {item}", "imUrl": f"{url}/{item}.jpg"} for item in range(5)
    ] + [{"asin": "B000000005", "title": "Toy 5"}]
    literals = "\n".join(map(repr, entries))  # of Python, as published
    (folder / "meta_Toys_and_Games.json.gz").write_bytes(gzip.compress(literals.encode()))


def test_prepare_fetches_the_pictures_of_the_items_that_are_kept(tmp_path, shop):
    kind, url = shop
    kind.files |= {f"/{at}.jpg": picture(at) for at in range(4)}
    amazon(tmp_path, url)
    command = ["prepare", "amazon2014", "--category", "Toys_and_Games", "--from"]
    command += [str(tmp_path / "reviews_Toys_and_Games_5.json"), "--pictures", str(tmp_path / "pictures")]
    result = CliRunner().invoke(semtok.cli.main, [*command, "--out", str(tmp_path / "toys")])
    assert result.exit_code == 0, result.output
    assert "5 addresses of pictures: 0 were there, 4 fetched, 1 failed (1 answer 404)" in " ".join(
        result.output.split()
    )
    data = load_dataset(tmp_path / "toys")
    paths = data.items["image_path"].to_list()
    assert [path is None for path in paths] == [False] * 4 + [True] * 2
    assert (tmp_path / "pictures" / paths[0]).read_bytes() == picture(0)
    said = data.manifest["pictures"]
    assert said == {"addresses": 5, "there": 0, "fetched": 4, "failed": {"answer 404": 1}, "items_without": 2}
    # a data set that is there already can be given its pictures later
    kind.files["/4.jpg"] = picture(4)
    again = prepare_dataset(tmp_path / "toys", pictures=tmp_path / "pictures")
    assert again.manifest["pictures"] | {"failed": {}} == said | {
        "there": 4,
        "fetched": 1,
        "failed": {},
        "items_without": 1,
    }
    assert again.hash == data.hash


def test_pictures_need_a_column_of_addresses(tmp_path):
    events = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1]})
    items = pl.DataFrame({"item_id": [1, 2], "photo": ["http://127.0.0.1:1/a", None]})
    with pytest.raises(ValueError, match="--pictures fetches from the column image_url, and the items have"):
        prepare_dataset(events, items=items, min_user=0, min_item=0, pictures=tmp_path)
    named = {"image_url": "photo"}
    data = prepare_dataset(events, items=items, min_user=0, min_item=0, pictures=tmp_path, columns=named)
    assert data.manifest["pictures"]["failed"] == {"no connection": 1}
    assert data.manifest["pictures"]["items_without"] == 2
    assert data.views == []  # an address is no text
