"""BPR-MF: matrix factorisation with a pairwise loss. Order-blind: it knows who had what, not when."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.draws import draw_integers
from recbase.sequences import SequenceBatch
from recbase.training import LossOutput
from recbase.transformer import Packing
from seqrec.model import SequentialModel, check_arguments

__all__ = ["RECIPES", "BPRMF"]

RECIPES = {
    "default": {"epochs": 200, "batch_size": 256, "lr": 2e-3, "patience": 10, "validate_every": 2},
    "paper": {"negatives": 1, "weight_decay": 1e-4, "optimizer": "adam"},
    "recbole": {"dim": 64, "negatives": 1, "lr": 1e-3, "optimizer": "adam"},
}


class BPRMF(SequentialModel):
    """Bayesian personalised ranking of a matrix factorisation (Rendle et al., UAI 2009, arXiv 1205.2618).

    The score is the dot product of a user's and an item's vector; every event of the training part is ranked above
    ``negatives`` uniform items that the user did not have. The paper draws triples with replacement and trains by plain
    SGD; here a pass over the users visits every event once, and the optimizer is Adam. Regularisation is the option
    ``--weight-decay``. A user who was not trained on is folded in: the vector with which the history's items score
    nearest to 1 and all others near 0, by ridge regression (Hu et al., ICDM 2008).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    users : int
        Users, U.
    dim : int, default 64
        Width of the vectors.
    negatives : int, default 4
        Uniform negatives an event.
    max_len : int, default 200
        Latest events of a user that are trained on, and that fold a stranger in.
    loss : {"bpr"}, default "bpr"
        Pairwise ranking.
    ridge : float, default 0.1
        Weight of the ridge, and of the items that a stranger did not have.
    init_std : float, default 0.1
        Standard deviation of the initial vectors.
    """

    reads_users = True

    def __init__(
        self,
        items: int,
        users: int,
        dim: int = 64,
        negatives: int = 4,
        max_len: int = 200,
        loss: Literal["bpr"] = "bpr",
        ridge: float = 0.1,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(locals())
        check_arguments(
            self._config,
            counts=("users", "dim", "negatives"),
            temperatures=("ridge", "init_std"),
            choices={"loss": ("bpr",)},
        )
        self.negatives, self.loss, self.ridge = negatives, loss, ridge
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user_embedding = nn.Embedding(users, dim)
        nn.init.normal_(self.user_embedding.weight, std=init_std)
        nn.init.normal_(self.item_embedding.weight, std=init_std)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean over all events of the step; the last event of a user is the last target."""
        rows = torch.arange(len(batch.items), device=batch.items.device)
        events = F.pad(batch.items, (0, 1))
        events[rows, batch.lengths] = batch.targets[rows, batch.lengths - 1]
        row, step = events.nonzero(as_tuple=True)
        draws = torch.arange(self.negatives, device=row.device)
        wrongs = 1 + draw_integers(
            batch.seed, self.items, batch.positions[row][:, None], step[:, None], draws[None, :]
        )  # [S, M]
        owned = (wrongs[:, :, None] == events[row][:, None, :]).any(2)
        users = self.user_embedding(batch.users)[row]
        right = (users * self.item_embedding(events[row, step])).sum(1, keepdim=True)
        wrong = torch.einsum("sd,smd->sm", users, self.item_embedding(wrongs))
        losses = F.softplus((wrong - right).float()).masked_fill(owned, 0.0)
        count = int(batch.step_lengths.sum()) + batch.row_count
        loss = losses.sum() / (self.negatives * count)
        return LossOutput(loss, {"bpr": loss.detach()})

    def user_vectors(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Vectors of known users, or of strangers by their histories: items [B, T] -> [B, D]."""
        if users is not None:
            known: Tensor = self.user_embedding(users)
            return known
        table = self.item_embedding.weight
        width = table.shape[1]
        everything = table[1:].T @ table[1:] * self.ridge
        eye = torch.eye(width, device=table.device) * self.ridge * everything.diagonal().mean().clamp_min(1e-6)
        packing = Packing.of(lengths, items.shape[1])
        had = table[items] * (packing.unpack(torch.ones_like(packing.steps)) > 0)[:, :, None]  # [B, T, D]
        square = had.transpose(1, 2) @ had + everything + eye
        return torch.linalg.solve(square.float(), had.sum(1).float()[:, :, None])[:, :, 0]
