"""The command ``seqrec``: train, evaluate, recommend, compare, export, list. Parses, calls one function, prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from recbase.options import (
    Command,
    Group,
    add_options,
    chosen,
    failures,
    options_from,
    print_json,
    recipe_of,
    recipes_from,
    shared,
    summary_of,
)
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES

__all__ = ["main", "print_answers", "print_metrics"]

_TRAINABLE = [name for name, entry in REGISTRY.items() if entry.kind != "deployed"]
_TRAINING = "recbase.training:TrainConfig"
_CONTENT = "seqrec.stages:Content"
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
}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
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

    @click.command(name, cls=Command, help=summary_of(MODELS[name]))
    @add_options(shared("data", "out", "as_json", "quiet"))
    @add_options(options, section="Model")
    @failures
    def command(data: str, out: Path | None, as_json: bool, quiet: bool, **_: Any) -> None:
        from recbase.datasets import load_dataset
        from seqrec.stages import train_counted

        target = out or Path("runs/seqrec") / name
        metrics = train_counted(name, load_dataset(data), target, chosen(options), {"given": data})
        print_metrics(metrics, target, as_json, quiet)

    return command


def _training_command(name: str) -> click.Command:
    entry = REGISTRY[name]
    model = options_from(MODELS[name], skip=SHAPES)
    usual = recipe_of(MODELS[name], "default")
    training = [replace(option, default=usual.get(option.name, option.default)) for option in options_from(_TRAINING)]
    wanted = {option for source in entry.inputs for option in _CONTENT_OPTIONS.get(source, ())}
    content = [option for option in options_from(_CONTENT) if option.name in wanted]
    content = [replace(option, default=usual.get(option.name, option.default)) for option in content]
    folders = ["embeddings"] if {"text", "views", "images", "codes"} & set(entry.inputs) else []
    folders += ["codes"] if "codes" in entry.inputs else []
    recipes = ", ".join(sorted({"default", *recipes_from(MODELS[name])}))

    @click.command(name, cls=Command, help=f"{summary_of(MODELS[name])} Recipes: {recipes}.")
    @add_options(shared("data", "out", "recipe", "resume", "as_json", "quiet"))
    @click.option("--form", type=click.Choice(["all", "prefix", "cloze"]), default=entry.forms[0], show_default=True,
                  help=f"Samples: {'; '.join(_FORMS[form] for form in entry.forms)}.")  # fmt: skip
    @add_options(shared(*folders), section="Content")
    @add_options(content, section="Content")
    @(_stage_options if name == "ccfrec" else lambda function: function)
    @add_options(model, section="Model")
    @add_options(training, section="Training")
    @failures
    def command(
        data: str, out: Path | None, recipe: str, resume: bool, as_json: bool, quiet: bool, **given: Any
    ) -> None:
        from recbase.datasets import load_dataset
        from recbase.training import TrainConfig
        from seqrec.stages import Content, train_item_ids, train_network

        target = out or Path("runs/seqrec") / (name if given.get("base") is None else f"{name}-item-id")
        overrides = recipe_of(MODELS[name], recipe)
        config = TrainConfig(**chosen(training, overrides) | {"quiet": quiet})
        context = click.get_current_context()
        source = context.get_parameter_source("form")
        typed = source is not None and source.name != "DEFAULT"
        form = given["form"] if typed else overrides.get("form", given["form"])
        dataset, record = load_dataset(data), {"given": data}
        if given.get("stage") == "item-id":
            if given["base"] is None:
                raise click.UsageError("--stage item-id needs --base RUN, the trained run that it starts from")
            candidates = given["id_in_candidates"]
            metrics = train_item_ids(given["base"], dataset, target, config, candidates, record, resume, recipe)
        else:
            metrics = train_network(
                name,
                dataset,
                target,
                chosen(model, overrides),
                config,
                form,
                recipe,
                record,
                Content(**chosen(content, overrides)) if content else None,
                given.get("embeddings"),
                given.get("codes"),
                resume=resume,
            )
        print_metrics(metrics, target, as_json, quiet)

    return command


def _stage_options(function: Any) -> Any:
    for option in (
        click.option("--id-in-candidates/--no-id-in-candidates", default=True, show_default="on",
                     help="In the item-id stage, add the id embedding to candidates too."),
        click.option("--base", type=click.Path(path_type=Path), help="Run that the item-id stage starts from."),
        click.option("--stage", type=click.Choice(["main", "item-id"]), default="main", show_default=True,
                     help="Train the model, or fine-tune item ids on a trained run."),
    ):  # fmt: skip
        function = option(function)
    return function


def print_metrics(metrics: dict[str, Any], out: Path, as_json: bool, quiet: bool) -> None:
    """Print what a training reached (on the main process), and end the processes of a launch."""
    from recbase import comparison
    from recbase.processes import is_main_process, leave_launch

    if is_main_process() and as_json:
        print_json(metrics | {"out": str(out)})
    elif is_main_process() and not quiet:
        comparison.print_metrics({metrics["model"]: metrics})
        click.echo(f"Run folder: {out}")
    leave_launch()


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@add_options(shared("as_json"))
@click.option("--data", help="Data set: a folder or a name; the one the run was trained on if not given.")
@failures
def evaluate(run: Path, data: str | None, as_json: bool) -> None:
    """Rank all items for every test user again, and print the metrics under both seen-item policies."""
    from recbase.comparison import print_metrics
    from recbase.datasets import load_dataset
    from recbase.evaluation import metrics_of_run, rank_targets, summarize
    from recbase.runs import load_run

    opened = load_run(run, MODELS)
    dataset = load_dataset(data or opened.manifest["data"]["given"])
    if dataset.hash != opened.manifest["data"]["hash"]:
        raise ValueError(f"{run} was trained on {opened.manifest['data']['name']}, not on the data set {dataset.name}")
    split, scorer = dataset.split(), opened.model.scorer()
    valid = summarize(rank_targets(scorer, split.valid))
    ranks = rank_targets(scorer, split.test)
    name, recipe = opened.manifest["model"], opened.manifest["recipe"]
    metrics = metrics_of_run(name, dataset, split, recipe, valid, ranks, None, scorer)
    if as_json:
        print_json(metrics)
    else:
        print_metrics({name: metrics})


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--history", required=True, help="Raw item ids, the oldest first, as a,b,c.")
@click.option("-k", "--top", "k", type=click.IntRange(1), default=10, show_default=True, help="Items to recommend.")
@click.option("--keep-seen", is_flag=True, help="Items of the history may be recommended again.")
@click.option("--engine", type=click.Choice(["model", "faiss", "onnx"]), default="model", show_default=True,
              help="What scores: the model, or the index or ONNX scorer of an exported run.")  # fmt: skip
@add_options(shared("as_json"))
@failures
def recommend(run: Path, history: str, k: int, keep_seen: bool, engine: str, as_json: bool) -> None:
    """Recommend the next items for a history of raw item ids; unknown ids are named and skipped."""
    from recbase.runs import load_run
    from seqrec.serving import recommend_ids

    ids = [part.strip() for part in history.split(",")]
    rows, unknown = recommend_ids(load_run(run, MODELS), ids, k, keep_seen, engine)
    print_answers(rows, unknown, as_json)


def print_answers(rows: list[dict[str, Any]], unknown: list[str], as_json: bool) -> None:
    """Print recommended items, and a warning for every id that is unknown."""
    for name in unknown:
        click.echo(f"Warning: item {name!r} is unknown and was skipped", err=True)
    if as_json:
        print_json({"items": rows, "unknown": unknown})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("rank", "item", "title", "score")
    for place, row in enumerate(rows, 1):
        table.add_row(str(place), str(row["item_id"]), str(row.get("title") or ""), f"{row['score']:.4f}")
    Console().print(table)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", default="ndcg@10", show_default=True, help="Metric that the tests compare.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG to write (needs the extra [plots]).")
@add_options(shared("as_json", "seed"))
@failures
def compare(runs: tuple[Path, ...], metric: str, figure: Path | None, as_json: bool, seed: int) -> None:
    """Compare runs on the same test users: metrics, bootstrap intervals, paired t and Wilcoxon tests."""
    from recbase.comparison import compare_runs, draw_comparison, print_comparison

    comparison = compare_runs(runs, metric=metric, seed=seed)
    if figure is not None:
        draw_comparison(comparison, figure)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--faiss/--no-faiss", default=None, show_default="where faiss is installed",
              help="Write items.faiss, an index of the item vectors (extra [faiss]).")  # fmt: skip
@click.option("--index", "factory", default="Flat", show_default=True, help="Kind of index, as faiss names it.")
@click.option("--onnx/--no-onnx", default=None, show_default="where ONNX Runtime is installed",
              help="Write scorer.onnx, which scores histories without torch (extra [onnx]).")  # fmt: skip
@failures
def export(run: Path, out: Path, faiss: bool | None, factory: str, onnx: bool | None) -> None:
    """Write the deployed form of a run: tables, item vectors, a faiss index, an ONNX scorer."""
    from recbase.runs import load_run
    from seqrec.serving import export_run

    written, notes = export_run(load_run(run, MODELS), out, faiss, onnx, factory)
    click.echo(f"{out}: {', '.join(written)}")
    for note in notes:
        click.echo(f"Warning: {note}", err=True)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="SASRec run.")
@click.option("--embeddings", required=True, type=click.Path(path_type=Path), help="Item embeddings.")
@click.option(
    "--anchors", default=3, show_default=True, type=click.IntRange(1), help="Items whose neighbours are counted."
)
@click.option("--neighbours", default=2000, show_default=True, type=click.IntRange(2), help="Neighbours an anchor.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG of the t-SNE view (needs the extra [plots]).")
@add_options(shared("as_json", "seed"))
@failures
def neighbours(
    run: Path, reference: Path, embeddings: Path, anchors: int, neighbours: int, figure: Path | None, as_json: bool,
    seed: int,
) -> None:  # fmt: skip
    """Share of an item's fused neighbours that are collaborative or textual neighbours (CCFRec, figure 4)."""
    from recbase.runs import load_run
    from semtok.embeddings import load_embeddings
    from seqrec.neighbours import draw_neighbours, neighbour_shares

    report = neighbour_shares(
        load_run(run, MODELS), load_run(reference, MODELS), load_embeddings(embeddings), anchors, neighbours, seed
    )
    if figure is not None:
        draw_neighbours(report, figure, seed)
    if as_json:
        print_json(report.as_dict())
    else:
        for row in report.rows:
            click.echo(
                f"{row['title'] or row['item_id']}: {row['collaborative']:.1%} of the fused neighbours are "
                f"collaborative ones, {row['text']:.1%} textual ones"
            )


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sample", default=4000, show_default=True, type=click.IntRange(2), help="Rows compared in pairs.")
@click.option("--items", default=1000, show_default=True, type=click.IntRange(2), help="Items drawn in the figure.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG of both clouds, a panel a run ([plots]).")
@add_options(shared("as_json", "seed"))
@failures
def streams(runs: tuple[Path, ...], sample: int, items: int, figure: Path | None, as_json: bool, seed: int) -> None:
    """Alignment and uniformity of TSSR's two streams, over items and users (TSSR, figures 1, 3 and 4)."""
    from recbase.datasets import load_dataset
    from recbase.runs import load_run
    from seqrec.alignment import alignment_uniformity, draw_streams

    opened = {str(path): load_run(path, MODELS) for path in runs}
    for path, run in opened.items():
        if run.manifest["model"] != "tssr":
            raise ValueError(f"{path} holds a {run.manifest['model']}; only tssr has two streams")
    reports = {}
    for path, run in opened.items():
        dataset = load_dataset(run.manifest["data"]["given"])
        if dataset.hash != run.manifest["data"]["hash"]:
            raise ValueError(f"{path} was trained on another version of the data set {dataset.name}")
        reports[path] = alignment_uniformity(run.model, dataset.split().train, sample, seed=seed)
    if figure is not None:
        draw_streams({path.name: opened[str(path)].model for path in runs}, figure, items, seed)
    if as_json:
        print_json(reports)
        return
    from rich.console import Console
    from rich.table import Table

    names = ("alignment", "uniformity_id", "uniformity_content", "uniformity")
    table = Table("run", "over", *(name.replace("_", " ") for name in names))
    for path, report in reports.items():
        for part, values in report.items():
            table.add_row(Path(path).name, part, *(f"{values[name]:.4f}" for name in names))
    Console().print(table)


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
        click.echo(f"{row['name']:<{width}}{row['summary']}")
        facts = [f"{fact}: {row[fact]}" for fact in ("paper", "inputs", "loss", "form")]
        click.echo(f"{'':<{width}}{'; '.join(facts)}; recipes: {', '.join(row['recipes'])}")


if __name__ == "__main__":
    main()
