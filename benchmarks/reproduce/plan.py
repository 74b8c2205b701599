"""The commands, hours and disk of a paper's rows on a GPU machine.

Hours come from a stated rate. Where nothing was measured the rate is arithmetic, and says so: six operations a
parameter and token (forward and backward), plus the scores of all candidates, at a fifth of the single precision that
NVIDIA's data sheet of the A100 states, and never less than 20 ms a step. It is good for an order of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from recbase.cli.options import options_from

__all__ = ["ARITHMETIC", "Cost", "Rate", "cost_of", "settings_of"]


@dataclass(frozen=True)
class Rate:
    """Operations a second, the least seconds of a step, and where both come from."""

    operations: float
    least_step: float
    source: str


ARITHMETIC = Rate(
    0.2 * 19.5e12, 0.02, "arithmetic: a fifth of the A100's 19.5 TFLOP/s, at least 20 ms a step; not measured"
)


@dataclass(frozen=True)
class Cost:
    """Passes and steps at most, hours of training at most, and GB of disk of a row."""

    passes: int
    steps: int
    hours: float
    disk: float


def settings_of(words: list[str]) -> dict[str, Any]:
    """Every setting that a command is run with: what it says, over its recipe, over the defaults of the program.

    Raises
    ------
    click.UsageError
        If the program does not understand the command.
    """
    import genrec
    import genrec.cli
    import seqrec
    import seqrec.cli
    from recbase.cli.options import recipes_from

    program, registry = (
        (genrec.cli.main, genrec.REGISTRY) if words[0] == "genrec" else (seqrec.cli.main, seqrec.REGISTRY)
    )
    with click.Context(program) as top:
        train = program.get_command(top, "train")
        assert isinstance(train, click.Group)
        model = train.get_command(top, words[2])
        if model is None:
            raise click.UsageError(f"there is no model {words[2]!r}")
        with model.make_context(words[2], list(words[3:])) as context:
            given = dict(context.params)
            typed = {
                name: value
                for name, value in given.items()
                if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
            }
    target = registry[words[2]].target
    own = {
        option.name: option.default
        for option in [*options_from("recbase.train.loop:TrainConfig"), *options_from(target)]
    }
    recipe = recipes_from(target).get(given.get("recipe") or "default", {})
    return given | own | dict(recipe) | typed


def cost_of(
    settings: Mapping[str, Any], users: int, items: int, events: int, generates: bool, rate: Rate = ARITHMETIC
) -> Cost:
    """The cost of a row at most: patience ends most runs earlier.

    Parameters
    ----------
    settings : mapping
        As of `settings_of`.
    users, items, events : int
        Of the data set.
    generates : bool
        Whether the scores are over codes; otherwise over the candidates, which are all items or the drawn negatives.
    rate : Rate
    """
    width = int(settings.get("dim") or 64)
    depth = sum(
        int(settings.get(name) or 0)
        for name in ("layers", "encoder_layers", "decoder_layers", "uni_layers", "cross_layers", "fusion_layers")
    )
    depth = max(depth, 1)
    hidden = int(settings.get("ffn") or 4 * width)
    blocks = depth * (4 * width * width + 2 * width * hidden)
    length = int(settings.get("max_len") or 20) * (int(settings.get("levels") or 4) if generates else 1)
    prefix = (settings.get("form") or "all") == "prefix"
    samples = max(events - 3 * users, users) if prefix else users
    candidates = int(settings.get("codebook_size") or 256) if generates else items
    scores = 1 if prefix else length
    operations = 6 * samples * (blocks * length + scores * candidates * width)
    passes, size = int(settings["epochs"]), int(settings["batch_size"])
    steps = passes * math.ceil(samples / size)
    seconds = max(passes * operations / rate.operations, steps * rate.least_step)
    # Weights, their best state, and the two moments of Adam, in single precision; a quarter of a GB of ranks and logs.
    disk = 4 * 4 * (blocks + 2 * items * width) / 1e9 + 0.25
    return Cost(passes, steps, seconds / 3600, disk)
