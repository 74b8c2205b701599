"""What files of the field do to ids, text and rows: nothing is lost, merged or guessed without being counted."""

import bz2
import gzip
import json
import lzma
import resource
import sys
import unicodedata
from pathlib import Path

import polars as pl
import pytest

from recbase.data import readers
from recbase.data.catalog import load_dataset, prepare_dataset
from recbase.data.interactions import hash_ids
from recbase.data.tables.raw import Notes
from recbase.data.tables.texts import plain_text

ALL = {"min_user": 0, "min_item": 0}


def pairs(raw: readers.RawData) -> list[tuple]:
    return raw.interactions.select("user_id", "item_id").rows()


def notes_of(raw: readers.RawData) -> dict[str, int]:
    return {note["what"]: note["count"] for note in raw.notes.entries}


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- headers, separators, line ends


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", "\ufeffuser_id,item_id\n1,2\n1,3\n"),
        ("quoted.csv", '"user_id","item_id"\n"1","2"\n"1","3"\n'),
        ("blanks.csv", "user_id , item_id\n1,2\n1,3\n"),
        ("excel.csv", "\ufeffuser_id;item_id\r\n1;2\r\n1;3\r\n"),
        ("bars.csv", "user_id|item_id\n1|2\n1|3\n"),
        ("tabs.csv", "user_id\titem_id\n1\t2\n1\t3"),
        ("r.tsv", '"user_id"\t"item_id"\n"1"\t"2"\n"1"\t"3"\n'),
        ("mac.csv", "user_id,item_id\r1,2\r1,3\r"),
        ("gaps.csv", "\n\nuser_id,item_id\n\n1,2\n\n\n1,3\n\n"),
        ("bom.inter", "\ufeffuser_id:token\titem_id:token\n1\t2\n1\t3\n"),
        ("bom.jsonl", '\ufeff{"user_id":1,"item_id":2}\r\n\r\n{"user_id":1,"item_id":3}\r\n'),
        ("array.json", '[{"user_id":1,"item_id":2},\n {"user_id":1,"item_id":3}]'),
        ("table.txt", "user_id,item_id\n1,2\n1,3\n"),
        ("pairs.txt", "1\t2\r\n1\t3\r\n"),
        ("wide.txt", "1  2\t 3 \n"),
        ("ratings.csv", '\ufeff"userId",movieId,rating\n1,2,5\n1,3,4\n'),
        ("upper.csv", "USER_ID,ITEM_ID\n1,2\n1,3\n"),
        ("title.csv", '"User ID";" Item-ID "\n1;2\n1;3\n'),
        ("upper.txt", "User ID\tItem ID\n1\t2\n1\t3\n"),
        ("upper.jsonl", '{"User_Id":1,"ITEM_ID":2}\n{"User_Id":1,"ITEM_ID":3}\n'),
        ("sep.csv", "\ufeffsep=;\r\nuser_id;item_id\r\n1;2\r\n1;3\r\n"),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, name: str, content: str) -> None:
    assert pairs(readers.read(put(tmp_path / name, content))) == [(1, 2), (1, 3)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_files_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = put(tmp_path / "e.csv", "user_id,item_id\nü,é\n".encode(encoding))
    assert pairs(readers.read(path)) == [("ü", "é")]


def test_utf_16_without_a_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"e.csv holds many zero bytes: binary, or UTF-16 without a mark"):
        readers.read(put(tmp_path / "e.csv", "user_id,item_id\n1,2\n".encode("utf-16-le")))


