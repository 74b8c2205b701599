"""Codes in the files of other projects: what is written comes back whole, anything else is refused."""

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from semtok.codes import ItemCodes
from semtok.exchange.formats import FORMATS, code_tokens, level_name, write_codes, write_faiss
from semtok.exchange.reading import format_of, methods_in, read_codes

NAMES = {"grid": ["x.safetensors", "x.npy"], "rpg": ["x.sem_ids", "x.json"], "table": ["x.parquet"]}
CASES = [(format, name) for format in FORMATS for name in NAMES.get(format, ["x.json"])]


def some_codes(ids: object = ("a", "b", "c", "d", "e", "f", "g")) -> ItemCodes:
    """Seven items, three levels of different sizes, two of them in one block."""
    table = np.array([[0, 3, 1], [2, 0, 0], [0, 3, 1], [1, 1, 0], [2, 4, 1], [0, 0, 0], [1, 3, 1]])
    return ItemCodes(table, (4, 9, 3), np.array(ids), {"title": slice(0, 2), "brand": slice(2, 3)})


@pytest.mark.parametrize("ids", [tuple("abcdefg"), (70, 10, 30, 20, 50, 60, 40), ("007", "7", "é", "1", "2", "3", "4")])
@pytest.mark.parametrize(("format", "name"), CASES)
def test_what_is_written_comes_back_whole(tmp_path: Path, format: str, name: str, ids: tuple) -> None:
    codes = some_codes(ids)
    write_codes(codes, tmp_path / name, format)
    assert format_of(tmp_path / name) == format
    again = read_codes(tmp_path / name)
    assert again == codes
    assert (again.sizes, again.blocks, again.item_ids.tolist()) == (codes.sizes, codes.blocks, list(ids))
    assert read_codes(tmp_path / name, item_ids=list(ids)[::-1]).codes.tolist() == codes.codes[::-1].tolist()
    assert read_codes(tmp_path / name, sizes=16).sizes == (16, 16, 16)


@given(st.data())
def test_any_codes_come_back_from_every_format(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=5)))
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, size - 1) for size in sizes]), min_size=1, max_size=6))
    codes = ItemCodes(np.array(rows), sizes, np.arange(len(rows)) * 3)
    format, name = data.draw(st.sampled_from(CASES))
    folder = tmp_path_factory.mktemp("formats")
    write_codes(codes, folder / name, format)
    assert read_codes(folder / name) == codes


def test_the_files_are_those_that_the_projects_write(tmp_path: Path) -> None:
    codes = some_codes()
    for format, name in [("index", "i"), ("grid", "g.safetensors"), ("rpg", "r"), ("ccfrec", "c"), ("table", "t")]:
        write_codes(codes, tmp_path / name, format)
    index = json.loads((tmp_path / "i").read_text())
    assert list(index) == ["0", "1", "2", "3", "4", "5", "6"]
    assert index["4"] == ["<a_2>", "<b_4>", "<c_1>"]
    tensor = load_file(tmp_path / "g.safetensors")["codes"]
    assert (tensor.shape, tensor.dtype) == ((3, 7), np.int64)
    assert tensor[:, 4].tolist() == [2, 4, 1]
    assert json.loads((tmp_path / "r").read_text())["e"] == [2, 4, 1]
    rows = json.loads((tmp_path / "c").read_text())
    assert (rows[0], rows[5], len(rows)) == ([], [2, 4, 1], 8)
    assert pl.read_parquet(tmp_path / "t").row(4) == ("e", 2, 4, 1)


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_files_of_others_are_read_without_notes(tmp_path: Path) -> None:
    index = write(tmp_path, "i.json", {"1": ["<a_1>", "<b_200>"], "0": ["<a_0>", "<b_7>"]})
    found = read_codes(index)
    assert (found.item_ids.tolist(), found.codes.tolist(), found.sizes) == ([0, 1], [[0, 7], [1, 200]], (256, 256))
    assert read_codes(index, sizes=[2, 201]).sizes == (2, 201)
    assert read_codes(index, item_ids=["x", "y"]).item_ids.tolist() == ["x", "y"]
    assert read_codes(index, item_ids=pl.Series([1, 0])).codes.tolist() == [[1, 200], [0, 7]]  # ids, not numbers
    images = write(tmp_path, "images.json", {"B01": "<A_1><B_2><x_0>", "B02": "<A_3><B_2><x_1>"})
    assert read_codes(images).codes.tolist() == [[1, 2, 0], [3, 2, 1]]
    assert read_codes(images).item_ids.tolist() == ["B01", "B02"]
    rpg = write(tmp_path, "r.sem_ids", {"11": [1, 2], "12": [3, 0]})
    assert read_codes(rpg).item_ids.tolist() == [11, 12]
    assert read_codes(rpg, item_ids=["12", "11"]).codes.tolist() == [[3, 0], [1, 2]]
    ccfrec = write(tmp_path, "c.json", [[], [5, 6], [7, 8]])
    assert read_codes(ccfrec, item_ids=["p", "q"]).select(["q"]).codes.tolist() == [[7, 8]]


