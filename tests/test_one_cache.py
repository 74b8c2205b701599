"""Vectors and codes made by one command are found by the others, whichever family they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from genrec.cli import main as genrec
from recbase.data.builtin import synthetic
from semtok.cli import main as semtok
from seqrec.cli import main as seqrec

RANKER = ["--dim", 16, "--ffn", 16, "--max-len", 8, "--epochs", 1, "--code-levels", 2, "--codebook-size", 8]
GENERATOR = ["--dim", 16, "--heads", 2, "--head-dim", 8, "--ffn", 16, "--encoder-layers", 1, "--decoder-layers", 1]


def run(command, *words):
    done = CliRunner().invoke(command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    synthetic(users=60, items=40, image_dim=0).save(tmp_path / "data")
    return tmp_path / "data"


def steps(cache: Path, kind: str) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name.startswith(kind))


def test_texts_are_encoded_once_and_equal_codes_fitted_once(data: Path, tmp_path: Path) -> None:
    runs, cache = tmp_path / "runs", tmp_path / "runs" / "cache"
    fit = ["fit", "--method", "pq", "--data", data, "--levels", 2, "--codebook-size", 8, "--unique", "none", "--quiet"]
    run(semtok, *fit, "--out", runs / "semtok" / "pq")
    vectors, codes = steps(cache, "vectors-"), steps(cache, "codes-")
    assert (len(vectors), len(codes)) == (1, 1)
    made = (cache / codes[0] / "semtok.json").stat().st_mtime_ns
    run(seqrec, "train", "ccfrec", "--data", data, *RANKER, "--out", runs / "seqrec" / "ccfrec", "--quiet")
    run(seqrec, "train", "vqrec", "--data", data, *RANKER, "--code-method", "pq", "--out", runs / "vqrec", "--quiet")
    assert (steps(cache, "vectors-"), steps(cache, "codes-")) == (vectors, codes)
    assert (cache / codes[0] / "semtok.json").stat().st_mtime_ns == made
    small = [*GENERATOR, "--epochs", 1, "--codebook-size", 8, "--tokenizer-steps", 2, "--beams", 10]
    run(genrec, "train", "tiger", "--data", data, *small, "--out", runs / "genrec" / "tiger", "--quiet")
    assert steps(cache, "vectors-") == vectors
    assert len(steps(cache, "codes-")) == 2


def test_other_codes_are_other_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMTOK_CACHE", str(tmp_path / "kept"))
    fit = ["fit", "--method", "rq", "--data", data, "--levels", 2, "--unique", "none", "--quiet", "--codebook-size"]
    run(semtok, *fit, 4, "--out", tmp_path / "small")
    run(semtok, *fit, 8, "--out", tmp_path / "large")
    assert len(steps(tmp_path / "kept", "codes-rq-")) == 2
    monkeypatch.setattr("semtok.methods.residual.ResidualQuantizer.version", 2)
    run(semtok, *fit, 8, "--out", tmp_path / "mended")
    assert len(steps(tmp_path / "kept", "codes-rq-")) == 3
