"""New items in a tokenizer folder: codes for them that leave those of all others as they are, and how far they drifted.

A folder grows by generations: the first is the catalogue of the fit, each later one the items that were appended
together. Codes that were given never change, because models were trained on them. Knows the tokenizer by its interface
alone, whatever the method.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import (
    FileContent,
    Folder,
    check_replaceable,
    consistent,
    folder_lock,
    load_arrays,
    save_folder,
    sha256_of,
    tensor_bytes,
)
from recbase.store.restoring import Expected, check_arrays
from semtok.catalogue.unique import SUFFIX, costs_of, make_unique
from semtok.codecs.schemas import open_tokenizer
from semtok.codes import KIND, MANIFEST, ItemCodes
from semtok.registry import load

__all__ = ["ERRORS_FILE", "Appended", "append_items", "drift_report", "error_sample", "generations", "unseen_prefixes"]

ERRORS_FILE = "errors.safetensors"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CODEBOOKS = "codebooks.safetensors"
_CARD = "README.md"
_KEPT = 65_536  # training errors that a folder keeps


@dataclass(frozen=True)
class Appended:
    """Outcome of appending items.

    Attributes
    ----------
    folder : Path
        The folder that was written.
    codes : ItemCodes
        Codes of all items: those that were there, in their order, then the new ones in theirs.
    generation : dict
        The entry of the new generation, see :func:`generations`.
    """

    folder: Path
    codes: ItemCodes
    generation: dict[str, Any]


def append_items(
    folder: str | os.PathLike[str],
    X: Any,
    item_ids: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    popularity: Any = None,
    grow: bool = False,
    reference: Any = None,
    made_from: Mapping[str, Any] | None = None,
) -> Appended:
    """Give new items codes from a saved tokenizer and write them into its folder.

    An item gets the codes that its vector is encoded to. Where the folder's codes are unique and these are taken, by an
    item of the folder or by a more popular new one, it gets others that are free, by the folder's policy; items of the
    folder keep theirs. A crash leaves the folder as it was.

    Parameters
    ----------
    folder : path
        Written by ``save`` of a tokenizer of any method, with item codes.
    X : array of float [n, D]
        Vectors of the new items, made as those of the fit were.
    item_ids : array of str or int [n]
        The new items; none of them may have codes already.
    out : path, optional
        Another folder to write, which will hold all that ``folder`` holds and the new items; ``folder`` itself is
        changed if not given. Of several commands that append to one folder each waits for the one before.
    popularity : array of numbers [n], optional
        Of new items that want the same codes the more popular one gets them. By row if not given.
    grow : bool, default False
        Whether the level that the policy "suffix" added may get more codes. Models depend on the sizes of levels, so
        those trained on the folder do not fit a level that grew.
    reference : array of float [m, D], optional
        Vectors of the items of the fit (or a sample), for the drift, if the folder keeps no distances of theirs.
    made_from : mapping, optional
        Hashes (and names) of what the vectors were made from, for the entry of the generation.

    Returns
    -------
    Appended

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If an item has codes already, no code is free for an item, the vectors do not fit the tokenizer or the ids, or
        the folder holds no codes or was changed since its last generation.
    OSError
        If the folder cannot be written; it is as it was.

    Examples
    --------
    >>> import tempfile
    >>> from semtok import ProductQuantizer
    >>> random = np.random.default_rng(0)
    >>> old, new = random.normal(size=(100, 8)), random.normal(size=(5, 8))
    >>> quantizer = ProductQuantizer(levels=2, codebook_size=16).fit(old)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     quantizer.save(folder, quantizer.item_codes(old, np.arange(100)))
    ...     found = append_items(folder, new, np.arange(100, 105))
    >>> found.codes, found.generation["generation"], found.generation["items"]
    (ItemCodes(105 items, sizes=(16, 16), blocks=['item']), 1, 5)
    """
    target = Path(folder if out is None else out)
    # From reading the codes that are there to writing them with the new ones: an item that another command appends in
    # between would be lost.
    with folder_lock(target, "appending items"):
        check_replaceable(target, MANIFEST, KIND)
        return _append(folder, target, X, item_ids, popularity, grow, reference, made_from)


@consistent
def _read_all(folder: str | os.PathLike[str]) -> tuple[Folder, Any, ItemCodes]:
    """The folder, its tokenizer and its codes, of one state."""
    return open_tokenizer(folder), load(folder), ItemCodes.load(folder)


def _append(
    folder: str | os.PathLike[str],
    target: Path,
    X: Any,
    item_ids: Any,
    popularity: Any,
    grow: bool,
    reference: Any,
    made_from: Mapping[str, Any] | None,
) -> Appended:
    opened, tokenizer, old = _read_all(folder)
    history = _history(opened, old)
    X = X if getattr(X, "streams", False) else np.asarray(X)
    levels = len(tokenizer.sizes_)
    table = np.concatenate([tokenizer.encode(X), np.zeros((len(X), old.levels - levels), dtype=np.int32)], axis=1)
    new = ItemCodes(table, old.sizes, item_ids, dict(old.blocks))
    _refuse_known(old, new, folder)
    found, resolving = _with_codes(tokenizer, X, old, new, str(opened.manifest.get("unique", "none")), popularity, grow)
    errors = _errors(tokenizer, X, new.codes)
    training = _training_errors(opened, tokenizer, reference)
    generation = {
        "generation": len(history),
        "items": len(new),
        "total": len(found),
        "sizes": list(found.sizes),
        "before": old.hash,
        "after": found.hash,
        "vectors": _hash_of(X),
        "made_from": dict(made_from or {}),
        "drift": drift_report(training, errors) | {"unseen_prefixes": unseen_prefixes(old, found)},
        "resolving": resolving,
    }
    arrays = load_arrays(opened.file(_CODEBOOKS)) | {"codes": found.codes}
    content: dict[str, FileContent] = dict(found.files()) | {_CODEBOOKS: tensor_bytes(arrays)}
    if training is not None and ERRORS_FILE not in opened:
        content[ERRORS_FILE] = tensor_bytes({"errors": training})
    manifest = opened.manifest | {"codes": found.manifest(), "generations": [*history, generation]}
    in_place = target.resolve() == Path(folder).resolve()
    if not in_place:
        content = {name: _copy_of(opened, name) for name in opened} | content
    save_folder(target, MANIFEST, KIND, manifest, content, keep=in_place)
    if (target / _CARD).is_file():
        from semtok.cards import write_card

        write_card(target)
    return Appended(target, found, generation)


@consistent
def generations(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Generations of the items of a tokenizer folder, the oldest first.

    Returns
    -------
    list of dict
        ``generation`` (counted from 0, the catalogue of the fit), ``items`` that it added, ``total`` items with it,
        ``sizes`` of the levels, ``before`` and ``after`` (hashes of all codes; each begins with what the one before
        left), ``vectors`` (hash), ``made_from``, ``drift`` (:func:`drift_report` and :func:`unseen_prefixes`) and
        ``resolving`` (the report of :func:`semtok.make_unique`).

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no codes, or they were changed since the last generation.
    """
    return _history(open_tokenizer(folder), ItemCodes.load(folder))


