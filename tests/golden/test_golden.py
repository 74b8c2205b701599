"""Folders of earlier versions are opened and say the same; the same commands give the same results again.

On the machine that wrote them the results are equal to the last bit (``GOLDEN=exact``). Elsewhere other kernels round
otherwise, so that losses agree to a thousandth and a few codes and ranks may differ. Where a singular value
decomposition or a share-out of codes turns a rounding into another choice (``DIVERGING``), only how good the outcome is
can be compared.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden

EXACT = os.environ.get("GOLDEN") == "exact"
NAMES = list(golden.commands())
DIVERGING = () if EXACT else ("tokenizer-opq", "run-vqrec", "run-ccfrec", "run-tiger", "run-letter", "run-marius")
RUNS = [name for name in NAMES if name.startswith("run-")]


def differences(found, expected):
    """What differs, a line each."""
    lines = [f"{key} is missing" for key in expected if key not in found]
    for key in expected.keys() & found.keys():
        was, now = expected[key], found[key]
        if key == "metrics":
            if EXACT and was != now:
                lines.append(f"metrics: {now} instead of {was}")
        elif was.shape != now.shape:
            lines.append(f"{key}: shape {now.shape} instead of {was.shape}")
        elif EXACT or was.dtype.kind in "bU":
            if not np.array_equal(was, now):
                lines.append(f"{key}: {(was != now).mean():.2%} differ")
        elif key == "codes":
            if (was != now).mean() > 0.05:
                lines.append(f"codes: {(was != now).mean():.1%} differ")
        elif key == "ranks":
            if np.median(np.abs(was - now)) > 1 or (np.abs(was - now) > 3).mean() > 0.1:
                lines.append(f"ranks: {(was != now).mean():.1%} differ, by {np.abs(was - now).max()} at most")
        elif not np.allclose(was, now, rtol=2e-3, atol=2e-3):
            lines.append(f"{key}: {np.abs(was - now).max()} apart")
    return lines


def turned(found, expected):
    """Vectors with each column turned around where that is nearer to what is expected: the sign of an axis is free."""
    if found.dtype.kind != "f" or found.shape != expected.shape:
        return found
    nearer = np.abs(found + expected).sum(0) < np.abs(found - expected).sum(0)
    return np.where(nearer, -found, found)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_command_gives_the_same_again(name, tmp_path):
    golden.run(name, tmp_path / name)
    found, expected = golden.values(tmp_path / name), golden.values(golden.FOLDERS / name)
    assert expected
    if name == "embeddings":
        found = {key: turned(value, expected[key]) for key, value in found.items()}
    if name not in DIVERGING:
        assert differences(found, expected) == []
        return
    assert {key: np.shape(value) for key, value in found.items()} == {key: np.shape(v) for key, v in expected.items()}
    now, before = golden.quality(tmp_path / name), golden.quality(golden.FOLDERS / name)
    assert now == pytest.approx(before, rel=0.1), (now, before)


def test_every_method_and_model_is_here():
    import genrec
    import semtok
    import seqrec

    trained = [name for name, entry in seqrec.REGISTRY.items() if entry.kind != "deployed"]
    wanted = {f"tokenizer-{name}" for name in semtok.TOKENIZERS} | {
        f"run-{name}" for name in [*trained, *genrec.MODELS]
    }
    assert wanted <= set(NAMES)
    assert {path.name for path in golden.FOLDERS.iterdir()} == {*NAMES, "dataset"}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_earlier_version_ranks_as_it_did(name):
    from recbase.data.catalog import load_dataset
    from recbase.evaluate.ranking import rank_targets
    from recbase.store.runs import load_run

    package = golden.commands()[name][0]
    run = load_run(golden.FOLDERS / name, __import__(package).MODELS)
    targets = load_dataset(str(golden.DATA)).split().test
    if package == "genrec":
        from genrec.search.generation import rank_generated

        ranks = rank_generated(run.model.eval(), targets, beams=10)[0]
    else:
        ranks = rank_targets(run.model.scorer(), targets)
    assert (
        differences({"ranks": golden.filled(ranks.rank)}, {"ranks": golden.values(golden.FOLDERS / name)["ranks"]})
        == []
    )


@pytest.mark.parametrize("name", golden.ENCODERS)
@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_tokenizer_of_an_earlier_version_encodes_as_it_did(name, backend):
    expected = np.load(golden.HERE / "encoded" / f"{name}.npy")
    assert differences({"codes": golden.encoded(name, backend)}, {"codes": expected}) == []


@pytest.mark.parametrize("name", golden.KEPT_CHECKPOINTS)
def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(name, tmp_path, capsys):
    """The run is complete: going on with more epochs starts from what its checkpoint holds."""
    shutil.copytree(golden.FOLDERS / name, tmp_path / name)
    try:
        golden.run(name, tmp_path / name, more=["--resume", "--epochs", "5"])
    except RuntimeError:
        said = capsys.readouterr().err
        if name != "run-tiger" or "it was made with the codes 2ec49ad57bdf" not in said:
            raise
        pytest.skip("this processor trains other RQ-VAE codes than those that the checkpoint names, and says so")
    losses = golden.values(tmp_path / name)["losses"]
    before = golden.values(golden.FOLDERS / name)["losses"]
    np.testing.assert_array_equal(losses[: len(before)], before)
    assert len(losses) == 5
