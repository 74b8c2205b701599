"""Files of vectors: every type of number against PyTorch, ids, refusals, and any bytes at all."""

import io
import json
import struct
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from semtok.content.ready_vectors import VectorSource, check_settings, open_vectors, read_ids
from semtok.content.shards import ShardedEmbeddings
from semtok.content.vector_files import read_vector_file

TYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int64,
    torch.uint8,
]
IDS = ["0007", "7", "ü", "b"]


def vectors(rows: int = 4, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_safetensors_of_every_type_are_what_pytorch_reads(tmp_path: Path, kind: torch.dtype) -> None:
    wanted = (torch.from_numpy(vectors(300, 5)) * 10).abs().to(kind)
    save_file({"item": wanted}, tmp_path / "x.safetensors")
    found = read_vector_file(tmp_path / "x.safetensors").views["item"]
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted.float().numpy())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_shard_is_read_as_a_file_is(tmp_path: Path, kind: torch.dtype) -> None:
    wanted = torch.from_numpy(vectors(300, 5)).to(kind)
    save_file({"item": wanted}, tmp_path / "part-00000.safetensors")
    assert np.array_equal(np.asarray(ShardedEmbeddings(tmp_path).matrix()[0]), wanted.float().numpy())


@pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8", "i1", "i8", "u2"])
def test_npy_of_every_type(tmp_path: Path, kind: str) -> None:
    wanted = np.asfortranarray((vectors() * 10).astype(kind))
    np.save(tmp_path / "x.npy", wanted)
    assert np.array_equal(read_vector_file(tmp_path / "x.npy").views["x"], wanted.astype(np.float32))


def test_npy_of_bfloat16_has_no_name_for_it_and_is_read(tmp_path: Path) -> None:
    wanted = torch.from_numpy(vectors()).bfloat16()
    np.save(tmp_path / "x.npy", wanted.view(torch.uint16).numpy().view("V2"))
    with pytest.warns(UserWarning, match="two nameless bytes, which are read as bfloat16"):
        assert np.array_equal(read_vector_file(tmp_path / "x.npy").views["x"], wanted.float().numpy())


@pytest.mark.parametrize("kind", [pl.Float16, pl.Float32, pl.Float64, pl.Int32])
@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_lists_of_every_type_with_ids(tmp_path: Path, kind: pl.DataType, fixed: bool) -> None:
    wanted = np.round(vectors() * 4)
    column = pl.Array(kind, 3) if fixed else pl.List(kind)
    pl.DataFrame({"item_id": IDS, "text": pl.Series(wanted.tolist(), dtype=column, strict=False)}).write_parquet(
        tmp_path / "x.parquet"
    )
    found = read_vector_file(tmp_path / "x.parquet")
    assert found.item_ids == IDS
    assert np.array_equal(found.views["text"], wanted)


def test_parquet_columns_of_floats_are_one_view(tmp_path: Path) -> None:
    wanted = vectors()
    table = pl.DataFrame({"asin": IDS, **{f"d{place}": column for place, column in enumerate(wanted.T)}})
    table.write_parquet(tmp_path / "x.parquet")
    found = read_vector_file(tmp_path / "x.parquet")
    assert (list(found.views), found.item_ids) == (["item"], IDS)
    assert np.array_equal(found.views["item"], wanted)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([[1.0], [1.0, 2.0], [1.0]], "1 of 3 have not 1 numbers but others, such as 2"),
        ([[1.0], None, [1.0]], "has 1 of 3 entries empty in the column 'v'"),
        ([[1.0], [None], [1.0]], "has 1 empty numbers in the lists of the column 'v'"),
        (["a", "b", "c"], "has no vectors: expected columns of lists of numbers"),
    ],
)
def test_bad_columns_are_refused(tmp_path: Path, column: list, words: str) -> None:
    pl.DataFrame({"item_id": [1, 2, 3], "v": column}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=words):
        read_vector_file(tmp_path / "x.parquet")


