"""What every part of a configuration is: a frozen, typed, checked value with a plain JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from raygan.errors import InputError


class ConfigError(InputError, ValueError):
    """A configuration breaks a rule, or names a path that does not exist."""


def require(rule: str, holds: bool, **values: object) -> None:
    """Raise `ConfigError` with the rule and the offending values unless `holds`."""
    if not holds:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigError(f"{rule} must hold, but got {given}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every part of a configuration: checks the types of its fields, then its own rules."""

    def __post_init__(self) -> None:
        for name, kind in _field_types(type(self)).items():
            object.__setattr__(self, name, _converted(name, getattr(self, name), kind))
        self._check()

    def _check(self) -> None:
        """Raise `ConfigError` where the values break a rule."""

    def _at_least(self, least: int, *names: str) -> None:
        """Raise `ConfigError` where one of these fields is less; those that may be none may stay so."""
        for name in names:
            value = getattr(self, name)
            require(f"{name} >= {least}", value is None or value >= least, **{name: value})

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, ready for `json.dumps`."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The value that `to_json` described; raises `ConfigError` for unknown, missing or wrong entries."""
        kinds = _field_types(cls)
        unknown = set(values) - set(kinds)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no {sorted(unknown)}; it has {sorted(kinds)}")
        return cls(
            **{
                name: kinds[name].from_json(value) if _is_section(kinds[name]) else value
                for name, value in values.items()
            }
        )


AnySection = TypeVar("AnySection", bound=Section)


def flat_values(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration by its path, for example `{"loss/content_weight": 0.1, …}`."""
    leaves: dict[str, Any] = {}
    for name in _field_types(type(config)):
        value = getattr(config, name)
        if isinstance(value, Section):
            leaves.update(flat_values(value, f"{prefix}{name}/"))
        else:
            leaves[prefix + name] = value
    return leaves


def with_values(config: AnySection, values: Mapping[str, object]) -> AnySection:
    """A copy of `config` with the leaves at the given paths replaced, checked as a whole.

    Raises `ConfigError` for an unknown path (listing the valid ones) and for a value that breaks a rule.
    """
    for path in values:
        _require_known(config, path)
    replaced: AnySection = _replaced(config, values)
    return replaced


def parse_value(config: Section, path: str, text: str) -> object:
    """The value that `text`, as typed on a command line, means at `path`; "none" is None, commas part a list.

    Raises `ConfigError` for an unknown path or a text that is not of the path's type.
    """
    _require_known(config, path)
    owner: Section = config
    *parents, leaf = path.split("/")
    for parent in parents:
        owner = getattr(owner, parent)
    kind = _field_types(type(owner))[leaf]
    choices = typing.get_args(kind)
    if type(None) in choices and text.lower() == "none":
        return None
    if typing.get_origin(kind) is tuple:
        return _converted(path, tuple(text.split(",")), kind)
    if typing.get_origin(kind) is Literal or str in (kind, *choices):
        return _converted(path, text, kind)
    try:
        # "true" as in JSON, or "True" as tables hold it.
        return _converted(path, json.loads(text.lower() if kind is bool else text), kind)
    except json.JSONDecodeError:
        raise ConfigError(f"{path} must be {_type_name(kind)}, but got {text!r}") from None


def _require_known(config: Section, path: str) -> None:
    known = flat_values(config)
    if path not in known:
        raise ConfigError(f"there is no setting {path!r}; the settings are:\n  " + "\n  ".join(known))


def _replaced(section: Any, values: Mapping[str, object]) -> Any:
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, object]] = {}
    for path, value in values.items():
        head, _, rest = path.partition("/")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes.update({name: _replaced(getattr(section, name), rest) for name, rest in inner.items()})
    return dataclasses.replace(section, **changes)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _field_types(section: type[Section]) -> dict[str, Any]:
    hints = typing.get_type_hints(section)
    return {one.name: hints[one.name] for one in dataclasses.fields(section)}


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if isinstance(kind, types.UnionType):
        return " or ".join(_type_name(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of " + _type_name(typing.get_args(kind)[0])
    return "none" if kind is type(None) else str(kind.__name__)


def _converted(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`: exact, save that an int serves as a float and a list as a tuple."""
    if isinstance(kind, types.UnionType):
        choices = typing.get_args(kind)
        if value is None and type(None) in choices:
            return None
        return _converted(name, value, next(choice for choice in choices if choice is not type(None)))
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_converted(name, one, typing.get_args(kind)[0]) for one in value)
    if typing.get_origin(kind) is Literal:
        valid = value in typing.get_args(kind)
    elif kind in (int, float):
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        valid = valid and (isinstance(value, int) if kind is int else math.isfinite(value))
        value = kind(value) if valid else value
    else:
        valid = isinstance(value, kind)
    if not valid:
        raise ConfigError(f"{name} must be {_type_name(kind)}, but got {value!r}")
    return value