def error_sample(tokenizer: Any, X: Any, codes: Any, seed: int = 0) -> np.ndarray | None:
    """Distances of some training items from their codes, kept to tell the drift of later ones.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Fitted.
    X : array of float [N, D]
        Vectors of the items of the fit.
    codes : array of int [N, L] or ItemCodes
        What they are encoded to.
    seed : int, default 0
        Draws 65,536 of them if there are more.

    Returns
    -------
    float32 array [m], ascending, or None
        Squared distances; None if the tokenizer has no costs.
    """
    table = codes.codes if isinstance(codes, ItemCodes) else np.asarray(codes)
    rows = np.arange(len(table))
    if len(rows) > _KEPT:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _KEPT, replace=False))
    found = _errors(tokenizer, X if len(rows) == len(table) else X[rows], table[rows])
    return None if found is None else np.sort(found)


def drift_report(training: np.ndarray | None, new: np.ndarray | None) -> dict[str, Any]:
    """Compare how far new items and the items of the fit are from what their codes stand for.

    Parameters
    ----------
    training : float [m] or None
        Squared distances of the items of the fit, or a sample of them; nothing is compared without.
    new : float [n] or None
        Squared distances of the new items; None if they cannot be had.

    Returns
    -------
    dict
        ``training`` and ``new``: ``items``, ``mean`` and ``quantiles`` of the distances. ``ratio`` of the means (None
        if the training items lie on their codes), ``above``: the share of new items beyond the 95 % quantile of
        training (0.05 where nothing drifted), ``ks`` and ``p_value``: the two-sample Kolmogorov-Smirnov statistic, the
        largest gap between the two distributions, and how likely one as large is by chance (asymptotic).
    """
    found: dict[str, Any] = {"training": None, "new": None if new is None else _distribution(new)}
    if training is None or new is None or not len(training):
        return found | {"ratio": None, "above": None, "ks": None, "p_value": None}
    from scipy.stats import ks_2samp

    found["training"] = _distribution(training)
    mean = found["training"]["mean"]
    test = ks_2samp(training, new, method="asymp")
    return found | {
        "ratio": found["new"]["mean"] / mean if mean > 0 else None,
        "above": float((new > np.quantile(training, QUANTILES[-1])).mean()),
        "ks": float(test.statistic),
        "p_value": float(test.pvalue),
    }


