"""A trained model moved to a catalogue that has grown and shrunk since, without training it again.

Knows tables whose rows are items; what a new item's row holds is the business of each family.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from recbase.serving.fitted import FittedRecommender
from recbase.store.folder import FileContent, folder_lock, open_folder
from recbase.store.runs import KIND, MANIFEST, check_run_folder, save_run

__all__ = ["Moves", "carried_over", "item_tables", "refreshed_items", "save_refreshed", "texts_to_remove"]

_ASKED = 200
_LIST = 10


@dataclass(frozen=True)
class Moves:
    """Old and new item numbers.

    Attributes
    ----------
    ids : Series [M]
        Raw ids of the new catalogue: the items that stay, in their old order, then the new ones.
    rows : int64 ndarray [M]
        Old item number of each; 0 for a new one.
    removed : list of str
        Raw ids that are gone.
    """

    ids: pl.Series
    rows: np.ndarray
    removed: list[str]

    @classmethod
    def of(cls, old: pl.Series, added: Sequence[Any], removed: Collection[str]) -> Moves:
        """Moves by raw ids.

        Raises
        ------
        ValueError
            If an item to be removed is unknown, one to be added is there already or twice, their types differ, or
            nothing is left.
        """
        names = old.cast(pl.String).to_list()
        strange = sorted(set(map(str, removed)) - set(names))
        if strange:
            raise ValueError(f"{len(strange)} items to be removed are unknown to the run, such as {strange[0]!r:.80}")
        known, gone = set(names), set(map(str, removed))
        new = [str(item) for item in added]
        again = next((name for place, name in enumerate(new) if name in known or name in new[:place]), None)
        if again is not None:
            raise ValueError(f"item {again!r:.80} is to be added but is there already")
        if old.dtype != pl.String and not all(name.lstrip("-").isdigit() for name in new):
            raise ValueError("the run has whole numbers for item ids, expected the same of the new items")
        kept = np.array([place for place, name in enumerate(names, 1) if name not in gone], dtype=np.int64)
        if not len(kept) + len(new):
            raise ValueError("no item would be left")
        ids = pl.concat([old.gather(kept - 1), pl.Series("item_id", new, dtype=pl.String).cast(old.dtype)])
        return cls(ids, np.concatenate([kept, np.zeros(len(new), dtype=np.int64)]), sorted(gone))

    @property
    def added(self) -> int:
        """Number of new items."""
        return int((self.rows == 0).sum())

    def moved(self, table: Tensor, axis: int, like: Tensor) -> Tensor:
        """A table with the rows of old items in their new places; rows of new items are those of ``like``."""
        extra = like.shape[axis] - len(self.rows)  # rows that are no items: padding first, then others such as a mask
        before = min(extra, 1)
        index = torch.from_numpy(self.rows) - (1 - before)
        new = torch.from_numpy(self.rows == 0)
        index = index.clamp(min=0)
        if before:
            last = torch.arange(table.shape[axis] - extra + 1, table.shape[axis])
            index = torch.cat([torch.zeros(1, dtype=torch.int64), index, last])
            edge = torch.zeros(1, dtype=torch.bool)
            new = torch.cat([edge, new, edge.expand(len(last))])
        shape = [1] * like.ndim
        shape[axis] = -1
        return torch.where(new.view(shape), like, table.index_select(axis, index))


def item_tables(model: nn.Module, larger: nn.Module) -> dict[str, int]:
    """Tensors that have a row an item, and the axis: those whose shape differs in a model of more items."""
    other = larger.state_dict()
    found = {}
    for name, value in model.state_dict().items():
        axes = [axis for axis in range(value.ndim) if value.shape[axis] != other[name].shape[axis]]
        if axes:
            found[name] = axes[0]
    return found


def carried_over(
    old: nn.Module, new: nn.Module, moves: Moves, tables: Mapping[str, int], fill: Callable[[str, Tensor], Tensor]
) -> nn.Module:
    """Put the weights of a model into one of another catalogue.

    Parameters
    ----------
    old, new : module
    moves : Moves
    tables : mapping
        See `item_tables`.
    fill : callable
        ``fill(name, tensor of the new model)`` gives a tensor of that shape, whose rows of new items are taken.
    """
    state = new.state_dict()
    for name, value in old.state_dict().items():
        state[name] = moves.moved(value, tables[name], fill(name, state[name])) if name in tables else value
    new.load_state_dict(state)
    return new.eval()


def texts_to_remove(path: str | os.PathLike[str] | None) -> list[str]:
    """Raw ids in a text file, one a line; none without a file."""
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; expected one item id a line") from error
    return [line.strip() for line in lines if line.strip()]


def refreshed_items(old: pl.DataFrame, moves: Moves, texts: pl.DataFrame | None) -> pl.DataFrame:
    """Ids, titles and events of the new catalogue; new items have no events, and a title where ``texts`` has one."""
    kept = old[moves.rows[moves.rows > 0] - 1]
    if not moves.added:
        return kept
    new = pl.DataFrame({"item_id": moves.ids.tail(moves.added)})
    if "title" in old.columns:
        titles = None if texts is None or "title" not in texts.columns else texts["title"]
        blank = pl.Series([None] * moves.added, dtype=pl.String)
        new = new.with_columns(title=blank if titles is None else titles.cast(pl.String))
    if "events" in old.columns:
        new = new.with_columns(events=pl.lit(0, dtype=old.schema["events"]))
    return pl.concat([kept, new])


def save_refreshed(
    fitted: FittedRecommender,
    model: Any,
    moves: Moves,
    items: pl.DataFrame,
    out: str | os.PathLike[str],
    files: Mapping[str, FileContent] | None = None,
    reopen: Callable[[Path], FittedRecommender] | None = None,
) -> dict[str, Any]:
    """Write the run folder of a refreshed model and return a report of what moved.

    Metrics and ranks are of the old catalogue and are not carried along; nor is the data set, whose item numbers are
    others.

    Raises
    ------
    ValueError
        If ``out`` holds anything but a run that was refreshed before.
    """
    check_run_folder(out)
    with folder_lock(out, "refreshing a run"):
        if (Path(out) / MANIFEST).is_file() and "refreshed" not in open_folder(out, MANIFEST, KIND).manifest:
            raise ValueError(f"{out} holds a trained run, which a refreshed one would replace: give another folder")
        report = {
            "from": fitted.version,
            "items": len(items),
            "kept": len(items) - moves.added,
            "added": moves.added,
            "removed": len(moves.removed),
        }
        dropped = {"model", "arguments", "format", "kind", "versions", "data", "attempt"}
        facts = {name: value for name, value in fitted.manifest.items() if name not in dropped}
        save_run(out, fitted.name, model, items, facts | {"refreshed": report}, files)
    return report | (_answers(fitted, reopen(Path(out)), moves) if reopen is not None else {})


def _answers(old: FittedRecommender, new: FittedRecommender, moves: Moves) -> dict[str, Any]:
    """Count the lists that differ, for histories of items that stayed, drawn at random."""
    rng, kept = np.random.default_rng(0), moves.rows[moves.rows > 0]
    drawn = rng.choice(kept, (_ASKED, min(5, len(kept))))
    names = old.items["item_id"].cast(pl.String)
    histories = [names.gather(row - 1).to_list() for row in drawn]
    lists = []
    for one in (old, new):
        table = one.answer(histories=histories, k=_LIST).table
        lists.append(table.group_by("user", maintain_order=True).agg(pl.col("item").cast(pl.String))["item"].to_list())
    added = set(moves.ids.tail(moves.added).cast(pl.String).to_list()) if moves.added else set()
    return {
        "histories_asked": _ASKED,
        "lists_changed": sum(before != now for before, now in zip(*lists, strict=True)),
        "lists_with_new_items": sum(bool(added & set(now)) for now in lists[1]),
    }
