"""Exact best items of millions that are made of codes, beside dense scoring of their vectors; ratios of one run.

    python -m benchmarks.code_search --items 10000000 --rounds 5

Queries are of two kinds: drawn at random (the hard case), and vectors of items of the catalogue, which has codes by
product quantization. Dense scoring is PyTorch's product of the float32 table and a query, and its topk. Both sides use
the threads that are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from semtok import ProductQuantizer
from semtok.kernels.code_search import CodeSearch, code_tables

WIDTH, LEVELS, CODES = 64, 8, 256
QUERIES, BLOCK = 20, 500_000


def vectors_around(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors around centres, float32 [count, WIDTH]."""
    drawn = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.standard_normal((count, WIDTH))
    return drawn.astype(np.float32)


def catalogue(items: int, seed: int = 0) -> tuple[np.ndarray, ProductQuantizer, np.ndarray]:
    """Codes [N, L] of vectors around 2,000 centres, their quantizer, and some of the vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((2_000, WIDTH))
    quantizer = ProductQuantizer(levels=LEVELS, codebook_size=CODES).fit(vectors_around(centres, 60_000, rng))
    codes = np.empty((items, LEVELS), dtype=np.uint8)
    for start in range(0, items, BLOCK):
        block = vectors_around(centres, min(BLOCK, items - start), rng)
        codes[start : start + BLOCK] = quantizer.encode(block)
    return codes, quantizer, block[:QUERIES]


def timed(call: Callable[[int], Any], queries: int) -> list[float]:
    """Milliseconds of each query."""
    taken = []
    for row in range(queries):
        begun = time.perf_counter()
        call(row)
        taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def figures(taken: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"p50": round(statistics.median(taken), 2), "p99": round(float(np.percentile(taken, 99)), 2)}


def compared(
    search: CodeSearch, tables: list[np.ndarray], vectors: torch.Tensor, queries: np.ndarray, rounds: int
) -> dict[str, Any]:
    """Times of both sides in alternating rounds, and how many of their lists hold the same items."""
    scores, asked = [queries @ table.T for table in tables], torch.from_numpy(queries)

    def by_codes(row: int) -> Any:
        return search.search([part[row : row + 1] for part in scores], 10)

    def dense(row: int) -> Any:
        return (vectors @ asked[row]).topk(10)

    lists = [((dense(row).indices + 1).tolist(), by_codes(row).items[0].tolist()) for row in range(len(queries))]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours += timed(by_codes, len(queries))
        theirs += timed(dense, len(queries))
    return {
        "codes_ms": figures(ours),
        "dense_ms": figures(theirs),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 2),
        "same_lists": f"{sum(set(one) == set(other) for one, other in lists)} of {len(queries)}",
        "codes_megabytes": round(search.nbytes / 1e6),
        "dense_megabytes": round(vectors.nbytes / 1e6),
    }


def main() -> None:
    """Print one JSON line a kind of query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    codes, quantizer, near = catalogue(given.items)
    tables, _ = code_tables(quantizer)
    search = CodeSearch(codes, quantizer.sizes_, given.threads)
    vectors = torch.empty(given.items, WIDTH)
    for start in range(0, given.items, BLOCK):
        vectors[start : start + BLOCK] = torch.from_numpy(quantizer.decode(codes[start : start + BLOCK]))
    random = np.random.default_rng(1).standard_normal((QUERIES, WIDTH)).astype(np.float32)
    for kind, queries in (("random", random), ("items", near)):
        found = compared(search, tables, vectors, queries, given.rounds)
        print(json.dumps({"queries": kind, "items": given.items, "threads": given.threads} | found), flush=True)


if __name__ == "__main__":
    main()
