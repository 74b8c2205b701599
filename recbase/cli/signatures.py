"""Hyper-parameters read from source: constructor signatures, their defaults and the lines that document them.

A hyper-parameter is written down once, in the signature of the class or function that uses it: its name, type, range
(`recbase.arguments`), default and a line of help. This file reads that source with ``ast``, so that ``--help`` needs
no torch. It knows no model and nothing of click.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import operator
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbase import arguments
from recbase.arguments import Range, Word
from recbase.recipes import is_recipe_file, load_recipe

__all__ = [
    "Option",
    "attribute_of",
    "options_from",
    "recipe_of",
    "recipes_from",
    "section_of",
    "shown_default",
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
    required : bool, default False
        Whether it must be given.
    multiple : bool, default False
        Whether it may be given several times.
    repeats : bool, default False
        Whether a list may name one thing twice (a history), and be of any length.
    short : str or None, default None
        A second, one-letter flag, such as ``-k``.
    rule : Range, Word or None, default None
        What the value (or each of a list) has to be; of a ``mixed`` the numbers.
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
    required: bool = False
    multiple: bool = False
    repeats: bool = False
    short: str | None = None
    rule: Range | Word | None = None

    @property
    def spelled(self) -> str:
        """The flag as the user types it, such as ``--batch-size``."""
        return "--" + (self.flag or self.name.replace("_", "-"))

    def refusal(self, value: Any) -> str | None:
        """Complaint of what the parsed ``value`` must be; None where it is. A list is as good as each of its parts."""
        if value is None or self.rule is None:
            return None
        parts = value if isinstance(value, tuple | list) else [value]
        if isinstance(self.rule, Range):
            parts = [part for part in parts if not isinstance(part, str)]
        return next(filter(None, (self.rule.refusal(part) for part in parts)), None)


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
    """Definition of a name as (module, node), following imports inside the toolkit only (never a third package)."""
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
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.BitOr: operator.or_,
}  # fmt: skip


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
        if _NOT_LITERAL in (left, right) or type(node.op) not in _ARITHMETIC:
            return _NOT_LITERAL
        return _ARITHMETIC[type(node.op)](left, right)
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
    rule: Range | Word | None = None


_SIMPLE = {"int": "int", "float": "float", "bool": "bool", "str": "str", "Path": "path"}
_LISTS = {"tuple", "list", "Sequence", "Tuple", "List", "Iterable"}


def _kind(node: ast.AST | None, module: str) -> _Kind | None:
    """Kind of value that a command line parses for an annotation; None where it cannot spell the type (a tensor)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _kind(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.Constant) and node.value is None:
        return _Kind("none", optional=True)
    if isinstance(node, ast.Name):
        if node.id in _SIMPLE:
            return _Kind(_SIMPLE[node.id])
        where = _resolve(module, node.id)
        if where is not None and where[0] == arguments.__name__:
            return _annotated(getattr(arguments, node.id))
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
            if inner is not None and inner.kind in {"int", "float", "str"}:
                return _Kind(inner.kind + "s", rule=inner.rule)
            if inner is not None and inner.kind == "choice":
                return _Kind("strs", inner.choices)
        if outer == "Annotated":
            inner, rule = _kind(parts[0], module), _range(parts[1], module)
            return inner if inner is None or rule is None else dataclasses.replace(inner, rule=rule)
    return None


def _annotated(hint: Any) -> _Kind:
    """Kind and rule of one of the types of `recbase.arguments`."""
    plain, rule = typing.get_args(hint)
    return _Kind(_SIMPLE[plain.__name__], rule=rule)


def _range(node: ast.AST, module: str) -> Range | None:
    """The range in ``Annotated[int, Range(1, 8)]``."""
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "Range":
        return None
    words = {word.arg: _literal(word.value, module) for word in node.keywords if word.arg}
    return Range(*[_literal(value, module) for value in node.args], **words)


def _either(left: _Kind | None, right: _Kind | None) -> _Kind | None:
    """Kind of ``left | right``."""
    if left is None or right is None:
        return None
    optional = left.optional or right.optional
    kinds = {left.kind, right.kind} - {"none"}
    choices = left.choices + right.choices
    scalar = left.scalar or right.scalar
    rule = _wider(left, right)
    if len(kinds) == 1:
        return _Kind(kinds.pop(), choices, optional, scalar, rule)
    if kinds == {"int", "float"}:
        return _Kind("float", (), optional, rule=rule)
    if kinds == {"str", "path"}:
        return _Kind("path", (), optional, rule=rule)
    if kinds in ({"int", "ints"}, {"float", "floats"}, {"str", "strs"}):
        return _Kind(next(kind for kind in kinds if kind.endswith("s")), (), optional, True, rule)
    if kinds <= {"int", "float", "str", "choice", "mixed"}:
        return _Kind("mixed", () if "str" in kinds else choices, optional, rule=rule)
    return None


