"""The rows of the papers' tables and figures: what was published of each and the command that makes it here."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import ccfrec, tssr
from benchmarks.beauty import rows as rows_of
from benchmarks.reproduce.protocol import options_of, recipe_of
from benchmarks.rows import Row, folder_of
from recbase.cli.options import options_from

__all__ = ["ANALYSES", "FIGURES", "command", "has_stage", "known", "published_tables", "reads_vectors", "row_of"]

PUBLISHED = Path(__file__).parents[1] / "published.json"

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
    "SASRec-Hybrid": "sasrec-hybrid",
    "SASRec-Content": "sasrec-content",
    "TSSR": "tssr",
}
_GENREC = {"TIGER": "tiger", "LETTER": "letter", "PRORec": "prorec", "BBQRec": "bbqrec", "EAGER": "eager"}
_OPTIONS = {
    "CCFRec(RQ)": ("ccfrec", ["--code-method", "rq"]),
    "CCFRec(PQ)": ("ccfrec", []),
    "CCFRec": ("ccfrec", []),
    "+ Item ID": ("ccfrec", ["--stage", "item-id"]),
    "UniSRec(T)": ("unisrec", []),
    "UniSRec(ID+T)": ("unisrec", ["--item-ids"]),
}
_ATTRIBUTES = ["title", "brand", "features", "categories", "description"]

# What a paper says of its figures, which print no numbers: data sets, metrics, words.
FIGURES: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...], str]] = {
    ("prorec", "layers"): (
        ("Beauty",),
        ("recall@20", "ndcg@20"),
        "HSTU stops rising at 8 layers and falls after; PRORec goes on rising and is before HSTU at every depth, by up "
        "to 21.42 % of ndcg@20 (figure 6)",
    ),
    ("prorec", "encoders"): (
        ("Beauty",),
        ("recall@20", "ndcg@20"),
        "Llama2-7b before Sentence-T5 and BERT (figure 9)",
    ),
    ("prorec", "quantizers"): (
        ("Beauty",),
        ("recall@20", "ndcg@20"),
        "hierarchical k-means before RQ-VAE and random codes (figure 9)",
    ),
    ("prorec", "sizes"): (
        ("Beauty",),
        ("recall@20", "ndcg@20"),
        "256 before 128; 512 with more ndcg@20 and less recall@20 than 256 (figure 9)",
    ),
    ("ccfrec", "code-types"): (
        ("Instrument", "Scientific"),
        ("recall@10", "ndcg@10"),
        "text before mixed before SASRec's codes; random codes before SASRec's (figure 2; the text "
        "does not name its data sets)",
    ),
    ("ccfrec", "weights"): (
        ("Instrument", "Scientific"),
        ("recall@10", "ndcg@10"),
        "Instrument: rises, then falls as alpha goes from 0.2 to 0.8; Scientific: the effect of alpha varies with beta "
        "(figure 3)",
    ),
    ("tssr", "contrast"): (
        ("H&M",),
        ("recall@20", "ndcg@20"),
        "both alignments together are best (figure 3); `benchmarks.tssr contrast` adds alignment, uniformity and the "
        "picture of figure 4",
    ),
    ("tssr", "batches"): (
        ("Phone",),
        ("recall@20", "ndcg@20"),
        "TSSR gains from larger batches, which change uniformity much (figure 5)",
    ),
    ("tssr", "shares"): (
        ("Toy",),
        ("recall@10", "ndcg@10"),
        "TSSR before the baselines at every share of 80 %, 50 % and 20 %, most at the smallest (figure 6)",
    ),
    ("bbqrec", "lengths"): (("Beauty",), ("recall@10", "ndcg@10"), "L: rises from 1 to 3, falls at 4 (figure 3)"),
    ("bbqrec", "codebooks"): (
        ("Beauty",),
        ("recall@10", "ndcg@10"),
        "N: rises from 64 to 256, falls at 512 (figure 3)",
    ),
    ("bbqrec", "buckets"): (
        ("Beauty",),
        ("recall@10", "ndcg@10"),
        "K: rises from 10 to 100, slightly lower at 200 (figure 3)",
    ),
    ("bbqrec", "signals"): (
        ("Beauty", "Sports", "Clothing", "Toys"),
        ("recall@10", "ndcg@10"),
        "without ids is worst, without text worse than without images, all three are best (figure 4)",
    ),
}

# Items that are no table of trained rows: the commands that make them, and what was published.
ANALYSES: dict[tuple[str, str], tuple[list[str], str]] = {
    ("prorec", "spaces"): (
        ["python -m benchmarks.analyses spaces --data DATA --embeddings EMBEDDINGS"],
        "table 4, shares of semantic / collaborative knowledge on Beauty: concat 97.33 % / 2.67 %, PRORec "
        "59.89 % / 40.11 %; figure 5 shows the vectors",
    ),
    ("prorec", "cost"): (
        ["python -m benchmarks.analyses cost RUN-TIGER RUN-EAGER RUN-PROREC"],
        "one code is searched 2.8 times as fast as two (figure 3); the cells of table 1 are formulas",
    ),
    ("bbqrec", "collisions"): (
        ["semtok report CODES"],
        "table 5, items in collision (RQ-VAE / LETTER / BBQRec): Toys L=2 2154 / 2522 / 12, L=3 466 / 167 / 0, L=4 "
        "163 / 19 / 0; Clothing L=2 6014 / 6270 / 6, L=3 1173 / 395 / 1, L=4 771 / 23 / 0",
    ),
    ("bbqrec", "dims"): (
        [
            "semtok fit behavior --data DATA --latent-dim D --out CODES",
            "genrec train bbqrec --recipe paper --data DATA --codes CODES --out RUN",
        ],
        "figure 3, D on Beauty: rises to 128, drops fast after it",
    ),
    ("bbqrec", "speed"): (
        ["python -m benchmarks.analyses cost RUN-TIGER RUN-BBQREC --beams 50,100"],
        "table 6, seconds on Beauty (TIGER / BBQRec): 50 beams 0.010 / 0.019, 100 beams 0.015 / 0.024, on A800 GPUs",
    ),
    ("tssr", "streams"): (
        ["seqrec streams RUN-SASREC-ID RUN-SASREC-CONTENT --figure FILE.png"],
        "figure 1: the item spaces of SASRec-ID and SASRec-Content lie apart, on Yelp and Phone",
    ),
    ("ccfrec", "neighbours"): (
        ["seqrec neighbours RUN"],
        "figure 4: CCFRec's 2,000 nearest items hold textual and collaborative neighbours in balance, on Instrument",
    ),
}


def _bbqrec(table: str) -> list[Row]:
    """The sweeps of BBQRec's figure 3, one setting at a time."""
    letter, option, values = {
        "lengths": ("L", "--levels", (1, 2, 3, 4)),
        "codebooks": ("N", "--codebook-size", (64, 128, 256, 512)),
        "buckets": ("K", "--buckets", (10, 50, 100, 200)),
    }[table]
    return [Row(f"{letter} = {value}", "genrec", "bbqrec", [option, str(value)]) for value in values]


