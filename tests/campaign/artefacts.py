"""What a folder or file on disk holds, as a digest, read as a user would: an unreadable one raises."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def _digest(*parts: Any) -> str:
    import numpy as np

    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part).tobytes() if hasattr(part, "dtype") else str(part).encode())
    return total.hexdigest()[:16]


def dataset(path: str) -> str:
    """Sequences, ids and texts of a data set."""
    from recbase.data.catalog import load_dataset

    opened = load_dataset(path)
    return _digest(opened.hash, opened.items.write_json())


def embeddings(path: str) -> str:
    """Vectors of all views."""
    from semtok.content.embeddings import load_embeddings

    opened = load_embeddings(path)
    return _digest(*(opened.views[view] for view in opened.views), list(opened.item_ids))


def tokenizer(path: str) -> str:
    """Codebooks and codes; the codes must be those that the codebooks decode from."""
    from recbase.store.folder import consistent

    return consistent(_tokenizer)(path)


def _tokenizer(path: str) -> str:
    import semtok

    opened, codes = semtok.load(path), semtok.load_codes(path)
    return _digest(opened.decode(codes.codes[:, : len(opened.sizes_)]), codes.codes, list(codes.item_ids))


def code_shards(path: str) -> str:
    """Codes of a folder of shards."""
    from semtok.catalogue.encode_shards import load_code_shards

    codes = load_code_shards(path)
    return _digest(codes.codes, list(codes.item_ids))


def table(path: str) -> str:
    """A table of codes."""
    import polars as pl

    read = pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path, infer_schema=False)
    if read.height == 0:
        raise ValueError(f"{path} is empty")
    return _digest(read.write_csv())


def run(path: str) -> str:
    """Weights, metrics, ranks and settings of a run; seconds aside."""
    from recbase.store.folder import consistent

    return consistent(_run)(path)  # a reader of several files begins again where the folder was replaced in between


def _run(path: str) -> str:
    from genrec import MODELS as GENERATORS
    from recbase.store.runs import load_run
    from seqrec import MODELS

    opened = load_run(path, {**MODELS, **GENERATORS})
    parts = opened.model.tensors() if hasattr(opened.model, "tensors") else opened.model.state_dict()
    arrays = [value if not hasattr(value, "detach") else value.detach().numpy() for _, value in sorted(parts.items())]
    metrics = {key: value for key, value in opened.metrics.get("test", {}).items() if "second" not in key}
    ranks = opened.folder.file("ranks.parquet").read_bytes()
    seed = opened.manifest.get("training", {}).get("seed")
    return _digest(*arrays, json.dumps(metrics, sort_keys=True), ranks, seed)


def history(path: str) -> list[int]:
    """Epochs of the learning curve, which must be whole lines."""
    lines = (Path(path) / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def _timeless(value: Any) -> Any:
    """The same JSON without the seconds that something took."""
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if "second" not in key}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def json_file(path: str) -> str:
    """A file of JSON; seconds aside."""
    return _digest(json.dumps(_timeless(json.loads(Path(path).read_text(encoding="utf-8"))), sort_keys=True))


def report(path: str) -> str:
    """A report: the page must be whole."""
    page = (Path(path) / "report.html").read_text(encoding="utf-8")
    if not page.rstrip().endswith("</html>"):
        raise ValueError(f"{path}/report.html is cut off")
    return json_file(str(Path(path) / "report.json"))
