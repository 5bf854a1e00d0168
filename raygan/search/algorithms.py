"""Search algorithms, which propose trials within limits, and what ends trials early: schedulers and stoppers."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from raygan.config.kinds import Generator
from raygan.config.section import ConfigError, flat_values, with_values
from raygan.models.cost import epochs_of_equal_computation, operations_per_pixel, parameters
from raygan.search.experiment import Experiment, TrialSettings
from raygan.search.promotion import Promotion, Scores
from raygan.search.repeats import SEED, ask_repeat, is_repeat, name_of, number_of_repeats
from raygan.search.space import suggest
from raygan.seeds import derived_seed
from raygan.study.ledger import REMEDY, Ledger
from raygan.study.objectives import LESS_IS_BETTER
from raygan.study.storage import reading
from raygan.study.trials import PINNED_EPOCHS, Trials, is_pinned
from raygan.train.driver import DISK_FULL, ERROR, RETRIES

DISTANCE = 0.15
"""How near a proposal of TPE may be to a started trial: of the values that all trials have, at least `DIFFERING` differ
by this share of their range.

Chosen on recorded learning curves, `benchmarks/curves.csv`.
"""
DIFFERING = 0.25
"""The share of these values: a point that differs in one of many is nearly the same trial."""
RANDOM_TRIALS = 5
"""Least number of ended and waiting trials from which on TPE proposes, chosen likewise; Optuna's default is 10."""
INFEASIBLE_DRAWS = 1000
"""How many points in a row may exceed a search's limits, or be invalid."""
INVALID = 1e9
"""The excess of a point that is invalid."""


class DistantTPE(TPESampler):
    """TPE whose candidates keep a distance from all started trials.

    Optuna's own trains its favourite again and again: nothing in it says that a trial of the same values tells little.
    """

    def __init__(self, seed: int, first: int, started: Sequence[FrozenTrial], distance: float) -> None:
        """It proposes at random until `first` trials have ended or wait."""
        # constant_liar: running trials repel new ones.
        super().__init__(seed=seed, n_startup_trials=first, multivariate=True, group=True, constant_liar=True)
        self.started = started
        self.distance = distance

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[Any]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[Any]:
        acquisition: NDArray[Any] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        # TPE samples what is searched always, and what is searched under one condition, apart: in the few values of a
        # condition, every candidate would soon be near, whatever the others are.
        if not self.started or any(samples.keys() - trial.params.keys() for trial in self.started):
            return acquisition
        distances = _distances(self.started, samples).min(axis=0)
        # If all candidates are near, the farthest is taken.
        masked: NDArray[Any] = np.where(distances < self.distance, distances - 1e9, acquisition)
        return masked


