"""Command-line options read from source: constructor signatures, their defaults and the lines that document them.

A hyper-parameter is written down once, in the signature of the class or function that uses it. This file reads that
source with ``ast``, so that ``--help`` needs no torch, and turns it into click options; it also fixes the flags that
every command shares, what a failure looks like, and when a progress bar is shown. It knows no model and no command.

A command is put together like this::

    MODEL = options_from("seqrec.sasrec:SASRec")
    TRAIN = options_from("recbase.training:TrainConfig")

    @main.command()
    @add_options(shared("data", "out", "recipe", "json", "quiet"))
    @add_options(MODEL, section="Model")
    @add_options(TRAIN, section="Training")
    @failures
    def train(recipe, **given):
        overrides = recipe_of("seqrec.sasrec:SASRec", recipe)
        model = SASRec(**chosen(MODEL, overrides))     # what the user typed, else the recipe, else the default
        config = TrainConfig(**chosen(TRAIN, overrides))
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from recbase.interruption import Interrupted, farewell, interruptible
from recbase.processes import is_main_process, leave_at_once

__all__ = [
    "Command",
    "Group",
    "Option",
    "add_options",
    "attribute_of",
    "chosen",
    "given",
    "failures",
    "options_from",
    "print_json",
    "progress",
    "recipe_of",
    "recipes_from",
    "section_of",
    "shared",
    "summary_of",
    "union",
]


@dataclasses.dataclass(frozen=True)
class Option:
    """One command-line option.

    Parameters
    ----------
    name : str
        Keyword of the constructor or function; the flag is the same with dashes.
    kind : str
        ``int``, ``float``, ``bool``, ``str``, ``path``, ``choice``, ``ints``, ``floats``, ``strs``, or ``mixed`` (a
        number or a word).
    default : object
        Value when neither the user nor a recipe gives one.
    help : str
        One line, with the unit.
    choices : tuple, default ()
        The allowed values of a ``choice`` (or the words of a ``mixed``).
    optional : bool, default False
        Whether ``none`` can be given.
    scalar : bool, default False
        Whether a list of one number is handed over as the number.
    flag : str or None, default None
        Flag without the leading dashes, where it is not the name.
    shown : str or None, default None
        What the help shows as default, where it is not the value.
    """

    name: str
    kind: str
    default: Any
    help: str = ""
    choices: tuple[Any, ...] = ()
    optional: bool = False
    scalar: bool = False
    flag: str | None = None
    shown: str | None = None

    @property
    def spelled(self) -> str:
        """The flag as the user types it, such as ``--batch-size``."""
        return "--" + (self.flag or self.name.replace("_", "-"))


# --------------------------------------------------------------------------------------- reading source


@functools.cache
def _names(module: str) -> dict[str, ast.AST]:
    """Top-level names of a module's source: classes, functions, assigned expressions and ``from`` imports."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ImportError(f"module {module!r} does not exist")
    found: dict[str, ast.AST] = {}
    pending = list(ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node.value for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            found.update({alias.asname or alias.name: node for alias in node.names})
        elif isinstance(node, ast.If):
            pending.extend(node.body)
    return found


def _resolve(module: str, name: str) -> tuple[str, ast.AST] | None:
    """Where a name is defined: (module, node), following imports inside the toolkit only (never a third package)."""
    node = _names(module).get(name)
    if not isinstance(node, ast.ImportFrom):
        return None if node is None else (module, node)
    package = module.split(".")[: -node.level] if node.level else []
    source = ".".join([*package, node.module] if node.module else package)
    if source.partition(".")[0] not in {module.partition(".")[0], __name__.partition(".")[0]}:
        return None
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    return _resolve(source, original)


def _definition(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef]:
    module, _, name = target.partition(":")
    where = _resolve(module, name)
    if where is None or not isinstance(where[1], ast.ClassDef | ast.FunctionDef):
        raise ValueError(f"{target!r} names no class or function; expected 'module:name'")
    return where[0], where[1]


_NOT_LITERAL = object()


def _literal(node: ast.AST, module: str) -> Any:
    """Value of a literal, of a module constant that is one, or of arithmetic on such; else ``_NOT_LITERAL``."""
    if isinstance(node, ast.Name):
        where = _resolve(module, node.id)
        return _NOT_LITERAL if where is None else _literal(where[1], where[0])
    if isinstance(node, ast.Dict):
        pairs: dict[Any, Any] = {}
        for key, part in zip(node.keys, node.values, strict=True):
            value = _literal(part, module)
            if value is _NOT_LITERAL or (key is None and not isinstance(value, dict)):
                return _NOT_LITERAL
            pairs |= value if key is None else {_literal(key, module): value}
        return pairs
    if isinstance(node, ast.BinOp):
        left, right = _literal(node.left, module), _literal(node.right, module)
        operators: dict[type, Callable[[Any, Any], Any]] = {
            ast.Add: lambda a, b: a + b,
            ast.Sub: lambda a, b: a - b,
            ast.Mult: lambda a, b: a * b,
            ast.Div: lambda a, b: a / b,
            ast.Pow: lambda a, b: a**b,
            ast.BitOr: lambda a, b: a | b,
        }
        if _NOT_LITERAL in (left, right) or type(node.op) not in operators:
            return _NOT_LITERAL
        return operators[type(node.op)](left, right)
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return _NOT_LITERAL


@dataclasses.dataclass(frozen=True)
class _Kind:
    kind: str
    choices: tuple[Any, ...] = ()
    optional: bool = False
    scalar: bool = False


_SIMPLE = {"int": "int", "float": "float", "bool": "bool", "str": "str", "Path": "path"}
_LISTS = {"tuple", "list", "Sequence", "Tuple", "List", "Iterable"}


def _kind(node: ast.AST | None, module: str) -> _Kind | None:
    """What a command line has to parse for an annotation; None where it cannot spell the type (a tensor, a module)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _kind(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.Constant) and node.value is None:
        return _Kind("none", optional=True)
    if isinstance(node, ast.Name):
        if node.id in _SIMPLE:
            return _Kind(_SIMPLE[node.id])
        where = _resolve(module, node.id)
        return None if where is None or isinstance(where[1], ast.ClassDef) else _kind(where[1], where[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either(_kind(node.left, module), _kind(node.right, module))
    if isinstance(node, ast.Subscript):
        outer = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return _Kind("choice", tuple(ast.literal_eval(part) for part in parts))
        if outer == "Optional":
            return _either(_kind(parts[0], module), _Kind("none", optional=True))
        if outer == "Union":
            return functools.reduce(_either, [_kind(part, module) for part in parts])
        if outer in _LISTS:
            inner = _kind(parts[0], module)
            return _Kind(inner.kind + "s") if inner is not None and inner.kind in {"int", "float", "str"} else None
    return None


def _either(left: _Kind | None, right: _Kind | None) -> _Kind | None:
    """Kind of ``left | right``."""
    if left is None or right is None:
        return None
    optional = left.optional or right.optional
    kinds = {left.kind, right.kind} - {"none"}
    choices = left.choices + right.choices
    scalar = left.scalar or right.scalar
    if len(kinds) == 1:
        return _Kind(kinds.pop(), choices, optional, scalar)
    if kinds == {"int", "float"}:
        return _Kind("float", (), optional)
    if kinds == {"str", "path"}:
        return _Kind("path", (), optional)
    if kinds in ({"int", "ints"}, {"float", "floats"}, {"str", "strs"}):
        return _Kind(next(kind for kind in kinds if kind.endswith("s")), (), optional, True)
    if kinds <= {"int", "float", "str", "choice", "mixed"}:
        return _Kind("mixed", () if "str" in kinds else choices, optional)
    return None


def _kind_of_value(value: Any) -> _Kind | None:
    """Kind of an option without annotation, by its default."""
    if isinstance(value, tuple | list) and value:
        inner = type(value[0]).__name__
        return _Kind(inner + "s") if inner in {"int", "float", "str"} else None
    return _Kind(type(value).__name__) if type(value).__name__ in {"int", "float", "bool", "str"} else None


def _documented(docstring: str | None) -> dict[str, tuple[str, str]]:
    """Name to type and one-line help, from the numpydoc ``Parameters`` (or ``Attributes``) section of a docstring."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    found: dict[str, list[str]] = {}
    types: dict[str, str] = {}
    inside = False
    names: list[str] = []
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        if following and set(following) == {"-"} and line and not line.startswith(" "):
            inside = line.strip() in {"Parameters", "Attributes"}
            names = []
        elif inside and line and not line.startswith(" ") and set(line) != {"-"}:
            names = [name.strip().lstrip("*") for name in line.partition(" : ")[0].split(",")]
            found.update({name: [] for name in names})
            types.update({name: line.partition(" : ")[2] for name in names})
        elif inside:
            for name in names:
                found[name].append(line.strip())
    return {name: (types[name], _one_line("\n".join(text))) for name, text in found.items()}


def _one_line(text: str) -> str:
    """First paragraph, or only its first sentence where the paragraph is long; without reST marks."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    paragraph = re.sub(r":\w+:`~?([^`]+)`", r"\1", paragraph).replace("`", "")
    if len(paragraph) > 130:
        paragraph = re.split(r"(?<=[.!?])\s+(?=[A-Z(])", paragraph, maxsplit=1)[0]
    return paragraph


def options_from(target: str, skip: Iterable[str] = ()) -> list[Option]:
    """Options of a class (its ``__init__`` or its dataclass fields) or of a function, read from the source alone.

    Parameters without a default, and those whose type a command line cannot spell (a tensor, a module), are finished
    parts that the command makes itself: they are left out. Types understood: int, float, bool, str, Path, Literal,
    ``X | None``, tuples and lists of these, and names of the same module that stand for them; a str whose documented
    type is ``{"a", "b"}`` takes these words alone. A class without an
    ``__init__`` of its own takes that of its first base inside the toolkit; a dataclass adds to the fields of its base.

    Parameters
    ----------
    target : str
        ``"module:Class"`` or ``"module:function"``.
    skip : iterable of str, default ()
        Parameters that the command handles itself.

    Returns
    -------
    list of Option
        In the order of the signature.

    Raises
    ------
    ImportError
        If the module does not exist.
    ValueError
        If it has no such class or function, or a default is not a literal.
    """
    module, node = _definition(target)
    left_out = set(skip)
    return [option for option in _read(module, node) if option.name not in left_out]


def _read(module: str, node: ast.ClassDef | ast.FunctionDef) -> list[Option]:
    if isinstance(node, ast.FunctionDef):
        return _from_signature(module, node, _documented(ast.get_docstring(node)))
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    documented = _documented(ast.get_docstring(node))
    if init is not None:
        return _from_signature(module, init, _documented(ast.get_docstring(init)) | documented)
    inherited: list[Option] = []
    for base in node.bases:
        where = _resolve(module, base.id) if isinstance(base, ast.Name) else None
        if where is not None and isinstance(where[1], ast.ClassDef):
            inherited = _read(where[0], where[1])
            break
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        own = _from_fields(module, node, documented)
        names = {option.name for option in own}
        return [option for option in inherited if option.name not in names] + own
    return [
        dataclasses.replace(option, help=documented.get(option.name, ("", ""))[1] or option.help)
        for option in inherited
    ]


def _from_signature(module: str, node: ast.FunctionDef, documented: Mapping[str, tuple[str, str]]) -> list[Option]:
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    defaults += node.args.defaults
    pairs = [*zip(positional, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    found = [
        _option(module, node.name, argument.arg, argument.annotation, default, documented.get(argument.arg))
        for argument, default in pairs
        if default is not None
    ]
    return [option for option in found if option is not None]


def _from_fields(module: str, node: ast.ClassDef, documented: Mapping[str, tuple[str, str]]) -> list[Option]:
    found: list[Option | None] = []
    for field, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or field.value is None:
            continue
        default: ast.expr | None = field.value
        if isinstance(default, ast.Call) and getattr(default.func, "id", getattr(default.func, "attr", "")) == "field":
            default = next((word.value for word in default.keywords if word.arg == "default"), None)
        if default is None:
            continue
        said = documented.get(field.target.id)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            said = ("", _one_line(str(following.value.value)))
        found.append(_option(module, node.name, field.target.id, field.annotation, default, said))
    return [option for option in found if option is not None]


def _option(
    module: str, owner: str, name: str, annotation: ast.AST | None, default: ast.AST, said: tuple[str, str] | None
) -> Option | None:
    value = _literal(default, module)
    kind = _kind(annotation, module) if annotation is not None else _kind_of_value(value)
    if kind is None or kind.kind == "none":
        return None
    if value is _NOT_LITERAL:
        raise ValueError(f"default of {name} in {module}:{owner} is {ast.unparse(default)!r}; expected a literal")
    if isinstance(value, list):
        value = tuple(value)
    type_, text = said or ("", "")
    if kind.kind == "str" and type_.startswith("{"):
        kind = dataclasses.replace(
            kind, kind="choice", choices=tuple(re.findall(r"[\"']([^\"']+)[\"']", type_.partition("}")[0]))
        )
    return Option(name, kind.kind, value, text, kind.choices, kind.optional or value is None, kind.scalar)


def summary_of(target: str) -> str:
    """First sentence of the docstring of a class or function, read from source.

    Parameters
    ----------
    target : str
        ``"module:Class"``.
    """
    _, node = _definition(target)
    return _one_line((ast.get_docstring(node) or "").partition("\n\n")[0])


def section_of(target: str, heading: str) -> str:
    """First sentence (or short paragraph) of a section of a class's docstring, such as ``"Notes"``; "" without one.

    Parameters
    ----------
    target : str
        ``"module:Class"``.
    heading : str
        Title of the numpydoc section.
    """
    _, node = _definition(target)
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    found = re.search(rf"^{re.escape(heading)}\n-+\n(.*?)(?=\n[^\n]+\n-{{3,}}\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else _one_line(found.group(1))


def attribute_of(target: str, name: str, default: Any = None) -> Any:
    """Literal value of a class attribute, read from the source of the class or of its bases inside the toolkit.

    Parameters
    ----------
    target : str
        ``"module:Class"``.
    name : str
        The attribute, assigned in the body of the class.
    default : object, default None
        Value where no class assigns it, or not a literal.
    """
    module, node = _definition(target)
    for part in node.body:
        if not isinstance(part, ast.Assign | ast.AnnAssign) or part.value is None:
            continue
        named = part.targets if isinstance(part, ast.Assign) else [part.target]
        if any(isinstance(each, ast.Name) and each.id == name for each in named):
            value = _literal(part.value, module)
            return default if value is _NOT_LITERAL else value
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        where = _resolve(module, base.id) if isinstance(base, ast.Name) else None
        if where is not None and isinstance(where[1], ast.ClassDef):
            value = attribute_of(f"{where[0]}:{where[1].name}", name, _NOT_LITERAL)
            if value is not _NOT_LITERAL:
                return value
    return default


# --------------------------------------------------------------------------------------- recipes


def recipes_from(target: str) -> dict[str, dict[str, Any]]:
    """The literal dict ``RECIPES`` of the module that defines a class: recipe name to overridden defaults.

    Parameters
    ----------
    target : str
        ``"module:Class"``.

    Returns
    -------
    dict
        ``{}`` where the module has none. The names may be options of the class and of the training configuration.

    Raises
    ------
    ValueError
        If ``RECIPES`` is not a literal dict of dicts.
    """
    module, _ = _definition(target)
    where = _resolve(module, "RECIPES")
    if where is None:
        return {}
    recipes = _literal(where[1], where[0])
    if not isinstance(recipes, dict) or not all(isinstance(values, dict) for values in recipes.values()):
        raise ValueError(f"RECIPES in {module} must be a literal dict of dicts, so that it can be read without imports")
    return recipes


def recipe_of(target: str, name: str) -> dict[str, Any]:
    """Overrides of one recipe of a class.

    Parameters
    ----------
    target : str
        ``"module:Class"``.
    name : str
        ``default``, ``paper`` or another key of the module's ``RECIPES``; ``default`` need not be listed there.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    recipes = recipes_from(target)
    if name not in recipes and name != "default":
        known = ", ".join(sorted({"default", *recipes}))
        raise ValueError(f"recipe {name!r} is unknown for {target.rpartition(':')[2]}; known: {known}")
    return recipes.get(name, {})


def given(context: click.Context | None = None) -> set[str]:
    """Names of the parameters that the user typed (or set in the environment) for the running command."""
    context = context or click.get_current_context()
    defaults = {None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    return {name for name in context.params if context.get_parameter_source(name) not in defaults}


def chosen(
    options: Iterable[Option], recipe: Mapping[str, Any] | None = None, context: click.Context | None = None
) -> dict[str, Any]:
    """Keyword arguments for a constructor: what the user typed, else what the recipe says, else the default.

    Parameters
    ----------
    options : iterable of Option
        As `options_from` returned them for that constructor; the defaults are taken from here, not from the command,
        whose flag may be shared between several constructors.
    recipe : mapping or None, default None
        As `recipe_of` returned it; names that are no option of this constructor are ignored.
    context : click.Context or None, default None
        The running command.
    """
    context = context or click.get_current_context()
    typed = given(context)
    recipe = recipe or {}
    return {
        option.name: context.params[option.name] if option.name in typed else recipe.get(option.name, option.default)
        for option in options
    }


def union(options: Mapping[str, Sequence[Option]]) -> list[Option]:
    """One list of options for a command that serves several classes (``--method``), each flag once.

    Where the classes differ in a default, the help shows each; a flag that only some have names them.

    Parameters
    ----------
    options : mapping of str to list of Option
        Name on the command line to the options of its class.

    Raises
    ------
    ValueError
        If two classes give one name to options of different kinds.
    """
    grouped: dict[str, dict[str, Option]] = {}
    for owner, listed in options.items():
        for option in listed:
            grouped.setdefault(option.name, {})[owner] = option
    return [_united(name, owners, len(owners) == len(options)) for name, owners in grouped.items()]


def _united(name: str, owners: dict[str, Option], everywhere: bool) -> Option:
    first = next(iter(owners.values()))
    kind = _Kind(first.kind, first.choices, first.optional, first.scalar)
    for option in owners.values():
        both = _either(kind, _Kind(option.kind, option.choices, option.optional, option.scalar))
        if both is None:
            raise ValueError(f"option {name} is {kind.kind} in one of {', '.join(owners)} and {option.kind} in another")
        kind = both
    shown: dict[str, list[str]] = {}
    for owner, option in owners.items():
        shown.setdefault(option.shown or _shown(option.default), []).append(owner)
    text = first.help if everywhere else f"{first.help} [{', '.join(owners)}]"
    default = None if len(shown) == 1 else "; ".join(f"{value} ({', '.join(names)})" for value, names in shown.items())
    choices = tuple(dict.fromkeys(kind.choices))
    return dataclasses.replace(
        first, kind=kind.kind, help=text, choices=choices, optional=kind.optional, scalar=kind.scalar, shown=default
    )


# --------------------------------------------------------------------------------------- click


class _Word(click.ParamType):
    """Parser of one option's value: a number, a word of a choice, a comma-separated list, or ``none``."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = option.kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What stands behind the flag in the help."""
        option = self.option
        words = [str(choice) for choice in option.choices]
        if option.kind == "mixed":
            words = ["NUMBER", *(words or ["WORD"])]
        elif option.kind in {"ints", "floats", "strs"}:
            one = {"ints": "INT", "floats": "FLOAT", "strs": "NAME"}[option.kind]
            words = [f"{one},{one},..."]
        elif not words:
            words = [{"str": "TEXT"}.get(option.kind, option.kind.upper())]
        if option.optional and option.default is not None:
            words.append("none")
        return words[0] if len(words) == 1 else "[" + "|".join(words) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Turn the typed text into the value; a default passes unchanged."""
        option = self.option
        if not isinstance(value, str):
            return value
        text = value.strip()
        if option.optional and text.lower() == "none":
            return _NONE
        try:
            if option.kind in {"int", "float"}:
                return _number(text, option.kind)
            if option.kind in {"ints", "floats"}:
                numbers = tuple(_number(part, option.kind[:-1]) for part in text.split(",") if part.strip())
                return numbers[0] if option.scalar and len(numbers) == 1 else numbers
        except ValueError:
            few = "comma-separated numbers" if option.kind.endswith("s") else "a number"
            whole = " (whole)" if option.kind.startswith("int") else ""
            self.fail(f"{value!r} is not {few}{whole}.", param, ctx)
        if option.kind == "strs":
            names = tuple(part.strip() for part in text.split(",") if part.strip())
            return names[0] if option.scalar and len(names) == 1 else names
        if option.kind == "mixed":
            try:
                return int(text)
            except ValueError:
                try:
                    return float(text)
                except ValueError:
                    pass
        if option.choices:
            for choice in option.choices:
                if text == str(choice):
                    return choice
            self.fail(f"{value!r} is not one of {', '.join(map(str, option.choices))}.", param, ctx)
        return Path(text) if option.kind == "path" else text


class _None:
    """Stands for a typed ``none`` while click would take None for "not given"."""


_NONE = _None()


def _number(text: str, kind: str) -> int | float:
    text = text.strip().replace("_", "")
    if kind == "float":
        return float(text)
    try:
        return int(text)
    except ValueError:
        number = float(text)  # 1e6 is how people write a million
        if number != int(number):
            raise ValueError(text) from None
        return int(number)


def _shown(default: Any) -> str:
    if isinstance(default, tuple | list):
        return ",".join(map(str, default)) or "empty"
    return "none" if default is None else str(default)


class _SectionedOption(click.Option):
    """A click option that knows under which heading of the help it stands."""

    def __init__(self, declarations: list[str], section: str | None = None, **settings: Any) -> None:
        shown = settings.pop("shown", None)
        super().__init__(declarations, **settings)
        self.section = section
        self.shown = shown

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Show the default as a person would write it."""
        extra = super().get_help_extra(ctx)
        if self.shown is not None:
            extra["default"] = self.shown
        return extra

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Put None where ``none`` was typed."""
        value = super().process_value(ctx, value)
        return None if value is _NONE else value


class Command(click.Command):
    """A click command whose help lists its options under headings, in the order they were added."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", None) or "Options", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=32)


