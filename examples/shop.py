"""A shop: its own two CSV files become recommendations for every customer and a service that answers over HTTP.

python examples/shop.py                                   # makes two small files first
python examples/shop.py --orders o.csv --catalogue c.csv  # yours, with the columns customer, sku, when and sku, title
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import polars as pl

import seqrec
from recbase import load_dataset, prepare_dataset

COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "when", "title": "title"}


def small_files(folder: Path) -> tuple[Path, Path]:
    """Two files as a shop exports them, of the built-in synthetic data."""
    data, folder = load_dataset("synthetic"), folder / "export"
    folder.mkdir(parents=True, exist_ok=True)
    events = data.interactions()
    orders = pl.DataFrame(
        {
            "customer": "c" + events["user_id"].cast(pl.String),
            "sku": "s" + events["item_id"].cast(pl.String),
            "when": 1_700_000_000 + 60 * pl.Series(range(len(events))),
        }
    )
    catalogue = pl.DataFrame({"sku": "s" + data.items["item_id"].cast(pl.String), "title": data.items["title"]})
    orders.write_csv(folder / "orders.csv")
    catalogue.write_csv(folder / "catalogue.csv")
    return folder / "orders.csv", folder / "catalogue.csv"


def ask(run: Path, history: list[str]) -> dict:
    """One answer of `seqrec serve`, which is started for it and ended afterwards."""
    command = [sys.executable, "-m", "seqrec.cli", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stderr.readline())
            if address is None:
                raise RuntimeError("the service did not start; it needs pip install 'semtok[serve]'")
            body = json.dumps({"histories": [history], "k": 3}).encode()
            request = urllib.request.Request(f"{address[0]}/recommend", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        finally:
            server.terminate()


def main() -> None:
    """Read the files, train, write a table of recommendations, ask the service once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=Path)
    parser.add_argument("--catalogue", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/shop"))
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    orders, catalogue = (given.orders, given.catalogue) if given.orders else small_files(given.out)

    data = prepare_dataset(orders, items=catalogue, columns=COLUMNS)
    print(data)
    model = seqrec.SASRec.train(data, epochs=given.epochs, quiet=True, out=given.out / "model")
    table = model.recommend(users=list(data.user_ids), k=10)
    table.write_csv(given.out / "recommendations.csv")
    print(table.head(3))
    print(ask(given.out / "model", [str(item) for item in data.item_ids[:2]])["lists"][0]["items"])


if __name__ == "__main__":
    main()
