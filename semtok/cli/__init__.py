"""The command ``semtok``: prepare, embed, fit, encode, list; those on finished codes are in a file of their own."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from recbase.cli.console import failures, print_json, print_table, say
from recbase.cli.options import (
    Group,
    Option,
    add_options,
    argument,
    attribute_of,
    chosen,
    given,
    need_paths,
    options_from,
    recipe_of,
    section_of,
    shared,
    summary_of,
    union,
)
from semtok import TOKENIZERS
from semtok.cli.codes import export_codes, import_codes, report_codes
from semtok.registry import methods

if TYPE_CHECKING:
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import VectorSource
    from semtok.content.shards import ShardedEmbeddings

__all__ = ["main"]

_EMBED = "semtok.content.embed:embed_dataset"
_ENCODERS = {
    "tfidf": "TF-IDF and truncated SVD (scikit-learn); no download, the default.",
    "minilm": "all-MiniLM-L6-v2 from the extra semtok[minilm]; no hub needed.",
    "OWNER/NAME": "Any Hugging Face text model, or a folder of one (mean over tokens).",
    "FILE": "Ready vectors: .npy (one view) or .safetensors (one view a tensor).",
}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Group, context_settings=_SETTINGS)
def main() -> None:
    """Turn item content into short tuples of discrete codes (semantic IDs).

    The stages, each a folder on disk: prepare (a data set), embed (item vectors), fit (codes), report. Later stages
    make what they are not given: `semtok fit --method pq` is a whole run on built-in data.
    """


for _command in (report_codes, export_codes, import_codes):
    main.add_command(_command)


# --------------------------------------------------------------------------------------- prepare

_PREPARE = "recbase.data.catalog:prepare_dataset"
_PREPARE_OPTIONS = [
    Option("items", "path", None, "Table of the items, in the format of SOURCE."),
    Option("from_file", "path", None, "Read a public set from this file instead of downloading it.", flag="from"),
    Option("cache", "path", None, "Where downloads are kept; ~/.cache/semtok if not given."),
    *options_from(_PREPARE, skip=("items", "from_file", "cache", "columns", "quiet", "source")),
]


@main.command()
@argument("source", "str")
@add_options(
    [
        Option("out", "path", None, "Folder to write; runs/data/NAME if not given."),
        Option("verify", "str", None, "Compare sequence by sequence with this data set (folder or name)."),
        Option("columns", "strs", None, "What the columns are called, as user_id=uid,item_id=sku,timestamp=when."),
    ]
)
@add_options(_PREPARE_OPTIONS, section="Reading and filtering")
@add_options(shared("as_json", "quiet"))
@failures
def prepare(
    source: str,
    out: Path | None,
    verify: str | None,
    columns: tuple[str, ...] | None,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Read SOURCE, filter and order its events, and write a dataset folder.

    SOURCE is a named public set, a folder with interactions.parquet and items.parquet, a file in a known format, or
    (with --format huggingface) a name on the hub. With --verify the exit code is 1 if any sequence differs.
    """
    from recbase.data.catalog import load_dataset, prepare_dataset
    from recbase.data.catalog import verify as compare
    from recbase.data.dataset import MANIFEST
    from recbase.store.folder import check_replaceable

    if out is not None:
        check_replaceable(out, MANIFEST, "dataset")
    pairs = dict(_column(text) for text in columns) if columns else None
    need_paths("items", "from_file")
    other = None if verify is None else load_dataset(verify)
    dataset = prepare_dataset(source, columns=pairs, quiet=quiet or as_json, **chosen(_PREPARE_OPTIONS))
    out = dataset.save(out or Path("runs/data") / Path(dataset.name).name)
    found = None if other is None else compare(dataset, other)
    result = {"folder": str(out), "name": dataset.name, **dataset.manifest["counts"], "views": dataset.views}
    hashes = {"sequences_hash": dataset.sequences_hash, "pattern_hash": dataset.pattern_hash}
    result |= {"hash": dataset.hash} | hashes
    said = ("events_read", "dropped", "matching", "texts", "reading")
    result |= {name: dataset.manifest[name] for name in said if name in dataset.manifest}
    if as_json:
        print_json(result | ({} if found is None else {"verification": {**vars(found), "same": found.same}}))
    elif not quiet:
        print_table(("", "count"), _prepared_rows(dataset.manifest), dataset.name)
        for note in dataset.manifest.get("reading", []):
            if not note["warned"]:
                say(f"note: {note['sentence']}")
        say(f"sequences {dataset.sequences_hash[:16]}, whatever users and items are called {dataset.pattern_hash[:16]}")
        say(f"Data set is in {out}")
        if found is not None:
            for line in found.summary().splitlines():
                say(line)
    if found is not None and not found.same:
        raise ValueError(f"{source} and {verify} differ: {found.equal} of {found.users} sequences are equal")


