"""Reports side by side: named numbers, conditions, subjects of folders and files, and the HTML page."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import semtok
from semtok.catalogue.append import append_items
from semtok.catalogue.fit import fit_codes
from semtok.codes import ItemCodes
from semtok.content.embeddings import Embeddings
from semtok.exchange.formats import write_codes
from semtok.quality import code_report
from semtok.report.measures import MEASURES, Condition, numbers, print_comparison, print_report, shape_of
from semtok.report.page import comparison_page, nearest_by_codes, prefix_tree
from semtok.report.sources import examine, item_titles, open_subjects

IDS = np.array([f"i{row}" for row in range(60)])
ITEMS = pl.DataFrame(
    {
        "item_id": IDS,
        "title": [None if row == 3 else f"Thing <b>{row}</b> & more" for row in range(60)],
        "brand": [f"maker {row % 4}" for row in range(60)],
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, a tokenizer of one view and one of two, codes alone, and a table of two published methods."""
    root = tmp_path_factory.mktemp("report")
    draw = np.random.default_rng(0)
    views = {"title": draw.normal(size=(60, 6)), "brand": draw.normal(size=(60, 4))}
    made = Embeddings({name: part.astype(np.float32) for name, part in views.items()}, {}, IDS)
    made.save(root / "vectors")
    noted = {"embeddings_folder": str(root / "vectors")}
    rq = semtok.ResidualQuantizer(levels=2, codebook_size=8, engine="torch")
    fit_codes(rq, made, per_view=False, unique="matching", made_from=noted).save(root / "rq")
    pq = semtok.ProductQuantizer(levels=2, codebook_size=8, engine="torch")
    fit_codes(pq, made, unique="none", made_from=noted).save(root / "pq")
    table = draw.integers(0, 4, size=(60, 3))
    ItemCodes(table, (4, 4, 4), IDS).save(root / "alone")
    columns = {f"c{level}": table[:, level] for level in range(3)}
    both = [pl.DataFrame({"method": [name] * 60, "item_id": IDS, **columns}) for name in ("them/one", "them/two")]
    pl.concat(both).write_parquet(root / "published.parquet")
    write_codes(ItemCodes(table, (4, 4, 4), IDS), root / "x.index.json", "index")
    return root


# --------------------------------------------------------------------------------------- numbers


def small_report() -> dict:
    codes = ItemCodes(np.array([[0, 0], [0, 0], [0, 0], [0, 1], [2, 1], [2, 0]]), (4, 2), np.arange(6))
    vectors = np.arange(12, dtype=float).reshape(6, 2)
    return code_report(codes, vectors, vectors * 0.5)


def test_numbers_of_a_report_by_hand() -> None:
    found = numbers(small_report())
    assert found.keys() == MEASURES.keys()
    assert (found["items"], found["levels"], found["bits"], found["distinct"]) == (6, 2, 3, 4)
    assert (found["collision_items"], found["collision_rate"], found["largest_group"]) == (3, 0.5, 3)
    assert found["surplus_rate"] == pytest.approx(1 / 3)
    assert (found["utilisation"], found["utilisation_min"], found["dead_codes"]) == (0.75, 0.5, 2)
    assert found["perplexity_min"] == small_report()["levels"][0]["perplexity"]
    assert found["neighbour_recall"] == found["prefix_recall"] == 1
    assert found["reconstruction_error"] > 0
    unknown = ("collision_rate_before", "moved", "moved_share", "distortion_added", "fit_seconds", "drift_ratio")
    assert all(found[name] is None for name in unknown)


def test_numbers_before_and_after_codes_were_made_unique() -> None:
    report = small_report()
    report["resolving"] = {
        "before": {"items": 3, "distinct": 3, "largest": 2},
        "moved": 2,
        "moved_share": 1 / 3,
        "distortion": {"relative": 0.1},
    }
    report["seconds"] = {"fit": 1.5, "encode": 0.5}
    found = numbers(report)
    assert (found["collision_rate_before"], found["surplus_rate_before"]) == (0.5, 0.5)
    assert (found["largest_group_before"], found["moved"], found["distortion_added"]) == (2, 2, 0.1)
    assert (found["fit_seconds"], found["encode_seconds"]) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("collision_rate>0.01", True),
        ("collision_rate > 0.5", False),
        ("collision_rate>=0.5", True),
        ("collision_rate<=0.5", True),
        ("collision_rate<5e-1", False),
        ("dead_codes==2", True),
        ("dead_codes!=2", False),
        ("fit_seconds>60", None),
    ],
)
def test_conditions(text: str, holds: bool | None) -> None:
    condition = Condition.parse(text)
    assert condition.holds(small_report()) is holds
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("collision_rate", "is not a condition; expected a name, one of <= >= == != < > and a number"),
        ("collision_rate>much", "is not a condition"),
        ("collision_rate>nan", "is not a condition"),
        ("collision_rate>1>2", "is not a condition"),
        ("speed>1", "reports have no 'speed'; they have items, levels, .*collision_rate, .*encode_seconds"),
    ],
)
def test_other_conditions_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Condition.parse(text)


