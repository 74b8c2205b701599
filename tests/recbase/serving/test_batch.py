"""Recommendations for many users as a file, and the command that writes it."""

import json

import fitted as small
import polars as pl
import pytest
from click.testing import CliRunner

import seqrec
import seqrec.cli
from recbase import Dataset
from recbase.serving.batch import Asked, histories_in, recommend_to_file, users_in


@pytest.fixture(scope="module")
def data():
    return small.data()


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return small.ranker(data, out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """The data set as a folder, by which a run trained in memory does not know it."""
    return data.save(tmp_path_factory.mktemp("data") / "world")


def read(path):
    reader = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[path.suffix]
    return reader(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_holds_what_recommend_returns(model, data, suffix, tmp_path):
    out = tmp_path / f"recs{suffix}"
    counts = recommend_to_file(model, Asked(data.user_ids), out, 3, True, batch=17)
    assert counts == {"users": data.n_users, "rows": 3 * data.n_users, "popular": 0, "without": 0, "unknown": []}
    wanted = model.recommend(users=data.user_ids, k=3)
    found = read(out)
    assert found["item"].to_list() == wanted["item"].to_list()
    assert found["user"].to_list() == wanted["user"].to_list()
    assert found["rank"].to_list() == wanted["rank"].to_list()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_file_of_another_kind_is_refused_and_what_is_there_is_kept(model, data, tmp_path):
    with pytest.raises(ValueError, match=r"should end in \.parquet, \.csv, \.jsonl"):
        recommend_to_file(model, Asked(data.user_ids), tmp_path / "recs.xlsx", 3, True)
    kept = tmp_path / "recs.csv"
    kept.write_text("old")
    with pytest.raises(ValueError, match="are not in the data set"):
        recommend_to_file(model, Asked(pl.Series(["nobody"])), kept, 3, True)
    assert kept.read_text() == "old"


def test_users_and_histories_are_read_from_files(tmp_path):
    (tmp_path / "users.txt").write_text("\ufeff a1 \n\nb2\n", encoding="utf-8")
    assert users_in(tmp_path / "users.txt").ids.to_list() == ["a1", "b2"]
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no user"):
        users_in(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        users_in(tmp_path / "bad.txt")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nv,7,20\nu,5,30\nu,6,10\nv,5,10\n")
    asked = histories_in(tmp_path / "events.csv")
    assert dict(zip(asked.ids.to_list(), asked.histories, strict=True)) == {"u": ["6", "5"], "v": ["5", "7"]}


def command(*words, code=0):
    result = CliRunner().invoke(seqrec.cli.main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_answers_one_history_as_before(model, data):
    first = str(data.item_ids[0])
    result = CliRunner().invoke(
        seqrec.cli.main, ["recommend", str(model.folder), "--history", f"{first},odd", "-k", "3", "--json"]
    )
    body = json.loads(result.stdout)
    assert body["unknown"] == ["odd"]
    wanted = model.recommend(histories=[[first]], k=3)
    assert [row["item_id"] for row in body["items"]] == wanted["item"].to_list()
    assert set(body["items"][0]) == {"item_id", "title", "score"}
    assert "is unknown and was skipped" in command("recommend", model.folder, "--history", f"{first},odd")


def test_the_command_answers_a_stranger_with_popular_items_unless_strict(model):
    output = command("recommend", model.folder, "--history", "odd")
    assert "none of the 1 items of the history is known: these are the most popular items" in output
    assert "history 0 has item 'odd'" in command("recommend", model.folder, "--history", "odd", "--strict", code=1)


def test_the_command_writes_files_and_prints_a_handful(model, data, folder, tmp_path):
    out = tmp_path / "recs.parquet"
    output = command("recommend", model.folder, "--users", "all", "--data", folder, "--out", out, "-k", 2)
    assert f"{2 * data.n_users:,} recommendations for {data.n_users:,} users" in output
    assert pl.read_parquet(out).height == 2 * data.n_users
    (tmp_path / "users.txt").write_text("\n".join(str(user) for user in data.user_ids[:2]))
    body = json.loads(
        command("recommend", model.folder, "--users", tmp_path / "users.txt", "--data", folder, "-k", 2, "--json")
    )
    assert [row["user"] for row in body["items"]] == [data.user_ids[0]] * 2 + [data.user_ids[1]] * 2
    events = tmp_path / "events.csv"
    events.write_text(f"user_id,item_id\nnew,{data.item_ids[0]}\nnew,{data.item_ids[1]}\nother,zzz\n")
    printed = command("recommend", model.folder, "--histories", events, "-k", 2)
    assert "1 users have no known item" in printed
    table = tmp_path / "recs.csv"
    command("recommend", model.folder, "--histories", events, "-k", 2, "--out", table)
    assert pl.read_csv(table)["user"].to_list() == ["new", "new", "other", "other"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "give one of --history, --histories and --users"),
        (["--history", "1", "--users", "all"], 2, "give one of --history, --histories and --users"),
        (["--histories", "nowhere.csv"], 1, "--histories nowhere.csv does not exist"),
        (["--users", "nowhere.txt"], 1, "nowhere.txt"),
    ],
)
def test_the_command_refuses_unclear_questions(model, words, code, sentence):
    assert sentence in command("recommend", model.folder, *words, code=code)


def test_too_many_users_are_not_printed(model, folder):
    output = command("recommend", model.folder, "--users", "all", "--data", folder, code=2)
    assert "80 users are too many to be printed: write a file with --out recs.parquet" in output


def test_users_who_have_had_everything_are_counted(tmp_path):
    pairs = [(f"u{user}", f"i{item}") for user in range(9) for item in range(6 - (user == 0))]
    events = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    data = Dataset.from_frames(events, min_user=1, min_item=1, quiet=True)
    seqrec.train("popularity", data, out=tmp_path / "run", cache=tmp_path)
    fitted = seqrec.load(tmp_path / "run", data)
    counts = recommend_to_file(fitted, Asked(data.user_ids), tmp_path / "lists.parquet", quiet=True)
    assert (counts["rows"], counts["without"]) == (1, 8)
    data.save(tmp_path / "data")
    words = ["recommend", str(tmp_path / "run"), "--users", "all", "--data", str(tmp_path / "data"), "--out"]
    done = CliRunner().invoke(seqrec.cli.main, [*words, str(tmp_path / "lists.csv")])
    assert done.exit_code == 0, done.output
    assert "8 users got no item: they have had every one that may be recommended" in " ".join(done.output.split())
