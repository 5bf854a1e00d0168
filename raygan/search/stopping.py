"""What is not worth its epochs: when trials end before their budget, besides what the scheduler decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.stopper import Stopper, TimeoutStopper

PINNED = 0.01
"""How close to 0 or 1 an accuracy must be to count as pinned there."""
PINNED_EPOCHS = 3
"""Epochs in a row with pinned accuracies that make a collapse."""


def halving_factor(epochs: int) -> float:
    """The factor, near 3, by which successive halving's rungs 1, factor, factor², … end at the last epoch exactly.

    With a factor of 3 whatever the budget, 30 epochs had a rung at 27, where little is left to save.
    """
    rungs = max(1, round(math.log(epochs, 3)))
    return max(2.0, math.exp(math.log(epochs) / rungs))


def is_pinned(metrics: Mapping[str, Any]) -> bool:
    """Whether the discriminator's accuracies on clean and on denoised crops both lie at 0 or 1, over an epoch.

    It then tells the generator nothing: it is always right, always wrong, or says the same of every image.
    """
    accuracies = (float(metrics[f"discriminator_accuracy_{images}"]) for images in ("clean", "denoised"))
    return all(min(accuracy, 1 - accuracy) <= PINNED for accuracy in accuracies)


def collapsed_from(epochs: Iterable[Mapping[str, Any]]) -> int | None:
    """The first of three epochs in a row in which the discriminator was pinned; none where there are none."""
    pinned: list[int] = []
    for metrics in epochs:
        pinned = [*pinned, int(metrics["epoch"])] if is_pinned(metrics) else []
        if len(pinned) == PINNED_EPOCHS:
            return pinned[0]
    return None


class Hopeless(Stopper):  # type: ignore[misc]
    """Ends trials whose best epoch is worse than the noisy input, and, if asked to, those that have collapsed."""

    def __init__(self, grace_epochs: int, epochs: int, *, stop_collapsed: bool) -> None:
        """After `grace_epochs`, 0 for never, a trial must be better than doing nothing. It ends its last, `epochs`."""
        self.grace_epochs = grace_epochs
        self.epochs = epochs
        self.stop_collapsed = stop_collapsed
        self.pinned: dict[str, int] = {}
        """How many epochs in a row each trial has been pinned."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial ends here."""
        if result["epoch"] >= self.epochs:
            # By itself: see `EpochAsha`.
            return False
        self.pinned[trial_id] = self.pinned.get(trial_id, 0) + 1 if is_pinned(result) else 0
        if self.stop_collapsed and self.pinned[trial_id] >= PINNED_EPOCHS:
            return True
        grace_is_over = 0 < self.grace_epochs <= result["epoch"]
        return grace_is_over and bool(result["best_val_psnr"] < result["val_psnr_noisy"])

    def stop_all(self) -> bool:
        """Never: a search goes on without its hopeless trials."""
        return False


class TimeBudget(TimeoutStopper):  # type: ignore[misc]
    """Ends all trials once their time is spent; what earlier starts of a study took is counted."""

    spent = False
    """Whether it has. Of the class, since Tune unpickles the object when a study goes on."""

    def stop_all(self) -> bool:
        """Whether the time is spent."""
        TimeBudget.spent = bool(super().stop_all())
        return TimeBudget.spent
