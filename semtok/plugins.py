"""What third parties add by entry points: tokenizers, and the NumPy programs of their codes. Imports nothing heavy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

__all__ = ["ENTRY_POINTS", "PROGRAM_POINTS", "third_party"]

ENTRY_POINTS = "semtok.tokenizers"
PROGRAM_POINTS = "semtok.programs"


def third_party(group: str, taken: Mapping[str, Any]) -> dict[str, str]:
    """``module:Class`` by name of the installed entry points of a group, those whose names are ``taken`` left out."""
    found: dict[str, str] = {}
    for point in entry_points(group=group):
        before = taken.get(point.name, found.get(point.name, point.value))
        if before != point.value:
            warnings.warn(
                f"the entry point {point.name!r} = {point.value!r} of the group {group} is left out: its name already "
                f"means {before!r}",
                UserWarning,
                stacklevel=2,
            )
            continue
        found[point.name] = point.value
    return found
