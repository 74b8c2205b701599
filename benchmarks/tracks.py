"""The same events in the orders that published numbers were measured under.

Amazon's 2014 time stamps are whole days and its raw files are grouped by product, so how ties are broken decides much
of a result. ``canonical`` is the order as given; ``shuffled`` keeps the days and shuffles within them; ``product``
ignores time and sorts every history by product id, as pipelines do that overwrite time stamps and keep the order of
the raw file. The last one exists only to replay numbers that were measured so. Example::

    python -m benchmarks.tracks shuffled product --data runs/beauty --out runs/tracks
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbase.data.catalog import load_dataset, prepare_dataset
from recbase.data.dataset import Dataset

__all__ = ["TRACKS", "track_folder"]

TRACKS = ("canonical", "shuffled", "product")


def track_folder(data: Path, track: str, out: Path, product: str = "asin") -> Path:
    """Folder of the data set in the order of a track, made under ``out`` if it is not there.

    Parameters
    ----------
    data : Path
        Data set folder, with time stamps for ``shuffled``.
    track : {"canonical", "shuffled", "product"}
    out : Path
    product : str, default "asin"
        Column of the items that holds the product ids.

    Raises
    ------
    ValueError
        If the items have no such column.
    """
    if track == "canonical":
        return data
    target = out / f"data-{track}"
    if (target / "dataset.json").is_file():
        return target
    if track == "shuffled":
        made = prepare_dataset(data, order="time", ties="shuffle")
    else:
        given = load_dataset(data)
        if product not in given.items.columns:
            raise ValueError(f"items of {data} have no column {product}; they have {', '.join(given.items.columns)}")
        events = given.interactions().join(given.items.select("item_id", product), on="item_id", how="left")
        ordered = events.sort("user_id", product).drop(product, "timestamp", strict=False)
        manifest = given.manifest | {"order": "file", "ties": None, "sorted_by": product}
        made = Dataset.from_tables(given.name, ordered, given.items, manifest)
    return made.save(target)


def main() -> None:
    """Make the data sets that were asked for and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tracks", nargs="+", choices=TRACKS)
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--product", default="asin", help="column of the items that holds the product ids")
    parser.add_argument("--out", type=Path, default=Path("runs/tracks"), help="folder of the data sets made")
    given = parser.parse_args()
    for track in given.tracks:
        print(f"{track}: {track_folder(given.data, track, given.out, given.product)}")


if __name__ == "__main__":
    main()
