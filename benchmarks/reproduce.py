"""A paper's table again: what the recipe ``paper`` runs, within a budget, beside the published and ported numbers.

    python -m benchmarks.reproduce                                  # the tables there are
    python -m benchmarks.reproduce prorec main --set Beauty         # the commands, without running them
    python -m benchmarks.reproduce prorec main --set Beauty --data runs/beauty --embeddings runs/beauty-minilm \\
        --budget-seconds 3600 --out runs/reproduce                  # run what is missing, print the table

Published numbers (``published.json``) are the papers', under their own splits, orders of ties and seen-item policies;
ours are item-level, full ranking, with seen items kept and with seen items left out. A budget that ended before
validation was flat says nothing about the model. Figures are tables too (PRORec's ``layers``, ``encoders``,
``quantizers``, ``sizes``): what the paper says of them in words stands below ours, for it prints no numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import ccfrec
from benchmarks.beauty import flat
from benchmarks.beauty import rows as rows_of
from benchmarks.rows import Row, finished, folder_of, metrics_of, succeeds
from recbase.cli.options import options_from

PUBLISHED = Path(__file__).with_name("published.json")

_SEQREC = {
    "GRU4Rec": "gru4rec",
    "BERT4Rec": "bert4rec",
    "SASRec": "sasrec",
    "SASRec-ID": "sasrec",
    "FMLP-Rec": "fmlp",
    "S3Rec": "s3rec",
    "S3-Rec": "s3rec",
    "DuoRec": "duorec",
    "MAERec": "maerec",
    "FDSA": "fdsa",
    "VQRec": "vqrec",
    "VQ-Rec": "vqrec",
    "MMSR": "mmsr",
    "TedRec": "tedrec",
    "Caser": "caser",
    "HGN": "hgn",
    "PopRec": "popularity",
    "ItemKNN": "itemknn",
    "BPR": "bpr",
    "CL4SRec": "cl4srec",
    "MFN4Rec": "mfn4rec",
    "MV-RNN": "mv-rnn",
    "MV-TRM": "mv-trm",
    "MISSRec": "missrec",
    "NOVA-BERT": "nova",
    "GRU4Rec+feat": "gru4rec-features",
    "SASRec+feat": "sasrec-hybrid",
    "SASRec-Content": "sasrec-content",
    "TSSR": "tssr",
}
_GENREC = {"TIGER": "tiger", "LETTER": "letter", "PRORec": "prorec", "BBQRec": "bbqrec", "EAGER": "eager"}
_OPTIONS = {
    "CCFRec(RQ)": ("ccfrec", ["--code-method", "rq"]),
    "CCFRec(PQ)": ("ccfrec", []),
    "UniSRec(T)": ("unisrec", []),
    "UniSRec(ID+T)": ("unisrec", ["--item-ids"]),
}
# What a paper says of its figures, which print no numbers; all are of one data set and show these metrics.
_FIGURES = {
    ("prorec", "layers"): "better with every doubling up to 16 layers (figure 6)",
    ("prorec", "encoders"): "Llama2-7b before Sentence-T5 and BERT (figure 9)",
    ("prorec", "quantizers"): "hierarchical k-means before RQ-VAE, and RQ-VAE before random codes (figure 9)",
    ("prorec", "sizes"): "256 before 128; 512 with more ndcg@20 and less recall@20 than 256 (figure 9)",
}
_FIGURES_SET, _FIGURES_METRICS = "Beauty", ("recall@20", "ndcg@20")


_TABLES = {key: key[1] for key in _FIGURES} | {("prorec", "ladder"): "ladder", ("bbqrec", "ablations"): "bbqrec"}
"""Papers' tables that `benchmarks.beauty` has with the same names of rows, and how it calls them."""


def _listed(paper: str, table: str) -> list[Row]:
    """The rows of a table that another benchmark has too; none where it has not."""
    if (paper, table) == ("ccfrec", "ablations"):
        return list(ccfrec.rows("ablations", [], 1))
    name = _TABLES.get((paper, table))
    return [] if name is None else list(rows_of(name, "prefix", 1, None))


def row_of(paper: str, table: str, name: str) -> Row | None:
    """The command of one published row; None where there is no such model here."""
    if listed := _listed(paper, table):
        same = next((row for row in listed if row.name == name), None)
        return None if same is None else replace(same, options=[*same.options, "--recipe", "paper"])
    model, options = _OPTIONS.get(name, (_GENREC.get(name) or _SEQREC.get(name), []))
    if model is None:
        return None
    program = "genrec" if model in _GENREC.values() else "seqrec"
    counted = model in ("popularity", "transitions", "itemknn")
    return Row(name, program, model, [*options, *([] if counted else ["--recipe", "paper"])])


