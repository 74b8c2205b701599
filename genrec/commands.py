"""The command ``genrec``. Parses, calls, prints."""

from __future__ import annotations

import click

from genrec import MODELS
from recbase.options import Group, add_options, failures, print_json, shared, summary_of

__all__ = ["main"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recommenders that generate the codes of the next item."""


@main.command("list")
@add_options(shared("as_json"))
@failures
def list_models(as_json: bool) -> None:
    """List the models."""
    models = {name: summary_of(target) for name, target in MODELS.items()}
    if as_json:
        print_json({"models": models})
        return
    for name, summary in models.items():
        click.echo(f"{name:<12}{summary}")
    if not models:
        click.echo("There is no generative model in this version yet; `seqrec list` shows the models there are.")


if __name__ == "__main__":
    main()