def unseen_prefixes(old: ItemCodes, found: ItemCodes) -> list[float]:
    """Share of the new items whose first codes no old item has, for 1, 2 ... L codes: what no model was trained on.

    Parameters
    ----------
    old : ItemCodes
        Codes of the items that were there.
    found : ItemCodes
        Codes of all items, the old ones first.
    """
    number = np.zeros(len(found), dtype=np.int64)
    shares = []
    for level, size in enumerate(found.sizes):
        number = np.unique(number * size + found.codes[:, level], return_inverse=True)[1].astype(np.int64)
        seen = np.zeros(int(number.max()) + 1, dtype=bool)
        seen[number[: len(old)]] = True
        shares.append(float((~seen[number[len(old) :]]).mean()))
    return shares


def _with_codes(
    tokenizer: Any, X: Any, old: ItemCodes, new: ItemCodes, policy: str, popularity: Any, grow: bool
) -> tuple[ItemCodes, dict[str, Any] | None]:
    """Codes of all items, those of the old ones as they are."""
    wanted = np.zeros(len(new)) if popularity is None else np.asarray(popularity)
    if wanted.shape != (len(new),):
        raise ValueError(f"popularity has shape {wanted.shape} but there are {len(new)} new items")
    sizes = _grown(old, new, grow) if policy == "suffix" else old.sizes
    ids = np.concatenate([old.item_ids, new.item_ids])
    together = ItemCodes(np.concatenate([old.codes, new.codes]), sizes, ids, dict(old.blocks))
    if policy == "none":
        return together, None
    ranked = np.concatenate([np.zeros(len(old), dtype=wanted.dtype), wanted])
    fixed = np.arange(len(together)) < len(old)
    if policy == "suffix":  # the lowest free number of the tuple
        found, report = make_unique(together, "nearest-free", popularity=ranked, fixed=fixed, spill=False)
        return found, report | {"policy": policy, "suffix_size": sizes[-1]}
    costs = costs_of(tokenizer, X, new, first=len(old))
    return make_unique(together, policy, costs=costs, popularity=ranked, fixed=fixed)


