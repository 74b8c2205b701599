"""RQ-VAE: an autoencoder whose latent vector is quantized level by level.

Its training and its encoding are those of `ResidualAutoencoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from recbase.arguments import Decay
from semtok.kernels.residual_vq import UPDATES
from semtok.methods.residual_autoencoder import ResidualAutoencoder

__all__ = ["RECIPES", "RQVAE"]

RECIPES = {
    "default": {},
    "paper": {  # 20,000 passes over Beauty's 12,101 items
        "levels": 3,
        "codebook_size": 256,
        "latent_dim": 32,
        "hidden": (512, 256, 128),
        "commitment": 0.25,
        "gradient": "straight-through",
        "update": "gradient",
        "start": "k-means",
        "plain_steps": 0,
        "sinkhorn": 0.0,
        "revive_every": 0,
        "refit": 0,
        "scaling": "none",
        "steps": 240_000,
        "batch_size": 1024,
        "lr": 1e-3,
        "schedule": "constant",
        "patience": 0,
        "precision": "no",
    },
}


@dataclass(kw_only=True, eq=False, repr=False)
class RQVAE(ResidualAutoencoder):
    """Residual-quantized autoencoder (RQ-VAE), the tokenizer of TIGER.

    An encoder brings the vector of an item to a short latent, which is quantized level by level: each level takes the
    nearest codeword to what the levels before it left. A decoder restores the vector from the sum of the codewords.
    Loss: mean squared reconstruction error, plus for each level the squared distance of codeword and residual, which
    moves the codeword (weight 1) and the latent (weight ``commitment``).

    Parameters
    ----------
    levels : int, default 3
        Codes an item (or a view).
    codebook_size : int, default 256
        Codes of each level, K.
    latent_dim : int, default 8
        Width of the latent. Narrow latents are told apart by few codes: fewer items share theirs.
    hidden : tuple of int, default (512, 256, 128)
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    commitment : float, default 0.25
        Weight of the commitment term.
    gradient : {"straight-through", "rotation"}, default "straight-through"
        How the gradient passes the quantizer: as it is, or turned and scaled by the rotation trick.
    update : {"gradient", "ema"}, default "gradient"
        Codewords move by gradient, or are moving averages of the residuals they were assigned.
    decay : float, default 0.99
        Decay of the moving averages of the codewords.
    start : {"k-means", "random"}, default "k-means"
        First codewords: k-means of the residuals of up to 256 rows a codeword, level by level, or normal numbers.
    plain_steps : int, default 0
        Steps as a plain autoencoder before the codewords are placed and quantization begins; they come on top.
    sinkhorn : float, default 0.0
        Entropy weight of an even assignment at the last level while training, such as 0.003; 0 turns it off.
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
    codebooks_ : list of float32 array [K, latent_dim]
        One a code column.
    sizes_ : list of int
        Codes of each column.
    unused_ : list of int
        Codes of each column that no row of the fit has.
    blocks_ : dict of str to slice
        Code columns of each view.
    history_ : list of dict
        One entry a validation: step, seconds, loss, its parts, ``error`` (share of the variance that is lost),
        ``collisions`` (share of rows that share all their codes), ``score`` (their sum).
    seconds_ : float
        Time the training took.

    Notes
    -----
    Rajput et al., Recommender systems with generative retrieval (TIGER), NeurIPS 2023, arXiv 2305.05065; Lee et al.,
    Autoregressive image generation using residual quantization, CVPR 2022, arXiv 2203.01941. The recipe ``paper`` has
    TIGER's sizes and passes over the data with Adam, where the paper has Adagrad. Departures of the default: the latent
    has 8 numbers instead of 32, vectors are scaled, unused codewords are revived, all are brought to the centroids of
    their residuals now and then, and training is short and stops early. The codewords of the levels before are
    constants for a level.

    Trains where accelerate puts it (the first GPU, or as launched); encodes where the vectors are.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> RQVAE(levels=2, codebook_size=16, hidden=(32,), latent_dim=8, steps=50).fit(vectors).encode(vectors).shape
    (500, 2)
    """

    method = "rqvae"
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {**ResidualAutoencoder._choices, "update": UPDATES}

    update: str = "gradient"
    decay: Decay = 0.99

    def _moving(self) -> dict[str, Any]:
        return {"update": self.update, "decay": self.decay}
