"""The deployed form of CCFRec: its fusion replaced by tables, with or without item ids that are trained on top."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Depth,
    Dropout,
    Heads,
    Large,
    Length,
    Range,
    Temperature,
    Width,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import Network
from recbase.nn.draws import draw_uniform
from recbase.nn.losses import linear_cross_entropy, sampled_cross_entropy
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput

__all__ = ["Backbone", "CCFRecScorer", "Negatives", "NextItem", "TabulatedCCFRec"]

Negatives = Annotated[int, Range(-1, 1_000_000)]

_FULL_SOFTMAX_LIMIT = {"cpu": 5_000, "cuda": 30_000}
_SAMPLED_NEGATIVES = {"cpu": 1_024, "cuda": 8_192}


@dataclass(frozen=True)
class NextItem:
    """Next-item loss L_CE of CCFRec (equation 5): a softmax of cosines over all items or over sampled ones.

    Attributes
    ----------
    items : int
        Items in the catalogue, N.
    scale : float
        What cosines are multiplied by, one over the temperature.
    negatives : int
        Uniform negatives a step; 0 = all items, -1 = all up to 5,000 (GPU 30,000), above that 1,024 (GPU 8,192).
    in_batch : bool
        Whether the targets of the step are negatives of each other.
    correct : bool
        Whether each sampled negative stands for as many items as were not sampled for it.
    """

    items: int
    scale: float
    negatives: int
    in_batch: bool
    correct: bool

    def draw(self, batch: SequenceBatch, device: torch.device) -> Tensor | None:
        """Negative items of the step, none of them one of its targets; None = all items."""
        count = self.negatives
        if count < 0:
            kind = "cuda" if device.type == "cuda" else "cpu"
            count = 0 if self.items <= _FULL_SOFTMAX_LIMIT[kind] else _SAMPLED_NEGATIVES[kind]
        if count == 0:
            return None
        allowed = torch.ones(self.items + 1, dtype=torch.bool, device=device)
        allowed[0] = False
        allowed[batch.step_targets] = False
        keys = draw_uniform(batch.seed, torch.arange(self.items + 1, device=device)).masked_fill(~allowed, 2.0)
        return keys.topk(min(count, int(allowed.sum())), largest=False).indices

    def __call__(
        self,
        states: Tensor,
        targets: Tensor,
        representations: Tensor,
        negatives: Tensor | None,
        distinct: Tensor,
        batch: SequenceBatch,
    ) -> Tensor:
        """This batch's share of the step's mean loss.

        Parameters
        ----------
        states : float [S, D]
            Of all positions.
        targets : int64 [S]
            0 where a position has none.
        representations : float [M, D]
            Candidate vectors of the items in ``distinct``.
        negatives : int64 [K] or None
            From `draw`.
        distinct : int64 [M]
            Items, ascending; all of them where ``negatives`` is None.
        batch : SequenceBatch
        """
        if len(batch.items) != batch.row_count or len(targets) != batch.target_count:  # not a target at every position
            chosen = targets.nonzero()[:, 0]
            states, targets = states[chosen], targets[chosen]
        users = F.normalize(states.float(), dim=1)
        table = F.normalize(representations.float(), dim=1)
        if negatives is None:
            total = linear_cross_entropy(users, table, targets - 1, self.scale)
        elif self.in_batch:
            rows = torch.cat([negatives, batch.step_targets]).sort().values
            own = table[torch.searchsorted(distinct, rows)]
            if self.correct:
                users, own = self._weighed(users, own, torch.isin(rows, negatives))
            total = linear_cross_entropy(users, own, torch.searchsorted(rows, targets), self.scale)
        else:
            rights, wrongs = (torch.searchsorted(distinct, items) for items in (targets, negatives))
            total = sampled_cross_entropy(users, table, rights, wrongs, self.scale)
        return total / batch.target_count

    def _weighed(self, users: Tensor, table: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Users and candidates whose logits have log(items / sampled) added for each sampled candidate.

        Negatives are drawn from all items that are no target of the step, so each of k stands for (N - targets) / k.
        The logarithm rides along as one more column, which the blocked loss need not know of.
        """
        count = int(sampled.sum())
        each = math.log(max(1, self.items - (len(sampled) - count)) / max(1, count))
        weight = sampled.to(table.dtype)[:, None] * (each / self.scale)
        return torch.cat([users, torch.ones_like(users[:, :1])], 1), torch.cat([table, weight], 1)


