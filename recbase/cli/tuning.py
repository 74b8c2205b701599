"""Command ``tune`` of both families: its options, and what it prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recbase.arguments import Count, Seconds, Word, rule_of
from recbase.cli.options import Option
from recbase.console import print_json, print_table, say

if TYPE_CHECKING:
    from recbase.tuning import Tuned

__all__ = ["TUNING", "print_tuned"]

_SPAN = Word(
    "NAME=low:high, NAME=low:high:log or NAME=value,value",
    lambda text: re.fullmatch(r"(--)?[a-z][\w-]*=[^=\s]+", text) is not None,
)
TUNING = [
    Option("trials", "int", 30, "Trials in all, those of a stored study included.", rule=rule_of(Count)),
    Option("search", "str", None, "What is searched: NAME=low:high, NAME=low:high:log or NAME=value,value; once each.",
           multiple=True, shown="learning rate, dropout, width, depth, ...", rule=_SPAN),
    Option("storage", "path", None, "File that keeps the study; the same command goes on with it."),
    Option("budget_seconds", "float", None, "Seconds after which no new trial begins.", rule=rule_of(Seconds)),
    Option("out", "path", None, "Recipe file to write, .json; train --recipe takes it."),
]  # fmt: skip
_SHOWN = 5


def print_tuned(found: Tuned, as_json: bool, quiet: bool) -> None:
    """Print the best trials and where the recipe is."""
    if as_json:
        print_json(
            {"settings": found.settings, "value": found.value, "metric": found.metric, "trials": found.trials,
             "recipe": None if found.recipe is None else str(found.recipe)}
        )  # fmt: skip
        return
    if quiet:
        return
    names = list(found.settings)
    rows = [
        (str(row["number"]), "" if row["value"] is None else f"{row['value']:.4f}", *_told(row["settings"], names),
         f"{row['seconds']:.0f}")
        for row in found.trials[:_SHOWN]
    ]  # fmt: skip
    print_table(("trial", found.metric, *names, "seconds"), rows, "Best trials on validation")
    states = [row["state"] for row in found.trials]
    say(
        f"{len(states)} trials: {states.count('complete')} complete, {states.count('pruned')} ended early, "
        f"{states.count('failed')} failed"
    )
    if found.recipe is not None:
        say(f"Recipe file: {found.recipe}; train --recipe {found.recipe} takes it")


def _told(settings: dict[str, object], names: Sequence[str]) -> list[str]:
    values = [settings.get(name, "") for name in names]
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
