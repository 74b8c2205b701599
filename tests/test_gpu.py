"""What has to hold on a CUDA device: a bf16 step, the same ranks as on the CPU, k-means on the device."""

import numpy as np
import pytest
import torch

from recbase.evaluation import rank_targets
from recbase.sequences import Histories, SequenceBatches
from recbase.splits import leave_last_out
from recbase.training import TrainConfig, fit
from seqrec.ccfrec import CCFRec
from seqrec.sasrec import SASRec

pytestmark = pytest.mark.gpu

ITEMS = 300


def histories():
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.integers(1, ITEMS + 1, rng.integers(4, 20)).tolist() for _ in range(400)])


def models():
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    codes, text = rng.integers(0, 16, (ITEMS, 8)), rng.standard_normal((ITEMS, 2, 32)).astype(np.float32)
    return [SASRec(ITEMS, max_len=20), CCFRec(ITEMS, [16] * 8, 2, 32, dim=64, heads=2).with_content(codes, text)]


@pytest.mark.parametrize("which", [0, 1])
def test_bfloat16_training_lowers_the_loss(which):
    model, split = models()[which], leave_last_out(histories())
    batches = SequenceBatches(split.train, "all", batch_size=64, max_len=20)
    config = TrainConfig(epochs=4, batch_size=64, precision="bf16", quiet=True, patience=0)
    result = fit(model, batches, lambda network: {"ndcg@10": 0.0}, config)
    assert next(model.parameters()).device.type == "cuda"
    losses = [entry["train"]["loss"] if "train" in entry else entry["loss"] for entry in result.history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("which", [0, 1])
def test_same_ranks_on_both_devices(which):
    model, split = models()[which].eval(), leave_last_out(histories())
    on_cpu = rank_targets(model.scorer(), split.test)
    on_gpu = rank_targets(model.cuda().scorer(), split.test)
    assert np.array_equal(on_cpu.rank, on_gpu.rank)
    assert np.array_equal(on_cpu.rank_masked, on_gpu.rank_masked)


def test_k_means_on_the_device_reaches_the_error_of_the_cpu():
    from semtok.product import ProductQuantizer

    vectors = torch.randn(4000, 32)
    errors = []
    for device in ("cpu", "cuda"):
        quantizer = ProductQuantizer(levels=4, codebook_size=64, seed=0).fit(vectors.to(device))
        decoded = quantizer.decode(quantizer.encode(vectors.to(device)))
        errors.append(float(((vectors.numpy() - decoded) ** 2).sum()))
    assert errors[1] < 1.02 * errors[0]
