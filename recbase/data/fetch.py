"""Named public data sets, fetched once from their publishers and kept.

A download is resumed where it was cut, and its SHA-256 is recorded beside it the first time and checked ever after;
where the publisher gives a checksum, that is checked too. Archives are read member by member, never unpacked wholesale.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

import polars as pl
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from recbase.console import plain
from recbase.data.readers import RawData, read
from recbase.store.files import write_file

__all__ = ["PUBLISHED", "PublishedSet", "TooLargeError", "download", "fetch_part", "published"]

_BLOCK = 1 << 18
_TRIES = 5


class TooLargeError(ValueError):
    """A file is larger than it may be."""


@dataclass(frozen=True)
class PublishedSet:
    """Source of a public data set, and its reader.

    Attributes
    ----------
    events : str or None
        Address of the file of events, with ``{category}`` where there are several; None where the publisher wants an
        account or a signature, and a program cannot fetch it.
    items : str or None
        Address of the file of items.
    format : str
        One of ``recbase.data.readers.FORMATS``.
    about : str
        Publisher and paper, recorded in the manifest.
    categories : tuple of str
        What ``category`` may be.
    default : str or None
        Category that is taken when none is given.
    members : tuple of str
        Names of the files wanted from a zip archive.
    checksum : str or None
        Address of an MD5 that the publisher gives.
    page : str
        Page to get the files from by hand, where ``events`` is None.
    repeats : bool
        Whether repeated events of a user with an item are kept if nothing else is asked for.
    """

    events: str | None
    items: str | None
    format: str
    about: str
    categories: tuple[str, ...] = ()
    default: str | None = None
    members: tuple[str, ...] = ()
    checksum: str | None = None
    page: str = ""
    repeats: bool = False


_AMAZON_2014 = (
    "Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories "
    "Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care "
    "Home_and_Kitchen Amazon_Instant_Video Kindle_Store Movies_and_TV Musical_Instruments Office_Products "
    "Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
)
_AMAZON_2018 = (
    "AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl "
    "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards "
    "Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store Luxury_Beauty "
    "Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies "
    "Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
)
_AMAZON_2023 = (
    "All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products Beauty_and_Personal_Care "
    "Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards "
    "Grocery_and_Gourmet_Food Handmade_Products Health_and_Household Health_and_Personal_Care Home_and_Kitchen "
    "Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products "
    "Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement "
    "Toys_and_Games Video_Games"
)
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_TWEETINGS = "https://raw.githubusercontent.com/sidooms/MovieTweetings/master"

PUBLISHED: dict[str, PublishedSet] = {
    "amazon2014": PublishedSet(
        f"{_SNAP}/reviews_{{category}}_5.json.gz",
        f"{_SNAP}/meta_{{category}}.json.gz",
        "amazon2014",
        "Amazon reviews 2014, 5-core; He and McAuley, WWW 2016; McAuley et al., SIGIR 2015",
        tuple(_AMAZON_2014.split()),
    ),
    "amazon2018": PublishedSet(
        f"{_UCSD}/amazon_v2/categoryFilesSmall/{{category}}_5.json.gz",
        f"{_UCSD}/amazon_v2/metaFiles2/meta_{{category}}.json.gz",
        "amazon2018",
        "Amazon reviews 2018, 5-core; Ni, Li and McAuley, EMNLP 2019",
        tuple(_AMAZON_2018.split()),
    ),
    "amazon2023": PublishedSet(
        f"{_UCSD}/amazon_2023/benchmark/5core/rating_only/{{category}}.csv.gz",
        f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz",
        "amazon2023",
        "Amazon reviews 2023, 5-core; Hou et al., arXiv 2403.03952",
        tuple(_AMAZON_2023.split()),
    ),
    "movielens": PublishedSet(
        f"{_GROUPLENS}/{{category}}.zip",
        None,
        "movielens",
        "MovieLens; Harper and Konstan, ACM TiiS 2015",
        ("ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small"),
        "ml-1m",
        ("ratings.dat", "movies.dat", "ratings.csv", "movies.csv"),
        f"{_GROUPLENS}/{{category}}.zip.md5",
    ),
    "movietweetings": PublishedSet(
        f"{_TWEETINGS}/{{category}}/ratings.dat",
        f"{_TWEETINGS}/{{category}}/movies.dat",
        "movielens",
        "MovieTweetings; Dooms, De Pessemier and Martens, CrowdRec 2013",
        ("latest", "snapshots/10K", "snapshots/20K", "snapshots/50K", "snapshots/100K", "snapshots/200K"),
        "latest",
    ),
    "hm": PublishedSet(
        None,
        None,
        "hm",
        "H&M Personalized Fashion Recommendations, Kaggle 2022",
        page="https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data",
        repeats=True,
    ),
    "yelp": PublishedSet(
        None, None, "yelp", "Yelp Open Dataset", page="https://business.yelp.com/data/resources/open-dataset/"
    ),
    "mind": PublishedSet(None, None, "mind", "MIND; Wu et al., ACL 2020", page="https://msnews.github.io/"),
}
"""Public data sets by the name that ``load_dataset`` takes."""


def published(
    name: str,
    category: str | None = None,
    from_file: str | os.PathLike[str] | None = None,
    items: str | os.PathLike[str] | pl.DataFrame | None = None,
    cache: str | os.PathLike[str] | None = None,
    quiet: bool = True,
    time_format: str | None = None,
) -> RawData:
    """Events and items of a named public set, from a file or downloaded.

    Parameters
    ----------
    name : str
        A key of ``PUBLISHED``.
    category : str, optional
        Which part of the set.
    from_file : path, optional
        File of events as published, or the folder of all files for H&M, Yelp and MIND; nothing is downloaded. The
        publisher's file of items is taken if it lies beside it.
    items : path or DataFrame, optional
        File of items as published.
    cache : path, optional
        Folder of downloads; by default ``~/.cache/semtok`` (or ``$XDG_CACHE_HOME/semtok``).
    quiet : bool, default True
        Show no progress bar.
    time_format : str, optional
        How times are written, where a file is not as its publisher ships it.

    Raises
    ------
    ValueError
        If the name or the category is unknown, a set cannot be fetched by a program and no file is given, or a file
        does not have its checksum.
    OSError
        If a file cannot be fetched; what came so far is kept for the next try.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown public data set {name!r}; the names are {', '.join(PUBLISHED)}")
    wanted = PUBLISHED[name]
    if category is not None and not wanted.categories:
        raise ValueError(f"{name} has no categories, got {category!r}")
    if from_file is not None:
        path = Path(from_file)
        beside = None if wanted.items is None else path.with_name(_items_name(path.name, wanted))
        if items is None and beside is not None and beside.is_file() and beside != path:
            items = beside
        raw = read(path, items, wanted.format, time_format=time_format)
    elif wanted.events is None:
        raise ValueError(
            f"{name} cannot be fetched by a program: get its files from {wanted.page} and name their folder with --from"
        )
    else:
        category = _category(name, wanted, category)
        folder = _cache(cache) / name / category.replace("/", "-")
        events = download(wanted.events.format(category=category), folder, _checksum(wanted, category), quiet)
        if wanted.items is not None and items is None:
            items = download(wanted.items.format(category=category), folder, None, quiet)
        events = _unpacked(events, wanted.members) if wanted.members else events
        raw = read(events, items, wanted.format, time_format=time_format)
    label = f"{name}-{(category or raw.name).replace('/', '-')}" if wanted.categories else name
    raw.name = label.lower().replace("_", "-")
    raw.source |= {"published": name, "category": category, "about": wanted.about}
    return raw


