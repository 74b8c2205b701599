"""Speed and memory of our SASRec beside RecBole 1.2.1 and RecTools 0.19, in alternation, on the same histories.

    python benchmarks/peers.py --rounds 3 --out peers.json                  # made histories of Beauty's shape
    python benchmarks/peers.py --data runs/data/beauty --out peers.json     # a data set folder or name

Every round starts a fresh process for each library and each task, one after the other: `train` runs the library's own
training loop for a few seconds after a warm-up and scales the mean step to one pass over all training samples;
`evaluate` ranks the test item of every user among all items. Peak memory is that of the process. Medians over the
rounds are compared. All use float32 on the CPU, cross-entropy over all items, length 50, width 64, 2 layers, 2 heads,
and each library's usual batch: 2,048 prefixes (RecBole), 128 windows (RecTools and ours). An epoch has about the same
number of targets in all three. RecTools' `recommend` returns the 10 best items; the other two give exact ranks.

The first run installs the two peers, each in a virtual environment of its own under --venvs (Python 3.11 or 3.12). The
machine must be otherwise idle: two programs on two cores spoil each other's times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = Path(__file__).with_suffix("")
TORCH = "torch==2.13.0"

_RECBOLE_NEEDS = [
    *("numpy==1.26.4", "pandas==2.3.3", "scipy<2", "scikit-learn<2", "tqdm", "pyyaml", "colorlog==4.7.2"),
    *("colorama==0.4.4", "tabulate", "texttable", "psutil", "plotly", "tensorboard", "thop==0.1.1.post2209072238"),
]

# installed in this order; the first is pinned alone, so that nothing after it can pull another build in
PACKAGES: dict[str, list[list[str]]] = {
    "recbole": [
        [TORCH],
        ["--no-deps", "recbole==1.2.1"],
        [TORCH, *_RECBOLE_NEEDS],
    ],
    "rectools": [[TORCH], [TORCH, "rectools[torch]==0.19.0"]],
}
PROBES = {
    "recbole": "import torch, recbole.trainer, recbole.data; assert torch.__version__.startswith('2.13.0')",
    "rectools": "import torch, pytorch_lightning, rectools.models; assert torch.__version__.startswith('2.13.0')",
}
TASKS = ("train", "evaluate")

# (what, peer, "at least" or "at most", goal)
GOALS = (
    ("epoch_seconds", "recbole", "at least", 10.0),
    ("epoch_seconds", "rectools", "at least", 8.0),
    ("users_per_second", "recbole", "at least", 2.0),
    ("users_per_second", "rectools", "at least", 1.2),
    ("peak_mib", "rectools", "at most", 0.6),
)
TITLES = {"epoch_seconds": "epoch, times faster", "users_per_second": "evaluation, times faster"}
TITLES["peak_mib"] = "training memory, share"


def environment(peer: str, venvs: Path, python: str) -> Path:
    """Return the Python of the peer's virtual environment, made if it is not there or not whole."""
    folder = (venvs / peer).absolute()
    interpreter = folder / "bin" / "python"
    if interpreter.exists() and subprocess.run([interpreter, "-c", PROBES[peer]], capture_output=True).returncode == 0:
        return interpreter
    version = subprocess.check_output([python, "-c", "import sys; print(*sys.version_info[:2])"], text=True).split()
    if not ("3", "11") <= tuple(version) <= ("3", "12"):
        raise ValueError(f"--python {python} is Python {'.'.join(version)}: the peers need 3.11 or 3.12")
    print(f"installing {peer} into {folder} ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    for packages in PACKAGES[peer]:
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
    subprocess.run([interpreter, "-c", PROBES[peer]], check=True)
    return interpreter


def made_histories(users: int, items: int, events: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Histories of Beauty's shape: at least 5 events a user, geometric lengths, Zipf-like items, each at least once.

    Returns
    -------
    items : int32 [E]
    offsets : int64 [U + 1]
    """
    if events < max(5 * users, items):
        raise ValueError(f"--events {events} should be at least 5 x {users} users and {items} items")
    random = np.random.default_rng(seed)
    extra = random.geometric(1 / (1 + (events - 5 * users) / users), users) - 1.0
    lengths = 5 + np.floor(extra * (events - 5 * users) / max(1.0, extra.sum())).astype(np.int64)
    np.add.at(lengths, random.integers(0, users, events - lengths.sum()), 1)
    popularity = 1 / (10 + np.arange(items)) ** 0.8
    drawn = random.choice(items, events - items, p=popularity / popularity.sum())
    numbers = random.permutation(np.concatenate([np.arange(items), drawn])) + 1
    return numbers.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def histories(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """Items and offsets of the data set asked for, and its name."""
    if args.data is None:
        made = made_histories(args.users, args.items, args.events, args.seed)
        return *made, "made histories"
    from recbase.data.catalog import load_dataset

    dataset = load_dataset(args.data)
    return *dataset.histories.flat(), dataset.name


def measured(interpreter: Path, library: str, task: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run one worker in a process of its own and read what it wrote."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [interpreter, WORKERS / f"with_{library}.py", task, "--folder", folder, "--result", result]
    command += ["--seconds", str(args.seconds), "--warmup", str(args.warmup)]
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(list(map(str, command)), env=os.environ | threads, cwd=folder, capture_output=True, text=True)
    if done.returncode or not result.exists():
        raise RuntimeError(f"{library} {task} failed:\n{done.stderr[-3000:]}")
    record: dict[str, Any] = json.loads(result.read_text())
    return record


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of every number of some runs."""
    numbers = [key for key, value in runs[0].items() if isinstance(value, int | float)]
    return {key: statistics.median(run[key] for run in runs) for key in numbers}


def judge(middle: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Compare the medians with the goals, as far as both sides were measured."""
    verdicts = []
    for what, peer, bound, goal in GOALS:
        task = "evaluate" if what == "users_per_second" else "train"
        ours, theirs = (middle.get(library, {}).get(task) for library in ("ours", peer))
        if ours is None or theirs is None:
            continue
        ratio = theirs[what] / ours[what] if what == "epoch_seconds" else ours[what] / theirs[what]
        reached = ratio >= goal if bound == "at least" else ratio <= goal
        verdicts.append({"what": what, "peer": peer, "ratio": ratio, "goal": f"{bound} {goal:g}", "reached": reached})
    return verdicts


def report(runs: dict[str, dict[str, list[dict[str, Any]]]], middle: dict[str, Any], verdicts: list[Any]) -> None:
    """Print medians with their spread, and the ratios beside the goals."""
    print(f"\n{'':10}{'epoch s (min-max)':>28}{'steps timed':>13}{'train MiB':>10}", end="")
    print(f"{'users/s (min-max)':>28}{'eval MiB':>10}")
    for library, tasks in runs.items():
        line = f"{library:10}"
        for task, name, width in (("train", "epoch_seconds", 28), ("evaluate", "users_per_second", 28)):
            if task not in tasks:
                line += " " * (width + (23 if task == "train" else 10))
                continue
            values, found = [run[name] for run in tasks[task]], middle[library][task]
            digits = 1 if task == "train" else 0
            spread = f"{found[name]:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
            line += f"{spread:>{width}}"
            if task == "train":
                line += f"{found['timed_steps']:>5.0f} of {found['epoch_steps']:<4.0f}{found['peak_mib']:>10,.0f}"
            else:
                line += f"{found['peak_mib']:>10,.0f}"
        print(line)
    print()
    for verdict in verdicts:
        mark = "reached" if verdict["reached"] else "MISSED"
        print(
            f"{TITLES[verdict['what']]:26} against {verdict['peer']:9}{verdict['ratio']:8.2f}   "
            f"goal {verdict['goal']:14}{mark}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set folder or name instead of made histories")
    parser.add_argument("--users", type=int, default=22_363, help="made users (default 22,363)")
    parser.add_argument("--items", type=int, default=12_101, help="made items (default 12,101)")
    parser.add_argument("--events", type=int, default=198_502, help="made events (default 198,502)")
    parser.add_argument("--seed", type=int, default=0, help="of the made histories")
    parser.add_argument("--libraries", default="ours,recbole,rectools", help="which to run (default all three)")
    parser.add_argument("--tasks", default="train,evaluate", help="train, evaluate or both (default)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of training timed a round (default 8)")
    parser.add_argument("--warmup", type=int, default=2, help="training steps before the clock runs (default 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every library (default: cores)")
    parser.add_argument("--venvs", type=Path, default=Path("runs/peers"), help="where the peers live (runs/peers)")
    parser.add_argument("--python", default=sys.executable, help="Python 3.11 or 3.12 that makes their environments")
    parser.add_argument("--install-only", action="store_true", help="make the environments and stop")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    args = parser.parse_args()
    libraries, tasks = args.libraries.split(","), args.tasks.split(",")
    for given, known in ((libraries, ["ours", *PACKAGES]), (tasks, list(TASKS))):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"{', '.join(unknown)} is unknown; choose from {', '.join(known)}")
    pythons = {peer: environment(peer, args.venvs, args.python) for peer in PACKAGES if peer in libraries}
    pythons["ours"] = Path(sys.executable)
    if args.install_only:
        return
    numbers, offsets, name = histories(args)
    print(f"{name}: {len(offsets) - 1:,} users, {int(numbers.max()):,} items, {len(numbers):,} events; ", end="")
    print(f"{args.threads} threads, {args.rounds} rounds")
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {library: {} for library in libraries}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "items.npy", numbers)
        np.save(folder / "offsets.npy", offsets)
        for number in range(args.rounds):
            for task in tasks:
                for library in libraries:
                    found = measured(pythons[library], library, task, folder, args)
                    runs[library].setdefault(task, []).append(found)
                    key = "epoch_seconds" if task == "train" else "users_per_second"
                    print(f"round {number + 1} {task:9}{library:10}{key} {found[key]:,.1f}", flush=True)
    middle = {library: {task: medians(found) for task, found in tasks.items()} for library, tasks in runs.items()}
    verdicts = judge(middle)
    report(runs, middle, verdicts)
    if args.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        content = {"settings": settings, "data": name, "medians": middle, "ratios": verdicts, "runs": runs}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
