"""Subjects of a report: the codes of folders and files, with the vectors, decoder and titles that can be had.

A subject is one set of codes and its quality report. Vectors, titles and categories are optional everywhere: what needs
them is left out, and the subject's notes say so. Reads only; shows nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import consistent
from semtok.catalogue.fit import decoded_from
from semtok.codecs.schemas import open_tokenizer, read_report
from semtok.codes import ItemCodes
from semtok.content.arrange import Layout, laid_out_as, lay_out
from semtok.content.embeddings import Embeddings
from semtok.content.ready_vectors import VectorSource, open_vectors
from semtok.content.shards import is_sharded
from semtok.content.vector_files import is_vector_file
from semtok.exchange.reading import methods_in, read_codes
from semtok.quality import category_columns, code_report, collision_report

__all__ = ["Subject", "examine", "item_titles", "open_subjects", "vectors_at"]

_TITLES = ("title", "name", "product_type", "product_category")
_FITTED = ("before", "resolving", "unique", "seconds")
_MOST_DECODED = 200_000  # items whose decoded vectors are worth their memory where only the map shows them
_MEASURED = ("reconstruction", "neighbours", "agreement")


@dataclass
class Subject:
    """One set of codes and what is known of it.

    Attributes
    ----------
    name : str
        For tables; no two subjects of a report share one.
    source : str
        The folder or file.
    codes : ItemCodes
    method : str or None
        How they were made, where a tokenizer folder says.
    report : dict
        From `semtok.quality.code_report`, and from `semtok fit` where that was kept.
    notes : list of str
        What is missing, and why.
    vectors : float32 [N, D] or None
        What the codes were made from, laid out as for the tokenizer.
    decoded : float32 [N, D] or None
        What they decode to.
    """

    name: str
    source: str
    codes: ItemCodes
    method: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    vectors: np.ndarray | None = None
    decoded: np.ndarray | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kept: Mapping[str, Any] = field(default_factory=dict, repr=False)


def vectors_at(path: str | os.PathLike[str] | VectorSource, item_ids: Any = None) -> Embeddings:
    """Vectors that lie in one piece: an embeddings folder, or a file of vectors; see `open_vectors`.

    Raises
    ------
    FileNotFoundError
        If there is nothing there.
    ValueError
        If it holds no vectors, or they are in shards.
    """
    found = open_vectors(path, item_ids, "the set of codes")
    if not isinstance(found, Embeddings):
        raise ValueError(f"{path} holds vectors in shards; a report takes an embeddings folder or one file")
    return found


def open_subjects(paths: Sequence[str | os.PathLike[str]], item_ids: Any = None) -> list[Subject]:
    """Read the codes of folders and files, without measuring anything.

    Parameters
    ----------
    paths : sequence of path
        Tokenizer folders, folders of codes alone, and files in any of the formats that are read. A table of several
        methods gives one subject each; ``FILE.parquet:METHOD`` chooses one.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If it holds no codes.
    """
    found: list[Subject] = []
    for given in paths:
        text = os.fspath(given)
        path, method = Path(text), None
        if not path.exists() and ".parquet:" in text:
            file, _, method = text.rpartition(".parquet:")
            path = Path(f"{file}.parquet")
        if not path.exists():
            raise FileNotFoundError(f"{text} does not exist; expected a tokenizer folder or a file of codes")
        if path.is_dir():
            found.append(_open_folder(path))
        else:
            listed: list[str | None] = [method] if method is not None else [*methods_in(path)] or [None]
            for name in listed:
                codes = read_codes(path, method=name, item_ids=item_ids)
                found.append(Subject(name or path.stem, str(path), codes))
    _tell_apart(found)
    if item_ids is not None:
        for subject in found:
            with _of(subject):
                subject.codes = subject.codes.align(item_ids)
    return found


@consistent
def _open_folder(path: Path) -> Subject:
    opened = open_tokenizer(path)
    kept = read_report(opened) if "report.json" in opened else {}
    codes = ItemCodes.load(path)
    name = path.resolve().name
    return Subject(name, str(path), codes, opened.manifest.get("method"), manifest=opened.manifest, kept=kept)


def _tell_apart(subjects: list[Subject]) -> None:
    """Put the folder before names that several files have, and a number behind those that are still alike."""
    counts = Counter(subject.name for subject in subjects)
    files = Counter((subject.name, subject.source) for subject in subjects)
    for subject in subjects:
        if counts[subject.name] > files[subject.name, subject.source]:
            subject.name = f"{Path(subject.source).resolve().parent.name}/{subject.name}"
    seen: Counter[str] = Counter()
    for subject in subjects:
        seen[subject.name] += 1
        if seen[subject.name] > 1:
            subject.name = f"{subject.name} ({seen[subject.name]})"


def examine(
    paths: Sequence[str | os.PathLike[str]],
    items: Any = None,
    embeddings: str | os.PathLike[str] | VectorSource | None = None,
    queries: int = 1000,
    seed: int = 0,
) -> list[Subject]:
    """Read codes and measure them.

    Parameters
    ----------
    paths : sequence of path
        See `open_subjects`.
    items : polars DataFrame or None, default None
        The items, column item_id first: the codes are put in its order, and agree with its categories or not.
    embeddings : path or None, default None
        Vectors of the items, as `vectors_at` reads them. If None, those that each tokenizer was fitted on, where they
        are still there; codes without a tokenizer take those of the first subject of the same items.
    queries : int, default 1000
        Items whose neighbours are looked up.
    seed : int, default 0
        Seed of the items that are drawn.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If it holds no codes, or codes, items and vectors do not belong together.
    """
    subjects = open_subjects(paths, None if items is None else items["item_id"])
    categories = None if items is None else category_columns(items)
    # A file without ids takes those of the codes; a folder says its own, which may be fewer (items appended later).
    source = embeddings.path if isinstance(embeddings, VectorSource) else embeddings
    named = source is not None and not is_vector_file(source)
    given = None if embeddings is None else vectors_at(embeddings, None if named else subjects[0].codes.item_ids)
    cache: dict[str, Embeddings] = {}
    borrowed: tuple[str, Embeddings] | None = None
    for subject in sorted(subjects, key=lambda subject: subject.method is None):
        started = time.perf_counter()
        made, lender = given, None
        if made is None and subject.method is not None:
            made = _vectors_of_fit(subject, cache)
            borrowed = borrowed or (None if made is None else (subject.name, made))
        if made is None and subject.method is None and borrowed is not None:
            lender, lent = borrowed
            made = lent if set(lent.item_ids.tolist()) == set(subject.codes.item_ids.tolist()) else None
        _measure(subject, made, categories, queries, seed)
        if made is not None and lender is not None:
            subject.notes.append(f"Neighbours are those by the vectors of {lender}; these codes were made from others.")
        subject.report.setdefault("seconds", {})["report"] = time.perf_counter() - started
    return subjects


@contextmanager
def _of(subject: Subject) -> Iterator[None]:
    """Say whose codes do not fit."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{subject.name}: {error}") from error


