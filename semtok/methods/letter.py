"""LETTER: RQ-VAE codes that also follow collaborative vectors and use their codebooks evenly.

Adds two losses to the network of RQ-VAE: the quantized vector of an item shall find the item's collaborative vector
among those of the batch, and codewords of a group shall find each other. Knows nothing of where the collaborative
vectors come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Large, Levels, NonNegative, Weight
from recbase.nn.draws import draw_integers
from semtok.kernels.balanced import split_rows
from semtok.kernels.residual_vq import ResidualCodebooks
from semtok.methods.autoencoder import Autoencoder, RowBatch
from semtok.methods.residual_autoencoder import ResidualAutoencoder

__all__ = ["LETTER", "RECIPES", "AlignedAutoencoder", "code_groups", "collaborative_loss", "diversity_loss"]

RECIPES = {
    "default": {},
    "paper": {  # 20,000 passes over Beauty's 12,101 items
        "levels": 4,
        "codebook_size": 256,
        "latent_dim": 32,
        "hidden": (2048, 1024, 512, 256, 128, 64),
        "commitment": 0.25,
        "gradient": "straight-through",
        "start": "even",
        "plain_steps": 0,
        "sinkhorn": 0.003,
        "revive_every": 0,
        "refit": 0,
        "scaling": "none",
        "collaborative_weight": 0.02,
        "collaborative_scaling": False,
        "diversity_weight": 1e-4,
        "groups": 10,
        "regroup_every": 12,
        "steps": 240_000,
        "batch_size": 1024,
        "lr": 1e-3,
        "schedule": "constant",
        "patience": 0,
        "precision": "no",
    },
}
STARTS = ("even", "k-means", "random")

SelfLETTER = TypeVar("SelfLETTER", bound="LETTER")


def collaborative_loss(
    found: Tensor, targets: Tensor, own: Tensor, known: Tensor, numbers: Tensor, step_numbers: Tensor
) -> Tensor:
    """Cross-entropy of finding an item's vector among those of the step, by product, summed over the known items.

    Parameters
    ----------
    found : Tensor [B, D]
        What looks for its vector.
    targets : Tensor [M, D]
        Vectors of all items of the step.
    own : int64 Tensor [B]
        Row of ``targets`` that is right.
    known : bool Tensor [M]
        False for items without a vector: they neither look nor are they found.
    numbers, step_numbers : int64 Tensor [B] and [M]
        Which items they are; an item that is in the step twice is no wrong answer for itself.
    """
    logits = found @ targets.T
    others = torch.arange(len(targets), device=own.device)[None, :] != own[:, None]
    twins = (numbers[:, None] == step_numbers[None, :]) & others
    logits = logits.masked_fill(twins | ~known[None, :] & others, -math.inf)
    losses = F.cross_entropy(logits, own, reduction="none")
    return torch.where(known[own], losses, torch.zeros_like(losses)).sum()


def diversity_loss(book: Tensor, codes: Tensor, partners: Tensor) -> Tensor:
    """Cross-entropy of finding the partner of each code among all other codewords, by product, summed over the codes.

    Codewords of a group move towards each other and away from those of other groups, so that groups of equal size share
    the codebook out.

    Parameters
    ----------
    book : Tensor [K, D]
    codes, partners : int64 Tensor [B]
        Codes of the rows, and for each another code of its group.
    """
    logits = book @ book.T
    logits = logits - torch.diag(torch.full((len(book),), math.inf, device=book.device))
    return -F.log_softmax(logits, dim=1)[codes, partners].sum()


def code_groups(book: Tensor, groups: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Groups of codewords that lie together, of equal size (give or take one), by constrained k-means.

    Returns
    -------
    members : int64 Tensor [K]
        All codes, group after group.
    places : int64 Tensor [K, 3]
        For each code its place in ``members``, and where its group starts and how many it holds.
    """
    owner = split_rows(book.float().cpu(), groups, evenly=True, seed=seed, precision="float32").codes
    members = owner.argsort(stable=True)
    sizes = torch.bincount(owner, minlength=groups)
    places = torch.empty(len(book), 3, dtype=torch.int64)
    places[members, 0] = torch.arange(len(book))
    places[:, 1], places[:, 2] = (sizes.cumsum(0) - sizes)[owner], sizes[owner]
    return members.to(book.device), places.to(book.device)


