"""Batches of items with the histories that end in them, for the training of behaviour-bound codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from recbase.data.sequences import Histories, SequenceBatches

__all__ = ["ItemBatch", "ItemBatches"]


@dataclass(frozen=True)
class ItemBatch:
    """The share of one process of an optimizer step: some histories, and some of the items that the step is about.

    Attributes
    ----------
    rows : int64 [M]
        The items needed here, as rows of the item vectors, ascending.
    owned : bool [M]
        Which of them this process answers for in the losses that are about items; each item of the step is owned once.
    items : int64 [B, T]
        Histories, right padded, as places in ``rows``.
    lengths : int64 [B]
    targets : int64 [B]
        The next items, as places in ``rows``.
    step_targets : int64 [R]
        The next items of the whole step, as rows of the item vectors, in the order in which processes are gathered.
    item_count, row_count : int
        Items and histories of the whole step: what sums are divided by.
    present : dict of str to int
        Of its items, how many have something in each modality.
    """

    rows: Tensor
    owned: Tensor
    items: Tensor
    lengths: Tensor
    targets: Tensor
    step_targets: Tensor
    item_count: int
    row_count: int
    present: dict[str, int]

    def to(self, device: torch.device | str) -> ItemBatch:
        """The same batch on another device."""
        fields = ("rows", "owned", "items", "lengths", "targets", "step_targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in fields})


class ItemBatches:
    """Prefix sequences in seeded order, each step with the distinct items of its sequences (targets included).

    Parameters
    ----------
    histories : Histories
        Training histories; every event but the first is the target of one sample.
    present : dict of str to bool array [N]
        Which items have something in each modality.
    batch_size : int, default 256
        Sequences of an optimizer step, over all processes.
    max_len : int, default 20
        Longest history; older items are cut.
    seed : int, default 0
    rank, world : int, default 0, 1
        This process and the number of processes.
    """

    def __init__(
        self,
        histories: Histories,
        present: Mapping[str, np.ndarray],
        batch_size: int = 256,
        max_len: int = 20,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sequences = SequenceBatches(histories, "prefix", batch_size, max_len, seed)
        self.present = {name: torch.from_numpy(mask) for name, mask in present.items()}
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self.sequences)

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (a no-op for the epoch already under way)."""
        self.sequences.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Position of the reader."""
        return self.sequences.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the reader was."""
        self.sequences.load_state_dict(state)

    def __iter__(self) -> Iterator[list[ItemBatch]]:
        for whole in self.sequences:
            batch = whole[0]
            targets = batch.targets.sum(1)  # one target a row, zero elsewhere
            if len(targets) >= self.world:
                yield [self._share(batch.items, batch.lengths, targets)]

    def _share(self, items: Tensor, lengths: Tensor, targets: Tensor) -> ItemBatch:
        mine = slice(self.rank, None, self.world)
        step = torch.cat([items[items > 0], targets]).unique() - 1
        own = step[mine]
        items, lengths = items[mine], lengths[mine]
        items = items[:, : int(lengths.max())]
        needed = step if self.world == 1 else torch.cat([own, items[items > 0] - 1, targets[mine] - 1]).unique()
        return ItemBatch(
            rows=needed,
            owned=torch.isin(needed, own),
            items=torch.searchsorted(needed, (items - 1).clamp_(min=0)).clamp_(max=len(needed) - 1),
            lengths=lengths,
            targets=torch.searchsorted(needed, targets[mine] - 1),
            step_targets=torch.cat([targets[rank :: self.world] for rank in range(self.world)]) - 1,
            item_count=len(step),
            row_count=len(targets),
            present={name: int(mask[step].sum()) for name, mask in self.present.items()},
        )