def download(
    url: str, folder: str | os.PathLike[str], checksum: str | None = None, quiet: bool = True, wait: float = 1.0
) -> Path:
    """Fetch a file into a folder, or check the one that is there.

    What has come is kept in ``NAME.part``; a cut connection is taken up again there, now and at the next call, if the
    server tells the version (ETag or Last-Modified), and else starts anew: two halves of two versions are no file.

    Parameters
    ----------
    url : str
        Address, http or https.
    folder : path
        Made if it does not exist.
    checksum : str, optional
        Hex MD5 or SHA-256 that the publisher gives, or the address of a file that holds one.
    quiet : bool, default True
        Show no progress bar.
    wait : float, default 1.0
        Seconds before the second try; each further wait is twice as long.

    Raises
    ------
    ValueError
        If the content does not have the checksum given or recorded; a file that came wrong is removed.
    OSError
        If it cannot be fetched, naming the address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"cannot download {url}: expected an address that begins with http:// or https://")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / url.rsplit("/", 1)[1]
    recorded = target.with_name(target.name + ".sha256")
    if target.is_file() and recorded.is_file():
        _compare(target, recorded.read_text(encoding="ascii").split()[0], "the one recorded when it was downloaded")
        return target
    part = target.with_name(target.name + ".part")
    _fetch(url, part, quiet, wait)
    if checksum is not None:
        expected = _published_checksum(checksum) if checksum.startswith("http") else checksum
        try:
            _compare(part, expected, f"the one published for {url}")
        except ValueError:
            _discard(part)
            raise
    digest = _digest(part, "sha256")
    _write_text(recorded, f"{digest}  {target.name}\n")
    os.replace(part, target)
    _mark_of(part).unlink(missing_ok=True)
    return target


def _fetch(url: str, part: Path, quiet: bool, wait: float) -> None:
    """Append to ``part`` until the file is whole."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=quiet) as progress:
        task = progress.add_task(plain(url.rsplit("/", 1)[1]), total=None)

        def tell(have: int, total: int | None) -> None:
            progress.update(task, total=total, completed=have)

        for attempt in range(_TRIES):
            try:
                if fetch_part(url, part, tell):
                    return
                failure = "the connection was cut"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code != 429:
                    raise OSError(f"cannot download {url}: the server answers {error.code} {error.reason}") from error
                failure = f"the server answers {error.code}"
            except (OSError, http.client.HTTPException) as error:
                failure = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt + 1 < _TRIES:
                time.sleep(wait * 2**attempt)
    raise OSError(
        f"cannot download {url} after {_TRIES} tries ({failure}); what came is kept in {part}, so run it again"
    )