def test_shapes_in_words() -> None:
    assert shape_of([256, 256, 256]) == "3x256"
    assert shape_of([256, 256, 7]) == "2x256 + 1x7"


def test_tables_in_the_terminal(capsys: pytest.CaptureFixture, folder: Path) -> None:
    subjects = examine([folder / "rq", folder / "alone"], embeddings=folder / "vectors")
    print_comparison({subject.name: subject.report for subject in subjects})
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    row = next(line for line in lines if line[:2] == ["alone", "3x4"])
    assert row[-4:-2] == ["–", "–"]  # no decoder, so neither error nor recall by decoded vectors
    assert any(line[:3] == ["rq", "2x8", "0.00%"] for line in lines)
    print_report(subjects[0].report)
    shown = capsys.readouterr().out
    assert "collision rate before" in shown
    assert "prefix recall@10" in shown


# --------------------------------------------------------------------------------------- subjects


def test_subjects_of_folders_and_files(folder: Path) -> None:
    paths = [folder / "rq", folder / "alone", folder / "x.index.json", folder / "published.parquet"]
    found = open_subjects(paths)
    assert [subject.name for subject in found] == ["rq", "alone", "x.index", "them/one", "them/two"]
    assert [subject.method for subject in found] == ["rq", None, None, None, None]
    assert found[1].codes == found[2].codes
    one = open_subjects([f"{folder}/published.parquet:them/two"])
    assert [subject.name for subject in one] == ["them/two"]
    assert [subject.name for subject in open_subjects([folder / "rq", folder / "rq"])] == ["rq", "rq (2)"]
    (folder / "else").mkdir(exist_ok=True)
    ItemCodes(np.array([[0]]), (1,), np.array([7])).save(folder / "else" / "rq")
    names = [subject.name for subject in open_subjects([folder / "rq", folder / "else" / "rq"])]
    assert names == [f"{folder.name}/rq", "else/rq"]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; expected a tokenizer folder or a file of"):
        open_subjects([folder / "nowhere"])
    with pytest.raises(ValueError, match="has no method 'them/three'"):
        open_subjects([f"{folder}/published.parquet:them/three"])


def test_what_is_measured_depends_on_what_is_there(folder: Path) -> None:
    rq, pq, alone = examine([folder / "rq", folder / "pq", folder / "alone"], ITEMS)
    assert numbers(rq.report)["collision_rate"] == 0
    assert numbers(rq.report)["collision_rate_before"] == rq.report["before"]["collisions"]["rate"] > 0
    assert rq.report["seconds"].keys() >= {"fit", "encode", "report"}
    assert pq.report["reconstruction"]["views"].keys() == {"title", "brand"}
    assert numbers(pq.report)["collision_rate_before"] is None
    assert "reconstruction" not in alone.report
    assert 0 < numbers(alone.report)["prefix_recall"] < 1
    assert alone.notes == [
        "Without a decoder: no reconstruction error, no neighbours by decoded vectors.",
        "Neighbours are those by the vectors of rq; these codes were made from others.",
    ]
    assert [row["category"] for row in alone.report["agreement"]] == ["brand"]


def test_collisions_before_are_measured_where_the_report_does_not_say(folder: Path, tmp_path: Path) -> None:
    tokenizer, codes = semtok.load(folder / "rq"), semtok.load_codes(folder / "rq")
    manifest = json.loads((folder / "rq" / "semtok.json").read_text())
    tokenizer.save(tmp_path / "rq", codes, unique="matching", made_from=manifest["made_from"])
    (again,) = examine([tmp_path / "rq"])
    (known,) = examine([folder / "rq"])
    assert again.report["before"]["collisions"] == known.report["before"]["collisions"] | {
        "histogram": again.report["before"]["collisions"]["histogram"]
    }


