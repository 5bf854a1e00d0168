"""A search algorithm for Ray Tune: the trials of an Optuna study."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raygan.config.section import ConfigError, flat_values, with_values
from raygan.search.algorithms import DISTANCE, sampler
from raygan.search.experiment import Experiment, epochs_at
from raygan.search.limits import Refusal, refusal
from raygan.search.promotion import Scores, promotion_of
from raygan.search.repeats import SEED, ask_repeat, is_repeat, name_of, number_of_repeats
from raygan.search.space import suggest
from raygan.search.stopping import HopelessTrials
from raygan.storage import reading
from raygan.study.ledger import REMEDY, Ledger
from raygan.study.objectives import LESS_IS_BETTER
from raygan.study.trials import Trials
from raygan.train.driver import DISK_FULL, ERROR, RETRIES

INFEASIBLE_DRAWS = 1000
"""How many points in a row may exceed a search's limits, or be invalid."""
INVALID = 1e9
"""The excess of a point that is invalid."""


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the trials of an Optuna study, and tells Optuna how they went.

    Unlike Ray's `OptunaSearch`, it saves no state of its own, resumes the trials that a killed search left running,
    and records those that a scheduler stopped as pruned, with their score at each epoch.
    """

    def __init__(self, trials: Trials, experiment: Experiment, ledger: Ledger) -> None:
        """`ledger` has the epochs of earlier starts of the study."""
        super().__init__()
        self.trials = trials
        self.experiment = experiment
        self.values = flat_values(experiment.config)
        self.promotion = promotion_of(experiment.settings)
        trials.waiting = self.promotion.waiting
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
                self.promotion.learn(name, scores, epochs_at(self.experiment, started.params))
        unfinished = []
        for trial in self.trials.unfinished():
            name = trial.user_attrs.get("trial", "")
            last = max(ledger.epochs.get(name, {}), default=0)
            epochs = epochs_at(self.experiment, trial.params)
            rung = self.promotion.rung_at(last, epochs) if last and not is_repeat(trial) else 0
            if rung > self.promotion.passed.get(name, 0):
                self.promotion.waiting[name] = rung
            else:
                unfinished.append(trial)
        return unfinished

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
            if "trial" not in trial.user_attrs and (found := self._refusal(trial)) is not None:
                self._refuse(trial, found.excess)
                return self.suggest(trial_id)
        elif (name := self.promotion.next()) is not None:
            trial = self.trials.named(name)
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
        epochs = epochs_at(self.experiment, trial.params)
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
        settings, refused = self.experiment.settings, list[Refusal]()
        for _ in range(INFEASIBLE_DRAWS):
            study = self.trials.with_waiting_as_pruned()
            known = study.get_trials(deepcopy=False)
            # What meets the limits may be a small part of the space.
            distance = DISTANCE * max(0.0, 1 - len(refused) / 10)
            values = len(self.experiment.sampled_space)
            study.sampler = sampler(settings, len(known), values, self.trials.started(), distance)
            trial = study.ask()
            suggest(trial, self.experiment.sampled_space, self.values)
            if (found := self._refusal(trial)) is None:
                return trial
            refused.append(found)
            self._refuse(trial, found.excess)
        raise ConfigError(
            f"of {INFEASIBLE_DRAWS:,} proposals in a row none can be trained; the nearest: {min(refused).reason}; "
            "widen the search space, or raise the limits"
        )

    def _refusal(self, trial: optuna.Trial) -> Refusal | None:
        """Why a trial cannot be run; None: it can."""
        try:
            config = with_values(self.experiment.config, self.experiment.values_at(trial.params))
        except ConfigError as error:
            # Values that are valid one by one.
            return Refusal(INVALID, f"the values are invalid together: {error}")
        return refusal(self.experiment.settings, config.generator)

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
                self.promotion.waiting[name] = rung
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
            self.promotion.waiting.pop(name, None)
            self.trials.end(trial, {"epoch": 0, "epochs": 1})

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study is the state."""
