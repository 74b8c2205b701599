"""The main job on the built-in data, command by command: what ``make demo`` runs.

Every line printed with a ``$`` is a command that can be run alone. Ends with the result table, the code report and
where everything lies.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path


def run(arguments: list[str]) -> None:
    """Print and run one command of the toolkit, with the interpreter that runs this."""
    print(f"\n$ {shlex.join(arguments)}", flush=True)
    start = time.perf_counter()
    package, *rest = arguments
    subprocess.run([sys.executable, "-m", f"{package}.commands", *rest], check=True)
    print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)


def main() -> None:
    """Prepare, embed, fit codes, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for everything that is made")
    parser.add_argument("--data", default="journey", help="built-in data set, or a folder")
    parser.add_argument("--max-seconds", type=float, default=300, help="budget of CCFRec's training")
    parser.add_argument("--generator-seconds", type=float, default=180, help="budget of PRORec's second stage")
    options = parser.parse_args()
    runs, start = options.runs, time.perf_counter()
    data, embeddings, codes = runs / "data", runs / "embeddings", runs / "semtok" / "pq"
    run(["semtok", "prepare", options.data, "--out", str(data)])
    run(["semtok", "embed", "--data", str(data), "--out", str(embeddings)])
    run(["semtok", "fit", "--method", "pq", "--data", str(data), "--embeddings", str(embeddings), "--out", str(codes)])
    folders = []
    content = ["--embeddings", str(embeddings), "--codes", str(codes), "--max-seconds", str(options.max_seconds)]
    for name, extra in (("popularity", []), ("transitions", []), ("sasrec", []), ("ccfrec", content)):
        folder = runs / "seqrec" / name
        folders.append(str(folder))
        run(["seqrec", "train", name, "--data", str(data), "--out", str(folder), "--quiet", *extra])
    generator = runs / "genrec" / "prorec"
    budget = ["--form", "all", "--max-seconds", str(options.generator_seconds), "--stage1-seconds", "90"]
    given = ["--data", str(data), "--embeddings", str(embeddings), "--out", str(generator), "--quiet"]
    run(["genrec", "train", "prorec", *given, *budget])
    folders.insert(0, str(generator))
    run(["semtok", "report", str(codes), "--out", str(runs / "report")])
    run(["seqrec", "compare", *reversed(folders), "--figure", str(runs / "comparison.png")])
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Codes: {codes}. Runs: {', '.join(folders)}.")
    print(
        f"Figure: {runs / 'comparison.png'}. This data set shows that the software works; it is no evidence on models."
    )


if __name__ == "__main__":
    main()