@pytest.mark.parametrize("turned", [False, True])
def test_tensor_is_read_as_grid_keeps_it_before_and_after_it_is_turned(tmp_path: Path, turned: bool) -> None:
    table = np.array([[1, 2], [3, 4], [5, 6]])
    stored = np.ascontiguousarray(table.T if turned else table)
    assert read_codes(write(tmp_path, "x.npy", stored)).codes.tolist() == table.tolist()
    assert read_codes(write(tmp_path, "f.npy", stored.astype(np.float32))).codes.tolist() == table.tolist()
    save_file({"anything": stored}, tmp_path / "x.safetensors")
    assert read_codes(tmp_path / "x.safetensors").codes.tolist() == table.tolist()


def test_more_levels_than_items_need_the_sizes(tmp_path: Path) -> None:
    path = write(tmp_path, "x.npy", np.array([[1, 2], [3, 4], [5, 6]]))
    assert read_codes(path, sizes=[8, 8, 8]).codes.tolist() == [[1, 3, 5], [2, 4, 6]]


def test_table_of_several_methods_and_of_lists(tmp_path: Path) -> None:
    table = pl.DataFrame({"method": ["x/y", "x/y", "z"], "item_id": [5, 9, 5], "c0": [1, 2, 3], "c1": [0, 0, 4]})
    table.write_parquet(tmp_path / "several.parquet")
    assert methods_in(tmp_path / "several.parquet") == ["x/y", "z"]
    assert read_codes(tmp_path / "several.parquet", method="x/y").codes.tolist() == [[1, 0], [2, 0]]
    assert read_codes(tmp_path / "several.parquet", method="z").item_ids.tolist() == [5]
    with pytest.raises(ValueError, match="holds the codes of 2 methods; choose one of x/y, z"):
        read_codes(tmp_path / "several.parquet")
    with pytest.raises(ValueError, match="has no method 'q'; it has x/y, z"):
        read_codes(tmp_path / "several.parquet", method="q")
    pl.DataFrame({"pid": [3, 1], "codes": [[1, 2], [3, 4]]}).write_parquet(tmp_path / "lists.parquet")
    assert read_codes(tmp_path / "lists.parquet").select([1]).codes.tolist() == [[3, 4]]
    assert methods_in(tmp_path / "lists.parquet") == []


