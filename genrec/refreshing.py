"""A trained generator moved to a catalogue that has grown and shrunk: new codes, a new tree, the same weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from genrec.recommender import FittedGenerator
from recbase.serving.refresh import Moves, carried_over, item_tables, refreshed_items, save_refreshed
from semtok.codes import ItemCodes, load_codes

__all__ = ["refresh"]


def refresh(
    run: FittedGenerator | str | os.PathLike[str],
    codes: ItemCodes | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    items: pl.DataFrame | None = None,
    remove: Sequence[str | int] = (),
) -> dict[str, Any]:
    """Write a run that recommends the items of ``codes``, with the weights of a trained run.

    Items that stay keep their codes, so that the model knows them as before; new ones are found by theirs, and are read
    in histories, without any training. A model that reads more of its items than codes (BBQRec with its gate) can
    lose items but not gain any.

    Parameters
    ----------
    run : FittedGenerator or path
    codes : ItemCodes or path
        Codes of the new catalogue, or the folder that ``semtok encode --append`` wrote.
    out : path
        Run folder to write: a new one, or one that was refreshed before.
    items : DataFrame, optional
        ``item_id`` and ``title`` of the new items.
    remove : sequence of str or int, optional
        Items that are not recommended any more, besides those of the run that have no codes.

    Returns
    -------
    dict
        ``items``, ``kept``, ``added``, ``removed``, ``hidden`` (new items that share their codes with another, of which
        one alone can be found); and of 200 histories of kept items, drawn at random, how many lists
        of ten changed (``lists_changed``) and how many show a new item (``lists_with_new_items``).

    Raises
    ------
    ValueError
        If the codes are of other sizes than the model's, or items that stay have other codes than they were trained
        with; or the model cannot gain items.
    """
    fitted = run if isinstance(run, FittedGenerator) else FittedGenerator.load(run)
    given = codes if isinstance(codes, ItemCodes) else load_codes(codes)
    old = fitted.items["item_id"]
    rows = {str(item): row for row, item in enumerate(given.item_ids.tolist())}
    gone = set(map(str, remove))
    known = set(old.cast(pl.String).to_list())
    missing = [name for name in known if name not in rows]
    added = [item for item in given.item_ids.tolist() if str(item) not in known and str(item) not in gone]
    moves = Moves.of(old, added, (gone & known) | set(missing))
    model = fitted.model
    if tuple(given.sizes) != tuple(model.sizes):
        raise ValueError(f"the codes have sizes {list(given.sizes)} but the model was trained on {list(model.sizes)}")
    table = given.codes[[rows[name] for name in moves.ids.cast(pl.String).to_list()]]
    stays = moves.rows > 0
    before = model.code_table.cpu().numpy()[moves.rows[stays]]
    other = (table[stays] != before).any(1)
    if other.any():
        name = moves.ids.filter(pl.Series(stays))[int(np.flatnonzero(other)[0])]
        raise ValueError(
            f"{int(other.sum())} items that stay have other codes than the model was trained with, such as "
            f"{str(name)!r:.80}: append to the tokenizer that the run was trained on"
        )
    larger, new = (type(model)(**model.config() | {"items": count}) for count in (model.items + 1, len(moves.rows)))
    tables = item_tables(model, larger)
    needed = set(tables) - {"code_table", "priority"} - set(model.training_arrays)
    if moves.added and needed:
        raise ValueError(
            f"a {fitted.name} reads {', '.join(sorted(needed))} of every item besides its codes, so that new items "
            "need a training; items can only be removed"
        )

    def fill(name: str, value: Tensor) -> Tensor:
        return (
            value.new_tensor(np.concatenate([np.full((1, table.shape[1]), -1), table]))
            if name == "code_table"
            else value
        )

    carried_over(model, new, moves, tables, fill)
    new._trie = None
    listed = items if items is None else _in_order(items, moves)
    kept = ItemCodes(table, given.sizes, np.asarray(moves.ids.to_list()), dict(given.blocks))
    report = save_refreshed(
        fitted, new, moves, refreshed_items(fitted.items, moves, listed), out, kept.beside_run(), FittedGenerator.load
    )
    _, group, sharing = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    return report | {"hidden": int((sharing[group.ravel()] > 1)[~stays].sum())}


def _in_order(items: pl.DataFrame, moves: Moves) -> pl.DataFrame:
    """Rows of the new items, in their order; null where the table has none."""
    ids = pl.DataFrame({"item_id": moves.ids.tail(moves.added).cast(pl.String)})
    return ids.join(
        items.with_columns(pl.col("item_id").cast(pl.String)), on="item_id", how="left", maintain_order="left"
    )
