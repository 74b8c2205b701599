"""COSETTE: RQ-VAE codes under which items that follow one another in histories lie close together.

Adds one loss to the network of RQ-VAE: the quantized vector of an item shall find the latent of an item that was used
next to it, among those of the step. Knows nothing of how the codes are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbase.arguments import Count, Levels, Temperature, Weight, Width
from recbase.data.sequences import Histories
from recbase.nn.draws import draw_integers
from semtok.methods.autoencoder import Autoencoder, RowBatch
from semtok.methods.fitted_network import Fitted
from semtok.methods.letter import collaborative_loss
from semtok.methods.residual_autoencoder import ResidualAutoencoder

__all__ = ["COSETTE", "ContrastedAutoencoder", "Neighbours", "contrast_loss", "neighbours_of"]

RECIPES: dict[str, dict[str, Any]] = {"default": {}}

SelfCOSETTE = TypeVar("SelfCOSETTE", bound="COSETTE")


@dataclass(frozen=True)
class Neighbours:
    """Items that stand near each item in histories, as often as they do.

    Attributes
    ----------
    rows : int64 Tensor [P]
        Rows of the neighbours, those of item 0 first.
    starts : int64 Tensor [N + 1]
        Where the neighbours of each item begin.
    """

    rows: Tensor
    starts: Tensor

    def draw(self, items: Tensor, seed: int, step: int, places: Tensor) -> Tensor:
        """One neighbour of each item, int64 [M]; -1 for an item that has none. Follows from seed, step and place."""
        counts = self.starts[items + 1] - self.starts[items]
        ahead = draw_integers(seed, 2**31, torch.full_like(places, step), places) % counts.clamp(min=1)
        found = self.rows[(self.starts[items] + ahead).clamp(max=max(0, len(self.rows) - 1))]
        return torch.where(counts > 0, found, -1)


def neighbours_of(histories: Histories, items: int, window: int = 1) -> Neighbours:
    """Neighbours of items in histories, before and after them.

    Parameters
    ----------
    histories : Histories
        Of item numbers 1..N.
    items : int
        N.
    window : int, default 1
        Longest distance, in events; an item is no neighbour of itself.

    Raises
    ------
    ValueError
        If a history holds an item number outside 1..N.
    """
    numbers = histories.flat()[0].astype(np.int64)
    if len(numbers) and not (int(numbers.min()) >= 1 and int(numbers.max()) <= items):
        wrong = int(numbers[(numbers < 1) | (numbers > items)][0])
        raise ValueError(f"sequences hold item number {wrong}; expected 1..{items}, the rows of X")
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    pairs = []
    for distance in range(1, window + 1):
        together = (owner[distance:] == owner[:-distance]) & (numbers[distance:] != numbers[:-distance])
        before, after = numbers[:-distance][together] - 1, numbers[distance:][together] - 1
        pairs += [np.stack([before, after]), np.stack([after, before])]
    found = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
    order = np.lexsort((found[1], found[0]))
    counts = np.bincount(found[0], minlength=items)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Neighbours(torch.from_numpy(found[1][order]), torch.from_numpy(starts.astype(np.int64)))


def contrast_loss(found: Tensor, targets: Tensor, own: Tensor, partners: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding one's partner among those of the step, by cosine, summed over the items that have one.

    Parameters
    ----------
    found : Tensor [B, d]
        What looks for its partner.
    targets : Tensor [M, d]
        Latents of the partners of all items of the step.
    own : int64 Tensor [B]
        Row of ``targets`` that is right.
    partners : int64 Tensor [M]
        Which items they are, -1 for none; a partner that is in the step twice is no wrong answer for itself.
    temperature : float
        Divides the cosines.
    """
    looking, found_by = F.normalize(found, dim=-1) / temperature, F.normalize(targets, dim=-1)
    return collaborative_loss(looking, found_by, own, partners >= 0, partners[own], partners)


class ContrastedAutoencoder(Autoencoder):
    """The network of RQ-VAE with the contrast of neighbours.

    Parameters
    ----------
    points : Tensor [N, D]
        All vectors, of which those of the partners are read.
    neighbours : Neighbours
    collaborative_weight, temperature : float
        Of the contrast.
    seed : int
        Of the first weights and of the partners.
    **network
        Arguments of `Autoencoder`.
    """

    points: Tensor

    def __init__(
        self,
        *,
        points: Tensor,
        neighbours: Neighbours,
        collaborative_weight: float,
        temperature: float,
        seed: int = 0,
        **network: Any,
    ) -> None:
        super().__init__(seed=seed, **network)
        self.collaborative_weight, self.temperature, self.seed = collaborative_weight, temperature, seed
        self.neighbours = neighbours
        self.register_buffer("points", points, persistent=False)

    def further_losses(self, quantized: Tensor, codes: Tensor, batch: RowBatch) -> dict[str, Tensor]:
        """The contrast, weighted, as this process's share."""
        if self.collaborative_weight == 0:
            return {}
        # Partners are drawn for the whole step, so that each process tells its items from those of all others.
        everyone = batch.step_numbers.cpu()
        partners = self.neighbours.draw(everyone, self.seed, batch.step, torch.arange(len(everyone)))
        partners = partners.to(quantized.device)
        targets = self.latents(self.points[partners.clamp(min=0)])
        loss = contrast_loss(quantized, targets, batch.positions, partners, self.temperature)
        return {"contrast": loss * (self.collaborative_weight / (partners >= 0).sum().clamp(min=1))}


