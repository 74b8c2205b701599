"""Learning curves, read and shown."""

import json

import fitted as small
import pytest
from click.testing import CliRunner

import seqrec
import seqrec.cli
from recbase.evaluate.curves import read_curve


def run(*words, code=0):
    result = CliRunner().invoke(seqrec.cli.main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_curves_are_those_of_the_history(tmp_path):
    data = small.data()
    model = small.ranker(data, out=tmp_path / "one", epochs=3, validate_every=1)
    lines = read_curve(tmp_path / "one")
    assert [line["epoch"] for line in lines] == model.history["epoch"].to_list() == [1, 2, 3]
    assert json.loads(run("curves", tmp_path / "one", "--json"))[str(tmp_path / "one")] == lines
    shown = run("curves", tmp_path / "one")
    for line in lines:
        assert f"{line['metrics']['ndcg@10']:.4f}" in shown
    beside = tmp_path / "one" / "training"
    beside.mkdir()
    (beside / "history.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert read_curve(tmp_path / "one") == lines[:1]  # the training that goes on
    pytest.importorskip("matplotlib", reason="figures need the extra [plots]")
    run("curves", tmp_path / "one", "--figure", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_curve_says_so(tmp_path):
    seqrec.Popularity.train(small.data(), out=tmp_path / "counts")
    assert "has no learning curve" in run("curves", tmp_path / "counts", code=1)
    (tmp_path / "history.jsonl").write_text("{oh")
    assert "is not a learning curve: damaged" in run("curves", tmp_path, code=1)
