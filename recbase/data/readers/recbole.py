"""RecBole's atomic files: ``name:type`` headers and tabs."""

from __future__ import annotations

from dataclasses import replace

from recbase.data.readers.tables import delimited_events
from recbase.data.tables.raw import RawData, Request

__all__ = ["recbole_events"]


def recbole_events(request: Request) -> RawData:
    """An ``.inter`` file; the ``.item`` beside it is read with it, and so are the parts of a set split in three."""
    path = request.path
    names = [path.with_suffix(".item"), path.with_name(path.name.split(".")[0] + ".item")]
    beside = next((name for name in names if name.is_file() and name != path), None)
    if request.items is None and beside is not None:
        request = replace(request, items=beside)
    return delimited_events(request, "\t")
