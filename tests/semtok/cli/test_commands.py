"""The command line: every stage from a folder of its own, one object under --json, one sentence on failure."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from semtok.catalogue.unique import POLICIES
from semtok.cli import main
from semtok.codes import load_codes

ROOT = Path(__file__).parents[3]
COMMANDS = ["prepare", "embed", "fit", "encode", "report", "export", "import", "list"]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def good(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set folder of 40 items and 30 users, in an empty working directory."""
    draw = np.random.default_rng(0)
    words = ["red", "green", "blue", "big", "small", "shoe", "hat", "coat"]
    folder = tmp_path / "given"
    folder.mkdir()
    items = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(40)],
            "title": [" ".join(draw.choice(words, 4)) for _ in range(40)],
            "brand": [None if i % 9 == 0 else f"maker {i % 4}" for i in range(40)],
        }
    )
    items.write_parquet(folder / "items.parquet")
    users = np.repeat(np.arange(30), 6)
    events = {"user_id": users, "item_id": [f"i{i}" for i in draw.integers(0, 40, 180)], "position": np.arange(180)}
    pl.DataFrame(events).write_parquet(folder / "interactions.parquet")
    monkeypatch.chdir(tmp_path)
    return folder


SMALL = ("--levels", 2, "--codebook-size", 8)


def test_fit_ends_with_a_table_and_a_complete_folder(data):
    result = good("fit", "--method", "pq", "--data", data, *SMALL)
    assert "items that share a tuple" in result.stdout
    assert "Codes and tokenizer are in runs/semtok/pq" in result.stdout
    manifest = json.loads(Path("runs/semtok/pq/semtok.json").read_text())
    assert manifest["arguments"]["levels"] == 2
    assert list(manifest["blocks"]) == ["title", "brand"]
    assert manifest["made_from"]["dataset"]["items"] == 40
    assert "report.json" in manifest["files"]


def test_fit_prints_one_object_and_reuses_embeddings(data):
    first = json.loads(good("fit", "--data", data, *SMALL, "--json").stdout)
    second = json.loads(good("fit", "--data", data, *SMALL, "--json", "--method", "rq", "--quiet").stdout)
    assert first["embeddings"] == second["embeddings"]
    assert first["report"]["items"] == 40
    assert len(first["report"]["levels"]) == 4
    assert first["report"]["agreement"][0]["category"] == "brand"
    assert second["method"] == "rq"
    assert good("fit", "--data", data, *SMALL, "--quiet").stdout == ""


def test_views_and_joined(data):
    one = json.loads(good("fit", "--data", data, *SMALL, "--views", "brand", "--json").stdout)
    assert {row["block"] for row in one["report"]["levels"]} == {"brand"}
    joined = json.loads(good("fit", "--data", data, *SMALL, "--no-per-view", "--json").stdout)
    assert len(joined["report"]["levels"]) == 2


def test_embed_then_fit_then_encode_new_items(data):
    made = json.loads(good("embed", "--data", data, "--pca", 6, "--json").stdout)
    assert made["views"] == {"title": {"width": 6, "missing": 0}, "brand": {"width": 6, "missing": 5}}
    good("fit", "--embeddings", made["folder"], *SMALL, "--out", "codes", "--quiet")
    pl.read_parquet(data / "items.parquet").head(7).write_csv("new.csv")
    good("encode", "codes", "--items", "new.csv", "--out", "out.csv")
    table, codes = pl.read_csv("out.csv"), pl.read_parquet(next(Path("codes").glob("codes.*.parquet")))
    assert table["item_id"].to_list() == [f"i{i}" for i in range(7)]
    assert table.select("c0", "c1", "c2", "c3").rows() == codes.head(7).select("c0", "c1", "c2", "c3").rows()
    said = json.loads(good("encode", "codes", "--embeddings", made["folder"], "--json").stdout)
    assert (said["items"], said["levels"], said["file"]) == (40, 4, "runs/semtok/encoded.parquet")


