"""A paper's table or figure again, by the paper's own protocol, beside the published and the ported numbers.

    python -m benchmarks.reproduce                                  # the tables there are
    python -m benchmarks.reproduce --plan ccfrec                    # its commands, hours and disk on a GPU machine
    python -m benchmarks.reproduce prorec main --set Beauty         # the commands, without running them
    python -m benchmarks.reproduce prorec main --set Beauty --data runs/beauty --embeddings runs/beauty-minilm \\
        --budget-seconds 3600 --out runs/reproduce                  # run what is missing, print the table

Each row says how far it got: passes made and passes of its recipe, whether validation was flat, the hours still missing
by its own rate, and a verdict (:func:`benchmarks.reproduce.protocol.verdict`). ``--track`` runs the table on the same
events in another order (:mod:`benchmarks.tracks`), where the paper's order is in doubt. What a paper says in words of a
figure stands below ours.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.reproduce.plan import ARITHMETIC, cost_of, settings_of
from benchmarks.reproduce.protocol import PROTOCOLS, incomparable, progress_of, verdict
from benchmarks.reproduce.tables import ANALYSES, FIGURES, command, known, published_tables, row_of
from benchmarks.rows import Row, finished, folder_of, metrics_of, succeeds
from benchmarks.tracks import TRACKS, track_folder
from recbase.store.folder import open_folder

# Events of the papers' data sets: their tables of data sets. CCFRec's table 2, PRORec's table 2, TSSR's table 2.
EVENTS = {
    "Instrument": 511_836,
    "Scientific": 412_947,
    "Game": 814_586,
    "Baby": 1_241_083,
    "Beauty": 198_360,
    "Sports": 296_175,
    "Toys": 167_526,
    "H&M": 692_413,
    "Yelp": 1_348_192,
    "Phone": 841_657,
    "Toy": 996_576,
    "MIND": 10_437_301,
}
PER_USER = 7  # events a user where a paper prints no count (BBQRec's Clothing): about that of its other sets


def shown(values: dict[str, Any] | None, names: list[str]) -> str:
    """Numbers of a row, in order."""
    if not values:
        return " / ".join("-" for _ in names)
    return " / ".join("-" if values.get(name) is None else f"{values[name]:.4f}" for name in names)


def plan(paper: str, given: argparse.Namespace, published: dict[str, Any]) -> str:
    """The commands of all rows of a paper on all its data sets, a command once, with hours and disk at most."""
    lines = [f"{paper}: hours at most, by {ARITHMETIC.source}", "", "hours | passes | GB | command"]
    hours = disk = 0.0
    seen: set[str] = set()
    for table, rows in published[paper].items():
        for name, sets in rows.items():
            for data_set in sets:
                row = row_of(paper, table, name, data_set)
                if row is None or not known(row.model):
                    lines.append(f"- | - | - | # {table}, {name}: no such model here")
                    continue
                given.set = data_set
                words = command(row, given, folder_of(row, given.seed, folder(given, paper, table)))
                if "--recipe" not in row.options or (key := f"{data_set} {row.options} {row.model}") in seen:
                    continue
                seen.add(key)
                users, items = PROTOCOLS[paper].sets[data_set]
                events = EVENTS.get(data_set, PER_USER * users)
                cost = cost_of(settings_of(words), users, items, events, row.program == "genrec")
                hours, disk = hours + cost.hours, disk + cost.disk
                lines.append(f"{cost.hours:.2f} | {cost.passes} | {cost.disk:.2f} | {shlex.join(words)}")
    lines += [f"- | - | - | {one}" for (of, _), (found, _) in ANALYSES.items() if of == paper for one in found]
    lines += ["", f"{len(seen)} trainings, {hours:.0f} hours at most, {disk:.0f} GB of runs"]
    return "\n".join(lines)


def folder(given: argparse.Namespace, paper: str, table: str) -> Path:
    """Folder of the runs of one table, data set and order of events."""
    found: Path = given.out / f"{paper}-{table}-{given.set.lower().replace('&', '')}"
    return found if given.track == "canonical" else found / given.track


def line(given: argparse.Namespace, name: str, row: Row | None, values: dict[str, Any], port: Any, status: str) -> str:
    """One line of a table."""
    names = [metric for metric in values if "@" in metric]
    before = f"| {name} | {shown(values, names)} | {shown(port, names)} |"
    if row is None or not known(row.model):
        return f"{before} no such model here | - | - | - | - | - | - | not comparable: no such model here |"
    run = folder_of(row, given.seed, given.folder)
    found = metrics_of(run)
    if found is None:
        return f"{before} {status} | - | - | - | - | - | - | {status} |"
    manifest, progress = open_folder(run, "config.json", "run").manifest, progress_of(run)
    encoder = encoder_of(given, row)
    why = incomparable(given.paper, given.set, manifest, encoder)
    passes = "-" if progress is None else f"{progress.passes} of {progress.allowed}"
    even = "-" if progress is None else "yes" if progress.flat else "no"
    hours = "-" if progress is None else f"{progress.hours:.1f}"
    said = verdict(values, found["test"], progress, why)
    numbers = f"{shown(found['test'], names)} | {shown(found.get('test_masked'), names)}"
    return f"{before} {numbers} | kept; masked beside | {encoder or '-'} | {passes} | {even} | {hours} | {said} |"


def encoder_of(given: argparse.Namespace, row: Row) -> str | None:
    """Encoder of a row's vectors; None where it reads none."""
    from benchmarks.ccfrec import encoder_of as made_by
    from benchmarks.reproduce.tables import reads_vectors

    if row.program == "seqrec" and not reads_vectors(row.model):
        return None
    if "--encoder" in row.options:
        return row.options[row.options.index("--encoder") + 1]
    return made_by(given.embeddings) or PROTOCOLS[given.paper].encoder


