"""What a search file says: one experiment as a value. Importing it does not load Ray."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from optuna.distributions import CategoricalDistribution, IntDistribution

from raygan.config import Config
from raygan.presets import QUICK
from raygan.search.space import Space, check_searcher, check_space, distribution_of, point_of, space_to_json
from raygan.section import ConfigError, require, with_values

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What studies and arms may be called: their names become folders."""


Searcher = Literal["tpe", "gp", "cmaes", "nsga2", "random"]
SEARCHERS: tuple[Searcher, ...] = get_args(Searcher)
Scheduler = Literal["asha", "pbt", "median", "none"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)


@dataclass(frozen=True, kw_only=True)
class _Experiment:
    name: str
    """The study's name: its folder in the storage."""
    config: Config
    """What every trial starts from."""
    concurrent: int | None = None
    """Trials at once; none: as many as the cluster holds."""


@dataclass(frozen=True, kw_only=True)
class Search(_Experiment):
    """What is searched, from where, and for how long; the best trial is then trained at the full budget."""

    space: Space
    """Optuna distributions by configuration path, some of them perhaps `When` another path has some value."""
    first_points: Sequence[Config] = ()
    """Configurations whose values, at the space's paths, are tried first."""
    trials: int
    """How many; 0 trains the configuration as it is."""
    trial_epochs: int
    """Most epochs that a trial gets, of the winner's `training/epochs`; the scheduler stops most of them earlier."""
    searcher: Searcher = "tpe"
    """Who proposes trials, all by Optuna: "tpe" (tree-structured Parzen estimators), "gp" (a Gaussian process), "cmaes"
    (CMA-ES, numbers only), "nsga2" (a genetic algorithm), or "random". Of trials that were ended early, TPE learns that
    they did worse than those that got further, and CMA-ES their last score; the others learn nothing of them."""
    scheduler: Scheduler = "asha"
    """Who ends trials early: "asha" (successive halving), "median" (those below the median), or "none"; or "pbt", which
    lets the worst go on from the best with changed values, and draws its population at random, without Optuna."""
    seed: int = 0
    """Seed of the searcher."""
    warm_start: str | None = None
    """The folder or prefix of an earlier search that this one starts from: its best points come first, and its trials
    are known to the searcher where their scores compare."""
    time_budget: float | None = None
    """Minutes after which the trials end, wherever they are; the best of them wins all the same. None: no limit."""
    together: str | None = None
    """The study of an Optuna database that several drivers record their trials into: what one learns, all know."""
    trials_only: bool = False
    """End after the trials, without a winner; without this, the same study goes on to it."""

    def __post_init__(self) -> None:
        if self.scheduler == "pbt" or self.searcher not in ("tpe", "random"):
            # What cannot leave a value out draws it for every trial; where it does not matter, it does nothing.
            space = {path: distribution_of(one) for path, one in self.space.items()}
            object.__setattr__(self, "space", space)

    def quick(self) -> Search:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        return dataclasses.replace(
            self,
            name=f"{self.name}-quick",
            config=with_values(self.config, QUICK),
            first_points=[with_values(point, QUICK) for point in self.first_points],
            trials=8,
            trial_epochs=4,
        )

    def check(self) -> None:
        """Raise `ConfigError` unless every trial's configuration would be a valid one."""
        check_space(self.space, self.config)
        check_searcher(self.searcher, self.space)
        if self.time_budget is not None:
            require("time_budget > 0", self.time_budget > 0, time_budget=self.time_budget)
        if self.trials_only or self.together is not None:
            require("trials >= 1, with --trials-only or --together,", self.trials >= 1, trials=self.trials)
        if self.together is not None and (self.scheduler == "pbt" or self.searcher in ("cmaes", "nsga2")):
            raise ConfigError(
                "CMA-ES, NSGA-II and population-based training learn nothing of trials that others proposed: with "
                "--together, use --searcher tpe, gp or random, and another --scheduler than pbt"
            )
        if self.scheduler == "pbt":
            if self.searcher not in ("tpe", "random"):
                raise ConfigError(
                    f"population-based training draws its population at random: leave --searcher {self.searcher} out"
                )
            shaping = [path for path in self.space if path.startswith(("generator/", "discriminator/"))]
            if shaping:
                raise ConfigError(
                    f"population-based training cannot search {', '.join(shaping)}: trials take over each other's "
                    "networks on the way; use another --scheduler, or --set a value"
                )
            if self.concurrent is not None:
                raise ConfigError("population-based training runs all trials in turn: leave --concurrent out")

    def points(self) -> list[dict[str, Any]]:
        """The points of the space that are tried first."""
        return [point_of(point, self.space) for point in self.first_points]

    def values_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a point of the space gives a trial, by configuration path."""
        return dict(point)

    def identity(self) -> dict[str, Any]:
        """All that decides the study's outcome: what must agree when it is run again to go on."""
        return {
            "config": self.config.to_json(),
            "space": space_to_json(self.space),
            "first_points": self.points(),
            "trials": self.trials,
            "trial_epochs": self.trial_epochs,
            "searcher": self.searcher,
            "scheduler": self.scheduler,
            "seed": self.seed,
            "warm_start": self.warm_start,
            "time_budget": self.time_budget,
            "together": self.together,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison(_Experiment):
    """Arms that differ in a few values, each trained to the full budget with several seeds."""

    arms: Mapping[str, Mapping[str, object]]
    """Each arm's values by configuration path; the first arm is the one that the others are compared to."""
    seeds: int = 3
    """Trials an arm, with `training/seed` from the configuration's on."""

    @property
    def trials(self) -> int:
        """Trials of all arms together."""
        return len(self.arms) * self.seeds

    @property
    def trial_epochs(self) -> int:
        """Epochs of each trial."""
        return self.config.training.epochs

    @property
    def seed(self) -> int:
        """The first trial's seed."""
        return self.config.training.seed

    @property
    def space(self) -> Space:
        """All arms with all seeds; every point of it is a first point."""
        return {
            "arm": CategoricalDistribution(list(self.arms)),
            "seed": IntDistribution(self.seed, self.seed + self.seeds - 1),
        }

    def quick(self) -> Comparison:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        quick = with_values(self.config, QUICK | {"training/epochs": 8})
        return dataclasses.replace(self, name=f"{self.name}-quick", config=quick)

    def check(self) -> None:
        """Raise `ConfigError` unless every trial's configuration would be a valid one."""
        for arm, values in self.arms.items():
            if not NAME.fullmatch(arm):
                raise ConfigError(f"an arm's name is of letters, digits, '.', '_' and '-', but one is {arm!r}")
            with_values(self.config, values)

    def points(self) -> list[dict[str, Any]]:
        """The points of the space that are tried first."""
        return [{"arm": arm, "seed": self.seed + index} for index in range(self.seeds) for arm in self.arms]

    def values_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a point of the space gives a trial, by configuration path."""
        return {**self.arms[point["arm"]], "training/seed": point["seed"]}

    def identity(self) -> dict[str, Any]:
        """All that decides the study's outcome: what must agree when it is run again to go on."""
        arms = json.loads(json.dumps({arm: dict(values) for arm, values in self.arms.items()}))
        return {"config": self.config.to_json(), "arms": arms, "seeds": self.seeds}


Experiment = Search | Comparison
"""What a search file holds."""
