"""Words of a text, for TF-IDF: runs of letters and digits, and pieces of them where a script writes no blanks.

Chinese, Japanese, Thai, Lao, Khmer and Burmese set no blanks between words, so that a run of them is a whole sentence.
Such a run is cut into overlapping groups of characters, as search engines do, and groups that span two words weigh
less; all other scripts keep their words. Text is brought to one Unicode form first (NFKC), so that composed and
decomposed letters, and full-width ones, are the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

__all__ = ["RULES", "cohesion", "words_of"]

RULES = 2
"""Number of the rules of `words_of`; recorded with vectors, so that new items are read as the fitted ones were."""

_PLAIN = re.compile(r"(?u)\b\w+\b")
_IDEOGRAPHS = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\ua000-\ua4cf\U0001b000-\U0001b16f"
_THAI_TO_KHMER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
_NO_BLANKS = re.compile(f"([{_IDEOGRAPHS}]+)|([{_KANA}{_THAI_TO_KHMER}]+)")
_WHOLE, _LEAST = 0.3, 0.1  # mutual information from which a group counts fully; the least weight of one
# NFKC would make ½ the words 1 and 2, and glue the letters of a trade mark sign to the name before it.
_KEPT = re.compile("([\u00aa\u00b2\u00b3\u00b9\u00ba\u00bc-\u00be\u2120\u2122\u2150-\u215f]+)")


def words_of(text: str, rules: int = RULES) -> list[str]:
    """Words of a text, in small letters; pieces of the runs that have no blanks.

    Parameters
    ----------
    text : str
    rules : int, default 2
        1 is how earlier versions cut texts: no common form, and a run without blanks is one word.
    """
    if rules == 1 or text.isascii():  # there the rules agree
        return _PLAIN.findall(text.lower())
    words: list[str] = []
    for word in _words().findall(_normal(text)):
        words += [word] if _NO_BLANKS.search(word) is None else _pieces(word)
    return words


def _normal(text: str) -> str:
    parts = _KEPT.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    return "".join(parts).lower()


@lru_cache(maxsize=1)
def _marks() -> str:
    """Vowel signs, tones and accents; not the signs that only choose how an emoji looks."""
    return "".join(
        chr(code)
        for code in range(0x300, 0x1E950)
        if unicodedata.category(chr(code)) in {"Mn", "Mc"}
        and not (0xFE00 <= code <= 0xFE0F or 0x20D0 <= code <= 0x20FF)
    )


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    """Runs of letters, digits and the marks on them: vowel signs are part of a word of Hindi or Thai."""
    return re.compile(rf"\w[\w{_marks()}]*")


@lru_cache(maxsize=1)
def _letters() -> re.Pattern[str]:
    """A letter with its marks; in Khmer and Burmese with the letters that are stacked below it."""
    return re.compile(rf"(?s)(?:.[{_marks()}]*?[\u17d2\u1039])*.[{_marks()}]*")


def _pieces(word: str) -> list[str]:
    """Pieces of a word that has runs without blanks in it; what stands between them stays whole."""
    pieces: list[str] = []
    place = 0
    for run in _NO_BLANKS.finditer(word):
        if place < run.start():
            pieces.append(word[place : run.start()])
        units, lengths = _units(run)
        # A run that is shorter than all groups is one.
        pieces += _groups(units, lengths) if len(units) > lengths[0] else [run[0]]
        place = run.end()
    return [*pieces, word[place:]] if place < len(word) else pieces


def _units(run: re.Match[str]) -> tuple[list[str], tuple[int, ...]]:
    """Units of a run, and the lengths of its groups: ideographs, or letters with the signs that belong to them.

    An ideograph is close to a word; a letter says nothing alone.
    """
    return (list(run[0]), (1, 2)) if run[1] else (_letters().findall(run[0]), (2, 3))


def _groups(units: list[str], lengths: tuple[int, ...]) -> list[str]:
    return ["".join(units[place : place + length]) for length in lengths for place in range(len(units) - length + 1)]


def cohesion(terms: Sequence[str], texts: Iterable[str]) -> np.ndarray | None:
    """Cohesion of the characters of each term: 1 for words, less for groups that span two words.

    A group's normalised pointwise mutual information [1]_ of its first or last character with the rest of it is near 0
    where a word ends within it, since words follow each other freely, and larger inside a word.

    Parameters
    ----------
    terms : sequence of str [V]
        From `words_of`.
    texts : iterable of str
        The texts that the terms are of.

    Returns
    -------
    float64 array [V], values 0.1 to 1; or None where no term is such a group

    References
    ----------
    .. [1] Bouma, "Normalized (pointwise) mutual information in collocation extraction", GSCL 2009.
    """
    groups = [
        (column, units)
        for column, term in enumerate(terms)
        if not term.isascii()
        and (run := _NO_BLANKS.fullmatch(term)) is not None
        and len(units := _units(run)[0]) in (2, 3)
    ]
    if not groups:
        return None
    counts: Counter[str] = Counter()
    totals = Counter({1: 0})
    for text in texts:
        for run in () if text.isascii() else _NO_BLANKS.finditer(_normal(text)):
            units, _ = _units(run)
            for length in (1, 2, 3):
                found = _groups(units, (length,))
                counts.update(found)
                totals[length] += len(found)
    weights = np.ones(len(terms))
    for column, units in groups:
        whole, head, tail = counts["".join(units)], counts["".join(units[:-1])], counts["".join(units[1:])]
        share = whole / totals[len(units)]
        if share < 1:
            apart = max(head * counts[units[-1]], counts[units[0]] * tail)
            weights[column] = np.clip(np.log(whole * totals[1] / apart) / -np.log(share) / _WHOLE, _LEAST, 1.0)
    return weights
