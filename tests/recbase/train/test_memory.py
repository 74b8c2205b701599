"""Models that cannot fit are refused before they are allocated."""

from __future__ import annotations

import pytest

from genrec.models.tiger import TIGER
from recbase.train.memory import check_weights, least_weights
from seqrec.models.sasrec import SASRec


def test_the_bound_is_below_what_models_have() -> None:
    model = SASRec(items=50, dim=16, layers=3, heads=2, ffn=32, max_len=10)
    count = sum(part.numel() for part in model.parameters())
    assert 0.8 * count < least_weights(model.config()) <= count
    config = {"items": 50, "dim": 16, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "head_dim": 8, "ffn": 32}
    generator = TIGER(sizes=(4, 4), **config)
    assert least_weights(config | {"items": 0}) <= sum(part.numel() for part in generator.parameters())


def test_models_beyond_the_memory_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 2**24, "SC_PAGE_SIZE": 4096}[name])
    sized = {"dim": 8192, "ffn": 8192, "heads": 2, "layers": 256}
    said = r"--dim 8192, --ffn 8192, --heads 2, --layers 256 has weights of 412 GB and this machine 69 GB of memory"
    with pytest.raises(ValueError, match=said):
        check_weights(sized)
    with pytest.raises(ValueError, match=r"has weights of 412 GB"):
        SASRec(items=50, **sized)
    check_weights({"items": 10, "dim": 8192, "layers": 1, "heads": 2, "ffn": 8})
