"""Time and error of our quantizers beside those of faiss, in alternation, on made vectors.

    python benchmarks/quantizers.py --rows 50000 --tasks kmeans,pq,rq,rq-plain --rounds 3 --out quantizers.json
    python benchmarks/quantizers.py --rows 12101 --width 128 --tasks hierarchical --rounds 3

Every round runs each task once with each engine, on the same vectors; medians and the ratio of medians are printed,
with the error (mean squared reconstruction error divided by the variance) next to the time. "rq" is faiss's default
residual quantizer (progressive dimensions, beam 1) beside our default (plain k-means a level, better seeded);
"rq-plain" and "rq-progressive" compare like with like, "rq-beam" encodes with a beam. The shapes that the project is
held to are 12,101, 50,000 and 200,000 rows of 768 columns with 4 levels of 256 codes. "hierarchical" has a table of its
own: k-means of k-means until a cluster has no more items than codes, by faiss and by scikit-learn node after node, by
ours in its three forms; the error is that of the centroids of the last clusters. The machine must be otherwise
idle: two OpenMP programs at a time on two cores spoil each other's times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semtok.kernels.lloyd import import_faiss
from semtok.methods.hierarchical import HierarchicalKMeans
from semtok.methods.kmeans import KMeans
from semtok.methods.product import OptimizedProductQuantizer, ProductQuantizer
from semtok.methods.residual import ResidualQuantizer
from semtok.vector_tokenizer import VectorTokenizer

Maker = Callable[[str, argparse.Namespace], VectorTokenizer]


def _kmeans(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return KMeans(codebook_size=args.codebook_size, iterations=args.iterations, engine=engine, precision=args.precision)


def _pq(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return ProductQuantizer(
        levels=args.levels,
        codebook_size=args.codebook_size,
        iterations=args.iterations,
        engine=engine,
        precision=args.precision,
    )


def _opq(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return OptimizedProductQuantizer(
        levels=args.levels,
        codebook_size=args.codebook_size,
        iterations=args.iterations,
        engine=engine,
        precision=args.precision,
    )


def _rq(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return ResidualQuantizer(
        levels=args.levels, codebook_size=args.codebook_size, engine=engine, precision=args.precision
    )


def _rq_progressive(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return _rq(engine, args).set_params(start="progressive")


def _rq_plain(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return _rq(engine, args).set_params(iterations=args.iterations)


def _rq_beam(engine: str, args: argparse.Namespace) -> VectorTokenizer:
    return _rq(engine, args).set_params(beam=args.beam)


TASKS: dict[str, Maker] = {
    "kmeans": _kmeans,
    "pq": _pq,
    "opq": _opq,
    "rq": _rq,
    "rq-plain": _rq_plain,
    "rq-progressive": _rq_progressive,
    "rq-beam": _rq_beam,
}


def made_vectors(rows: int, width: int, topics: int, seed: int) -> np.ndarray:
    """Unit-norm vectors around topics, with a decaying spectrum: float32 [rows, width]."""
    random = np.random.default_rng(seed)
    spectrum = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    turn = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
    centers = random.standard_normal((topics, width), dtype=np.float32)
    vectors = random.standard_normal((rows, width), dtype=np.float32)
    vectors += centers[random.integers(topics, size=rows)]
    vectors = ((vectors * spectrum) @ turn).astype(np.float32, copy=False)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


class FaissBeside:
    """faiss's own training and encoding, without any of our code around it."""

    def __init__(self, task: str, args: argparse.Namespace) -> None:
        self.task, self.args = task, args

    def fit(self, vectors: np.ndarray) -> None:
        faiss = import_faiss()
        args, width = self.args, vectors.shape[1]
        bits = args.codebook_size.bit_length() - 1
        if self.task == "kmeans":
            self.kmeans = faiss.Kmeans(width, args.codebook_size, niter=args.iterations, min_points_per_centroid=1)
            self.kmeans.train(vectors)
            return
        if self.task in ("pq", "opq"):
            self.turn: Any = None
            if self.task == "opq":
                self.turn = faiss.OPQMatrix(width, args.levels)
                self.inner = faiss.ProductQuantizer(width, args.levels, bits)  # else 256 codes; kept alive here
                self.turn.pq = self.inner
                self.turn.train(vectors)
                vectors = self.turn.apply(vectors)
            self.quantizer = faiss.ProductQuantizer(width, args.levels, bits)
            self.quantizer.cp.niter = args.iterations
        else:
            self.quantizer = faiss.ResidualQuantizer(width, args.levels, bits)
            self.quantizer.max_beam_size = args.beam if self.task == "rq-beam" else 1
            if self.task == "rq-plain":
                self.quantizer.train_type = self.quantizer.Train_default
                self.quantizer.cp.niter = args.iterations
        self.quantizer.cp.min_points_per_centroid = 1
        self.quantizer.train(vectors)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        if self.task == "kmeans":
            found: np.ndarray = self.kmeans.assign(vectors)[1]
            return found
        turned = self.turn.apply(vectors) if self.task == "opq" else vectors
        codes: np.ndarray = self.quantizer.compute_codes(turned)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        if self.task == "kmeans":
            centroids: np.ndarray = self.kmeans.centroids[codes]
            return centroids
        decoded: np.ndarray = self.quantizer.decode(codes)
        return self.turn.reverse_transform(decoded) if self.task == "opq" else decoded


