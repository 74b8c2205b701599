"""What all array-only tokenizers do: streaming, refusals, the folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import semtok
from recbase.store.folder import load_arrays
from semtok.codes import load_codes
from semtok.content import rows as plumbing
from semtok.methods.residual import ResidualQuantizer
from semtok.registry import tokenizer_class
from semtok.tokenizer import ItemTokenizer
from semtok.vector_tokenizer import VectorTokenizer

METHODS = [name for name in semtok.TOKENIZERS if issubclass(tokenizer_class(name), VectorTokenizer)]
VIEWS = {"title": slice(0, 8), "brand": slice(8, 12)}


def some_vectors(rows: int = 300, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def made(method: str, **arguments: object) -> VectorTokenizer:
    levels = {} if method == "kmeans" else {"levels": 2}
    engine = {"engine": "torch"}
    built: VectorTokenizer = tokenizer_class(method)(codebook_size=16, **levels, **engine, **arguments)
    return built


@pytest.mark.parametrize("method", METHODS)
def test_folder_gives_the_same_tokenizer_and_codes(method: str, tmp_path: Path) -> None:
    vectors = some_vectors()
    tokenizer = made(method).fit(vectors, views=VIEWS)
    codes = tokenizer.item_codes(vectors, [f"item {row}" for row in range(300)])
    tokenizer.save(tmp_path, codes, unique="none", made_from={"embeddings": "abc"}, files={"report.json": b"{}"})
    again = semtok.load(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.get_params() == tokenizer.get_params()
    assert (again.encode(vectors) == codes.codes).all()
    assert (again.decode(codes.codes) == tokenizer.decode(codes.codes)).all()
    assert semtok.load_codes(tmp_path) == codes
    assert (again.blocks_, again.views_, again.unused_) == (tokenizer.blocks_, VIEWS, tokenizer.unused_)
    manifest = json.loads((tmp_path / "semtok.json").read_text())
    assert (manifest["method"], manifest["made_from"], manifest["unique"]) == (method, {"embeddings": "abc"}, "none")
    assert "report.json" in manifest["files"]


@pytest.mark.parametrize("method", METHODS)
def test_codebooks_file_is_enough_for_encoding_with_numpy(method: str, tmp_path: Path) -> None:
    vectors = some_vectors(100)
    tokenizer = made(method).fit(vectors, views=VIEWS)
    tokenizer.save(tmp_path, tokenizer.item_codes(vectors, np.arange(100)))
    manifest = json.loads((tmp_path / "semtok.json").read_text())
    arrays = load_arrays(tmp_path / manifest["files"]["codebooks.safetensors"]["file"])
    for name, (start, stop) in manifest["blocks"].items():
        left = vectors[:, slice(*manifest["views"][name])].copy()
        if f"rotation.{name}" in arrays:
            left = left @ arrays[f"rotation.{name}"]
        for level in range(start, stop):
            part, book = slice(*manifest["columns"][level]), arrays[f"codebook.{level}"][: manifest["used"][level]]
            codes = np.square(left[:, None, part] - book).sum(2).argmin(1)
            assert (codes == arrays["codes"][:, level]).all()
            left[:, part] -= book[codes]


@pytest.mark.parametrize("method", METHODS)
def test_memory_mapped_vectors_stream(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbing, "_CHUNK_VALUES", 12 * 256)
    vectors = some_vectors(2000)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    tokenizer = made(method, max_points_per_centroid=20).fit(mapped)
    assert (tokenizer.encode(mapped) == tokenizer.encode(vectors)).all()
    assert (made(method, max_points_per_centroid=20).fit(vectors).encode(vectors) == tokenizer.encode(mapped)).all()


def test_encoding_holds_no_copy_of_a_mapped_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbing, "_CHUNK_VALUES", 12 * 256)
    tokenizer = made("pq").fit(some_vectors())
    mapped = np.lib.format.open_memmap(tmp_path / "half.npy", mode="w+", dtype=np.float16, shape=(3000, 12))
    mapped[:] = some_vectors(3000)
    sizes: list[int] = []
    chunk_codes = type(tokenizer)._chunk_codes

    def watched(self: VectorTokenizer, chunk: torch.Tensor, encoders: dict) -> np.ndarray:
        sizes.append(len(chunk))
        return chunk_codes(self, chunk, encoders)

    monkeypatch.setattr(type(tokenizer), "_chunk_codes", watched)
    assert tokenizer.encode(mapped).shape == (3000, 2)
    assert max(sizes) == 256
    assert sum(sizes) == 3000


@pytest.mark.parametrize("method", METHODS)
def test_tensors_lists_and_doubles_have_the_codes_of_arrays(method: str) -> None:
    vectors = some_vectors()
    tokenizer = made(method).fit(vectors)
    codes = tokenizer.encode(vectors)
    assert codes.dtype == np.int32
    assert (tokenizer.encode(torch.from_numpy(vectors)) == codes).all()
    assert (tokenizer.encode(vectors.astype(np.float64)) == codes).all()
    assert (tokenizer.encode(vectors.tolist()) == codes).all()
    assert (clone(tokenizer).fit(torch.from_numpy(vectors)).encode(vectors) == codes).all()
    assert (clone(tokenizer).fit(some_vectors(seed=9)).fit(vectors).encode(vectors) == codes).all()


@pytest.mark.parametrize("method", METHODS)
def test_transform_is_encode_and_its_inverse_decode(method: str) -> None:
    vectors = some_vectors()
    tokenizer = made(method)
    codes = tokenizer.fit_transform(vectors)
    assert (codes == tokenizer.encode(vectors)).all()
    assert (tokenizer.inverse_transform(codes) == tokenizer.decode(codes)).all()


def test_columns_of_no_view_are_ignored_and_decoded_as_zero() -> None:
    vectors = some_vectors()
    tokenizer = made("pq").fit(vectors, views={"x": slice(2, 8)})
    changed = vectors.copy()
    changed[:, :2] = 99
    assert (tokenizer.encode(changed) == tokenizer.encode(vectors)).all()
    decoded = tokenizer.decode(tokenizer.encode(vectors))
    assert not decoded[:, :2].any()
    assert not decoded[:, 8:].any()
    assert decoded[:, 2:8].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_entries_that_are_not_finite_are_named(method: str, value: float) -> None:
    vectors = some_vectors().astype(np.float64)
    tokenizer = made(method).fit(vectors, views=VIEWS)
    vectors[7, 9] = value
    with pytest.raises(ValueError, match=r"NaN or infinite \(inf\) entry in view 'brand', row 7, column 9"):
        tokenizer.encode(vectors)
    with pytest.raises(ValueError, match="view 'brand', row 7, column 9"):
        made(method).fit(vectors, views=VIEWS)
    with pytest.raises(ValueError, match="entry in row 7, column 9"):
        made(method).fit(vectors)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_rows_than_centroids_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"n_samples=9 rows, fewer than codebook_size=16: give at least 16 rows"):
        made(method).fit(some_vectors(9))


@pytest.mark.parametrize("method", METHODS)
def test_use_before_fit_is_refused(method: str, tmp_path: Path) -> None:
    for use in (
        lambda: made(method).encode(some_vectors()),
        lambda: made(method).decode(np.zeros((1, 2), dtype=int)),
        lambda: made(method).save(tmp_path),
    ):
        with pytest.raises(NotFittedError, match="is not fitted yet: call fit or load first"):
            use()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_another_width_is_refused(as_tensor: bool) -> None:
    tokenizer = made("pq").fit(some_vectors())
    other = some_vectors(5, 10)
    with pytest.raises(ValueError, match="X has 10 features, but ProductQuantizer is expecting 12 features"):
        tokenizer.encode(torch.from_numpy(other) if as_tensor else other)


def test_unusable_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"X has shape \(3,\); expected two dimensions"):
        made("pq").fit(torch.zeros(3))
    with pytest.raises(ValueError, match="expected real, non-empty vectors"):
        made("pq").fit(torch.zeros(0, 4))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({}, "views is empty"),
        ({"x": slice(0, 13)}, "view 'x' is columns 0 to 13 but X has columns 0 to 12"),
        ({"x": slice(4, 4)}, "view 'x' is columns 4 to 4"),
    ],
)
def test_unusable_views_are_refused(views: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made("pq").fit(some_vectors(), views=views)


def test_codes_of_another_shape_are_refused_by_decode() -> None:
    tokenizer = made("rq").fit(some_vectors())
    with pytest.raises(ValueError, match="codes has 3 levels but sizes names 2"):
        tokenizer.decode(np.zeros((4, 3), dtype=int))
    with pytest.raises(ValueError, match=r"codes\[0, 1\] is 16 but level 1 has codes 0 to 15"):
        tokenizer.decode(np.array([[0, 16]]))


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    vectors = some_vectors()
    made("rq").fit(vectors).save(tmp_path / "rq")
    with pytest.raises(ValueError, match="holds a tokenizer of method 'rq', not 'pq'"):
        semtok.ProductQuantizer.load(tmp_path / "rq")
    with pytest.raises(ValueError, match="holds a tokenizer but no item codes"):
        semtok.load_codes(tmp_path / "rq")
    made("pq").fit(vectors).item_codes(vectors, np.arange(300)).save(tmp_path / "codes")
    with pytest.raises(ValueError, match=r"holds item codes but no tokenizer; read them with semtok\.load_codes"):
        semtok.load(tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        semtok.load(tmp_path / "nothing")


def test_damaged_codebooks_are_refused(tmp_path: Path) -> None:
    made("pq").fit(some_vectors()).save(tmp_path)
    path = next(tmp_path.glob("codebooks.*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="codebooks"):
        semtok.load(tmp_path)


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"method 'vq' is unknown; choose from pq, opq"):
        tokenizer_class("vq")


def test_pretrained_names_are_the_same_folder(tmp_path: Path) -> None:
    vectors = some_vectors()
    tokenizer = made("pq").fit(vectors)
    tokenizer.save_pretrained(tmp_path)
    assert (semtok.ProductQuantizer.from_pretrained(tmp_path).encode(vectors) == tokenizer.encode(vectors)).all()


def test_exported_names_are_importable() -> None:
    for name in semtok.__all__:
        assert getattr(semtok, name) is not None
    for method in semtok.TOKENIZERS:
        assert tokenizer_class(method).method == method
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        semtok.Nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'sklearn', 'polars', 'transformers'}"
    code = f"import sys, semtok, semtok.codes; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_tensors_on_a_gpu_are_encoded_where_they_are(method: str, device: torch.device) -> None:
    vectors = some_vectors(2000)
    there = torch.from_numpy(vectors).to(device)
    tokenizer = made(method).fit(there)
    assert (tokenizer.encode(vectors) == tokenizer.encode(there)).mean() > 0.999
    left, right = (vectors - fitted.decode(fitted.encode(vectors)) for fitted in (tokenizer, made(method).fit(vectors)))
    assert np.square(left).sum() < 1.05 * np.square(right).sum()


def test_a_tokenizer_that_is_read_and_saved_again_keeps_codes_and_report(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    ids = np.array([f"i{number}" for number in range(40)])
    made = ResidualQuantizer(levels=2, codebook_size=4).fit(vectors)
    made.save(tmp_path / "a", made.item_codes(vectors, ids), made_from={"embeddings": "abc"}, files={"x.json": b"{}"})
    ItemTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / at).iterdir()} for at in "ab")
    second.pop("README.md")
    assert first == second
    again = ItemTokenizer.load(tmp_path / "a").fit(vectors[:20])
    again.save(tmp_path / "c")  # fitted anew: the codes of before are none of its own
    with pytest.raises(ValueError, match="holds a tokenizer but no item codes"):
        load_codes(tmp_path / "c")


def test_the_codes_of_a_folder_that_is_gone_are_said_to_be_lost(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    made = ResidualQuantizer(levels=2, codebook_size=4).fit(vectors)
    made.save(tmp_path / "a", made.item_codes(vectors, np.arange(40)))
    read = ItemTokenizer.load(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    with pytest.warns(UserWarning, match="is gone or was replaced: the codes it held are not kept"):
        read.save(tmp_path / "b")
    assert (ItemTokenizer.load(tmp_path / "b").encode(vectors) == made.encode(vectors)).all()


def test_a_device_that_torch_does_not_know_is_one_sentence() -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    tokenizer = ResidualQuantizer(levels=2, codebook_size=4).fit(vectors)
    tokenizer.device = "abacus"  # as a manifest may say
    with pytest.raises(ValueError, match="device is 'abacus'; expected one that torch knows"):
        tokenizer.encode(vectors)
