"""Tables of docs/results from the JSON lines of results/: no number of them is written by hand.

    python -m benchmarks.tables            # write the tables between their markers
    python -m benchmarks.tables --check    # exit code 1 if a page says something else

A page holds a table as ``<!-- table: NAME -->`` and ``<!-- end of table -->`` with the lines between them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, latest, read

__all__ = ["PAGES", "TABLES", "Table", "filled"]

PAGES = Path(__file__).parents[1] / "docs" / "results"
_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """One table: the file of its records, their data set, and its columns.

    Attributes
    ----------
    benchmark, data : str
        The records that it shows.
    columns : sequence of str
        ``seconds``, ``seeds``, a field, the name of a metric, or a key of ``notes``; the first heads the rows' names.
    history : bool, default False
        Show every record, not the last of each row alone.
    formats : mapping
        How numbers of a column are written, as for `format`; four decimals where it says nothing.
    """

    benchmark: str
    data: str
    columns: Sequence[str]
    history: bool = False
    formats: Mapping[str, str] = field(default_factory=dict)

    def lines(self, folder: Path = RESULTS) -> list[str]:
        """The table as lines of Markdown."""
        records = [one for one in read(self.benchmark, folder) if one["data"] == self.data]
        shown = records if self.history else latest(records)
        rows = [[one["row"], *(_cell(one, column, self.formats) for column in self.columns[1:])] for one in shown]
        return [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(one: Mapping[str, Any], column: str, formats: Mapping[str, str]) -> str:
    """What a record says in a column; nothing if it has no such value."""
    if column in one["notes"]:
        return str(one["notes"][column])
    if column in ("seconds", "seeds"):
        return "" if one[column] is None else format(one[column], formats.get(column, ",.0f"))
    if column in ("date", "machine", "commit", "qualification"):
        return str(one[column] or "")
    if column == "command":
        return f"`{one[column]}`"
    if column not in one["metrics"]:
        return ""
    mean, spread = one["metrics"][column]["mean"], one["metrics"][column]["sd"]
    if column in formats:
        return format(mean, formats[column]).replace("%", " %")
    if column == "last item first":
        return f"{mean:.1%}"
    if column.endswith("seconds"):
        return f"{mean:,.0f}"
    return _short(mean) + ("" if spread is None else f" ± {_short(spread)}")


def _short(value: float) -> str:
    """Four decimals, without the zero before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.4f}")


