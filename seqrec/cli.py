"""The command ``seqrec``: train, evaluate, recommend, serve, compare, export, list. It parses and prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from recbase import __version__
from recbase.arguments import Count, IndexName, LargeOrOff, MetricName, Range, rule_of
from recbase.cli.models import RUN_DATA, compare, curves, form_option, print_metrics, train_each, training_options
from recbase.cli.options import (
    Command,
    Group,
    Option,
    add_options,
    argument,
    chosen,
    need_paths,
    options_from,
    recipe_of,
    recipes_from,
    shared,
    summary_of,
)
from recbase.cli.options import given as typed_names
from recbase.cli.runs import evaluate_command, recommend_command, refresh_command, serve_command
from recbase.cli.tuning import TUNING, print_tuned
from recbase.console import failures, print_json, print_table, say, warn
from seqrec import MODELS, REGISTRY, ModelEntry
from seqrec.content import SHAPES

__all__ = ["main"]

_TRAINABLE = [name for name, entry in REGISTRY.items() if entry.kind != "deployed"]
_CONTENT = "seqrec.item_content:Content"
_ITEM_ID_STAGE = "seqrec.training:ItemIdStage"
_FORMS = {
    "all": "all = one a user with a target at every position",
    "prefix": "prefix = one a target, with all that came before",
    "cloze": "cloze = one a user, with masked items to predict",
}
_VECTORS = ("views", "encoder", "pca", "whiten")
_CONTENT_OPTIONS = {
    "text": (*_VECTORS, "global_text"),
    "views": (*_VECTORS, "global_text"),
    "images": (*_VECTORS, "image_encoder", "image_root"),
    "codes": (*_VECTORS, "code_method", "code_levels", "codebook_size", "code_type", "vectors"),
    "attributes": ("attribute_columns", "attribute_items"),
    "sentences": ("views",),
    "pictures": ("image_root",),
}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seqrec")
def main() -> None:
    """Train, evaluate and use sequential recommenders."""


class _Models(Group):
    """One sub-command a model, made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the models that can be trained."""
        return _TRAINABLE

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of one model, its options read from the model's signature."""
        if name not in _TRAINABLE:
            raise click.UsageError(f"unknown model {name!r}; known: {', '.join(_TRAINABLE)}")
        return _counted_command(name) if REGISTRY[name].kind == "counted" else _training_command(name)


@main.group(cls=_Models)
def train() -> None:
    """Train a model and report its test metrics: seqrec train MODEL."""


def _counted_command(name: str) -> click.Command:
    options = options_from(MODELS[name], skip=SHAPES)
    folders, content = _content_options(REGISTRY[name], {})

    @click.command(name, cls=Command, help=summary_of(MODELS[name]))
    @add_options(shared("data", "out", "split", "final", "as_json", "quiet"))
    @add_options(shared(*folders), section="Content")
    @add_options(content, section="Content")
    @add_options(options, section="Model")
    @failures
    def command(data: str, out: Path | None, split: str, final: bool, as_json: bool, quiet: bool, **given: Any) -> None:
        from recbase.data.catalog import load_dataset
        from semtok.content.ready_vectors import VectorSource
        from seqrec.item_content import Content
        from seqrec.training import train_counted

        need_paths("embeddings", "embeddings_ids")
        target = out or Path("runs/seqrec") / name
        typed = {option.name: given[option.name] for option in content if option.name in typed_names()}
        where = given.get("embeddings"), given.get("embeddings_ids"), given.get("in_order", False)
        vectors = VectorSource.of(*where, typed) if content else None
        reads = Content(**chosen(content)) if content else None
        dataset, record = load_dataset(data).divided(split), {"given": data}
        metrics = train_counted(name, dataset, target, chosen(options), record, reads, vectors, final=final)
        print_metrics(metrics, target, as_json, quiet)

    return command


def _content_options(entry: ModelEntry, usual: Mapping[str, Any]) -> tuple[list[str], list[Option]]:
    """Names of the shared options, and options of `Content`, that a model of these inputs has."""
    inputs = set(entry.inputs)
    folders = ["embeddings", "embeddings_ids", "in_order"] if {"text", "views", "images", "codes"} & inputs else []
    folders += ["codes"] if "codes" in inputs else []
    wanted = {option for source in inputs for option in _CONTENT_OPTIONS.get(source, ())}
    content = [option for option in options_from(_CONTENT) if option.name in wanted]
    return folders, [replace(option, default=usual.get(option.name, option.default)) for option in content]


