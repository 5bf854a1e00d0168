"""What a search's generators may cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raygan.config.run import Config
from raygan.models.cost import milliseconds, parameters
from raygan.search.experiment import Experiment, Search
from raygan.config.section import ConfigError, with_values


@dataclass(frozen=True)
class Cost:
    """What one point's generator costs."""

    excess: float
    """By what share of it the limit is exceeded; at most 0 where it is met."""
    told: str
    """The cost in words."""


@dataclass(frozen=True)
class Constraint:
    """The limits of a search (see `Search.max_parameters` and `Search.max_milliseconds`)."""

    config: Config
    """What every trial starts from."""
    max_parameters: int | None
    max_milliseconds: float | None

    def cost(self, point: Mapping[str, Any]) -> Cost:
        """What the generator of a point of the space costs; it is timed only where it is small enough."""
        config = with_values(self.config, point)
        count = parameters(config.generator)
        told = f"{count:,} trainable parameters"
        excess = count / self.max_parameters - 1 if self.max_parameters is not None else 0.0
        if self.max_milliseconds is not None and excess <= 0:
            cuda = config.hardware.device != "cpu" and torch.cuda.is_available()
            taken = milliseconds(config.generator, config.data.crop_size, "cuda" if cuda else "cpu")
            told += f" and takes {taken:.3g} ms a crop"
            excess = taken / self.max_milliseconds - 1
        shape = ", ".join(f"{path}={value}" for path, value in point.items() if path.startswith("generator/"))
        return Cost(excess, f"{told} ({shape or 'as configured'})")

    def check(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Raise `ConfigError` where one of the first points exceeds a limit."""
        for number, point in enumerate(points, start=1):
            cost = self.cost(point)
            if cost.excess > 0:
                raise ConfigError(
                    f"first point {number}: its generator has {cost.told}, but {self} was asked for; raise the limit, "
                    "or take the point out of first_points in the search file"
                )

    def __str__(self) -> str:
        """The limits as options."""
        limits = {"--max-parameters": self.max_parameters, "--max-milliseconds": self.max_milliseconds}
        return " ".join(f"{option} {limit}" for option, limit in limits.items() if limit is not None)


def constraint_of(experiment: Experiment) -> Constraint | None:
    """The limits of an experiment; none where it has none."""
    if not isinstance(experiment, Search) or (experiment.max_parameters, experiment.max_milliseconds) == (None, None):
        return None
    return Constraint(experiment.config, experiment.max_parameters, experiment.max_milliseconds)