class Group(click.Group):
    """A click group whose commands are `Command`."""

    command_class = Command


def add_options(options: Iterable[Option], section: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that gives a click command these options; a name that the command already has is left as it is.

    The help lists the decorators from top to bottom; where two give one name, that nearer to the function wins.

    Parameters
    ----------
    options : iterable of Option
        From `options_from`, `shared` or `union`.
    section : str or None, default None
        Heading in the help.
    """
    listed = list(options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = getattr(function, "__click_params__", [])
        present = {parameter.name for parameter in parameters}
        fresh = [_click_option(option, section) for option in listed if option.name not in present]
        # click keeps the list in reverse order of the help
        function.__click_params__ = [*parameters, *reversed(fresh)]  # type: ignore[attr-defined]
        return function

    return decorate


def _click_option(option: Option, section: str | None) -> click.Option:
    settings: dict[str, Any] = {"help": option.help, "default": option.default, "section": section}
    if option.kind == "bool":
        plain = option.default is False and option.flag is not None
        flag = option.spelled if plain else f"{option.spelled}/--no-{option.spelled[2:]}"
        shown = None if plain else option.shown or {True: "on", False: "off", None: "automatic"}[option.default]
        return _SectionedOption([flag, option.name], shown=shown, is_flag=True, **settings)
    settings["shown"] = option.shown or (None if option.default is None else _shown(option.default))
    return _SectionedOption([option.spelled, option.name], type=_Word(option), **settings)


SHARED: dict[str, Option] = {
    option.name: option
    for option in [
        Option("data", "str", "journey", "Data set: a folder, or a name (journey, synthetic, a named public set)."),
        Option("out", "path", None, "Folder to write.", optional=True),
        Option("embeddings", "path", None, "Folder of item embeddings; made and reused if not given.", optional=True),
        Option("encoder", "str", "tfidf", "Item encoder: tfidf, minilm, or a Hugging Face model (name or folder)."),
        Option("views", "strs", None, "Columns to encode, as a,b; those of the data set if not given.", optional=True),
        Option("codes", "path", None, "Folder of a fitted tokenizer; made and reused if not given.", optional=True),
        Option("unique", "str", "none", "How shared codes are made unique (none keeps them)."),
        Option("loss", "str", None, "Training loss; the model's own if not given.", optional=True),
        Option("epochs", "int", None, "Passes over the users of the last stage.", optional=True),
        Option("max_seconds", "float", None, "Stop training after so many seconds, keep the best.", optional=True),
        Option("recipe", "str", "default", "Settings: default (for this machine) or paper (as published)."),
        Option("monitor", "str", "ndcg@10", "Validation metric that chooses the best epoch."),
        Option("batch_size", "int", None, "Samples a training step.", optional=True),
        Option("lr", "float", None, "Learning rate.", optional=True),
        Option("seed", "int", 0, "Seed of everything random."),
        Option("resume", "bool", False, "Go on from the last checkpoint in --out.", flag="resume"),
        Option("as_json", "bool", False, "Print one JSON object on stdout and nothing else.", flag="json"),
        Option("quiet", "bool", False, "No progress bars, no tables: only warnings and errors.", flag="quiet"),
        Option("debug", "bool", False, "Show the traceback of a failure.", flag="debug"),
    ]
}
"""The flags that every command shares, each with one name and one meaning (``--json`` arrives as ``as_json``)."""


def shared(*names: str, **defaults: Any) -> list[Option]:
    """Options that every command spells alike, by name.

    Parameters
    ----------
    *names : str
        Keys of `SHARED`, such as ``"data"``, ``"out"``, ``"as_json"``, ``"quiet"``.
    **defaults : object
        This command's own default for some of them.

    Raises
    ------
    ValueError
        If a name is no shared option.
    """
    unknown = [name for name in [*names, *defaults] if name not in SHARED]
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is not shared; known: {', '.join(SHARED)}")
    return [
        dataclasses.replace(SHARED[name], default=defaults[name]) if name in defaults else SHARED[name]
        for name in names
    ]


def failures(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command: a failure is one sentence on stderr and exit code 1; ``--debug`` shows the traceback.

    It adds ``--debug`` and takes it away again before the function is called. Wrong usage (exit code 2) stays click's.
    Warnings are one line each on stderr. Ctrl-C and SIGTERM end it with one sentence (what is kept, and the command
    that goes on) and exit code 130 or 143.
    """

    @functools.wraps(function)
    def guarded(*positional: Any, debug: bool = False, **keywords: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                with interruptible() as caught:
                    return function(*positional, **keywords)
            except KeyboardInterrupt as stop:
                _leave(stop)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except Exception as error:
                if caught:  # a library turned the signal into an error of its own
                    _leave(Interrupted(caught[0]))
                if debug:
                    raise
                click.echo(_sentence(error), err=True)
                raise click.exceptions.Exit(1) from error

    return add_options(shared("debug"))(guarded)


def _leave(stop: KeyboardInterrupt) -> NoReturn:
    """End a command that a signal stopped: one sentence, and the exit code that a shell gives such a program."""
    if is_main_process():
        click.echo(farewell(stop), err=True)
    code = stop.exit_code if isinstance(stop, Interrupted) else Interrupted().exit_code
    leave_at_once(code)
    raise click.exceptions.Exit(code) from stop


def _sentence(error: Exception) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if not isinstance(error, ValueError | OSError | ImportError | RuntimeError) or not text:
        text = f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"
    return f"Error: {text}"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; numbers that JSON lacks (NaN, infinity) become null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@contextmanager
def progress(description: str, total: int | None, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr with speed and time left; nothing when quiet or when stderr is not a terminal.

    Parameters
    ----------
    description : str
        What is being done, such as ``"encode title"``.
    total : int or None
        Number of steps, None if unknown.
    quiet : bool, default False
        Show nothing.

    Yields
    ------
    callable
        ``advance(steps=1, text=None)``; the text, such as the loss, stands beside the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda steps=1, text=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, text="", rate="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            speed = bar.tasks[0].speed
            fields: dict[str, Any] = {"rate": f"{speed:,.0f}/s" if speed else ""}
            if text is not None:
                fields["text"] = text
            bar.update(task, advance=steps, **fields)

        yield advance
