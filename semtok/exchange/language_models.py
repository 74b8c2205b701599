"""Item codes as tokens of a language model: `<a_12>`, `<b_7>`, ..., and the rows that its tables start with.

Works on any Hugging Face model with a table of token embeddings and its tokenizer. Knows how tokens are added and what
their rows are made from; knows nothing of training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.files import new_folder
from semtok.codes import ItemCodes
from semtok.content.encoders import load_backbone
from semtok.exchange.formats import code_tokens, is_exported, write_codes

__all__ = ["INDEX_FILE", "add_code_tokens", "codewords", "export_language_model", "token_rows"]

INDEX_FILE = "items.index.json"
_SAMPLE = 16


def codewords(tokenizer: Any, codes: ItemCodes, seed: int = 0) -> list[np.ndarray]:
    """Vectors that the codes of each level stand for, in the space of the item vectors.

    Where every combination of codes has a meaning (the tokenizer has ``codebooks_``), a code's vector is what decoding
    yields with it in place of another, averaged over the other codes of some items: for codebooks that are added up,
    the very row of the codebook. Else (a tree) only the codes of items are decoded: level after level, a code's vector
    is the mean, over its items, of what the levels before leave. A code of no item then gets zeros.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Fitted; any backend.
    codes : ItemCodes
        Codes of the catalogue. Levels after those of the tokenizer (added to tell items apart) get zeros.
    seed : int, default 0
        Seed of the items that are drawn.

    Returns
    -------
    list of float32 array [K, D]
        One a level, each with mean zero over its codes (over its items, for a tree).
    """
    levels = _decoded_levels(tokenizer, codes)
    table = codes.codes[:, :levels]
    if getattr(tokenizer, "codebooks_", None) is None:
        found = _words_of_items(np.asarray(tokenizer.decode(table)), table, codes.sizes[:levels])
    else:
        found = _words_in_place(tokenizer, table, codes.sizes[:levels], seed)
    width = found[0].shape[1]
    return found + [np.zeros((size, width), dtype=np.float32) for size in codes.sizes[levels:]]


def _decoded_levels(tokenizer: Any, codes: ItemCodes) -> int:
    sizes = [int(size) for size in getattr(tokenizer, "sizes_", codes.sizes)]
    if sizes != list(codes.sizes[: len(sizes)]):
        raise ValueError(
            f"the tokenizer has levels of {', '.join(map(str, sizes))} codes but the items have "
            f"{', '.join(map(str, codes.sizes))}: they do not belong together"
        )
    return len(sizes)


def _words_in_place(tokenizer: Any, table: np.ndarray, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:_SAMPLE])
    found = []
    for level, size in enumerate(sizes):
        changed = np.repeat(table[rows], size, axis=0)  # [items * K, L]
        changed[:, level] = np.tile(np.arange(size), len(rows))
        words = np.asarray(tokenizer.decode(changed)).reshape(len(rows), size, -1).mean(0)
        found.append((words - words.mean(0)).astype(np.float32))
    return found


def _words_of_items(decoded: np.ndarray, table: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    left = decoded - decoded.mean(0)
    found = []
    for column, size in zip(table.T, sizes, strict=True):
        order = np.argsort(column, kind="stable")
        present, starts, counts = np.unique(column[order], return_index=True, return_counts=True)
        words = np.zeros((size, left.shape[1]), dtype=np.float32)
        words[present] = np.add.reduceat(left[order], starts) / counts[:, None]
        left = left - words[column]
        found.append(words)
    return found


def token_rows(words: Sequence[np.ndarray], table: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of an embedding table for codes, from what the codes stand for.

    Each level's vectors are centred and scaled to a mean square length of 1; all of them are turned to the width of the
    table by one map: their leading principal axes where they are wider, then a random rotation drawn by ``seed`` (or
    embedding, where they are narrower), which keeps distances and spreads them over all columns. The result is scaled
    and shifted so that every level has the mean row of the table and its rows the mean square distance from it that the
    table's rows have. A level without any spread (all zeros) gets random directions.

    Parameters
    ----------
    words : sequence of float [K, D]
        One a level.
    table : float [V, H]
        Rows of the tokens that the model knows.
    seed : int, default 0

    Returns
    -------
    float32 array [sum of K, H]
    """
    width = table.shape[1]
    random = np.random.default_rng(seed)
    mean = table.mean(0, dtype=np.float64)
    spread = float(np.sqrt(np.square(table - mean).sum(1).mean()))
    centred = [np.asarray(level, dtype=np.float64) - np.mean(level, axis=0, dtype=np.float64) for level in words]
    lengths = [float(np.sqrt(np.square(level).sum(1).mean())) for level in centred]
    scaled = [level / length if length > 0 else level for level, length in zip(centred, lengths, strict=True)]
    joined = np.concatenate(scaled)
    if joined.shape[1] > width:
        axes = np.linalg.eigh(joined.T @ joined)[1][:, ::-1][:, :width]  # [D, H]
        joined = joined @ axes
    turn = np.linalg.qr(random.standard_normal((width, joined.shape[1])))[0].T  # orthonormal rows
    rows = joined @ turn
    start = 0
    for level in words:
        part = rows[start : start + len(level)]
        part -= part.mean(0)
        length = float(np.sqrt(np.square(part).sum(1).mean()))
        if length < 1e-12:
            part[:] = random.standard_normal(part.shape)
            length = float(np.sqrt(np.square(part).sum(1).mean()))
        part *= spread / length
        start += len(level)
    found: np.ndarray = (rows + mean).astype(np.float32)
    return found


