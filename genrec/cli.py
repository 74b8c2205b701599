"""The command ``genrec``: train, evaluate, recommend, serve, export, compare, list. It parses and prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from genrec import MODELS, REGISTRY, SHAPES
from recbase import __version__
from recbase.arguments import Beams, rule_of
from recbase.cli.models import compare, curves, form_option, train_each, training_options
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
from recbase.console import failures, print_json, say

__all__ = ["main"]

_SEARCH = "genrec.search.generation:Search"
_FORMS = {
    "prefix": "prefix = one a target, with all that came before",
    "all": "all = one a user, every position a target that sees only what came before (64 a step by default)",
}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genrec")
def main() -> None:
    """Train, evaluate and use recommenders that generate the codes of the next item."""


class _Models(Group):
    """One sub-command a model, made when it is asked for."""

    made: Callable[[str], click.Command]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the models."""
        return list(REGISTRY)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of one model, its options read from signatures."""
        if name not in REGISTRY:
            raise click.UsageError(f"unknown model {name!r}; known: {', '.join(REGISTRY)}")
        return self.made(name)


def _options_of(name: str) -> tuple[list[Option], list[Option], list[Option], list[Option]]:
    """Options of a model, of its stages, its search and its training, with the values of the default recipe."""
    entry = REGISTRY[name]
    usual = recipe_of(entry.target, "default")
    model, preparation, search = (
        [replace(option, default=usual.get(option.name, option.default)) for option in options_from(*source)]
        for source in ((entry.target, SHAPES), (entry.preparation,), (_SEARCH,))
    )
    return model, preparation, search, training_options(usual)


def _training_command(name: str) -> click.Command:
    entry = REGISTRY[name]
    model, preparation, search, training = _options_of(name)
    recipes = ", ".join(sorted({"default", *recipes_from(entry.target)}))

    @click.command(name, cls=Command, help=f"{summary_of(entry.target)} Recipes: {recipes}.")
    @add_options(shared("data", "out", "recipe", "seeds", "split", "final", "resume", "as_json", "quiet"))
    @add_options([form_option(entry.forms, _FORMS)])
    @add_options(shared("embeddings", "embeddings_ids", "in_order", "codes"), section="Stages before")
    @add_options(preparation, section="Stages before")
    @add_options(model, section="Model")
    @add_options(training, section="Training")
    @add_options(search, section="Search")
    @failures
    def command(
        data: str, out: Path | None, recipe: str, resume: bool, as_json: bool, quiet: bool, **given: Any
    ) -> None:
        from genrec.search.generation import Search
        from genrec.training import recipe_settings, train_generator
        from recbase.data.catalog import load_dataset
        from recbase.store.runs import resolve
        from recbase.train.loop import TrainConfig
        from semtok.content.ready_vectors import VectorSource

        need_paths("embeddings", "embeddings_ids", "codes", "stage1")
        target = out or Path("runs/genrec") / name
        overrides = recipe_settings(name, recipe, given["form"] if "form" in typed_names() else None)
        form = overrides["form"]
        chosen_names = {"encoder", "views"} & typed_names()
        vectors = VectorSource.of(
            given.get("embeddings"),
            given.get("embeddings_ids"),
            given.get("in_order", False),
            {name: given[name] for name in chosen_names if name in given},
        )
        stages = resolve(name, {name: entry.preparation}, "preparation")
        config = TrainConfig(**chosen(training, overrides) | {"quiet": quiet})
        dataset, arguments = load_dataset(data).divided(given["split"]), chosen(model, overrides)
        made, searched = stages(**chosen(preparation, overrides)), Search(**chosen(search, overrides))

        def once(folder: Path, seed: int) -> dict[str, Any]:
            return train_generator(
                name, dataset, folder, arguments, made, replace(config, seed=seed), searched, form, recipe,
                {"given": data}, vectors, given.get("codes"), resume=resume, final=given["final"],
            )  # fmt: skip

        train_each(once, target, config.seed, given["seeds"], as_json, quiet)

    return command


class _Trained(_Models):
    made = staticmethod(_training_command)


@main.group(cls=_Trained)
def train() -> None:
    """Run all stages of a model, train it and report its test metrics: genrec train MODEL."""


def _tuning_command(name: str) -> click.Command:
    entry = REGISTRY[name]
    model, preparation, search, training = _options_of(name)

    @click.command(name, cls=Command, help=f"Search settings of {name} on validation. {summary_of(entry.target)}")
    @add_options([*shared("data", "split", "recipe", "as_json", "quiet"), *TUNING])
    @add_options([form_option(entry.forms, _FORMS)])
    @add_options(shared("embeddings", "embeddings_ids", "in_order", "codes"), section="Stages before")
    @add_options(preparation, section="Stages before")
    @add_options(model, section="Model")
    @add_options(training, section="Training")
    @add_options([option for option in search if option.name.startswith("valid_")], section="Search")
    @failures
    def command(data: str, split: str, recipe: str, as_json: bool, quiet: bool, **given: Any) -> None:
        from genrec.tuning import searchable
        from genrec.tuning import tune as found_by
        from recbase.data.catalog import load_dataset
        from recbase.tuning import parse_space
        from semtok.content.ready_vectors import VectorSource

        need_paths("embeddings", "embeddings_ids", "codes", "stage1")
        names = {option.name for option in [*model, *preparation, *training, *search]} & typed_names()
        typed = {name: given[name] for name in names}
        where = given.get("embeddings"), given.get("embeddings_ids"), given.get("in_order", False)
        vectors = VectorSource.of(*where, {one: given[one] for one in {"encoder", "views"} & names})
        space = parse_space(given["search"], searchable(name, recipe)) if given["search"] else None
        found = found_by(
            name, load_dataset(data), trials=given["trials"], space=space, storage=given["storage"], out=given["out"],
            budget_seconds=given["budget_seconds"], recipe=recipe, split=split,
            form=given["form"] if "form" in typed_names() else None, embeddings=vectors, codes=given.get("codes"),
            quiet=quiet or as_json, **typed,
        )  # fmt: skip
        print_tuned(found, as_json, quiet)

    return command


class _Tuned(_Models):
    made = staticmethod(_tuning_command)


@main.group(cls=_Tuned)
def tune() -> None:
    """Search a model's settings on validation and write a recipe: genrec tune MODEL."""


