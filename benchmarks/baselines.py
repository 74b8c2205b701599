"""Every model of the registry on one data set under one protocol, as one table of test figures.

Every row is one ``seqrec train NAME`` command in a process of its own: default recipe, a budget in seconds, the epoch
chosen on validation. A row whose run folder is complete is not run again, so the runner can be stopped and started; a
row that fails is named and the others go on. Example::

    semtok prepare amazon2018 --category Industrial_and_Scientific --out runs/scientific
    semtok embed --data runs/scientific --encoder minilm --out runs/scientific-minilm
    python -m benchmarks.baselines --data runs/scientific --embeddings runs/scientific-minilm --budget-seconds 240

Beside each row stand its place among the rows and its place in the tables of four papers (recall@10 averaged over their
data sets, each set scaled by its best model): the numbers themselves are of other data and protocols.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import finished, metrics_of
from seqrec import REGISTRY

# Recall@10 as published, data set by data set, by our names.
PAPERS: dict[str, dict[str, tuple[float, ...]]] = {
    "CCFRec (KDD 2025)": {
        "gru4rec": (0.0540, 0.0374, 0.0820, 0.0354),
        "bert4rec": (0.0485, 0.0296, 0.0735, 0.0300),
        "sasrec": (0.0523, 0.0412, 0.0847, 0.0362),
        "fmlp": (0.0536, 0.0422, 0.0857, 0.0367),
        "s3rec": (0.0496, 0.0418, 0.0769, 0.0338),
        "duorec": (0.0573, 0.0379, 0.0844, 0.0346),
        "maerec": (0.0577, 0.0452, 0.0936, 0.0370),
        "fdsa": (0.0576, 0.0416, 0.0852, 0.0387),
        "unisrec": (0.0589, 0.0469, 0.0925, 0.0380),
        "vqrec": (0.0602, 0.0461, 0.0926, 0.0409),
        "mmsr": (0.0569, 0.0427, 0.0881, 0.0389),
        "tedrec": (0.0570, 0.0415, 0.0956, 0.0380),
        "ccfrec": (0.0682, 0.0555, 0.1042, 0.0455),
    },
    "TSSR": {
        "popularity": (0.0105, 0.0112, 0.0076, 0.0048, 0.0220),
        "itemknn": (0.0456, 0.0256, 0.0097, 0.0194, 0.0138),
        "bpr": (0.0180, 0.0459, 0.0206, 0.0243, 0.0151),
        "gru4rec": (0.0605, 0.0661, 0.0459, 0.0421, 0.2004),
        "cl4srec": (0.1249, 0.0668, 0.0590, 0.0635, 0.1931),
        "fdsa": (0.1104, 0.0658, 0.0549, 0.0572, 0.1940),
        "mfn4rec": (0.0877, 0.0655, 0.0524, 0.0520, 0.1883),
        "mv-rnn": (0.0664, 0.0597, 0.0484, 0.0408, 0.1965),
        "mv-trm": (0.1280, 0.0628, 0.0646, 0.0657, 0.2024),
        "sasrec": (0.1179, 0.0687, 0.0593, 0.0617, 0.1949),
        "sasrec-content": (0.1292, 0.0697, 0.0632, 0.0654, 0.2041),
        "tssr": (0.1419, 0.0733, 0.0684, 0.0688, 0.2107),
    },
    "PRORec": {
        "gru4rec": (0.0283, 0.0204, 0.0176),
        "caser": (0.0347, 0.0194, 0.0270),
        "sasrec": (0.0605, 0.0350, 0.0675),
        "bert4rec": (0.0347, 0.0191, 0.0203),
        "hgn": (0.0512, 0.0313, 0.0497),
        "fdsa": (0.0407, 0.0288, 0.0381),
        "s3rec": (0.0647, 0.0385, 0.0700),
    },
    "BBQRec": {
        "gru4rec": (0.0727, 0.0480, 0.0252, 0.0727),
        "bert4rec": (0.0856, 0.0506, 0.0291, 0.0863),
        "sasrec": (0.0885, 0.0499, 0.0278, 0.0911),
        "gru4rec-features": (0.0800, 0.0508, 0.0297, 0.0810),
        "sasrec-hybrid": (0.0933, 0.0545, 0.0383, 0.1039),  # "SASRec+feat"
        "nova": (0.1003, 0.0570, 0.0415, 0.1169),
        "missrec": (0.1024, 0.0587, 0.0533, 0.1164),
        "vqrec": (0.1012, 0.0620, 0.0428, 0.1117),
    },
}
CONTENT = {"text", "views", "images", "codes"}
SHOWN = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")
MASKED = ("recall@10", "ndcg@10")


def command(name: str, seed: int, known: argparse.Namespace, out: Path) -> list[str]:
    """The command of one row."""
    entry = REGISTRY[name]
    words = ["train", name, "--data", str(known.data), "--out", str(out), "--quiet"]
    if entry.kind == "counted":
        return words
    words += ["--max-seconds", str(known.budget_seconds), "--epochs", str(known.epochs), "--seed", str(seed)]
    if known.embeddings is not None and CONTENT & set(entry.inputs):
        words += ["--embeddings", str(known.embeddings)]
    return words + (["--resume"] if (out / "checkpoint" / "checkpoint.json").is_file() else [])


def speeds(metrics: dict[str, Any], folder: Path) -> tuple[float | None, float]:
    """Training steps a second, validations taken out, and users a second of the test's ranking."""
    users = metrics["test"]["users"] / max(1e-9, metrics["evaluation_seconds"])
    if "steps" not in metrics:
        return None, users
    lines = (folder / "history.jsonl").read_text().splitlines()
    busy = metrics["train_seconds"] - len(lines) * metrics["valid"]["users"] / users
    return (metrics["steps"] / busy if busy > 0 else None), users


