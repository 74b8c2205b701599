"""Item vectors to short tuples of discrete codes ("semantic IDs").

    codes = semtok.ProductQuantizer(levels=4).fit(vectors).encode(vectors)      # int32 [N, 4]
    fitted = semtok.fit("rqvae", data)                                          # codes of a data set's items

Names are loaded at first use, so importing the package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recbase import __version__ as __version__

if TYPE_CHECKING:
    from semtok.catalogue.append import append_items as append_items
    from semtok.catalogue.prepare import fit as fit
    from semtok.catalogue.unique import costs_of as costs_of
    from semtok.catalogue.unique import make_unique as make_unique
    from semtok.codes import Collisions as Collisions
    from semtok.codes import ItemCodes as ItemCodes
    from semtok.codes import load_codes as load_codes
    from semtok.content.collaborative import collaborative_vectors as collaborative_vectors
    from semtok.content.embed import embed_dataset as embed_dataset
    from semtok.content.embeddings import Embeddings as Embeddings
    from semtok.content.embeddings import load_embeddings as load_embeddings
    from semtok.exchange.formats import write_codes as write_codes
    from semtok.exchange.reading import read_codes as read_codes
    from semtok.kernels.code_search import CodeSearch as CodeSearch
    from semtok.kernels.code_search import code_tables as code_tables
    from semtok.methods.behavior.tokenizer import BehaviorTokenizer as BehaviorTokenizer
    from semtok.methods.cosette import COSETTE as COSETTE
    from semtok.methods.hierarchical import HierarchicalKMeans as HierarchicalKMeans
    from semtok.methods.kmeans import KMeans as KMeans
    from semtok.methods.letter import LETTER as LETTER
    from semtok.methods.product import OptimizedProductQuantizer as OptimizedProductQuantizer
    from semtok.methods.product import ProductQuantizer as ProductQuantizer
    from semtok.methods.random_codes import RandomCodes as RandomCodes
    from semtok.methods.residual import ResidualQuantizer as ResidualQuantizer
    from semtok.methods.rqvae import RQVAE as RQVAE
    from semtok.methods.scalar import FiniteScalarQuantizer as FiniteScalarQuantizer
    from semtok.methods.scalar import HyperplaneLSH as HyperplaneLSH
    from semtok.quality import code_report as code_report
    from semtok.registry import load as load
    from semtok.registry import tokenizer_class as tokenizer_class
    from semtok.tokenizer import ItemTokenizer as ItemTokenizer

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
    "cosette": "semtok.methods.cosette:COSETTE",
    "behavior": "semtok.methods.behavior.tokenizer:BehaviorTokenizer",
}

_NAMES = {
    "BehaviorTokenizer": "semtok.methods.behavior.tokenizer",
    "COSETTE": "semtok.methods.cosette",
    "CodeSearch": "semtok.kernels.code_search",
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
    "code_tables": "semtok.kernels.code_search",
    "costs_of": "semtok.catalogue.unique",
    "embed_dataset": "semtok.content.embed",
    "fit": "semtok.catalogue.prepare",
    "load": "semtok.registry",
    "load_codes": "semtok.codes",
    "load_embeddings": "semtok.content.embeddings",
    "make_unique": "semtok.catalogue.unique",
    "read_codes": "semtok.exchange.reading",
    "tokenizer_class": "semtok.registry",
    "write_codes": "semtok.exchange.formats",
}

__all__ = ["TOKENIZERS", *sorted(_NAMES)]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name the first time it is asked for (PEP 562)."""
        if name not in _NAMES:
            raise AttributeError(f"module 'semtok' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
