"""Large catalogues: vectors a second and peak memory of PQ, RQ and hierarchical k-means on shards of made vectors.

    python benchmarks/catalogue.py --vectors 10_000_000 --folder runs/catalogue --out catalogue.json

Writes a folder of safetensors shards, each made from the seed and its number alone (unit-norm vectors around topics
that all shards share, with a decaying spectrum), unless the folder has them already. Then every method runs in a
process of its own, which opens the folder, fits, and encodes everything. Peak memory is that of the whole process;
"held" is the part of it that is not pages of files, which the system takes back when it needs them. The codes of
hierarchical k-means must be unique, or the run fails. The error is that of the first 100,000 vectors, relative to their
variance; hierarchical k-means has other levels than the others (the least that will do). The machine must be otherwise
idle for the times to mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from semtok.content.shards import ShardedEmbeddings, write_shard

METHODS = ("pq", "rq", "hierarchical")
VIEW = "item"


def made_shard(seed: int, number: int, rows: int, width: int, topics: int) -> np.ndarray:
    """Vectors of one shard: float32 [rows, width] of length 1."""
    shared = np.random.default_rng([seed, 0])
    spectrum = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    centers = shared.standard_normal((topics, width), dtype=np.float32)
    random = np.random.default_rng([seed, 1 + number])
    vectors = random.standard_normal((rows, width), dtype=np.float32)
    vectors += centers[random.integers(topics, size=rows)]
    vectors *= spectrum
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def write_catalogue(folder: Path, args: argparse.Namespace) -> float:
    """Make the shards that are not there yet; seconds."""
    started = time.perf_counter()
    settings = {name: getattr(args, name) for name in ("vectors", "width", "shard_rows", "topics", "seed")}
    noted = folder / "catalogue.json"
    if noted.is_file() and json.loads(noted.read_text()) == settings:
        return 0.0
    if noted.is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, lo in enumerate(range(0, args.vectors, args.shard_rows)):
        rows = min(args.shard_rows, args.vectors - lo)
        write_shard(folder, number, {VIEW: made_shard(args.seed, number, rows, args.width, args.topics)})
    noted.write_text(json.dumps(settings))
    return time.perf_counter() - started


class Watch:
    """Highest resident memory of this process in MiB, all of it and without the pages of mapped files."""

    def __init__(self) -> None:
        self.held = self.all = 0.0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.stopped.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            said = {line.split(":")[0]: line.split() for line in lines if line.startswith(("VmRSS", "RssFile"))}
            whole, files = int(said["VmRSS"][1]) / 1024, int(said["RssFile"][1]) / 1024
            self.all, self.held = max(self.all, whole), max(self.held, whole - files)


def run_method(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fit and encode the catalogue in this process."""
    from semtok.registry import tokenizer_class

    settings: dict[str, Any] = {"codebook_size": args.codebook_size, "seed": args.seed, "precision": args.precision}
    if method != "hierarchical":
        settings["levels"] = args.levels
    catalogue = ShardedEmbeddings(args.folder)
    matrix, _ = catalogue.matrix()
    tokenizer = tokenizer_class(method)(**settings)
    with Watch() as watch:
        started, busy = time.perf_counter(), time.process_time()
        tokenizer.fit(matrix)
        fitted, busy = time.perf_counter(), time.process_time() - busy
        codes = tokenizer.encode(matrix)
        encoded = time.perf_counter()
    if codes.shape != (args.vectors, len(tokenizer.sizes_)):
        raise AssertionError(f"{method} gave codes of shape {codes.shape} for {args.vectors} vectors")
    key = np.zeros(len(codes), dtype=np.int64)
    for column, size in zip(codes.T, tokenizer.sizes_, strict=True):
        key = key * size + column
    distinct = len(np.unique(key))
    if method == "hierarchical" and distinct < args.vectors:
        raise AssertionError(f"{args.vectors - distinct} of {args.vectors} items share their codes with others")
    sample = matrix[: min(args.vectors, 100_000)]
    decoded = tokenizer.decode(codes[: len(sample)])
    error = float(np.square(sample - decoded).sum() / np.square(sample - sample.mean(0)).sum())
    return {
        "method": method,
        "levels": len(tokenizer.sizes_),
        "fit_seconds": fitted - started,
        "fit_cpu_seconds": busy,
        "encode_seconds": encoded - fitted,
        "fit_vectors_per_second": args.vectors / (fitted - started),
        "encode_vectors_per_second": args.vectors / (encoded - fitted),
        "peak_mib": watch.all,
        "held_mib": watch.held,
        "error": error,
        "distinct": distinct,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000_000, help="items (default 10,000,000)")
    parser.add_argument("--width", type=int, default=128, help="columns (default 128)")
    parser.add_argument("--shard-rows", type=int, default=250_000, help="rows of a shard (default 250,000)")
    parser.add_argument("--topics", type=int, default=20_000, help="topics the vectors gather around (default 20,000)")
    parser.add_argument("--levels", type=int, default=4, help="codes of PQ and RQ (default 4)")
    parser.add_argument("--codebook-size", type=int, default=256, help="codes a level (default 256)")
    parser.add_argument("--precision", default="auto", help="of distances while fitting: auto, float32 or bfloat16")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {','.join(METHODS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/catalogue"), help="where the shards lie")
    parser.add_argument("--delete", action="store_true", help="delete the shards at the end")
    parser.add_argument("--seed", type=int, default=0, help="of vectors and methods")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(run_method(args.only, args)))
        return
    methods = args.methods.split(",")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        parser.error(f"methods {', '.join(unknown)} are unknown; choose from {', '.join(METHODS)}")
    made = write_catalogue(args.folder, args)
    size = sum(path.stat().st_size for path in args.folder.glob("part-*.safetensors"))
    print(f"{args.vectors:,} vectors of width {args.width}, {size / 2**30:.2f} GiB in shards, made in {made:.0f} s")
    threads = os.environ.get("OMP_NUM_THREADS", f"not set, {os.cpu_count()} cores")
    print(f"K={args.codebook_size}, {args.levels} levels of PQ and RQ, OMP_NUM_THREADS {threads}")
    print(
        f"{'':14}{'fit s':>9}{'vectors/s':>12}{'encode s':>10}{'vectors/s':>12}{'peak MiB':>10}{'held':>8}{'error':>8}"
    )
    results = []
    for method in methods:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", method]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        run = json.loads(found.stdout.splitlines()[-1])
        results.append(run)
        line = (
            f"{method:14}{run['fit_seconds']:9.1f}{run['fit_vectors_per_second']:12,.0f}{run['encode_seconds']:10.1f}"
        )
        line += f"{run['encode_vectors_per_second']:12,.0f}{run['peak_mib']:10,.0f}{run['held_mib']:8,.0f}"
        print(f"{line}{run['error']:8.4f}", flush=True)
    if args.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        args.out.write_text(json.dumps({"settings": settings, "runs": results}, indent=1) + "\n")
    if args.delete:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
