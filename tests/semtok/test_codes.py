"""Item codes: checks, collisions, flat numbers, and the file."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semtok.codes import ItemCodes, load_codes


def some_codes() -> ItemCodes:
    codes = np.array([[0, 1], [2, 1], [0, 1], [1, 0], [1, 0], [0, 1]])
    return ItemCodes(
        codes, (3, 2), np.array(["a", "b", "c", "d", "e", "f"]), {"title": slice(0, 1), "brand": slice(1, 2)}
    )


def test_collisions_are_counted() -> None:
    found = some_codes().collisions()
    assert (found.items, found.groups, found.largest, found.distinct, found.total) == (5, 2, 3, 3, 6)
    assert found.rate == 5 / 6
    assert not some_codes().unique
    assert ItemCodes(np.array([[0], [1]]), (2,), np.array([7, 9])).unique


def test_flat_numbers_leave_zero_free_and_stack_ragged_levels() -> None:
    codes = ItemCodes(np.array([[0, 4, 1], [2, 0, 0]]), (3, 5, 2), np.array([1, 2]))
    assert codes.flat().tolist() == [[1, 8, 10], [3, 4, 9]]
    assert codes.flat(padding=True)[0].tolist() == [0, 0, 0]
    equal = ItemCodes(np.array([[3, 2]]), (4, 4), np.array([1]))
    assert equal.flat().tolist() == [[0 * 4 + 3 + 1, 1 * 4 + 2 + 1]]


def test_select_follows_the_order_asked_for() -> None:
    chosen = some_codes().select(["e", "b"])
    assert chosen.item_ids.tolist() == ["e", "b"]
    assert chosen.codes.tolist() == [[1, 0], [2, 1]]
    assert chosen.blocks == some_codes().blocks


def test_align_permutes_and_refuses_other_catalogues() -> None:
    codes = some_codes()
    aligned = codes.align(pl.Series(["f", "e", "d", "c", "b", "a"]))
    assert aligned.codes.tolist() == codes.codes[::-1].tolist()
    with pytest.raises(ValueError, match=r"of 6 items such as 'a', 'b', 'c' but the data has 2 items such as 'a', 'b'"):
        codes.align(["a", "b"])
    with pytest.raises(ValueError, match=r"1 of 6 items have no codes here, such as 'z'; these codes are of 6 items"):
        codes.align(["a", "b", "c", "d", "e", "z"])
    with pytest.raises(ValueError, match="string ids such as 'a', 'b', 'c', not integer ids such as 1, 2, 3"):
        codes.align([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("ids", [["a", "bé", "ccc"], [5, 3, 2**40]])
def test_saved_codes_are_read_back(tmp_path: Path, ids: list) -> None:
    codes = ItemCodes(np.array([[0, 9], [1, 2], [1, 2]]), (2, 10), np.array(ids), {"x": slice(0, 2)})
    codes.save(tmp_path)
    again = load_codes(tmp_path)
    assert again == codes
    assert again.item_ids.tolist() == ids
    assert again.codes.dtype == np.int32
    assert again.blocks == {"x": slice(0, 2)}
    assert again.hash == codes.hash


def test_hash_depends_on_every_part() -> None:
    table = np.array([[0, 1], [1, 0]])
    made = [
        ItemCodes(table, (2, 2), np.array(["a", "b"])),
        ItemCodes(table[::-1], (2, 2), np.array(["a", "b"])),
        ItemCodes(table, (2, 3), np.array(["a", "b"])),
        ItemCodes(table, (2, 2), np.array(["a", "c"])),
        ItemCodes(table, (2, 2), np.array(["ab", ""])),
        ItemCodes(table, (2, 2), np.array(["a", "b"]), {"x": slice(0, 1), "y": slice(1, 2)}),
    ]
    assert len({codes.hash for codes in made}) == len(made)
    assert made[0].hash == ItemCodes(table.astype(np.int64), (2, 2), np.array(["a", "b"], dtype="U9")).hash


def test_changed_table_is_refused(tmp_path: Path) -> None:
    some_codes().save(tmp_path)
    path = next(tmp_path.glob("codes.*.parquet"))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(ValueError, match="bytes"):
        load_codes(tmp_path)
    path.write_bytes(b"x" * size)
    with pytest.raises(ValueError, match="does not have the hash its manifest gives: the file is damaged"):
        load_codes(tmp_path)


@pytest.mark.parametrize(
    ("codes", "sizes", "ids", "message"),
    [
        ([[0, 3]], (4, 3), [1], r"codes\[0, 1\] is 3 but level 1 has codes 0 to 2"),
        ([[0, -1]], (4, 3), [1], r"codes\[0, 1\] is -1"),
        ([0, 1], (2,), [1, 2], "expected two dimensions"),
        ([[0.5]], (2,), [1], "expected integers"),
        ([[0, 1]], (2,), [1], "codes has 2 levels but sizes names 1"),
        ([[0], [1]], (2,), [1], "item_ids has 1 entries but codes has 2 rows"),
        ([[0], [1], [1]], (2,), ["a", "b", "a"], "1 ids more than once, such as 'a'"),
        ([[0], [1]], (2,), [1.5, 2.5], "expected strings or integers"),
        ([[0]], (0,), [1], "needs at least one code"),
    ],
)
def test_unusable_codes_are_refused(codes: list, sizes: tuple, ids: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemCodes(np.array(codes), sizes, np.array(ids))


def test_blocks_outside_the_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="block 'x' is columns 0 to 3 but codes has 2 columns"):
        ItemCodes(np.array([[0, 1]]), (2, 2), np.array([1]), {"x": slice(0, 3)})


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_groups_are_those_of_equal_tuples(data: st.DataObject) -> None:
    levels = data.draw(st.integers(1, 6))
    sizes = tuple(data.draw(st.sampled_from([1, 2, 3, 2**20])) for _ in range(levels))
    rows = data.draw(
        st.lists(st.tuples(*[st.integers(0, min(size, 3) - 1) for size in sizes]), min_size=1, max_size=30)
    )
    codes = ItemCodes(np.array(rows), sizes, np.arange(len(rows)))
    groups = codes.groups()
    assert [groups[i] == groups[0] for i in range(len(rows))] == [row == rows[0] for row in rows]
    assert codes.collisions().distinct == len(set(rows))
    assert groups.tolist() == [sorted(set(rows)).index(row) for row in rows]
