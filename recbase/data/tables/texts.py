"""Text of items without the noise of web pages: markup, entities encoded twice, control characters.

Only what is certainly markup goes: a tag has the name of an HTML element and attributes with values, so that
"size < 5", "a<b" and "<3" stay text. Pure text in, text out.
"""

from __future__ import annotations

import html
import re
from typing import Any

import polars as pl

from recbase.data.tables.raw import Notes

__all__ = ["MAX_TEXT", "clean_column", "joined", "plain_text"]

MAX_TEXT = 5000

_ELEMENTS = (
    "a|abbr|acronym|address|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blink|blockquote|body|br|"
    "button|canvas|caption|center|cite|code|col|colgroup|data|dd|del|details|dfn|dialog|dir|div|dl|dt|em|"
    "embed|fieldset|figcaption|figure|font|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hr|html|i|"
    "iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|marquee|menu|meta|nav|nobr|noframes|noscript|"
    "object|ol|optgroup|option|p|param|picture|pre|q|s|samp|script|section|select|small|source|span|strike|"
    "strong|style|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|"
    "video|wbr"
)
_VALUE = r"""(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=][^\s"'<>]*)"""
_FLAGS = (
    "allowfullscreen|async|autofocus|autoplay|checked|compact|controls|defer|disabled|hidden|inert|"
    "ismap|itemscope|loop|multiple|muted|noshade|novalidate|nowrap|playsinline|readonly|"
    r"selected|webkitallowfullscreen|mozallowfullscreen|(?:data|aria|ng|v)-[\w.-]+"
)
_ATTRIBUTE = rf"\s*(?:(?<=[\s\"'])[A-Za-z_:@][\w:.@-]*\s*=\s*{_VALUE}|(?<=\s)(?:{_FLAGS})(?=[\s/>]))"
_TAG = re.compile(rf"</?(?:{_ELEMENTS})(?:{_ATTRIBUTE})*\s*/?>|</(?:{_ELEMENTS})\s*\Z", re.IGNORECASE)
# What a crawler cut off within a script, a style or a comment belongs to it up to the end.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!doctype[^<>]*>|<!\[CDATA\[|\]\]>", re.I | re.S
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Control characters but for tab and line feed, and marks of width nought that only break words for an encoder.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]")
_SOFT_HYPHEN = "\u00ad"  # where a word may be broken, and no letter of it
_MARKS = r"[<&\x00-\x08\x0B-\x1F\x7F-\x{9F}\x{AD}\x{200B}\x{FEFF}]|\]\]>"


def plain_text(text: str) -> str:
    """Text without markup, scripts, styles and control characters; entities decoded, also those encoded twice."""
    for _ in range(3):
        decoded = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        if decoded == text:
            break
        text = decoded
    if "<" in text or "]]>" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    return _CONTROL.sub(" ", text.replace(_SOFT_HYPHEN, ""))


def joined(value: Any) -> str | None:
    """One line of text from a value or a list of values, at most 5,000 characters; null if nothing is left."""
    if value is None:
        return None
    if isinstance(value, list):
        value = " ".join(str(part) for part in value if part is not None)
    return " ".join(plain_text(str(value)).split())[:MAX_TEXT] or None


def clean_column(column: pl.Series, what: str, notes: Notes) -> pl.Series:
    """A text column without noise and without blanks around its values; null where nothing is left."""
    marked = column.str.contains(_MARKS).fill_null(False)
    if marked.any():
        rows = marked.arg_true()
        before = column.gather(rows)
        after = pl.Series(column.name, [plain_text(text) for text in before.to_list()], dtype=pl.String)
        changed = int((after != before).sum())
        if changed:
            column = column.scatter(rows, after)
            notes.say(
                "texts_with_markup",
                changed,
                f"{changed:,} of {len(column):,} texts of the column {column.name} of {what} had markup, entities or "
                "control characters, which were turned into plain text",
                warn=False,
            )
    bare = column.str.strip_chars()
    return bare.set(bare == "", None) if (bare == "").any() else bare
