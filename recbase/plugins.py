"""Additions of third parties to a registry, by entry points. Imports nothing heavy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

__all__ = ["registered", "third_party"]

Entry = TypeVar("Entry")


def third_party(group: str, taken: Mapping[str, Any]) -> dict[str, EntryPoint]:
    """Installed entry points of a group by name, without those whose name means something else, with a warning.

    Parameters
    ----------
    group : str
        Name of the group, such as ``"seqrec.models"``.
    taken : mapping
        Names that are ours, and what they mean: ``module:Class``, or anything where no entry point may have them.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        before = found[point.name].value if point.name in found else taken.get(point.name, point.value)
        if before == point.value:
            found[point.name] = point
            continue
        warnings.warn(
            f"the entry point {point.name!r} = {point.value!r} of the group {group} is left out: its name already "
            f"means {before!r}",
            UserWarning,
            stacklevel=2,
        )
    return found


def registered(group: str, registry: Mapping[str, Entry], kind: type[Entry]) -> dict[str, Entry]:
    """Entries that third parties add to a registry of models.

    The value of an entry point names an object of ``kind`` in a module that imports nothing heavy, since it is loaded
    with the registry. One that cannot be loaded, or is something else, is left out with a warning that names it: a
    plug-in that is broken must not take the commands away.

    Parameters
    ----------
    group : str
    registry : mapping
        Entries of our own.
    kind : type
        Class of an entry.
    """
    added: dict[str, Entry] = {}
    for name, point in third_party(group, dict.fromkeys(registry, "a model of ours")).items():
        try:
            entry = point.load()
        except Exception as error:
            reason = f"it cannot be loaded ({type(error).__name__}: {error})"
        else:
            if isinstance(entry, kind):
                added[name] = entry
                continue
            reason = f"{point.value} is a {type(entry).__name__}, expected a {kind.__module__}.{kind.__name__}"
        warnings.warn(f"the entry point {name!r} of the group {group} is left out: {reason}", UserWarning, stacklevel=2)
    return added
