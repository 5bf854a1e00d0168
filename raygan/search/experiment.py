"""What a search file defines: one experiment as a value. Importing it does not load Ray."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from optuna.distributions import CategoricalDistribution, IntDistribution

from raygan.config.run import Config
from raygan.config.section import ConfigError, Section, flat_values, require, with_values
from raygan.models.cost import epochs_of_equal_computation
from raygan.presets import quick
from raygan.search.space import Space, check_space, distribution_of, is_searched, point_of, space_to_json, without

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What studies and arms may be called: their names become folders."""
SAME_IN_ALL_ARMS = (
    *("data/photos", "data/evaluate_on", "data/pairs", "data/train_photos", "data/val_photos"),
    *("data/cache", "data/max_megapixels", "data/seed", "hardware/"),
)
"""Prefixes of the paths in which the arms of a comparison may not differ."""
MOST = 2**32
"""Above every count and seed: random generators take seeds of 32 bits."""
SearchAlgorithm = Literal["tpe", "gp", "cmaes", "nsga2", "random"]
Scheduler = Literal["asha", "none"]
Objective = Literal["val_psnr", "val_ssim", "operations_per_pixel"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """How the trials of a study are proposed, stopped early and judged."""

    trials: int
    """Number of trials; 0 trains the configuration as it is."""
    trial_epochs: int
    """Maximum epochs per trial, and never more than `--epochs`, of the configuration as it is where computation is
    equal; the scheduler stops most trials earlier."""
    equal_compute: bool = False
    """Give every trial, and the winner, the computation that their epochs are for the configuration as it is, by the
    operations and memory traffic of training: larger networks train for fewer epochs, and rungs move likewise."""
    search_algorithm: SearchAlgorithm = "tpe"
    """Search algorithm, from Optuna: tpe (tree-structured Parzen estimator), gp (Gaussian process), cmaes (CMA-ES,
    numerical spaces only), nsga2 (genetic algorithm) or random. TPE ranks pruned trials by how far they got, CMA-ES
    uses their last score; the others ignore them."""
    scheduler: Scheduler = "asha"
    """Early-stopping scheduler: asha (asynchronous successive halving: trials wait at rungs near epochs 1, 3, 9, …,
    from where about the best third goes on) or none."""
    objectives: tuple[Objective, ...] = ("val_psnr",)
    """Objectives, at each trial's best epoch: val_psnr, val_ssim, operations_per_pixel (of the generator), or several,
    separated by spaces. With several, asha promotes by non-dominated fronts, and the winner is the compromise nearest
    to the best value of each."""
    repeats: int | None = None
    """Number of trials, the last ones, that repeat the three best with other seeds, in full; the best mean then wins.
    None: a twentieth of the trials, from 40 trials and for one objective."""
    grace_epochs: int | None = None
    """Epochs after which a trial that is still worse than the noisy input is stopped; 0: never. None: a fifth of the
    trial's epochs, at least 3, with the scheduler asha."""
    stop_collapsed: bool = False
    """Stop trials whose discriminator's accuracies have been pinned at 0 or 1 for three epochs."""
    seed: int = 0
    """Seed of the search algorithm. The option sets that of training, too (`training/seed`)."""
    warm_start: str | None = None
    """Folder or s3:// gs:// prefix of an earlier search: its best points are tried first, and its trials are known to
    the search algorithm if they compare."""
    time_budget: float | None = None
    """Minutes after which the trials end, over all starts of the study; training the winner and the evaluation come on
    top. None: no limit."""
    max_parameters: int | None = None
    """Maximum number of the generator's trainable parameters; larger ones are not trained. None: no limit."""
    max_operations: float | None = None
    """Maximum number of the generator's operations per pixel; slower ones are not trained. None: no limit."""

    @property
    def grace(self) -> int:
        """Epochs that a trial has to become better than the noisy input; 0: unlimited."""
        if self.grace_epochs is not None:
            return self.grace_epochs
        return max(3, -(-self.trial_epochs // 5)) if self.scheduler == "asha" else 0

    def check(self) -> None:
        """Raise `ConfigError` if the values break a rule."""
        for name, least in (("trials", 0), ("trial_epochs", 1), ("repeats", 0), ("grace_epochs", 0), ("seed", 0)):
            value = getattr(self, name)
            require(f"{name} >= {least}", value is None or value >= least, **{name: value})
            require(f"{name} < {MOST:,}", value is None or value < MOST, **{name: value})
        for name in ("time_budget", "max_parameters", "max_operations"):
            value = getattr(self, name)
            require(f"{name} > 0", value is None or value > 0, **{name: value})
        repeats = self.repeats or 0 if self.trials else 0
        require("repeats <= trials / 2", 2 * repeats <= self.trials, repeats=repeats, trials=self.trials)
        require("one objective where repeats > 0", repeats == 0 or len(self.objectives) == 1, repeats=repeats)
        if self.warm_start is not None and self.trials == 0:
            raise ConfigError("a warm start needs trials, but there are none: set --trials, or leave --warm-start out")
        objectives = self.objectives
        each_once = 0 < len(objectives) == len(set(objectives) & set(OBJECTIVES))
        require(f"objectives some of {', '.join(OBJECTIVES)}, each once,", each_once, objectives=objectives)
        if len(objectives) > 1 and self.search_algorithm == "cmaes":
            raise ConfigError("CMA-ES optimizes one objective: use another --search-algorithm")
        if self.search_algorithm == "gp" and (self.max_parameters, self.max_operations) != (None, None):
            # It knows complete trials only.
            raise ConfigError(
                "a Gaussian process would propose what exceeds a limit again and again: leave --max-parameters and "
                "--max-operations out, or use another --search-algorithm"
            )


@dataclass(frozen=True, kw_only=True)
class _Base:
    has_winner: ClassVar[bool]
    """Whether the best trial's configuration is trained in full at the end, instead of evaluating all trials."""

    name: str
    """Name of the study: its folder in the storage."""
    config: Config
    """What every trial starts from."""
    concurrent: int | None = None
    """Maximum number of concurrent trials; an autoscaler is asked for their machines. None: as many as the cluster
    holds."""

    def check_concurrent(self) -> None:
        """Raise `ConfigError` unless at least one trial may run."""
        require("concurrent >= 1", self.concurrent is None or self.concurrent >= 1, concurrent=self.concurrent)


@dataclass(frozen=True, kw_only=True)
class Search(_Base, TrialSettings):
    """What is searched, from where, and for how long; the best trial's configuration is then trained in full."""

    has_winner: ClassVar[bool] = True
    space: Space
    """Optuna distributions by configuration path, some of them perhaps `When` another path has some value."""
    first_points: Sequence[Config] = ()
    """Configurations whose values, at the space's paths, are tried first."""

    @property
    def settings(self) -> TrialSettings:
        """How its trials are proposed, stopped early and judged."""
        return self

    @property
    def sampled_space(self) -> Space:
        """What is sampled: search algorithms that cannot leave a value out draw it for every trial."""
        if self.search_algorithm in ("tpe", "random"):
            return self.space
        return {path: distribution_of(one) for path, one in self.space.items()}

    def quick(self) -> Search:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        name, points = f"{self.name}-quick", [quick(point) for point in self.first_points]
        shrunk: dict[str, Any] = {"config": quick(self.config), "first_points": points}
        shrunk |= {"trials": min(8, self.trials), "trial_epochs": min(4, self.trial_epochs)}
        return dataclasses.replace(self, name=name, repeats=None, **shrunk)

    def changed(self, config: Config, paths: Set[str], settings: Mapping[str, Any]) -> Search:
        """The same experiment with other settings, around a configuration whose values at `paths` are not searched."""
        values = flat_values(config)
        space = without(self.space, {path: values[path] for path in paths})
        # Another network, say, does not have the settings of the one whose place it takes.
        replaced = tuple(f"{path}/" for path in paths)
        space = {path: one for path, one in space.items() if path in values or not path.startswith(replaced)}
        epochs = min(settings.get("trial_epochs", self.trial_epochs), config.training.epochs)
        return dataclasses.replace(self, config=config, space=space, **{**settings, "trial_epochs": epochs})

    def check(self) -> None:
        """Raise `ConfigError` for a value that no trial could have, or that breaks a rule.

        Values that are valid one by one may still be invalid together: such points are not trained.
        """
        TrialSettings.check(self)
        self.check_concurrent()
        if self.trials:
            check_space(self.space, self.config, self.search_algorithm)
        shaping = [path for path in self.space if path.startswith("generator")]
        if self.trials and self.config.training.start_from is not None and shaping:
            raise ConfigError(
                f"trials that start from a denoiser (training/start_from) cannot search {', '.join(shaping)}"
            )

    def points(self) -> list[dict[str, Any]]:
        """The points of the space that are tried first."""
        return [point_of(point, self.sampled_space) for point in self.first_points]

    def values_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values by configuration path; drawn values that another value makes meaningless are left out."""
        values = {**flat_values(self.config), **point}
        return {path: value for path, value in point.items() if is_searched(self.space[path], values)}

    def trial_name(self, number: int, point: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Name of the trial of that number, from 1, at a point."""
        return f"trial-{number:04d}"

    def configs(self) -> dict[str, Config]:
        """The configurations that the study is about, by name."""
        return {self.name: self.config}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the study's outcome: what must agree when it is resumed."""
        settings = {one.name: getattr(self, one.name) for one in dataclasses.fields(TrialSettings)}
        settings |= {"objectives": list(self.objectives), "grace_epochs": self.grace}
        searched = {"space": space_to_json(self.sampled_space), "first_points": self.points()}
        return {"config": self.config.to_json(), **searched, **settings}


@dataclass(frozen=True, kw_only=True)
class Comparison(_Base):
    """Arms that differ in a few values, each trained to the full budget with several seeds."""

    has_winner: ClassVar[bool] = False
    arms: Mapping[str, Mapping[str, object]]
    """Each arm's values by configuration path; the others are compared with the first."""
    seeds: int = 3
    """Trials per arm, with `training/seed` from the configuration's on."""

    @property
    def settings(self) -> TrialSettings:
        """How its trials are run: every combination of arm and seed is a first point, of full length."""
        training = self.config.training
        return TrialSettings(
            trials=len(self.arms) * self.seeds,
            trial_epochs=training.epochs,
            search_algorithm="random",
            scheduler="none",
            repeats=0,
            objectives=(training.best_by or "val_psnr",),
            seed=training.seed,
        )

    @property
    def sampled_space(self) -> Space:
        """What trials differ in."""
        first = self.config.training.seed
        seeds = IntDistribution(first, first + self.seeds - 1)
        # Sorted, since Optuna does not let the order change when a study is resumed.
        return {"arm": CategoricalDistribution(sorted(self.arms)), "seed": seeds}

    def quick(self) -> Comparison:
        """The same experiment shrunk to minutes on two cores, on the sample photos, without VGG19."""
        config = quick(self.config)
        config = with_values(config, {"training/epochs": min(8, config.training.epochs)})
        return dataclasses.replace(self, name=f"{self.name}-quick", config=config)

    def changed(self, config: Config, paths: Set[str], settings: Mapping[str, Any]) -> Comparison:
        """The same experiment with other settings, around a configuration whose values at `paths` are given.

        Raises `ConfigError` if the arms differ in one of them.
        """
        if differing := sorted(paths & {path for arm in self.arms.values() for path in arm}):
            raise ConfigError(f"--set {', '.join(differing)}: the arms differ in it; edit the search file instead")
        return dataclasses.replace(self, config=config, **settings)

    def check(self) -> None:
        """Raise `ConfigError` unless every trial's configuration would be valid, and all would have the same photos."""
        self.check_concurrent()
        require("seeds >= 1", self.seeds >= 1, seeds=self.seeds)
        require("arms not empty", bool(self.arms), arms=list(self.arms))
        for arm in self.arms:
            if not NAME.fullmatch(arm):
                raise ConfigError(f"the name of an arm has letters, digits, '.', '_' and '-' only, but got {arm!r}")
            if ours := {"training/epochs", "training/seed"} & set(self.arms[arm]):
                raise ConfigError(
                    f"arm {arm} has {', '.join(sorted(ours))}, which all arms have in common: set it for all"
                )
        base = flat_values(self.config)
        for arm, config in self.configs().items():
            values = flat_values(config)
            differing = [
                path
                for path in dict.fromkeys([*values, *base])
                if path.startswith(SAME_IN_ALL_ARMS)
                and values.get(path) != base.get(path)
                # Pairs are read for all arms if the configuration that these start from trains on them.
                and not (path == "data/pairs_share" and self.config.data.pairs_share)
            ]
            if differing:
                raise ConfigError(
                    f"arm {arm} differs in {', '.join(differing)}, but photos and machines are the same for all arms: "
                    "set it for all, or run studies of their own"
                )

    def points(self) -> list[dict[str, Any]]:
        """The points of the space that are tried first."""
        first = self.config.training.seed
        return [{"arm": arm, "seed": first + index} for index in range(self.seeds) for arm in self.arms]

    def values_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values by configuration path."""
        return {**self.arms[point["arm"]], "training/seed": point["seed"]}

    def trial_name(self, number: int, point: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Name of the trial of that number, from 1, at a point."""
        return f"{point['arm']}-seed-{point['seed']}"

    def configs(self) -> dict[str, Config]:
        """The arms' configurations, by name."""
        return {arm: with_values(self.config, values) for arm, values in self.arms.items()}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the study's outcome: what must agree when it is resumed."""
        # Kinds, and tuples of them, in their JSON form.
        arms = json.loads(json.dumps({name: dict(arm) for name, arm in self.arms.items()}, default=_to_json))
        return {"config": self.config.to_json(), "arms": arms, "seeds": self.seeds}


def _to_json(section: Section) -> dict[str, Any]:
    return section.to_json()


Experiment = Search | Comparison
"""What a search file defines. Both have the same properties and methods, which is all that the study uses."""


def epochs_at(experiment: Experiment, point: Mapping[str, Any]) -> int:
    """How many epochs the trial at a point may train."""
    settings, config = experiment.settings, experiment.config
    if not settings.equal_compute:
        return settings.trial_epochs
    return epochs_of_equal_computation(with_values(config, experiment.values_at(point)), config, settings.trial_epochs)
