"""The command ``semtok fit``: vectors to codes, by any method."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from recbase.cli.options import (
    Command,
    Option,
    add_options,
    chosen,
    given,
    options_from,
    recipe_of,
    recipes_from,
    shared,
    summary_of,
    union,
)
from recbase.console import failures, print_json, say
from semtok import TOKENIZERS
from semtok.registry import methods

if TYPE_CHECKING:
    from semtok.content.embeddings import Embeddings
    from semtok.content.ready_vectors import VectorSource
    from semtok.content.shards import ShardedEmbeddings

from semtok.cli.prepare import EMBED_OPTIONS

__all__ = ["BROKEN", "ENGINES", "METHODS", "METHOD_OPTIONS", "fit", "fit_method", "need_shards"]


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


METHODS, METHOD_OPTIONS, BROKEN = _read_methods()
ENGINES = ("local", "ray")
_UNIQUE = ("none", "suffix", "sinkhorn", "nearest-free", "matching", "balanced")
_INPUT_OPTIONS = [
    *shared("split"),
    Option("collaborative", "path", None, "Item vectors from behaviour (a run, or a file); of --data if not given."),
    Option("unique", "choice", None, "How codes that items share are made unique; none keeps them.", _UNIQUE,
           shown="the method's, see `semtok list`"),
    Option("per_view", "bool", None, "Codes for each view on its own, or for all in one.", shown="the method's"),
]  # fmt: skip
_SHARD_OPTIONS = [
    Option("encode_engine", "choice", "local", "Where shards are encoded; ray needs the extra semtok[ray].", ENGINES),
    Option(
        "code_shards", "bool", False, "Write the codes also as OUT/codes/part-00000.parquet ...", flag="code-shards"
    ),
]


_GIVEN = shared("data", "embeddings", "embeddings_ids", "in_order", "encoder", "views")
_OUT = [Option("out", "path", None, "Folder to write; runs/semtok/METHOD if not given.")]
_SAID = shared("recipe", "seed", "as_json", "quiet")
_EMBEDDING = "Embeddings, where none are given"
_SHARDED = "Embeddings in shards (folders of part-00000.safetensors or .parquet)"


def fit_method(method: str) -> click.Command:
    """Command ``semtok fit METHOD``, with the options of that method alone."""
    recipes = ", ".join(sorted({"default", *recipes_from(METHODS[method])}))

    @click.command(f"fit {method}", cls=Command, help=f"{summary_of(METHODS[method])} Recipes: {recipes}.")
    @add_options([*_GIVEN, *_OUT, *_SAID, *_INPUT_OPTIONS])
    @add_options(METHOD_OPTIONS[method], section="Method")
    @add_options(EMBED_OPTIONS, section=_EMBEDDING)
    @add_options(_SHARD_OPTIONS, section=_SHARDED)
    @failures
    def command(**typed: Any) -> None:
        _fit(method, **typed)

    return command


@click.command(cls=Command)
@add_options([Option("method", "choice", "pq", "How vectors become codes; see `semtok list`.", tuple(METHODS))])
@add_options([*_GIVEN, *_OUT, *_SAID, *_INPUT_OPTIONS])
@add_options(union(METHOD_OPTIONS), section="Method")
@add_options(EMBED_OPTIONS, section=_EMBEDDING)
@add_options(_SHARD_OPTIONS, section=_SHARDED)
@failures
def fit(method: str, **typed: Any) -> None:
    """Fit a tokenizer on item vectors and write the codes of all items: semtok fit METHOD, or --method METHOD.

    Without --embeddings the vectors are made from --data and kept in runs/cache, where every command finds them.
    --embeddings may be a folder, a file of vectors (.npy, .safetensors, .parquet), or a folder of shards
    (part-00000.safetensors or .parquet ...) larger than memory, which are streamed. A file's rows are found by the ids
    that it or --embeddings-ids has, or, with --in-order, are the items of --data in their order. Methods that learn
    from behaviour read the training part of --data. Ends with a table of the quality of the codes.
    """
    _fit(method, **typed)


def _fit(
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
    split: str,
    collaborative: Path | None,
    unique: str | None,
    per_view: bool | None,
    encode_engine: str,
    code_shards: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Fit, save, print."""
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
    settings = chosen(EMBED_OPTIONS) | {"encoder": encoder, "views": views}
    typed = {name: value for name, value in settings.items() if name in given()}
    given_vectors = VectorSource.of(embeddings, embeddings_ids, in_order, typed)
    made, source, dataset = _vectors_for(data, given_vectors, encoder, views, seed, quiet or as_json, cache_for(out))
    dataset = None if dataset is None else dataset.divided(split)
    if code_shards or encode_engine != "local":
        need_shards(made, "--code-shards" if code_shards else "--encode-engine ray", source)
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

    if method in BROKEN:
        raise ValueError(f"method {method} {BROKEN[method]}")
    arguments = chosen(METHOD_OPTIONS[method], recipe_of(METHODS[method], recipe))
    made = tokenizer_class(method)
    known = inspect.signature(made).parameters
    return made(**arguments, **{name: value for name, value in {"seed": seed, "quiet": quiet}.items() if name in known})


def need_shards(made: Any, option: str, source: Path) -> None:
    """Refuse an option that is for vectors in shards where they are not."""
    from semtok.content.shards import ShardedEmbeddings

    if not isinstance(made, ShardedEmbeddings):
        raise ValueError(f"{option} is for vectors in shards; {source} is not a folder of them")


def _refuse_strange_options(method: str) -> None:
    """Refuse a typed option that the method does not have, instead of ignoring it."""
    kept = [*METHOD_OPTIONS.get(method, []), *EMBED_OPTIONS, *_INPUT_OPTIONS, *_SHARD_OPTIONS]
    named = [option.name for option in kept]
    for other, options in METHOD_OPTIONS.items():
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
    settings = chosen(EMBED_OPTIONS) | {"views": views, "seed": seed, "quiet": quiet}
    made, folder = embeddings_for(dataset, encoder, cache, **settings)
    return made, folder, dataset


def _origin(made: Embeddings | ShardedEmbeddings) -> str:
    return str((made.manifest.get("dataset") or {}).get("name", f"{len(made):,} vectors"))