def places(values: dict[str, float]) -> dict[str, int]:
    """Place of each name, 1 = the largest value."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def published(paper: str, names: list[str]) -> dict[str, int]:
    """Places of those of our rows that a paper's table has."""
    table = {name: np.array(row) for name, row in PAPERS[paper].items() if name in names}
    if not table:
        return {}
    best = np.max(list(table.values()), axis=0)
    return places({name: float(np.mean(row / best)) for name, row in table.items()})


def agreement(ours: dict[str, int], theirs: dict[str, int]) -> float:
    """Share of the pairs of rows that both order alike (Kendall's tau is twice this, minus one)."""
    names = [name for name in theirs if name in ours]
    pairs = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
    same = [(ours[a] - ours[b]) * (theirs[a] - theirs[b]) > 0 for a, b in pairs]
    return float(np.mean(same)) if same else float("nan")


def table(found: dict[str, list[tuple[dict[str, Any], Path]]], known: argparse.Namespace) -> str:
    """The Markdown table of all rows, the best first, and how far it agrees with the papers."""
    names = list(found)
    means = {name: {key: float(np.mean([m["test"][key] for m, _ in found[name]])) for key in SHOWN} for name in names}
    order = sorted(names, key=lambda name: -means[name]["ndcg@10"])
    ours = places({name: means[name]["recall@10"] for name in names})
    papers = {paper: published(paper, names) for paper in PAPERS}
    papers = {paper: rows for paper, rows in papers.items() if len(rows) > 1}
    columns = [
        "model",
        "inputs",
        *SHOWN,
        *(f"seen masked: {key}" for key in MASKED),
        "best epoch",
        "train s",
        "steps/s",
        "evaluation users/s",
        "place by recall@10",
    ]
    columns += [f"in {paper}" for paper in papers]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for name in order:
        rows = found[name]
        seconds = np.mean([m.get("pretrain_seconds", 0) + m["train_seconds"] for m, _ in rows])
        steps, users = zip(*(speeds(m, folder) for m, folder in rows), strict=True)
        numbers = []
        for key in SHOWN:
            values = [m["test"][key] for m, _ in rows]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            numbers.append(f"{np.mean(values):.4f}{spread}")
        numbers += [f"{np.mean([m['test_masked'][key] for m, _ in rows]):.4f}" for key in MASKED]
        numbers.append(", ".join(str(m.get("best_epoch", "-")) for m, _ in rows))
        numbers += [f"{seconds:.0f}", "-" if steps[0] is None else f"{np.mean(steps):.1f}", f"{np.mean(users):,.0f}"]
        cells = [name, ", ".join(REGISTRY[name].inputs), *numbers, str(ours[name])]
        cells += [str(rows_.get(name, "")) for rows_ in papers.values()]
        lines.append(f"| {' | '.join(cells)} |")
    any_row = found[order[0]][0][0]
    data = any_row["dataset"]
    heading = (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items; test, {any_row['protocol']['split']}, all "
        f"items ranked, seen items {any_row['protocol']['seen_items']}; {known.budget_seconds:g} s a row, "
        f"{known.seeds} seed(s), {platform.machine()}"
    )
    closing = [
        f"Pairs ordered as in {paper} (recall@10, {len(rows)} common rows): {agreement(ours, rows):.0%}"
        for paper, rows in papers.items()
    ]
    return "\n".join([heading, "", *lines, "", *closing]) + "\n"


def main() -> None:
    """Run the rows that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set: a folder or a name")
    parser.add_argument("--embeddings", type=Path, help="embeddings folder of that data set; made once if not given")
    parser.add_argument("--budget-seconds", type=float, default=240, help="budget of a row: training and validation")
    parser.add_argument("--epochs", type=int, default=1000, help="passes at most; the budget and patience end earlier")
    parser.add_argument("--models", help="rows to run, as a,b; all if not given")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the trained rows")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"), help="folder of the runs and the table")
    known = parser.parse_args()
    shown = [name for name, entry in REGISTRY.items() if entry.kind != "deployed"]
    names = shown if known.models is None else known.models.split(",")
    if unknown := [name for name in names if name not in shown]:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(shown)}")
    known.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[tuple[dict[str, Any], Path]]] = {}
    for name in names:
        for seed in range(1 if REGISTRY[name].kind == "counted" else known.seeds):
            folder = known.out / f"{name}-{seed}"
            if not finished(folder):
                words = command(name, seed, known, folder)
                print(f"$ seqrec {' '.join(words)}", flush=True)
                start = time.perf_counter()
                done = subprocess.run([sys.executable, "-m", "seqrec.cli", *words], check=False)
                print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)
                if done.returncode:
                    print(f"  {name} failed and is left out", flush=True)
                    continue
            metrics = metrics_of(folder)
            assert metrics is not None
            found.setdefault(name, []).append((metrics, folder))
    if not found:
        sys.exit("no row was completed")
    text = table(found, known)
    print(f"\n{text}", flush=True)
    (known.out / "baselines.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
