"""Base classes of a configuration: frozen, typed, validated values with a plain JSON form.

A `Section` is a fixed part of a configuration. A `Kind` is a part that comes in several variants, each a class with its
own fields: a noise, a network, a loss. Kinds are found by subclassing, so a class written in a search file is used like
those of this package.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from raygan.errors import InputError

CLASS = "class"
"""Key of a kind's class in its JSON form."""


class ConfigError(InputError, ValueError):
    """A value of a configuration is invalid, or a path does not exist."""


def require(rule: str, holds: bool, **values: object) -> None:
    """Raise `ConfigError` with the rule and the given values unless `holds`."""
    if not holds:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigError(f"{rule} must hold, but got {given}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every part of a configuration. Validates the types of its fields, then its own rules."""

    _field_types: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            value = getattr(self, name)
            if not _is_valid(value, kind):
                raise ConfigError(f"{name} must be {_type_name(kind)}, but got {value!r}")
        self._check()

    def _check(self) -> None:
        """Raise `ConfigError` if the values break a rule."""

    def _at_least(self, least: int, *names: str) -> None:
        """Raise `ConfigError` if one of these fields is less than `least`. None is allowed for optional fields."""
        for name in names:
            value = getattr(self, name)
            require(f"{name} >= {least}", value is None or value >= least, **{name: value})

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, ready for `json.dumps`."""
        return {name: _to_plain(getattr(self, name)) for name in field_types(type(self))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The value that `to_json` described; raises `ConfigError` for unknown, missing or invalid entries."""
        kinds = field_types(cls)
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
        return {CLASS: _class_name(type(self)), **super().to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """See `Section.from_json`. Imports the named class; raises `ConfigError` if that is not possible."""
        rest = dict(values)
        kind = _import_class(str(rest.pop(CLASS, _class_name(cls))), cls)
        return super(Kind, kind).from_json(rest)

    @classmethod
    def parse(cls, text: str) -> Self | None:  # noqa: ARG003
        """The value that a text other than the name of a kind means, such as a path; None: nothing."""
        return None


AnySection = TypeVar("AnySection", bound=Section)
AnyKind = TypeVar("AnyKind", bound=Kind)


class _UnknownPathError(Exception):
    """A path that a section does not have."""


def known_kind(base: type[AnyKind], name: str) -> type[AnyKind]:
    """The kind of that name: of a class, in any case, with or without underscores. Raises `ConfigError` otherwise."""
    kinds = {_normalized(kind.__name__): kind for kind in _subclasses(base) if not inspect.isabstract(kind)}
    if (found := kinds.get(_normalized(name))) is None:
        names = ", ".join(sorted(kind.__name__ for kind in kinds.values() if not kind.__name__.startswith("_")))
        raise ConfigError(f"there is no {base.__name__} {name!r}; there are {names}")
    return found


def own_kinds() -> tuple[type[Kind], ...]:
    """The kinds that were defined outside this package."""
    return tuple(kind for kind in _subclasses(Kind) if not kind.__module__.startswith("raygan."))


def flat_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration by its path, for example `{"loss/content_weight": 0.1, …}`.

    A kind is a leaf too, with its name as the value, and so is a tuple of kinds.
    """
    leaves: dict[str, Any] = {}
    for name in field_types(type(section)):
        value, path = getattr(section, name), prefix + name
        if isinstance(value, Kind):
            leaves[path] = value.key
        if isinstance(value, Section):
            leaves.update(flat_values(value, f"{path}/"))
        elif _has_kinds(value):
            leaves[path] = tuple(one.key for one in value)
            for one in value:
                leaves.update(flat_values(one, f"{path}/{one.key}/"))
        else:
            leaves[path] = value
    return leaves


def with_values(config: AnySection, values: Mapping[str, object]) -> AnySection:
    """A copy of `config` with the values at the given paths replaced, validated as a whole.

    The value of a kind is an instance or a name. By name, fields that the kind shares with the one it replaces keep
    their values. Raises `ConfigError` for an unknown path (listing the valid ones) and for a value that breaks a rule.
    """
    try:
        replaced: AnySection = _replaced(config, values)
    except _UnknownPathError as error:
        known = "\n  ".join(flat_values(config))
        raise ConfigError(f"there is no setting {str(error)!r}; the settings are:\n  {known}") from None
    return replaced


def parse_value(config: Section, path: str, text: str) -> Any:
    """The value that `text`, as typed on a command line, means at `path`.

    "none" is None, a list is separated by commas, and a kind is given by its name. Raises `ConfigError` for an unknown
    path or a text that is not of the path's type.
    """
    owner, leaf = _owner_at(config, path)
    kind = field_types(type(owner))[leaf]
    choices = typing.get_args(kind)
    if type(None) in choices and text.lower() == "none":
        return None
    if typing.get_origin(kind) is tuple or _is_kind(kind):
        given = text if _is_kind(kind) else tuple(text.split(","))
        _as_kinds(given, kind, getattr(owner, leaf))
        return given
    value: Any = text
    if not _is_valid(text, kind):
        try:
            # "true" as in JSON, or "True" as tables have it.
            value = json.loads(text.lower() if kind is bool else text)
        except json.JSONDecodeError:
            value = None
    if value is None or not _is_valid(value, kind):
        raise ConfigError(f"{path} must be {_type_name(kind)}, but got {text!r}")
    return value


def type_at(config: Section, path: str) -> Any:
    """The type of the value at a path; raises `ConfigError` for an unknown path."""
    owner, leaf = _owner_at(config, path)
    return field_types(type(owner))[leaf]


def field_types(section: type[Section]) -> dict[str, Any]:
    """The fields of a section's class and their types."""
    if "_field_types" not in section.__dict__:
        hints = typing.get_type_hints(section)
        # Kept with the class: where it travels to another process, the names in its annotations may not be known.
        section._field_types = {one.name: hints[one.name] for one in dataclasses.fields(section)}
    found: dict[str, Any] = section._field_types
    return found


def field_docs(section: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, those of its base classes included, as one line each."""
    docs: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, doc in zip(definition.body, definition.body[1:], strict=False):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _owner_at(config: Section, path: str) -> tuple[Section, str]:
    """The section that has the value at a path, and the value's name there."""
    owner: Any = config
    *parents, leaf = path.split("/")
    for parent in parents:
        if isinstance(owner, tuple):
            owner = next((one for one in owner if one.key == parent), None)
        else:
            owner = getattr(owner, parent, None) if isinstance(owner, Section) else None
    if not isinstance(owner, Section) or leaf not in field_types(type(owner)):
        known = "\n  ".join(flat_values(config))
        raise ConfigError(f"there is no setting {path!r}; the settings are:\n  {known}")
    return owner, leaf


def _replaced(section: Any, values: Mapping[str, object], prefix: str = "") -> Any:
    kinds = field_types(type(section))
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, object]] = {}
    for path, value in values.items():
        name, _, rest = path.partition("/")
        if name not in kinds:
            raise _UnknownPathError(prefix + path)
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            changes[name] = _as_kinds(value, kinds[name], getattr(section, name))
    for name, rest_values in inner.items():
        current, path = changes.get(name, getattr(section, name)), f"{prefix}{name}/"
        if isinstance(current, tuple):
            changes[name] = _replaced_in_tuple(current, rest_values, path)
        elif isinstance(current, Section):
            changes[name] = _replaced(current, rest_values, path)
        else:
            raise _UnknownPathError(path + next(iter(rest_values)))
    return dataclasses.replace(section, **changes)


def _replaced_in_tuple(current: tuple[Any, ...], values: Mapping[str, object], prefix: str) -> tuple[Any, ...]:
    by_key: dict[str, dict[str, object]] = {}
    keys = [one.key for one in current if isinstance(one, Kind)]
    for path, value in values.items():
        key, _, rest = path.partition("/")
        if key not in keys or not rest:
            raise _UnknownPathError(prefix + path)
        by_key.setdefault(key, {})[rest] = value
    return tuple(_replaced(one, by_key.get(one.key, {}), f"{prefix}{one.key}/") for one in current)


def _as_kinds(value: object, kind: Any, current: Any) -> Any:
    """A value for a field, in which the names of kinds are replaced by kinds."""
    if _is_kind(kind):
        return _from_text(kind, value, [current], current) if isinstance(value, str) else value
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        element = typing.get_args(kind)[0]
        if _is_kind(element):
            return tuple(_from_text(element, one, current) if isinstance(one, str) else one for one in value)
        return tuple(value)
    return value


def _from_text(base: type[Kind], text: str, known: Sequence[Any], replaced: Kind | None = None) -> Kind:
    """The kind that a text means: a known one, or a new one with the fields it shares with the one it replaces."""
    for one in known:
        if text == one.key or _normalized(text) == _normalized(type(one).__name__):
            assert isinstance(one, Kind)
            return one
    for kind in _subclasses(base):
        if (parsed := kind.parse(text)) is not None:
            return parsed
    found = known_kind(base, text)
    shared = field_types(found).keys() & field_types(type(replaced)).keys() if replaced is not None else ()
    try:
        return found(**{name: getattr(replaced, name) for name in shared})
    except TypeError as error:
        raise ConfigError(f"{found.__name__} needs more than its name, give an instance: {error}") from error


def _to_plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_json()
    return [_to_plain(one) for one in value] if isinstance(value, tuple) else value


def _from_plain(value: Any, kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, Mapping):
        return kind.from_json(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_from_plain(one, typing.get_args(kind)[0]) for one in value)
    return value


def _class_name(kind: type) -> str:
    module = kind.__module__
    return f"{_main_module() if module == '__main__' else module}.{kind.__qualname__}"


def _main_module() -> str:
    """The name by which the program's main file could be imported."""
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem


def _import_class(name: str, base: type[AnyKind]) -> type[AnyKind]:
    module, _, attribute = name.rpartition(".")
    try:
        owner = sys.modules["__main__"] if module == _main_module() else importlib.import_module(module)
        found = getattr(owner, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the configuration names the class {name}, which cannot be imported ({error}): run with the folder of "
            f"{module or 'its module'}.py on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"the configuration names {name}, which is not a {base.__name__}")
    return found


def _subclasses(base: type[AnyKind]) -> list[type[AnyKind]]:
    return [base, *(deeper for one in base.__subclasses__() for deeper in _subclasses(one))]


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _is_kind(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Kind)


def _has_kinds(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(one, Kind) for one in value)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if _is_union(kind):
        return " or ".join(_type_name(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a tuple of " + _type_name(typing.get_args(kind)[0])
    return "none" if kind is type(None) else str(kind.__name__)


def _is_valid(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type, exactly, except that an int serves as a float."""
    if _is_union(kind):
        return any(_is_valid(value, choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_valid(one, typing.get_args(kind)[0]) for one in value)
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind in (int, float):
        allowed = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return allowed and math.isfinite(value)
    return isinstance(value, kind)
