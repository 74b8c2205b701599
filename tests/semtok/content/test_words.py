"""Words: those of old where blanks are, groups of characters where none are, one Unicode form."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semtok.content.encoders import Pca, Tfidf
from semtok.content.words import cohesion, words_of

KINDS = {
    "en": (
        ["red", "black", "light", "premium", "silent"],
        ["wireless earphones", "thermos cup", "running shoes", "mechanical keyboard", "kids raincoat"],
        " ",
    ),
    "zh": (
        ["红色", "黑色", "轻便", "高档", "静音"],
        ["无线耳机", "保温水杯", "运动跑鞋", "机械键盘", "儿童雨衣"],
        "",
    ),
    "th": (
        ["สีแดง", "สีดำ", "น้ำหนักเบา", "พรีเมียม", "เงียบ"],
        ["หูฟังไร้สาย", "กระติกน้ำร้อน", "รองเท้าวิ่ง", "คีย์บอร์ดเครื่องกล", "เสื้อกันฝนเด็ก"],
        "",
    ),
    "ja": (
        ["赤い", "黒い", "軽量", "高級", "静音"],
        ["ワイヤレスイヤホン", "保温マグカップ", "ランニングシューズ", "メカニカルキーボード", "子供用レインコート"],
        "",
    ),
}


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, categories=("L", "Nd", "P", "Zs")), max_size=60))
def test_european_words_are_those_of_old(text):
    if unicodedata.normalize("NFKC", text) == text and "İ" not in text:  # İ in small letters is i and a mark
        assert words_of(text) == re.findall(r"(?u)\b\w+\b", text.lower()) == words_of(text, rules=1)


@given(st.text(max_size=60))
def test_one_text_has_one_list_of_words_whatever_its_form(text):
    assert words_of(unicodedata.normalize("NFD", text)) == words_of(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ＦＵＬＬ　Ｗｉｄｔｈ １２", ["full", "width", "12"]),
        ("Cafe\u0301 Sony™ 4½ m²", ["café", "sony", "4½", "m²"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("한국어 책", ["한국어", "책"]),
        ("红色USB线2米", ["红", "色", "红色", "usb", "线", "2", "米"]),
        ("กขค", ["กข", "ขค", "กขค"]),
        ("น้ำ", ["น้ํา"]),
        ("中", ["中"]),
        ("❤️ 1️⃣", ["1"]),
        ("", []),
    ],
)
def test_words_by_hand(text, words):
    assert words_of(text) == words


def test_groups_that_span_two_words_weigh_less():
    adjectives, things, _ = KINDS["zh"]
    texts = [one + other + thing for one in adjectives for other in adjectives for thing in things]
    terms = ["红色", "无线", "耳机", "便黑", "便高", "red"]
    weights = cohesion(terms, texts)
    assert weights is not None
    inside, across = weights[:3], weights[3:5]
    assert across.max() < inside.min()
    assert weights[5] == 1
    assert cohesion(["red", "café"], ["red café"]) is None


@pytest.mark.parametrize("language", list(KINDS))
def test_titles_of_one_kind_are_near_in_every_language(language):
    adjectives, things, gap = KINDS[language]
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, len(things), 200)
    pairs = [draw.permutation(len(adjectives))[:2] for _ in kinds]
    texts = [
        gap.join([adjectives[a], adjectives[b], things[kind], str(number)])
        for number, ((a, b), kind) in enumerate(zip(pairs, kinds, strict=True))
    ]
    raw = Tfidf.fit(texts, 24, 0).encode(texts)
    vectors = Pca.fit(raw, 24, True).transform(raw)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -2)
    best = np.argsort(-near, axis=1)[:, :10]
    assert (kinds[best] == kinds[:, None]).mean() > 0.55  # chance is 0.2
