"""Every tokenizer at the same sizes on one data set, beside the codes that others published for its items.

Every row is one ``semtok fit`` in a process of its own; a row whose folder is complete is not run again, so the runner
can be stopped and started, and rows can be added later. Ends with a table in Markdown. Example::

    semtok prepare amazon2018 --category Industrial_and_Scientific --out runs/scientific
    semtok embed --data runs/scientific --encoder minilm --out runs/scientific-minilm
    python benchmarks/tokenizers.py --data runs/scientific --embeddings runs/scientific-minilm \\
        --reference reference_codes.parquet --out runs/tokenizers

All views are joined (``--no-per-view``), so that a 4x256 tokenizer has four codes an item whatever its method; codes
are as the method makes them (``--unique none``) unless another policy is asked for. ``--reference`` is a table of the
columns method, item_id, c0, c1, ... (or any file that ``semtok import`` reads). ``behavior`` has one code a level for
each of its streams, so its rows are longer. Published codes were made from other vectors: their prefix recall is by
the vectors given here, and they have no decoder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbase.cli.options import options_from
from recbase.store.folder import open_folder
from semtok.registry import methods

ORDER = ("random", "lsh", "fsq", "pq", "opq", "rq", "hierarchical", "rqvae", "letter", "behavior")
COLUMNS = (
    "collision_rate",
    "surplus_rate",
    "largest_group",
    "utilisation",
    "perplexity",
    "reconstruction_error",
    "neighbour_recall",
    "prefix_recall",
    "fit_seconds",
)
BEFORE = ("collision_rate_before", "largest_group_before", "moved_share", "distortion_added")


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at a size."""

    method: str
    levels: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.levels}x{self.size}"


def command(row: Row, arguments: argparse.Namespace, out: Path) -> list[str]:
    """The ``semtok fit`` of a row, with those options of a shape that the method has."""
    known = {option.name for option in options_from(methods()[row.method])}
    words = ["fit", "--method", row.method, "--data", arguments.data, "--embeddings", str(arguments.embeddings)]
    words += ["--out", str(out), "--seed", str(arguments.seed), "--unique", arguments.unique, "--quiet"]
    if row.method != "behavior":
        words.append("--no-per-view")
    wanted: dict[str, Any] = {"levels": row.levels, "codebook_size": row.size, "max_seconds": arguments.max_seconds}
    for text in arguments.set:
        method, _, setting = text.partition(":")
        name, equal, value = setting.partition("=")
        if not equal:
            raise SystemExit(f"--set is {text!r}; expected METHOD:OPTION=VALUE, such as rqvae:steps=2000")
        if method == row.method:
            wanted[name.replace("-", "_")] = value
    for name, value in wanted.items():
        if name in known and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def fit(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one row, if its folder does not hold it already: how long, how much memory, and what went wrong."""
    folder = arguments.out / row.name
    words = command(row, arguments, folder)
    record = arguments.out / f"{row.name}.json"
    if record.is_file():
        kept: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if kept["command"] == words and kept["failed"] is None and _complete(folder):
            return kept
    print(f"$ semtok {shlex.join(words)}", flush=True)
    log = arguments.out / f"{row.name}.log"
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", "semtok.cli", *words], stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(encoding="utf-8").strip().splitlines()
    failed = None if process.returncode == 0 else (said[-1] if said else f"exit code {process.returncode}")
    found = {
        "command": words,
        "seconds": time.perf_counter() - started,
        "peak_mib": usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "failed": failed,
    }
    record.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"  [{found['seconds']:.0f} s]{f' {failed}' if failed else ''}", flush=True)
    return found


def _complete(folder: Path) -> bool:
    try:
        return "report.json" in open_folder(folder, "semtok.json", "tokenizer")
    except (FileNotFoundError, ValueError):
        return False


def table(subjects: list[Any], runs: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown: fitted tokenizers first, then published codes."""
    from semtok.report.measures import MEASURES, numbers, shape_of

    rows = {subject.name: numbers(subject.report) for subject in subjects}
    columns = [*COLUMNS, *(name for name in BEFORE if any(row[name] is not None for row in rows.values()))]
    heads = ["tokenizer", "codes", *(MEASURES[name].label for name in columns), "peak MiB"]
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * (len(heads) - 2)}"]
    for subject in subjects:
        cells = [subject.name, shape_of(subject.codes.sizes)]
        cells += [MEASURES[name].show(rows[subject.name][name]) for name in columns]
        run = runs.get(subject.name)
        lines.append(f"| {' | '.join([*cells, '–' if run is None else format(run['peak_mib'], ',.0f')])} |")
    lines += [f"| {name} | failed: {run['failed']} |" for name, run in runs.items() if run["failed"]]
    return "\n".join(lines)


def main() -> None:
    """Fit what is not fitted yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set: a folder or a name")
    parser.add_argument("--embeddings", type=Path, required=True, help="folder of its embeddings")
    parser.add_argument(
        "--reference", nargs="*", default=[], help="published codes of these items, file or file:method"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizers"))
    parser.add_argument("--methods", help="as pq,rq; all registered ones that have levels if not given")
    parser.add_argument("--shapes", default="3x256,4x256", help="levels x codes of a level")
    parser.add_argument("--unique", default="none", help="policy that makes codes unique")
    parser.add_argument("--max-seconds", type=float, help="budget of learned tokenizers")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:OPTION=VALUE", help="more options")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    from recbase.data.catalog import load_dataset
    from semtok.report.sources import examine

    known = methods()
    chosen = arguments.methods.split(",") if arguments.methods else [name for name in ORDER if name in known]
    strange = [name for name in chosen if name not in known]
    if strange:
        raise SystemExit(f"unknown methods {', '.join(strange)}; registered are {', '.join(known)}")
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    rows = [Row(method, levels, size) for levels, size in shapes for method in chosen]
    runs = {row.name: fit(row, arguments) for row in rows}
    fitted = [str(arguments.out / row.name) for row in rows if runs[row.name]["failed"] is None]
    dataset = load_dataset(arguments.data)
    subjects = examine([*fitted, *arguments.reference], dataset.items, arguments.embeddings, seed=arguments.seed)
    made = table(subjects, runs)
    head = (
        f"{dataset.name}: {dataset.n_items:,} items, vectors of {arguments.embeddings.name}, seed {arguments.seed}, "
        f"unique={arguments.unique}, {platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads of "
        f"{os.cpu_count()} cores"
    )
    (arguments.out / "tokenizers.md").write_text(f"{head}\n\n{made}\n", encoding="utf-8")
    print(f"\n{head}\n\n{made}\n\nTable: {arguments.out / 'tokenizers.md'}")


if __name__ == "__main__":
    main()
