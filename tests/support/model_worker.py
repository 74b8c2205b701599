"""What every process of the distributed tests runs; in one process it gives the values to compare with.

As a script: ``model_worker.py FOLDER`` writes ``FOLDER/found.json`` on the main process.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import leave_last_out
from recbase.evaluate.ranking import rank_targets
from recbase.train.loop import TrainConfig, fit, make_accelerator
from recbase.train.processes import leave_launch
from seqrec import REGISTRY
from seqrec.training import build_model

sys.path.insert(0, str(Path(__file__).parent))
from small_encoders import tiny_bert
from small_models import SMALL, TRAINED, content, keeps

ITEMS, USERS, EPOCHS = 60, 21, 3  # an odd number of users: the processes have different shapes
CASES = dict.fromkeys(keeps("two processes equal one", TRAINED), 20) | {"s3rec first stage": 20}
CASES |= {"sasrec-content sentences": 20, "mv-rnn sentences": 20}
"""Name to batch size: the last step has one row, so that one process has none."""


def histories() -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.integers(1, ITEMS + 1, rng.integers(4, 12)).tolist() for _ in range(USERS)])


_KEPT = tempfile.TemporaryDirectory()


@functools.cache
def backbone() -> Path:
    """A tiny text encoder; made before the processes meet, for then only the main one writes."""
    return tiny_bert(Path(_KEPT.name))


def losses_of(case: str) -> dict[str, Any]:
    """The losses of the first epochs of a case, and the ranks of its seeded start."""
    name, _, kind = case.partition(" ")
    split = leave_last_out(histories())
    # Of a model whose vectors are made by an encoder, a loss takes only the items that it looks at.
    few = {"item_table": "tied", "loss": "bce", "negatives": 3}
    own = few | {"content": kind, "backbone": str(backbone()), "max_tokens": 8} if kind == "sentences" else {}
    torch.manual_seed(5)
    model = build_model(name, ITEMS, USERS, content(name, ITEMS, split.train), SMALL[name] | own)
    config = TrainConfig(epochs=EPOCHS, patience=0, lr=1e-3, quiet=True)
    accelerator = make_accelerator(config)
    model.to(accelerator.device)
    ranks = rank_targets(model.eval().scorer(), split.test, batch_size=7, accelerator=accelerator)
    form, extra = REGISTRY[name].forms[0], model.batch_settings() if hasattr(model, "batch_settings") else {}
    trained = model
    if kind == "first stage":
        stage = model.pretraining()
        trained, form, extra = stage.module, stage.form, stage.settings
        trained.unused_parameters = True
    batches = SequenceBatches(
        split.train,
        form,
        batch_size=CASES[case],
        max_len=8,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        **extra,
    )
    result = fit(trained, batches, None, config, accelerator=accelerator)
    return {
        "losses": [line["loss"] for line in result.history],
        "parts": [line["parts"] for line in result.history],
        "ranks": ranks.rank.tolist(),
    }


if __name__ == "__main__":
    from accelerate.utils import gather_object

    target = Path(sys.argv[1])
    backbone()
    everyone = gather_object([{case: losses_of(case) for case in CASES}])
    if int(os.environ.get("RANK", "0")) == 0:
        (target / "found.json").write_text(json.dumps(everyone))
    leave_launch()
