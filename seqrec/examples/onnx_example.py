"""Ask the scorer in this folder: python example.py ITEM ITEM ... (the oldest first). Needs no torch, nor this toolkit.

pip install numpy polars onnxruntime
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl

FOLDER = Path(__file__).parent
session = onnxruntime.InferenceSession(str(FOLDER / "scorer.onnx"), providers=["CPUExecutionProvider"])
longest = int(session.get_modelmeta().custom_metadata_map["max_len"])
fixed = isinstance(session.get_inputs()[0].shape[1], int)  # a few models read histories of one width alone

ids = pl.read_parquet(FOLDER / "items.parquet")["item_id"].cast(pl.String).to_list()
number = {name: row for row, name in enumerate(ids, 1)}  # item numbers begin at 1; 0 is padding


def recommend(history: list[str], k: int = 10) -> list[tuple[str, float]]:
    """The k best items after a history of ids, with their scores; items of the history are left out."""
    known = [number[item] for item in history if item in number][-longest:]
    if not known:
        return []
    items = np.zeros((1, longest if fixed else len(known)), dtype=np.int64)
    items[0, : len(known)] = known
    (scores,) = session.run(["scores"], {"items": items, "lengths": np.array([len(known)])})
    scores[0, [number[item] - 1 for item in history if item in number]] = -np.inf
    best = np.argsort(-scores[0], kind="stable")[:k]
    return [(ids[row], float(scores[0, row])) for row in best]


if __name__ == "__main__":
    asked = sys.argv[1:] or ids[:3]
    print(f"after {', '.join(asked)}:")
    for item, score in recommend(asked):
        print(f"{score:9.3f}  {item}")
