"""The early-stopping scheduler, and stoppers: of hopeless trials, and of a study whose time or disk is used up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.stopper import Stopper

from raygan.search.experiment import TrialSettings
from raygan.search.promotion import Promotion
from raygan.study.trials import PINNED_EPOCHS, is_pinned
from raygan.train.driver import DISK_FULL, ERROR


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
