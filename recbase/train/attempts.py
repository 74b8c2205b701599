"""Trainings on their way into a run folder, beside the finished run that may already stand there.

A run folder that holds a finished run keeps it, whole, until a new training is done: that works in the sub-folder
``training`` and takes the run's place at the end. A first training works in the run folder itself. A note,
``training.json``, says that a training was begun, so that ``--resume`` finds it whatever it had come to. Knows nothing
of models.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from recbase.store.files import TEMPORARY, FileContent, write_file
from recbase.store.locks import folder_lock
from recbase.store.runs import MANIFEST, check_run_folder, save_run
from recbase.train.interruption import Interrupted, collected_signals
from recbase.train.processes import is_main_process, process_count

if TYPE_CHECKING:
    from recbase.data.dataset import Dataset

__all__ = ["Attempt", "attempt_at", "gone_on_with"]

Result = TypeVar("Result")

_BESIDE = "training"
_NOTE = "training.json"
_HISTORY, _CHECKPOINT, _FIRST = "history.jsonl", "checkpoint", "pretraining"
_PARTS = (_FIRST, _CHECKPOINT, _HISTORY)
_EARLIER, _KIND = ".earlier", "training checkpoint"
_WEIGHTS = re.compile(r"(model|optimizer|best|rank-\d+)\.[0-9a-f]{12}\.safetensors$")
_STATE = f"{_CHECKPOINT}/checkpoint.json"


@dataclass(frozen=True)
class Attempt:
    """One training into a run folder.

    Attributes
    ----------
    out : Path
        The run folder.
    folder : Path
        Where the training keeps its checkpoint and its history until it is done: ``out``, or ``out/training`` where a
        finished run stands in ``out``.
    name : str
        A random name, recorded in the note and in the manifest of the run that comes of it.
    late : list of int
        Signals that came while the finished run was saved.
    """

    out: Path
    folder: Path
    name: str
    late: list[int] = field(default_factory=list)

    @property
    def first_stage(self) -> Path:
        """Folder in which the first of two stages keeps its checkpoint."""
        return self.folder / _FIRST

    def holds(self, stage: Path | None = None) -> bool:
        """True where the training (or its first stage) has a checkpoint to go on from."""
        return ((stage or self.folder) / _STATE).is_file()

    def shared(self) -> Attempt:
        """The attempt of the main process, on every process; call it once they have found each other."""
        if process_count() == 1:
            return self
        from accelerate.utils import broadcast_object_list

        facts = [str(self.folder), self.name]
        broadcast_object_list(facts)
        return Attempt(self.out, Path(facts[0]), facts[1])

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Save the run inside: history and checkpoint take the old ones' place right after it, and signals wait.

        The manifest must hold the attempt's name as ``attempt``, so that one that is killed in between is moved in by
        the next training.
        """
        with collected_signals() as caught:
            yield
            self.move_in()
        self.late.extend(caught)

    def save(
        self,
        name: str,
        model: Any,
        dataset: Dataset,
        manifest: dict[str, Any],
        metrics: Mapping[str, Any],
        files: Mapping[str, FileContent],
    ) -> None:
        """Save the run that came of it, with its metrics and the data set's name, in the old one's place."""
        data = dataset.described()
        data["given"] = manifest.pop("given", dataset.name)
        body = {"data": data} | manifest | {"attempt": self.name}
        content = {"metrics.json": json.dumps(metrics, indent=1).encode()}
        with self.finishing():
            save_run(self.out, name, model, _with_events(dataset), body, content | dict(files))

    def move_in(self) -> None:
        """Put history and checkpoint beside the saved run, which has taken the old one's place, and drop the note."""
        if self.folder != self.out:
            _replace_parts(self.out)
        (self.out / _NOTE).unlink(missing_ok=True)
        shutil.rmtree(self.out / _EARLIER, ignore_errors=True)

    def forget(self) -> None:
        """Leave no trace of a training that failed before it had anything to go on from."""
        if self.folder != self.out and _same_file(self.folder / _STATE, self.out / _STATE):
            shutil.rmtree(self.folder, ignore_errors=True)  # still the copy of the finished run's
        if not self.holds() and not self.holds(self.first_stage):
            (self.folder / _NOTE).unlink(missing_ok=True)
            _put_back(self.folder)
            for folder in dict.fromkeys([self.folder, self.out]):
                with suppress(OSError):  # not empty: something else lies there
                    folder.rmdir()

    def kept(self, stage: str = "") -> str:
        """Remains of an interrupted training, as the end of a sentence; ``stage`` is what one of its stages left."""
        if stage:
            told = stage
        elif self.holds():
            told = f"the training and its best state so far are kept in {self.folder / _CHECKPOINT}"
        elif self.holds(self.first_stage):
            told = f"the first stage is kept as far as it came in {self.first_stage / _CHECKPOINT}"
        else:
            told = "the stages that are complete are kept"
        return told if self.folder == self.out else f"{told}, and the run in {self.out} stays as it was"


