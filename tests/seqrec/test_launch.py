"""Models trained by the README's own command for several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launches import trained_by_two
from small_models import SMALL, TRAINED

from recbase.cli.options import recipes_from
from recbase.data.catalog import load_dataset
from recbase.store.runs import load_run
from seqrec import MODELS, REGISTRY

RECIPES = [(name, recipe) for name in TRAINED for recipe in sorted({"default", *recipes_from(MODELS[name])})]
CODES = ["--codebook-size", "8", "--code-levels", "2", "--pca", "16"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the synthetic world; runs beside it share what was made of its items."""
    root = tmp_path_factory.mktemp("world")
    load_dataset("synthetic", users=120, items=60).save(root / "data")
    return root


def small(name: str) -> list[Any]:
    words = [word for key, value in SMALL[name].items() for word in (f"--{key.replace('_', '-')}", value)]
    words += ["--epochs", "1"]
    return words + (CODES if "codes" in REGISTRY[name].inputs else [])


def test_the_default_precision_trains_one_model_on_two_processes(world: Path) -> None:
    out = world / "ccfrec-auto"
    metrics = trained_by_two("seqrec", out, "train", "ccfrec", "--data", world / "data", *small("ccfrec"))
    assert metrics["test"]["users"] == 120
    manifest = load_run(out, MODELS).manifest
    assert manifest["training"]["precision"] == "auto"
    assert list((world / "cache").glob("codes-*"))  # made by one of them, alone


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_trains_on_two_processes(name: str, recipe: str, world: Path) -> None:
    words = ["train", name, "--recipe", recipe, "--data", world / "data", *small(name)]
    words += (
        ["--encoder", "tfidf"] if "encoder" in recipes_from(MODELS[name]).get(recipe, {}) else []
    )  # it is on the hub
    metrics = trained_by_two("seqrec", world / f"{name}-{recipe}", *words)
    assert metrics["recipe"] == recipe


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sasrec", "mixed"])
def test_codes_of_a_sasrec_are_made_by_one_process_alone(kind: str, world: Path) -> None:
    words = ["train", "ccfrec", "--code-type", kind, "--data", world / "data", *small("ccfrec")]
    trained_by_two("seqrec", world / f"ccfrec-{kind}", *words)
    (stage,) = (world / "cache").glob("sasrec-*")
    assert load_run(stage, MODELS).manifest["model"] == "sasrec"
