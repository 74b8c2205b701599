"""Recipes as Python callers use them: what a recipe says is applied wherever the caller did not say otherwise.

Commands follow the same rule (`recbase.cli.options.chosen`): what was typed, else what the recipe says, else the
default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from recbase.arguments import spelled
from recbase.store.manifests import OBJECT, TEXT, check, read_json, record

__all__ = [
    "Given",
    "check_names",
    "described",
    "filled",
    "is_recipe_file",
    "load_recipe",
    "parted",
    "save_recipe",
    "spelled",
]

_FILE = record({"kind": TEXT, "model": TEXT, "recipe": TEXT, "settings": OBJECT})
_KIND = "recipe"

Settings = TypeVar("Settings", bound="Given")


class Given:
    """A dataclass of settings that remembers which of them it was given, as a recipe fills in the others."""

    _given: frozenset[str]

    def __new__(cls, *positional: Any, **keywords: Any) -> Any:
        """Note the names before the dataclass's own ``__init__`` gives every field a value."""
        made = super().__new__(cls)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        object.__setattr__(made, "_given", frozenset([*names[: len(positional)], *keywords]))
        return made


def filled(settings: Settings, recipe: Mapping[str, Any]) -> Settings:
    """Return the settings with a recipe's values for those that were not given."""
    names = {field.name for field in fields(settings)} - settings._given  # type: ignore[arg-type]
    return replace(settings, **{name: recipe[name] for name in recipe if name in names})  # type: ignore[type-var]


def parted(what: str, settings: Mapping[str, Any], parts: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """Deal settings given by name out to the parts that take them; one that several take goes to each.

    Parameters
    ----------
    what : str
        What is set, for the sentence of an error, such as ``"training sasrec"``.
    settings : mapping
    parts : mapping
        Name of each part to the names that it takes.

    Raises
    ------
    TypeError
        If a setting is taken by none; those that are spelled alike are named.
    """
    accepted = {part: set(names) for part, names in parts.items()}
    everything = set().union(*accepted.values())
    for name in settings:
        if name not in everything:
            near = difflib.get_close_matches(name, sorted(everything), 3) or sorted(everything)
            raise TypeError(f"{what} has no setting {name!r}; did you mean {' or '.join(near)}?")
    return {part: {name: settings[name] for name in settings if name in names} for part, names in accepted.items()}


def described(name: str | None, recipe: Mapping[str, Any], *parts: Any) -> dict[str, Any]:
    """Return what a manifest says of a training's recipe: its name and, under ``changed``, what is otherwise in fact.

    Parameters
    ----------
    name : str or None
    recipe : mapping
        What it says.
    *parts : mapping or dataclass
        The settings that were used.
    """
    used: dict[str, Any] = {}
    for part in parts:
        used |= part if isinstance(part, Mapping) else asdict(part)
    changed = {key: used[key] for key in recipe if key in used and _plain(used[key]) != _plain(recipe[key])}
    shown = Path(name).name if name is not None and is_recipe_file(name) else name
    return {"recipe": shown} | ({"changed": changed} if changed else {})


def check_names(recipe: str | None, settings: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a recipe file that sets what the model and its training do not have.

    Raises
    ------
    ValueError
        Naming the setting and those that are spelled alike.
    """
    if recipe is None or not is_recipe_file(recipe):
        return
    names = set(known)
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 3)
            raise ValueError(f"recipe {recipe} sets {name!r:.60}, which is no setting{_meant(near)}")


def _meant(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def is_recipe_file(name: str) -> bool:
    """True of a recipe's name that is the path of a recipe file."""
    return name.endswith(".json")


def load_recipe(path: str | os.PathLike[str], model: str) -> tuple[str, dict[str, Any]]:
    """Read a recipe file: the recipe of the model that it starts from, and the settings that it changes.

    Parameters
    ----------
    path : path
    model : str
        Class that it is read for, such as ``"SASRec"``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no recipe, or one of another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"recipe {path} does not exist")
    body = read_json(Path(path))
    check(path, body, _FILE)
    if body["kind"] != _KIND:
        raise ValueError(f"{path} is of the kind {body['kind']!r:.40}, expected a {_KIND}")
    if body["model"] != model:
        raise ValueError(f"{path} is a recipe of {body['model']!r:.40}, expected one of {model!r}")
    return body["recipe"], body["settings"]


def save_recipe(
    path: str | os.PathLike[str], model: str, recipe: str, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write a recipe file, which ``--recipe PATH`` and ``recipe=PATH`` take.

    Parameters
    ----------
    path : path
        Ends in ``.json``.
    model : str
        Class, such as ``"SASRec"``.
    recipe : str
        The model's recipe that it starts from.
    settings : mapping
        What it changes, JSON-able.
    about : mapping
        Further JSON-able entries: how it was found.

    Raises
    ------
    ValueError
        If the path does not end in ``.json``, or is a file that is no recipe.
    OSError
        If it cannot be written.
    """
    import json

    from recbase.store.files import write_file

    if not is_recipe_file(os.fspath(path)):
        raise ValueError(f"recipe {path} must end in .json")
    if Path(path).exists():
        check(path, read_json(Path(path)), _FILE)  # another file would be lost
    body = {"kind": _KIND, "model": model, "recipe": recipe, "settings": dict(settings), "found": dict(about)}
    write_file(Path(path), (json.dumps(body, indent=1) + "\n").encode())


def _plain(value: Any) -> Any:
    """Sequences compare by their values: recipes are written with tuples, manifests hold lists."""
    return list(value) if isinstance(value, tuple) else value