class Backbone(nn.Module):
    """Positions counted from the oldest item, LN, dropout, causal post-LN blocks."""

    def __init__(self, dim: int, layers: int, heads: int, ffn: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.positions = nn.Embedding(max_len, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, dropout)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Packed item representations [S, D] -> states [S, D]."""
        x = F.dropout(self.norm(x + self.positions(packing.steps)), self.dropout, self.training)
        states: Tensor = self.encoder(x, packing)
        return states


class TabulatedCCFRec(Network):
    """CCFRec with its fusion module replaced by tables: the deployed form, and the item-id fine-tuning stage.

    Liu et al., KDD 2025, section 4.4.5. Only the id embeddings, if there are any, are trained; they start at zero (the
    paper does not say), so that step 0 scores exactly as the base model does. In the paper ids are added to what the
    recommender reads, and to nothing else: ``id_in_candidates=False``.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim, layers, heads, ffn : int, default 128, 2, 2, 512
        Of the backbone.
    dropout : float, default 0.4
        Of the backbone, while the id embedding is trained.
    max_len : int, default 20
        Longest history, in items.
    temperature : float, default 0.07
        Divides the cosines.
    item_ids : bool, default True
        Whether there is an id embedding, which is added to the inputs.
    id_in_candidates : bool, default True
        Add ids to the candidates too (the paper: no).
    id_tables : {"one", "two"}, default "one"
        Where candidates have ids: one table for both, or a table for inputs and one for candidates.
    negatives, in_batch_negatives, correct_sampling : int, bool, bool, default 0, True, False
        Of the loss, as in `seqrec.models.ccfrec.CCFRec`; 0 negatives are a softmax over all items.
    """

    def __init__(
        self,
        items: Large,
        dim: Width = 128,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 512,
        dropout: Dropout = 0.4,
        max_len: Length = 20,
        temperature: Temperature = 0.07,
        item_ids: bool = True,
        id_in_candidates: bool = True,
        id_tables: Literal["one", "two"] = "one",
        negatives: Negatives = 0,
        in_batch_negatives: bool = True,
        correct_sampling: bool = False,
    ) -> None:
        super().__init__(locals())
        self.next_item = NextItem(items, 1 / temperature, negatives, in_batch_negatives, correct_sampling)
        self.id_in_candidates = id_in_candidates
        self.inputs: Tensor
        self.candidates: Tensor
        self.register_buffer("inputs", torch.zeros(items + 1, dim))
        self.register_buffer("candidates", torch.zeros(items + 1, dim))
        self.backbone = Backbone(dim, layers, heads, ffn, dropout, max_len).requires_grad_(False)
        self.id_embedding = nn.Embedding(items + 1, dim, padding_idx=0) if item_ids else None
        apart = item_ids and id_in_candidates and id_tables == "two"
        self.candidate_ids = nn.Embedding(items + 1, dim, padding_idx=0) if apart else None
        for table in (self.id_embedding, self.candidate_ids):
            if table is not None:
                nn.init.zeros_(table.weight)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Input table [N + 1, D] and candidate table [N, D], the latter of unit length."""
        inputs, candidates = self.inputs, self.candidates[1:]
        if self.id_embedding is not None:
            inputs = inputs + self.id_embedding.weight
            if self.id_in_candidates:
                own = self.id_embedding if self.candidate_ids is None else self.candidate_ids
                candidates = candidates + own.weight[1:]
        return inputs, F.normalize(candidates, dim=1)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss of the step."""
        inputs, table = self._tables()
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states, targets = self.backbone(inputs[packing.pack(batch.items)], packing), packing.pack(batch.targets)
        everything = torch.arange(1, self.items + 1, device=table.device)
        negatives = self.next_item.draw(batch, table.device)
        loss = self.next_item(states, targets, table, negatives, everything, batch)
        return LossOutput(loss, {"ce": loss.detach()})

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Unit-length candidate vectors, [N, D]."""
        return self._tables()[1]

    def user_vectors(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Unit-length last states: items [B, T] -> [B, D]. Their dot product with :meth:`item_vectors` is the score."""
        packing = Packing.of(lengths, items.shape[1])
        states = self.backbone(self._tables()[0][packing.pack(items)], packing)[packing.last]
        return F.normalize(states.float(), dim=1)

    @torch.no_grad()
    def scorer(self) -> CCFRecScorer:
        """Cosine scores from the tables."""
        inputs, candidates = self._tables()
        return CCFRecScorer(self.backbone, inputs[1:], candidates, self.max_len)


class CCFRecScorer:
    """Cosine of the user's state with every candidate vector.

    Parameters
    ----------
    backbone : Backbone
    inputs : Tensor [N, D]
        What the sequence reads.
    candidates : Tensor [N, D]
        Unit-length candidate vectors.
    max_len : int
    """

    def __init__(self, backbone: Backbone, inputs: Tensor, candidates: Tensor, max_len: int) -> None:
        self.backbone, self.inputs, self.table = backbone.eval(), inputs, candidates.T.contiguous()
        self.n_items, self.max_len = len(inputs), max_len

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        items, lengths = items.to(self.inputs.device), lengths.to(self.inputs.device)
        packing = Packing.of(lengths, items.shape[1])
        states = self.backbone(self.inputs[packing.pack(items) - 1], packing)[packing.last]
        return F.normalize(states.float(), dim=1) @ self.table
