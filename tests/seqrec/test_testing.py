"""The public contract of ranking models: ours keep it, and models that break it are told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import EXCEPTIONS, SMALL, TRAINING

import seqrec.models.sasrec
from seqrec.models.sasrec import SASRec
from seqrec.testing import RankerContract

TESTS = [name for name in vars(RankerContract) if name.startswith("test_")]


def contract(name: str, **changes: Any) -> RankerContract:
    """The contract of a model of ours."""
    given = TRAINING.get(name, {})
    facts = {
        "model": name,
        "settings": SMALL.get(name, {}),
        "learns": name not in EXCEPTIONS["learns the next item"],
        "epochs": given.get("epochs", 12),
        "lr": given.get("lr", 3e-3),
        "micro_batches_sum": name not in EXCEPTIONS["micro-batches sum to the step"],
    }
    made: RankerContract = type("Contract", (RankerContract,), facts | changes)()
    return made


def run(one: RankerContract, test: str, folder: Path) -> None:
    """Run a test as pytest would."""
    method = getattr(one, test)
    method(*([folder] if "tmp_path" in method.__code__.co_varnames[: method.__code__.co_argcount] else []))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", ["popularity", "transitions", "sasrec", "gru4rec", "bert4rec", "ccfrec", "bpr", "din"])
def test_models_of_ours_keep_it(name: str, test: str, tmp_path: Path) -> None:
    run(contract(name), test, tmp_path)


class Forgetful(SASRec):
    """Does not keep a contract: forgets a weight when it is saved."""

    def state_dict(self, *given: Any, **named: Any) -> Any:
        found = super().state_dict(*given, **named)
        found["item_embedding.weight"] = torch.zeros_like(found["item_embedding.weight"])
        return found


class Peeking(SASRec):
    """Does not keep a contract: a state sees what comes after it."""

    def states(self, items: Any, packing: Any, users: Any = None) -> Any:
        found = super().states(items, packing, users)
        return found + found.sum(0, keepdim=True)


class Idle(SASRec):
    """Does not keep a contract: has a weight that no loss reaches."""

    def __init__(self, items: int, dim: int = 64, max_len: int = 50, **others: Any) -> None:
        super().__init__(items, dim, max_len=max_len, **others)
        self.unread = torch.nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgetful, "test_a_run_folder_gives_the_model_back"),
        (Peeking, "test_a_form_all_shows_no_label"),
        (Peeking, "test_padding_changes_nothing"),
        (Idle, "test_every_parameter_is_trained"),
    ],
)
def test_a_model_that_breaks_it_fails(
    broken: type[SASRec], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seqrec.models.sasrec, "SASRec", broken)
    broken.__module__, broken.__qualname__ = "seqrec.models.sasrec", "SASRec"
    with pytest.raises(AssertionError):
        run(contract("sasrec"), test, tmp_path)


def test_one_that_learns_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="walks go on with the wrong item"):
        run(contract("popularity", learns=True), "test_it_learns_the_next_item", tmp_path)
