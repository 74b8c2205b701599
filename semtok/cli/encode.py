"""The command ``semtok encode``: codes of new items, or of any vectors, by a fitted tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from recbase.cli.options import (
    Command,
    Option,
    add_options,
    argument,
    column_pairs,
    shared,
)
from recbase.console import failures, print_json, print_table, say

if TYPE_CHECKING:
    from semtok.content.embeddings import Embeddings
    from semtok.content.shards import ShardedEmbeddings


from semtok.cli.fit import ENGINES, need_shards

__all__ = ["encode"]


@click.command(cls=Command)
@argument("tokenizer")
@add_options(
    [
        Option("items", "path", None, "Table of new items (.parquet, .csv, .jsonl) with the views as columns."),
        Option("columns", "strs", None, "What the columns of --items are called, as item_id=sku,title=Product Name."),
        Option("embeddings", "path", None, "Vectors to encode, or with --items those the tokenizer was fitted on."),
        Option("embeddings_ids", "path", None, "File of the ids of the rows, where --embeddings is a file of vectors."),
        Option("out", "path", None, "Table to write (.parquet, .csv, .jsonl), or folder of shards for shards.",
               shown="runs/semtok/encoded.parquet, or the folder runs/semtok/encoded"),
        Option("append", "bool", False, "Write the new items into TOKENIZER, or the folder --out, for good."),
        Option("grow", "bool", False, "With --append: let a suffix level that is full grow; models no longer fit it."),
        Option("engine", "choice", "local", "Where shards are encoded; ray needs the extra semtok[ray].", ENGINES),
    ]
)  # fmt: skip
@add_options(shared("as_json", "quiet"))
@failures
def encode(
    tokenizer: Path,
    items: Path | None,
    columns: tuple[str, ...] | None,
    embeddings: Path | None,
    embeddings_ids: Path | None,
    out: Path | None,
    append: bool,
    grow: bool,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Give items the codes of a fitted TOKENIZER: new items by their content, or any vectors of the same views.

    With --items the texts become vectors by the rules that were fitted with the embeddings, which TOKENIZER carries; a
    folder of an earlier version needs those --embeddings. Without --items, --embeddings may be a folder of shards
    (part-00000.safetensors or .parquet ...) larger than memory, whose codes are written as shards too.
    With --append the items, which must be new, get codes of their own and become part of the folder; no code that was
    given before changes.
    """
    import semtok
    from recbase.data.readers import read_items
    from semtok.codecs.schemas import open_tokenizer
    from semtok.content.ready_vectors import VectorSource, open_vectors
    from semtok.content.shards import ShardedEmbeddings

    fitted = semtok.load(tokenizer)
    made_from = open_tokenizer(tokenizer).manifest.get("made_from") or {}
    if items is None and embeddings is None:
        raise click.UsageError("give --items TABLE (new items) or --embeddings FOLDER|FILE (vectors)")
    if grow and not append:
        raise click.UsageError("--grow says what --append may do; give both")
    if items is None:
        vectors = open_vectors(cast(VectorSource, VectorSource.of(embeddings, embeddings_ids)))
    else:
        vectors = _transforms_of(tokenizer, embeddings, made_from).transform_new(
            read_items(items, columns=column_pairs(columns))
        )
    if append:
        _append(tokenizer, vectors, made_from, out, grow, as_json, quiet)
        return
    _check_out(out, items, embeddings, embeddings_ids)
    if isinstance(vectors, ShardedEmbeddings):
        said = _encode_shards(fitted, vectors, made_from, out or Path("runs/semtok/encoded"), engine, quiet or as_json)
    else:
        if engine != "local":
            need_shards(vectors, f"--engine {engine}", items or cast(Path, embeddings))
        said = _encode_table(fitted, vectors, made_from, out or Path("runs/semtok/encoded.parquet"), tokenizer)
    if as_json:
        print_json(said)
    elif not quiet:
        say(f"{said['items']:,} items of {said['levels']} codes each are in {said['file']}")


def _transforms_of(tokenizer: Path, embeddings: Path | None, made_from: Mapping[str, Any]) -> Embeddings:
    """The embeddings that a tokenizer was fitted on, or what it carries of them: how texts become vectors."""
    from semtok.codecs.schemas import open_tokenizer
    from semtok.codes import load_codes
    from semtok.content.embeddings import Embeddings, carried_rules
    from semtok.content.ready_vectors import open_vectors

    carried = carried_rules(open_tokenizer(tokenizer)) if embeddings is None else None
    if carried is not None:
        return carried
    folder = embeddings or made_from.get("embeddings_folder")
    if folder is None or not Path(folder).exists():
        raise FileNotFoundError(
            f"{tokenizer} was fitted on the embeddings in {folder}, which are gone; give --embeddings"
        )
    source = open_vectors(folder)
    if not isinstance(source, Embeddings):
        raise ValueError(f"{folder} holds vectors in shards, which say nothing of how texts became vectors")
    if not source.manifest.get("views"):
        raise ValueError(f"{folder} is a file of vectors, which says nothing of how texts became vectors; give vectors")
    recorded = made_from.get("embeddings")
    if recorded not in {None, source.hash}:
        fitted_on = load_codes(tokenizer).item_ids[: len(source)]  # items that were appended later come last
        same = set(fitted_on.tolist()) == set(source.item_ids.tolist())
        if not same or source.align(fitted_on).hash != recorded:
            raise ValueError(
                f"{tokenizer} was fitted on other embeddings than those that are in {folder} now: new items would get "
                "codes that do not fit; give --embeddings the ones it was fitted on, or fit anew"
            )
    return source


