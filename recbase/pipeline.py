"""Steps that are made once: a folder for each, named by what it was made from, found again by every command.

All commands share one cache. What is in it can be deleted at any time: it is made again when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbase.store.folder import folder_lock
from recbase.train.processes import alone

__all__ = ["CACHE", "cache_for", "step", "step_name"]

CACHE = "cache"
VARIABLE = "SEMTOK_CACHE"
"""Environment variable that names another folder for the cache."""


def cache_for(out: str | os.PathLike[str]) -> Path:
    """Folder of the steps that a command which writes ``out`` makes and looks for.

    It is ``cache`` in the nearest folder called ``runs`` above ``out``, so that all commands in their usual places
    share one; else ``cache`` beside ``out``. The environment variable ``SEMTOK_CACHE`` names another one.

    Parameters
    ----------
    out : path
        Folder that the command writes.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    out = Path(out)
    # relative paths stay relative: they are shown to users and recorded in manifests
    shared = [parent for parent in out.parents if parent.name == "runs"]
    return (shared[0] if shared else out.parent) / CACHE


def step_name(kind: str, made_from: Mapping[str, Any]) -> str:
    """Name of a step's folder: its kind and a hash of all that decides what it holds."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return f"{kind}-{digest}"


def step(
    cache: Path, kind: str, made_from: Mapping[str, Any], manifest: str, build: Callable[[Path], None], version: int = 1
) -> Path:
    """Folder of a step, built if no folder of the same inputs is there.

    Of several commands, or processes of one launch, that need the same step one builds it and the others wait. An
    interrupted step is never a complete one: its manifest is written last, and only by a build that came to its end.

    Parameters
    ----------
    cache : Path
        See `cache_for`; the step lies in ``cache/<kind>-<hash>``.
    kind : str
        What is made, such as ``"codes-pq"``.
    made_from : mapping
        JSON-able description of inputs and options; its hash names the folder.
    manifest : str
        File whose presence says that the step is complete.
    build : callable
        Writes the folder it is given.
    version : int, default 1
        Of the code that makes it: raised where the same inputs give something else, so that a mended method is not
        answered from a folder of the old one.
    """
    folder = cache / step_name(kind, dict(made_from) | {"version": version})
    if not (folder / manifest).is_file():
        with folder_lock(folder, f"making the {kind}", wait=math.inf), alone():
            if not (folder / manifest).is_file():
                build(folder)
    return folder
