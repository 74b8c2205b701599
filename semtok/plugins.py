"""Entry points by which third parties add tokenizers, and the NumPy programs of their codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbase import plugins

__all__ = ["ENTRY_POINTS", "PROGRAM_POINTS", "third_party"]

ENTRY_POINTS = "semtok.tokenizers"
PROGRAM_POINTS = "semtok.programs"


def third_party(group: str, taken: Mapping[str, Any]) -> dict[str, str]:
    """``module:Class`` by name of the installed entry points of a group, those whose names are ``taken`` left out."""
    return {name: point.value for name, point in plugins.third_party(group, taken).items()}
