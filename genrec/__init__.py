"""Generative recommenders: encoder-decoders that generate the codes of the next item.

One readable file a model. ``REGISTRY`` says of every model where its class is, what its codes are made of and what
prepares them; commands, stages, the list and the contract tests read it, and nothing heavy is imported until a name is
used. How a model is added: the docstring of :mod:`genrec.preparation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = [
    "EAGER",
    "LETTER",
    "MODELS",
    "REGISTRY",
    "SHAPES",
    "BBQRec",
    "CodeTrie",
    "ModelEntry",
    "PRORec",
    "TIGER",
    "beam_search",
]


@dataclass(frozen=True)
class ModelEntry:
    """Entry of the registry: what is known of a model before its module is imported.

    Attributes
    ----------
    target : str
        ``module:Class``.
    paper : str
        Authors, venue and year.
    codes : str
        The codes it generates if it is not given any.
    preparation : str
        ``module:Class`` of a dataclass with the options of the stages before the training and the method
        ``prepare(...)`` that runs them, see :class:`genrec.preparation.Preparation`.
    forms : tuple of str
        Sample forms, the default first.
    """

    target: str
    paper: str
    codes: str
    preparation: str = "genrec.preparation:Preparation"
    forms: tuple[str, ...] = ("prefix",)


REGISTRY: dict[str, ModelEntry] = {
    "tiger": ModelEntry(
        "genrec.models.tiger:TIGER",
        "Rajput et al., NeurIPS 2023",
        "rqvae, unique by a suffix level",
        "genrec.models.tiger:Preparation",
        ("prefix", "all"),
    ),
    "letter": ModelEntry(
        "genrec.models.letter:LETTER",
        "Wang et al., CIKM 2024",
        "letter, unique by matching",
        "genrec.models.letter:Preparation",
        ("prefix", "all"),
    ),
    "prorec": ModelEntry(
        "genrec.models.prorec:PRORec",
        "Xiao et al., 2025",
        "hierarchical, of stage I's vectors",
        "genrec.models.prorec:Preparation",
        ("prefix", "all"),
    ),
    "bbqrec": ModelEntry(
        "genrec.models.bbqrec:BBQRec",
        "BBQRec, 2025",
        "behavior, unique by matching",
        "genrec.models.bbqrec:Preparation",
        ("prefix", "all"),
    ),
    "eager": ModelEntry(
        "genrec.models.eager:EAGER",
        "Wang et al., KDD 2024",
        "hierarchical, of a DIN's vectors and of the text's",
        "genrec.models.eager:Preparation",
        ("prefix", "all"),
    ),
}

SHAPES = (
    "items",
    "sizes",
    "users",
    "vector_dim",
    "streams",
    "codebook_dim",
    "behaviour_levels",
    "behaviour_dim",
    "semantic_dim",
)
"""Constructor arguments that follow from the data: never options of a command."""

MODELS = {name: entry.target for name, entry in REGISTRY.items()}
"""Name on the command line to ``module:Class``."""

_NAMES = {
    "CodeTrie": "genrec.search.trie",
    "beam_search": "genrec.search.decoding",
} | {target.rpartition(":")[2]: target.partition(":")[0] for target in MODELS.values()}


def __getattr__(name: str) -> Any:
    """Import a public name the first time it is asked for (PEP 562)."""
    if name not in _NAMES:
        raise AttributeError(f"module 'genrec' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