def _training_command(name: str) -> click.Command:
    entry = REGISTRY[name]
    model = options_from(MODELS[name], skip=SHAPES)
    usual = recipe_of(MODELS[name], "default")
    training = training_options(usual)
    folders, content = _content_options(entry, usual)
    recipes = ", ".join(sorted({"default", *recipes_from(MODELS[name])}))
    repeated = [] if "seeds" in {option.name for option in model} else ["seeds"]  # MAERec has seeds of its own

    @click.command(name, cls=Command, help=f"{summary_of(MODELS[name])} Recipes: {recipes}.")
    @add_options(shared("data", "out", "recipe", *repeated, "split", "final", "resume", "as_json", "quiet"))
    @add_options([form_option(entry.forms, _FORMS)])
    @add_options(shared(*folders), section="Content")
    @add_options(content, section="Content")
    @(_stage_options if name == "ccfrec" else lambda function: function)
    @add_options(model, section="Model")
    @add_options(training, section="Training")
    @failures
    def command(
        data: str, out: Path | None, recipe: str, resume: bool, as_json: bool, quiet: bool, **given: Any
    ) -> None:
        from recbase.data.catalog import load_dataset
        from recbase.train.loop import TrainConfig
        from semtok.content.ready_vectors import VectorSource
        from seqrec.item_content import Content
        from seqrec.training import train_item_ids, train_network

        need_paths("embeddings", "embeddings_ids", "codes", "vectors", "base")
        _refuse_unread(given)
        target = out or Path("runs/seqrec") / (name if given.get("base") is None else f"{name}-item-id")
        overrides = recipe_of(MODELS[name], recipe)
        config = TrainConfig(**chosen(training, overrides) | {"quiet": quiet})
        form = given["form"] if "form" in typed_names() else overrides.get("form", given["form"])
        typed = {option.name: given[option.name] for option in content if option.name in typed_names()}
        where = given.get("embeddings"), given.get("embeddings_ids"), given.get("in_order", False)
        vectors = VectorSource.of(*where, typed)
        dataset, record = load_dataset(data).divided(given["split"]), {"given": data}
        arguments, reads = chosen(model, overrides), Content(**chosen(content, overrides)) if content else None

        def once(folder: Path, seed: int) -> dict[str, Any]:
            settings = replace(config, seed=seed)
            if given.get("stage") == "item-id":
                stage = _item_id_stage(given, overrides)
                return train_item_ids(given["base"], dataset, folder, settings, stage, record, resume, recipe)
            return train_network(
                name, dataset, folder, arguments, settings, form, recipe, record, reads, vectors, given.get("codes"),
                resume=resume, final=given["final"],
            )  # fmt: skip

        train_each(once, target, config.seed, given["seeds"] if repeated else None, as_json, quiet)

    return command


