"""Latency of one answer and seconds of many, beside RecTools and implicit on the same vectors.

    python -m benchmarks.serving --rounds 5 --out serving.json
    python -m benchmarks.serving --tasks dense-12000 --rounds 3

Models are untrained: the time of an answer does not depend on the weights. Every call goes the whole way from raw item
ids to a table of raw item ids and titles; `scores` is the part that implicit and RecTools have too, the best items for
a user vector that is there already. Rounds alternate between the engines; a round makes 100 calls of one history (50th
and 99th percentile of all rounds), and one call of 10,000 histories. implicit and RecTools are left out where they are
not installed. The machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genrec
import seqrec
from genrec.models.tiger import TIGER
from genrec.portable.writing import export_onnx
from recbase.cli.signatures import recipe_of
from recbase.data.sequences import Histories
from recbase.evaluate.ranking import topk
from recbase.serving.fitted import FittedRecommender
from recbase.store.runs import load_run

LENGTH = 20
MANY = 10_000
CALLS = 100
GOALS = {"dense-300000": ("p50", 20.0), "dense-12000": ("p50", 3.0), "tiger": ("p99", 40.0), "onnx": ("p99", 40.0)}


def ids(count: int) -> list[str]:
    return [f"item-{number:07d}" for number in range(count)]


def dense(items: int, folder: Path) -> seqrec.FittedRanker:
    """A SASRec of width 64 over so many items, as a user loads it."""
    torch.manual_seed(0)
    model = seqrec.SASRec(items=items, dim=64, max_len=50)
    model.save_pretrained(folder, ids(items), [f"title of {name}" for name in ids(items)])
    return seqrec.load(folder)


def tiger(items: int, folder: Path) -> genrec.FittedGenerator:
    """A TIGER of the small recipe over so many items with four codes each."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings = recipe_of("genrec.models.tiger:TIGER", "small")
    accepted = set(TIGER.__init__.__annotations__)
    model = TIGER(items=items, sizes=[256] * 4, **{k: v for k, v in settings.items() if k in accepted})
    codes = rng.integers(256, size=(2 * items, 4))
    model.with_codes(np.unique(codes, axis=0)[rng.permutation(items)])
    model.save_pretrained(folder, ids(items), [f"title of {name}" for name in ids(items)])
    return genrec.load(folder)


def question(items: int, count: int, seed: int) -> list[list[str]]:
    """Histories of raw ids."""
    drawn = np.random.default_rng(seed).integers(items, size=(count, LENGTH))
    return [[f"item-{number:07d}" for number in row] for row in drawn.tolist()]


def calls(fitted: FittedRecommender, items: int, seed: int, **options: Any) -> list[float]:
    """Milliseconds of answers to one history each."""
    taken = []
    for history in question(items, CALLS, seed):
        begun = time.perf_counter()
        fitted.recommend(histories=[history], k=10, **options)
        taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def vector_engines(fitted: seqrec.FittedRanker) -> dict[str, Callable[[np.ndarray], Any]]:
    """The best 10 items of user vectors [B, D]: ours, and those of the peers that are installed."""
    table = fitted.model.item_vectors().numpy()
    turned = fitted.model.scorer().table

    class Given:
        n_items, max_len = len(table), 1

        def __init__(self, vectors: np.ndarray) -> None:
            self.vectors = torch.from_numpy(vectors)

        def __call__(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.vectors[items[:, 0] - 1] @ turned

    def ours(vectors: np.ndarray) -> Any:
        rows = Histories.from_offsets(np.arange(1, len(vectors) + 1), np.arange(len(vectors) + 1))
        return topk(Given(vectors), rows, 10)

    engines: dict[str, Callable[[np.ndarray], Any]] = {"ours": ours}
    if find_spec("implicit"):
        from implicit.cpu.topk import topk as implicit_topk

        engines["implicit"] = lambda vectors: implicit_topk(table, vectors, 10)
    if find_spec("rectools"):
        from rectools.models.rank import Distance, TorchRanker

        def rectools(vectors: np.ndarray) -> Any:
            ranker = TorchRanker(Distance.DOT, "cpu", vectors, objects)
            return ranker.rank(np.arange(len(vectors)), k=10)

        objects = torch.from_numpy(table)
        engines["rectools"] = rectools
    return engines


def measure(task: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Times of one task."""
    kind, _, size = task.partition("-")
    items = int(size or 12_000)
    fitted: FittedRecommender = dense(items, folder) if kind == "dense" else tiger(items, folder)
    options: dict[str, Any] = {} if kind == "dense" else {"beams": 20}
    if kind == "onnx":  # the same model, by ONNX Runtime and NumPy
        export_onnx(load_run(folder, genrec.MODELS), folder / "onnx")
        fitted, options = genrec.load(folder / "onnx"), options | {"engine": "onnx"}
    calls(fitted, items, 0, **options)  # tables are made once
    single: list[float] = []
    batch, scores = [], dict[str, list[float]]()
    many = question(items, MANY if kind == "dense" else 1_000, 7)
    engines = vector_engines(fitted) if isinstance(fitted, seqrec.FittedRanker) else {}
    vectors = np.random.default_rng(1).standard_normal((CALLS, 64)).astype(np.float32)
    for round_ in range(rounds):
        single += calls(fitted, items, 1 + round_, **options)
        for name, engine in engines.items():
            engine(vectors[:1])
            begun = time.perf_counter()
            for row in range(CALLS):
                engine(vectors[row : row + 1])
            scores.setdefault(name, []).append(1e3 * (time.perf_counter() - begun) / CALLS)
        begun = time.perf_counter()
        fitted.recommend(histories=many, k=10, **options)
        batch.append(time.perf_counter() - begun)
    found = {
        "task": task,
        "items": items,
        "p50_ms": round(float(np.percentile(single, 50)), 3),
        "p99_ms": round(float(np.percentile(single, 99)), 3),
        "many": len(many),
        "many_seconds": round(statistics.median(batch), 3),
        "scores_ms": {name: round(statistics.median(taken), 3) for name, taken in scores.items()},
    }
    return found | {"goal": GOALS.get(task), "reached": task not in GOALS or _reached(found, *GOALS[task])}


def _reached(found: dict[str, Any], what: str, most: float) -> bool:
    return bool(found[f"{what}_ms"] <= most)


def main() -> None:
    """Measure and print one line a task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="dense-12000,dense-300000,tiger,onnx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = []
    for task in given.tasks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(task, given.rounds, Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
