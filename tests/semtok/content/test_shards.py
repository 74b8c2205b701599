"""Vectors in shards: the same codes as those of one array, without holding it."""

import itertools
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import semtok
from semtok.catalogue.encode_shards import encode_shards, load_code_shards
from semtok.catalogue.fit import fit_codes
from semtok.cli import main
from semtok.content import rows as plumbing
from semtok.content.arrange import lay_out
from semtok.content.embeddings import Embeddings
from semtok.content.shards import ShardedArray, ShardedEmbeddings, is_sharded, write_shard

ROWS = 700
CUTS = (0, 300, 301, 550, ROWS)


def some_embeddings() -> Embeddings:
    draw = np.random.default_rng(0)
    views = {"title": draw.normal(size=(ROWS, 6)), "image": draw.normal(size=(ROWS, 3))}
    missing = {"image": np.arange(ROWS) % 7 == 0}
    return Embeddings({name: v.astype(np.float32) for name, v in views.items()}, missing, np.arange(ROWS) * 10)


def cut(made: Embeddings, folder: Path, kind: str = "safetensors", ids: bool = True) -> Path:
    """The same vectors in four shards."""
    for number, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
        views = {name: vectors[lo:hi] for name, vectors in made.views.items()}
        if kind == "safetensors":
            missing = {"image": made.missing["image"][lo:hi]}
            write_shard(folder, number, views, made.item_ids[lo:hi] if ids else None, missing)
        else:
            folder.mkdir(exist_ok=True)
            columns: dict[str, Any] = {"item_id": made.item_ids[lo:hi], "price": np.ones(hi - lo)}
            columns["title"] = pl.Series(views["title"], dtype=pl.Array(pl.Float32, 6))
            columns["image"] = pl.Series(views["image"].tolist(), dtype=pl.List(pl.Float64))
            pl.DataFrame(columns).write_parquet(folder / f"part-{number}.parquet", row_group_size=64)
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
def test_rows_are_those_of_one_array(tmp_path: Path, kind: str) -> None:
    made = some_embeddings()
    shards = ShardedEmbeddings(cut(made, tmp_path, kind))
    assert (len(shards), shards.shards, is_sharded(tmp_path)) == (ROWS, 4, True)
    assert (shards.item_ids == made.item_ids).all()
    for views, normalize, blank in ((None, False, False), (["image"], True, kind == "safetensors")):
        expected, columns = made.matrix(views, normalize, blank)
        array, found = shards.matrix(views, normalize, blank)
        assert found == columns
        assert array.shape == expected.shape
        rows = np.random.default_rng(1).integers(-ROWS, ROWS, 50)
        for index in (slice(None), slice(290, 560), slice(5, 2), slice(0, ROWS, 97), rows, rows > 0, 301, -1):
            if isinstance(index, np.ndarray) and index.dtype == bool:
                index = np.arange(ROWS) % 3 == 0
            assert np.array_equal(array[index], expected[index]), index
        assert np.array_equal(np.asarray(array), expected)
        parts = [array.shard(number) for number in range(4)]
        assert np.array_equal(np.concatenate([part[:] for part in parts]), expected)
        assert np.array_equal(parts[2][np.array([3, 0])], expected[301:][[3, 0]])


