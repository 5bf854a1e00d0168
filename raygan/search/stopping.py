"""When trials end before their budget, besides what the scheduler decides."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.stopper import CombinedStopper, FunctionStopper, TimeoutStopper

from raygan.search.experiment import TrialSettings
from raygan.study.trials import PINNED_EPOCHS, is_pinned
from raygan.train.driver import ERROR


def halving_factor(epochs: int) -> float:
    """The factor, near 3, with which successive halving's rungs 1, factor, factor², … end exactly at the last epoch.

    With a factor of 3 whatever the budget, 30 epochs would have a rung at 27, where little is left to save.
    """
    rungs = max(1, round(math.log(epochs, 3)))
    # Rounded, since 27 ** (1 / 3) is slightly above 3, which would move the rungs by an epoch.
    return max(2.0, round(math.exp(math.log(epochs) / rungs), 9))


class HopelessTrials:
    """Stops trials whose best epoch is worse than the noisy input, and, if asked to, those that have collapsed."""

    def __init__(self, settings: TrialSettings) -> None:
        self.settings = settings
        self.pinned: dict[str, int] = {}
        """Epochs in a row that each trial has been pinned."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial stops here. At its last epoch it ends by itself."""
        if ERROR in result or result["epoch"] >= self.settings.trial_epochs:
            return False
        self.pinned[trial_id] = self.pinned.get(trial_id, 0) + 1 if is_pinned(result) else 0
        if self.settings.stop_collapsed and self.pinned[trial_id] >= PINNED_EPOCHS:
            return True
        grace_is_over = 0 < self.settings.grace <= result["epoch"]
        return grace_is_over and bool(result["best_val_psnr"] < result["val_psnr_noisy"])


def stopper(settings: TrialSettings, seconds_spent: float) -> CombinedStopper:
    """What stops trials; earlier starts of the study have taken `seconds_spent`."""
    budget = math.inf if settings.time_budget is None else 60 * settings.time_budget - seconds_spent
    return CombinedStopper(FunctionStopper(HopelessTrials(settings)), TimeoutStopper(budget))
