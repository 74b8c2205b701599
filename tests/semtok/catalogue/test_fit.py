"""From embeddings to a catalogue's codes: layouts, what methods learn from, and what the folder records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recbase.data.catalog import load_dataset
from recbase.data.sequences import Histories
from recbase.store.folder import save_folder, tensor_bytes
from semtok.catalogue.fit import fit_codes, load_collaborative, popularity_of
from semtok.content.arrange import laid_out_as, lay_out
from semtok.content.embeddings import Embeddings
from semtok.methods.product import ProductQuantizer
from semtok.tokenizer import ItemTokenizer


def some_embeddings(rows: int = 60) -> Embeddings:
    draw = np.random.default_rng(0)
    views = {name: draw.normal(size=(rows, width)) for name, width in {"title": 6, "image": 3, "brand": 4}.items()}
    missing = {"title": np.arange(rows) % 5 == 0, "brand": np.arange(rows) % 10 == 0, "image": np.arange(rows) < 2}
    return Embeddings(views, missing, np.array([f"i{row}" for row in range(rows)]))


class Curious(ItemTokenizer):
    """Keeps what it is given; an item's code is the sign of its first column."""

    method = "curious"
    inputs = ("collaborative", "sequences", "missing")
    modalities = ("text", "image")
    default_unique = "none"

    def fit(self, X: Any, y: Any = None, views: Any = None, **inputs: Any) -> "Curious":
        self.given_ = (X, views, inputs)
        self.sizes_, self.blocks_, self.n_features_in_ = [2], {"item": slice(0, 1)}, X.shape[1]
        return self

    def encode(self, X: Any) -> np.ndarray:
        return (np.asarray(X)[:, :1] > 0).astype(np.int32)


def test_views_stay_as_they_are_and_joined_ones_have_length_one() -> None:
    made = some_embeddings()
    plain = lay_out(made, "views", ["brand", "title"])
    assert plain.columns == {"brand": slice(0, 4), "title": slice(4, 10)}
    assert (plain.matrix[:, :4] == made.views["brand"]).all()
    joined = lay_out(made, "joined")
    assert joined.columns is None
    assert np.allclose(np.square(joined.matrix).sum(1), 3, atol=1e-5)
    assert list(joined.missing) == ["item"]
    assert joined.missing["item"].tolist() == [row == 0 for row in range(60)]


def test_modalities_are_the_image_and_all_texts_in_one() -> None:
    made = some_embeddings()
    layout = lay_out(made, "modalities")
    assert layout.views == ("title", "brand", "image")
    assert layout.columns == {"text": slice(0, 10), "image": slice(10, 13)}
    assert (np.flatnonzero(layout.missing["text"]) == np.arange(0, 60, 10)).all()
    assert not layout.matrix[:2, 10:].any()
    assert np.allclose(np.linalg.norm(layout.matrix[2:, 10:], axis=1), 1, atol=1e-6)
    assert lay_out(made, "modalities", ["image"]).columns == {"image": slice(0, 3)}
    assert lay_out(made, "modalities", ["brand"]).columns == {"text": slice(0, 4)}
    with pytest.raises(ValueError, match="the views title hold none of sound"):
        lay_out(made, "modalities", ["title"], ["sound"])
    with pytest.raises(ValueError, match="arrangement='rows' is not one of views, joined, modalities"):
        lay_out(made, "rows")


def test_a_method_is_given_what_it_asks_for() -> None:
    dataset = load_dataset("synthetic")
    views = {"title": np.random.default_rng(0).normal(size=(dataset.n_items, 4))}
    made = Embeddings(views, {}, dataset.item_ids.to_numpy())
    behaviour = np.ones((dataset.n_items, 2), dtype=np.float32)
    fitted = fit_codes(Curious(), made, dataset=dataset, collaborative=behaviour)
    X, columns, inputs = fitted.tokenizer.given_
    assert X.shape == (dataset.n_items, 4)
    assert columns == {"text": slice(0, 4)}
    assert inputs["collaborative"] is behaviour
    train = dataset.split().train
    assert isinstance(inputs["sequences"], Histories)
    assert (inputs["sequences"].flat()[0] == train.flat()[0]).all()
    assert list(inputs["missing"]) == ["text"]
    assert fitted.codes.levels == 1
    with pytest.raises(ValueError, match=r"curious learns from behaviour: give the data set of these vectors"):
        fit_codes(Curious(), made)
    with pytest.raises(ValueError, match="pq does not read collaborative vectors"):
        fit_codes(ProductQuantizer(), made, collaborative=behaviour)


def test_popularity_counts_training_events() -> None:
    histories = Histories.from_lists([[1, 2, 2], [4], []])
    assert popularity_of(histories, 5).tolist() == [1, 2, 0, 1, 0]


def test_new_vectors_are_laid_out_as_those_of_the_fit(tmp_path: Path) -> None:
    made = some_embeddings()
    for per_view, arrangement in ((True, "views"), (False, "joined")):
        tokenizer = ProductQuantizer(levels=1, codebook_size=4)
        fitted = fit_codes(tokenizer, made, views=["title", "image"], per_view=per_view)
        fitted.save(tmp_path)
        manifest = json.loads((tmp_path / "semtok.json").read_text())
        again = laid_out_as(made, manifest["made_from"])
        assert again.arrangement == arrangement
        assert again.views == ("title", "image")
        assert (tokenizer.encode(again.matrix) == fitted.codes.codes).all()
        assert manifest["unique"] == "none"
        assert manifest["resolving"] is None
        assert json.loads((tmp_path / manifest["files"]["report.json"]["file"]).read_text())["unique"] == "none"


def test_collaborative_vectors_come_from_runs_embeddings_and_files(tmp_path: Path) -> None:
    ids = np.array(["a", "b", "c"])
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    files = {
        "item_vectors.safetensors": tensor_bytes({"item_vectors": vectors}),
        "items.parquet": lambda path: pl.DataFrame({"item_id": ["c", "a", "b"]}).write_parquet(path),
    }
    save_folder(tmp_path / "run", "config.json", "run", {"model": "sasrec"}, files)
    assert load_collaborative(tmp_path / "run", ids).tolist() == vectors[[1, 2, 0]].tolist()
    Embeddings({"collaborative": vectors, "title": vectors}, {}, ids[::-1]).save(tmp_path / "made")
    assert load_collaborative(tmp_path / "made", ids).tolist() == vectors[::-1].tolist()
    np.save(tmp_path / "v.npy", vectors)
    assert load_collaborative(tmp_path / "v.npy", ids).tolist() == vectors.tolist()
    with pytest.raises(ValueError, match=r"has vectors of 3 items but the data has 2"):
        load_collaborative(tmp_path / "v.npy", ids[:2])
    with pytest.raises(ValueError, match="they do not belong together"):
        load_collaborative(tmp_path / "run", np.array(["a", "b", "d"]))
    save_folder(tmp_path / "counter", "config.json", "run", {"model": "popularity"}, {})
    with pytest.raises(ValueError, match="has no item vectors: its model does not score from a table"):
        load_collaborative(tmp_path / "counter", ids)
    Embeddings({"title": vectors, "brand": vectors}, {}, ids).save(tmp_path / "two")
    with pytest.raises(ValueError, match="holds title, brand; expected one array, or one called collaborative"):
        load_collaborative(tmp_path / "two", ids)
