"""CCFRec beside its baselines, its ablations and its sweeps, as tables of test figures.

Every row is one ``seqrec train`` command in a process of its own, with a budget in seconds; a row whose run folder is
complete is not run again, so the runner can be stopped and started. Example::

    semtok prepare amazon2018 --category Industrial_and_Scientific --out runs/scientific
    semtok embed --data runs/scientific --encoder minilm --out runs/scientific-minilm
    python -m benchmarks.ccfrec main ablations --data runs/scientific --embeddings runs/scientific-minilm \\
        --max-seconds 1200 --out runs/ccfrec

Tables: ``main`` (three seeds of SASRec-CE and CCFRec(PQ)), ``ablations`` (table 4 of the paper), ``views`` (table 5),
``levels`` (table 6), ``code-types`` (figure 2), ``weights`` (figure 3).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbase.checkpoints import open_folder

WEIGHTS = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Row:
    """One line of a table: a name, the model, its extra options, and the seeds it is run with."""

    name: str
    model: str
    options: list[str] = field(default_factory=list)
    seeds: tuple[int, ...] = (0,)
    views: tuple[str, ...] | None = None
    joined: bool = False


def rows(table: str, views: list[str], seeds: int) -> Iterator[Row]:
    """The rows of one table."""
    several = tuple(range(seeds))
    if table == "main":
        yield Row("PopRec", "popularity")
        yield Row("transitions", "transitions")
        yield Row("SASRec-CE", "sasrec", seeds=several)
        yield Row("CCFRec(PQ)", "ccfrec", seeds=several)
        yield Row("CCFRec(RQ)", "ccfrec", ["--code-method", "rq"])
    elif table == "ablations":
        yield Row("CCFRec(PQ)", "ccfrec")
        yield Row("w/o MCM", "ccfrec", ["--mcm-weight", "0"])
        yield Row("w/o MSA", "ccfrec", ["--msa-weight", "0"])
        yield Row("w/o text", "ccfrec", ["--text", "codes"])
        yield Row("random code", "ccfrec", ["--code-type", "random"])
        yield Row("global emb", "ccfrec", ["--global-text"], joined=True)
        yield Row("w/o cross attention", "ccfrec", ["--no-fusion"])
    elif table == "views":
        for count in range(1, len(views) + 1):
            yield Row("+".join(views[:count]), "ccfrec", ["--views", ",".join(views[:count])])
    elif table == "levels":
        for levels in (2, 4, 8):
            yield Row(f"k = {levels}", "ccfrec", ["--code-levels", str(levels)])
    elif table == "code-types":
        for kind in ("text", "random", "sasrec", "mixed"):
            yield Row(kind, "ccfrec", ["--code-type", kind])
    else:
        for alpha in WEIGHTS:
            for beta in WEIGHTS:
                name = f"alpha {alpha}, beta {beta}"
                yield Row(name, "ccfrec", ["--mcm-weight", str(alpha), "--msa-weight", str(beta)])


def command(row: Row, seed: int, arguments: argparse.Namespace, out: Path) -> list[str]:
    """The command of one row and seed."""
    words = ["seqrec", "train", row.model, "--data", str(arguments.data), "--out", str(out), "--quiet", *row.options]
    if row.model in ("sasrec", "ccfrec"):
        words += ["--seed", str(seed), "--max-seconds", str(arguments.max_seconds), *arguments.options]
    if row.model == "ccfrec":
        words += ["--epochs", "1000"]
        # The joined view has no part in ready-made embeddings: that row encodes the text itself.
        words += ["--encoder", arguments.encoder] if row.joined else ["--embeddings", str(arguments.embeddings)]
    return words


def metrics_of(folder: Path) -> dict[str, object] | None:
    """Metrics of a complete run, None if there is none."""
    try:
        return json.loads(open_folder(folder, "config.json", "run").file("metrics.json").read_text())
    except FileNotFoundError:
        return None


def main() -> None:
    """Run the tables that were asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["main", "ablations", "views", "levels", "code-types", "weights"]
    parser.add_argument("tables", nargs="+", choices=names)
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings folder of that data set")
    parser.add_argument("--encoder", default="minilm", help="encoder of the row with joined text")
    parser.add_argument("--max-seconds", type=float, default=1200, help="budget of a row, training and validation")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the headline rows")
    parser.add_argument("--out", type=Path, default=Path("runs/ccfrec"), help="folder of the runs and the tables")
    parser.add_argument("options", nargs="*", default=[], metavar="-- OPTION", help="passed to every trained row")
    known, rest = parser.parse_known_args()
    known.options = [word for word in rest if word != "--"]
    views = list(open_folder(known.embeddings, "embeddings.json", "embeddings").manifest["views"])
    known.out.mkdir(parents=True, exist_ok=True)
    for table in known.tables:
        lines = ["| row | recall@5 | recall@10 | ndcg@5 | ndcg@10 | seeds | epochs | seconds |",
                 "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for row in rows(table, views, known.seeds):
            found = []
            for seed in row.seeds:
                slug = "".join(letter if letter.isalnum() else "-" for letter in row.name.lower()).strip("-")
                folder = known.out / f"{slug}-{seed}"
                if metrics_of(folder) is None:
                    words = command(row, seed, known, folder)
                    print(f"$ {' '.join(words)}", flush=True)
                    start = time.perf_counter()
                    subprocess.run([sys.executable, "-m", "seqrec.commands", *words[1:]], check=True)
                    print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)
                found.append(metrics_of(folder))
            values = []
            for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10"):
                numbers = [metrics["test"][name] for metrics in found]
                spread = f" ± {np.std(numbers, ddof=1):.4f}" if len(numbers) > 1 else ""
                values.append(f"{np.mean(numbers):.4f}{spread}")
            epochs = ", ".join(str(metrics.get("best_epoch", "-")) for metrics in found)
            seconds = ", ".join(f"{metrics.get('train_seconds', 0):.0f}" for metrics in found)
            lines.append(f"| {row.name} | {' | '.join(values)} | {len(found)} | {epochs} | {seconds} |")
        text = "\n".join(
            [f"{table}: test, seen items kept, {known.max_seconds:g} s a row, {platform.machine()}", *lines]
        )
        print(f"\n{text}\n", flush=True)
        (known.out / f"{table}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
