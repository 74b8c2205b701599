"""Using a trained run: raw item ids in, raw item ids out; and the folder that a deployment needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbase.data.sequences import Histories
from recbase.evaluate.answers import answer_rows, known_items
from recbase.store.folder import FileContent, check_replaceable, folder_lock, open_folder
from recbase.store.runs import KIND, MANIFEST, Run, save_run

__all__ = ["export_run", "recommend_ids"]


def recommend_ids(
    run: Run, history: Sequence[str | int], k: int = 10, keep_seen: bool = False, engine: str = "model"
) -> tuple[list[dict[str, Any]], list[str]]:
    """The ``k`` best items for one history of raw ids.

    Parameters
    ----------
    run : Run
    history : sequence of str or int
        The oldest item first.
    k : int, default 10
    keep_seen : bool, default False
        Whether items of the history may be recommended.
    engine : {"model", "faiss", "onnx"}, default "model"
        What scores: the model, or a file that :func:`export_run` wrote: the index (the model still makes the user
        vector), or the ONNX scorer.

    Returns
    -------
    rows : list of dict
        ``item_id``, ``title`` (where there is one) and ``score``, the best first.
    unknown : list of str
        Ids of the history that the run does not know; they are skipped.

    Raises
    ------
    ValueError
        If no id of the history is known, or the run has no such file.
    ImportError
        If the engine is not installed.
    """
    from recbase.evaluate.ranking import topk
    from seqrec.export import FAISS_FILE, ONNX_FILE, FaissItems, OnnxScorer

    if engine not in ("model", "faiss", "onnx"):
        raise ValueError(f"--engine must be one of model, faiss, onnx, got {engine!r}")
    file = {"faiss": FAISS_FILE, "onnx": ONNX_FILE}.get(engine)
    if file is not None and file not in run.folder:
        raise ValueError(f"{run.folder.path} has no {file}; seqrec export RUN --out FOLDER writes one")
    known, unknown = known_items(run, history)
    histories, count = Histories.from_lists([known]), min(k, len(run.items))
    if engine == "faiss":
        index = FaissItems(run.folder.file(FAISS_FILE), len(run.items))
        return answer_rows(run, index.topk(run.model, histories, count, mask_seen=not keep_seen)), unknown
    scorer = OnnxScorer(run.folder.file(ONNX_FILE), len(run.items)) if engine == "onnx" else run.model.scorer()
    return answer_rows(run, topk(scorer, histories, count, mask_seen=not keep_seen)), unknown


def _check_export(out: str | os.PathLike[str]) -> None:
    """Refuse a folder whose run would be lost: an export keeps neither metrics nor a fusion module."""
    check_replaceable(out, MANIFEST, KIND)
    if (Path(out) / MANIFEST).is_file() and "exported_from" not in open_folder(out, MANIFEST, KIND).manifest:
        raise ValueError(f"{out} holds a trained run, which an export would replace: give another folder")


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

    _check_export(out)
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
    kept = {key: run.manifest[key] for key in ("data", "split", "recipe", "form") if key in run.manifest}
    with folder_lock(out, "exporting a run"):
        _check_export(out)
        written = save_run(out, name, model, run.items, kept | {"exported_from": run.manifest["model"]}, files)
    if refused:
        raise ValueError(f"{refused}; the rest of the export is in {out}")
    return sorted(written), notes