@dataclass(kw_only=True, eq=False, repr=False)
class COSETTE(ResidualAutoencoder):
    """COSETTE: RQ-VAE whose codes also draw items together that follow one another in histories.

    Parameters
    ----------
    levels : int, default 4
        Codes an item (or a view).
    codebook_size : int, default 256
        Codes of each level, K.
    latent_dim : int, default 16
        Width of the latent. Narrow latents are told apart by few codes: fewer items share theirs.
    hidden : tuple of int, default (512, 256, 128)
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    commitment : float, default 0.25
        Weight of the commitment term.
    collaborative_weight : float, default 0.1
        Weight of the contrast of an item with its neighbours in histories; 0 turns it off.
    temperature : float, default 0.1
        Divides the cosines of the contrast.
    window : int, default 1
        Longest distance of neighbours in a history, in events.
    gradient : {"straight-through", "rotation"}, default "straight-through"
        How the gradient passes the quantizer: as it is, or turned and scaled by the rotation trick.
    start : {"k-means", "random"}, default "k-means"
        First codewords: k-means of the residuals, level by level, or normal numbers.
    plain_steps : int, default 0
        Steps without quantization before the codewords are placed; they come on top.
    sinkhorn : float, default 0.0
        Entropy weight of an even assignment at the last level while training; 0 turns it off.
    revive_every : int, default 50
        Steps after which codewords without a row are put on residuals of the batch; 0 turns it off.
    refit : int, default 10
        k-means iterations that bring the codewords to the centroids of all residuals (of at most 65,536 rows) at every
        validation; 0 leaves them to the training.
    scaling : {"all", "each", "none"}, default "all"
        Vectors are centred and divided by one number, so that their mean variance is 1; or every dimension by its own;
        or left as they are.
    steps : int, default 3000
        Training steps at most.
    batch_size : int, default 1024
        Rows of a step.
    lr : float, default 0.001
        Highest learning rate (Adam).
    schedule : {"constant", "linear", "cosine"}, default "constant"
        Learning rate over the steps: kept, or brought to 0.
    validate_every : int, default 100
        Steps between validations on all rows (at most 65,536): reconstruction error and share of colliding rows.
    patience : int, default 5
        Validations without a lower sum of the two after which training stops; 0 turns it off. The best is kept.
    max_seconds : float or None, default None
        Seconds after which training stops and keeps the best.
    precision : {"no", "auto", "bf16", "fp16"}, default "auto"
        Mixed precision of encoder and decoder while training; auto is bf16 where the hardware is fast at it.
    seed : int, default 0
        Same seed, same codes on the CPU.
    quiet : bool, default False
        No progress bar.

    Attributes
    ----------
    codebooks_, sizes_, unused_, blocks_, history_, seconds_
        As those of :class:`semtok.RQVAE`.

    Notes
    -----
    After Lepage, Mary and Picard, Closing the performance gap in generative recommenders with collaborative
    tokenization and efficient modeling, 2025, arXiv 2508.14910: content is reconstructed and items of one history are
    contrasted, in one training. The form of the contrast, its weight and all sizes are ours, so there is no recipe
    ``paper``. An item without neighbours takes no part in the contrast, and codes depend on the item's own vector
    alone, so new items need none. All vectors are held in memory.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> vectors = random.normal(size=(500, 16))
    >>> walks = Histories.from_lists([random.integers(1, 501, 8).tolist() for _ in range(60)])
    >>> tokenizer = COSETTE(levels=2, codebook_size=20, hidden=(32,), latent_dim=8, steps=50)
    >>> tokenizer.fit(vectors, sequences=walks).encode(vectors).shape
    (500, 2)
    """

    method = "cosette"
    inputs = ("sequences",)

    levels: Levels = 4
    latent_dim: Width = 16
    collaborative_weight: Weight = 0.1
    temperature: Temperature = 0.1
    window: Count = 1

    def fit(
        self: SelfCOSETTE,
        X: Any,
        y: Any = None,
        views: Mapping[str, slice] | None = None,
        sequences: Histories | None = None,
    ) -> SelfCOSETTE:
        """Train encoder, codebooks and decoder.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors. At least ``codebook_size`` rows.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, which get a network and codes of their own; one view of all columns by default.
        sequences : Histories
            Histories of the training part alone; item number i is row i - 1.

        Raises
        ------
        ValueError
            If a hyper-parameter, the vectors or the histories are unusable, or training diverges.
        KeyboardInterrupt
            If training is interrupted by Ctrl-C or SIGTERM.
        """
        return self._fit(X, views, {"sequences": sequences})

    def _checked_inputs(self, count: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        sequences = inputs["sequences"]
        if sequences is None and self.collaborative_weight > 0:
            raise ValueError("COSETTE learns from histories: give sequences=, or collaborative_weight=0")
        if sequences is None:
            return {"neighbours": Neighbours(torch.empty(0, dtype=torch.int64), torch.zeros(count + 1).long())}
        found = neighbours_of(sequences, count, self.window)
        if self.collaborative_weight > 0 and not len(found.rows):
            raise ValueError("no history has two different items near each other: there is nothing to learn from them")
        return {"neighbours": found}

    def _fit_view(
        self, rows: Any, seed: int, seconds: float | None, inputs: Mapping[str, Any]
    ) -> tuple[Fitted, list[dict[str, Any]]]:
        points = rows if isinstance(rows, Tensor) else torch.from_numpy(np.asarray(rows, dtype=np.float32))
        return super()._fit_view(rows, seed, seconds, {**inputs, "points": points.float()})

    def _network(self, width: int, shift: Tensor, scale: Tensor, seed: int, inputs: Mapping[str, Any]) -> Autoencoder:
        return ContrastedAutoencoder(
            points=inputs["points"],
            neighbours=inputs["neighbours"],
            collaborative_weight=self.collaborative_weight,
            temperature=self.temperature,
            dim=width,
            hidden=tuple(self.hidden),
            latent_dim=self.latent_dim,
            codebooks=None,
            shift=shift,
            scale=scale,
            seed=seed,
        )