BAD = {
    "cut off": ("x.json", b'{"0": ["<a_1>"', "is not valid JSON in line 1$"),
    "a table of text": (
        "x.csv",
        b"item_id,c0\n1,2\n",
        "is not valid JSON in line 1, and its name is of none of the formats",
    ),
    "an empty id": ("x.json", b'{"": [1, 2], "a": [2, 3]}', "has an item whose id is empty"),
    "no text": ("x.json", b"\xff\xfe\x00", "is none of the formats index, grid"),
    "empty": ("x.json", {}, "its JSON holds no codes"),
    "a number": ("x.json", 3, "its JSON holds no codes"),
    "no token": ("x.json", {"0": ["<a_1>"], "1": ["a_1"]}, r"item '1' has \['a_1'\]; expected tokens such as <a_12>"),
    "half a token": ("x.json", {"0": ["<a_1>", "<b_2"]}, "expected tokens such as <a_12>"),
    "other letters": ("x.json", {"0": ["<a_1>"], "1": ["<b_1>"]}, "item '1' has the levels b but the first item a"),
    "other length": ("x.json", {"a": [1, 2], "b": [1]}, "item 'b' has 1 codes but the first item has 2"),
    "no whole number": ("x.json", {"a": [1, 2], "b": [1, 2.5]}, r"item 'b' has \[1, 2.5\]; expected whole numbers"),
    "below zero": ("x.json", {"a": [1, 2], "b": [1, -1]}, r"item 'b' has \[1, -1\]; expected whole numbers from 0"),
    "too large": ("x.json", {"a": [1], "b": [2**70]}, "item 'b' has .*; expected whole numbers"),
    "nested": ("x.json", {"a": [[1]], "b": [[2]]}, r"item 'a' has \[\[1\]\]; expected whole numbers"),
    "no list": ("x.json", {"a": [1], "b": None}, "item 'b' has None; expected its codes"),
    "an item twice": ("x.json", b'{"a": [1], "b": [1], "a": [2]}', "has the item 'a' more than once"),
    "no padding": ("x.json", [[1, 2], [3, 4]], r"row 0 is \[1, 2\]; expected \[\], the row of padding"),
    "padding alone": ("x.json", [[]], r"expected a list of codes, \[\] first"),
    "a row without codes": ("x.json", [[], [1], []], r"item 2 has \[\]; expected its codes"),
    "a pickle": ("x.pt", b"whatever", "is a pickle, and nothing is unpickled here"),
    "a pickle by another name": ("x.json", b"\x80\x04K\x01.", "is a pickle"),
    "objects": ("x.npy", np.array([[1, None]], dtype=object), "is not a readable .npy file of numbers"),
    "a vector": ("x.npy", np.arange(4), r"has shape \(4,\) and type int64; expected whole numbers \[L, N\]"),
    "vectors": ("x.npy", np.full((2, 3), 0.5), "has shape .* and type float64; expected whole numbers"),
    "below zero in a tensor": ("x.npy", np.full((2, 3), -1), r"codes\[0, 0\] is -1"),
    "a cut tensor": ("x.safetensors", b"\x10\x00\x00", "is not a readable safetensors file"),
    "no table": ("x.parquet", b"PAR1 nothing PAR1", "is not a readable Parquet table"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:.*allow_pickle.*")
def test_bad_files_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    file, content, words = BAD[name]
    path = write(tmp_path, file, content)
    with pytest.raises(ValueError, match=words) as raised:
        read_codes(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_archive_of_torch_is_refused_by_its_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "codes.json", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(ValueError, match="is a pickle, and nothing is unpickled here"):
        read_codes(tmp_path / "codes.json")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"item_id": [1], "c0": [1], "c2": [1]}, "has the levels c0, c2; expected c0, c1, ... without a gap"),
        ({"item_id": [1], "title": ["x"]}, "expected item_id and c0, c1, ... or one column of lists"),
        ({"item_id": [1, 1], "c0": [1, 2]}, "1 ids more than once"),
        ({"item_id": [1, 2], "c0": [1, None]}, "has 1 of 2 rows without a code in c0; expected one in every row"),
        ({"item_id": [1, 2], "c0": [1, -4]}, "expected whole numbers from 0"),
        ({"item_id": [1, 2], "codes": [[1], [1, 2]]}, "item 2 has 2 codes but the first item has 1"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, columns: dict, words: str) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=words):
        read_codes(tmp_path / "x.parquet")


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", {"0": ["<a_1>"], "1": ["<a_2>"]})
    with pytest.raises(ValueError, match="has codes of 2 items such as '0' but the data has 3 items such as 'p'"):
        read_codes(path, item_ids=["p", "q", "r"])
    rpg = write(tmp_path, "r.json", {"B1": [1], "B2": [2]})
    with pytest.raises(ValueError, match="such as 'B1' but the data has 2 items such as 'B3': they do not belong"):
        read_codes(rpg, item_ids=["B3", "B1"])
    with pytest.raises(ValueError, match=r"x\.json: codes\[1, 0\] is 2 but level 0 has codes 0 to 1"):
        read_codes(path, sizes=2)
    with pytest.raises(ValueError, match=r"x\.json: codes has 1 levels but sizes names 2"):
        read_codes(path, sizes=[4, 4])
    with pytest.raises(FileNotFoundError, match="nothing is not a file"):
        read_codes(tmp_path / "nothing")
    with pytest.raises(ValueError, match="format='csv' is not one of index, grid"):
        read_codes(path, format="csv")
    with pytest.raises(ValueError, match="holds the codes of one method; leave out 'rq'"):
        read_codes(path, method="rq")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.safetensors"):
        write_codes(some_codes(), tmp_path / "x.pt", "grid")