def _with_events(dataset: Dataset) -> pl.DataFrame:
    """The catalogue with the number of training events of every item, by which strangers are answered."""
    counts = np.bincount(dataset.split().train.flat()[0], minlength=dataset.n_items + 1)[1:]
    return dataset.items.with_columns(events=pl.Series(counts, dtype=pl.UInt32))


@contextmanager
def attempt_at(out: str | os.PathLike[str], purpose: str, resume: bool = False) -> Iterator[Attempt]:
    """Train into a run folder: the only writer there, with what stands in it kept until `Attempt.finishing`.

    Of several processes the main one holds the folder and prepares it; where it is refused, it ends, and the launcher
    ends the others.

    Parameters
    ----------
    out : path
        Run folder.
    purpose : str
        What is done, as ``"training sasrec"``; a second command that wants the folder is told.
    resume : bool, default False
        Go on with the training that was begun there, or with the finished run's own; otherwise begin anew.

    Raises
    ------
    FolderBusyError
        If another command is writing the folder.
    ValueError
        If ``out`` holds something else than a run.
    FileNotFoundError
        If nothing was begun there that could be resumed.
    Interrupted
        In place of any KeyboardInterrupt, saying what is kept.
    """
    out = Path(out)
    if not is_main_process():
        yield Attempt(out, out, "")
        return
    if resume and not out.exists():  # the lock would make the folders above
        raise _nothing_begun(out)
    with folder_lock(out, purpose, wait=0):
        attempt = _resumed(out) if resume else _begun(out)
        try:
            yield attempt
        except KeyboardInterrupt as stop:
            told = stop if isinstance(stop, Interrupted) else Interrupted()
            raise Interrupted(told.number, attempt.kept(told.kept), "resume") from stop
        except Exception:
            attempt.forget()
            raise
        if attempt.late:
            raise Interrupted(attempt.late[0], f"it was done, and the run is saved in {out}", "no")


def gone_on_with(folder: Path, train: Callable[[bool], Result]) -> Result:
    """Train a stage: ``train(resume)`` is told to go on where an interrupted one left a checkpoint in ``folder``.

    One that another version, device or number of processes left is begun anew.
    """
    from recbase.train.loop import DifferentRunError

    if (folder / _STATE).is_file():
        try:
            return train(True)
        except DifferentRunError:
            pass
    return train(False)


def _begun(out: Path) -> Attempt:
    """A new attempt; what an earlier one that was not finished had left is set aside until the new one is done."""
    folder = _workplace(out)
    if any((folder / part / _STATE).is_file() for part in ("", _FIRST)):
        warnings.warn(
            f"{folder} held a training that was not finished: a new one is begun in its place (--resume goes on), and "
            f"what there was is kept in {folder / _EARLIER} until that is done",
            stacklevel=4,
        )
        _set_aside(folder)
    attempt = Attempt(out, folder, secrets.token_hex(8))
    write_file(folder / _NOTE, json.dumps({"name": attempt.name}) + "\n")
    return attempt


def _set_aside(folder: Path) -> None:
    """Move a training that was begun out of the way of a new one."""
    shutil.rmtree(folder / _EARLIER, ignore_errors=True)
    (folder / _EARLIER).mkdir()
    for part in _PARTS:
        if (folder / part).exists():
            os.replace(folder / part, folder / _EARLIER / part)


def _put_back(folder: Path) -> None:
    """Undo `_set_aside` where the new training came to nothing."""
    if not (folder / _EARLIER).is_dir():
        return
    (folder / _HISTORY).unlink(missing_ok=True)
    for part in _PARTS:
        if (folder / _EARLIER / part).exists() and not (folder / part).exists():
            os.replace(folder / _EARLIER / part, folder / part)
    with suppress(OSError):
        (folder / _EARLIER).rmdir()


