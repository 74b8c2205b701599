"""The rows of the benchmarks' tables are commands that the programs understand."""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import pytest

import genrec.cli
import seqrec.cli
from benchmarks import beauty, ccfrec, demo, reproduce, rows, tssr
from benchmarks.reproduce import __main__ as reproducing
from benchmarks.reproduce.plan import ARITHMETIC, cost_of
from benchmarks.reproduce.protocol import PROTOCOLS, Progress, incomparable, options_of, recipe_of, verdict
from benchmarks.reproduce.tables import ANALYSES, FIGURES
from benchmarks.rows import Row, folder_of
from recbase.cli.options import options_from, recipes_from
from semtok.registry import methods

PROGRAMS = {"genrec": genrec.cli.main, "seqrec": seqrec.cli.main}


def understood(words: list[str]) -> dict[str, object]:
    """The options that a program reads from a command, which is not run."""
    group = PROGRAMS[words[0]]
    with click.Context(group) as top:
        train = group.get_command(top, "train")
        assert isinstance(train, click.Group)
        command = train.get_command(top, words[2])
        assert command is not None
        with command.make_context(words[2], list(words[3:])) as context:
            return dict(context.params)


@pytest.mark.parametrize("table", beauty.TABLES)
def test_the_rows_of_a_table_are_commands(table: str, tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, budget_seconds=60.0, options=["--beams", "20"])
    rows = list(beauty.rows(table, "all", 1, tmp_path))
    assert len({folder_of(row, 0, tmp_path) for row in rows}) == len(rows) > 1
    for row in rows:
        found = understood(beauty.command(given, row, 0, tmp_path / "run"))
        assert found["data"] == str(tmp_path)
        if row.program == "genrec":
            assert found["beams"] == 20
            assert found["max_seconds"] == 60.0


@pytest.mark.parametrize("table", ccfrec.TABLES)
def test_the_rows_of_a_table_of_ccfrec_are_commands(table: str, tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, max_seconds=60.0, options=[])
    for row in ccfrec.rows(table, ["title", "brand"], 1):
        found = understood(ccfrec.command(given, row, 0, tmp_path / "run"))
        assert found["data"] == str(tmp_path)
        assert (found.get("encoder") == "minilm") == (row.name == "global emb")


def test_rows_of_one_folder_are_one_command(tmp_path: Path) -> None:
    known: dict[Path, Row] = {}
    shared = 0
    for row in (row for table in beauty.TABLES for row in beauty.rows(table, "all", 1, None)):
        other = known.setdefault(folder_of(row, 0, tmp_path), row)
        shared += other is not row
        assert (other.program, other.model, other.options) == (row.program, row.model, row.options)
    assert shared > 0


def test_the_rows_of_papers_are_commands(tmp_path: Path) -> None:
    given = argparse.Namespace(
        data=tmp_path, set="Beauty", embeddings=tmp_path, budget_seconds=60.0, seed=1, tokenizer_steps=9
    )
    run, missing = 0, set()
    for paper, tables in reproduce.published_tables()[0].items():
        for table, names in tables.items():
            for name, sets in names.items():
                for given.set in sets:
                    row = reproduce.row_of(paper, table, name, given.set)
                    if row is None or not reproduce.known(row.model):
                        missing.add(name)
                        continue
                    found = understood(reproduce.command(row, given, tmp_path / "run"))
                    assert found["data"] == str(tmp_path)
                    assert found.get("stage1_seconds", 60.0) == 60.0
                    run += 1
    assert run > 150
    assert missing <= {"RecForest"}


@pytest.mark.parametrize(
    ("published", "ours", "progress", "why", "said"),
    [
        ({"ndcg@10": 0.1}, None, None, "", "not run"),
        ({"ndcg@10": 0.1}, {"ndcg@10": 0.2}, None, "other vectors", "not comparable: other vectors"),
        ({"ndcg@10": None}, {"ndcg@10": 0.2}, None, "", "not comparable: the paper prints no number"),
        ({"ndcg@10": 0.1}, {"ndcg@10": 0.096}, None, "", "reproduced"),
        ({"ndcg@10": 0.1, "recall@10": 0.2}, {"ndcg@10": 0.1, "recall@10": 0.15}, None, "", "short by 25 %"),
        ({"ndcg@10": 0.1}, {"ndcg@10": 0.05}, Progress(3, 100, False, 2.0), "", "short by 50 % (budget)"),
        ({"ndcg@10": 0.1}, {"ndcg@10": 0.05}, Progress(40, 100, True, 2.0), "", "short by 50 %"),
        ({"ndcg@10": 0.1}, {"ndcg@10": 0.05}, Progress(100, 100, False, 0.0), "", "short by 50 %"),
    ],
)
def test_the_verdict_on_a_row(
    published: dict[str, float | None], ours: dict[str, float] | None, progress: Progress | None, why: str, said: str
) -> None:
    assert verdict(published, ours, progress, why) == said


