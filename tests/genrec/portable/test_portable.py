"""A generator without torch finds the lists of the model it was exported from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from generators import FAST, TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec
from genrec import MODELS, OnnxGenerator
from genrec.cli import main
from genrec.models.letter import LETTER
from genrec.models.tiger import TIGER
from genrec.portable.networks import EncoderNetwork, StepNetwork
from genrec.portable.search import Excluded, PortableTrie, search
from genrec.search.decoding import search_beams
from genrec.search.trie import CodeTrie
from recbase.store.runs import load_run, save_run

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

ITEMS, SIZES = 40, [6, 5, 7]
SMALL: dict[str, Any] = {"dim": 16, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "head_dim": 8, "ffn": 32}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "tiger": (TIGER, {}),
    "tiger-users": (TIGER, {"user_buckets": 9, "activation": "gated-gelu"}),
    "tiger-untied": (TIGER, {"tied": False}),
    "tiger-small": (TIGER, {"causal_encoder": True, "normalize": "children", "recency_bias": True}),
    "letter": (LETTER, {}),
    "letter-cool": (LETTER, {"search_temperature": 0.6}),
}


def codes(repeated: bool = False) -> np.ndarray:
    """Codes of 40 items; ``repeated``: some items share one."""
    rng = np.random.default_rng(4)
    table = np.stack([rng.integers(0, size, 4 * ITEMS) for size in SIZES], 1)
    table = table[:ITEMS] if repeated else np.unique(table, axis=0)[rng.permutation(ITEMS)]
    if repeated:
        table[5:12] = table[4]
    return table


def made(variant: str, repeated: bool = False) -> Any:
    torch.manual_seed(3)
    kind, options = VARIANTS[variant]
    model = kind(items=ITEMS, sizes=SIZES, max_len=6, **SMALL, **options)
    if model.t5.decoder.recency is not None:
        torch.nn.init.normal_(model.t5.decoder.recency)
    return model.with_codes(codes(repeated), np.arange(ITEMS)).eval()


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of exports, each made when a test first asks for it."""
    root, known = tmp_path_factory.mktemp("exports"), {}

    def export(variant: str, repeated: bool = False) -> tuple[Any, Path]:
        key = f"{variant}{repeated}"
        if key not in known:
            model = made(variant, repeated)
            name = variant.partition("-")[0]
            items = pl.DataFrame({"item_id": [f"i{number}" for number in range(1, ITEMS + 1)]})
            save_run(root / key, name, model, items, {"data": {"name": "toy", "hash": "0"}})
            result = CliRunner().invoke(
                main, ["export", str(root / key), "--to", "onnx", "--out", str(root / f"{key}-onnx")]
            )
            assert result.exit_code == 0, result.output
            known[key] = (model, root / f"{key}-onnx")
        return known[key]

    return export


HISTORIES = [[3], [9, 4, 17], [1, 2, 3, 4, 5, 6, 7, 8, 9], [40, 40, 1], [12, 30]]


def same_lists(found: Any, items: np.ndarray, scores: np.ndarray) -> None:
    """Equal scores to rounding, and equal items but where two scores are as good as equal."""
    np.testing.assert_allclose(found.scores, scores, atol=2e-4)
    other = found.items != items
    close = np.abs(np.diff(scores, axis=1)) < 1e-4
    near = np.pad(close, ((0, 0), (0, 1))) | np.pad(close, ((0, 0), (1, 0)))
    assert not (other & ~near).any()


@pytest.mark.parametrize("keep_seen", [False, True])
@pytest.mark.parametrize(
    ("variant", "repeated"),
    [
        ("tiger", False),
        ("tiger-users", True),
        ("tiger-small", False),
        pytest.param("letter", True, marks=pytest.mark.slow),
    ],
)
def test_the_exported_generator_finds_the_lists_of_the_model(
    variant: str, repeated: bool, keep_seen: bool, exports: Any
) -> None:
    folder = exports(variant, repeated)[1]
    fitted = genrec.load(folder)
    asked = [[f"i{number}" for number in one] for one in HISTORIES]
    for filters in ({}, {"only": [f"i{number}" for number in range(1, 30)]}):
        mine = fitted.recommend(histories=asked, k=8, beams=12, keep_seen=keep_seen, engine="onnx", **filters)
        theirs = fitted.recommend(histories=asked, k=8, beams=12, keep_seen=keep_seen, **filters)
        assert mine.height == theirs.height
        np.testing.assert_allclose(mine["score"], theirs["score"], atol=2e-4)
        assert (mine["item"] == theirs["item"]).mean() > 0.95
    alone = OnnxGenerator(folder).recommend(asked, k=8, beams=12, keep_seen=keep_seen)
    whole = fitted.recommend(histories=asked, k=8, beams=12, keep_seen=keep_seen, engine="onnx")
    assert [item for one in alone for item, _ in one] == whole["item"].to_list()


