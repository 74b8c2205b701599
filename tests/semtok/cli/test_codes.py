"""The commands on finished codes: report, export, import."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import semtok
from semtok.cli import main
from semtok.cli.codes import _FILES
from semtok.codes import ItemCodes
from semtok.exchange.formats import FORMATS


def run(*arguments: object) -> object:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def good(*arguments: object) -> object:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 40 items and codes of it: fitted ones of two views, and those of another project."""
    draw = np.random.default_rng(0)
    words = ["red", "green", "blue", "big", "small", "shoe", "hat", "coat"]
    folder = tmp_path / "given"
    folder.mkdir()
    items = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(40)],
            "title": [" ".join(draw.choice(words, 4)) for _ in range(40)],
            "brand": [f"maker {row % 4}" for row in range(40)],
        }
    )
    items.write_parquet(folder / "items.parquet")
    users = np.repeat(np.arange(30), 6)
    events = {"user_id": users, "item_id": [f"i{row}" for row in draw.integers(0, 40, 180)], "position": np.arange(180)}
    pl.DataFrame(events).write_parquet(folder / "interactions.parquet")
    monkeypatch.chdir(tmp_path)
    good("fit", "--data", folder, "--method", "pq", "--levels", 2, "--codebook-size", 8, "--quiet", "--out", "pq")
    index = {str(row): [f"<a_{row % 4}>", f"<b_{row % 3}>"] for row in range(40)}
    Path("theirs.index.json").write_text(json.dumps(index))
    return folder


def test_report_of_one_folder(data: Path) -> None:
    shown = good("report", "pq", "--data", data).stdout
    assert "pq in pq" in shown
    assert "neighbour recall@10" in shown
    assert "Written: runs/semtok/report/report.json, runs/semtok/report/report.html" in shown
    page = Path("runs/semtok/report/report.html").read_text()
    assert "Item codes of given" in page
    assert "shoe" in page


def test_report_compares_and_its_file_says_what_json_says(data: Path) -> None:
    result = json.loads(good("report", "pq", "theirs.index.json", "--data", data, "--out", "r", "--json").stdout)
    assert [part["name"] for part in result["tokenizers"]] == ["pq", "theirs.index"]
    ours, theirs = result["tokenizers"]
    assert ours["reconstruction"]["views"].keys() == {"title", "brand"}
    assert theirs["numbers"]["reconstruction_error"] is None
    assert theirs["numbers"]["prefix_recall"] > 0
    assert theirs["collisions"]["items"] == 40
    written = json.loads(Path("r/report.json").read_text())
    assert written == {key: result[key] for key in ("tokenizers", "failed")}
    assert result["files"] == ["r/report.json", "r/report.html"]
    shown = good("report", "pq", "theirs.index.json", "--data", data, "--no-page", "--out", "s").stdout
    assert "theirs.index" in shown
    assert [path.name for path in Path("s").iterdir()] == ["report.json"]
    assert good("report", "pq", "--quiet", "--no-page").stdout == ""


def test_report_draws_figures_once_for_page_and_files(data: Path) -> None:
    result = json.loads(good("report", "pq", "--figures", "--out", "r", "--json").stdout)
    drawn = [Path(path) for path in result["files"][2:] if path.endswith(".svg")]
    assert [path.name for path in drawn] == ["use.svg", *(f"level-{level}.svg" for level in range(4)), "map.svg"]
    page = Path("r/report.html").read_text()
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        picture = path.read_text().partition("<title>")[2]
        assert picture in page


