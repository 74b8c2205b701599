"""Another project: it imports a tokenizer to turn its vectors into codes, and later needs NumPy alone.

python examples/other_project.py fit runs/tokenizer     # where torch and scikit-learn are installed
python examples/other_project.py use runs/tokenizer     # NumPy and safetensors suffice
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import semtok


def vectors(rows: int, seed: int) -> np.ndarray:
    """Vectors in clusters, float32 [rows, 32]; take your own."""
    centres = np.random.default_rng(0).normal(size=(20, 32))
    draw = np.random.default_rng(seed)
    return (centres[draw.integers(0, 20, rows)] + 0.3 * draw.normal(size=(rows, 32))).astype(np.float32)


def fit(folder: Path) -> None:
    """Fit on a thousand vectors and save the tokenizer."""
    known = vectors(1000, seed=1)
    tokenizer = semtok.ResidualQuantizer(levels=3, codebook_size=16).fit(known)
    codes = tokenizer.item_codes(known, item_ids=[f"item-{row}" for row in range(len(known))])
    print(f"{codes.collisions().rate:.1%} of the items share their code")
    tokenizer.save(folder, codes)


def use(folder: Path) -> None:
    """Encode new vectors, and see how near the decoded ones are."""
    before = set(sys.modules)
    tokenizer = semtok.load(folder, backend="numpy")
    new = vectors(5, seed=2)
    codes = tokenizer.encode(new)  # int32 [5, 3]
    error = np.square(new - tokenizer.decode(codes)).sum() / np.square(new - new.mean(0)).sum()
    print(codes)
    print(f"share of the variance lost: {error:.2f}")
    heavy = {"torch", "sklearn", "polars"} & (set(sys.modules) - before)
    print("imported for it:", ", ".join(sorted(heavy)) or "NumPy and safetensors alone")


def main() -> None:
    """Fit or use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["fit", "use"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    {"fit": fit, "use": use}[given.step](given.folder)


if __name__ == "__main__":
    main()
