"""A training step of RQ-VAE beside the same step with vector-quantize-pytorch's ResidualVQ, in alternation.

    python benchmarks/rqvae.py --rounds 5 --out rqvae.json

Every round starts a fresh process for each library and each way of moving the codebooks, one after the other:
`gradient` (a codebook loss; the peer's learnable_codebook), `ema` (moving averages) and `rotation` (moving averages,
and the rotation trick instead of straight-through). Encoder, decoder, optimizer (fused Adam) and batch are the same, in
float32. Measured are the whole step, forward and backward of the quantizer alone, and encoding. The number of a round
is the median over its steps; the ratio is that of the medians over the rounds.

The first run installs the peer in a virtual environment of its own under --venvs. The machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

TASKS = ("gradient", "ema", "rotation")
MEASURES = {"step": "whole step, ms", "quantizer": "quantizer alone, ms", "encode": "encode 1,024 rows, ms"}
PACKAGES = [["torch==2.13.0"], ["torch==2.13.0", "vector-quantize-pytorch==1.32.0"]]
PROBE = "import torch, vector_quantize_pytorch; assert torch.__version__.startswith('2.13.0')"


def environment(folder: Path, python: str) -> Path:
    """Return the Python of the peer's virtual environment, made if it is not there or not whole."""
    interpreter = folder.absolute() / "bin" / "python"
    if interpreter.exists() and subprocess.run([interpreter, "-c", PROBE], capture_output=True).returncode == 0:
        return interpreter
    print(f"installing vector-quantize-pytorch into {folder} ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    for packages in PACKAGES:
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
    subprocess.run([interpreter, "-c", PROBE], check=True)
    return interpreter


# ----------------------------------------------------------------------------------------- what a worker measures


def timed(action: Callable[[], Any], steps: int, warmup: int) -> float:
    """Median milliseconds of an action."""
    taken = []
    for number in range(warmup + steps):
        started = time.perf_counter()
        action()
        if number >= warmup:
            taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def ours(args: argparse.Namespace) -> tuple[Any, Callable[[Any], Any], Any, Callable[[Any], Any]]:
    """Our network, its loss of a batch, its quantizer, and what encodes."""
    import torch

    from semtok.kernels.residual_vq import ResidualCodebooks
    from semtok.methods.autoencoder import Autoencoder, RowBatch

    quantizer = ResidualCodebooks(
        args.levels,
        args.codebook_size,
        args.latent,
        gradient="rotation" if args.task == "rotation" else "straight-through",
        update="gradient" if args.task == "gradient" else "ema",
    )
    still = torch.zeros(args.width), torch.ones(args.width)
    network = Autoencoder(args.width, tuple(args.hidden), args.latent, quantizer, *still)
    numbers = torch.arange(args.batch)

    def loss(rows: Any) -> Any:
        return network(RowBatch(rows, numbers, numbers, numbers, 0)).loss

    return network, loss, quantizer, lambda rows: quantizer.codes(network.latents(rows))


def peer(args: argparse.Namespace) -> tuple[Any, Callable[[Any], Any], Any, Callable[[Any], Any]]:
    """The same network around the peer's quantizer."""
    import torch
    from torch import nn
    from vector_quantize_pytorch import ResidualVQ

    learned = {"learnable_codebook": True, "ema_update": False} if args.task == "gradient" else {}
    quantizer = ResidualVQ(
        dim=args.latent,
        num_quantizers=args.levels,
        codebook_size=args.codebook_size,
        commitment_weight=0.25,
        decay=0.99,
        rotation_trick=args.task == "rotation",
        **learned,
    )
    widths = [args.width, *args.hidden, args.latent]

    def layers(sizes: list[int]) -> nn.Sequential:
        parts: list[nn.Module] = []
        for before, after in pairwise(sizes):
            parts += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    network = nn.ModuleDict({"encoder": layers(widths), "quantizer": quantizer, "decoder": layers(widths[::-1])})

    def loss(rows: Any) -> Any:
        quantized, _, commitment = quantizer(network["encoder"](rows))
        return (network["decoder"](quantized) - rows).square().mean() + commitment.sum()

    def encode(rows: Any) -> Any:
        with torch.no_grad():
            return quantizer(network["encoder"](rows))[1]

    return network, loss, quantizer, encode


def work(args: argparse.Namespace) -> dict[str, float]:
    """Run one task of one library in this process."""
    import torch

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    network, loss, quantizer, encode = {"ours": ours, "peer": peer}[args.worker](args)
    rows = torch.randn(args.batch, args.width)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()

    latents = torch.randn(args.batch, args.latent, requires_grad=True)

    def quantize() -> None:
        quantized, _, commitment = quantizer(latents)
        (quantized.sum() + commitment.sum()).backward()

    found = {"step": timed(step, args.steps, args.warmup), "quantizer": timed(quantize, args.steps, args.warmup)}
    network.eval()
    return found | {"encode": timed(lambda: encode(rows), args.steps, args.warmup)}


# ----------------------------------------------------------------------------------------- rounds


def measured(interpreter: Path, worker: str, task: str, args: argparse.Namespace) -> dict[str, float]:
    """Run a worker in a process of its own and read what it prints."""
    names = ("levels", "codebook_size", "latent", "width", "batch", "steps", "warmup", "threads", "seed")
    command = [str(interpreter), __file__, "--worker", worker, "--task", task]
    for name in names:
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--hidden", *map(str, args.hidden)]
    root = str(Path(__file__).resolve().parent.parent)
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    own = {"PYTHONPATH": root} if worker == "ours" else {}
    done = subprocess.run(command, env=os.environ | threads | own, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{worker} {task} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)} (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--steps", type=int, default=40, help="steps timed a round (default 40)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock runs (default 5)")
    parser.add_argument("--batch", type=int, default=1024, help="rows of a step (default 1,024)")
    parser.add_argument("--width", type=int, default=768, help="columns of the vectors (default 768)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 256, 128], help="hidden layers (512 256 128)")
    parser.add_argument("--latent", type=int, default=32, help="width of the latent (default 32)")
    parser.add_argument("--levels", type=int, default=3, help="levels (default 3)")
    parser.add_argument("--codebook-size", type=int, default=256, help="codes of a level (default 256)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both (default: cores)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and rows")
    parser.add_argument("--venvs", type=Path, default=Path("runs/peers"), help="where the peer lives (runs/peers)")
    parser.add_argument("--python", default=sys.executable, help="Python that makes its environment")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    parser.add_argument("--worker", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    pythons = {"ours": Path(sys.executable), "peer": environment(args.venvs / "vector-quantize-pytorch", args.python)}
    print(f"{args.batch:,} x {args.width} rows, {args.levels} x {args.codebook_size} codes of {args.latent}, ", end="")
    print(f"{args.threads} threads, {args.rounds} rounds; medians (min-max) and peer / ours")
    runs: dict[str, dict[str, list[dict[str, float]]]] = {task: {} for task in args.tasks.split(",")}
    for _ in range(args.rounds):
        for task, found in runs.items():
            for worker, interpreter in pythons.items():
                found.setdefault(worker, []).append(measured(interpreter, worker, task, args))
    ratios: dict[str, dict[str, float]] = {}
    for task, found in runs.items():
        for name, title in MEASURES.items():
            values = {worker: [run[name] for run in rounds] for worker, rounds in found.items()}
            middle = {worker: statistics.median(numbers) for worker, numbers in values.items()}
            ratios.setdefault(task, {})[name] = middle["peer"] / middle["ours"]
            shown = [
                f"{worker} {middle[worker]:7.2f} ({min(numbers):.2f}-{max(numbers):.2f})"
                for worker, numbers in values.items()
            ]
            print(f"{task:10}{title:24}{'   '.join(shown)}   {ratios[task][name]:.2f}")
    if args.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        args.out.write_text(json.dumps({"settings": settings, "ratios": ratios, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
