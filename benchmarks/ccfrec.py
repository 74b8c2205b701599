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
import platform
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import append_runs
from benchmarks.rows import Row, failed_line, mean_and_spread, metrics_of, run_row
from recbase.store.folder import open_folder

TABLES = ("main", "ablations", "views", "levels", "code-types", "weights")
WEIGHTS = (0.2, 0.4, 0.6, 0.8)


def encoder_of(embeddings: Path | None) -> str | None:
    """Name of the encoder that made an embeddings folder; None where there is no folder or it says none."""
    if embeddings is None or not (embeddings / "embeddings.json").is_file():
        return None
    name = open_folder(embeddings, "embeddings.json", "embeddings").manifest.get("encoder")
    return name if isinstance(name, str) else None


def rows(table: str, views: list[str], seeds: int, encoder: str | None = "minilm") -> Iterator[Row]:
    """The rows of one table; ``encoder`` is that of "global emb", None for the one of its recipe."""
    several = tuple(range(seeds))
    if table == "main":
        yield Row("PopRec", "seqrec", "popularity")
        yield Row("transitions", "seqrec", "transitions")
        yield Row("SASRec-CE", "seqrec", "sasrec", seeds=several)
        yield Row("CCFRec(PQ)", "seqrec", "ccfrec", seeds=several)
        yield Row("CCFRec(RQ)", "seqrec", "ccfrec", ["--code-method", "rq"])
    elif table == "ablations":
        yield Row("CCFRec(PQ)", "seqrec", "ccfrec")
        yield Row("w/o MCM", "seqrec", "ccfrec", ["--mcm-weight", "0"])
        yield Row("w/o MSA", "seqrec", "ccfrec", ["--msa-weight", "0"])
        yield Row("w/o text", "seqrec", "ccfrec", ["--text", "codes"])
        yield Row("random code", "seqrec", "ccfrec", ["--code-type", "random"])
        yield Row("global emb", "seqrec", "ccfrec", ["--global-text", *(["--encoder", encoder] if encoder else [])])
        yield Row("w/o CA", "seqrec", "ccfrec", ["--no-fusion", "--no-residual-in-candidates"])
    elif table == "views":
        for count in range(1, len(views) + 1):
            yield Row("+".join(views[:count]), "seqrec", "ccfrec", ["--views", ",".join(views[:count])])
    elif table == "levels":
        for levels in (2, 4, 8):
            yield Row(f"k = {levels}", "seqrec", "ccfrec", ["--code-levels", str(levels)])
    elif table == "code-types":
        for kind in ("text", "random", "sasrec", "mixed"):
            yield Row(kind, "seqrec", "ccfrec", ["--code-type", kind])
    else:
        for alpha in WEIGHTS:
            for beta in WEIGHTS:
                name = f"alpha {alpha}, beta {beta}"
                yield Row(name, "seqrec", "ccfrec", ["--mcm-weight", str(alpha), "--msa-weight", str(beta)])


def command(arguments: argparse.Namespace, row: Row, seed: int, out: Path) -> list[str]:
    """The command of one row and seed."""
    words = ["seqrec", "train", row.model, "--data", str(arguments.data), "--out", str(out), "--quiet", *row.options]
    if row.model in ("sasrec", "ccfrec"):
        words += ["--seed", str(seed), "--max-seconds", str(arguments.max_seconds)]
    if row.model == "ccfrec":
        words += ["--epochs", "1000", *arguments.options]
        # The joined view of "global emb" has no part in ready-made embeddings.
        words += [] if row.encodes else ["--embeddings", str(arguments.embeddings)]
    return words


def main() -> None:
    """Run the tables that were asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings folder of that data set")
    parser.add_argument("--encoder", help="encoder of the row with joined text; that of the embeddings if not given")
    parser.add_argument("--max-seconds", type=float, default=1200, help="budget of a row, training and validation")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the headline rows")
    parser.add_argument("--out", type=Path, default=Path("runs/ccfrec"), help="folder of the runs and the tables")
    parser.add_argument("--append", metavar="MACHINE", help="add the rows to results/, with the machine in words")
    parser.add_argument("options", nargs="*", default=[], metavar="-- OPTION", help="passed to every row of CCFRec")
    known, rest = parser.parse_known_args()
    known.options = [word for word in rest if word != "--"]
    known.encoder = known.encoder or encoder_of(known.embeddings)
    views = list(open_folder(known.embeddings, "embeddings.json", "embeddings").manifest["views"])
    known.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    made: dict[str, list[dict[str, Any]]]
    for table in known.tables:
        lines = ["| row | recall@5 | recall@10 | ndcg@5 | ndcg@10 | seeds | epochs | seconds |",
                 "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        made = {}
        for row in rows(table, views, known.seeds, known.encoder):
            folders = run_row(row, known.out, partial(command, known))
            if not folders:
                failed.append(row.name)
                lines.append(failed_line(row.name, 8))
                continue
            found = [metrics for metrics in map(metrics_of, folders) if metrics is not None]
            made[row.name] = found
            values = [
                mean_and_spread([metrics["test"][name] for metrics in found])
                for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
            ]
            epochs = ", ".join(str(metrics.get("best_epoch", "-")) for metrics in found)
            seconds = ", ".join(f"{metrics.get('train_seconds', 0):.0f}" for metrics in found)
            lines.append(f"| {row.name} | {' | '.join(values)} | {len(found)} | {epochs} | {seconds} |")
        text = "\n".join(
            [f"{table}: test, seen items kept, {known.max_seconds:g} s a row, {platform.machine()}", *lines]
        )
        print(f"\n{text}\n", flush=True)
        if known.append:
            append_runs(f"ccfrec_{table}", made, known.data.name, known.append, f"{known.max_seconds:g} s a row")
        (known.out / f"{table}.md").write_text(text + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
