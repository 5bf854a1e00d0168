"""The searcher, which proposes trials, and the scheduler, which stops them early."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from raygan.search.snapshot import KeepState
from raygan.search.space import Space

METRIC = "best_val_psnr"
"""What a search maximises: a trial's highest validation PSNR so far, since its best epoch is what it would ship."""


class EpochOptunaSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's OptunaSearch, telling Optuna which trials were pruned.

    Ray's own counts a trial that the scheduler stopped as complete at its last score, which makes Optuna compare
    scores of different budgets. Here it is told PRUNED, with its score at each epoch.
    """

    def __init__(self, space: Space, first_points: Sequence[Mapping[str, Any]], seed: int, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # constant_liar: trials that still run repel new ones, which parallel search needs.
            sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True)
        super().__init__(
            space=dict(space),
            metric=METRIC,
            mode="max",
            points_to_evaluate=[dict(point) for point in first_points],
            sampler=sampler,
        )
        self.epochs = epochs
        self.reported: dict[str, int] = {}

    def save(self, checkpoint_path: str) -> None:
        """Save the state, and remember where Tune keeps its own."""
        KeepState.staging = Path(checkpoint_path).parent
        super().save(checkpoint_path)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the score at the trial's epoch, which, unlike Tune's iteration, survives restarts."""
        epoch = int(result["epoch"])
        if epoch > self.reported.get(trial_id, 0):
            self._ot_trials[trial_id].report(result[METRIC], epoch)
            self.reported[trial_id] = epoch

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna: complete at the full budget, pruned before it, failed on an error."""
        if result is not None:
            # Tune does not pass on the result at which the scheduler stopped the trial.
            self.on_trial_result(trial_id, result)
        pruned = result is not None and result["epoch"] < self.epochs
        super().on_trial_complete(trial_id, None if pruned else result, error)


class EpochAsha(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al., 2020): every third trial goes on from epochs 1, 3, 9, …

    Ray's own also stops a trial at its last epoch. Here it ends by itself: killed while a TorchTrainer inside it is
    closing down, it can leave that trainer's resources reserved for ever.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(time_attr="epoch", metric=METRIC, mode="max", max_t=epochs, grace_period=1, reduction_factor=3)
        self.epochs = epochs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if result["epoch"] >= self.epochs:
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))
