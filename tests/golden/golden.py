"""Golden values and folders: what every method and model gave on a small synthetic world when they were written.

``commands.txt`` has one command a line, under a name. What a command wrote lies whole in ``folders/NAME``, and the
losses, codes, ranks and metrics to compare with are read from there. Every later version has to open these folders, and
to get the same from the same command. Anew, after a change that is meant to change results, and is then said so in the
changelog::

    python tests/golden/golden.py NAME ...      # all names if none is given
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from semtok import load, load_codes, load_embeddings
from semtok.content.arrange import laid_out_as

HERE = Path(__file__).resolve().parent
FOLDERS = HERE / "folders"
DATA = FOLDERS / "dataset"
KEPT_CHECKPOINTS = ("run-sasrec", "run-tiger")


def commands() -> dict[str, list[str]]:
    """The commands of ``commands.txt`` as words, by name, in the order in which they build on each other."""
    lines = (HERE / "commands.txt").read_text(encoding="utf-8").splitlines()
    return {name: words.split() for name, _, words in (line.partition(": ") for line in lines)}


ENCODERS = tuple(name for name in commands() if name.startswith("tokenizer-") and name != "tokenizer-random")


def run(name: str, out: Path, more: Sequence[str] = ()) -> None:
    """Run the command of a name, with ``more`` words, in this process, into the folder ``out``."""
    package, *words = commands()[name]
    words = [word.replace("FOLDERS", str(FOLDERS)).replace("DATA", str(DATA)) for word in words]
    if "--pca" in words and words[0] != "embed":
        # The vectors that are kept, not vectors made anew: of two axes of equal entries processors may turn one around.
        words += ["--embeddings", str(FOLDERS / "embeddings")]
    main = importlib.import_module(f"{package}.cli").main
    result = main(
        [*words, *more, "--out", str(out), *([] if words[0] == "export" else ["--quiet"])], standalone_mode=False
    )
    if result:
        raise RuntimeError(f"{name}: the command ended with {result}")


def values(folder: Path) -> dict[str, Any]:
    """What a folder says of the run that wrote it: codes, losses, ranks and metrics, where it has them."""
    found: dict[str, Any] = {}
    for table in folder.glob("codes.*"):
        if table.suffix == ".parquet":
            found["codes"] = load_codes(folder).codes
    for name in ("item_vectors", "embeddings"):
        for path in folder.glob(f"{name}*.safetensors"):
            found |= {f"{name}: {key}": tensor for key, tensor in load_file(path).items()}
    for history in folder.glob("history.jsonl"):
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        found["losses"] = np.array([row["loss"] for row in rows if "loss" in row])
    for ranks in folder.glob("ranks.*.parquet"):
        found["ranks"] = filled(pl.read_parquet(ranks)["rank"].to_numpy())
    for metrics in folder.glob("metrics.*.json"):
        record = json.loads(metrics.read_text(encoding="utf-8"))
        found["metrics"] = {part: record[part] for part in ("valid", "test") if part in record}
    return found


def quality(folder: Path) -> float:
    """Error of the codes of a tokenizer folder, or the last loss of a run: what a user would compare."""
    for report in folder.glob("report.*.json"):
        return float(json.loads(report.read_text(encoding="utf-8"))["reconstruction"]["relative_error"])
    return float(values(folder)["losses"][-1])


def encoded(name: str, backend: str) -> np.ndarray:
    """Codes that a saved tokenizer gives the vectors of the golden embeddings, before any are made unique."""
    made_from = json.loads((FOLDERS / name / "semtok.json").read_text(encoding="utf-8"))["made_from"]
    vectors = laid_out_as(load_embeddings(FOLDERS / "embeddings"), made_from).matrix
    return np.asarray(load(FOLDERS / name, backend=backend).encode(vectors))


def filled(ranks: np.ndarray) -> np.ndarray:
    """Ranks with 0 where the target was not in the list."""
    return np.nan_to_num(np.asarray(ranks, np.float64), nan=0.0, posinf=0.0)


def make(names: list[str]) -> None:
    """Write the folders of these names anew; the data set too where it is missing."""
    if not DATA.is_dir():
        from recbase.data.builtin import synthetic

        synthetic(users=200, items=60).save(DATA)
    for name in names:
        shutil.rmtree(FOLDERS / name, ignore_errors=True)
        run(name, FOLDERS / name)
        shutil.rmtree(FOLDERS / "cache", ignore_errors=True)
        if name not in KEPT_CHECKPOINTS:
            shutil.rmtree(FOLDERS / name / "checkpoint", ignore_errors=True)
        if name in ENCODERS:
            np.save(HERE / "encoded" / f"{name}.npy", encoded(name, "torch"))
        for manifest in (FOLDERS / name).glob("*.json"):  # where the clone lay on the machine is nobody's concern
            manifest.write_text(
                manifest.read_text(encoding="utf-8").replace(f'"{HERE.parents[1]}/', '"'), encoding="utf-8"
            )
        print(name, *values(FOLDERS / name))


if __name__ == "__main__":
    make(sys.argv[1:] or list(commands()))