def listed(published: dict[str, Any]) -> str:
    """What there is."""
    lines = [
        f"{paper} {table}: {len(rows)} rows, --set {' | '.join(next(iter(rows.values())))}"
        for paper, tables in published.items()
        for table, rows in tables.items()
    ]
    for (paper, name), (commands, said) in ANALYSES.items():
        lines.append(f"{paper} {name}: {'; '.join(commands)}\n  published: {said}")
    return "\n".join(lines)


def table(given: argparse.Namespace, rows: dict[str, Any], ports: dict[str, Any]) -> tuple[str, list[str]]:
    """Run the rows that are missing, and make the table; also the names of those that failed."""
    protocol = PROTOCOLS[given.paper]
    names = [name for name in next(iter(rows.values()))[given.set] if "@" in name]
    lines = [
        f"{given.paper} {given.table}, {given.set}: {' / '.join(names)}",
        "",
        f"The paper's protocol: {protocol.split}; order of events: {protocol.order} (ours: {given.track}); seen items: "
        f"{protocol.seen}; encoder: {protocol.encoder}.",
        "",
        "| row | paper | best public port | ours, test | seen items left out | seen policy | encoder | passes | flat "
        "| hours missing | verdict |",
        "|" + " --- |" * 11,
    ]
    failed: list[str] = []
    for name, values in rows.items():
        if given.only is not None and name not in [part.strip() for part in given.only.split(";")]:
            continue
        row, status = row_of(given.paper, given.table, name, given.set), "not run"
        if row is not None and known(row.model) and not finished(run := folder_of(row, given.seed, given.folder)):
            words = command(row, given, run)
            if given.data is None:
                print(f"$ {shlex.join(words)}", flush=True)
            elif not succeeds(words, name):
                status = "failed"
                failed.append(name)
        lines.append(line(given, name, row, values[given.set], ports.get(name, {}).get(given.set), status))
    if (given.paper, given.table) in FIGURES:
        lines += ["", f"The paper: {FIGURES[given.paper, given.table][2]}."]
    return "\n".join(lines), failed


def arguments(published: dict[str, Any]) -> argparse.ArgumentParser:
    """What may be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", nargs="?", choices=sorted(published))
    parser.add_argument("table", nargs="?")
    parser.add_argument("--plan", choices=sorted(published), help="print a paper's commands, hours and disk")
    parser.add_argument("--set", help="data set of the table, such as Beauty")
    parser.add_argument("--data", type=Path, help="its folder or name; without it the commands are only printed")
    parser.add_argument("--embeddings", type=Path, help="embeddings folder of it")
    parser.add_argument("--budget-seconds", type=float, default=0, help="of a row, and of its stage I; 0: no limit")
    parser.add_argument("--tokenizer-steps", type=int, default=0, help="of a trained tokenizer; 0: the recipe's")
    parser.add_argument("--track", choices=TRACKS, default="canonical", help="order of the events")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of rows, as a;b")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    return parser


def main() -> None:
    """List tables, or print the plan of a paper, or the commands of one table, or run them."""
    published, ports = published_tables()
    parser = arguments(published)
    given = parser.parse_args()
    if given.plan:
        print(plan(given.plan, given, published))
        return
    if given.paper is None or given.table is None:
        print(listed(published))
        return
    if (given.paper, given.table) in ANALYSES:
        commands, said = ANALYSES[given.paper, given.table]
        print("\n".join([*(f"$ {one}" for one in commands), f"The paper: {said}."]))
        return
    if given.table not in published[given.paper]:
        parser.error(f"{given.paper} has the tables {', '.join(published[given.paper])}, not {given.table!r}")
    rows = published[given.paper][given.table]
    sets = list(next(iter(rows.values())))
    given.set = given.set or sets[0]
    if given.set not in sets:
        parser.error(f"--set {given.set!r} is not in this table: {', '.join(sets)}")
    if given.only is not None and (unknown := {part.strip() for part in given.only.split(";")} - set(rows)):
        parser.error(f"--only {unknown.pop()!r} is no row of this table: {', '.join(rows)}")
    given.folder = folder(given, given.paper, given.table)
    if given.data is not None:
        given.data = track_folder(given.data, given.track, given.out)
    text, failed = table(given, rows, ports)
    print(f"\n{text}\n")
    if given.data is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        (given.folder / "table.md").write_text(text + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
