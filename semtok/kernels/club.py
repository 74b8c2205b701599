"""CLUB: an upper bound of the mutual information of two vectors, learned from samples.

A Gaussian q(s|z) with its own optimizer is fitted to detached samples; the bound, with q held still, has a gradient
for whatever made the samples. Knows nothing of items, modalities or codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CLUB"]


class CLUB(nn.Module):
    """Contrastive log-ratio upper bound of I(z; s) (Cheng et al., ICML 2020, arXiv 2006.12013).

    The bound is E_n[log q(s_n | z_n)] - E_n E_n'[log q(s_n' | z_n)] with a diagonal Gaussian q whose mean and log
    variance are networks of z with one hidden layer; the log variance ends in tanh, as in the authors' code, so the
    variance of each column lies in [1/e, e]. It bounds the mutual information from above as far as q fits.

    The parameters of q never require a gradient outside :meth:`improve`: an optimizer of the parameters of a model
    that holds this module does not get them, and no loss moves them. The moments of q's own optimizer are not part of
    the module's state, so they start anew where only the state is restored.

    Parameters
    ----------
    condition_dim : int
        Width of z.
    dim : int
        Width of s.
    hidden : int, optional
        Width of the hidden layers; half of ``dim`` if not given.
    lr : float, default 0.001
        Learning rate of q's own optimizer, Adam.
    steps : int, default 5
        Steps that :meth:`improve` makes.

    Raises
    ------
    ValueError
        If a width or the number of steps is below 1, or ``lr`` is not above 0.
    """

    def __init__(
        self, condition_dim: int, dim: int, hidden: int | None = None, lr: float = 1e-3, steps: int = 5
    ) -> None:
        super().__init__()
        hidden = max(1, dim // 2) if hidden is None else hidden
        for name, value in (("condition_dim", condition_dim), ("dim", dim), ("hidden", hidden), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name}={value} of the mutual-information bound must be at least 1")
        if not lr > 0:
            raise ValueError(f"lr={lr} of the mutual-information bound must be above 0")
        self.steps = steps
        self.mean = nn.Sequential(nn.Linear(condition_dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.log_variance = nn.Sequential(
            nn.Linear(condition_dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.Tanh()
        )
        self._optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)
        self.requires_grad_(False)

    def log_likelihood(self, z: Tensor, s: Tensor) -> Tensor:
        """Mean of log q(s_n | z_n) over the rows, without the constant of the Gaussian.

        Parameters
        ----------
        z : Tensor [N, Dz]
        s : Tensor [N, D]
        """
        mean, log_variance = self._gaussian(z)
        return -0.5 * ((s.float() - mean).square() * (-log_variance).exp() + log_variance).sum(1).mean()

    def improve(self, z: Tensor, s: Tensor) -> Tensor:
        """Raise the likelihood of q by some steps of its own optimizer; the inputs get no gradient.

        Parameters
        ----------
        z : Tensor [N, Dz]
        s : Tensor [N, D]

        Returns
        -------
        Tensor []
            :meth:`log_likelihood` before the last step, detached; NaN without rows, which change nothing.
        """
        z, s = z.detach().float(), s.detach().float()
        reached = torch.full((), torch.nan, device=z.device)
        if len(z):
            self.requires_grad_(True)
            with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
                for _ in range(self.steps):
                    reached = self.log_likelihood(z, s)
                    self._optimizer.zero_grad()
                    (-reached).backward()
                    self._optimizer.step()
            self._optimizer.zero_grad()
            self.requires_grad_(False)
        return reached.detach()

    def forward(self, z: Tensor, s: Tensor, sampled: bool = False) -> Tensor:
        """The bound, in nats, with gradient to ``z`` and ``s`` alone.

        Parameters
        ----------
        z : Tensor [N, Dz]
        s : Tensor [N, D]
        sampled : bool, default False
            Compare each row with one other row, drawn by a random permutation, instead of with all rows. The full
            mean over all pairs costs no more: the square is expanded, so that means and variances of the columns of s
            stand for the N x N pairs.

        Returns
        -------
        Tensor []
            float32; 0 without rows. May be negative: it is an estimate.
        """
        if len(z) == 0:
            return z.sum().float() + s.sum().float()
        with torch.autocast(z.device.type, enabled=False):
            s = s.float()
            mean, log_variance = self._gaussian(z)
            precision = (-log_variance).exp()
            own = (s - mean).square()  # [N, D]
            if sampled:
                others = (s[torch.randperm(len(s), device=s.device)] - mean).square()
            else:
                centre = s.mean(0)
                others = (s - centre).square().mean(0) + (centre - mean).square()
            return 0.5 * ((others - own) * precision).sum(1).mean()  # the log variances cancel

    def _gaussian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q for each row of ``z``, [N, D] each."""
        z = z.float()
        return self.mean(z), self.log_variance(z)
