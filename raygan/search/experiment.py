"""What a search file says: one experiment as a value. Importing it does not load Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json

from raygan.config import Config
from raygan.presets import QUICK
from raygan.search.space import point_of
from raygan.section import with_values


@dataclass(frozen=True, kw_only=True)
class Search:
    """One experiment: what is searched, from where, and for how long."""

    name: str
    """The study's name: its folder in the storage."""
    config: Config
    """What every trial starts from; `training/epochs` is the winner's budget."""
    space: Mapping[str, BaseDistribution]
    """Optuna distributions by configuration path."""
    first_points: Sequence[Config] = ()
    """Configurations whose values, at the space's paths, are tried first."""
    trials: int
    trial_epochs: int
    """Most epochs that a trial gets; the scheduler stops most of them earlier."""
    concurrent: int | None = None
    """Trials at once; none: as many as the cluster holds."""
    seed: int = 0
    """Seed of the searcher."""

    def quick(self) -> Search:
        """The same search shrunk to minutes on two cores, on the sample photos, without VGG19."""
        return dataclasses.replace(
            self,
            name=f"{self.name}-quick",
            config=with_values(self.config, QUICK),
            first_points=[with_values(point, QUICK) for point in self.first_points],
            trials=8,
            trial_epochs=4,
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the study's outcome: what must agree when it is run again to go on."""
        return {
            "config": self.config.to_json(),
            "space": {path: json.loads(distribution_to_json(one)) for path, one in self.space.items()},
            "first_points": [point_of(point, self.space) for point in self.first_points],
            "trials": self.trials,
            "trial_epochs": self.trial_epochs,
            "seed": self.seed,
        }
