"""The three commands as one, for a checkout without an installation: ``python cli.py seqrec train sasrec``."""

import click

from genrec.cli import main as genrec
from recbase import __version__
from recbase.cli.options import Group
from semtok.cli import main as semtok
from seqrec.cli import main as seqrec


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="semtok")
def main() -> None:
    """Item codes (semtok), models that rank items (seqrec), models that generate codes (genrec)."""


main.add_command(semtok, "semtok")
main.add_command(seqrec, "seqrec")
main.add_command(genrec, "genrec")


if __name__ == "__main__":
    main()
