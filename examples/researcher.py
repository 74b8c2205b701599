"""A researcher: an own model beside two others, three seeds each, compared user by user on one protocol.

python examples/researcher.py --epochs 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import seqrec
from recbase import load_dataset
from recbase.model import initialise
from recbase.nn.transformer import Packing
from seqrec import MODELS, REGISTRY, ModelEntry
from seqrec.sequential import SequentialModel

RECIPES = {"default": {"epochs": 20, "batch_size": 128, "lr": 5e-3}}


class Decay(SequentialModel):
    """A running mean of item vectors in which each older item weighs less.

    Parameters
    ----------
    items : int
        Items in the catalogue.
    dim : int, default 32
        Width of item vectors.
    decay : float, default 0.5
        Weight of an item beside the one after it.
    max_len : int, default 50
        Longest history, in items.
    """

    def __init__(self, items: int, dim: int = 32, decay: float = 0.5, max_len: int = 50) -> None:
        super().__init__(locals())
        self.decay = decay
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        initialise(self)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        age = torch.arange(items.shape[1], device=items.device)
        age = age[:, None] - age  # of the column's item at the row's step; negative in its future
        weights = torch.where(age >= 0, self.decay ** age.clamp(min=0).float(), 0.0)
        return packing.pack(weights @ self.item_embedding(items) / weights.sum(1, keepdim=True))


# The module by its name, as this file is `__main__` when it runs. A package names its entry in pyproject.toml instead,
# in the group seqrec.models.
REGISTRY["decay"] = ModelEntry("researcher:Decay", "none (an example)", ("ids",), "full softmax", ("all", "prefix"))
MODELS["decay"] = REGISTRY["decay"].target


def main() -> None:
    """Train, then print validation, test and the paired tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="a built-in data set or a folder of semtok prepare")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/researcher"))
    given = parser.parse_args()
    data = load_dataset(given.data)
    runs = [seqrec.train("transitions", data, out=given.out / "transitions", quiet=True)]
    for name in ("sasrec", "decay"):
        for seed in range(given.seeds):
            out = given.out / f"{name}-{seed}"
            runs.append(seqrec.train(name, data, epochs=given.epochs, seed=seed, out=out, quiet=True))
            print(name, seed, "validation ndcg@10", round(runs[-1].metrics["valid"]["ndcg@10"], 4))
    print(seqrec.compare(runs))


if __name__ == "__main__":
    main()
