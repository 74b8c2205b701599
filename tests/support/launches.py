"""Commands on two CPU processes, launched as the README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WHERE = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def launched(command: str, *words: Any, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """``accelerate launch --multi_gpu --num_processes 2 $(which COMMAND) WORDS``, on a free port."""
    program = Path(sys.executable).with_name(command)
    launch = ["launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    return subprocess.run(
        [str(Path(sys.executable).with_name("accelerate")), *launch, str(program), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | WHERE,
    )


def trained_by_two(command: str, out: Path, *words: Any) -> dict[str, Any]:
    """The metrics of a training on two processes into ``out``, which has to succeed and to be one training."""
    done = launched(command, *words, "--out", out, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    metrics: dict[str, Any] = json.loads(done.stdout)  # one process prints
    checkpoint = json.loads((out / "checkpoint" / "checkpoint.json").read_text())
    assert checkpoint["run"]["processes"] == 2
    assert {"rank-0.safetensors", "rank-1.safetensors"} <= set(checkpoint["files"])
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert not (out / "training").exists()
    return metrics
