"""How the views of embeddings lie side by side for a tokenizer, and how new items are laid out alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semtok.content.embeddings import IMAGE_VIEW, Embeddings

if TYPE_CHECKING:
    from semtok.content.shards import ShardedEmbeddings

__all__ = ["ARRANGEMENTS", "Layout", "arrangement_for", "laid_out_as", "lay_out"]

ARRANGEMENTS = ("views", "joined", "modalities")


@dataclass(frozen=True)
class Layout:
    """Item vectors as a tokenizer is given them.

    Attributes
    ----------
    matrix : float32 [N, D]
        The views side by side; a ShardedArray, which is read where it is indexed, where the vectors are in shards.
    columns : dict of str to slice, or None
        Columns of each view; None where all are one view.
    missing : dict of str to bool [N]
        For each view of the tokenizer, the items that have nothing in it.
    arrangement : {"views", "joined", "modalities"}
        How it was laid out; recorded, so that new items are laid out alike.
    views : tuple of str
        The views of the embeddings, in the order of their columns.
    """

    matrix: Any
    columns: dict[str, slice] | None
    missing: dict[str, np.ndarray]
    arrangement: str
    views: tuple[str, ...]


def arrangement_for(tokenizer: Any, per_view: bool | None = None) -> str:
    """Arrangement of the views for a tokenizer: as its class says, unless ``per_view`` says otherwise."""
    if per_view is not None:
        return "views" if per_view else "joined"
    if tokenizer.modalities:
        return "modalities"
    return "views" if tokenizer.per_view else "joined"


def lay_out(
    embeddings: Embeddings | ShardedEmbeddings,
    arrangement: str = "views",
    views: Sequence[str] | None = None,
    modalities: Sequence[str] = ("text", IMAGE_VIEW),
) -> Layout:
    """Put the views of the embeddings side by side.

    Parameters
    ----------
    embeddings : Embeddings or ShardedEmbeddings
    arrangement : {"views", "joined", "modalities"}, default "views"
        "views" keeps each on its own, as it is. "joined" gives every row of every view length 1 and makes one view of
        all. "modalities" does the same with the image on its own: two views, "text" and "image", where both are there;
        missing entries are rows of zeros.
    views : sequence of str or None, default None
        Which views; all if None.
    modalities : sequence of str, default ("text", "image")
        What "modalities" makes: each name is that view, "text" is all that are not named.

    Raises
    ------
    ValueError
        If a view is not there, the arrangement is unknown, or no modality is left.
    """
    if arrangement not in ARRANGEMENTS:
        raise ValueError(f"arrangement={arrangement!r} is not one of {', '.join(ARRANGEMENTS)}")
    names = list(embeddings.views) if views is None else list(views)
    if arrangement != "modalities":
        matrix, columns = embeddings.matrix(names, normalize=arrangement == "joined")
        missing = {name: embeddings.missing[name] for name in names}
        if arrangement == "views":
            return Layout(matrix, columns, missing, arrangement, tuple(names))
        return Layout(matrix, None, {"item": _all(missing.values())}, arrangement, tuple(names))
    rest = [name for name in names if name not in modalities]
    groups = {
        name: rest if name == "text" and rest else [name] for name in modalities if name in names or name == "text"
    }
    groups = {name: [view for view in group if view in names] for name, group in groups.items()}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise ValueError(f"the views {', '.join(names)} hold none of {', '.join(modalities)}")
    order = [view for group in groups.values() for view in group]
    matrix, columns = embeddings.matrix(order, normalize=True, blank=True)
    parts = {name: slice(columns[group[0]].start, columns[group[-1]].stop) for name, group in groups.items()}
    missing = {name: _all(embeddings.missing[view] for view in group) for name, group in groups.items()}
    return Layout(matrix, parts, missing, arrangement, tuple(order))


def laid_out_as(embeddings: Embeddings | ShardedEmbeddings, made_from: Mapping[str, Any]) -> Layout:
    """Lay new vectors out as those a tokenizer was fitted on, by the ``made_from`` of its manifest."""
    kept = "joined" if made_from.get("joined") else "views"
    modalities = made_from.get("modalities") or ("text", IMAGE_VIEW)
    return lay_out(embeddings, made_from.get("arrangement", kept), made_from.get("views"), modalities)


def _all(masks: Any) -> np.ndarray:
    found: np.ndarray = np.logical_and.reduce(list(masks))
    return found
