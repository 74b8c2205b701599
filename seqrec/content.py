"""What is known of the items besides their numbers: vectors, codes, attributes, raw text and pictures.

`ItemContent` is what a model that reads content is handed; nothing here encodes or trains. Row i - 1 of every array
belongs to item number i.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from recbase.data.sequences import Histories
    from semtok.codes import ItemCodes

__all__ = ["ATTRIBUTE_COLUMNS", "SHAPES", "Attributes", "ItemContent", "item_attributes", "item_texts"]

SHAPES = (
    "items",
    "users",
    "sizes",
    "views",
    "text_dim",
    "image_dim",
    "attributes",
    "attribute_slots",
    "edges",
    "backbone_config",
)
"""Constructor arguments that follow from the data: never options of a command."""

ATTRIBUTE_COLUMNS = ("categories", "brand", "department", "product_category", "product_type", "manufacturer")
"""Columns whose values are categories, where a data set has them."""

_SEPARATORS = (">", "|", ";", ", ")  # the first that a value holds separates its parts


@dataclass(frozen=True, eq=False)
class Attributes:
    """Categorical attributes of the items.

    Parameters
    ----------
    table : ndarray of int32 [N, K]
        Attribute numbers 1..A of each item, padded on the right with 0.
    names : list of str [A]
        ``column: value`` of attribute number a in place a - 1.
    """

    table: np.ndarray
    names: list[str]

    def multi_hot(self) -> np.ndarray:
        """bool [N, A]."""
        hot = np.zeros((len(self.table), len(self.names) + 1), dtype=bool)
        np.put_along_axis(hot, self.table.astype(np.int64), True, axis=1)
        return hot[:, 1:]


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Content of the N items; what a model did not ask for is None.

    Parameters
    ----------
    text : ndarray of float32 [N, d], optional
        One text vector an item.
    views : ndarray of float32 [N, V, d], optional
        One vector a view and item.
    images : ndarray of float32 [N, d], optional
        Image vectors; None where the data set has no pictures.
    missing_images : ndarray of bool [N], optional
        Where an item has no picture.
    codes : ItemCodes, optional
        Codes of a fitted tokenizer.
    attributes : Attributes, optional
    histories : Histories, optional
        The training part.
    sentences : list of str, optional
        The text itself.
    pictures : list of Path or None, optional
        Image files; None where an item has none.
    """

    text: np.ndarray | None = None
    views: np.ndarray | None = None
    images: np.ndarray | None = None
    missing_images: np.ndarray | None = None
    codes: ItemCodes | None = None
    attributes: Attributes | None = None
    histories: Histories | None = None
    sentences: list[str] | None = None
    pictures: list[Path | None] | None = None

    def shapes(self) -> dict[str, Any]:
        """Constructor arguments that follow from the content: ``text_dim``, ``views``, ``sizes`` ..."""
        found: dict[str, Any] = {"image_dim": 0 if self.images is None else self.images.shape[1]}
        found["attributes"] = 0 if self.attributes is None else len(self.attributes.names)
        if self.views is not None:
            found |= {"views": self.views.shape[1], "text_dim": self.views.shape[2]}
        if self.text is not None:
            found["text_dim"] = self.text.shape[1]
        if self.codes is not None:
            found["sizes"] = [int(size) for size in self.codes.sizes]
        return found

    def given(self) -> dict[str, Any]:
        """Keyword arguments of a model's ``with_content``: plain arrays, lists and histories, what there is of them."""
        found = {
            "text": self.text,
            "views": self.views,
            "images": self.images,
            "missing_images": self.missing_images,
            "codes": None if self.codes is None else self.codes.codes,
            "attributes": None if self.attributes is None else self.attributes.table,
            "histories": self.histories,
            "sentences": self.sentences,
            "pictures": self.pictures,
        }
        return {name: value for name, value in found.items() if value is not None}


def item_attributes(items: pl.DataFrame, columns: Sequence[str] | None = None, min_items: int = 2) -> Attributes:
    """Attributes from text columns whose values are categories, or paths and lists of them.

    A value is split at ``>``, or else at ``|``, ``;`` or a comma with a space, so "Beauty > Hair Care" has two. An
    attribute that too few items have is left out, and so is one that all items have.

    Parameters
    ----------
    items : DataFrame [N rows]
    columns : sequence of str, optional
        Columns to read; those of ``ATTRIBUTE_COLUMNS`` that are there if None. ``brand`` is taken whole.
    min_items : int, default 2
        Fewest items of an attribute.

    Returns
    -------
    Attributes
        Perhaps without any attribute: numbers go by column, then by falling frequency, then by name.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = [name for name in ATTRIBUTE_COLUMNS if name in items.columns] if columns is None else list(columns)
    for name in names:
        if name not in items.columns:
            raise ValueError(f"attribute column {name!r} is missing; there are {', '.join(items.columns)}")
    owned: list[list[str]] = [[] for _ in range(items.height)]
    kept: dict[str, int] = {}
    for name in names:
        parts = [_parts(value, whole=name == "brand") for value in items[name].to_list()]
        counts = Counter(part for row in parts for part in row)
        usual = [part for part, count in counts.items() if min_items <= count < items.height]
        for part in sorted(usual, key=lambda part: (-counts[part], part)):
            kept[f"{name}: {part}"] = len(kept) + 1
        for row, found in zip(owned, parts, strict=True):
            row.extend(f"{name}: {part}" for part in found)
    numbers = [[kept[part] for part in row if part in kept] for row in owned]
    table = np.zeros((items.height, max(1, max((len(row) for row in numbers), default=1))), dtype=np.int32)
    for at, own in enumerate(numbers):
        table[at, : len(own)] = own
    return Attributes(table, list(kept))


def _parts(value: Any, whole: bool) -> list[str]:
    """The distinct categories that one value spells, in order."""
    if value is None:
        return []
    separator = next((mark for mark in _SEPARATORS if not whole and mark in str(value)), None)
    values = value if isinstance(value, list | tuple) else str(value).split(separator) if separator else [value]
    return list(dict.fromkeys(text for part in values if (text := " ".join(str(part).split()))))


def item_texts(items: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The texts of some columns of every item in one, ``". "`` between them."""
    rows = zip(*(items[name].to_list() for name in columns), strict=True)
    return [". ".join(" ".join(str(part).split()) for part in row if part not in (None, "")) for row in rows]
