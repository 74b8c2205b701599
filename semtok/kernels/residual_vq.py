"""Codebooks that quantize a vector level by level inside a network: straight-through or rotated gradients, codewords
moved by gradient or as moving averages, revival of unused ones, an even assignment by optimal transport.

Knows nothing of what stands before and after it, nor of items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbase.nn.draws import draw_integers
from recbase.train.processes import process_count
from semtok.kernels.lloyd import nearest

__all__ = ["GRADIENTS", "UPDATES", "ResidualCodebooks", "sinkhorn_codes"]

GRADIENTS = ("straight-through", "rotation")
UPDATES = ("gradient", "ema")
_EPS = 1e-12


class ResidualCodebooks(nn.Module):
    """Codebooks that quantize a vector level by level, with what it takes to train them.

    Each level takes the nearest codeword to what the levels before it left over. Codewords before a level are constants
    for it: the codebook term moves the codewords of its own level alone, and the commitment of every level reaches the
    latent.

    Parameters
    ----------
    levels : int
        Codebooks, L.
    codebook_size : int
        Codewords of each, K.
    dim : int
        Width of a codeword, d.
    commitment : float, default 0.25
        Weight of the commitment term (beta).
    gradient : {"straight-through", "rotation"}, default "straight-through"
        How the gradient passes the quantizer: as it is, or turned and scaled as the latent would have to be to become
        the sum of its codewords (Fifty et al., Restructuring vector quantization with the rotation trick, ICLR 2025,
        arXiv 2410.06424; there each codebook, here the sum of all levels).
    update : {"gradient", "ema"}, default "gradient"
        Codewords move by the codebook term, or are moving averages of the residuals assigned to them (van den Oord,
        Vinyals and Kavukcuoglu, Neural discrete representation learning, 2017, appendix A).
    decay : float, default 0.99
        Decay of the moving averages of the codewords.
    sinkhorn : float, default 0.0
        Entropy weight of an even assignment (optimal transport) at the last level while training; 0 turns it off.
    revive_every : int, default 0
        Steps after which codewords that no row was assigned since the last time are put on residuals of the batch; 0
        turns it off.
    seed : int, default 0
        Of the rows that revived codewords are put on.
    """

    codebooks: Tensor  # [L, K, d]
    counts: Tensor  # [L, K] rows assigned since codewords were last revived
    steps: Tensor  # [] training steps so far
    sizes: Tensor  # [L, K] moving average of the rows of each codeword
    sums: Tensor  # [L, K, d] moving average of their sum

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        *,
        commitment: float = 0.25,
        gradient: str = "straight-through",
        update: str = "gradient",
        decay: float = 0.99,
        sinkhorn: float = 0.0,
        revive_every: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.commitment, self.gradient, self.update, self.decay = commitment, gradient, update, decay
        self.sinkhorn, self.revive_every, self.seed = sinkhorn, revive_every, seed
        shape = (levels, codebook_size, dim)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(shape, generator=generator) / math.sqrt(dim)
        if update == "gradient":
            self.codebooks = nn.Parameter(first)
        else:
            self.register_buffer("codebooks", first)
            self.register_buffer("sizes", torch.ones(shape[:2]))
            self.register_buffer("sums", first.clone())
        self.register_buffer("counts", torch.zeros(shape[:2]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def place(self, level: int, codewords: Tensor) -> None:
        """Put the codewords of one level where they are told: [K, d]."""
        self.codebooks[level] = codewords
        if self.update == "ema":
            self.sizes[level] = 1.0
            self.sums[level] = codewords

    @torch.no_grad()
    def codes(self, latents: Tensor) -> Tensor:
        """Nearest codewords, level by level: [B, d] to int64 [B, L]."""
        left, found = latents, []
        for book in self.codebooks.detach():
            found.append(nearest(left, book))
            left = left - book[found[-1]]
        return torch.stack(found, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codewords: [B, L] to [B, d]."""
        total: Tensor = self._codewords(codes.T).sum(0)
        return total

    def forward(self, latents: Tensor, row_count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize latents.

        Parameters
        ----------
        latents : Tensor [B, d]
            float32.
        row_count : int, optional
            Rows of the whole step (all processes): what the loss is divided by; B if not given.

        Returns
        -------
        quantized : Tensor [B, d]
            Sum of the codewords; its gradient passes to the latents.
        codes : int64 Tensor [B, L]
        loss : Tensor []
            Codebook term (0 with moving averages) plus ``commitment`` times the commitment term: squared distances,
            mean over rows and width, summed over levels.
        """
        codes, left = self._assign(latents.detach())
        weight = 1.0 / ((row_count or len(latents)) * latents.shape[1])
        rotate, moved = self.gradient == "rotation", self.update == "gradient"
        quantized, loss = _Through.apply(latents, self.codebooks, codes, left, weight, self.commitment, rotate, moved)
        if self.training:
            self._after(codes, left, latents.detach())
        return quantized, codes.T, loss

    @torch.no_grad()
    def _assign(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [L, B] and what each level leaves [L, B, d]; in training dead codewords are revived on the way."""
        levels = len(self.codebooks)
        codes = torch.empty(levels, len(latents), dtype=torch.int64, device=latents.device)
        left = torch.empty(levels, *latents.shape, dtype=latents.dtype, device=latents.device)
        due = self.training and self.revive_every > 0 and self._step() % self.revive_every == 0 and self._step() > 0
        before = latents
        for level in range(levels):
            if due:
                self._revive(level, before)
            book = self.codebooks[level]
            if self.training and self.sinkhorn > 0 and level == levels - 1:
                codes[level] = sinkhorn_codes(before, book, self.sinkhorn)
            else:
                codes[level] = nearest(before, book)
            torch.sub(before, book[codes[level]], out=left[level])
            before = left[level]
        if due:
            self.counts.zero_()
        return codes, left

    def _step(self) -> int:
        return int(self.steps)

    def _revive(self, level: int, rows: Tensor) -> None:
        """Put the codewords that no row was assigned on rows of the batch, the same ones in every process."""
        dead = (self.counts[level] == 0).nonzero()[:, 0]
        if not len(dead):
            return
        place = torch.stack([self.steps.expand(len(dead)), torch.full_like(dead, level), dead])
        chosen = rows[draw_integers(self.seed, len(rows), *place)]
        if process_count() > 1:
            dist.broadcast(chosen, src=0)
        self.codebooks[level, dead] = chosen
        if self.update == "ema":
            self.sizes[level, dead] = 1.0
            self.sums[level, dead] = chosen

    @torch.no_grad()
    def _after(self, codes: Tensor, left: Tensor, latents: Tensor) -> None:
        """Count the rows of each codeword; move the codewords where they are averages."""
        levels, size = self.counts.shape
        flat = (codes + size * torch.arange(levels, device=codes.device)[:, None]).flatten()
        counts = torch.bincount(flat, minlength=levels * size).to(self.counts.dtype)
        sums = None
        if self.update == "ema":
            before = torch.cat([latents[None], left[:-1]])
            sums = torch.zeros_like(self.sums).flatten(0, 1).index_add_(0, flat, before.flatten(0, 1))
        if process_count() > 1:
            dist.all_reduce(counts)
            if sums is not None:
                dist.all_reduce(sums)
        self.counts += counts.view(levels, size)
        self.steps += 1
        if sums is not None:
            self.sizes.lerp_(counts.view(levels, size), 1 - self.decay)
            self.sums.lerp_(sums.view_as(self.sums), 1 - self.decay)
            self.codebooks.copy_(self.sums / self.sizes.clamp(min=1e-5)[:, :, None])

    def _codewords(self, codes: Tensor) -> Tensor:
        """Codewords of codes [L, B]: [L, B, d]."""
        levels = torch.arange(len(self.codebooks), device=codes.device)[:, None]
        return self.codebooks[levels, codes]


class _Through(torch.autograd.Function):
    """Sum of the codewords and the loss of both terms, with their gradients in closed form.

    With e_l the codeword of level l and r_l what it leaves, both terms are mean |r_l|^2: the codebook term sends
    -2 r_l to the codeword, the commitment term 2 beta r_l to the latent.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latents: Tensor,
        codebooks: Tensor,
        codes: Tensor,
        left: Tensor,
        weight: float,
        commitment: float,
        rotate: bool,
        moved: bool,
    ) -> tuple[Tensor, Tensor]:
        quantized = latents - left[-1]
        loss = left.square().sum() * (weight * (commitment + moved))
        ctx.save_for_backward(latents if rotate else None, quantized if rotate else None, codes, left)
        ctx.weights = (2 * weight, 2 * weight * commitment, rotate, codebooks.shape)
        return quantized, loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        latents, quantized, codes, left = ctx.saved_tensors
        codebook_weight, commitment_weight, rotate, shape = ctx.weights
        through, of_loss = grads
        to_latents = to_books = None
        if ctx.needs_input_grad[0]:
            passed = _turned_back(through, latents, quantized) if rotate else through
            to_latents = passed + left.sum(0) * (of_loss * commitment_weight)
        if ctx.needs_input_grad[1]:
            levels, size, width = shape
            flat = (codes + size * torch.arange(levels, device=codes.device)[:, None]).flatten()
            to_books = torch.zeros(levels * size, width, dtype=left.dtype, device=left.device)
            to_books.index_add_(0, flat, left.flatten(0, 1))
            to_books = to_books.mul_(-codebook_weight * of_loss).view(shape)
        return to_latents, to_books, None, None, None, None, None, None


def _turned_back(grad: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The gradient of ``scale * R source``, with the rotation R and the scale that take source to target as constants.

    Rows whose source or target is zero, or which point in opposite directions, get the gradient as it is.
    """
    long, short = target.norm(dim=1, keepdim=True), source.norm(dim=1, keepdim=True)
    to, start = target / long.clamp(min=_EPS), source / short.clamp(min=_EPS)
    between = start + to
    spread = between.norm(dim=1, keepdim=True)
    between = between / spread.clamp(min=_EPS)
    turned = grad - 2 * (grad * between).sum(1, keepdim=True) * between + 2 * (grad * to).sum(1, keepdim=True) * start
    usable = (long > _EPS) & (short > _EPS) & (spread > 1e-4)
    return torch.where(usable, turned * (long / short.clamp(min=_EPS)), grad)


@torch.no_grad()
def sinkhorn_codes(points: Tensor, codewords: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """Codes that share the rows of a batch out evenly: int64 [B].

    The plan of optimal transport with entropy ``epsilon`` between rows and codewords of equal mass, by Sinkhorn's
    iterations on squared distances that are brought to [-1, 1]; a row takes the codeword it sends most to.

    Parameters
    ----------
    points : Tensor [B, d]
    codewords : Tensor [K, d]
    epsilon : float
        Small is near to a hard, even assignment; large is even for every row.
    iterations : int, default 50

    Notes
    -----
    Cuturi, Sinkhorn distances, NeurIPS 2013; at the last level of residual codebooks as in LC-Rec (Zheng et al., ICDE
    2024, arXiv 2311.09049).
    """
    origin = codewords.mean(0)  # far from it the differences of squares would lose their digits
    points, codewords = points - origin, codewords - origin
    costs = codewords.square().sum(1) - 2 * (points @ codewords.T) + points.square().sum(1, keepdim=True)
    low, high = costs.aminmax()
    plan = ((costs - low) * (2.0 / (high - low).clamp(min=_EPS)) - 1.0).double()
    plan = torch.exp((plan.amin(1, keepdim=True) - plan) / epsilon)  # a factor a row changes nothing
    of_codes = torch.ones(len(codewords), dtype=plan.dtype, device=plan.device)
    for _ in range(iterations):
        of_rows = 1.0 / (len(points) * (plan @ of_codes)).clamp(min=1e-300)
        of_codes = 1.0 / (len(codewords) * (plan.T @ of_rows)).clamp(min=1e-300)
    return (plan * of_codes).argmax(1)
