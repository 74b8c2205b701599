"""The speedrun: seconds from the raw files of Beauty to recall@10 .0923 and ndcg@10 .0559, seen items masked.

    python -m benchmarks.speedrun --raw FOLDER                      # the record's settings
    python -m benchmarks.speedrun --raw FOLDER --note "why" -- --dim 96 --lr 3e-3   # another try, for ccfrec's command
    python -m benchmarks.speedrun --raw FOLDER --append --machine "two x86-64 cores, no GPU"

Everything from raw files on counts: preparing, vectors of the items, training, validation and test. The bar is the mean
of three seeds of SASRec on this data set. Choose settings on validation: a run looks at test once, and only a run past
both bars can be the record. Results go to results/speedrun.jsonl with ``--append``.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import append, record
from benchmarks.rows import metrics_of

BARS = {"recall@10": 0.0923, "ndcg@10": 0.0559}
RECORD = ["--recipe", "ids", "--dim", "64", "--epochs", "6", "--seed", "0"]


def commands(raw: Path, folder: Path, options: list[str]) -> list[list[str]]:
    """The commands from raw files to metrics, the program first."""
    data, out = folder / "data", folder / "run"
    return [
        ["semtok", "prepare", str(raw), "--out", str(data)],
        ["seqrec", "train", "ccfrec", *options, "--data", str(data), "--out", str(out), "--quiet"],
    ]


def timed(lines: list[list[str]], folder: Path) -> tuple[float, float]:
    """Run commands in a folder without any cache; wall-clock and processor seconds of all of them."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for program, *words in lines:
        print("$", program, shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", f"{program}.cli", *words], check=True, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run, measure, say whether both bars are passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder or file that semtok prepare reads as Beauty")
    parser.add_argument("--append", action="store_true", help="add the result to results/speedrun.jsonl")
    parser.add_argument("--machine", default="two x86-64 cores, no GPU", help="the machine, in words")
    parser.add_argument("--note", default="", help="the idea of this try, in a few words")
    parser.add_argument("options", nargs="*", default=[], metavar="-- OPTION", help="of seqrec train ccfrec")
    given = parser.parse_args()
    options = given.options or RECORD
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall, processor = timed(commands(given.raw.resolve(), folder, options), folder)
        metrics = metrics_of(folder / "run")
    if metrics is None:
        raise SystemExit("the training left no metrics; its messages stand above")
    masked, valid = metrics["test_masked"], metrics["valid"]
    passed = all(masked[name] >= bar for name, bar in BARS.items())
    print(
        f"{wall:.0f} s, {processor:.0f} s of processor time; validation ndcg@10 {valid['ndcg@10']:.4f}; test, masked:"
    )
    for name, bar in BARS.items():
        print(f"  {name} {masked[name]:.4f} (bar {bar:.4f})")
    print("both bars are passed" if passed else "a bar is not passed: no record")
    if given.append:
        values = {f"masked {name}": [masked[name]] for name in BARS}
        values |= {"validation ndcg@10": [valid["ndcg@10"]], "processor seconds": [processor]}
        said = f"python -m benchmarks.speedrun --raw BEAUTY -- {shlex.join(options)}"
        note = given.note or "One seed. The recipe ids is not the paper's CCFRec."
        row = " ".join(options)
        append([record("speedrun", row, "Beauty", values, said, given.machine, note, seconds=wall)])


if __name__ == "__main__":
    main()
