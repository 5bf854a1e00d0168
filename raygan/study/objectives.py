"""Several objectives at once: which results no other beats, and which of them is the compromise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MEASURE_NAMES = {
    "val_psnr": "val PSNR (dB)",
    "val_ssim": "val SSIM",
    "val_milliseconds": "milliseconds a validation crop",
}
"""What a search may be for, by metric."""
LESS_IS_BETTER = frozenset({"val_milliseconds"})
"""The measures of which less is better; of all others, more is."""


def front(scores: Sequence[Sequence[float]], measures: Sequence[str]) -> list[int]:
    """The rows that no other row beats: none is at least as good in every measure and better in one.

    `scores` has a row a result and a column a measure.
    """
    losses = _losses(scores, measures)
    return [
        index
        for index, row in enumerate(losses)
        if not ((losses <= row).all(axis=1) & (losses < row).any(axis=1)).any()
    ]


def compromise(scores: Sequence[Sequence[float]], measures: Sequence[str]) -> int:
    """The row of the front that lies nearest to its ideal, the best value of each measure at once.

    Distances are Euclidean, each measure counted from 0, its best on the front, to 1, its worst there. Of one measure
    it is the best row.
    """
    rows = front(scores, measures)
    losses = _losses(scores, measures)[rows]
    best, worst = losses.min(axis=0), losses.max(axis=0)
    width = np.where(worst > best, worst - best, 1.0)
    distances = np.linalg.norm((losses - best) / width, axis=1)
    return rows[int(distances.argmin())]


def _losses(scores: Sequence[Sequence[float]], measures: Sequence[str]) -> NDArray[np.float64]:
    signs = np.array([1.0 if measure in LESS_IS_BETTER else -1.0 for measure in measures])
    losses: NDArray[np.float64] = np.asarray(scores, dtype=np.float64) * signs
    return losses
