"""H&M, Yelp and MIND from files in the layouts of their publishers, by name; samples of users."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

import semtok.cli
from recbase.data.catalog import load_dataset, prepare_dataset
from seqrec.item_content import Content, item_content

ALL = {"min_user": 0, "min_item": 0}


def histories(data):
    """User to raw item ids in order."""
    ids = data.item_ids.to_list()
    return {user: [ids[item - 1] for item in data.histories[row]] for row, user in enumerate(data.user_ids.to_list())}


def prepared(*words):
    result = CliRunner().invoke(semtok.cli.main, ["prepare", *map(str, words)])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def handm(folder):
    """Two customers, three articles, one bought twice on one day; pictures of two."""
    head = "t_dat,customer_id,article_id,price,sales_channel_id\n"
    rows = [
        "2018-09-20,000058a1,0663713001,0.0508,2", "2018-09-20,000058a1,0541518023,0.0305,2",
        "2018-09-20,000058a1,0541518023,0.0305,2", "2018-09-21,00007d2d,0505221004,0.0152,2",
        "2018-09-22,00007d2d,0663713001,0.0508,1", "2018-09-22,000058a1,0663713001,0.0508,1",
    ]  # fmt: skip
    (folder / "transactions_train.csv").write_text(head + "\n".join(rows) + "\n")
    names = "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,department_no"
    names += ",department_name,index_group_name,section_name,detail_desc\n"
    articles = [
        "0505221004,0505221,Dean hoodie,252,Sweater,Garment Upper body,5884,Jersey,Divided,Divided Basics,A hoodie",
        '0541518023,0541518,Rae Push,306,Bra,Underwear,1334,Bra,Ladieswear,Lingerie,"Lace, with padding"',
        "0663713001,0663713,Atlanta Push,283,Underwear body,Underwear,1338,Expressive,Ladieswear,Lingerie,",
        "0999999999,0999999,Never bought,283,Underwear body,Underwear,1338,Expressive,Ladieswear,Lingerie,",
    ]
    (folder / "articles.csv").write_text(names + "\n".join(articles) + "\n")
    for number in ("0663713001", "0541518023"):
        (folder / "images" / number[:3]).mkdir(parents=True)
        (folder / "images" / number[:3] / f"{number}.jpg").write_bytes(b"a picture")


def test_handm_by_name(tmp_path):
    handm(tmp_path)
    out = tmp_path / "hm"
    said = prepared("hm", "--from", tmp_path, "--min-user", 0, "--min-item", 0, "--out", out)
    data = load_dataset(out)
    assert data.name == "hm"
    assert histories(data) == {
        "000058a1": ["0663713001", "0541518023", "0541518023", "0663713001"],  # repeated purchases stay
        "00007d2d": ["0505221004", "0663713001"],
    }
    assert data.items["title"].to_list() == ["Dean hoodie", "Rae Push", "Atlanta Push"]
    assert data.items["categories"].to_list()[1] == "Ladieswear > Lingerie > Underwear"
    assert data.items["department"].to_list() == ["Jersey", "Bra", "Expressive"]
    assert data.items["image_path"].to_list() == [None, "images/054/0541518023.jpg", "images/066/0663713001.jpg"]
    assert data.views == ["title", "categories", "description", "department", "product_type"]
    assert data.manifest["filters"]["repeats"] is True
    assert data.manifest["source"]["published"] == "hm"
    assert "2 of 4 items have a picture in" in said
    assert str(tmp_path) not in (out / "dataset.json").read_text()
    once = prepare_dataset("hm", from_file=tmp_path / "transactions_train.csv", duplicates="first", **ALL)
    assert histories(once)["000058a1"] == ["0663713001", "0541518023"]
    found, _ = item_content(("ids", "pictures"), data, Content(image_root=str(tmp_path)), tmp_path / "cache")
    assert found.pictures == [None, *(tmp_path / path for path in data.items["image_path"].to_list()[1:])]
    assert found.pictures[1].read_bytes() == b"a picture"


def test_handm_without_its_other_files(tmp_path):
    handm(tmp_path)
    (tmp_path / "articles.csv").unlink()
    data = prepare_dataset("hm", from_file=tmp_path, **ALL)
    assert data.items.columns == ["item_id"]
    (tmp_path / "transactions_train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no transactions_train\.csv"):
        prepare_dataset("hm", from_file=tmp_path, **ALL)


def yelp(folder, photos="yelp_photos"):
    reviews = [
        {"review_id": f"r{at}", "user_id": user, "business_id": shop, "stars": 5.0, "text": "x", "date": date}
        for at, (user, shop, date) in enumerate(
            [("u", "b2", "2018-07-07 22:09:11"), ("u", "b1", "2017-07-07 22:09:11"), ("v", "b3", "2019-01-01 00:00:00")]
        )
    ]
    (folder / "yelp_academic_dataset_review.json").write_text("\n".join(map(json.dumps, reviews)))
    shops = [
        {"business_id": "b1", "name": "Anna's", "city": "Ulm", "categories": "Food, Pizza", "hours": {"Monday": "8-9"}},
        {"business_id": "b2", "name": "Bob's", "city": "Bonn", "categories": "Bars", "attributes": None},
        {"business_id": "b3", "name": "Carl's", "city": "Rom", "categories": None, "attributes": {"WiFi": "no"}},
    ]
    (folder / "yelp_academic_dataset_business.json").write_text("\n".join(map(json.dumps, shops)))
    pictures = [
        {"photo_id": "lost", "business_id": "b1", "caption": "", "label": "food"},
        {"photo_id": "-p1", "business_id": "b1", "caption": "Pie", "label": "food"},
        {"photo_id": "p2", "business_id": "b1", "caption": "", "label": "inside"},
        {"photo_id": "p3", "business_id": "b3", "caption": "", "label": "drink"},
    ]
    place = folder / photos
    (place / "photos").mkdir(parents=True)
    (place / "photos.json").write_text("\n".join(map(json.dumps, pictures)))
    for name in ("-p1", "p2", "p3"):
        (place / "photos" / f"{name}.jpg").write_bytes(name.encode())


@pytest.mark.parametrize("photos", ["yelp_photos", "."])
def test_yelp_by_name(tmp_path, photos):
    yelp(tmp_path, photos)
    said = prepared("yelp", "--from", tmp_path, "--min-user", 0, "--min-item", 0, "--out", tmp_path / "out")
    data = load_dataset(tmp_path / "out")
    assert (data.name, histories(data)) == ("yelp", {"u": ["b1", "b2"], "v": ["b3"]})
    assert data.views == ["title", "categories"]
    assert data.items["title"].to_list() == ["Anna's", "Bob's", "Carl's"]
    start = "" if photos == "." else f"{photos}/"
    assert data.items["image_path"].to_list() == [f"{start}photos/-p1.jpg", None, f"{start}photos/p3.jpg"]
    assert (tmp_path / data.items["image_path"][0]).read_bytes() == b"-p1"
    assert "2 of 3 items have a picture" in said


def test_yelp_without_photos(tmp_path):
    yelp(tmp_path)
    (tmp_path / "yelp_photos" / "photos.json").unlink()
    assert "image_path" not in prepare_dataset("yelp", from_file=tmp_path, **ALL).items.columns
    with pytest.raises(FileNotFoundError, match=r"has no yelp_academic_dataset_review\.json"):
        prepare_dataset("yelp", from_file=tmp_path / "yelp_photos", **ALL)


def mind(folder, part, lines, items):
    (folder / part).mkdir()
    (folder / part / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    rows = [f"N{item}\tnews\tlocal{item}\tTitle {item}\tText {item}\thttp://x\t[]\t[]" for item in items]
    (folder / part / "news.tsv").write_text("\n".join(rows) + "\n")


def test_mind_by_name_reads_its_parts_together(tmp_path):
    mind(tmp_path, "MINDlarge_dev", ["1\tU1\t11/15/2019 8:36:57 AM\tN1 N2\tN3-0 N7-1 N6-1"], [1, 2, 3, 6, 7])
    mind(
        tmp_path,
        "MINDlarge_train",
        ["1\tU1\t11/13/2019 8:36:57 AM\tN1 N2\tN3-0 N4-1 ", "2\tU2\t11/12/2019 6:11:30 PM\t\tN1-1 N2-0"],
        [1, 2, 3, 4],
    )
    mind(tmp_path, "MINDlarge_test", ["1\tU1\t11/20/2019 8:36:57 AM\tN1 N2\tN3 N7"], [1, 9])
    out = tmp_path / "out"
    prepared("mind", "--from", tmp_path, "--min-user", 0, "--min-item", 0, "--out", out)
    data = load_dataset(out)
    assert data.name == "mind"
    assert histories(data) == {"U1": ["N1", "N2", "N4", "N7", "N6"], "U2": ["N1"]}
    assert data.items["title"].to_list() == [f"Title {item}" for item in (1, 2, 4, 6, 7)]
    assert data.manifest["source"]["files"] == ["MINDlarge_train/behaviors.tsv", "MINDlarge_dev/behaviors.tsv"]
    one = prepare_dataset("mind", from_file=tmp_path / "MINDlarge_train", **ALL)
    assert histories(one)["U1"] == ["N1", "N2", "N4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"has no behaviors\.tsv, and no folder in it has one that names clicks"
    ):
        prepare_dataset("mind", from_file=tmp_path / "empty", **ALL)


def test_sets_that_no_program_fetches_say_where_they_are(tmp_path):
    for name, page in (("hm", "kaggle.com"), ("yelp", "yelp.com"), ("mind", "msnews.github.io")):
        with pytest.raises(
            ValueError, match=f"{name} cannot be fetched by a program: .*{page}.*their folder with --from"
        ):
            prepare_dataset(name)
    with pytest.raises(ValueError, match="hm has no categories, got 'Shoes'"):
        prepare_dataset("hm", category="Shoes", from_file=tmp_path)


# --------------------------------------------------------------------------------------------------------- samples


def world(users=40):
    """Every user has five events, on items that fewer and fewer of them share."""
    return pl.DataFrame(
        {
            "user_id": [user for user in range(users) for _ in range(5)],
            "item_id": [(user * step) % 20 for user in range(users) for step in range(5)],
            "timestamp": [step for _ in range(users) for step in range(5)],
        }
    )


def test_users_drawn_before_or_after_filtering():
    settings = {"min_user": 3, "min_item": 6, "duplicates": "keep", "seed": 3}
    full = prepare_dataset(world(), **settings)
    before = prepare_dataset(world(), sample_users=10, **settings | {"min_item": 3})
    assert before.n_users <= 10
    after = prepare_dataset(world(), sample_users=10, sample_after=True, **settings)
    assert after.n_users == 10  # so many are left
    assert set(after.user_ids) <= set(full.user_ids)
    assert all(histories(after)[user] == histories(full)[user] for user in after.user_ids.to_list())
    said = after.manifest
    assert said["filters"] | {"sample_users": 10, "sample_seed": 3, "sample_after": True} == said["filters"]
    dropped = said["dropped"]
    assert dropped["other_users"] == full.n_users - 10
    left = said["events_read"] - dropped["rare_events"] - dropped["events_of_other_users"]
    assert left == said["counts"]["interactions"] == after.histories.lengths.sum()
    again = prepare_dataset(world(), sample_users=10, sample_after=True, **settings)
    assert again.hash == after.hash
    other = prepare_dataset(world(), sample_users=10, sample_after=True, **settings | {"seed": 4})
    assert set(other.user_ids) != set(after.user_ids)
    with pytest.raises(ValueError, match="--sample-after says when a sample is drawn, and --sample-users names none"):
        prepare_dataset(world(), sample_after=True)


def test_the_command_says_how_many_users_were_not_drawn(tmp_path):
    world().write_csv(tmp_path / "events.csv")
    words = ["--sample-users", 10, "--min-item", 0, "--min-user", 0, "--out", tmp_path / "out"]
    assert "- of 30 users not drawn" in prepared(tmp_path / "events.csv", *words)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["dropped"]["other_users"] == 30
