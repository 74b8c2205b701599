"""One view of items at a time: texts and pictures read, encoded in parts that survive an interruption, and filled."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from recbase.cli.options import progress
from recbase.store.files import is_abandoned
from recbase.store.folder import (
    load_arrays,
    sha256_of,
    tensor_bytes,
    write_file,
)
from semtok.content.encoders import Encoder, Pca

__all__ = [
    "source_hash",
    "EncodedParts",
    "check_source",
    "encode_entries",
    "filled_vectors",
    "joined_texts",
    "known_view",
    "listed",
    "say_missing",
    "texts_of",
    "unreadable_images",
]


_PART_ITEMS = 512


_SOURCE_KIND = "content:"


_SOURCE_SAMPLES = 64


_SOURCE_BYTES = 1 << 16


_PART = re.compile(r"^[0-9a-f]{32}\.safetensors$|^\.writing-[0-9a-f]{32}$")  # the second as earlier versions wrote


def known_view(name: str, views: Iterable[str]) -> str:
    """Name of a view that is there; ValueError where it is not."""
    if name not in views:
        raise ValueError(f"view {name!r} is missing; there are {listed(views)}")
    return name


def listed(names: Iterable[str]) -> str:
    """Names with a comma between two, for a sentence."""
    return ", ".join(names) or "none"


def texts_of(column: Any) -> tuple[list[str], np.ndarray]:
    """Texts of a column (lists are joined) and which were missing: null, or blank."""
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    texts = [
        "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for value in values
    ]
    texts = [" ".join(text.split()) for text in texts]
    return texts, np.array([not text for text in texts], dtype=bool)


def joined_texts(views: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The texts of all views of an item in one, and which items have none."""
    if not views:
        raise ValueError("joined needs text views, and there are none")
    texts = [" ".join(part for part in parts if part) for parts in zip(*views, strict=True)]
    return texts, np.array([not text for text in texts], dtype=bool)


def source_hash(encoder: str) -> str | None:
    """Hash of a model folder by the content of its configuration, tokenizer and weights; None for a name."""
    folder = Path(encoder)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".txt", ".model", ".safetensors"} and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\0".encode())
            with open(path, "rb") as file:
                # Weights of gigabytes are sampled: training changes all of them, so no sample stays the same.
                for place in range(_SOURCE_SAMPLES if size > _SOURCE_SAMPLES * _SOURCE_BYTES else 0):
                    file.seek(place * (size - _SOURCE_BYTES) // (_SOURCE_SAMPLES - 1))
                    digest.update(file.read(_SOURCE_BYTES))
                if size <= _SOURCE_SAMPLES * _SOURCE_BYTES:
                    digest.update(file.read())
    return _SOURCE_KIND + digest.hexdigest()


def check_source(encoder: str, recorded: Any) -> None:
    """Refuse a model folder that is no longer the one that vectors were made with.

    Earlier versions recorded less of it, which cannot be compared.
    """
    if isinstance(recorded, str) and recorded.startswith(_SOURCE_KIND) and source_hash(encoder) not in {None, recorded}:
        raise ValueError(f"the model in {encoder} is not the one that the vectors were made with: it was changed since")


def check_pooling(recorded: str, encoder: Any) -> None:
    """Refuse a model that pools in another way than vectors were made; ``recorded`` is what their manifest says."""
    found = encoder.describe()["pooling"]
    if found != recorded:
        raise ValueError(f"the model {encoder.name} pools by {found}, but the vectors were made by {recorded}")


def say_missing(missing: Mapping[str, np.ndarray], what: str) -> None:
    """Count the items that have nothing in a view."""
    counts = {name: int(mask.sum()) for name, mask in missing.items() if mask.any()}
    if counts:
        total = len(next(iter(missing.values())))
        said = ", ".join(f"{count:,} in {name!r}" for name, count in counts.items())
        warnings.warn(
            f"of {total:,} {what}, some have no text: {said}; there each gets the vector of an empty text, or of the "
            "mean picture",
            UserWarning,
            stacklevel=3,
        )


def unreadable_images(vectors: np.ndarray, encoder: Encoder, paths: Sequence[str]) -> np.ndarray:
    """Marks of the pictures that could not be read: bool [N]; they are counted and the first of them named.

    Raises
    ------
    OSError
        If none could.
    """
    broken = np.isnan(vectors).any(1)
    if broken.any():
        first = paths[int(broken.argmax())]
        reason = getattr(encoder, "unreadable", {}).get(first, first)
        if int(broken.sum()) == sum(map(bool, paths)):
            raise OSError(f"none of the {int(broken.sum()):,} pictures can be read, such as: {reason}")
        warnings.warn(
            f"{int(broken.sum()):,} of {len(paths):,} items have a picture that cannot be read and count as without "
            f"one, such as: {reason}",
            UserWarning,
            stacklevel=3,
        )
    return broken


def filled_vectors(vectors: np.ndarray, missing: np.ndarray, pca: Pca | None) -> np.ndarray:
    """Put the mean image where there was none (the fitted mean for new items)."""
    if missing.any():
        vectors[missing] = vectors[~missing].mean(0) if pca is None else pca.mean
    return vectors


class EncodedParts:
    """Encoded chunks of an unfinished run: one file a chunk, named by the hash of encoder and entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> np.ndarray | None:
        try:
            return load_arrays(self.folder / f"{key}.safetensors")["vectors"]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: str, vectors: np.ndarray) -> None:
        write_file(self.folder / f"{key}.safetensors", tensor_bytes({"vectors": vectors}))

    def clear(self) -> None:
        if self.folder.is_dir():
            for path in list(self.folder.iterdir()):
                if _PART.match(path.name) or is_abandoned(path):
                    path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def encode_entries(
    encoder: Encoder,
    texts: Sequence[str],
    view: str,
    parts: EncodedParts | None,
    quiet: bool,
    skipped: np.ndarray | None = None,
) -> np.ndarray:
    """Encode each distinct entry once, the longest first, in chunks that outlive an interruption: float32 [n, D].

    Rows that are ``skipped`` stay zero.
    """
    used = np.arange(len(texts)) if skipped is None else np.flatnonzero(~skipped)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts[row] for row in used.tolist()))}
    if not place:
        raise ValueError(f"view {view!r} has no entries to encode")
    order = sorted(place, key=lambda text: (-len(text), text))
    said = json.dumps(encoder.describe(), sort_keys=True, default=str)
    vectors: np.ndarray | None = None
    with progress(f"encode {view}", len(order), quiet) as advance:
        for chunk in _chunks(order):
            key = sha256_of(said, "\0".join(chunk))[:32]
            encoded = None if parts is None else parts.get(key)
            if encoded is None or len(encoded) != len(chunk):
                encoded = np.asarray(encoder.encode(chunk), dtype=np.float32)
                if parts is not None and not np.isnan(encoded).any():  # a picture may be mended before the next run
                    parts.put(key, encoded)
            if vectors is None:
                vectors = np.zeros((len(place), encoded.shape[1]), dtype=np.float32)
            vectors[[place[text] for text in chunk]] = encoded
            advance(len(chunk))
    result = np.zeros((len(texts), cast(np.ndarray, vectors).shape[1]), dtype=np.float32)
    result[used] = cast(np.ndarray, vectors)[[place[texts[row]] for row in used.tolist()]]
    return result


def _chunks(entries: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(entries), _PART_ITEMS):
        yield list(entries[start : start + _PART_ITEMS])