def _listed(paper: str, table: str) -> list[Row]:
    """The rows of a table that is made of settings of few models; none for a table of many models."""
    if paper == "ccfrec" and table in ("ablations", "views", "levels", "code-types", "weights"):
        found = list(ccfrec.rows(table, _ATTRIBUTES, 1, None))
    elif paper == "tssr" and table in ("contrast", "batches", "shares"):
        found = list(tssr.rows(table, 1))
        if table == "shares":
            found += [
                Row(f"{name}, {share:.0%} of the users", "seqrec", _SEQREC[name], ["--train-share", str(share)])
                for name in ("SASRec-ID", "SASRec-Content", "FDSA", "CL4SRec", "MV-TRM")
                for share in (1.0, 0.8, 0.5, 0.2)
            ]
    elif paper == "bbqrec" and table in ("lengths", "codebooks", "buckets"):
        found = _bbqrec(table)
    elif paper == "bbqrec" and table in ("ablations", "signals"):
        found = list(rows_of("bbqrec", "prefix", 1, None))
        signals = ("w/o id", "w/o text", "w/o image", "BBQRec")
        found = [row for row in found if table == "ablations" or row.name in signals]
    elif paper == "prorec" and table in ("layers", "encoders", "quantizers", "sizes", "ladder"):
        found = list(rows_of(table, "prefix", 1, None))
        if table == "layers":
            found += [Row(f"HSTU, {n} layers", "seqrec", "hstu", ["--layers", str(n)]) for n in (2, 4, 8, 16)]
    else:
        return []
    return [row for row in found if row.model not in ("popularity", "transitions")]


def row_of(paper: str, table: str, name: str, data_set: str = "") -> Row | None:
    """The command of one published row, by the paper's protocol; None where there is no such model here."""
    if listed := _listed(paper, table):
        same = next((row for row in listed if row.name == name), None)
        if same is None:
            return None
        model, program, options = same.model, same.program, same.options
    else:
        model, options = _OPTIONS.get(name, (_GENREC.get(name) or _SEQREC.get(name), []))
        if model is None:
            return None
        program = "genrec" if model in _GENREC.values() else "seqrec"
    row = Row(name, program, model, list(options))
    if model in ("popularity", "transitions", "itemknn"):
        return row
    if not known(model):
        return row
    # Options of the row come last: of an option given twice the last counts.
    settled = ["--recipe", recipe_of(paper, model, data_set), *options_of(paper, model, data_set)]
    return replace(row, options=[*settled, *options])


def command(row: Row, given: argparse.Namespace, out: Path) -> list[str]:
    """The command of one row, runnable as it is printed."""
    data = str(given.data or given.set.lower())
    words = [row.program, "train", row.model, "--data", data, "--out", str(out), "--quiet"]
    if "--recipe" in row.options:
        words += ["--seed", str(given.seed)]
        if given.budget_seconds:
            words += ["--max-seconds", str(given.budget_seconds)]
            if has_stage(row.model):
                words += ["--stage1-seconds", str(given.budget_seconds)]
    if given.tokenizer_steps and row.model in ("tiger", "letter", "bbqrec"):
        words += ["--tokenizer-steps", str(given.tokenizer_steps)]
    if "item-id" in row.options:
        words += ["--base", str(folder_of(Row("CCFRec", "seqrec", "ccfrec"), given.seed, out.parent))]
    if "--global-text" in row.options:
        # Ready vectors have no joined view: the text is joined and encoded again, by the encoder that made them.
        words += ["--encoder", encoder] if (encoder := ccfrec.encoder_of(given.embeddings)) else []
    elif given.embeddings and not row.encodes and (row.program == "genrec" or reads_vectors(row.model)):
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


def published_tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics by paper, table, row and data set (None where a figure prints none), and the ports' by model and set."""
    found: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    ports = found.pop("ports")
    for (paper, table), (sets, metrics, _) in FIGURES.items():
        unknown = {name: dict.fromkeys(metrics) for name in sets}
        found[paper][table] = {row.name: unknown for row in _listed(paper, table)}
    return found, ports
