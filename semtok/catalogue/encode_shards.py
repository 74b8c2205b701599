"""Codes of sharded vectors: shard by shard, here or through Ray Data on the machines of a cluster; codes in shards.

One function encodes one shard, whoever calls it, so that both ways give the same codes. What a shard is, and how a
tokenizer encodes, is known elsewhere.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbase.cli.options import progress
from recbase.store.files import TEMPORARY, new_path
from recbase.store.folder import FileContent, check_replaceable, consistent, folder_lock, open_folder, save_folder
from recbase.store.manifests import check, read_json
from semtok.codecs.schemas import CODE_SHARDS
from semtok.codes import ItemCodes, read_code_table
from semtok.content.arrange import laid_out_as
from semtok.content.shards import ShardedEmbeddings

__all__ = ["CODES_MANIFEST", "ENGINES", "encode_shard", "encode_shards", "load_code_shards", "write_code_shards"]

ENGINES = ("local", "ray")
CODES_MANIFEST = "codes.json"
CODES_KIND = "code shards"


def encode_shard(
    tokenizer: Any, embeddings: ShardedEmbeddings, made_from: Mapping[str, Any], number: int
) -> np.ndarray:
    """Codes of the items of one shard: int32 [n, L].

    Parameters
    ----------
    tokenizer : ItemTokenizer
    embeddings : ShardedEmbeddings
    made_from : mapping
        Of the tokenizer's manifest: how the views are laid out.
    number : int
        Of the shard, from 0.

    Raises
    ------
    ValueError
        If the vectors are not those of the tokenizer's views, or not finite.
    """
    codes: np.ndarray = tokenizer.encode(laid_out_as(embeddings, made_from).matrix.shard(number))
    return codes


def encode_shards(
    tokenizer: Any,
    embeddings: ShardedEmbeddings,
    made_from: Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    engine: str = "local",
    quiet: bool = False,
) -> np.ndarray | None:
    """Encode all shards.

    Parameters
    ----------
    tokenizer : ItemTokenizer
        Fitted.
    embeddings : ShardedEmbeddings
    made_from : mapping
        Of the tokenizer's manifest: how the views are laid out.
    out : path or None, default None
        Folder for the codes, ``part-00000.parquet`` ... as the vectors have, each written by whoever encoded it; on
        several machines it must be shared by them, as that of the vectors. Codes are returned if None. What the folder
        held before is kept until all is written; a shard of other codes than one there has a hash in its name.
    engine : {"local", "ray"}, default "local"
        "ray" encodes shards on the machines of the Ray cluster that ``RAY_ADDRESS`` names (or that this process is
        connected to; one of this machine's cores if there is none). It needs the extra ``semtok[ray]``.
    quiet : bool, default False
        No progress bar.

    Returns
    -------
    int32 array [N, L], or None with ``out``

    Raises
    ------
    ValueError
        If the engine is unknown or vectors cannot be encoded.
    ImportError
        If Ray is not installed.
    OSError
        If codes cannot be written.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is not one of {', '.join(ENGINES)}")
    if out is not None:
        _write_shards(tokenizer, embeddings, made_from, Path(out), engine, quiet)
        return None
    if engine == "ray":
        return np.concatenate(_through_ray(tokenizer, embeddings, made_from, None))
    with progress("encode", embeddings.shards, quiet) as advance:
        found = []
        for number in range(embeddings.shards):
            found.append(encode_shard(tokenizer, embeddings, made_from, number))
            advance()
    return np.concatenate(found)


def _write_shards(
    tokenizer: Any, embeddings: ShardedEmbeddings, made_from: Mapping[str, Any], out: Path, engine: str, quiet: bool
) -> None:
    """Encode shards into a folder, which holds its old codes until all new ones are there."""
    check_replaceable(out, CODES_MANIFEST, CODES_KIND, _former_parts)
    rows = [embeddings.shard_rows(number) for number in range(embeddings.shards)]
    manifest = _manifest(tokenizer.sizes_, tokenizer.blocks_, rows)
    if engine == "ray":
        run = os.urandom(6).hex()
        with folder_lock(out, "encoding shards"):
            try:
                made = _through_ray(tokenizer, embeddings, made_from, (out, run))
                _save(out, manifest, [functools.partial(os.replace, part) for part in made])
            finally:
                for left in out.glob(f"{TEMPORARY}*.{run}.parquet"):
                    left.unlink(missing_ok=True)
        return
    with progress("encode", embeddings.shards, quiet) as advance:

        def encoded(number: int, path: Path) -> None:
            codes = encode_shard(tokenizer, embeddings, made_from, number)
            _write_codes(codes, embeddings.shard_ids(number), path)
            advance()

        _save(out, manifest, [functools.partial(encoded, number) for number in range(len(rows))])


def write_code_shards(folder: str | os.PathLike[str], codes: ItemCodes, embeddings: ShardedEmbeddings) -> None:
    """Write codes as ``part-00000.parquet`` ..., cut where the shards of the vectors are.

    Raises
    ------
    ValueError
        If the codes are of another number of items.
    OSError
        If a file cannot be written.
    """
    if len(codes) != len(embeddings):
        raise ValueError(f"the codes are of {len(codes)} items but the shards of {len(embeddings)}")
    rows = [embeddings.shard_rows(number) for number in range(embeddings.shards)]
    ends = np.cumsum(rows).tolist()
    spans = [slice(stop - count, stop) for count, stop in zip(rows, ends, strict=True)]
    parts = [functools.partial(_write_codes, codes.codes[span], codes.item_ids[span]) for span in spans]
    _save(Path(folder), _manifest(codes.sizes, codes.blocks, rows), parts)


@consistent
def load_code_shards(folder: str | os.PathLike[str]) -> ItemCodes:
    """Read codes that were written in shards.

    Raises
    ------
    FileNotFoundError
        If the folder holds none, or not all of them yet.
    ValueError
        If a part does not hold the rows that the manifest says.
    """
    folder = Path(folder)
    path = folder / CODES_MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CODES_MANIFEST}, so it holds no complete set of code shards")
    content = read_json(path)
    opened = None if _former_parts(content) is not None else open_folder(folder, CODES_MANIFEST, CODES_KIND)
    manifest = content if opened is None else opened.manifest
    check(path, manifest, CODE_SHARDS)
    parts = []
    for number, rows in enumerate(manifest["rows"]):
        name = _part(number)
        part = folder / (opened.files[name]["file"] if opened is not None and name in opened else name)
        if not part.is_file():
            raise FileNotFoundError(f"{part} is named by {path} but is missing")
        if opened is not None:
            part = opened.file(name)
        parts.append(read_code_table(part, manifest | {"items": rows}))
    kinds = {codes.item_ids.dtype.kind for codes in parts if len(codes)}
    if len(kinds) > 1:
        raise ValueError(f"{folder} has shards with text ids and shards with whole numbers as ids, expected one kind")
    blocks = {name: slice(*bounds) for name, bounds in manifest["blocks"].items()}
    ids = np.concatenate([codes.item_ids for codes in parts if len(codes)] or [parts[0].item_ids])
    try:
        return ItemCodes(np.concatenate([codes.codes for codes in parts]), tuple(manifest["sizes"]), ids, blocks)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _part(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _write_codes(codes: np.ndarray, item_ids: np.ndarray, path: Path) -> None:
    ItemCodes(codes, tuple(int(column.max(initial=0)) + 1 for column in codes.T), item_ids).write_parquet(path)


def _manifest(sizes: Any, blocks: Mapping[str, slice], rows: list[int]) -> dict[str, Any]:
    return {
        "sizes": [int(size) for size in sizes],
        "blocks": {name: [part.start, part.stop] for name, part in blocks.items()},
        "rows": [int(count) for count in rows],
    }


def _save(folder: Path, manifest: Mapping[str, Any], parts: Sequence[FileContent]) -> None:
    files = {_part(number): part for number, part in enumerate(parts)}
    save_folder(folder, CODES_MANIFEST, CODES_KIND, manifest, files, plain=True, former=_former_parts)


def _former_parts(manifest: Any) -> list[str] | None:
    """The shards that a manifest of an earlier version stands for; it counted their rows alone."""
    if not isinstance(manifest, dict) or manifest.keys() != {"sizes", "blocks", "rows"}:
        return None
    rows = manifest["rows"]
    return [_part(number) for number in range(len(rows))] if isinstance(rows, list) else None


# --------------------------------------------------------------------------------------- Ray


class _Worker:
    """Worker on a machine of the cluster: holds the tokenizer, and opens shards by their folder."""

    def __init__(
        self, files: Mapping[str, bytes], embeddings: str, made_from: str, out: tuple[str, str] | None
    ) -> None:
        import semtok

        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self.tokenizer = semtok.load(folder)
        self.embeddings = ShardedEmbeddings(embeddings)
        self.made_from = json.loads(made_from)
        self.out = out

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Encode the shards that are named; their codes as bytes, or nothing where they are written."""
        kept = []
        for number in batch["shard"].tolist():
            codes = encode_shard(self.tokenizer, self.embeddings, self.made_from, number)
            if self.out is None:
                kept.append(codes.astype("<i4").tobytes())
                continue
            folder, run = self.out
            path = new_path(Path(folder), f".{run}.parquet")
            _write_codes(codes, self.embeddings.shard_ids(number), path)
            kept.append(str(path).encode())
        return {"shard": batch["shard"], "codes": np.array(kept, dtype=object)}


def _through_ray(
    tokenizer: Any,
    embeddings: ShardedEmbeddings,
    made_from: Mapping[str, Any],
    out: tuple[Path, str] | None,
) -> list[Any]:
    """Codes of each shard in their order; with ``out``, a folder and the name of this run, files that hold them."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray Data: pip install 'semtok[ray]'") from error
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if out is not None:
        out[0].mkdir(parents=True, exist_ok=True)
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    shards = embeddings.shards
    workers = max(1, min(shards, int(ray.cluster_resources().get("CPU", 1)) - 1))  # one core for the rest of Ray Data
    numbers = ray.data.from_items([{"shard": number} for number in range(shards)], override_num_blocks=shards)
    encoded = numbers.map_batches(
        _Worker,
        fn_constructor_args=(
            files,
            str(embeddings.folder.resolve()),
            json.dumps(dict(made_from), default=str),
            None if out is None else (str(out[0].resolve()), out[1]),
        ),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    rows = sorted(encoded.take_all(), key=lambda row: row["shard"])
    if [row["shard"] for row in rows] != list(range(shards)):
        raise RuntimeError(f"{len(rows)} of {shards} shards came back from Ray")
    if out is not None:
        return [Path(row["codes"].decode()) for row in rows]
    levels = len(tokenizer.sizes_)
    return [np.frombuffer(row["codes"], dtype="<i4").reshape(-1, levels).astype(np.int32) for row in rows]
