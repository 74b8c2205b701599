"""Item vectors to short tuples of discrete codes ("semantic IDs").

    codes = semtok.ProductQuantizer(levels=4).fit(vectors).encode(vectors)      # int32 [N, 4]

Names are loaded at first use, so importing the package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import Any

TOKENIZERS = {
    "pq": "semtok.product:ProductQuantizer",
    "opq": "semtok.product:OptimizedProductQuantizer",
    "kmeans": "semtok.kmeans:KMeans",
    "rq": "semtok.residual:ResidualQuantizer",
    "hierarchical": "semtok.hierarchical:HierarchicalKMeans",
    "lsh": "semtok.scalar:HyperplaneLSH",
    "fsq": "semtok.scalar:FiniteScalarQuantizer",
    "random": "semtok.random_codes:RandomCodes",
    "rqvae": "semtok.rqvae:RQVAE",
    "letter": "semtok.letter:LETTER",
    "behavior": "semtok.behavior:BehaviorTokenizer",
}

_NAMES = {
    "Collisions": "semtok.codes",
    "Embeddings": "semtok.embeddings",
    "FiniteScalarQuantizer": "semtok.scalar",
    "HierarchicalKMeans": "semtok.hierarchical",
    "HyperplaneLSH": "semtok.scalar",
    "ItemCodes": "semtok.codes",
    "ItemTokenizer": "semtok.tokenizer",
    "KMeans": "semtok.kmeans",
    "LETTER": "semtok.letter",
    "OptimizedProductQuantizer": "semtok.product",
    "ProductQuantizer": "semtok.product",
    "RQVAE": "semtok.rqvae",
    "RandomCodes": "semtok.random_codes",
    "ResidualQuantizer": "semtok.residual",
    "append_items": "semtok.appending",
    "code_report": "semtok.quality",
    "collaborative_vectors": "semtok.collaborative",
    "costs_of": "semtok.uniqueness",
    "embed_dataset": "semtok.embeddings",
    "load": "semtok.loading",
    "load_codes": "semtok.codes",
    "load_embeddings": "semtok.embeddings",
    "make_unique": "semtok.uniqueness",
    "read_codes": "semtok.formats",
    "tokenizer_class": "semtok.loading",
    "write_codes": "semtok.formats",
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
