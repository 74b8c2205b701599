"""A trained TIGER or LETTER as a folder that transformers opens, with the tokens of every item beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from genrec.nets.t5_weights import why_not_transformers
from genrec.portable.writing import why_not_onnx
from recbase.store.files import new_folder
from recbase.store.runs import Run

__all__ = ["TOKENS_FILE", "export_notes", "export_run"]

TOKENS_FILE = "tokens.parquet"


def export_run(run: Run, out: str | os.PathLike[str], beams: int = 20) -> list[str]:
    """Write the model as transformers' T5 and the tokens of the items.

    ``T5ForConditionalGeneration.from_pretrained(out)`` opens it; ``tokens.parquet`` has a row an item, in the order of
    the item numbers: ``item_id``, ``title`` (where there is one), ``token_0`` ... The entry ``semantic_ids`` of
    ``config.json`` says how a history becomes tokens: ``sizes`` and ``first_tokens`` of the levels, ``user_buckets``,
    how many items are read at most (``max_items``), and ``normalize`` of
    :class:`genrec.search.logits.TrieLogitsProcessor`. ``generation_config.json`` asks ``generate`` for as many tokens
    as a code has and the end token, ``beams`` beams and as many sequences, and a length penalty of 0: with the logits
    processor its list is that of the model's own search.

    Parameters
    ----------
    run : Run
        Of TIGER or LETTER, trained with sample form ``prefix``.
    out : path
        A new folder, or an empty one.
    beams : int, default 20
        Beams that ``generation_config.json`` asks for, and length of its lists.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    ValueError
        If the model has no such form (see :meth:`genrec.nets.t5.T5.to_transformers`).
    FileExistsError
        If the folder holds files already.
    """
    out, model, name = Path(out), run.model, run.manifest["model"]
    if not hasattr(model, "t5") or not hasattr(model, "vocabulary"):
        raise ValueError(f"{run.folder.path} holds a {name}, which is no T5 of transformers; tiger and letter are")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already and is not an empty folder; give a new one")
    try:
        written: Any = model.t5.to_transformers()
    except ValueError as error:
        raise ValueError(f"{run.folder.path} cannot be exported: {error}") from error
    vocabulary = model.vocabulary
    written.config.semantic_ids = {
        "sizes": list(vocabulary.sizes),
        "first_tokens": list(vocabulary.offsets),
        "user_buckets": vocabulary.user_buckets,
        "max_items": model.max_len,
        "normalize": model.normalize,
    }
    written.generation_config.update(
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=vocabulary.levels + 1,
        min_new_tokens=vocabulary.levels,
        length_penalty=0.0,
        do_sample=False,
    )
    tokens = vocabulary.tokens(model.code_table[1:].cpu()).numpy()
    table = run.items.hstack(pl.DataFrame(tokens, schema=[f"token_{level}" for level in range(tokens.shape[1])]))
    with new_folder(out) as made:
        written.save_pretrained(made)
        table.write_parquet(made / TOKENS_FILE)
    return sorted(path.name for path in out.iterdir())


def export_notes(name: str, model: Any) -> list[str]:
    """Forms that ``genrec export`` will not be able to give a model, a sentence each with the reason.

    Parameters
    ----------
    name : str
        The model's name in the registry.
    model : Generator
        With its codes.
    """
    t5 = getattr(model, "t5", None)
    reasons = {
        "transformers": f"{name} is no T5 of transformers" if t5 is None else why_not_transformers(t5),
        "onnx": why_not_onnx(name, model),
    }
    return [f"genrec export --to {form} will not take this run: {reason}" for form, reason in reasons.items() if reason]
