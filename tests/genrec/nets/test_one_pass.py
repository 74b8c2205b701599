"""Training at every item of a history at once: the same loss as one sample a prefix, and no look ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.models.tiger import TIGER
from recbase.data.sequences import Histories, SequenceBatches

ITEMS = 20
TINY = {"dim": 16, "heads": 2, "head_dim": 8, "ffn": 32, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}


@pytest.fixture
def histories() -> Histories:
    draws = np.random.default_rng(0)
    return Histories.from_lists([draws.integers(1, ITEMS + 1, size=length).tolist() for length in (2, 9, 5, 5, 3, 7)])


def tiger(**arguments: object) -> TIGER:
    torch.manual_seed(1)
    codes = np.stack([np.arange(ITEMS) // 5, np.arange(ITEMS) % 5], 1)
    model: TIGER = TIGER(ITEMS, [4, 5], **TINY | arguments).with_codes(codes)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("user_buckets", [0, 3])
def test_the_loss_is_that_of_all_prefixes(histories: Histories, user_buckets: int) -> None:
    model = tiger(causal_encoder=True, user_buckets=user_buckets)
    losses, gradients = [], []
    for form in ("all", "prefix"):
        model.zero_grad()
        (batch,) = next(iter(SequenceBatches(histories, form, batch_size=100, max_len=20)))
        assert batch.target_count == int((histories.lengths - 1).sum())
        output = model(batch)
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_encoded_tokens_do_not_change_with_what_follows() -> None:
    model = tiger(causal_encoder=True).eval()
    items, lengths = torch.tensor([[3, 7, 1, 4]]), torch.tensor([4])
    other = torch.tensor([[3, 7, 9, 12]])
    one = model.encode_histories(items, lengths).states
    two = model.encode_histories(other, lengths).states
    assert torch.equal(one[:4], two[:4])  # two items of two codes
    assert not torch.equal(one[4:], two[4:])
