"""Our models beside RecBole 1.2.1's of the same name: quality on the same histories, and the time it takes.

    python -m benchmarks.baselines --data FOLDER --embeddings FOLDER --out runs/baselines     # ours, first
    python -m benchmarks.recbole --data FOLDER --ours runs/baselines --budget-seconds 1200 --out runs/recbole

RecBole runs in a virtual environment of its own (see ``benchmarks.peers``) with its default hyper-parameters, softmax
over all items where a model has it, the same split, length 50, full ranking. General models (Pop, ItemKNN, BPR) leave
out what the user has seen, as the library does; they stand beside our figures of that policy. The last column is when
our validation first was as good as the library's best, where both keep seen items. A row that is there is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import WORKERS, environment
from benchmarks.rows import metrics_of

MODELS = {
    "popularity": "Pop",
    "itemknn": "ItemKNN",
    "bpr": "BPR",
    "gru4rec": "GRU4Rec",
    "caser": "Caser",
    "hgn": "HGN",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "fdsa": "FDSA",
    "s3rec": "S3Rec",
}
"""Our names, and the library's."""

_ATTRIBUTES = ("fdsa", "s3rec")


def write_histories(data: str, folder: Path) -> str:
    """Histories and attributes as the worker reads them; the name of the data set."""
    from recbase.data.catalog import load_dataset
    from seqrec.content import item_attributes

    dataset = load_dataset(data)
    items, offsets = dataset.histories.flat()
    np.save(folder / "items.npy", items)
    np.save(folder / "offsets.npy", offsets)
    rows = [[int(value) for value in row if value] for row in item_attributes(dataset.items).table]
    (folder / "attributes.json").write_text(json.dumps(rows))
    return dataset.name


def theirs(name: str, interpreter: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the library's model, or read what an earlier run found."""
    result = (args.out / f"recbole-{name}.json").absolute()
    if not result.is_file():
        command: list[Any] = [interpreter, WORKERS / "recbole_quality.py", MODELS[name], "--folder", folder]
        command += ["--result", result, "--seconds", args.budget_seconds, "--seed", args.seed]
        threads = {key: str(args.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        print(f"RecBole {MODELS[name]} ...", end=" ", flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            [str(word) for word in command], env=os.environ | threads, cwd=folder, capture_output=True, text=True
        )
        if done.returncode or not result.is_file():
            raise RuntimeError(f"RecBole {MODELS[name]} failed:\n{done.stderr[-3000:]}")
        print(f"[{time.perf_counter() - start:.0f} s]", flush=True)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def reached(folder: Path, value: float) -> float | None:
    """Seconds of training after which our validation NDCG@10 was at least ``value``; None if it never was."""
    path = folder / "history.jsonl"
    if not path.is_file():
        return None
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["metrics"]["ndcg@10"] >= value:
            return float(line["seconds"])
    return None


def main() -> None:
    """Run the library's rows that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set: a folder or a name")
    parser.add_argument("--ours", type=Path, default=Path("runs/baselines"), help="folder of benchmarks.baselines")
    parser.add_argument("--models", default=",".join(MODELS), help="rows, by our names, as a,b")
    parser.add_argument("--budget-seconds", type=float, default=1200, help="of a RecBole row (default 1200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of RecBole (default: cores)")
    parser.add_argument("--venvs", type=Path, default=Path("runs/peers"), help="where the peers live (runs/peers)")
    parser.add_argument("--python", default=sys.executable, help="Python 3.11 or 3.12 that makes the environment")
    parser.add_argument("--out", type=Path, default=Path("runs/recbole"), help="folder of the results")
    args = parser.parse_args()
    names = args.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(MODELS)}")
    interpreter = environment("recbole", args.venvs, args.python)
    folder = (args.out / "data").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data = write_histories(args.data, folder)
    lines = [
        "| model | ours: recall@10 | ndcg@10 | seconds | RecBole: recall@10 | ndcg@10 | seconds | its end | as good on "
        "validation after |",
        "|" + " --- |" * 9,
    ]
    for name in names:
        ours = metrics_of(args.ours / f"{name}-0")
        if ours is None:
            print(f"{name} is not in {args.ours}: run benchmarks.baselines first")
            continue
        peer = theirs(name, interpreter, folder, args)
        own = ours["test_masked" if peer["seen"] == "masked" else "test"]
        seconds = ours.get("pretrain_seconds", 0) + ours["train_seconds"]
        speed = "-"
        if peer["seen"] == "kept":
            after = reached(args.ours / f"{name}-0", peer["valid"])
            speed = "never" if after is None else f"{after:.0f} s"
        note = f"{peer['stopped']}, {peer['epochs']} epochs"
        lines.append(
            f"| {name}{' (seen masked)' if peer['seen'] == 'masked' else ''} | {own['recall@10']:.4f} | "
            f"{own['ndcg@10']:.4f} | {seconds:.0f} | {peer['test']['recall@10']:.4f} | {peer['test']['ndcg@10']:.4f} | "
            f"{peer['seconds']:.0f} | {note} | {speed} |"
        )
    text = "\n".join([f"{data}: test, {args.budget_seconds:g} s a RecBole row, {platform.machine()}", "", *lines])
    print(f"\n{text}\n", flush=True)
    (args.out / "recbole.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