def measure(quantizer: VectorTokenizer | FaissBeside, vectors: np.ndarray, variance: float) -> dict[str, float]:
    """Seconds of fit and encode, and the relative error."""
    started = time.perf_counter()
    quantizer.fit(vectors)
    fitted = time.perf_counter()
    codes = quantizer.encode(vectors)
    encoded = time.perf_counter()
    decoded = quantizer.decode(codes)
    error = sum(float(np.square(a - b).sum(dtype=np.float64)) for a, b in zip(vectors, decoded, strict=True))
    return {"fit": fitted - started, "encode": encoded - fitted, "error": error / variance}


class TreeBeside:
    """Hierarchical k-means as one writes it with a peer: a fit for every cluster that has more items than codes."""

    def __init__(self, peer: str, args: argparse.Namespace) -> None:
        self.peer, self.args = peer, args

    def fit(self, vectors: np.ndarray) -> None:
        self.levels = self.nodes = 0
        self.last = np.empty_like(vectors)  # centroid of the last cluster of each item
        waiting = [(np.arange(len(vectors)), 1)]
        while waiting:
            rows, level = waiting.pop()
            self.levels = max(self.levels, level + 1)
            found = self._split(vectors[rows])
            order = np.argsort(found, kind="stable")
            for part in np.split(rows[order], np.flatnonzero(np.diff(found[order])) + 1):
                self.nodes += 1
                if len(part) > self.args.codebook_size and len(part) < len(rows):
                    waiting.append((part, level + 1))
                else:
                    self.last[part] = vectors[part].mean(0)

    def _split(self, vectors: np.ndarray) -> np.ndarray:
        size, args = self.args.codebook_size, self.args
        if self.peer == "faiss":
            kmeans = import_faiss().Kmeans(vectors.shape[1], size, niter=args.iterations, min_points_per_centroid=1)
            kmeans.train(vectors)
            found: np.ndarray = kmeans.assign(vectors)[1]
            return found
        from sklearn.cluster import KMeans as ReferenceKMeans

        reference = ReferenceKMeans(size, n_init=1, max_iter=args.iterations, random_state=args.seed)
        sample = vectors
        if len(vectors) > 256 * size:  # as faiss and ours do
            chosen = np.random.default_rng(args.seed).choice(len(vectors), 256 * size, replace=False)
            sample = vectors[np.sort(chosen)]
        labels: np.ndarray = reference.fit(sample).predict(vectors)
        return labels


OWN_TREES: dict[str, dict[str, Any]] = {
    "own variable": {"form": "variable"},
    "own capacity": {"form": "capacity"},
    "own balanced": {"form": "capacity", "balanced": True},
}


