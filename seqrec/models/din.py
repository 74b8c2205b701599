"""Deep interest network with a modality-adaption layer: PRORec's first stage, which joins item text and behaviour."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    Deviation,
    Dropout,
    Large,
    LargeOrOff,
    Length,
    Temperature,
    Weight,
    Width,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import Network
from recbase.nn.draws import draw_integers
from recbase.nn.losses import info_nce
from recbase.train.loop import LossOutput

__all__ = ["DIN", "WINDOWS", "AdaptionLayer", "DINScorer", "Dice"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 128, "lr": 1e-3, "warmup_steps": 200, "patience": 5},
    "paper": {
        "form": "prefix",
        "epochs": 60,
        "batch_size": 128,
        "lr": 1e-3,
        "schedule": "inverse_sqrt",
        "warmup_steps": 5000,
        "patience": 5,
        "precision": "no",
    },
}

WINDOWS = (5, 4, 2, 2, 1, 1, 1, 1, 1, 1)
"""Events of the history that are summed into one vector, the oldest first: the last 19 give 10."""

_BLOCK = 1 << 15  # pairs of event and candidate scored at once while ranking: what is made of them stays in cache


class Dice(nn.Module):
    """p x + a (1 - p) x with p = sigmoid(batch norm of x) and a learned (Zhou et al. 2018).

    Parameters
    ----------
    width : int
        Of the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.slope = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        gate = self.norm(x.flatten(0, -2).float()).sigmoid().view(x.shape)
        return x * torch.addcmul(self.slope, 1 - self.slope, gate)


