"""The main job on the built-in data, command by command: what ``make demo`` runs.

Every line printed with a ``$`` is a command that can be run alone. Trainings count passes over the users and compute in
float32, so a busy or slower machine makes the same codes and tables later. Ends with the result table, the code report
and where everything lies.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

# Networks and passes with which all of it takes some 12 minutes of two cores; the recipes' own take several times that.
CCFREC = ["--epochs", "12", "--precision", "no"]
PROREC = [
    *("--form", "all", "--stage1-epochs", "8", "--stage1-valid-users", "200"),
    *("--dim", "64", "--ffn", "256", "--decoder-layers", "2", "--epochs", "40", "--lr", "2e-3"),
    *("--schedule", "cosine", "--warmup-steps", "76", "--patience", "0", "--precision", "no"),
]


def commands(
    runs: Path, data: str = "journey", max_seconds: float | None = None, generator_seconds: float | None = None
) -> list[list[str]]:
    """The commands in their order: prepare, embed, fit codes, train, report, compare.

    Parameters
    ----------
    runs : Path
        Folder for everything that is made.
    data : str, default "journey"
        Built-in data set, or a folder.
    max_seconds, generator_seconds : float, optional
        Budgets of CCFRec and of PRORec's second stage; none by default, as what time allows differs by machine.
    """
    made, embeddings, codes = runs / "data", runs / "embeddings", runs / "semtok" / "pq"
    given = ["--data", str(made)]
    vectors = ["--embeddings", str(embeddings)]
    found = [
        ["semtok", "prepare", data, "--out", str(made)],
        ["semtok", "embed", *given, "--out", str(embeddings)],
        ["semtok", "fit", "--method", "pq", *given, *vectors, "--out", str(codes)],
    ]
    folders = []
    content = [*vectors, "--codes", str(codes), *CCFREC, *_budget(max_seconds)]
    for name, extra in (("popularity", []), ("transitions", []), ("sasrec", []), ("ccfrec", content)):
        folders.append(str(runs / "seqrec" / name))
        found.append(["seqrec", "train", name, *given, "--out", folders[-1], "--quiet", *extra])
    folders.append(str(runs / "genrec" / "prorec"))
    generator = ["--out", folders[-1], "--quiet", *PROREC, *_budget(generator_seconds)]
    found.append(["genrec", "train", "prorec", *given, *vectors, *generator])
    found.append(["semtok", "report", str(codes), "--out", str(runs / "report")])
    found.append(["seqrec", "compare", *reversed(folders[:4]), folders[4], "--figure", str(runs / "comparison.png")])
    return found


def _budget(seconds: float | None) -> list[str]:
    return [] if seconds is None else ["--max-seconds", str(seconds)]


def run(words: list[str]) -> None:
    """Print and run one command of the toolkit, with the interpreter that runs this."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    start = time.perf_counter()
    package, *rest = words
    subprocess.run([sys.executable, "-m", f"{package}.cli", *rest], check=True)
    print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)


def main() -> None:
    """Prepare, embed, fit codes, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for everything that is made")
    parser.add_argument("--data", default="journey", help="built-in data set, or a folder")
    parser.add_argument("--max-seconds", type=float, help="budget of CCFRec's training; none if not given")
    parser.add_argument("--generator-seconds", type=float, help="budget of PRORec's second stage; none if not given")
    options = parser.parse_args()
    runs, start = options.runs, time.perf_counter()
    for words in commands(runs, options.data, options.max_seconds, options.generator_seconds):
        run(words)
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Codes: {runs / 'semtok' / 'pq'}. Runs: {runs}.")
    print(
        f"Figure: {runs / 'comparison.png'}. This data set shows that the software works; it is no evidence on models."
    )


if __name__ == "__main__":
    main()