def test_items_that_were_appended_are_told_apart(folder: Path, tmp_path: Path) -> None:
    new = np.random.default_rng(1).normal(3, 1, size=(3, 10)).astype(np.float32)
    append_items(folder / "rq", new, [f"new {row}" for row in range(3)], out=tmp_path / "rq")
    (longer,) = examine([tmp_path / "rq"])
    (before,) = examine([folder / "rq"])
    assert (longer.report["items"], before.report["items"]) == (63, 60)
    assert longer.report["reconstruction"] == before.report["reconstruction"]
    assert "3 items were appended after the fit" in longer.notes[0]
    assert numbers(longer.report)["drift_ratio"] > 1.5
    assert numbers(before.report)["drift_ratio"] is None
    for name in ("collision_rate_before", "surplus_rate_before", "largest_group_before"):  # of the items of the fit
        assert numbers(longer.report)[name] == numbers(before.report)[name]
    text = comparison_page([longer, before])
    assert "generations" in Checked(text).ids
    assert f"{numbers(longer.report)['drift_ratio']:.2f}" in text


def test_reports_without_vectors_say_so(folder: Path, tmp_path: Path) -> None:
    (alone,) = examine([folder / "alone"])
    assert alone.notes == ["Without vectors: no reconstruction error, no neighbours, no map."]
    assert numbers(alone.report)["prefix_recall"] is None
    tokenizer, codes = semtok.load(folder / "rq"), semtok.load_codes(folder / "rq")
    tokenizer.save(tmp_path / "gone", codes, made_from={"embeddings_folder": "nowhere", "embeddings": "x"})
    tokenizer.save(tmp_path / "changed", codes, made_from={"embeddings_folder": str(folder / "vectors")})
    tokenizer.save(tmp_path / "silent", codes)
    gone, changed, silent = examine([tmp_path / "gone", tmp_path / "changed", tmp_path / "silent"])
    assert "nowhere, are not there (--embeddings says where)" in gone.notes[0]
    assert "have changed since it was fitted" in changed.notes[0]
    assert "does not say which vectors" in silent.notes[0]
    assert all(subject.vectors is None and subject.decoded is not None for subject in (gone, changed, silent))


def test_parts_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alone: the codes are of 60 items such as 'i0', 'i1', 'i2' but the data has"):
        examine([folder / "alone"], ITEMS.head(5))
    np.save(tmp_path / "other.npy", np.eye(60, 3))
    with pytest.raises(ValueError, match=r"has 60 rows and does not say which items they are.*--in-order"):
        examine([folder / "alone"], embeddings=tmp_path / "other.npy")
    narrow = {"title": np.eye(60, 3, dtype=np.float32), "brand": np.eye(60, 4, dtype=np.float32)}
    Embeddings(narrow, {}, IDS).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="rq: the vectors have 7 columns but it was fitted on 10"):
        examine([folder / "rq"], embeddings=tmp_path / "narrow")


def test_titles_of_items() -> None:
    found = item_titles(ITEMS)
    assert found["i0"] == "Thing <b>0</b> & more"
    assert found["i3"] == "maker 3"  # without a title
    assert item_titles(pl.DataFrame({"item_id": [1, 2], "price": [3, 4]})) == {}


# --------------------------------------------------------------------------------------- the page


def test_nearest_items_by_shared_prefix() -> None:
    table = np.array([[1, 2, 3], [9, 2, 3], [1, 2, 0], [1, 0, 3], [1, 2, 3], [1, 0, 0]])
    codes = ItemCodes(table, (10, 3, 4), np.arange(6))
    assert nearest_by_codes(codes, 0, 4) == [(4, 3), (2, 2), (3, 1), (5, 1)]
    assert nearest_by_codes(codes, 0, 50)[-1] == (1, 0)
    assert len(nearest_by_codes(codes, 0, 50)) == 5


def test_tree_has_every_item_once() -> None:
    table = np.random.default_rng(0).integers(0, 5, size=(200, 4))
    codes = ItemCodes(table, (5, 5, 5, 5), np.arange(200))
    tree = prefix_tree(codes, widths=(3, 2), items=2)
    assert (tree["items"], len(tree["branches"]), tree["more"]) == (200, 3, 2)
    counts = np.sort(np.bincount(table[:, 0]))[::-1]
    assert [branch["items"] for branch in tree["branches"]] == counts[:3].tolist()
    assert tree["more_items"] == counts[3:].sum()
    for branch in tree["branches"]:
        assert sum(leaf["items"] for leaf in branch["branches"]) + branch["more_items"] == branch["items"]
        for leaf in branch["branches"]:
            assert len(leaf["rows"]) == min(2, leaf["items"])
            assert (table[leaf["rows"], :2] == [branch["code"], leaf["code"]]).all()


