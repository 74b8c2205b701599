"""Codes as tokens of a language model: the tokens, the rows they start with, and the folder that is saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import semtok
from semtok.codes import ItemCodes
from semtok.exchange.language_models import add_code_tokens, codewords, export_language_model, token_rows
from semtok.exchange.reading import read_codes

WORDS = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", *"<>_0123456789"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.BPE(vocab={word: row for row, word in enumerate(WORDS)}, merges=[], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_model(kind: str, rows: int = len(WORDS)) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "t5":
        return T5ForConditionalGeneration(
            T5Config(vocab_size=rows, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        )
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=16, n_layer=1, n_head=2, n_positions=64))
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=kind == "tied",
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def fitted() -> tuple:
    vectors = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    tokenizer = semtok.ResidualQuantizer(levels=3, codebook_size=16).fit(vectors)
    return tokenizer, tokenizer.item_codes(vectors, [f"item {row}" for row in range(300)])


@pytest.mark.parametrize("method", ["rq", "pq", "opq"])
def test_codewords_are_the_rows_of_additive_codebooks(method: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    views = {"title": slice(0, 8), "brand": slice(8, 12)}
    tokenizer = semtok.tokenizer_class(method)(levels=2, codebook_size=8, engine="torch").fit(vectors, views=views)
    found = codewords(tokenizer, tokenizer.item_codes(vectors, np.arange(200)))
    level = 0
    for view, turn in zip(("title", "brand"), tokenizer.rotations_, strict=True):
        for _ in range(2):
            lo, hi = tokenizer.columns_[level]
            book = np.zeros((8, views[view].stop - views[view].start))
            book[:, lo:hi] = tokenizer.codebooks_[level] - tokenizer.codebooks_[level].mean(0)
            expected = np.zeros((8, 12))
            expected[:, views[view]] = book if turn is None else book @ turn.T
            np.testing.assert_allclose(found[level], expected, atol=1e-5)
            level += 1
    assert len(found) == level == 4


def test_codewords_of_a_tree_are_means_of_its_items_level_by_level() -> None:
    table = np.array([[0, 0], [0, 1], [2, 0], [2, 0]])
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, 4.0]], dtype=np.float32)

    class Tree:
        def decode(self, codes: np.ndarray) -> np.ndarray:
            return np.stack([vectors[(table == row).all(1).argmax()] for row in codes])

    codes = ItemCodes(table, (3, 2), np.arange(4))
    first, second = codewords(Tree(), codes)
    centred = vectors - vectors.mean(0)
    np.testing.assert_allclose(first, [centred[:2].mean(0), [0, 0], centred[2:].mean(0)], atol=1e-6)
    left = centred - first[table[:, 0]]
    np.testing.assert_allclose(second, [left[[0, 2, 3]].mean(0), left[1]], atol=1e-6)
    longer = ItemCodes(np.concatenate([table, [[0], [0], [0], [1]]], axis=1), (3, 2, 2), np.arange(4))
    Tree.sizes_ = (3, 2)  # type: ignore[attr-defined]
    assert codewords(Tree(), longer)[2].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="levels of 3, 2 codes but the items have 4, 2"):
        codewords(Tree(), ItemCodes(table, (4, 2), np.arange(4)))


@pytest.mark.parametrize("width", [8, 64])
def test_rows_have_the_statistics_of_the_table_and_the_shape_of_the_codebook(width: int) -> None:
    random = np.random.default_rng(1)
    table = random.normal(3.0, 0.5, size=(500, width))
    words = [random.normal(5, 2.0, size=(40, 6)), random.normal(0, 0.01, size=(10, 6)), np.zeros((7, 6))]
    rows = token_rows(words, table, seed=3)
    assert rows.dtype == np.float32
    spread = np.sqrt(np.square(table - table.mean(0)).sum(1).mean())
    for level, part in enumerate(np.split(rows, [40, 50])):
        assert np.sqrt(np.square(part - table.mean(0)).sum(1).mean()) == pytest.approx(spread, rel=0.01)
        if level < 2:  # six columns keep all their distances in eight or sixty-four
            np.testing.assert_allclose(part.mean(0), table.mean(0), atol=1e-5)
            inside = np.linalg.norm(words[level][:, None] - words[level], axis=2)
            outside = np.linalg.norm(part[:, None] - part, axis=2)
            scale = outside.sum() / inside.sum()
            np.testing.assert_allclose(outside, inside * scale, rtol=1e-3, atol=1e-4)
    assert len(np.unique(rows[50:], axis=0)) == 7
    assert (rows == token_rows(words, table, seed=3)).all()
    assert (rows != token_rows(words, table, seed=4)).any()


def test_rows_narrower_than_the_codebook_keep_its_main_axes() -> None:
    random = np.random.default_rng(1)
    flat = random.normal(size=(50, 3)) @ random.normal(size=(3, 30))  # three dimensions in thirty
    part = token_rows([flat], random.normal(size=(100, 4)))
    inside, outside = (np.linalg.norm(rows[:, None] - rows, axis=2) for rows in (flat, part))
    np.testing.assert_allclose(outside, inside * (outside.sum() / inside.sum()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "untied", "gpt2", "t5"])
def test_saved_model_knows_the_tokens_and_still_works(kind: str, fitted: tuple, tmp_path: Path) -> None:
    quantizer, codes = fitted
    tiny_model(kind).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    said = export_language_model(tmp_path / "lm", codes, tmp_path / "out", codewords(quantizer, codes))
    assert said == {
        "tokens": 48,
        "first": len(WORDS),
        "last": len(WORDS) + 47,
        "vocabulary": len(WORDS) + 48,
        "rows": len(WORDS) + 48,
        "width": 16,
    }
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM).from_pretrained(tmp_path / "out")
    text = "after<a_3><b_15><c_0>next"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    code_ids = [len(WORDS) + 3, len(WORDS) + 16 + 15, len(WORDS) + 32]
    assert ids[5:8] == code_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    table = model.get_input_embeddings().weight.detach().numpy()
    old = tiny_model(kind).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table[: len(WORDS)], old)
    rows = table[len(WORDS) : len(WORDS) + 16]
    np.testing.assert_allclose(rows.mean(0), old.mean(0), atol=1e-5)
    book = quantizer.codebooks_[0]
    near = np.argsort(np.linalg.norm(book[0] - book, axis=1))[1]
    assert near in np.argsort(np.linalg.norm(rows[0] - rows, axis=1))[1:6]  # 24 columns in 16: nearly the same
    head = model.get_output_embeddings().weight
    assert (head.data_ptr() == model.get_input_embeddings().weight.data_ptr()) == (kind != "untied")
    assert bool(torch.isfinite(head).all())
    assert float(head[len(WORDS) :].detach().std(0).min()) > 0
    batch = torch.tensor([ids])
    logits = model(batch, **({"decoder_input_ids": batch} if kind == "t5" else {})).logits
    assert logits.shape[-1] == len(WORDS) + 48
    assert read_codes(tmp_path / "out" / "items.index.json") == codes
    with pytest.raises(ValueError, match="knows 48 of the tokens already, such as <a_0>"):
        export_language_model(tmp_path / "out", codes, tmp_path / "again")
    before = {path.name: path.read_bytes() for path in (tmp_path / "lm").iterdir()}
    with pytest.raises(FileExistsError, match="lm exists already and is not an empty folder; give a new one"):
        export_language_model(tmp_path / "lm", codes, tmp_path / "lm")
    assert {path.name: path.read_bytes() for path in (tmp_path / "lm").iterdir()} == before
    (tmp_path / "out" / "left.txt").write_text("of the first export")
    assert export_language_model(tmp_path / "lm", codes, tmp_path / "out", codewords(quantizer, codes)) == said
    assert not (tmp_path / "out" / "left.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm", "out"]


def test_rows_that_a_model_keeps_in_reserve_are_used() -> None:
    model, tokenizer = tiny_model("untied", rows=len(WORDS) + 20), tiny_tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[len(WORDS) :] = 1e6  # never counted as tokens that the model knows
    ids = add_code_tokens(model, tokenizer, (4, 3))
    assert [level.tolist() for level in ids] == [
        list(range(len(WORDS), len(WORDS) + 4)),
        list(range(len(WORDS) + 4, len(WORDS) + 7)),
    ]
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == len(WORDS) + 20
    assert float(weight[: len(WORDS) + 7].detach().abs().max()) < 10


def test_refusals(fitted: tuple, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the language model .*nothing cannot be read"):
        export_language_model(tmp_path / "nothing", fitted[1], tmp_path / "out")
    with pytest.raises(ValueError, match=r"words have \[3\] rows; expected \[4, 3\], one a code"):
        add_code_tokens(tiny_model("tied"), tiny_tokenizer(), (4, 3), [np.zeros((3, 2))])
