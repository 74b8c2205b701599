"""A shop's own export: spellings of tables, several files, what is dropped and what is said, formats of the field."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import recbase
import semtok.cli
from recbase.data.catalog import prepare_dataset
from recbase.data.preparation import Rules, prepared_tables
from recbase.data.readers import read, read_all
from recbase.data.tables.raw import RawData

ALL = {"min_user": 0, "min_item": 0}
ROWS = [("u1", "a", 30), ("u2", "b", 10), ("u1", "b", 20), ("u2", "c", 40), ("u1", "c", 50)]


def histories(data):
    """User to raw item ids in order."""
    ids = data.item_ids.to_list()
    return {user: [ids[item - 1] for item in data.histories[row]] for row, user in enumerate(data.user_ids.to_list())}


WANTED = {"u1": ["b", "a", "c"], "u2": ["b", "c"]}


def text(separator, header="user_id,item_id,timestamp", rows=ROWS):
    lines = [header.replace(",", separator)] if header else []
    return "\n".join([*lines, *(separator.join(map(str, row)) for row in rows)]) + "\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header", ["user_id,item_id,timestamp", '"user_id","item_id","timestamp"', " user_id , Item ID ,timestamp"]
)
@pytest.mark.parametrize("opening", ["", "\ufeff"])
def test_separators_and_headers_are_told(tmp_path, separator, header, opening):
    (tmp_path / "e.csv").write_text(opening + text(separator, header), encoding="utf-8")
    assert histories(prepare_dataset(tmp_path / "e.csv", **ALL)) == WANTED


@pytest.mark.parametrize(("separator", "given_"), [("\t", None), (" ", " "), (",", ","), (":", None)])
def test_tables_without_a_header(tmp_path, separator, given_):
    rows = [(user, item, 5, time) for user, item, time in ROWS]
    (tmp_path / "u.data").write_text(text(separator, "", rows))
    header = ["user", "item", "rating", "time"]
    if separator == ":":
        with pytest.raises(ValueError, match="has 1 fields in its first line but the header names 4: user"):
            prepare_dataset(tmp_path / "u.data", header=header, **ALL)
        return
    data = prepare_dataset(tmp_path / "u.data", header=header, separator=given_, **ALL)
    assert histories(data) == WANTED


def test_a_header_is_for_tables_of_text(tmp_path):
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="separator and header are for tables of text"):
        prepare_dataset(tmp_path / "e.parquet", format="parquet", header=["user"])


@pytest.mark.parametrize(
    ("spelled", "time_format"),
    [
        ([str(1_700_000_000 + s) for s in (30, 10, 20, 40, 50)], None),
        ([str((1_700_000_000 + s) * 1000 + 7) for s in (30, 10, 20, 40, 50)], None),
        ([str((1_700_000_000 + s) * 10**6) for s in (30, 10, 20, 40, 50)], None),
        ([str((1_700_000_000 + s) * 10**9 + 1) for s in (30, 10, 20, 40, 50)], None),
        ([f"2024-05-01T10:00:{s}Z" for s in (30, 10, 20, 40, 50)], None),
        ([f"2024-05-01T10:00:{s}+02:00" for s in (30, 10, 20, 40, 50)], None),
        ([f"2024-05-01 10:00:00.{s}" for s in (300, 100, 200, 400, 500)], None),
        ([f"2024-05-{s}" for s in ("03", "01", "02", "04", "05")], None),
        ([f"01.{s}.2024" for s in ("03", "01", "02", "04", "05")], "%d.%m.%Y"),
    ],
)
def test_times_of_every_form_give_one_order(tmp_path, spelled, time_format):
    rows = [(user, item, time) for (user, item, _), time in zip(ROWS, spelled, strict=True)]
    (tmp_path / "e.csv").write_text(text(",", rows=rows))
    assert histories(prepare_dataset(tmp_path / "e.csv", time_format=time_format, **ALL)) == WANTED


def test_several_files_and_patterns_are_one_set(tmp_path):
    (tmp_path / "jan.csv").write_text(text(",", rows=ROWS[:2]))
    with gzip.open(tmp_path / "feb.csv.gz", "wt") as file:
        file.write(text(";", rows=ROWS[2:]))
    given_ = [tmp_path / "jan.csv", tmp_path / "feb.csv.gz"]
    assert histories(prepare_dataset(given_, **ALL)) == WANTED
    assert histories(prepare_dataset(str(tmp_path / "*.csv*"), **ALL)) == WANTED
    data = prepare_dataset(given_, **ALL)
    assert data.manifest["source"]["files"] == ["jan.csv", "feb.csv.gz"]
    with pytest.raises(FileNotFoundError, match="no file is of the pattern"):
        prepare_dataset(str(tmp_path / "*.tsv"))
    with pytest.raises(ValueError, match="no file of events is given"):
        read_all([])
    (tmp_path / "mar.csv").write_text(text(",", rows=[(1, 2, 60)]))  # ids of numbers beside ids of text
    assert histories(prepare_dataset([*given_, tmp_path / "mar.csv"], **ALL)) == WANTED | {"1": ["2"]}


def test_files_without_times_follow_each_other(tmp_path):
    (tmp_path / "1.txt").write_text("u a b\nv c\n")
    (tmp_path / "2.txt").write_text("u c\nv a\n")
    data = prepare_dataset([tmp_path / "1.txt", tmp_path / "2.txt"], **ALL)
    assert histories(data) == {"u": ["a", "b", "c"], "v": ["c", "a"]}


def test_events_without_user_or_item_are_refused_or_counted(tmp_path):
    (tmp_path / "e.csv").write_text(text(",") + ",a,60\nu2,,70\n")
    with pytest.raises(ValueError, match=r"user_id of .* is null in 1 of 7 rows"):
        prepare_dataset(tmp_path / "e.csv", **ALL)
    data = prepare_dataset(tmp_path / "e.csv", drop_null=True, **ALL)
    assert histories(data) == WANTED
    assert "2 of 7 rows of" in data.manifest["reading"][0]["sentence"]
    assert data.manifest["reading"][0]["count"] == 2


REPEATED = [("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("v", "b", 4)]


@pytest.mark.parametrize(
    ("duplicates", "wanted"),
    [(None, ["a", "b"]), ("first", ["a", "b"]), ("last", ["b", "a"]), ("keep", ["a", "b", "a"])],
)
def test_repeated_events(tmp_path, duplicates, wanted):
    (tmp_path / "e.csv").write_text(text(",", rows=REPEATED))
    data = prepare_dataset(tmp_path / "e.csv", duplicates=duplicates, **ALL)
    assert histories(data)["u"] == wanted
    assert data.manifest["dropped"]["repeated_events"] == 3 - len(wanted)


def test_repeats_may_be_refused_and_do_not_contradict(tmp_path):
    (tmp_path / "e.csv").write_text(text(",", rows=REPEATED))
    with pytest.raises(ValueError, match="1 events repeat a user and an item, such as user 'u' and item 'a'"):
        prepare_dataset(tmp_path / "e.csv", duplicates="refuse", **ALL)
    with pytest.raises(ValueError, match="repeats keeps repeated events and duplicates=last does not"):
        prepare_dataset(tmp_path / "e.csv", duplicates="last", repeats=True, **ALL)


def test_repeated_rows_of_the_items(tmp_path):
    events, items = tmp_path / "e.csv", tmp_path / "i.csv"
    events.write_text(text(","))
    items.write_text("item_id,title\na,old\nb,bee\na,new\nc,sea\n")
    with pytest.raises(ValueError, match="has 1 item ids more than once, such as a"):
        prepare_dataset(events, items=items, **ALL)
    for duplicates, title in (("first", "old"), ("last", "new")):
        data = prepare_dataset(events, items=items, duplicates=duplicates, **ALL)
        assert dict(zip(data.item_ids, data.items["title"], strict=True))["a"] == title
        assert "1 of 4 rows of the items have an id that is there already" in data.manifest["reading"][-1]["sentence"]


def test_text_columns_are_named(tmp_path):
    events, items = tmp_path / "e.csv", tmp_path / "i.csv"
    events.write_text(text(","))
    items.write_text("item_id,Product Name,Maker,shop\na,Ant trap,Ann,x\nb,Bee hive,Bob,y\nc,Sea salt,Cy,x\n")
    with pytest.warns(UserWarning, match=r"text columns are Product Name, Maker, shop: name them with --views Product"):
        assert prepare_dataset(events, items=items, **ALL).views == []
    data = prepare_dataset(events, items=items, columns={"title": "Product Name", "brand": "Maker"}, **ALL)
    assert data.views == ["title", "brand"]
    assert data.items["title"].to_list() == ["Ant trap", "Bee hive", "Sea salt"]
    assert data.manifest["texts"] == {"title": 3, "brand": 3}
    other = prepare_dataset(events, items=items, columns={"title": "Product Name", "where": "shop"}, **ALL)
    assert other.views == ["title", "where"]
    with pytest.raises(ValueError, match="has no column 'Name' to take as title; its columns are item_id, Product"):
        prepare_dataset(events, items=items, columns={"title": "Name"}, **ALL)
    with pytest.raises(ValueError, match="columns names title of the items, but no table of items was given"):
        prepare_dataset(events, columns={"title": "Name"}, **ALL)


@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_sample_of_users_is_seeded_and_nested(count, seed, salt):
    """The same users whatever the order of the file; a smaller sample is a part of a larger one."""
    rng = np.random.default_rng(salt)
    events = pl.DataFrame({"user_id": np.repeat(np.arange(30), 3), "item_id": rng.integers(9, size=90)})

    def users(table, wanted):
        raw = RawData("x", table, None, {})
        rules = Rules(order="file", seed=seed, sample_users=wanted, duplicates="keep", min_user=0, min_item=0)
        return set(prepared_tables(raw, rules)[0]["user_id"].to_list())

    drawn = users(events, count)
    assert len(drawn) == count
    assert users(events.sample(fraction=1, shuffle=True, seed=salt), count) == drawn
    assert users(events, max(1, count - 3)) <= drawn


def test_a_sample_is_counted():
    events = pl.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 1, 2, 1]})
    data = recbase.Dataset.from_frames(events, sample_users=2, quiet=True, **ALL)
    assert data.n_users == 2
    assert data.manifest["dropped"]["other_users"] == 1


def test_handm(tmp_path):
    (tmp_path / "transactions_train.csv").write_text(
        "t_dat,customer_id,article_id,price,sales_channel_id\n2020-01-02,c1,0108,.05,2\n2020-01-01,c1,0109,.03,1\n"
    )
    (tmp_path / "articles.csv").write_text(
        "article_id,product_code,prod_name,product_type_name,detail_desc\n"
        "0108,1,Strap top,Vest,Jersey top\n0109,1,Bra,Bra,Soft\n"
    )
    data = prepare_dataset(tmp_path / "transactions_train.csv", items=tmp_path / "articles.csv", **ALL)
    assert histories(data) == {"c1": ["0109", "0108"]}
    assert data.views == ["title", "description", "product_type"]


def test_yelp(tmp_path):
    lines = [
        {
            "review_id": "r1",
            "user_id": "u",
            "business_id": "b2",
            "stars": 5.0,
            "text": "x",
            "date": "2018-07-07 22:09:11",
        },
        {
            "review_id": "r2",
            "user_id": "u",
            "business_id": "b1",
            "stars": 1.0,
            "text": "y",
            "date": "2017-07-07 22:09:11",
        },
    ]
    (tmp_path / "yelp_academic_dataset_review.json").write_text("\n".join(map(json.dumps, lines)))
    shops = [
        {"business_id": "b1", "name": "Anna's", "city": "Ulm", "categories": "Food, Pizza"},
        {"business_id": "b2", "name": "Bob's", "city": "Bonn", "categories": "Bars"},
    ]
    (tmp_path / "yelp_academic_dataset_business.json").write_text("\n".join(map(json.dumps, shops)))
    data = prepare_dataset(
        tmp_path / "yelp_academic_dataset_review.json", items=tmp_path / "yelp_academic_dataset_business.json", **ALL
    )
    assert histories(data) == {"u": ["b1", "b2"]}
    assert data.views == ["title", "categories"]
    assert data.items["title"].to_list() == ["Anna's", "Bob's"]


def test_mind(tmp_path):
    (tmp_path / "behaviors.tsv").write_text(
        "1\tU1\t11/13/2019 8:36:57 AM\tN1 N2\tN3-0 N4-1\n"
        "2\tU1\t11/13/2019 8:30:57 PM\tN1 N2\tN5-1 N3-1\n"
        "3\tU2\t11/12/2019 6:11:30 PM\t\tN1-1 N2-0\n"
        "4\tU1\t11/11/2019 8:30:57 PM\tN1 N2\tN6-1\n"
    )
    (tmp_path / "news.tsv").write_text(
        "\n".join(f'N{i}\tnews\tlocal\tTitle "{i}\tText {i}\thttp://x\t[]\t[]' for i in range(1, 7)) + "\n"
    )
    data = prepare_dataset(tmp_path / "behaviors.tsv", **ALL)
    assert histories(data) == {"U1": ["N1", "N2", "N6", "N4", "N5", "N3"], "U2": ["N1"]}
    assert data.views == ["title", "description"]  # one category alone tells no items apart
    assert data.items["title"][0] == 'Title "1'
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t2019\tN1\tN3-0\n")
    with pytest.raises(ValueError, match="1 times such as '2019'; expected them as 11/13/2019 8:36:57 AM"):
        read(tmp_path / "behaviors.tsv")
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/13/2019 8:36:57 AM\tN1\tN3\n")
    with pytest.raises(ValueError, match="the impression 'N3'; expected ITEM-0 or ITEM-1"):
        read(tmp_path / "behaviors.tsv")


def test_sessions(tmp_path):
    (tmp_path / "yoochoose-clicks.dat").write_text(
        "1,2014-04-07T10:54:09.868Z,214536500,0\n1,2014-04-07T10:51:09.277Z,214536502,0\n"
    )
    assert histories(prepare_dataset(tmp_path / "yoochoose-clicks.dat", **ALL)) == {1: [214536502, 214536500]}
    (tmp_path / "train-item-views.csv").write_text(
        "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n"
        "1;NA;32118;243569;2016-05-09\n"
    )
    data = prepare_dataset(tmp_path / "train-item-views.csv", **ALL)
    assert histories(data) == {1: [32118, 81766, 31331]}
    (tmp_path / "train-item-views.csv").write_text("sessionId;userId;itemId\n1;NA;81766\n")
    with pytest.raises(ValueError, match="has no column timeframe; its columns are sessionId, userId, itemId"):
        read(tmp_path / "train-item-views.csv")


def test_the_command(tmp_path):
    (tmp_path / "a.csv").write_text(text("|", "customer|sku|when".replace("|", ","), ROWS[:3]))
    (tmp_path / "b.csv").write_text(text("|", "customer|sku|when".replace("|", ","), ROWS[3:]) + "|a|99\n")
    (tmp_path / "i.csv").write_text("sku,Product Name\na,Ant\nb,Bee\nc,Sea\n")
    words = ["prepare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--items", str(tmp_path / "i.csv")]
    words += ["--columns", "timestamp=when,title=Product Name", "--min-user", "0", "--min-item", "0", "--drop-null"]
    result = CliRunner().invoke(semtok.cli.main, [*words, "--out", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    assert "1 of 3 rows of" in result.output
    data = recbase.load_dataset(tmp_path / "data")
    assert histories(data) == WANTED
    assert data.views == ["title"]
