"""What has to hold on a CUDA device: bf16 steps, the same ranks and lists as on the CPU, k-means and the trie there."""

import numpy as np
import pytest
import torch

from recbase.data.sequences import Histories, SequenceBatches
from recbase.data.splits import leave_last_out
from recbase.evaluate.ranking import rank_targets
from recbase.train.loop import TrainConfig, fit
from seqrec.models.ccfrec import CCFRec
from seqrec.models.sasrec import SASRec

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
def test_bfloat16_training_lowers_the_loss(which, cuda):
    model, split = models()[which], leave_last_out(histories())
    batches = SequenceBatches(split.train, "all", batch_size=64, max_len=20)
    config = TrainConfig(epochs=4, batch_size=64, precision="bf16", quiet=True, patience=0)
    result = fit(model, batches, lambda network: {"ndcg@10": 0.0}, config)
    assert next(model.parameters()).device == cuda
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("which", [0, 1])
def test_same_ranks_on_both_devices(which, device):
    model, split = models()[which].eval(), leave_last_out(histories())
    on_cpu = rank_targets(model.scorer(), split.test)
    on_gpu = rank_targets(model.to(device).scorer(), split.test)
    assert np.array_equal(on_cpu.rank, on_gpu.rank)
    assert np.array_equal(on_cpu.rank_masked, on_gpu.rank_masked)


def test_k_means_on_the_device_reaches_the_error_of_the_cpu(device):
    from semtok.methods.product import ProductQuantizer

    vectors = torch.randn(4000 if device.type == "cuda" else 1000, 32)
    errors = []
    for place in ("cpu", device):
        quantizer = ProductQuantizer(levels=4, codebook_size=64, seed=0).fit(vectors.to(place))
        decoded = quantizer.decode(quantizer.encode(vectors.to(place)))
        errors.append(float(((vectors.numpy() - decoded) ** 2).sum()))
    assert errors[1] < 1.02 * errors[0]


def generators():
    from genrec.models.prorec import PRORec
    from genrec.models.tiger import TIGER

    torch.manual_seed(0)
    codes = np.stack([np.arange(ITEMS) // 20, np.arange(ITEMS) % 20], 1)
    vectors = np.random.default_rng(2).normal(size=(ITEMS, 8)).astype(np.float32)
    tiger = TIGER(ITEMS, [15, 20], dim=32, heads=2, head_dim=16, ffn=64, encoder_layers=1, decoder_layers=1)
    prorec = PRORec(ITEMS, [15, 20], 8, dim=32, heads=2, ffn=64, decoder_layers=1, distill_negatives=64)
    return [tiger.with_codes(codes), prorec.with_codes(codes).with_arrays(vectors)]


@pytest.mark.parametrize("which", [0, 1])
def test_bfloat16_training_of_generators_lowers_the_loss(which, cuda):
    model, split = generators()[which], leave_last_out(histories())
    batches = SequenceBatches(split.train, "prefix", batch_size=256, max_len=20)
    config = TrainConfig(epochs=4, batch_size=256, lr=3e-3, precision="bf16", quiet=True, patience=0)
    result = fit(model, batches, lambda network: {"ndcg@10": 0.0}, config)
    assert next(model.parameters()).device == cuda
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("which", [0, 1])
def test_same_lists_on_both_devices(which, device):
    from genrec.search.generation import generate

    model, asked = generators()[which].eval(), leave_last_out(histories()).test.histories
    on_cpu = generate(model, asked, beams=20)
    on_gpu = generate(model.to(device), asked, beams=20)
    assert model.trie.device == device
    assert np.mean(on_cpu.items == on_gpu.items) > 0.999  # near ties may change places
    np.testing.assert_allclose(on_cpu.scores, on_gpu.scores, rtol=0, atol=1e-3)
    exact = generate(model, asked, beams=ITEMS, exact=True)
    np.testing.assert_allclose(exact.scores[:, 0], generate(model, asked, beams=ITEMS).scores[:, 0], rtol=0, atol=1e-3)


def test_a_trie_built_on_the_device_is_that_of_the_cpu(device):
    from genrec.search.trie import CodeTrie

    codes = np.random.default_rng(0).integers(0, 9, (5000, 4))
    here, there = CodeTrie.from_codes(codes), CodeTrie.from_codes(codes, device=device)
    for name in ("children", "tokens", "ranges"):
        for one, other in zip(getattr(here, name), getattr(there, name), strict=True):
            assert torch.equal(one, other.cpu())
    wanted = torch.from_numpy(codes[:100])
    assert torch.equal(here.find(wanted), there.find(wanted.to(device)).cpu())