def _prepared_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was read, what was dropped and why, what is left, and how much of it has text."""
    counts, dropped, matching = manifest["counts"], manifest.get("dropped", {}), manifest.get("matching")
    rows = [("events read", f"{manifest['events_read']:,}")] if "events_read" in manifest else []
    if dropped.get("repeated_events"):
        rows.append(("- repeats of a user and an item", f"{dropped['repeated_events']:,}"))
    if dropped.get("rare_events"):
        users, items = dropped["rare_users"], dropped["rare_items"]
        rows.append((f"- of {users:,} rare users and {items:,} rare items", f"{dropped['rare_events']:,}"))
    if dropped.get("events_beyond_limit"):
        rows.append(("- before each user's latest", f"{dropped['events_beyond_limit']:,}"))
    rows += [(name, f"{counts[name]:,}") for name in ("users", "items", "interactions")]
    if matching:
        of = f"{matching['items']:,} of {counts['items']:,}"
        rows.append(("items in the table of items", f"{of}, with {matching['events']:,} events"))
    texts = manifest.get("texts", {})
    rows += [(f"items with a text: {view}", f"{count:,} of {counts['items']:,}") for view, count in texts.items()]
    return [*rows, ("views", ", ".join(manifest["views"]) or "none")]


def _column(text: str) -> tuple[str, str]:
    name, equal, column = text.partition("=")
    if not equal or not column:
        raise click.UsageError(f"--columns has {text!r}; expected NAME=COLUMN, such as user_id=uid")
    return name.strip(), column.strip()


# --------------------------------------------------------------------------------------- embed

_EMBED_OPTIONS = options_from(_EMBED, skip=("dataset", "encoder", "views", "seed", "out", "quiet"))
_FIT_EMBED_OPTIONS = [
    option for option in _EMBED_OPTIONS if option.name in {"pca", "whiten", "image_encoder", "image_root", "max_tokens"}
]


@main.command()
@add_options(shared("data", "encoder", "views", "out", "seed", "as_json", "quiet"))
@add_options(_EMBED_OPTIONS, section="Encoding")
@failures
def embed(
    data: str,
    encoder: str,
    views: tuple[str, ...] | None,
    out: Path | None,
    seed: int,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Encode the items of a data set: one vector a view.

    Without --out the folder is in the cache of all commands, runs/cache/vectors-DATA-ENCODER-HASH. A run that was
    interrupted goes on where it stopped.
    """
    from recbase.data.catalog import load_dataset
    from semtok.content.embed import embed_dataset, embeddings_for

    dataset = load_dataset(data)
    settings = chosen(_EMBED_OPTIONS) | {"views": views, "seed": seed, "quiet": quiet or as_json}
    if out is None:
        embeddings, out = embeddings_for(dataset, encoder, **settings)
    else:
        embeddings = embed_dataset(dataset, encoder, out=out, **settings)
    result = {
        "folder": str(out),
        "data": dataset.name,
        "encoder": encoder,
        "items": len(embeddings),
        "views": {
            name: {"width": vectors.shape[1], "missing": int(embeddings.missing[name].sum())}
            for name, vectors in embeddings.views.items()
        },
    }
    if as_json:
        print_json(result)
    elif not quiet:
        rows = [
            (name, str(vectors.shape[1]), f"{embeddings.missing[name].mean():.1%}")
            for name, vectors in embeddings.views.items()
        ]
        title = f"{dataset.name}: {len(embeddings):,} items, encoder {encoder}"
        print_table(("view", "width", "missing"), rows, title)
        say(f"Embeddings are in {out}: {embeddings.described()}")


# --------------------------------------------------------------------------------------- fit


