"""Raw events to a data set: what is kept, in which order, of which items; and how much was left out.

Works on tables alone. Files are the business of the readers, names of data sets that of the catalogue.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from recbase.arguments import Count, Large, LargeOrOff, Seed, check_arguments
from recbase.data import interactions as events
from recbase.data.interactions import Order, Ties
from recbase.data.tables.raw import Notes, RawData

__all__ = ["Duplicates", "Rules", "prepared_tables"]

Duplicates = Literal["keep", "first", "last", "refuse"]


@dataclass(frozen=True)
class Rules:
    """Rules by which raw events become a data set, in the order in which they are applied.

    Attributes
    ----------
    order : {"time", "file", "position"}, optional
        What orders a user's events; by default position, else time, else the file, as the source has them.
    ties : {"file", "item", "shuffle"}, default "file"
        Order of events of one time: as in the file, by ascending item id, or by a seeded hash.
    seed : int, default 0
        Of ``ties="shuffle"`` and of ``sample_users``.
    sample_users : int, optional
        Users that are drawn before anything is filtered; all if not given.
    sample_after : bool, default False
        Draw them from the users who are left after filtering.
    duplicates : {"keep", "first", "last", "refuse"}, optional
        Events of a user with an item that the user had before: kept, or all but the first or last left out, or
        refused; the first stays if not given. Rows of the table of items with an id that is there already: the first
        (last) of them stays, and they are refused if not given.
    min_user, min_item : int, default 5
        Fewest events that a user and an item keep (iterated k-core); 0 or 1 keeps all.
    limit : int, optional
        Number of latest events of a user that are kept; all by default.
    views : tuple of str, optional
        Text columns to encode; those of usual names if not given.
    """

    order: Order | None = None
    ties: Ties = "file"
    seed: Seed = 0
    sample_users: Count | None = None
    sample_after: bool = False
    duplicates: Duplicates | None = None
    min_user: LargeOrOff = 5
    min_item: LargeOrOff = 5
    limit: Large | None = None
    views: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))
        if self.sample_after and self.sample_users is None:
            raise ValueError("--sample-after says when a sample is drawn, and --sample-users names none")


def prepared_tables(raw: RawData, rules: Rules) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Events in order and filtered, the items that have any, and what a manifest says of it all.

    Raises
    ------
    ValueError
        If the data are not sound or nothing is left of them.
    """
    found = raw.interactions.columns
    order: Order = rules.order or ("position" if "position" in found else "time" if "timestamp" in found else "file")
    table = events.order_events(raw.interactions, order, rules.ties, rules.seed)
    read = table.height
    sampled: dict[str, int] = {}
    if not rules.sample_after:
        table, sampled = _sampled(table, rules)
    considered = table.height
    table, dropped = _filtered(table, rules)
    if rules.sample_after:
        table, sampled = _sampled(table, rules)
    manifest: dict[str, Any] = {
        "source": raw.source,
        "filters": {
            "min_user": rules.min_user,
            "min_item": rules.min_item,
            "iterated": True,
            "limit": rules.limit,
            "repeats": rules.duplicates == "keep",
        },
        "order": order,
        "ties": rules.ties if order == "time" else None,
        "seed": rules.seed if order == "time" and rules.ties == "shuffle" else None,
        "events_read": read,
        "events_distinct": considered - dropped["repeated_events"],
        "dropped": sampled | dropped,
    }
    if rules.duplicates is not None:
        manifest["filters"]["duplicates"] = rules.duplicates
    if rules.sample_users is not None:
        manifest["filters"] |= {"sample_users": rules.sample_users, "sample_seed": rules.seed}
    if rules.sample_after:
        manifest["filters"]["sample_after"] = True
    if rules.views is not None or raw.views:
        manifest["views"] = list(rules.views or raw.views)
    items = raw.items_of(table["item_id"].unique())
    return table, _catalogue(table, items, manifest, raw.notes, rules.duplicates), manifest


def _sampled(table: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, dict[str, int]]:
    """The events of some users, drawn by a seeded hash of their ids, so that the order of the file decides nothing."""
    if rules.sample_users is None:
        return table, {}
    users = table["user_id"].unique().sort()
    keys = events.hash_events(pl.DataFrame({"user_id": users, "item_id": users}), rules.seed)
    chosen = users.gather(np.argsort(keys, kind="stable")[: rules.sample_users])
    kept = table.filter(pl.col("user_id").is_in(chosen.implode()))
    return kept, {"other_users": len(users) - len(chosen), "events_of_other_users": table.height - kept.height}