def test_a_header_that_claims_more_than_the_file_has_takes_no_memory(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 100)})
    (tmp_path / "x.npy").write_bytes(head.getvalue() + b"0" * 100)
    with pytest.raises(ValueError, match=r"x\.npy is not a readable \.npy file of numbers"):
        read_vector_file(tmp_path / "x.npy")
    text = json.dumps({"a": {"dtype": "F32", "shape": [10**12, 100], "data_offsets": [0, 4 * 10**14]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"0" * 100)
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable safetensors file"):
        read_vector_file(tmp_path / "x.safetensors")
    pl.DataFrame({"v": pl.repeat(0.0, 30_000_000, eager=True)}).write_parquet(
        tmp_path / "x.parquet", compression="zstd"
    )
    if (tmp_path / "x.parquet").stat().st_size < 100_000:
        with pytest.raises(ValueError, match="bytes but claims 30,000,000 values: it is damaged"):
            read_vector_file(tmp_path / "x.parquet")


def test_what_is_no_file_of_vectors_is_said(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 2), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"is a pickle, and nothing is unpickled here.*safetensors\.torch\.save_file"):
        open_vectors(tmp_path / "x.pt")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(ValueError, match=r"is no file of vectors; expected a name that ends in \.npy"):
        open_vectors(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="does not exist; expected a file of vectors"):
        open_vectors(tmp_path / "none.npy")
    np.save(tmp_path / "v.npy", vectors())
    with pytest.raises(FileNotFoundError, match=r"is not a saved embeddings folder; it holds v\.npy"):
        open_vectors(tmp_path)


# ----------------------------------------------------------------------------- whose the rows are


def test_rows_are_found_by_ids_or_by_the_word_that_they_are_in_order(tmp_path: Path) -> None:
    wanted = vectors()
    np.save(tmp_path / "v.npy", wanted)
    turned = IDS[::-1]
    with pytest.raises(
        ValueError, match=r"has 4 rows and does not say which items they are.*--in-order.*--embeddings-ids"
    ):
        open_vectors(tmp_path / "v.npy", IDS)
    assert np.array_equal(open_vectors(VectorSource(tmp_path / "v.npy", in_order=True), IDS).views["v"], wanted)
    (tmp_path / "ids.txt").write_text("\ufeff" + "\r\n".join(turned) + "\r\n", encoding="utf-8")
    found = open_vectors(VectorSource(tmp_path / "v.npy", tmp_path / "ids.txt"), IDS)
    assert np.array_equal(found.views["v"], wanted[::-1])
    assert found.item_ids.tolist() == IDS
    with pytest.warns(UserWarning, match="1 of the 4 vectors .* are of items that the data set does not have"):
        few = open_vectors(VectorSource(tmp_path / "v.npy", tmp_path / "ids.txt"), ["b", "7", "ü"])
    assert np.array_equal(few.views["v"], wanted[[0, 2, 1]])
    with pytest.raises(ValueError, match="has no vector of 1 of the 2 items of the data set, such as 'x'"):
        open_vectors(VectorSource(tmp_path / "v.npy", tmp_path / "ids.txt"), ["b", "x"])
    with pytest.raises(ValueError, match="has 4 rows but the data set has 3 items; leave out the row of padding"):
        open_vectors(VectorSource(tmp_path / "v.npy", in_order=True), IDS[:3])
    assert np.array_equal(open_vectors(tmp_path / "v.npy", [2, 0, 1, 3]).views["v"], wanted[[2, 0, 1, 3]])


@pytest.mark.parametrize("name", ["ids.json", "ids.npy", "ids.csv", "ids.parquet", "ids.jsonl"])
def test_ids_are_read_from_any_table(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"item_id": IDS, "title": ["a", "b", "c", "d"]})
    {
        "ids.json": lambda path: path.write_text(json.dumps(IDS)),
        "ids.npy": lambda path: np.save(path, np.array(IDS)),
        "ids.csv": table.write_csv,
        "ids.parquet": table.write_parquet,
        "ids.jsonl": table.write_ndjson,
    }[name](tmp_path / name)
    assert read_ids(tmp_path / name) == IDS


def test_ids_that_are_written_in_capitals_or_twice(tmp_path: Path) -> None:
    table = pl.DataFrame({"ITEM_ID": IDS, "v": [[1.0, float(row)] for row in range(4)]})
    table.write_parquet(tmp_path / "v.parquet")
    wanted = IDS[::-1]
    assert open_vectors(tmp_path / "v.parquet", wanted).views["v"][:, 1].tolist() == [3, 2, 1, 0]
    table.with_columns(ITEM_ID=pl.lit(IDS[0])).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="1 ids more than once, such as"):
        open_vectors(tmp_path / "v.parquet", wanted)


def test_npy_of_objects_and_of_half_a_file_is_told_in_plain_words(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1.0, None]], dtype=object))
    with pytest.raises(ValueError, match="holds Python objects, and nothing is unpickled here"):
        read_vector_file(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.ones((100, 8), np.float32))
    (tmp_path / "v.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:500])
    with pytest.raises(ValueError, match="is shorter than its header says"):
        read_vector_file(tmp_path / "v.npy")


def test_options_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="give it too"):
        VectorSource.of(None, in_order=True)
    with pytest.raises(ValueError, match="give one of them"):
        VectorSource.of("x.npy", Path("ids"), True)
    assert VectorSource.of(None) is None
    made = {"encoder": "tfidf", "pca": 128, "views": {"title": {}}}
    check_settings(made, {"encoder": "tfidf", "views": ("title",), "max_tokens": 5}, "e")
    with pytest.raises(ValueError, match="--pca is 64, but the vectors in e were made with 128; leave --pca out"):
        check_settings(made, {"pca": 64}, "e")
    with pytest.raises(ValueError, match="--views names 'brand', but e has title"):
        check_settings(made, {"views": ("brand",)}, "e")


# ----------------------------------------------------------------------------- any bytes


def _files() -> dict[str, bytes]:
    found = {".npy": io.BytesIO(), ".parquet": io.BytesIO()}
    np.save(found[".npy"], vectors())
    pl.DataFrame({"item_id": IDS, "v": vectors().tolist()}).write_parquet(found[".parquet"])
    return {name: file.getvalue() for name, file in found.items()} | {
        ".safetensors": save({"v": torch.from_numpy(vectors()).bfloat16()})
    }


FILES = _files()


def _check_sentence(text: str, path: Path) -> None:
    assert str(path) in text
    assert "\n" not in text


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(list(FILES)),
    place=st.integers(0, 400),
    put=st.binary(max_size=12),
    cut=st.integers(0, 40),
)
def test_any_bytes_are_vectors_or_one_sentence(tmp_path: Path, name: str, place: int, put: bytes, cut: int) -> None:
    whole = FILES[name]
    path = tmp_path / f"x{name}"
    path.write_bytes(whole[:place] + put + whole[place + cut :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_vector_file(path)
        except ValueError as error:
            _check_sentence(str(error), path)
            return
    assert all(view.ndim == 2 and view.dtype == np.float32 and view.size < 10_000 for view in found.views.values())
    if name == ".npy":
        assert np.array_equal(found.views["x"], np.load(path).astype(np.float32), equal_nan=True)
