"""Two versions of the toolkit against each other, in one run: processor time of the same work in the same minutes.

    git worktree add --detach ../old 0875439
    python -m benchmarks.paired ../old . --rounds 7 --out paired.json

Every round starts one process of each version, the first one turn about, with the checkout on ``PYTHONPATH`` and one
thread. A process does each piece of work once unmeasured and then a few times, and says the least processor time. What
is printed is the median over the rounds of new / old, so that neither a busy machine nor a slow first call counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ITEMS, USERS = 3000, 2000
REPEATS, SECONDS = 5, 0.7  # so often, and for so long, is a piece of work repeated at least


def found(name: str, *modules: str) -> Any:
    """A name from the first of the modules that exists: rooms were renamed between the versions."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise ImportError(f"none of {', '.join(modules)} exists")


def model_class(family: str, name: str) -> Any:
    """A model by its name on the command line."""
    module, _, kind = importlib.import_module(family).MODELS[name].partition(":")
    return getattr(importlib.import_module(module), kind)


def tokenizer_work() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Fits and encodings of 12,000 vectors of width 64, and the encoding of a saved folder with NumPy alone."""
    import numpy as np

    import semtok

    vectors = np.random.default_rng(0).normal(size=(12_000, 64)).astype(np.float32)
    made = {
        "pq": semtok.ProductQuantizer(levels=4, codebook_size=128),
        "rq": semtok.ResidualQuantizer(levels=3, codebook_size=64),
        "hierarchical": semtok.HierarchicalKMeans(codebook_size=64),
    }
    new = vectors + np.float32(1e-3)
    for name, tokenizer in made.items():
        yield f"{name} fit", lambda tokenizer=tokenizer: tokenizer.fit(vectors)
        yield f"{name} encode", lambda tokenizer=tokenizer: tokenizer.encode(new)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            light = semtok.load(folder, backend="numpy")
        yield f"{name} encode, NumPy alone", lambda light=light: light.encode(new)


def data() -> tuple[Any, Any, Any, Any]:
    """Histories, targets, codes and vectors of random items."""
    import numpy as np

    rng = np.random.default_rng(1)
    histories_of = found("Histories", "recbase.data.sequences", "recbase.sequences")
    targets_of = found("Targets", "recbase.data.splits", "recbase.splits")
    lists = [rng.integers(1, ITEMS + 1, rng.integers(4, 30)).tolist() for _ in range(USERS)]
    histories = histories_of.from_lists(lists)
    targets = targets_of(np.arange(USERS), histories, rng.integers(1, ITEMS + 1, USERS))
    codes = np.stack([np.arange(ITEMS) // 16**place % 16 for place in range(3)], 1)
    return histories, targets, codes, rng.normal(size=(ITEMS, 2, 64)).astype(np.float32)


def step(model: Any, histories: Any) -> Callable[[], Any]:
    """Gradient of a batch of 64 histories."""
    batches = found("SequenceBatches", "recbase.data.sequences", "recbase.sequences")
    batch = next(iter(batches(histories, "all", batch_size=64, max_len=20)))[0]

    def run() -> None:
        model.train()
        model.zero_grad()
        model(batch).loss.backward()

    return run


def model_work() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Training steps, ranking and beam search."""
    import torch

    rank_targets = found("rank_targets", "recbase.evaluate.ranking", "recbase.evaluation")
    histories, targets, codes, vectors = data()
    torch.manual_seed(0)
    sasrec = model_class("seqrec", "sasrec")(ITEMS, dim=64)
    yield "sasrec step", step(sasrec, histories)
    yield "sasrec ranking", lambda: rank_targets(sasrec.scorer(), targets)
    ccfrec = model_class("seqrec", "ccfrec")(ITEMS, [16] * 3, 2, 64, dim=64, max_len=20)
    yield "ccfrec step", step(ccfrec.with_content(codes, vectors), histories)
    tiger = model_class("genrec", "tiger")(
        ITEMS, [16] * 3, dim=64, heads=4, head_dim=16, ffn=128, encoder_layers=2, decoder_layers=2, causal_encoder=True
    ).with_codes(codes)
    yield "t5 step", step(tiger, histories)
    items, lengths = (torch.from_numpy(part) for part in histories.padded(slice(0, 32), 20))

    def searched(beams: int) -> None:
        tiger.eval()
        with torch.no_grad():
            tiger.search(items, lengths, beams=beams, n_best=10)

    for beams in (10, 50):
        yield f"beam search, {beams} beams", lambda beams=beams: searched(beams)


def measured() -> dict[str, dict[str, float]]:
    """Least processor and wall time of each piece of work in this process, in seconds."""
    import torch

    torch.set_num_threads(1)
    times: dict[str, dict[str, float]] = {}
    for source in (tokenizer_work, model_work):
        for name, work in source():
            work()
            each = []
            while len(each) < REPEATS or sum(wall for _, wall in each) < SECONDS:
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                each.append((time.process_time() - cpu, time.perf_counter() - wall))
            times[name] = {"cpu": min(cpu for cpu, _ in each), "wall": min(wall for _, wall in each)}
    return times


def child(folder: Path) -> dict[str, dict[str, float]]:
    """Times of a fresh process of one version."""
    alone = {"PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
    made = subprocess.run(command, capture_output=True, text=True, env=os.environ | alone, cwd=folder, check=False)
    if made.returncode:
        raise RuntimeError(f"{folder}: {made.stderr.strip().splitlines()[-1]}")
    times: dict[str, dict[str, float]] = json.loads(made.stdout.splitlines()[-1])
    return times


def compared(old: Path, new: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds of both versions' times, and of their ratio in a round."""
    pairs = []
    for number in range(rounds):
        first, second = (old, new) if number % 2 == 0 else (new, old)
        times = {first: child(first), second: child(second)}
        pairs.append((times[old], times[new]))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    table = {}
    for name in pairs[0][0]:
        row = {}
        for clock in ("cpu", "wall"):
            was, now = [pair[0][name][clock] for pair in pairs], [pair[1][name][clock] for pair in pairs]
            row |= {f"{clock}_old": statistics.median(was), f"{clock}_new": statistics.median(now)}
            row[f"{clock}_ratio"] = statistics.median(b / a for a, b in zip(was, now, strict=True))
            row[f"{clock}_least_ratio"] = min(now) / min(was)
        table[name] = row
    return table


def main() -> None:
    """Read the command line; measure, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="checkout of the old version, and of the new one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--measure", action="store_true", help="measure the version on PYTHONPATH, and print JSON")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured()))
        return
    if len(given.folders) != 2:
        parser.error("expected two folders, the old checkout and the new one")
    table = compared(*given.folders, given.rounds)
    for name, row in table.items():
        print(f"{name:32} {1e3 * row['cpu_old']:9.1f} ms {1e3 * row['cpu_new']:9.1f} ms  {row['cpu_ratio']:.3f}")
    if given.out:
        given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
