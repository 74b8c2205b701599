"""Settings of the whole suite."""

import os

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


@pytest.fixture(autouse=True)
def _skip_gpu(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
