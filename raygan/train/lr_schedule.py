"""How learning rates go over a training."""

from __future__ import annotations

import math

from raygan.config.run import TrainingConfig


def lr_factor(training: TrainingConfig, step: int, steps: int) -> float:
    """What the configured learning rates are multiplied by at a step, counted from 0, of `steps` in all.

    Depends on nothing else, so that a resumed run goes on as if it had not been stopped.
    """
    warmed_up = min(1.0, (step + 1) / (training.warm_up_steps + 1))
    if training.lr_schedule == "constant":
        return warmed_up
    return warmed_up * (1 + math.cos(math.pi * step / steps)) / 2
