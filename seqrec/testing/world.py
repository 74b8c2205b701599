"""A small world for tests of ranking models: everyone walks from item i to item i + 1. Knows no model by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbase.data.sequences import Histories, SampleForm, SequenceBatches
from recbase.data.splits import Targets
from semtok.codes import ItemCodes
from seqrec.content import Attributes, ItemContent

__all__ = [
    "ITEMS",
    "USERS",
    "WALKED",
    "batches",
    "cycle",
    "drawn_content",
    "popular_world",
    "scores",
    "targets",
    "train",
]

ITEMS = 25
"""Items of the catalogue; the last one never occurs."""
WALKED = 24
USERS = 160


def cycle(users: int = USERS, length: int = 7) -> Histories:
    """Histories that walk the cycle 1 -> 2 -> ... -> 24 -> 1."""
    starts = np.random.default_rng(0).integers(0, WALKED, users)
    return Histories.from_lists([((start + np.arange(length)) % WALKED + 1).tolist() for start in starts])


def targets() -> Targets:
    """The step after each history of `cycle`."""
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


def drawn_content(inputs: Collection[str], items: int = ITEMS, histories: Histories | None = None) -> ItemContent:
    """Content of the kinds that a line of the registry lists, drawn at random.

    Parameters
    ----------
    inputs : collection of str
        Of ``ids``, ``text``, ``views``, ``codes``, ``images``, ``attributes``, ``histories``, ``sentences``,
        ``pictures``.
    items : int, default 25
    histories : Histories, optional
        For models that read those of the training; `cycle` if not given.
    """
    rng = np.random.default_rng(1)
    made: dict[str, Any] = {
        "text": rng.standard_normal((items, 16)).astype(np.float32),
        "views": rng.standard_normal((items, 2, 16)).astype(np.float32),
        "codes": ItemCodes(rng.integers(0, 6, (items, 4)), (6,) * 4, np.arange(items)),
        "images": rng.standard_normal((items, 12)).astype(np.float32),
        "attributes": Attributes(rng.integers(0, 6, (items, 3)).astype(np.int32), list("abcde")),
        "histories": cycle() if histories is None else histories,
        "sentences": [f"item number {number}" for number in range(items)],
        "pictures": [None] * items,
    }
    found = {source: made[source] for source in inputs if source in made}
    if "images" in found:
        found["missing_images"] = rng.random(items) < 0.2
    return ItemContent(**found)


def batches(model: Any, form: SampleForm, histories: Histories | None = None, **settings: Any) -> SequenceBatches:
    """Training batches as a training makes them."""
    settings = {"batch_size": 32, "max_len": 8, "seed": 0} | settings
    extra = model.batch_settings() if hasattr(model, "batch_settings") else {}
    return SequenceBatches(cycle() if histories is None else histories, form, **settings, **extra)


def train(
    model: Any, form: SampleForm = "all", epochs: int = 12, lr: float = 3e-3, histories: Histories | None = None
) -> list[float]:
    """Train with Adam and nothing else; the loss of every step."""
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


def scores(model: Any, lists: Sequence[Sequence[int]]) -> Tensor:
    """Scores [B, N] of some histories."""
    scorer = model.scorer()
    items, lengths = Histories.from_lists(lists).padded(slice(None), scorer.max_len)
    found: Tensor = scorer(torch.from_numpy(items), torch.from_numpy(lengths))
    return found
