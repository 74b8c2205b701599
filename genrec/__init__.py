"""Generative recommenders: encoder-decoders that generate the codes of the next item.

One readable file a model. ``REGISTRY`` says of every model where its class is, what its codes are made of and what
prepares them; commands, stages, the list and the contract tests read it, and nothing heavy is imported until a name is
used.

    model = genrec.TIGER.train(data, recipe="small")            # or genrec.train("tiger", data, recipe="small")
    model.recommend(users=["anna"], k=10)
    model.save("runs/x"); model = genrec.load("runs/x")

How a model is added: the docstring of :mod:`genrec.preparation`. Another package adds one by an entry point of the
group ``genrec.models``, whose value names a :class:`ModelEntry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbase import __version__ as __version__
from recbase.plugins import registered

if TYPE_CHECKING:
    from genrec.models.bbqrec import BBQRec as BBQRec
    from genrec.models.eager import EAGER as EAGER
    from genrec.models.letter import LETTER as LETTER
    from genrec.models.marius import MARIUS as MARIUS
    from genrec.models.prorec import PRORec as PRORec
    from genrec.models.tiger import TIGER as TIGER
    from genrec.portable.runtime import OnnxGenerator as OnnxGenerator
    from genrec.recommender import FittedGenerator as FittedGenerator
    from genrec.recommender import load as load
    from genrec.recommender import train as train
    from genrec.search.decoding import beam_search as beam_search
    from genrec.search.trie import CodeTrie as CodeTrie
    from genrec.tuning import tune as tune
    from recbase.serving.comparison import compare as compare

__all__ = [
    "EAGER",
    "LETTER",
    "MODELS",
    "REGISTRY",
    "SHAPES",
    "BBQRec",
    "CodeTrie",
    "FittedGenerator",
    "ModelEntry",
    "OnnxGenerator",
    "PRORec",
    "TIGER",
    "beam_search",
    "compare",
    "load",
    "train",
    "tune",
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


_OURS: dict[str, ModelEntry] = {
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
    "marius": ModelEntry(
        "genrec.models.marius:MARIUS",
        "Lepage et al., 2025",
        "letter, unique by matching",
        "genrec.models.marius:Preparation",
        ("all", "prefix"),
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

_TARGETS = [entry.target.split(":") for entry in _OURS.values()]
_NAMES = {kind: module for module, kind in _TARGETS} | {
    "CodeTrie": "genrec.search.trie",
    "FittedGenerator": "genrec.recommender",
    "OnnxGenerator": "genrec.portable.runtime",
    "beam_search": "genrec.search.decoding",
    "compare": "recbase.serving.comparison",
    "load": "genrec.recommender",
    "train": "genrec.recommender",
    "tune": "genrec.tuning",
}

if TYPE_CHECKING:
    REGISTRY: dict[str, ModelEntry]
    MODELS: dict[str, str]
else:

    def __getattr__(name: str) -> Any:
        """Import a public name, or look for plug-ins, the first time it is asked for (PEP 562).

        ``REGISTRY`` is made late, so that the module of a plug-in's entry can itself import this package.
        """
        if name == "REGISTRY":
            found = _OURS | registered("genrec.models", _OURS, ModelEntry)
        elif name == "MODELS":
            found = {model: entry.target for model, entry in __getattr__("REGISTRY").items()}
        elif name in _NAMES:
            return getattr(import_module(_NAMES[name]), name)
        else:
            raise AttributeError(f"module 'genrec' has no attribute {name!r}")
        return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted(__all__)