def test_quotes_that_are_letters(tmp_path: Path) -> None:
    csv = put(tmp_path / "e.csv", 'user_id,text,item_id\nu1,5" pipe,i1\nu2,"a, ""b""\nc",i2\nu3,6" pipe,i3\n')
    assert pairs(readers.read(csv)) == [("u1", "i1"), ("u2", "i2"), ("u3", "i3")]
    tsv = put(tmp_path / "e.item", 'item_id:token\ttitle:token_seq\n1\t"Rocky" poster\n2\t"\n')
    assert readers.read_items(tsv).rows() == [(1, '"Rocky" poster'), (2, '"')]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('user_id,item_id\n1,"2\n1,3\n', r"e.csv has a quote out of place near row 1"),
        ("user_id,item_id\n1,2\n1,2,3\n", r"e.csv has 3 fields in row 2 and 2 in its header \(user_id, item_id\)"),
        ("user_id,item_id,item_id\n1,2,3\n", "e.csv has the column item_id more than once"),
        ("user_id,item_id\na,b\nuser_id,item_id\nc,d\n", "e.csv has its header again in row 2"),
        ("user_id,item_id\n1,\n", r"item_id of .*e.csv is null in 1 of 1 rows; .* \(first: row 1\)"),
        ('user_id,item_id\na,b\na,""\n', r"item_id of .*e.csv is empty in 1 of 2 rows; .* \(first: row 2\)"),
        (
            "user_id,item_id\n1,2\n1,nan\n",
            r"item_id of .* is 'nan' in 1 of 2 rows \(first: row 2\): a missing id among numb",
        ),
        (
            "user_id,item_id\nu," + "x" * 10_001 + "\n",
            r"item_id of .* has 10,001 bytes in row 1 .*; expected at most 10,000",
        ),
        (
            "user_id,item_id,timestamp\n1,2,nan\n",
            r"timestamp of .*e.csv has the value nan; .* \(row 1, 1 such of 1 rows\)",
        ),
        (
            ",".join(f"column{n}" for n in range(9000)) + "\n1\n",
            r"has no column user_id; its columns .* and 8,988 more",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        readers.read(put(tmp_path / "e.csv", content))
    assert len(str(failure.value)) < 500


# ---- bytes that are no UTF-8


def test_old_encodings_keep_ids_apart_and_are_counted(tmp_path: Path) -> None:
    content = "user_id,item_id\nu,Café\nu,Cafè\nu,Bj\xf8rk\nu,\x80\n".encode("latin-1")
    with pytest.warns(UserWarning, match=r"4 lines of .*e.csv are not UTF-8 and were read as Windows-1252 \(Latin-1\)"):
        raw = readers.read(put(tmp_path / "e.csv", content))
    assert raw.interactions["item_id"].to_list() == ["Café", "Cafè", "Bjørk", "€"]
    assert notes_of(raw)["lines_not_utf8"] == 4


def test_no_two_bytes_become_one_letter(tmp_path: Path) -> None:
    rows = b"".join(b"u,x%bx\n" % bytes([byte]) for byte in range(128, 256))
    with pytest.warns(UserWarning, match="128 lines"):
        raw = readers.read(put(tmp_path / "e.csv", b"user_id,item_id\n" + rows))
    assert raw.interactions["item_id"].n_unique() == 128
    assert not raw.interactions["item_id"].str.contains("\ufffd").any()


# ---- ids


def test_ids_written_as_floats_are_the_integers(tmp_path: Path) -> None:
    events = put(tmp_path / "e.csv", "user_id,item_id\n1.0,12\n2,7\n")
    items = put(tmp_path / "i.csv", "item_id,title\n12.0,twelve\n7.0,seven\n")
    data = prepare_dataset(events, items=items, **ALL)
    assert data.user_ids.to_list() == [1, 2]
    assert data.items.rows() == [(7, "seven"), (12, "twelve")]
    assert data.manifest["matching"] == {"items": 2, "events": 2, "rows_without_events": 0}
    assert "ids_as_floats" in [note["what"] for note in data.manifest["reading"]]
    frame = pl.DataFrame({"user_id": [1.0, 2.0], "item_id": [12.0, 7.0]})
    assert readers.read(frame).interactions.rows() == [(1, 12), (2, 7)]
    lines = put(tmp_path / "e.jsonl", '{"user_id":1,"item_id":12.0}\n{"user_id":2,"item_id":7}\n')
    assert pairs(readers.read(lines)) == [(1, 12), (2, 7)]


@pytest.mark.parametrize("big", [2**64 - 1, 10**20, 2**63])
def test_large_integers_keep_every_digit(tmp_path: Path, big: int) -> None:
    csv = put(tmp_path / "e.csv", f"user_id,item_id\n1,{big}\n1,{big - 1}\n")
    lines = put(tmp_path / "e.jsonl", f'{{"user_id":1,"item_id":5}}\n{{"user_id":1,"item_id":{big}}}\n')
    assert readers.read(csv).interactions["item_id"].to_list() == [str(big), str(big - 1)]
    assert readers.read(lines).interactions["item_id"].to_list() == ["5", str(big)]
    if big < 2**64:
        table = pl.DataFrame({"user_id": [1], "item_id": pl.Series([big], dtype=pl.UInt64)})
        table.write_parquet(tmp_path / "e.parquet")
        assert pairs(readers.read(tmp_path / "e.parquet")) == [(1, str(big))]


def test_leading_zeros_stay_in_events_and_catalogue(tmp_path: Path) -> None:
    events = put(tmp_path / "e.csv", "user_id,item_id\n1,0007\n1,0012\n")
    lines = '{"item_id":"0007","title":"a","model":"0042"}\n{"item_id":"0012","title":"b"}\n'
    table = "item_id,title,model\n0007,a,0042\n0012,b,0043\n"
    for name, content in (("i.csv", table), ("i.jsonl", lines)):
        items = readers.read_items(put(tmp_path / name, content))
        assert items["item_id"].to_list() == ["0007", "0012"]
        assert items["model"][0] == "0042"
        assert prepare_dataset(events, items=tmp_path / name, **ALL).items["title"].to_list() == ["a", "b"]


def test_words_for_a_missing_id_are_told(tmp_path: Path) -> None:
    path = put(tmp_path / "e.csv", "user_id,item_id\nu1,a\nnan,b\nNone,c\n")
    with pytest.warns(UserWarning, match=r"user_id of .* is 'nan' in 2 of 3 rows \(first: row 2\); kept as the id it"):
        assert pairs(readers.read(path)) == [("u1", "a"), ("nan", "b"), ("None", "c")]


def test_blanks_around_ids_are_dropped_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "e.csv", "user_id, item_id\nu1, a\nu1,b \nu1,c\n")
    raw = readers.read(path)
    assert pairs(raw) == [("u1", "a"), ("u1", "b"), ("u1", "c")]
    assert notes_of(raw)["ids_padded"] == 2
    with pytest.warns(UserWarning, match="which makes 1 of them equal to another"):
        readers.read(put(tmp_path / "e.csv", "user_id,item_id\nu1, a\nu1,a\n"))


