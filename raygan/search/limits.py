"""Limits on what the generators of a search may cost."""

from __future__ import annotations

from typing import NamedTuple

from raygan.config.kinds import Generator
from raygan.config.section import ConfigError, with_values
from raygan.models.cost import operations_per_pixel, parameters
from raygan.search.experiment import Experiment, TrialSettings


class Refusal(NamedTuple):
    """Why a point is not trained."""

    excess: float
    """By what fraction it exceeds the limit that it exceeds most."""
    reason: str


def refusal(settings: TrialSettings, generator: Generator) -> Refusal | None:
    """Why a generator is not trained: it exceeds a limit of these settings. None: it meets all."""
    limits = {"--max-parameters": settings.max_parameters, "--max-operations": settings.max_operations}
    given = {option: limit for option, limit in limits.items() if limit is not None}
    if not given:
        return None
    count, operations = parameters(generator), operations_per_pixel(generator)
    costs = {"--max-parameters": count, "--max-operations": operations}
    if (excess := max(costs[option] / limit - 1 for option, limit in given.items())) <= 0:
        return None
    asked = " ".join(f"{option} {limit}" for option, limit in given.items())
    cost = f"{count:,} trainable parameters and {operations:,.0f} operations per pixel ({generator})"
    return Refusal(excess, f"its generator has {cost}, but {asked} was asked for")


def check_first_points(experiment: Experiment) -> None:
    """Raise `ConfigError` if the generator of one of the first points exceeds a limit."""
    # Without trials, none is tried.
    points = experiment.points() if experiment.settings.trials else []
    for number, point in enumerate(points, start=1):
        generator = with_values(experiment.config, experiment.values_at(point)).generator
        if (refused := refusal(experiment.settings, generator)) is not None:
            raise ConfigError(
                f"first point {number}: {refused.reason}; raise the limit, or take the point out of first_points in "
                "the search file"
            )
