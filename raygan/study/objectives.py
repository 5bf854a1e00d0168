"""The objectives of a search: their directions, the Pareto front, and the compromise on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import optuna
from numpy.typing import NDArray

optuna.logging.set_verbosity(optuna.logging.WARNING)

OBJECTIVE_NAMES = {
    "val_psnr": "val PSNR (dB)",
    "val_ssim": "val SSIM",
    "operations_per_pixel": "operations per pixel",
}
LESS_IS_BETTER = frozenset({"operations_per_pixel"})
"""The objectives that are minimized; all others are maximized."""


def directions(objectives: Sequence[str]) -> list[Literal["minimize", "maximize"]]:
    """Optuna's direction of each objective."""
    return ["minimize" if objective in LESS_IS_BETTER else "maximize" for objective in objectives]


def pareto_front(scores: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """The rows of `scores`, (results, objectives), that no other row dominates.

    A row dominates another if it is at least as good in every objective and better in one.
    """
    return [row for row, better in enumerate(dominating(-_losses(scores, objectives))) if not better]


def compromise(scores: Sequence[Sequence[float]], objectives: Sequence[str]) -> int:
    """The row of the Pareto front nearest to the ideal point, which has the best value of each objective.

    The distance is Euclidean, with each objective scaled to 0 for its best value on the front and 1 for its worst. For
    a single objective, this is the best row.
    """
    rows = pareto_front(scores, objectives)
    losses = _losses(scores, objectives)[rows]
    best, worst = losses.min(axis=0), losses.max(axis=0)
    scale = np.where(worst > best, worst - best, 1.0)
    return rows[int(np.linalg.norm((losses - best) / scale, axis=1).argmin())]


def dominating(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the scores, (trials, objectives), are as good as each in all objectives and better in one."""
    if scores.shape[1] <= 1:
        ascending = np.sort(scores.ravel())
        return len(scores) - np.searchsorted(ascending, scores.ravel(), side="right")
    others, own = scores[None], scores[:, None]
    found: NDArray[np.int64] = ((others >= own).all(axis=2) & (others > own).any(axis=2)).sum(axis=1)
    return found


def _losses(scores: Sequence[Sequence[float]], objectives: Sequence[str]) -> NDArray[np.float64]:
    """The scores, (results, objectives), of which less is better. Raises `ValueError` if one is NaN."""
    signs = [1.0 if objective in LESS_IS_BETTER else -1.0 for objective in objectives]
    losses = np.asarray(scores, dtype=np.float64).reshape(-1, len(objectives)) * signs
    if np.isnan(losses).any():
        raise ValueError(f"{', '.join(objectives)} must be numbers, but some are NaN")
    return losses