def _vectors_of_fit(subject: Subject, cache: dict[str, Embeddings]) -> Embeddings | None:
    """The vectors that a tokenizer was fitted on, if they are still there and unchanged."""
    made_from = subject.manifest.get("made_from") or {}
    recorded = made_from.get("embeddings_folder")
    if recorded is None:
        subject.notes.append("The folder does not say which vectors the codes were made from (--embeddings does).")
        return None
    if not Path(recorded).exists():
        subject.notes.append(f"The vectors it was made from, {recorded}, are not there (--embeddings says where).")
        return None
    if is_sharded(recorded):
        subject.notes.append("The vectors lie in shards; what was measured on a sample when it was fitted is shown.")
        return None
    if recorded not in cache:
        cache[recorded] = vectors_at(recorded)
    if cache[recorded].hash != made_from.get("embeddings"):
        subject.notes.append(f"The vectors in {recorded} have changed since it was fitted, so they are left out.")
        return None
    if not set(cache[recorded].item_ids.tolist()) <= set(subject.codes.item_ids.tolist()):
        subject.notes.append(f"The vectors in {recorded} are of other items, so they are left out.")
        return None
    return cache[recorded]


def _measure(subject: Subject, made: Embeddings | None, categories: Any, queries: int, seed: int) -> None:
    tokenizer = _loaded(subject)
    if tokenizer is not None and (made is not None or len(subject.codes) <= _MOST_DECODED):
        subject.decoded = decoded_from(tokenizer, subject.codes)
    kept = {name: subject.kept[name] for name in (*_FITTED, *_MEASURED) if name in subject.kept}
    found = code_report(subject.codes, categories=categories)
    later = len(subject.codes) - len(made) if made is not None else 0
    layout: Layout | None = None
    if made is None:
        known = any(name in kept for name in ("reconstruction", "neighbours"))
        subject.notes.append(
            "Reconstruction and neighbours are those that were measured when it was fitted."
            if known
            else "Without vectors: no reconstruction error, no neighbours, no map."
        )
    else:
        with _of(subject):
            measured = subject.codes.select(made.item_ids) if later > 0 else subject.codes
            layout = _laid_out(made.align(measured.item_ids), tokenizer, subject.manifest)
        decoded = None if tokenizer is None else decoded_from(tokenizer, measured)
        columns = None if tokenizer is None else layout.columns
        against = code_report(measured, layout.matrix, decoded, columns, queries=queries, seed=seed)
        found |= {name: against[name] for name in _MEASURED if name in against}
        subject.vectors = layout.matrix if not later else None
        if later:
            subject.notes.append(
                f"{later:,} items were appended after the fit; reconstruction and neighbours are of the others."
            )
        if decoded is None:
            subject.notes.append("Without a decoder: no reconstruction error, no neighbours by decoded vectors.")
    subject.report = kept | found | {"method": subject.method}
    if len(subject.manifest.get("generations") or []) > 1:
        subject.report["generations"] = subject.manifest["generations"]
    policy = subject.manifest.get("unique", "none")
    if "before" not in kept and policy != "none" and tokenizer is not None and layout is not None and not later:
        raw = tokenizer.item_codes(layout.matrix, subject.codes.item_ids)
        subject.report["before"] = {"collisions": collision_report(raw)}


