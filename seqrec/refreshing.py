"""A trained ranking model moved to a catalogue that has grown and shrunk: its item tables follow, its weights stay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recbase.serving.refresh import Moves, carried_over, item_tables, refreshed_items, save_refreshed
from semtok.codecs.schemas import open_tokenizer
from semtok.codes import ItemCodes
from semtok.content.arrange import laid_out_as
from semtok.content.embeddings import IMAGE_VIEW, Embeddings, carried_rules
from semtok.registry import load
from seqrec.content import SHAPES, ItemContent
from seqrec.recommender import FittedRanker
from seqrec.training import build_model

__all__ = ["refresh"]

_GROWING = {"ids", "text", "views", "codes"}


def refresh(
    run: FittedRanker | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    items: pl.DataFrame | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    remove: Sequence[str | int] = (),
) -> dict[str, Any]:
    """Write a run that recommends a changed catalogue, with the weights of a trained run.

    Items that stay score as before. New items need a model that knows items by their content and a tokenizer folder
    that carries the rules by which content becomes vectors; where the model has a vector of its own for every item too,
    new ones get the mean of all. Other models can lose items but not gain any.

    Parameters
    ----------
    run : FittedRanker or path
    out : path
        Run folder to write: a new one, or one that was refreshed before.
    items : DataFrame, optional
        New items: ``item_id`` and the text columns that the model was trained on.
    tokenizer : path, optional
        Folder that ``semtok fit`` wrote, of the vectors (and codes, where the model reads any) of the training.
    remove : sequence of str or int, optional
        Items that are not recommended any more.

    Returns
    -------
    dict
        As of `genrec.refreshing.refresh`.

    Raises
    ------
    ValueError
        If new items are given to a model that cannot have any, or a tokenizer of other vectors or codes.
    """
    fitted = run if isinstance(run, FittedRanker) else FittedRanker.load(run)
    added = [] if items is None else items["item_id"].to_list()
    moves = Moves.of(fitted.items["item_id"], added, list(map(str, remove)))
    model: Any = fitted.model
    if not hasattr(model, "state_dict"):
        raise ValueError(f"a {fitted.name} only counts: fit it on the new events instead")
    content = ItemContent()
    if moves.added:
        assert items is not None
        content = _content(fitted, moves, items, tokenizer)
    larger = type(model)(**model.config() | {"items": model.items + 1})
    tables = item_tables(model, larger)
    options = {name: value for name, value in model.config().items() if name not in SHAPES}
    users = int(model.config().get("users", 1))
    if moves.added:
        new = build_model(fitted.name, len(moves.rows), users, content, options)
    else:
        new = type(model)(**model.config() | {"items": len(moves.rows)})
    trained = {name for name, _ in model.named_parameters()}

    def fill(name: str, value: Tensor) -> Tensor:
        if name not in trained:
            return value  # of the content of the new items
        rows = model.state_dict()[name].index_select(tables[name], torch.arange(1, model.items + 1))
        return rows.mean(tables[name], keepdim=True).expand_as(value)

    carried_over(model, new, moves, tables, fill)
    table = refreshed_items(fitted.items, moves, items)
    return save_refreshed(fitted, new, moves, table, out, None, FittedRanker.load)


def _content(
    fitted: FittedRanker, moves: Moves, items: pl.DataFrame, tokenizer: str | os.PathLike[str] | None
) -> ItemContent:
    """Content of the new catalogue, rows of items that stay being zero: theirs is in the model."""
    inputs = set(fitted.manifest.get("inputs", ["ids"]))
    if inputs <= {"ids", "histories"} or not inputs <= _GROWING:
        others = sorted(inputs - _GROWING) or ["ids alone"]
        raise ValueError(
            f"a {fitted.name} knows items by {', '.join(others)}, so that new items need a training; items can only be "
            "removed"
        )
    if tokenizer is None:
        raise ValueError("new items need the tokenizer folder that carries how their content becomes vectors")
    opened = open_tokenizer(tokenizer)
    rules = carried_rules(opened)
    made_from = opened.manifest.get("made_from") or {}
    if rules is None:
        raise ValueError(f"{tokenizer} carries no rules that make vectors of texts; fit it again with `semtok fit`")
    if made_from.get("embeddings") != fitted.manifest.get("embeddings"):
        raise ValueError(f"{tokenizer} was fitted on other vectors than {fitted.folder} was trained on")
    vectors = rules.transform_new(items)
    names = [view for view in fitted.manifest.get("content", {}).get("views") or vectors.views if view != IMAGE_VIEW]
    stays = len(moves.rows) - moves.added
    found: dict[str, Any] = {}
    if "views" in inputs:
        found["views"] = _below(np.stack([vectors.views[view] for view in names], 1), stays)
    if "text" in inputs:
        found["text"] = _below(vectors.matrix(names, normalize=True)[0], stays)
    if "codes" in inputs:
        found["codes"] = _codes(fitted, moves, tokenizer, vectors, made_from)
    return ItemContent(**found)


def _below(rows: np.ndarray, stays: int) -> np.ndarray:
    """Rows of the new items below as many zeros as items stay."""
    return np.concatenate([np.zeros((stays, *rows.shape[1:]), dtype=rows.dtype), rows])


def _codes(
    fitted: FittedRanker,
    moves: Moves,
    tokenizer: str | os.PathLike[str],
    vectors: Embeddings,
    made_from: dict[str, Any],
) -> ItemCodes:
    """Codes of the new items by the tokenizer that made those of the others."""
    from semtok.codes import load_codes

    recorded = load_codes(tokenizer)
    if recorded.hash != fitted.manifest.get("codes"):
        raise ValueError(
            f"{tokenizer} holds other codes than {fitted.folder} was trained on: train with --codes {tokenizer}"
        )
    new = load(tokenizer).encode(laid_out_as(vectors, made_from).matrix)
    stays = len(moves.rows) - moves.added
    return ItemCodes(_below(new, stays), recorded.sizes, np.arange(len(moves.rows)), dict(recorded.blocks))
