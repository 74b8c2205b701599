"""RecBole's SASRec with cross-entropy: every prefix of a user is a row padded to full length, batch 2048 (its default).

The library is used as installed; its own trainer runs the steps and the evaluation. Two shims live in this process
only: names that NumPy 2 dropped, and `torch.load` with the behaviour it had before torch 2.6.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from measure import StepClock, Task, read_task, write_evaluation, write_training

for _name, _kind in (("float_", np.float64), ("bool8", np.bool_), ("unicode_", np.str_), ("complex_", np.complex128)):
    if _name not in np.__dict__:
        setattr(np, _name, _kind)
torch.load = functools.partial(torch.load, weights_only=False)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender.sasrec import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

NAME = "histories"


class TimedLoader:
    """A data loader whose batches a clock watches."""

    def __init__(self, loader: Any, clock: StepClock) -> None:
        self.loader, self.clock = loader, clock

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return self.clock.watch(self.loader)


def write_atomic_file(task: Task) -> None:
    """Write the histories as RecBole reads them: user, item, and the place as time."""
    folder = task.folder / "recbole" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.inter"
    if not path.exists():
        user, item, place = task.users(drop=0)
        header = "user_id:token\titem_id:token\ttimestamp:float"
        rows = np.stack([user, item, place], 1)
        np.savetxt(path, rows, fmt="%d", delimiter="\t", header=header, comments="")


def configuration(task: Task) -> dict[str, Any]:
    """RecBole's defaults for SASRec, but for the shape and the quiet."""
    return {
        "data_path": str(task.folder / "recbole"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": task.max_len,
        "hidden_size": task.dim,
        "inner_size": 4 * task.dim,
        "n_layers": task.layers,
        "n_heads": task.heads,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": 2048,
        "eval_batch_size": 4096,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }


def main() -> None:
    task = read_task()
    write_atomic_file(task)
    sys.argv = sys.argv[:1]  # it would read the command line as its own
    os.chdir(task.folder)  # it writes logs where it stands
    config = Config(model="SASRec", dataset=NAME, config_dict=configuration(task))
    init_seed(0, reproducibility=False)
    train, _, test = data_preparation(config, create_dataset(config))
    model = SASRec(config, train.dataset)
    trainer = Trainer(config, model)
    if task.what == "evaluate":
        begun = time.perf_counter()
        found = trainer.evaluate(test, load_best_model=False)
        seconds = time.perf_counter() - begun
        users = len(test.dataset)
        write_evaluation(task, seconds, users, result="recall and NDCG @10", recall_at_10=float(found["recall@10"]))
        return
    clock = StepClock(task.seconds, task.warmup)
    trainer._train_epoch(TimedLoader(train, clock), 0)
    write_training(task, clock, len(train), len(train.dataset), batch="2048 prefixes")


if __name__ == "__main__":
    main()
