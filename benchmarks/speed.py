"""One runner for speed: pairs of sides in alternating rounds, each side a fresh process, its time and its peak memory.

    python -m benchmarks.speed code-search --rounds 5
    python -m benchmarks.speed all --device cuda --out speed.jsonl
    python -m benchmarks.speed beams-20 --append "two x86-64 cores, idle, no GPU"

A round starts a new interpreter for every side, the first one turn about. It makes its data, does the work once
unmeasured, then a few times, and says the median time and the largest resident memory that the process ever had, its
making of data included. Printed are the medians over the rounds, and the median of the ratio peer / ours within a
round. Works of both sides are those of the other benchmarks of this folder; what needs an environment of its own
(RecBole, RecTools, ResidualVQ) stays with `benchmarks/peers.py` and `benchmarks/rqvae.py`, which alternate likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Task(NamedTuple):
    """A comparison: the peer's name, how the work of a side is made, the usual size and of what.

    ``make(side, size, device)`` returns the function that is timed; ``side`` is ours or peer. ``cuda`` says that the
    work can be done on a device.
    """

    peer: str
    make: Callable[[str, int, str], Work]
    size: int
    of: str
    cuda: bool = False


def beams(count: int) -> Callable[[str, int, str], Work]:
    """Constrained beam search for a batch of users, 80 tokens each, among 12,101 items."""

    def make(side: str, size: int, device: str) -> Work:
        from benchmarks import generation as made

        trie, tokens = made.token_trie(), made.source(size)
        if side == "ours":
            return made.our_search(made.own().eval(), trie, tokens, count)
        return made.their_search(made.peer().eval(), trie, tokens, count)

    return make


def t5_step(case: str) -> Callable[[str, int, str], Work]:
    """Optimizer step of TIGER's T5 on rows of 80 tokens, or of lengths like Beauty's."""

    def make(side: str, size: int, device: str) -> Work:
        from benchmarks.generation import training_step

        return training_step("ours" if side == "ours" else "sdpa", case, size, 1)

    return make


def quantizer(task: str) -> Callable[[str, int, str], Work]:
    """Fit and encoding of vectors of width 768 by 4 codes of 256."""

    def make(side: str, size: int, device: str) -> Work:
        import numpy as np

        from benchmarks.quantizers import TASKS as OURS
        from benchmarks.quantizers import FaissBeside, made_vectors, measure
        from semtok.kernels.lloyd import import_faiss

        given: Any = SimpleNamespace(levels=4, codebook_size=256, iterations=25, beam=5, precision="auto", seed=0)
        vectors = made_vectors(size, 768, 2_000, 0)
        variance = float(np.square(vectors - vectors.mean(0)).sum(dtype=np.float64))
        if side == "peer":
            import_faiss().omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            return lambda: measure(FaissBeside(task, given), vectors, variance)
        return lambda: measure(OURS[task]("torch", given), vectors, variance)

    return make


def code_search(side: str, size: int, device: str) -> Work:
    """Best 10 items of 20 random queries, of 8 codes an item; the peer reads the decoded float32 table."""
    import numpy as np
    import torch

    from benchmarks import code_search as made
    from semtok.kernels.code_search import CodeSearch, code_tables

    codes, fitted, _ = made.catalogue(size)
    queries = np.random.default_rng(1).standard_normal((made.QUERIES, made.WIDTH)).astype(np.float32)
    if side == "ours":
        search = CodeSearch(codes, fitted.sizes_, torch.get_num_threads())
        tables = code_tables(fitted)[0]
        return lambda: [search.search([row[None] @ table.T for table in tables], 10) for row in queries]
    vectors = torch.empty(size, made.WIDTH)
    for start in range(0, size, made.BLOCK):
        vectors[start : start + made.BLOCK] = torch.from_numpy(fitted.decode(codes[start : start + made.BLOCK]))
    vectors, asked = vectors.to(device), torch.from_numpy(queries).to(device)
    return lambda: [(vectors @ row).topk(10).indices.cpu() for row in asked]


def jpq_engine(side: str, size: int, device: str) -> Work:
    """Answers of a `sasrec-jpq` of random weights to 20 users one by one: ``--engine codes``, and as peer the model."""
    import numpy as np

    from recbase.data.sequences import Histories
    from recbase.evaluate.ranking import topk
    from seqrec.export import CodedItems
    from seqrec.models.recjpq import SASRecJPQ

    rng = np.random.default_rng(0)
    model = SASRecJPQ(size, assign="random").with_content().to(device).eval()
    users = [Histories.from_lists([rng.integers(1, size + 1, 20).tolist()]) for _ in range(20)]
    if side == "ours":
        coded = CodedItems(model)
        return lambda: [coded.topk(user, 10, True) for user in users]
    scorer = model.scorer()
    return lambda: [topk(scorer, user, 10, True) for user in users]


def model_step(name: str, other: str) -> Callable[[str, int, str], Work]:
    """Gradient of a batch of 64 histories by two of our models: the peer is the other one."""

    def make(side: str, size: int, device: str) -> Work:
        import numpy as np
        import torch

        from benchmarks.paired import model_class, step

        rng = np.random.default_rng(1)
        histories = _histories(size, 400)
        torch.manual_seed(0)
        if (name if side == "ours" else other) == "sasrec":
            return step(model_class("seqrec", "sasrec")(size, dim=128), histories)
        if (name if side == "ours" else other) == "sasrec-jpq":
            return step(model_class("seqrec", "sasrec-jpq")(size, assign="random").with_content(), histories)
        vectors = rng.normal(size=(size, 2, 64)).astype(np.float32)
        model = model_class("seqrec", "ccfrec")(size, [16] * 3, 2, 64, dim=64, max_len=20)
        return step(model.with_content(rng.integers(0, 16, (size, 3)), vectors), histories)

    return make


def _histories(items: int, users: int) -> Any:
    import numpy as np

    from recbase.data.sequences import Histories

    rng = np.random.default_rng(2)
    return Histories.from_lists([rng.integers(1, items + 1, rng.integers(4, 30)).tolist() for _ in range(users)])


TASKS = {
    **{f"beams-{count}": Task("transformers, generate", beams(count), 64, "users") for count in (10, 20, 50)},
    "t5-step": Task("transformers, T5", t5_step("full float32"), 256, "rows"),
    "t5-step-ragged": Task("transformers, T5", t5_step("ragged float32"), 256, "rows"),
    "pq": Task("faiss", quantizer("pq"), 50_000, "vectors"),
    "rq": Task("faiss", quantizer("rq"), 50_000, "vectors"),
    "code-search": Task("torch, dense float32", code_search, 1_000_000, "items", cuda=True),
    "codes-engine": Task("--engine model", jpq_engine, 1_000_000, "items"),
    "ccfrec-step": Task("sasrec", model_step("ccfrec", "sasrec"), 3_000, "items"),
    "jpq-step": Task("sasrec", model_step("sasrec-jpq", "sasrec"), 100_000, "items"),
}


def peak_mib() -> float:
    """Largest resident memory of this process, MiB: VmHWM, since ``ru_maxrss`` starts at that of the parent."""
    from benchmarks.generation import peak

    return peak()


def worked(task: str, side: str, size: int, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of a side in this process, after one unmeasured call, and the peak memory.

    With ``cuda`` the peak of the device's memory is added.
    """
    import torch

    work, taken = TASKS[task].make(side, size, device), []
    work()
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    found = {"seconds": statistics.median(taken), "peak_mib": peak_mib()}
    if device == "cuda":
        found["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def child(task: str, side: str, size: int, given: argparse.Namespace) -> dict[str, float]:
    """Run one side in a fresh interpreter, and return what it measures.

    Raises
    ------
    RuntimeError
        If it fails, with the last line of what it said.
    """
    threads = {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    words = [sys.executable, "-m", "benchmarks.speed", task, "--worker", side, "--size", str(size)]
    words += ["--device", given.device, "--repeats", str(given.repeats)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(words, env=os.environ | threads, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{task}, {side}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(task: str, given: argparse.Namespace, run: Callable[..., dict[str, float]] = child) -> dict[str, Any]:
    """Medians of both sides over alternating rounds, and of the ratio in a round.

    Parameters
    ----------
    task : str
        Key of ``TASKS``.
    given : Namespace
        ``rounds``, ``size`` (None: the task's own), ``device``, ``threads`` and ``repeats``.
    run : callable
        ``run(task, side, size, given)`` measures a side.
    """
    size, rounds = given.size or TASKS[task].size, []
    for number in range(given.rounds):
        order = ("ours", "peer") if number % 2 == 0 else ("peer", "ours")
        rounds.append({side: run(task, side, size, given) for side in order})
    middle = {
        side: {name: statistics.median(one[side][name] for one in rounds) for name in rounds[0][side]}
        for side in ("ours", "peer")
    }
    ratios = [one["peer"]["seconds"] / one["ours"]["seconds"] for one in rounds]
    return {
        "task": task, "size": size, "of": TASKS[task].of, "peer_name": TASKS[task].peer, "device": given.device,
        "threads": given.threads, "rounds": given.rounds, **middle, "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }  # fmt: skip


def records(found: Sequence[dict[str, Any]], machine: str, qualification: str) -> list[dict[str, Any]]:
    """Lines of results/speed.jsonl of some comparisons; see `benchmarks.results.record`."""
    from benchmarks.results import record

    lines = []
    for one in found:
        metrics = {"times faster": [one["ratio"]]}
        for side in ("ours", "peer"):
            metrics |= {f"{side} ms": [1e3 * one[side]["seconds"]], f"{side} MiB": [one[side]["peak_mib"]]}
        row = f"{one['task']}, {one['size']:,} {one['of']}, {one['threads']} threads, {one['device']}"
        command = f"python -m benchmarks.speed {one['task']} --rounds {one['rounds']} --threads {one['threads']}"
        command += f" --size {one['size']} --device {one['device']}"
        line = record("speed", row, "made", metrics, command, machine, qualification)
        lines.append(line | {"notes": {"peer": one["peer_name"], "each round": " ".join(map(str, one["ratios"]))}})
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line; measure one side, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"all, or some of {', '.join(TASKS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--repeats", type=int, default=3, help="measured calls of a process (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--size", type=int, help="another size than the task's own")
    parser.add_argument("--out", type=Path, help="JSON lines to write")
    parser.add_argument("--append", metavar="MACHINE", help="add the rows to results/, with the machine in words")
    parser.add_argument("--note", default="made data; ratios of alternating rounds", help="what to keep in mind")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    chosen = [name for name in TASKS if given.device == "cpu" or TASKS[name].cuda] if given.tasks == ["all"] else []
    chosen = chosen or given.tasks
    if unknown := sorted(set(chosen) - set(TASKS)):
        parser.error(f"{', '.join(unknown)} is unknown; choose from all, {', '.join(TASKS)}")
    if given.device == "cuda" and (late := [name for name in chosen if not TASKS[name].cuda]):
        parser.error(f"{', '.join(late)} is measured on the CPU alone")
    if given.worker:
        print(json.dumps(worked(chosen[0], given.worker, given.size, given.device, given.repeats)))
        return
    found = []
    for task in chosen:
        found.append(compared(task, given))
        print(json.dumps(found[-1]), flush=True)
    if given.out:
        given.out.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    if given.append:
        from benchmarks.results import append

        append(records(found, given.append, given.note))


if __name__ == "__main__":
    main()