def _load(run: Path, data: str | None = None) -> Any:
    from genrec.recommender import FittedGenerator
    from recbase.data.catalog import load_dataset
    from recbase.store.runs import load_run

    return FittedGenerator(load_run(run, MODELS), None if data is None else load_dataset(data))


_EXACT = Option("exact", "bool", False, "Score every item instead of searching.", flag="exact")
_ENGINE = Option("engine", "choice", "model", "What searches: the model, or the networks of `export --to onnx`.",
                 ("model", "onnx"))  # fmt: skip
_BEAMS = Option("beams", "int", 50, "Prefixes kept at every step.", rule=rule_of(Beams))

main.add_command(
    evaluate_command(
        _load,
        [
            *(
                replace(option, shown="the run's")
                for option in options_from(_SEARCH, skip=("valid_beams", "valid_users"))
            ),
            _EXACT,
        ],
        "Search the items of every validation and test user again, and print the metrics under both seen-item "
        "policies.",
    )
)
main.add_command(recommend_command(_load, [_ENGINE, _BEAMS, _EXACT]))
main.add_command(serve_command(_load, [_ENGINE, replace(_BEAMS, default=20), _EXACT]))


def _refresh(run: Path, **given: Any) -> Any:
    from genrec.refreshing import refresh

    return refresh(run, **given)


main.add_command(
    refresh_command(
        _refresh,
        [Option("codes", "path", None, "Tokenizer folder that the new items were appended to.", required=True)],
        "Take new items into a trained run, and old ones out, by their codes and without training it again.",
    )
)


@main.command()
@argument("run")
@add_options(
    [
        Option("out", "path", None, "A new folder, or an earlier export to ONNX.", required=True),
        Option("to", "choice", "transformers", "transformers: a T5 that `generate` runs; onnx: answers without torch.",
               ("transformers", "onnx")),
        Option("beams", "int", 20, "Beams that generation_config.json asks for.", rule=rule_of(Beams)),
    ]
)  # fmt: skip
@failures
def export(run: Path, out: Path, to: str, beams: int) -> None:
    """Write a TIGER or LETTER for other programs: as a T5 of transformers, or as ONNX with its prefix tree."""
    from genrec.export import export_run
    from genrec.portable.writing import export_onnx
    from recbase.store.runs import load_run

    opened = load_run(run, MODELS)
    say(f"{out}: {', '.join(export_onnx(opened, out) if to == 'onnx' else export_run(opened, out, beams))}")


main.add_command(compare)
main.add_command(curves)


@main.command("list")
@add_options(shared("as_json"))
@failures
def list_models(as_json: bool) -> None:
    """List the models: name, what it is, paper, codes, sample forms, recipes."""
    rows = [
        {
            "name": name,
            "summary": summary_of(entry.target),
            "paper": entry.paper,
            "codes": entry.codes,
            "form": " or ".join(entry.forms),
            "recipes": sorted({"default", *recipes_from(entry.target)}),
        }
        for name, entry in REGISTRY.items()
    ]
    if as_json:
        print_json(rows)
        return
    width = 2 + max(len(str(row["name"])) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}}{row['summary']}")
        facts = [f"{fact}: {row[fact]}" for fact in ("paper", "codes", "form")]
        say(f"{'':<{width}}{'; '.join(facts)}; recipes: {', '.join(row['recipes'])}")


if __name__ == "__main__":
    main()
