"""Commands on a trained run that both families have: evaluate, recommend, serve. Each family says how it loads one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recbase.arguments import Count, Range, Word, rule_of
from recbase.cli.models import RUN_DATA, print_answers
from recbase.cli.options import Command, Option, add_options, argument, column_pairs, need_paths, shared
from recbase.cli.options import given as typed_names
from recbase.console import failures, print_json, print_table, say, short, warn

if TYPE_CHECKING:
    from recbase.serving.fitted import FittedRecommender

__all__ = ["evaluate_command", "recommend_command", "refresh_command", "serve_command"]

Loader = Callable[..., "FittedRecommender"]

_ASKED = [
    Option("history", "strs", None, "Raw item ids of one user, the oldest first, as a,b,c.", repeats=True),
    Option("histories", "path", None, "File of events of many users, in any format that `semtok prepare` reads."),
    Option("users", "str", None, "Users of the data set: all, or a file with one id a line."),
]
_ANSWER = [
    Option("k", "int", 10, "Items to recommend.", flag="top", short="-k", rule=Range(1, 100_000)),
    Option("keep_seen", "bool", False, "Items of the history may be recommended again.", flag="keep-seen"),
    Option("exclude", "strs", None, "Item ids that are not recommended, as a,b,c.", repeats=True),
    Option("only", "strs", None, "Item ids that alone are recommended, as a,b,c.", repeats=True),
    Option("strict", "bool", False, "Refuse item ids that the run does not know, and histories without any it knows.",
           flag="strict"),
    Option("out", "path", None, "File to write: .parquet, .csv or .jsonl."),
]  # fmt: skip
_HOST = Word("a host name or an address", lambda text: re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", text) is not None)
_SERVED = [
    Option("host", "str", "127.0.0.1", "Address to listen on; by default this machine alone can ask.", rule=_HOST),
    Option("port", "int", 8000, "Port to listen on; 0 takes any that is free.", rule=Range(0, 65_535)),
    Option("workers", "int", 1, "Requests computed at the same time.", rule=rule_of(Count)),
    Option("waiting", "int", 64, "Requests that may wait; more are answered by 503.", rule=rule_of(Count)),
    Option("most_histories", "int", 1_000, "Histories of one request.", rule=rule_of(Count)),
    Option("most_bytes", "int", 1_000_000, "Bytes of one request.", rule=rule_of(Count)),
]
_SHOWN_USERS = 20
_OFTEN = 0.1  # share of repeats from which leaving seen items out is worth a word


def evaluate_command(load: Loader, options: Sequence[Option], said: str) -> click.Command:
    """Command ``evaluate`` of a family, whose own ``options`` are arguments of `FittedRecommender.evaluate`."""

    @click.command("evaluate", cls=Command, help=said)
    @argument("run")
    @add_options(options)
    @add_options(shared("as_json", "quiet"))
    @add_options([RUN_DATA])
    @failures
    def command(run: Path, data: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
        from recbase.data.catalog import load_dataset
        from recbase.evaluate.compare import print_metrics

        fitted = load(run)
        typed = {name: value for name, value in given.items() if name in typed_names()}
        dataset = load_dataset(data or fitted.manifest["data"].get("given", fitted.manifest["data"]["name"]))
        metrics = fitted.evaluate(dataset, **typed | ({"quiet": quiet or as_json} if options else {}))
        if as_json:
            print_json(metrics)
        else:
            print_metrics({fitted.name: metrics})

    return command


def recommend_command(load: Loader, options: Sequence[Option]) -> click.Command:
    """Command ``recommend`` of a family, whose own ``options`` are arguments of `FittedRecommender.recommend`."""

    @click.command("recommend", cls=Command)
    @argument("run")
    @add_options(_ASKED, section="Who is asked for")
    @add_options(_ANSWER, section="Answers")
    @add_options(options, section="Answers")
    @add_options([RUN_DATA])
    @add_options(shared("as_json", "quiet"))
    @failures
    def command(
        run: Path,
        history: tuple[str, ...] | None,
        histories: Path | None,
        users: str | None,
        out: Path | None,
        data: str | None,
        as_json: bool,
        quiet: bool,
        k: int,
        **given: Any,
    ) -> None:
        """Recommend the next items: for one history, for a file of events, or for users of the data set.

        Item ids that are unknown are named or counted, and skipped; where nothing is known of a user the most popular
        items are recommended, and the answer says so. Many users are answered into a file by --out.
        """
        from recbase.serving.batch import recommend_to_file

        if sum(one is not None for one in (history, histories, users)) != 1:
            raise click.UsageError("give one of --history, --histories and --users")
        need_paths("histories")
        fitted = load(run, data=data)
        _warn_of_repeats(fitted.manifest, given["keep_seen"])
        if history is not None and out is None:
            found = fitted.answer(histories=[history], k=k, **given)
            if found.strangers:
                warn(f"none of the {len(history)} items of the history is known: these are the most popular items")
            print_answers(
                found.table.drop("user", "rank", "popular").rename({"item": "item_id"}).to_dicts(),
                found.unknown,
                as_json,
            )
            return
        asked = _asked(fitted, history, histories, users)
        if out is None:
            _print_lists(fitted, asked, k, as_json, given)
            return
        counts = recommend_to_file(fitted, asked, out, k, quiet or as_json, **given)
        if as_json:
            print_json(counts | {"unknown": len(counts["unknown"]), "out": str(out)})
        else:
            _say_left_out(counts["unknown"], counts["popular"])
            if counts["without"]:
                warn(
                    f"{counts['without']:,} users got no item: they have had every one that may be recommended "
                    "(--keep-seen lets items come again)"
                )
            say(f"{out}: {counts['rows']:,} recommendations for {counts['users']:,} users")

    return command


def _warn_of_repeats(manifest: Mapping[str, Any], keep_seen: bool) -> None:
    """Say where the policy for seen items does not fit what users of the data set do."""
    data = manifest.get("data", {})
    share = data.get("repeats")
    if share is None:
        return
    if keep_seen and not share:
        warn(f"no user of {short(data['name'])} has an item twice: --keep-seen gives places to items already had")
    if not keep_seen and share >= _OFTEN:
        name = short(data["name"])
        warn(f"{share:.1%} of the events of {name} repeat an item: --keep-seen recommends such items too")


def _asked(
    fitted: FittedRecommender, history: tuple[str, ...] | None, histories: Path | None, users: str | None
) -> Any:
    """Users that were asked for, as the options name them."""
    import polars as pl

    from recbase.serving.batch import Asked, histories_in, users_in

    if history is not None:
        return Asked(pl.Series("user", ["0"]), [history])
    if histories is not None:
        return histories_in(histories)
    assert users is not None
    return Asked(fitted.data.user_ids.alias("user")) if users == "all" else users_in(users)


def _print_lists(fitted: FittedRecommender, asked: Any, k: int, as_json: bool, given: dict[str, Any]) -> None:
    """Print the lists of a handful of users."""
    if len(asked) > _SHOWN_USERS:
        raise click.UsageError(f"{len(asked):,} users are too many to be printed: write a file with --out recs.parquet")
    found = fitted.answer(**asked.question(), k=k, **given)
    names = asked.ids.to_list()
    rows = found.table.to_dicts()
    if asked.histories is not None:
        rows = [row | {"user": names[row["user"]]} for row in rows]
    if as_json:
        print_json({"items": rows, "unknown": found.unknown})
        return
    _say_left_out(found.unknown, found.strangers)
    shown = [
        (row["user"], row["rank"], row["item"], row.get("title") or "", "" if row["score"] is None else row["score"])
        for row in rows
    ]
    print_table(
        ("user", "rank", "item", "title", "score"),
        [tuple(f"{part:.4f}" if isinstance(part, float) else str(part) for part in row) for row in shown],
        clip="title",
    )


def _say_left_out(unknown: list[str], strangers: int) -> None:
    if unknown:
        shown = ", ".join(short(name) for name in unknown[:3])
        warn(f"{len(unknown):,} item ids are unknown and were skipped, such as {shown}")
    if strangers:
        warn(f"{strangers:,} users have no known item and got the most popular items")


def serve_command(load: Loader, options: Sequence[Option]) -> click.Command:
    """Command ``serve`` of a family."""

    @click.command("serve", cls=Command)
    @argument("run")
    @add_options(_SERVED, section="Server")
    @add_options(options, section="Answers")
    @add_options(shared("quiet"))
    @failures
    def command(run: Path, host: str, port: int, quiet: bool, **given: Any) -> None:
        """Answer requests over HTTP: POST /recommend, GET /health, GET /model, POST /reload; /docs describes them.

        Needs the extra [serve]. POST /reload opens the run folder again and takes the new one into use when it is
        ready, without dropping a request.
        """
        from recbase.serving.server import run_service
        from recbase.serving.service import Bounds

        names = {option.name for option in options}
        bounds = Bounds(**{name: value for name, value in given.items() if name not in names})
        answer = {name: value for name, value in given.items() if name in names}
        run_service(lambda: load(run), host, port, bounds, answer, quiet)

    return command


def refresh_command(refresh: Callable[..., dict[str, Any]], options: Sequence[Option], said: str) -> click.Command:
    """Command ``refresh`` of a family: ``refresh(run, out, items, remove, **options)`` writes the run."""

    @click.command("refresh", cls=Command, help=said)
    @argument("run")
    @add_options(options)
    @add_options(
        [
            Option("items", "path", None, "Table of the new items: item_id, title and the text columns trained on."),
            Option("columns", "strs", None, "Names of the table's columns, as item_id=sku,title=Product Name."),
            Option("remove", "path", None, "File of items to take out, one id a line."),
            Option("out", "path", None, "Run folder to write: new, or refreshed before.", required=True),
        ]
    )
    @add_options(shared("as_json", "quiet"))
    @failures
    def command(
        run: Path,
        items: Path | None,
        columns: tuple[str, ...] | None,
        remove: Path | None,
        out: Path,
        as_json: bool,
        quiet: bool,
        **given: Any,
    ) -> None:
        from recbase.data.readers import read_items
        from recbase.serving.refresh import texts_to_remove

        need_paths("items", "remove", *(option.name for option in options))
        table = None if items is None else read_items(items, columns=column_pairs(columns))
        report = refresh(run, out=out, items=table, remove=texts_to_remove(remove), **given)
        if as_json:
            print_json(report | {"out": str(out)})
        elif not quiet:
            asked = report["histories_asked"]
            say(
                f"{out}: {report['items']:,} items; {report['kept']:,} stayed, {report['added']:,} are new, "
                f"{report['removed']:,} are gone"
            )
            if report.get("hidden"):
                warn(f"{report['hidden']:,} new items share their codes with others, of which one alone can be found")
            say(
                f"Of {asked} lists for histories of items that stayed, {report['lists_changed']} changed and "
                f"{report['lists_with_new_items']} show a new item"
            )

    return command
