"""Run every command on a disk that is full at every one of its writes in turn, over an earlier result.

The disk is full in that no file may grow over a limit (``RLIMIT_FSIZE``), which every writer meets, those of other
libraries too. The limits lie just below the size of each file that the command writes, so that each write fails once.
The earlier result stays whole, nothing temporary stays, and one sentence names the path and says so.

    python tests/campaign/full_disk.py --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import processes
import world
from kills import measured
from races import cleared


def sizes(path: Path) -> list[int]:
    """Bytes of every file that was written."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sorted({each.stat().st_size for each in files})


def starved(job: world.Job, wanted: dict[str, str], most: int) -> tuple[int, list[str]]:
    """Commands run, and their faults."""
    path, faults = Path(job.out), []
    source = Path(f"whole-a-{job.out}")
    limits = [size - 1 for size in sizes(Path(f"whole-b-{job.out}")) if size > 1]
    limits = sorted({0, *limits, *(limit // 2 for limit in limits)})
    limits = limits if len(limits) <= most else [limits[len(limits) * at // most] for at in range(most)]
    for limit in limits:
        cleared(path)
        shutil.rmtree("cache", ignore_errors=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
        child = processes.run(job.words("b", job.out), largest_file=limit)
        found, said = processes.look(job.read, job.out), child.output
        where = f"{job.name}, files of at most {limit} bytes, exit {child.code}"
        if found not in ([wanted["b"]] if child.code == 0 else wanted.values()):
            faults.append(f"{where}: the folder holds {found}")
        if child.code not in (0, 1) or "Traceback" in said:
            faults.append(f"{where}: {said[-300:]!r}")
        if child.code == 1 and (said.count("\n") != 1 or not said.startswith("Error: cannot ")):
            faults.append(f"{where}: not one sentence: {said[-400:]!r}")
        left = [each.name for each in path.rglob("*")] if path.is_dir() else [each.name for each in Path().glob(".*")]
        if any(name.startswith(".writing") for name in left):
            faults.append(f"{where}: temporaries stay: {[name for name in left if name.startswith('.writing')]}")
    return len(limits), faults


def main() -> None:
    """Run all and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=12, help="limits tried for each command")
    parser.add_argument("--jobs", default="", help="names, as a,b; all if not given")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to work in")
    given = parser.parse_args()
    root = given.work.resolve()
    world.build(root)
    tried, faults = {}, []
    for job in world.JOBS:
        if not given.jobs or job.name in given.jobs.split(","):
            wanted = measured(job)[0]
            tried[job.name], found = starved(job, wanted, given.most)
            faults += found
    print(json.dumps({"commands": sum(tried.values()), "tried": tried, "faults": faults}, indent=1))
    os._exit(bool(faults))


if __name__ == "__main__":
    main()
