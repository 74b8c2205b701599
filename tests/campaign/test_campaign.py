"""The reliability campaign as tests: the three scripts of this folder, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def campaign(script, work, *options):
    """What a script of this folder printed."""
    command = [sys.executable, str(HERE / script), "--work", str(work), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent.parent)
    assert done.stdout.strip(), done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills(tmp_path):
    found = campaign("kills.py", tmp_path, "--rounds", "200")
    assert found["kills"] == 200
    assert found["faults"] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_hundred_races(tmp_path):
    found = campaign("races.py", tmp_path, "--rounds", "500")
    assert found["rounds"] == 500
    assert found["faults"] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_disk_that_is_full_at_every_write(tmp_path):
    found = campaign("full_disk.py", tmp_path)
    assert found["commands"] > 60
    assert found["faults"] == []


def test_a_few_rounds(tmp_path):
    """What the default suite has time for: quick commands, killed, raced and starved."""
    quick = "prepare,embed,encode table,transitions"
    assert campaign("kills.py", tmp_path / "kills", "--rounds", "8", "--jobs", quick)["faults"] == []
    assert campaign("full_disk.py", tmp_path / "disk", "--most", "3", "--jobs", quick)["faults"] == []
