"""Every model of the registry in its smallest size, in a world where everyone walks from item i to item i + 1."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from recbase.data.sequences import Histories
from recbase.store.runs import resolve
from seqrec import MODELS, REGISTRY
from seqrec.content import ItemContent
from seqrec.testing.world import (
    ITEMS,
    USERS,
    WALKED,
    batches,
    cycle,
    drawn_content,
    popular_world,
    scores,
    targets,
    train,
)
from seqrec.training import build_model

__all__ = [
    "COUNTED",
    "EXCEPTIONS",
    "ITEMS",
    "SHOWN",
    "SMALL",
    "TRAINED",
    "TRAINING",
    "USERS",
    "WALKED",
    "batches",
    "build",
    "content",
    "cycle",
    "keeps",
    "popular_world",
    "scores",
    "targets",
    "train",
    "trained",
]

TRAINED = [name for name, entry in REGISTRY.items() if entry.kind == "trained"]
COUNTED = [name for name, entry in REGISTRY.items() if entry.kind == "counted"]
SHOWN = TRAINED + COUNTED

_BLOCKS = {"dim": 32, "ffn": 64, "dropout": 0.0, "max_len": 8}
SMALL: dict[str, dict[str, Any]] = {
    "bpr": {"dim": 16, "max_len": 8},
    "gru4rec": {"dim": 32, "hidden": 32, "dropout": 0.0, "max_len": 8},
    "caser": {"dim": 16, "window": 3, "vertical": 2, "horizontal": 4, "dropout": 0.0, "max_len": 8},
    "hgn": {"dim": 32, "window": 3, "max_len": 8},
    "sasrec": _BLOCKS,
    "sasrec-jpq": _BLOCKS | {"splits": 4, "split_size": 8},
    "bert4rec": _BLOCKS | {"layers": 1, "last_prob": 0.5},
    "s3rec": _BLOCKS | {"layers": 1, "pretrain_epochs": 1},
    "fmlp": {"dim": 32, "layers": 1, "dropout": 0.0, "max_len": 8},
    "cl4srec": _BLOCKS | {"layers": 1},
    "duorec": _BLOCKS | {"layers": 1},
    "maerec": _BLOCKS | {"layers": 1, "rebuilt_edges": 16, "edge_negatives": 4, "mask_depth": 1},
    "hstu": {"dim": 32, "dropout": 0.0, "max_len": 8},
    "fdsa": _BLOCKS | {"layers": 1},
    "gru4rec-features": {"dim": 32, "hidden": 32, "dropout": 0.0, "max_len": 8},
    "sasrec-content": _BLOCKS | {"layers": 1},
    "sasrec-hybrid": _BLOCKS | {"layers": 1},
    "tssr": _BLOCKS | {"uni_layers": 1},
    "unisrec": _BLOCKS | {"layers": 1, "adaptor_dropout": 0.0},
    "vqrec": _BLOCKS | {"layers": 1},
    "nova": _BLOCKS | {"layers": 1, "last_prob": 0.8},
    "mv-rnn": {"dim": 16, "dropout": 0.0, "max_len": 8},
    "mv-trm": _BLOCKS | {"layers": 1},
    "mfn4rec": {"dim": 24, "memory": 16, "dropout": 0.0, "max_len": 8},
    "missrec": _BLOCKS | {"layers": 1, "heads": 2},
    "mmsr": {"dim": 32, "clusters": 6, "dropout": 0.0, "max_len": 8},
    "tedrec": _BLOCKS | {"layers": 1, "experts": 3, "gate_noise": 0.0},
    "din": {"dim": 32, "negatives": 12, "dropout": 0.0, "max_len": 10, "init_std": 0.1},
    "ccfrec": _BLOCKS | {"fusion_dropout": 0.0, "mask_share": 0.5},
}
"""Constructor arguments of each trained model: seconds on one core, no dropout."""

TRAINING: dict[str, dict[str, Any]] = {
    "bert4rec": {"epochs": 40, "lr": 1e-2},
    "caser": {"epochs": 25, "lr": 1e-2},
    "hgn": {"epochs": 15, "lr": 1e-2},
    "gru4rec": {"epochs": 25, "lr": 1e-2},
    "gru4rec-features": {"epochs": 25, "lr": 1e-2},
    "mv-rnn": {"epochs": 20, "lr": 1e-2},
    "mfn4rec": {"epochs": 20, "lr": 1e-2},
    "nova": {"epochs": 100, "lr": 5e-3},
    "din": {"epochs": 30, "lr": 1e-2},
    "fmlp": {"epochs": 5, "lr": 5e-3},
    "unisrec": {"epochs": 25, "lr": 6e-3},
    "cl4srec": {"epochs": 20, "lr": 1e-2},
    "ccfrec": {"epochs": 8, "lr": 6e-3},
}
"""What a model needs to learn the cycle, where it is not the usual."""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "learns the next item": {
        "popularity": "one list for everyone",
        "itemknn": "order-blind: neighbours on both sides score alike",
        "bpr": "order-blind",
    },
    "causality": {
        "bpr": "it reads no sequence: a user is a vector",
        "din": "it has no states: it scores one history with one item, and trains at one position a row",
    },
    "micro-batches sum to the step": {
        "cl4srec": "the contrast is within a micro-batch",
        "duorec": "the contrast is within a micro-batch",
        "ccfrec": "the alignment is within a micro-batch",
        "din": "batch norm takes its statistics from a micro-batch",
        "tssr": "the contrasts are within a micro-batch",
    },
    "two processes equal one": {
        "din": "batch norm takes its statistics from a process",
    },
}
"""Contracts that a model does not keep, and why."""


def keeps(contract: str, names: Sequence[str]) -> list[str]:
    """The models that keep a contract."""
    assert set(EXCEPTIONS[contract]) <= set(MODELS)
    return [name for name in names if name not in EXCEPTIONS[contract]]


def content(name: str, items: int = ITEMS, histories: Histories | None = None) -> ItemContent:
    """Content of the kinds that the registry says a model may read, drawn at random."""
    return drawn_content(REGISTRY[name].inputs, items, histories)


def build(name: str, **changes: Any) -> Any:
    """A model with its seeded start (counting models: fitted)."""
    torch.manual_seed(0)
    if name in COUNTED:
        return resolve(name, MODELS)(ITEMS, **changes).fit(cycle())
    return build_model(name, ITEMS, USERS, content(name), SMALL[name] | changes)


@functools.cache
def trained(name: str) -> tuple[Any, list[float]]:
    """A model that has learned the cycle in its default sample form, and its losses; made once."""
    model = build(name)
    if name in COUNTED:
        return model, []
    return model, train(model, REGISTRY[name].forms[0], **TRAINING.get(name, {}))
