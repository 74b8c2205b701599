"""Our SASRec: one window a user with a target at every position, batch 128, trained by `recbase.train.loop.fit`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from measure import StepClock, read_task, write_evaluation, write_training

from recbase.data.sequences import Histories, SequenceBatch, SequenceBatches
from recbase.data.splits import leave_last_out
from recbase.evaluate.ranking import rank_targets, summarize
from recbase.train.loop import TrainConfig, fit
from seqrec.models.sasrec import SASRec

BATCH = 128


class TimedBatches(SequenceBatches):
    """Batches of one epoch, ended early by a clock."""

    clock: StepClock

    def __iter__(self) -> Iterator[list[SequenceBatch]]:
        yield from self.clock.watch(super().__iter__())


def main() -> None:
    task = read_task()
    torch.manual_seed(0)
    split = leave_last_out(Histories.from_offsets(task.items, task.offsets))
    model = SASRec(task.n_items, dim=task.dim, layers=task.layers, heads=task.heads, max_len=task.max_len)
    if task.what == "evaluate":
        rank_targets(model.scorer(), split.test.take(np.arange(min(512, len(split.test)))))  # warm-up
        ranks = rank_targets(model.scorer(), split.test)
        found = summarize(ranks)["recall@10"]
        write_evaluation(task, ranks.seconds, len(ranks), result="exact ranks, both policies", recall_at_10=found)
        return
    batches = TimedBatches(split.train, "all", batch_size=BATCH, max_len=task.max_len)
    batches.clock = StepClock(task.seconds, task.warmup)
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=1e-3, quiet=True)
    fit(model, batches, None, config)
    targets = int((split.train.lengths.clip(max=task.max_len + 1) - 1).clip(min=0).sum())
    write_training(task, batches.clock, len(batches), targets, batch=f"{BATCH} windows")


if __name__ == "__main__":
    main()
