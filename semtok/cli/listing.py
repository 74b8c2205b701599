"""The command ``semtok list``: methods, encoders, data sets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from recbase.cli.options import (
    Command,
    add_options,
    attribute_of,
    section_of,
    shared,
    summary_of,
)
from recbase.console import failures, print_json, print_table

if TYPE_CHECKING:
    pass

from semtok.cli.fit import BROKEN, METHODS

__all__ = ["list_all"]

_ENCODERS = {
    "tfidf": "TF-IDF and truncated SVD (scikit-learn); no download, the default.",
    "minilm": "all-MiniLM-L6-v2 from the extra semtok[minilm]; no hub needed.",
    "OWNER/NAME": "Any Hugging Face text model, or a folder of one (mean over tokens).",
    "FILE": "Ready vectors: .npy (one view) or .safetensors (one view a tensor).",
}


@click.command("list", cls=Command)
@add_options(shared("as_json"))
@failures
def list_all(as_json: bool) -> None:
    """List the methods, the encoders and the built-in data sets."""
    described = {name: _described(name) for name in METHODS}
    data = _DATA | _public_sets()
    if as_json:
        print_json({"methods": described, "encoders": _ENCODERS, "data": data})
        return
    rows = [
        (name, [part for part in (said["summary"], said["paper"]) if part], ", ".join(said["inputs"]), said["unique"])
        for name, said in described.items()
    ]
    headings = ("name", "what it is, paper", "learns from", "made unique")
    print_table(headings, rows, "Methods (semtok fit --method NAME)")
    print_table(("name", "what it is"), list(_ENCODERS.items()), "Encoders (--encoder NAME)")
    print_table(("name", "what it is"), list(data.items()), "Data sets (--data NAME, or a folder)")


def _described(method: str) -> dict[str, Any]:
    """Entry of `semtok list` for a method, read from its source."""
    target = METHODS[method]
    if method in BROKEN:
        return {"summary": BROKEN[method], "paper": "", "inputs": [], "unique": "", "class": target}
    behaviour = [name for name in attribute_of(target, "inputs", ()) if name != "missing"]
    return {
        "summary": summary_of(target),
        "paper": _up_to_year(section_of(target, "Notes")),
        "inputs": [*(attribute_of(target, "modalities", ()) or ["vectors"]), *behaviour],
        "unique": attribute_of(target, "default_unique", "matching"),
        "class": target,
    }


def _up_to_year(text: str) -> str:
    """The reference that a text begins with; "" where it names no year."""
    found = re.match(r"(?s).*?\b(19|20)\d\d\b\)?", text)
    return "" if found is None else found[0]


def _public_sets() -> dict[str, str]:
    """Names of the public data sets."""
    from recbase.data.fetch import PUBLISHED

    by_hand = " --from FOLDER, which holds its files"
    return {
        name: f"Public; semtok prepare {name}{by_hand if found.events is None else ''}."
        for name, found in PUBLISHED.items()
    }


_DATA = {
    "journey": "Household purchases, 2,428 households and 1,661 items (extra semtok[demo]); the default.",
    "synthetic": "Generated, with a known best possible recall; for tests.",
}