def _resumed(out: Path) -> Attempt:
    folder = _workplace(out)
    note = _read_json(folder / _NOTE)
    attempt = Attempt(out, folder, str(note.get("name") or secrets.token_hex(8)))
    begun = attempt.holds(attempt.first_stage) and not (out / _STATE).is_file()
    if note or attempt.holds() or begun:
        return attempt
    if not (out / _STATE).is_file():
        raise _nothing_begun(out)
    # A finished run is trained further: from a copy, so that it stays whole until the longer training is done.
    shutil.rmtree(folder, ignore_errors=True)
    if (out / _FIRST).is_dir():
        shutil.copytree(out / _FIRST, folder / _FIRST)
    shutil.copytree(out / _CHECKPOINT, folder / f".copied-{_CHECKPOINT}")
    os.replace(folder / f".copied-{_CHECKPOINT}", folder / _CHECKPOINT)
    write_file(folder / _NOTE, json.dumps({"name": attempt.name}) + "\n")
    return attempt


def _nothing_begun(out: Path) -> FileNotFoundError:
    return FileNotFoundError(f"{out} holds no checkpoint to resume; leave out --resume to start anew")


def _workplace(out: Path) -> Path:
    """Folder in which a training into this one works; first, one that was saved but not moved in is moved in."""
    check_run_folder(out)  # now, and not after hours of training
    manifest = _read_json(out / MANIFEST)
    _check_parts(out, bool(manifest))
    if not manifest:
        return out
    for folder in (out / _BESIDE, out):
        note = _read_json(folder / _NOTE)
        if note and note.get("name") == manifest.get("attempt"):
            Attempt(out, folder, note["name"]).move_in()
    return out / _BESIDE


def _check_parts(out: Path, finished: bool) -> None:
    """Refuse a folder in which something of others has a name that a training would write over or take away.

    Raises
    ------
    ValueError
        Naming it.
    """
    strange = [out / part for part in (_CHECKPOINT, _FIRST) if not _is_training(out / part, part == _FIRST)]
    if not finished and not (out / _STATE).is_file() and not _is_history(out / _HISTORY):
        strange.append(out / _HISTORY)
    beside = out / _BESIDE
    if os.path.lexists(out / _NOTE) and "name" not in _read_json(out / _NOTE):
        strange.append(out / _NOTE)
    if finished and ((beside / MANIFEST).exists() or not (_read_json(beside / _NOTE) or _is_training(beside, True))):
        strange.append(beside)
    if strange:
        raise ValueError(
            f"cannot train into {out}: {strange[0]} is none of a training of ours and would be lost; "
            "give another folder"
        )


def _is_training(folder: Path, above: bool) -> bool:
    """True where a folder is a checkpoint of ours, or holds one, or nothing that could be lost."""
    if not os.path.lexists(folder):
        return True
    if not folder.is_dir():
        return False
    held = _read_json(folder / (_STATE if above else Path(_STATE).name))
    ours = {_CHECKPOINT, _FIRST, _HISTORY, _EARLIER}
    return held.get("kind") == _KIND or all(
        _is_left(path) or (above and path.name in ours) for path in folder.iterdir()
    )


def _is_left(path: Path) -> bool:
    """True where a file is what a writer of ours that was killed has left."""
    return path.name.startswith((TEMPORARY, ".copied-", ".checkpoint.lock")) or _WEIGHTS.match(path.name) is not None


def _is_history(path: Path) -> bool:
    """True where a file is a history of ours, or not there."""
    if not os.path.lexists(path):
        return True
    try:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        return not first or {"epoch", "step"} <= set(json.loads(first))
    except (OSError, ValueError, TypeError):
        return False


def _replace_parts(out: Path) -> None:
    """Replace the parts of the old training by those of the new one; may be repeated after it was cut short."""
    beside = out / _BESIDE
    note = _read_json(beside / _NOTE)
    if "parts" not in note:  # written down first: afterwards a part that was moved looks like one that never was
        note["parts"] = [part for part in _PARTS if (beside / part).exists()]
        write_file(beside / _NOTE, json.dumps(note) + "\n")
    for part in _PARTS:
        source, target = beside / part, out / part
        if target.exists() and (source.exists() or part not in note["parts"]):
            os.replace(target, beside / f"old-{part}")
        if source.exists():
            os.replace(source, target)
    shutil.rmtree(beside, ignore_errors=True)


def _same_file(first: Path, second: Path) -> bool:
    with suppress(OSError):
        return first.read_bytes() == second.read_bytes()
    return False


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or nothing where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
