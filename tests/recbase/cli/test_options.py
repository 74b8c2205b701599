"""Options are read from source: names, types, defaults and help, without an import of what they describe."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from recbase.cli.options import (
    Command,
    add_options,
    attribute_of,
    chosen,
    failures,
    given,
    options_from,
    print_json,
    progress,
    recipe_of,
    recipes_from,
    section_of,
    shared,
    summary_of,
    union,
)

MODEL = '''
"""A module that must never be imported."""
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Literal
raise RuntimeError("imported")

LEVELS = 4
Loss = Literal["ce", "bce"]
RECIPES = {"default": {"dim": 32}, "paper": {"dim": 128, "dropout": 0.5}}


class Base:
    """A base.

    Parameters
    ----------
    seed : int, default 0
        Seed of everything random.

    Notes
    -----
    Somebody, Something, Somewhere 2011.

    Examples
    --------
    >>> 1
    1
    """

    inputs = ("vectors",)
    levels: int = LEVELS
    later: str

    def __init__(self, items, *, seed: int = 0, table: Tensor | None = None):
        pass


class Child(Base):
    """Takes its parent's signature. And more."""

    inputs = ("sequences",)


class Model(Base):
    """Codes in, scores out.

    Parameters
    ----------
    n_items : int
        Number of items.
    dim, width : int
        Width of the model, in numbers a position.
        This sentence belongs to it.
    dropout : float, default 0.1
        Share of activations dropped; 0 turns it off. A second sentence follows that makes this paragraph very long, so
        that only the first one is shown.

        A second paragraph.

    Raises
    ------
    dim : never
        Not help.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 16 * LEVELS,
        width: int | None = None,
        dropout: float = 0.1,
        loss: Loss = "ce",
        levels: int = LEVELS,
        hidden: tuple[int, ...] = (512, 128),
        clip: float | None = 1.0,
        tied: bool = True,
        negatives: int | Literal["auto"] = "auto",
        device: torch.device = None,
        init=0.02,
    ):
        pass


@dataclass
class Config:
    lr: float = 1e-3
    """Learning rate."""
    epochs: int = field(default=10)
    """Passes over the users."""
    tags: list[str] = field(default_factory=list)
    name: str = "x"


@dataclass
class Longer(Config):
    epochs: int = 20
    warmup: int = 0


def prepare(source: str, k_core: int = 5, ties: str = "file") -> None:
    """Prepare.

    Parameters
    ----------
    k_core : int, default 5
        Fewest events of a user and of an item.
    ties : {"file", "item"}, default "file"
        Order of equal stamps; see :func:`~package.order`.
    """


class Bad:
    def __init__(self, seed: int = time()):
        pass
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"options_sample_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def by_name(options):
    return {option.name: option for option in options}


def run(command, *arguments):
    return CliRunner().invoke(command, list(arguments))


def test_signature_is_read_without_import(module):
    options = by_name(options_from(f"{module}:Model", skip=("tied",)))
    assert " ".join(options) == "dim width dropout loss levels hidden clip negatives init"
    assert module not in sys.modules
    assert options["dim"].default == 64
    assert options["dim"].help == "Width of the model, in numbers a position. This sentence belongs to it."
    assert options["dropout"].help == "Share of activations dropped; 0 turns it off."
    assert (options["loss"].kind, options["loss"].choices) == ("choice", ("ce", "bce"))
    assert (options["width"].kind, options["width"].optional) == ("int", True)
    assert (options["hidden"].kind, options["hidden"].default) == ("ints", (512, 128))
    assert (options["negatives"].kind, options["negatives"].choices) == ("mixed", ("auto",))
    assert options["init"].kind == "float"


def test_bases_dataclasses_and_functions(module):
    assert [option.name for option in options_from(f"{module}:Child")] == ["seed"]
    assert options_from(f"{module}:Child")[0].help == "Seed of everything random."
    config = by_name(options_from(f"{module}:Config"))
    assert {name: option.default for name, option in config.items()} == {"lr": 1e-3, "epochs": 10, "name": "x"}
    assert config["lr"].help == "Learning rate."
    assert config["name"].help == ""
    longer = by_name(options_from(f"{module}:Longer"))
    assert {name: option.default for name, option in longer.items()} == {
        "lr": 1e-3,
        "name": "x",
        "epochs": 20,
        "warmup": 0,
    }
    k_core, ties = options_from(f"{module}:prepare")
    assert (k_core.default, k_core.help) == (5, "Fewest events of a user and of an item.")
    assert (ties.kind, ties.choices) == ("choice", ("file", "item"))
    assert ties.help == "Order of equal stamps; see package.order."
    assert summary_of(f"{module}:Model") == "Codes in, scores out."


def test_sections_and_class_attributes_are_read_from_source(module):
    assert section_of(f"{module}:Base", "Notes") == "Somebody, Something, Somewhere 2011."
    assert section_of(f"{module}:Base", "Examples") == ">>> 1 1"
    assert section_of(f"{module}:Base", "See Also") == ""
    assert attribute_of(f"{module}:Base", "inputs") == ("vectors",)
    assert attribute_of(f"{module}:Child", "inputs") == ("sequences",)
    assert attribute_of(f"{module}:Child", "levels") == 4
    assert attribute_of(f"{module}:Child", "later", "nothing") == "nothing"
    assert attribute_of(f"{module}:Config", "inputs", ()) == ()


def test_unreadable_sources_are_named(module):
    with pytest.raises(ValueError, match=r"default of seed in .*:__init__ is 'time\(\)'; expected a literal"):
        options_from(f"{module}:Bad")
    with pytest.raises(ValueError, match=r"'.*:Nothing' names no class or function"):
        options_from(f"{module}:Nothing")
    with pytest.raises(ImportError, match="module 'no_such_module' does not exist"):
        options_from("no_such_module:X")


def command_of(module, seen):
    options = options_from(f"{module}:Model")

    @click.command(cls=Command)
    @add_options(shared("recipe", "seed", "as_json", seed=7))
    @add_options(options, section="Model")
    @failures
    def train(recipe, **rest):
        """Train."""
        seen["typed"] = given()
        seen["kwargs"] = chosen(options, recipe_of(f"{module}:Model", recipe))
        seen["rest"] = rest

    return train


def test_typed_values_win_over_recipe_over_default(module):
    seen = {}
    command = command_of(module, seen)
    assert run(command, "--recipe", "paper", "--dropout", "0.1", "--hidden", "64, 32", "--no-tied").exit_code == 0
    assert seen["kwargs"] == {
        "dim": 128,
        "width": None,
        "dropout": 0.1,
        "loss": "ce",
        "levels": 4,
        "hidden": (64, 32),
        "clip": 1.0,
        "tied": False,
        "negatives": "auto",
        "init": 0.02,
    }
    assert seen["typed"] == {"recipe", "dropout", "hidden", "tied"}
    assert seen["rest"]["seed"] == 7
    assert run(command, "--clip", "none", "--negatives", "1e3", "--dim", "1e2").exit_code == 0
    assert (seen["kwargs"]["clip"], seen["kwargs"]["negatives"], seen["kwargs"]["dim"]) == (None, 1000.0, 100)
    assert "clip" in seen["typed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dim", "wide"], "--dim must be a whole number, got 'wide'"),
        (["--dim", "1.5"], "--dim must be a whole number, got 1.5"),
        (
            ["--hidden", "1,x"],
            "--hidden must be comma-separated numbers, each of which must be a whole number, got '1,x'",
        ),
        (["--loss", "mse"], "'mse' is not one of ce, bce"),
        (["--negatives", "some"], "--negatives must be a finite number or one of auto, got 'some'"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_two(module, arguments, words):
    result = run(command_of(module, {}), *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_help_shows_sections_types_and_defaults(module):
    text = run(command_of(module, {}), "--help").stdout
    assert text.index("Options:") < text.index("--recipe") < text.index("Model:") < text.index("--hidden INT,INT,...")
    squeezed = " ".join(text.split())
    assert "--tied / --no-tied [default: on]" in squeezed
    assert "--clip [FLOAT|none] [default: 1.0]" in squeezed
    assert "--loss [ce|bce]" in squeezed
    assert "--hidden INT,INT,... [default: 512,128]" in squeezed


def test_unknown_recipe_is_one_sentence(module):
    result = run(command_of(module, {}), "--recipe", "best")
    assert result.exit_code == 1
    assert result.stderr == "Error: recipe 'best' is unknown for Model; known: default, paper\n"
    assert recipes_from(f"{module}:Config")["default"] == {"dim": 32}
    assert recipe_of("recbase.cli.options:Option", "default") == {}


def test_failures_are_one_line_and_traceback_is_on_demand():
    @click.command(cls=Command)
    @click.argument("kind")
    @failures
    def fail(kind):
        if kind == "file":
            open("/no/such/file").close()
        raise {"value": ValueError("levels is 0\nexpected 1 or more"), "key": KeyError("x")}[kind]

    assert run(fail, "value").stderr == "Error: levels is 0 expected 1 or more\n"
    assert run(fail, "file").stderr == "Error: No such file or directory: /no/such/file\n"
    assert run(fail, "key").stderr.startswith("Error: unexpected data or a fault of this program: 'x' is missing (")
    assert run(fail, "value").exit_code == 1
    assert isinstance(run(fail, "value", "--debug").exception, ValueError)


def test_union_names_owners_and_differing_defaults(module):
    one, two = options_from(f"{module}:Config"), options_from(f"{module}:Longer")
    united = by_name(union({"a": one, "b": two}))
    assert united["epochs"].shown == "10 (a); 20 (b)"
    assert united["lr"].shown is None
    assert united["warmup"].help.endswith("[b]")
    with pytest.raises(ValueError, match="option name is str in one of a, b and bool in another"):
        union({"a": options_from(f"{module}:Config"), "b": [shared("seed")[0].__class__("name", "bool", True)]})


def test_shared_names_are_checked():
    with pytest.raises(ValueError, match="option 'sead' is not shared; known: data,"):
        shared("sead")
    assert [option.spelled for option in shared("as_json", "max_seconds")] == ["--json", "--max-seconds"]


def test_json_is_strict(capsys):
    import numpy as np

    print_json({"a": float("nan"), "b": np.float32(0.5), "c": (1, np.arange(2)), 3: None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 0.5, "c": [1, [0, 1]], "3": None}


def test_progress_is_silent_without_a_terminal(capsys):
    with progress("encode", 3) as advance:
        advance()
        advance(2, text="loss 1.0")
    assert capsys.readouterr() == ("", "")


def test_no_torch_is_loaded():
    code = (
        "import sys, recbase.cli.options; print([m for m in ('torch', 'numpy', 'rich', 'polars') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