def _wider(left: _Kind, right: _Kind) -> Range | Word | None:
    """The rule that holds wherever that of either side holds; words and ``none`` have no say about numbers."""
    one, other = left.rule, right.rule
    if right.kind in {"none", "choice"} or one == other:
        return one
    if left.kind in {"none", "choice"}:
        return other
    if not isinstance(one, Range) or not isinstance(other, Range):
        return None
    low = min((one.least, one.above), (other.least, other.above))
    high = max((one.most, not one.below), (other.most, not other.below))
    return Range(low[0], high[0], low[1], not high[1], one.zero or other.zero)


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
    type is ``{"a", "b"}`` takes these words alone. A class without an ``__init__`` of its own has the options of its
    bases inside the toolkit and, as a dataclass, its fields; one with ``setting_groups`` has the fields of those.

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
    left_out = set(skip)
    return [option for option in _read(*_definition(target)) if option.name not in left_out]


def _read(
    module: str, node: ast.ClassDef | ast.FunctionDef, said: Mapping[str, tuple[str, str]] | None = None
) -> list[Option]:
    """Options of a class or function; what a class that has it as base or group has ``said`` of them comes first."""
    if isinstance(node, ast.FunctionDef):
        return _from_signature(module, node, _documented(ast.get_docstring(node)))
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    documented = _documented(ast.get_docstring(node)) | dict(said or {})
    if init is not None:
        own = _from_signature(module, init, _documented(ast.get_docstring(init)) | documented)
        return own + [option for group in _groups(module, node) for option in _read(*group, documented)]
    found: dict[str, Option] = {}
    for base in reversed(node.bases):  # as Python orders the fields of dataclasses
        where = _resolve(module, base.id) if isinstance(base, ast.Name) else None
        if where is not None and isinstance(where[1], ast.ClassDef):
            found |= {option.name: option for option in _read(where[0], where[1], documented)}
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        found |= {option.name: option for option in _from_fields(module, node, documented)}
    return list(found.values())


def _groups(module: str, node: ast.ClassDef) -> list[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """The dataclasses that a class has in ``setting_groups``, whose fields its constructor takes as ``**options``."""
    assigned = [
        part for part in node.body if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "setting_groups"
    ]
    names = [name.id for part in assigned for name in ast.walk(part.value) if isinstance(name, ast.Name)]
    return [_definition(f"{module}:{name}") for name in names]


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
    optional = kind.optional or value is None
    return Option(name, kind.kind, value, text, kind.choices, optional, kind.scalar, rule=kind.rule)


def summary_of(target: str) -> str:
    """First sentence of the docstring of a class or function, read from source.

    Parameters
    ----------
    target : str
        ``"module:Class"``.
    """
    return _one_line((ast.get_docstring(_definition(target)[1]) or "").partition("\n\n")[0])


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
    """Overrides of one recipe of a class, ``"module:Class"``.

    Parameters
    ----------
    name : str
        ``default`` (which need not be listed), another key of the module's ``RECIPES``, or the path of a recipe file.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no such recipe, or the file is of another model.
    """
    recipes, owner = recipes_from(target), target.rpartition(":")[2]
    if is_recipe_file(name):
        base, settings = load_recipe(name, owner)
        return recipe_of(target, base) | settings
    if name not in recipes and name != "default":
        raise ValueError(f"recipe {name!r} is unknown for {owner}; known: {', '.join(sorted({'default', *recipes}))}")
    return recipes.get(name, {})


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
    kind = _kind_of(first)
    for option in owners.values():
        both = _either(kind, _kind_of(option))
        if both is None:
            raise ValueError(f"option {name} is {kind.kind} in one of {', '.join(owners)} and {option.kind} in another")
        kind = both
    shown: dict[str, list[str]] = {}
    for owner, option in owners.items():
        shown.setdefault(option.shown or shown_default(option.default), []).append(owner)
    text = first.help if everywhere else f"{first.help} [{', '.join(owners)}]"
    default = None if len(shown) == 1 else "; ".join(f"{value} ({', '.join(names)})" for value, names in shown.items())
    return dataclasses.replace(
        first,
        kind=kind.kind,
        help=text,
        choices=tuple(dict.fromkeys(kind.choices)),
        optional=kind.optional,
        scalar=kind.scalar,
        shown=default,
        rule=kind.rule,
    )


def _kind_of(option: Option) -> _Kind:
    return _Kind(option.kind, option.choices, option.optional, option.scalar, option.rule)


def shown_default(default: Any) -> str:
    """A default as a person would write it."""
    if isinstance(default, tuple | list):
        return ",".join(map(str, default)) or "empty"
    return "none" if default is None else str(default)
