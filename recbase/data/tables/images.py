"""Image vectors in the binary form of Amazon's data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl

from recbase.data.tables.blocks import open_file

__all__ = ["read_image_features"]


def read_image_features(
    path: str | os.PathLike[str], item_ids: pl.Series, width: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Image vectors of some items from Amazon's binary file, streamed: 10 bytes of ASIN, then ``width`` float32.

    Parameters
    ----------
    path : path
        Such as ``image_features_Beauty.b``, compressed by gzip or not.
    item_ids : Series [N]
    width : int, default 4096

    Returns
    -------
    vectors : ndarray of float32 [N, width]
        Zero where there is none.
    missing : ndarray of bool [N]

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file ends within a record, or an item has a vector that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    record = np.dtype([("asin", "S10"), ("vector", "<f4", (width,))])
    vectors = np.zeros((len(item_ids), width), dtype=np.float32)
    missing = np.ones(len(item_ids), dtype=bool)
    rows = {str(identifier).encode(): row for row, identifier in enumerate(item_ids)}
    with open_file(path) as file:
        while data := file.read(record.itemsize * 256):
            if len(data) % record.itemsize:
                raise ValueError(
                    f"{path} ends within a record of {record.itemsize} bytes: truncated, or not width {width}"
                )
            block = np.frombuffer(data, dtype=record)
            found = [(at, rows[asin]) for at, asin in enumerate(block["asin"].tolist()) if asin in rows]
            if found:
                at, into = np.array(found).T
                vectors[into], missing[into] = block["vector"][at], False
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path} has vectors that are not finite; expected width {width} and little-endian float32")
    return vectors, missing
