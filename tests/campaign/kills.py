"""Kill commands at random moments over a folder that holds an earlier result, and look what is left.

After every kill the folder holds the earlier or the new result whole, never a mixture, and a second call of the command
(with ``--resume`` where it has one) ends with exactly the result of a command that was never killed. A command that
ends because of SIGINT or SIGTERM says so by its exit code.

    python tests/campaign/kills.py --rounds 200 --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import processes
import world

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def measured(job: world.Job) -> tuple[dict[str, Any], float]:
    """What each variant ends with when nothing disturbs it, and the seconds of one."""
    wanted, started = {}, time.monotonic()
    for variant in "ab":
        out = f"whole-{variant}-{job.out}"
        child = processes.run(job.words(variant, out))
        assert child.code == 0, f"{child.words}: {child.output}"
        wanted[variant] = processes.look(job.read, out)
        assert isinstance(wanted[variant], str), wanted[variant]
    assert wanted["a"] != wanted["b"], f"{job.name}: both variants end alike, so a mixture could not be seen"
    return wanted, (time.monotonic() - started) / 2


def one(job: world.Job, wanted: dict[str, Any], seconds: float, draw: random.Random) -> list[str]:
    """Faults of one round: a killed over b, a look, and the command again."""
    number, faults = draw.choice(SIGNALS), []
    path = Path(job.out)
    shutil.rmtree("cache", ignore_errors=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    had = draw.random() < 0.75
    if had:
        source = Path(f"whole-a-{job.out}")
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
    child = processes.start(job.words("b", job.out))
    time.sleep(draw.random() * seconds * 1.1)
    child.strike(number)
    code, printed = child.wait(), child.output
    found = processes.look(job.read, job.out)
    allowed = [wanted["b"]] if code == 0 else [wanted["a"], wanted["b"]]
    where = f"{job.name}, {number.name} after {time.monotonic() - child.started:.2f} s, exit {code}"
    if not (found in allowed or (not had and code != 0 and isinstance(found, dict))):
        faults.append(f"{where}: the folder holds {found}, wanted one of {allowed}")
    if code not in (0, 128 + number):
        faults.append(f"{where}: wanted exit code {128 + number}; {printed[-300:]}")
    if "Traceback" in printed:
        faults.append(f"{where}: a traceback: {printed[-300:]}")
    if code == 128 + number and number != signal.SIGKILL and not printed.strip():
        faults.append(f"{where}: nothing said of what was kept")
    again = [*job.words("b", job.out)]
    resumed = job.resumes and code != 0 and draw.random() < 0.7
    second = processes.run([*again, "--resume"] if resumed else again)
    if resumed and second.code != 0:  # nothing to resume yet is a fair answer, and says what to do
        if "resume" not in second.output:
            faults.append(f"{where}: --resume ends with {second.code}: {second.output[-300:]}")
        second = processes.run(again)
    if second.code != 0:
        faults.append(f"{where}: the command again ends with {second.code}: {second.output[-300:]}")
    found = processes.look(job.read, job.out)
    if found != wanted["b"]:
        faults.append(f"{where}, resumed {resumed}: afterwards the folder holds {found}, wanted {wanted['b']}")
    left = [name.name for name in [*path.rglob("*"), *Path().glob(".*")] if name.name.startswith(".writing")]
    if left:
        faults.append(f"{where}: temporaries stay: {left[:3]}")
    return faults


def main() -> None:
    """Run the rounds and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="kills over all jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default="", help="names, as a,b; all if not given")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to work in")
    given = parser.parse_args()
    root = given.work.resolve()
    world.build(root)
    jobs = [job for job in world.JOBS if not given.jobs or job.name in given.jobs.split(",")]
    draw, faults, struck = random.Random(given.seed), [], Counter()
    known = {job.name: measured(job) for job in jobs}
    for number in range(given.rounds):
        job = jobs[number % len(jobs)]
        faults += one(job, *known[job.name], draw)
        struck[job.name] += 1
    print(json.dumps({"kills": sum(struck.values()), "jobs": struck, "faults": faults}, indent=1))
    os._exit(bool(faults))


if __name__ == "__main__":
    main()
