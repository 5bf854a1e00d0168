"""Limits on what a trial's generator may cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.config.section import ConfigError
from raygan.models.cost import operations_per_pixel, parameters
from raygan.search.experiment import TrialSettings


@dataclass(frozen=True)
class Constraint:
    """The limits of a search."""

    max_parameters: int | None
    max_operations: float | None

    @classmethod
    def of(cls, settings: TrialSettings) -> Constraint:
        """The limits that these settings name."""
        return cls(settings.max_parameters, settings.max_operations)

    def excess(self, generator: Generator) -> float:
        """By what fraction the generator exceeds a limit; at most 0 if it meets all."""
        excess = [0.0]
        if self.max_parameters is not None:
            excess.append(parameters(generator) / self.max_parameters - 1)
        # The operations of one that is too large are not worth counting.
        if self.max_operations is not None and max(excess) <= 0:
            excess.append(operations_per_pixel(generator) / self.max_operations - 1)
        return max(excess)

    def check(self, points: Iterable[Config]) -> None:
        """Raise `ConfigError` if the generator of one of the first points exceeds a limit."""
        for number, config in enumerate(points, start=1):
            if self.excess(config.generator) > 0:
                raise ConfigError(
                    f"first point {number}: its generator has {describe(config.generator)}, but {self} was asked for; "
                    "raise the limit, or take the point out of first_points in the search file"
                )

    def __str__(self) -> str:
        """The limits as options."""
        limits = {"--max-parameters": self.max_parameters, "--max-operations": self.max_operations}
        return " ".join(f"{option} {limit}" for option, limit in limits.items() if limit is not None)


def describe(generator: Generator) -> str:
    """What a generator costs, in words."""
    return (
        f"{parameters(generator):,} trainable parameters and {operations_per_pixel(generator):,.0f} operations per "
        f"pixel ({generator})"
    )