def _laid_out(made: Embeddings, tokenizer: Any, manifest: Mapping[str, Any]) -> Layout:
    """The vectors as the tokenizer was given them; side by side, each of length 1, for codes of others."""
    if tokenizer is None:
        return lay_out(made, "joined")
    layout = laid_out_as(made, manifest.get("made_from") or {})
    if layout.matrix.shape[1] != tokenizer.n_features_in_:
        raise ValueError(
            f"the vectors have {layout.matrix.shape[1]} columns but it was fitted on {tokenizer.n_features_in_}: they "
            "are not of the same embeddings"
        )
    return layout


def _loaded(subject: Subject) -> Any:
    if subject.method is None:
        return None
    from semtok.registry import load

    try:
        return load(subject.source)
    except (ValueError, ImportError) as error:
        subject.notes.append(f"The tokenizer cannot be loaded ({error}): what needs its decoder is left out.")
        return None


def item_titles(items: Any) -> dict[Any, str]:
    """Name of each item by its id: its title, or the first text column that has one.

    Parameters
    ----------
    items : polars DataFrame
        Column item_id first.
    """
    texts = [name for name in items.columns[1:] if str(items[name].dtype) == "String"]
    order = [name for name in _TITLES if name in texts] + [name for name in texts if name not in _TITLES]
    found: dict[Any, str] = {}
    for name in order[:2]:  # what the first column lacks, the second may have
        for item, text in zip(items["item_id"].to_list(), items[name].to_list(), strict=True):
            if text and item not in found:
                found[item] = " ".join(text.split())
    return found