_MASKED = ("masked recall@10", "masked ndcg@10")
_PAST = ("model", "recall@10", "ndcg@10", *_MASKED, "last item first", "seconds", "seeds")
_FOUR = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_CURVE = ("model", *_FOUR, "best epoch of", "validation ndcg@10 by seconds")
_CODES = ("share a code", "largest group", "used", "perplexity", "reconstruction error")
_CODES_FORMATS = {
    "share a code": ".2%",
    "largest group": ".0f",
    "used": ".1%",
    "perplexity": ".1f",
    **dict.fromkeys(("reconstruction error", "neighbour recall", "prefix recall"), ".3f"),
    "seconds": ".1f",
}
_COLLISIONS = ("method", "codes an item", "colliding", "sharing", "largest group", "steps", "seconds")
_WHOLE = dict.fromkeys(
    (*_COLLISIONS[1:], "seconds of training", "RecBole seconds", "ranked users/s", "best epoch"), ",.0f"
)
TABLES = {
    "baselines/Scientific": Table(
        "baselines",
        "Scientific",
        (
            "model",
            "recall@10",
            "ndcg@10",
            *_MASKED,
            "best epoch",
            "seconds of training",
            "steps/s",
            "ranked users/s",
            "date",
        ),
        formats=_WHOLE | {"steps/s": ".1f"},
    ),
    "tssr_parents/Scientific": Table(
        "tssr_parents", "Scientific", ("model", *_FOUR, *_MASKED, "best epochs", "ranked users/s"), formats=_WHOLE
    ),
    "recbole_quality/Scientific": Table(
        "recbole_quality",
        "Scientific",
        (
            "model",
            "recall@10",
            "ndcg@10",
            "seconds of training",
            "RecBole recall@10",
            "RecBole ndcg@10",
            "RecBole seconds",
            "its end",
            "as good after",
        ),
        formats=_WHOLE,
    ),
    **{
        f"tokenizers/{data}": Table(
            "tokenizers",
            data,
            ("tokenizer", *_CODES, "neighbour recall", "prefix recall", "seconds"),
            formats=_CODES_FORMATS,
        )
        for data in ("Beauty", "Scientific")
    },
    **{
        f"behavior_codes/{data}": Table("behavior_codes", data, _COLLISIONS, formats=_WHOLE)
        for data in ("Scientific", "Beauty")
    },
    "ccfrec_sampling/Scientific": Table(
        "ccfrec_sampling",
        "Scientific",
        ("candidates of a step", "recall@10", "ndcg@10", *_MASKED, "seconds", "validation ndcg@10 by epochs"),
    ),
    "tried_ids/Scientific": Table(
        "tried_ids", "Scientific", ("options", "validation recall@10", "validation ndcg@10", "seconds")
    ),
    "tried_small/Scientific": Table(
        "tried_small",
        "Scientific",
        (
            *("options", "validation recall@10", "validation ndcg@10", "alone recall@10", "alone ndcg@10"),
            *("at weight 0, 1, 4, 8", "seconds"),
        ),
    ),
    "looks/Scientific": Table("looks", "Scientific", ("command", "users", "list", "generator alone")),
    "item_vectors/Scientific": Table(
        "item_vectors",
        "Scientific",
        ("vectors that codes are made of", "KL to text", "KL to behaviour", "shares, %", "published (Beauty)"),
        formats={"KL to text": ".3f", "KL to behaviour": ".3f"},
    ),
    "list_cost/Scientific": Table("list_cost", "Scientific", ("model", "codes an item", "10 beams", "50 beams")),
    "demo/journey": Table(
        "demo", "journey", ("run", "recall@5", "recall@10", "recall@20", "ndcg@10", "its 95 % interval")
    ),
    "orders/Beauty": Table(
        "orders",
        "Beauty",
        (
            "model",
            *tuple(
                f"{order} {name}"
                for order in ("as shipped", "ties shuffled", "by product id")
                for name in ("recall@10", "ndcg@10")
            ),
            "passes or seconds",
        ),
    ),
    "past_counter/Scientific": Table("past_counter", "Scientific", _PAST),
    "past_counter/Beauty": Table("past_counter", "Beauty", _PAST),
    "past_counter/MovieTweetings": Table("past_counter", "MovieTweetings", _PAST),
    "rankers/Beauty": Table(
        "rankers", "Beauty", ("model", "recall@5", "recall@10", "recall@20", "ndcg@10", *_MASKED, "seeds")
    ),
    "rankers/Scientific": Table("rankers", "Scientific", ("model, further options", *_FOUR, "seeds", "budget")),
    "generators/Beauty": Table("generators", "Beauty", _CURVE),
    "generators/Scientific": Table("generators", "Scientific", _CURVE),
    "generators_small/Beauty": Table(
        "generators_small",
        "Beauty",
        ("model", *_FOUR, *_MASKED, "passes", "seconds", "validation recall@10 by passes"),
    ),
    "ladder/Scientific": Table(
        "ladder", "Scientific", ("codes of", *_FOUR, "validation ndcg@10, all users", "best epoch")
    ),
    "speed/made": Table(
        "speed",
        "made",
        ("task", "ours ms", "peer ms", "times faster", "ours MiB", "peer MiB", "peer", "each round", "date"),
        formats={
            **dict.fromkeys(("ours ms", "peer ms"), ",.1f"),
            **dict.fromkeys(("ours MiB", "peer MiB"), ",.0f"),
            "times faster": ".2f",
        },
    ),
    "speedrun/Beauty": Table(
        "speedrun",
        "Beauty",
        (
            *("options", "seconds", "processor seconds", *_MASKED, "validation ndcg@10"),
            *("date", "machine", "qualification"),
        ),
        history=True,
    ),
}


def filled(text: str, folder: Path = RESULTS) -> str:
    """A page with its tables made anew.

    Raises
    ------
    ValueError
        If it names a table that there is not.
    """

    def made(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"there is no table {found[2]!r}; there are {', '.join(TABLES)}")
        return f"{found[1]}\n" + "\n".join(TABLES[found[2]].lines(folder)) + f"\n\n{found[3]}"

    return _MARKED.sub(made, text)


def main() -> None:
    """Write the tables, or compare them with the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page differs")
    given = parser.parse_args()
    differ = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = filled(text)
        if made != text:
            differ.append(page.name)
            if not given.check:
                page.write_text(made, encoding="utf-8")
    print("changed:" if not given.check else "differ from results/:", ", ".join(differ) or "none")
    if given.check and differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