def test_unicode_forms_of_one_id_are_kept_apart_and_told(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    path = put(tmp_path / "e.csv", "user_id,item_id\n" + "".join(f"u,{form}\n" for form in forms))
    with pytest.warns(UserWarning, match="1 values of item_id of .* look like another and differ in Unicode form"):
        assert readers.read(path).interactions["item_id"].to_list() == forms


def test_a_catalogue_of_other_ids_is_told_with_both(tmp_path: Path) -> None:
    events = put(tmp_path / "e.csv", "user_id,item_id\n1,7\n1,12\n")
    items = put(tmp_path / "i.csv", "item_id,title\n0007,a\n0012,b\n")
    expected = (
        r"2 of 2 items of the events are not in the table of items .* as '12', '7', .* as '0007', '0012'; 2 would match"
    )
    with pytest.warns(UserWarning, match=expected):
        data = prepare_dataset(events, items=items, **ALL)
    assert data.manifest["matching"] == {"items": 0, "events": 0, "rows_without_events": 2}


def test_hashes_of_ids_are_the_ones_that_folders_record() -> None:
    found = hash_ids(pl.Series(["", "a", "B000123", "é", "12"])).tolist()
    assert found == [
        0xC3817C016BA4FF30,
        0x5F29C2AADD9B8527,
        0x3A79E215C9D33D30,
        0x6E2411EB685090BA,
        0xF26D555CB5C9AC7B,
    ]
    assert hash_ids(pl.Series([12])).tolist() == found[-1:]


# ---- histories and split sets


def test_recbole_splits_with_histories_are_joined(tmp_path: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    train = put(tmp_path / "toy.train.inter", header + "1\t11\t12\n1\t11 12\t13\n2\t13\t11\n2\t13 11\t12\n")
    put(tmp_path / "toy.valid.inter", header + "1\t11 12 13\t14\n2\t13 11 12\t14\n")
    test = put(tmp_path / "toy.test.inter", header + "1\t11 12 13 14\t15\n2\t13 11 12 14\t15\n")
    data = prepare_dataset(train, **ALL)
    sequences = [[data.item_ids[int(item) - 1] for item in data.histories[user]] for user in range(2)]
    assert sequences == [[11, 12, 13, 14, 15], [13, 11, 12, 14, 15]]
    assert data.name == "toy"
    assert data.manifest["source"]["files"] == ["toy.train.inter", "toy.valid.inter", "toy.test.inter"]
    assert prepare_dataset(test, **ALL).sequences_hash == data.sequences_hash


def test_splits_without_histories_are_joined_or_told(tmp_path: Path) -> None:
    train = put(tmp_path / "train.csv", "user_id,item_id\n1,2\n")
    test = put(tmp_path / "test.csv", "user_id,item_id\n1,3\n")
    assert pairs(readers.read(train)) == [(1, 2), (1, 3)]
    with pytest.warns(
        UserWarning, match=r"test.csv is one part of a set that was split; train.csv beside it was not read"
    ):
        assert pairs(readers.read(test)) == [(1, 3)]
    put(test, "user_id,answer\n1,?\n")
    with pytest.warns(UserWarning, match=r"test.csv beside train.csv was not read with it: .*has no column item_id"):
        assert pairs(readers.read(train)) == [(1, 2)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"[11, 12]"', "[]"),
        ("\"['11', '12']\"", "[]"),
        ("11 12", ""),
        ("11|12", ""),
        ('"11,12"', ""),
        ('"[""11"",""12""]"', "[]"),
    ],
)
def test_histories_however_a_list_is_written(tmp_path: Path, first: str, second: str) -> None:
    path = put(tmp_path / "e.csv", f"user_id,history_item_id,item_id\n1,{first},14\n2,{second},11\n")
    assert pairs(readers.read(path)) == [(1, 11), (1, 12), (1, 14), (2, 11)]


def test_histories_in_json_and_parquet_and_alone(tmp_path: Path) -> None:
    lines = put(tmp_path / "e.jsonl", '{"user_id":"u","item_id_list":["a","b"],"item_id":"c"}\n')
    assert pairs(readers.read(lines)) == [("u", "a"), ("u", "b"), ("u", "c")]
    pl.DataFrame({"user_id": [1], "item_id_list": [[3, 2]], "item_id": [1]}).write_parquet(tmp_path / "e.parquet")
    assert pairs(readers.read(tmp_path / "e.parquet")) == [(1, 3), (1, 2), (1, 1)]
    alone = put(tmp_path / "a.csv", 'user_id,seq\n1,"[3, 2]"\n')
    assert pairs(readers.read(alone, columns={"history": "seq"})) == [(1, 3), (1, 2)]


def test_windows_of_histories_are_chained_and_breaks_are_told(tmp_path: Path) -> None:
    header = "user_id,history_item_id,item_id\n"
    windows = put(tmp_path / "w.csv", header + "1,1 2,3\n1,2 3,4\n1,3 4,5\n")
    assert [item for _, item in pairs(readers.read(windows))] == [1, 2, 3, 4, 5]
    broken = put(tmp_path / "b.csv", header + "1,1 2,3\n1,7 8 9,4\n2,1,2\n")
    with pytest.warns(UserWarning, match="the histories of 1 users of .* do not continue one another"):
        assert pairs(readers.read(broken)) == [(1, 7), (1, 8), (1, 9), (1, 3), (1, 4), (2, 1), (2, 2)]


# ---- sequences


def test_pairs_beyond_a_block_are_one_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbase.data.tables import blocks

    monkeypatch.setattr(blocks, "BATCH_BYTES", 64)
    path = put(tmp_path / "pairs.txt", "".join(f"{user} {item}\n" for user in range(9) for item in range(30)))
    data = prepare_dataset(path, **ALL)
    assert data.manifest["counts"]["interactions"] == 270
    assert data.histories[8].tolist() == list(range(1, 31))


def test_ratings_without_a_header_are_not_taken_for_sequences(tmp_path: Path) -> None:
    path = put(tmp_path / "u.txt", "196 242 3 881250949\n186 302 3 891717742\n196 377 1 878887116\n")
    with pytest.raises(ValueError, match=r"u.txt has a time at the end of every line, as in 'user item rating time'"):
        readers.read(path)


def test_sequences_by_user_as_json(tmp_path: Path) -> None:
    path = put(tmp_path / "toy.inter.json", '\ufeff{"0": [0, 1, 2],\n "1": [2, 0, 1]}')
    put(tmp_path / "toy.item.json", '{"0": {"title": "a"}, "1": {"title": "b"}, "2": {"title": "c", "brand": "x"}}')
    data = prepare_dataset(path, **ALL)
    assert [data.histories[user].tolist() for user in range(2)] == [[1, 2, 3], [3, 1, 2]]
    assert data.items.rows() == [(0, "a", None), (1, "b", None), (2, "c", "x")]
    assert data.name == "toy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": [1], "0": [2]}', "has the key '0' twice in one object"),
        ('{"0": [[1]]}', r"has '\[\[1\]\]' for the user '0'; expected a list of item ids"),
        ('{"0": [1]', "is not JSON: Expecting"),
        ('{"0": ' + "[" * 100_000, "is not JSON: nested too deeply"),
        ("[1]", "is JSON but no object from user to items"),
        ('{"' + "0" * 200_000 + '": 1}', "expected a list of item ids"),
    ],
)
def test_json_that_is_no_sequences(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        readers.read(put(tmp_path / "x.inter.json", content))
    assert len(str(failure.value)) < 400


# ---- JSON lines


def test_late_keys_and_mixed_types_of_items(tmp_path: Path) -> None:
    entries = [{"item_id": n, "title": f"t{n}", "price": 1.5, "tags": ["a", "b"], "more": {"x": 1}} for n in range(150)]
    entries += [{"item_id": n, "title": None, "price": "from 12", "brand": f"b{n}"} for n in range(150, 300)]
    notes = Notes()
    path = put(tmp_path / "i.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    items = readers.read_items(path, notes=notes)
    assert items.columns == ["item_id", "title", "price", "tags", "brand"]
    assert items.row(0) == (0, "t0", "1.5", "a b", None)
    assert items.row(299) == (299, None, "from 12", None, "b299")
    said = [note["sentence"] for note in notes.entries]
    assert any("the column 'price'" in sentence and "several types" in sentence for sentence in said)
    assert any("the column 'more'" in sentence and "left out" in sentence for sentence in said)


def test_events_of_mixed_types_and_late_times(tmp_path: Path) -> None:
    rows = [{"user_id": 1, "item_id": n} for n in range(3)] + [{"user_id": "x", "item_id": 3.0}]
    path = put(tmp_path / "e.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert pairs(readers.read(path)) == [("1", 0), ("1", 1), ("1", 2), ("x", 3)]
    lines = [{"user_id": 1, "item_id": n, "timestamp": 100 + n / 2 if n % 2 else 100 + n // 2} for n in range(4)]
    path = put(tmp_path / "t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert readers.read(path).interactions["timestamp"].to_list() == [100, 100, 101, 101]
    late = [{"user_id": 1, "item_id": n, "text": "x" * 900} for n in range(100)] + [
        {"user_id": 1, "item_id": 5, "time": 3}
    ]
    path = put(tmp_path / "l.jsonl", "".join(json.dumps(line) + "\n" for line in late))
    assert readers.read(path).interactions["timestamp"].null_count() == 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id":1,', r"e.jsonl has a line that is not JSON, line 3: '\{\"user_id\":1,'"),
        ("[1]", "e.jsonl has a line that is no JSON object, line 3"),
        ('{"user_id":1,"item_id":"\\ud800"}', "e.jsonl has half a surrogate pair .* in line 3"),
        ('{"user_id":' + "9" * 5000 + "}", "e.jsonl has a line that is not JSON, line 3: .* a number too long"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    good = '{"user_id":1,"item_id":2}\n'
    with pytest.raises(ValueError, match=message):
        readers.read(put(tmp_path / "e.jsonl", good + "\n" + line + "\n" + good))


def test_the_last_of_a_repeated_key_counts(tmp_path: Path) -> None:
    path = put(tmp_path / "e.jsonl", '{"user_id":1,"item_id":2,"item_id":3}\n')
    assert pairs(readers.read(path)) == [(1, 3)]


def test_a_table_without_a_header_is_told_what_is_missing(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "1,2014-04-07T10:51:09.277Z,214536502,0\n")
    with pytest.raises(ValueError, match=r"no column user_id.*its first line has to name them, and holds numbers"):
        readers.read(path)


def test_ids_of_which_digits_are_lost_are_refused_or_told(tmp_path: Path) -> None:
    single = pl.DataFrame({"user_id": ["u", "u"], "item_id": pl.Series([5.0, 16777217.0], dtype=pl.Float32)})
    with pytest.raises(ValueError, match=r"item_id of the interactions is Float32.*no whole number below 2\^24"):
        readers.read(single)
    path = put(tmp_path / "a.csv", "user_id,item_id\n1,1.23457E+11\n1,42\n")
    with pytest.warns(UserWarning, match="1 of 2 values of item_id .* as 1.23457E\\+11 .row 1."):
        assert notes_of(readers.read(path))["ids_rounded"] == 1


@pytest.mark.parametrize("word", ["NA", "\\N", "#N/A", "(null)", "undefined"])
def test_missing_ids_however_a_program_spells_them(tmp_path: Path, word: str) -> None:
    path = put(tmp_path / "a.csv", f"user_id,item_id\n1,{word}\n1,x\n")
    with pytest.warns(UserWarning, match="drop those rows if it is missing"):
        readers.read(path)
    with pytest.raises(ValueError, match="a missing id among numbers"):
        readers.read(put(path, f"user_id,item_id\n1,{word}\n1,7\n"))


def test_bytes_that_are_not_utf_8_in_a_table_with_types(tmp_path: Path) -> None:
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]})
    items = pl.DataFrame({"item_id": ["a", "b"], "title": pl.Series([b"caf\xc3\xa9", b"caf\xe9"])})
    with pytest.warns(UserWarning, match="1 values of the column 'title'"):
        read = readers.read(events, items)
    assert read.items_of(events["item_id"])["title"].to_list() == ["caf\u00e9", "caf\u00e9"]
    with pytest.raises(ValueError, match="item_id of the interactions is bytes that are not UTF-8"):
        readers.read(events.with_columns(item_id=pl.Series([b"a", b"\xe9"])))


@pytest.mark.parametrize("kind", ["pandas", "arrow", "lazy"])
def test_tables_of_other_libraries(kind: str) -> None:
    table = pl.DataFrame({"user_id": ["u", "u"], "item_id": [2, 3], "timestamp": [2, 1]})
    items = pl.DataFrame({"item_id": [2, 3], "title": ["a", "b"]})

    def made(frame: pl.DataFrame) -> object:
        return {"pandas": frame.to_pandas, "arrow": frame.to_arrow, "lazy": frame.lazy}[kind]()

    dataset = prepare_dataset(made(table), items=made(items), **ALL)
    assert dataset.interactions()["item_id"].to_list() == [3, 2]
    assert dataset.items["title"].to_list() == ["a", "b"]


def test_what_is_no_table_is_named() -> None:
    with pytest.raises(ValueError, match="the source is of the type dict; expected a path, or a table"):
        prepare_dataset({"user_id": [1], "item_id": [2]})


def test_text_columns_are_found_in_any_case() -> None:
    events = pl.DataFrame({"user_id": [1, 1], "item_id": [2, 3]})
    items = pl.DataFrame({"Item ID": [2, 3], "Title": ["a", "b"], "Brand": ["x", "y"]})
    assert prepare_dataset(events, items=items, **ALL).views == ["Title", "Brand"]


def test_times_that_are_hardly_seconds_are_told(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "user_id,item_id,timestamp\n1,2,20190512\n1,3,20191231\n")
    with pytest.warns(UserWarning, match="read as dates, as 20191231"):
        readers.read(path)
    table = pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": pl.Series([1.7e9], dtype=pl.Float32)})
    with pytest.warns(UserWarning, match="are Float32, which has lost their last digits"):
        readers.read(table)


@pytest.mark.parametrize("value", ["[1, 2]", '{"$oid": "5f"}', "true"])
def test_nested_ids_of_json_are_refused(tmp_path: Path, value: str) -> None:
    message = r"has .* for 'item_id'; expected text or a number"
    lines = put(tmp_path / "a.jsonl", f'{{"user_id": "u", "item_id": {value}}}\n')
    with pytest.raises(ValueError, match=message):
        readers.read(lines)
    with pytest.raises(ValueError, match=message):
        readers.read_items(put(tmp_path / "i.jsonl", f'{{"item_id": {value}, "title": "a"}}\n'))


def test_json_written_column_by_column_is_refused(tmp_path: Path) -> None:
    for content in ('{"user_id":[1,1],"item_id":[2,3]}', '{"item_id":{"0":2,"1":3},"title":{"0":"a","1":"b"}}'):
        path = put(tmp_path / "a.json", content)
        with pytest.raises(ValueError, match="table by columns"):
            (readers.read_items if "title" in content else readers.read)(path)


def test_objects_among_texts_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "i.jsonl", '{"item_id":1,"title":{"en":"a"}}\n{"item_id":2,"title":"b"}\n')
    with pytest.warns(UserWarning, match="1 values of the column 'title' .* are objects and were left out"):
        assert readers.read_items(path)["title"].to_list() == [None, "b"]


def test_few_items_that_are_only_written_otherwise_are_told() -> None:
    events = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["001", "x", "y"]})
    items = pl.DataFrame({"item_id": ["1", "x", "y"], "title": ["a", "b", "c"]})
    with pytest.warns(UserWarning, match="1 of 3 items .* 1 would match but for"):
        prepare_dataset(events, items=items, **ALL)


# ---- text of items


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size < 5 and a<b, c>d <3", "size < 5 and a<b, c>d <3"),
        ("AT&amp;amp;T &lt;b&gt;new&lt;/b&gt;", "AT&T  new "),
        ("a&copy=1&lt;2", "a&copy=1<2"),
        ('<p class="x">good<br/></p>', " good  "),
        ("x<script type='text/js'>if (a<b) {}</script>y<style>p {}</style>z", "x y z"),
        ("x<!-- <b> -->y<!DOCTYPE html>", "x y "),
        ("if a<b and b>c", "if a<b and b>c"),
        ("List<String> x", "List<String> x"),
        ("<div data-id class=a href=x?y=1&z=2>a</div><p style='b'id=\"c\">d</p>", " a  d "),
        ("x <iframe src=y allowfullscreen></iframe>z</span", "x   z "),
        ("x<script>var cut = 1;", "x "),
        ("x<!-- cut", "x "),
        ("if a <b and c> d", "if a <b and c> d"),
        ("Kaffee\u00adtasse &shy;neu", "Kaffeetasse neu"),
        ("tab\tline\nzero\x00\x07end\u200b", "tab\tline\nzero  end "),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
    ],
)
def test_noise_goes_and_text_stays(text: str, expected: str) -> None:
    assert plain_text(text) == expected