def _without_repeats(table: pl.DataFrame, duplicates: Duplicates | None) -> pl.DataFrame:
    """Ordered events without those of a user with an item that the user had before, as far as they are not wanted."""
    if duplicates == "keep":
        return table
    kept = events.drop_repeats(table, "last" if duplicates == "last" else "first")
    if duplicates == "refuse" and kept.height < table.height:
        twice = table.filter(pl.struct("user_id", "item_id").is_duplicated())
        user, item = (str(twice[name][0])[:60] for name in ("user_id", "item_id"))
        raise ValueError(
            f"{table.height - kept.height:,} events repeat a user and an item, such as user {user!r} and item "
            f"{item!r}; --duplicates first, last or keep says what to do with them"
        )
    return kept


def _one_row_each(items: pl.DataFrame, duplicates: Duplicates | None, notes: Notes) -> pl.DataFrame:
    """The table of items with one row an id, where it was said which of several stays."""
    if duplicates is None or duplicates == "refuse" or "item_id" not in items.columns:
        return items
    kept = items.unique("item_id", keep="last" if duplicates == "last" else "first", maintain_order=True)
    if lost := items.height - kept.height:
        which = "last" if duplicates == "last" else "first"
        said = f"{lost:,} of {items.height:,} rows of the items have an id that is there already; the {which} stays"
        notes.say("item_rows_repeated", lost, said, warn=False)
    return kept


def _filtered(table: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, dict[str, int]]:
    """Ordered events without repeats, rare users, rare items and old events, and how many of each there were."""
    distinct = _without_repeats(table, rules.duplicates)
    core = events.k_core(distinct, rules.min_user, rules.min_item)
    kept = core if rules.limit is None else events.latest(core, rules.limit)
    whole = core.height == distinct.height
    gone = {name: 0 if whole else distinct[name].n_unique() - core[name].n_unique() for name in ("user_id", "item_id")}
    dropped = {
        "repeated_events": table.height - distinct.height,
        "rare_events": distinct.height - core.height,
        "rare_users": gone["user_id"],
        "rare_items": gone["item_id"],
        "events_beyond_limit": core.height - kept.height,
    }
    return kept, dropped


def _catalogue(
    table: pl.DataFrame,
    items: pl.DataFrame | None,
    manifest: dict[str, Any],
    notes: Notes,
    duplicates: Duplicates | None,
) -> pl.DataFrame:
    """One row for every item with events: rows of ``items`` in their order, or by id; unknown items have null texts."""
    ids = table.select("item_id").unique().sort("item_id")
    if items is None:
        return ids
    items = events.checked_items(_one_row_each(items, duplicates, notes), "the items")
    table, items = events.same_id_type(table, items, "the source")
    ids = table.select("item_id").unique().sort("item_id")
    unknown = ids.join(items, on="item_id", how="anti")
    if unknown.height:
        manifest["items_without_text"] = unknown.height
    events_of_known = table.height - table.join(unknown, on="item_id", how="semi").height
    matched = ids.height - unknown.height
    manifest["matching"] = {
        "items": matched,
        "events": events_of_known,
        "rows_without_events": items.height - matched,
    }
    if unknown.height:
        _say_strangers(ids, unknown, items, notes)
    return ids.join(items, on="item_id", how="left", maintain_order="left")


def _say_strangers(ids: pl.DataFrame, unknown: pl.DataFrame, items: pl.DataFrame, notes: Notes) -> None:
    """Say that items of the events are not in the catalogue, if they are most or may only be written otherwise."""
    unused = items.join(ids, on="item_id", how="anti")["item_id"]
    here, there = (
        ", ".join(repr(str(value)[:40]) for value in series.head(3)) for series in (unknown["item_id"], unused)
    )
    hint, twins = "", 0
    if items.schema["item_id"] == pl.String:
        alike = {_folded(value) for value in unused.to_list()}
        twins = sum(_folded(value) in alike for value in unknown["item_id"].to_list())
        hint = f"; {twins:,} would match but for case, leading zeros, blanks, '.0' or Unicode form" if twins else ""
    if not twins and 2 * unknown.height <= ids.height:
        return
    notes.say(
        "items_not_in_catalogue",
        unknown.height,
        f"{unknown.height:,} of {ids.height:,} items of the events are not in the table of items and have no text: "
        f"events have ids as {here}, the table {'as ' + there if there else 'no others'}{hint}",
        warn=twins > 0 or len(unused) > 0 or unknown.height == ids.height,
    )


def _folded(identifier: str) -> str:
    """An id without what two programs write differently."""
    text = unicodedata.normalize("NFKC", identifier).strip().casefold()
    return text.removesuffix(".0").lstrip("0")
