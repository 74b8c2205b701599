"""Recipes as Python callers use them: what a recipe says is applied wherever the caller did not say otherwise.

Commands follow the same rule (`recbase.cli.options.chosen`): what was typed, else what the recipe says, else the
default.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from recbase.arguments import spelled

__all__ = ["Given", "described", "filled", "parted", "spelled"]

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
    return {"recipe": name} | ({"changed": changed} if changed else {})


def _plain(value: Any) -> Any:
    """Sequences compare by their values: recipes are written with tuples, manifests hold lists."""
    return list(value) if isinstance(value, tuple) else value
