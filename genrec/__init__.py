"""Generative recommenders: encoder-decoders that generate the codes of the next item.

The models follow; the package stands here so that the names, the command and the import arrows are fixed.
"""

from __future__ import annotations

MODELS: dict[str, str] = {}

__all__ = ["MODELS"]
