"""Which neighbours the fused space keeps: CCFRec's figure 4 with numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recbase.store.folder import check_file, write_file
from recbase.store.runs import Run, read_item_vectors
from semtok.content.embeddings import Embeddings

__all__ = ["NeighbourReport", "draw_neighbours", "neighbour_shares"]


@dataclass(frozen=True)
class NeighbourReport:
    """Neighbours of anchor items in three spaces.

    Attributes
    ----------
    rows : list of dict
        An anchor each: ``item_id``, ``title``, and the shares of its fused neighbours that are ``collaborative`` and
        ``text`` neighbours.
    spaces : dict of str to ndarray [N, D]
        Unit vectors of the spaces ``collaborative``, ``text`` and ``fused``.
    lists : dict of str to ndarray int64 [A, K]
        Neighbours of the A anchors in each space (rows, from 0), nearest first.
    anchors : ndarray int64 [A]
    """

    rows: list[dict[str, Any]]
    spaces: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    anchors: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Rows and their means."""
        means = {space: float(np.mean([row[space] for row in self.rows])) for space in ("collaborative", "text")}
        return {"anchors": self.rows, "mean": means, "neighbours": int(self.lists["fused"].shape[1])}


def neighbour_shares(
    fused: Run, reference: Run, embeddings: Embeddings, anchors: int = 3, neighbours: int = 2000, seed: int = 0
) -> NeighbourReport:
    """Compare an anchor's nearest items (cosine) in the fused, the collaborative and the text space.

    Parameters
    ----------
    fused, reference : Run
        A CCFRec run and a SASRec run over the same items.
    embeddings : Embeddings
        Text vectors of the same items.
    anchors : int, default 3
        Items drawn at random.
    neighbours : int, default 2000
        List length, at most half of the items so that a share says something.
    seed : int, default 0

    Raises
    ------
    ValueError
        If the three have different items.
    """
    from sklearn.preprocessing import normalize

    vectors = {
        "collaborative": _vectors(reference),
        "text": embeddings.matrix()[0],
        "fused": _vectors(fused),
    }
    sizes = {space: len(found) for space, found in vectors.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the spaces are of different items: {sizes}")
    count = len(vectors["fused"])
    spaces = {space: normalize(found) for space, found in vectors.items()}
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(anchors, count), replace=False))
    length = max(1, min(neighbours, (count - 1) // 2))
    lists = {space: _nearest(found, chosen, length) for space, found in spaces.items()}
    rows = []
    for at, anchor in enumerate(chosen.tolist()):
        row = fused.items.row(anchor, named=True)
        shares = {
            space: len(np.intersect1d(lists["fused"][at], lists[space][at])) / length
            for space in ("collaborative", "text")
        }
        rows.append({"item_id": row["item_id"], "title": row.get("title")} | shares)
    return NeighbourReport(rows, spaces, lists, chosen)


def draw_neighbours(report: NeighbourReport, path: str | os.PathLike[str], seed: int = 0) -> None:
    """A t-SNE panel for every anchor and space: blue = collaborative neighbour, red = text neighbour, violet = both.

    Raises
    ------
    ImportError
        If matplotlib is missing, naming the extra to install.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'semtok[plots]'") from error
    from sklearn.manifold import TSNE

    names = ("collaborative", "text", "fused")
    figure = Figure(figsize=(3.4 * len(names), 3.2 * len(report.anchors) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(report.anchors), len(names), squeeze=False)
    for row in range(len(report.anchors)):
        for column, space in enumerate(names):
            shown = report.lists[space][row]
            points = report.spaces[space][shown]
            width = min(30.0, max(2.0, (len(shown) - 1) / 3))
            placed = TSNE(perplexity=width, random_state=seed, init="pca").fit_transform(points)
            collaborative = np.isin(shown, report.lists["collaborative"][row])
            text = np.isin(shown, report.lists["text"][row])
            axis = axes[row, column]
            for mask, colour, label in (
                (~collaborative & ~text, "0.8", "neither"),
                (collaborative & ~text, "tab:blue", "collaborative neighbour"),
                (text & ~collaborative, "tab:red", "text neighbour"),
                (collaborative & text, "tab:purple", "both"),
            ):
                axis.scatter(placed[mask, 0], placed[mask, 1], s=4, c=colour, label=label, linewidths=0)
            axis.set(xticks=[], yticks=[])
            title = str(report.rows[row]["title"] or report.rows[row]["item_id"])
            shown = title[:28].replace("$", r"\$")  # else a formula between two prices
            axis.set_title(f"{space}: {shown}", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, markerscale=3, fontsize=8)
    check_file(path)
    write_file(path, partial(figure.savefig, format=Path(path).suffix[1:] or "png", dpi=140))


def _vectors(run: Run) -> np.ndarray:
    return read_item_vectors(run.folder)


def _nearest(vectors: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    similarity = vectors[rows] @ vectors.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]
