"""Item vectors from behaviour: which items stand near each other in the histories.

Counts co-occurrences, weighs them by pointwise mutual information and keeps the strongest directions. Must be given the
training part alone. Knows nothing of item content or codes.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recbase.data.sequences import Histories

__all__ = ["collaborative_vectors", "cooccurrences", "positive_pmi"]

_PAIRS = 1 << 22  # pairs of events counted at a time


def collaborative_vectors(
    train: Histories,
    n_items: int,
    dim: int = 32,
    window: int | None = 10,
    shift: float = 1.0,
    iterations: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """Vectors whose products are the association of items in the histories.

    Truncated SVD U S V of the shifted positive pointwise mutual information of co-occurrence; an item's vector is its
    row of U sqrt(S).

    Parameters
    ----------
    train : Histories
        Training part of the histories, item numbers 1..N.
    n_items : int
        Items of the catalogue, N.
    dim : int, default 32
        Width of the vectors.
    window : int or None, default 10
        Events that two items may lie apart to be counted; None counts all pairs of a history.
    shift : float, default 1.0
        log(shift) is taken from the mutual information before negative values are cut off ("k negative samples").
    iterations : int, default 4
        Power iterations of the randomized SVD.
    seed : int, default 0
        Same seed, same vectors.

    Returns
    -------
    float32 array [N, dim]
        Row i - 1 belongs to item number i. Items that the training part does not hold, or holds next to no other item,
        have zero vectors; so have columns beyond the rank.

    Raises
    ------
    ValueError
        If an item number lies outside 1..N or an argument is out of its range.

    Notes
    -----
    Levy and Goldberg, Neural word embedding as implicit matrix factorization, NeurIPS 2014. SVD: Halko, Martinsson and
    Tropp, Finding structure with randomness, 2011 (scikit-learn).
    """
    from sklearn.utils.extmath import randomized_svd

    if dim < 1:
        raise ValueError(f"dim={dim!r} is not an integer of at least 1")
    weights = positive_pmi(cooccurrences(train, n_items, window), shift)
    vectors = np.zeros((n_items, dim), dtype=np.float32)
    rank = min(dim, n_items)
    if weights.nnz:
        left, strengths, _ = randomized_svd(weights, rank, n_iter=iterations, random_state=seed)
        vectors[:, :rank] = left * np.sqrt(strengths)
    vectors[np.diff(weights.indptr) == 0] = 0
    return vectors


def cooccurrences(train: Histories, n_items: int, window: int | None = None) -> sparse.csr_matrix:
    """Counts of two items within ``window`` events of each other (None: in one history): float64 [N, N].

    Symmetric; an item does not occur next to itself. Parameters as in :func:`collaborative_vectors`.
    """
    if window is not None and window < 1:
        raise ValueError(f"window={window!r} is not an integer of at least 1, nor None")
    items, offsets = train.flat()
    if len(items) and not 1 <= int(items.min()) <= int(items.max()) <= n_items:
        wrong = int(items.min()) if int(items.min()) < 1 else int(items.max())
        raise ValueError(f"a history holds item number {wrong}; expected 1..{n_items}")
    lengths = np.diff(offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    longest = int(lengths.max(initial=0))
    counts = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    pending: list[np.ndarray] = []
    waiting = 0
    for gap in range(1, min(longest, longest if window is None else window + 1)):
        near = np.flatnonzero((users[gap:] == users[:-gap]) & (items[gap:] != items[:-gap]))
        pending.append(np.stack([items[near], items[near + gap]]).astype(np.int64) - 1)
        waiting += len(near)
        if waiting >= _PAIRS:
            counts, pending, waiting = counts + _counted(pending, n_items), [], 0
    counts = counts + _counted(pending, n_items)
    return sparse.csr_matrix(counts + counts.T)


def _counted(pairs: list[np.ndarray], n_items: int) -> sparse.csr_matrix:
    """Number of each pair (one order of the two): [N, N]."""
    rows, columns = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)
    found = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n_items, n_items))
    return found.tocsr()


def positive_pmi(counts: sparse.csr_matrix, shift: float = 1.0) -> sparse.csr_matrix:
    """max(0, log(n_ij n / (n_i n_j)) - log(shift)) of symmetric counts: [N, N], zeros not stored."""
    if not shift > 0:
        raise ValueError(f"shift={shift!r} is not a number above 0")
    pairs = counts.tocoo()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    values = np.log(pairs.data * sums.sum() / (sums[pairs.row] * sums[pairs.col])) - np.log(shift)
    kept = values > 0
    return sparse.csr_matrix((values[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape)
