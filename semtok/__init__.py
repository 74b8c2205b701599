"""Item vectors to short tuples of discrete codes ("semantic IDs").

    codes = semtok.ProductQuantizer(levels=4).fit(vectors).encode(vectors)      # int32 [N, 4]

Names are loaded at first use, so importing the package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import Any

TOKENIZERS = {
    "pq": "semtok.methods.product:ProductQuantizer",
    "opq": "semtok.methods.product:OptimizedProductQuantizer",
    "kmeans": "semtok.methods.kmeans:KMeans",
    "rq": "semtok.methods.residual:ResidualQuantizer",
    "hierarchical": "semtok.methods.hierarchical:HierarchicalKMeans",
    "lsh": "semtok.methods.scalar:HyperplaneLSH",
    "fsq": "semtok.methods.scalar:FiniteScalarQuantizer",
    "random": "semtok.methods.random_codes:RandomCodes",
    "rqvae": "semtok.methods.rqvae:RQVAE",
    "letter": "semtok.methods.letter:LETTER",
    "behavior": "semtok.methods.behavior.tokenizer:BehaviorTokenizer",
}

_NAMES = {
    "Collisions": "semtok.codes",
    "Embeddings": "semtok.content.embeddings",
    "FiniteScalarQuantizer": "semtok.methods.scalar",
    "HierarchicalKMeans": "semtok.methods.hierarchical",
    "HyperplaneLSH": "semtok.methods.scalar",
    "ItemCodes": "semtok.codes",
    "ItemTokenizer": "semtok.tokenizer",
    "KMeans": "semtok.methods.kmeans",
    "LETTER": "semtok.methods.letter",
    "OptimizedProductQuantizer": "semtok.methods.product",
    "ProductQuantizer": "semtok.methods.product",
    "RQVAE": "semtok.methods.rqvae",
    "RandomCodes": "semtok.methods.random_codes",
    "ResidualQuantizer": "semtok.methods.residual",
    "append_items": "semtok.catalogue.append",
    "code_report": "semtok.quality",
    "collaborative_vectors": "semtok.content.collaborative",
    "costs_of": "semtok.catalogue.unique",
    "embed_dataset": "semtok.content.embed",
    "load": "semtok.registry",
    "load_codes": "semtok.codes",
    "load_embeddings": "semtok.content.embeddings",
    "make_unique": "semtok.catalogue.unique",
    "read_codes": "semtok.exchange.reading",
    "tokenizer_class": "semtok.registry",
    "write_codes": "semtok.exchange.formats",
}

__all__ = ["TOKENIZERS", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'semtok' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
