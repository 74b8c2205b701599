"""Generators, all their stages included, trained by the README's own command for several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from generators import FAST, TINY
from launches import trained_by_two

from genrec import MODELS, REGISTRY
from recbase.cli.options import recipes_from
from recbase.data.catalog import load_dataset

RECIPES = [(name, recipe) for name in REGISTRY for recipe in sorted({"default", *recipes_from(MODELS[name])})]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the synthetic world; runs beside it share what was made of its items."""
    root = tmp_path_factory.mktemp("world")
    load_dataset("synthetic", users=120, items=60).save(root / "data")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_trains_on_two_processes(name: str, recipe: str, world: Path) -> None:
    # codes for the ten groups of LETTER's recipe; lists as long as the paper recipe of PRORec is validated by
    room = {"letter": ["--codebook-size", 24], "prorec": ["--valid-beams", 20]}.get(name, [])
    words = ["train", name, "--recipe", recipe, "--data", world / "data", *TINY, *FAST[name], *room]
    metrics = trained_by_two("genrec", world / f"{name}-{recipe}", *words)
    assert metrics["recipe"] == recipe
    assert metrics["test"]["invalid"] == metrics["test"]["duplicates"] == 0
