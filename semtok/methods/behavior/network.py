"""The network of behaviour-bound codes: an encoder a stream, one codebook a level, decoders, and its losses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.nn.losses import gather_with_gradient, info_nce
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput
from recbase.train.processes import process_count
from semtok.kernels.club import CLUB
from semtok.kernels.lloyd import cluster
from semtok.methods.behavior.batches import ItemBatch

if TYPE_CHECKING:
    from semtok.methods.behavior.tokenizer import BehaviorTokenizer

__all__ = ["BehaviorNetwork", "BehaviorScorer"]


_CHUNK = 8192  # items computed at a time where no gradient is needed


_REVIVAL_ITEMS = 4096  # items whose residuals dead codes are drawn from


class BehaviorNetwork(nn.Module):
    """Network that is trained: encoders, one id row per item, codebooks, decoders, the bound, the sequence encoder.

    Parameters
    ----------
    vectors : dict of str to Tensor [N, D_m]
        Standardized vectors of each modality.
    present : dict of str to bool Tensor [N]
        Which items have something in it.
    arguments : BehaviorTokenizer
        Its hyper-parameters.
    levels : int
        Codes of each stream.
    """

    used: Tensor

    def __init__(
        self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor], arguments: BehaviorTokenizer, levels: int
    ) -> None:
        super().__init__()
        a, dim, self.modalities = arguments, arguments.latent_dim, tuple(vectors)
        self.n_items = len(next(iter(vectors.values())))
        self.max_len, self.levels, self.temperature = a.max_len, levels, a.temperature
        self.commitment, self.clamp_mim, self.sampled_mim = a.commitment, a.clamp_mim, a.sampled_mim
        self.weights = {
            "reconstruction": a.reconstruction_weight,
            "rq": a.rq_weight,
            "mim": a.mim_weight,
            "rec": a.rec_weight,
        }
        for name, table in vectors.items():
            self.register_buffer(f"vectors_{name}", table, persistent=False)
            self.register_buffer(f"present_{name}", present[name], persistent=False)
        widths = {name: table.shape[1] for name, table in vectors.items()}
        self.ids = nn.Parameter(torch.randn(self.n_items, dim) * 0.01) if a.rec and "id" in a.streams else None
        self.streams = (("id",) if self.ids is not None else ()) + self.modalities
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name, width in widths.items()})
        self.aligned = nn.ModuleDict({name: _mlp(width, *a.hidden, dim) for name, width in widths.items()})
        self.specific, self.bound = nn.ModuleDict(), nn.ModuleDict()
        if a.mim:
            self.specific.update({name: _mlp(width, *a.hidden, dim) for name, width in widths.items()})
            self.bound.update({name: CLUB(dim, dim, lr=a.inner_lr, steps=a.inner_steps) for name in widths})
        inner = 2 * dim if a.mim else dim
        self.decoders = nn.ModuleDict({name: _mlp(inner, *reversed(a.hidden), width) for name, width in widths.items()})
        books = 1 if a.shared_codebook else len(self.streams)
        self.codebooks = nn.Parameter(torch.zeros(books, levels, a.codebook_size, dim))
        self.register_buffer("used", torch.zeros(books * levels * a.codebook_size, dtype=torch.int64), persistent=False)
        self.revive_every, self.seed, self.steps, self.revived = a.revive_every, a.seed, 0, 0
        self.sequence: _SequenceEncoder | None = None
        if a.rec:
            width = dim * len(self.streams)
            self.sequence = _SequenceEncoder(width, a.sequence_layers, a.heads, a.dropout, a.max_len)

    # ------------------------------------------------------------------------------------ representations

    def represent(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors of some items before they are quantized, [S, M, D], and each modality's inputs, [M, D_m].

        Every row is layer-normalized: streams of other scales would never have a code in common.
        """
        found, inputs = [] if self.ids is None else [self.ids[rows]], {}
        for name in self.modalities:
            here = getattr(self, f"present_{name}")[rows]
            inputs[name] = torch.where(here[:, None], getattr(self, f"vectors_{name}")[rows], self.absent[name])
            found.append(self.aligned[name](inputs[name]))
        return F.layer_norm(torch.stack([part.float() for part in found]), found[0].shape[1:]), inputs

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize each stream by residuals.

        Parameters
        ----------
        z : float32 Tensor [S, M, D]

        Returns
        -------
        quantized : Tensor [S, M, D]
            The sum of the codebook rows, with the gradient of ``z``.
        codes : int64 Tensor [S, M, L]
        losses : Tensor [M]
            Of each item, over streams and levels: |sg[r] - e|^2 + commitment |r - sg[e]|^2, squares averaged over the
            columns as those of the reconstruction are.
        """
        left, total, codes = z, torch.zeros_like(z), []
        losses = z.new_zeros(z.shape[1])
        with torch.autocast(z.device.type, enabled=False):
            for level in range(self.levels):
                index = self._nearest(left.detach(), level)  # [S, M]
                chosen = self._rows(index, level)  # [S, M, D]
                losses = losses + (left.detach() - chosen).square().mean(2).sum(0)
                chosen = chosen.detach()
                left = left - chosen
                losses = losses + self.commitment * left.square().mean(2).sum(0)
                total = total + chosen
                codes.append(index)
        return z + (total - z).detach(), torch.stack(codes, -1), losses

    def _nearest(self, left: Tensor, level: int) -> Tensor:
        """Nearest row of the level's codebook: [S, M, D] -> int64 [S, M]."""
        books = self.codebooks[:, level].detach()  # [C, K, D]
        points = left.reshape(len(books), -1, left.shape[2])  # [C, S / C * M, D]
        half = books.square().sum(2).div(-2)[:, None, :]
        return torch.baddbmm(half, points, books.transpose(1, 2)).argmax(2).view(left.shape[:2])

    def _rows(self, index: Tensor, level: int) -> Tensor:
        """Rows of the level's codebook: int64 [S, M] -> [S, M, D]."""
        books = self.codebooks[:, level]
        if len(books) == 1:
            return books[0][index]
        return torch.stack([book[part] for book, part in zip(books, index, strict=True)])

    # ------------------------------------------------------------------------------------------- training

    def forward(self, batch: ItemBatch) -> LossOutput:
        """This process's share of the loss of a step; in training the bound first makes steps of its own."""
        if self.training:
            if self.revive_every and self.steps and self.steps % self.revive_every == 0:
                self.revived += self.revive(self.seed * 1009 + self.steps)
            self.steps += 1
        z, inputs = self.represent(batch.rows)
        quantized, codes, losses = self.quantize(z)
        if self.training:
            self._count(codes[:, batch.owned])
        parts = {"rq": (losses * batch.owned).sum() / batch.item_count}
        parts["reconstruction"], mim = self._by_modality(batch, z, quantized, inputs)
        if self.specific:
            parts["mim"] = mim
        if self.sequence is not None:
            parts["rec"] = self._contrast(batch, quantized)
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return LossOutput(loss, {name: part.detach() for name, part in parts.items()})

    def _by_modality(
        self, batch: ItemBatch, z: Tensor, quantized: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction loss and mutual information, summed over the modalities; of items that have them."""
        first = len(self.streams) - len(self.modalities)
        reconstruction, information = z.new_zeros(()), z.new_zeros(())
        for stream, name in enumerate(self.modalities, start=first):
            chosen = (batch.owned & getattr(self, f"present_{name}")[batch.rows]).nonzero()[:, 0]
            share = 1 / max(1, batch.present[name])
            x, known = inputs[name][chosen], quantized[stream][chosen]
            if self.specific:
                s = self.specific[name](x).float()
                known = torch.cat([known, s], 1)
                club = cast(CLUB, self.bound[name])
                if self.training:
                    club.improve(z[stream][chosen], s)
                bound = club(z[stream][chosen], s, self.sampled_mim)
                information = information + (bound.clamp(min=0) if self.clamp_mim else bound) * len(chosen) * share
            errors = (self.decoders[name](known).float() - x).square().mean(1)
            reconstruction = reconstruction + errors.sum() * share
        return reconstruction, information

    def _contrast(self, batch: ItemBatch, quantized: Tensor) -> Tensor:
        """Cross-entropy of each sequence's next item against the next items of all sequences of the step."""
        assert self.sequence is not None
        v = quantized.transpose(0, 1).flatten(1)  # [M, S D]
        states = self.sequence(v, batch.items, batch.lengths)
        candidates, first = gather_with_gradient(v[batch.targets])
        own = batch.rows[batch.targets]
        return info_nce(states, candidates, self.temperature, first, own, batch.step_targets) / batch.row_count

    # ------------------------------------------------------------------------------------------- codebooks

    @torch.no_grad()
    def start_codebooks(self, seed: int) -> None:
        """Codebooks by k-means on the residuals of all streams together (of each stream where codebooks differ)."""
        books, levels, size, dim = self.codebooks.shape
        rows = torch.randperm(self.n_items, generator=torch.Generator().manual_seed(seed))[: 256 * size]
        left = self._residuals(rows.to(self.codebooks.device))
        for level in range(levels):
            for book, points in enumerate(left.reshape(books, -1, dim)):
                found = cluster(points.contiguous(), size, seed=seed * 1009 + level * books + book)
                self.codebooks[book, level] = found.centers
            left = left - self._rows(self._nearest(left, level), level)

    def _residuals(self, rows: Tensor) -> Tensor:
        """Vectors of the streams of some items before quantization, [S, n, D], computed in chunks."""
        return torch.cat([self.represent(part)[0] for part in rows.split(_CHUNK)], 1)

    def _count(self, codes: Tensor) -> None:
        """Count the codes [S, M, L] that a step used."""
        books, levels, size, _ = self.codebooks.shape
        level = torch.arange(levels, device=codes.device)
        book = torch.arange(len(codes), device=codes.device) if books > 1 else torch.zeros_like(codes[:, 0, 0])
        flat = ((book[:, None, None] * levels + level) * size + codes).flatten()
        self.used += torch.bincount(flat, minlength=len(self.used))

    @torch.no_grad()
    def revive(self, seed: int) -> int:
        """Move each code that no step has used since the last call to a residual of a random item.

        Returns
        -------
        int
            Codes moved.
        """
        books, levels, size, dim = self.codebooks.shape
        if process_count() > 1:
            torch.distributed.all_reduce(self.used)
        dead = (self.used == 0).view(books, levels, size)
        self.used.zero_()
        if not dead.any():
            return 0
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(self.n_items, generator=generator)[:_REVIVAL_ITEMS]
        left = self._residuals(rows.to(self.codebooks.device))
        moved = 0
        for level in range(levels):
            after = left - self._rows(self._nearest(left, level), level)
            for book, points in enumerate(left.reshape(books, -1, dim)):
                empty = dead[book, level].nonzero()[:, 0]
                chosen = torch.randperm(len(points), generator=generator)[: len(empty)].to(points.device)
                self.codebooks[book, level, empty[: len(chosen)]] = points[chosen]
                moved += len(chosen)
            left = after
        return moved

    # ------------------------------------------------------------------------------------------ validation

    @torch.no_grad()
    def catalogue(self) -> tuple[Tensor, Tensor]:
        """Codes int64 [N, S, L] and quantized vectors float32 [N, S D] of all items."""
        codes, vectors = [], []
        for rows in torch.arange(self.n_items, device=self.codebooks.device).split(_CHUNK):
            quantized, found, _ = self.quantize(self.represent(rows)[0])
            codes.append(found.transpose(0, 1))
            vectors.append(quantized.transpose(0, 1).flatten(1))
        return torch.cat(codes), torch.cat(vectors)

    def scorer(self) -> BehaviorScorer:
        """Cosine of a sequence with all items."""
        return BehaviorScorer(self)


class BehaviorScorer:
    """Scores every item by the cosine of the sequence's state and the item's quantized vector.

    Parameters
    ----------
    network : BehaviorNetwork
        With a sequence encoder.
    """

    def __init__(self, network: BehaviorNetwork) -> None:
        self.network, self.n_items, self.max_len = network.eval(), network.n_items, network.max_len
        self.codes, self.vectors = network.catalogue()
        self.table = F.normalize(self.vectors, dim=1).T.contiguous()

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Item numbers [B, T], 0 where padded -> float32 [B, N]."""
        assert self.network.sequence is not None
        device = self.table.device
        rows = (items.to(device) - 1).clamp_(min=0)
        states = self.network.sequence(self.vectors, rows, lengths.to(device))
        return F.normalize(states.float(), dim=1) @ self.table


class _SequenceEncoder(nn.Module):
    """A causal Transformer over item vectors: the state at the last item of a history."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(width, width)
        self.positions = nn.Parameter(torch.randn(max_len, width) * 0.02)
        self.encoder = Encoder(layers, width, heads, width, dropout, norm="pre", eps=1e-8)
        self.dropout = dropout

    def forward(self, table: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """Rows of ``table`` [M, W] named by ``items`` [B, T], right padded -> [B, W]."""
        packing = Packing.of(lengths, items.shape[1])
        x = self.inlet(table)[packing.pack(items)] + self.positions[packing.steps]
        states: Tensor = self.encoder(F.dropout(x, self.dropout, self.training), packing)
        return states[packing.last]


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
