"""HSTU: gated pointwise attention without a softmax."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Heads, Large, Length, Temperature, Width
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec.sequential import SequentialModel

__all__ = ["HSTU", "RECIPES", "HSTUBlock"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": {
        "dim": 64,
        "layers": 4,
        "heads": 4,
        "dropout": 0.5,
        "loss": "sampled",
        "negatives": 512,
        "temperature": 0.05,
        "max_len": 50,
        "batch_size": 128,
        "lr": 1e-3,
        "beta2": 0.98,
    },
    "paper-large": {
        "dim": 64,
        "layers": 16,
        "heads": 8,
        "dropout": 0.5,
        "loss": "sampled",
        "negatives": 512,
        "temperature": 0.05,
        "max_len": 50,
        "batch_size": 128,
        "lr": 1e-3,
        "beta2": 0.98,
    },
}


class HSTUBlock(nn.Module):
    """x + Linear(U * LN(A V)) with [U, V, Q, K] = SiLU(Linear(LN x)) and A = SiLU(Q K^T + relative bias) / n, causal.

    Parameters
    ----------
    dim, heads : int
        ``heads`` must divide ``dim``; queries, keys and values of a head have dim / heads entries.
    max_len : int
        n, and the longest distance that has a bias.
    dropout : float
    """

    def __init__(self, dim: int, heads: int, max_len: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"--dim {dim} must be a multiple of --heads, got {heads}")
        self.heads, self.max_len, self.dropout = heads, max_len, dropout
        self.norm, self.out_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.projections = nn.Linear(dim, 4 * dim)
        self.relative_bias = nn.Parameter(torch.zeros(max_len))  # by distance to the key
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Packed [S, D] -> [S, D]."""
        gates, rest = F.silu(self.projections(self.norm(x))).split([x.shape[1], 3 * x.shape[1]], 1)
        parts = [group.pack(self._attend(group.unpack(rest[tokens]))) for tokens, group in packing.groups]
        attended = self.out_norm(torch.cat(parts) if len(parts) > 1 else parts[0])
        mixed: Tensor = x + self.out(F.dropout(gates * attended, self.dropout, self.training))
        return mixed

    def _attend(self, values_queries_keys: Tensor) -> Tensor:
        """[B, T, 3 D] -> [B, T, D]; right padding is never seen by a real query."""
        v, q, k = values_queries_keys.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, h, T, d]
        steps = torch.arange(q.shape[2], device=q.device)
        distance = steps[:, None] - steps[None, :]
        scores = q @ k.transpose(-1, -2) + self.relative_bias[distance.clamp_min(0)]
        weights = F.silu(scores).masked_fill(distance < 0, 0.0) / self.max_len
        return (weights @ v).transpose(1, 2).flatten(2)


class HSTU(SequentialModel):
    """Hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152), pure item ids.

    States and item vectors have length 1, logits are cosines divided by ``temperature``. The relative bias is one of
    positions: times of events are not read (the paper adds one of time differences), so the docstring of a result
    should say "HSTU without time". Default loss: full softmax; recipe ``paper`` has 512 sampled negatives.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    dropout : float, default 0.5
        On the embeddings (0.2 there in the released code) and inside the blocks.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled"}, default "ce"
        Softmax over all items, or over shared uniform negatives.
    negatives : int, default 512
        Negatives a step of the sampled softmax.
    temperature : float, default 0.05
        Divides the cosines.
    """

    def __init__(
        self,
        items: Large,
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        dropout: Dropout = 0.5,
        max_len: Length = 50,
        loss: Literal["ce", "sampled"] = "ce",
        negatives: Count = 512,
        temperature: Temperature = 0.05,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.loss, self.negatives, self.scale = dropout, loss, negatives, 1 / temperature
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.blocks = nn.ModuleList(HSTUBlock(dim, heads, max_len, dropout) for _ in range(layers))
        initialise(self)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """Unit-length states of all real tokens: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items))
        x = tokens * tokens.shape[1] ** 0.5 + self.position_embedding(packing.steps)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, packing)
        return F.normalize(x.float(), dim=1)

    def candidates(self) -> Tensor:
        """Unit-length item vectors, [N, D]."""
        return F.normalize(self.item_embedding.weight[1:].float(), dim=1)