def command(row: Row, given: argparse.Namespace, out: Path) -> list[str]:
    """The command of one row, runnable as it is printed."""
    words = [
        row.program,
        "train",
        row.model,
        "--data",
        str(given.data or given.set.lower()),
        "--out",
        str(out),
        "--quiet",
    ]
    if "--recipe" in row.options:
        words += ["--seed", str(given.seed)]
        if given.budget_seconds:
            words += ["--max-seconds", str(given.budget_seconds)]
            if has_stage(row.model):
                words += ["--stage1-seconds", str(given.budget_seconds)]
    if given.embeddings and not row.encodes and (row.program == "genrec" or reads_vectors(row.model)):
        words += ["--embeddings", str(given.embeddings)]
    return [*words, *row.options]


def reads_vectors(model: str) -> bool:
    """Whether a ranking model is given item vectors."""
    from seqrec import REGISTRY

    return bool({"text", "views", "images", "codes"} & set(REGISTRY[model].inputs)) if model in REGISTRY else False


def has_stage(model: str) -> bool:
    """Whether a generator trains a network before it, which has a budget of its own."""
    from genrec import REGISTRY

    return model in REGISTRY and any(
        option.name == "stage1_seconds" for option in options_from(REGISTRY[model].preparation)
    )


def known(model: str) -> bool:
    """Whether this version has the model."""
    from genrec import MODELS as GENERATORS
    from seqrec import MODELS as RANKERS

    return model in RANKERS or model in GENERATORS


def shown(values: dict[str, Any] | None, names: list[str]) -> str:
    """Numbers of a row, in order."""
    if not values:
        return " / ".join("-" for _ in names)
    return " / ".join("-" if values.get(name) is None else f"{values[name]:.4f}" for name in names)


def published_tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics by paper, table, row and data set (None where a figure prints none), and the ports' by model and set."""
    found: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    ports = found.pop("ports")
    unknown = {_FIGURES_SET: dict.fromkeys(_FIGURES_METRICS)}
    for paper, table in _FIGURES:
        found[paper][table] = {row.name: unknown for row in _listed(paper, table)}
    return found, ports


def main() -> None:
    """List tables, or print the commands of one, or run them."""
    published, ports = published_tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", nargs="?", choices=sorted(published))
    parser.add_argument("table", nargs="?")
    parser.add_argument("--set", help="data set of the table, such as Beauty")
    parser.add_argument("--data", type=Path, help="its folder; without it the commands are only printed")
    parser.add_argument("--embeddings", type=Path, help="embeddings folder of it")
    parser.add_argument("--budget-seconds", type=float, default=0, help="of a row, and of its stage I; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of rows, as a;b")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    given = parser.parse_args()
    if given.paper is None or given.table is None:
        for paper, tables in published.items():
            for table, rows in tables.items():
                sets = list(next(iter(rows.values())))
                print(f"{paper} {table}: {len(rows)} rows, --set {' | '.join(sets)}")
        return
    if given.table not in published[given.paper]:
        parser.error(f"{given.paper} has the tables {', '.join(published[given.paper])}, not {given.table!r}")
    rows = published[given.paper][given.table]
    sets = list(next(iter(rows.values())))
    given.set = given.set or sets[0]
    if given.set not in sets:
        parser.error(f"--set {given.set!r} is not in this table: {', '.join(sets)}")
    wanted = None if given.only is None else {name.strip() for name in given.only.split(";")}
    names = [name for name in next(iter(rows.values()))[given.set] if "@" in name]
    lines = [
        f"{given.paper} {given.table}, {given.set}: {' / '.join(names)}",
        "",
        "| row | paper | best public port | ours, test | seen items left out | validation flat | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    folder = given.out / f"{given.paper}-{given.table}-{given.set.lower()}"
    failed: list[str] = []
    for name, values in rows.items():
        if wanted is not None and name not in wanted:
            continue
        row = row_of(given.paper, given.table, name)
        port = ports.get(name, {}).get(given.set)
        ours, masked, even, seconds = "no such model here", "-", "-", "-"
        if row is not None and known(row.model):
            run = folder_of(row, given.seed, folder)
            words = command(row, given, run)
            status = "not run"
            if not finished(run):
                if given.data is None:
                    print(f"$ {' '.join(words)}", flush=True)
                elif not succeeds(words, name):
                    status = "failed"
                    failed.append(name)
            found = metrics_of(run)
            ours = status if found is None else shown(found["test"], names)
            if found is not None:
                masked = shown(found["test_masked"], names)
                even, seconds = "yes" if flat(run, "ndcg@10") else "no", f"{found.get('train_seconds', 0):.0f}"
        lines.append(
            f"| {name} | {shown(values[given.set], names)} | {shown(port, names)} "
            f"| {ours} | {masked} | {even} | {seconds} |"
        )
    if (given.paper, given.table) in _FIGURES:
        lines += ["", f"The paper: {_FIGURES[given.paper, given.table]}."]
    text = "\n".join(lines)
    print(f"\n{text}\n")
    if given.data is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
