"""The deployed form of CCFRec: its fusion replaced by tables, with or without item ids that are trained on top."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Depth,
    Dropout,
    Heads,
    Large,
    Length,
    Temperature,
    Width,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import Network
from recbase.nn.losses import linear_cross_entropy
from recbase.nn.transformer import Encoder, Packing
from recbase.train.loop import LossOutput

__all__ = ["Backbone", "CCFRecScorer", "TabulatedCCFRec"]


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

    Liu et al., KDD 2025, sections 3 and 4.4.5. Only the id embedding, if there is one, is trained; it starts at zero,
    so that step 0 scores exactly as the base model does.

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
        Whether there is an id embedding.
    id_in_candidates : bool, default True
        Add it to the candidates too.
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
    ) -> None:
        super().__init__(locals())
        self.scale = 1 / temperature
        self.id_in_candidates = id_in_candidates
        self.inputs: Tensor
        self.candidates: Tensor
        self.register_buffer("inputs", torch.zeros(items + 1, dim))
        self.register_buffer("candidates", torch.zeros(items + 1, dim))
        self.backbone = Backbone(dim, layers, heads, ffn, dropout, max_len).requires_grad_(False)
        self.id_embedding = nn.Embedding(items + 1, dim, padding_idx=0) if item_ids else None
        if self.id_embedding is not None:
            nn.init.zeros_(self.id_embedding.weight)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Input table [N + 1, D] and candidate table [N, D], the latter of unit length."""
        inputs, candidates = self.inputs, self.candidates[1:]
        if self.id_embedding is not None:
            inputs = inputs + self.id_embedding.weight
            if self.id_in_candidates:
                candidates = candidates + self.id_embedding.weight[1:]
        return inputs, F.normalize(candidates, dim=1)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the next-item loss of the step, over all items."""
        inputs, table = self._tables()
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states, targets = self.backbone(inputs[packing.pack(batch.items)], packing), packing.pack(batch.targets)
        chosen = targets.nonzero()[:, 0]
        users = F.normalize(states[chosen].float(), dim=1)
        loss = linear_cross_entropy(users, table, targets[chosen] - 1, self.scale) / batch.target_count
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
