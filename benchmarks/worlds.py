"""Generated data sets of other sizes than the built-in one, as data set folders.

Every parameter of :func:`recbase.data.builtin.synthetic` is an option. Example, where text says little and images
much::

    python -m benchmarks.worlds --users 2000 --items 1000 --attributes 1 --image-signal 0.9 --out runs/world
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recbase.cli.options import add_options, options_from
from recbase.data.builtin import synthetic


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@add_options(options_from("recbase.data.builtin:synthetic"))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def main(out: Path, **world: Any) -> None:
    """Make a generated data set and say what an oracle reaches on it."""
    made = synthetic(**world)
    made.save(out)
    best = made.facts["best"]["test"]
    print(f"{out}: {made.manifest['counts']}")
    print(f"test, an oracle: recall@10 {best['recall@10']:.4f}, ndcg@10 {best['ndcg@10']:.4f}")


if __name__ == "__main__":
    main()
