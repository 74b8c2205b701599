"""Tokenizers by name and by folder: the registry, third-party methods, and reading with torch or with NumPy alone.

Imports nothing heavy, so that a folder can be used where neither torch nor scikit-learn is installed, and the names of
the methods are known to a command line at once.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

__all__ = ["BACKENDS", "ENTRY_POINTS", "PROGRAM_POINTS", "load", "methods", "third_party", "tokenizer_class"]

BACKENDS = ("torch", "numpy")
ENTRY_POINTS = "semtok.tokenizers"
PROGRAM_POINTS = "semtok.programs"


@cache
def methods() -> dict[str, str]:
    """``module:Class`` of every method by its name: our own, then those of the entry points ``semtok.tokenizers``.

    A third party's entry point that takes the name of another method is left out with a warning.
    """
    from semtok import TOKENIZERS

    return TOKENIZERS | third_party(ENTRY_POINTS, TOKENIZERS)


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


def tokenizer_class(method: str) -> type[Any]:
    """Class of a method's tokenizer.

    Raises
    ------
    ValueError
        If there is no such method, naming those there are.
    """
    known = methods()
    if method not in known:
        raise ValueError(f"method {method!r} is unknown; choose from {', '.join(known)}")
    module, name = known[method].split(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def load(folder: str | os.PathLike[str], backend: str = "torch") -> Any:
    """Read the tokenizer of a folder, whatever its method.

    Parameters
    ----------
    folder : path
    backend : {"torch", "numpy"}, default "torch"
        "numpy" gives an object that encodes and decodes with NumPy and safetensors alone.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds codes alone, a method or program that this version does not know, or damaged files; or if the
        backend is unknown.
    """
    from recbase.checkpoints import open_folder
    from semtok.codes import KIND, MANIFEST

    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")
    method = open_folder(folder, MANIFEST, KIND).manifest.get("method")
    if method is None:
        raise ValueError(f"{folder} holds item codes but no tokenizer; read them with semtok.load_codes")
    if backend == "numpy":
        from semtok.portable import load_portable

        return load_portable(folder)
    return tokenizer_class(method).load(folder)
