"""The folder that a deployment needs: a run with tables, item vectors, an index and a scorer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recbase.store.folder import FileContent
from recbase.store.runs import Run, check_export, save_export

__all__ = ["export_run"]


_README = """# {name}, ready to be asked

Written by `seqrec export` from a model that was trained on {data} ({items:,} items).

{parts}
- `model.safetensors`, `config.json`: the model itself; `seqrec.load` and all commands open this folder as well.

    pip install {packages}
    python example.py ITEM ITEM ...
    seqrec recommend . --history ITEM,ITEM{engine}
"""
_PARTS = {
    "scorer.onnx": "histories (`items` int64 [B, T], right padded with 0, and `lengths` int64 [B]) to `scores` of all "
    "items, float32 [B, N]; needs ONNX Runtime alone",
    "items.faiss": "index of the item vectors by inner product",
    "item_vectors.safetensors": "the item vectors, float32 [N, D]",
    "items.parquet": "ids and titles; item number i is row i - 1",
}


def _guide(name: str, run: Run, files: Mapping[str, FileContent]) -> dict[str, FileContent]:
    """README.md of an export, and an example that runs."""
    onnx = "scorer.onnx" in files
    there = {"items.parquet", "item_vectors.safetensors", *files}
    text = _README.format(
        name=name,
        data=run.manifest.get("data", {}).get("name", "an unknown data set"),
        items=run.items.height,
        parts="\n".join(f"- `{file}`: {what}." for file, what in _PARTS.items() if file in there),
        packages="numpy polars onnxruntime" if onnx else "semtok",
        engine=" --engine onnx" if onnx else "",
    )
    example = Path(__file__).parent / "examples" / ("onnx_example.py" if onnx else "model_example.py")
    return {"README.md": text.encode(), "example.py": example.read_bytes()}


def export_run(
    run: Run,
    out: str | os.PathLike[str],
    faiss: bool | None = None,
    onnx: bool | None = None,
    factory: str = "Flat",
) -> tuple[list[str], list[str]]:
    """Write the deployed form of a run: the model, its item vectors, a faiss index of them and an ONNX scorer.

    A CCFRec run is exported with tables in place of its fusion module; other models are written as they are.

    Parameters
    ----------
    run : Run
    out : path
    faiss, onnx : bool, optional
        Whether the index and the scorer are written; where it is possible if None.
    factory : str, default "Flat"
        Kind of index, as faiss's ``index_factory`` takes it.

    Returns
    -------
    written : list of str
        Names of the files in the new folder.
    notes : list of str
        Why the index or the scorer was left out, where that was not asked for.

    Raises
    ------
    ValueError
        If the model has no item vectors (popularity and other counts); or ``out`` holds a trained run or anything else
        that is no export; or, after the rest was written, if the index or the scorer that was asked for could not be.
    ImportError
        If an engine that was asked for is not installed.
    """
    from seqrec.export import FAISS_FILE, ONNX_FILE, write_faiss, write_onnx

    check_export(out)
    name, model = run.manifest["model"], run.model
    if not hasattr(model, "item_vectors"):
        raise ValueError(f"{run.folder.path} holds a {name}, which has no item vectors to export")
    if hasattr(model, "tabulated"):
        name, model = "ccfrec-tabulated", model.tabulated()
    files: dict[str, FileContent] = {}
    notes, refused = [], ""
    for file, asked, write in (
        (FAISS_FILE, faiss, lambda: write_faiss(model, factory)),
        (ONNX_FILE, onnx, lambda: write_onnx(model)),
    ):
        if asked is False:
            continue
        try:
            files[file] = write()
        except (ImportError, ValueError) as error:
            if asked and isinstance(error, ImportError):
                raise
            notes.append(f"no {file}: {error}")
            refused = refused or (notes[-1] if asked else "")
    written = save_export(run, out, name, model, files | _guide(name, run, files))
    if refused:
        raise ValueError(f"{refused}; the rest of the export is in {out}")
    return written, notes
