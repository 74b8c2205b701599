"""The papers' protocols: what every row of a paper's tables has in common, and how far a run got towards it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.beauty import flat
from benchmarks.rows import metrics_of
from recbase.cli.options import options_from, recipes_from
from recbase.store.folder import open_folder

__all__ = ["PROTOCOLS", "Progress", "Protocol", "incomparable", "options_of", "progress_of", "recipe_of", "verdict"]

TOLERANCE = 0.05
"""Share of a published number that a reproduced one may lie below it."""


@dataclass(frozen=True)
class Protocol:
    """Words of a paper about how all its rows were measured, and the sizes of its data sets (users, items)."""

    split: str
    order: str
    seen: str
    encoder: str
    sets: Mapping[str, tuple[int, int]]


_AMAZON_2014 = {"Beauty": (22_363, 12_101), "Toys": (19_412, 11_924)}
_SPLIT = "leave-last-out, all items ranked"
_SEEN = "not said; ours: kept, and left out beside"

PROTOCOLS = {
    "ccfrec": Protocol(
        _SPLIT,
        "time",
        _SEEN,
        "sentence-t5",
        {
            "Instrument": (57_439, 24_587),
            "Scientific": (50_985, 25_848),
            "Game": (94_762, 25_612),
            "Baby": (150_777, 36_013),
        },
    ),
    "prorec": Protocol(
        "leave-last-out, lists of the beam search",
        "time; ties of a day not said",
        _SEEN,
        "llama-2-7b",
        _AMAZON_2014 | {"Sports": (35_598, 18_357)},
    ),
    "bbqrec": Protocol(
        "leave-last-out, lists of the beam search",
        "time; ties of a day not said",
        _SEEN,
        "sentence-t5",
        _AMAZON_2014 | {"Sports": (35_598, 18_357), "Clothing": (39_387, 23_033)},
    ),
    "tssr": Protocol(
        f"{_SPLIT}; trained until best on the test set, ours on validation",
        "time",
        _SEEN,
        "resnet-50 / bert, fine-tuned",
        {
            "H&M": (100_000, 61_574),
            "Yelp": (173_318, 36_208),
            "Phone": (128_647, 42_675),
            "Toy": (141_303, 55_285),
            "MIND": (768_079, 81_496),
        },
    ),
}

# Section 4.1.4 of CCFRec: embeddings of 128, one backbone (2 layers, 2 heads, hidden 512), patience 10, RecBole's
# losses (softmax). Learning rates were searched: the middle one. Its code reads the 20 latest items.
_CCFREC = {
    "dim": 128,
    "hidden": 128,
    "layers": 2,
    "heads": 2,
    "ffn": 512,
    "loss": "ce",
    "lr": 0.001,
    "batch_size": 2048,
    "optimizer": "adam",
    "patience": 10,
    "epochs": 500,
    "max_len": 20,
}
# "Hyper-parameter Settings" of TSSR: width 128, Adam at 1e-4, batches of 256, 4 heads, 2 layers. Passes until
# validation no longer rises, at most 200, are ours: the paper trains "until achieving the best" on its test set.
_TSSR = {
    "dim": 128,
    "hidden": 128,
    "layers": 2,
    "heads": 4,
    "attention_dropout": 0.1,
    "lr": 0.0001,
    "batch_size": 256,
    "optimizer": "adam",
    "epochs": 200,
    "patience": 10,
    "max_len": 10,
}
# "Experiment Settings" of BBQRec; others of its rows are RecBole's or the code of the method's authors.
_BBQREC = {"batch_size": 256, "max_len": 20}
_OWN_CODE = ("vqrec", "missrec", "letter", "bbqrec", "tiger")
_OWN_LOSS = ("maerec", "mmsr")  # MAERec is SSLRec's, MMSR its authors'
_TRAINING = ("lr", "batch_size", "optimizer", "patience", "epochs")


def recipe_of(paper: str, model: str, data_set: str) -> str:
    """The recipe of a row: CCFRec has one for each of its data sets."""
    named = f"paper-{data_set.lower()}"
    return named if paper == "ccfrec" and model == "ccfrec" and named in _recipes(model) else "paper"


def options_of(paper: str, model: str, data_set: str) -> list[str]:
    """The options that a paper's protocol sets for a model, where the model has them.

    PRORec copies the numbers of its baselines from other papers, so that their own recipes are its protocol.
    """
    if paper == "ccfrec" and model != "ccfrec":
        wanted = {key: value for key, value in _CCFREC.items() if key != "loss" or model not in _OWN_LOSS}
    elif paper == "tssr":
        wanted = _TSSR | ({"max_len": 20} if data_set == "MIND" else {})
    elif paper == "bbqrec" and model not in _OWN_CODE:
        wanted = _BBQREC
    else:
        return []
    has = {option.name for option in options_from(_target(model))} | set(_TRAINING)
    settled = {name: value for name, value in wanted.items() if name in has}
    if settled.get("loss") == "ce" and "ce" not in _losses(model):
        del settled["loss"]
    return [word for name, value in settled.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _losses(model: str) -> tuple[str, ...]:
    """The losses that a model may be trained with."""
    option = next((one for one in options_from(_target(model)) if one.name == "loss"), None)
    return () if option is None else tuple(getattr(option, "choices", None) or ("ce",))


def _target(model: str) -> str:
    from genrec import REGISTRY as GENERATORS
    from seqrec import REGISTRY as RANKERS

    return (GENERATORS[model] if model in GENERATORS else RANKERS[model]).target


def _recipes(model: str) -> Mapping[str, Any]:
    return recipes_from(_target(model))


@dataclass(frozen=True)
class Progress:
    """How far a run got: passes made, passes that its recipe allows, whether flat, and hours missing by its rate."""

    passes: int
    allowed: int
    flat: bool
    hours: float


def progress_of(folder: Path) -> Progress | None:
    """Progress of a finished run; None where it has no passes (a counter) or is not there."""
    found, path = metrics_of(folder), folder / "history.jsonl"
    if found is None or not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        return None
    training = open_folder(folder, "config.json", "run").manifest["training"]
    passes, seconds = int(lines[-1]["epoch"]), float(lines[-1]["seconds"])
    even = flat(folder, training["monitor"])
    # A run that its own patience ended has nothing missing.
    stopped = bool(training["patience"]) and passes < training["epochs"] and found.get("stopped") == "patience"
    missing = 0 if stopped or not passes else max(training["epochs"] - passes, 0)
    return Progress(passes, int(training["epochs"]), even, missing * seconds / max(passes, 1) / 3600)


def incomparable(paper: str, data_set: str, manifest: Mapping[str, Any], encoder: str | None) -> str:
    """Why a run cannot be held against the published row; empty where it can.

    Parameters
    ----------
    paper, data_set : str
    manifest : mapping
        Contents of the run's ``config.json``.
    encoder : str, optional
        Encoder of the item vectors; None where the run has none.
    """
    protocol = PROTOCOLS[paper]
    users, items = manifest["data"]["users"], manifest["data"]["items"]
    if (users, items) != protocol.sets[data_set]:
        theirs = protocol.sets[data_set]
        return f"{users:,} users and {items:,} items, the paper's {data_set} has {theirs[0]:,} and {theirs[1]:,}"
    if encoder is not None and not any(part in encoder.lower() for part in protocol.encoder.split(" / ")):
        return f"vectors of {encoder}, the paper's are of {protocol.encoder}"
    return ""


def verdict(
    published: Mapping[str, float | None],
    ours: Mapping[str, float] | None,
    progress: Progress | None,
    why_not: str = "",
) -> str:
    """The verdict on a row.

    Parameters
    ----------
    published : mapping
        The paper's metrics, None where it prints none.
    ours : mapping, optional
        Test metrics of our run; None if there is none.
    progress : Progress, optional
        None for a model without passes, which is never short of budget.
    why_not : str
        Why the two cannot be compared.

    Returns
    -------
    str
        ``not run``; ``not comparable: why``; ``reproduced`` (no metric more than 5 % below the published one);
        ``short by x %``, of the worst metric, with ``(budget)`` where validation was still rising.
    """
    if ours is None:
        return "not run"
    if why_not:
        return f"not comparable: {why_not}"
    gaps = [1 - ours[name] / value for name, value in published.items() if value and name in ours]
    if not gaps:
        return "not comparable: the paper prints no number"
    if max(gaps) <= TOLERANCE:
        return "reproduced"
    budget = progress is not None and not progress.flat and progress.hours > 0
    return f"short by {100 * max(gaps):.0f} %{' (budget)' if budget else ''}"
