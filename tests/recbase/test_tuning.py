"""A search of settings goes by validation, can go on, and ends in a recipe that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from generators import FAST

import seqrec
from recbase.cli.signatures import recipe_of
from recbase.recipes import save_recipe
from recbase.tuning import Choice, Span, parse_space, study, usual_space
from seqrec import MODELS
from seqrec.cli import main
from seqrec.tuning import searchable

pytest.importorskip("optuna", reason="needs the extra tune")

FACTS = {"model": "SASRec", "data": "x", "settings": {}}
SPACE = {"a": Span(0.0, 1.0), "b": Choice((1, 2, 3))}


def hill(settings: dict[str, Any], report: Any) -> None:
    """Highest at a = .7 and b = 2; three validations, the second the best."""
    best = 1 - (settings["a"] - 0.7) ** 2 - 0.1 * abs(settings["b"] - 2)
    for part in (0.5, 1.0, 0.9):
        report({"ndcg@10": best * part})


def test_a_search_finds_the_hill_and_counts_the_best_validation() -> None:
    found = study(hill, SPACE, FACTS, trials=40, quiet=True)
    assert found.value > 0.97
    assert found.settings["b"] == 2
    assert abs(found.settings["a"] - 0.7) < 0.15
    assert found.trials[0]["value"] == found.value == max(row["value"] for row in found.trials if row["value"])
    assert {row["state"] for row in found.trials} <= {"complete", "pruned"}


def test_a_stored_study_goes_on_and_draws_anew(tmp_path: Path) -> None:
    seen: list[float] = []

    def counted(settings: dict[str, Any], report: Any) -> None:
        seen.append(settings["a"])
        hill(settings, report)

    first = study(counted, SPACE, FACTS, trials=4, storage=tmp_path / "study", quiet=True)
    assert len(seen) == 4
    again = study(counted, SPACE, FACTS, trials=7, storage=tmp_path / "study", quiet=True)
    assert len(seen) == len(set(seen)) == 7
    assert len(again.trials) == 7
    assert again.value >= first.value
    study(counted, SPACE, FACTS, trials=7, storage=tmp_path / "study", quiet=True)
    assert len(seen) == 7
    same = study(hill, SPACE, FACTS, trials=4, quiet=True)
    assert [row["settings"] for row in same.trials] == [row["settings"] for row in first.trials]


@pytest.mark.parametrize(
    ("facts", "space", "message"),
    [
        (FACTS | {"data": "y"}, SPACE, "keeps a study with other data or settings"),
        (FACTS, {"a": Span(0.0, 2.0)}, "keeps a study with other search"),
    ],
)
def test_a_study_of_something_else_is_refused(facts: Any, space: Any, message: str, tmp_path: Path) -> None:
    study(hill, SPACE, FACTS, trials=1, storage=tmp_path / "study", quiet=True)
    with pytest.raises(ValueError, match=message):
        study(hill, space, facts, trials=2, storage=tmp_path / "study", quiet=True)


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a journal\n")
    with pytest.raises(ValueError, match=r"notes\.txt keeps no study of ours"):
        study(hill, SPACE, FACTS, trials=1, storage=tmp_path / "notes.txt", quiet=True)
    assert (tmp_path / "notes.txt").read_text() == "not a journal\n"


def test_trials_that_fail_are_counted_and_no_end() -> None:
    def brittle(settings: dict[str, Any], report: Any) -> None:
        if settings["b"] != 2:
            raise ValueError("no such width")
        hill(settings, report)

    found = study(brittle, SPACE, FACTS, trials=20, quiet=True)
    assert {row["state"] for row in found.trials} >= {"complete", "failed"}
    assert found.settings["b"] == 2
    with pytest.raises(ValueError, match="no trial of 3 came to its end"):
        study(brittle, {"a": Span(0.0, 1.0), "b": Choice((1, 3))}, FACTS, trials=3, quiet=True)
    with pytest.raises(ValueError, match=r"validation has no metric recall@10; it has ndcg@10|came to its end"):
        study(hill, SPACE, FACTS, trials=1, metric="recall@10", quiet=True)


def test_the_usual_space_lies_around_the_defaults_of_every_model() -> None:
    for name, entry in seqrec.REGISTRY.items():
        if entry.kind in ("counted", "deployed"):
            continue
        options = {option.name: option for option in searchable(name)}
        space = usual_space(list(options.values()))
        assert "lr" in space
        for setting, part in space.items():
            usual = options[setting].default
            values = part.values if isinstance(part, Choice) else (part.low, part.high)
            assert min(values) <= usual <= max(values), (name, setting)
            for value in values:
                assert options[setting].refusal(value) is None, (name, setting, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing=1:2", "names 'nothing', which is no option"),
        ("lr", "lr has no values"),
        ("lr=1e-2:1e-4", "the lower bound must lie below"),
        ("dropout=0:0.5:log", "above 0 with log"),
        ("lr=a:b", "'a' is no value of --lr"),
        ("lr=1:2:3", "expected lr=low:high"),
        ("dim=0,8", "--dim must be at least 1, got 0"),
        ("loss=ce,guess", "'guess' is none of"),
        ("lr=nan:1", "'nan' is no value of --lr"),
    ],
)
def test_a_space_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_space([text], searchable("sasrec"))


def test_a_space_as_it_is_typed() -> None:
    typed = ["lr=1e-4:1e-2:log", "layers=1:4", "--dim=8,16", "dropout=0:0.5", "loss=ce,bce"]
    assert parse_space(typed, searchable("sasrec")) == {
        "lr": Span(1e-4, 1e-2, log=True),
        "layers": Span(1, 4, whole=True),
        "dim": Choice((8, 16)),
        "dropout": Span(0.0, 0.5),
        "loss": Choice(("ce", "bce")),
    }


def test_the_command_searches_goes_on_and_its_recipe_trains(tmp_path: Path) -> None:
    words = ["tune", "sasrec", "--data", "synthetic", "--epochs", "1", "--layers", "1", "--search", "dim=8,16"]
    words += [
        "--search",
        "lr=1e-4:1e-2:log",
        "--storage",
        str(tmp_path / "study"),
        "--out",
        str(tmp_path / "best.json"),
    ]
    first = CliRunner().invoke(main, [*words, "--trials", "2"])
    assert first.exit_code == 0, first.output
    assert "trial 2/2: ndcg@10" in first.output
    again = CliRunner().invoke(main, [*words, "--trials", "3", "--json"])
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert len(found["trials"]) == 3
    recipe = json.loads((tmp_path / "best.json").read_text())
    assert recipe["model"] == "SASRec"
    assert recipe["settings"] == found["settings"] | {"epochs": 1, "layers": 1}
    assert recipe["found"]["validation"] == {"ndcg@10": found["value"]}
    train = ["train", "sasrec", "--data", "synthetic", "--recipe", str(tmp_path / "best.json"), "--out"]
    done = CliRunner().invoke(main, [*train, str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["valid"]["ndcg@10"] == pytest.approx(found["value"], abs=1e-6)
    body = json.loads((tmp_path / "run" / "config.json").read_text())
    assert body["recipe"] == "best.json"
    assert body["arguments"]["dim"] == found["settings"]["dim"]
    model = seqrec.SASRec.train("synthetic", recipe=str(tmp_path / "best.json"), cache=tmp_path, quiet=True)
    assert model.metrics["valid"] == json.loads(done.stdout)["valid"]


def test_recipe_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    save_recipe(path, "SASRec", "default", {"dim": 8, "dimm": 4}, {})
    assert recipe_of(MODELS["sasrec"], str(path))["dim"] == 8
    with pytest.raises(ValueError, match=r"sets 'dimm', which is no setting; did you mean dim"):
        seqrec.SASRec.train("synthetic", recipe=str(path), quiet=True)
    with pytest.raises(ValueError, match=r"is a recipe of 'SASRec', expected one of 'GRU4Rec'"):
        recipe_of(MODELS["gru4rec"], str(path))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        recipe_of(MODELS["sasrec"], str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"must end in \.json"):
        save_recipe(tmp_path / "best", "SASRec", "default", {}, {})
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="kind"):
        save_recipe(tmp_path / "config.json", "SASRec", "default", {}, {})
    assert (tmp_path / "config.json").read_text() == '{"model_type": "t5"}'


def test_a_generator_is_searched_without_a_look_at_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import genrec.training

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("test was evaluated")

    monkeypatch.setattr(genrec.training, "evaluate_generator", never)
    options = dict(zip(*[iter(FAST["tiger"])] * 2, strict=True))
    given: dict[str, Any] = {name[2:].replace("-", "_"): int(value) for name, value in options.items()}
    found = genrec.tune(
        "tiger", "synthetic", trials=2, space={"lr": Span(1e-4, 1e-2, log=True)}, cache=tmp_path, quiet=True, epochs=1,
        valid_users=30, valid_beams=10, out=tmp_path / "best.json", **given,
    )  # fmt: skip
    assert len(found.trials) == 2
    assert json.loads((tmp_path / "best.json").read_text())["model"] == "TIGER"
    with pytest.raises(TypeError, match="tuning TIGER has no setting 'lrr'"):
        genrec.tune("tiger", "synthetic", space={"lrr": Span(0, 1)}, cache=tmp_path, quiet=True)
    with pytest.raises(ValueError, match="popularity is not trained by gradient"):
        seqrec.tune("popularity", "synthetic")
