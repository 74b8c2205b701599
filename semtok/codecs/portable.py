"""Encode and decode with NumPy and safetensors alone, from a tokenizer folder.

A folder names its ``program``: how the arrays of its codebooks file turn vectors into codes. Each program is a class
here, given the manifest and the arrays; none of them needs torch or scikit-learn, and none can be fitted.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Protocol

import numpy as np

from recbase.store.folder import consistent
from semtok.codecs.additive import Additive
from semtok.codecs.behavior import Behavior
from semtok.codecs.drawn import Random
from semtok.codecs.grid import Cells
from semtok.codecs.residual_network import ResidualNetwork
from semtok.codecs.schemas import open_tokenizer, read_state
from semtok.codecs.tree import Tree
from semtok.plugins import PROGRAM_POINTS, third_party

__all__ = ["PROGRAMS", "Program", "load_portable"]


class Program(Protocol):
    """Interface of a program: codes of vectors, and vectors of codes."""

    def encode(self, X: Any) -> np.ndarray:
        """Codes of vectors: [N, D] to int32 [N, L]."""
        ...

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors that codes stand for: [N, L] to float32 [N, D]."""
        ...


PROGRAMS: dict[str, Any] = {
    "additive": Additive,
    "behavior": Behavior,
    "tree": Tree,
    "grid": Cells,
    "random": Random,
    "residual-network": ResidualNetwork,
}


@consistent
def load_portable(folder: str | os.PathLike[str]) -> Program:
    """Read the tokenizer of a folder for use with NumPy alone.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If its program is unknown to this version, or its files are damaged.
    """
    opened = open_tokenizer(folder)
    if opened.manifest["method"] is None:
        raise ValueError(f"{folder} holds item codes but no tokenizer; read them with semtok.load_codes")
    make = program_class(opened.manifest["program"], folder)
    arrays = read_state(opened)
    try:
        made: Program = make(opened.manifest, arrays)
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:  # of a third party's program, which is not checked above
        raise ValueError(f"{opened.path} holds no whole program {opened.manifest['program']}: {error}") from error
    return made


def program_class(program: Any, folder: str | os.PathLike[str]) -> Any:
    """The class of a program that ``folder`` names: one of ours, or of the entry points ``semtok.programs``.

    Raises
    ------
    ValueError
        If no program is called so.
    """
    if program in PROGRAMS:
        return PROGRAMS[program]
    installed = third_party(PROGRAM_POINTS, PROGRAMS)
    if program not in installed:
        raise ValueError(
            f"{folder} has the program {program!r}; this installation knows {', '.join([*PROGRAMS, *installed])}"
        )
    module, name = installed[program].split(":")
    return getattr(importlib.import_module(module), name)
