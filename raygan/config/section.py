"""Base classes of a configuration: frozen, typed, validated values with a plain JSON form.

A `Section` is a fixed part of a configuration. A `Kind` is a part that comes in several variants, each a class with its
own fields: a noise, a network, a loss. Kinds are found by subclassing, so a class written in a search file is used like
those of this package.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import itertools
import operator
import re
import sys
import textwrap
import types
import typing
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from raygan.errors import InputError

PLACES = re.compile(r"(photos|evaluate_on|pairs)/(class|location)$|start_from$|loss/content/weights$")
"""Paths that say where something lies: it may have moved, and is told by its content."""
COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
"""How the bounds of a number are written in its type, such as `Annotated[int, (">=", 1), ("<=", 4)]`."""
Count = Annotated[int, (">=", 1)]
Natural = Annotated[int, (">=", 0)]
Seed = Annotated[int, (">=", 0), ("<", 2**32)]
NonNegative = Annotated[float, (">=", 0)]
Positive = Annotated[float, (">", 0)]
Fraction = Annotated[float, (">=", 0), ("<", 1)]
Share = Annotated[float, (">=", 0), ("<=", 1)]


class ConfigError(InputError, ValueError):
    """A value of a configuration is invalid, or a path does not exist."""


def require(rule: str, holds: bool, **values: object) -> None:
    """Raise `ConfigError` with the rule and the given values unless `holds`."""
    if not holds:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigError(f"{rule} must hold, but got {given}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every part of a configuration. Validates the types and bounds of its fields, then its own rules."""

    _field_types: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            value = getattr(self, name)
            if not _is_valid(value, kind):
                raise ConfigError(f"{name} must be {_type_name(kind)}, but got {value!r}")
            for comparison, bound in _bounds(kind) if value is not None else ():
                require(f"{name} {comparison} {bound}", COMPARISONS[comparison](value, bound), **{name: value})
        self._check()

    def _check(self) -> None:
        """Raise `ConfigError` if the values break a rule."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, ready for `json.dumps`."""
        return {name: _to_plain(getattr(self, name)) for name in field_types(type(self))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The value that `to_json` described; raises `ConfigError` for unknown, missing or invalid entries."""
        kinds = field_types(cls)
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} must be a JSON object, but got {values!r}")
        if unknown := set(values) - set(kinds):
            raise ConfigError(f"{cls.__name__} has no {sorted(unknown)}; it has {sorted(kinds)}")
        try:
            return cls(**{name: _from_plain(value, kinds[name]) for name, value in values.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Kind(Section):
    """Base of the parts that come in several variants, each a subclass with its own fields."""

    @property
    def key(self) -> str:
        """Name of this kind in paths, tables and messages."""
        return type(self).__name__

    def to_json(self) -> dict[str, Any]:
        """See `Section.to_json`; names the class as well."""
        return {"class": _class_name(type(self)), **super().to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """See `Section.from_json`. Imports the named class; raises `ConfigError` if that is not possible."""
        fields = {"class": _class_name(cls), **values}
        name = str(fields.pop("class"))
        module, _, attribute = name.rpartition(".")
        try:
            owner = sys.modules["__main__"] if module == _main_module() else importlib.import_module(module)
            kind = getattr(owner, attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"the configuration names the class {name}, which cannot be imported ({error}): run with the folder of "
                f"{module or 'its module'}.py on PYTHONPATH"
            ) from error
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            raise ConfigError(f"the configuration names {name}, which is not a {cls.__name__}")
        return super(Kind, kind).from_json(fields)

    @classmethod
    def parse(cls, text: str) -> Self | None:  # noqa: ARG003
        """The value that a text other than the name of a kind means, such as a path; None: nothing."""
        return None


AnySection = TypeVar("AnySection", bound=Section)


def own_kinds() -> tuple[type[Kind], ...]:
    """The kinds that were defined outside this package."""
    return tuple(kind for kind in _subclasses(Kind) if not kind.__module__.startswith("raygan."))


def flat_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration by its path, for example `{"loss/content_weight": 0.1, …}`.

    A kind is a leaf too, with its name as the value, and so is a tuple of kinds.
    """
    leaves: dict[str, Any] = {}
    for name, value in _parts(section).items():
        path = prefix + name
        if isinstance(value, tuple) and (kinds := _parts(value)):
            leaves[path] = tuple(kinds)
            for key, kind in kinds.items():
                leaves |= flat_values(kind, f"{path}/{key}/")
        elif not isinstance(value, Section):
            leaves[path] = value
        else:
            leaves |= {path: value.key} if isinstance(value, Kind) else {}
            leaves |= flat_values(value, f"{path}/")
    return leaves


def differing_values(one: object, other: object) -> list[str]:
    """The paths of the leaves in which two values in their JSON form differ, without `PLACES`."""
    return [path for path in _differing_leaves(one, other) if not PLACES.search(path)]


def differing_places(one: object, other: object) -> list[str]:
    """Of `PLACES`, those in which two values in their JSON form differ."""
    return [path for path in _differing_leaves(one, other) if PLACES.search(path)]


def _differing_leaves(one: object, other: object) -> list[str]:
    leaves = [_json_leaves(value) for value in (one, other)]
    paths = dict.fromkeys(path for found in leaves for path in found)
    return [path for path in paths if leaves[0].get(path) != leaves[1].get(path)]


def with_values(config: AnySection, values: Mapping[str, object]) -> AnySection:
    """A copy of `config` with the values at the given paths replaced, validated as a whole.

    The value of a kind is an instance or a name. By name, fields that the kind shares with the one it replaces keep
    their values. Raises `ConfigError` for an unknown path (listing the valid ones) and for a value that breaks a rule.
    """

    def replaced(owner: Any, values: Mapping[str, object], prefix: str) -> Any:
        parts, changes, below = _parts(owner), dict[str, Any](), defaultdict[str, dict[str, object]](dict)
        for path, value in values.items():
            name, _, rest = path.partition("/")
            if name not in parts or not (rest or isinstance(owner, Section)):
                raise _unknown_path(config, prefix + path)
            if rest:
                below[name][rest] = value
            else:
                changes[name] = _as_kinds(value, field_types(type(owner))[name], parts[name])
        for name, inner in below.items():
            changes[name] = replaced(changes.get(name, parts[name]), inner, f"{prefix}{name}/")
        if isinstance(owner, Section):
            return dataclasses.replace(owner, **changes)
        return tuple({**parts, **changes}.values())

    changed: AnySection = replaced(config, values, "")
    return changed


def parse_value(config: Section, path: str, text: str) -> Any:
    """The value that `text`, as typed on a command line, means at `path`.

    "none" is None, a list is separated by commas, and a kind is given by its name. Raises `ConfigError` for an unknown
    path or a text that is not of the path's type.
    """
    owner, leaf = _owner_at(config, path)
    kind = field_types(type(owner))[leaf]
    if type(None) in typing.get_args(kind) and text.lower() in ("none", "null"):
        return None
    value: Any = tuple(text.split(",")) if typing.get_origin(kind) is tuple else text
    if _is_valid(_as_kinds(value, kind, getattr(owner, leaf)), kind):
        return value
    # A ValueError also where an integer has thousands of digits.
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        # "True" as tables have it, or "true" as in JSON.
        literal = text.capitalize() if kind is bool else text
        value = tuple(map(ast.literal_eval, value)) if isinstance(value, tuple) else ast.literal_eval(literal)
    if not _is_valid(value, kind):
        raise ConfigError(f"{path} must be {_type_name(kind)}, but got {text!r}")
    return value


def type_at(config: Section, path: str) -> Any:
    """The type of the value at a path; raises `ConfigError` for an unknown path."""
    owner, leaf = _owner_at(config, path)
    return field_types(type(owner))[leaf]


def field_types(section: type[Section]) -> dict[str, Any]:
    """The fields of a section's class and their types."""
    if "_field_types" not in section.__dict__:
        hints = typing.get_type_hints(section, include_extras=True)
        # Kept with the class: where it travels to another process, the names in its annotations may not be known.
        section._field_types = {one.name: hints[one.name] for one in dataclasses.fields(section)}
    return section._field_types


def kind_at(field_type: Any) -> type[Kind] | None:
    """The base class of the kinds that a field of this type can hold; None where it holds other values, or several."""
    is_union = typing.get_origin(field_type) in (types.UnionType, typing.Union)
    for one in typing.get_args(field_type) if is_union else (field_type,):
        if isinstance(one, type) and issubclass(one, Kind):
            return one
    return None


def field_docs(section: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, those of its base classes included, as one line each."""
    docs: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for field, doc in itertools.pairwise(body):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _parts(owner: Any) -> dict[str, Any]:
    """What the next name in a path can be: a field of a section, or the key of a kind in a tuple."""
    if isinstance(owner, Section):
        return {name: getattr(owner, name) for name in field_types(type(owner))}
    return {one.key: one for one in owner if isinstance(one, Kind)} if isinstance(owner, tuple) else {}


def _owner_at(config: Section, path: str) -> tuple[Section, str]:
    """The section that has the value at a path, and the value's name there."""
    owner: Any = config
    *parents, leaf = path.split("/")
    for parent in parents:
        owner = _parts(owner).get(parent)
    if not isinstance(owner, Section) or leaf not in _parts(owner):
        raise _unknown_path(config, path)
    return owner, leaf


def _unknown_path(config: Section, path: str) -> ConfigError:
    known = "\n  ".join(flat_values(config))
    return ConfigError(f"there is no setting {path!r}; the settings are:\n  {known}")


def _as_kinds(value: Any, kind: Any, current: Any) -> Any:
    """A value for a field, in which the names of kinds are replaced by kinds."""
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_as_kinds(one, typing.get_args(kind)[0], current) for one in value)
    if (base := kind_at(kind)) is None:
        return value
    if isinstance(value, Mapping):
        # As a kind is recorded.
        return base.from_json(value)
    return _from_text(base, value, current) if isinstance(value, str) else value


def _from_text(base: type[Kind], text: str, current: Kind | tuple[Kind, ...] | None) -> Kind:
    """The kind that a text means: a current one, or a new one with the fields it shares with the one it replaces.

    A name is that of a class, in any case, with or without underscores.
    """
    present = current if isinstance(current, tuple) else tuple(filter(None, (current,)))
    by_key = [one for one in present if text == one.key]
    # Not "coco/", which is a folder.
    named = re.search(r"[/.]", text) is None
    by_class = [one for one in present if named and _normalized(text) == _normalized(type(one).__name__)]
    if fitting := [*by_key, *by_class]:
        return fitting[0]
    kinds = _subclasses(base)
    for kind in kinds:
        if (parsed := kind.parse(text)) is not None:
            return parsed
    by_name = {_normalized(kind.__name__): kind for kind in kinds if not inspect.isabstract(kind)}
    if (found := by_name.get(_normalized(text))) is None:
        names = ", ".join(sorted(kind.__name__ for kind in by_name.values() if not kind.__name__.startswith("_")))
        raise ConfigError(f"there is no {base.__name__} {text!r}; there are {names}")
    kept = {} if isinstance(current, tuple) else _parts(current)
    try:
        return found(**{name: value for name, value in kept.items() if name in field_types(found)})
    except TypeError as error:
        raise ConfigError(f"{found.__name__} needs more than its name, give an instance: {error}") from error


def _to_plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_json()
    return [_to_plain(one) for one in value] if isinstance(value, tuple) else value


def _from_plain(value: Any, kind: Any) -> Any:
    section = kind_at(kind) or kind
    if isinstance(section, type) and issubclass(section, Section) and isinstance(value, Mapping):
        return section.from_json(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_from_plain(one, typing.get_args(kind)[0]) for one in value)
    return value


def _json_leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    below = (_json_leaves(one, f"{path}/{name}" if path else str(name)).items() for name, one in items)
    return dict(itertools.chain.from_iterable(below))


def _class_name(kind: type) -> str:
    return f"{_main_module() if kind.__module__ == '__main__' else kind.__module__}.{kind.__qualname__}"


def _main_module() -> str:
    """The name by which the program's main file could be imported."""
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem


def _subclasses(base: type[AnySection]) -> list[type[AnySection]]:
    return [base, *(deeper for one in base.__subclasses__() for deeper in _subclasses(one))]


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _bounds(kind: Any) -> Iterator[tuple[str, float]]:
    """The bounds in an annotated type, or in the types of a union."""
    for one in (kind, *typing.get_args(kind)):
        yield from getattr(one, "__metadata__", ())


def _type_name(kind: Any) -> str:
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        return _type_name(choices[0])
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in choices)
    if typing.get_origin(kind) is tuple:
        return "a tuple of " + _type_name(choices[0])
    return " or ".join(_type_name(choice) for choice in choices) or kind.__name__.replace("NoneType", "none")


def _is_valid(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type, exactly, except that an int serves as a float."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _is_valid(value, choices[0])
    if origin in (types.UnionType, typing.Union):
        return any(_is_valid(value, choice) for choice in choices)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_valid(one, choices[0]) for one in value)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in choices)
    if kind in (int, float):
        # A comparison, since an integer may be too large to be a float.
        return isinstance(value, int | kind) and not isinstance(value, bool) and -1e300 < value < 1e300
    return isinstance(value, kind)