class AlignedAutoencoder(Autoencoder):
    """The network of RQ-VAE with LETTER's two losses.

    Parameters
    ----------
    collaborative : Tensor [N, Dc]
        Frozen vectors of all rows of the data; a row of zeros has none.
    collaborative_weight, diversity_weight : float
        Weights of the losses; 0 leaves one out.
    groups : int
        Groups of codewords of each level.
    regroup_every : int
        Steps after which codewords are grouped anew.
    seed : int
        Of the first weights, of groups and of the partners of codes.
    **network
        Arguments of `Autoencoder`.
    """

    collaborative: Tensor
    members: Tensor  # [L, K]
    places: Tensor  # [L, K, 3]

    def __init__(
        self,
        *,
        collaborative: Tensor,
        collaborative_weight: float,
        diversity_weight: float,
        groups: int,
        regroup_every: int,
        seed: int = 0,
        **network: Any,
    ) -> None:
        super().__init__(seed=seed, **network)
        self.collaborative_weight, self.diversity_weight = collaborative_weight, diversity_weight
        self.groups, self.regroup_every, self.seed = groups, regroup_every, seed
        self.register_buffer("collaborative", collaborative, persistent=False)
        self.register_buffer("members", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("places", torch.empty(0, dtype=torch.int64), persistent=False)
        latent, width = network["latent_dim"], collaborative.shape[1]
        self.projection: nn.Module = nn.Identity()
        if latent != width and collaborative_weight > 0:
            self.projection = nn.Linear(latent, width, bias=False)
            generator = torch.Generator().manual_seed(seed + 1)
            nn.init.normal_(self.projection.weight, std=1 / math.sqrt(latent), generator=generator)

    def further_losses(self, quantized: Tensor, codes: Tensor, batch: RowBatch) -> dict[str, Tensor]:
        """The two losses, weighted, as this process's share."""
        losses = {}
        if self.collaborative_weight > 0:
            targets = self.collaborative[batch.step_numbers]
            known = targets.any(1)
            found = self.projection(quantized).float()
            loss = collaborative_loss(found, targets, batch.positions, known, batch.numbers, batch.step_numbers)
            losses["collaborative"] = loss * (self.collaborative_weight / known.sum().clamp(min=1))
        if self.diversity_weight > 0:
            losses["diversity"] = self._diversity(codes, batch) * (self.diversity_weight / batch.row_count)
        return losses

    def _diversity(self, codes: Tensor, batch: RowBatch) -> Tensor:
        books = self.codebooks
        assert books is not None
        if not len(self.members) or (self.training and batch.step % self.regroup_every == 0):
            self._regroup(books)
        total = codes.new_zeros((), dtype=torch.float32)
        for level, book in enumerate(books.codebooks):
            own = codes[:, level]
            place, first, size = self.places[level, own].T
            where = torch.full_like(own, batch.step), torch.full_like(own, level), batch.positions
            ahead = 1 + draw_integers(self.seed, 2**31, *where) % (size - 1).clamp(min=1)
            partners = self.members[level, first + (place - first + ahead) % size]
            total = total + diversity_loss(book, own, partners)
        return total

    @torch.no_grad()
    def _regroup(self, books: ResidualCodebooks) -> None:
        found = [code_groups(book, self.groups, self.seed + level) for level, book in enumerate(books.codebooks)]
        self.members = torch.stack([members for members, _ in found])
        self.places = torch.stack([places for _, places in found])


@dataclass(kw_only=True, eq=False, repr=False)
class LETTER(ResidualAutoencoder):
    """LETTER: RQ-VAE whose quantized vectors find the item's collaborative vector and whose codebooks are evenly used.

    Parameters
    ----------
    levels : int, default 4
        Codes an item (or a view).
    codebook_size : int, default 256
        Codes of each level, K.
    latent_dim : int, default 8
        Width of the latent. Narrow latents are told apart by few codes: fewer items share theirs.
    hidden : tuple of int, default (512, 256, 128)
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    commitment : float, default 0.25
        Weight of the commitment term.
    collaborative_weight : float, default 0.1
        Weight of the cross-entropy between quantized and collaborative vectors (alpha); 0 turns it off.
    collaborative_scaling : bool, default True
        Divide the collaborative vectors by one number, so that their mean squared entry is 1.
    diversity_weight : float, default 0.0001
        Weight of the diversity loss (beta); 0 turns it off.
    groups : int, default 10
        Groups of codewords of each level, of equal size.
    regroup_every : int, default 100
        Steps after which codewords are grouped anew.
    gradient : {"straight-through", "rotation"}, default "straight-through"
        How the gradient passes the quantizer: as it is, or turned and scaled by the rotation trick.
    start : {"even", "k-means", "random"}, default "even"
        First codewords: k-means of the residuals, level by level, with clusters of equal size or of any size, or normal
        numbers.
    plain_steps : int, default 0
        Steps without quantization before the codewords are placed; they come on top.
    sinkhorn : float, default 0.003
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
    Wang et al., Learnable item tokenization for generative recommendation, CIKM 2024, arXiv 2405.07314. Departures:
    the default network and latent are smaller, vectors are scaled, codewords are brought to the centroids of their
    residuals now and then, training is short; groups are renewed every so many steps instead of every pass. The
    collaborative vector of an item is multiplied with its quantized vector, or with a learned projection of it where
    the widths differ; an item without one (a row of zeros) takes no part in that loss. New items need none: codes
    depend on the item's own vector alone.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> vectors, behaviour = random.normal(size=(500, 16)), random.normal(size=(500, 8))
    >>> tokenizer = LETTER(levels=2, codebook_size=20, hidden=(32,), latent_dim=8, steps=50)
    >>> tokenizer.fit(vectors, collaborative=behaviour).encode(vectors).shape
    (500, 2)
    """

    method = "letter"
    inputs = ("collaborative",)
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {**ResidualAutoencoder._choices, "start": STARTS}

    levels: Levels = 4
    start: str = "even"
    sinkhorn: NonNegative = 0.003
    collaborative_weight: Weight = 0.1
    collaborative_scaling: bool = True
    diversity_weight: Weight = 1e-4
    groups: Count = 10
    regroup_every: Large = 100

    def fit(
        self: SelfLETTER,
        X: Any,
        y: Any = None,
        views: Mapping[str, slice] | None = None,
        collaborative: Any = None,
    ) -> SelfLETTER:
        """Train encoder, codebooks and decoder.

        Parameters
        ----------
        X : array or tensor of float [N, D]
            Item vectors; memory-mapped arrays are read batch by batch. At least ``codebook_size`` rows.
        y : ignored
        views : dict of str to slice, optional
            Columns of each view, which get a network and codes of their own; one view of all columns by default.
        collaborative : array of float [N, Dc]
            Vectors learned from behaviour (the training part alone), such as those of
            :func:`semtok.content.collaborative.collaborative_vectors`; a row of zeros for an item that has none.

        Raises
        ------
        ValueError
            If a hyper-parameter, the vectors or the collaborative vectors are unusable, or training diverges.
        KeyboardInterrupt
            If training is interrupted by Ctrl-C or SIGTERM.
        """
        return self._fit(X, views, {"collaborative": collaborative})

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.diversity_weight > 0 and 2 * self.groups > self.codebook_size:
            raise ValueError(
                f"groups={self.groups} would leave a group fewer than two of codebook_size={self.codebook_size} codes"
            )

    def _checked_inputs(self, count: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = inputs["collaborative"]
        if given is None and self.collaborative_weight > 0:
            raise ValueError(
                "LETTER learns from collaborative vectors: give collaborative=[N, Dc], or collaborative_weight=0"
            )
        vectors = np.zeros((count, 1), dtype=np.float32) if given is None else np.asarray(given, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != count:
            raise ValueError(f"collaborative has shape {vectors.shape}; expected [{count}, Dc], one row for each of X")
        if not np.isfinite(vectors).all():
            raise ValueError("collaborative has a NaN or infinite (inf) entry: every entry must be finite")
        filled = vectors[vectors.any(1)]
        if self.collaborative_weight > 0 and not len(filled):
            raise ValueError("collaborative is all zeros: no item has a collaborative vector")
        if self.collaborative_scaling and len(filled):
            vectors = vectors / np.sqrt(np.square(filled, dtype=np.float64).mean()).astype(np.float32)
        return {"collaborative": torch.from_numpy(np.array(vectors, dtype=np.float32))}

    def _network(self, width: int, shift: Tensor, scale: Tensor, seed: int, inputs: Mapping[str, Any]) -> Autoencoder:
        return AlignedAutoencoder(
            collaborative=inputs["collaborative"],
            collaborative_weight=self.collaborative_weight,
            diversity_weight=self.diversity_weight,
            groups=self.groups,
            regroup_every=self.regroup_every,
            dim=width,
            hidden=tuple(self.hidden),
            latent_dim=self.latent_dim,
            codebooks=None,
            shift=shift,
            scale=scale,
            seed=seed,
        )

    def _first_codewords(self, points: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if self.start != "even":
            return super()._first_codewords(points, seed)
        codes = split_rows(points, self.codebook_size, evenly=True, seed=seed).codes
        sums = torch.zeros(self.codebook_size, points.shape[1], device=points.device).index_add_(0, codes, points)
        centers = sums / torch.bincount(codes, minlength=self.codebook_size)[:, None].clamp(min=1)
        return centers, codes
