"""A small world for the campaign: data, vectors, tokenizers, runs and shards; and the jobs that write them anew."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import artefacts
import processes


@dataclass(frozen=True)
class Job:
    """One command that writes to ``out``, in two variants whose results differ.

    Attributes
    ----------
    name : str
    words : function of variant ("a" or "b") and out
        The command.
    read : function of path
        Digest of what was written.
    out : str
        Name of the folder or file.
    resumes : bool
        Whether ``--resume`` continues it.
    """

    name: str
    words: Callable[[str, str], Sequence[str]]
    read: Callable[[str], str]
    out: str
    resumes: bool = False


WORDS = [
    "alder",
    "birch",
    "cedar",
    "dogwood",
    "elm",
    "fir",
    "ginkgo",
    "hazel",
    "iris",
    "juniper",
    "kale",
    "larch",
    "maple",
    "nettle",
    "oak",
    "poplar",
]


def events(path: Path, seed: int, users: int = 60, items: int = 48) -> None:
    """A table of events in which every item is bought."""
    draw = random.Random(seed)
    rows = ["user_id,item_id,timestamp"]
    for user in range(users):
        at = draw.randrange(items)
        for step in range(9):
            at = (at + draw.choice((1, 1, 1, 5))) % items
            rows.append(f"u{user:03d},i{at:03d},{1000 + step}")
    path.write_text("\n".join(rows) + "\n")


def catalogue(path: Path, first: int, last: int, seed: int = 3) -> None:
    """A table of items with two texts each."""
    draw = random.Random(seed)
    rows = [f"i{i:03d},{' '.join(draw.sample(WORDS, 3))},{draw.choice(WORDS)}" for i in range(last)]
    path.write_text("item_id,title,brand\n" + "\n".join(rows[first:]) + "\n")


def build(root: Path) -> None:
    """Make what the jobs read, in ``root``, and go there; asserts that every command succeeds."""
    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    events(root / "a.csv", 0)
    events(root / "b.csv", 1)
    catalogue(root / "items.csv", 0, 48)
    catalogue(root / "new-1.csv", 48, 54)
    catalogue(root / "new-2.csv", 54, 60)
    steps = [
        "semtok prepare a.csv --items items.csv --views title,brand --min-item 1 --out data --quiet",
        "semtok embed --data data --pca 8 --out vectors --quiet",
        "semtok fit --method pq --data data --embeddings vectors --codebook-size 8 --levels 2 --out pq --quiet",
        "semtok fit --method rq --data data --embeddings vectors --codebook-size 8 --levels 4 --no-per-view "
        "--unique suffix --out rq --quiet",
        "semtok fit --method rq --data data --embeddings vectors --codebook-size 8 --levels 4 --no-per-view "
        "--seed 1 --unique none --out rq1 --quiet",
        "seqrec train sasrec --data data --dim 8 --ffn 8 --layers 1 --epochs 2 --out sasrec --quiet",
        "genrec train tiger --data data --codes rq --dim 8 --ffn 8 --head-dim 4 --heads 2 --encoder-layers 1 "
        "--decoder-layers 1 --form all --epochs 1 --beams 10 --valid-beams 10 --out tiger --quiet",
    ]
    for line in steps:
        child = processes.run(line.split())
        assert child.code == 0, f"{line}\n{child.output}"
    made = processes.look(_shards, str(root))
    assert made is None, made


def _shards(root: str) -> None:
    from semtok.content.embeddings import load_embeddings
    from semtok.content.shards import write_shard

    opened = load_embeddings(f"{root}/vectors")
    for number, rows in enumerate((slice(0, 20), slice(20, 40), slice(40, None))):
        write_shard(f"{root}/shards", number, {view: opened.views[view][rows] for view in opened.views})


def _seed(variant: str) -> str:
    return {"a": "0", "b": "1"}[variant]


def _line(text: str) -> Callable[[str, str], Sequence[str]]:
    """Words of a command line with {seed}, {v} and {out}."""
    return lambda variant, out: text.format(seed=_seed(variant), v=variant, out=out).split()


_NETWORK = "--data data --dim 8 --epochs 3 --save-every-seconds 0 --seed {seed} --out {out} --quiet"
_TRANSFORMER = f"{_NETWORK} --ffn 8 --layers 1"

JOBS = [
    Job("prepare", _line("semtok prepare {v}.csv --items items.csv --min-item 1 --out {out} --quiet"),
        artefacts.dataset, "x-data"),
    Job("embed", lambda v, out: ["semtok", "embed", "--data", "data", "--pca", "8" if v == "a" else "6",
                                 "--out", out, "--quiet"], artefacts.embeddings, "x-vectors"),
    Job("fit pq", _line("semtok fit --method pq --data data --embeddings vectors --codebook-size 8 --levels 2 "
                        "--seed {seed} --out {out} --quiet"), artefacts.tokenizer, "x-pq"),
    Job("fit rqvae", _line("semtok fit --method rqvae --data data --embeddings vectors --codebook-size 8 --levels 2 "
                           "--hidden 8 --steps 40 --seed {seed} --out {out} --quiet"), artefacts.tokenizer, "x-rqvae"),
    Job("encode table", lambda v, out: ["semtok", "encode", "rq" if v == "a" else "rq1", "--embeddings", "vectors",
                                        "--out", out, "--quiet"], artefacts.table, "x.parquet"),
    Job("encode csv", lambda v, out: ["semtok", "encode", "rq" if v == "a" else "rq1", "--embeddings", "vectors",
                                      "--out", out, "--quiet"], artefacts.table, "x.csv"),
    Job("encode shards", lambda v, out: ["semtok", "encode", "rq1" if v == "a" else "pq", "--embeddings", "shards",
                                         "--out", out, "--quiet"], artefacts.code_shards, "x-shards"),
    Job("report", lambda v, out: ["semtok", "report", "pq" if v == "a" else "rq", "--out", out, "--quiet"],
        artefacts.report, "x-report"),
    Job("export index", lambda v, out: ["semtok", "export", "rq" if v == "a" else "rq1", "--format", "rpg",
                                        "--out", out, "--quiet"], artefacts.json_file, "x.json"),
    Job("sasrec", _line(f"seqrec train sasrec {_TRANSFORMER}"), artefacts.run, "x-sasrec", True),
    Job("s3rec", _line(f"seqrec train s3rec {_TRANSFORMER}"), artefacts.run, "x-s3rec", True),
    Job("ccfrec", _line("seqrec train ccfrec --data data --embeddings vectors --code-type sasrec --code-levels 2 "
                        "--codebook-size 8 --epochs 2 --dim 8 --seed {seed} --save-every-seconds 0 --out {out} "
                        "--quiet"),
        artefacts.run, "x-ccfrec", True),
    Job("transitions", lambda v, out: ["seqrec", "train", "transitions" if v == "a" else "popularity", "--data", "data",
                                       "--out", out, "--quiet"], artefacts.run, "x-counts"),
    Job("tiger", _line("genrec train tiger --data data --codes rq --ffn 8 --head-dim 4 --heads 2 --encoder-layers 1 "
                       "--decoder-layers 1 --form all --beams 10 --valid-beams 10 --dim 8 --epochs 3 --seed {seed} "
                       "--save-every-seconds 0 --out {out} --quiet"), artefacts.run, "x-tiger", True),
    Job("prorec", _line("genrec train prorec --data data --embeddings vectors --stage1-epochs 2 --stage1-dim 8 "
                        "--dim 8 --ffn 8 --heads 2 --decoder-layers 1 --form all --beams 10 --valid-beams 10 "
                        "--epochs 2 --seed {seed} --save-every-seconds 0 --out {out} --quiet"),
        artefacts.run, "x-prorec", True),
]  # fmt: skip