class Checked(HTMLParser):
    """Reads a page and remembers what matters: open elements, links, what would be loaded, headings, figures."""

    VOID = frozenset({"meta", "path", "rect", "wbr", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.headings = [], set(), set(), [], []
        self.figures, self.unnamed, self.details, self.text = 0, 0, 0, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links |= {given["href"]} if "href" in given else set()
        self.loads += [name for name in ("src", "srcset", "data", "action") if name in given]
        self.loads += [tag] if tag in {"script", "link", "iframe", "img", "object", "embed"} else []
        self.headings += [tag] if tag in {"h1", "h2", "h3", "h4"} else []
        self.figures += tag == "svg"
        self.unnamed += tag == "svg" and not given.get("aria-label")
        self.details += tag == "details"

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_whole_loads_nothing_and_names_everything(folder: Path) -> None:
    paths = [folder / "rq", folder / "pq", f"{folder}/published.parquet:them/one"]
    subjects = examine(paths, ITEMS)
    text = comparison_page(subjects, item_titles(ITEMS), "Codes of <things>")
    page = Checked(text)
    assert page.loads == []
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {link[1:] for link in page.links} <= page.ids
    assert page.ids >= {
        "glance",
        "collisions",
        "use",
        "levels",
        "map",
        "tree",
        "nearest",
        "categories",
        "notes",
        "main",
    }
    assert page.headings.count("h1") == 1
    assert page.unnamed == 0
    assert page.figures == 3 + (2 + 4 + 3) + 3  # use; a level each; a map each
    words = "".join(page.text)
    assert "Codes of <things>" in words
    assert "Thing <b>7</b> & more" in words  # as text, never as markup
    assert "<b>" not in text
    for subject in subjects:
        assert subject.name in words
        assert f"{numbers(subject.report)['prefix_recall']:.3f}" in words
    assert "matching" in words
    assert 'lang="en"' in text
    assert "default-src 'none'" in text


def test_page_is_the_same_for_the_same_seed_and_shares_one_map(folder: Path) -> None:
    subjects = examine([folder / "rq", f"{folder}/published.parquet:them/one"])
    first, second = (comparison_page(subjects, seed=1) for _ in range(2))
    assert first == second
    points = [
        sorted(part for path in map_.split('class="dot') if 'd="' in path for part in path.split('"')[2].split("M")[1:])
        for map_ in first.split('aria-label="Map of')[1:3]
    ]
    assert len(points[0]) == 60
    assert points[0] == points[1]


def test_page_without_vectors_titles_or_common_items(folder: Path, tmp_path: Path) -> None:
    other = ItemCodes(np.array([[0, 1], [2, 1]]), (3, 2), np.array(["x", "y"]))
    other.save(tmp_path / "other")
    page = Checked(comparison_page(examine([folder / "alone", tmp_path / "other"])))
    assert page.ids.isdisjoint({"map", "nearest", "categories"})
    assert "2 to 60 items" in "".join(page.text)
    one = ItemCodes(np.array([[0]]), (1,), np.array([7]))
    one.save(tmp_path / "one")
    assert "item 7" in "".join(Checked(comparison_page(examine([tmp_path / "one"]))).text)
    with pytest.raises(ValueError, match="nothing to compare"):
        comparison_page([])


def test_many_levels_fit_on_the_page(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 256, size=(300, 32))
    ItemCodes(table, (256,) * 32, np.arange(300)).save(tmp_path / "rpg")
    text = comparison_page(examine([tmp_path / "rpg"]))
    page = Checked(text)
    assert page.figures == 1 + 8
    assert "24 more levels not drawn" in "".join(page.text)


def test_titles_cannot_leave_their_place_in_the_page(folder: Path) -> None:
    bad = "<script>alert(1)</script> & \"quoted\" 'x' \u202egnp.exe\x1b[31m\x00"
    subjects = examine([folder / "alone"])
    titles = dict.fromkeys(subjects[0].codes.item_ids.tolist(), bad)
    subjects[0].name = bad
    page = comparison_page(subjects, titles, bad)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quoted&#34;" in page
    assert not {"\u202e", "\x1b", "\x00"} & set(page)
    assert "\\u202egnp.exe\\x1b[31m\\x00" in page


def test_pngs_are_the_drawings_of_the_page(folder: Path) -> None:
    pytest.importorskip("resvg_py", reason="needs the extra plots")
    from semtok.report.drawings import draw

    (drawn,) = draw(examine([folder / "alone"]))
    files = drawn.files(png=True)
    assert {name.partition(".")[0] for name in files if name.endswith(".png")} == {
        name.partition(".")[0] for name in files if name.endswith(".svg")
    }
    with Image.open(io.BytesIO(files["use.png"])) as picture:
        assert picture.width == 1080
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    # Paper, both colours of the bars, and the ink of the labels: a missing font would leave the last one out.
    assert {(255, 255, 255), (0x2F, 0x6D, 0xB3), (0xC0, 0x65, 0x15), (0x56, 0x62, 0x73)} <= colours
