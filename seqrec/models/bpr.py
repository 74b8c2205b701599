"""BPR-MF: matrix factorisation with a pairwise loss. Order-blind: it knows who had what, not when."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Deviation, Large, Length, Width
from recbase.data.sequences import SequenceBatch
from recbase.nn.draws import draw_integers
from recbase.train.loop import LossOutput
from seqrec.sequential import SequentialModel

__all__ = ["RECIPES", "BPRMF"]

RECIPES = {
    "default": {"epochs": 200, "batch_size": 256, "lr": 2e-3, "weight_decay": 2.0, "patience": 10, "validate_every": 2},
    "paper": {"negatives": 1, "weight_decay": 1e-4, "optimizer": "adam"},
    "recbole": {"dim": 64, "negatives": 1, "init_std": 0.1, "lr": 1e-3, "optimizer": "adam"},
}


class BPRMF(SequentialModel):
    """Bayesian personalised ranking of a matrix factorisation (Rendle et al., UAI 2009, arXiv 1205.2618).

    The score is the dot product of a user's and an item's vector; every event of the training part is ranked above
    ``negatives`` uniform items that the user did not have. The paper draws triples with replacement and trains by plain
    SGD; here a pass over the users visits every event once, and the optimizer is AdamW. Regularisation is the option
    ``--weight-decay``, and much of it is needed. A user who was not trained on is folded in (ours): one Newton step on
    the same loss, every item of the history against the average item, with the mean and covariance of the trained
    users' vectors as the prior.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    users : int
        Users, U.
    dim : int, default 64
        Width of the vectors.
    negatives : int, default 1
        Uniform negatives an event.
    max_len : int, default 200
        Latest events of a user that are trained on, and that fold a stranger in.
    loss : {"bpr"}, default "bpr"
        Pairwise ranking.
    init_std : float, default 0.02
        Standard deviation of the initial vectors.
    """

    reads_users = True

    def __init__(
        self,
        items: Large,
        users: Large,
        dim: Width = 64,
        negatives: Count = 1,
        max_len: Length = 200,
        loss: Literal["bpr"] = "bpr",
        init_std: Deviation = 0.02,
    ) -> None:
        super().__init__(locals())
        self.negatives, self.loss = negatives, loss
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
        table, everyone = self.item_embedding.weight[1:].float(), self.user_embedding.weight.float()
        usual, prior = everyone.mean(0), everyone - everyone.mean(0)
        eye = torch.eye(table.shape[1], device=table.device)
        precision = torch.linalg.inv(prior.T @ prior / len(prior) + 1e-4 * eye)
        average, spread = table.mean(0), table - table.mean(0)
        valid = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        apart = (table[(items - 1).clamp_min(0)] - average) * valid[:, :, None]  # [B, T, D]
        events = lengths[:, None, None] * (spread.T @ spread / len(spread))
        curvature = precision + (apart.transpose(1, 2) @ apart + events) / 4
        step = torch.linalg.solve(curvature, apart.sum(1)[:, :, None] / 2)[:, :, 0]
        return usual + step