def _read_methods() -> tuple[dict[str, str], dict[str, list[Option]], dict[str, str]]:
    """The methods, the options of each, and what is wrong with those of third parties that cannot be used."""
    usable, options = dict(TOKENIZERS), {name: _options_of(target) for name, target in TOKENIZERS.items()}
    broken: dict[str, str] = {}
    for name, target in methods().items():
        if name not in usable:
            try:
                options[name] = _options_of(target)
                union(options)
            except (ImportError, ValueError, SyntaxError) as error:
                options.pop(name, None)
                broken[name] = f"cannot be used: {error}"
            usable[name] = target
    return usable, options, broken


def _options_of(target: str) -> list[Option]:
    return options_from(target, skip=("seed", "quiet"))


_METHODS, _METHOD_OPTIONS, _BROKEN = _read_methods()
_ENGINES = ("local", "ray")
_UNIQUE = ("none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced")
_INPUT_OPTIONS = [
    Option("collaborative", "path", None, "Item vectors from behaviour (a run, or a file); of --data if not given."),
    Option("unique", "choice", None, "How codes that items share are made unique; none keeps them.", _UNIQUE,
           shown="the method's, see `semtok list`"),
    Option("per_view", "bool", None, "Codes for each view on its own, or for all in one.", shown="the method's"),
]  # fmt: skip
_SHARD_OPTIONS = [
    Option("encode_engine", "choice", "local", "Where shards are encoded; ray needs the extra semtok[ray].", _ENGINES),
    Option(
        "code_shards", "bool", False, "Write the codes also as OUT/codes/part-00000.parquet ...", flag="code-shards"
    ),
]


