"""Every trained model on two CPU processes against one at equal effective batch: same losses, same ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_worker import CASES, EPOCHS, losses_of

pytestmark = pytest.mark.slow  # half a minute of both cores; tests/recbase runs SASRec and CCFRec this way

WORKER = Path(__file__).parents[2] / "support" / "model_worker.py"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, which meet on a free port."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(WORKER), str(folder)], capture_output=True, text=True, timeout=250, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_losses_and_ranks_agree(case: str, two: list[dict[str, Any]]) -> None:
    one = losses_of(case)
    assert len(one["losses"]) == EPOCHS
    assert len(set(one["ranks"])) > 5
    for process in two:
        np.testing.assert_allclose(process[case]["losses"], one["losses"], rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(process[case]["parts"], one["parts"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        assert process[case]["ranks"] == one["ranks"]