class AdaptionLayer(nn.Module):
    """Text vectors into the space of behaviour: (1 + gamma(c)) norm(u) + beta(c), u = W x + b, c = SiLU(u).

    The scale and shift are zero at first, so that it starts as norm(W x + b) (adaptive layer norm in the manner of
    Peebles and Xie, DiT, 2023; PRORec's text gives no formula).

    Parameters
    ----------
    text_dim, dim : int
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_dim, dim)
        self.modulate = nn.Linear(dim, 2 * dim)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, text: Tensor) -> Tensor:
        """[..., text_dim] -> [..., dim]."""
        u = self.project(text)
        scale, shift = self.modulate(F.silu(u)).chunk(2, -1)
        return F.layer_norm(u, u.shape[-1:]) * (1 + scale) + shift


class DIN(Network):
    """Deep interest network (Zhou et al., KDD 2018, arXiv 1706.06978) as PRORec's stage I (arXiv 2502.06269).

    Scores a pair of history and candidate: events are weighted by an MLP of event and candidate (no softmax), summed
    inside windows, and an MLP of the window vectors and the candidate gives the score. Trained by softmax over the
    target and uniform negatives (accidental hits removed; the correction of a uniform proposal cancels), plus the
    cross-modality alignment: a contrast of the collaborative vectors of the step's target items with their adapted
    text vectors. The architecture's sizes are those of the code of its kin, EAGER and RecForest. Departs from them: the
    learning rate's decay is that of the training loop, plain Adam instead of amsgrad, padding has no part in the
    statistics of the batch norms over events, and the default form takes one random position a user and epoch instead
    of every prefix. Ranking all items costs a forward pass an item and user:
    for small catalogues, and as a first stage, whose result are the item vectors.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int, default 0
        Width of the text vectors; 0 leaves text and alignment out (a plain DIN).
    dim : int, default 128
        Width of item vectors, D.
    negatives : int, default 60
        Uniform negatives a target.
    align_weight : float, default 1.0
        Weight of the alignment, alpha. 0 turns it off.
    align_temperature : float, default 0.07
        Temperature of the alignment.
    align_items : {"targets", "all"}, default "targets"
        The distinct target items of a step (those of every position in form ``all``), or those of the histories too.
    symmetric : bool, default False
        Align text to behaviour as well.
    integrate : {"aligned", "mean", "beside"}, default "mean"
        What is read and handed on as an item's vector: the collaborative table, which the alignment shapes (A), or the
        mean of it and the adapted text (B). The paper's text fits both; B validates far better (README). With
        ``beside`` (C) the table is read, and it and the adapted text are handed on side by side, each layer-normalised,
        so that neither drowns the other by its scale: vectors of width 2 D. Without text it is the table.
    dropout : float, default 0.1
        In both MLPs.
    max_len : int, default 19
        Events read; the windows are made for 19, others change the first.
    init_std : float, default 0.0001
        Standard deviation of the initial item vectors.
    """

    text: Tensor
    window: Tensor

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        dim: Width = 128,
        negatives: Count = 60,
        align_weight: Weight = 1.0,
        align_temperature: Temperature = 0.07,
        align_items: Literal["targets", "all"] = "targets",
        symmetric: bool = False,
        integrate: Literal["aligned", "mean", "beside"] = "mean",
        dropout: Dropout = 0.1,
        max_len: Length = 19,
        init_std: Deviation = 0.0001,
    ) -> None:
        super().__init__(locals())
        if max_len < len(WINDOWS):
            raise ValueError(f"--max-len must be at least {len(WINDOWS)}, one event a window, got {max_len}")
        self.items, self.dim, self.max_len, self.negatives = items, dim, max_len, negatives
        self.align_weight, self.align_temperature = align_weight if text_dim else 0.0, align_temperature
        self.align_items, self.symmetric, self.dropout = align_items, symmetric, dropout
        self.integrate = integrate if text_dim else "aligned"
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.adaption = AdaptionLayer(text_dim, dim) if text_dim else None
        self.register_buffer("text", torch.zeros(items + 1, text_dim))
        windows = [max(1, WINDOWS[0] + max_len - sum(WINDOWS)), *WINDOWS[1:]]
        while sum(windows) > max_len:  # fewer events than the windows were made for
            windows[windows.index(max(windows))] -= 1
        self.register_buffer(
            "window", torch.repeat_interleave(torch.arange(len(windows)), torch.tensor(windows)), persistent=False
        )
        self.event, self.candidate = nn.Linear(dim, 64), nn.Linear(dim, 64, bias=False)
        self.product = nn.Linear(dim, 64, bias=False)
        self.activation_dice = Dice(64)
        self.activation_out = nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 1))
        width = (len(WINDOWS) + 1) * dim
        self.head_in, self.head_out = nn.Linear(width, 200), nn.Linear(80, 1)
        self.head_dice, self.head_mid, self.mid_dice = Dice(200), nn.Linear(200, 80), Dice(80)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not getattr(self.adaption, "modulate", None):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            nn.init.normal_(self.item_embedding.weight, std=init_std)[0] = 0
            # The first layer reads [event, candidate, event - candidate, product]: two of its blocks are sums.
            for layer in (self.event, self.candidate):
                layer.weight *= math.sqrt(2 * (dim + 64) / (4 * dim + 64))
            self.product.weight *= math.sqrt((dim + 64) / (4 * dim + 64))

    @staticmethod
    def reads(arguments: dict[str, Any]) -> tuple[str, ...]:
        """Ids, and text unless it is turned off."""
        plain = not arguments.get("align_weight", 1.0) and arguments.get("integrate", "mean") == "aligned"
        return ("ids",) if plain else ("ids", "text")

    def with_content(self, text: np.ndarray) -> DIN:
        """Set the text vectors, float32 [N, text_dim]."""
        self.text[1:] = torch.from_numpy(np.asarray(text, dtype=np.float32))
        return self

    # ----------------------------------------------------------------------------------------------- forward

    def vectors(self, items: Tensor) -> Tensor:
        """Vectors of items as the network reads them: [...] -> [..., D]; zeros for padding."""
        if self.integrate != "mean":
            found: Tensor = self.item_embedding(items)
            return found
        if items.numel() > self.items:  # text is adapted once an item
            return F.embedding(items, self._means(torch.arange(self.items + 1, device=items.device)))
        return self._means(items)

    def _means(self, items: Tensor) -> Tensor:
        means: Tensor = (self.item_embedding(items) + self.adapted(items)) / 2 * (items > 0)[..., None]
        return means

    def adapted(self, items: Tensor) -> Tensor:
        """Adapted text vectors of items: [...] -> [..., D]."""
        assert self.adaption is not None
        result: Tensor = self.adaption(self.text[items])
        return result

    def score(self, history: Tensor, candidates: Tensor, valid: Tensor | None = None) -> Tensor:
        """Scores of candidates.

        Parameters
        ----------
        history : Tensor [B, T, D]
            The last ``max_len`` events, left padded with zeros.
        candidates : Tensor [B, C, D]
        valid : bool Tensor [B, T], optional
            Where events are: only these are computed, and only these are in the statistics of the batch.

        Returns
        -------
        Tensor [B, C]
        """
        rows, steps, dim = history.shape
        if valid is None:
            row, place = torch.arange(rows * steps, device=history.device) // steps, None
            events, window = history.flatten(0, 1), self.window.repeat(rows)
        else:
            row, place = valid.nonzero(as_tuple=True)
            events, window = history[row, place], self.window[place]

        def spread(x: Tensor) -> Tensor:  # of events [S, ...] to [B, T, ...]
            if place is None:
                return x.view(rows, steps, -1)
            return x.new_zeros(rows, steps, x.shape[-1]).index_put((row, place), x)

        # candidate(c) + product(c * h) is one matrix product with c, whose matrix depends on the event alone.
        mixing = self.candidate.weight + self.product.weight * events[:, None]  # [S, 64, D]
        keys = torch.baddbmm(self.event(events)[:, None], candidates[row], mixing.transpose(1, 2))  # [S, C, 64]
        hidden = F.dropout(self.activation_dice(keys), self.dropout, self.training)
        first, second = cast(list[nn.Linear], list(self.activation_out))  # nothing stands between them
        weights = hidden @ (second.weight @ first.weight)[0] + second(first.bias)  # [S, C]
        # head_in reads the weighted sums of events, window by window: what it makes of an event is summed instead.
        blocks = self.head_in.weight.view(-1, len(WINDOWS) + 1, dim)
        read = F.linear(events, blocks[:, :-1].transpose(0, 1).flatten(0, 1)).view(len(events), len(WINDOWS), -1)
        read = read.gather(1, window[:, None, None].expand(-1, 1, read.shape[-1]))[:, 0]  # [S, 200]
        x = spread(weights).transpose(1, 2) @ spread(read)
        x = x + F.linear(candidates, blocks[:, -1], self.head_in.bias)
        x = F.dropout(self.head_dice(x), self.dropout, self.training)
        x = F.dropout(self.mid_dice(self.head_mid(x)), self.dropout, self.training)
        scores: Tensor = self.head_out(x)[..., 0]
        return scores

    def latest(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The last events of right-padded rows, left padded: [B, T] -> [B, max_len]."""
        steps = torch.arange(self.max_len, device=items.device)
        places = lengths[:, None] - self.max_len + steps
        return items.gather(1, places.clamp(min=0, max=items.shape[1] - 1)) * (places >= 0)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over its samples: one position a row."""
        if len(batch.items) == 0:  # batch norm needs rows
            nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
            return LossOutput(
                nothing, dict.fromkeys(("nip", "align")[: 2 if self.align_weight else 1], nothing.detach())
            )
        counts = (batch.targets > 0).sum(1)
        first = (batch.targets > 0).to(torch.int8).argmax(1)
        picked = first + draw_integers(batch.seed, 1 << 30, batch.positions) % counts.clamp(min=1)
        targets = batch.targets.gather(1, picked[:, None])[:, 0]
        latest = self.latest(batch.items, picked + 1)
        draws = torch.arange(self.negatives, device=targets.device)
        wrong = draw_integers(batch.seed + 1, self.items, batch.positions[:, None], draws) + 1
        candidates = torch.cat([targets[:, None], wrong], 1)
        scores = self.score(self.vectors(latest), self.vectors(candidates), latest > 0).float()
        hits = candidates == targets[:, None]
        hits[:, 0] = False
        scores = scores.masked_fill(hits, -torch.inf)
        nip = -F.log_softmax(scores, 1)[:, 0].sum() / batch.row_count
        parts = {"nip": nip.detach()}
        if not self.align_weight:
            return LossOutput(nip, parts)
        align = self._align(batch) * len(targets) / batch.row_count
        parts["align"] = align.detach()
        return LossOutput(nip + self.align_weight * align, parts)

    def _align(self, batch: SequenceBatch) -> Tensor:
        """Mean over the distinct target items of the whole step, of which every process weighs its share."""
        items = batch.step_targets
        if self.align_items == "all":
            items = torch.cat([items, batch.items[batch.items > 0]]).unique()
        own, text = self.item_embedding(items), self.adapted(items)
        total = info_nce(own, text, self.align_temperature)
        if self.symmetric:
            total = (total + info_nce(text, own, self.align_temperature)) / 2
        return total / len(items)

    # ------------------------------------------------------------------------------------------------ results

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """The vectors that the first stage is for, z: [N, D], or [N, 2 D] side by side."""
        training = self.training
        self.eval()
        items = torch.arange(1, self.items + 1, device=self.text.device)
        found = self.vectors(items).detach()
        if self.integrate == "beside":
            text = self.adapted(items).detach()
            found = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in (found, text)], -1)
        self.train(training)
        return found

    @torch.no_grad()
    def score_items(self, items: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Scores of some items for every history: items [B, T], lengths [B], candidates [B, C] to [B, C]."""
        device, training = self.text.device, self.training
        self.eval()
        latest, candidates = self.latest(items.to(device), lengths.to(device)), candidates.to(device)
        if torch.compiler.is_exporting():  # the number of rows is not known
            return self.score(self.vectors(latest), self.vectors(candidates)).float()
        known, numbers = torch.cat([latest.flatten(), candidates.flatten()]).unique(return_inverse=True)
        table, (own, others) = self.vectors(known), numbers.split([latest.numel(), candidates.numel()])
        own, others = own.view(latest.shape), others.view(candidates.shape)
        step = max(1, _BLOCK // max(1, self.max_len * candidates.shape[1]))
        parts = [
            self.score(table[own[part]], table[others[part]], latest[part] > 0)
            for part in (slice(lo, lo + step) for lo in range(0, len(items), step))
        ]
        self.train(training)
        return torch.cat(parts).float()

    def scorer(self) -> DINScorer:
        """Scores of all items, one forward pass an item."""
        return DINScorer(self.eval())


class DINScorer:
    """Scores of all items by a DIN, in blocks of candidates.

    Parameters
    ----------
    model : DIN
    """

    def __init__(self, model: DIN) -> None:
        self.model, self.n_items, self.max_len = model, model.items, model.max_len

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        everything = torch.arange(1, self.n_items + 1).expand(items.shape[0], -1)
        parts = [
            self.model.score_items(items, lengths, everything[:, lo : lo + 512]) for lo in range(0, self.n_items, 512)
        ]
        return torch.cat(parts, 1)
