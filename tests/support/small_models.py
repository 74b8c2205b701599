"""Every model of the registry in its smallest size, in a world where everyone walks from item i to item i + 1."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import Targets
from recbase.store.runs import resolve
from semtok.codes import ItemCodes
from seqrec import MODELS, REGISTRY
from seqrec.content import Attributes, ItemContent
from seqrec.training import build_model

ITEMS = 25  # the last one never occurs
WALKED = 24
USERS = 160

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


def cycle(users: int = USERS, length: int = 7) -> Histories:
    """Histories that walk the cycle 1 -> 2 -> ... -> 24 -> 1."""
    starts = np.random.default_rng(0).integers(0, WALKED, users)
    return Histories.from_lists([((start + np.arange(length)) % WALKED + 1).tolist() for start in starts])


def content(name: str, items: int = ITEMS, histories: Histories | None = None) -> ItemContent:
    """What the registry says that a model may read, drawn at random."""
    rng = np.random.default_rng(1)
    ids = np.arange(items)
    made = {
        "text": rng.standard_normal((items, 16)).astype(np.float32),
        "views": rng.standard_normal((items, 2, 16)).astype(np.float32),
        "codes": ItemCodes(rng.integers(0, 6, (items, 4)), (6,) * 4, ids),
        "images": rng.standard_normal((items, 12)).astype(np.float32),
        "attributes": Attributes(rng.integers(0, 6, (items, 3)).astype(np.int32), list("abcde")),
        "histories": cycle() if histories is None else histories,
        "sentences": [f"item number {number}" for number in range(items)],
        "pictures": [None] * items,
    }
    found = {source: made[source] for source in REGISTRY[name].inputs if source in made}
    if "images" in found:
        found["missing_images"] = rng.random(items) < 0.2
    return ItemContent(**found)


def build(name: str, **changes: Any) -> Any:
    """A model with its seeded start (counting models: fitted)."""
    torch.manual_seed(0)
    if name in COUNTED:
        return resolve(name, MODELS)(ITEMS, **changes).fit(cycle())
    return build_model(name, ITEMS, USERS, content(name), SMALL[name] | changes)


def batches(model: Any, form: str, histories: Histories | None = None, **settings: Any) -> SequenceBatches:
    """Training batches as the stages make them."""
    settings = {"batch_size": 32, "max_len": 8, "seed": 0} | settings
    extra = model.batch_settings() if hasattr(model, "batch_settings") else {}
    return SequenceBatches(cycle() if histories is None else histories, form, **settings, **extra)


def train(
    model: Any, form: str = "all", epochs: int = 12, lr: float = 3e-3, histories: Histories | None = None
) -> list[float]:
    """Adam without anything else; the loss of every step."""
    reader = batches(model, form, histories)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    losses = []
    model.train()
    for epoch in range(epochs):
        reader.set_epoch(epoch)
        for step in reader:
            for batch in step:
                out = model(batch)
                out.loss.backward()
            losses.append(float(out.loss.detach()))
            optimizer.step()
            optimizer.zero_grad()
    return losses


@functools.cache
def trained(name: str) -> tuple[Any, list[float]]:
    """A model that has learned the cycle in its default sample form, and its losses; made once."""
    model = build(name)
    if name in COUNTED:
        return model, []
    return model, train(model, REGISTRY[name].forms[0], **TRAINING.get(name, {}))


def scores(model: Any, lists: Sequence[Sequence[int]]) -> Tensor:
    """Scores [B, N] of some histories."""
    scorer = model.scorer()
    items, lengths = Histories.from_lists(lists).padded(slice(None), scorer.max_len)
    found: Tensor = scorer(torch.from_numpy(items), torch.from_numpy(lengths))
    return found


def targets() -> Targets:
    """The step after each training history."""
    histories = cycle()
    last = histories.items[histories.ends - 1]
    return Targets(np.arange(USERS), histories, (last % WALKED + 1).astype(np.int32))


def popular_world() -> tuple[Histories, Targets]:
    """Histories and next items drawn one by one from a Zipf law: all that can be learned is popularity."""
    rng = np.random.default_rng(5)
    law = 1 / np.arange(1, ITEMS)
    drawn = rng.choice(np.arange(1, ITEMS), (USERS, 9), p=law / law.sum())
    histories = Histories.from_lists(drawn[:, :-1].tolist())
    return histories, Targets(np.arange(USERS), histories, drawn[:, -1].astype(np.int32))
