"""Commands that rankers and generators share: options of a training, questions to a run, what is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from recbase.arguments import MetricName, MonitorName, rule_of
from recbase.cli.options import Command, Option, add_options, argument, options_from, shared
from recbase.console import failures, print_json, print_table, say, short, warn

__all__ = [
    "RUN_DATA",
    "compare",
    "curves",
    "form_option",
    "print_answers",
    "print_metrics",
    "train_each",
    "training_options",
]

RUN_DATA = Option("data", "str", None, "Data set: a folder or a name; the one the run was trained on if not given.")
_TRAINING = "recbase.train.loop:TrainConfig"


def form_option(forms: Sequence[str], said: Mapping[str, str]) -> Option:
    """The option ``--form`` of a model: what one training sample is."""
    return Option("form", "choice", forms[0], f"Samples: {'; '.join(said[form] for form in forms)}.", tuple(said))


def training_options(defaults: Mapping[str, Any]) -> list[Option]:
    """Options of a training that is validated by ranking, with the defaults of a model's recipe."""
    options = [replace(option, default=defaults.get(option.name, option.default)) for option in options_from(_TRAINING)]
    rule = rule_of(MonitorName)
    return [replace(option, rule=rule) if option.name == "monitor" else option for option in options]


def print_metrics(metrics: dict[str, Any], out: Path, as_json: bool, quiet: bool) -> None:
    """Print what a training reached (on the main process), and end the processes of a launch."""
    from recbase.evaluate import compare as comparison
    from recbase.train.processes import is_main_process, leave_launch

    if is_main_process() and as_json:
        print_json(metrics | {"out": str(out)})
    elif is_main_process() and not quiet:
        comparison.print_metrics({metrics["model"]: metrics})
        if "final" in metrics:
            say("Trained again on all events: these figures are of the model before, which had not seen them.")
        say(f"Run folder: {out}")
    leave_launch()


def train_each(
    train: Callable[[Path, int], dict[str, Any]],
    target: Path,
    seed: int,
    seeds: Sequence[int] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train once, or once for every seed into a folder of its own, and print what was reached.

    Parameters
    ----------
    train : callable
        ``train(folder, seed)`` trains into a run folder and returns its metrics.
    target : Path
        The run folder; with seeds the folder above ``seed-0``, ``seed-1``, ...
    """
    from recbase.train.processes import is_main_process, leave_launch

    if not seeds:
        print_metrics(train(target, seed), target, as_json, quiet)
        return
    folders, found = [target / f"seed-{one}" for one in seeds], []
    for one, folder in zip(seeds, folders, strict=True):
        found.append(train(folder, one) | {"out": str(folder)})
        if is_main_process() and not (quiet or as_json):
            say(f"seed {one}: {folder}", err=True)
    if is_main_process() and as_json:
        print_json({"seeds": found})
    elif is_main_process() and not quiet:
        from recbase.evaluate.compare import compare_runs, print_comparison

        print_comparison(compare_runs(folders))
    leave_launch()


def print_answers(rows: list[dict[str, Any]], unknown: list[str], as_json: bool) -> None:
    """Print recommended items, and a warning for every id that is unknown."""
    for name in unknown:
        warn(f"item {short(name)} is unknown and was skipped")
    if as_json:
        print_json({"items": rows, "unknown": unknown})
        return
    table = [
        (
            str(place),
            str(row["item_id"]),
            str(row.get("title") or ""),
            "" if row["score"] is None else f"{row['score']:.4f}",
        )
        for place, row in enumerate(rows, 1)
    ]
    print_table(("rank", "item", "title", "score"), [tuple(map(str, row)) for row in table], clip="title")


@click.command(cls=Command)
@argument("runs", many=True)
@add_options(
    [
        Option("metric", "str", "ndcg@10", "Metric that the tests compare.", rule=rule_of(MetricName)),
        Option("figure", "path", None, "PNG to write (needs the extra [plots])."),
        Option("seeds_apart", "bool", False, "Compare runs that differ in their seed alone as rivals.",
               flag="seeds-apart"),
    ]
)  # fmt: skip
@add_options(shared("as_json", "seed"))
@failures
def compare(
    runs: tuple[Path, ...], metric: str, figure: Path | None, seeds_apart: bool, as_json: bool, seed: int
) -> None:
    """Compare runs on the same test users: metrics, bootstrap intervals, paired t and Wilcoxon tests.

    Runs that differ in their seed alone are one row, mean and standard deviation.
    """
    from recbase.evaluate.compare import compare_runs, draw_comparison, print_comparison

    comparison = compare_runs(runs, metric=metric, seed=seed, seeds_apart=seeds_apart)
    if figure is not None:
        draw_comparison(comparison, figure)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison)


@click.command(cls=Command)
@argument("runs", many=True)
@add_options(
    [
        Option("metric", "str", "ndcg@10", "Validation metric that is shown.", rule=rule_of(MetricName)),
        Option("figure", "path", None, "PNG to write (needs the extra [plots])."),
    ]
)
@add_options(shared("as_json"))
@failures
def curves(runs: tuple[Path, ...], metric: str, figure: Path | None, as_json: bool) -> None:
    """Show the learning curves of runs: a line a validation, of trainings that still go on too."""
    from recbase.evaluate.curves import draw_curves, read_curve

    found = {str(path): read_curve(path) for path in runs}
    if figure is not None:
        draw_curves({Path(name).name: lines for name, lines in found.items()}, metric, figure)
    if as_json:
        print_json(found)
        return
    rows = [
        (Path(name).name, line["epoch"], f"{line['seconds']:,.0f}", f"{line['loss']:.4f}", _figure(line, metric))
        for name, lines in found.items()
        for line in lines
    ]
    print_table(("run", "epoch", "seconds", "loss", metric), [tuple(map(str, row)) for row in rows])


def _figure(line: Mapping[str, Any], metric: str) -> str:
    value = line["metrics"].get(metric)
    return "" if value is None else f"{value:.4f}"
