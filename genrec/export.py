"""A trained TIGER or LETTER as a folder that transformers opens, with the tokens of every item beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from recbase.store.files import new_folder
from recbase.store.runs import Run

__all__ = ["TOKENS_FILE", "export_run"]

TOKENS_FILE = "tokens.parquet"


def export_run(run: Run, out: str | os.PathLike[str]) -> list[str]:
    """Write the model as transformers' T5 and the tokens of the items.

    ``T5ForConditionalGeneration.from_pretrained(out)`` opens it; ``tokens.parquet`` has a row an item, in the order of
    the item numbers: ``item_id``, ``title`` (where there is one), ``token_0`` ... The entry ``semantic_ids`` of
    ``config.json`` says how a history becomes tokens: ``sizes`` and ``first_tokens`` of the levels, ``user_buckets``,
    how many items are read at most (``max_items``), and ``normalize`` of
    :class:`genrec.search.logits.TrieLogitsProcessor`.

    Parameters
    ----------
    run : Run
        Of TIGER or LETTER, trained with sample form ``prefix``.
    out : path
        A new folder, or an empty one.

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
    tokens = vocabulary.tokens(model.code_table[1:].cpu()).numpy()
    table = run.items.hstack(pl.DataFrame(tokens, schema=[f"token_{level}" for level in range(tokens.shape[1])]))
    with new_folder(out) as made:
        written.save_pretrained(made)
        table.write_parquet(made / TOKENS_FILE)
    return sorted(path.name for path in out.iterdir())
