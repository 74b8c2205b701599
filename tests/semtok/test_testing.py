"""The public contract of tokenizers: ours keep it, and tokenizers that break it are told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import semtok
from semtok.methods.residual import ResidualQuantizer
from semtok.registry import tokenizer_class
from semtok.testing import TokenizerContract

TESTS = [name for name in vars(TokenizerContract) if name.startswith("test_")]
SMALL = {
    "codebook_size": 16,
    "levels": 2,
    "steps": 5,
    "batch_size": 64,
    "latent_dim": 8,
    "hidden": (16,),
    "quiet": True,
}
FROM_VECTORS = [name for name in semtok.TOKENIZERS if not tokenizer_class(name).inputs]


def contract(kind: Any, **settings: Any) -> TokenizerContract:
    """The contract of a tokenizer, small."""
    import inspect

    known = inspect.signature(kind).parameters
    small = {name: value for name, value in SMALL.items() if name in known}
    made: TokenizerContract = type(
        "Contract",
        (TokenizerContract,),
        {"tokenizer": kind, "settings": small | settings, "nearest": kind.method != "random"},
    )()
    return made


def run(one: TokenizerContract, test: str, folder: Path) -> None:
    """Run a test as pytest would."""
    method = getattr(one, test)
    method(*([folder] if "tmp_path" in method.__code__.co_varnames[: method.__code__.co_argcount] else []))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", FROM_VECTORS)
def test_methods_of_ours_keep_it(name: str, test: str, tmp_path: Path) -> None:
    run(contract(tokenizer_class(name)), test, tmp_path)


class Drifting(ResidualQuantizer):
    """Does not keep a contract: codes depend on what stands beside a row."""

    def encode(self, X: Any) -> np.ndarray:
        return super().encode(np.asarray(X) - np.asarray(X).mean(0))


class Wide(ResidualQuantizer):
    """Does not keep a contract: a code lies outside of its level."""

    def encode(self, X: Any) -> np.ndarray:
        return super().encode(X) + 1


class Careless(ResidualQuantizer):
    """Does not keep a contract: its codes are not the nearest."""

    def encode(self, X: Any) -> np.ndarray:
        codes = super().encode(X)
        codes[:, -1] = (codes[:, -1] + 1) % self.sizes_[-1]
        return codes


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Drifting, "test_a_row_has_its_codes_whatever_stands_beside_it"),
        (Wide, "test_codes_lie_in_their_levels"),
        (Careless, "test_costs_agree_with_what_codes_stand_for"),
    ],
)
def test_a_tokenizer_that_breaks_it_fails(broken: Any, test: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(contract(broken), test, tmp_path)


def test_codes_that_keep_too_little_fail(tmp_path: Path) -> None:
    one = contract(tokenizer_class("random"))
    type(one).decodes_within = 0.5
    with pytest.raises(AssertionError, match="codes keep too little"):
        run(one, "test_codes_stand_for_vectors", tmp_path)