@main.command()
@add_options([Option("method", "choice", "pq", "How vectors become codes; see `semtok list`.", tuple(_METHODS))])
@add_options(shared("data", "embeddings", "embeddings_ids", "in_order", "encoder", "views"))
@add_options([Option("out", "path", None, "Folder to write; runs/semtok/METHOD if not given.")])
@add_options(shared("recipe", "seed", "as_json", "quiet"))
@add_options(_INPUT_OPTIONS)
@add_options(union(_METHOD_OPTIONS), section="Method")
@add_options(_FIT_EMBED_OPTIONS, section="Embeddings, where none are given")
@add_options(_SHARD_OPTIONS, section="Embeddings in shards (folders of part-00000.safetensors or .parquet)")
@failures
def fit(
    method: str,
    data: str,
    embeddings: Path | None,
    embeddings_ids: Path | None,
    in_order: bool,
    encoder: str,
    views: tuple[str, ...] | None,
    out: Path | None,
    recipe: str,
    seed: int,
    collaborative: Path | None,
    unique: str | None,
    per_view: bool | None,
    encode_engine: str,
    code_shards: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Fit a tokenizer on item vectors and write the codes of all items.

    Without --embeddings the vectors are made from --data and kept in runs/cache, where every command finds them.
    --embeddings may be a folder, a file of vectors (.npy, .safetensors, .parquet), or a folder of shards
    (part-00000.safetensors or .parquet ...) larger than memory, which are streamed. A file's rows are found by the ids
    that it or --embeddings-ids has, or, with --in-order, are the items of --data in their order. Methods that learn
    from behaviour read the training part of --data. Ends with a table of the quality of the codes.
    """
    from recbase.store.folder import check_replaceable
    from semtok.codes import KIND, MANIFEST

    _refuse_strange_options(method)
    out = out or Path("runs/semtok") / method
    check_replaceable(out, MANIFEST, KIND)
    tokenizer = _new_tokenizer(method, recipe, seed, quiet or as_json)
    from recbase.pipeline import cache_for
    from semtok.catalogue.fit import fit_codes
    from semtok.catalogue.prepare import keep_codes
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import VectorSource

    started = time.perf_counter()
    settings = chosen(_FIT_EMBED_OPTIONS) | {"encoder": encoder, "views": views}
    typed = {name: value for name, value in settings.items() if name in given()}
    given_vectors = VectorSource.of(embeddings, embeddings_ids, in_order, typed)
    made, source, dataset = _vectors_for(data, given_vectors, encoder, views, seed, quiet or as_json, cache_for(out))
    if code_shards or encode_engine != "local":
        _need_shards(made, "--code-shards" if code_shards else "--encode-engine ray", source)
    embedded = time.perf_counter()
    fitted = fit_codes(
        tokenizer,
        made,
        dataset=dataset,
        views=views,
        per_view=per_view,
        collaborative=collaborative,
        unique=unique,
        seed=seed,
        engine=encode_engine,
        made_from={"embeddings_folder": str(source), "recipe": recipe},
        quiet=quiet or as_json,
    )
    report = fitted.report
    report |= {"method": method, "seconds": {"embeddings": embedded - started} | report["seconds"]}
    fitted.save(out)
    if isinstance(made, Embeddings) and collaborative is None:  # for the trainings that want the same codes
        keep_codes(fitted, made, cache_for(out), dataset=dataset, per_view=per_view, seed=seed)
    if code_shards:
        from semtok.catalogue.encode_shards import write_code_shards

        write_code_shards(out / "codes", fitted.codes, cast("ShardedEmbeddings", made))
    if as_json:
        print_json({"folder": str(out), "method": method, "embeddings": str(source), "report": report})
    elif not quiet:
        from semtok.report.measures import print_report

        print_report(report, f"{method} codes of {_origin(made)}")
        if isinstance(made, Embeddings):
            say(f"Content: {made.described()}")
        if report["unique"] != "none":
            shared_before = report["before"]["collisions"]
            say(
                f"Made unique by {report['unique']}: {shared_before['items']:,} items shared their codes before "
                f"({shared_before['rate']:.1%}), {report['collisions']['items']:,} do now"
            )
        say(f"Codes and tokenizer are in {out} (fitted in {report['seconds']['fit']:.1f} s), vectors in {source}")


def _new_tokenizer(method: str, recipe: str, seed: int, quiet: bool) -> Any:
    """The tokenizer with the arguments that were typed, else those of the recipe."""
    import inspect

    from semtok.registry import tokenizer_class

    if method in _BROKEN:
        raise ValueError(f"method {method} {_BROKEN[method]}")
    arguments = chosen(_METHOD_OPTIONS[method], recipe_of(_METHODS[method], recipe))
    made = tokenizer_class(method)
    known = inspect.signature(made).parameters
    return made(**arguments, **{name: value for name, value in {"seed": seed, "quiet": quiet}.items() if name in known})


def _need_shards(made: Any, option: str, source: Path) -> None:
    from semtok.content.shards import ShardedEmbeddings

    if not isinstance(made, ShardedEmbeddings):
        raise ValueError(f"{option} is for vectors in shards; {source} is not a folder of them")


def _refuse_strange_options(method: str) -> None:
    """Refuse a typed option that the method does not have, instead of ignoring it."""
    kept = [*_METHOD_OPTIONS.get(method, []), *_FIT_EMBED_OPTIONS, *_INPUT_OPTIONS, *_SHARD_OPTIONS]
    named = [option.name for option in kept]
    for other, options in _METHOD_OPTIONS.items():
        for option in options:
            if option.name in given() and option.name not in named:
                raise click.UsageError(f"{option.spelled} belongs to {other}; {method} has no such option")


def _vectors_for(
    data: str,
    source: VectorSource | None,
    encoder: str,
    views: tuple[str, ...] | None,
    seed: int,
    quiet: bool,
    cache: Path,
) -> tuple[Embeddings | ShardedEmbeddings, Path, Any]:
    """The vectors to fit on, where they lie, and the data set (None where vectors were given and no data set)."""
    from recbase.data.catalog import load_dataset
    from semtok.content.embed import embeddings_for
    from semtok.content.ready_vectors import open_vectors

    if source is not None:
        dataset = load_dataset(data) if "data" in given() or source.in_order else None
        made = open_vectors(source, *(() if dataset is None else (dataset.item_ids, f"the data set {dataset.name}")))
        return made, source.path, dataset
    dataset = load_dataset(data)
    settings = chosen(_FIT_EMBED_OPTIONS) | {"views": views, "seed": seed, "quiet": quiet}
    made, folder = embeddings_for(dataset, encoder, cache, **settings)
    return made, folder, dataset


def _origin(made: Embeddings | ShardedEmbeddings) -> str:
    return str((made.manifest.get("dataset") or {}).get("name", f"{len(made):,} vectors"))


# --------------------------------------------------------------------------------------- encode


@main.command()
@argument("tokenizer")
@add_options(
    [
        Option("items", "path", None, "Table of new items (.parquet, .csv, .jsonl) with the views as columns."),
        Option("embeddings", "path", None, "Vectors to encode, or with --items those the tokenizer was fitted on."),
        Option("embeddings_ids", "path", None, "File of the ids of the rows, where --embeddings is a file of vectors."),
        Option("out", "path", None, "Table to write (.parquet, .csv, .jsonl), or folder of shards for shards.",
               shown="runs/semtok/encoded.parquet, or the folder runs/semtok/encoded"),
        Option("append", "bool", False, "Write the new items into TOKENIZER, or the folder --out, for good."),
        Option("grow", "bool", False, "With --append: let a suffix level that is full grow; models no longer fit it."),
        Option("engine", "choice", "local", "Where shards are encoded; ray needs the extra semtok[ray].", _ENGINES),
    ]
)  # fmt: skip
@add_options(shared("as_json", "quiet"))
@failures
def encode(
    tokenizer: Path,
    items: Path | None,
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

    With --items the texts become vectors by the transforms that were fitted with the embeddings. --embeddings may be a
    folder of shards (part-00000.safetensors or .parquet ...) larger than memory, whose codes are written as shards too.
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
        vectors = _transforms_of(tokenizer, embeddings, made_from).transform_new(read_items(items))
    if append:
        _append(tokenizer, vectors, made_from, out, grow, as_json, quiet)
        return
    _check_out(out, items, embeddings, embeddings_ids)
    if isinstance(vectors, ShardedEmbeddings):
        said = _encode_shards(fitted, vectors, made_from, out or Path("runs/semtok/encoded"), engine, quiet or as_json)
    else:
        if engine != "local":
            _need_shards(vectors, f"--engine {engine}", items or cast(Path, embeddings))
        said = _encode_table(fitted, vectors, made_from, out or Path("runs/semtok/encoded.parquet"), tokenizer)
    if as_json:
        print_json(said)
    elif not quiet:
        say(f"{said['items']:,} items of {said['levels']} codes each are in {said['file']}")


def _transforms_of(tokenizer: Path, embeddings: Path | None, made_from: Mapping[str, Any]) -> Embeddings:
    """The embeddings that a tokenizer was fitted on, which know how texts become vectors."""
    from semtok.codes import load_codes
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import open_vectors

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


# --------------------------------------------------------------------------------------- list


@main.command("list")
@add_options(shared("as_json"))
@failures
def list_all(as_json: bool) -> None:
    """List the methods, the encoders and the built-in data sets."""
    described = {name: _described(name) for name in _METHODS}
    data = _DATA | _public_sets()
    if as_json:
        print_json({"methods": described, "encoders": _ENCODERS, "data": data})
        return
    rows = [
        (name, [part for part in (said["summary"], said["paper"]) if part], ", ".join(said["inputs"]), said["unique"])
        for name, said in described.items()
    ]
    headings = ("name", "what it is, paper", "learns from", "made unique")
    print_table(headings, rows, "Methods (semtok fit --method NAME)")
    print_table(("name", "what it is"), list(_ENCODERS.items()), "Encoders (--encoder NAME)")
    print_table(("name", "what it is"), list(data.items()), "Data sets (--data NAME, or a folder)")


def _described(method: str) -> dict[str, Any]:
    """What `semtok list` says of a method, read from its source."""
    target = _METHODS[method]
    if method in _BROKEN:
        return {"summary": _BROKEN[method], "paper": "", "inputs": [], "unique": "", "class": target}
    behaviour = [name for name in attribute_of(target, "inputs", ()) if name != "missing"]
    return {
        "summary": summary_of(target),
        "paper": _up_to_year(section_of(target, "Notes")),
        "inputs": [*(attribute_of(target, "modalities", ()) or ["vectors"]), *behaviour],
        "unique": attribute_of(target, "default_unique", "matching"),
        "class": target,
    }


def _up_to_year(text: str) -> str:
    """The reference that a text begins with; "" where it names no year."""
    found = re.match(r"(?s).*?\b(19|20)\d\d\b\)?", text)
    return "" if found is None else found[0]


def _public_sets() -> dict[str, str]:
    """Names of the public data sets."""
    from recbase.data.fetch import PUBLISHED

    return {name: f"Public; semtok prepare {name}." for name in PUBLISHED}


_DATA = {
    "journey": "Household purchases, 2,428 households and 1,661 items (extra semtok[demo]); the default.",
    "synthetic": "Generated, with a known best possible recall; for tests.",
}


if __name__ == "__main__":
    main()