def test_other_data_and_other_vectors_are_not_comparable() -> None:
    beauty_here = {"data": {"users": 22_363, "items": 12_101}}
    assert incomparable("bbqrec", "Beauty", beauty_here, "sentence-transformers/sentence-t5-base") == ""
    assert incomparable("bbqrec", "Beauty", beauty_here, None) == ""
    assert "vectors of minilm" in incomparable("bbqrec", "Beauty", beauty_here, "minilm")
    assert "the paper's Toys has 19,412" in incomparable("bbqrec", "Toys", beauty_here, None)


def test_a_paper_sets_the_options_of_its_rows() -> None:
    for name in ("Instrument", "Scientific", "Game", "Baby"):
        assert recipe_of("ccfrec", "ccfrec", name) == f"paper-{name.lower()}"
    assert recipe_of("ccfrec", "sasrec", "Game") == "paper"
    assert options_of("ccfrec", "ccfrec", "Game") == []
    assert options_of("prorec", "sasrec", "Beauty") == []
    for model in ("gru4rec", "sasrec", "maerec", "unisrec", "mmsr"):
        options = options_of("ccfrec", model, "Game")
        assert options[options.index("--dim") + 1] == "128"
        assert ("--loss" in options) == (model in ("gru4rec", "sasrec"))
    for data_set, latest in (("Yelp", "10"), ("MIND", "20")):
        options = options_of("tssr", "sasrec", data_set)
        assert options[options.index("--max-len") + 1] == latest
        assert options[options.index("--lr") + 1] == "0.0001"
        assert options[options.index("--attention-dropout") + 1] == "0.1"


def test_every_data_set_of_a_paper_has_its_sizes() -> None:
    tables = reproduce.published_tables()[0]
    for paper, found in tables.items():
        for rows_ in found.values():
            assert {name for sets in rows_.values() for name in sets} <= set(PROTOCOLS[paper].sets)
    assert {paper for paper, _ in (*FIGURES, *ANALYSES)} == set(tables)


@pytest.mark.parametrize("paper", sorted(PROTOCOLS))
def test_the_plan_of_a_paper_states_its_rate(paper: str, tmp_path: Path) -> None:
    published, _ = reproduce.published_tables()
    given = reproducing.arguments(published).parse_args(["--plan", paper, "--out", str(tmp_path)])
    lines = reproducing.plan(paper, given, published).splitlines()
    assert ARITHMETIC.source in lines[0]
    costs = [line.split(" | ") for line in lines if " train " in line and not line.startswith("-")]
    assert len(costs) > 30
    assert all(float(hours) >= 0 and int(passes) > 0 and float(disk) > 0 for hours, passes, disk, _ in costs)
    total = sum(float(hours) for hours, *_ in costs)
    assert float(lines[-1].split(", ")[1].split()[0]) == pytest.approx(total, abs=1)


def test_hours_grow_with_passes_and_never_fall_below_the_least_step() -> None:
    settings = {"dim": 64, "layers": 2, "epochs": 10, "batch_size": 100, "max_len": 50, "form": "all"}
    small = cost_of(settings, users=1000, items=100, events=9000, generates=False)
    assert (small.passes, small.steps) == (10, 100)
    assert small.hours == pytest.approx(100 * ARITHMETIC.least_step / 3600)
    large = cost_of(settings | {"epochs": 1000}, users=1000, items=100, events=9000, generates=False)
    assert large.hours == pytest.approx(100 * small.hours)


def test_options_reach_the_rows_they_belong_to(tmp_path: Path) -> None:
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, max_seconds=60.0, options=["--code-levels", "8"])
    for row in ccfrec.rows("main", [], 1):
        assert ("--code-levels" in ccfrec.command(given, row, 0, tmp_path)) == (row.model == "ccfrec")


@pytest.mark.parametrize("table", tssr.TABLES)
def test_the_rows_of_tssr_go_with_the_recipe_of_the_paper(table: str, tmp_path: Path) -> None:
    options = ["--recipe", "paper"]
    given = argparse.Namespace(data=tmp_path, embeddings=tmp_path, budget_seconds=60.0, options=options)
    for row in tssr.rows(table, 1):
        found = understood(tssr.command(given, row, 0, tmp_path / "run"))
        assert found["recipe"] == "paper"
        assert (found["user_weight"] == 0) == (row.name in ("w/o user-grained", "w/o both"))