def add_code_tokens(
    model: Any, tokenizer: Any, sizes: Sequence[int], words: Sequence[np.ndarray] | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Add a token for every code to a model and its tokenizer, in place.

    Parameters
    ----------
    model : PreTrainedModel
        Its table of input embeddings grows where it has no room left, and so does its output table, if it is another.
    tokenizer : PreTrainedTokenizerBase
        Of that model.
    sizes : sequence of int [L]
        Codes of each level.
    words : sequence of float [K, D] or None, default None
        What the codes stand for, such as `codewords` gives; random directions if None.
    seed : int, default 0

    Returns
    -------
    list of int64 array [K]
        Token id of each code, one array a level.

    Raises
    ------
    ValueError
        If the tokenizer knows one of the tokens already, or ``words`` do not fit the sizes.
    """
    import torch
    from transformers import AddedToken

    names = code_tokens(sizes)
    if words is not None and [len(level) for level in words] != [len(level) for level in names]:
        raise ValueError(f"words have {[len(level) for level in words]} rows; expected {list(sizes)}, one a code")
    flat = [token for level in names for token in level]
    vocabulary = tokenizer.get_vocab()
    taken = [token for token in flat if token in vocabulary]
    if taken:
        raise ValueError(f"the tokenizer knows {len(taken)} of the tokens already, such as {taken[0]}")
    known = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in flat])
    numbers = np.asarray(tokenizer.convert_tokens_to_ids(flat), dtype=np.int64)
    rows_there = model.get_input_embeddings().weight.shape[0]
    if int(numbers.max()) >= rows_there:
        model.resize_token_embeddings(int(numbers.max()) + 1, mean_resizing=False)
    given = [np.zeros((size, 1)) for size in sizes] if words is None else list(words)
    tables = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight.data_ptr() != tables[0].data_ptr():
        tables.append(head.weight)
    place = torch.from_numpy(numbers)
    with torch.no_grad():
        for table in tables:
            rows = token_rows(given, table[:known].float().cpu().numpy(), seed)
            table[place.to(table.device)] = torch.from_numpy(rows).to(table)
        if head is not None and getattr(head, "bias", None) is not None:
            head.bias[place.to(head.bias.device)] = head.bias[:known].mean()
    ends = np.cumsum([len(level) for level in names])[:-1]
    return np.split(numbers, ends)


def _is_export(folder: Path) -> bool:
    """True of a folder that `export_language_model` wrote: any other keeps what it holds."""
    return is_exported(folder / INDEX_FILE)


def export_language_model(
    name: str | os.PathLike[str],
    codes: ItemCodes,
    folder: str | os.PathLike[str],
    words: Sequence[np.ndarray] | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> dict[str, Any]:
    """Save a language model that has a token for every code, with its tokenizer and the tokens of every item.

    Parameters
    ----------
    name : str or path
        A Hugging Face model: causal, or encoder-decoder.
    codes : ItemCodes
    folder : path
        Written by ``save_pretrained`` of the model and the tokenizer; ``items.index.json`` says which tokens an item
        has (LETTER's format).
    words : sequence of float [K, D] or None, default None
        See `add_code_tokens`.
    seed : int, default 0
    revision : str or None, default None
        Branch, tag or commit on the hub.

    Returns
    -------
    dict
        ``tokens`` added, ``first`` and ``last`` token id, ``vocabulary`` of the tokenizer, ``rows`` of the model's
        table, ``width``.

    Raises
    ------
    OSError
        If the model cannot be read, or the folder not written.
    FileExistsError
        If the folder holds anything but an earlier export, which is replaced as a whole.
    ValueError
        See `add_code_tokens`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        kind = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except Exception as error:  # tokenizers raises errors of its own on damaged files
        first = str(error).strip().partition("\n")[0][:300]
        raise OSError(f"the language model {name} cannot be read: {first or type(error).__name__}") from error
    model = load_backbone(kind, name, "the language model", revision=revision, dtype="auto")
    numbers = np.concatenate(add_code_tokens(model, tokenizer, codes.sizes, words, seed))
    with new_folder(folder, _is_export) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        write_codes(codes, made / INDEX_FILE, "index")
    table: Any = model.get_input_embeddings()
    rows, width = table.weight.shape
    return {
        "tokens": len(numbers),
        "first": int(numbers.min()),
        "last": int(numbers.max()),
        "vocabulary": len(tokenizer),
        "rows": int(rows),
        "width": int(width),
    }