def hierarchical_runs(
    vectors: np.ndarray, variance: float, args: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Seconds, error, levels and clusters of every tree in every round."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for peer in () if args.no_faiss else args.trees.split(","):
            tree = TreeBeside(peer, args)
            started = time.perf_counter()
            tree.fit(vectors)
            taken = time.perf_counter() - started
            error = float(np.square(vectors - tree.last).sum(dtype=np.float64)) / variance
            found = {"fit": taken, "error": error, "levels": tree.levels, "nodes": tree.nodes}
            runs.setdefault(peer, []).append(found)
        for name, form in OWN_TREES.items():
            settings = {"codebook_size": args.codebook_size, "iterations": args.iterations, "precision": args.precision}
            own = HierarchicalKMeans(**settings, **form)
            started = time.perf_counter()
            codes = own.fit(vectors).codes_
            fitted = time.perf_counter()
            own.encode(vectors)
            encoded = time.perf_counter()
            if len(np.unique(codes, axis=0)) < len(codes):
                raise AssertionError(f"{name} gave two items the same codes")
            parts = (vectors[lo : lo + 8192] - own.decode(codes[lo : lo + 8192]) for lo in range(0, len(codes), 8192))
            error = sum(float(np.square(part).sum(dtype=np.float64)) for part in parts) / variance
            nodes = len(own.trees_["item"].code) - 1
            found = {"fit": fitted - started, "encode": encoded - fitted, "error": error, "levels": codes.shape[1]}
            runs.setdefault(name, []).append(found | {"nodes": nodes})
    return runs


def print_hierarchical(runs: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> None:
    """One line a tree: medians over the rounds."""
    print(f"hierarchical, K={args.codebook_size}, {args.iterations} iterations")
    print(
        f"{'':18}{'fit s (min-max)':>24}{'encode s':>10}{'error':>8}{'levels':>8}{'clusters':>10}{'time / faiss':>14}"
    )
    for name, found in runs.items():
        fits = [run["fit"] for run in found]
        line = f"{name:18}{statistics.median(fits):9.2f} ({min(fits):.2f}-{max(fits):.2f})".ljust(42)
        line += f"{statistics.median(run['encode'] for run in found):10.3f}" if "encode" in found[0] else " " * 10
        line += f"{statistics.median(run['error'] for run in found):8.4f}{found[0]['levels']:8}{found[0]['nodes']:10,}"
        if "faiss" in runs:
            line += f"{statistics.median(fits) / statistics.median(run['fit'] for run in runs['faiss']):14.2f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="vectors (default 50,000)")
    parser.add_argument("--width", type=int, default=768, help="columns (default 768)")
    parser.add_argument("--topics", type=int, default=2_000, help="topics the vectors gather around (default 2,000)")
    parser.add_argument("--vectors", type=Path, help="a .npy file of float32 vectors instead of made ones")
    parser.add_argument("--levels", type=int, default=4, help="codes a vector (default 4)")
    parser.add_argument("--codebook-size", type=int, default=256, help="codes a level (default 256)")
    parser.add_argument("--iterations", type=int, default=25, help="k-means iterations (default 25)")
    parser.add_argument("--beam", type=int, default=5, help="beam of rq-beam (default 5)")
    parser.add_argument("--precision", default="auto", help="of our distances: auto, float32 or bfloat16")
    parser.add_argument("--tasks", default="kmeans,pq,rq,rq-plain", help=f"of {','.join(TASKS)},hierarchical")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: as the environment says)")
    parser.add_argument("--seed", type=int, default=0, help="of the made vectors")
    parser.add_argument("--trees", default="faiss,scikit-learn", help="peers of hierarchical (default both)")
    parser.add_argument("--no-faiss", action="store_true", help="run ours alone")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    args = parser.parse_args()
    tasks = args.tasks.split(",")
    unknown = sorted(set(tasks) - {*TASKS, "hierarchical"})
    if unknown:
        parser.error(f"tasks {', '.join(unknown)} are unknown; choose from {', '.join(TASKS)}, hierarchical")
    if args.threads:
        torch.set_num_threads(args.threads)
        if not args.no_faiss:
            import_faiss().omp_set_num_threads(args.threads)
    made = made_vectors(args.rows, args.width, args.topics, args.seed)
    vectors = made if args.vectors is None else np.ascontiguousarray(np.load(args.vectors), dtype=np.float32)
    variance = float(np.square(vectors - vectors.mean(0)).sum(dtype=np.float64))
    runs: dict[str, list[dict[str, float]]] = {}
    trees = hierarchical_runs(vectors, variance, args) if "hierarchical" in tasks else {}
    tasks = [task for task in tasks if task != "hierarchical"]
    for _ in range(args.rounds):
        for task in tasks:
            if not args.no_faiss:
                runs.setdefault(f"{task} faiss", []).append(measure(FaissBeside(task, args), vectors, variance))
            runs.setdefault(f"{task} own", []).append(measure(TASKS[task]("torch", args), vectors, variance))
    print(
        f"{vectors.shape[0]} x {vectors.shape[1]}, {args.levels} levels of {args.codebook_size}, {args.rounds} rounds,"
    )
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, OMP_NUM_THREADS {threads}")
    if trees:
        print_hierarchical(trees, args)
    if tasks:
        print(f"{'':18}{'fit s (min-max)':>24}{'encode s':>10}{'error':>8}{'time / faiss':>14}{'error / faiss':>15}")
    table = {}
    for name, found in runs.items():
        middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
        table[name] = middle
        fits = [run["fit"] for run in found]
        line = f"{name:18}{middle['fit']:9.2f} ({min(fits):.2f}-{max(fits):.2f})".ljust(42)
        line += f"{middle['encode']:10.3f}{middle['error']:8.4f}"
        peer = table.get(name.replace(" own", " faiss"))
        if peer is not None and name.endswith(" own"):
            ratio = (middle["fit"] + middle["encode"]) / (peer["fit"] + peer["encode"])
            line += f"{ratio:14.2f}{middle['error'] / peer['error']:15.4f}"
        print(line)
    if args.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        args.out.write_text(
            json.dumps({"settings": settings, "medians": table, "runs": runs, "trees": trees}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