def test_many_columns_of_floats_are_one_view(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for number in range(2):
        part = vectors[number * 10 : number * 10 + 10]
        table = {
            "item_id": [f"i{number}-{row}" for row in range(10)],
            "a": part[:, 0],
            "b": part[:, 1],
            "c": part[:, 2],
        }
        pl.DataFrame(table).write_parquet(tmp_path / f"part-{number:05d}.parquet")
    shards = ShardedEmbeddings(tmp_path)
    assert np.array_equal(shards.matrix()[0][:], vectors)
    assert list(shards.views) == ["item"]
    assert shards.item_ids.tolist()[9:11] == ["i0-9", "i1-0"]


def test_half_and_bfloat16_become_float32(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    vectors = torch.randn(30, 4)
    save_file({"a": vectors.half(), "b": vectors.bfloat16(), "c": vectors.double()}, tmp_path / "part-0.safetensors")
    found = ShardedEmbeddings(tmp_path).matrix(["a", "b", "c"])[0][:]
    assert found.dtype == np.float32
    expected = torch.cat([vectors.half().float(), vectors.bfloat16().float(), vectors], dim=1)
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize(("method", "kind"), [("pq", "safetensors"), ("rq", "parquet"), ("kmeans", "safetensors")])
def test_fit_and_codes_are_those_of_one_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(plumbing, "_CHUNK_VALUES", 9 * 256)
    made = some_embeddings()
    arguments: dict[str, Any] = {"codebook_size": 8, "max_points_per_centroid": 20, "iterations": 5, "engine": "torch"}
    arguments |= {} if method == "kmeans" else {"levels": 3}
    one = fit_codes(semtok.tokenizer_class(method)(**arguments), made)
    many = fit_codes(semtok.tokenizer_class(method)(**arguments), ShardedEmbeddings(cut(made, tmp_path, kind)))
    for a, b in zip(one.tokenizer.codebooks_, many.tokenizer.codebooks_, strict=True):
        assert np.array_equal(a, b)
    assert one.codes == many.codes
    assert one.report["reconstruction"] == many.report["reconstruction"]
    assert many.report["measured_rows"] == ROWS


def test_items_that_are_told_apart_are_looked_at_together(tmp_path: Path) -> None:
    """Equal vectors lie in different shards; their codes differ as they do in one array."""
    vectors = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
    vectors[500:] = vectors[: ROWS - 500]
    made = Embeddings({"item": vectors}, {}, np.arange(ROWS))
    for number, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
        write_shard(tmp_path, number, {"item": vectors[lo:hi]})
    shards = ShardedEmbeddings(tmp_path)
    one = fit_codes(semtok.tokenizer_class("hierarchical")(codebook_size=16), made)
    many = fit_codes(semtok.tokenizer_class("hierarchical")(codebook_size=16), shards)
    assert one.codes == many.codes
    assert many.codes.unique
    with pytest.raises(ValueError, match="hierarchical looks at all items together: leave it out"):
        fit_codes(semtok.tokenizer_class("hierarchical")(codebook_size=16), shards, engine="ray")


def test_what_is_laid_out_in_modalities_is_the_same(tmp_path: Path) -> None:
    made = some_embeddings()
    one, many = lay_out(made, "modalities"), lay_out(ShardedEmbeddings(cut(made, tmp_path)), "modalities")
    assert one.columns == many.columns
    assert isinstance(many.matrix, ShardedArray)
    assert np.array_equal(one.matrix, many.matrix[:])
    assert not many.matrix[0][6:].any()
    assert all(np.array_equal(one.missing[name], many.missing[name]) for name in one.missing)


def test_encoding_never_holds_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbing, "_CHUNK_VALUES", 64 * 512)
    draw = np.random.default_rng(0)
    for number in range(8):
        write_shard(tmp_path, number, {"item": draw.normal(size=(4096, 64)).astype(np.float32)})
    shards = ShardedEmbeddings(tmp_path)
    whole = len(shards) * 64 * 4
    tracemalloc.start()
    tokenizer = semtok.ProductQuantizer(levels=2, codebook_size=16, max_points_per_centroid=32)
    tokenizer.fit(shards.matrix()[0])
    encode_shards(tokenizer, shards, {}, out=tmp_path / "codes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 4
    assert len(load_code_shards(tmp_path / "codes")) == len(shards)


def invoke(*arguments: object) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_the_commands_fit_and_encode_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = some_embeddings()
    made.save("one")
    cut(made, Path("many"))
    settings = ("--method", "pq", "--levels", 1, "--codebook-size", 8, "--json")
    invoke("fit", "--embeddings", "one", "--out", "a", *settings)
    said = json.loads(invoke("fit", "--embeddings", "many", "--out", "b", "--code-shards", *settings).stdout)
    assert said["report"]["items"] == ROWS
    codes = semtok.load_codes("a")
    assert semtok.load_codes("b") == codes
    assert load_code_shards("b/codes") == codes
    assert [len(pl.read_parquet(path)) for path in sorted(Path("b/codes").glob("part-*.parquet"))] == [300, 1, 249, 150]
    said = json.loads(invoke("encode", "b", "--embeddings", "many", "--json").stdout)
    assert said == {"file": "runs/semtok/encoded", "items": ROWS, "levels": 2, "shards": 4}
    assert load_code_shards("runs/semtok/encoded") == codes
    invoke("encode", "a", "--embeddings", "many", "--out", "table.parquet", "--quiet")
    table = pl.read_parquet("table.parquet")
    assert (table.select("c0", "c1").to_numpy() == codes.codes).all()
    assert table["item_id"].to_list() == codes.item_ids.tolist()
    refused = CliRunner().invoke(main, ["encode", "a", "--embeddings", "one", "--engine", "ray"])
    assert refused.exit_code == 1
    assert "--engine ray is for vectors in shards; one is not a folder of them" in refused.stderr
    refused = CliRunner().invoke(main, ["fit", "--embeddings", "one", "--codebook-size", "4", "--code-shards"])
    assert "--code-shards is for vectors in shards; one is not a folder of them" in refused.stderr


def test_fewer_shards_leave_none_of_an_earlier_run(tmp_path: Path) -> None:
    made = some_embeddings()
    tokenizer = semtok.KMeans(codebook_size=4).fit(made.matrix()[0])
    shards = ShardedEmbeddings(cut(made, tmp_path / "many"))
    encode_shards(tokenizer, shards, {}, out=tmp_path / "codes")
    (tmp_path / "many" / "part-00003.safetensors").unlink()
    encode_shards(tokenizer, ShardedEmbeddings(tmp_path / "many"), {}, out=tmp_path / "codes")
    found = load_code_shards(tmp_path / "codes")
    assert (len(found), found.sizes) == (550, (4,))
    assert len(list((tmp_path / "codes").iterdir())) == 4
    (tmp_path / "codes" / "part-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-00001\.parquet is named by .*codes\.json but is missing"):
        load_code_shards(tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match="holds no complete set of code shards"):
        load_code_shards(tmp_path)


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no shards; expected part-00000"):
        ShardedEmbeddings(tmp_path)
    cut(some_embeddings(), tmp_path)
    last = tmp_path / "part-00003.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="the file is truncated"):
        ShardedEmbeddings(tmp_path)
    last.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"part-00003\.safetensors is not a readable safetensors file"):
        ShardedEmbeddings(tmp_path)
    write_shard(tmp_path, 3, {"title": np.zeros((5, 7), dtype=np.float32)}, np.arange(5))
    with pytest.raises(ValueError, match=re.escape("holds title 7 but ") + ".*the shards do not belong together"):
        ShardedEmbeddings(tmp_path)
    last.unlink()
    (tmp_path / "part-00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has 0 files part-00001; expected one of every number"):
        ShardedEmbeddings(tmp_path)
    (tmp_path / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"mixes shards of \.safetensors and \.parquet"):
        ShardedEmbeddings(tmp_path)
    with pytest.raises(ValueError, match="a safetensors shard holds integer ids"):
        write_shard(tmp_path, 9, {"a": np.zeros((1, 2))}, np.array(["x"]))


def test_strange_indices_and_other_items_are_refused(tmp_path: Path) -> None:
    shards = ShardedEmbeddings(cut(some_embeddings(), tmp_path))
    array = shards.matrix()[0]
    with pytest.raises(TypeError, match="is indexed by rows alone"):
        array[0, 1]
    with pytest.raises(IndexError, match="row 700 is not there; there are 700 rows"):
        array[np.array([700])]
    with pytest.raises(IndexError, match=r"the mask has shape \(3,\); expected \(700,\)"):
        array[np.array([True, False, True])]
    with pytest.raises(ValueError, match="view 'sound' is missing; there are"):
        shards.matrix(["sound"])
    assert shards.align(np.arange(ROWS) * 10) is shards
    with pytest.raises(ValueError, match="expected the same items in the same order"):
        shards.align(np.arange(ROWS)[::-1])
    write_shard(tmp_path, 4, {"title": np.full((2, 6), np.nan), "image": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="NaN or infinite"):
        semtok.KMeans(codebook_size=2).fit(ShardedEmbeddings(tmp_path).matrix()[0])


# Encodes shards with the tokenizer of a folder and is killed, as by kill -9, at the third.
KILLED = """
import os, signal, sys
import semtok
from semtok.catalogue import encode_shards as encoding
from semtok.content.shards import ShardedEmbeddings

real = encoding.encode_shard
def encode_shard(tokenizer, embeddings, made_from, number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(tokenizer, embeddings, made_from, number)
encoding.encode_shard = encode_shard
encoding.encode_shards(semtok.load(sys.argv[1]), ShardedEmbeddings(sys.argv[2]), {}, out=sys.argv[3], quiet=True)
"""


def named_files(folder: Path) -> set[str]:
    manifest = json.loads((folder / "codes.json").read_text())
    return {"codes.json", *(entry["file"] for entry in manifest["files"].values())}


def test_a_kill_in_the_middle_keeps_the_codes_of_one_tokenizer(tmp_path: Path) -> None:
    made = some_embeddings()
    shards = ShardedEmbeddings(cut(made, tmp_path / "many"))
    one, two = (semtok.KMeans(codebook_size=8, seed=seed).fit(made.matrix()[0]) for seed in (0, 1))
    old, new = (tokenizer.encode(made.matrix()[0]) for tokenizer in (one, two))
    assert (old != new).any()
    encode_shards(one, shards, {}, out=tmp_path / "codes", quiet=True)
    assert named_files(tmp_path / "codes") == {"codes.json", *(f"part-0000{number}.parquet" for number in range(4))}
    two.save(tmp_path / "two")
    command = [sys.executable, "-c", KILLED, *(str(tmp_path / name) for name in ("two", "many", "codes"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert (load_code_shards(tmp_path / "codes").codes == old).all()
    encode_shards(two, shards, {}, out=tmp_path / "codes", quiet=True)
    assert (load_code_shards(tmp_path / "codes").codes == new).all()
    assert {path.name for path in (tmp_path / "codes").iterdir()} == named_files(tmp_path / "codes")


def test_a_flipped_byte_in_a_shard_of_codes_is_found(tmp_path: Path) -> None:
    made = some_embeddings()
    tokenizer = semtok.KMeans(codebook_size=4).fit(made.matrix()[0])
    encode_shards(tokenizer, ShardedEmbeddings(cut(made, tmp_path / "many")), {}, out=tmp_path / "codes", quiet=True)
    part = tmp_path / "codes" / "part-00002.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-00002\.parquet does not have the hash its manifest gives"):
        load_code_shards(tmp_path / "codes")


def test_shards_of_an_earlier_version_are_read_and_replaced(tmp_path: Path) -> None:
    made = some_embeddings()
    shards = ShardedEmbeddings(cut(made, tmp_path / "many"))
    tokenizer = semtok.KMeans(codebook_size=4).fit(made.matrix()[0])
    former = tmp_path / "codes"
    former.mkdir()
    for number in range(3):
        pl.DataFrame({"item_id": [number], "c0": pl.Series([number], dtype=pl.Int32)}).write_parquet(
            former / f"part-0000{number}.parquet"
        )
    (former / "codes.json").write_text(json.dumps({"sizes": [4], "blocks": {"title": [0, 1]}, "rows": [1, 1, 1]}))
    assert load_code_shards(former).codes.tolist() == [[0], [1], [2]]
    encode_shards(tokenizer, shards, {}, out=former, quiet=True)
    assert (load_code_shards(former).codes == tokenizer.encode(made.matrix()[0])).all()
    assert {path.name for path in former.iterdir()} == named_files(former)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"sizes": 4, "blocks": {}, "rows": [1]}', '{"kind": "run", "format": 1}']
)
def test_other_manifests_of_that_name_are_refused_and_kept(text: str, tmp_path: Path) -> None:
    made = some_embeddings()
    shards = ShardedEmbeddings(cut(made, tmp_path / "many"))
    tokenizer = semtok.KMeans(codebook_size=4).fit(made.matrix()[0])
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "codes.json").write_text(text)
    with pytest.raises(ValueError, match=r"codes"):
        load_code_shards(tmp_path / "codes")
    if "sizes" not in text:
        with pytest.raises(ValueError, match="and would be lost; give another folder"):
            encode_shards(tokenizer, shards, {}, out=tmp_path / "codes", quiet=True)
        assert (tmp_path / "codes" / "codes.json").read_text() == text


def test_vectors_and_their_codes_may_share_a_folder(tmp_path: Path) -> None:
    made = some_embeddings()
    folder = cut(made, tmp_path / "many")
    tokenizer = semtok.KMeans(codebook_size=4).fit(made.matrix()[0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    encode_shards(tokenizer, ShardedEmbeddings(folder), {}, out=folder, quiet=True)
    assert (load_code_shards(folder).codes == tokenizer.encode(made.matrix()[0])).all()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