class _Tuned(_Models):
    """One sub-command a model that is trained by gradient."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the models."""
        return [name for name in _TRAINABLE if REGISTRY[name].kind != "counted"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of one model."""
        if name not in self.list_commands(ctx):
            raise click.UsageError(f"unknown model {name!r}; known: {', '.join(self.list_commands(ctx))}")
        return _tuning_command(name)


@main.group(cls=_Tuned)
def tune() -> None:
    """Search a model's settings on validation and write a recipe: seqrec tune MODEL."""


def _tuning_command(name: str) -> click.Command:
    entry, usual = REGISTRY[name], recipe_of(MODELS[name], "default")
    model, training = options_from(MODELS[name], skip=SHAPES), training_options(usual)
    folders, content = _content_options(entry, usual)

    @click.command(name, cls=Command, help=f"Search settings of {name} on validation. {summary_of(MODELS[name])}")
    @add_options([*shared("data", "split", "recipe", "as_json", "quiet"), *TUNING])
    @add_options([form_option(entry.forms, _FORMS)])
    @add_options(shared(*folders), section="Content")
    @add_options(content, section="Content")
    @add_options(model, section="Model")
    @add_options(training, section="Training")
    @failures
    def command(data: str, split: str, recipe: str, as_json: bool, quiet: bool, **given: Any) -> None:
        from recbase.data.catalog import load_dataset
        from recbase.tuning import parse_space
        from semtok.content.ready_vectors import VectorSource
        from seqrec.tuning import searchable
        from seqrec.tuning import tune as search

        need_paths("embeddings", "embeddings_ids", "codes", "vectors")
        typed = {
            option.name: given[option.name] for option in [*model, *training, *content] if option.name in typed_names()
        }
        where = given.get("embeddings"), given.get("embeddings_ids"), given.get("in_order", False)
        vectors = VectorSource.of(*where, {one.name: given[one.name] for one in content if one.name in typed})
        space = parse_space(given["search"], searchable(name, recipe)) if given["search"] else None
        found = search(
            name, load_dataset(data), trials=given["trials"], space=space, storage=given["storage"], out=given["out"],
            budget_seconds=given["budget_seconds"], recipe=recipe, split=split,
            form=given["form"] if "form" in typed_names() else None, embeddings=vectors, codes=given.get("codes"),
            quiet=quiet or as_json, **typed,
        )  # fmt: skip
        print_tuned(found, as_json, quiet)

    return command


def _refuse_unread(given: Mapping[str, Any]) -> None:
    """Refuse paths that nothing would read."""
    if given.get("vectors") is not None and given.get("code_type") not in {"sasrec", "mixed"}:
        raise click.UsageError("--vectors is read with --code-type sasrec or mixed alone")
    if given.get("stage") == "item-id" and given["base"] is None:
        raise click.UsageError("--stage item-id needs --base RUN, the trained run that it starts from")
    if given.get("stage") == "item-id" and given["final"]:
        raise click.UsageError("--final trains a whole model again; the item-id stage has a base that stays as it is")
    if given.get("base") is not None and given.get("stage") != "item-id":
        raise click.UsageError("--base is read with --stage item-id alone")


def _item_id_stage(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Settings of the item-id stage, those of the option's old spelling included."""
    from seqrec.training import ItemIdStage

    settings = chosen(options_from(_ITEM_ID_STAGE), overrides)
    if "id_in_candidates" in typed_names():
        if "id_form" in typed_names():
            raise click.UsageError("--id-in-candidates is an old spelling of --id-form: give one of them")
        settings["id_form"] = "shared" if given["id_in_candidates"] else "inputs"
        warn(f"--id-in-candidates is now spelled --id-form {settings['id_form']}")
    return ItemIdStage(**settings)


def _stage_options(function: Any) -> Any:
    return add_options(
        [
            Option("stage", "choice", "main", "Train the model, or fine-tune item ids on a trained run.",
                   ("main", "item-id")),
            Option("base", "path", None, "Run that the item-id stage starts from."),
            *options_from(_ITEM_ID_STAGE),
            Option("id_in_candidates", "bool", True, "Old spelling of --id-form shared (or inputs)."),
        ]
    )(function)  # fmt: skip


def _load(run: Path, data: str | None = None) -> Any:
    from recbase.data.catalog import load_dataset
    from recbase.store.runs import load_run
    from seqrec.recommender import FittedRanker

    return FittedRanker(load_run(run, MODELS), None if data is None else load_dataset(data))


_ENGINE = [
    Option("engine", "choice", "model",
           "What scores: the model, its codes (sasrec-jpq), or the index or ONNX scorer of an exported run.",
           ("model", "codes", "faiss", "onnx")),
]  # fmt: skip

main.add_command(
    evaluate_command(
        _load, [], "Rank all items for every test user again, and print the metrics under both seen-item policies."
    )
)
main.add_command(recommend_command(_load, _ENGINE))
main.add_command(serve_command(_load, _ENGINE))


def _refresh(run: Path, **given: Any) -> Any:
    from seqrec.refreshing import refresh

    return refresh(run, **given)


main.add_command(
    refresh_command(
        _refresh,
        [Option("tokenizer", "path", None, "Folder of semtok fit, of the vectors and codes of the training.")],
        "Take new items into a trained run, and old ones out, without training it again.",
    )
)


@main.command()
@argument("run")
@add_options(
    [
        Option("out", "path", None, "Folder to write.", required=True),
        Option("faiss", "bool", None, "Write items.faiss, an index of the item vectors (extra [faiss]).",
               shown="where faiss is installed"),
        Option("factory", "str", "Flat", "Kind of index, as faiss names it.", flag="index", rule=rule_of(IndexName)),
        Option("onnx", "bool", None, "Write scorer.onnx, which scores histories without torch (extra [onnx]).",
               shown="where ONNX Runtime is installed"),
    ]
)  # fmt: skip
@failures
def export(run: Path, out: Path, faiss: bool | None, factory: str, onnx: bool | None) -> None:
    """Write the deployed form of a run: tables, item vectors, a faiss index, an ONNX scorer."""
    from recbase.store.runs import load_run
    from seqrec.serving import export_run

    written, notes = export_run(load_run(run, MODELS), out, faiss, onnx, factory)
    say(f"{out}: {', '.join(written)}")
    for note in notes:
        warn(str(note))


@main.command()
@argument("run")
@add_options(
    [
        Option("reference", "path", None, "SASRec run.", required=True),
        Option("embeddings", "path", None, "Item embeddings.", required=True),
        Option("anchors", "int", 3, "Items whose neighbours are counted.", rule=rule_of(Count)),
        Option("neighbours", "int", 2000, "Neighbours an anchor.", rule=Range(2, 1_000_000)),
        Option("figure", "path", None, "PNG of the t-SNE view (needs the extra [plots])."),
    ]
)
@add_options(shared("as_json", "seed"))
@failures
def neighbours(
    run: Path, reference: Path, embeddings: Path, anchors: int, neighbours: int, figure: Path | None, as_json: bool,
    seed: int,
) -> None:  # fmt: skip
    """Share of an item's fused neighbours that are collaborative or textual neighbours (CCFRec, figure 4)."""
    from recbase.store.runs import load_run
    from semtok.content.embeddings import load_embeddings
    from seqrec.analysis.neighbours import draw_neighbours, neighbour_shares

    report = neighbour_shares(
        load_run(run, MODELS), load_run(reference, MODELS), load_embeddings(embeddings), anchors, neighbours, seed
    )
    if figure is not None:
        draw_neighbours(report, figure, seed)
    if as_json:
        print_json(report.as_dict())
    else:
        for row in report.rows:
            say(
                f"{row['title'] or row['item_id']}: {row['collaborative']:.1%} of the fused neighbours are "
                f"collaborative ones, {row['text']:.1%} textual ones"
            )


@main.command()
@argument("runs", many=True)
@add_options(
    [
        Option("sample", "int", 4000, "Rows compared in pairs.", rule=Range(2, 50_000)),
        Option("items", "int", 1000, "Items drawn in the figure.", rule=Range(2, 1_000_000)),
        Option("figure", "path", None, "PNG of both clouds, a panel a run ([plots])."),
    ]
)
@add_options(shared("as_json", "seed"))
@failures
def streams(runs: tuple[Path, ...], sample: int, items: int, figure: Path | None, as_json: bool, seed: int) -> None:
    """Alignment and uniformity of TSSR's two streams, over items and users (TSSR, figures 1, 3 and 4)."""
    from recbase.data.catalog import load_dataset
    from recbase.store.runs import load_run
    from seqrec.analysis.alignment import alignment_uniformity, draw_streams

    opened = {str(path): load_run(path, MODELS) for path in runs}
    for path, run in opened.items():
        if run.manifest["model"] != "tssr":
            raise ValueError(f"{path} holds a {run.manifest['model']}; only tssr has two streams")
    reports = {}
    for path, run in opened.items():
        dataset = load_dataset(run.data.get("given", run.data["name"]))
        if dataset.hash != run.data["hash"]:
            raise ValueError(f"{path} was trained on another version of the data set {dataset.name}")
        reports[path] = alignment_uniformity(run.model, dataset.split().train, sample, seed=seed)
    if figure is not None:
        draw_streams({path.name: opened[str(path)].model for path in runs}, figure, items, seed)
    if as_json:
        print_json(reports)
        return
    names = ("alignment", "uniformity_id", "uniformity_content", "uniformity")
    rows = [
        (Path(path).name, part, *(f"{values[name]:.4f}" for name in names))
        for path, report in reports.items()
        for part, values in report.items()
    ]
    print_table(("run", "over", *(name.replace("_", " ") for name in names)), rows)


@main.command()
@argument("dataset")
@add_options(
    [
        Option("part", "choice", "test", "Held-out events that are to be explained.", ("test", "valid")),
        Option("embeddings", "path", None, "Item embeddings, to rank the transition graph by text too."),
    ]
)
@add_options(shared("as_json", "quiet", "seed"))
@failures
def audit(dataset: Path, part: Any, embeddings: Path | None, as_json: bool, quiet: bool, seed: int) -> None:
    """Tell how much popularity, order, repetition and one step of transitions explain of a data set, by counting."""
    from recbase.data.catalog import load_dataset
    from recbase.data.repeats import repeats_sentence
    from seqrec.analysis.audit import audit_dataset, audit_rows

    found = audit_dataset(load_dataset(str(dataset)), part, embeddings, seed)
    if as_json:
        print_json(found)
        return
    about, steps = found["dataset"], found["transitions"]
    columns = ("", "recall@10", "ndcg@10", "masked recall@10", "masked ndcg@10", "last item first")
    print_table(
        columns, audit_rows(found), f"{about['name']}: {about['users']:,} users, {about['items']:,} items, {part}"
    )
    say(f"Repeats: {repeats_sentence(about['repeats'])}")
    say(f"Transitions: {steps['one_step']:.1%} of the targets are one step from the latest item in the training part, "
        f"{steps['two_steps']:.1%} at most two; an item has {steps['successors']:.1f} successors")  # fmt: skip
    say(f"Cold: {found['cold']:.1%} of the targets never occur in the training part")


@main.command()
@argument("runs", many=True)
@add_options(
    [
        Option("out", "path", None, "Run folder to write.", required=True),
        Option("scale", "choice", None, "Scale of scores before they are added.", ("standard", "rank", "softmax"),
               shown="the best of the three on validation"),
        Option("by_length", "bool", False, "Let weights depend on the length of the history.", flag="by-length"),
        Option("seen", "choice", "learn", "Items of the history in a list: kept, dropped, or what validation says.",
               ("learn", "keep", "drop")),
        Option("lists", "int", 100, "Items a list of a generator; 0 scores all.", rule=rule_of(LargeOrOff)),
        Option("metric", "str", "ndcg@10", "Validation metric that chooses.", rule=rule_of(MetricName)),
        RUN_DATA,
    ]
)  # fmt: skip
@add_options(shared("as_json", "quiet"))
@failures
def blend(
    runs: tuple[Path, ...],
    out: Path,
    scale: Any,
    by_length: bool,
    seen: Any,
    lists: int,
    metric: str,
    data: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Add the scores of trained RUNS, of seqrec and genrec alike, with weights chosen on validation, into one run."""
    from recbase.data.catalog import load_dataset
    from seqrec import blending

    dataset = None if data is None else load_dataset(data)
    found = blending.blend(
        runs, dataset, out=out, scale=scale, by_length=by_length, seen=seen, lists=lists, metric=metric,
        quiet=quiet or as_json,
    )  # fmt: skip
    if not as_json and not quiet:
        record = found.manifest["blend"]
        rows = [
            (row["model"], f"{row['weight']:.3f}", f"{row['alone']:.4f}", f"{row['without']:.4f}",
             f"{record['valid'] - row['without']:+.4f}")
            for row in record["members"]
        ]  # fmt: skip
        how = f"scale {found.manifest['arguments']['scale']}, seen items {'kept' if record['seen'] else 'dropped'}"
        title = f"{metric} on validation: {record['valid']:.4f}, {how}"
        print_table(("member", "weight", "alone", "blend without it", "gain"), rows, title)
    print_metrics(found.metrics, out, as_json, quiet)


main.add_command(compare)
main.add_command(curves)


@main.command("list")
@add_options(shared("as_json"))
@failures
def list_models(as_json: bool) -> None:
    """List the models: name, what it is, paper, inputs, loss, sample form, recipes."""
    rows = [
        {
            "name": name,
            "summary": summary_of(entry.target),
            "paper": entry.paper,
            "inputs": ", ".join(entry.inputs),
            "loss": entry.loss,
            "form": " or ".join(entry.forms) or "counts",
            "recipes": sorted({"default", *recipes_from(entry.target)}),
        }
        for name, entry in REGISTRY.items()
        if entry.kind != "deployed"
    ]
    if as_json:
        print_json(rows)
        return
    width = 2 + max(len(str(row["name"])) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}}{row['summary']}")
        facts = [f"{fact}: {row[fact]}" for fact in ("paper", "inputs", "loss", "form")]
        say(f"{'':<{width}}{'; '.join(facts)}; recipes: {', '.join(row['recipes'])}")


if __name__ == "__main__":
    main()
