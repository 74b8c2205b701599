"""What models are given besides ids: attributes from text, vectors, codes, the training part alone."""

import numpy as np
import polars as pl
import pytest

from recbase.data.catalog import load_dataset
from seqrec.content import ItemContent, item_attributes, item_texts
from seqrec.item_content import Content, item_content
from seqrec.training import build_model


@pytest.fixture(scope="module")
def world():
    return load_dataset("synthetic", users=120, items=60)


def test_attributes_by_hand():
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3, 4],
            "brand": ["Sealed, Inc.", "Sealed, Inc.", None, "Alone"],
            "categories": [
                "Beauty > Hair Care",
                "Beauty > Hair Care > Hair Care",
                "Beauty > Skin, Face",
                "Skin | Beauty",
            ],
        }
    )
    found = item_attributes(items)
    assert found.names == ["categories: Hair Care", "brand: Sealed, Inc."]  # Beauty is of all, the others of one item
    assert found.table.tolist() == [[1, 2], [1, 2], [0, 0], [0, 0]]
    assert found.multi_hot().tolist() == [[True, True], [True, True], [False, False], [False, False]]
    assert item_attributes(items, ["categories"], 1).names == [
        "categories: Hair Care",
        "categories: Skin",
        "categories: Skin, Face",
    ]
    with pytest.raises(ValueError, match="attribute column 'colour' is missing; there are item_id, brand, categories"):
        item_attributes(items, ["colour"])


def test_without_categories_there_are_no_attributes():
    found = item_attributes(pl.DataFrame({"item_id": [1, 2], "title": ["a", "b"]}))
    assert found.names == []
    assert found.table.shape == (2, 1)
    assert not found.table.any()


def test_texts_are_joined():
    items = pl.DataFrame({"item_id": [1, 2], "title": ["A  kettle", None], "brand": ["Fir", "Elm"]})
    assert item_texts(items, ["title", "brand"]) == ["A kettle. Fir", "Elm"]


def test_every_input_has_the_shape_that_models_are_told(world, tmp_path):
    inputs = ("ids", "text", "views", "images", "codes", "attributes", "histories", "sentences", "pictures")
    content = Content(pca=16, codebook_size=8, code_levels=2)
    found, record = item_content(inputs, world, content, tmp_path, quiet=True)
    given, shapes = found.given(), found.shapes()
    assert given["text"].shape == (60, shapes["text_dim"]) == (60, 16 * len(world.views))
    assert given["views"].shape == (60, shapes["views"], 16)
    assert given["images"].shape == (60, shapes["image_dim"])
    assert not given["missing_images"].any()
    assert given["codes"].shape == (60, len(shapes["sizes"]))
    assert shapes["attributes"] == len(found.attributes.names) > 10
    assert len(given["sentences"]) == 60
    assert "pictures" not in given
    assert set(record) == {"embeddings", "vectors", "codes", "attributes"}
    train = world.split().train
    assert np.array_equal(given["histories"].lengths, train.lengths)
    assert (train.lengths == world.histories.lengths - 2).all()


def test_text_is_one_vector_of_all_columns_if_asked_for(world, tmp_path):
    found, _ = item_content(("text",), world, Content(pca=16, global_text=True), tmp_path, quiet=True)
    assert found.text.shape == (60, 16)
    side, _ = item_content(("text",), world, Content(pca=16), tmp_path, quiet=True)
    assert side.text.shape == (60, 16 * len(world.views))
    np.testing.assert_allclose(np.linalg.norm(side.text[:, :16], axis=1), 1, rtol=1e-5)


def test_a_model_is_told_only_the_shapes_that_it_names(world):
    histories = world.split().train
    model = build_model("duorec", 60, 120, ItemContent(histories=histories), {"dim": 16, "max_len": 8})
    assert "users" not in model.config()
    assert len(model.events) == histories.lengths.sum()
    assert build_model("bpr", 60, 120, ItemContent(), {"dim": 8}).config()["users"] == 120


def test_content_arguments_are_checked():
    with pytest.raises(ValueError, match="--attribute-items must be at least 1, got 0"):
        Content(attribute_items=0)
