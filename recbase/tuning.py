"""Hyper-parameter search on validation, by Optuna: a study that goes on where it stopped, and the recipe it ends in.

Knows no model: it is given a function that trains with some settings and tells the value of every validation. Test is
not looked at.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from recbase.arguments import Range
from recbase.cli.signatures import Option
from recbase.console import say, short
from recbase.recipes import parted, save_recipe

__all__ = ["Choice", "Space", "Span", "Tuned", "parse_space", "rebased", "study", "tuned", "usual_space"]

_EXTRA = "tuning needs Optuna: install it with pip install 'semtok[tune]'"
_DROPOUT = (0.0, 0.6)

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Span:
    """Numbers between two bounds, both included.

    Attributes
    ----------
    low, high : float
    whole : bool, default False
        Whole numbers only.
    log : bool, default False
        Drawn evenly by their logarithm.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def draw(self, trial: Any, name: str) -> Any:
        """A number of this trial."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes
    ----------
    values : tuple
    """

    values: tuple[Any, ...]

    def draw(self, trial: Any, name: str) -> Any:
        """A value of this trial."""
        return trial.suggest_categorical(name, list(self.values))


Space = Mapping[str, Span | Choice]


def usual_space(options: Sequence[Option]) -> dict[str, Span | Choice]:
    """The settings that are worth a search in nearly every model, around a model's own defaults.

    Learning rate, weight decay, dropout of every kind, width, depth and temperature, as far as the model has them.

    Parameters
    ----------
    options : sequence of Option
        Of the model and of its training, with the defaults of the recipe that the search starts from.
    """
    space: dict[str, Span | Choice] = {}
    for option in options:
        name, usual = option.name, option.default
        if isinstance(usual, bool) or not isinstance(usual, int | float):
            continue
        if name == "lr":
            space[name] = Span(usual / 10, min(1.0, usual * 5), log=True)
        elif name == "weight_decay":
            space[name] = Choice(tuple(sorted({0.0, 1e-4, 1e-3, 1e-2, 1e-1, float(usual)})))
        elif "dropout" in name:
            space[name] = Span(_DROPOUT[0], max(_DROPOUT[1], usual))
        elif name == "dim":
            space[name] = Choice((max(8, usual // 2), usual, usual * 2))
        elif name in ("layers", "encoder_layers", "decoder_layers"):
            space[name] = Span(1, max(3, usual), whole=True)
        elif name == "temperature":
            space[name] = Span(usual / 3, usual * 3, log=True)
    return space


def rebased(options: Sequence[Option], recipe: Mapping[str, Any]) -> list[Option]:
    """Options with a recipe's values for defaults."""
    return [replace(option, default=recipe.get(option.name, option.default)) for option in options]


def parse_space(texts: Sequence[str], options: Sequence[Option]) -> dict[str, Span | Choice]:
    """A space as it is typed: ``lr=1e-4:1e-2:log``, ``layers=1:4``, ``loss=ce,bce``.

    Parameters
    ----------
    texts : sequence of str
        ``name=low:high``, with ``:log`` where the logarithm is drawn evenly, or ``name=value,value,...``.
    options : sequence of Option
        What can be searched.

    Raises
    ------
    ValueError
        If a name is no option, a bound is no number, or a value is not allowed.
    """
    known = {option.name: option for option in options}
    space: dict[str, Span | Choice] = {}
    for text in texts:
        name, _, given = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if name not in known:
            raise ValueError(f"--search names {short(name)}, which is no option of the model or its training")
        option = known[name]
        if not given.strip():
            raise ValueError(f"--search {name} has no values; expected {name}=low:high or {name}=value,value")
        parts = given.split(":")
        if len(parts) == 1:
            space[name] = Choice(tuple(_value(option, part.strip()) for part in given.split(",")))
            continue
        if len(parts) > 3 or (len(parts) == 3 and parts[2] != "log") or option.kind not in ("int", "float"):
            raise ValueError(f"--search {short(text)}: expected {name}=low:high, low:high:log or value,value")
        low, high = (_value(option, part) for part in parts[:2])
        if not low < high or (len(parts) == 3 and low <= 0):
            raise ValueError(f"--search {short(text)}: the lower bound must lie below the upper, above 0 with log")
        space[name] = Span(low, high, option.kind == "int", len(parts) == 3)
    return space


def _value(option: Option, text: str) -> Any:
    """A typed value of an option."""
    try:
        if option.kind == "int":
            found: Any = int(text)
        elif option.kind == "float":
            found = float(text)
            if not math.isfinite(found):
                raise ValueError
        elif option.kind == "bool":
            found = {"yes": True, "true": True, "no": False, "false": False}[text.lower()]
        else:
            found = text
    except (ValueError, KeyError):
        raise ValueError(f"--search {option.name}: {short(text)} is no value of {option.spelled}") from None
    if option.kind == "choice" and found not in option.choices:
        raise ValueError(f"--search {option.name}: {short(found)} is none of {', '.join(map(str, option.choices))}")
    rule = option.rule
    problem = rule.refusal(found) if isinstance(rule, Range) else option.refusal(found)
    if problem is not None:
        raise ValueError(f"--search {option.name}: {option.spelled} must {problem}, got {short(found)}")
    return found


@dataclass(frozen=True)
class Tuned:
    """Outcome of a search.

    Attributes
    ----------
    settings : dict
        The best settings that were searched.
    value : float
        Its metric on validation.
    metric : str
    trials : list of dict
        Every trial: ``number``, ``state`` ("complete", "pruned", "failed"), ``value``, ``settings``, ``seconds``; the
        best first.
    recipe : Path or None
        The recipe file.
    """

    settings: dict[str, Any]
    value: float
    metric: str
    trials: list[dict[str, Any]] = field(repr=False)
    recipe: Path | None = None


def study(
    train: Callable[[dict[str, Any], Callable[[Mapping[str, float]], None]], None],
    space: Space,
    facts: Mapping[str, Any],
    *,
    trials: int = 30,
    storage: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    metric: str = "ndcg@10",
    direction: Direction = "maximize",
    seed: int = 0,
    quiet: bool = False,
) -> Tuned:
    """Search settings by validation; tree-structured Parzen estimators, with a median rule that ends poor trials.

    Parameters
    ----------
    train : callable
        ``train(settings, report)`` trains with settings and calls ``report(metrics)`` at every validation.
    space : mapping
        What is searched.
    facts : mapping
        JSON-able: model, data and fixed settings. A study goes on only with the same, and the recipe records them.
    trials : int, default 30
        Trials in all, earlier parts of the study included.
    storage : path, optional
        File that keeps the study, so that it can go on; several processes may share it.
    out : path, optional
        Recipe file to write.
    max_seconds : float, optional
        Seconds after which no new trial begins.
    metric : str, default "ndcg@10"
        Of validation; the best value of a trial counts.
    direction : {"maximize", "minimize"}, default "maximize"
    seed : int, default 0
    quiet : bool, default False

    Raises
    ------
    ImportError
        If Optuna is not installed, naming the extra.
    ValueError
        If there is nothing to search, the storage keeps a study of something else, or every trial failed.
    """
    if not space:
        raise ValueError("there is nothing to search: give --search NAME=low:high, once a setting")
    about = {"facts": dict(facts), "metric": metric, "space": {name: asdict(part) for name, part in space.items()}}
    found = _opened(storage, direction, seed, json.loads(json.dumps(about)))
    if not quiet and found.trials:
        say(f"The study goes on: {len(_finished(found))} of {trials} trials are done", err=True)
    begun, better = time.monotonic(), max if direction == "maximize" else min

    def objective(trial: Any) -> float:
        from optuna import TrialPruned

        settings = {name: part.draw(trial, name) for name, part in space.items()}
        values: list[float] = []

        def report(metrics: Mapping[str, float]) -> None:
            if metric not in metrics:
                raise ValueError(f"validation has no metric {metric}; it has {', '.join(metrics)}")
            values.append(float(metrics[metric]))
            trial.report(values[-1], len(values))
            if trial.should_prune():
                raise TrialPruned

        train(settings, report)
        return better(values)

    def tell(_: Any, trial: Any) -> None:
        if quiet:
            return
        value = "failed" if trial.value is None else f"{metric} {trial.value:.4f}"
        left = "" if max_seconds is None else f", {max(0.0, max_seconds - (time.monotonic() - begun)):.0f} s left"
        drawn = ", ".join(f"{name} {_told(value)}" for name, value in trial.params.items())
        say(f"trial {trial.number + 1}/{trials}: {value} ({drawn}){left}", err=True)

    remaining = trials - len(_finished(found))
    if remaining > 0:
        # a width that its heads do not divide, or a loss that is not finite, is a bad trial and no end of the search
        found.optimize(objective, remaining, max_seconds, catch=(ValueError,), callbacks=[tell], gc_after_trial=True)
    return _outcome(found, facts, metric, direction, out)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _opened(storage: str | os.PathLike[str] | None, direction: Direction, seed: int, about: dict[str, Any]) -> Any:
    """The study of this storage; a new one where it has none."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ImportError(_EXTRA) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place: Any = None
    if storage is not None:
        path = Path(storage)
        if path.is_dir():
            raise ValueError(f"--storage {path} is a folder; expected a file that keeps the study")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_bytes()[:1] not in (b"", b"{"):
            raise ValueError(f"--storage {path} keeps no study of ours: give another file")
        try:
            place = JournalStorage(JournalFileBackend(str(path)))
        except Exception as error:  # whatever a file that is no journal makes of it
            raise ValueError(f"--storage {path} keeps no study of ours: {short(str(error))}") from error
    try:
        opened = optuna.create_study(
            storage=place, study_name="semtok", direction=direction, load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        )  # fmt: skip
        before = opened.user_attrs.get("about")
    except Exception as error:
        raise ValueError(f"--storage {storage} keeps no study of ours: {short(str(error))}") from error
    if before is not None and before != about:
        names = {"facts": "data or settings", "metric": "metric", "space": "search"}
        changed = [names[key] for key in about if before.get(key) != about[key]]
        raise ValueError(f"--storage {storage} keeps a study with other {' and '.join(changed)}: give another file")
    opened.set_user_attr("about", about)
    # another part of a study must not draw what the first part drew
    opened.sampler = optuna.samplers.TPESampler(seed=(seed + 1_000_003 * len(opened.trials)) % 2**32)
    return opened


def _finished(found: Any) -> list[Any]:
    return [trial for trial in found.trials if trial.state.is_finished()]


def _outcome(
    found: Any, facts: Mapping[str, Any], metric: str, direction: str, out: str | os.PathLike[str] | None
) -> Tuned:
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    rows = [
        {
            "number": trial.number + 1,
            "state": names[trial.state.name],
            "value": trial.value,
            "settings": dict(trial.params),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else 0.0,
        }
        for trial in _finished(found)
    ]
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        states = ", ".join(sorted({row["state"] for row in rows})) or "none was made"
        raise ValueError(f"no trial of {len(rows)} came to its end ({states}): there is nothing to recommend")
    sign = -1 if direction == "maximize" else 1
    rows.sort(key=lambda row: (row["state"] != "complete", sign * (row["value"] or 0.0), row["number"]))
    best = rows[0]
    path = None if out is None else Path(out)
    if path is not None:
        about = {"validation": {metric: best["value"]}, "trials": len(rows), "searched": sorted(best["settings"])}
        settings = dict(facts.get("settings", {})) | best["settings"]
        save_recipe(path, str(facts["model"]), str(facts.get("recipe", "default")), settings, dict(facts) | about)
    return Tuned(dict(best["settings"]), float(best["value"]), metric, rows, path)


def tuned(
    owner: str,
    options: Sequence[Option],
    parts: Mapping[str, Iterable[str]],
    trial: Callable[[dict[str, dict[str, Any]], Path, Callable[[Mapping[str, float]], None]], Any],
    data: str,
    space: Space | None,
    settings: Mapping[str, Any],
    usual: Mapping[str, Any],
    recipe: str,
    **about: Any,
) -> Tuned:
    """Search the settings of a model of either family.

    Parameters
    ----------
    owner : str
        The model's class, which a recipe file names.
    options : sequence of Option
        What can be searched.
    parts : mapping
        Who takes which setting; see `recbase.recipes.parted`.
    trial : callable
        ``trial(settings by part, folder, report)`` trains once.
    data : str
        Name of what is trained on.
    space, settings
        See `study`; settings that all trials share.
    usual : mapping
        Settings of the recipe.
    recipe : str
        Its name.
    **about
        Further arguments of `study`.
    """
    space = usual_space(options) if space is None else space
    space = {name: part for name, part in space.items() if name not in settings}
    parted(f"tuning {owner}", dict(settings) | dict.fromkeys(space), parts)  # refuses what there is not

    def train(chosen: Mapping[str, Any], report: Callable[[Mapping[str, float]], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="trial-") as folder:
            trial(parted(f"tuning {owner}", dict(settings) | dict(chosen), parts), Path(folder) / "run", report)

    both = dict(usual) | dict(settings)
    facts = {"model": owner, "recipe": recipe, "data": data, "settings": dict(settings)}
    direction: Direction = "minimize" if both.get("minimize", False) else "maximize"
    return study(
        train,
        space,
        facts,
        metric=both.get("monitor", "ndcg@10"),
        direction=direction,
        seed=both.get("seed", 0),
        **about,
    )
