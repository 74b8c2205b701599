"""Tokenizers by name and by folder: the registry, third-party methods, and reading with torch or with NumPy alone.

Imports nothing heavy, so that a folder can be used where neither torch nor scikit-learn is installed, and the names of
the methods are known to a command line at once.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from recbase.store.reading import consistent
from semtok.plugins import ENTRY_POINTS, third_party

__all__ = ["BACKENDS", "load", "methods", "tokenizer_class"]

BACKENDS = ("torch", "numpy")


@cache
def methods() -> dict[str, str]:
    """``module:Class`` of every method by its name: our own, then those of the entry points ``semtok.tokenizers``.

    A third party's entry point that takes the name of another method is left out with a warning.
    """
    from semtok import TOKENIZERS

    return TOKENIZERS | third_party(ENTRY_POINTS, TOKENIZERS)


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


@consistent
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
    from semtok.codecs.schemas import open_tokenizer

    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")
    method = open_tokenizer(folder).manifest["method"]
    if method is None:
        raise ValueError(f"{folder} holds item codes but no tokenizer; read them with semtok.load_codes")
    if backend == "numpy":
        from semtok.codecs.portable import load_portable

        return load_portable(folder)
    if method not in methods():
        raise ValueError(
            f"{Path(folder) / 'semtok.json'}: 'method' is {method!r}, which is unknown; known: {', '.join(methods())}"
        )
    return tokenizer_class(method).load(folder)