def test_notes_of_other_codes_are_refused(tmp_path: Path) -> None:
    write_codes(some_codes(), tmp_path / "x.json", "rpg")
    write(tmp_path, "x.json", {key: [0, 0, 0] for key in "abcdefg"})
    with pytest.raises(ValueError, match=r"holds other codes than x\.json\.semtok\.json says; delete that file"):
        read_codes(tmp_path / "x.json")
    write(tmp_path, "x.json.semtok.json", {"kind": "else"})
    with pytest.raises(ValueError, match=r"x\.json\.semtok\.json does not say what x\.json holds"):
        read_codes(tmp_path / "x.json")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_codes(some_codes(), tmp_path / "x.json", "rpg")
    before = (tmp_path / "x.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semtok.exchange.formats.os.replace", full)
    with pytest.raises(OSError, match=r"cannot write .*x\.json: No space left on device"):
        write_codes(some_codes(range(7)), tmp_path / "x.json", "rpg")
    assert (tmp_path / "x.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.json.semtok.json"]


def test_letters_of_levels() -> None:
    assert [level_name(level) for level in (0, 1, 25, 26, 27, 51, 52, 701, 702)] == [
        "a",
        "b",
        "z",
        "aa",
        "ab",
        "az",
        "ba",
        "zz",
        "aaa",
    ]
    assert code_tokens((2, 1)) == [["<a_0>", "<a_1>"], ["<b_0>"]]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_faiss_index_finds_the_nearest_decoded_vectors(tmp_path: Path, metric: str) -> None:
    faiss = pytest.importorskip("faiss", reason="semtok[faiss] is not installed")
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    write_faiss(vectors, some_codes(), tmp_path / "x.faiss", metric)
    index = faiss.read_index(str(tmp_path / "x.faiss"))
    queries = vectors + 0.1 if metric == "l2" else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = index.search(queries, 3)[1]
    if metric == "l2":
        expected = np.argsort(np.square(queries[:, None] - vectors).sum(2), axis=1)[:, :3]
    else:
        expected = np.argsort(-(queries @ queries.T), axis=1)[:, :3]
    assert found.tolist() == expected.tolist()
    assert json.loads((tmp_path / "x.faiss.semtok.json").read_text())["item_ids"] == list("abcdefg")
    with pytest.raises(ValueError, match="there are 7 items"):
        write_faiss(vectors[:3], some_codes(), tmp_path / "y.faiss")
    with pytest.raises(ValueError, match="metric='dot' is not one of cosine, l2"):
        write_faiss(vectors, some_codes(), tmp_path / "y.faiss", "dot")