def test_users_of_the_data_set_keep_their_tokens(exports: Any) -> None:
    model, folder = exports("tiger-users", True)
    users = np.array([0, 5, -1, 7, 2])
    lengths = torch.tensor([len(one[-6:]) for one in HISTORIES])
    items = torch.zeros(5, 6, dtype=torch.int64)
    for row, one in enumerate(HISTORIES):
        items[row, : lengths[row]] = torch.tensor(one[-6:])
    found = model.search(items, lengths, beams=10, n_best=10, users=torch.from_numpy(users))
    tokens = model.vocabulary.user_tokens(torch.from_numpy(users)).numpy()
    mine = OnnxGenerator(folder).lists(HISTORIES, 10, 10, keep_seen=True, users=tokens)
    same_lists(mine, found.items.numpy(), found.scores.numpy())
    strangers = OnnxGenerator(folder).lists(HISTORIES, 10, 10, keep_seen=True)
    assert not np.allclose(strangers.scores, mine.scores, atol=1e-4)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_padded_networks_are_the_model(variant: str) -> None:
    model = made(variant)
    t5, levels = model.t5, len(SIZES)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.vocabulary.size, (4, 9), generator=generator)
    lengths = torch.tensor([9, 3, 1, 7])
    state = t5.start(t5.encode(tokens, lengths))
    keys, values = EncoderNetwork(t5, 12)(tokens, lengths)
    step = StepNetwork(t5)
    past = torch.zeros(2, 4, 1, levels, 2 * 2 * 8)
    given, parents, codes_given = torch.full((4, 1), t5.start_token), None, None
    first = np.cumsum([0, *SIZES])
    for level in range(levels):
        expected, state = t5.step(state, parents, codes_given)
        logits, fresh = step(given, torch.tensor([level]), past, keys, values, lengths)
        torch.testing.assert_close(logits[..., first[level] : first[level + 1]], expected, atol=2e-5, rtol=1e-4)
        past[:, :, :, level] = fresh
        parents = torch.zeros(4, 3, dtype=torch.int64) if level == 0 else torch.tensor([[2, 0, 0]]).expand(4, 3)
        codes_given = torch.tensor([[0, 3, 1]]).expand(4, 3).contiguous()
        past = past[:, torch.arange(4)[:, None], parents]
        given = model.vocabulary.level_codes_to_tokens(level, codes_given)


class _Table:
    """A decoder whose logits are a hash of the prefix; for torch and NumPy alike."""

    def __init__(self, sizes: list[int], rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.tables = [rng.standard_normal((rows, 97, size)).astype(np.float32) for size in sizes]
        self.rows = rows

    def start(self, memory: Any) -> Any:
        return 0, torch.zeros(self.rows, 1, dtype=torch.int64)

    def step(self, state: Any, parents: Any, tokens: Any) -> Any:
        level, prefix = state
        if parents is not None:
            prefix = (prefix.gather(1, parents) * 31 + tokens + 1) % 97
        table = torch.from_numpy(self.tables[level])
        return table[torch.arange(self.rows)[:, None], prefix], (level + 1, prefix)

    def portable(self) -> Any:
        state: list[np.ndarray] = []

        def step(level: int, parents: Any, given: Any) -> np.ndarray:
            prefix = np.zeros((self.rows, 1), dtype=np.int64)
            if parents is not None:
                prefix = (np.take_along_axis(state[-1], parents, 1) * 31 + given + 1) % 97
            state.append(prefix)
            found: np.ndarray = self.tables[level][np.arange(self.rows)[:, None], prefix]
            return found

        return step


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 60),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    beams=st.integers(1, 30),
    normalize=st.sampled_from(["vocabulary", "children"]),
    masked=st.sampled_from(["no", "one", "each"]),
    excluding=st.booleans(),
)
def test_numpy_and_torch_search_alike(
    seed: int, items: int, sizes: list[int], beams: int, normalize: Any, masked: str, excluding: bool
) -> None:
    rng = np.random.default_rng(seed)
    table = np.stack([rng.integers(0, size, items) for size in sizes], 1)
    trie = CodeTrie.from_codes(table, sizes, priority=rng.integers(0, 5, items))
    rows, n_best = 3, max(1, beams // 2)
    mask = None
    if masked != "no":
        mask = rng.random((rows, items) if masked == "each" else items) < 0.6
    exclude = rng.integers(0, items + 3, (rows, 5)) if excluding else None
    decoder = _Table(sizes, rows, seed)
    expected = search_beams(decoder, None, trie, beams, n_best, mask, exclude, normalize)
    portable = PortableTrie.of(PortableTrie.arrays(trie), sizes)
    excluded = Excluded(portable, mask, exclude) if mask is not None or exclude is not None else None
    found = search(decoder.portable(), portable, rows, beams, n_best, excluded, normalize)
    assert np.array_equal(found.items, expected.items.numpy())
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-5)


