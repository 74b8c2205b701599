"""Pictures of items fetched from the addresses that a table names, into a folder that later calls go on with."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import threading
import urllib.error
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recbase.arguments import Count, Large, check_arguments
from recbase.console import plain
from recbase.data.fetch import TooLargeError, fetch_part
from recbase.store.files import write_file

__all__ = ["FAILED", "Pictures", "fetch_pictures"]

FAILED = "failed.tsv"
"""File of a folder of pictures with the addresses that gave none, each with the reason."""

_LIMIT = 1 << 25  # bytes; a product picture has some hundred thousand
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}
_SPELLED = "%/:=&?~#+!$,;'@()*[]"  # marks of an address that mean something in it
_NO_ADDRESS = "no address of http or https"
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")


@dataclass(frozen=True)
class Pictures:
    """Answer of `fetch_pictures`.

    Attributes
    ----------
    paths : list of str or None
        Path of each item's picture from the folder on; None where there is none.
    addresses : int
        Different addresses.
    there, fetched : int
        Pictures that were there already, and that came now.
    failed : dict
        Reason to the number of addresses that gave no picture for it.
    """

    paths: list[str | None]
    addresses: int
    there: int
    fetched: int
    failed: dict[str, int]

    def sentence(self) -> str:
        """Counts in one line."""
        said = f"{self.addresses:,} addresses of pictures: {self.there:,} were there, {self.fetched:,} fetched"
        if not self.failed:
            return f"{said}, none failed"
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.failed.items())
        lost = sum(self.failed.values())
        return f"{said}, {lost:,} failed ({why}); they stand in {FAILED} and are tried again by the same command"


def fetch_pictures(
    addresses: Sequence[str | None],
    folder: str | os.PathLike[str],
    workers: Count = 8,
    tries: Count = 3,
    timeout: Large = 30,
    quiet: bool = True,
    wait: float = 1.0,
) -> Pictures:
    """Fetch the picture at each address into a folder; what is there is kept, and a half one is gone on with.

    A picture is known by its address: its name is the address's SHA-256, so items that share one share the file. One
    that cannot be had is no error, it is counted: a server that fails or does not answer is asked ``tries`` times, one
    that says there is nothing once, and an answer that is no picture (a page that says so) is not kept.

    Parameters
    ----------
    addresses : sequence of str or None
        http or https; None and "" where an item has none.
    folder : path
        Made if it does not exist.
    workers : int, default 8
        Pictures that are fetched at a time.
    tries : int, default 3
        Times that a server is asked for one picture.
    timeout : int, default 30
        Seconds without any answer after which a try ends.
    quiet : bool, default True
        Show no progress bar.
    wait : float, default 1.0
        Seconds before the second try; each further wait is twice as long.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    check_arguments(fetch_pictures, {"workers": workers, "tries": tries, "timeout": timeout})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(address for address in addresses if address))
    places = {address: _place(address) for address in wanted}
    missing = [address for address in wanted if not (folder / places[address]).is_file()]
    for part in {place.parent for place in places.values()}:
        (folder / part).mkdir(exist_ok=True)
    stopped = threading.Event()  # so that Ctrl-C ends the tries of all threads
    failures: dict[str, str] = {}

    def fetch(address: str) -> None:
        reason = "" if stopped.is_set() else _fetched(address, folder / places[address], tries, timeout, wait, stopped)
        if reason:
            failures[address] = reason

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=quiet) as progress:
        task = progress.add_task(plain("pictures"), total=len(missing))
        pool = ThreadPoolExecutor(workers)
        try:
            for _ in pool.map(fetch, missing):
                progress.advance(task)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    _note_failures(folder, wanted, failures)
    paths = [places[address].as_posix() if address and address not in failures else None for address in addresses]
    counted = dict(sorted(Counter(failures.values()).items(), key=lambda pair: (-pair[1], pair[0])))
    there = len(wanted) - len(missing)
    return Pictures(paths, len(wanted), there, len(missing) - len(failures), counted)


def _place(address: str) -> Path:
    """Name of the file of an address, in one of 256 folders."""
    digest = hashlib.sha256(address.encode()).hexdigest()
    suffix = Path(urlsplit(address).path if "://" in address else "").suffix.lower()
    return Path(digest[:2]) / f"{digest[:20]}{suffix if suffix in _SUFFIXES else '.jpg'}"


def _fetched(address: str, target: Path, tries: int, timeout: float, wait: float, stopped: threading.Event) -> str:
    """Fetch one picture; the reason if there is none, else ""."""
    if not re.match(r"https?://[^/\s]", address):
        return _NO_ADDRESS
    url = quote(address.strip(), safe=_SPELLED)  # letters beyond ASCII and blanks, which tables have and HTTP has not
    part = target.with_name(target.name + ".part")
    reason = "cut"
    for attempt in range(tries):
        if attempt and stopped.wait(wait * 2 ** (attempt - 1)):
            return "interrupted"
        try:
            if fetch_part(url, part, timeout=timeout, limit=_LIMIT):
                break
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"answer {error.code}"
            if error.code < 500 and error.code not in (408, 429):
                return reason
        except TooLargeError:
            return f"larger than {_LIMIT >> 20} MiB"
        except http.client.InvalidURL:
            return _NO_ADDRESS
        except (http.client.HTTPException, ValueError):
            reason = "answer that is no HTTP"
        except OSError as error:
            if error.errno in _LOCAL:
                raise
            reason = "no answer in time" if _is_timeout(error) else "no connection"
    else:
        return reason
    picture = _is_picture(part)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)
    if not picture:
        part.unlink()
        return "answer that is no picture"
    os.replace(part, target)
    return ""


def _is_timeout(error: OSError) -> bool:
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)


def _is_picture(path: Path) -> bool:
    """True where a file begins as JPEG, PNG, GIF, BMP or WebP does."""
    with open(path, "rb") as file:
        start = file.read(12)
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _note_failures(folder: Path, wanted: Sequence[str], failures: dict[str, str]) -> None:
    """Write the addresses that gave no picture; those of other calls stay unless they are among ``wanted``."""
    path = folder / FAILED
    here = {_one_line(address) for address in wanted}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    others = [line for line in lines if line.partition("\t")[0] not in here]
    own = [f"{_one_line(address)}\t{reason}" for address, reason in sorted(failures.items())]
    if others or own:
        write_file(path, "".join(f"{line}\n" for line in [*others, *own]))
    else:
        path.unlink(missing_ok=True)


def _one_line(address: str) -> str:
    return re.sub(r"\s", " ", address)
