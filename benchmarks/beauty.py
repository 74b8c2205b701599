"""Generators beside classical models on one data set, with one budget a model, as tables and learning curves.

Every row is one command in a process of its own; a row whose run folder is complete is not run again, so the runner can
be stopped and started. A table of budgets ranks budgets, not models: read it with the learning curves, and claim
quality only where validation was flat. Example::

    semtok prepare amazon2014 --category Beauty --out runs/beauty
    semtok embed --data runs/beauty --encoder minilm --out runs/beauty-minilm
    python -m benchmarks.beauty main --data runs/beauty --embeddings runs/beauty-minilm --budget-seconds 1500

Tables: ``main`` (generators, popularity, transitions, SASRec-CE), ``one-pass`` (one pass a user against one sample a
prefix, at equal time), ``children`` (probabilities among codes that exist against those among all, at equal time),
``ladder`` (PRORec's table 6 and its controls), ``bbqrec`` (its tables 3 and 4, and figure 4), ``images`` (BBQRec with
and without its image stream, for data that have images, such as ``--data synthetic``), ``layers``, ``encoders``,
``quantizers``, ``sizes`` (PRORec's figures). ``--only`` runs some rows and shows the others as far as they are there. A
row that fails (BBQRec "w/o text" where there are no images) is printed as such, and the others go on.
``--track shuffled|product`` runs a table on the same events in another order (:mod:`benchmarks.tracks`); tables of
different orders are never one table.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.results import append_runs
from benchmarks.rows import Row, failed_line, finished, folder_of, mean_and_spread, metrics_of, run_row
from benchmarks.tracks import TRACKS, track_folder
from recbase.evaluate.look import panels, write_png

TABLES = ("main", "one-pass", "children", "ladder", "bbqrec", "images", "layers", "encoders", "quantizers", "sizes")
TITLES = {"prorec": "PRORec", "tiger": "TIGER", "letter": "LETTER", "bbqrec": "BBQRec", "eager": "EAGER"}
ENCODERS = {
    "BERT": "google-bert/bert-base-uncased",
    "Sentence-T5": "sentence-transformers/sentence-t5-base",
    "Llama2-7b": "meta-llama/Llama-2-7b-hf",
    "MiniLM": "minilm",
    "tf-idf": "tfidf",
}
COUNTED = ("popularity", "transitions")


def rows(table: str, form: str, seeds: int, codes: Path | None) -> Iterator[Row]:
    """The rows of one table."""
    several = tuple(range(seeds))
    passed = ["--form", form]
    if table == "main":
        yield Row("popularity", "seqrec", "popularity")
        yield Row("transitions", "seqrec", "transitions")
        yield Row("SASRec-CE", "seqrec", "sasrec")
        for model, title in TITLES.items():
            yield Row(title, "genrec", model, passed)
            if model == "letter" and codes is not None:
                yield Row("LETTER, published codes", "genrec", "letter", [*passed, "--codes", str(codes)])
    elif table == "one-pass":
        for model in ("tiger", "prorec"):
            yield Row(f"{model}, one sample a prefix", "genrec", model, ["--form", "prefix"])
            yield Row(f"{model}, one pass a user", "genrec", model, ["--form", "all"])
    elif table == "children":
        for model in ("tiger", "letter", "prorec", "bbqrec"):  # the first of each is main's
            yield Row(TITLES[model], "genrec", model, passed)
            yield Row(f"{TITLES[model]}, children", "genrec", model, [*passed, "--normalize", "children"])
    elif table == "ladder":
        none = ["--source", "concat", "--distill-weight", "0"]
        yield Row("semantic only", "genrec", "prorec", [*passed, "--source", "semantic", "--distill-weight", "0"])
        yield Row("collaborative only", "genrec", "prorec", [*passed, "--source", "collaborative", *none[2:]])
        yield Row("concat", "genrec", "prorec", [*passed, *none])
        yield Row("concat, standardized", "genrec", "prorec", [*passed, "--source", "standardized-concat", *none[2:]])
        yield Row("CKA only", "genrec", "prorec", [*passed, "--distill-weight", "0"], several)
        yield Row("CKA+IKD", "genrec", "prorec", passed, several)
        yield Row("CKA+IKD, aligned table (A)", "genrec", "prorec", [*passed, "--integrate", "aligned"])
    elif table == "bbqrec":
        yield Row("BBQRec", "genrec", "bbqrec", passed)
        yield Row("w/o MIM", "genrec", "bbqrec", [*passed, "--no-mim"])
        yield Row("w/o rec", "genrec", "bbqrec", [*passed, "--no-rec"])
        yield Row("w/o shared codebook", "genrec", "bbqrec", [*passed, "--no-shared-codebook"])
        yield Row("w/o sim", "genrec", "bbqrec", [*passed, "--no-similarity"])
        # The paper's numbers of "inherit" lie below those of "w/o sim": it inherits instead of using similarity.
        yield Row("inherit", "genrec", "bbqrec", [*passed, "--inherit", "--no-similarity"])
        yield Row("w/o id", "genrec", "bbqrec", [*passed, "--streams", "text,image"])
        yield Row("w/o text", "genrec", "bbqrec", [*passed, "--streams", "id,image"])
        yield Row("w/o image", "genrec", "bbqrec", [*passed, "--streams", "id,text"])
    elif table == "images":
        yield Row("BBQRec", "genrec", "bbqrec", passed, several)
        yield Row("w/o MIM", "genrec", "bbqrec", [*passed, "--no-mim"], several)
        yield Row("w/o image", "genrec", "bbqrec", [*passed, "--streams", "id,text"], several)
    elif table == "layers":
        for layers in (2, 4, 8, 16):
            yield Row(f"{layers} decoder layers", "genrec", "prorec", [*passed, "--decoder-layers", str(layers)])
    elif table == "encoders":
        for name, encoder in ENCODERS.items():
            yield Row(name, "genrec", "prorec", [*passed, "--encoder", encoder])
    elif table == "quantizers":
        for name in ("hierarchical", "rqvae", "random"):
            yield Row(name, "genrec", "prorec", [*passed, "--tokenizer", name])
    else:
        for size in (128, 256, 512):
            yield Row(f"K = {size}", "genrec", "prorec", [*passed, "--codebook-size", str(size)])


def command(given: argparse.Namespace, row: Row, seed: int, out: Path) -> list[str]:
    """The command of one row and seed."""
    words = [row.program, "train", row.model, "--data", str(given.data), "--out", str(out), "--quiet"]
    if row.model not in COUNTED:
        words += ["--seed", str(seed), "--max-seconds", str(given.budget_seconds), "--epochs", "1000"]
    if row.program == "genrec" and given.embeddings is not None and not row.encodes:
        words += ["--embeddings", str(given.embeddings)]
    return [*words, *row.options, *(given.options if row.program == "genrec" else [])]


def curve(folder: Path, metric: str) -> tuple[list[float], list[float]]:
    """Seconds and validation metric of every validation of a run."""
    path = folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [line["seconds"] for line in lines], [line["metrics"][metric] for line in lines]


def flat(folder: Path, metric: str, last: int = 3) -> bool:
    """Whether validation stopped rising: none of the last validations was the best."""
    _, values = curve(folder, metric)
    return len(values) > last and int(np.argmax(values)) < len(values) - last


def draw(runs: dict[str, Path], metric: str, path: Path) -> None:
    """Learning curves of some runs as a PNG; no file where no run has any (counters have not)."""
    curves = {name: points for name, folder in runs.items() if (points := curve(folder, metric))[1]}
    if not curves:
        return
    figure, (axes,) = panels(3.6)
    for name, (seconds, values) in curves.items():
        axes.plot(seconds, values, marker=".", label=name)
    axes.set(xlabel="seconds of training", ylabel=f"validation {metric}")
    axes.legend(fontsize="small")
    write_png(figure, path)


def main() -> None:
    """Run the tables that were asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="data set folder, or the name of a data set")
    parser.add_argument("--embeddings", type=Path, help="embeddings folder of that data set; made if not given")
    parser.add_argument("--published-codes", type=Path, help="folder of imported codes (semtok import) for LETTER")
    parser.add_argument("--budget-seconds", type=float, default=1500, help="training and validation of a row")
    parser.add_argument("--form", choices=["prefix", "all"], default="all", help="samples of models that have both")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the headline pair of the ladder, and of images")
    parser.add_argument("--track", choices=TRACKS, default="canonical", help="order of the events")
    parser.add_argument("--out", type=Path, default=Path("runs/beauty-table"), help="folder of the runs and the tables")
    parser.add_argument("--only", help="names of rows to run, as a;b; others are shown where they are complete")
    parser.add_argument("--append", metavar="MACHINE", help="add the rows to results/, with the machine in words")
    given, rest = parser.parse_known_args()
    given.options = [word for word in rest if word != "--"]
    named = {row.name for table in given.tables for row in rows(table, given.form, given.seeds, given.published_codes)}
    wanted = named if given.only is None else {name.strip() for name in given.only.split(";")}
    if unknown := wanted - named:
        parser.error(f"--only {unknown.pop()!r} is no row of {' or '.join(given.tables)}: {', '.join(sorted(named))}")
    given.data = track_folder(given.data, given.track, given.out)
    given.out = given.out if given.track == "canonical" else given.out / given.track
    given.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for table in given.tables:
        lines = [
            "| row | recall@5 | recall@10 | ndcg@5 | ndcg@10 | valid ndcg@10 | seeds | best epoch | seconds | flat |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        runs: dict[str, list[Path]] = {}
        listed = list(rows(table, given.form, given.seeds, given.published_codes))
        for row in listed:
            if row.name in wanted and not run_row(row, given.out, partial(command, given)):
                failed.append(row.name)
        for row in listed:  # another command may have run some of them meanwhile
            folders = [folder for seed in row.seeds if finished(folder := folder_of(row, seed, given.out))]
            if not folders:
                lines += [failed_line(row.name, 10)] * (row.name in failed)
                continue
            lines.append(line(row, folders))
            runs[row.name] = folders
        if given.append:
            keep(given, table, runs)
        title = (
            f"{table}: test, {given.track} order, all items ranked, seen items kept, {given.budget_seconds:g} s a row, "
            f"{platform.machine()}"
        )
        text = "\n".join([title, "", *lines])
        print(f"\n{text}\n", flush=True)
        (given.out / f"{table}.md").write_text(text + "\n", encoding="utf-8")
        try:
            draw({name: folders[0] for name, folders in runs.items()}, "ndcg@10", given.out / f"{table}.png")
        except ImportError:
            print("no figure: matplotlib is not installed (extra [plots])")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def keep(given: argparse.Namespace, table: str, runs: dict[str, list[Path]]) -> None:
    """Add the rows of a table to results/."""
    found = {name: [one for one in map(metrics_of, folders) if one is not None] for name, folders in runs.items()}
    said = f"{given.budget_seconds:g} s a row: a ranking of budgets, not of models"
    append_runs(f"beauty_{table}", found, given.data.name, given.append, said, order=given.track)


def line(row: Row, folders: list[Path]) -> str:
    """One line of a table."""
    found = [metrics for metrics in map(metrics_of, folders) if metrics is not None]
    values = []
    for part, name in (
        *(("test", f"{kind}@{k}") for kind in ("recall", "ndcg") for k in (5, 10)),
        ("valid", "ndcg@10"),
    ):
        numbers = [metrics[part][name] for metrics in found]
        values.append(mean_and_spread(numbers))
    faults = sum(metrics["test"]["invalid"] + metrics["test"]["duplicates"] for metrics in found)
    if faults:
        raise RuntimeError(f"{row.name}: {faults} invalid or repeated items in its lists")
    epochs = ", ".join(str(metrics.get("best_epoch", "-")) for metrics in found)
    seconds = ", ".join(f"{metrics.get('train_seconds', 0):.0f}" for metrics in found)
    even = "-" if row.model in COUNTED else "yes" if all(flat(folder, "ndcg@10") for folder in folders) else "no"
    return f"| {row.name} | {' | '.join(values)} | {len(found)} | {epochs} | {seconds} | {even} |"


if __name__ == "__main__":
    main()
