"""SASRec: a causal Transformer over item embeddings, scored against the same table.

One model with the losses it is trained with in the literature, because the loss decides most disputed comparisons.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.draws import draw_integers
from recbase.losses import binary_cross_entropy, gbce_exponent, linear_cross_entropy, sampled_cross_entropy
from recbase.sequences import SequenceBatch
from recbase.training import LossOutput
from recbase.transformer import Encoder, Packing

__all__ = ["RECIPES", "SASRec", "TableScorer"]

_ORIGINAL = {
    "dim": 50,
    "layers": 2,
    "heads": 1,
    "ffn": 50,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "norm": "pre-query",
    "activation": "relu",
    "scale_embedding": True,
    "loss": "bce",
    "negatives": 1,
    "max_len": 50,
    "form": "all",
    "batch_size": 128,
    "lr": 1e-3,
    "beta2": 0.98,
}

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": _ORIGINAL,
    "original": _ORIGINAL,
    "recbole": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "norm": "post",
        "activation": "gelu",
        "embedding_norm": True,
        "loss": "ce",
        "max_len": 50,
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
    },
}


class SASRec(nn.Module):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

    The default departs from the paper where later work found it weak: full softmax over all items at every position
    instead of binary cross-entropy with one negative, post-LN blocks with GELU (as in RecBole), no attention dropout.
    Recipes: ``paper`` (= ``original``) is the paper's setting, ``recbole`` RecBole 1.2's.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    norm : {"post", "pre", "pre-query"}, default "post"
        Placement of layer norms; pre-query is the original's.
    activation : {"gelu", "relu"}, default "gelu"
        Of the feed-forward layers.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "gbce", "sampled"}, default "ce"
        Full softmax; binary cross-entropy; gBCE; softmax over shared uniform negatives.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    calibration : float, default 0.75
        t of gBCE, between 0 (BCE) and 1.
    temperature : float, default 1.0
        Divides the logits of ce and sampled.
    scale_embedding : bool, default False
        Multiply item embeddings by sqrt(dim) before positions are added.
    embedding_norm : bool, default True
        Layer norm on the sum of item and position embeddings.
    init_std : float, default 0.02
        Standard deviation of the initial weights.
    """

    def __init__(
        self,
        items: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        ffn: int = 256,
        dropout: float = 0.5,
        attention_dropout: float = 0.0,
        norm: Literal["post", "pre", "pre-query"] = "post",
        activation: Literal["gelu", "relu"] = "gelu",
        max_len: int = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: int = 256,
        calibration: float = 0.75,
        temperature: float = 1.0,
        scale_embedding: bool = False,
        embedding_norm: bool = True,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self._config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name in ("items", "dim", "layers", "heads", "ffn", "max_len", "negatives"):
            if self._config[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {self._config[name]}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= self._config[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must lie in [0, 1), got {self._config[name]}")
        if loss not in ("ce", "bce", "gbce", "sampled"):
            raise ValueError(f"--loss must be one of ce, bce, gbce, sampled, got {loss!r}")
        if temperature <= 0:
            raise ValueError(f"--temperature must be above 0, got {temperature}")
        if not 0 <= calibration <= 1:
            raise ValueError(f"--calibration must lie in [0, 1], got {calibration}")
        self.items, self.dim, self.max_len, self.loss = items, dim, max_len, loss
        self.negatives, self.scale, self.dropout = negatives, 1 / temperature, dropout
        self.embedding_scale = dim**0.5 if scale_embedding else 1.0
        self.exponent = gbce_exponent(negatives, items, calibration) if loss == "gbce" else 1.0
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12) if embedding_norm else nn.Identity()
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout, norm, activation)
        self._initialise(init_std)

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0

    def config(self) -> dict[str, Any]:
        """Constructor arguments; ``SASRec(**config)`` rebuilds the model."""
        return dict(self._config)

    def states(self, items: Tensor, packing: Packing) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        tokens = self.item_embedding(packing.pack(items)) * self.embedding_scale
        x = self.embedding_norm(tokens + self.position_embedding(packing.steps))
        encoded: Tensor = self.encoder(F.dropout(x, self.dropout, self.training), packing)
        return encoded

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        packing = Packing.of(batch.lengths, batch.items.shape[1])
        states, targets = self.states(batch.items, packing), packing.pack(batch.targets)
        if len(targets) != batch.target_count:  # PREFIX form: one target a row
            chosen = targets.nonzero()[:, 0]
            states, targets = states[chosen], targets[chosen]
        loss = self._loss(states, targets, batch) / batch.target_count
        return LossOutput(loss, {self.loss: loss.detach()})

    def _loss(self, states: Tensor, targets: Tensor, batch: SequenceBatch) -> Tensor:
        table, rights = self.item_embedding.weight[1:], targets - 1
        if self.loss == "ce":
            return linear_cross_entropy(states, table, rights, self.scale)
        if self.loss == "sampled":
            draws = torch.arange(self.negatives, device=states.device)
            shared = draw_integers(batch.seed, self.items, draws)
            return sampled_cross_entropy(states, table, rights, shared, self.scale)
        rows, steps = (batch.targets > 0).nonzero(as_tuple=True)
        draws = torch.arange(self.negatives, device=states.device)
        keys = batch.positions[rows][:, None], steps[:, None], draws[None, :]
        wrongs = draw_integers(batch.seed, self.items, *keys)
        return binary_cross_entropy(states, table, rights, wrongs, self.exponent)

    def scorer(self) -> TableScorer:
        """Scores of all items from the last state of a history."""
        return TableScorer(self, self.item_vectors())

    def item_vectors(self) -> Tensor:
        """The item table without the padding row, [N, D]."""
        return self.item_embedding.weight.detach()[1:]

    def user_vectors(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Last states: items [B, T] -> [B, D]. Their dot product with :meth:`item_vectors` is the score."""
        packing = Packing.of(lengths, items.shape[1])
        return self.states(items, packing)[packing.last]


class TableScorer:
    """Scores of a model whose score is a dot product of a user vector and an item vector.

    Parameters
    ----------
    model : module
        Has ``user_vectors(items, lengths)`` and ``max_len``.
    table : Tensor [N, D]
        Item vectors, computed once.
    """

    def __init__(self, model: Any, table: Tensor) -> None:
        self.model, self.table = model.eval(), table.T.contiguous()
        self.n_items, self.max_len = table.shape[0], model.max_len

    @torch.no_grad()
    def __call__(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T] -> float32 [B, N]."""
        device = self.table.device
        users = self.model.user_vectors(items.to(device), lengths.to(device))
        return users.float() @ self.table.float()
