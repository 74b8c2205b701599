"""The ground of every recommender: interactions, splits, sequences, training, evaluation.

    data = recbase.Dataset.from_frames(interactions, items, user="customer", item="sku", time="when")

Nothing in here names a model or a quantizer. Names are loaded at first use, so importing it loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbase.data.catalog import load_dataset as load_dataset
    from recbase.data.catalog import prepare_dataset as prepare_dataset
    from recbase.data.dataset import Dataset as Dataset
    from recbase.serving.fitted import FittedRecommender as FittedRecommender

__all__ = ["Dataset", "FittedRecommender", "load_dataset", "prepare_dataset"]

__version__ = "0.1.0"

_NAMES = {
    "Dataset": "recbase.data.dataset",
    "FittedRecommender": "recbase.serving.fitted",
    "load_dataset": "recbase.data.catalog",
    "prepare_dataset": "recbase.data.catalog",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name the first time it is asked for (PEP 562)."""
        if name not in _NAMES:
            raise AttributeError(f"module 'recbase' has no attribute {name!r}; it has {', '.join(__all__)}")
        return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
