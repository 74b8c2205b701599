"""Sequential recommenders that rank items: histories (and codes, text, images) in, scores of the next item out.

One readable file a model. ``MODELS`` maps the name used on the command line to ``module:Class``; nothing heavy is
imported until a name is used. ``COUNTED`` models are not trained by gradient, ``READS_CONTENT`` models need codes and
text, ``DEPLOYED`` ones are made from a trained model and not trained by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODELS = {
    "popularity": "seqrec.popularity:Popularity",
    "transitions": "seqrec.transitions:Transitions",
    "sasrec": "seqrec.sasrec:SASRec",
    "ccfrec": "seqrec.ccfrec:CCFRec",
    "ccfrec-tabulated": "seqrec.ccfrec:TabulatedCCFRec",
}
COUNTED = ("popularity", "transitions")
READS_CONTENT = ("ccfrec",)
DEPLOYED = ("ccfrec-tabulated",)

_PUBLIC = {path.rpartition(":")[2]: path for path in MODELS.values()}

__all__ = [
    "COUNTED",
    "DEPLOYED",
    "MODELS",
    "READS_CONTENT",
    "CCFRec",
    "Popularity",
    "SASRec",
    "TabulatedCCFRec",
    "Transitions",
]


def __getattr__(name: str) -> Any:
    """Import a model class the first time it is asked for (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'seqrec' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
