"""Folders from the Hugging Face hub, and one sentence where there is none. Knows nothing of what is in them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["downloaded_folder"]


def downloaded_folder(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Folder of a repository of the hub, downloaded once.

    Parameters
    ----------
    name : str
        As ``owner/name``.
    revision : str, optional
        Branch, tag or commit.

    Raises
    ------
    FileNotFoundError
        If there is no such repository, it cannot be reached, or ``name`` is a path where no folder lies.
    NotADirectoryError
        If it is a file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    named = os.fspath(name)
    if os.path.lexists(named):
        raise NotADirectoryError(f"{named} is not a folder; expected a saved model, or the name of one on the hub")
    try:
        return Path(snapshot_download(named, revision=revision))
    except HFValidationError:
        reason = "it is no folder, and no name of a repository of the hub (owner/name)"
    except (OSError, ValueError) as error:  # what the hub's library raises for every failure of the network is one
        first = " ".join(str(error).split()).partition(". ")[0]
        reason = f"it is no folder, and the hub did not give it ({first or type(error).__name__})"
    raise FileNotFoundError(f"cannot read {named}: {reason}")