def test_fit_on_a_file_of_vectors(data):
    np.save("v.npy", np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
    result = json.loads(good("fit", "--embeddings", "v.npy", *SMALL, "--json").stdout)
    assert result["report"]["items"] == 50
    good("encode", "runs/semtok/pq", "--embeddings", "v.npy", "--out", "c.jsonl")
    assert len(pl.read_ndjson("c.jsonl")) == 50


def test_prepare_writes_a_folder_and_verifies(data):
    made = json.loads(good("prepare", data, "--out", "d", "--json").stdout)
    assert (made["users"], made["folder"]) == (30, "d")
    same = good("prepare", data, "--out", "d2", "--verify", "d")
    assert "same: 30 of 30" in same.stdout
    other = run("prepare", data, "--out", "d3", "--verify", "d", "--limit", 2)
    assert other.exit_code == 1
    assert "differ: 0 of 30 sequences are equal" in other.stderr


def test_codes_are_made_unique_and_both_reports_kept(data):
    settings = ("--data", data, "--method", "rq", "--no-per-view", "--levels", 2, "--codebook-size", 8)
    result = good("fit", *settings, "--unique", "matching")
    assert "Made unique by matching" in result.stdout
    manifest = json.loads(Path("runs/semtok/rq/semtok.json").read_text())
    report = json.loads((Path("runs/semtok/rq") / manifest["files"]["report.json"]["file"]).read_text())
    assert manifest["unique"] == report["unique"] == "matching"
    assert manifest["resolving"]["moved"] == report["resolving"]["moved"] > 0
    assert report["before"]["collisions"]["items"] > 0 == report["collisions"]["items"]
    shared = json.loads(good("fit", *settings, "--json").stdout)["report"]
    assert shared["unique"] == "none"
    assert shared["collisions"] == report["before"]["collisions"]
    suffixed = json.loads(good("fit", *settings, "--unique", "suffix", "--json").stdout)["report"]
    assert len(suffixed["sizes"]) == 3
    assert suffixed["reconstruction"] == shared["reconstruction"]


def test_recipes_hold_for_what_is_not_typed(data):
    good("fit", "--data", data, "--method", "rq", "--recipe", "paper", "--codebook-size", 8, "--quiet")
    manifest = json.loads(Path("runs/semtok/rq/semtok.json").read_text())
    assert (manifest["arguments"]["levels"], manifest["arguments"]["codebook_size"]) == (4, 8)
    assert manifest["made_from"]["recipe"] == "paper"


def test_list_names_methods_and_encoders():
    listed = json.loads(good("list", "--json").stdout)
    assert {"pq", "rq", "opq"} <= listed["methods"].keys()
    for method, said in listed["methods"].items():
        assert said["summary"], method
        assert said["paper"], method
        assert said["unique"] in ("none", *POLICIES), method
    assert listed["methods"]["pq"]["unique"] == "none"
    assert "minilm" in listed["encoders"]
    shown = good("list").stdout
    assert "Product quantization" in shown
    assert "semtok[demo]" in shown


def test_unique_policies_are_those_there_are():
    option = next(option for option in main.commands["fit"].params if option.name == "unique")
    assert option.type.option.choices == POLICIES


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", "--method", "magic"], 2, "'magic' is not one of pq, opq"),
        (["fit", "--beam", "4", "--method", "pq"], 2, "--beam belongs to rq; pq has no such option"),
        (
            ["fit", "--collaborative", "v.npy", "--data", "DATA", "--levels", "1", "--codebook-size", "4"],
            1,
            "Error: pq does not read collaborative vectors",
        ),
        (["fit", "--unique", "luck"], 2, "'luck' is not one of none, suffix"),
        (["fit", "--recipe", "best"], 1, "Error: recipe 'best' is unknown"),
        (["fit", "--encoder", "glove", "--data", "DATA"], 2, "--encoder must be tfidf, minilm, owner/name on the hub"),
        (["fit", "--views", "colour", "--data", "DATA"], 1, "Error: view 'colour' is missing; data set"),
        (["fit", "--levels", "0", "--data", "DATA"], 2, "Error: --levels must be at least 1, got 0"),
        (["fit", "--embeddings", "nowhere"], 1, "Error: nowhere is not a folder"),
        (["fit", "--embeddings", "bad.npy"], 1, "Error: view 'bad' holds NaN or infinity in row 1"),
        (
            ["fit", "--data", "DATA", "--out", "file/x", "--codebook-size", "4"],
            1,
            "Error: cannot make the folder file/cache/vectors-",
        ),
        (["embed", "--data", "DATA", "--encoder", "three.npy"], 1, "view 'three' has 3 rows but there are 40 items"),
        (["encode", "nowhere", "--items", "x.csv"], 1, "Error: nowhere is not a folder"),
        (["prepare", "DATA", "--columns", "user"], 2, "--columns has 'user'; expected NAME=COLUMN"),
    ],
)
def test_refusals_are_one_sentence(data, arguments, code, words):
    Path("file").write_text("")
    np.save("bad.npy", np.array([[1.0, 2.0], [np.nan, 0.0]]))
    np.save("three.npy", np.eye(3))
    result = run(*[data if argument == "DATA" else argument for argument in arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1


def test_new_vectors_of_another_width_are_refused(data):
    good("fit", "--data", data, *SMALL, "--quiet")
    np.save("v.npy", np.eye(5, 6))
    result = run("encode", "runs/semtok/pq", "--embeddings", "v.npy")
    assert result.exit_code == 1
    assert "view 'title' is missing; there are v" in result.stderr
    assert run("encode", "runs/semtok/pq").exit_code == 2


def test_help_of_every_command_needs_no_torch():
    code = (
        "import sys; from click.testing import CliRunner; from semtok.cli import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    result = CliRunner().invoke(main, [command, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        "    assert '--json' in result.output and '--debug' in result.output\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'polars', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["semtok", "fit", "--help"], ["genrec", "list"]])
def test_root_command_joins_the_groups(arguments):
    command = [sys.executable, "cli.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    expected = {"--help": "seqrec", "semtok": "--codebook-size", "genrec": "tiger"}[arguments[0]]
    assert expected in result.stdout


def test_new_items_are_not_encoded_by_other_embeddings_than_those_of_the_fit(tmp_path: Path) -> None:
    pairs = itertools.product("abcdef", "uvwxyz")
    table = [f"{number:04d},{word} {other} shoe" for number, (word, other) in enumerate(pairs)]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "\n".join(table) + "\n")
    events = [f"u{user},{item:04d},{item}" for user in range(12) for item in range(36)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(events) + "\n")
    data, made, codes = (str(tmp_path / name) for name in ("data", "made", "codes"))
    files = [str(tmp_path / "events.csv"), "--items", str(tmp_path / "items.csv")]
    prepared = ["prepare", *files, "--out", data, "--quiet"]
    embedded = ["embed", "--data", data, "--out", made, "--quiet"]
    fitted = ["fit", "--method", "rq", "--codebook-size", "4", "--levels", "2", "--embeddings", made, "--data", data]
    for command in (prepared, embedded, [*fitted, "--out", codes, "--quiet"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    encode = ["encode", codes, "--items", str(tmp_path / "items.csv"), "--out", str(tmp_path / "again.csv"), "--quiet"]
    done = CliRunner().invoke(main, encode)
    assert done.exit_code == 0, done.output
    again = pl.read_csv(tmp_path / "again.csv", infer_schema=False)
    assert again["item_id"].to_list() == [row[:4] for row in table]
    same = again.select("c0", "c1").cast(pl.Int64).to_numpy() == load_codes(codes).codes
    assert same.all()
    assert CliRunner().invoke(main, [*embedded, "--pca", "3"]).exit_code == 0
    done = CliRunner().invoke(main, encode)  # the folder carries the rules of its own vectors
    assert done.exit_code == 0, done.output
    assert pl.read_csv(tmp_path / "again.csv", infer_schema=False).equals(again)
    done = CliRunner().invoke(main, [*encode, "--embeddings", made])
    assert done.exit_code == 1
    assert "was fitted on other embeddings than those that are in" in done.output