def _grown(old: ItemCodes, new: ItemCodes, grow: bool) -> tuple[int, ...]:
    """Sizes with room for the largest group in the last level."""
    if list(old.blocks)[-1] != SUFFIX:
        raise ValueError(f"the codes are unique by a suffix, but their last block is {list(old.blocks)[-1]!r}")
    contents = np.concatenate([old.codes[:, :-1], new.codes[:, :-1]])
    group = ItemCodes(contents, old.sizes[:-1], np.arange(len(contents))).groups()
    largest = int(np.bincount(group).max())
    if largest <= old.sizes[-1]:
        return old.sizes
    if not grow:
        raise ValueError(
            f"{largest} items would share one tuple but the suffix level has {old.sizes[-1]} codes: let it grow (grow, "
            f"--grow), after which models trained on these codes do not fit them any more"
        )
    return (*old.sizes[:-1], largest)


def _refuse_known(old: ItemCodes, new: ItemCodes, folder: str | os.PathLike[str]) -> None:
    if not len(new):
        raise ValueError(f"there are no items to append to {folder}")
    kinds = [("string" if codes.item_ids.dtype.kind == "U" else "integer") for codes in (old, new)]
    if len(old) and kinds[0] != kinds[1]:
        raise ValueError(f"the items of {folder} have {kinds[0]} ids but the new ones {kinds[1]} ids")
    known = new.item_ids[np.isin(new.item_ids, old.item_ids)]
    if len(known):
        shown = ", ".join(repr(item) for item in known[:3].tolist())
        raise ValueError(f"{len(known)} of {len(new)} items have codes in {folder} already, such as {shown}")


def _history(opened: Folder, codes: ItemCodes) -> list[dict[str, Any]]:
    """The generations that a manifest lists; the catalogue of the fit where it lists none."""
    history = list(opened.manifest.get("generations") or [])
    if history and history[-1]["after"] != codes.hash:
        raise ValueError(
            f"{opened.path} holds codes with hash {codes.hash[:12]} but its last generation left "
            f"{history[-1]['after'][:12]}: the codes were changed"
        )
    first = {"generation": 0, "items": len(codes), "total": len(codes), "sizes": list(codes.sizes), "before": None}
    rest = {"vectors": None, "made_from": opened.manifest.get("made_from") or {}, "drift": None}
    return history or [first | {"after": codes.hash} | rest | {"resolving": opened.manifest.get("resolving")}]


def _training_errors(opened: Folder, tokenizer: Any, reference: Any) -> np.ndarray | None:
    if ERRORS_FILE in opened:
        path = opened.file(ERRORS_FILE)
        arrays = load_arrays(path)
        check_arrays(path, arrays, {"errors": Expected((None,))}, "a tokenizer")
        return arrays["errors"]
    if reference is None:
        return None
    return error_sample(tokenizer, reference, tokenizer.encode(reference))


def _errors(tokenizer: Any, X: Any, codes: np.ndarray) -> np.ndarray | None:
    try:
        return costs_of(tokenizer, X, codes).errors()
    except NotImplementedError:
        return None


def _distribution(errors: np.ndarray) -> dict[str, Any]:
    values = np.quantile(errors, QUANTILES)
    quantiles = {str(share): float(value) for share, value in zip(QUANTILES, values, strict=True)}
    return {"items": len(errors), "mean": float(np.mean(errors, dtype=np.float64)), "quantiles": quantiles}


def _hash_of(X: Any) -> str:
    if not getattr(X, "streams", False):
        return sha256_of(np.asarray(X, dtype=np.float32))
    step = 1 << 16
    return sha256_of(*(sha256_of(X[lo : lo + step]) for lo in range(0, len(X), step)))


def _copy_of(opened: Folder, name: str) -> FileContent:
    source = opened.file(name)

    def write(path: Path) -> None:
        shutil.copyfile(source, path)

    return write
