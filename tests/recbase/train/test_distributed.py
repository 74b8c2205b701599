"""Two CPU processes against one at equal effective batch: same losses, same ranks, same stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_worker import CASES, EPOCHS, losses_of

WORKER = Path(__file__).parents[2] / "support" / "distributed_worker.py"


def launched(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on two CPU processes that find each other on a free port."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *command], capture_output=True, text=True, timeout=150, check=False, env=environment
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    done = launched(str(WORKER), str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    facts: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return facts


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Any]]:
    """What one process finds."""
    return {name: losses_of(name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_first_losses_agree(name: str, one: dict[str, dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert len(one[name]["losses"]) == EPOCHS
    assert one[name]["losses"][-1] < one[name]["losses"][0]
    for process in two:
        np.testing.assert_allclose(process[name]["losses"], one[name]["losses"], rtol=0, atol=1e-5)
        for ours, theirs in zip(process[name]["parts"], one[name]["parts"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_given_model_evaluates_to_identical_ranks(
    name: str, one: dict[str, dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    assert len(set(one[name]["ranks"])) > 5
    for process in two:
        assert process[name]["ranks"] == one[name]["ranks"]
        assert process[name]["masked"] == one[name]["masked"]


def test_a_signal_to_one_process_stops_all_and_resuming_is_exact(two: list[dict[str, Any]]) -> None:
    first, second = (process["interruptions"] for process in two)
    assert first["stopped"] == second["stopped"] == "signal"
    assert 7 <= first["stopped_at"] == second["stopped_at"] < 20
    assert first["steps"] == second["steps"] == 20
    assert first["equal"]
    assert second["equal"]
    assert first["weights"] == second["weights"]


def test_a_loss_that_is_not_finite_on_one_process_stops_all(two: list[dict[str, Any]]) -> None:
    for process in two:
        assert "the loss part 'penalty' is not finite at step 9" in process["interruptions"]["complaint"]
