"""The command ``semtok``: prepare, embed, fit, encode, list, report, export, import. Each parses, calls and prints."""

from __future__ import annotations

import click

from recbase import __version__
from recbase.cli.options import Group
from semtok.cli.codes import export_codes, import_codes, report_codes
from semtok.cli.encode import encode
from semtok.cli.fit import METHODS, fit, fit_method
from semtok.cli.listing import list_all
from semtok.cli.prepare import embed, prepare

__all__ = ["main"]

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Semtok(Group):
    """``semtok fit METHOD`` is a command of its own for every method; ``semtok fit --method METHOD`` is one for all."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the words name, and the words that are left for it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name != "fit" or not rest or rest[0].startswith("-"):
            return name, command, rest
        if rest[0] not in METHODS:
            raise click.UsageError(f"unknown method {rest[0]!r}; known: {', '.join(METHODS)}")
        return f"fit {rest[0]}", fit_method(rest[0]), rest[1:]


@click.group(cls=_Semtok, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="semtok")
def main() -> None:
    """Turn item content into short tuples of discrete codes (semantic IDs).

    The stages, each a folder on disk: prepare (a data set), embed (item vectors), fit (codes), report. Later stages
    make what they are not given: `semtok fit pq` is a whole run on built-in data.
    """


for _command in (prepare, embed, fit, encode, list_all, report_codes, export_codes, import_codes):
    main.add_command(_command)