def test_the_demo_counts_steps_unless_seconds_are_asked_for(tmp_path: Path) -> None:
    found = demo.commands(tmp_path)
    assert [words[0] for words in found] == ["semtok"] * 3 + ["seqrec"] * 4 + ["genrec", "semtok", "seqrec"]
    assert not [word for words in found for word in words if "seconds" in word]
    trained = {words[2]: understood(words) for words in found if words[1] == "train"}
    assert set(trained) == {"popularity", "transitions", "sasrec", "ccfrec", "prorec"}
    for name in ("sasrec", "ccfrec", "prorec"):
        assert trained[name]["max_seconds"] is None
    for name in ("ccfrec", "prorec"):
        assert trained[name]["precision"] == "no"  # what another machine does faster would round otherwise
    wished = demo.commands(tmp_path, max_seconds=60, generator_seconds=30)
    budgets = [
        understood(words)["max_seconds"] for words in wished if words[1:3] in (["train", "ccfrec"], ["train", "prorec"])
    ]
    assert budgets == [60, 30]


def test_no_default_and_no_recipe_names_seconds() -> None:
    from genrec import REGISTRY as GENERATORS
    from seqrec import REGISTRY as RANKERS

    counted = [entry.target for entry in RANKERS.values()]
    sources = [*counted, *(entry.target for entry in GENERATORS.values()), *methods().values()]
    for source in sources:
        for recipe, values in recipes_from(source).items():
            assert not [key for key in values if "seconds" in key], (source, recipe)
    sources += [entry.preparation for entry in GENERATORS.values()] + ["recbase.train.loop:TrainConfig"]
    budgets = [option for source in sources for option in options_from(source) if option.name.endswith("seconds")]
    assert {option.name for option in budgets} == {"max_seconds", "stage1_seconds", "save_every_seconds"}
    assert all(option.default is None for option in budgets if option.name != "save_every_seconds")
    smoke = Path(__file__).parents[1] / "Makefile"
    assert "seconds" not in smoke.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_generator_of_the_demo_beats_popularity(tmp_path: Path) -> None:
    found = demo.commands(tmp_path)
    needed = [words for words in found if words[:2] in (["semtok", "prepare"], ["semtok", "embed"])]
    for words in [*needed, *(words for words in found if words[1:3] in (["train", "popularity"], ["train", "prorec"]))]:
        demo.run(words)
    popular, generated = (
        rows.metrics_of(tmp_path / folder) for folder in (Path("seqrec") / "popularity", Path("genrec") / "prorec")
    )
    assert popular is not None
    assert generated is not None
    for metric in ("recall@10", "ndcg@10"):
        assert generated["test"][metric] > popular["test"][metric]


def test_a_row_that_fails_is_reported_and_the_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(words: list[str], check: bool) -> argparse.Namespace:
        ran.append(words[-1])
        return argparse.Namespace(returncode=1 if words[-1] == "0" else 0)

    monkeypatch.setattr(rows.subprocess, "run", run)
    monkeypatch.setattr(rows, "finished", lambda folder: str(len(ran) - 1) != "0" and folder.name.endswith("-1"))
    row = Row("w/o text", "genrec", "bbqrec", seeds=(0, 1))
    folders = rows.run_row(row, tmp_path, lambda row, seed, out: [row.program, "train", str(seed)])
    assert folders == [folder_of(row, 1, tmp_path)]
    assert ran[0] == "0"
    assert "w/o text, seed 0, failed (exit code 1); the table goes on without it" in capsys.readouterr().out
    assert rows.failed_line("w/o text", 4) == "| w/o text | failed | - | - |"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TF-IDF vectors of the made data set."""
    folder = tmp_path_factory.mktemp("vectors") / "tfidf"
    demo.run(["semtok", "embed", "--data", "synthetic", "--encoder", "tfidf", "--out", str(folder)])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "table"), [(paper, table) for paper, found in reproduce.published_tables()[0].items() for table in found]
)
def test_a_row_of_every_table_runs(
    paper: str, table: str, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(reproduce.published_tables()[0][paper][table])
    name = "tf-idf" if table == "encoders" else names[0]
    words = [paper, table, "--data", "synthetic", "--embeddings", str(vectors), "--only", name]
    words += ["--budget-seconds", "2", "--tokenizer-steps", "20", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["reproduce", *words])
    reproducing.main()
    (found,) = tmp_path.glob("*/table.md")
    (line,) = [line for line in found.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")]
    assert "not comparable: 600 users and 200 items" in line
    assert "@" in found.read_text(encoding="utf-8")
