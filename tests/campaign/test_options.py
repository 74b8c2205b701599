"""Every option of every command, run with values that its parser takes: no traceback, no value without a meaning.

`tests/test_every_option.py` is about what is refused when it is read; this sweep runs what is left on a small world.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cli import main
from recbase.cli.options import Option

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_every_option import COMMANDS, LOOKED_UP, VALUES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("default")]

# Settings with which every command ends in seconds; a command gets those it has, but for the one tried.
TINY = {
    "epochs": 1, "max_seconds": 4, "dim": 16, "ffn": 16, "heads": 2, "head_dim": 8, "encoder_layers": 1,
    "decoder_layers": 1, "pca": 8, "codebook_size": 8, "tokenizer_steps": 5, "steps": 5, "stage1_epochs": 1,
    "stage1_dim": 16, "pretrain_epochs": 1, "beams": 10, "valid_beams": 10, "queries": 20, "max_len": 10, "seeds": 4,
    "precision": "no", "adapter_dim": 4, "anchors": 1, "neighbours": 2, "sample": 20, "monitor": "ndcg@10",
}  # fmt: skip
# Words that mean something ("0" is the id of an item), or that nothing reads: no pictures there, tfidf has no device
MEANT = {
    "history",
    "name",
    "backbone",
    "image_encoder",
    "revision",
    "device",
    "device_map",
    "model",
}
WRITTEN = {"out", "figure", "cache"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Folders that commands take: a data set, codes, vectors and runs of it."""
    from recbase.data.builtin import synthetic

    root = tmp_path_factory.mktemp("world")
    data = str(synthetic(users=80, items=60, max_length=12).save(root / "data"))
    for words in (
        ["semtok", "embed", "--data", data, "--out", root / "vectors", "--pca", 8],
        ["semtok", "fit", "--data", data, "--out", root / "codes", "--codebook-size", 8, "--unique", "suffix"],
        ["seqrec", "train", "popularity", "--data", data, "--out", root / "popularity"],
        ["seqrec", "train", "sasrec", "--data", data, "--out", root / "sasrec", *tiny_for("sasrec", "dim", "epochs")],
        ["genrec", "train", "tiger", "--data", data, "--codes", root / "codes", "--out", root / "tiger",
         *tiny_for("tiger", "dim", "epochs", "beams", "valid_beams")],
    ):  # fmt: skip
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    here = Path.cwd()
    os.chdir(root)
    yield {name: str(root / name) for name in ("data", "vectors", "codes", "popularity", "sasrec", "tiger")}
    os.chdir(here)


def tiny_for(_: str, *names: str) -> list[str]:
    return [word for name in names for word in ("--" + name.replace("_", "-"), str(TINY[name]))]


def positional(names: tuple[str, ...], world: dict[str, str]) -> list[str]:
    """The arguments and required options of a command."""
    run = world["tiger" if names[0] == "genrec" else "sasrec"]
    return {
        ("semtok", "prepare"): [world["data"]],
        ("semtok", "encode"): [world["codes"], "--embeddings", world["vectors"]],
        ("semtok", "report"): [world["codes"]],
        ("semtok", "export"): [world["codes"]],
        ("semtok", "import"): [world["codes"]],
        ("seqrec", "compare"): [world["popularity"], world["sasrec"]],
        ("genrec", "compare"): [world["popularity"], world["sasrec"]],
        ("seqrec", "neighbours"): [run, "--reference", run, "--embeddings", world["vectors"]],
        ("seqrec", "streams"): [run],
        (names[0], "evaluate"): [run],
        (names[0], "recommend"): [run, "--history", "1"],
        (names[0], "export"): [run, "--out", "exported"],
    }.get(names[:2], [])


def line(names: tuple[str, ...], tried: Option, text: str, world: dict[str, str]) -> list[str]:
    words = [*names, *positional(names, world)]
    own = {part.name for part in COMMANDS[names].params}
    for part in COMMANDS[names].params:
        if part.name in TINY and part.name != tried.name:
            words += [part.opts[-1], str(TINY[part.name])]
    if "data" in own and names[-1] not in {"evaluate", "report", "import"} and tried.name != "data":
        words += ["--data", world["data"]]
    if "out" in own and "--out" not in words and tried.name != "out":
        words += ["--out", "written"]
    return [*words, tried.spelled, text]


def cases() -> list[Any]:
    """Each distinct option once, in the first command that has it."""
    seen: set[Option] = set()
    found = []
    for names, command in COMMANDS.items():
        for part in command.params:
            option = getattr(part.type, "option", None)
            if isinstance(part, click.Argument) or option is None or option in seen:
                continue
            seen.add(option)
            found.append(pytest.param(names, part, id=f"{'-'.join(names)}{option.spelled}"))
    return found


@pytest.mark.parametrize(("names", "part"), cases())
def test_values_that_are_read_end_in_a_result_or_a_sentence(
    names: tuple[str, ...], part: click.Option, world: dict[str, str]
) -> None:
    option: Option = part.type.option  # type: ignore[attr-defined]
    context = click.Context(COMMANDS[names], info_name="x")
    tried: set[str] = set()
    for text in VALUES:
        try:
            value = part.type.convert(text, part, context)
        except click.UsageError:
            continue
        if str(value) in tried:
            continue
        tried.add(str(value))
        result = CliRunner().invoke(main, line(names, option, text, world))
        assert result.exception is None or isinstance(result.exception, SystemExit), (text, result.exception)
        last = result.stderr.strip().rpartition("\n")[2]
        assert result.exit_code in {0, 1, 2}, last
        assert result.exit_code == 0 or last.startswith("Error: "), result.stderr
        assert len(last) < 700
        assert "fault of this program" not in last, last
        assert "could not go on" not in last, last
        if (isinstance(value, int | float | tuple) and option.name not in LOOKED_UP) or option.choices:
            continue  # inside its range: it means something, though not with everything else
        if (option.kind == "path" and option.name in WRITTEN) or option.name in MEANT:
            continue
        assert result.exit_code != 0, f"{option.spelled} {text!r} was accepted"
