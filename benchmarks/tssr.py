"""TSSR's ablations and sweeps, with the alignment and uniformity of its streams, as tables of test figures.

Every row is one ``seqrec train tssr`` in a process of its own, with a budget in seconds; a row whose run folder is
complete is not run again. Example::

    python -m benchmarks.tssr contrast batches shares --data runs/scientific --embeddings runs/emb --out runs/tssr

Tables: ``contrast`` (figure 3 of the paper, and figures 1 and 4 as a picture of both clouds of items), ``batches``
(figure 5), ``shares`` (figure 6: a part of the users is trained on, all are evaluated), ``content`` (what the content
stream reads), ``tables`` (what states are scored against).
Options behind ``--`` reach every row, such as ``-- --recipe paper``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, failed_line, mean_and_spread, metrics_of, run_row

TABLES = ("contrast", "batches", "shares", "content", "tables")
SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def rows(table: str, seeds: int) -> Iterator[Row]:
    """The rows of one table."""
    several = tuple(range(seeds))
    if table == "contrast":
        yield Row("TSSR", "seqrec", "tssr", seeds=several)
        yield Row("w/o user-grained", "seqrec", "tssr", ["--user-weight", "0"], several)
        yield Row("w/o item-grained", "seqrec", "tssr", ["--item-weight", "0"], several)
        yield Row("w/o both", "seqrec", "tssr", ["--user-weight", "0", "--item-weight", "0"], several)
    elif table == "batches":
        for size in (32, 64, 128, 256, 512):
            yield Row(f"batches of {size}", "seqrec", "tssr", ["--batch-size", str(size)], several)
    elif table == "shares":
        for share in (1.0, 0.8, 0.5, 0.2):
            yield Row(f"{share:.0%} of the users", "seqrec", "tssr", ["--train-share", str(share)], several)
    elif table == "content":
        for content in ("text", "codes"):
            yield Row(f"content {content}", "seqrec", "tssr", ["--content", content], several)
    else:
        for kind in ("untied", "tied-id", "id-plus-content"):
            yield Row(f"table {kind}", "seqrec", "tssr", ["--item-table", kind], several)


def command(given: argparse.Namespace, row: Row, seed: int, out: Path) -> list[str]:
    """The command of one row and seed."""
    words = [row.program, "train", row.model, "--data", str(given.data), "--embeddings", str(given.embeddings)]
    words += ["--out", str(out), "--quiet", "--seed", str(seed), "--epochs", "1000"]
    return [*words, "--max-seconds", str(given.budget_seconds), *row.options, *given.options]


def streams(folders: list[Path], *words: str) -> list[dict[str, Any]]:
    """Alignment and uniformity of some runs."""
    told = [sys.executable, "-m", "seqrec.cli", "streams", *map(str, folders), "--json", *words]
    reports: dict[str, Any] = json.loads(subprocess.check_output(told, text=True))
    return [reports[str(folder)] for folder in folders]


def line(row: Row, folders: list[Path]) -> str:
    """One line of a table."""
    found = [metrics for metrics in map(metrics_of, folders) if metrics is not None]
    values = [mean_and_spread([metrics["test"][name] for metrics in found]) for name in SHOWN]
    close = streams(folders)
    for part in ("items", "users"):
        values += [mean_and_spread([report[part][name] for report in close]) for name in ("alignment", "uniformity")]
    epochs = ", ".join(str(metrics["best_epoch"]) for metrics in found)
    seconds = ", ".join(f"{metrics['train_seconds']:.0f}" for metrics in found)
    return f"| {row.name} | {' | '.join(values)} | {len(found)} | {epochs} | {seconds} |"


def main() -> None:
    """Run the tables that were asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings folder of that data set")
    parser.add_argument("--budget-seconds", type=float, default=240, help="training and validation of a row")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every row")
    parser.add_argument("--out", type=Path, default=Path("runs/tssr"), help="folder of the runs and the tables")
    given, rest = parser.parse_known_args()
    given.options = [word for word in rest if word != "--"]
    given.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for table in given.tables:
        lines = [
            f"| row | {' | '.join(SHOWN)} | items: alignment | uniformity | users: alignment | uniformity "
            "| seeds | best epoch | seconds |",
            "|" + " --- |" * (len(SHOWN) + 8),
        ]
        first = []
        for row in rows(table, given.seeds):
            folders = run_row(row, given.out, partial(command, given))
            if not folders:
                failed.append(row.name)
                lines.append(failed_line(row.name, len(SHOWN) + 8))
                continue
            first.append(folders[0])
            lines.append(line(row, folders))
        title = f"{table}: test, all items ranked, seen items kept, {given.budget_seconds:g} s, {platform.machine()}"
        text = "\n".join([title, "", *lines])
        print(f"\n{text}\n", flush=True)
        (given.out / f"{table}.md").write_text(text + "\n", encoding="utf-8")
        if table == "contrast" and not failed:
            streams([first[-1], first[0]], "--figure", str(given.out / "streams.png"))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
