"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _own_generator():
    """No test depends on the random numbers that another one drew."""
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--pretend-device", action="store_true", help="run tests marked gpu on a device that is pretended")


def pytest_configure(config):
    if config.getoption("--pretend-device"):
        sys.path.insert(0, str(Path(__file__).parent / "devices"))
        import pretended_device  # noqa: F401  (before the first backward pass, which counts the devices)


@pytest.fixture
def device(request, monkeypatch):
    """The device of tests marked gpu, which accelerate trains on too."""
    if not request.config.getoption("--pretend-device"):
        yield torch.device("cuda", 0)
        return
    from accelerate.state import AcceleratorState
    from pretended_device import pretended

    AcceleratorState._reset_state(reset_partial_state=True)
    with pretended() as found:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(found))
        yield found
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def waits(device):
    """What the program has waited for the device for, a line each; only the pretended device notes it."""
    if device.type == "cuda":
        pytest.skip("of the pretended device")
    from pretended_device import WAITS

    WAITS.clear()
    return WAITS


@pytest.fixture
def cuda(device):
    """A device with kernels of its own: what is asked of precision or speed says nothing on one that is pretended."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture(autouse=True)
def _skip_gpu(request):
    if not request.node.get_closest_marker("gpu") or request.config.getoption("--pretend-device"):
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
