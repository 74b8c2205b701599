"""Generated data sets of other sizes than the built-in one, as data set folders.

Every parameter of :func:`recbase.builtin.synthetic` is an option. Example, where text says little and images much::

    python -m benchmarks.worlds --users 2000 --items 1000 --attributes 1 --image-signal 0.9 --out runs/world
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

from recbase.builtin import synthetic


def main() -> None:
    """Make a world and say what an oracle reaches in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, parameter in inspect.signature(synthetic).parameters.items():
        kind, help = type(parameter.default), f"default {parameter.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=parameter.default, help=help)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = vars(parser.parse_args())
    out = given.pop("out")
    made = synthetic(**given)
    made.save(out)
    best = made.facts["best"]["test"]
    print(f"{out}: {made.manifest['counts']}")
    print(f"test, an oracle: recall@10 {best['recall@10']:.4f}, ndcg@10 {best['ndcg@10']:.4f}")


if __name__ == "__main__":
    main()