def fetch_part(
    url: str,
    part: Path,
    tell: Callable[[int, int | None], None] = lambda have, total: None,
    timeout: float = 60,
    limit: int | None = None,
) -> bool:
    """Go on with a file, or begin it, over one connection. A server that ignores the range starts it anew.

    Parameters
    ----------
    url : str
    part : Path
        What came so far; its version is kept beside it.
    tell : callable, optional
        Is told the bytes that are there, and all that there will be or None.
    timeout : float, default 60
        Seconds without any answer after which it ends.
    limit : int, optional
        Most bytes.

    Returns
    -------
    bool
        True when the file is whole.

    Raises
    ------
    TooLargeError
        If the file is larger than ``limit``; what came of it is removed.
    OSError
        If the server cannot be reached, or answers that it will not send the file.
    """
    mark = _mark_of(part)
    # Without the version that the first half is of, a second half may be of another: then the file starts anew.
    version = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    have = part.stat().st_size if part.is_file() and version else 0
    headers = {"User-Agent": "semtok", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code != 416 or not have:
            raise
        error.close()
        # A range beyond the end: all of it is here, unless the answer is of another version.
        if whole and int(whole[1]) == have and _version(error.headers) in ("", version):
            return True
        _discard(part)
        return False
    with answer:
        tag = _version(answer.headers)
        if answer.status == 206 and not _goes_on(answer.headers, have, version):
            _discard(part)
            return False
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if have == 0:
            _discard(part)
            if tag:
                mark.write_text(tag, encoding="utf-8")
        tell(have, total)
        with open(part, "ab" if have else "wb") as out:
            while block := answer.read(_BLOCK):
                out.write(block)
                tell(out.tell(), total)
                if limit is not None and out.tell() > limit:
                    break
            out.flush()
            os.fsync(out.fileno())
            came = out.tell()
    if limit is not None and came > limit:
        _discard(part)
        raise TooLargeError(f"{url} has more than {limit:,} bytes")
    return total is None or came == total


def _discard(part: Path) -> None:
    """Remove what came of a file and the mark of its version; the mark last, so that no part is without its own."""
    part.unlink(missing_ok=True)
    _mark_of(part).unlink(missing_ok=True)


def _mark_of(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _version(headers: Message) -> str:
    """Mark of a version of a file: a strong ETag or the time of its last change, else ""."""
    tag = headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def _goes_on(headers: Message, have: int, version: str) -> bool:
    """True where a partial answer begins where the file ends, and is of the same version as far as it says."""
    begins = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return (begins is None or int(begins[1]) == have) and _version(headers) in ("", version)


def _category(name: str, wanted: PublishedSet, category: str | None) -> str:
    category = category or wanted.default
    if category not in wanted.categories:
        said = "no category was given" if category is None else f"{category!r} is none"
        raise ValueError(f"{name} needs a category and {said}; the categories are {', '.join(wanted.categories)}")
    return category


def _cache(given: str | os.PathLike[str] | None) -> Path:
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semtok"


def _items_name(name: str, wanted: PublishedSet) -> str:
    """Name of the publisher's file of items that belongs to a file of events."""
    if wanted.format == "movielens":
        return name.replace("ratings", "movies")
    assert wanted.items is not None
    stem = re.sub(r"^reviews_|(_5)?\.(json|jsonl|csv)(\.gz)?$|\.(train|valid|test)(?=\.csv)", "", name)
    return wanted.items.rsplit("/", 1)[1].format(category=re.sub(r"\.(train|valid|test)$", "", stem))


def _checksum(wanted: PublishedSet, category: str) -> str | None:
    return None if wanted.checksum is None else wanted.checksum.format(category=category)


def _published_checksum(url: str) -> str:
    """The hex checksum in a small file of the publisher."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"User-Agent": "semtok"}), timeout=60
        ) as answer:
            text = answer.read(10_000).decode("ascii", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"cannot read the checksum {url}: {error}") from error
    found = re.search(r"\b([0-9a-f]{64}|[0-9a-f]{32})\b", text)
    if found is None:
        raise ValueError(f"{url} holds no checksum: {text[:60]!r}")
    return found[1]


def _unpacked(archive: Path, members: tuple[str, ...]) -> Path:
    """The wanted members of a zip archive in a folder beside it; the path of the first of them."""
    folder = archive.with_suffix("")
    folder.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            wanted = [info for info in opened.infolist() if Path(info.filename).name in members]
            for info in wanted:
                target = folder / Path(info.filename).name
                if not target.is_file() or target.stat().st_size != info.file_size:
                    with opened.open(info) as source:
                        write_file(target, functools.partial(_copy, source))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not a readable zip archive: {error}") from error
    found = [folder / name for name in members if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{archive} holds none of {', '.join(members)}")
    return found[0]


def _copy(source: IO[bytes], path: Path) -> None:
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out, _BLOCK)


def _compare(path: Path, expected: str, whose: str) -> None:
    kind = {32: "md5", 64: "sha256"}.get(len(expected))
    if kind is None:
        raise ValueError(f"checksum {expected!r} has {len(expected)} digits; expected an MD5 (32) or a SHA-256 (64)")
    found = _digest(path, kind)
    if found != expected.lower():
        name = path.name.removesuffix(".part")
        raise ValueError(
            f"{name} has the {kind} {found}, not {expected} ({whose}): damaged or changed; delete it and retry"
        )


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _write_text(path: Path, text: str) -> None:
    write_file(path, text)
