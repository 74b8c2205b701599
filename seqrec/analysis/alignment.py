"""How close the two streams of TSSR are: alignment, uniformity, and a picture of both clouds of items."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbase.data.sequences import Histories
from recbase.store.folder import check_file, write_file
from seqrec.models.tssr import TSSR

__all__ = ["alignment", "alignment_uniformity", "draw_streams", "uniformity"]


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of matched unit vectors, in [0, 4] (Wang and Isola, ICML 2020): [N, D] each."""
    first, second = F.normalize(first.double(), dim=1), F.normalize(second.double(), dim=1)
    return float((first - second).square().sum(1).mean())


def uniformity(vectors: Tensor) -> float:
    """log of the mean of exp(-2 |x - x'|^2) over all pairs of distinct rows, as unit vectors: at most 0; [N, D].

    Raises
    ------
    ValueError
        If there is no pair.
    """
    if len(vectors) < 2:
        raise ValueError(f"uniformity needs at least 2 vectors, got {len(vectors)}")
    distances = torch.pdist(F.normalize(vectors.double(), dim=1))
    return float((-2 * distances.square()).logsumexp(0) - np.log(len(distances)))


def alignment_uniformity(
    model: TSSR, histories: Histories, sample: int = 4000, batch_size: int = 256, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Alignment and uniformity of the id and content stream, over items and over users (TSSR, figure 3).

    Parameters
    ----------
    model : TSSR
    histories : Histories
        Of the users; empty ones are left out.
    sample : int, default 4000
        Most items and users that uniformity compares in pairs.
    batch_size : int, default 256
    seed : int, default 0
        Of the sample.

    Returns
    -------
    dict
        ``items`` (raw embeddings of ids and content) and ``users`` (pooled outputs of both streams), each with
        ``alignment``, ``uniformity_id``, ``uniformity_content`` and ``uniformity``, the mean of these two.
    """
    device = model.item_embedding.weight.device
    pairs = {"items": model.item_pairs()}
    rows = np.flatnonzero(histories.lengths > 0)
    found = []
    for start in range(0, len(rows), batch_size):
        items, lengths = histories.padded(rows[start : start + batch_size], model.max_len)
        found.append(model.user_pairs(torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)))
    pairs["users"] = (torch.cat([pair[0] for pair in found]), torch.cat([pair[1] for pair in found]))
    report = {}
    for name, (ids, content) in pairs.items():
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(ids))[:sample]).to(ids.device)
        spread = uniformity(ids[chosen]), uniformity(content[chosen])
        report[name] = {
            "alignment": alignment(ids, content),
            "uniformity_id": spread[0],
            "uniformity_content": spread[1],
            "uniformity": sum(spread) / 2,
        }
    return report


def draw_streams(models: Mapping[str, TSSR], path: str | os.PathLike[str], items: int = 1000, seed: int = 0) -> None:
    """A t-SNE panel a model of its items' id and content embeddings, in one plane (TSSR, figures 1 and 4).

    Parameters
    ----------
    models : mapping of str to TSSR
        Title to model, such as one trained without and one with contrast, over the same items.
    path : path
        Of the figure; its suffix says the format.
    items : int, default 1000
        Items drawn at random, the same in every panel.
    seed : int, default 0

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

    figure = Figure(figsize=(4 * len(models), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    for axis, (title, model) in zip(axes, models.items(), strict=True):
        shown = np.sort(np.random.default_rng(seed).permutation(model.items)[:items])
        points = torch.cat([F.normalize(part[shown], dim=1) for part in model.item_pairs()]).cpu().numpy()
        width = min(30.0, max(2.0, (len(points) - 1) / 3))
        placed = TSNE(perplexity=width, random_state=seed, init="pca").fit_transform(points)
        for part, colour, label in (
            (slice(len(shown)), "tab:blue", "ids"),
            (slice(len(shown), None), "tab:red", "content"),
        ):
            axis.scatter(placed[part, 0], placed[part, 1], s=4, c=colour, label=label, linewidths=0)
        axis.set(xticks=[], yticks=[], title=title.replace("$", r"\$"))
    axes[0].legend(markerscale=3, fontsize=8)
    check_file(path)
    write_file(path, partial(figure.savefig, format=Path(path).suffix[1:] or "png", dpi=140))