def _append(
    tokenizer: Path,
    vectors: Embeddings | ShardedEmbeddings,
    made_from: Mapping[str, Any],
    out: Path | None,
    grow: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Append the items to the tokenizer's folder and say how far they drifted."""
    from semtok.catalogue.append import append_items
    from semtok.content.arrange import laid_out_as

    matrix = laid_out_as(vectors, made_from).matrix
    origin = {"embeddings": vectors.hash}
    added = append_items(tokenizer, matrix, vectors.item_ids, out=out, grow=grow, made_from=origin)
    if as_json:
        print_json({"folder": str(added.folder), **added.generation})
    elif not quiet:
        print_table(("", ""), _drift_rows(added.generation), f"Generation {added.generation['generation']}")
        say(f"{added.generation['items']:,} new items are in {added.folder}, {len(added.codes):,} in all")


def _drift_rows(generation: Mapping[str, Any]) -> list[tuple[str, str]]:
    drift, resolving = generation["drift"], generation["resolving"]
    rows = [("new items", f"{generation['items']:,}")]
    if resolving is not None:
        rows.append((f"given other codes ({resolving['policy']})", f"{resolving['moved']:,}"))
    if drift["ratio"] is not None:
        rows += [
            ("distance to codes / training", f"{drift['ratio']:.3f}"),
            ("beyond 95 % of training", f"{drift['above']:.1%}"),
            ("Kolmogorov-Smirnov", f"{drift['ks']:.3f} (p {drift['p_value']:.2g})"),
        ]
    return rows + [
        (f"first {depth} codes unseen", f"{share:.1%}") for depth, share in enumerate(drift["unseen_prefixes"], 1)
    ]


def _encode_table(
    fitted: Any, vectors: Embeddings, made_from: Mapping[str, Any], out: Path, tokenizer: Path
) -> dict[str, Any]:
    """Encode vectors that are one array and write one table."""
    import polars as pl

    from semtok.content.arrange import laid_out_as

    matrix = laid_out_as(vectors, made_from).matrix
    if matrix.shape[1] != fitted.n_features_in_:
        raise ValueError(
            f"the vectors have {matrix.shape[1]} columns but {tokenizer} was fitted on {fitted.n_features_in_}: "
            "they are not of the same embeddings"
        )
    codes = fitted.item_codes(matrix, vectors.item_ids)
    columns = {f"c{level}": codes.codes[:, level] for level in range(codes.levels)}
    _write_table(pl.DataFrame({"item_id": vectors.item_ids.tolist(), **columns}), out)
    return {"file": str(out), "items": len(codes), "levels": codes.levels, "collisions": codes.collisions().items}


def _encode_shards(
    fitted: Any, vectors: ShardedEmbeddings, made_from: Mapping[str, Any], out: Path, engine: str, quiet: bool
) -> dict[str, Any]:
    """Encode shards, into shards where ``out`` is a folder, else into one table."""
    import polars as pl

    from semtok.catalogue.encode_shards import encode_shards

    codes = encode_shards(fitted, vectors, made_from, None if out.suffix else out, engine, quiet)
    if codes is not None:
        columns = {f"c{level}": column for level, column in enumerate(codes.T)}
        _write_table(pl.DataFrame({"item_id": vectors.item_ids, **columns}), out)
    return {"file": str(out), "items": len(vectors), "levels": len(fitted.sizes_), "shards": vectors.shards}


def _check_out(out: Path | None, *inputs: Path | None) -> None:
    """Refuse an --out that would replace what is read, or a part of a folder of ours."""
    from recbase.store.folder import check_file

    if out is not None:
        check_file(out, *inputs)


def _write_table(table: Any, path: Path) -> None:
    from recbase.store.files import write_file

    writers = {".parquet": "write_parquet", ".csv": "write_csv", ".jsonl": "write_ndjson"}
    if path.suffix not in writers:
        raise ValueError(f"--out is {path}; expected a name that ends in .parquet, .csv or .jsonl")
    write_file(path, getattr(table, writers[path.suffix]))
