"""The search space: Optuna distributions by configuration path, checked against the configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial

from raygan.config.run import Config
from raygan.config.section import ConfigError, flat_values, with_values

FIXED = ("data/", "hardware/", "training/epochs", "training/seed", "training/best_by", "noises")
"""Prefixes of the paths that are the same for all trials of a study, so that their scores compare."""
OF_TRAINING_CROPS = ("data/augmentation", "data/min_enlargement", "data/max_enlargement")
"""Paths among them that may differ all the same: validation crops are as they are."""


@dataclass(frozen=True)
class When:
    """A distribution that is searched only if the value at `path` is `value`.

    `When("sampling", "NormalPolicy", FloatDistribution(0.1, 0.5))` is for `sampling/deviation`.
    """

    path: str
    value: Any
    distribution: BaseDistribution


Space = Mapping[str, BaseDistribution | When]
"""What is searched, by configuration path; a path that others depend on precedes them."""


def check_space(space: Space, config: Config, algorithm: str = "tpe") -> None:
    """Raise `ConfigError` unless the algorithm may search every path of `config`, over values that it may have."""
    if not space:
        raise ConfigError("the search space is empty; name at least one path, such as 'loss/adversarial_weight'")
    before: set[str] = set()
    for path, one in space.items():
        _check_comparable(path, config)
        given = _condition(path, one, space, before) if isinstance(one, When) else {}
        for value in _extremes(path, distribution_of(one)):
            try:
                with_values(config, given | {path: value})
            except ConfigError as error:
                raise ConfigError(f"search space, {path}: {error}") from error
        before.add(path)
    if algorithm == "cmaes":
        _check_numerical(space)


def _check_comparable(path: str, config: Config) -> None:
    """Raise `ConfigError` if the scores of trials that differ in the value at a path do not compare."""
    if path == "data/pairs_share" and config.data.pairs_share > 0:
        return
    if path in OF_TRAINING_CROPS or (path.startswith("noises/") and path.endswith("/odds")):
        return
    if path.startswith("noises/") and config.data.pairs is None:
        raise ConfigError(
            f"{path} can be searched only with pairs (--pairs): validation adds this noise, and the scores of trials "
            "that differ in it do not compare"
        )
    if path.startswith(FIXED) and not path.startswith("noises/"):
        raise ConfigError(f"{path} cannot be searched: the scores of trials that differ in it do not compare")


def _condition(path: str, one: When, space: Space, before: Collection[str]) -> dict[str, Any]:
    """The value on which a path depends; raises `ConfigError` if it is never there."""
    if one.path in space and one.path not in before:
        raise ConfigError(f"search space, {path}: {one.path}, on which it depends, must precede it")
    if one.path in space and not holds(distribution_of(space[one.path]), one.value):
        raise ConfigError(f"search space, {path}: {one.path} is never {one.value!r}, on which it depends")
    if isinstance(space.get(one.path), When):
        raise ConfigError(f"search space, {path}: {one.path}, on which it depends, must be searched always")
    return {one.path: one.value}


def _extremes(path: str, distribution: BaseDistribution) -> Sequence[Any]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices
        case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
            return low, high
    raise ConfigError(f"search space, {path}: {distribution!r} is not an Optuna distribution")


def _check_numerical(space: Space) -> None:
    choices = [path for path, one in space.items() if isinstance(distribution_of(one), CategoricalDistribution)]
    if choices:
        raise ConfigError(
            f"CMA-ES searches numbers only, but {', '.join(choices)} is categorical: --set it, or use another "
            "--search-algorithm"
        )
    if len(space) < 2:
        raise ConfigError("CMA-ES needs at least two values to search: use another --search-algorithm")


def point_of(config: Config, space: Space) -> dict[str, Any]:
    """The point of the space where `config` lies; raises `ConfigError` if it lies outside."""
    values = flat_values(config)
    # An unconditional space may have paths that this configuration lacks.
    point = {path: values[path] for path, one in space.items() if is_searched(one, values) and path in values}
    for path, value in point.items():
        if not holds(distribution := distribution_of(space[path]), value):
            raise ConfigError(f"{path}={value!r} lies outside the search space, {distribution}")
    return point


def suggest(trial: Trial, space: Space, values: Mapping[str, Any]) -> None:
    """Let an Optuna trial draw a value for each path that is searched; `values` are those of the configuration."""
    values = dict(values)
    for path, one in space.items():
        if not is_searched(one, values):
            continue
        match distribution_of(one):
            case FloatDistribution(low=low, high=high, step=step, log=log):
                values[path] = trial.suggest_float(path, low, high, step=step, log=log)
            case IntDistribution(low=low, high=high, step=step, log=log):
                values[path] = trial.suggest_int(path, low, high, step=step, log=log)
            case CategoricalDistribution(choices=choices):
                values[path] = trial.suggest_categorical(path, choices)


def without(space: Space, values: Mapping[str, Any]) -> Space:
    """The space that is left to search where some paths have fixed `values`."""
    left: dict[str, BaseDistribution | When] = {}
    for path, one in space.items():
        if not isinstance(one, When) or one.path not in values:
            left[path] = one
        elif one.value == values[one.path]:
            left[path] = one.distribution
    return {path: one for path, one in left.items() if path not in values}


def is_searched(one: BaseDistribution | When, values: Mapping[str, Any]) -> bool:
    """Whether a trial with these values, by configuration path, has one of its own here."""
    return not isinstance(one, When) or values.get(one.path) == one.value


def distribution_of(one: BaseDistribution | When) -> BaseDistribution:
    """The distribution itself, of one that is always searched or only sometimes."""
    return one.distribution if isinstance(one, When) else one


def space_to_json(space: Space) -> dict[str, Any]:
    """Optuna's own JSON of each distribution, by path, with what it depends on as `when` and `is`."""
    return {
        path: json.loads(distribution_to_json(distribution_of(one)))
        | ({"when": one.path, "is": one.value} if isinstance(one, When) else {})
        for path, one in space.items()
    }


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))
