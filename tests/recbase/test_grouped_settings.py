"""Constructors whose settings are grouped in dataclasses: callers, commands and saved folders know flat names alone."""

import dataclasses
import importlib
import typing

import pytest

from recbase.store.runs import resolve

GROUPED = {
    "ccfrec": ("seqrec", 2),
    "maerec": ("seqrec", 1),
    "tssr": ("seqrec", 2),
    "bbqrec": ("genrec", 3),
    "eager": ("genrec", 3),
}


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_settings_are_flat_keywords(name):
    """The keywords that a type checker knows are the fields of the groups; saved and checked under their flat names."""
    family, count = GROUPED[name]
    kind = resolve(name, importlib.import_module(family).MODELS)
    settings = {part.name: part.default for group in kind.setting_groups for part in dataclasses.fields(group)}
    hints = {part: hint for group in kind.setting_groups for part, hint in typing.get_type_hints(group).items()}
    (options,) = typing.get_args(typing.get_type_hints(kind.__init__)["options"])
    assert typing.get_type_hints(options) == hints
    assert len(kind.setting_groups) == count
    shapes = {
        "ccfrec": {"sizes": [3, 3], "views": 1, "text_dim": 4},
        "bbqrec": {"sizes": [3, 3, 3]},
        "eager": {"sizes": [3, 3, 3, 3]},
    }.get(name, {})
    shapes |= {"text_dim": 4} if name == "tssr" else {}
    model = kind(items=5, dim=8, **{"heads": 2} | shapes)
    assert settings.items() <= model.config().items()
    assert kind(**model.config()).config() == model.config()
    with pytest.raises(TypeError, match=rf"{kind.__name__}.__init__\(\) got an unexpected keyword argument 'widht'"):
        kind(items=5, widht=3, **shapes)
    number = next(part for part, value in settings.items() if isinstance(value, int | float) and value is not True)
    with pytest.raises(ValueError, match=f"--{number.replace('_', '-')} must"):
        kind(items=5, **shapes | {number: -1})
