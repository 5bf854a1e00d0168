"""Learning-rate schedules."""

from __future__ import annotations

import math

from raygan.config.run import TrainingConfig


def lr_factor(training: TrainingConfig, step: int, steps: int) -> float:
    """Factor of the configured learning rates at a step, from 0, of `steps` in all.

    It depends on nothing else, so that a resumed run equals an uninterrupted one.
    """
    warmed_up = min(1.0, (step + 1) / (training.warm_up_steps + 1))
    if training.lr_schedule == "constant":
        return warmed_up
    return warmed_up * (1 + math.cos(math.pi * step / steps)) / 2