def test_no_line_of_an_exported_generator_imports_torch(exports: Any) -> None:
    _, folder = exports("tiger")
    code = (
        "import runpy, sys; sys.argv = ['example.py', 'i3', 'i9']; "
        f"runpy.run_path({str(folder / 'example.py')!r}, None, '__main__'); assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "after i3, i9:"
    assert len(lines) == 11
    named = {path.name for path in folder.iterdir()}
    assert {"encoder.onnx", "decoder.onnx", "catalogue.safetensors", "search.json", "README.md", "config.json"} <= named


def test_an_export_is_replaced_and_a_run_is_not(exports: Any, tmp_path: Path) -> None:
    folder = tmp_path / "deployed"
    shutil.copytree(exports("tiger")[1], folder)
    before = json.loads((folder / "config.json").read_text())["files"]
    other = exports("tiger-users", True)[1]
    run = CliRunner().invoke(main, ["export", str(other), "--to", "onnx", "--out", str(folder)])
    assert run.exit_code == 0, run.output
    after = json.loads((folder / "config.json").read_text())["files"]
    assert after["catalogue.safetensors"]["sha256"] != before["catalogue.safetensors"]["sha256"]
    assert {entry["file"] for entry in after.values()} == set(after)
    assert {path.name for path in folder.iterdir()} == {*after, "config.json"}
    items = pl.DataFrame({"item_id": [f"i{number}" for number in range(1, ITEMS + 1)]})
    save_run(tmp_path / "run", "tiger", made("tiger"), items, {})
    refused = CliRunner().invoke(main, ["export", str(other), "--to", "onnx", "--out", str(tmp_path / "run")])
    assert refused.exit_code == 1
    assert "holds a trained run" in refused.output


def test_what_cannot_be_exported_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run = CliRunner().invoke
    told = [word for word in TINY if word != "--quiet"]
    done = run(main, ["train", "prorec", "--data", "synthetic", "--out", str(tmp_path / "p"), *told, *FAST["prorec"]])
    assert done.exit_code == 0, done.output
    assert "genrec export --to onnx will not take this run: the networks of prorec are no T5" in done.output
    assert "genrec export --to transformers will not take this run: prorec is no T5 of transformers" in done.output
    refused = run(main, ["export", str(tmp_path / "p"), "--to", "onnx", "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1
    assert "cannot be exported: the networks of prorec are no T5; those of tiger and letter are" in " ".join(
        refused.output.split()
    )
    assert not (tmp_path / "out").exists()


def test_damaged_arrays_are_refused(exports: Any) -> None:
    _, folder = exports("tiger")
    good = PortableTrie.arrays(load_run(folder, MODELS).model.trie)
    for name, value, message in (
        ("children.1", np.array([0, 1]), "children.1 does not divide"),
        ("tokens.0", good["tokens.0"] + 90, "tokens.0 holds codes out of 0..5"),
        ("ranges.2", good["ranges.2"][::-1].copy(), "ranges.2 does not divide the 40 items"),
        ("items", good["items"] * 0, "numbers below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            PortableTrie.of(good | {name: value}, SIZES)
    with pytest.raises(ValueError, match=r"array 'ranges\.3' is missing"):
        PortableTrie.of({name: value for name, value in good.items() if name != "ranges.3"}, SIZES)