def test_report_draws_pictures_where_they_can_be_rendered(data: Path) -> None:
    pytest.importorskip("resvg_py", reason="semtok[plots] is not installed")
    result = json.loads(good("report", "pq", "--no-page", "--figures", "--out", "r", "--json").stdout)
    drawn = [Path(path) for path in result["files"][1:] if path.endswith(".png")]
    assert [path.name for path in drawn] == ["use.png", *(f"level-{level}.png" for level in range(4)), "map.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_conditions_decide_the_exit_code_after_the_report_is_written(data: Path) -> None:
    good("report", "pq", "--no-page", "--fail-if", "collision_rate>1", "--fail-if", "items<40")
    both = ("--fail-if", "collision_rate>0.99", "--fail-if", "levels==2")
    failed = run("report", "pq", "theirs.index.json", "--no-page", *both, "--out", "r")
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == (
        "Error: theirs.index: collision_rate is 1, which --fail-if collision_rate>0.99 forbids; "
        "theirs.index: levels is 2, which --fail-if levels==2 forbids"
    )
    assert len(json.loads(Path("r/report.json").read_text())["failed"]) == 2
    unknown = run("report", "theirs.index.json", "--no-page", "--fail-if", "neighbour_recall<0.1")
    assert unknown.exit_code == 1
    assert "neighbour_recall is not known, so --fail-if neighbour_recall<0.1 cannot be told" in unknown.stderr
    strange = run("report", "pq", "--fail-if", "speed>1")
    assert strange.exit_code == 2
    assert "reports have no 'speed'; they have items, levels" in strange.stderr


def test_notes_are_said_once(data: Path) -> None:
    result = good("report", "theirs.index.json", "theirs.index.json", "--no-page", "--out", "r")
    assert result.stderr.count("Without vectors") == 1
    assert "theirs.index, theirs.index (2): Without vectors" in result.stderr


def test_command_line_names_the_formats_there_are() -> None:
    assert tuple(FORMATS) == _FILES


@pytest.mark.parametrize("format", FORMATS)
def test_exported_codes_are_imported_whole(data: Path, format: str) -> None:
    said = json.loads(good("export", "pq", "--format", format, "--json").stdout)
    assert (said["file"], said["items"], said["levels"]) == (f"runs/exports/pq{FORMATS[format]}", 40, 4)
    made = json.loads(good("import", said["file"], "--out", "again", "--json").stdout)
    assert (made["format"], made["folder"], made["sizes"]) == (format, "again", [8] * 4)
    assert semtok.load_codes("again") == semtok.load_codes("pq")
    assert "40 items of 4 codes each are in again" in good("import", said["file"], "--out", "again").stdout


def test_import_of_anothers_file_takes_the_ids_of_the_data(data: Path) -> None:
    good("import", "theirs.index.json", "--data", data, "--sizes", "4,3", "--quiet")
    codes = semtok.load_codes("runs/semtok/theirs")
    assert (codes.sizes, codes.item_ids[7]) == ((4, 3), "i7")
    assert codes.codes[7].tolist() == [3, 1]
    assert "theirs" in good("report", "runs/semtok/theirs", "--no-page").stdout
    table = pl.DataFrame({"method": ["a/b", "c"], "item_id": [1, 1], "c0": [5, 6]})
    table.write_parquet("several.parquet")
    good("import", "several.parquet", "--method", "a/b", "--quiet")
    assert semtok.load_codes("runs/semtok/a-b").codes.tolist() == [[5]]


def test_index_of_decoded_vectors(data: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="semtok[faiss] is not installed")
    good("export", "pq", "--format", "faiss", "--metric", "l2", "--out", "x.faiss")
    index = faiss.read_index("x.faiss")
    decoded = semtok.load("pq").decode(semtok.load_codes("pq").codes)
    assert index.search(decoded[:5], 1)[0].max() == pytest.approx(0, abs=1e-4)


def test_language_model_with_a_token_for_every_code(data: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained("lm")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=2, **sizes)).save_pretrained("lm")
    shown = good("export", "pq", "--format", "hf", "--model", "lm", "--out", "out").stdout
    assert "40 items of 4 codes each are in out" in shown
    assert AutoTokenizer.from_pretrained("out").convert_tokens_to_ids("<d_7>") == 2 + 4 * 8 - 1
    assert AutoModelForCausalLM.from_pretrained("out").get_input_embeddings().weight.shape == (2 + 4 * 8, 8)
    good("import", "out/items.index.json", "--out", "again", "--quiet")
    assert semtok.load_codes("again") == semtok.load_codes("pq")
    said = json.loads(good("export", "again", "--format", "hf", "--model", "lm", "--out", "o2", "--json").stdout)
    assert (said["tokens"], said["vocabulary"]) == (32, 34)  # codes without a tokenizer get random directions


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report"], 2, "Missing argument"),
        (["report", "nowhere"], 1, "nowhere does not exist; expected a tokenizer folder or a file of codes"),
        (["report", "junk.pt"], 1, "junk.pt is a pickle, and nothing is unpickled here"),
        (["report", "pq", "--out", "theirs.index.json/x"], 1, "cannot write theirs.index.json/x/report.json"),
        (["report", "pq", "--embeddings", "nowhere"], 1, "nowhere is not a folder"),
        (["export", "nowhere"], 1, "nowhere does not exist"),
        (["export", "several.parquet"], 1, "holds the codes of 2 methods (x, y); give FILE.parquet:METHOD"),
        (["export", "pq", "--format", "csv"], 2, "'csv' is not one of index, grid"),
        (["export", "pq", "--format", "grid", "--out", "x.pt"], 1, "expected a name that ends in .safetensors or .npy"),
        (["export", "pq", "--format", "hf"], 2, "--format hf and --model NAME belong together"),
        (["export", "pq", "--model", "gpt2"], 2, "--format hf and --model NAME belong together"),
        (["export", "pq", "--metric", "l2"], 2, "--metric does not belong to --format index"),
        (["export", "alone", "--format", "faiss"], 1, "alone holds item codes but no tokenizer"),
        (
            ["export", "pq", "--format", "hf", "--model", "./nowhere"],
            2,
            "--model must be the name of a model on the hub, or a folder that exists",
        ),
        (["import", "nowhere.json"], 1, "nowhere.json is not a file; expected codes in one of the formats"),
        (["import", "junk.pt"], 1, "junk.pt is a pickle"),
        (["import", "several.parquet"], 1, "holds the codes of 2 methods; choose one of x, y"),
        (["import", "theirs.index.json", "--sizes", "2"], 1, "but level 0 has codes 0 to 1"),
        (["import", "theirs.index.json", "--format", "ccfrec"], 1, "is not of the format ccfrec"),
        (["import", "several.parquet", "--method", "x", "--data", "DATA"], 1, "they do not belong together"),
    ],
)
def test_refusals_are_one_sentence(data: Path, arguments: list, code: int, words: str) -> None:
    Path("junk.pt").write_bytes(b"\x80\x04K\x01.")
    ItemCodes(np.array([[0, 1]]), (2, 2), np.array(["a"])).save("alone")
    pl.DataFrame({"method": ["x", "y"], "item_id": ["a", "a"], "c0": [0, 1]}).write_parquet("several.parquet")
    result = run(*[data if argument == "DATA" else argument for argument in arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert code == 2 or result.stderr.splitlines()[-1].startswith("Error: ")