def _sentence(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_codes(path)
    _check_sentence(str(caught.value), path)
    return str(caught.value)


def _check_sentence(text: str, path: Path) -> None:
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < len(str(path)) * 2 + 400


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, mark: str) -> None:
    (tmp_path / "x.index.json").write_text(
        mark + '{"0": ["<a_3>", "<b_1>"], "1": ["<a_0>", "<b_2>"]}', encoding="utf-8"
    )
    assert read_codes(tmp_path / "x.index.json").codes.tolist() == [[3, 1], [0, 2]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": [1, true]}', "item 'a' has \\[1, True\\]; expected whole numbers from 0"),
        ('{"a": [1, NaN]}', "item 'a' has \\[1, nan\\]"),
        ('{"a": [1, -1]}', "item 'a' has \\[1, -1\\]"),
        ('{"a": [1, 2.5]}', "item 'a' has \\[1, 2.5\\]"),
        ('{"a": [' + "9" * 5000 + "]}", "is not valid JSON"),
        ('{"a": ["<a_' + "9" * 5000 + '>"]}', "expected tokens such as"),
        ('{"a": ["<a_\u0661>"]}', "expected tokens such as"),
        ('{"a\\u0000": [1]}', "which is no text that every file can hold"),
        ('{"\\ud800": [1]}', "which is no text that every file can hold"),
        ('{"a": [1], "a": [2]}', "has the item 'a' more than once"),
    ],
)
def test_codes_that_are_none_are_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    _sentence(tmp_path / "x.json")
    with pytest.raises(ValueError, match=words):
        read_codes(tmp_path / "x.json")


def test_whole_floats_are_codes_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1.0, 2], "b": [3, 4.0]}')
    assert read_codes(tmp_path / "x.json").codes.tolist() == [[1, 2], [3, 4]]
    pl.DataFrame({"item_id": ["a", "b"], "c0": [1.0, 3.0]}).write_parquet(tmp_path / "x.parquet")
    assert read_codes(tmp_path / "x.parquet").codes.tolist() == [[1], [3]]
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0, 3.0]]))
    assert read_codes(tmp_path / "x.npy").codes.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    "columns",
    [
        {"item_id": pl.Series([2**63, 1], dtype=pl.UInt64), "c0": [1, 2]},
        {"item_id": [1.5, 2.5], "c0": [1, 2]},
        {"item_id": [{"a": 1}, {"a": 2}], "c0": [1, 2]},
        {"item_id": ["a", "b"], "c0": ["1", "2"]},
        {"item_id": ["a", "b"], "c0": pl.Series([2**63, 1], dtype=pl.UInt64)},
        {"method": ["pq", None], "item_id": ["a", "b"], "c0": [1, 2]},
        {"item_id": ["a", None], "c0": [1, 2]},
    ],
)
def test_tables_of_strange_types_are_one_sentence(tmp_path: Path, columns: dict) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    _sentence(tmp_path / "x.parquet")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**33) | st.floats() | st.sampled_from(["<a_1>", "<b_2>", "x", "7"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["0", "1", "07", "é"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_codes_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(content))
    try:
        found = read_codes(path)
    except ValueError as error:
        _check_sentence(str(error), path)
        return
    rows = list(content.values()) if isinstance(content, dict) else content[1:]
    if not isinstance(content, dict) or not isinstance(rows[0], str | list) or not isinstance(rows[0][0], str):
        assert found.codes.tolist() == [list(map(int, row)) for row in rows]
    assert len(found) == len(rows)


@pytest.mark.parametrize("name", ["x.json", "x.npy", "x.safetensors", "x.parquet"])
@given(place=st.integers(0, 300), put=st.binary(max_size=8), cut=st.integers(0, 30))
def test_any_damage_is_codes_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, put: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / name
    write_codes(some_codes(), path, {"x.json": "rpg", "x.parquet": "table"}.get(name, "grid"))
    (path.parent / f"{name}.semtok.json").unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + put + whole[place + cut :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert len(read_codes(path)) < 100
        except ValueError as error:
            _check_sentence(str(error), path)


@pytest.mark.parametrize("content", ['{"a": [2000000000, 1]}', '{"1": "<a_2000000000><b_7>"}', "[[], [16777216]]"])
def test_a_code_that_would_ask_for_gigabytes_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "codes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"codes.json: item .* has the code \d+; expected codes below 16777216"):
        read_codes(path)
