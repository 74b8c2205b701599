"""CCFRec with item ids, a generator with a dense head, a blend, SASRec and the counter: one table, means of the seeds.

    python -m benchmarks.past_counter --data runs/scientific runs/beauty runs/movietweetings --seeds 3
    python -m benchmarks.past_counter --data runs/scientific runs/beauty --only generators
    python -m benchmarks.past_counter --data runs/scientific --seeds 1 --append "two x86-64 cores, no GPU"

Every row is made by `seqrec` and `genrec` commands in processes of their own, which are printed; a row that is finished
is not made again. Vectors are TF-IDF of the data set's own views. Epochs, weights, scale and what becomes of seen items
are chosen on validation; each run looks at test once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import append_runs
from benchmarks.rows import finished, metrics_of

TITLES = {"scientific": "Scientific", "beauty": "Beauty", "movietweetings": "MovieTweetings"}
SASREC = ["--epochs", "60", "--max-seconds", "900"]


def command(family: str, *words: object) -> None:
    """Run a command of seqrec or genrec, unless its run folder is complete."""
    spoken = [str(word) for word in words]
    if finished(Path(spoken[spoken.index("--out") + 1])):
        return
    print(family, *spoken, flush=True)
    subprocess.run([sys.executable, "-m", f"{family}.cli", *spoken, "--quiet"], check=True)


def seqrec(*words: object) -> None:
    """Run a command of seqrec, unless its run folder is complete."""
    command("seqrec", *words)


def generators(data: Path, out: Path, seeds: int) -> dict[str, list[Path]]:
    """Run folders of the rows of generators."""
    found = {}
    for model in ("prorec", "marius"):
        runs = [out / f"{model}-{seed}" for seed in range(seeds)]
        for seed, run in enumerate(runs):
            command("genrec", "train", model, "--recipe", "small", "--data", data, "--seed", seed, "--out", run)
        found[f"{model}, recipe small"] = runs
    return found


def rankers(data: Path, out: Path, seeds: int) -> dict[str, list[Path]]:
    """Run folders of the rows of rankers."""
    counter, graph = out / "transitions", out / "graph"
    seqrec("train", "transitions", "--data", data, "--out", counter)
    seqrec("train", "transition-graph", "--data", data, "--out", graph)
    found: dict[str, list[Path]] = {"transitions": [counter], "transition-graph": [graph]}
    for seed in range(seeds):
        sasrec, ids, blend = (out / f"{name}-{seed}" for name in ("sasrec", "ids", "blend"))
        seqrec("train", "sasrec", "--data", data, "--seed", seed, *SASREC, "--out", sasrec)
        seqrec("train", "ccfrec", "--recipe", "ids", "--data", data, "--seed", seed, "--out", ids)
        seqrec("blend", counter, sasrec, ids, graph, "--data", data, "--out", blend)
        for name, run in (("sasrec", sasrec), ("ccfrec, recipe ids", ids), ("blend of the four", blend)):
            found.setdefault(name, []).append(run)
    return found


def line(name: str, runs: list[Path], alone: bool = False) -> str:
    """One row of the table; of the generator ``alone``, without its dense head."""
    metrics: list[dict[str, Any]] = [metrics_of(run) for run in runs]
    cells = []
    for part in ("test", "test_masked"):
        for metric in ("recall@10", "ndcg@10"):
            tables = [one["dense"][f"generator_{part}"] if alone else one[part] for one in metrics]
            values = np.array([table[metric] for table in tables])
            cells.append(f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""))
    seconds = np.mean([one.get("train_seconds", 0) or 0 for one in metrics])
    first = [None if alone else one.get("last_item_first") for one in metrics]
    last = "" if None in first else f"{np.mean(np.array(first, dtype=float)):.1%}"
    return f"| {name} | {' | '.join(cells)} | {last} | {seconds:,.0f} | {len(runs)} |"


def _alone(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics of generators without their dense heads."""
    parts = ("test", "test_masked", "valid")
    return [
        {part: one["dense"].get(f"generator_{part}", {}) for part in parts}
        | {"train_seconds": one.get("train_seconds")}
        for one in runs
    ]


def main() -> None:
    """Make the runs and print a table a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/past"))
    parser.add_argument("--only", choices=("rankers", "generators"), help="leave the other rows out")
    parser.add_argument("--append", metavar="MACHINE", help="add the rows to results/, with the machine in words")
    given = parser.parse_args()
    for data in given.data:
        table: dict[str, list[Path]] = {}
        for kind, make in (("rankers", rankers), ("generators", generators)):
            if given.only in (None, kind):
                table |= make(data, given.out / data.name, given.seeds)
        print(f"\n**{data.name}**\n")
        print("| model | recall@10 | ndcg@10 | masked recall@10 | masked ndcg@10 | last item first | seconds | seeds |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, runs in table.items():
            print(line(name, runs))
            if "dense" in (metrics_of(runs[0]) or {}):
                print(line(f"{name}, generator alone", runs, alone=True))
        if given.append:
            found = {name: [metrics for run in runs if (metrics := metrics_of(run))] for name, runs in table.items()}
            found |= {f"{name}, generator alone": _alone(runs) for name, runs in found.items() if "dense" in runs[0]}
            title = TITLES.get(data.name, data.name)
            append_runs("past_counter", found, title, given.append, "recipes ids and small are not the papers' models")


if __name__ == "__main__":
    main()