def _distances(trials: Sequence[FrozenTrial], samples: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Distances, (trials, candidates), of candidates' internal values by path from trials.

    In each value, the distance is the share of its range; between different choices, it is 1. Of all values together,
    it is that by which at least `DIFFERING` of them differ.
    """
    axes = []
    for path, values in samples.items():
        distribution = trials[0].distributions[path]
        own = np.array([distribution.to_internal_repr(trial.params[path]) for trial in trials])[:, None]
        if isinstance(distribution, CategoricalDistribution):
            axes.append(np.where(values == own, 0.0, 1.0))
            continue
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        scale = np.log if distribution.log else np.asarray
        width = float(scale(distribution.high) - scale(distribution.low))
        axes.append(np.abs(scale(values) - scale(own)) / max(width, 1e-12))
    distances: NDArray[Any] = np.sort(axes, axis=0)[-math.ceil(DIFFERING * len(axes))]
    return distances


def sampler(
    settings: TrialSettings, number: int, values: int, started: Sequence[FrozenTrial], distance: float
) -> BaseSampler:
    """Optuna's sampler for the proposal of that number, suited to concurrent trials that are stopped early.

    Each proposal has a seed of its own: a resumed search proposes what an uninterrupted one does. TPE keeps a distance
    from the trials that have `started`. It begins when more trials have ended or wait than there are `values` to
    search, as in BOHB (Falkner et al., 2018), or after the first third of the search.
    """
    # Optuna's seeds have 32 bits.
    seed = derived_seed("proposal", settings.seed, number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.search_algorithm:
            case "tpe":
                first = max(RANDOM_TRIALS, min(values + 1, settings.trials // 3))
                return DistantTPE(seed, first, started, distance)
            case "gp":
                return GPSampler(seed=seed)
            case "cmaes":
                return CmaEsSampler(seed=seed, consider_pruned_trials=True)
            case "nsga2":
                # Optuna's default generations of 50 would often be the whole search.
                return NSGAIISampler(seed=seed, population_size=max(4, min(50, settings.trials // 5)))
            case "random":
                return RandomSampler(seed=seed)


class _Refusal(NamedTuple):
    """Why a point is not trained."""

    excess: float
    """By what fraction it exceeds a limit."""
    reason: str


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the trials of an Optuna study, and tells Optuna how they went.

    Unlike Ray's `OptunaSearch`, it keeps no state of its own, resumes the trials that a killed search left running,
    and records those that a scheduler stopped as pruned, with their score at each epoch.
    """

    def __init__(self, trials: Trials, experiment: Experiment, ledger: Ledger) -> None:
        """`ledger` has the epochs of earlier starts of the study."""
        super().__init__()
        self.trials = trials
        self.experiment = experiment
        self.values = flat_values(experiment.config)
        self.promotion = promotion_of(experiment.settings)
        self.hopeless = HopelessTrials(experiment.settings)
        """What stops trials besides the scheduler; these do not wait."""
        self.unfinished = self._learn_earlier_trials(ledger)
        self.running: dict[str, optuna.Trial] = {}
        """By Tune's id."""
        self.losses = Counter[int]()
        """How often a trial lost its process, by its number."""

    def _learn_earlier_trials(self, ledger: Ledger) -> list[optuna.Trial]:
        """Take in what earlier starts of the study found; returns the trials that they left running."""
        for started in itertools.filterfalse(is_repeat, self.trials.started()):
            name = started.user_attrs["trial"]
            with reading(ledger.folder, "metrics.csv", REMEDY):
                scores = {int(row["epoch"]): self._scores(row) for row in ledger.epochs_of(name)}
                self.promotion.learn(name, scores, self._epochs(started))
        unfinished = []
        for trial in self.trials.unfinished():
            name = trial.user_attrs.get("trial", "")
            last = max(ledger.epochs.get(name, {}), default=0)
            rung = self.promotion.rung_at(last, self._epochs(trial)) if last and not is_repeat(trial) else 0
            if rung > self.promotion.passed.get(name, 0):
                self.promotion.wait(name, rung)
            else:
                unfinished.append(trial)
        self.trials.waiting = set(self.promotion.waiting)
        return unfinished

    def _epochs(self, trial: FrozenTrial | optuna.Trial) -> int:
        """How many epochs a trial may train."""
        settings, config = self.experiment.settings, self.experiment.config
        if not settings.equal_compute:
            return settings.trial_epochs
        own = with_values(config, self.experiment.values_at(trial.params))
        return epochs_of_equal_computation(own, config, settings.trial_epochs)

    def _scores(self, metrics: Mapping[str, Any]) -> Scores:
        """The objectives at an epoch, of which higher is better."""
        signs = {name: -1 if name in LESS_IS_BETTER else 1 for name in self.experiment.settings.objectives}
        return tuple(sign * float(metrics[f"best_{name}"]) for name, sign in signs.items())

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles what it is given, for a restore that is never used: the study's folder is what goes on.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, new or not: its name, parameters, epochs, the rung that it has passed, and its seed.

        None: later; `FINISHED`: no more. Raises `ConfigError` if no point meets the constraint.
        """
        if self.unfinished:
            trial = self.unfinished.pop(0)
            # A kill may have left it without some values.
            suggest(trial, self.experiment.sampled_space, self.values)
            if "trial" not in trial.user_attrs and (refusal := self._refusal(trial)) is not None:
                self._refuse(trial, refusal.excess)
                return self.suggest(trial_id)
        elif (name := self.promotion.next()) is not None:
            trial = self.trials.named(name)
            self.trials.waiting.discard(name)
        elif (new := self._new_trial()) is None:
            # What still runs may let a trial go on.
            return None if self.running else str(self.FINISHED)
        else:
            trial = new
        self.running[trial_id] = trial
        if is_repeat(trial):
            name = self.trials.begin(trial, lambda *_: name_of(trial))
            passed, seed = self.experiment.settings.trial_epochs, trial.user_attrs[SEED]
        else:
            name = self.trials.begin(trial, self.experiment.trial_name)
            passed, seed = self.promotion.passed.get(name, 0), self.experiment.config.training.seed
        epochs = self._epochs(trial)
        return {"trial": name, "params": dict(trial.params), "epochs": epochs, "passed": passed, "seed": seed}

    def _new_trial(self) -> optuna.Trial | None:
        """A proposal, or at the end a repeat; None: not now, or no more."""
        settings, started = self.experiment.settings, self.trials.started()
        if len(started) >= settings.trials:
            return None
        if len(started) < settings.trials - number_of_repeats(settings):
            return self._propose()
        if self.running and not any(map(is_repeat, started)):
            # What still runs may be among the best.
            return None
        return ask_repeat(self.trials, settings, self.experiment.config.training.seed) or self._propose()

    def _propose(self) -> optuna.Trial:
        """A new trial within the limits."""
        settings, refused = self.experiment.settings, list[_Refusal]()
        for _ in range(INFEASIBLE_DRAWS):
            study = self.trials.with_waiting_as_pruned()
            known = study.get_trials(deepcopy=False)
            # What meets the limits may be a small part of the space.
            distance = DISTANCE * max(0.0, 1 - len(refused) / 10)
            values = len(self.experiment.sampled_space)
            study.sampler = sampler(settings, len(known), values, self.trials.started(), distance)
            trial = study.ask()
            suggest(trial, self.experiment.sampled_space, self.values)
            if (refusal := self._refusal(trial)) is None:
                return trial
            refused.append(refusal)
            self._refuse(trial, refusal.excess)
        raise ConfigError(
            f"of {INFEASIBLE_DRAWS:,} proposals in a row none can be trained; of that which came nearest, "
            f"{min(refused).reason}"
        )

    def _refusal(self, trial: optuna.Trial) -> _Refusal | None:
        """Why a trial cannot be run; None: it can."""
        settings = self.experiment.settings
        try:
            config = with_values(self.experiment.config, self.experiment.values_at(trial.params))
        except ConfigError as error:
            # Values that are valid one by one.
            return _Refusal(INVALID, f"the values are invalid together: {error}")
        if (excess := excess_cost(settings, config.generator)) <= 0:
            return None
        has = f"the generator has {_cost(config.generator)}, but {_limits(settings)} was asked for"
        return _Refusal(excess, f"{has}: raise the limit, or widen the search space towards smaller ones")

    def _refuse(self, trial: optuna.Trial, excess: float) -> None:
        """Tell Optuna that a point will not be trained, and by how much it exceeds a limit."""
        with warnings.catch_warnings():
            # CMA-ES, which warns about it, ignores the excess.
            warnings.filterwarnings("ignore", message="Constraints have been set", category=UserWarning)
            # Pruned without a value, it ranks below everything that ran; among such points, the excess tells TPE which
            # are nearest to the limit.
            trial.set_constraint("cost", excess)
            self.trials.study.tell(trial, state=TrialState.PRUNED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the score at the trial's epoch, which, unlike Tune's iteration, survives restarts."""
        # A trial that was just stopped may still report an epoch.
        if ERROR not in result and trial_id in self.running:
            self._report(self.running[trial_id], result)

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> None:
        # In the epochs of the configuration as it is, so that Optuna compares equal computation.
        self.trials.report(trial, result, result["epoch"] * self.experiment.settings.trial_epochs // result["epochs"])
        if not is_repeat(trial):
            scores = {result["epoch"]: self._scores(result)}
            self.promotion.learn(trial.user_attrs["trial"], scores, result["epochs"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record that the trial waits, or its end: complete at the full budget, pruned before, failed on an error.

        A trial that lost its process is suggested again, `RETRIES` times.
        """
        trial = self.running.pop(trial_id)
        self.losses[trial.number] += error
        if error and self.losses[trial.number] <= RETRIES:
            self.unfinished.append(trial)
            return
        if result is not None and ERROR not in result:
            # Tune does not pass on the result at which a scheduler stopped the trial.
            self._report(trial, result)
            may_go_on = trial_id not in self.hopeless.stopped and not is_repeat(trial)
            name, rung = trial.user_attrs["trial"], self.promotion.rung_at(result["epoch"], result["epochs"])
            if may_go_on and result["epoch"] < result["epochs"] and rung > self.promotion.passed.get(name, 0):
                self.promotion.wait(name, rung)
                self.trials.waiting = set(self.promotion.waiting)
                self.end(self.promotion.hopeless())
                return
        if (result or {}).get(ERROR, "").startswith(DISK_FULL):
            # Left running: it resumes with the study.
            return
        message = (result or {}).get(ERROR) or ("it lost its process too often" if error else None)
        self.trials.end(trial, result, message)

    def end_unfinished(self) -> None:
        """Record that the trials which wait or ran will not go on."""
        self.end(sorted(trial.user_attrs["trial"] for trial in self.trials.unfinished() if "trial" in trial.user_attrs))

    def end(self, names: Sequence[str]) -> None:
        """Record that trials will not go on."""
        for name in names:
            trial = self.trials.named(name)
            self.trials.waiting.discard(name)
            self.trials.end(trial, {"epoch": 0, "epochs": 1})

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study is the state."""


class Rungs(FIFOScheduler):  # type: ignore[misc]
    """Ends a Tune trial at each rung, where it waits to be promoted: `OptunaSearcher` then starts it again."""

    def __init__(self, promotion: Promotion) -> None:
        super().__init__()
        self.promotion = promotion

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Whether the trial continues: up to the next rung above those that it has passed."""
        if ERROR in result or result["epoch"] >= result["epochs"]:
            return str(self.CONTINUE)
        rung = self.promotion.rung_at(result["epoch"], result["epochs"])
        return str(self.STOP if rung > trial.config["passed"] else self.CONTINUE)


class MedianStopping(MedianStoppingRule):  # type: ignore[misc]
    """The median stopping rule (Golovin et al., 2017): a trial stops if its best falls below the others' median.

    Ray's own forgets earlier starts of a study. It also stops a trial at its last epoch: here it ends by itself, since
    killed while a TorchTrainer inside it shuts down, it can leave that trainer's resources reserved for ever.
    """

    def __init__(self, settings: TrialSettings, earlier: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """`earlier` has the epochs of trials that have ended, by name."""
        objective = settings.objectives[0]
        mode = "min" if objective in LESS_IS_BETTER else "max"
        # Trials are compared by their best epochs so far, since those are what they leave.
        metric = f"best_{objective}"
        super().__init__(time_attr="epoch", metric=metric, mode=mode, grace_period=1, min_samples_required=3)
        self.epochs = settings.trial_epochs
        before_any_trial = SimpleNamespace(get_live_trials=list)
        for name, epochs in earlier.items():
            trial = Trial(name, trial_id=name, stub=True)
            super().on_trial_add(before_any_trial, trial)
            for metrics in epochs:
                super().on_trial_result(before_any_trial, trial, dict(metrics))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial continues; an epoch that an earlier start trained stops nothing."""
        if ERROR in result:
            return str(self.CONTINUE)
        decision = super().on_trial_result(tune_controller, trial, result)
        if not result["restored"] and result["epoch"] < self.epochs:
            return str(decision)
        # The rule refuses further results of a trial that it has stopped.
        self._stopped_trials.discard(trial)
        return str(self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Take in the end of a trial."""
        if ERROR not in result:
            super().on_trial_complete(tune_controller, trial, result)


def promotion_of(settings: TrialSettings) -> Promotion:
    """The promotion of these settings; without ASHA, there are no rungs to wait at."""
    epochs = settings.trial_epochs if settings.scheduler == "asha" else 1
    return Promotion(epochs, settings.trials - number_of_repeats(settings))


def scheduler(settings: TrialSettings, earlier: Mapping[str, Sequence[Mapping[str, Any]]]) -> TrialScheduler:
    """The early-stopping scheduler of these settings; `earlier` has the epochs of ended trials by name."""
    match settings.scheduler:
        case "asha":
            return Rungs(promotion_of(settings))
        case "median":
            return MedianStopping(settings, earlier)
        case "none":
            return FIFOScheduler()


class HopelessTrials:
    """Stops trials whose best epoch is worse than the noisy input, and, if asked to, those that have collapsed."""

    def __init__(self, settings: TrialSettings) -> None:
        self.settings = settings
        self.pinned: dict[str, int] = {}
        """Epochs in a row that each trial has been pinned."""
        self.stopped: set[str] = set()
        """The trials that were stopped."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial stops here. At its last epoch it ends by itself."""
        if ERROR in result or result["epoch"] >= result["epochs"] or not self._is_hopeless(trial_id, result):
            return False
        self.stopped.add(trial_id)
        return True

    def _is_hopeless(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.pinned[trial_id] = self.pinned.get(trial_id, 0) + 1 if is_pinned(result) else 0
        if self.settings.stop_collapsed and self.pinned[trial_id] >= PINNED_EPOCHS:
            return True
        grace_is_over = 0 < self.settings.grace * result["epochs"] <= result["epoch"] * self.settings.trial_epochs
        return grace_is_over and bool(result["best_val_psnr"] < result["val_psnr_noisy"])


class StudyLimits(Stopper):  # type: ignore[misc]
    """Stops all trials once one has no room on the disk, or the time budget is spent."""

    def __init__(self, settings: TrialSettings, elapsed: Callable[[], float]) -> None:
        """`elapsed` returns the seconds that the trials have run, over all starts of the study."""
        self.budget = math.inf if settings.time_budget is None else 60 * settings.time_budget
        self.elapsed = elapsed
        self.disk_full = ""
        """The message of the trial that has no room; empty: none."""

    @property
    def is_budget_spent(self) -> bool:
        """Whether the time budget is spent."""
        return self.elapsed() >= self.budget

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Take in a result; stops no single trial."""
        if result.get(ERROR, "").startswith(DISK_FULL):
            self.disk_full = result[ERROR]
        return False

    def stop_all(self) -> bool:
        """Whether all trials stop."""
        return bool(self.disk_full) or self.is_budget_spent


def excess_cost(settings: TrialSettings, generator: Generator) -> float:
    """By what fraction the generator exceeds a limit of these settings; at most 0 if it meets all."""
    excess = [0.0]
    if settings.max_parameters is not None:
        excess.append(parameters(generator) / settings.max_parameters - 1)
    # The operations of one that is too large are not worth counting.
    if settings.max_operations is not None and max(excess) <= 0:
        excess.append(operations_per_pixel(generator) / settings.max_operations - 1)
    return max(excess)


def check_first_points(experiment: Experiment) -> None:
    """Raise `ConfigError` if the generator of one of the first points exceeds a limit."""
    # Without trials, none is tried.
    points = experiment.points() if experiment.settings.trials else []
    for number, point in enumerate(points, start=1):
        generator = with_values(experiment.config, experiment.values_at(point)).generator
        if excess_cost(experiment.settings, generator) > 0:
            raise ConfigError(
                f"first point {number}: its generator has {_cost(generator)}, but {_limits(experiment.settings)} was "
                "asked for; raise the limit, or take the point out of first_points in the search file"
            )


def _limits(settings: TrialSettings) -> str:
    """The limits as options."""
    limits = {"--max-parameters": settings.max_parameters, "--max-operations": settings.max_operations}
    return " ".join(f"{option} {limit}" for option, limit in limits.items() if limit is not None)


def _cost(generator: Generator) -> str:
    """What a generator costs, in words."""
    count, operations = parameters(generator), operations_per_pixel(generator)
    return f"{count:,} trainable parameters and {operations:,.0f} operations per pixel ({generator})"
