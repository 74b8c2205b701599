"""What every process of the distributed tests runs; in one process it gives the values to compare with.

As a script: ``distributed_worker.py FOLDER`` writes ``FOLDER/found.json`` on the main process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import leave_last_out
from recbase.evaluate.ranking import rank_targets
from recbase.store.folder import sha256_of
from recbase.train.loop import TrainConfig, fit, make_accelerator
from recbase.train.processes import leave_launch
from seqrec.models.ccfrec import CCFRec
from seqrec.models.sasrec import SASRec

sys.path.insert(0, str(Path(__file__).parent))
from small_training import Regression, Rows, TableBatches

USERS, ITEMS = 47, 60  # an odd number of users: the processes have different shapes
EPOCHS = 20  # of one step where the batch size is large, so the history holds the loss of every step


def ccfrec(**settings: Any) -> CCFRec:
    rng = np.random.default_rng(1)
    model = CCFRec(
        ITEMS, [8] * 4, 2, 16, dim=16, heads=2, ffn=32, layers=1, fusion_layers=1, max_len=8, dropout=0.0,
        fusion_dropout=0.0, **settings,
    )  # fmt: skip
    return model.with_content(rng.integers(0, 8, (ITEMS, 4)), rng.standard_normal((ITEMS, 2, 16)).astype(np.float32))


def sasrec(**settings: Any) -> SASRec:
    return SASRec(ITEMS, dim=16, ffn=32, layers=1, max_len=8, dropout=0.0, **settings)


PARTS = {"parts": 2}  # of a step, over all processes: one process computes them one after the other


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sasrec-ce": (sasrec, {}),
    "sasrec-ce-micro": (sasrec, {"micro_batches": 3}),
    "sasrec-ce-prefix": (sasrec, {"form": "prefix"}),
    "sasrec-bce": (lambda: sasrec(loss="bce", negatives=3), {}),
    "sasrec-sampled": (lambda: sasrec(loss="sampled", negatives=20), {}),
    "sasrec-ce-tail": (sasrec, {"batch_size": 23}),  # its last step has one row: one process has none
    "ccfrec": (ccfrec, {}),
    "ccfrec-tail": (ccfrec, {"batch_size": 23}),
    "ccfrec-plain": (lambda: ccfrec(mcm_weight=0.0, msa_weight=0.0), {"batch_size": 24}),
    "ccfrec-paper": (
        lambda: ccfrec(mask_share=1.0, in_batch_negatives=False, negatives=20),
        {"form": "prefix"},
    ),
    "sasrec-dropout": (lambda: SASRec(ITEMS, dim=16, ffn=32, layers=1, max_len=8, dropout=0.3), PARTS),
    # Its alignment contrasts the rows of all processes, but those of a micro-batch alone.
    "ccfrec-dropout": (lambda: ccfrec(mcm_weight=0.0, msa_weight=0.0, fusion_attention_dropout=0.3), PARTS),
}
"""Name to model and settings of its batches; dropout is 0 but where the parts of a step are told."""


def histories() -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.integers(1, ITEMS + 1, rng.integers(4, 12)).tolist() for _ in range(USERS)])


def made(name: str) -> Any:
    """The model of a case with its seeded start."""
    torch.manual_seed(5)
    return CASES[name][0]()


def losses_of(name: str) -> dict[str, Any]:
    """The first losses of a case, its weights' hash after them, and the ranks of its seeded start."""
    settings = {"form": "all", "micro_batches": 1, "batch_size": 10_000} | CASES[name][1]
    split, model = leave_last_out(histories()), made(name)
    config = TrainConfig(epochs=EPOCHS, patience=0, lr=1e-3, quiet=True)
    accelerator = make_accelerator(config)
    if "parts" in settings:
        settings["micro_batches"] = settings["parts"] // accelerator.num_processes
    config = replace(config, micro_batches=settings["micro_batches"])
    model.to(accelerator.device)
    ranks = rank_targets(model.eval().scorer(), split.test, batch_size=7, accelerator=accelerator)
    batches = SequenceBatches(
        split.train,
        settings["form"],
        batch_size=settings["batch_size"],
        max_len=8,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        micro_batches=settings["micro_batches"],
    )
    result = fit(model, batches, None, config, accelerator=accelerator)
    return {
        "losses": [line["loss"] for line in result.history],
        "parts": [line["parts"] for line in result.history],
        "ranks": ranks.rank.tolist(),
        "masked": ranks.rank_masked.tolist(),
    }


class DealtBatches(TableBatches):
    """Rows of the table dealt to the processes."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[Rows]]:
        for step in super().__iter__():
            yield [Rows(part.x[self.rank :: self.world], part.y[self.rank :: self.world], 8) for part in step]


def interruptions(folder: Path) -> dict[str, Any]:
    """A signal, then a loss that is not finite, each at one process only; resuming is exact there too."""
    accelerator = make_accelerator(TrainConfig())
    rank, world = accelerator.process_index, accelerator.num_processes

    def train(name: str, resume: bool = False, at: Callable[[int], Any] | None = None) -> tuple[nn.Module, Any]:
        torch.manual_seed(3)
        config = TrainConfig(epochs=4, quiet=True, clip=1.0)
        model, validate = Regression(at=at), lambda network: {"ndcg@10": float(network.layers[0].weight.sum())}
        batches = DealtBatches(rank, world)
        return model, fit(model, batches, validate, config, folder / name, resume, accelerator)

    def stop(call: int) -> None:
        if call == 7 and rank == world - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    straight, _ = train("straight")
    _, stopped = train("stopped", at=stop)
    resumed, result = train("stopped", resume=True)
    complaint = ""
    try:
        train("broken", at=lambda call: float("inf") if call == 9 and rank == world - 1 else None)
    except ValueError as error:
        complaint = str(error)
    return {
        "stopped": stopped.stopped,
        "stopped_at": stopped.steps,
        "steps": result.steps,
        "equal": all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True)),
        "weights": sha256_of(*(parameter.detach().numpy() for parameter in resumed.parameters())),
        "complaint": complaint,
    }


def found(folder: Path) -> dict[str, Any]:
    """Everything the tests look at."""
    return {name: losses_of(name) for name in CASES} | {"interruptions": interruptions(folder)}


if __name__ == "__main__":
    from accelerate.utils import gather_object

    target = Path(sys.argv[1])
    facts = found(target)
    everyone = gather_object([facts])
    if int(os.environ.get("RANK", "0")) == 0:
        (target / "found.json").write_text(json.dumps(everyone))
    leave_launch()
