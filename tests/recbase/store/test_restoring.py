"""What a folder holds against what it says: arrays, tables, constructor arguments, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recbase.store.restoring import Expected, build, check_arrays, load_weights, read_table

SOUND = {"book": np.ones((4, 2), np.float32), "used": np.array([True, False])}
EXPECTED = {"book": Expected((4, 2)), "used": Expected((None,), "b"), "turn": Expected((2, 2), required=False)}


def test_sound_arrays_pass() -> None:
    check_arrays("a.safetensors", SOUND, EXPECTED, "a thing")
    check_arrays("a.safetensors", SOUND | {"turn": np.eye(2, dtype=np.float32)}, EXPECTED, "a thing")
    largest = np.full((4, 2), 3e38, np.float32)  # its sum is infinite, none of its values is
    check_arrays("a.safetensors", SOUND | {"book": largest}, EXPECTED, "a thing")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"used": SOUND["used"]}, "a.safetensors lacks 'book', which a thing has"),
        (SOUND | {"x": np.ones(1)}, "a.safetensors holds 'x', which a thing does not have"),
        (SOUND | {"book": np.ones((2, 4), np.float32)}, r"a.safetensors: 'book' has shape \[2, 4\], expected \[4, 2\]"),
        (SOUND | {"used": np.ones((2, 1), bool)}, r"a.safetensors: 'used' has shape \[2, 1\], expected \[any\]"),
        (SOUND | {"book": np.ones((4, 2), int)}, "'book' holds int64, expected floating-point numbers"),
        (SOUND | {"book": np.full((4, 2), np.nan)}, "'book' holds NaN or infinity in 8 of 8 places"),
        (SOUND | {"book": np.array([[1, np.inf], [0, -np.inf]] * 2)}, "'book' holds NaN or infinity in 4 of 8 places"),
    ],
)
def test_other_arrays_are_named(arrays: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_arrays("a.safetensors", arrays, EXPECTED, "a thing")


def test_a_table_is_read_and_what_is_wrong_with_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pl.DataFrame({"item_id": ["a", "b"], "c0": [1, 2]})
    table.write_parquet(path)
    columns = {"item_id": "id", "c0": "whole"}
    assert read_table(path, columns, rows=2, distinct="item_id").equals(table)
    for arguments, sentence in (
        (({"item_id": "id", "c1": "whole"},), "has no column 'c1'; it has 'item_id', 'c0'"),
        (({"item_id": "whole"},), "has string in the column 'item_id', expected whole numbers"),
        ((columns, 3), "has 2 rows, expected 3"),
    ):
        with pytest.raises(ValueError, match=sentence) as raised:
            read_table(path, *arguments)
        assert str(path) in str(raised.value)
    pl.DataFrame({"item_id": ["a", "a"]}).write_parquet(path)
    with pytest.raises(ValueError, match="has the item_id 'a' more than once"):
        read_table(path, {"item_id": "id"}, distinct="item_id")
    pl.DataFrame({"item_id": ["a", None]}).write_parquet(path)
    with pytest.raises(ValueError, match="has 1 rows without item_id"):
        read_table(path, {"item_id": "id"})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is not a readable Parquet table: truncated or damaged"):
        read_table(path, {"item_id": "id"})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_table(tmp_path / "none.parquet", {})


def test_a_table_of_more_distinct_rows_than_its_bytes_can_hold_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"item_id": pl.repeat(7, 20_000_000, eager=True, dtype=pl.Int32)}).write_parquet(path)
    assert path.stat().st_size < 300_000
    with pytest.raises(ValueError, match=r"speaks of 20000000 rows in \d+ bytes: it is damaged"):
        read_table(path, {"item_id": "id"}, distinct="item_id")


class Model(nn.Module):
    """A table of vectors."""

    unfilled = ("recent",)

    def __init__(
        self,
        items: int,
        dim: int = 4,
        rate: float = 0.5,
        loss: Literal["ce", "bpr"] = "ce",
        sizes: list[int] | None = None,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if dim == 3:
            raise ZeroDivisionError("dim is 3")
        self.table = nn.Embedding(items, dim)
        self.register_buffer("codes", torch.zeros(items, 2, dtype=torch.int64))
        self.register_buffer("recent", torch.full((2,), torch.nan))

    def index_ranges(self) -> dict[str, Any]:
        """Largest codes."""
        return {"codes": (0, np.array([7, 3]))}


def test_arguments_are_those_of_the_constructor() -> None:
    made = build("c.json", Model, {"items": 5, "rate": 1, "sizes": [2, 3], "loss": "bpr"}, "a model", 1000)
    assert made.table.weight.shape == (5, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"items": 5, "width": 3}, "c.json: 'arguments' has 'width', which a model does not take"),
        ({}, "c.json: 'arguments' has no 'items', which a model needs"),
        ({"items": "5"}, "c.json: 'arguments.items' is \"5\", expected a whole number"),
        ({"items": True}, "c.json: 'arguments.items' is true, expected a whole number"),
        ({"items": 5, "rate": None}, "c.json: 'arguments.rate' is null, expected a finite number"),
        ({"items": 5, "loss": "x"}, "c.json: 'arguments.loss' is \"x\", expected one of ce, bpr"),
        ({"items": 5, "sizes": [1.5]}, r"'arguments.sizes' is \[1.5\], expected a list, each a whole number or null"),
        ({"items": 5, "tied": 1}, "c.json: 'arguments.tied' is 1, expected true or false"),
        ({"items": -1}, "c.json: its arguments make no model: "),
        ({"items": 5, "dim": 3}, "c.json: its arguments make no model: dim is 3"),
        ({"items": 10**9}, "c.json: its arguments make no model: they ask for more than 268,439,456 bytes"),
    ],
)
def test_other_arguments_are_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build("c.json", Model, arguments, "a model", 1000)


def test_weights_are_those_of_the_model() -> None:
    model, source = Model(5), Model(5)
    arrays = {name: value.numpy().copy() for name, value in source.state_dict().items()}
    load_weights("w.safetensors", model, arrays, "a model")
    assert torch.equal(model.table.weight, source.table.weight)
    codes = arrays["codes"].copy()
    codes[3, 1] = 4
    for change, sentence in (
        ({"table.weight": np.full((5, 4), np.nan, np.float32)}, "'table.weight' holds NaN or infinity in 20 of 20"),
        ({"codes": codes}, r"w.safetensors: 'codes' is 4 at \[3, 1\], expected numbers from 0 to 3"),
        ({"codes": codes - 9}, r"w.safetensors: 'codes' is -9 at \[0, 0\], expected numbers from 0 to 7"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_weights("w.safetensors", model, arrays | change, "a model")
