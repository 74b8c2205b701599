"""RecTools' SASRec with softmax loss: one padded window a user, batch 128 (its default); `recommend` as evaluation."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import pandas as pd
import torch
from measure import StepClock, Task, read_task, write_evaluation, write_training
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

BATCH = 128


class Watch(Callback):
    """Marks the steps on a clock and stops training when it says so."""

    def __init__(self, clock: StepClock, max_steps: int | None) -> None:
        self.clock, self.max_steps = clock, max_steps
        self.epoch_steps = 0

    def __deepcopy__(self, memo: object) -> Watch:
        return self

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.epoch_steps = int(trainer.num_training_batches)
        self.clock.mark()

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        done = self.clock.mark()
        if done or (self.max_steps is not None and len(self.clock.marks) > self.max_steps):
            trainer.should_stop = True


def dataset_of(task: Task, drop: int) -> Dataset:
    """All events but the last `drop` of each user, one day apart."""
    user, item, place = task.users(drop)
    frame = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(place, unit="D")
    return Dataset.construct(frame)


def main() -> None:
    task = read_task()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    evaluate = task.what == "evaluate"
    clock = StepClock(task.seconds, task.warmup)
    watch = Watch(clock, 1 if evaluate else None)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1,
            min_steps=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_factors=task.dim,
        n_blocks=task.layers,
        n_heads=task.heads,
        session_max_len=task.max_len,
        batch_size=BATCH,
        loss="softmax",
        lr=1e-3,
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer,
    )
    if evaluate:
        histories = dataset_of(task, drop=1)
        model.fit(histories)
        users = histories.user_id_map.external_ids
        begun = time.perf_counter()
        found = model.recommend(users=users, dataset=histories, k=10, filter_viewed=False)
        seconds = time.perf_counter() - begun
        last = pd.Series(task.items[task.offsets[1:] - 1])
        hits = (found[Columns.Item].to_numpy() == last[found[Columns.User]].to_numpy()).sum()
        write_evaluation(
            task, seconds, len(users), result="10 best items, no ranks", recall_at_10=float(hits / len(users))
        )
        return
    train = dataset_of(task, drop=2)
    model.fit(train)
    lengths = train.interactions.df.groupby(Columns.User).size().clip(upper=task.max_len + 1) - 1
    write_training(task, clock, watch.epoch_steps, int(lengths.sum()), batch=f"{BATCH} windows")


if __name__ == "__main__":
    main()