def test_texts_that_were_cleaned_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "i.csv", "item_id,title\n1,<b>cup</b>\n2,size < 5\n3, \n")
    notes = Notes()
    assert readers.read_items(path, notes=notes)["title"].to_list() == ["cup", "size < 5", None]
    assert [(note["what"], note["count"]) for note in notes.entries] == [("texts_with_markup", 1)]


# ---- what is dropped is counted


def test_a_data_set_says_what_became_of_every_event(tmp_path: Path) -> None:
    rows = [(user, item) for user in range(4) for item in range(4)] + [(0, 0), (9, 0), (9, 77)]
    body = "".join(f"{user},{item},{at}\n" for at, (user, item) in enumerate(rows))
    events = put(tmp_path / "e.csv", "user_id,item_id,timestamp\n" + body)
    items = put(tmp_path / "i.csv", "item_id,title\n0,a\n1,b\n2,\n88,z\n")
    data = prepare_dataset(events, items=items, min_user=3, min_item=3, limit=3, views=["title"])
    assert data.manifest["events_read"] == 19
    assert data.manifest["dropped"] == {
        "repeated_events": 1,
        "rare_events": 2,
        "rare_users": 1,
        "rare_items": 1,
        "events_beyond_limit": 4,
    }
    assert data.manifest["counts"] == {"users": 4, "items": 3, "interactions": 12}
    assert data.manifest["matching"] == {"items": 2, "events": 8, "rows_without_events": 2}
    assert data.manifest["items_without_text"] == 1
    assert data.manifest["texts"] == {"title": 1}
    saved = load_dataset(data.save(tmp_path / "out"))
    assert saved.manifest["dropped"] == data.manifest["dropped"]
    assert str(tmp_path) not in json.dumps(data.manifest)


