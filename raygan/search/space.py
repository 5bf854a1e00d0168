"""The search space: Optuna distributions by configuration path, checked against the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.config import Config
from raygan.section import ConfigError, flat_values, with_values

FIXED = (
    *("data/", "hardware/", "training/epochs", "training/seed"),
    *("noise/kinds", "noise/gaussian/", "noise/salt_and_pepper/", "noise/speckle/"),
)
"""Beginnings of the paths that are the same for all trials of a study, so that their scores compare."""

Space = Mapping[str, BaseDistribution]


def check_space(space: Space, config: Config) -> None:
    """Raise `ConfigError` unless every path of `config` may be searched, over values that it may have."""
    if not space:
        raise ConfigError("the search space is empty; name at least one path, such as 'loss/adversarial_weight'")
    for path, distribution in space.items():
        if path.startswith(FIXED):
            raise ConfigError(f"{path} cannot be searched: it would give trials different tasks, or different machines")
        for value in _extremes(path, distribution):
            try:
                with_values(config, {path: value})
            except ConfigError as error:
                raise ConfigError(f"search space, {path}: {error}") from error


def check_searcher(searcher: str, space: Space) -> None:
    """Raise `ConfigError` unless the searcher can search this space."""
    if searcher != "cmaes":
        return
    choices = [path for path, one in space.items() if isinstance(one, CategoricalDistribution)]
    if choices:
        raise ConfigError(
            f"CMA-ES searches numbers only, but {', '.join(choices)} is chosen from a list: --set it, or use another "
            "--searcher"
        )
    if len(space) < 2:
        raise ConfigError("CMA-ES needs at least two values to search: use another --searcher")


def point_of(config: Config, space: Space) -> dict[str, Any]:
    """The point of the space where `config` lies; raises `ConfigError` if it lies outside."""
    values = flat_values(config)
    for path, distribution in space.items():
        if not distribution._contains(distribution.to_internal_repr(values[path])):
            raise ConfigError(f"{path}={values[path]!r} lies outside the search space, {distribution}")
    return {path: values[path] for path in space}


def _extremes(path: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return [distribution.low, distribution.high]
    raise ConfigError(f"search space, {path}: {distribution!r} is not an Optuna distribution")
