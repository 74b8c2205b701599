"""Recipes for Python callers: what was given stays, the recipe fills in the rest, and both are recorded."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace

from recbase.recipes import Given, described, filled
from recbase.train.loop import TrainConfig


@dataclass(frozen=True)
class Settings(Given):
    width: int = 8
    views: tuple[str, ...] = ("title",)


def test_a_recipe_fills_in_what_was_not_given() -> None:
    recipe = {"width": 16, "views": ("brand",), "unknown": 3}
    assert filled(Settings(), recipe) == Settings(16, ("brand",))
    assert filled(Settings(8), recipe) == Settings(8, ("brand",))  # given, though it is the default
    assert filled(Settings(views=("title",)), recipe) == Settings(16, ("title",))
    assert filled(copy.copy(Settings(8)), recipe) == Settings(8, ("brand",))
    assert filled(replace(Settings(), width=4), recipe) == Settings(4, ("title",))
    assert asdict(Settings()) == {"width": 8, "views": ("title",)}


def test_a_training_configuration_keeps_what_it_was_given() -> None:
    found = filled(TrainConfig(lr=1e-3, epochs=1), {"lr": 0.5, "batch_size": 7, "epochs": 400})
    assert (found.lr, found.batch_size, found.epochs) == (1e-3, 7, 1)


def test_what_is_otherwise_than_the_recipe_is_recorded() -> None:
    recipe = {"width": 16, "views": ("brand",), "lr": 0.1}
    assert described("paper", recipe, Settings(16, ("brand",)), {"lr": 0.1}) == {"recipe": "paper"}
    assert described("paper", recipe, {"width": 4, "views": ["brand"], "lr": 0.1}) == {
        "recipe": "paper",
        "changed": {"width": 4},
    }
    assert described(None, {}, {"width": 4}) == {"recipe": None}