# ---- bounds


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, "zstd"])
def test_compressed_files_by_their_first_bytes(tmp_path: Path, pack: object) -> None:
    content = b"user_id,item_id\n" + b"1,2\n" * 50
    if pack == "zstd":
        import pyarrow

        packed = pyarrow.compress(content, codec="zstd", asbytes=True)
    else:
        packed = pack(content)  # type: ignore[operator]
    for name in ("e.csv", "e.csv.gz", "e.csv.zst"):
        assert len(pairs(readers.read(put(tmp_path / name, packed)))) == 50
    with pytest.raises(ValueError, match=r"c.csv is truncated or damaged"):
        readers.read(put(tmp_path / "c.csv", packed[: len(packed) * 2 // 3]))


def test_an_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"e.csv is an archive; unpack it"):
        readers.read(put(tmp_path / "e.csv", b"PK\x03\x04" + b"x" * 50))


@pytest.mark.parametrize("name", ["e.csv.gz", "e.jsonl.gz", "e.txt.gz", "e.inter.json.gz", "e.dat.gz"])
def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbase.data.tables import blocks

    monkeypatch.setattr(blocks, "LINE_LIMIT", 1 << 22)
    monkeypatch.setattr(blocks, "BOMB_BYTES", 1 << 22)
    path = put(tmp_path / name, gzip.compress(b"1" * (1 << 25), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"has a line of more than 4 MiB|unpacks to more than 200 times its"):
        readers.read(path)
    with pytest.raises(ValueError, match=r"has a line of more than 4 MiB|unpacks to more than 200 times its"):
        readers.read_items(path, "jsonl")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (
        1 if sys.platform == "linux" else 0
    ) < 400_000


def test_binary_files_given_as_text_are_named(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"e.parquet is a Parquet file, not text; give its format"):
        readers.read(tmp_path / "e.parquet", format="csv")
    with pytest.raises(ValueError, match=r"its columns are \?\?a, b"):
        readers.read(put(tmp_path / "e.csv", b"\x01\x02a,b\n1,2\n"))
