"""Histories as slices of one array, and the batches that training reads.

Item numbers are 1..N and 0 is padding; batches are padded on the RIGHT, so position 0 is the oldest item kept. Nothing
here is a Python list per user: histories are gathered with vectorised indexing. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Histories", "SampleForm", "SequenceBatch", "SequenceBatches"]

SampleForm = Literal["all", "prefix", "cloze"]


@dataclass(frozen=True)
class Histories:
    """The item sequences of U users, as slices into one array that they share.

    Parameters
    ----------
    items : ndarray of int32 [E]
        Item numbers 1..N, the oldest first within a user.
    starts, ends : ndarray of int64 [U]
        User u owns ``items[starts[u]:ends[u]]``. Splits are other slices of the same array, so they cost no copy.
    """

    items: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_offsets(cls, items: np.ndarray, offsets: np.ndarray) -> Histories:
        """From CSR arrays: ``items`` [E] and ``offsets`` [U + 1]."""
        offsets = np.asarray(offsets, dtype=np.int64)
        return cls(np.asarray(items, dtype=np.int32), offsets[:-1].copy(), offsets[1:].copy())

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> Histories:
        """From a list of item-number lists, one a user (for a handful of users)."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
        items = np.concatenate([np.asarray(row, dtype=np.int32) for row in lists]) if lists else np.zeros(0, np.int32)
        return cls.from_offsets(items.astype(np.int32), offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Number of events a user, int64 [U]."""
        return self.ends - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, user: int) -> np.ndarray:
        return self.items[self.starts[user] : self.ends[user]]

    def take(self, rows: np.ndarray) -> Histories:
        """The histories of some users, in the order given."""
        return Histories(self.items, self.starts[rows], self.ends[rows])

    def sampled(self, share: float, seed: int) -> Histories:
        """The same users, with the histories of all but a share of them emptied: round(share * U), at least 1.

        Which users are kept depends on the seed alone, and a larger share keeps those of a smaller one.
        """
        if share >= 1:
            return self
        kept = np.random.default_rng(seed).permutation(len(self))[: max(1, round(share * len(self)))]
        ends = self.starts.copy()
        ends[kept] = self.ends[kept]
        return Histories(self.items, self.starts, ends)

    def padded(self, rows: np.ndarray | slice, max_len: int) -> tuple[np.ndarray, np.ndarray]:
        """The last ``max_len`` items of some users, padded on the right with 0 to the longest of them.

        Returns
        -------
        items : ndarray of int64 [B, T]
        lengths : ndarray of int64 [B]
        """
        ends = self.ends[rows]
        starts = np.maximum(self.starts[rows], ends - max_len)
        lengths = ends - starts
        steps = np.arange(max(1, int(lengths.max(initial=0))), dtype=np.int64)
        valid = steps[None, :] < lengths[:, None]
        index = np.where(valid, starts[:, None] + steps[None, :], 0)
        gathered = self.items[index] if len(self.items) else np.zeros(index.shape, np.int32)
        return np.where(valid, gathered, 0).astype(np.int64), lengths

    def flat(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """CSR arrays of some users (all if None): items int32 [S] and offsets int64 [B + 1]."""
        chosen = self if rows is None else self.take(rows)
        lengths = chosen.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.arange(offsets[-1], dtype=np.int64) + np.repeat(chosen.starts - offsets[:-1], lengths)
        return chosen.items[index], offsets


@dataclass(frozen=True)
class SequenceBatch:
    """One micro-batch of training samples.

    Attributes
    ----------
    items : int64 [B, T]
        Histories, right padded with 0. In CLOZE form the masked positions hold ``mask_item``.
    lengths : int64 [B]
        Valid positions of each row.
    targets : int64 [B, T]
        The item to predict at each position, 0 where there is none.
    positions : int64 [B]
        Row of each sample in the whole step (over ranks and micro-batches): the key of its random draws.
    step_lengths : int64 [row_count]
        Lengths of all rows of the step, by position: what other processes hold.
    step_targets : int64 [V]
        The distinct target items of the whole step, ascending.
    target_count, row_count : int
        Targets and samples of the whole step: what sums are divided by.
    seed : int
        Seed of this step, the same on every rank: shared negatives are drawn from it.
    users : int64 [B]
        Row of each sample's user in the training histories, for models that know users.
    """

    items: Tensor
    lengths: Tensor
    targets: Tensor
    positions: Tensor
    step_lengths: Tensor
    step_targets: Tensor
    target_count: int
    row_count: int
    seed: int
    users: Tensor

    @property
    def valid(self) -> Tensor:
        """True where a position holds an item, bool [B, T]."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The same batch on another device."""
        if self.items.device == torch.device(device):
            return self
        fields = ("items", "lengths", "targets", "positions", "step_lengths", "step_targets", "users")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in fields})


