"""One model of RecBole trained for a while on given histories: its metrics, its learning curve.

The library's own data, model, trainer steps and full-sort evaluation, with its default hyper-parameters; only the loop
around the epochs is here, because it ends by the clock and keeps the best weights in memory. Last events are the test,
those before them the validation. Sequential models rank all items, general ones all but those of the history: these are
the library's rules.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import with_recbole  # noqa: F401  (its shims)
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAME = "histories"
GENERAL = ("Pop", "ItemKNN", "BPR")
COUNTED = ("Pop", "ItemKNN")
ATTRIBUTES = ("FDSA", "S3Rec")
PRETRAINING = 1 / 3  # share of the budget that S3Rec's first stage gets
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


class Deadline:
    """A data loader that ends early once the time is over."""

    def __init__(self, loader: Any, until: float) -> None:
        self.loader, self.until = loader, until

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield batch
            if time.perf_counter() > self.until:
                return


def write_atomic_files(folder: Path, attributes: bool) -> None:
    """Histories (user, item, place as time) and the items' attributes as RecBole reads them."""
    target = folder / "recbole" / NAME
    target.mkdir(parents=True, exist_ok=True)
    items, offsets = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("items", "offsets"))
    lengths = np.diff(offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    rows = np.stack([users, items, places], 1)
    np.savetxt(target / f"{NAME}.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")
    if attributes:
        classes = json.loads((folder / "attributes.json").read_text())
        lines = [f"{number + 1}\t{' '.join(f'c{value}' for value in row)}" for number, row in enumerate(classes)]
        text = "\n".join(["item_id:token\tclass:token_seq", *lines])
        (target / f"{NAME}.item").write_text(text + "\n")


def configuration(model: str, folder: Path, max_len: int, seed: int) -> dict[str, Any]:
    """RecBole's defaults for the model, on this data and split."""
    columns: dict[str, list[str]] = {"inter": ["user_id", "item_id", "timestamp"]}
    if model in ATTRIBUTES:
        columns["item"] = ["item_id", "class"]
    found: dict[str, Any] = {
        "data_path": str(folder / "recbole"),
        "load_col": columns,
        "seed": seed,
        "train_batch_size": 2048,
        "eval_batch_size": 4096,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [5, 10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "checkpoint_dir": str(folder),
    }
    if model not in GENERAL:
        found |= {"MAX_ITEM_LIST_LENGTH": max_len, "loss_type": "CE", "train_neg_sample_args": None}
    if model == "HGN":
        found |= {"reg_weight": [0.0, 0.0]}
    return found


def prepared(model: str, folder: Path, settings: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Trainer and the three loaders."""
    config = Config(model=model, dataset=NAME, config_dict=settings)
    init_seed(settings["seed"], reproducibility=True)
    train, valid, test = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, train.dataset).to("cpu")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    return trainer, train, valid, test


def pretrained(folder: Path, settings: dict[str, Any], seconds: float) -> tuple[dict[str, Any], int]:
    """S3Rec's first stage: settings of the second one, which names the file of weights, and the epochs it ran."""
    trainer, train, _, _ = prepared("S3Rec", folder, settings | {"train_stage": "pretrain"})
    until, epochs = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        trainer._train_epoch(Deadline(train, until), epochs)
        epochs += 1
    path = folder / "pretrained.pth"  # the library's own format, read by the library alone
    torch.save({"state_dict": trainer.model.state_dict()}, path)
    return settings | {"train_stage": "finetune", "pre_model_path": str(path)}, epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--max-len", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # the library would read the command line as its own
    write_atomic_files(args.folder, args.model in ATTRIBUTES)
    os.chdir(args.folder)  # it writes logs where it stands
    settings = configuration(args.model, args.folder, args.max_len, args.seed)
    begun, facts = time.perf_counter(), {}
    if args.model == "S3Rec":
        settings, facts["pretraining_epochs"] = pretrained(args.folder, settings, args.seconds * PRETRAINING)
    trainer, train, valid, test = prepared(args.model, args.folder, settings)
    until = begun + args.seconds
    best, epoch, still, curve, weights = -1.0, 0, 0, [], {}
    stopped = "max_seconds"
    while True:
        trainer._train_epoch(train if args.model in COUNTED else Deadline(train, until), epoch)
        epoch += 1
        value = float(trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
        curve.append([time.perf_counter() - begun, value])
        still += 1
        if value > best:
            best, still = value, 0
            weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        if args.model in COUNTED or still >= args.patience:
            stopped = "counted" if args.model in COUNTED else "patience"
            break
        if time.perf_counter() > until:
            break
    seconds = time.perf_counter() - begun
    trainer.model.load_state_dict(weights)
    found = trainer.evaluate(test, load_best_model=False)
    record = {
        "model": args.model,
        "seen": "masked" if args.model in GENERAL else "kept",
        "test": {name: float(found[name]) for name in METRICS},
        "valid": best,
        "curve": curve,
        "seconds": seconds,
        "epochs": epoch,
        "stopped": stopped,
        "threads": torch.get_num_threads(),
        **facts,
    }
    args.result.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
