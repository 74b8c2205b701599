"""The tests marked gpu, on a device that is pretended: a tensor left on the other device fails here, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TESTS = Path(__file__).parents[1]
GPU_FILES = [file for file in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]
PARTS = {"seqrec": ("seqrec",), "genrec": ("genrec",), "the rest": ("recbase", "semtok", "devices", "tests")}


def part_of(file: Path) -> str:
    """The folder of tests/ that a file lies in, at any depth."""
    return file.relative_to(TESTS.parent).parts[1] if file.parent != TESTS else "tests"


def test_every_test_of_a_gpu_is_in_some_part() -> None:
    parts = [folder for folders in PARTS.values() for folder in folders]
    assert sorted({part_of(file) for file in GPU_FILES}) == sorted(parts)


@pytest.mark.parametrize("part", list(PARTS))
def test_what_has_to_hold_on_a_gpu_holds_on_the_pretended_device(part: str) -> None:
    files = [str(file) for file in GPU_FILES if part_of(file) in PARTS[part]]
    words = ["-m", "pytest", *files, "-m", "gpu", "--pretend-device", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, *words, "-W", "ignore"], cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.fixture
def other(device: torch.device) -> torch.device:
    if device.type == "cuda":
        pytest.skip("of the pretended device")
    return device


def mixes(device: torch.device) -> dict[str, object]:
    """What CUDA refuses, by name."""
    here, there = torch.ones(3, 3), torch.ones(3, 3, device=device)
    places = torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(0)
    return {
        "a sum": lambda: here + there,
        "a product": lambda: F.linear(there, here),
        "a table": lambda: F.embedding(places, there),
        "a concatenation": lambda: torch.cat([there, here]),
        "places of a gather": lambda: there.gather(0, places[:, None]),
        "rows of a tensor here": lambda: here[places.to(device)],
        "assigned values": lambda: there.index_put_((places,), torch.ones(2, 3)),
        "a layer that was not moved": lambda: nn.Linear(3, 3)(there),
        "a generator": lambda: torch.rand(3, device=device, generator=generator),
        "numpy": lambda: there.numpy(),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("what", list(mixes(torch.device("cpu"))))
def test_mixed_devices_are_refused(what: str, other: torch.device) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"expected all tensors|generator|numpy"):
        mixes(other)[what]()  # type: ignore[operator]


@pytest.mark.gpu
def test_what_waits_for_the_device_is_noted(other: torch.device, waits: list[str]) -> None:
    there = torch.arange(6.0, device=other)
    waits.clear()
    _ = (there * 2).sum(), there[torch.tensor([1, 2])], there.repeat_interleave(2), there.to(torch.float64)
    assert waits == []
    _ = float(there.sum()), there[there > 2], there.nonzero(), there.cpu(), there.tolist(), bool((there > 7).any())
    assert len(waits) == 6
    assert all("test_devices.py" in line for line in waits)


@pytest.mark.gpu
def test_what_cuda_allows_is_allowed_and_as_on_the_cpu(other: torch.device) -> None:
    table = torch.arange(12.0).reshape(4, 3)
    there = table.to(other)
    places = torch.tensor([0, 2])
    pairs: list[tuple[Tensor, Tensor]] = [
        (there[places], table[places]),  # an index may stay on the CPU
        (there[:, [0, 2]], table[:, [0, 2]]),
        (there * torch.tensor(2.0), table * 2),  # a number may come from anywhere
        (torch.tensor([1.0, 2.0, 3.0], device=other) + there, table + torch.tensor([1.0, 2.0, 3.0])),
    ]
    view = there[1:]
    view[0, 0] = -1
    table[1, 0] = -1
    pairs.append((there, table))
    for found, expected in pairs:
        assert (found.device, expected.device) == (other, torch.device("cpu"))
        assert torch.equal(found.cpu(), expected)
    weight = torch.ones(3, device=other, requires_grad=True)
    ((there * weight) ** 2).sum().backward()
    assert weight.grad is not None
    assert weight.grad.device == other
    assert torch.equal(weight.grad.cpu(), 2 * (table**2).sum(0))
    assert float(there.sum()) == float(table.sum())
    assert there.tolist() == table.tolist()
