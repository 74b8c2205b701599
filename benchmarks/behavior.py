"""Collisions of behaviour-bound codes beside those of RQ-VAE and LETTER: table 5 of the BBQRec paper.

    python -m benchmarks.behavior --data runs/beauty --embeddings runs/beauty-minilm --out runs/collisions

Each of the methods is fitted with 2, 3 and 4 levels. A level of BBQRec has a code of each of its streams (id, text,
image), so its rows stand twice: at the paper's number of levels ("own"), and with as many codes an item as the others
have ("equal"), where that is a multiple of the streams. "Colliding" is the number of items less that of different
codes, as in the paper; "sharing" the number of items whose codes another item has too. Codes are counted as they are
fitted, before anything makes them unique. A row that is in OUT/rows.jsonl is not run again, so the benchmark can be
stopped and started; embeddings with a view "image" give BBQRec its image stream.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import semtok
from recbase.cli.options import recipe_of
from recbase.data.catalog import Dataset, load_dataset
from semtok.catalogue.fit import fit_codes
from semtok.content.embeddings import Embeddings, load_embeddings
from semtok.registry import tokenizer_class

METHODS = ("rqvae", "letter", "behavior")
BUDGETS = ("own", "equal")


@dataclass(frozen=True)
class Row:
    """One fit: a method with the codes it spends, and what was allowed for it."""

    method: str
    levels: int
    budget: str
    seed: int
    recipe: str
    settings: str
    embeddings: str


def rows(arguments: argparse.Namespace, embeddings: Embeddings) -> Iterator[Row]:
    """The rows of the table; "own" and "equal" differ for BBQRec alone."""
    settings = json.dumps(dict(arguments.set), sort_keys=True)
    for levels in arguments.levels:
        for method in arguments.methods:
            for budget in BUDGETS if method == "behavior" else BUDGETS[:1]:
                for seed in range(arguments.seeds):
                    yield Row(method, levels, budget, seed, arguments.recipe, settings, embeddings.hash)


def fitted(row: Row, arguments: argparse.Namespace, dataset: Dataset, embeddings: Embeddings) -> dict[str, Any]:
    """Fit one row and count its collisions; where the codes cannot be shared out, why."""
    made = tokenizer_class(row.method)
    known = inspect.signature(made).parameters
    given = recipe_of(semtok.TOKENIZERS[row.method], row.recipe) | dict(arguments.set)
    given |= {"levels": row.levels, "seed": row.seed, "quiet": arguments.quiet, "max_seconds": arguments.max_seconds}
    if row.budget == "equal":
        given["codes_budget"] = row.levels
    tokenizer = made(**{name: value for name, value in given.items() if name in known})
    started = time.perf_counter()
    try:
        found = fit_codes(tokenizer, embeddings, dataset=dataset, unique="none", seed=row.seed)
    except ValueError as error:
        if row.budget == "equal" and "codes_budget" in str(error):
            return {"refused": str(error)}
        raise
    collisions = found.codes.collisions()
    history = found.report.get("training") or [{}]
    return {
        "codes": found.codes.levels,
        "items": collisions.total,
        "colliding": collisions.total - collisions.distinct,
        "sharing": collisions.items,
        "largest": collisions.largest,
        "steps": history[-1].get("step"),
        "seconds": round(time.perf_counter() - started, 1),
    }


def table(found: list[tuple[Row, dict[str, Any]]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| L | method | budget | codes an item | colliding | sharing | largest group | seed | steps | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row, values in found:
        start = f"| {row.levels} | {row.method} | {row.budget if row.method == 'behavior' else ''} |"
        if "refused" in values:
            lines.append(f"{start} {row.levels} | not a multiple of the streams | | | {row.seed} | | |")
            continue
        names = ("codes", "colliding", "sharing", "largest")
        numbers = " | ".join(f"{values[name]:,}" for name in names)
        lines.append(f"{start} {numbers} | {row.seed} | {values['steps'] or '-'} | {values['seconds']:.0f} |")
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, Any]:
    name, equal, value = text.partition("=")
    if not equal:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Run the rows that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set folder or name")
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings folder of that data set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--levels", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipe", default="default", help="recipe of every method")
    parser.add_argument(
        "--max-seconds", type=float, default=None, help="budget of a fit; the recipe's steps if not given"
    )
    parser.add_argument(
        "--set", nargs="*", type=_setting, default=[], metavar="NAME=VALUE", help="argument of every method that has it"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/collisions"), help="folder of the rows and the table")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    embeddings = load_embeddings(arguments.embeddings).align(dataset.item_ids)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {json.dumps(line["row"], sort_keys=True): line["found"] for line in map(json.loads, lines)}
    found: list[tuple[Row, dict[str, Any]]] = []
    for row in rows(arguments, embeddings):
        key = json.dumps(asdict(row) | {"max_seconds": arguments.max_seconds}, sort_keys=True)
        if key not in done:
            print(f"{row.method} L={row.levels} {row.budget} seed {row.seed}", flush=True)
            done[key] = fitted(row, arguments, dataset, embeddings)
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps({"row": json.loads(key), "found": done[key]}) + "\n")
        found.append((row, done[key]))
    streams = "id, text, image" if "image" in embeddings.views else "id, text"
    title = f"{dataset.name}, {len(embeddings):,} items, streams of behavior: {streams}; {os.cpu_count()} cores"
    text = f"{title}\n\n{table(found)}"
    print(f"\n{text}")
    (arguments.out / "collisions.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
