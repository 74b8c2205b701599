"""The commands ``semtok prepare`` and ``semtok embed``: raw files to a data set, its content to vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recbase.cli.options import (
    Command,
    Option,
    add_options,
    argument,
    chosen,
    column_pairs,
    need_paths,
    options_from,
    shared,
)
from recbase.console import failures, print_json, print_table, say

if TYPE_CHECKING:
    pass


__all__ = ["EMBED_OPTIONS", "embed", "prepare"]

_EMBED = "semtok.content.embed:embed_dataset"
_PREPARE = "recbase.data.catalog:prepare_dataset"
_OWN = ("items", "from_file", "cache", "columns", "quiet", "source", "separator", "header", "pictures")
_PREPARE_OPTIONS = [
    Option("items", "path", None, "Table of the items, in the format of SOURCE."),
    Option("from_file", "path", None, "Read a public set from this file instead of downloading it.", flag="from"),
    Option("cache", "path", None, "Where downloads are kept; ~/.cache/semtok if not given."),
    Option("separator", "choice", None, "What stands between the fields of a table.", (",", ";", "|", "tab", "blank"),
           shown="told from the header"),
    Option("header", "strs", None, "Names of the columns of a table without a header, as user,item,rating,time."),
    Option("pictures", "path", None, "Fetch pictures from the addresses in image_url into this folder."),
    *options_from(_PREPARE, skip=_OWN),
]  # fmt: skip
_SPELLED = {"tab": "\t", "blank": " "}


@click.command(cls=Command)
@argument("source", "str", many=True)
@add_options(
    [
        Option("out", "path", None, "Folder to write; runs/data/NAME if not given."),
        Option("verify", "str", None, "Compare sequence by sequence with this data set (folder or name)."),
        Option(
            "columns",
            "strs",
            None,
            "What the columns are called, as user_id=uid,item_id=sku,timestamp=when,title=Product Name.",
        ),
    ]
)
@add_options(_PREPARE_OPTIONS, section="Reading and filtering")
@add_options(shared("as_json", "quiet"))
@failures
def prepare(
    source: tuple[str, ...],
    out: Path | None,
    verify: str | None,
    columns: tuple[str, ...] | None,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Read SOURCE, filter and order its events, and write a dataset folder.

    SOURCE is a named public set, a folder with interactions.parquet and items.parquet, one or more files in a known
    format (a pattern in quotes stands for all that match), or with --format huggingface a name on the hub. Columns are
    found by their usual names; --columns says what others are called, of events and items alike. With --verify the
    exit code is 1 if any sequence differs.
    """
    from recbase.data.catalog import load_dataset, prepare_dataset
    from recbase.data.catalog import verify as compare
    from recbase.data.dataset import MANIFEST
    from recbase.data.repeats import repeats_sentence
    from recbase.store.folder import check_replaceable

    if out is not None:
        check_replaceable(out, MANIFEST, "dataset")
    pairs = column_pairs(columns)
    need_paths("items", "from_file")
    other = None if verify is None else load_dataset(verify)
    settings = chosen(_PREPARE_OPTIONS)
    settings["separator"] = _SPELLED.get(settings["separator"], settings["separator"])
    given = source[0] if len(source) == 1 else list(source)
    dataset = prepare_dataset(given, columns=pairs, quiet=quiet or as_json, **settings)
    out = dataset.save(out or Path("runs/data") / Path(dataset.name).name)
    found = None if other is None else compare(dataset, other)
    result = {"folder": str(out), "name": dataset.name, **dataset.manifest["counts"], "views": dataset.views}
    result["repeats"] = asdict(dataset.repeats)
    hashes = {"sequences_hash": dataset.sequences_hash, "pattern_hash": dataset.pattern_hash}
    result |= {"hash": dataset.hash} | hashes
    said = ("events_read", "dropped", "matching", "texts", "pictures", "reading")
    result |= {name: dataset.manifest[name] for name in said if name in dataset.manifest}
    if as_json:
        print_json(result | ({} if found is None else {"verification": {**vars(found), "same": found.same}}))
    elif not quiet:
        print_table(("", "count"), _prepared_rows(dataset.manifest), dataset.name)
        for note in dataset.manifest.get("reading", []):
            if not note["warned"]:
                say(f"note: {note['sentence']}")
        say(f"Repeats: {repeats_sentence(dataset.repeats.events)}")
        say(f"sequences {dataset.sequences_hash[:16]}, whatever users and items are called {dataset.pattern_hash[:16]}")
        say(f"Data set is in {out}")
        if found is not None:
            for line in found.summary().splitlines():
                say(line)
    if found is not None and not found.same:
        raise ValueError(f"{', '.join(source)} and {verify} differ: {found.equal} of {found.users} sequences are equal")


def _prepared_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table: what was read, dropped and why, what is left, and how much of it has text."""
    counts, dropped, matching = manifest["counts"], manifest.get("dropped", {}), manifest.get("matching")
    rows = [("events read", f"{manifest['events_read']:,}")] if "events_read" in manifest else []
    if "other_users" in dropped:
        rows.append((f"- of {dropped['other_users']:,} users not drawn", f"{dropped['events_of_other_users']:,}"))
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


_EMBED_OPTIONS = options_from(_EMBED, skip=("dataset", "encoder", "views", "seed", "out", "quiet"))
EMBED_OPTIONS = [
    option for option in _EMBED_OPTIONS if option.name in {"pca", "whiten", "image_encoder", "image_root", "max_tokens"}
]


@click.command(cls=Command)
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
