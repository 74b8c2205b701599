"""How much two spaces of item vectors have in common with a third: PRORec's relative similarity."""

from __future__ import annotations

import numpy as np

__all__ = ["relative_similarity"]


def relative_similarity(
    joined: np.ndarray,
    semantic: np.ndarray,
    collaborative: np.ndarray,
    temperature: float = 0.1,
    sample: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Shares of semantic and collaborative knowledge in joined vectors, by Kullback-Leibler divergence.

    Each space gives every sampled item a distribution over the others, the softmax of their cosines; the divergences
    KL(joined || semantic) and KL(joined || collaborative), averaged over the items, decide the shares: the nearer space
    has the larger one (PRORec, arXiv 2502.06269, eqs. 9-10; temperature and sample are ours, so that spaces of
    different widths compare).

    Parameters
    ----------
    joined, semantic, collaborative : float array [N, D], each with its own D
    temperature : float, default 0.1
        Divides the cosines.
    sample : int, default 2000
        Items, drawn once.
    seed : int, default 0

    Returns
    -------
    dict
        ``kl_semantic``, ``kl_collaborative``, ``share_semantic``, ``share_collaborative``; the shares sum to 1.

    Raises
    ------
    ValueError
        If the spaces are of different numbers of items, or of fewer than 3.
    """
    counts = {len(joined), len(semantic), len(collaborative)}
    if len(counts) != 1:
        raise ValueError(f"the spaces have {len(joined)}, {len(semantic)} and {len(collaborative)} items; expected one")
    count = counts.pop()
    if count < 3:
        raise ValueError(f"relative similarity needs at least 3 items, got {count}")
    rows = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    own, text, behaviour = (_neighbours(space[rows], temperature) for space in (joined, semantic, collaborative))
    first, second = _divergence(own, text), _divergence(own, behaviour)
    total = first + second
    share = second / total if total > 0 else 0.5
    return {
        "kl_semantic": first,
        "kl_collaborative": second,
        "share_semantic": share,
        "share_collaborative": 1 - share,
    }


def _neighbours(vectors: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities of every other item, [n, n - 1]."""
    unit = np.asarray(vectors, dtype=np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    scores = unit @ unit.T / temperature
    others = scores[~np.eye(len(scores), dtype=bool)].reshape(len(scores), -1)
    others -= others.max(1, keepdims=True)
    found: np.ndarray = others - np.log(np.exp(others).sum(1, keepdims=True))
    return found


def _divergence(own: np.ndarray, other: np.ndarray) -> float:
    return float((np.exp(own) * (own - other)).sum(1).mean())
