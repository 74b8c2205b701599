"""A tokenizer folder carries the rules that make vectors of new items, wherever it is moved."""

import shutil

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import semtok
import semtok.cli
from recbase.data.catalog import load_dataset
from semtok.content.embeddings import carried_rules, load_embeddings


@pytest.fixture(scope="module")
def data():
    return load_dataset("synthetic", users=80, items=40)


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):
    """Tokenizer folders by method, moved to where nothing of their making is."""
    root = tmp_path_factory.mktemp("moved")
    found = {}
    for method in ("pq", "rq", "hierarchical"):
        cache = root / f"cache-{method}"
        fitted = semtok.fit(method, data, cache=cache, quiet=True, unique="none", pca=12, codebook_size=8)
        fitted.save(root / "made" / method)
        shutil.move(root / "made" / method, root / method)
        found[method] = (
            root / method,
            fitted,
            load_embeddings(next(path.parent for path in cache.rglob("embeddings.json"))),
        )
        shutil.rmtree(cache)
    return found


@pytest.mark.parametrize("method", ["pq", "rq", "hierarchical"])
def test_known_items_get_their_codes_again(moved, data, method):
    folder, fitted, _ = moved[method]
    tokenizer = semtok.load(folder)
    codes = tokenizer.encode_items(data.items)
    assert np.array_equal(codes.codes, fitted.codes.codes)
    assert codes.item_ids.tolist() == data.item_ids.to_list()
    assert np.array_equal(tokenizer.encode_items(data.items.to_pandas()).codes, codes.codes)
    ids = [f"n{row}" for row in range(40)]
    assert tokenizer.encode_items(data.items, ids).item_ids.tolist() == ids


def test_the_rules_carried_are_those_of_the_embeddings(moved, data):
    folder, _, embeddings = moved["pq"]
    from semtok.codecs.schemas import open_tokenizer

    rules = carried_rules(open_tokenizer(folder))
    assert len(rules) == 0
    again = rules.transform_new(data.items)
    for view, vectors in embeddings.views.items():
        assert np.allclose(again.views[view], vectors, atol=1e-4)


def test_the_command_needs_nothing_else(moved, data, tmp_path):
    folder, fitted, _ = moved["rq"]
    data.items.write_csv(tmp_path / "items.csv")
    words = ["encode", str(folder), "--items", str(tmp_path / "items.csv"), "--out", str(tmp_path / "codes.parquet")]
    result = CliRunner().invoke(semtok.cli.main, words)
    assert result.exit_code == 0, result.output
    table = pl.read_parquet(tmp_path / "codes.parquet")
    assert np.array_equal(table.select(pl.exclude("item_id")).to_numpy(), fitted.codes.codes)


def test_appending_keeps_the_rules(moved, data, tmp_path):
    folder, fitted, _ = moved["pq"]
    shutil.copytree(folder, tmp_path / "pq")
    data.items.head(3).with_columns(item_id=pl.Series([1000, 1001, 1002])).write_csv(tmp_path / "new.csv")
    words = ["encode", str(tmp_path / "pq"), "--items", str(tmp_path / "new.csv"), "--append"]
    result = CliRunner().invoke(semtok.cli.main, words)
    assert result.exit_code == 0, result.output
    codes = semtok.load_codes(tmp_path / "pq")
    assert np.array_equal(codes.codes[40:], fitted.codes.codes[:3])
    again = semtok.load(tmp_path / "pq").encode_items(data.items)
    assert np.array_equal(again.codes, fitted.codes.codes)


def test_what_carries_no_rules_says_so(data, moved, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    tokenizer = semtok.ProductQuantizer(levels=2, codebook_size=4).fit(vectors)
    with pytest.raises(ValueError, match="this tokenizer was not read from a folder carries no rules"):
        tokenizer.encode_items(data.items)
    tokenizer.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain carries no rules that make vectors of texts"):
        semtok.load(tmp_path / "plain").encode_items(data.items)
    with pytest.raises(ValueError, match="the new items have no column 'title'"):
        semtok.load(moved["pq"][0]).encode_items(pl.DataFrame({"item_id": [1]}))


def test_damaged_rules_are_named(moved, data, tmp_path):
    folder, _, _ = moved["pq"]
    shutil.copytree(folder, tmp_path / "pq")
    damaged = next((tmp_path / "pq").glob("terms.*"))
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"xyz")
    with pytest.raises(ValueError, match="terms"):
        semtok.load(tmp_path / "pq").encode_items(data.items)
