"""What a search file says: one experiment as a value. Importing it does not load Ray."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from optuna.distributions import CategoricalDistribution, IntDistribution

from raygan.config.run import Config
from raygan.presets import QUICK
from raygan.search.space import Space, check_searcher, check_space, distribution_of, point_of, space_to_json
from raygan.config.section import ConfigError, require, with_values

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What studies and arms may be called: their names become folders."""


Searcher = Literal["tpe", "gp", "cmaes", "nsga2", "random"]
SEARCHERS: tuple[Searcher, ...] = get_args(Searcher)
Scheduler = Literal["asha", "pbt", "median", "none"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
Objective = Literal["val_psnr", "val_ssim", "val_milliseconds"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class _Experiment:
    name: str
    """The study's name: its folder in the storage."""
    config: Config
    """What every trial starts from."""
    concurrent: int | None = None
    """Trials at once; none: as many as the cluster holds."""

    @property
    def _quick_values(self) -> dict[str, object]:
        """`QUICK`, without a smaller generator where that is a given denoiser's."""
        given = self.config.training.start_from is not None
        return {path: value for path, value in QUICK.items() if not (given and path.startswith("generator/"))}


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
    objectives: tuple[Objective, ...] = ("val_psnr",)
    """What is searched for, at each trial's best epoch: val PSNR, val SSIM, milliseconds that the generator takes a
    validation crop, or several at once. Of several, no trial is best: the winner is the compromise that
    `raygan.study.objectives` defines, and every trial gets its full budget, since Optuna prunes by one score only."""
    grace_epochs: int | None = None
    """Epochs after which a trial that has not been better than the noisy input yet ends; 0: never. None: a fifth of
    the trial's epochs, and at least 3, with the schedulers "asha" and "median", else never. Short epochs need as much:
    of the recorded curves in `benchmarks/`, 18 of the best 20 are still below the noisy input after two epochs of 27,
    none after five."""
    stop_collapsed: bool = False
    """Whether a trial ends once its discriminator's accuracies have been pinned at 0 or 1 for three epochs."""
    seed: int = 0
    """Seed of the searcher."""
    warm_start: str | None = None
    """The folder or prefix of an earlier search that this one starts from: its best points come first, and its trials
    are known to the searcher where their scores compare."""
    time_budget: float | None = None
    """Minutes after which the trials end, wherever they are; the best of them wins all the same. None: no limit."""
    max_parameters: int | None = None
    """Most trainable parameters that a generator may have. What exceeds a limit is neither trained nor counted as a
    trial, be it proposed or of an earlier study's best. None: no limit."""
    max_milliseconds: float | None = None
    """Most milliseconds that a generator may take on one crop of `data/crop_size`, in a batch of one: the median of a
    few runs in the search's main process, on its GPU if it has one and `hardware/device` is not "cpu". What the machine
    does besides slows it down, trials too. None: no limit."""
    together: str | None = None
    """The study of an Optuna database that several drivers record their trials into: what one learns, all know."""
    trials_only: bool = False
    """End after the trials, without a winner; without this, the same study goes on to it."""

    def __post_init__(self) -> None:
        if self.scheduler == "pbt" or self.searcher not in ("tpe", "random"):
            # What cannot leave a value out draws it for every trial; where it does not matter, it does nothing.
            space = {path: distribution_of(one) for path, one in self.space.items()}
            object.__setattr__(self, "space", space)
        if self.objectives[:1] == ("val_ssim",):
            object.__setattr__(self, "config", with_values(self.config, {"training/best_by": "val_ssim"}))

    @property
    def grace(self) -> int:
        """Epochs that a trial has to become better than the noisy input; 0: as many as it wants."""
        if self.grace_epochs is not None:
            return self.grace_epochs
        return max(3, -(-self.trial_epochs // 5)) if self.scheduler in ("asha", "median") else 0

    def quick(self) -> Search:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        return dataclasses.replace(
            self,
            name=f"{self.name}-quick",
            config=with_values(self.config, self._quick_values),
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
        shaping = [path for path in self.space if path.startswith("generator/")]
        if self.trials and self.config.training.start_from is not None and shaping:
            raise ConfigError(
                f"trials that start from a denoiser (training/start_from) cannot search {', '.join(shaping)}"
            )
        self._check_objectives()
        self._check_limits()
        self._check_drivers()
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

    def _check_objectives(self) -> None:
        objectives = self.objectives
        if not objectives or len(set(objectives)) < len(objectives):
            raise ConfigError(f"objectives must be some of {', '.join(OBJECTIVES)}, each once, but are {objectives}")
        if len(objectives) == 1:
            return
        if self.scheduler != "none":
            raise ConfigError(f"{' and '.join(objectives)} at once need trials of full length: give --scheduler none")
        if self.searcher == "cmaes":
            raise ConfigError("CMA-ES searches for one objective: use another --searcher")

    def _check_drivers(self) -> None:
        if self.trials_only or self.together is not None:
            require("trials >= 1, with --trials-only or --together,", self.trials >= 1, trials=self.trials)
        if self.together is None:
            return
        if self.scheduler == "pbt" or self.searcher in ("cmaes", "nsga2"):
            raise ConfigError(
                "CMA-ES, NSGA-II and population-based training learn nothing of trials that others proposed: with "
                "--together, use --searcher tpe, gp or random, and another --scheduler than pbt"
            )
        if self.objectives != ("val_psnr",):
            raise ConfigError("drivers that search together search for val_psnr: leave --objectives out")

    def _check_limits(self) -> None:
        parameters, milliseconds = self.max_parameters, self.max_milliseconds
        if parameters is None and milliseconds is None:
            return
        require("max_parameters >= 1", parameters is None or parameters >= 1, max_parameters=parameters)
        require("max_milliseconds > 0", milliseconds is None or milliseconds > 0, max_milliseconds=milliseconds)
        limits = "--max-parameters and --max-milliseconds"
        if self.scheduler == "pbt":
            raise ConfigError(f"population-based training cannot search networks' shapes: leave {limits} out")
        if self.searcher == "gp":
            # It knows complete trials only.
            raise ConfigError(
                f"a Gaussian process would propose what exceeds a limit again and again: leave {limits} out, or use "
                "another --searcher"
            )

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
            "objectives": list(self.objectives),
            "grace_epochs": self.grace,
            "stop_collapsed": self.stop_collapsed,
            "seed": self.seed,
            "warm_start": self.warm_start,
            "time_budget": self.time_budget,
            "max_parameters": self.max_parameters,
            "max_milliseconds": self.max_milliseconds,
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
    def objectives(self) -> tuple[Objective, ...]:
        """What tells each trial's best epoch."""
        return (self.config.training.best_by,)

    @property
    def space(self) -> Space:
        """All arms with all seeds; every point of it is a first point."""
        return {
            "arm": CategoricalDistribution(list(self.arms)),
            "seed": IntDistribution(self.seed, self.seed + self.seeds - 1),
        }

    def quick(self) -> Comparison:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        quick = with_values(self.config, self._quick_values | {"training/epochs": 8})
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
