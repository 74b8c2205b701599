"""The way of a shop, by its commands: a messy export to a service, and the new items of the next day."""

import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[1]
KINDS = ["Kettle", "Lamp", "Mug", "Pan"]


def export(folder: Path) -> None:
    """Two months of events and a catalogue as a shop's database writes them."""
    draw = random.Random(0)
    rows = []
    for user in range(60):
        at = draw.randrange(30)
        for step in range(12):
            at = (at + draw.choice((1, 1, 7))) % 30
            rows.append((f"C-{user:03d}", f"{at:04d}", f"{1 + step * 2:02d}.{5 + step // 6:02d}.2024 10:{user:02d}"))
    draw.shuffle(rows)
    header = "Customer;SKU;When"
    for month, part in (("05", rows[:400]), ("06", rows[400:])):
        lines = [header, *(";".join(row) for row in part), *([";0003;01.06.2024 10:00"] if month == "06" else [])]
        (folder / f"orders-{month}.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    items = [(f"{i:04d}", f"{KINDS[i % 4]} N{i // 4} für Kinder", f"Maker {i % 3}") for i in range(30)]
    items.append(items[0])
    write_items(folder / "catalogue.csv", items)
    write_items(folder / "new.csv", [("0900", "Kettle N2 für Kinder", "Maker 1"), ("0901", "Mug N1 neu", "Maker 2")])


def write_items(path: Path, items: list) -> None:
    lines = ["SKU;Product Name;Maker", *(";".join(item) for item in items)]
    path.write_bytes("\n".join(lines).encode("cp1252"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    export(folder)
    return folder


def run(shop: Path, line: str) -> str:
    package, *words = line.split()
    words = [word.replace("~", " ") for word in words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"{package}.cli", *words]
    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_from_a_messy_export_to_a_service_and_the_items_of_the_next_day(shop):
    said = run(
        shop,
        "semtok prepare orders-*.csv --items catalogue.csv --time-format %d.%m.%Y~%H:%M --drop-null --duplicates first "
        "--columns user_id=Customer,item_id=SKU,timestamp=When,title=Product~Name,brand=Maker --out runs/data",
    )
    assert "1 of 321 rows of orders-06.csv have no user or no item and were left out" in said
    assert "1 of 31 rows of the items have an id that is there already; the first stays" in said
    assert "are no UTF-8" in said or "Windows-1252" in said
    assert "items with a text: title" in said
    items = pl.read_parquet(next((shop / "runs/data").glob("items.*parquet")))
    assert items["item_id"][0] == "0000"
    assert "für" in items["title"][0]

    codes = "--levels 3 --codebook-size 4 --no-per-view --unique matching --pca 8"
    run(shop, f"semtok fit rq --data runs/data {codes} --out runs/codes --quiet")
    small = "--dim 16 --ffn 16 --head-dim 8 --heads 2 --encoder-layers 1 --decoder-layers 1 --beams 10 --valid-beams 10"
    run(shop, f"genrec train tiger --data runs/data --codes runs/codes {small} --epochs 2 --out runs/tiger --quiet")
    run(shop, "seqrec train sasrec --data runs/data --dim 16 --ffn 16 --layers 1 --epochs 3 --out runs/sasrec --quiet")
    compared = run(shop, "seqrec compare runs/sasrec runs/tiger")
    assert "tiger" in compared

    run(shop, "seqrec recommend runs/sasrec --users all --data runs/data --out recs.parquet -k 3")
    table = pl.read_parquet(shop / "recs.parquet")
    assert table.height == 3 * table["user"].n_unique()
    assert table["user"][0].startswith("C-")
    assert table["title"].null_count() == 0

    named = "--columns title=Product~Name,brand=Maker,item_id=SKU"
    run(shop, f"semtok encode runs/codes --items new.csv --append --quiet {named}")
    said = run(shop, "genrec refresh runs/tiger --codes runs/codes --out runs/today")
    assert "2 are new" in said
    answer = json.loads(run(shop, "genrec recommend runs/today --history 0900,0003 -k 40 --beams 64 --json"))
    assert answer["unknown"] == []
    assert "0901" in [row["item_id"] for row in answer["items"]]

    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pytest.importorskip("fastapi", reason="serving needs the extra [serve]")
    command = [sys.executable, "-m", "genrec.cli", "serve", "runs/today", "--port", "0"]
    server = subprocess.Popen(command, cwd=shop, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stderr.readline())[0]
        body = json.dumps({"histories": [["0900", "0003"], ["nothing"]], "k": 4}).encode()
        asked = urllib.request.Request(f"{address}/recommend", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answered:
            found = json.load(answered)
        assert [item["item"] for item in found["lists"][0]["items"]] == [row["item_id"] for row in answer["items"][:4]]
        assert found["lists"][1]["popular"]
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
