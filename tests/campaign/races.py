"""Start two or three commands on one ``--out`` at once while a reader looks, many times.

A reader never meets an unreadable folder once there has been a readable one; what stands at the end is the whole result
of a command that reported success; a command that is refused says who holds the folder; of appends that report success
every item is there.

    python tests/campaign/races.py --rounds 500 --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import processes
import world
from kills import measured

SLOW = ("fit rqvae", "s3rec", "ccfrec", "prorec")


def cleared(path: Path) -> None:
    """Nothing at this path."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def race(job: world.Job, wanted: dict[str, str], draw: random.Random) -> list[str]:
    """Faults of one round of two or three writers and a reader."""
    path, faults = Path(job.out), []
    cleared(path)
    had = draw.random() < 0.7
    if had:
        source = Path(f"whole-a-{job.out}")
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
    variants = [draw.choice("ab") for _ in range(draw.choice((2, 2, 3)))]
    children = []
    for variant in variants:
        children.append(processes.start(job.words(variant, job.out)))
        time.sleep(draw.choice((0, 0, 0.01, 0.05)))
    readable = had
    while any(os.waitid(os.P_PID, c.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for c in children):
        found = processes.look(job.read, job.out)
        if isinstance(found, str):
            readable = True
            if found not in wanted.values():
                faults.append(f"{job.name}: a reader met a mixture {found}")
        elif readable:
            faults.append(f"{job.name}: a reader met {found}")
        time.sleep(0.02)
    codes = [child.wait() for child in children]
    done = [wanted[variant] for variant, code in zip(variants, codes, strict=True) if code == 0]
    found = processes.look(job.read, job.out)
    if not done:
        faults.append(f"{job.name}: nobody succeeded: {[child.output[-200:] for child in children]}")
    elif found not in done:
        faults.append(f"{job.name}: {codes} and the folder holds {found}, wanted one of {done}")
    for child, code in zip(children, codes, strict=True):
        said = child.output
        if code != 0 and (said.count("\n") > 1 or not ("since" in said or "being written" in said)):
            faults.append(f"{job.name}: refused with {code} by {said[-300:]!r}")
    return faults


def _ids(path: str) -> list[str]:
    import semtok

    codes = semtok.load_codes(path)
    assert len(set(map(tuple, codes.codes.tolist()))) == len(codes.codes), "codes repeat"
    return [str(value) for value in codes.item_ids]


def appends(draw: random.Random) -> list[str]:
    """Faults of two appends of different items to one tokenizer."""
    cleared(Path("x-append"))
    shutil.copytree("rq", "x-append")
    children, files = [], ["new-1.csv", "new-2.csv"]
    draw.shuffle(files)
    for items in files:
        words = f"semtok encode x-append --items {items} --embeddings vectors --append --quiet".split()
        children.append(processes.start(words))
        time.sleep(draw.choice((0, 0, 0.01, 0.03)))
    codes = [child.wait() for child in children]
    found = processes.look(_ids, "x-append")
    if isinstance(found, dict):
        return [f"append: {codes}, the folder afterwards: {found}"]
    faults = []
    for items, code, child in zip(files, codes, children, strict=True):
        new = [line.split(",")[0] for line in Path(items).read_text().splitlines()[1:]]
        there = [item for item in new if item in found]
        if code == 0 and there != new:
            faults.append(f"append: success was reported and {len(new) - len(there)} of {len(new)} items are lost")
        if code != 0 and (there or child.output.count("\n") > 1):
            faults.append(f"append: exit {code} with {len(there)} items written; {child.output[-300:]!r}")
    if codes[0] != 0 and codes[1] != 0:
        faults.append(f"append: nobody succeeded: {[child.output[-200:] for child in children]}")
    return faults


def main() -> None:
    """Run the rounds and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow-every", type=int, default=25, help="every so many rounds race one of the slow commands")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to work in")
    given = parser.parse_args()
    root = given.work.resolve()
    world.build(root)
    draw, faults, raced = random.Random(given.seed), [], Counter()
    jobs = {job.name: job for job in world.JOBS}
    known = {name: measured(job)[0] for name, job in jobs.items()}
    quick = [name for name in jobs if name not in SLOW]
    for number in range(given.rounds):
        if number % 5 == 4:
            faults += appends(draw)
            raced["append"] += 1
            continue
        slow = number % given.slow_every == given.slow_every - 2
        name = draw.choice(SLOW if slow else quick)
        faults += race(jobs[name], known[name], draw)
        raced[name] += 1
    print(json.dumps({"rounds": sum(raced.values()), "raced": raced, "faults": faults}, indent=1))
    os._exit(bool(faults))


if __name__ == "__main__":
    main()