class SequenceBatches:
    """Batches of training samples in a seeded order that is the same on every process and can be resumed mid-epoch.

    An epoch's order is a function of ``seed`` and the epoch alone. A step's rows are sorted from the longest to the
    shortest, so that attention pads little. With ``pool`` above 1, samples are also sorted by length
    inside pools of so many steps before they are cut into steps, and the steps shuffled again.

    Parameters
    ----------
    histories : Histories
        Training histories.
    form : {"all", "prefix", "cloze"}, default "all"
        ``all``: one sample a user, every position a target (causal models only). ``prefix``: one sample a target, loss
        at the last position. ``cloze``: random positions are masked and predicted (bidirectional models).
    batch_size : int, default 128
        Samples of one optimizer step, over all processes and micro-batches.
    max_len : int, default 50
        Longest history; older items are cut.
    seed : int, default 0
    rank, world : int, default 0, 1
        This process and the number of processes; rows are dealt round robin, so lengths stay balanced.
    micro_batches : int, default 1
        Parts in which a step is computed one after the other (gradient accumulation). Micro-batch m of process r is
        part r + m * world of the step: rows r + m * world, and every (world * micro_batches)th after it.
    mask_item : int, default 0
        Item number that stands for a masked position in CLOZE form (usually N + 1).
    mask_prob : float, default 0.2
        Share of positions masked in CLOZE form.
    last_prob : float, default 0.0
        Share of CLOZE samples in which only the last item is masked, as at test time.
    pool : int, default 1
        Steps that are sorted by length together. Above 1 less is padded, but steps are no longer random samples, which
        cost SASRec on Beauty much of its quality at equal epochs; models that work on packed tokens do not need it.

    Raises
    ------
    ValueError
        If no history yields a sample, or an argument is out of its range.
    """

    def __init__(
        self,
        histories: Histories,
        form: SampleForm = "all",
        batch_size: int = 128,
        max_len: int = 50,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        mask_item: int = 0,
        mask_prob: float = 0.2,
        last_prob: float = 0.0,
        pool: int = 1,
    ) -> None:
        if form not in ("all", "prefix", "cloze"):
            raise ValueError(f"form must be one of all, prefix, cloze, got {form!r}")
        for name, value in (("batch_size", batch_size), ("max_len", max_len), ("micro_batches", micro_batches)):
            if value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if batch_size < world * micro_batches:
            raise ValueError(
                f"--batch-size {batch_size} is smaller than processes x micro-batches ({world} x {micro_batches})"
            )
        self.histories, self.form, self.batch_size, self.max_len = histories, form, batch_size, max_len
        self.seed, self.rank, self.world, self.micro_batches = seed, rank, world, micro_batches
        self.mask_item, self.mask_prob, self.last_prob, self.pool = mask_item, mask_prob, last_prob, max(1, pool)
        self._starts, self._ends, self._users = self._samples()
        if len(self._starts) == 0:
            raise ValueError(f"no history of the {len(histories)} users is long enough to train on (2 events)")
        self.epoch = 0
        self.step = 0

    def _samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each sample as a slice [start, end) of the item array whose last item is a target, and its user."""
        users = np.flatnonzero(self.histories.lengths >= 2)
        starts, ends = self.histories.starts[users], self.histories.ends[users]
        if self.form == "prefix":
            counts = ends - starts - 1
            first, users = np.repeat(starts, counts), np.repeat(users, counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            starts, ends = first, first + within + 2
        window = self.max_len if self.form == "cloze" else self.max_len + 1
        return np.maximum(starts, ends - window), ends, users

    @property
    def samples(self) -> int:
        """Samples of one epoch, over all processes."""
        return len(self._starts)

    def __len__(self) -> int:
        return -(-len(self._starts) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch from its first step (a no-op for the epoch already under way)."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Position of the reader: the epoch and the next step in it."""
        return {"epoch": self.epoch, "step": self.step, "samples": self.samples, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the step that :meth:`state_dict` recorded.

        Raises
        ------
        ValueError
            If the state is of other data or another batch size.
        """
        for name in ("samples", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the checkpoint was made with {name} {state[name]}, now it is {getattr(self, name)}")
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def order(self, epoch: int) -> list[np.ndarray]:
        """Sample numbers of every step of an epoch, each sorted from the longest to the shortest."""
        generator = np.random.default_rng([self.seed, epoch])
        shuffled = generator.permutation(len(self._starts))
        lengths = self._ends - self._starts
        size, steps = self.batch_size, []
        for first in range(0, len(shuffled), size * self.pool):
            chunk = shuffled[first : first + size * self.pool]
            chunk = chunk[np.argsort(-lengths[chunk], kind="stable")] if self.pool > 1 else chunk
            steps += [chunk[at : at + size] for at in range(0, len(chunk), size)]
        order = [steps[at] for at in generator.permutation(len(steps))]
        return [rows[np.argsort(-lengths[rows], kind="stable")] for rows in order]

    def __iter__(self) -> Iterator[list[SequenceBatch]]:
        order = self.order(self.epoch)
        while self.step < len(order):
            at = self.step
            self.step += 1
            yield self._batches(order[at], at)
        self.epoch, self.step = self.epoch + 1, 0

    def _batches(self, rows: np.ndarray, at: int) -> list[SequenceBatch]:
        seed = int(np.random.default_rng([self.seed, self.epoch, at, 1]).integers(2**62))
        lengths = self._ends[rows] - self._starts[rows]
        masked = self._cloze_mask(lengths, seed) if self.form == "cloze" else None
        step = Histories(self.histories.items, self._starts[rows], self._ends[rows])
        if masked is not None:
            step_targets = step.padded(slice(None), self.max_len)[0][masked]
        elif self.form == "all":
            step_targets = Histories(step.items, step.starts + 1, step.ends).flat()[0]
        else:
            step_targets = step.items[step.ends - 1]
        step_lengths = torch.from_numpy(lengths if masked is not None else lengths - 1)
        distinct = torch.from_numpy(np.unique(step_targets).astype(np.int64))
        batches = []
        # Dealt so that a part holds the same rows whether processes or micro-batches divide the step.
        parts = self.world * self.micro_batches
        for mine in (np.arange(first, len(rows), parts) for first in range(self.rank, parts, self.world)):
            whole, length = step.padded(mine, self.max_len + 1)
            if masked is not None:
                hidden = masked[mine][:, : whole.shape[1]]
                targets = np.where(hidden, whole, 0)
                items = np.where(hidden, self.mask_item, whole)
            else:
                last = np.arange(len(mine)), length - 1
                items, targets, length = whole[:, :-1].copy(), whole[:, 1:].copy(), length - 1
                if self.form == "prefix":
                    final = whole[last]
                    targets[:] = 0
                    targets[last[0], last[1] - 1] = final
                items[np.arange(items.shape[1]) >= length[:, None]] = 0
            batches.append(
                SequenceBatch(
                    torch.from_numpy(items),
                    torch.from_numpy(length.astype(np.int64)),
                    torch.from_numpy(targets),
                    torch.from_numpy(mine.astype(np.int64)),
                    step_lengths,
                    distinct,
                    len(step_targets),
                    len(rows),
                    seed,
                    torch.from_numpy(self._users[rows[mine]].astype(np.int64)),
                )
            )
        return batches

    def _cloze_mask(self, lengths: np.ndarray, seed: int) -> np.ndarray:
        """Positions to hide, bool [rows, T]: at least one a row; in a share of the rows only the last."""
        generator = np.random.default_rng(seed)
        steps = np.arange(int(lengths.max()))
        valid = steps < lengths[:, None]
        draws = generator.random((len(lengths), len(steps)))
        hidden = (draws < self.mask_prob) & valid
        lowest = np.where(valid, draws, 2.0).argmin(1)
        none = ~hidden.any(1)
        hidden[none, lowest[none]] = True
        only_last = generator.random(len(lengths)) < self.last_prob
        hidden[only_last] = steps == lengths[only_last, None] - 1
        return hidden
