"""The line that tells of a validation where there is no terminal."""

import fitted as small
import pytest

import genrec.cli
import seqrec
import seqrec.cli
from recbase.train.loop import TrainConfig
from recbase.train.telling import described_validation

LOOP = {"best": {"ndcg@10": 0.0825}, "best_epoch": 2}


def line(epoch=3, seconds=35.0, metrics=None):
    found = {"ndcg@10": 0.08231} if metrics is None else metrics
    return {"epoch": epoch, "loss": 5.12345, "seconds": seconds, "metrics": found}


@pytest.mark.parametrize(
    ("given", "config", "said"),
    [
        (
            line(),
            TrainConfig(epochs=60),
            "epoch 3/60  loss 5.1235  ndcg@10 0.0823 (best 0.0825 in 2)  0:35, at most 11:05 left",
        ),
        (line(seconds=4000), TrainConfig(epochs=3), "at most 0:00 left"),
        (line(), TrainConfig(epochs=60, max_seconds=60), "0:35, at most 0:25 left"),
        (line(metrics={}), TrainConfig(epochs=4), "epoch 3/4  loss 5.1235  0:35, at most 0:12 left"),
        (line(epoch=1, seconds=4000), TrainConfig(epochs=3), "1:06:40, at most 2:13:20 left"),
    ],
)
def test_a_line_says_where_the_training_stands(given, config, said):
    found = described_validation(given, LOOP, config)
    assert said in found
    assert len(found) <= 88


def test_it_is_printed_once_a_validation_unless_quiet(capsys):
    data = small.data()
    seqrec.SASRec.train(data, epochs=2, validate_every=1, **small.TRANSFORMER)
    printed = capsys.readouterr().err.splitlines()
    assert [text.split()[1] for text in printed if text.startswith("epoch")] == ["1/2", "2/2"]
    small.ranker(data)
    assert capsys.readouterr().err == ""


def test_versions():
    from click.testing import CliRunner

    import cli
    import recbase
    import semtok.cli

    for main in (semtok.cli.main, seqrec.cli.main, genrec.cli.main, cli.main):
        assert CliRunner().invoke(main, ["--version"]).output.endswith(f"version {recbase.__version__}\n")
