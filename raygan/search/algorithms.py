"""The searcher, which proposes trials, and the schedulers, which stop or change them on the way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raygan.study.objectives import LESS_IS_BETTER
from raygan.search.constraint import Constraint
from raygan.search.drivers import Drivers
from raygan.search.stopping import halving_factor
from raygan.search.experiment import Objective, Search
from raygan.study.ledger import Ledger
from raygan.search.snapshot import KeepState
from raygan.search.space import Space, distribution_of, suggest
from raygan.config.section import ConfigError
from raygan.study.storage import Folder

INFEASIBLE_DRAWS = 1000
"""How many points in a row may exceed a search's limits."""


def score(objective: Objective) -> str:
    """The metric of that objective: at a trial's best epoch so far, since that epoch is what it would ship."""
    return f"best_{objective}"


def mode(objective: Objective) -> str:
    """Ray Tune's word for which is better, more or less."""
    return "min" if objective in LESS_IS_BETTER else "max"


def sampler(search: Search) -> BaseSampler:
    """Optuna's sampler of that name, made for trials that run at once and are ended early."""
    seed = search.seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match search.searcher:
            case "tpe":
                # constant_liar: trials that still run repel new ones.
                return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
            case "gp":
                return GPSampler(seed=seed)
            case "cmaes":
                return CmaEsSampler(seed=seed, consider_pruned_trials=True)
            case "nsga2":
                # Optuna's own generations of 50 would often be all of the search.
                return NSGAIISampler(seed=seed, population_size=max(4, min(50, search.trials // 5)))
            case "random":
                return RandomSampler(seed=seed)


class EpochOptunaSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's OptunaSearch, telling Optuna which trials were pruned.

    Ray's own counts a trial that the scheduler stopped as complete at its last score, which makes Optuna compare
    scores of different budgets. Here it is told PRUNED, with its score at each epoch.
    """

    concurrent: ClassVar[float] = math.inf
    """How many trials run at once. Of the class, since a study may go on, unpickled by Tune, on another cluster."""

    drivers: ClassVar[Drivers | None] = None
    """The others that work on the same search, if any; of the class for the same reason."""

    def __init__(
        self,
        sampler: BaseSampler,
        space: Space,
        first_points: Sequence[Mapping[str, Any]],
        epochs: int,
        values: Mapping[str, Any],
        earlier: Sequence[FrozenTrial] = (),
        objectives: Sequence[Objective] = ("val_psnr",),
        constraint: Constraint | None = None,
    ) -> None:
        """`values`, by configuration path, are those of paths that are not searched; `earlier` trials are known.

        Points that do not meet the `constraint` are not proposed.
        """
        scores, modes = [score(one) for one in objectives], [mode(one) for one in objectives]
        several = len(objectives) > 1
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            space=partial(suggest, space=space, values=values),
            metric=scores if several else scores[0],
            mode=modes if several else modes[0],
            points_to_evaluate=[dict(point) for point in first_points],
            sampler=sampler,
        )
        self._ot_study.add_trials(earlier)
        self.epochs = epochs
        self.constraint = constraint
        self.reported: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The values of a new trial; none while as many run as may.

        Raises `ConfigError` where no point is found that meets the constraint.
        """
        if len(self._ot_trials.keys() - self._completed_trials) >= self.concurrent:
            return None
        if self.drivers is not None:
            self.drivers.exchange(self._ot_study)
        values: dict[str, Any] = super().suggest(trial_id)
        if self.constraint is None:
            return values
        cheapest = None
        for _ in range(INFEASIBLE_DRAWS):
            cost = self.constraint.cost(self._ot_trials[trial_id].params)
            if cost.excess <= 0:
                return values
            if cheapest is None or cost.excess < cheapest.excess:
                cheapest = cost
            self._refuse(self._ot_trials.pop(trial_id), cost.excess)
            values = super().suggest(trial_id)
        assert cheapest is not None
        raise ConfigError(
            f"of {INFEASIBLE_DRAWS:,} proposals in a row none met {self.constraint}: the cheapest generator among them "
            f"has {cheapest.told}; raise the limit, or widen the search space towards smaller ones"
        )

    def _refuse(self, trial: optuna.Trial, excess: float) -> None:
        """Tell Optuna that a point will not be trained, and by how much it exceeds a limit."""
        with warnings.catch_warnings():
            # CMA-ES, which warns of it, makes no use of the excess: of what it draws the feasible is taken.
            warnings.filterwarnings("ignore", message="Constraints have been set", category=UserWarning)
            # PRUNED without a value, TPE ranks it below whatever ran. But while little has run, it counts the best
            # tenth of all points as good, these too: by the excess it knows which of them are nearest to the limit.
            # Without it, all look alike, and it keeps proposing the like of the first ones.
            trial.set_constraint("cost", excess)
            self._ot_study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Save the state, and remember where Tune keeps its own."""
        KeepState.staging = Path(checkpoint_path).parent
        super().save(checkpoint_path)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the score at the trial's epoch, which, unlike Tune's iteration, survives restarts."""
        if isinstance(self.metric, list):
            # Optuna takes the scores of several objectives at a trial's end only.
            return
        epoch = int(result["epoch"])
        if epoch > self.reported.get(trial_id, 0):
            self._ot_trials[trial_id].report(result[self.metric], epoch)
            self.reported[trial_id] = epoch

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna: complete at the full budget, pruned before it, failed on an error."""
        if result is not None:
            # Tune does not pass on the result at which the scheduler stopped the trial.
            self.on_trial_result(trial_id, result)
        pruned = result is not None and result["epoch"] < self.epochs
        super().on_trial_complete(trial_id, None if pruned else result, error)


class EpochAsha(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al., 2020): of about three trials, one goes on from epochs 1, 3, 9, …

    The rungs follow from the budget (see `halving_factor`). Ray's own also stops a trial at its last epoch. Here it
    ends by itself: killed while a TorchTrainer inside it is closing down, it can leave that trainer's resources
    reserved for ever. And Ray's own forgets all scores when a search goes on after a stop: here they are taken from the
    study's `folder`.
    """

    def __init__(self, folder: str, epochs: int, objective: Objective = "val_psnr") -> None:
        super().__init__(
            time_attr="epoch",
            metric=score(objective),
            mode=mode(objective),
            max_t=epochs,
            grace_period=1,
            reduction_factor=halving_factor(epochs),
        )
        self.behind = _EpochsBehind(folder)
        self.epochs = epochs

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a trial, with the epochs that it may have behind it."""
        super().on_trial_add(tune_controller, trial)
        for epoch in self.behind.of(trial):
            super().on_trial_result(tune_controller, trial, epoch)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if result["epoch"] >= self.epochs:
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


class EpochMedian(MedianStoppingRule):  # type: ignore[misc]
    """The median stopping rule (Golovin et al., 2017): a trial ends where its best falls below the others' median.

    It differs from Ray's own as `EpochAsha` does.
    """

    def __init__(self, folder: str, epochs: int, objective: Objective = "val_psnr") -> None:
        super().__init__(
            time_attr="epoch",
            metric=score(objective),
            mode=mode(objective),
            grace_period=1,
            min_samples_required=3,
        )
        self.behind = _EpochsBehind(folder)
        self.epochs = epochs

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a trial, with the epochs that it may have behind it."""
        super().on_trial_add(tune_controller, trial)
        self._results[trial].extend(self.behind.of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if result["epoch"] >= self.epochs:
            self._results[trial].append(result)
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


class Population(BasicVariantGenerator):  # type: ignore[misc]
    """Ray's generator, which draws a whole population at once, at random."""

    def save_to_dir(self, dirpath: str, session_str: str) -> None:
        """Save the state, and remember where Tune keeps its own."""
        KeepState.staging = Path(dirpath)
        super().save_to_dir(dirpath, session_str)


class EpochPopulation(PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training (Jaderberg et al., 2017): ten times, the worst quarter goes on from the best one.

    A trial that goes on from another's checkpoint takes its values too, changed within the search space. All wait for
    each other before: else a checkpoint could be gone when the trial that is to go on from it gets its turn.
    """

    def __init__(self, space: Space, epochs: int, objective: Objective = "val_psnr") -> None:
        super().__init__(
            time_attr="epoch",
            metric=objective,
            mode=mode(objective),
            perturbation_interval=perturbation_interval(epochs),
            synch=True,
            hyperparam_mutations={
                path: list(one.choices) if isinstance(one, CategoricalDistribution) else tune_domain(one)
                for path, one in ((path, distribution_of(one)) for path, one in space.items())
            },
            custom_explore_fn=partial(_within, space=space),
            log_config=False,
        )
        self.epochs = epochs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on, waits, or goes on from another's checkpoint; at its last epoch it ends."""
        if result["epoch"] >= self.epochs:
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a trial, perhaps one that goes on: Ray's own takes all for new, and so would not let them wait."""
        from_earlier_start = trial.has_reported_at_least_once and trial not in self._trial_state
        super().on_trial_add(tune_controller, trial)
        if from_earlier_start and not trial.is_finished():
            # Tune starts what is pending in any order, but asks when to start what waits.
            trial.set_status(Trial.PAUSED)
        if trial.has_reported_at_least_once:
            self._save_trial_state(self._trial_state[trial], trial.last_result["epoch"], trial.last_result, trial)
        epochs = [state.last_train_time for one, state in self._trial_state.items() if not one.is_finished()]
        # All wait for each other at the next exchange: where some are there already, it is still to come.
        interval = self._perturbation_interval
        exchanges, rest = divmod(max(epochs, default=0), interval)
        some_wait = rest == 0 and min(epochs, default=0) < exchanges * interval
        self._next_perturbation_sync = (exchanges if some_wait else exchanges + 1) * interval
        for state in self._trial_state.values():
            state.last_perturbation_time = self._next_perturbation_sync - interval

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Let the others go on without a trial that failed: Ray's own waits for it for ever."""
        if trial.status == Trial.ERROR:
            # It lost its process, and is started again.
            return
        tune_controller._live_trials.discard(trial)
        # Nor does it take part in an exchange.
        self._trial_state[trial].last_score = None
        left = list(tune_controller.get_live_trials())
        if left and all(self._trial_state[one].last_train_time >= self._next_perturbation_sync for one in left):
            # It was the last one that the others waited for.
            super().on_trial_result(tune_controller, left[0], left[0].last_result)


def perturbation_interval(epochs: int) -> int:
    """Epochs between two exchanges of a population."""
    return max(1, epochs // 10)


def tune_domain(distribution: BaseDistribution) -> Any:
    """The same distribution as Ray Tune writes it."""
    if isinstance(distribution, CategoricalDistribution):
        return tune.choice(list(distribution.choices))
    if isinstance(distribution, FloatDistribution):
        draw = tune.loguniform if distribution.log else tune.uniform
        return draw(distribution.low, distribution.high)
    assert isinstance(distribution, IntDistribution)
    # Ray Tune's upper end is exclusive.
    draw = tune.lograndint if distribution.log else tune.randint
    return draw(distribution.low, distribution.high + 1)


def _within(values: dict[str, Any], space: Space) -> dict[str, Any]:
    """Values that a perturbation moved out of the space, moved back to its edge."""
    moved = dict(values)
    for path, one in space.items():
        if isinstance(one, FloatDistribution | IntDistribution):
            moved[path] = min(max(moved[path], one.low), one.high)
    return moved


class _EpochsBehind:
    """The epochs of the trials that an earlier start of the study began, read once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.ledger: Ledger | None = None

    def of(self, trial: Trial) -> list[dict[str, Any]]:
        """One trial's, in order; none of a new one."""
        if not trial.has_reported_at_least_once:
            return []
        self.ledger = self.ledger or Ledger(Folder(self.folder))
        return self.ledger.epochs_of(str(trial))
